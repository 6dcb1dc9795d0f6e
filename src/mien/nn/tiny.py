# SPDX-License-Identifier: Apache-2.0
"""Networks small enough to be trained on a laptop in a minute: for demos, proofs and tests."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# On face photographs in [0, 1] the high-pass copy spreads about eight times less than the image itself.
_HIGH_PASS_GAIN = 8.0


def local_high_pass(image: Tensor) -> Tensor:
    """`image` (B, C, H, W) minus the mean of each 3 x 3 neighbourhood (edges mirrored), same shape."""
    return image - F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="reflect"), 3, stride=1)


class TinyCNN(nn.Module):
    """Six 3 x 3 convolutions with batch norm in three stages of 12, 24 and 48 channels; 41 k weights.

    Args:
        num_classes: Outputs.
        high_pass: Append `local_high_pass` of the image to the input channels: artefacts are easier to see there.

    Input (B, 3, H, W) in [0, 1], H and W at least 8; output (B, num_classes) logits.
    """

    def __init__(self, num_classes: int, *, high_pass: bool = False) -> None:
        super().__init__()
        self.high_pass = high_pass
        channels = 6 if high_pass else 3
        layers: list[nn.Module] = []
        for stage, width in enumerate((12, 24, 48)):
            if stage:
                layers.append(nn.MaxPool2d(2))
            for _ in range(2):
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch."""
        if self.high_pass:
            image = torch.cat([image, _HIGH_PASS_GAIN * local_high_pass(image)], dim=1)
        return self.fc(self.features(image).mean(dim=(2, 3)))


def _plain(num_classes: int) -> nn.Module:
    return TinyCNN(num_classes)


def _high_pass(num_classes: int) -> nn.Module:
    return TinyCNN(num_classes, high_pass=True)


TINY: dict[str, Callable[[int], nn.Module]] = {"tiny_cnn": _plain, "tiny_cnn_highpass": _high_pass}
"""Name -> constructor, called with the number of classes."""
