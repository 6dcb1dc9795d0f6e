# SPDX-License-Identifier: Apache-2.0
"""Four "generators" for experiments: each makes the area of a face anew from less, and leaves its own fine traces.

| generator | how |
| --- | --- |
| nearest | every second pixel, each four times |
| bilinear | shrunk by 1.75 and enlarged again |
| zero-insertion | shrunk by 2, zeros put in between, a fixed 3 x 3 filter, as a transposed convolution does it |
| smooth-noise | Gaussian blur of 0.8 pixels, then white noise of the energy that the blur took away |

The copy is blended into the photograph that it was made from, through a soft mask, so real and forged share the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mien.data import forge_ops as ops
from mien.data.draws import Seeds, between, item_seeds, normals, uniforms
from mien.data.forge import face_mask
from mien.data.forge_pairs import Perturbation, common_perturbation
from mien.nn.grey import grey

SHRINK, BLUR = 1.75, 0.8


def nearest(images: Tensor, seeds: Seeds) -> Tensor:
    """Every second pixel, each four times; (B, 3, H, W) in [0, 1], like all of these."""
    return F.interpolate(images[..., ::2, ::2], size=images.shape[-2:], mode="nearest")


def bilinear(images: Tensor, seeds: Seeds) -> Tensor:
    """Shrunk by 1.75 and enlarged again."""
    return ops.resampled(images, torch.full((len(images),), 1 / SHRINK))


def zero_insertion(images: Tensor, seeds: Seeds) -> Tensor:
    """Halved, zeros between the pixels, and the filter [1 2 1] x [1 2 1] / 4, which keeps the brightness."""
    height, width = images.shape[-2:]
    small = F.avg_pool2d(images, 2, ceil_mode=True)
    spread = images.new_zeros(*small.shape[:2], 2 * small.shape[2], 2 * small.shape[3])
    spread[..., ::2, ::2] = small
    line = images.new_tensor([0.5, 1.0, 0.5])
    kernel = (line[:, None] * line).expand(images.shape[1], 1, 3, 3)
    padded = F.pad(spread, (1, 1, 1, 1), mode="reflect")
    return F.conv2d(padded, kernel, groups=images.shape[1])[..., :height, :width]


def smooth_noise(images: Tensor, seeds: Seeds) -> Tensor:
    """Blurred, with white noise in the place of what the blur took."""
    soft = ops.blurred(images, torch.full((len(images),), BLUR))
    lost = (images - soft).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return soft + lost * torch.from_numpy(normals(seeds, "generator noise", tuple(images.shape[1:])))


GENERATORS: dict[str, Callable[[Tensor, Seeds], Tensor]] = {
    "nearest": nearest,
    "bilinear": bilinear,
    "zero-insertion": zero_insertion,
    "smooth-noise": smooth_noise,
}


def regenerated(faces: Tensor, generator: str, seed: int, points: Tensor | None = None) -> Tensor:
    """Forged faces, before their last encoding: (N, 3, H, W) in [0, 1] -> the same.

    Args:
        faces: Real faces.
        generator: One of `GENERATORS`.
        seed: Of masks and noise.
        points: Five landmarks of each in pixels, (N, 5, 2); None for those of an aligned crop.
    """
    seeds = item_seeds(seed, np.arange(len(faces)), generator)
    made = _turned(GENERATORS[generator](_turned(faces, seeds), seeds), seeds)
    return ops.blend(faces, made, face_mask(faces, seeds, points))


def _turned(images: Tensor, seeds: Seeds) -> Tensor:
    """Half of the images mirrored, and half upside down: a generator that moves a face by half a pixel, as two of them
    do, then moves it either way, or thumbnails would show it.
    """
    turn = torch.from_numpy(uniforms(seeds, "turned", 2) < 0.5)[:, :, None, None, None]
    images = torch.where(turn[:, 0], images.flip(-1), images)
    return torch.where(turn[:, 1], images.flip(-2), images)


def encoded(images: Tensor, seed: int, quality: tuple[int, int]) -> Tensor:
    """The last encoding, (N, 3, H, W) in [0, 1] -> uint8. Image i gets the same quality whatever was done to it."""
    seeds = item_seeds(seed, np.arange(len(images)), "encoding 0")
    return common_perturbation(images, seeds, Perturbation(jpeg=quality))


def near_infrared(images: Tensor, seed: int) -> Tensor:
    """Brightness in three equal channels, with a gamma of 0.7 to 1.3 and a gain of 0.8 to 1.1 for every photograph.

    Args:
        images: Photographs (N, 3, H, W) in [0, 1], or clips (N, T, 3, H, W), which keep one gamma and gain each.
        seed: Of gammas and gains.
    """
    seeds = item_seeds(seed, np.arange(len(images)), "near-infrared")
    shape = (-1, *[1] * (images.ndim - 1))
    gamma, gain = (
        torch.from_numpy(between(seeds, name, low, high)).view(shape)
        for name, low, high in (("gamma", 0.7, 1.3), ("gain", 0.8, 1.1))
    )
    return (gain * grey(images).pow(gamma)).clamp(0, 1).expand_as(images).contiguous()


def few_of_each(people: Sequence[str], rows: Sequence[int], most: int) -> list[int]:
    """The first `most` rows of every person."""
    seen: dict[str, int] = {}
    kept = []
    for i in rows:
        seen[people[i]] = seen.get(people[i], 0) + 1
        if seen[people[i]] <= most:
            kept.append(i)
    return kept
