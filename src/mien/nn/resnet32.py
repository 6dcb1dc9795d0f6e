# SPDX-License-Identifier: Apache-2.0
"""Residual networks with the usual stem for images of 32 x 32 pixels, on timm's blocks.

Their first convolution is 3 x 3 with stride 1 and nothing is pooled after it, so that an eighth of the height and width
is left at the end, where the ImageNet stem would leave one position.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from mien.nn.preact import CIFAR_MEAN, CIFAR_STD


def cifar_resnet(num_classes: int, image_size: int, name: str) -> nn.Module:
    """Timm's ResNet `name` with that stem; its published mean and std are those of CIFAR-10."""
    import timm  # it takes a second to import

    body: Any = timm.create_model(name, num_classes=num_classes)
    body.conv1 = nn.Conv2d(3, body.conv1.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(body.conv1.weight, mode="fan_out", nonlinearity="relu")  # as timm does with its own
    body.maxpool = nn.Identity()
    body.pretrained_cfg = {"mean": CIFAR_MEAN, "std": CIFAR_STD, "classifier": "fc"}
    return body


RESNET32: dict[str, Callable[[int, int], nn.Module]] = {
    f"cifar_{name}": partial(cifar_resnet, name=name) for name in ("resnet18", "resnet34", "resnet50")
}
"""Name -> constructor, called with the number of classes and the side of the images."""
