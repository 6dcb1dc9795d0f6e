# SPDX-License-Identifier: Apache-2.0
"""Which frames of a video make a clip, in training and in testing. Numbers only; nothing is decoded here.

Frames are counted from 0. What is drawn comes from torch's global generator, which the engine seeds for each sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from mien.errors import BadInput


class Sampling(Protocol):
    """How clips are taken from videos."""

    @property
    def frames(self) -> int:
        """Frames of a clip, T."""

    @property
    def shortest(self) -> int:
        """Frames that a video must have at least."""

    def training(self, length: int) -> list[int]:
        """A clip drawn from a video of `length` frames: T indices, none falling."""

    def testing(self, length: int) -> list[list[int]]:
        """The clips that a video of `length` frames is scored by; at least one."""

    def offered(self, lengths: Sequence[int], labels: Sequence[int]) -> list[int]:
        """How many training clips each video stands for."""


@dataclass(frozen=True)
class UniformClips:
    """Up to `clips` equal segments of a video, each seen through T frames at equal distances (FCAN-DCT).

    A video shorter than T frames is resampled by repeating frames: it is never padded, since a step to zero lights all
    temporal frequencies. Training takes one segment of the same length from a random place.

    >>> UniformClips(frames=2, clips=2).testing(8)
    [[0, 2], [4, 6]]
    """

    frames: int = 8
    clips: int = 8

    def __post_init__(self) -> None:
        if self.frames < 1 or self.clips < 1:
            raise BadInput(f"frames is {self.frames}, clips is {self.clips}: both must be at least 1")

    shortest = 1

    def _segments(self, length: int) -> int:
        return max(1, min(self.clips, length // self.frames))

    def training(self, length: int) -> list[int]:
        """T frames of a segment that begins anywhere."""
        part = length // self._segments(length)
        start = int(torch.randint(length - part + 1, ()))
        return [start + j * part // self.frames for j in range(self.frames)]

    def testing(self, length: int) -> list[list[int]]:
        """T frames of every segment."""
        count = self._segments(length)
        part = length // count
        return [[i * length // count + j * part // self.frames for j in range(self.frames)] for i in range(count)]

    def offered(self, lengths: Sequence[int], labels: Sequence[int]) -> list[int]:
        """Every video stands for one clip."""
        return [1] * len(lengths)


@dataclass(frozen=True)
class StretchedClips:
    """Clips at many speeds (GazeForensics): T frames stretched over a random length, and tests at several strides.

    Training, video of L frames: r in [0, L-T), o in [0, L-T-r), frames o + floor(j (T+r) / T); an empty range gives 0.
    Testing: strides s = N, N-1, ..., 1 with N = floor(L / T); stride s gives n_s = floor(L / (T s)) clips that do not
    overlap, clip i the frames (T i + k) s. A stride is left out when n_s <= n + 2, n being that of the last one used;
    and no stride s <= 3 is begun when N > 1 and 5 clips are there.

    >>> [len(StretchedClips().testing(length)) for length in (14, 28, 140)]
    [1, 1, 6]
    """

    frames: int = 14

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise BadInput(f"frames is {self.frames}: it must be at least 1")

    @property
    def shortest(self) -> int:
        """T: a shorter video gives no clip."""
        return self.frames

    def training(self, length: int) -> list[int]:
        """A stretched clip."""
        spare = length - self.frames
        reach = int(torch.randint(spare, ())) if spare > 0 else 0
        start = int(torch.randint(spare - reach, ())) if spare - reach > 0 else 0
        return [start + j * (self.frames + reach) // self.frames for j in range(self.frames)]

    def testing(self, length: int) -> list[list[int]]:
        """The clips of all strides that are used, long strides first."""
        most = length // self.frames
        clips: list[list[int]] = []
        last: int | None = None
        for stride in range(most, 0, -1):
            if stride <= 3 and most > 1 and len(clips) >= 5:
                break
            count = length // (self.frames * stride)
            if last is not None and count <= last + 2:
                continue
            last = count
            clips += [[(self.frames * i + k) * stride for k in range(self.frames)] for i in range(count)]
        return clips

    def offered(self, lengths: Sequence[int], labels: Sequence[int]) -> list[int]:
        """floor(L / T) for each video, then as many for reals as for fakes: the longest videos give up clips first."""
        counts = [length // self.frames for length in lengths]
        totals = {label: sum(c for c, y in zip(counts, labels, strict=True) if y == label) for label in set(labels)}
        if len(totals) < 2:
            return counts
        least = min(totals.values())
        for label, total in totals.items():
            rows = [i for i, y in enumerate(labels) if y == label]
            for row, kept in zip(rows, _levelled([counts[i] for i in rows], total - least), strict=True):
                counts[row] = kept
        return counts


def _levelled(counts: Sequence[int], surplus: int) -> list[int]:
    """The counts with `surplus` taken away, always from the largest (of equals from the last).

    >>> _levelled([2, 5, 9], 6)
    [2, 4, 4]
    """
    kept = sorted(counts)
    while surplus > 0:
        top = kept[-1]
        level = next((value for value in reversed(kept) if value < top), 0)
        many = sum(value == top for value in kept)
        drop = min(surplus, many * (top - level))
        whole, rest = divmod(drop, many)
        kept[-many:] = [top - whole] * (many - rest) + [top - whole - 1] * rest
        kept.sort()
        surplus -= drop
    order = sorted(range(len(counts)), key=lambda i: counts[i])
    result = [0] * len(counts)
    for place, value in zip(order, kept, strict=True):
        result[place] = value
    return result
