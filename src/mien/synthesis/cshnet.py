# SPDX-License-Identifier: Apache-2.0
"""CSHNet: A Novel Information Asymmetric Image Translation Method.

Yang, Shi, Wang, Wang, Gao, 2025, arXiv 2501.10197.

Convolutional translators keep detail and blur the borders of regions, Swin translators keep the layout and lose detail.
The bottleneck (SCB) alternates two hybrid blocks, one led by each, and is steered by features of the raw input (IGC):

    SEC:  c = R(x),  s = W(c),  out = conv1x1([c, sigmoid(c) s])      R convolutions with a residual, W window attention
    CES:  s = W(x),  c = R(s),  out = conv1x1([s, sigmoid(s) c])
    h0 = a x_d + b,  h2 = a CES1(SEC1(h0)) + b,  out = decoder(CES2(SEC2(h2))),   (a, b) = IGC(input), elementwise maps
    L_G = L_GAN + 10 L_FM + 10 L_VGG + L_AEP

x_d is the encoder's output, L_AEP the adaptive edge perception loss (`mien.synthesis.aepl`), the rest the frame of
pix2pixHD. The parts are in `mien.synthesis.hybrid`, the training in `mien.synthesis.translator`.

Differences from the paper
    * L_AEP has a gradient. The released code computes it outside of torch, so that it moves nothing; it also wraps
      negative pixels and drops the sign of the Sobel derivatives. Its low threshold is the stated maximum entropy,
      found for each image of a batch. Pictures are not rounded to 8 bits.
    * Attention of the IGC runs over positions. The released layer is handed the batch axis in their place, and does
      nothing at batch size 1.
    * The relative position bias and the grid of tokens follow the window and the input; any size and batch works. Where
      windows do not fill the map it is padded with tokens that nobody sees.
    * The bias tables that the released network creates and never uses are left out: 87,576,515 parameters.
    * Where the bottleneck has fewer channels than the paper's 512, the convolutions that merge the branches of SEC and
      CES start with larger weights: N(0, 0.02) would pass a fifth of the signal at 48 channels, and 0.64 of it at 512.
    * Training schedule: defaults of pix2pixHD (100 + 100 epochs), since the paper's options are not published.

Example:
    >>> import torch
    >>> method = CSHNet(architecture=Architecture(width=8, downs=2, window=4, heads=2), image_size=32)
    >>> method.eval().translate(torch.rand(1, 3, 30, 45)).shape
    torch.Size([1, 3, 30, 45])
"""

from __future__ import annotations

from mien.nn.patchgan import PatchGAN
from mien.optim.recipe import Recipe
from mien.synthesis.hybrid import Architecture
from mien.synthesis.translator import ADAM, Translator, Weights


class CSHNet(Translator):
    """CSHNet: hybrid blocks of convolution and window attention, guided by the input; trained with edges and rivals.

    Args:
        architecture: The generator.
        weights: Of the losses.
        discriminator: The PatchGAN.
        pool: Earlier results that the discriminator is shown again, at most so many; 0 for none.
        vgg: VGG-19's weights: "vgg19" to download them once, or a file.
        optimizer: Of the generator.
        discriminator_optimizer: Of the discriminator.
        image_size: Height and width of training pictures in pixels.
        flip: Whether half of the training pairs are mirrored from left to right.
        shift: Training pairs are moved by up to so many pixels each way.
        input: Name of the side that is translated; None until the data say so.
        target: Name of the side that it becomes; None until the data say so.
    """

    name = "cshnet"

    def __init__(
        self,
        *,
        architecture: Architecture = Architecture(),
        weights: Weights = Weights(gan=1.0, feature=10.0, perceptual=10.0, edge=1.0),
        discriminator: PatchGAN = PatchGAN(),
        pool: int = 0,
        vgg: str = "vgg19",
        optimizer: Recipe = ADAM,
        discriminator_optimizer: Recipe = ADAM,
        image_size: int = 512,
        flip: bool = True,
        shift: int = 0,
        input: str | None = None,
        target: str | None = None,
    ) -> None:
        super().__init__(
            architecture.build(),
            2**architecture.downs,
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
        self.architecture = architecture
