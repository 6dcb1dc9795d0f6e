# SPDX-License-Identifier: Apache-2.0
"""Samples of the restoration room: a picture, and the same degraded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.data.images import load_tensor
from mien.errors import BadInput
from mien.nn.grey import grey
from mien.restoration.degradation import Degradation

Degrade = Callable[[Tensor], Tensor]
"""(C, H, W) in [0, 1] -> (C, H / scale, W / scale) in [0, 1]; draws from torch's global generator."""


@dataclass
class Degraded:
    """A sample, or a batch of them.

    Args:
        image: As it was: (C, H, W) or (B, C, H, W) in [0, 1].
        degraded: As it came: (C, H / scale, W / scale) in [0, 1].
        name: Which picture it is of.
        noise: The noise that restoring starts from, in latents, or None: drawn in training.
        target: What a teacher makes of it from that noise, in latents, or None: made in training.
    """

    image: Tensor
    degraded: Tensor
    name: str | list[str] = ""
    noise: Tensor | None = None
    target: Tensor | None = None


@dataclass(frozen=True)
class Picture:
    """Where a picture lies.

    Args:
        path: The picture as it was.
        degraded: The same as it came from a camera, or None: it is degraded here.
        enlarged: Whether `degraded` was enlarged to the size of `path`: it is shrunk again when it is loaded.
    """

    path: Path
    degraded: Path | None = None
    enlarged: bool = False


class Crops(Dataset[Degraded]):
    """Random crops of pictures, degraded anew every time, mirrored and turned.

    Args:
        pictures: Files, or tensors (C, H, W) in [0, 1].
        size: Height and width of a crop, a multiple of `scale`. Smaller pictures are refused.
        scale: How many times smaller the degraded crop is.
        degrade: What happens to a crop that has no degraded partner.
        colours: 3, or 1 for grey.
        repeats: Crops of each picture in one pass.
    """

    seeded = True

    def __init__(
        self,
        pictures: Sequence[Picture | Tensor],
        size: int,
        scale: int,
        degrade: Degrade,
        *,
        colours: int = 3,
        repeats: int = 1,
    ) -> None:
        if size % scale:
            raise BadInput(f"size is {size}: crops need a multiple of scale, {scale}")
        self.pictures, self.size, self.scale, self.degrade = list(pictures), size, scale, degrade
        self.colours, self.repeats = colours, repeats

    def __len__(self) -> int:
        return len(self.pictures) * self.repeats

    def __getitem__(self, index: int) -> Degraded:
        picture = self.pictures[index % len(self.pictures)]
        image, partner, name = load(picture, self.colours, self.scale)
        if min(image.shape[-2:]) < self.size:
            height, width = image.shape[-2:]
            raise BadInput(f"{name} is {height} x {width} pixels: crops of {self.size} need at least that")
        top, left = (self.scale * int(torch.randint((n - self.size) // self.scale + 1, ())) for n in image.shape[-2:])
        image = image[:, top : top + self.size, left : left + self.size]
        turn = int(torch.randint(8, ()))
        image = _turned(image, turn)
        if partner is None:
            return Degraded(image, self.degrade(image), name)
        s, top, left = self.size // self.scale, top // self.scale, left // self.scale
        return Degraded(image, _turned(partner[:, top : top + s, left : left + s], turn), name)


class Whole(Dataset[Degraded]):
    """Pictures in one piece, for tests: cut to a multiple of `scale`, degraded once and for all by their place.

    Args: as `Crops`; `most` caps height and width by a crop of the middle, None for no cap.
    """

    seeded = False

    def __init__(
        self,
        pictures: Sequence[Picture | Tensor],
        scale: int,
        degrade: Degrade,
        *,
        colours: int = 3,
        most: int | None = None,
        seed: int = 0,
    ) -> None:
        self.pictures, self.scale, self.degrade = list(pictures), scale, degrade
        self.colours, self.most, self.seed = colours, most, seed

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Degraded:
        image, partner, name = load(self.pictures[index], self.colours, self.scale)
        height, width = (min(n, self.most or n) // self.scale * self.scale for n in image.shape[-2:])
        top, left = (
            (a - b) // 2 // self.scale * self.scale for a, b in zip(image.shape[-2:], (height, width), strict=True)
        )
        image = image[:, top : top + height, left : left + width]
        if partner is not None:
            y, x = top // self.scale, left // self.scale
            return Degraded(image, partner[:, y : y + height // self.scale, x : x + width // self.scale], name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * 100_003 + index)
            return Degraded(image, self.degrade(image), name)


def load(picture: Picture | Tensor, colours: int, scale: int) -> tuple[Tensor, Tensor | None, str]:
    """Picture, degraded partner and name; grey is the luma of BT.601."""
    if isinstance(picture, Tensor):
        return grey(picture) if colours == 1 else picture, None, "picture"
    image = load_tensor(picture.path)
    partner = None if picture.degraded is None else load_tensor(picture.degraded)
    if partner is not None and picture.enlarged:
        height, width = (n // scale * scale for n in partner.shape[-2:])
        partner = Degradation("bicubic").apply(partner[:, :height, :width], scale)
    if partner is not None and any(a // scale != b for a, b in zip(image.shape[-2:], partner.shape[-2:], strict=True)):
        found = " x ".join(map(str, partner.shape[-2:]))
        raise BadInput(f"{picture.degraded} is {found} pixels: 1 / {scale} of {picture.path.name} is needed")
    if colours == 1:
        image, partner = grey(image), None if partner is None else grey(partner)
    return image, partner, str(picture.path)


def _turned(image: Tensor, turn: int) -> Tensor:
    """One of the eight ways to lay a square down."""
    image = torch.rot90(image, turn % 4, (-2, -1))
    return image.flip(-1) if turn >= 4 else image
