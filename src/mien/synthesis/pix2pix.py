# SPDX-License-Identifier: Apache-2.0
"""pix2pix: Image-to-Image Translation with Conditional Adversarial Networks. The plain reference of paired translation.

Isola, Zhu, Zhou, Efros, CVPR 2017, arXiv 1611.07004.

    L_G = L_GAN + 100 |G(x) - y|,   G a U-Net, the discriminator a PatchGAN on (x, picture)

Differences from the paper
    * The GAN loss is least squares, and the discriminator's norm is instance norm without affine parameters, as in the
      other methods of this room, so that a comparison is one of generators.
    * Noise is dropout in training only; a picture is always translated alike.

Example:
    >>> UNet(UNetSize(width=8, downs=3)).eval()(torch.zeros(1, 3, 16, 24)).shape
    torch.Size([1, 3, 16, 24])
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mien.errors import BadInput
from mien.nn.patchgan import PatchGAN, initialise
from mien.optim.recipe import Recipe
from mien.synthesis.translator import ADAM, Translator, Weights


@dataclass(frozen=True)
class UNetSize:
    """Size of the U-Net. Plain data, for the command line and config.json.

    Args:
        width: Channels after the first convolution; they double up to eight times as many.
        downs: Down-samplings, at least 2; sides of images are multiples of 2^downs.
        dropout: Of the first three layers of the decoder, in [0, 1).
    """

    width: int = 64
    downs: int = 8
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.width < 1:
            raise BadInput(f"unet.width is {self.width}: it must be at least 1")
        if not 2 <= self.downs <= 10:
            raise BadInput(f"unet.downs is {self.downs}: use 2 to 10")
        if not 0 <= self.dropout < 1:
            raise BadInput(f"unet.dropout is {self.dropout}: it must lie in [0, 1)")


class UNet(nn.Module):
    """The U-Net: 4 x 4 convolutions of stride 2 down, transposed ones up, every level joined to its counterpart.

    LeakyReLU(0.2) and BN down, ReLU and BN up; no norm in the first and last layers and in the innermost one. Pictures
    (B, 3, H, W) in [-1, 1] to the same.
    """

    def __init__(self, size: UNetSize) -> None:
        super().__init__()
        widths = [size.width * min(2**i, 8) for i in range(size.downs)]
        last = size.downs - 1
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            parts: list[nn.Module] = [nn.LeakyReLU(0.2)] if i else []
            parts.append(nn.Conv2d(widths[i - 1] if i else 3, width, 4, 2, 1))
            parts += [nn.BatchNorm2d(width)] if 0 < i < last else []
            self.down.append(nn.Sequential(*parts))
        self.up = nn.ModuleList()
        for i in reversed(range(size.downs)):
            joined = widths[i] * (1 if i == last else 2)
            out = widths[i - 1] if i else 3
            parts = [nn.ReLU(), nn.ConvTranspose2d(joined, out, 4, 2, 1)]
            parts += [nn.BatchNorm2d(out)] if i else [nn.Tanh()]
            parts += [nn.Dropout(size.dropout)] if i > max(last - 3, 0) else []
            self.up.append(nn.Sequential(*parts))
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        """Translate."""
        seen = []
        for layer in self.down:
            image = layer(image)
            seen.append(image)
        image = self.up[0](seen.pop())
        for layer in list(self.up)[1:]:
            image = layer(torch.cat([image, seen.pop()], dim=1))
        return image


class Pix2Pix(Translator):
    """pix2pix: a U-Net with L1 and a PatchGAN.

    Args:
        unet: The generator (paper: 256 pixels, 8 down-samplings).
        weights: Of the losses.
        discriminator: The PatchGAN (paper: patches of 70 pixels, one scale).
        pool: Earlier results that the discriminator is shown again, at most so many; 0 for none.
        vgg: VGG-19's weights, where the perceptual loss has a weight: "vgg19" to download them once, or a file.
        optimizer: Of the generator.
        discriminator_optimizer: Of the discriminator.
        image_size: Height and width of training pictures in pixels.
        flip: Whether half of the training pairs are mirrored from left to right.
        shift: Training pairs are moved by up to so many pixels each way.
        input: Name of the side that is translated; None until the data say so.
        target: Name of the side that it becomes; None until the data say so.
    """

    name = "pix2pix"

    def __init__(
        self,
        *,
        unet: UNetSize = UNetSize(),
        weights: Weights = Weights(gan=1.0, l1=100.0),
        discriminator: PatchGAN = PatchGAN(scales=1),
        pool: int = 0,
        vgg: str = "vgg19",
        optimizer: Recipe = ADAM,
        discriminator_optimizer: Recipe = ADAM,
        image_size: int = 256,
        flip: bool = True,
        shift: int = 15,
        input: str | None = None,
        target: str | None = None,
    ) -> None:
        super().__init__(
            UNet(unet),
            2**unet.downs,
            weights=weights,
            discriminator=discriminator,
            pool=pool,
            vgg=vgg,
            optimizer=optimizer,
            discriminator_optimizer=discriminator_optimizer,
            image_size=image_size,
            flip=flip,
            shift=shift,
            input=input,
            target=target,
        )
        self.unet = unet
