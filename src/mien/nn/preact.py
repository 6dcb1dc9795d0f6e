# SPDX-License-Identifier: Apache-2.0
"""Residual networks with pre-activation for images of 32 x 32 pixels: the usual ones of adversarial training.

Sources: He et al., Identity Mappings in Deep Residual Networks, ECCV 2016; Zagoruyko and Komodakis, Wide Residual
Networks, BMVC 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
"""Of CIFAR-10's training images, channel by channel."""


class PreActBlock(nn.Module):
    """x + conv(act(conv(act(x)))), act = ReLU after batch norm; where the shape changes, x becomes conv1x1(act(x))."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = None
        if stride > 1 or channels != width:
            self.shortcut = nn.Conv2d(channels, width, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, width, H / stride, W / stride)."""
        active = self.norm1(x).relu_()
        kept = x if self.shortcut is None else self.shortcut(active)
        return kept + self.conv2(self.norm2(self.conv1(active)).relu_())


class PreActResNet(nn.Module):
    """A 3 x 3 convolution, stages of blocks, batch norm, ReLU, mean over positions, linear layer.

    Args:
        stem: Channels of the first convolution.
        widths: Channels of each stage; each but the first halves the image.
        depth: Blocks of a stage.
        num_classes: Outputs; 0 for the features.

    Input (B, 3, H, W), output (B, num_classes) logits, or (B, widths[-1]).
    """

    def __init__(self, stem: int, widths: Sequence[int], depth: int, num_classes: int) -> None:
        super().__init__()
        self.pretrained_cfg = {"mean": CIFAR_MEAN, "std": CIFAR_STD, "classifier": "fc"}
        self.conv = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        channels = stem
        for stage, width in enumerate(widths):
            for block in range(depth):
                blocks.append(PreActBlock(channels, width, 2 if stage and not block else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, image: Tensor) -> Tensor:
        """The feature map that is averaged."""
        return self.norm(self.blocks(self.conv(image))).relu_()

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch."""
        return self.fc(self.forward_features(image).mean(dim=(2, 3)))


def _resnet18(num_classes: int, image_size: int) -> nn.Module:
    return PreActResNet(64, (64, 128, 256, 512), 2, num_classes)


def _wide34(num_classes: int, image_size: int, *, factor: int) -> nn.Module:
    return PreActResNet(16, [factor * width for width in (16, 32, 64)], 5, num_classes)


PREACT: dict[str, Callable[[int, int], nn.Module]] = {
    "preact_resnet18": _resnet18,
    **{f"wrn_34_{factor}": partial(_wide34, factor=factor) for factor in (1, 3, 5, 7, 10)},
}
"""Name -> constructor, called with the number of classes and the side of the images."""
