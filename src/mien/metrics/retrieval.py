# SPDX-License-Identifier: Apache-2.0
"""How well queries find their own in a gallery: CMC, mAP and mINP by the protocol of Market-1501 (Zheng et al., ICCV
2015), single query.

The gallery is ranked by distance for each query, after its own identity seen by its own camera has been taken out
(such pictures are too easy). A query whose identity no other camera has seen is left out of all means.

    AP    mean over the n right ones of k / rank of the k-th          rank-k  1 if a right one is among the first k
    INP   n / rank of the last right one (Ye et al., TPAMI 2021)

Nothing is ordered in full: a row's sorted distances tell the rank of each right one, and sorting values takes a quarter
of the time of sorting indices. Equal distances rank in the order of the gallery.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import BadInput

RANKS = (1, 5, 10)

_BLOCK = 1 << 20
"""Distances sorted at once: 4 MiB in float32, which stay in the cache."""


@dataclass(frozen=True)
class Retrieval:
    """What every query found.

    Args:
        average_precision: (Q,), NaN for a query without a right one in the gallery.
        inverse_negative_penalty: (Q,), NaN likewise.
        first: Rank of the first right one, from 0, (Q,); -1 likewise.
    """

    average_precision: NDArray[np.float64]
    inverse_negative_penalty: NDArray[np.float64]
    first: NDArray[np.int64]

    @property
    def answered(self) -> NDArray[np.bool_]:
        """The queries that could be answered, (Q,)."""
        return self.first >= 0

    def values(self, ranks: Sequence[int] = RANKS) -> dict[str, NDArray[np.float64]]:
        """The numbers whose means are the metrics, of the queries that could be answered: mAP, rank-k, mINP."""
        rows = self.answered
        found = {f"rank-{k}": (self.first[rows] < k).astype(np.float64) for k in ranks}
        return {"mAP": self.average_precision[rows], **found, "mINP": self.inverse_negative_penalty[rows]}

    def means(self, ranks: Sequence[int] = RANKS) -> dict[str, float]:
        """The metrics: mAP, rank-k (the CMC at k), mINP. Raises BadInput when no query could be answered."""
        if not self.answered.any():
            raise BadInput(
                f"none of the {len(self.first)} queries has its identity in the gallery under another camera"
            )
        return {name: float(column.mean()) for name, column in self.values(ranks).items()}


def retrieval(
    distance: ArrayLike,
    query_identity: ArrayLike,
    gallery_identity: ArrayLike,
    query_camera: ArrayLike,
    gallery_camera: ArrayLike,
) -> Retrieval:
    """Rank a gallery by given distances.

    Args:
        distance: (Q, G), smaller is nearer; no NaN.
        query_identity: Integers (Q,).
        gallery_identity: Integers (G,).
        query_camera: Integers (Q,).
        gallery_camera: Integers (G,).

    Raises:
        BadInput: Shapes that do not fit, or NaN.

    >>> found = retrieval([[0.1, 0.3, 0.2, 0.4]], [7], [7, 7, 8, 7], [1], [1, 2, 2, 2])  # ranks 2 and 3 of 3 are right
    >>> found.means()
    {'mAP': 0.5833333333333333, 'rank-1': 0.0, 'rank-5': 1.0, 'rank-10': 1.0, 'mINP': 0.6666666666666666}
    """
    matrix = np.asarray(distance)
    labels = [np.asarray(a) for a in (query_identity, gallery_identity, query_camera, gallery_camera)]
    q, g = labels[0].shape, labels[1].shape
    if matrix.shape != q + g or labels[2].shape != q or labels[3].shape != g or matrix.ndim != 2:
        raise BadInput(f"distances {matrix.shape}, identities {q} and {g}, cameras {labels[2].shape} and "
                       f"{labels[3].shape}: (Q, G), (Q,), (G,), (Q,), (G,) are needed")  # fmt: skip
    return _ranked(lambda first, last: matrix[first:last], *labels)


def feature_retrieval(
    query: ArrayLike,
    gallery: ArrayLike,
    query_identity: ArrayLike,
    gallery_identity: ArrayLike,
    query_camera: ArrayLike,
    gallery_camera: ArrayLike,
) -> Retrieval:
    """As `retrieval`, by the Euclidean distance of L2-normalised rows (Q, D) and (G, D); no matrix (Q, G) is held."""
    rows, columns = np.asarray(query), np.asarray(gallery).T
    labels = [np.asarray(a) for a in (query_identity, gallery_identity, query_camera, gallery_camera)]
    return _ranked(lambda first, last: -(rows[first:last] @ columns), *labels)


def valid(query_identity: int, query_camera: int, gallery_identity: NDArray, gallery_camera: NDArray) -> NDArray:
    """The part of the gallery that a query is ranked against, (G,): not itself under its own camera."""
    return (gallery_identity != query_identity) | (gallery_camera != query_camera)


def _ranked(
    rows: Callable[[int, int], NDArray],
    query_identity: NDArray,
    gallery_identity: NDArray,
    query_camera: NDArray,
    gallery_camera: NDArray,
) -> Retrieval:
    count, size = len(query_identity), len(gallery_identity)
    precision, penalty = np.full(count, np.nan), np.full(count, np.nan)
    first_right = np.full(count, -1, np.int64)
    by_identity = np.argsort(gallery_identity, kind="stable")
    in_order = gallery_identity[by_identity]
    begin, end = (np.searchsorted(in_order, query_identity, side=side) for side in ("left", "right"))
    step = max(_BLOCK // max(size, 1), 1)
    for start in range(0, count, step):
        stop = min(start + step, count)
        block = rows(start, stop)
        same = end[start:stop] - begin[start:stop]  # gallery pictures of the query's identity
        if not same.any():
            continue
        row = np.repeat(np.arange(stop - start), same)
        place = np.arange(len(row)) - np.repeat(np.cumsum(same) - same - begin[start:stop], same)
        member = by_identity[place]
        rank = _ranks(block, row, member, same)
        right = gallery_camera[member] != query_camera[start + row]
        order = np.lexsort((rank, row))
        row, rank, right = row[order], rank[order], right[order]
        # What is taken out before a right one lowers its rank.
        taken = np.cumsum(~right) - np.repeat(_before(~right, same), same)
        hit = np.cumsum(right) - np.repeat(_before(right, same), same)
        row, rank, hit = row[right], (rank - taken)[right], hit[right]
        total = np.bincount(row, minlength=stop - start)
        found = np.flatnonzero(total)
        last = np.cumsum(total)[found] - 1
        begins = last + 1 - total[found]
        sums = np.bincount(row, hit / (rank + 1), minlength=stop - start)
        precision[start + found] = sums[found] / total[found]
        penalty[start + found] = total[found] / (rank[last] + 1)
        first_right[start + found] = rank[begins]
    return Retrieval(precision, penalty, first_right)


def _before(flag: NDArray[np.bool_], sizes: NDArray) -> NDArray[np.int64]:
    """How many flags are set before the start of each run; runs of the given sizes lie end to end."""
    running = np.concatenate([np.zeros(1, np.int64), np.cumsum(flag)])
    return running[np.cumsum(sizes) - sizes]


def _ranks(block: NDArray, row: NDArray, member: NDArray, same: NDArray) -> NDArray[np.int64]:
    """Rank in its row, from 0, of each entry (row, member); rows rise and have `same` entries each."""
    ordered = np.sort(block, axis=1)
    if np.isnan(ordered[:, -1]).any():  # NaN is sorted last
        raise BadInput("distances hold NaN")
    value = block[row, member]
    rank = np.empty(len(row), np.int64)
    tied = np.empty(len(row), bool)
    end = 0
    for line, size in zip(ordered, same.tolist(), strict=True):
        part = slice(end, end + size)
        end += size
        rank[part] = np.searchsorted(line, value[part])
        tied[part] = line[np.minimum(rank[part] + 1, len(line) - 1)] == value[part]
    for i in np.flatnonzero(tied):  # the last of a row is found here, too, and gets nothing added
        rank[i] += np.count_nonzero(block[row[i], : member[i]] == value[i])
    return rank
