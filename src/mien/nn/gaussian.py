# SPDX-License-Identifier: Apache-2.0
"""Gaussian blur of image tensors by torch alone: importing torchvision would cost every command a second."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian_blur(image: Tensor, kernel: tuple[int, int], sigma: float) -> Tensor:
    """Blur with a mirrored border, bit for bit as torchvision's function of this name does.

    Args:
        image: (B, C, H, W), floating point.
        kernel: Width and height of the window in pixels, odd; 1 leaves that direction alone, so that a wide window may
            be made in two passes. H and W must exceed half of it.
        sigma: Deviation in pixels, > 0.

    Returns:
        The same shape.
    """
    x, y = (_window(image, size, sigma) for size in kernel)
    right, down = (size // 2 for size in kernel)
    padded = F.pad(image, (right, right, down, down), mode="reflect")
    window = (y[:, None] * x).expand(image.shape[1], 1, -1, -1)
    return F.conv2d(padded, window, groups=image.shape[1])


def _window(image: Tensor, size: int, sigma: float) -> Tensor:
    reach = (size - 1) / (2 * math.sqrt(2))
    place = torch.linspace(-reach, reach, size, dtype=image.dtype, device=image.device)  # in units of sqrt 2
    return (-(place / sigma).square()).softmax(dim=0)
