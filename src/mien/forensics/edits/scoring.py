# SPDX-License-Identifier: Apache-2.0
"""What MMNet's lists and recovered faces are worth on faces whose edits are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mien.engine import evaluation_loader
from mien.engine.evaluation import modes_kept
from mien.forensics.edits.faces import EditedFaces
from mien.forensics.parts.recovery import Embedder, edited_mask, identity_distances, region_psnr
from mien.forensics.readers.seq_deepfake import LONGEST
from mien.metrics.intervals import Interval, mean_interval
from mien.metrics.quality import psnr, ssim
from mien.metrics.sequences import sequence_figures, sequence_intervals

if TYPE_CHECKING:
    from mien.forensics.mmnet import MMNet

Lists = NDArray[np.int64]
SMALLEST = 11
"""Pixels a side that SSIM needs."""
MOST = 100.0
"""dB that PSNR is cut at, so that means of it exist."""


@dataclass
class Measured:
    """Answers beside the truth.

    Args:
        truth: True lists, (N, 5).
        found: Those that were found, (N, 5).
        group: Person or source of each, (N,).
        quality: Name -> one number for each edited face, where faces are recovered and the originals are there.
        restored_group: Person or source of each edited face.
    """

    truth: Lists
    found: Lists
    group: list[str] = field(default_factory=list)
    quality: dict[str, list[float]] = field(default_factory=dict)
    restored_group: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """The figures of the lists, and the means of the recovery's."""
        if not len(self.truth):
            return {}
        return sequence_figures(self.truth, self.found) | {n: float(np.mean(v)) for n, v in self.quality.items()}

    def intervals(self, seed: int) -> Mapping[str, Interval]:
        """The same with bootstrap intervals over persons or sources."""
        if not len(self.truth):
            return {}
        table = sequence_intervals(self.truth, self.found, self.group, seed=seed)
        return table | {n: mean_interval(v, self.restored_group, seed=seed) for n, v in self.quality.items()}


@torch.no_grad()
def measure(method: MMNet, data: Dataset[Any], batch_size: int = 64) -> Measured:
    """Read every face of a data set, and recover those that were edited.

    Nothing where lists are not known, or the method was never taught any.
    """
    nothing = np.zeros((0, LONGEST), dtype=np.int64)
    found = Measured(nothing, nothing)
    parts: tuple[list[Lists], list[Lists]] = ([nothing], [nothing])
    with modes_kept(method):
        method.eval()
        for batch in evaluation_loader(data, batch_size, device=method.device):
            if getattr(batch, "sequence", None) is None or not bool(method.lists_taught):
                break
            read = method.detector(batch.image)
            sequence = method.detector.sequences(read)
            parts[0].append(batch.sequence.cpu().numpy())
            parts[1].append(sequence.cpu().numpy())
            found.group.extend(batch.group)
            if method.recovery is not None and batch.original is not None:
                made, _ = method.recovered(batch.image, read, sequence)
                _compare(found, batch, made, method.embedder)
    found.truth, found.found = np.concatenate(parts[0]), np.concatenate(parts[1])
    return found


def _compare(found: Measured, batch: EditedFaces, made: Tensor, embedder: Embedder | None) -> None:
    """Add the quality of the recovered faces of a batch, and that of leaving them as they are."""
    assert batch.sequence is not None
    assert batch.original is not None
    edited = batch.sequence[:, 0] != 0
    if not bool(edited.any()):
        return
    found.restored_group.extend(g for g, one in zip(batch.group, edited.tolist(), strict=True) if one)
    truth, seen = batch.original[edited], batch.image[edited]
    where = edited_mask(seen, truth)
    for suffix, picture in (("", made[edited]), ("_nothing", seen)):
        values = {
            "recovery_psnr": psnr(picture, truth).clamp(max=MOST),
            "recovery_psnr_inside": region_psnr(picture, truth, where, MOST),
            "recovery_psnr_outside": region_psnr(picture, truth, 1 - where, MOST),
        }
        if min(truth.shape[-2:]) >= SMALLEST:
            values["recovery_ssim"] = ssim(picture, truth)
        if embedder is not None:
            values["recovery_identity"] = 1 - identity_distances(embedder(picture), embedder(truth))
        for name, column in values.items():
            found.quality.setdefault(name + suffix, []).extend(column.tolist())
