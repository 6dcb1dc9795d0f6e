# SPDX-License-Identifier: Apache-2.0
"""Edges of grey images as Canny finds them: blur, Sobel, and only the pixels that are largest across the edge.

Everything up to the magnitude is differentiable. x runs to the right and y down.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mien.nn.gaussian import gaussian_blur
from mien.nn.grey import grey

FLAT = 1e-6
"""Added under the root, so that a flat area has a finite gradient."""

_ACROSS = ((0, 1), (1, 1), (1, 0), (1, -1))
"""Steps (down, right) to the neighbour across an edge whose gradient points to 0, 45, 90 and 135 degrees."""


def sobel(plane: Tensor) -> tuple[Tensor, Tensor]:
    """The 3 x 3 Sobel derivatives to the right and down, not normalised; (B, 1, H, W) each, the border mirrored."""
    smooth, change = plane.new_tensor((1.0, 2.0, 1.0)), plane.new_tensor((-1.0, 0.0, 1.0))
    kernels = torch.stack([smooth[:, None] * change, change[:, None] * smooth])[:, None]
    gx, gy = F.conv2d(F.pad(plane, (1, 1, 1, 1), mode="reflect"), kernels).split(1, dim=1)
    return gx, gy


def gradients(image: Tensor, kernel: int, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Blur, then Sobel: the magnitude and the two derivatives.

    Args:
        image: (B, 3, H, W); the magnitude has its range times up to about 6.
        kernel: Side of the Gaussian window in pixels, odd; H and W must exceed half of it.
        sigma: Its deviation in pixels.

    Returns:
        sqrt(gx^2 + gy^2 + 1e-6), gx and gy, (B, 1, H, W) each.
    """
    plane = gaussian_blur(grey(image), (kernel, kernel), sigma)  # mirrored border
    gx, gy = sobel(plane)
    return (gx.square() + gy.square() + FLAT).sqrt(), gx, gy


@torch.no_grad()
def local_maxima(magnitude: Tensor, gx: Tensor, gy: Tensor) -> Tensor:
    """Non-maximum suppression: where the magnitude is not below its two neighbours across the edge.

    The gradient's direction, atan2(gy, gx) modulo 180 degrees, is rounded to 0, 45, 90 or 135; the neighbours lie at
    (+-1, 0), +-(1, 1), (0, +-1), +-(1, -1) in (x, y). Beyond the border the magnitude counts as 0.

    Args:
        magnitude: (B, 1, H, W), >= 0.
        gx: Derivative to the right, shaped alike.
        gy: Derivative down, shaped alike.

    Returns:
        A mask (B, 1, H, W) of bool. Both pixels of a tie are kept.
    """
    direction = (torch.atan2(gy, gx) * (4 / math.pi)).round().long() % 4
    height, width = magnitude.shape[-2:]
    padded = F.pad(magnitude, (1, 1, 1, 1))
    keep = torch.zeros_like(magnitude, dtype=torch.bool)
    for i, (down, right) in enumerate(_ACROSS):
        one, other = (
            padded[..., 1 + s * down : 1 + s * down + height, 1 + s * right : 1 + s * right + width] for s in (1, -1)
        )
        keep |= (direction == i) & (magnitude >= one) & (magnitude >= other)
    return keep
