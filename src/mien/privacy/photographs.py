# SPDX-License-Identifier: Apache-2.0
"""Whole photographs: which regions are protected, tile by tile, and how they come back.

Faces are found and the rectangle around each (with hair and chin) is protected at the photograph's own resolution, so
that nothing is resampled and every pixel outside comes back as it was. Rectangles that overlap become one. What is
larger than a tile is cut into tiles that know nothing of each other: the network's memory does not grow with the
picture, of which a few 8-bit copies are held. Obfuscation is made before the cut, so no seam is seen.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mien.data.faces import FaceFinder
from mien.data.images import from_uint8, resize_tensor
from mien.engine import Method
from mien.engine.state import module_state
from mien.errors import BadInput
from mien.privacy.container import (
    Header,
    Pixels,
    ProtectedFile,
    Region,
    pack_depth,
    split_levels,
    tiles_of,
)
from mien.privacy.keys import Cost, key_bits, master_key, new_salt, verified, verifier
from mien.privacy.obfuscate import REFERENCE, STICKERS, Obfuscation
from mien.privacy.pro_face_s import ProFaceS
from mien.progress import Progress

TILE = 256
"""Longest side of a tile: the paper's images; the network then holds about 100 MB."""
FACE_MARGIN = 0.4
"""What is taken on each side of a detector's box (brows to mouth), in sides of the box: hair, ears and chin."""
LEAST_SIDE = 16
"""Smaller faces are protected with what is around them."""


@dataclass(frozen=True)
class Wish:
    """How a photograph is to be protected.

    Args:
        obfuscation: One of blur, median, pixelate, sticker, mask; None for the first that the model was trained for.
        strength: What the obfuscation's strength is multiplied by, in (0, 4]; None for the model's own.
        whole: Everything, not faces.
        tile: Longest side of a tile in pixels, even, 16 to 2048.
        deep: Whether the file keeps what 8 bits cannot hold.
        verify: Whether the file tells a wrong key from the right one.
        salt: 16 bytes, or None for new ones.
        cost: Of the key.
        sticker: Number of the first sticker, 0 or more.
    """

    obfuscation: str | None = None
    strength: float | None = None
    whole: bool = False
    tile: int = TILE
    deep: bool = True
    verify: bool = True
    salt: bytes | None = None
    cost: Cost = Cost()
    sticker: int = STICKERS

    def __post_init__(self) -> None:
        if self.obfuscation is not None:
            Obfuscation((self.obfuscation,))
        if self.strength is not None:
            Obfuscation(strength=self.strength)
        if not 16 <= self.tile <= 2048 or self.tile % 2:
            raise BadInput(f"tile is {self.tile}: it must be even, from 16 to 2048")


@dataclass(frozen=True)
class Revealed:
    """A photograph that came back.

    Args:
        picture: uint8 (H, W, 3), the photograph's own size.
        checked: Whether the key is known to be right; None where the file has no verifier.
        changed: Whether the file's picture is not the one that was written.
    """

    picture: Pixels
    checked: bool | None
    changed: bool


def fingerprint(method: Method) -> str:
    """SHA-256 of the weights and of what decides how they are used, 64 hex digits: the same for a copy of a model."""
    digest = hashlib.sha256(method.name.encode())
    config = method.config()
    digest.update(json.dumps({name: config[name] for name in ("blocks", "growth", "missing")}).encode())
    for name, value in sorted(module_state(method).items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        digest.update(array.numpy().tobytes())
    return digest.hexdigest()


def even_canvas(picture: Pixels) -> Pixels:
    """The picture with its last row or column twice where its height or width is odd."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def face_regions(boxes: Sequence[Sequence[float]], height: int, width: int) -> list[Region]:
    """Even rectangles around faces, apart from each other, from top to bottom.

    Args:
        boxes: (left, top, right, bottom) of each face in pixels.
        height: Of the canvas, even.
        width: Of the canvas, even.
    """
    regions = []
    for left, top, right, bottom in boxes:
        side = max(right - left, bottom - top, LEAST_SIDE / (1 + 2 * FACE_MARGIN))
        reach = side * (0.5 + FACE_MARGIN)
        rows = _even_span((top + bottom) / 2 - reach, (top + bottom) / 2 + reach, height)
        columns = _even_span((left + right) / 2 - reach, (left + right) / 2 + reach, width)
        if rows and columns:
            regions.append(Region(rows[0], columns[0], rows[1] - rows[0], columns[1] - columns[0]))
    return sorted(_apart(regions), key=lambda region: (region.top, region.left))


def _even_span(low: float, high: float, length: int) -> tuple[int, int] | None:
    """Even bounds inside [0, length], at least 16 apart where there is room; None for what lies outside."""
    first, last = max(2 * math.floor(low / 2), 0), min(2 * math.ceil(high / 2), length)
    if last <= 0 or first >= length:
        return None
    if last - first < LEAST_SIDE:
        first = max(min(first, length - LEAST_SIDE), 0)
        last = min(first + LEAST_SIDE, length)
    return first, last


def _apart(regions: list[Region]) -> list[Region]:
    """Overlapping rectangles joined to the rectangle around them, until none overlap."""
    found: list[Region] = []
    for region in regions:
        while met := [other for other in found if other.overlaps(region)]:
            found = [other for other in found if other not in met]
            together = [region, *met]
            top, left = min(r.top for r in together), min(r.left for r in together)
            bottom, right = max(r.top + r.height for r in together), max(r.left + r.width for r in together)
            region = Region(top, left, bottom - top, right - left)
        found.append(region)
    return found


def find_regions(picture: Pixels, wish: Wish, finder: FaceFinder | None = None) -> list[Region]:
    """What is to be protected in a photograph, uint8 (H, W, 3).

    Raises:
        BadInput: The photograph is too small, or no face is found in it.
        MissingExtra: Faces are to be found, without the extra `face`.
    """
    height, width = (side + side % 2 for side in picture.shape[:2])
    if min(picture.shape[:2]) < LEAST_SIDE:
        raise BadInput(
            f"the photograph has {picture.shape[1]} x {picture.shape[0]} pixels: at least 16 x 16 are needed"
        )
    if wish.whole:
        return [Region(0, 0, height, width)]
    faces = (finder or FaceFinder())(from_uint8(picture))
    regions = face_regions([face.box for face in faces], height, width)
    if not regions:
        raise BadInput("no face was found: use --whole to protect the whole photograph")
    return regions


def protect_photograph(
    method: ProFaceS, picture: Pixels, regions: Sequence[Region], passphrase: bytes, wish: Wish = Wish()
) -> ProtectedFile:
    """Hide regions of a photograph in themselves.

    Args:
        method: Trained, in eval mode.
        picture: uint8 (H, W, 3).
        regions: What to protect: `find_regions`.
        passphrase: Not empty.
        wish: How.

    Returns:
        What `write_protected` writes. The same arguments with the same salt give the same bytes.
    """
    salt = wish.salt if wish.salt is not None else new_salt()
    return protect_with(method, picture, regions, master_key(passphrase, salt, wish.cost), salt, wish)


def protect_with(
    method: ProFaceS, picture: Pixels, regions: Sequence[Region], master: bytes, salt: bytes, wish: Wish
) -> ProtectedFile:
    """`protect_photograph` with a key that was derived before; `wish.salt` is not looked at."""
    kind = wish.obfuscation or method.obfuscation.kinds[0]
    strength = wish.strength or method.obfuscation.strength
    canvas = even_canvas(picture)
    header = Header(
        weights=fingerprint(method),
        salt=salt.hex(),
        size=(picture.shape[0], picture.shape[1]),
        regions=tuple((r.top, r.left, r.height, r.width) for r in regions),
        tile=wish.tile,
        obfuscation=kind,
        cost=wish.cost,
        verifier=verifier(master, salt).hex() if wish.verify else None,
        deep=wish.deep,
    )
    depth: list[bytes] = []
    shown = canvas.copy()
    number = 0
    with Progress(len(header.tiles()), "protect, tiles") as progress:
        for place, region in enumerate(regions):
            obfuscated = _obfuscated(canvas[region.slices], kind, strength, wish.sticker + place)
            for tile in tiles_of(region, wish.tile):
                inner = Region(tile.top - region.top, tile.left - region.left, tile.height, tile.width)
                bits = key_bits(master, salt, (tile.height, tile.width), place=number)
                y, x = _signed(obfuscated[inner.slices]), _signed(canvas[tile.slices])
                with torch.no_grad():
                    made = method.protect(*(t.to(method.device) for t in (y, x, bits)))
                shown[tile.slices], rest = split_levels(_levels(made))
                if wish.deep:
                    depth.append(pack_depth(rest))
                number += 1
                progress.advance()
    return ProtectedFile(header, shown, depth)


def reveal_photograph(method: ProFaceS, file: ProtectedFile, passphrase: bytes) -> Revealed:
    """Give a protected photograph back.

    Args:
        method: With the weights that protected it, in eval mode.
        file: What `read_protected` gave.
        passphrase: Not empty.

    Raises:
        BadInput: Other weights than those of the file, or a key that the file's verifier refuses.
    """
    header = file.header
    check_weights(method, header)
    salt = bytes.fromhex(header.salt)
    master = master_key(passphrase, salt, header.cost)
    if header.verifier is not None and not verified(master, salt, bytes.fromhex(header.verifier)):
        raise BadInput("wrong key: the photograph was protected with another passphrase")
    return Revealed(reveal_with(method, file, master), True if header.verifier else None, file.changed)


def reveal_with(method: ProFaceS, file: ProtectedFile, master: bytes) -> Pixels:
    """The photograph that a master key gives, right or wrong, uint8 (H, W, 3); nothing is checked."""
    header = file.header
    salt = bytes.fromhex(header.salt)
    picture = file.picture.copy()
    tiles = header.tiles()
    with Progress(len(tiles), "reveal, tiles") as progress:
        for number, tile in enumerate(tiles):
            bits = key_bits(master, salt, (tile.height, tile.width), place=number)
            with torch.no_grad():
                found = method.reveal(_signed(file.tile(number, tile)).to(method.device), bits.to(method.device))
            picture[tile.slices] = split_levels(_levels(found))[0]
            progress.advance()
    return picture[: header.size[0], : header.size[1]]


def check_weights(method: Method, header: Header) -> None:
    """Refuse weights that did not protect the file."""
    own = fingerprint(method)
    if own != header.weights:
        raise BadInput(
            f"these weights ({own[:12]}) did not protect the file: it needs those with the fingerprint "
            f"{header.weights[:12]}"
        )


def region_psnr(original: Pixels, other: Pixels, regions: Sequence[Region]) -> float:
    """Peak signal to noise ratio inside the regions in dB; infinite where all pixels are equal."""
    height, width = original.shape[:2]
    total = count = 0.0
    for region in regions:
        rows, columns = region.slices
        a, b = (p[rows, columns][: height - region.top, : width - region.left] for p in (original, other))
        total += float(((a.astype(np.float64) - b) ** 2).sum())
        count += a.size
    return math.inf if not total else 10 * math.log10(255**2 * count / total)


def _obfuscated(part: Pixels, kind: str, strength: float, sticker: int) -> Pixels:
    """What others see of a region, (h, w, 3). Large ones are made at the obfuscations' own 256 pixels and enlarged."""
    height, width = part.shape[:2]
    scale = min(height, width) / REFERENCE
    small = torch.from_numpy(np.array(part)).permute(2, 0, 1)  # bytes: floats would be four times as many
    reduced = scale > 1 and kind != "sticker"  # a sticker leaves corners, which keep their detail
    if reduced:
        small = resize_tensor(small, (round(height / scale), round(width / scale)))
    made = Obfuscation((kind,), strength)(small[None].float() / 255, kind, stickers=[sticker])
    levels = split_levels(_hwc(made * 255))[0]
    if not reduced:
        return levels
    large = resize_tensor(torch.from_numpy(levels).permute(2, 0, 1), (height, width), nearest=kind == "pixelate")
    return np.ascontiguousarray(large.permute(1, 2, 0).numpy())


def _signed(levels: np.ndarray) -> Tensor:
    """(h, w, 3) grey levels -> (1, 3, h, w) in [-1, 1]."""
    image = torch.from_numpy(np.ascontiguousarray(levels.transpose(2, 0, 1)).astype(np.float32))
    return (image / 127.5 - 1)[None]


def _levels(image: Tensor) -> np.ndarray:
    """(1, 3, h, w) in [-1, 1] -> (h, w, 3) grey levels."""
    return _hwc((image.cpu() + 1) * 127.5)


def _hwc(image: Tensor) -> np.ndarray:
    array: np.ndarray = image[0].permute(1, 2, 0).contiguous().numpy()
    return array
