# SPDX-License-Identifier: Apache-2.0
"""A gaze model: yaw and pitch of where a face looks, each as a distribution over bins of angle.

The form of L2CS (Abdelrahman, Hempel, Khalifa, Al-Hamadi, 2022): a network's pooled features and a linear head per
angle over 90 bins of 4 degrees from -180 on,

    angle = sum_i softmax_i (4 i) - 180,   L = sum over yaw and pitch of CE(bin) + MSE(angle), degrees

A bin stands for its lower edge, as in the sum: an angle of 3 degrees is in the bin of 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.nn.network import Network, output_size

BINS, DEGREES, OFFSET = 90, 4.0, -180.0


@dataclass
class Gaze:
    """A face and where it looks; a batch is the same type with stacked fields.

    Args:
        image: (3, H, W) or (B, 3, H, W), in [0, 1].
        gaze: Yaw and pitch in degrees, (2,) or (B, 2).
        group: Person or recording.
    """

    image: Tensor
    gaze: Tensor
    group: str | list[str] = ""


def angle_bins(angle: Tensor) -> Tensor:
    """Bin of angles in degrees, any shape, int64; what lies outside [-180, 180) counts to the nearest bin.

    >>> angle_bins(torch.tensor([-180.0, 0.0, 3.9, 179.0]))
    tensor([ 0, 45, 45, 89])
    """
    return ((angle - OFFSET) / DEGREES).floor().long().clamp(0, BINS - 1)


def expected_angle(logits: Tensor) -> Tensor:
    """The mean angle in degrees of logits (..., 90)."""
    place = torch.arange(BINS, dtype=logits.dtype, device=logits.device)
    return (logits.softmax(dim=-1) * place).sum(dim=-1) * DEGREES + OFFSET


def gaze_loss(logits: Tensor, gaze: Tensor, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    """Cross-entropy over bins, and `alpha` times the squared error of the mean angle, each summed over yaw and pitch.

    Args:
        logits: (B, 2, 90). B = 0 gives zeros that are connected to it.
        gaze: Yaw and pitch in degrees, (B, 2).
        alpha: Weight of the squared error; degrees squared are large beside nats.
    """
    count = max(len(logits), 1)
    entropy = F.cross_entropy(logits.flatten(0, 1), angle_bins(gaze).flatten(), reduction="sum") / count
    return entropy, alpha * (expected_angle(logits) - gaze).square().sum() / count


def direction(gaze: Tensor) -> Tensor:
    """Unit vectors (..., 3) of yaw and pitch in degrees (..., 2); straight ahead is -z.

    >>> direction(torch.tensor([0.0, 0.0]))
    tensor([ 0.,  0., -1.])
    """
    yaw, pitch = torch.deg2rad(gaze).unbind(dim=-1)
    return torch.stack((pitch.cos() * yaw.sin(), pitch.sin(), -pitch.cos() * yaw.cos()), dim=-1)


def angular_error(first: Tensor, second: Tensor) -> Tensor:
    """The angle between two directions, each yaw and pitch in degrees (..., 2); degrees in [0, 180]."""
    a, b = direction(first.double()), direction(second.double())
    # atan2 of sine and cosine: exact for small angles, where the arc cosine is not
    return torch.rad2deg(torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(dim=-1))).to(first.dtype)


class GazeTeacher(nn.Module):
    """Features of a face, and the gaze that is read from them.

    Args:
        network: Of the features.
        image_size: Height and width in pixels.
    """

    def __init__(self, network: Network, image_size: int) -> None:
        super().__init__()
        self.trunk = network.build(0, image_size)
        self.width = output_size(self.trunk, image_size)
        self.yaw, self.pitch = nn.Linear(self.width, BINS), nn.Linear(self.width, BINS)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, 2, 90) of images (B, 3, H, W) in [0, 1]."""
        features = self.trunk(image)
        return torch.stack((self.yaw(features), self.pitch(features)), dim=1)

    def gaze(self, image: Tensor) -> Tensor:
        """Yaw and pitch in degrees, (B, 2)."""
        return expected_angle(self(image))
