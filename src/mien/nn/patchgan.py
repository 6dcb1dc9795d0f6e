# SPDX-License-Identifier: Apache-2.0
"""PatchGAN discriminators at several scales, the least-squares GAN loss, feature matching and the pool of old fakes.

Isola and others, Image-to-Image Translation with Conditional Adversarial Networks, CVPR 2017, and Wang and others,
High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs, CVPR 2018 (pix2pixHD).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import BadInput

Features = list[list[Tensor]]
"""Scale -> layer -> output; the last layer's is the map of scores."""


def _layer(channels: int, width: int, stride: int, *, norm: bool = True) -> nn.Sequential:
    parts: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride, padding=2)]
    if norm:
        parts.append(nn.InstanceNorm2d(width))
    return nn.Sequential(*parts, nn.LeakyReLU(0.2))


class PatchDiscriminator(nn.Module):
    """Scores overlapping patches: (B, channels, H, W) -> the outputs of all layers, the last (B, 1, h, w).

    Kernel 4 and padding 2 throughout; `layers` convolutions of stride 2, then two of stride 1. Instance norm without
    affine parameters, none in the first layer. Widths double up to 512.
    """

    def __init__(self, channels: int, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        widths = [min(width * 2**i, 512) for i in range(layers + 1)]
        blocks: list[nn.Module] = [_layer(channels, widths[0], 2, norm=False)]
        blocks += [_layer(a, b, 2 if i < layers else 1) for i, (a, b) in enumerate(pairwise(widths), 1)]
        self.blocks = nn.ModuleList([*blocks, nn.Conv2d(widths[-1], 1, 4, padding=2)])

    def forward(self, image: Tensor) -> list[Tensor]:
        """The outputs of all layers."""
        outputs = []
        for block in self.blocks:
            image = block(image)
            outputs.append(image)
        return outputs


class MultiScaleDiscriminator(nn.Module):
    """Equal discriminators, each on the image at half the size of the one before (3 x 3 average pooling, stride 2)."""

    def __init__(self, channels: int, scales: int = 3, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(channels, width, layers) for _ in range(scales))

    def forward(self, image: Tensor) -> Features:
        """The outputs of all layers of all scales."""
        outputs = []
        for i, scale in enumerate(self.scales):
            if i:
                image = F.avg_pool2d(image, 3, stride=2, padding=1, count_include_pad=False)
            outputs.append(scale(image))
        return outputs


@dataclass(frozen=True)
class PatchGAN:
    """Size of a multi-scale PatchGAN discriminator. Plain data, for the command line and config.json.

    Args:
        scales: Discriminators, each on half the size of the one before, from 1 to 4.
        width: Channels of the first layer; they double up to 512.
        layers: Convolutions of stride 2, at least 1.

    >>> sum(p.numel() for p in PatchGAN().build(6).parameters())
    8303427
    """

    scales: int = 3
    width: int = 64
    layers: int = 3

    def __post_init__(self) -> None:
        for name, most in (("scales", 4), ("width", 512), ("layers", 8)):
            if not 1 <= getattr(self, name) <= most:
                raise BadInput(f"patchgan.{name} is {getattr(self, name)}: use 1 to {most}")

    def build(self, channels: int) -> MultiScaleDiscriminator:
        """The discriminator of images with so many channels; new weights from torch's global generator."""
        return MultiScaleDiscriminator(channels, self.scales, self.width, self.layers)


def least_squares(outputs: Features, *, real: bool) -> Tensor:
    """LSGAN: mean squared distance of the scores from 1 (real) or 0, summed over scales."""
    target = 1.0 if real else 0.0
    return torch.stack([(scale[-1] - target).square().mean() for scale in outputs]).sum()


def hinge(outputs: Features, *, real: bool) -> Tensor:
    """The discriminator's hinge loss: mean relu(1 - score) of real images, relu(1 + score) of fakes, over scales."""
    sign = -1.0 if real else 1.0
    return torch.stack([F.relu(1 + sign * scale[-1]).mean() for scale in outputs]).sum()


def feature_matching(fake: Features, real: Features) -> Tensor:
    """L1 between the discriminator's features of fake and real images, all layers but the scores; real is fixed.

    The sum over layers is weighted by 4 / (stride-2 layers + 1) and the scales are averaged (pix2pixHD).
    """
    terms = [
        F.l1_loss(a, b.detach()) * (4 / (len(scale) - 1))
        for scale, reference in zip(fake, real, strict=True)
        for a, b in zip(scale[:-1], reference[:-1], strict=True)
    ]
    return torch.stack(terms).sum() / len(fake)


class FakePool(nn.Module):
    """Earlier fakes that the discriminator is shown again (pix2pixHD): half of the answers are old ones.

    Until the pool is full every image is stored and given back. Then each image is given back itself, or stored in the
    place of a random old one which is given instead, with equal chance. Drawn from torch's global generator; the
    images are a buffer whose size grows, so that a resumed run goes on with them.

    Args:
        size: Most images; 0 gives back what it is given.
    """

    images: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("images", torch.empty(0))

    @torch.no_grad()
    def exchange(self, images: Tensor) -> Tensor:
        """(B, C, H, W) of new fakes -> (B, C, H, W), some of them old. All must have the size of the first ones."""
        if not self.size:
            return images
        if len(self.images) and self.images.shape[1:] != images.shape[1:]:
            raise BadInput(
                f"the pool holds fakes of {_size(self.images)} pixels, not of {_size(images)}: use one size, or pool=0"
            )
        given = []
        for image in images:
            if len(self.images) < self.size:
                self.images = torch.cat([self.images, image[None]]) if len(self.images) else image[None].clone()
            elif torch.rand(()) < 0.5:
                place = int(torch.randint(self.size, ()))
                old = self.images[place].clone()
                self.images[place] = image
                given.append(old)
                continue
            given.append(image)
        return torch.stack(given)


def _size(images: Tensor) -> str:
    return " x ".join(map(str, images.shape[-2:]))


def initialise(module: nn.Module, std: float = 0.02) -> None:
    """First weights of GAN frames: convolutions N(0, std), batch-norm weights N(1, std) and biases 0, in place.

    Biases of convolutions and all other layers keep what torch gave them. Drawn from torch's global generator.
    """
    convolutions: Sequence[type[nn.Module]] = (nn.Conv2d, nn.ConvTranspose2d)
    for child in module.modules():
        if isinstance(child, tuple(convolutions)):
            nn.init.normal_(child.weight, 0.0, std)  # type: ignore[arg-type]
        elif isinstance(child, nn.BatchNorm2d):
            nn.init.normal_(child.weight, 1.0, std)
            nn.init.zeros_(child.bias)
