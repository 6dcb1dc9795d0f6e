# SPDX-License-Identifier: Apache-2.0
"""Colour pictures to grey."""

from __future__ import annotations

from torch import Tensor


def grey(image: Tensor) -> Tensor:
    """0.299 R + 0.587 G + 0.114 B (ITU-R BT.601) of images (..., 3, H, W): (..., 1, H, W). One channel stays."""
    if image.shape[-3] == 1:
        return image
    shares = image.new_tensor((0.299, 0.587, 0.114))[:, None, None]
    return (image * shares).sum(dim=-3, keepdim=True)
