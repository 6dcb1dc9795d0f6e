# SPDX-License-Identifier: Apache-2.0
"""The family's thin class: an image that was degraded, and the same at `scale` times its size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from mien.data.batch import move
from mien.data.draws import item_seeds
from mien.engine import Method
from mien.errors import BadInput
from mien.restoration.autoencoder import Autoencoder
from mien.restoration.data import Degraded
from mien.restoration.degradation import Degradation

Box = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels of the result; the last two are not in it."""

BLOCK = 64
"""Side of the blocks of latents whose noise is drawn together."""


@dataclass
class Restored:
    """The family's answer.

    Args:
        image: (B, C, scale h, scale w) in [0, 1].
    """

    image: Tensor


class Restorer(Method):
    """Base of the methods that restore images.

    Args:
        scale: How many times as large the result is, 1 to 8.
        autoencoder: Where restoring happens.
        degradation: What happens to training pictures that have no degraded partner.
        crop: Height and width in pixels of training pictures, a multiple of what the network needs.
    """

    def __init__(self, *, scale: int, autoencoder: Autoencoder, degradation: Degradation, crop: int) -> None:
        super().__init__()
        if not 1 <= scale <= 8:
            raise BadInput(f"scale is {scale}: use 1 to 8")
        if crop < scale or crop % scale:
            raise BadInput(f"crop is {crop}: it must be a multiple of scale, {scale}")
        self.scale, self.autoencoder, self.degradation, self.crop = scale, autoencoder, degradation, crop
        self.space = autoencoder.build()

    @property
    def divisor(self) -> int:
        """Height and width of results are made multiples of this, and cut off afterwards."""
        return self.space.factor

    def enlarged(self, degraded: Tensor) -> Tensor:
        """The degraded image at `scale` times its size, bicubic; not clamped, so that its mean stays."""
        if self.scale == 1:
            return degraded
        if not len(degraded):
            return degraded.new_zeros(0, degraded.shape[1], *(n * self.scale for n in degraded.shape[-2:]))
        return F.interpolate(degraded, scale_factor=float(self.scale), mode="bicubic", align_corners=False)

    def restored(self, degraded: Tensor, noise: Tensor) -> Tensor:
        """The result for images (B, C, h, w) in [0, 1] whose sizes fit, in the space of `self.space`."""
        raise TypeError(f"{type(self).__name__} defines no restored()")

    def noise(self, box: Box, seed: int = 0) -> Tensor:
        """N(0, I) for a box of the result, (1, channels, height / factor, width / factor).

        It belongs to the place: a box cut out of a larger one holds the same numbers. Boxes begin and end at multiples
        of the space's factor.
        """
        top, left, bottom, right = (n // self.space.factor for n in box)
        rows, columns = range(top // BLOCK, -(-bottom // BLOCK)), range(left // BLOCK, -(-right // BLOCK))
        blocks = [torch.cat([self._block(r, c, seed) for c in columns], dim=2) for r in rows]
        noise = torch.cat(blocks, dim=1)[:, top - rows[0] * BLOCK :, left - columns[0] * BLOCK :]
        return noise[None, :, : bottom - top, : right - left].to(self.device)

    def _block(self, row: int, column: int, seed: int) -> Tensor:
        place = item_seeds(seed, [(row << 20) + column], "restore")
        generator = torch.Generator().manual_seed(int(place[0] >> np.uint64(1)))
        return torch.randn((self.space.channels, BLOCK, BLOCK), generator=generator)

    def restore(self, degraded: Tensor, noise: Tensor | None = None) -> Tensor:
        """Restored images.

        Args:
            degraded: (B, C, h, w) in [0, 1], of any size.
            noise: What the method starts from, of the padded result's latents; None for the fixed draw.

        Returns:
            (B, C, scale h, scale w) in [0, 1].
        """
        if degraded.ndim != 4 or degraded.shape[1] != self.space.colours:
            raise BadInput(f"images have shape {tuple(degraded.shape)}: (B, {self.space.colours}, h, w) is needed")
        height, width = (n * self.scale for n in degraded.shape[-2:])
        padded = pad_to(degraded, self.divisor, self.scale)
        if noise is None:
            noise = self.noise((0, 0, padded.shape[-2] * self.scale, padded.shape[-1] * self.scale))
        with torch.no_grad():
            result = self.space.decode(self.restored(padded, noise.expand(len(padded), -1, -1, -1)))
        return result[..., :height, :width]

    def validate(self, data: Dataset[Any], *, batch_size: int = 64) -> dict[str, float]:
        """PSNR in dB, and the mean squared error as the loss, over pictures."""
        errors = []
        for index in range(len(data)):  # type: ignore[arg-type]
            sample = move(data[index], self.device)
            errors.append(float((self.restore(sample.degraded[None])[0] - sample.image).square().mean()))
        return {
            "loss": sum(errors) / len(errors),
            "psnr": -10 * sum(math.log10(max(e, 1e-12)) for e in errors) / len(errors),
        }

    def predict(self, batch: Degraded) -> Restored:
        """Restored images of a batch."""
        return Restored(self.restore(batch.degraded))


def pad_to(image: Tensor, divisor: int, scale: int) -> Tensor:
    """The image with its right and lower edges mirrored, so that `scale` times its sides are multiples of `divisor`.

    >>> pad_to(torch.arange(3.0).reshape(1, 1, 1, 3), 8, 1)[0, 0, 0]
    tensor([0., 1., 2., 2., 1., 0., 0., 1.])
    """
    step = divisor // math.gcd(divisor, scale)
    rows, columns = (_mirrored(n, -(-n // step) * step) for n in image.shape[-2:])
    return image[..., rows, :][..., columns] if len(rows) + len(columns) > sum(image.shape[-2:]) else image


def _mirrored(length: int, wanted: int) -> Tensor:
    place = torch.arange(wanted) % (2 * length)
    return torch.minimum(place, 2 * length - 1 - place)
