# SPDX-License-Identifier: Apache-2.0
"""Gaussian blur of image tensors by torch alone: importing torchvision would cost every command a second."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian_blur(image: Tensor, kernel: tuple[int, int], sigma: float) -> Tensor:
    """Blur with a mirrored border, as torchvision's function of this name does.

    Args:
        image: (B, C, H, W), floating point.
        kernel: Width and height of the window in pixels, odd; 1 leaves that direction alone. H and W must exceed half
            of it.
        sigma: Deviation in pixels, > 0.

    Returns:
        The same shape.
    """
    channels = image.shape[1]
    for axis, size in zip((-1, -2), kernel, strict=True):
        if size == 1:
            continue
        place = torch.arange(size, dtype=image.dtype, device=image.device) - (size - 1) / 2
        weight = (-0.5 * (place / sigma).square()).exp()
        shape = (1, 1, 1, -1) if axis == -1 else (1, 1, -1, 1)
        window = (weight / weight.sum()).view(shape).expand(channels, -1, -1, -1)
        edge = (size // 2, size // 2)
        padded = F.pad(image, (*edge, 0, 0) if axis == -1 else (0, 0, *edge), mode="reflect")
        image = F.conv2d(padded, window, groups=channels)
    return image
