# SPDX-License-Identifier: Apache-2.0
"""Colour pictures to grey."""

from __future__ import annotations

from torch import Tensor


def grey(image: Tensor, white: float = 1.0) -> Tensor:
    """0.299 R + 0.587 G + 0.114 B (ITU-R BT.601) of images: (..., 1, H, W).

    Args:
        image: (..., 3, H, W), or (..., 1, H, W), which is grey already.
        white: What 1 becomes: 255 gives grey levels of images in [0, 1].
    """
    if image.shape[-3] == 1:
        return image if white == 1.0 else image * white
    shares = image.new_tensor((0.299, 0.587, 0.114)) * white
    return (image * shares[:, None, None]).sum(dim=-3, keepdim=True)
