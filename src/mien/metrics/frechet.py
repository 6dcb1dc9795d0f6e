# SPDX-License-Identifier: Apache-2.0
"""The Fréchet distance between two sets of pictures, seen through a network that is named with every number.

    d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)),   m and C mean and covariance of the features of each set

With Inception's features it is the FID of papers (Heusel and others, NeurIPS 2017); its weights are a file of the
user's. Without them the features are those of a small convolutional network with fixed random weights: good for
comparing runs with each other, not with any paper. Both need many more pictures than features to be near their limit;
with fewer they are too high, by an amount that depends on the number. The distance itself is torchmetrics'.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import BadInput

WIDTHS = (8, 16, 32)
SEED = 20177
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_KEY, INCEPTION_FEATURES = "Mixed_7c.branch_pool.conv.weight", 2048
"""A tensor that every file of these weights holds, and the size of what the network gives."""


class RandomFeatures(nn.Module):
    """Mean absolute responses of three random convolution layers, 56 numbers a picture.

    A 5 x 5 and two 3 x 3 convolutions of stride 2, leaky ReLU between them; He weights drawn once from a fixed seed, so
    that the features are the same everywhere. Filters of the first layer see level and colour, those of the other two
    are centred and see contrast alone.
    """

    num_features = sum(WIDTHS)

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(SEED)
        channels = 3
        for i, width in enumerate(WIDTHS):
            side = 3 if i else 5
            weight = torch.randn(width, channels, side, side, generator=generator)
            if i:
                weight -= weight.mean(dim=(2, 3), keepdim=True)
            self.register_buffer(f"weight{i}", weight * (2 / (channels * side * side)) ** 0.5, persistent=False)
            channels = width

    def forward(self, image: Tensor) -> Tensor:
        """Features (B, 56) of pictures (B, 3, H, W) in [0, 1]."""
        x, found = 2 * image - 1, []
        for i in range(len(WIDTHS)):
            weight = self.get_buffer(f"weight{i}").to(x.dtype)
            side = weight.shape[-1]
            x = F.conv2d(F.pad(x, (side // 2,) * 4, mode="replicate"), weight, stride=2)
            found.append(x.abs().mean(dim=(2, 3)))
            x = F.leaky_relu(x, 0.2)
        return torch.cat(found, dim=1)


class FrechetDistance:
    """Collects two sets of pictures batch by batch; memory does not grow with their number.

    Args:
        weights: A file of Inception's weights as torch-fidelity publishes them, or None for `RandomFeatures`.
        device: Where to compute.

    Raises:
        BadInput: The file or the package that reads it is not there, or the file is of another kind.
    """

    def __init__(self, weights: str | None = None, device: torch.device | str = "cpu") -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        made: Any
        if weights is None:
            self.features = "fixed random convolutions, 56 features (compare with runs of mien only)"
            made = FrechetInceptionDistance(feature=RandomFeatures(), normalize=True)
        else:
            self.features = f"Inception, {INCEPTION_FEATURES} features, weights from {Path(weights).name}"
            made = _inception(Path(weights))
        self.metric = made.to(device)
        self.metric.eval()

    @torch.no_grad()
    def update(self, image: Tensor, truth: Tensor) -> None:
        """Add pictures to both sets: (B, 3, H, W) in [0, 1] each; the two need not be as many, or of one size."""
        for pictures, real in ((truth, True), (image, False)):
            if len(pictures):
                self.metric.update(pictures.clamp(0, 1), real=real)

    @property
    def count(self) -> int:
        """Pictures in the smaller set."""
        return int(min(self.metric.real_features_num_samples, self.metric.fake_features_num_samples))

    def value(self) -> float:
        """The distance. Raises BadInput when a set has fewer than two pictures."""
        if self.count < 2:
            raise BadInput(f"the Fréchet distance needs 2 pictures in each set or more: there are {self.count}")
        return max(float(self.metric.compute()), 0.0)  # rounding may go a little below


def _inception(path: Path) -> Any:
    """The distance on the features of Inception with the weights of a file."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    from mien.nn.network import read_state

    state = read_state(path, "FID's Inception weights")
    if INCEPTION_KEY not in state:
        raise BadInput(f"FID's Inception weights: {path} holds other weights: use the file from {INCEPTION_URL}")
    try:
        with TemporaryDirectory() as folder:  # torch-fidelity would unpickle: it gets a copy of what was read safely
            copy = Path(folder) / "inception.pth"
            torch.save(state, copy)
            return FrechetInceptionDistance(
                feature=INCEPTION_FEATURES, normalize=True, feature_extractor_weights_path=str(copy)
            )
    except ModuleNotFoundError as error:
        raise BadInput(
            "FID on Inception needs the package torch-fidelity: pip install torch-fidelity, or leave --features out"
        ) from error
    except (RuntimeError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise BadInput(f"FID's Inception weights: {path} does not fit ({reason})") from error
