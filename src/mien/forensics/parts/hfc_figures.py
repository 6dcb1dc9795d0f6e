# SPDX-License-Identifier: Apache-2.0
"""What HFC-MFFD shows beside a score: the figures of its two levels, and where the clues of its patches lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from torch import Tensor

from mien.forensics.data import Faces
from mien.forensics.parts.hfc_streams import patch_starts
from mien.metrics.intervals import Interval, mean_interval

Said = tuple[Sequence[str], Sequence[str]]


def kind_figures(
    batches: Iterable[Faces], say: Callable[[Faces], Said], kinds: Sequence[str], seed: int
) -> dict[str, Interval]:
    """Three shares, with intervals over persons or videos; those that no image counts in are left out.

    real_recall: of the real faces, those that are called real. class_accuracy: of real faces and the kinds that were
    learned, those whose class is named rightly. kind_accuracy: of the forged faces of those kinds, called forged or
    not, those whose kind the second level names rightly.

    Args:
        batches: Labelled faces.
        say: Batch -> the class of each face ("real" or a kind), and the kind of each if it is taken for forged.
        kinds: Kinds that were learned.
        seed: Of the intervals.
    """
    values: dict[str, list[float]] = {"real_recall": [], "class_accuracy": [], "kind_accuracy": []}
    groups: dict[str, list[str]] = {name: [] for name in values}
    for batch in batches:
        labels = batch.label.tolist()  # type: ignore[union-attr]
        truth = ["real" if y == 0 else kind for y, kind in zip(labels, batch.kind, strict=True)]
        for true, group, called, kind in zip(truth, batch.group, *say(batch), strict=True):
            rows = {
                "real_recall": (true == "real", called),
                "class_accuracy": (true == "real" or true in kinds, called),
                "kind_accuracy": (true in kinds, kind),
            }
            for name, (counts, answer) in rows.items():
                if counts:
                    values[name].append(float(answer == true))
                    groups[name].append(group)
    return {name: mean_interval(np.array(v), groups[name], seed=seed) for name, v in values.items() if v}


def patch_map(forged: Tensor, height: int, width: int, patch: int, grid: int) -> Tensor:
    """What patches say, averaged where they overlap: (B, grid^2) in [0, 1] -> (B, 1, height, width)."""
    total, count = forged.new_zeros(len(forged), height, width), forged.new_zeros(height, width)
    places = [(t, left) for t in patch_starts(height, patch, grid) for left in patch_starts(width, patch, grid)]
    for i, (top, left) in enumerate(places):
        window = (..., slice(top, top + patch), slice(left, left + patch))
        total[window] += forged[:, i, None, None]
        count[window] += 1
    return (total / count.clamp_min(1))[:, None]
