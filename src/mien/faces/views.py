# SPDX-License-Identifier: Apache-2.0
"""Weak and strong views of a face: crops and mirror images; fourteen changes of colour and shape, and a cut-out.

The operations are torchvision's (v2, functional); what is the paper's are the ranges, drawn uniformly. All chance is
drawn from torch's global generator.

weak      resize; with probability 1/2 pad by 8 of 224 pixels and crop at random; with probability 1/2 mirror
strong    three of the fourteen operations, drawn with replacement, then a grey square; made weak afterwards
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from mien.data.images import resize_tensor

OPERATIONS = 3
"""How many operations a strong view goes through."""
GREY = (125, 123, 114)
"""Colour of the square that is cut out."""
LARGEST = 0.5
"""Side of the square at most, as a share of the image's width."""


def uniform(low: float, high: float) -> float:
    """A number in [low, high)."""
    return low + (high - low) * float(torch.rand(()))


def sized(image: Tensor, size: int) -> Tensor:
    """An image uint8 (3, H, W) as float32 (3, size, size) in [0, 1]."""
    return resize_tensor(image.float() / 255, size)


def weak(image: Tensor) -> Tensor:
    """A weak view of an image (3, S, S)."""
    if torch.rand(()) < 0.5:
        size = image.shape[-1]
        edge = max(round(size * 8 / 224), 1)
        top, left = (int(torch.randint(2 * edge + 1, ())) for _ in range(2))
        image = F.crop(F.pad(image, [edge]), top, left, size, size)
    return F.horizontal_flip(image) if torch.rand(()) < 0.5 else image


def strong(image: Tensor) -> Tensor:
    """A strongly changed image, uint8 (3, H, W) -> the same shape; its view is the weak one of it."""
    for _ in range(OPERATIONS):
        name = NAMES[int(torch.randint(len(NAMES), ()))]
        low, high = RANGES[name]
        image = CHANGES[name](image, uniform(low, high))
    return cut_out(image, uniform(0, LARGEST))


def cut_out(image: Tensor, share: float) -> Tensor:
    """The image with a grey square whose side is `share` of its width and whose centre lies anywhere in it."""
    height, width = image.shape[-2:]
    half = share * width / 2
    y, x = uniform(0, height), uniform(0, width)
    top, left = max(round(y - half), 0), max(round(x - half), 0)
    bottom, right = min(round(y + half), height), min(round(x + half), width)
    if bottom <= top or right <= left:
        return image
    colour = torch.tensor(GREY, dtype=image.dtype)[:, None, None]
    return F.erase(image, top, left, bottom - top, right - left, colour)


def affine(
    image: Tensor, angle: float = 0.0, shift: tuple[float, float] = (0.0, 0.0), shear: float = 0.0, y: bool = False
) -> Tensor:
    """`image` rotated by degrees, shifted by shares of its sides, sheared by a slope; black beyond its edge."""
    height, width = image.shape[-2:]
    slope = math.degrees(math.atan(shear))
    moved = [round(shift[0] * width), round(shift[1] * height)]
    return F.affine(image, angle, moved, 1.0, [0.0, slope] if y else [slope, 0.0], InterpolationMode.BILINEAR)


def solarized(image: Tensor, threshold: float) -> Tensor:
    """Levels from the threshold on are inverted; from 256 on there are none."""
    return F.solarize(image, float(int(threshold))) if threshold < 256 else image


RANGES: dict[str, tuple[float, float]] = {
    "auto contrast": (0, 1),
    "brightness": (0.05, 0.95),
    "colour": (0.05, 0.95),
    "contrast": (0.05, 0.95),
    "equalise": (0, 1),
    "identity": (0, 1),
    "posterise": (4, 9),
    "rotate": (-30, 30),
    "sharpness": (0.05, 0.95),
    "shear x": (-0.3, 0.3),
    "shear y": (-0.3, 0.3),
    "solarise": (0, 256),
    "translate x": (-0.3, 0.3),
    "translate y": (-0.3, 0.3),
}
"""Operation -> range of its strength, drawn uniformly; some have none. Bits are the whole part, 4 to 8."""

CHANGES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "auto contrast": lambda image, _: F.autocontrast(image),
    "brightness": F.adjust_brightness,
    "colour": F.adjust_saturation,
    "contrast": F.adjust_contrast,
    "equalise": lambda image, _: F.equalize(image),
    "identity": lambda image, _: image,
    "posterise": lambda image, bits: F.posterize(image, int(bits)),
    "rotate": lambda image, degrees: affine(image, angle=degrees),
    "sharpness": F.adjust_sharpness,
    "shear x": lambda image, slope: affine(image, shear=slope),
    "shear y": lambda image, slope: affine(image, shear=slope, y=True),
    "solarise": solarized,
    "translate x": lambda image, share: affine(image, shift=(share, 0.0)),
    "translate y": lambda image, share: affine(image, shift=(0.0, share)),
}
"""Operation -> what it does to an image uint8 (3, H, W) at a strength."""
NAMES = tuple(RANGES)
