# SPDX-License-Identifier: Apache-2.0
"""A small autoencoder that makes faces anew, for re-synthesis: what a decoder leaves of a face, not a known filter.

>>> network = SmallAutoencoder(channels=8)
>>> network(torch.zeros(2, 3, 30, 41)).shape
torch.Size([2, 3, 30, 41])
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import BadInput


class SmallAutoencoder(nn.Module):
    """Two halvings, a narrow code, two doublings; images in [0, 1] in and out.

    Args:
        channels: Of the first layer; the second has twice as many.
        code: Channels of the code at a quarter of the size. 12 keep a quarter of the numbers of an RGB image: faces
            stay recognisable and lose their finest texture (chosen by eye).
    """

    def __init__(self, channels: int = 24, code: int = 12) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(2 * channels, code, 3, padding=1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(code, 2 * channels, 3, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(channels, 3, 4, stride=2, padding=1),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) of any size, made anew: the same shape, in [0, 1]."""
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % 4, 0, -height % 4), mode="replicate")
        # One by one: the fastest convolution depends on the batch, and with it the last bits of each image.
        made = torch.cat([padded[:0], *(self.reconstruct(image[None]) for image in padded)])
        return made[..., :height, :width].clamp(0, 1)

    def reconstruct(self, images: Tensor) -> Tensor:
        """For training: the whole batch at once, not cut to [0, 1], which would stop gradients; H, W multiples of 4."""
        return self.decoder(self.encoder(images - 0.5)) + 0.5


def train_autoencoder(
    faces: Tensor, *, steps: int = 400, seed: int = 0, batch: int = 16, channels: int = 24, code: int = 12
) -> SmallAutoencoder:
    """Train an autoencoder on faces by their mean absolute error.

    Args:
        faces: uint8, (N, 3, H, W); H and W are multiples of 4. Give the training people's only, if a detector that
            is tested on others shall not profit from what the autoencoder knows.
        steps: Steps of Adam, learning rate 2e-3.
        seed: Of the weights and the order.
        batch: Faces a step.
        channels: Of `SmallAutoencoder`.
        code: Of `SmallAutoencoder`.

    Raises:
        BadInput: No faces, another type or shape.
    """
    if faces.dtype != torch.uint8 or faces.ndim != 4 or faces.shape[1] != 3 or len(faces) == 0:
        raise BadInput(
            f"faces are {faces.dtype} of shape {tuple(faces.shape)}: uint8 of (1 or more, 3, H, W) is needed"
        )
    if faces.shape[2] % 4 or faces.shape[3] % 4:
        raise BadInput(f"faces have {faces.shape[2]} x {faces.shape[3]} pixels: multiples of 4 are needed")
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator only
        torch.manual_seed(seed)
        network = SmallAutoencoder(channels, code)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(steps):
        images = faces[torch.randint(len(faces), (batch,), generator=generator)].float() / 255
        loss = F.l1_loss(network.reconstruct(images), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()
