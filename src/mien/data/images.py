# SPDX-License-Identifier: Apache-2.0
"""Images in and out. `open_image` is the one place where an image file is decoded.

What comes in is not trusted: the format is decided by the content and must be on a short list, bytes and pixels are
capped before anything is decoded, and whatever a decoder does with a damaged file becomes one `BadInput`. What goes
out is upright RGB.

Example:
    >>> import torch
    >>> resize_tensor(torch.ones(3, 8, 6), 4).shape
    torch.Size([3, 4, 4])
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from mien.data.listing import is_image_file, list_images, printable
from mien.data.zipped import inside_zip, read_member
from mien.errors import BadInput
from mien.files import whole_file

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "centre_crop",
    "from_uint8",
    "is_image_file",
    "list_images",
    "load_tensor",
    "open_image",
    "resize_tensor",
    "save_jpeg",
    "save_png",
    "to_uint8",
]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64_000_000

# Everything that Pillow's decoders were seen to raise, or say that they may raise, on damaged files.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Warning,  # for callers who turn warnings into errors
)

# EXIF orientation -> what makes the picture upright (EXIF 2.3, tag 0x0112).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(
    source: str | os.PathLike[str] | bytes,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    at_least: tuple[int, int] | None = None,
    name: str | None = None,
) -> Image.Image:
    """Decode one image, safely: upright RGB with 8 bits a channel, `info` emptied.

    Alpha (also of palettes and colour keys) is composited on white. 16-bit grey is scaled to 8 bits, rounded to the
    nearest level; 16-bit colour keeps its high bytes. CMYK is converted without a colour profile. Of a file with
    several pictures the first is taken.

    Args:
        source: Path of a file, also of one inside a zip archive (faces.zip/1.jpg); or the file's bytes.
        max_bytes: Largest file that is read.
        max_pixels: Largest width x height, checked from the header before decoding. Pillow's own limit of
            about 179 million holds besides.
        at_least: (height, width) that is enough. A JPEG is then decoded at 1/2, 1/4 or 1/8 of its size: the smallest
            of these (or the full size) whose height and width are both still at least that, measured on the upright
            picture. Other formats are decoded in full. The result is at least this large only if the file is.
        name: What to call the image in errors; default the path, or "image".

    Raises:
        BadInput: The file is missing, not a regular file, empty, too large, not in an allowed format, truncated or
            damaged. One line that names the file.
    """
    name = printable(name or ("image" if isinstance(source, bytes) else os.fspath(source)))
    data = source if isinstance(source, bytes) else _read(Path(source), name, max_bytes)
    if not data:
        raise BadInput(f"{name}: the file is empty")
    if len(data) > max_bytes:
        raise BadInput(f"{name}: {len(data):,} bytes, at most {max_bytes:,} are allowed")
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > max_pixels:
            raise _too_many_pixels(name, f"{width} x {height}", max_pixels)
        if at_least is not None and image.format in ("JPEG", "MPO"):
            _draft(image, at_least)
        image.load()
        # After loading: some formats keep EXIF behind the pixels, and TIFF files are turned upright by the decoder.
        turn = _UPRIGHT.get(_orientation(image))
        image = _to_rgb(image)
        image = image.transpose(turn) if turn is not None else image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.search(r"\d+", str(error))
        raise _too_many_pixels(name, pixels.group() if pixels else "too many", max_pixels) from error
    except UnidentifiedImageError as error:
        raise BadInput(f"{name}: not an image in one of the formats {', '.join(FORMATS)}") from error
    except BadInput:
        raise
    except _DECODER_ERRORS as error:
        reason = printable((str(error).splitlines() or [""])[0]) or type(error).__name__
        raise BadInput(f"{name}: damaged or truncated image ({reason})") from error
    image.info = {}
    return image


def _read(path: Path, name: str, max_bytes: int) -> bytes:
    if (inside := inside_zip(path)) is not None:
        return read_member(*inside, max_bytes)
    try:
        status = path.stat()
        regular = stat.S_ISREG(status.st_mode)  # a pipe or a device might never end
        if regular and status.st_size <= max_bytes:
            with path.open("rb") as file:
                return file.read(max_bytes + 1)  # the cap holds also for a file that grows meanwhile
    except FileNotFoundError as error:
        raise BadInput(f"{name}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise BadInput(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if stat.S_ISDIR(status.st_mode):
        raise BadInput(f"{name}: a folder, not an image file")
    if not regular:
        raise BadInput(f"{name}: not a regular file")
    raise BadInput(f"{name}: {status.st_size:,} bytes, at most {max_bytes:,} are allowed")


def _too_many_pixels(name: str, size: str, max_pixels: int) -> BadInput:
    allowed = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
    return BadInput(f"{name}: {size} pixels, at most {allowed:,} are allowed")


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return int(value)
    except _DECODER_ERRORS:  # damaged metadata; the pixels are good
        return 1


def _draft(image: Image.Image, at_least: tuple[int, int]) -> None:
    height, width = at_least
    if _orientation(image) >= 5:  # stored on its side
        height, width = width, height
    image.draft(None, (max(width, 1), max(height, 1)))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """16-bit, integer or float grey as RGB. Pillow's own conversion would cut all values above 255 off."""
    values: Any = np.asarray(image)
    if image.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise ValueError("32-bit float samples outside [0, 1] have no agreed white")
        grey = np.rint(values * 255).astype(np.uint8)
    else:
        # TIFF knows 12-bit samples (tag 258, bits per sample); all others count as 16-bit.
        white = 4095 if getattr(image, "tag_v2", {}).get(258) == (12,) else 65535
        if values.min() < 0 or values.max() > white:
            raise ValueError(f"grey samples outside [0, {white}] have no agreed white")
        grey = ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
        key = image.info.get("transparency")
        if isinstance(key, int):  # PNG: one grey value that is transparent
            grey = np.where(values == key, np.uint8(255), grey)
    return Image.fromarray(grey).convert("RGB")


def load_tensor(path: str | os.PathLike[str] | bytes, size: int | tuple[int, int] | None = None) -> Tensor:
    """One image as a tensor.

    Args:
        path: File, or its bytes; opened by `open_image`.
        size: (height, width), or one number for a square; the picture is stretched to it, nothing is cut off.
            None keeps the picture's size. JPEG files of at least four times that size are decoded at reduced size,
            never below twice the wanted one, so that the last step is always our own antialiased resize.

    Returns:
        Shape (3, H, W), float32 in [0, 1], RGB.

    Raises:
        BadInput: As `open_image`; or a size that is not positive.
    """
    if size is None:
        return _bytes_tensor(open_image(path)).to(torch.float32).div_(255)
    height, width = _pair(size)
    image = resize_tensor(_bytes_tensor(open_image(path, at_least=(2 * height, 2 * width))), (height, width))
    return image.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _bytes_tensor(image: Image.Image) -> Tensor:
    # Still in the decoder's order (H, W, 3): torch resizes this layout fastest.
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise BadInput(f"image size is {size}: height and width must be at least 1")
    return height, width


def resize_tensor(image: Tensor, size: int | tuple[int, int], *, nearest: bool = False) -> Tensor:
    """Resize (..., C, H, W), float in [0, 1] or uint8, to `size`: bilinear with antialiasing, as Pillow does it.

    The rounding of uint8 stays within one grey level of Pillow's. `nearest` copies the nearest pixel instead.
    """
    height, width = _pair(size)
    if image.shape[-2:] == (height, width):
        return image
    batch = image.reshape(-1, *image.shape[-3:])
    wide = batch if batch.is_floating_point() or batch.device.type == "cpu" else batch.float()
    if nearest:
        found = F.interpolate(wide, (height, width), mode="nearest")
    else:
        found = F.interpolate(wide, (height, width), mode="bilinear", antialias=True, align_corners=False)
    if found.dtype != image.dtype:
        found = found.round().to(image.dtype)
    return found.reshape(*image.shape[:-2], height, width)


def centre_crop(image: Tensor, size: int | tuple[int, int] | None = None) -> Tensor:
    """The middle of (..., C, H, W); a view, not a copy.

    Args:
        image: Any type and range.
        size: (height, width) or one number for a square; default the largest square.

    Raises:
        BadInput: The image is smaller than `size`.
    """
    rows, columns = image.shape[-2:]
    height, width = _pair(min(rows, columns) if size is None else size)
    if height > rows or width > columns:
        raise BadInput(f"cannot cut {height} x {width} from an image of {rows} x {columns}: resize it first")
    top, left = (rows - height) // 2, (columns - width) // 2
    return image[..., top : top + height, left : left + width]


def to_uint8(image: Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] -> (H, W, 3) uint8, rounded to the nearest level; values outside are clipped.

    Raises:
        BadInput: Wrong shape, or a value is not finite.
    """
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise BadInput(f"image is {image.dtype} of shape {tuple(image.shape)}: float of shape (3, H, W) is needed")
    image = image.detach().float()
    if not bool(torch.isfinite(image).all()):
        raise BadInput("image holds NaN or infinity")
    levels: np.ndarray = image.mul(255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(levels)


def from_uint8(array: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in [0, 1]. The array is copied.

    Raises:
        BadInput: Another shape or type.
    """
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise BadInput(f"array is {array.dtype} of shape {array.shape}: uint8 of shape (H, W, 3) is needed")
    tensor = torch.from_numpy(np.array(array)).permute(2, 0, 1)
    return tensor.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def save_png(path: str | os.PathLike[str], image: Tensor) -> None:
    """Write (3, H, W) in [0, 1] as an 8-bit PNG, whole or not at all."""
    picture = Image.fromarray(to_uint8(image))
    with whole_file(Path(path)) as temporary:
        picture.save(temporary, format="PNG")


def save_jpeg(path: str | os.PathLike[str], image: Tensor, quality: int = 95) -> None:
    """Write (3, H, W) in [0, 1] as a JPEG without colour subsampling, whole or not at all.

    Args:
        path: Where to.
        image: The picture.
        quality: 1 (worst) to 100.
    """
    if not 1 <= quality <= 100:
        raise BadInput(f"JPEG quality is {quality}: use 1 to 100")
    picture = Image.fromarray(to_uint8(image))
    with whole_file(Path(path)) as temporary:
        picture.save(temporary, format="JPEG", quality=quality, subsampling=0)
