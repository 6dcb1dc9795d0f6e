# SPDX-License-Identifier: Apache-2.0
"""How well an ordered list was found: Fixed, Adaptive and Complete Sequence Matching, and which entries are in it.

A list of at most L entries (the regions of a face in the order in which they were edited) is L numbers, 0 where it has
ended. y is the true one, z the one that was found. Every figure is a share, sum of hits over sum of counts:

    fixed      positions with z_t = y_t, of all L. Padding counts, so predicting nothing scores well: compare by the
               others
    adaptive   positions with z_t = y_t among the first c, of c = max(entries of y, entries of z); 1 of 1 where c = 0
    csm        samples whose whole list is right, padding included: a list that is too long is wrong
    csm_plus   the same among samples with y_1 != 0. Always answering "nothing" scores 0: this is the figure to rank by
    csm_s      the same among samples whose true list has s entries, s = 0 .. L
    csm_at_k   samples whose first k entries are all right, of those whose true list has k or more, k = 1 .. L;
               positions beyond the true list are never hits
    set_f1     2 |Y n Z| of |Y| + |Z|, Y and Z the lists without order: which entries, whatever their order

Fixed and Adaptive are those of Shao, Wu, Liu, Detecting and Recovering Sequential DeepFake Manipulation, ECCV 2022.
Complete Sequence Matching was introduced by Xia and others (arXiv 2307.02733); its exact formula here is inferred.

>>> y, z = [[1, 2, 0, 0, 0], [3, 0, 0, 0, 0]], [[1, 2, 0, 0, 0], [3, 1, 0, 0, 0]]
>>> [sequence_figures(y, z)[name] for name in ("fixed", "adaptive", "csm")]
[0.9, 0.75, 0.5]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import BadInput
from mien.metrics.binary import Array
from mien.metrics.intervals import DRAWS, Interval, bootstrap

Lists = NDArray[np.int64]
Shares = tuple[Array, Array]
"""Hits (N,) and counts (N,) of every sample."""


def checked_lists(truth: ArrayLike, found: ArrayLike) -> tuple[Lists, Lists]:
    """Both as int64 (N, L).

    Raises:
        BadInput: Shapes that differ or are not (N, L) with N, L >= 1; numbers that are not whole or below 0; a true
            list that goes on after a 0. A found list may: what a model gives is not always well formed.
    """
    y, z = np.asarray(truth), np.asarray(found)
    if y.ndim != 2 or y.shape != z.shape or y.size == 0:
        raise BadInput(f"lists have shapes {y.shape} and {z.shape}: equal (samples, length), at least one of each")
    for name, lists in (("true", y), ("found", z)):
        if not np.issubdtype(lists.dtype, np.integer) or lists.min() < 0:
            raise BadInput(f"{name} lists hold {lists.min()} ({lists.dtype}): whole numbers from 0 are needed")
    gaps = ((y[:, :-1] == 0) & (y[:, 1:] != 0)).any(axis=1)
    if gaps.any():
        raise BadInput(f"true list {y[gaps][0].tolist()} goes on after a 0: padding comes at the end only")
    return y.astype(np.int64), z.astype(np.int64)


def _fixed(y: Lists, z: Lists) -> Shares:
    return (y == z).sum(axis=1).astype(float), np.full(len(y), float(y.shape[1]))


def _adaptive(y: Lists, z: Lists) -> Shares:
    count = np.maximum((y != 0).sum(axis=1), (z != 0).sum(axis=1))
    inside = np.arange(y.shape[1]) < count[:, None]
    hits = ((y == z) & inside).sum(axis=1)
    return np.where(count == 0, 1.0, hits), np.maximum(count, 1).astype(float)


def _complete(y: Lists, z: Lists, among: NDArray[np.bool_]) -> Shares:
    return ((y == z).all(axis=1) & among).astype(float), among.astype(float)


def _prefix(y: Lists, z: Lists, k: int) -> Shares:
    among = (y != 0).sum(axis=1) >= k
    return ((y == z)[:, :k].all(axis=1) & among).astype(float), among.astype(float)


def _set_f1(y: Lists, z: Lists) -> Shares:
    tokens = np.arange(1, max(y.max(), z.max(), 1) + 1)
    in_y, in_z = ((lists[:, :, None] == tokens).any(axis=1) for lists in (y, z))
    return 2.0 * (in_y & in_z).sum(axis=1), (in_y.sum(axis=1) + in_z.sum(axis=1)).astype(float)


def sequence_shares(truth: ArrayLike, found: ArrayLike) -> dict[str, Shares]:
    """Hits and counts of every sample for every figure of the module's text: name -> ((N,), (N,)).

    Args:
        truth: y, (N, L) whole numbers, 0 at the end only.
        found: z, (N, L) whole numbers from 0.
    """
    y, z = checked_lists(truth, found)
    length = (y != 0).sum(axis=1)
    sizes = range(y.shape[1] + 1)
    return {
        "fixed": _fixed(y, z),
        "adaptive": _adaptive(y, z),
        "csm": _complete(y, z, length >= 0),
        "csm_plus": _complete(y, z, length >= 1),
        "set_f1": _set_f1(y, z),
        **{f"csm_{s}": _complete(y, z, length == s) for s in sizes},
        **{f"csm_at_{k}": _prefix(y, z, k) for k in sizes if k},
    }


def sequence_figures(truth: ArrayLike, found: ArrayLike) -> dict[str, float]:
    """Every figure; those that nothing counts for (no list is so long) are left out.

    Args:
        truth: y, (N, L) whole numbers, 0 at the end only.
        found: z, (N, L) whole numbers from 0.
    """
    shares = sequence_shares(truth, found)
    return {name: float(hits.sum() / counts.sum()) for name, (hits, counts) in shares.items() if counts.sum() > 0}


def sequence_intervals(
    truth: ArrayLike, found: ArrayLike, groups: ArrayLike, *, draws: int = DRAWS, level: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """Every figure with its bootstrap interval over groups; those that nothing counts for are left out.

    Args:
        truth: y, (N, L) whole numbers, 0 at the end only.
        found: z, (N, L) whole numbers from 0.
        groups: Name of every sample's person or source, (N,).
        draws: Bootstrap samples.
        level: Confidence level.
        seed: Of the draws.
    """
    shares: Mapping[str, Shares] = sequence_shares(truth, found)
    return {
        name: bootstrap(_share(*parts), groups, draws=draws, level=level, seed=seed)
        for name, parts in shares.items()
        if parts[1].sum() > 0
    }


def _share(hits: Array, counts: Array) -> Callable[[Array], Array]:
    def under(weights: Array) -> Array:
        with np.errstate(invalid="ignore"):  # 0 / 0: a draw without such samples, which the bootstrap leaves out
            return np.asarray((weights @ hits) / (weights @ counts))

    return under
