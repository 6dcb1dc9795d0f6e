# SPDX-License-Identifier: Apache-2.0
"""A discriminator on the features of a frozen diffusion network, told at which time the features were taken."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from mien.diffusion.unet import group_norm, sinusoid, zeroed

TIME_WIDTH = 160
OUT = 64


class _Line(nn.Module):
    """Spectral-norm convolution over the positions in a row, GroupNorm(4), LeakyReLU(0.2)."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        convolution = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, padding_mode="circular")
        self.layers = nn.Sequential(
            spectral_norm(convolution), nn.GroupNorm(math.gcd(4, channels), channels), nn.LeakyReLU(0.2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, N) to the same."""
        return self.layers(x)


class FeatureHead(nn.Module):
    """Logits of one feature map, (B, C, h, w) to (B, 64 h w).

    GN(f) (1 + scale(t)) + shift(t), SiLU, a 3 x 3 convolution that starts at 0, then over the positions in a row:
    kernel 1, a residual layer of kernel 9 ((f(x) + x) / sqrt 2), kernel 1 to 64 channels.
    """

    def __init__(self, channels: int, *, time_aware: bool) -> None:
        super().__init__()
        self.time = nn.Linear(TIME_WIDTH, 2 * channels) if time_aware else None
        self.norm = group_norm(channels)
        self.convolution = zeroed(nn.Conv2d(channels, channels, 3, padding=1))
        self.enter, self.wide = _Line(channels, 1), _Line(channels, 9)
        self.leave = spectral_norm(nn.Conv1d(channels, OUT, 1))

    def forward(self, feature: Tensor, time: Tensor) -> Tensor:
        """The logits of a map taken at times whose sinusoids are `time` (B, 160)."""
        h = self.norm(feature)
        if self.time is not None:
            scale, shift = self.time(F.silu(time))[:, :, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        h = self.enter(self.convolution(F.silu(h)).flatten(2))
        h = (self.wide(h) + h) / math.sqrt(2)
        return self.leave(h).flatten(1)


class TimeAwareDiscriminator(nn.Module):
    """One head per feature map, all logits in one row.

    Args:
        channels: Channels of the maps.
        time_aware: Whether heads are told the time; False is the ablation.

    >>> parts = TimeAwareDiscriminator((160, 320, 320, 640, 640))  # of the paper's size
    >>> sum(p.numel() for p in parts.parameters())
    20764320
    """

    def __init__(self, channels: Sequence[int], *, time_aware: bool = True) -> None:
        super().__init__()
        self.heads = nn.ModuleList(FeatureHead(c, time_aware=time_aware) for c in channels)

    def forward(self, features: Sequence[Tensor], t: Tensor) -> Tensor:
        """(B, logits) of feature maps taken at times (B,)."""
        time = sinusoid(t, TIME_WIDTH).to(features[0].dtype)
        return torch.cat([head(f, time) for head, f in zip(self.heads, features, strict=True)], dim=1)


def hinge(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """The discriminator's losses: mean relu(1 - real) and mean relu(1 + fake)."""
    return {"real": F.relu(1 - real).mean(), "fake": F.relu(1 + fake).mean()}
