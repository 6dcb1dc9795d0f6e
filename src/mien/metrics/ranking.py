# SPDX-License-Identifier: Apache-2.0
"""How well numbers are predicted: Kendall's tau and Spearman's rho of the ranking, relative errors of the values.

As in `mien.metrics.binary`, a metric has a plain form and a weighted one, (R, N) -> (R,), of which bootstrap intervals
are made: an item drawn twice is an item of weight two. The weighted tau takes O(R N log N) and no N x N memory.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import BadInput
from mien.metrics.binary import Array
from mien.metrics.intervals import DRAWS, Interval, bootstrap, mean_interval

METRICS = ("kendall_tau", "spearman", "mape", "acc10")
LOWER_IS_BETTER = ("mape",)


def kendall_tau(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Kendall's tau-b in [-1, 1]: agreeing minus disagreeing pairs, over pairs that are tied in neither.

    NaN where all values of one side are equal.

    >>> round(kendall_tau([1, 2, 3, 4], [1, 3, 2, 4]), 4)
    0.6667
    """
    x, y = _checked(truth, predicted)
    return float(weighted_kendall_tau(x, y, np.ones((1, len(x))))[0])


def weighted_kendall_tau(truth: Array, predicted: Array, weights: Array) -> Array:
    """Tau-b of every row of weights, (R, N) -> (R,). A pair counts with the product of its weights."""
    x, y = _dense(truth), _dense(predicted)
    order = np.lexsort((y, x))  # ties in x by y, so that none of them is an inversion
    x, y, w = x[order], y[order], weights[:, order]
    total = _pairs(w, np.zeros(len(x), dtype=np.intp))
    tied_x, tied_y, tied_both = _pairs(w, x), _pairs(w, y), _pairs(w, x * (y.max(initial=0) + 1) + y)
    disagreeing = _inversions(y, w)
    agreeing = total - tied_x - tied_y + tied_both - disagreeing
    return _share(agreeing - disagreeing, np.sqrt((total - tied_x) * (total - tied_y)))


def spearman(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Spearman's rank correlation in [-1, 1], ties at their mean rank; NaN where all values of one side are equal.

    >>> spearman([1, 2, 3, 4], [10, 30, 20, 40])
    0.8
    """
    x, y = _checked(truth, predicted)
    return float(weighted_spearman(x, y, np.ones((1, len(x))))[0])


def weighted_spearman(truth: Array, predicted: Array, weights: Array) -> Array:
    """Rank correlation of every row of weights, (R, N) -> (R,); ranks are those of the weighted sample."""
    total = weights.sum(axis=1, keepdims=True)
    a, b = (_mid_ranks(_dense(v), weights) - total / 2 for v in (truth, predicted))
    return _share((weights * a * b).sum(1), np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1)))


def relative_error(truth: ArrayLike, predicted: ArrayLike) -> Array:
    """|p - y| / |y| of every item, (N,). Raises BadInput where a true value is 0: there is no relative error."""
    x, y = _checked(truth, predicted)
    if (x == 0).any():
        raise BadInput(f"{int((x == 0).sum())} of {len(x)} true values are 0: relative errors do not exist")
    return np.abs(y - x) / np.abs(x)


def mape(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Mean absolute relative error; 0.03 is 3 %."""
    return float(relative_error(truth, predicted).mean())


def accuracy_within(truth: ArrayLike, predicted: ArrayLike, delta: float = 0.1) -> float:
    """Acc(delta): share of items with |p - y| / |y| <= delta."""
    return float((relative_error(truth, predicted) <= delta).mean())


def intervals(truth: ArrayLike, predicted: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Interval]:
    """All of `METRICS` with 95 % bootstrap intervals over the items; where a true value is 0, the two of the ranking.

    Args:
        truth: (N,).
        predicted: (N,).
        draws: Bootstrap samples.
        seed: Of the draws.
    """
    x, y = _checked(truth, predicted)
    each = np.arange(len(x))
    found = {
        "kendall_tau": bootstrap(lambda w: weighted_kendall_tau(x, y, w), each, draws=draws, seed=seed),
        "spearman": bootstrap(lambda w: weighted_spearman(x, y, w), each, draws=draws, seed=seed),
    }
    if (x != 0).all():
        error = relative_error(x, y)
        found["mape"] = mean_interval(error, each, draws=draws, seed=seed)
        found["acc10"] = mean_interval((error <= 0.1).astype(np.float64), each, draws=draws, seed=seed)
    return found


# --- parts ----------------------------------------------------------------------------------------------------
def _checked(truth: ArrayLike, predicted: ArrayLike) -> tuple[Array, Array]:
    x, y = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise BadInput(f"true values {x.shape} and predicted ones {y.shape}: both must be (N,) with N at least 1")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise BadInput("true and predicted values must be finite numbers")
    return x, y


def _dense(values: Array) -> NDArray[np.intp]:
    """Ranks from 0 without gaps; ties share one."""
    return np.unique(values, return_inverse=True)[1]


def _share(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _pairs(weights: Array, key: NDArray[np.intp]) -> Array:
    """Weight of all pairs of items that share a key, (R,)."""
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    sums = np.add.reduceat(weights[:, order], first, axis=1)
    return (np.square(sums).sum(axis=1) - np.square(weights).sum(axis=1)) / 2


def _mid_ranks(dense: NDArray[np.intp], weights: Array) -> Array:
    """Weight below each item plus half the weight tied with it, (R, N)."""
    order = np.argsort(dense, kind="stable")
    tied = np.add.reduceat(weights[:, order], np.flatnonzero(np.diff(dense[order], prepend=-1)), axis=1)
    return (np.cumsum(tied, axis=1) - tied / 2)[:, dense]


def _inversions(y: NDArray[np.intp], weights: Array) -> Array:
    """Weight of all pairs i < j with y_i > y_j, (R,): bottom-up merges, whose positions are the same for all rows."""
    size = len(y)
    result = np.zeros(len(weights))
    index = np.arange(size)
    kinds = int(y.max(initial=0)) + 1
    width = 1
    while width < size:
        half = index // width
        order = np.lexsort((y, half))  # every half sorted by y
        below = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(weights[:, order], axis=1)], axis=1)
        right = index[half % 2 == 1]
        keys = half[order] * kinds + y[order]  # ascending
        larger = np.searchsorted(keys, (half[right] - 1) * kinds + y[right], side="right")  # in the left half
        ends = half[right] * width
        result += (weights[:, right] * (below[:, ends] - below[:, larger])).sum(axis=1)
        width *= 2
    return result
