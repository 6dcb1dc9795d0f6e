# SPDX-License-Identifier: Apache-2.0
"""The invertible network of PRO-Face S: two branches that change each other, steered by a key (the secure flow).

A block with sub-networks omega, phi, rho and eta takes the cover Y, the secret X and the key K:

    forward   Y' = Y * E(omega[X, K]) + phi[X, K]          X' = X * E(rho[Y', K]) + eta[Y', K]
    inverse   X = (X' - eta[Y', K]) / E(rho[Y', K])        Y = (Y' - phi[X, K]) / E(omega[X, K])
    E(s) = exp(2 c (sigmoid(s) - 0.5)),  c = 2, so that E lies in (e^-2, e^2)

The cover changes first: with sub-networks that give zero it comes out as it went in.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import BadInput

CLAMP = 2.0
"""c, which bounds the scales (the reference code's value)."""
SPREAD = 0.01
"""Standard deviation of the first weights and biases (the reference code's value)."""
IMAGE_BANDS, KEY_BANDS = 12, 4
"""Channels of a transformed RGB image and of a transformed key."""


def bounded_scale(s: Tensor) -> Tensor:
    """E: any tensor -> the same shape, in (e^-2, e^2), 1 at 0."""
    return torch.exp(2 * CLAMP * (torch.sigmoid(s) - 0.5))


class DenseBlock(nn.Module):
    """Five 3 x 3 convolutions, each of which sees the input and the outputs of all before it.

    LeakyReLU with slope 0.01 follows all but the last. The last starts at zero, all others from N(0, 0.01^2).

    Args:
        channels: Of the input.
        out: Of the output.
        growth: Outputs of each convolution but the last.
    """

    def __init__(self, channels: int = IMAGE_BANDS + KEY_BANDS, out: int = IMAGE_BANDS, growth: int = 32) -> None:
        super().__init__()
        widths = [growth] * 4 + [out]
        self.layers = nn.ModuleList(nn.Conv2d(channels + growth * i, w, 3, padding=1) for i, w in enumerate(widths))
        for layer in self.layers:
            for parameter in layer.parameters():
                nn.init.normal_(parameter, std=SPREAD)
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H, W)."""
        # Channels last: on a CPU these narrow convolutions take two thirds of the time in that order of memory.
        seen = image.contiguous(memory_format=torch.channels_last)
        for layer in self.layers[:-1]:
            seen = torch.cat([seen, F.leaky_relu(layer(seen), 0.01)], dim=1)
        return self.layers[-1](seen)


class SecureCoupling(nn.Module):
    """A secure affine coupling block (SACB).

    Args:
        growth: Width of its four dense blocks.
    """

    def __init__(self, growth: int = 32) -> None:
        super().__init__()
        self.omega, self.phi, self.rho, self.eta = (DenseBlock(growth=growth) for _ in range(4))

    def forward(self, cover: Tensor, secret: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Y and X, each (B, 12, H, W), and K, (B, 4, H, W) -> Y' and X'."""
        given = torch.cat([secret, key], dim=1)
        cover = cover * bounded_scale(self.omega(given)) + self.phi(given)
        given = torch.cat([cover, key], dim=1)
        return cover, secret * bounded_scale(self.rho(given)) + self.eta(given)

    def inverse(self, cover: Tensor, secret: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Y' and X' -> Y and X."""
        given = torch.cat([cover, key], dim=1)
        secret = (secret - self.eta(given)) / bounded_scale(self.rho(given))
        given = torch.cat([secret, key], dim=1)
        return (cover - self.phi(given)) / bounded_scale(self.omega(given)), secret


class SecureFlow(nn.Module):
    """Several coupling blocks in a row; 1,073,040 parameters with three blocks and a growth of 32.

    Args:
        blocks: N, at least 1.
        growth: Width of the dense blocks, at least 1.

    Raises:
        BadInput: A number below 1.
    """

    def __init__(self, blocks: int = 3, growth: int = 32) -> None:
        super().__init__()
        if blocks < 1 or growth < 1:
            raise BadInput(f"blocks is {blocks}, growth is {growth}: each must be at least 1")
        self.couplings = nn.ModuleList(SecureCoupling(growth) for _ in range(blocks))

    def forward(self, cover: Tensor, secret: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Y_1, X_1 and K -> Y_4 and X_4 (with three blocks)."""
        for block in self.couplings:
            cover, secret = block(cover, secret, key)
        return cover, secret

    def inverse(self, cover: Tensor, secret: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Y_4, X_4 and K -> Y_1 and X_1."""
        for block in reversed(self.couplings):
            cover, secret = block.inverse(cover, secret, key)  # type: ignore[operator]
        return cover, secret
