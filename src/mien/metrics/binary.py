# SPDX-License-Identifier: Apache-2.0
"""Numbers for a score that should be high for one of two classes (forged: 1, real: 0).

Every metric has two forms. `auc(labels, scores)` is the number. `weighted_auc(labels, scores, weights)` takes many
weightings of the same items at once, (R, N) -> (R,), and is what bootstrap intervals are made of: drawing a person
twice is giving the person's images weight two. Tied scores are one step of a curve, so the order of the items never
matters. Everything is O(N log N), on numpy arrays in float64.

What all functions refuse with `BadInput`: no items, lengths that differ, labels other than 0 and 1, scores that are
NaN. What needs both classes raises `OneClass` where there is one; the weighted forms give NaN for a row in which the
weights leave only one class.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import BadInput

Array = NDArray[np.float64]
Weighted = Callable[[Array, Array, Array], Array]
"""labels (N,), scores (N,), weights (R, N) -> (R,)."""


class OneClass(BadInput):
    """The metric compares two classes and the items are all of one."""


@dataclass(frozen=True)
class RocCurve:
    """Shares of both classes that score at or above each threshold.

    Args:
        false_positive: Share of class 0, (K + 1,), rising from 0 to 1.
        true_positive: Share of class 1, (K + 1,), rising from 0 to 1.
        thresholds: Falling, (K + 1,); the first is infinity, the others are the distinct scores.
    """

    false_positive: Array
    true_positive: Array
    thresholds: Array


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall when everything that scores at or above a threshold is called class 1.

    Args:
        precision: (K,), in [0, 1].
        recall: (K,), rising to 1.
        thresholds: The distinct scores, falling, (K,).
    """

    precision: Array
    recall: Array
    thresholds: Array


@dataclass(frozen=True)
class Calibration:
    """Whether scores can be read as probabilities, in bins of equal width.

    Args:
        edges: Bounds of the bins, (B + 1,), from 0 to 1. A bin holds lower <= score < upper, the last one 1.0 as well.
        predicted: Mean score of a bin, (B,); NaN where it is empty.
        observed: Share of class 1 in a bin, (B,); NaN where it is empty.
        count: Items in a bin, (B,).
        ece: Expected calibration error: mean over items of |observed - predicted| of their bin, in [0, 1].
        brier: Mean squared difference of score and label, in [0, 1].
    """

    edges: Array
    predicted: Array
    observed: Array
    count: NDArray[np.int64]
    ece: float
    brier: float


@dataclass(frozen=True)
class GroupValue:
    """A metric within one group.

    Args:
        value: The metric; NaN where the group has one class only and the metric needs both.
        items: Items that it was computed from.
        positives: How many of them are of class 1.
    """

    value: float
    items: int
    positives: int


def checked(labels: ArrayLike, scores: ArrayLike) -> tuple[Array, Array]:
    """Labels and scores as float64 (N,) arrays. Raises BadInput, see the module's text."""
    y = np.asarray(labels, dtype=np.float64)
    s = np.asarray(scores, dtype=np.float64)
    if y.ndim != 1 or s.ndim != 1 or len(y) != len(s):
        raise BadInput(f"labels {y.shape} and scores {s.shape}: both must be one-dimensional and of the same length")
    if len(y) == 0:
        raise BadInput("no items: a metric needs at least one")
    wrong = (y != 0) & (y != 1)
    if wrong.any():
        raise BadInput(f"label {y[wrong][0]:g} at item {int(wrong.argmax())}: labels are 0 (real) or 1 (forged)")
    missing = np.isnan(s)
    if missing.any():
        raise BadInput(f"score {int(missing.argmax())} is NaN ({int(missing.sum())} of {len(s)} are): check the model")
    return y, s


def _both_classes(labels: ArrayLike, scores: ArrayLike, metric: str) -> tuple[Array, Array]:
    y, s = checked(labels, scores)
    if y.min() == y.max():
        raise OneClass(f"all {len(y)} labels are {y[0]:g}: {metric} needs items of both classes")
    return y, s


def _cumulated(y: Array, s: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Weight of class 1 and of class 0 at or above each distinct score: two (R, K) arrays, and the scores (K,)."""
    order = np.argsort(-s, kind="stable")
    ranked = s[order]
    last = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])  # the last item of every tie
    w = np.take(weights, order, axis=1)  # several times faster than weights[:, order]
    everything = np.take(np.cumsum(w, axis=1), last, axis=1)
    w *= y[order]  # in place: `w` is a copy already, and with many rows another one would cost
    positive = np.take(np.cumsum(w, axis=1), last, axis=1)
    return positive, everything - positive, ranked[last]


def _ones(s: Array) -> Array:
    return np.ones((1, len(s)))


def _share(part: NDArray[Any], whole: NDArray[Any]) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 is the NaN that the module's text promises
        return np.asarray(part / whole, dtype=np.float64)


# --- ranking ------------------------------------------------------------------------------------------------------
def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: how often an item of class 1 scores above one of class 0, ties counted one half.

    Args:
        labels: (N,), 0 or 1.
        scores: (N,), any range, higher for class 1.

    >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])
    0.875
    """
    y, s = _both_classes(labels, scores, "AUC")
    return float(weighted_auc(y, s, _ones(s))[0])


def weighted_auc(labels: Array, scores: Array, weights: Array) -> Array:
    """AUC of every row of weights, (R, N) -> (R,)."""
    positive, negative, _ = _cumulated(labels, scores, weights)
    step = np.diff(negative, axis=1, prepend=0.0)
    middle = positive - np.diff(positive, axis=1, prepend=0.0) / 2
    return _share((step * middle).sum(axis=1), positive[:, -1] * negative[:, -1])


def eer(labels: ArrayLike, scores: ArrayLike) -> float:
    """Equal error rate: where the ROC curve, drawn with straight lines, meets "as many misses as false alarms"."""
    y, s = _both_classes(labels, scores, "EER")
    return float(weighted_eer(y, s, _ones(s))[0])


def weighted_eer(labels: Array, scores: Array, weights: Array) -> Array:
    """Equal error rate of every row of weights, (R, N) -> (R,)."""
    positive, negative, _ = _cumulated(labels, scores, weights)
    start = np.zeros((len(weights), 1))
    fpr = np.hstack([start, _share(negative, negative[:, -1:])])
    gap = fpr - 1 + np.hstack([start, _share(positive, positive[:, -1:])])  # false alarms - misses, from -1 to 1
    after = np.maximum((gap >= 0).argmax(axis=1), 1)
    rows = np.arange(len(weights))
    rise = gap[rows, after] - gap[rows, after - 1]  # never 0: the gap before is below 0, the one after is not
    part = _share(-gap[rows, after - 1], rise)
    return np.asarray(fpr[rows, after - 1] + part * (fpr[rows, after] - fpr[rows, after - 1]))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Precision averaged over recall: sum over thresholds of (rise in recall) x precision, without interpolation."""
    y, s = _both_classes(labels, scores, "average precision")
    return float(weighted_average_precision(y, s, _ones(s))[0])


def weighted_average_precision(labels: Array, scores: Array, weights: Array) -> Array:
    """Average precision of every row of weights, (R, N) -> (R,)."""
    positive, negative, _ = _cumulated(labels, scores, weights)
    precision = positive / np.maximum(positive + negative, np.finfo(float).tiny)
    rise = np.diff(positive, axis=1, prepend=0.0)
    value = _share((rise * precision).sum(axis=1), positive[:, -1])
    return np.where(negative[:, -1] > 0, value, np.nan)


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> RocCurve:
    """The ROC curve with every threshold."""
    y, s = _both_classes(labels, scores, "the ROC curve")
    positive, negative, thresholds = _cumulated(y, s, _ones(s))
    fpr = np.r_[0.0, negative[0] / negative[0, -1]]
    return RocCurve(fpr, np.r_[0.0, positive[0] / positive[0, -1]], np.r_[np.inf, thresholds])


def precision_recall_curve(labels: ArrayLike, scores: ArrayLike) -> PrecisionRecall:
    """Precision and recall at every threshold, from the highest score down."""
    y, s = _both_classes(labels, scores, "the precision-recall curve")
    positive, negative, thresholds = _cumulated(y, s, _ones(s))
    return PrecisionRecall(positive[0] / (positive[0] + negative[0]), positive[0] / positive[0, -1], thresholds)


# --- decisions ----------------------------------------------------------------------------------------------------
def accuracy(labels: ArrayLike, scores: ArrayLike, threshold: float = 0.5) -> float:
    """Share of items on their side of the threshold; a score equal to it counts as class 1."""
    y, s = checked(labels, scores)
    return float(weighted_accuracy(y, s, _ones(s), threshold)[0])


def weighted_accuracy(labels: Array, scores: Array, weights: Array, threshold: float = 0.5) -> Array:
    """Accuracy of every row of weights, (R, N) -> (R,)."""
    return _share(weights @ ((scores >= threshold) == labels), weights.sum(axis=1))


def balanced_accuracy(labels: ArrayLike, scores: ArrayLike, threshold: float = 0.5) -> float:
    """Mean of the accuracies of both classes at the threshold."""
    y, s = _both_classes(labels, scores, "balanced accuracy")
    return float(weighted_balanced_accuracy(y, s, _ones(s), threshold)[0])


def weighted_balanced_accuracy(labels: Array, scores: Array, weights: Array, threshold: float = 0.5) -> Array:
    """Balanced accuracy of every row of weights, (R, N) -> (R,)."""
    called = (scores >= threshold).astype(np.float64)
    hits = _share(weights @ (called * labels), weights @ labels)
    rejections = _share(weights @ ((1 - called) * (1 - labels)), weights @ (1 - labels))
    return np.asarray((hits + rejections) / 2)


# --- probabilities ------------------------------------------------------------------------------------------------
def _probabilities(labels: ArrayLike, scores: ArrayLike) -> tuple[Array, Array]:
    y, s = checked(labels, scores)
    outside = (s < 0) | (s > 1)
    if outside.any():
        raise BadInput(f"score {s[outside][0]:g} at item {int(outside.argmax())}: probabilities lie in [0, 1]")
    return y, s


def brier(labels: ArrayLike, scores: ArrayLike) -> float:
    """Mean squared difference of score and label; the scores must be probabilities."""
    y, s = _probabilities(labels, scores)
    return float(weighted_brier(y, s, _ones(s))[0])


def weighted_brier(labels: Array, scores: Array, weights: Array) -> Array:
    """Brier score of every row of weights, (R, N) -> (R,)."""
    return _share(weights @ (scores - labels) ** 2, weights.sum(axis=1))


def calibration(labels: ArrayLike, scores: ArrayLike, bins: int = 10) -> Calibration:
    """Mean score against share of class 1 in `bins` bins of equal width; the scores must be probabilities."""
    y, s = _probabilities(labels, scores)
    if bins < 1:
        raise BadInput(f"bins is {bins}: it must be at least 1")
    edges = np.linspace(0.0, 1.0, bins + 1)
    index = np.clip(np.searchsorted(edges, s, side="right") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    predicted = _share(np.bincount(index, weights=s, minlength=bins), count)
    observed = _share(np.bincount(index, weights=y, minlength=bins), count)
    ece = float(np.nansum(np.abs(observed - predicted) * count) / len(y))
    return Calibration(edges, predicted, observed, count.astype(np.int64), ece, brier(y, s))


# --- tables -------------------------------------------------------------------------------------------------------
def members(groups: ArrayLike, reference: Hashable | None = None) -> dict[str, NDArray[np.bool_]]:
    """Which items belong to each group, in the order of the names: name -> (N,) mask.

    Args:
        groups: Name of every item's group, (N,).
        reference: A group that is put beside each of the others instead of standing alone: the real images, when
            every kind of forgery is to be told apart from them.
    """
    names = np.asarray(groups).astype(str)
    if reference is None:
        return {str(name): names == name for name in np.unique(names)}
    beside = names == str(reference)
    return {str(name): (names == name) | beside for name in np.unique(names[~beside])}


def by_group(
    metric: Callable[[ArrayLike, ArrayLike], float],
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    *,
    reference: Hashable | None = None,
) -> dict[str, GroupValue]:
    """A metric within every group, or of every group against the `reference` group.

    >>> table = by_group(auc, [0, 0, 1, 1], [0.2, 0.4, 0.9, 0.3], ["real", "real", "swap", "blend"], reference="real")
    >>> {kind: row.value for kind, row in table.items()}
    {'blend': 0.5, 'swap': 1.0}
    """
    y, s = checked(labels, scores)
    if len(np.asarray(groups)) != len(y):
        raise BadInput(f"{len(np.asarray(groups))} groups for {len(y)} items: one for each is needed")
    table = {}
    for name, mask in members(groups, reference).items():
        try:
            value = metric(y[mask], s[mask])
        except OneClass:
            value = float("nan")
        table[name] = GroupValue(value, int(mask.sum()), int(y[mask].sum()))
    return table


@dataclass(frozen=True)
class Metric:
    """A metric that has a name on the command line.

    Args:
        weighted: Its weighted form, for intervals.
        higher_is_better: Its sense.
        probabilities: Whether the scores must be probabilities.
        both_classes: Whether it is undefined where all items are of one class.
    """

    weighted: Weighted
    higher_is_better: bool
    probabilities: bool = False
    both_classes: bool = True

    def value(self, labels: ArrayLike, scores: ArrayLike) -> float:
        """The metric itself, every item counted once."""
        y, s = checked(labels, scores)
        return float(self.weighted(y, s, np.ones((1, len(y))))[0])


METRICS: dict[str, Metric] = {
    "auc": Metric(weighted_auc, True),
    "average_precision": Metric(weighted_average_precision, True),
    "eer": Metric(weighted_eer, False),
    "accuracy": Metric(weighted_accuracy, True, both_classes=False),
    "balanced_accuracy": Metric(weighted_balanced_accuracy, True),
    "brier": Metric(weighted_brier, False, probabilities=True, both_classes=False),
}
