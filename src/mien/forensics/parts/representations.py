# SPDX-License-Identifier: Apache-2.0
"""The two representations of PFR-Forgery, on the statistics of feature maps, and the networks around them.

    X in R^(C x h x w), mu_c and s_c the mean and the deviation of channel c, n = (X - mu) / s
    R_s(X) = s_hat n + m_hat,  (m_hat, s_hat) = (1 - a) (mu, s) + a (M, S),  a = sigmoid(A([mu ; s])) in (0, 1)^C
    R_p(X) = (1 + g) X + t (X - R_s(X)),  g = tanh(P([mu ; s])),  t = sigmoid(Q([mu ; s]))

R_s pulls the statistics of an image towards learned common ones, M and S; R_p keeps and amplifies what R_s took away.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import BadInput
from mien.nn.network import Network

Operations = Literal["both", "shared", "none"]
EPSILON = 1e-5


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean mu and the deviation s of maps (B, C, h, w), each (B, C); s = sqrt(population variance + 1e-5)."""
    mean = x.mean(dim=(2, 3))
    return mean, ((x - mean[..., None, None]).square().mean(dim=(2, 3)) + EPSILON).sqrt()


def shared_representation(x: Tensor, a: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """R_s(X) of maps (B, C, h, w).

    Args:
        x: X.
        a: How far the statistics go to the common ones, (B, C) in [0, 1]. 0 gives X.
        mean: M, (C,).
        deviation: S, (C,), > 0.
    """
    mu, s = channel_statistics(x)
    m_hat, s_hat = (1 - a) * mu + a * mean, (1 - a) * s + a * deviation
    return (s_hat / s)[..., None, None] * (x - mu[..., None, None]) + m_hat[..., None, None]


def personal_representation(x: Tensor, shared: Tensor, g: Tensor, t: Tensor) -> Tensor:
    """R_p(X) of maps (B, C, h, w).

    Args:
        x: X.
        shared: R_s(X).
        g: Recalibration of the channels, (B, C) in (-1, 1).
        t: Share of the residual X - R_s(X) that is added, (B, C) in (0, 1).
    """
    return (1 + g)[..., None, None] * x + t[..., None, None] * (x - shared)


class Gate(nn.Sequential):
    """[mu ; s] (B, 2C) -> max(C / 16, 4) -> (B, C), with ReLU between; the last bias starts at 0."""

    def __init__(self, channels: int) -> None:
        hidden = max(channels // 16, 4)
        last = nn.Linear(hidden, channels)
        nn.init.zeros_(last.bias)
        super().__init__(nn.Linear(2 * channels, hidden), nn.ReLU(), last)


class Path(nn.Module):
    """A representation (B, C, h, w) -> its feature f = GAP(H(R)), (B, C), and the logits of its head (B, 2).

    H is a 1 x 1 convolution, batch norm and ReLU. Without the ReLU the mean over a normalised map would be its mean
    statistic alone.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.h = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU())
        self.head = nn.Linear(channels, 2)

    def forward(self, representation: Tensor) -> tuple[Tensor, Tensor]:
        """The feature and the logits."""
        feature = self.h(representation).mean(dim=(2, 3))
        return feature, self.head(feature)


class SharedPart(nn.Module):
    """What is sent to the server: backbone E, and with `path` the gate A, the common statistics M and S, H_s, C_s.

    Args:
        network: E.
        image_size: Side of its images.
        path: Whether there is a shared path; otherwise the part is the backbone alone.
        restyle: Whether R_s is applied; otherwise the path sees X.
    """

    def __init__(self, network: Network, image_size: int, *, path: bool = True, restyle: bool = True) -> None:
        super().__init__()
        self.backbone = network.build(0, image_size)
        self.channels = map_channels(self.backbone, image_size)
        self.map = nn.Identity()
        self.openness: Tensor | None = None  # mean of a in the last batch
        self.path: Path | None = None
        self.a: Gate | None = None
        if path:
            self.path = Path(self.channels)
        if path and restyle:
            self.a = Gate(self.channels)
            self.mean = nn.Parameter(torch.zeros(self.channels))
            self.free_deviation = nn.Parameter(torch.full((self.channels,), math.log(math.e - 1)))

    @property
    def deviation(self) -> Tensor:
        """S, (C,), > 0; starts at 1."""
        return F.softplus(self.free_deviation)

    def maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """X and R_s(X) of images (B, 3, H, W) in [0, 1]."""
        x = self.map(self.backbone.feature_map(image))
        if self.a is None:
            return x, x
        a = self.a(torch.cat(channel_statistics(x), dim=1)).sigmoid()
        self.openness = a.detach().mean()
        return x, shared_representation(x, a, self.mean, self.deviation)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """X, R_s(X), f_s (B, C) and the logits of C_s (B, 2); the last two None without a shared path."""
        x, shared = self.maps(image)
        return (x, shared, *self.path(shared)) if self.path is not None else (x, shared, None, None)


class PersonalPart(nn.Module):
    """What stays with the client: gates P and Q, H_p and C_p.

    Args:
        channels: C.
        restyle: Whether R_p is applied; otherwise the path sees X.
    """

    def __init__(self, channels: int, *, restyle: bool = True) -> None:
        super().__init__()
        self.p = Gate(channels) if restyle else None
        self.q = Gate(channels) if restyle else None
        self.path = Path(channels)

    def represent(self, x: Tensor, shared: Tensor) -> Tensor:
        """R_p(X) of X and R_s(X)."""
        if self.p is None or self.q is None:
            return x
        statistics = torch.cat(channel_statistics(x), dim=1)
        return personal_representation(x, shared, self.p(statistics).tanh(), self.q(statistics).sigmoid())

    def forward(self, x: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        """f_p (B, C) and the logits of C_p (B, 2)."""
        return self.path(self.represent(x, shared))


class Discriminator(nn.Sequential):
    """D: shared features (B, C) -> 128 -> 1; high for those of the model that the server sent."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Linear(channels, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1))

    def reset(self) -> None:
        """New weights, from torch's global generator."""
        for layer in self:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()


class _Reversed(torch.autograd.Function):
    """The identity, whose gradient changes its sign."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


def redundancy(shared: Tensor, personal: Tensor, predictor: nn.Module) -> Tensor:
    """1 - cos(predictor(f_s), f_p), mean over the batch; 0, connected, for none.

    The predictor learns to tell f_p from f_s; both features, through a reversed gradient, learn to make that hard.

    Args:
        shared: f_s, (B, C).
        personal: f_p, (B, C).
        predictor: (B, C) -> (B, C).
    """
    guess = predictor(_Reversed.apply(shared))
    return (1 - F.cosine_similarity(guess, _Reversed.apply(personal), dim=1)).sum() / max(len(shared), 1)


def map_channels(backbone: nn.Module, image_size: int) -> int:
    """C of a backbone's feature map, by a dry run without data. Raises BadInput for one that has none."""
    twin: Any = copy.deepcopy(backbone).to("meta").eval()
    with torch.no_grad():
        found = twin.feature_map(torch.empty(1, 3, image_size, image_size, device="meta"))
    if min(found.shape[-2:]) < 2:
        size = tuple(found.shape[-2:])
        raise BadInput(f"the network's feature map is {size} for images of {image_size} pixels: 2 x 2 are needed")
    return int(found.shape[1])
