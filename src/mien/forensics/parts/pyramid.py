# SPDX-License-Identifier: Apache-2.0
"""Feature maps of four scales, C2 to C5, each half as wide as the one before: of a network of timm, or of a tiny one.

>>> maps = Pyramid(Network("tiny_pyramid"), 64)(torch.rand(2, 3, 64, 64))
>>> [tuple(m.shape[1:]) for m in maps]
[(24, 32, 32), (32, 16, 16), (64, 8, 8), (96, 4, 4)]
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from mien.errors import BadInput
from mien.nn.network import Network
from mien.nn.tiny import local_high_pass

TINY = "tiny_pyramid"
_WIDTHS = (24, 32, 64, 96)
_GAIN = 8.0
"""Of the high-pass copy of the image, as in `mien.nn.tiny`."""


class TinyPyramid(nn.Module):
    """Four levels of 3 x 3 convolutions with batch norm and ReLU; 212 k weights.

    One convolution of stride 2 for C2, then one of stride 2 and one of stride 1 for each of C3, C4, C5. The image comes
    with its high-pass copy. Strides of the maps: 2, 4, 8, 16.
    """

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for i, (before, width) in enumerate(pairwise((6, *_WIDTHS))):
            layers: list[nn.Module] = []
            for channels, stride in ((before, 2), (width, 1))[: 1 + bool(i)]:
                layers += [nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width)]
                layers.append(nn.ReLU())
            self.levels.append(nn.Sequential(*layers))

    def forward(self, image: Tensor) -> list[Tensor]:
        """The four maps of images (B, 3, H, W)."""
        x = torch.cat([image, _GAIN * local_high_pass(image)], dim=1)
        maps = []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps


class Pyramid(nn.Module):
    """C2 to C5 of images (B, 3, H, W) in [0, 1], which are brought to [-1, 1].

    Args:
        network: "tiny_pyramid" (strides 2, 4, 8, 16), or a convolutional network of timm (strides 4, 8, 16, 32).
        image_size: Height and width of the images, a multiple of the last stride.

    Raises:
        BadInput: The network gives no such maps, or the size does not fit.
    """

    def __init__(self, network: Network, image_size: int) -> None:
        super().__init__()
        if network.normalise != "none":
            raise BadInput(f"network.normalise is {network.normalise!r}: images are brought to [-1, 1] here: use none")
        self.taps: list[int] | None = None
        if network.name == TINY:
            if network.pretrained or network.weights is not None:
                raise BadInput(f"network {TINY!r} has no weights to start from")
            self.body: nn.Module = TinyPyramid()
            self.channels, self.strides = list(_WIDTHS), [2, 4, 8, 16]
        else:
            self.body = network.build(0, image_size).body
            levels = getattr(self.body, "feature_info", None)
            if not levels or not hasattr(self.body, "forward_intermediates") or len(levels) < 4:
                raise BadInput(f"network {network.name!r} gives no feature maps of four scales: try resnet50")
            self.taps = list(range(len(levels)))[-4:]
            self.channels = [int(levels[i]["num_chs"]) for i in self.taps]
            self.strides = [int(levels[i]["reduction"]) for i in self.taps]
        if any(b != 2 * a for a, b in pairwise(self.strides)):
            raise BadInput(f"network {network.name!r} has maps of strides {self.strides}: each must double the last")
        if image_size % self.strides[-1]:
            raise BadInput(f"image_size is {image_size}: {network.name} needs a multiple of {self.strides[-1]}")

    def forward(self, image: Tensor) -> list[Tensor]:
        """The maps, finest first."""
        x = 2 * image - 1
        if self.taps is None:
            return self.body(x)
        body: Any = self.body
        return list(body.forward_intermediates(x, indices=self.taps, intermediates_only=True))
