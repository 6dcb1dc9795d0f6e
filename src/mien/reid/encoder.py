# SPDX-License-Identifier: Apache-2.0
"""The network of re-identification: a backbone, generalised-mean pooling and a batch-norm neck, for the whole crop and,
where wanted, for its upper and lower half.

    GeM(x) = (mean over positions of max(x, eps)^p)^(1/p),  p learnable   (Radenovic et al., TPAMI 2019)
    z = BN(GeM(x)) with a bias fixed at 0                                 (Luo et al., CVPRW 2019: BNNeck)
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from mien.errors import BadInput
from mien.nn.network import Network
from mien.reid.data import Size

Parts = Literal["none", "up-down"]


def generalised_mean(features: Tensor, p: Tensor | float, eps: float = 1e-6) -> Tensor:
    """GeM pooling of (B, C, h, w) over positions, (B, C). p = 1 is the mean, p -> infinity the maximum.

    >>> generalised_mean(torch.tensor([[[[1.0, 2.0]]]]), 3.0)  # (4.5)^(1/3)
    tensor([[1.6510]])
    """
    return features.clamp(min=eps).pow(p).mean(dim=(2, 3)).pow(1 / p)


class Neck(nn.Module):
    """GeM with a learnable exponent, then batch norm with a bias fixed at 0: (B, C, h, w) -> z, (B, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(3.0))
        self.norm = nn.BatchNorm1d(channels)
        self.norm.bias.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        """Z of a feature map."""
        return self.norm(generalised_mean(features, self.p))


class Encoder(nn.Module):
    """Crops in [0, 1] -> z of the whole crop, and of its halves with `parts` "up-down".

    Args:
        network: The backbone; its classifier is left out. A ResNet's last stage keeps its resolution (stride 1).
        image_size: Height and width of the crops.
        parts: "none" or "up-down".
    """

    def __init__(self, network: Network, image_size: Size, parts: Parts = "none") -> None:
        super().__init__()
        self.backbone = network.build(0, max(image_size))
        keep_resolution(self.backbone.body)
        twin = copy.deepcopy(self.backbone).to("meta").eval()
        _, channels, height, _ = twin.feature_map(torch.empty(1, 3, *image_size, device="meta")).shape
        if parts == "up-down" and height < 2:
            raise BadInput(f"image_size is {list(image_size)}: its feature map is 1 high and has no halves")
        self.dimensions = channels
        self.necks = nn.ModuleList(Neck(channels) for _ in range(3 if parts == "up-down" else 1))

    def forward(self, image: Tensor) -> list[Tensor]:
        """z, each (B, D): of the whole crop first, then of the upper and the lower half."""
        whole = self.backbone.feature_map(image)
        half = whole.shape[2] // 2
        regions = (whole, whole[:, :, :half], whole[:, :, half:])
        return [neck(region) for neck, region in zip(self.necks, regions, strict=False)]


def keep_resolution(body: nn.Module) -> None:
    """Set the strides in a ResNet's last stage to 1, which doubles height and width of its map; no new weights."""
    for module in getattr(body, "layer4", nn.Module()).modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
        elif isinstance(module, nn.AvgPool2d):  # of ResNet-D's short cut: nothing is left to pool
            module.stride = module.kernel_size = (1, 1)
