# SPDX-License-Identifier: Apache-2.0
"""How features become pseudo-labels, as plain data for command line and config.json; and how good these are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mien.clustering.dbscan import dbscan
from mien.clustering.jaccard import Neighbours, jaccard_neighbours
from mien.clustering.nearest import Search
from mien.errors import BadInput


@dataclass(frozen=True)
class Clustering:
    """DBSCAN on k-reciprocal Jaccard distances.

    Args:
        k1: Nearest neighbours that the reciprocal sets are made from, >= 1.
        k2: Nearest neighbours that sets are averaged over, >= 1.
        eps: Radius of DBSCAN, in (0, 1).
        min_samples: Neighbours within `eps` that make a core of a cluster, itself included, >= 1.
        search: "exact", "approximate" (extra `cluster`), or "auto": exact up to 100,000 samples.

    Raises:
        BadInput: For a value outside its range.
    """

    k1: int = 30
    k2: int = 6
    eps: float = 0.5
    min_samples: int = 4
    search: Search = "auto"

    def __post_init__(self) -> None:
        for name in ("k1", "k2", "min_samples"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not 0 < self.eps < 1:
            raise BadInput(f"eps is {self.eps}: it must lie in (0, 1)")
        if self.search not in ("auto", "exact", "approximate"):
            raise BadInput(f"search is {self.search!r}: use auto, exact or approximate")

    def neighbours(
        self, features: Tensor | Sequence[Tensor], weights: Sequence[float] = (1.0,), radius: float = 0.0
    ) -> Neighbours:
        """All pairs within `eps`, or within `radius` where that is larger. See `jaccard_neighbours`."""
        widest = max(self.eps, radius)
        return jaccard_neighbours(features, k1=self.k1, k2=self.k2, radius=widest, weights=weights, search=self.search)

    def labels(self, neighbours: Neighbours) -> NDArray[np.int64]:
        """Cluster of each sample, (N,), -1 for outliers."""
        return dbscan(neighbours, eps=self.eps, min_samples=self.min_samples)


def pairwise_f_score(label: ArrayLike, truth: ArrayLike) -> float:
    """F-score of "these two are the same" over all pairs of samples, in [0, 1].

    Args:
        label: Cluster of each sample, (N,); each -1 is a cluster of its own.
        truth: True class of each sample, (N,).

    Returns:
        2 P R / (P + R), with P the share of pairs with one label that are of one class, and R the share of pairs of one
        class that have one label. 0 where there is no such pair.

    >>> pairwise_f_score([0, 0, 0, 1], [7, 7, 8, 8])  # 1 pair right of 3 claimed and 2 true
    0.4
    """
    first, second = np.asarray(label), np.asarray(truth)
    if first.ndim != 1 or first.shape != second.shape:
        raise BadInput(f"label {first.shape} and truth {second.shape}: one of each for every sample is needed")
    clustered = first >= 0
    right = _pairs(np.stack([first, second], axis=1)[clustered])
    total = _pairs(first[clustered, None]) + _pairs(second[:, None])
    return 2 * right / total if total else 0.0


def _pairs(rows: NDArray) -> int:
    """Pairs of equal rows."""
    counts = np.unique(rows, axis=0, return_counts=True)[1].astype(np.int64)
    return int((counts * (counts - 1) // 2).sum())
