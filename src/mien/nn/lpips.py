# SPDX-License-Identifier: Apache-2.0
"""LPIPS with a VGG-16 backbone as a loss: how different two images look (Zhang et al., CVPR 2018).

The network and its calibrated weights are torchmetrics'; VGG-16's ImageNet weights are torchvision's and are downloaded
once. Nothing of it is trained or saved.
"""

from __future__ import annotations

from torch import Tensor, nn

from mien.errors import BadInput

SMALLEST = 32
"""Shorter side in pixels below which VGG-16 has nothing left after its pooling."""


class Lpips(nn.Module):
    """LPIPS (VGG-16), fixed.

    Raises:
        BadInput: VGG-16's weights are not here and cannot be downloaded. One line that says what to fetch.
    """

    def __init__(self) -> None:
        super().__init__()
        from torchmetrics.image import LearnedPerceptualImagePatchSimilarity
        from torchvision.models import VGG16_Weights

        try:
            self.net = LearnedPerceptualImagePatchSimilarity(net_type="vgg").net
        except (OSError, RuntimeError) as error:  # no connection; a broken download
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
            url = VGG16_Weights.IMAGENET1K_V1.url
            raise BadInput(
                f"LPIPS needs VGG-16's weights, which could not be had ({reason}): fetch {url} on a machine with a "
                "connection and put it into torch's hub/checkpoints folder, or train without (perceptual 'none')"
            ) from error
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Distances (B,) of images (B, 3, H, W) in [-1, 1]; gradients flow into both."""
        if min(image.shape[-2:]) < SMALLEST:
            raise BadInput(f"images are {image.shape[-2]} x {image.shape[-1]}: LPIPS needs at least {SMALLEST} pixels")
        return self.net(image, target).flatten()
