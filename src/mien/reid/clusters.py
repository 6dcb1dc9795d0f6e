# SPDX-License-Identifier: Apache-2.0
"""What methods share that train on clusters: the memory of cluster centres, and batches of P clusters x K crops.

L = CE(f M^T / temperature, cluster),   f = z / |z|,   M the unit centres, without gradient
M_c <- normalised (m M_c + (1 - m) f), for each sample of cluster c in the order of the batch
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F


def centres(features: Tensor, label: Tensor) -> Tensor:
    """Normalised means of the features (N, D) of each cluster, (C, D); labels (N,) run from 0, -1 takes no part."""
    chosen = label >= 0
    count = int(label.max()) + 1
    sums = features.new_zeros(count, features.shape[1]).index_add_(0, label[chosen], features[chosen])
    return F.normalize(sums, dim=1)


def cluster_cross_entropy(feature: Tensor, centre: Tensor, label: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy of unit features (B, D) against unit centres (C, D); B = 0 gives a connected zero."""
    return F.cross_entropy(feature @ centre.T / temperature, label, reduction="sum") / max(len(label), 1)


def moved_centres(centre: Tensor, feature: Tensor, label: Tensor, momentum: float) -> Tensor:
    """Centres (C, D) after each unit feature (B, D) has moved the one of its label (B,), in the order of the batch.

    Samples of different clusters do not touch each other, so the i-th samples of all clusters are done at once.
    """
    centre = centre.clone()
    turn = _occurrence(label)
    for i in range(int(turn.max()) + 1 if len(turn) else 0):
        rows = turn == i
        old = centre[label[rows]]
        centre[label[rows]] = F.normalize(momentum * old + (1 - momentum) * feature[rows], dim=1)
    return centre


def _occurrence(label: Tensor) -> Tensor:
    """How often each label came before, (B,)."""
    order = label.argsort(stable=True)
    ordered = label[order]
    begins = torch.searchsorted(ordered, ordered)
    turn = torch.empty_like(label)
    turn[order] = torch.arange(len(label), device=label.device) - begins
    return turn


class ClusterMemory(nn.Module):
    """The centres of the clusters of an epoch, as a buffer that takes their number.

    Args:
        temperature: Of the cosines, > 0.
        momentum: m, in [0, 1).
    """

    centre: Tensor

    def __init__(self, temperature: float, momentum: float) -> None:
        super().__init__()
        self.temperature, self.momentum = temperature, momentum
        self.register_buffer("centre", torch.zeros(0, 0))

    def forward(self, feature: Tensor, label: Tensor) -> Tensor:
        """The loss of unit features (B, D) with labels (B,)."""
        return cluster_cross_entropy(feature, self.centre, label, self.temperature)

    def update(self, feature: Tensor, label: Tensor) -> None:
        """Move the centres."""
        self.centre = moved_centres(self.centre, feature, label, self.momentum)


def camera_aware_batches(
    label: NDArray[np.int64],
    camera: NDArray[np.int64],
    *,
    clusters: int,
    crops: int,
    batches: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Batches of P different clusters x K crops, (batches, P K) of indices; P is at most the number of clusters.

    The clusters come in random order, all of them before any comes again (what does not fill a batch at the end of a
    round is left out). The first crop of a cluster, the anchor, is drawn among all; the K - 1 others come from
    other cameras than the anchor's, where the cluster has no other camera from its other crops, and are drawn with
    replacement only where there are too few.

    Args:
        label: Cluster of each sample, (N,); -1 takes no part.
        camera: Camera of each sample, (N,).
        clusters: P, >= 1.
        crops: K, >= 1.
        batches: How many.
        rng: Where chance comes from.
    """
    members = [np.flatnonzero(label == c) for c in range(int(label.max()) + 1)]
    taken = min(clusters, len(members))
    per_round = len(members) // taken
    rounds = -(-batches // per_round)
    chosen = np.concatenate([rng.permutation(len(members))[: per_round * taken] for _ in range(rounds)])
    rows = [_crops_of(members[c], camera, crops, rng) for c in chosen[: batches * taken]]
    return np.stack(rows).reshape(batches, taken * crops)


def _crops_of(
    members: NDArray[np.int64], camera: NDArray[np.int64], crops: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    anchor = rng.choice(members)
    others = members[camera[members] != camera[anchor]]
    if not len(others):
        others = members[members != anchor] if len(members) > 1 else members
    rest = rng.choice(others, crops - 1, replace=len(others) < crops - 1)
    return np.concatenate([[anchor], rest])
