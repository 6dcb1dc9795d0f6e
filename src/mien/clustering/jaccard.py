# SPDX-License-Identifier: Apache-2.0
"""k-reciprocal Jaccard distance (Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR
2017, arXiv:1701.08398), sparse: memory grows like N k, never like N x N.

    T(i)  the k1 nearest of i, itself included             R(i)  = {j in T(i): i in T(j)}, with k1 entries
    R*(i) = R(i), and R'(c) for every c in R(i) with |R'(c) & R(i)| > 2/3 |R'(c)|,  R' as R with round(k1 / 2) + 1
    V_ij  = softmax over j in R*(i) of -(2 - 2 f_i f_j);   V_i <- the mean of V over the k2 nearest of i
    D_ij  = 1 - m_ij / (2 - m_ij),  m_ij = sum_k min(V_ik, V_jk)

Rows of V sum to 1, so that D = 1 - sum_k min(V_ik, V_jk) / sum_k max(V_ik, V_jk): the Jaccard distance of fuzzy sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from mien.clustering.nearest import Search, nearest
from mien.errors import BadInput

TIE = 5e-6
"""Distances this little above a radius count as equal to it, since ties are common and rounding would decide them: two
samples that share 4 of their k2 = 6 nearest and nothing else have D = 1/2. float32 features give D to about 1e-6."""

_TERMS = 1 << 17
"""Terms min(V_ik, V_jk) made at once: their arrays stay in the cache of a core (measured: 2^20 is a third slower)."""

_BLOCK = 1 << 21
"""Sums m_ij held at once: 16 MiB."""


@dataclass(frozen=True)
class Neighbours:
    """For each of N samples the others within a radius, as rows of different length laid end to end.

    Args:
        start: Row i lies at start[i]:start[i + 1], (N + 1,).
        index: The samples, in rising order; each row holds the sample itself.
        distance: Their distances in [0, radius + TIE], as long as `index`; exactly 0 for the sample itself.
    """

    start: NDArray[np.int64]
    index: NDArray[np.int64]
    distance: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def row(self) -> NDArray[np.int64]:
        """The sample whose row each entry is in, as long as `index`."""
        return np.repeat(np.arange(len(self)), np.diff(self.start))

    def within(self, radius: float) -> Neighbours:
        """Those within a smaller radius."""
        return self._where(self.distance <= radius + TIE)

    def among(self, samples: NDArray[np.bool_]) -> Neighbours:
        """Rows and entries of the other samples are emptied; samples keep their numbers. `samples` is a mask (N,)."""
        return self._where(samples[self.row] & samples[self.index])

    def _where(self, kept: NDArray[np.bool_]) -> Neighbours:
        sizes = np.bincount(self.row[kept], minlength=len(self))
        return Neighbours(_starts(sizes), self.index[kept], self.distance[kept])


def jaccard_neighbours(
    features: Tensor | Sequence[Tensor],
    *,
    k1: int = 30,
    k2: int = 6,
    radius: float = 0.6,
    weights: Sequence[float] = (1.0,),
    search: Search = "auto",
) -> Neighbours:
    """All pairs with a k-reciprocal Jaccard distance of at most `radius`.

    Args:
        features: L2-normalised rows (N, D); or several views of the same N samples, whose distances are mixed.
        k1: Nearest neighbours that the sets are made from, >= 1.
        k2: Nearest neighbours that V is averaged over (query expansion), >= 1; 1 for none.
        radius: Largest distance of interest, in [0, 1). With a radius near 1 the pairs may grow like N x N.
        weights: Weight of each view's distance; they sum to 1.
        search: As `mien.clustering.nearest.nearest`.

    Raises:
        BadInput: A value outside its range, or features that are not finite or not normalised.
    """
    views = [features] if isinstance(features, Tensor) else list(features)
    for name, value in (("k1", k1), ("k2", k2)):
        if value < 1:
            raise BadInput(f"{name} is {value}: it must be at least 1")
    if not 0 <= radius < 1:
        raise BadInput(f"radius is {radius}: it must lie in [0, 1)")
    if len(weights) != len(views) or len({len(view) for view in views}) != 1 or abs(sum(weights) - 1) > 1e-6:
        raise BadInput(
            f"weights are {list(weights)} for {len(views)} views of {[len(view) for view in views]} samples: "
            "one for each view is needed, with a sum of 1, and as many samples in each view"
        )
    return _mixed([reciprocal_encoding(view, k1, k2, search) for view in views], weights, radius)


def reciprocal_encoding(features: Tensor, k1: int, k2: int, search: Search = "auto") -> sparse.csr_array:
    """V after query expansion, (N, N) with rows that sum to 1, in the type of `features`. See `jaccard_neighbours`."""
    ranked = nearest(features, k1, search)
    reciprocal = _reciprocal(ranked)
    half = _reciprocal(ranked[:, : round(k1 / 2) + 1])
    trusted = (reciprocal @ half.T).multiply(reciprocal).tocsr()  # |R'(c) & R(i)| for every c in R(i)
    trusted.data = (3 * trusted.data > 2 * np.diff(half.indptr)[trusted.indices]).astype(np.int32)
    trusted.eliminate_zeros()
    expanded = (reciprocal + trusted @ half).tocsr()
    expanded.sort_indices()
    points = features.detach().cpu().numpy()
    encoding = sparse.csr_array((_affinity(points, expanded), expanded.indices, expanded.indptr), expanded.shape)
    if k2 == 1:
        return encoding
    averaged = (_lists(ranked[:, :k2], np.full(1, 1 / min(k2, ranked.shape[1]), points.dtype)) @ encoding).tocsr()
    averaged.sort_indices()
    return averaged


def _lists(ranked: NDArray[np.int64], value: NDArray) -> sparse.csr_array:
    """A matrix with `value` (1,) at the places of the lists (N, k)."""
    count, k = ranked.shape
    index = np.arange(0, count * k + 1, k)
    made = sparse.csr_array((np.repeat(value, count * k), ranked.ravel().astype(np.int32), index), (count, count))
    made.sum_duplicates()
    return made


def _reciprocal(ranked: NDArray[np.int64]) -> sparse.csr_array:
    """1 at (i, j) where each is in the other's list (N, k)."""
    lists = _lists(ranked, np.ones(1, np.int32))
    lists.data[:] = 1
    return lists.multiply(lists.T.tocsr()).tocsr()


def _affinity(points: NDArray, pattern: sparse.csr_array) -> NDArray:
    """The softmax over each row's entries of -(2 - 2 f_i f_j), as long as the pattern's `indices`."""
    row = np.repeat(np.arange(len(points)), np.diff(pattern.indptr))
    products = np.empty(len(row), points.dtype)
    step = max(_BLOCK // points.shape[1], 1)
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        products[part] = np.einsum("nd,nd->n", points[row[part]], points[pattern.indices[part]])
    affinity = np.exp(2 * products - 2)
    return affinity / np.add.reduceat(affinity, pattern.indptr[:-1])[row]  # no row is empty: each holds itself


class _Pairs:
    """Sums m_ij = sum_k min(V_ik, V_jk) over j >= i, made for a block of rows i at a time.

    The terms of row i come from the columns k of its entries, in each of which only the part from i on is read.
    """

    def __init__(self, encoding: sparse.csr_array) -> None:
        self.start, self.value = encoding.indptr, encoding.data
        count = encoding.shape[0]
        by_column = np.argsort(encoding.indices, kind="stable").astype(np.int32)
        self.row = np.repeat(np.arange(count, dtype=np.int32), np.diff(self.start))
        self.column_row, self.column_value = self.row[by_column], self.value[by_column]
        self.place = np.empty_like(by_column)  # of every entry in its column's list
        self.place[by_column] = np.arange(len(by_column), dtype=np.int32)
        ends = np.cumsum(np.bincount(encoding.indices, minlength=count))
        self.length = (ends[encoding.indices] - self.place).astype(np.int32)  # of the column's list from there on
        self.terms = _starts(self.length)[self.start]  # before each row

    def sums(self, first: int, last: int) -> NDArray[np.float64]:
        """M of rows first..last-1, (last - first, N)."""
        count = len(self.start) - 1
        part = slice(self.start[first], self.start[last])
        length = self.length[part]
        ends = np.cumsum(length, dtype=np.int64)
        place = np.repeat(self.place[part] - (ends - length), length)
        place += np.arange(len(place))
        value = np.minimum(np.repeat(self.value[part], length), self.column_value[place])
        cell = np.repeat((self.row[part] - first) * np.int64(count), length)
        cell += self.column_row[place]
        total = np.bincount(cell, value, minlength=(last - first) * count).astype(np.float64, copy=False)
        return total.reshape(last - first, count)


def _mixed(encodings: Sequence[sparse.csr_array], weights: Sequence[float], radius: float) -> Neighbours:
    """The pairs whose distances, mixed with the weights, are at most `radius`."""
    count = encodings[0].shape[0]
    views = [_Pairs(encoding) for encoding in encodings]
    terms = np.sum([view.terms for view in views], axis=0)
    most = radius + TIE
    least = 2 * (1 - most) / (2 - most)  # of m, when there is one view
    parts: list[tuple[NDArray, NDArray, NDArray]] = []
    first = 0
    while first < count:
        last = int(np.searchsorted(terms, terms[first] + _TERMS, side="right")) - 1
        last = min(max(last, first + 1), first + max(_BLOCK // count, 1), count)
        if len(views) == 1:
            sums = views[0].sums(first, last)  # all of them turned into distances would double the time
            row, column = np.nonzero(sums >= least)
            distance = _distance(sums[row, column])
        else:
            mixed = np.sum([w * _distance(v.sums(first, last)) for w, v in zip(weights, views, strict=True)], axis=0)
            row, column = np.nonzero(mixed <= most)
            distance = mixed[row, column]
        row += first
        distance[row == column] = 0.0
        parts.append((row, column, distance))
        first = last
    rows, columns, distances = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _symmetric(rows, columns, distances, count)


def _distance(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """D of m: within [0, 1] also where m is a rounding above 1."""
    return np.maximum(1 - sums / (2 - sums), 0)


def _symmetric(row: NDArray, column: NDArray, distance: NDArray, count: int) -> Neighbours:
    """Rows of both (i, j) and (j, i) from pairs i <= j, in rising order of columns within each row."""
    mirrored = row < column
    rows = np.concatenate([row, column[mirrored]])
    columns = np.concatenate([column, row[mirrored]])
    order = np.lexsort((columns, rows))
    values = np.concatenate([distance, distance[mirrored]])[order]
    return Neighbours(_starts(np.bincount(rows, minlength=count)), columns[order], values)


def _starts(sizes: NDArray) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
