# SPDX-License-Identifier: Apache-2.0
"""What a linear classifier on fixed features makes of labels that are partly wrong, with and without refined labels.

A classifier that is trained on wrong labels to the end learns them by heart; one that is stopped early has not yet. A
regulariser is worth something only where it beats that, the centres that it starts from, and itself without neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mien.clustering.jaccard import Neighbours
from mien.reid.clusters import centres
from mien.reid.ncplr import neighbour_weights, refinement_losses

Training = Literal["start", "early", "late", "refined", "alone"]
WRONG, EARLY, LATE, BATCH = 0.3, 40, 400, 256
"""Share of wrong labels; steps of "early", and of the others; crops in a batch."""


def wrong_labels(truth: NDArray[np.int64], camera: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Labels (N,), a share `WRONG` of them of other persons: half of that whole cameras of a person, half lone crops.

    Args:
        truth: Persons from 0, (N,).
        camera: Cameras, (N,).
        rng: Where chance comes from.
    """
    label, people = truth.copy(), int(truth.max()) + 1
    pairs = np.unique(np.stack([truth, camera], axis=1), axis=0)
    for person, by in pairs[rng.permutation(len(pairs))]:
        if (label != truth).mean() >= WRONG / 2:
            break
        label[(truth == person) & (camera == by)] = (person + rng.integers(1, people)) % people
    right = rng.permutation(np.flatnonzero(label == truth))
    rows = right[: max(round(WRONG * len(truth)) - int((label != truth).sum()), 0)]
    label[rows] = (truth[rows] + rng.integers(1, people, len(rows))) % people
    return label


@dataclass(frozen=True)
class FixedFeatures:
    """Features with true and wrong labels.

    Args:
        z: (N, D), not normalised.
        truth: (N,).
        label: (N,), partly wrong.
        distance: (N, N), read where `present`.
        present: Who is whose neighbour, (N, N).
    """

    z: Tensor
    truth: Tensor
    label: Tensor
    distance: Tensor
    present: Tensor

    @classmethod
    def of(
        cls,
        z: Tensor,
        truth: NDArray[np.int64],
        camera: NDArray[np.int64],
        near: Neighbours,
        rng: np.random.Generator,
    ) -> FixedFeatures:
        """With wrong labels drawn from `rng`."""
        distance, present = z.new_zeros(len(z), len(z)), torch.zeros(len(z), len(z), dtype=torch.bool)
        row, column = torch.from_numpy(near.row), torch.from_numpy(near.index)
        distance[row, column], present[row, column] = torch.from_numpy(near.distance).to(z.dtype), True
        label = wrong_labels(truth, camera, rng)
        return cls(z, torch.from_numpy(truth), torch.from_numpy(label), distance, present)

    def labelled_rightly(self, how: Training, generator: torch.Generator) -> float:
        """Share of the features that the classifier labels rightly, after training on the wrong labels.

        Args:
            how: "start" is the centres of the wrong labels; "early" and "late" are cross-entropy; "refined" is L_ref
                and "alone" L_ref with N(i) = {i}, both for as many steps as "late".
            generator: Of the batches.
        """
        weight = centres(F.normalize(self.z, dim=1), self.label).requires_grad_()
        optimizer = torch.optim.Adam([weight], 1e-3)
        alpha = 0.1 if how in ("refined", "alone") else 1.0
        for _ in range({"start": 0, "early": EARLY}.get(how, LATE)):
            rows = torch.randperm(len(self.label), generator=generator)[:BATCH]
            logits = self.z[rows] @ weight.T
            ensemble = logits.detach().softmax(dim=1)
            if how == "refined":
                pairs = rows[:, None], rows[None]
                ensemble = neighbour_weights(self.distance[pairs], self.present[pairs]) @ ensemble
            ce, consistency = refinement_losses(logits, self.label[rows], ensemble)
            optimizer.zero_grad()
            (alpha * ce + (1 - alpha) * consistency).backward()
            optimizer.step()
        return float(((self.z @ weight.detach().T).argmax(dim=1) == self.truth).float().mean())
