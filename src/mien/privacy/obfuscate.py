# SPDX-License-Identifier: Apache-2.0
"""How faces are made unrecognisable before anything is hidden in them: blur, median, pixelate, mask, sticker.

The paper's strengths are for faces of 256 x 256 pixels; here they grow with the shorter side of the image, so that a
small and a large picture of a face lose the same detail. An image whose shorter side is above 256 pixels is blurred
(or filtered by its median) at 256 and enlarged again: after that much blur the difference cannot be seen, and the time
does not grow with the square of the image.

    blur      Gaussian; sigma in [9, 21], 15 at test; kernel of 61 pixels
    median    kernel odd, in [17, 29], 23 at test
    pixelate  blocks of 14, 16, ... 26 pixels, 20 at test: resized to side // block, enlarged by repetition
    sticker   a drawn face on a disc, laid over; the stickers of the test are not those of training
    mask      everything becomes the mean colour

Training draws a place in a range, evenly, and then the nearest of its whole numbers: the two ends of those of median
and pixelate come half as often as the others, all of which the paper draws alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from mien.data.draws import item_seeds, uniforms
from mien.data.images import from_uint8, resize_tensor, to_uint8
from mien.errors import BadInput, unknown_name
from mien.nn.gaussian import gaussian_blur

REFERENCE = 256
"""Side of the faces that the strengths are for."""
STICKERS = 1000
"""Numbers of the stickers to train with; those from here on are kept for tests."""


@dataclass(frozen=True)
class Obfuscation:
    """Which obfuscations a model is trained for, and how strong they are.

    Args:
        kinds: Names, in the order in which they are tried at test: blur, median, pixelate, sticker, mask.
        strength: What the paper's strengths are multiplied by, in (0, 4].

    Raises:
        BadInput: An unknown name, no name, or a strength out of range.
    """

    kinds: tuple[str, ...] = ("blur", "median", "pixelate", "sticker")
    strength: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", tuple(self.kinds))  # lists come from JSON
        if not self.kinds:
            raise BadInput(f"obfuscation.kinds is empty: name at least one of {', '.join(KINDS)}")
        for kind in self.kinds:
            if kind not in KINDS:
                raise unknown_name("obfuscation", kind, KINDS)
        if not 0 < self.strength <= 4:
            raise BadInput(f"obfuscation.strength is {self.strength}: it must lie in (0, 4]")

    def draw(self) -> tuple[str, float]:
        """One kind for a batch and its amount, from torch's global generator."""
        kind = self.kinds[int(torch.randint(len(self.kinds), ()))]
        return kind, float(torch.rand(()) * 2 - 1)

    def __call__(self, image: Tensor, kind: str, amount: float = 0.0, *, stickers: list[int] | None = None) -> Tensor:
        """`obfuscate` at this strength."""
        return obfuscate(image, kind, amount, strength=self.strength, stickers=stickers)


def obfuscate(
    image: Tensor, kind: str, amount: float = 0.0, *, strength: float = 1.0, stickers: list[int] | None = None
) -> Tensor:
    """Images that nobody recognises, of the same shape.

    Args:
        image: (B, 3, H, W) in [0, 1], H and W at least 8.
        kind: "blur", "median", "pixelate", "sticker" or "mask".
        amount: Where in the range of strengths, from -1 (weakest) to 1 (strongest); 0 is the paper's at test.
        strength: What the strengths are multiplied by, > 0.
        stickers: The number of each image's sticker, (B,); by default held-out stickers from 1000 on.

    Raises:
        BadInput: An unknown kind, an image that is too small, or an amount out of range.
    """
    if kind not in KINDS:
        raise unknown_name("obfuscation", kind, KINDS)
    if image.ndim != 4 or image.shape[1] != 3 or min(image.shape[-2:]) < 8:
        raise BadInput(f"image has shape {tuple(image.shape)}: (B, 3, H, W) of at least 8 x 8 pixels is needed")
    if not -1 <= amount <= 1 or not strength > 0:
        raise BadInput(f"amount is {amount}, strength is {strength}: use -1 to 1, and a strength above 0")
    if not len(image):
        return image
    if kind == "sticker":
        numbers = stickers if stickers is not None else [STICKERS + i for i in range(len(image))]
        return _with_sticker(image, numbers)
    if kind in ("blur", "median"):
        return _at_reference(image, lambda small: KINDS[kind](small, amount, strength))
    return KINDS[kind](image, amount, strength)


def _scale(image: Tensor) -> float:
    return min(image.shape[-2:]) / REFERENCE


def _at_reference(image: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`change` at a shorter side of 256 pixels where the image is larger, enlarged back."""
    height, width = image.shape[-2:]
    scale = _scale(image)
    if scale <= 1:
        return change(image)
    small = resize_tensor(image, (round(height / scale), round(width / scale)))
    return resize_tensor(change(small), (height, width)).clamp(0, 1)


def _blur(image: Tensor, amount: float, strength: float) -> Tensor:
    scale = _scale(image) * strength
    sigma = max((15 + 6 * amount) * scale, 0.3)
    # Mirrored borders end where the image does.
    kernel = min(2 * round(30.5 * scale - 0.5) + 1, 2 * min(image.shape[-2:]) - 1)
    kernel = max(kernel, 3)
    across = gaussian_blur(image, (kernel, 1), sigma)
    return gaussian_blur(across, (1, kernel), sigma).clamp(0, 1)


def _median(image: Tensor, amount: float, strength: float) -> Tensor:
    kernel = max(2 * round((23 + 6 * amount) * _scale(image) * strength / 2 - 0.5) + 1, 3)
    filtered = ImageFilter.MedianFilter(kernel)
    made = [np.asarray(Image.fromarray(to_uint8(one)).filter(filtered)) for one in image]
    return torch.stack([from_uint8(one) for one in made]).to(image.device)


def _pixelate(image: Tensor, amount: float, strength: float) -> Tensor:
    block = max((20 + 2 * round(3 * amount)) * _scale(image) * strength, 2.0)
    height, width = image.shape[-2:]
    small = resize_tensor(image, (max(int(height / block), 1), max(int(width / block), 1)))
    return resize_tensor(small, (height, width), nearest=True).clamp(0, 1)


def _mask(image: Tensor, amount: float, strength: float) -> Tensor:
    return image.mean(dim=(-2, -1), keepdim=True).expand_as(image).contiguous()


def _with_sticker(image: Tensor, numbers: list[int]) -> Tensor:
    """A sticker of its own for each image, as large as the shorter side and in the middle."""
    height, width = image.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    out = image.clone()
    drawn = draw_stickers(numbers, side).to(image)
    window = out[..., top : top + side, left : left + side]
    out[..., top : top + side, left : left + side] = window * (1 - drawn[:, 3:]) + drawn[:, :3] * drawn[:, 3:]
    return out


def draw_stickers(numbers: list[int], side: int) -> Tensor:
    """Cartoon faces on a disc, RGBA: (B, 4, side, side) in [0, 1]. The same number gives the same sticker.

    >>> draw_stickers([3, 4], 16).shape
    torch.Size([2, 4, 16, 16])
    """
    seeds = item_seeds(0, np.asarray(numbers, dtype=np.int64), "sticker")
    drawn: Any = torch.from_numpy(uniforms(seeds, "looks", 16))[:, :, None, None]
    place = (torch.arange(side) + 0.5) / side * 2 - 1
    y, x = place[:, None], place[None, :]
    edge = 2.0 / side  # one pixel: shapes are smoothed over it

    def inside(distance: Tensor) -> Tensor:
        return (0.5 - distance / edge).clamp(0, 1)[:, None]

    def colour(first: int) -> Tensor:
        return drawn[:, first : first + 3]

    alpha = inside((x**2 + y**2).sqrt().expand(len(numbers), -1, -1) - (1 - edge))
    picture = colour(0).expand(-1, -1, side, side)
    apart, high, wide = (0.25 + 0.2 * drawn[:, 9]), (0.1 + 0.3 * drawn[:, 10]), (0.12 + 0.12 * drawn[:, 11])
    eyes = torch.minimum(
        ((x - apart) ** 2 + (y + high) ** 2).sqrt() - wide, ((x + apart) ** 2 + (y + high) ** 2).sqrt() - wide
    )
    bend = drawn[:, 12] - 0.3
    mouth = torch.maximum((y - 0.55 + bend * (x**2 - 0.1)).abs() - 0.05 - 0.06 * drawn[:, 13], x.abs() - 0.45)
    for shape, tone in ((eyes, colour(3)), (mouth, colour(6))):
        part = inside(shape)
        picture = picture * (1 - part) + tone * part
    return torch.cat([picture, alpha], dim=1)


KINDS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "blur": _blur,
    "median": _median,
    "pixelate": _pixelate,
    "sticker": lambda image, amount, strength: _with_sticker(image, [STICKERS + i for i in range(len(image))]),
    "mask": _mask,
}
"""Name -> function of images, amount and strength."""
