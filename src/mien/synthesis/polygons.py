# SPDX-License-Identifier: Apache-2.0
"""Generated pairs for translation from poor to rich pictures: polygons of two grey levels, and what they stand for.

The input shows five polygons, each in one of two grey levels that say nothing, with a broken outline, under speckle.
In the target every polygon has the texture and colours of its class, which only its shape tells: triangle, square,
star or cross. So no pixel can be translated by its surroundings alone, while borders must come out sharp.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mien.synthesis.data import Pair

SIDES = ("outline", "colour")
SIZE, COUNT = 64, 5
RADIUS = (9.0, 15.0)
"""Of the circle around a polygon, in pixels."""
GREYS, GROUND, LINE = (0.45, 0.7), 0.9, 0.1
GAPS = 0.3
"""Share of the outline's pixels that are missing."""
LOOKS = 16
"""Speckle is gamma noise with mean 1 and variance 1 / LOOKS, as of a radar image of so many looks."""
SEED = 5
PAPER = (0.93, 0.92, 0.88)
COLOURS = (
    ((0.80, 0.20, 0.15), (0.98, 0.75, 0.40)),
    ((0.10, 0.35, 0.70), (0.60, 0.85, 0.95)),
    ((0.15, 0.50, 0.25), (0.75, 0.90, 0.45)),
    ((0.45, 0.15, 0.55), (0.95, 0.65, 0.85)),
)
"""Of triangle, square, star, cross."""
_FINER = 2
"""Masks are drawn so many times larger and then averaged."""

Floats = NDArray[np.float64]


def vertices(shape: int, centre: Floats, radius: float, turn: float) -> Floats:
    """Corners (n, 2), x before y, of shape 0 triangle, 1 square, 2 star, 3 cross; `turn` in radians."""
    if shape == 3:
        a, b = 0.94, 0.33  # half length and half width of the arms
        quarter = np.array([[a, -b], [a, b], [b, b]])
        angle = np.arange(4) * np.pi / 2
        rotations = np.stack(
            [np.stack([np.cos(angle), -np.sin(angle)], 1), np.stack([np.sin(angle), np.cos(angle)], 1)], 1
        )
        points = np.einsum("rij,pj->rpi", rotations, quarter).reshape(-1, 2)
    else:
        corners = (3, 4, 10)[shape]
        angle = np.arange(corners) * 2 * np.pi / corners
        reach = np.where(np.arange(corners) % 2 == 1, 0.42, 1.0) if shape == 2 else np.ones(corners)
        points = reach[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    c, s = np.cos(turn), np.sin(turn)
    return centre + radius * points @ np.array([[c, s], [-s, c]])


@cache
def _textures() -> Floats:
    """How much of its second colour a class has at every pixel: (4, SIZE, SIZE) of 0 and 1."""
    y, x = np.mgrid[:SIZE, :SIZE]
    stripes = y // 3 % 2
    checks = (x // 3 + y // 3) % 2
    slanted = (x + y) // 3 % 2
    dots = ((x % 6 - 2.5) ** 2 + (y % 6 - 2.5) ** 2 < 4).astype(int)
    return np.stack([stripes, checks, slanted, dots]).astype(np.float64)


def scene(number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Scene `number`: input and target, (SIZE, SIZE, 3) each. The same number gives the same scene."""
    rng = np.random.default_rng((SEED, number))
    poor = np.full((SIZE, SIZE), GROUND)
    rich = np.broadcast_to(np.array(PAPER), (SIZE, SIZE, 3)).copy()
    for _ in range(COUNT):
        shape, level = int(rng.integers(4)), int(rng.integers(2))
        radius, turn = rng.uniform(*RADIUS), rng.uniform(0, 2 * np.pi)
        points = vertices(shape, rng.uniform(8, SIZE - 8, 2), radius, turn)
        area, line = _drawn(points, width=0), _drawn(points, width=_FINER)
        poor = poor * (1 - area) + GREYS[level] * area
        broken = line * (rng.random((SIZE, SIZE)) >= GAPS)
        poor = poor * (1 - broken) + LINE * broken
        first, second = (np.array(colour) for colour in COLOURS[shape])
        share = _textures()[shape][..., None]
        rich = rich * (1 - area[..., None]) + (first * (1 - share) + second * share) * area[..., None]
    poor = poor * rng.gamma(LOOKS, 1 / LOOKS, (SIZE, SIZE))
    return _bytes(np.repeat(poor[..., None], 3, axis=2)), _bytes(rich)


def _drawn(points: Floats, width: int) -> Floats:
    """The share of every pixel that the polygon covers, or its outline where `width` is above 0."""
    plane = Image.new("L", (SIZE * _FINER, SIZE * _FINER))
    corners = [(float(x), float(y)) for x, y in points * _FINER]
    pen = ImageDraw.Draw(plane)
    if width:
        pen.line([*corners, corners[0]], fill=255, width=width)
    else:
        pen.polygon(corners, fill=255)
    return np.asarray(plane, dtype=np.float64).reshape(SIZE, _FINER, SIZE, _FINER).mean(axis=(1, 3)) / 255


def _bytes(image: Floats) -> NDArray[np.uint8]:
    return np.rint(image.clip(0, 1) * 255).astype(np.uint8)


def polygon_pairs(numbers: Iterable[int], *, backwards: bool = False) -> list[Pair]:
    """Scenes as pairs, uint8 (3, 64, 64); `backwards` translates colours into outlines."""
    pairs = []
    for number in numbers:
        poor, rich = (torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in scene(number))
        one, other = (rich, poor) if backwards else (poor, rich)
        pairs.append(Pair(one, other, f"scene {number}", f"scene {number}"))
    return pairs
