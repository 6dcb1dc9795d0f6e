# SPDX-License-Identifier: Apache-2.0
"""Samples of the synthesis room that come in pairs: a picture to start from, and the one it should become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from mien.data.images import load_tensor, resize_tensor
from mien.data.listing import printable
from mien.errors import BadInput

ASPECT = 0.02
"""By how much the ratio of width to height of two halves may differ: rounding, not another field of view."""


@dataclass
class Translation:
    """A sample, or a batch of them.

    Args:
        input: What is translated, (3, H, W) or (B, 3, H, W) in [0, 1].
        image: What it should become, shaped alike.
        name: Which pair it is.
        made: What the generator made of it in this step of training, kept for the discriminator; else None.
    """

    input: Tensor
    image: Tensor
    name: str | list[str] = ""
    made: Tensor | None = None


@dataclass(frozen=True)
class Pair:
    """Where the two pictures of a pair are.

    Args:
        input: A file, or uint8 (3, H, W).
        target: Likewise; None where the file of `input` holds both, side by side.
        name: What the pair is called.
        group: Who or what it shows: pairs of one group stay together when data are split.
        input_left: Of a file that holds both: whether the input is its left half.
    """

    input: Path | Tensor
    target: Path | Tensor | None
    name: str
    group: str
    input_left: bool = True


def load_pair(pair: Pair, size: int) -> tuple[Tensor, Tensor]:
    """Input and target as (3, size, size) in [0, 1], stretched where they are not square.

    Raises:
        BadInput: A file cannot be opened; the two do not have the same ratio of width to height; a picture that should
            hold both has an odd width.
    """
    one = _opened(pair.input)
    if pair.target is None:
        height, width = one.shape[-2:]
        if width % 2:
            raise BadInput(
                f"{printable(pair.name)} is {width} x {height} pixels: two halves side by side need an even width"
            )
        halves = one.split(width // 2, dim=-1)
        one, other = halves if pair.input_left else halves[::-1]
    else:
        other = _opened(pair.target)
    (h, w), (height, width) = one.shape[-2:], other.shape[-2:]
    if abs(w * height - width * h) > ASPECT * w * height:
        raise BadInput(
            f"pair {printable(pair.name)}: the input is {w} x {h} pixels and its target {width} x {height}: both must "
            "show the same field, so their ratio of width to height must be the same"
        )
    return resize_tensor(one, size).contiguous(), resize_tensor(other, size).contiguous()


def _opened(source: Path | Tensor) -> Tensor:
    return source.float() / 255 if isinstance(source, Tensor) else load_tensor(source)


class Pairs(Dataset[Translation]):
    """Pairs of one size; in training mirrored and moved, both halves alike.

    Args:
        pairs: What to load, when it is asked for.
        size: Height and width of the samples in pixels.
        flip: Whether half of the samples are mirrored from left to right.
        shift: Samples are moved by up to so many pixels each way, the edge repeated; drawn from torch's global
            generator, as `flip`.
    """

    def __init__(self, pairs: Sequence[Pair], size: int, *, flip: bool = False, shift: int = 0) -> None:
        self.pairs, self.size, self.flip, self.shift = list(pairs), size, flip, shift
        self.seeded = flip or shift > 0

    @property
    def groups(self) -> list[str]:
        """Group of every pair."""
        return [pair.group for pair in self.pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Translation:
        pair = self.pairs[index]
        both = torch.cat(load_pair(pair, self.size))
        if self.flip and torch.rand(()) < 0.5:
            both = both.flip(-1)
        if self.shift:
            top, left = torch.randint(2 * self.shift + 1, (2,)).tolist()
            both = F.pad(both[None], (self.shift,) * 4, mode="replicate")[0]
            both = both[:, top : top + self.size, left : left + self.size]
        one, other = both.contiguous().split(3)
        return Translation(one, other, pair.name)
