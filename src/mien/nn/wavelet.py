# SPDX-License-Identifier: Apache-2.0
"""The Haar wavelet transform of images in 2 x 2 blocks: orthonormal, exactly undone, no learnt part.

With a, b, c, d the four pixels of a block (a at the top left, b below it, c to its right, d below that):

    LL = (a + b + c + d) / 2    HL = (-a - b + c + d) / 2    LH = (-a + b - c + d) / 2    HH = (a - b - c + d) / 2
"""

from __future__ import annotations

import torch
from torch import Tensor

from mien.errors import BadInput


def haar(image: Tensor) -> Tensor:
    """The transform: (B, C, H, W) with H and W even -> (B, 4 C, H / 2, W / 2).

    The channels are LL of all C, then HL of all, LH of all, HH of all. Lengths are kept: the squares of the result sum
    to those of the image.

    Raises:
        BadInput: Height or width is odd.

    >>> haar(torch.tensor([[[[1.0, 3.0], [2.0, 4.0]]]])).flatten()
    tensor([5., 2., 1., 0.])
    """
    if image.ndim != 4 or image.shape[-2] % 2 or image.shape[-1] % 2:
        raise BadInput(f"image has shape {tuple(image.shape)}: (B, C, H, W) with even H and W is needed")
    a, b = image[..., 0::2, 0::2], image[..., 1::2, 0::2]
    c, d = image[..., 0::2, 1::2], image[..., 1::2, 1::2]
    bands = [a + b + c + d, -a - b + c + d, -a + b - c + d, a - b - c + d]
    return torch.cat(bands, dim=1) / 2


def inverse_haar(bands: Tensor) -> Tensor:
    """What `haar` came from: (B, 4 C, h, w) -> (B, C, 2 h, 2 w).

    Raises:
        BadInput: The number of channels is not a multiple of four.

    >>> inverse_haar(torch.tensor([5.0, 2.0, 1.0, 0.0]).view(1, 4, 1, 1)).flatten()
    tensor([1., 3., 2., 4.])
    """
    if bands.ndim != 4 or bands.shape[1] % 4:
        raise BadInput(f"bands have shape {tuple(bands.shape)}: (B, 4 C, H, W) is needed")
    ll, hl, lh, hh = bands.chunk(4, dim=1)
    batch, channels, height, width = ll.shape
    image = bands.new_empty(batch, channels, 2 * height, 2 * width)
    image[..., 0::2, 0::2] = (ll - hl - lh + hh) / 2
    image[..., 1::2, 0::2] = (ll - hl + lh - hh) / 2
    image[..., 0::2, 1::2] = (ll + hl - lh - hh) / 2
    image[..., 1::2, 1::2] = (ll + hl + lh + hh) / 2
    return image
