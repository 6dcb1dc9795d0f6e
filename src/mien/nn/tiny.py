# SPDX-License-Identifier: Apache-2.0
"""Networks small enough to be trained on a laptop in a minute: for demos, proofs and tests."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import BadInput

# On face photographs in [0, 1] the high-pass copy spreads about eight times less than the image itself.
_HIGH_PASS_GAIN = 8.0


def local_high_pass(image: Tensor) -> Tensor:
    """`image` (B, C, H, W) minus the mean of each 3 x 3 neighbourhood (edges mirrored), same shape."""
    return image - F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="reflect"), 3, stride=1)


class TinyCNN(nn.Module):
    """Six 3 x 3 convolutions with batch norm in three stages of 12, 24 and 48 channels; 41 k weights.

    Args:
        num_classes: Outputs; 0 for the mean of the feature map.
        high_pass: Append `local_high_pass` of the image to the input channels: artefacts are easier to see there.

    Input (B, 3, H, W) in [0, 1], H and W at least 8; output (B, num_classes) logits, or (B, 48).
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
        self.fc = nn.Linear(channels, num_classes) if num_classes else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch."""
        if self.high_pass:
            image = torch.cat([image, _HIGH_PASS_GAIN * local_high_pass(image)], dim=1)
        return self.fc(self.features(image).mean(dim=(2, 3)))


class TinyBlocks(nn.Module):
    """Four blocks of a 3 x 3 convolution, batch norm and ReLU, of 16, 32, 48 and 64 channels; 47 k weights.

    Each block but the first halves the image (stride 2), so that a map of an eighth of its height and width is left.

    Args:
        num_classes: Outputs; 0 for the mean of the feature map.
        high_pass: See nothing but `local_high_pass` of the image: artefacts are easier to see there.

    Input (B, 3, H, W) in [0, 1], H and W at least 8; output (B, num_classes) logits, or (B, 64).
    """

    def __init__(self, num_classes: int, *, high_pass: bool = False) -> None:
        super().__init__()
        self.high_pass = high_pass
        layers: list[nn.Module] = []
        channels = 3
        for width in (16, 32, 48, 64):
            # Strides, not max-pooling, which would take a third of the time on a CPU.
            convolution = nn.Conv2d(channels, width, 3, stride=2 if layers else 1, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, num_classes) if num_classes else nn.Identity()
        self.to(memory_format=torch.channels_last)  # strided convolutions then take two thirds of the time on a CPU

    def forward_features(self, image: Tensor) -> Tensor:
        """The feature map (B, 64, H / 8, W / 8)."""
        return self.features(_HIGH_PASS_GAIN * local_high_pass(image) if self.high_pass else image)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch."""
        return self.fc(self.forward_features(image).mean(dim=(2, 3)))


def tiny_vit(num_classes: int, image_size: int) -> nn.Module:
    """A vision transformer of timm with 64 patches, width 64, 4 heads and 3 blocks; 108 k weights.

    Args:
        num_classes: Outputs; 0 for the normalised class token.
        image_size: Side of the images in pixels, a multiple of 8.
    """
    from timm.models.vision_transformer import VisionTransformer  # timm takes a second to import

    if image_size % 8:
        raise BadInput(f"image_size is {image_size}: tiny_vit needs a multiple of 8, its patches are an eighth")
    patch = image_size // 8
    return VisionTransformer(image_size, patch, 3, num_classes, embed_dim=64, depth=3, num_heads=4, mlp_ratio=2)


def _plain(num_classes: int, image_size: int) -> nn.Module:
    return TinyCNN(num_classes)


def _high_pass(num_classes: int, image_size: int) -> nn.Module:
    return TinyCNN(num_classes, high_pass=True)


def _blocks(num_classes: int, image_size: int) -> nn.Module:
    return TinyBlocks(num_classes)


def _high_pass_blocks(num_classes: int, image_size: int) -> nn.Module:
    return TinyBlocks(num_classes, high_pass=True)


TINY: dict[str, Callable[[int, int], nn.Module]] = {
    "tiny_cnn": _plain,
    "tiny_cnn_highpass": _high_pass,
    "tiny_blocks": _blocks,
    "tiny_blocks_highpass": _high_pass_blocks,
    "tiny_vit": tiny_vit,
}
"""Name -> constructor, called with the number of classes and the side of the images."""
