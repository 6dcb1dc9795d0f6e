# SPDX-License-Identifier: Apache-2.0
"""Procedural pedestrians seen by several cameras, so that re-identification runs with nothing downloaded.

A person keeps the colours of hair, skin, torso, legs, shoes and bag and the stripes of the torso; a camera keeps its
tint, gamma and background; a picture has its own shift, scale, side, occluder and noise.

    >>> people = sample_pedestrians(3, seed=0)
    >>> photograph_pedestrians(people, [0, 0, 2], camera=[0, 1, 1], seed=1).shape
    (3, 3, 64, 32)

The same (people, index, camera, seed of the picture) gives the same pixels however the batch is cut. These pictures
show that code works and that an effect can be measured where the noise is known; they say nothing about real people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.data.draws import Floats, Seeds, between, item_seeds, normals, uniforms
from mien.errors import BadInput

PARTS = ("hair", "skin", "torso", "legs", "shoes", "bag")
_CHUNK = 64  # pictures painted at once: a plane of 64 at 64 x 32 is half a MiB


@dataclass(frozen=True)
class Pedestrians:
    """Who there is.

    Args:
        colours: Of `PARTS`, (people, 6, 3) in [0, 1].
        stripe_colour: (people, 3) in [0, 1].
        stripes: Strength of the stripes in [0, 1], their number over the torso, whether they run across, (people, 3).
        build: Half the width of the torso over the height of the picture, (people,).
        bag: Whether there is a bag, (people,), 0 or 1.
    """

    colours: Floats
    stripe_colour: Floats
    stripes: Floats
    build: Floats
    bag: Floats

    def __len__(self) -> int:
        return len(self.build)


def sample_pedestrians(count: int, seed: int) -> Pedestrians:
    """Draw people. The first ones do not change when more are asked for.

    Raises:
        BadInput: `count` is below 1 or `seed` is negative.
    """
    if count < 1:
        raise BadInput(f"count is {count}: it must be at least 1")
    seeds = item_seeds(seed, np.arange(count), "pedestrian")
    colours = uniforms(seeds, "clothes", 18).reshape(count, 6, 3)
    tone = between(seeds, "skin", 0.35, 1.0)[:, None]
    colours[:, 1] = tone * np.array([0.95, 0.75, 0.62], np.float32)
    colours[:, 0] = between(seeds, "hair", 0.05, 0.6)[:, None] * np.array([1.0, 0.8, 0.55], np.float32)
    strength = np.where(uniforms(seeds, "striped")[:, 0] < 0.6, between(seeds, "strength", 0.4, 0.9), 0)
    number, across = between(seeds, "number", 2.5, 6.0), uniforms(seeds, "across")[:, 0] < 0.6
    return Pedestrians(
        colours,
        uniforms(seeds, "stripe", 3),
        np.stack([strength, number, across], axis=1).astype(np.float32),
        between(seeds, "build", 0.1, 0.15),
        (uniforms(seeds, "bag")[:, 0] < 0.6).astype(np.float32),
    )


def photograph_pedestrians(
    people: Pedestrians,
    index: ArrayLike,
    camera: ArrayLike,
    seed: int | Seeds,
    *,
    height: int = 64,
    width: int = 32,
) -> Floats:
    """Photograph people.

    Args:
        people: Who there is.
        index: Number of the person in each picture, (N,).
        camera: Number of the camera in each picture, from 0, (N,).
        seed: Seed of the pictures, or one seed for each, (N,).
        height: In pixels, at least 16.
        width: In pixels, at least 8.

    Returns:
        (N, 3, height, width) in [0, 1].

    Raises:
        BadInput: A person that does not exist, shapes that differ, or a size out of range.
    """
    who, by = np.asarray(index, np.int64), np.asarray(camera, np.int64)
    if who.ndim != 1 or who.shape != by.shape:
        raise BadInput(f"index {who.shape} and camera {by.shape}: one of each for every picture is needed")
    if who.size and (who.min() < 0 or who.max() >= len(people)):
        raise BadInput(f"index has person {who.min()} to {who.max()}: there are {len(people)}, from 0")
    if height < 16 or width < 8:
        raise BadInput(f"height is {height} and width {width}: use at least 16 and 8")
    seeds = item_seeds(seed, np.arange(len(who)), "picture") if isinstance(seed, int) else np.asarray(seed, np.uint64)
    if seeds.shape != who.shape:
        raise BadInput(f"seed has shape {seeds.shape}: give a number, or one for each of the {len(who)} pictures")
    pictures = np.empty((len(who), 3, height, width), np.float32)
    for start in range(0, len(who), _CHUNK):
        part = slice(start, start + _CHUNK)
        pictures[part] = _photograph(people, who[part], by[part], seeds[part], height, width)
    return pictures


def _photograph(
    people: Pedestrians, who: NDArray[np.int64], camera: NDArray[np.int64], seeds: Seeds, height: int, width: int
) -> Floats:
    lens = item_seeds(0, camera, "camera")
    scale = _planes(between(seeds, "scale", 0.9, 1.1))
    # Coordinates of the person: y from 0 (top) to 1 in heights of the picture, x from its middle.
    y = ((np.arange(height, dtype=np.float32) + 0.5)[:, None] / height - 0.5) / scale + 0.5
    y = y - _planes(between(seeds, "down", -0.05, 0.05))
    x = ((np.arange(width, dtype=np.float32) + 0.5) - width / 2)[None] / height / scale
    side = np.where(uniforms(seeds, "side")[:, 0] < 0.5, -1, 1).astype(np.float32)
    x = (x - _planes(between(seeds, "right", -0.05, 0.05))) * _planes(side)
    edge = height * scale  # from heights to pixels, for edges one pixel wide

    def box(left: Floats | float, right: Floats | float, top: float, bottom: float) -> Floats:
        inside = np.minimum(np.minimum(x - left, right - x), np.minimum(y - top, bottom - y))
        return np.clip(inside * edge + 0.5, 0, 1)

    build, colours = _planes(people.build[who]), people.colours[who]
    stride = _planes(between(seeds, "stride", 0.0, 0.03))
    head = np.clip((0.07 - np.hypot(x / 0.85, y - 0.13)) * edge + 0.5, 0, 1)
    picture = _background(lens, seeds, y)
    for shape, colour in (
        (np.maximum(box(-0.8 * build - stride, -0.01, 0.5, 0.93), box(0.01, 0.8 * build + stride, 0.5, 0.93)), 3),
        (np.maximum(box(-build - stride, -0.01, 0.9, 0.96), box(0.01, build + stride, 0.9, 0.96)), 4),
    ):
        picture = _paint(picture, shape, colours[:, colour])
    picture = _paint(picture, box(-build, build, 0.2, 0.55), _striped(people, who, x, y))
    picture = _paint(picture, head, colours[:, 1])
    picture = _paint(picture, head * (y < 0.11), colours[:, 0])
    bag = box(0.6 * build, build + 0.07, 0.36, 0.56) * _planes(people.bag[who])
    picture = _paint(picture, bag, colours[:, 5])
    return _seen(picture, lens, seeds, height, width)


def _planes(values: Floats) -> Floats:
    return values[:, None, None]


def _paint(picture: Floats, shape: Floats, colour: Floats) -> Floats:
    """The picture (N, 3, H, W) with a shape (N, H, W) in a colour (N, 3) or in colours (N, 3, H, W)."""
    share = shape[:, None]
    return picture * (1 - share) + share * (colour[:, :, None, None] if colour.ndim == 2 else colour)


def _background(lens: Seeds, seeds: Seeds, y: Floats) -> Floats:
    """A wall and a floor in the camera's colours, a little darker or lighter in each picture."""
    wall, floor = (0.25 + 0.5 * uniforms(lens, name, 3)[:, :, None, None] for name in ("wall", "floor"))
    light = between(seeds, "light", 0.8, 1.2)[:, None, None, None]
    return np.where(y[:, None] < between(lens, "horizon", 0.5, 0.8)[:, None, None, None], wall, floor) * light


def _striped(people: Pedestrians, who: NDArray[np.int64], x: Floats, y: Floats) -> Floats:
    strength, number, across = (_planes(people.stripes[who, i]) for i in range(3))
    wave = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * number * np.where(across > 0, y, x) / 0.35))
    share = (strength * wave)[:, None]
    plain, stripe = (colour[:, :, None, None] for colour in (people.colours[who, 2], people.stripe_colour[who]))
    return plain * (1 - share) + share * stripe


def _seen(picture: Floats, lens: Seeds, seeds: Seeds, height: int, width: int) -> Floats:
    """What the camera makes of the scene: an occluder before it, tint, gamma, noise."""
    top, left = (between(seeds, name, 0.0, 1.0) for name in ("occluder top", "occluder left"))
    size = np.where(uniforms(seeds, "occluded")[:, 0] < 0.3, between(seeds, "occluder size", 0.15, 0.35), 0)
    rows = np.abs(np.arange(height)[None] / height - top[:, None]) < size[:, None] / 2
    columns = np.abs(np.arange(width)[None] / width - left[:, None]) < size[:, None]
    hidden = (rows[:, :, None] & columns[:, None, :])[:, None]
    picture = np.where(hidden, uniforms(seeds, "occluder", 3)[:, :, None, None], picture)
    tint = (0.65 + 0.5 * uniforms(lens, "tint", 3))[:, :, None, None]
    gamma = between(lens, "gamma", 0.65, 1.5)[:, None, None, None]
    noise = 0.04 * normals(seeds, "noise", (3, height, width))
    return np.clip(np.clip(picture * tint, 0, 1) ** gamma + noise, 0, 1).astype(np.float32)
