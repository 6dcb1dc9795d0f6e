# SPDX-License-Identifier: Apache-2.0
"""Soft shapes and textures on planes of pixels (N, H, W): the brushes of the procedural people.

Everything works pixel by pixel, so that no picture depends on its batch. Edges are about a pixel wide.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from mien.data.draws import Floats


def soft(distance: Floats, scale: Floats) -> Floats:
    """1 inside, 0 outside, a ramp of a pixel at the edge.

    Args:
        distance: Signed distance to the edge, positive inside, in head units.
        scale: Pixels per head unit, (N, 1, 1).
    """
    alpha = distance * scale
    alpha += 0.5
    return np.clip(alpha, 0.0, 1.0, out=alpha)


def clip01(plane: Floats) -> Floats:
    """`plane` cut to [0, 1]."""
    return np.clip(plane, 0.0, 1.0)


def band(distance: Floats, sharpness: float) -> Floats:
    """A line: 1 where `distance` is 0, falling linearly to 0 at 1 / `sharpness`."""
    return np.maximum(1.0 - np.abs(distance) * np.float32(sharpness), 0.0)


def bump(du: Floats, dv: Floats, width: Floats | float, height: Floats | float) -> Floats:
    """A round hill, 1 at its top, that falls to 0 at about 2.4 widths: cheaper than a Gaussian, and as smooth."""
    fall: Floats = du * (np.float32(6**-0.5) / width)
    fall *= fall
    other: Floats = dv * (np.float32(6**-0.5) / height)
    other *= other
    fall += other
    np.subtract(1.0, fall, out=fall)
    np.maximum(fall, 0.0, out=fall)
    np.multiply(fall, fall, out=other)
    other *= fall
    return other


def length(x: Floats, y: Floats) -> Floats:
    """Length of (x, y). Not `np.hypot`, whose care about overflow costs five times as much."""
    return np.sqrt(x * x + y * y)


def over(image: Floats, colour: Floats, alpha: Floats) -> None:
    """Paint `colour`, (N, 3, 1, 1) or (N, 3, H, W), over the image (N, 3, H, W) in place."""
    for channel in range(3):
        plane = image[:, channel]
        change = colour[:, channel] - plane
        change *= alpha
        plane += change


def upsampled(coarse: Floats, size: int) -> Floats:
    """A coarse field, enlarged smoothly. Bicubic to a quarter, the rest bilinear: looks the same, costs a third."""
    middle = F.interpolate(torch.from_numpy(coarse), size=(size // 4, size // 4), mode="bicubic", align_corners=False)
    return F.interpolate(middle, size=(size, size), mode="bilinear", align_corners=False).numpy()


def sampled(texture: Floats, x: Floats, y: Floats) -> Floats:
    """A texture (N, h, w) read at x, y in [-1, 1], (N, H, W); mirrored beyond."""
    grid = torch.from_numpy(np.stack((x, y), axis=-1, dtype=np.float32))
    read = F.grid_sample(torch.from_numpy(texture)[:, None], grid, padding_mode="reflection", align_corners=False)
    return read[:, 0].numpy()
