# SPDX-License-Identifier: Apache-2.0
"""Does a detector treat groups of people alike? Three families of figures on one matrix of accuracies.

Liu and others, "Thinking Racial Bias in Fair Forgery Detection", AAAI 2025, arXiv 2407.14367. A[i, r] is the share of
images of row i and group r that are classified correctly; row 0 holds the real images, rows 1..K the approaches that
forgeries are made with. rng(v) = max v - min v, std divides by the number of groups, u_i = 1 + mean_r A[i, r].

    naive   o = mean_i A_i, f = mean_{i>=1} A_i
            DPD = rng(o), DEOdds = (rng(A_0) + rng(f)) / 2, DEO = rng(f), STD = std(o)
    AA      AADPD = mean_i rng(A_i), AADEOdds = (rng(A_0) + mean_{i>=1} rng(A_i)) / 2,
            AADEO = mean_{i>=1} rng(A_i), AASTD = mean_i std(A_i)
    UR      as AA, with rng(A_i) / u_i and std(A_i) / u_i in place of rng(A_i) and std(A_i)

Lower is fairer. The naive figures average over approaches first, so that opposite biases cancel; the Approach Averaged
Metric takes the disparity first; the Utility Regularized Metric also divides each row's disparity by its utility.

None of them punishes a detector that always says the same: its disparities are 0 whatever family is asked. Read them
with the AUC and the mean of A beside them, and do not trust rows whose mean is below 0.5.

>>> A = np.array([[0.8, 0.8, 0.8, 0.8], [0.9, 0.5, 0.9, 0.5], [0.5, 0.9, 0.5, 0.9]])
>>> {name: round(float(value), 3) for name, value in fairness(A).items() if name.endswith("DEO")}
{'DEO': 0.0, 'AADEO': 0.4, 'URDEO': 0.235}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import BadInput
from mien.metrics.binary import OneClass
from mien.metrics.intervals import DRAWS, Interval, Statistic, bootstrap, interval_json, mean_interval, metric_interval

Array = NDArray[np.float64]

REAL = "real"
"""The kind of row 0."""
FORMS = ("DPD", "DEOdds", "DEO", "STD")
FAMILIES = {"naive": "", "AA": "AA", "UR": "UR"}
"""Family -> what its figures' names begin with."""
FIGURES = tuple(prefix + form for prefix in FAMILIES.values() for form in FORMS)
"""The twelve names, family by family."""
WEAK = 0.5
"""Rows with a mean accuracy below this are worse than tossing a coin at a balanced threshold."""
SMALL = 30
"""Cells with fewer images than this are too small to be read alone: one image is more than 3 points."""


def utility(A: ArrayLike) -> Array:
    """u_i = 1 + mean_r A[i, r] of each row of (..., 1 + K, R); in [1, 2]."""
    return 1 + np.asarray(A, dtype=np.float64).mean(axis=-1)


def fairness(A: ArrayLike) -> dict[str, Array]:
    """The twelve figures of a matrix of accuracies, by the names of `FIGURES`.

    Args:
        A: (..., 1 + K, R) in [0, 1], row 0 real; K and R at least 1. A NaN anywhere gives NaN.

    Returns:
        Name -> (...); a number for one matrix.

    Raises:
        BadInput: For another shape or values outside [0, 1].
    """
    a = np.asarray(A, dtype=np.float64)
    if a.ndim < 2 or a.shape[-2] < 2 or a.shape[-1] < 1:
        raise BadInput(f"the matrix has shape {a.shape}: a row of real images, one or more of forged, and groups")
    if (a < 0).any() or (a > 1).any():
        raise BadInput("the matrix holds a value outside [0, 1]: accuracies are shares")
    overall, forged = a.mean(axis=-2), a[..., 1:, :].mean(axis=-2)
    spread, deviation, u = _range(a), a.std(axis=-1), utility(a)
    naive = _forms(_range(overall), _range(a[..., 0, :]), _range(forged), overall.std(axis=-1))
    return {
        **naive,
        **{f"AA{name}": value for name, value in _row_forms(spread, deviation).items()},
        **{f"UR{name}": value for name, value in _row_forms(spread / u, deviation / u).items()},
    }


def _range(values: Array) -> Array:
    return values.max(axis=-1) - values.min(axis=-1)


def _row_forms(spread: Array, deviation: Array) -> dict[str, Array]:
    forged = spread[..., 1:].mean(axis=-1)
    return _forms(spread.mean(axis=-1), spread[..., 0], forged, deviation.mean(axis=-1))


def _forms(parity: Array, real: Array, forged: Array, deviation: Array) -> dict[str, Array]:
    return dict(zip(FORMS, (parity, (real + forged) / 2, forged, deviation), strict=True))


@dataclass(frozen=True)
class Judged:
    """What a detector said about images of several groups and kinds, one entry for each image.

    Args:
        score: Probability of forged, (N,) in [0, 1].
        kind: "real", or the approach that the forgery was made with, (N,).
        group: The group of people, (N,).
        unit: Person or source photograph, (N,): what intervals are drawn over.
        threshold: Score from which on an image is called forged.

    Raises:
        BadInput: Lengths differ, a score is no probability, there is one kind or one group only, or some group has
            no image of some kind.
    """

    score: Array
    kind: NDArray[np.str_]
    group: NDArray[np.str_]
    unit: NDArray[np.str_]
    threshold: float = 0.5
    kinds: tuple[str, ...] = field(init=False)
    groups: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "score", np.asarray(self.score, dtype=np.float64))
        for name in ("kind", "group", "unit"):
            put(self, name, np.asarray(getattr(self, name), dtype=str))
        shapes = {getattr(self, name).shape for name in ("score", "kind", "group", "unit")}
        if len(shapes) > 1 or self.score.ndim != 1 or not len(self.score):
            raise BadInput(f"scores, kinds, groups and units have shapes {sorted(shapes)}: one of each for every image")
        if not ((self.score >= 0) & (self.score <= 1)).all():  # NaN, too
            raise BadInput("scores must be probabilities in [0, 1]")
        approaches = sorted(set(self.kind.tolist()) - {REAL})
        if not approaches or not (self.kind == REAL).any():
            raise OneClass(f"the images are all {'real' if not approaches else 'forged'}: fairness needs both")
        put(self, "kinds", (REAL, *approaches))
        put(self, "groups", tuple(sorted(set(self.group.tolist()), key=_in_order)))
        if len(self.groups) < 2:
            raise BadInput(f"all images are of the group {self.groups[0]!r}: fairness compares two groups or more")
        empty = np.argwhere(self.counts == 0)
        if len(empty):
            kind, group = self.kinds[empty[0][0]], self.groups[empty[0][1]]
            more = f" (and {len(empty) - 1} more cells)" if len(empty) > 1 else ""
            raise BadInput(f"group {group!r} has no image of kind {kind!r}{more}: give some, or leave one of them out")

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each image is classified correctly, (N,)."""
        return (self.score >= self.threshold) == (self.kind != REAL)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Images in each cell, (1 + K, R)."""
        flat = np.bincount(self._cell(), minlength=len(self.kinds) * len(self.groups))
        return flat.reshape(len(self.kinds), len(self.groups))

    def matrix(self, weights: Array | None = None) -> Array:
        """A, (1 + K, R); for weights (D, N) of the images (D, 1 + K, R), with NaN in cells that got none."""
        w = np.ones((1, len(self.score))) if weights is None else weights
        cells = np.eye(len(self.kinds) * len(self.groups))[self._cell()]
        with np.errstate(invalid="ignore"):
            a = (w @ (cells * self.correct[:, None])) / (w @ cells)
        a = a.clip(0, 1).reshape(len(w), len(self.kinds), len(self.groups))
        return a[0] if weights is None else a

    def _cell(self) -> NDArray[np.int64]:
        rows = {name: i for i, name in enumerate(self.kinds)}
        columns = {name: i for i, name in enumerate(self.groups)}
        kinds = np.array([rows[name] for name in self.kind])
        return kinds * len(self.groups) + np.array([columns[name] for name in self.group])


def _in_order(name: str) -> tuple[float, str]:
    """Numbers by value, then names."""
    try:
        return float(name), ""
    except ValueError:
        return np.inf, name


@dataclass(frozen=True)
class Fairness:
    """The fairness report of a detector.

    Args:
        kinds: Rows of the matrix, "real" first.
        groups: Its columns.
        matrix: A, (1 + K, R).
        counts: Images in each cell.
        units: Persons or photographs of each group.
        figures: The twelve figures with their intervals.
        by_chance: Figure -> what it stays below in 95 % of draws when groups are dealt out by lot: groups of this size
            differ by so much even where all people are treated alike. Empty where people change groups.
        auc: Over all images.
        accuracy: Over all images, at the threshold.
        mean_accuracy: The mean of A: every cell counts alike.
        weak: Rows with a mean accuracy below one half.
        small: Groups with a cell of few images.
        threshold: Score from which on an image is called forged.
    """

    kinds: tuple[str, ...]
    groups: tuple[str, ...]
    matrix: Array
    counts: NDArray[np.int64]
    units: dict[str, int]
    figures: dict[str, Interval]
    by_chance: dict[str, float]
    auc: Interval
    accuracy: Interval
    mean_accuracy: Interval
    weak: tuple[str, ...]
    small: tuple[str, ...]
    threshold: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "kinds": list(self.kinds),
            "groups": list(self.groups),
            "matrix": [[float(value) for value in row] for row in self.matrix],
            "counts": [[int(value) for value in row] for row in self.counts],
            "units": self.units,
            "fairness": {name: interval_json(interval) for name, interval in self.figures.items()},
            "by_chance": self.by_chance,
            "auc": interval_json(self.auc),
            "accuracy": interval_json(self.accuracy),
            "mean_accuracy": interval_json(self.mean_accuracy),
            "weak_rows": list(self.weak),
            "small_groups": list(self.small),
            "threshold": self.threshold,
        }


def assess(judged: Judged, *, draws: int = DRAWS, shuffles: int = 500, small: int = SMALL, seed: int = 0) -> Fairness:
    """The twelve figures with 95 % bootstrap intervals over persons or photographs, and what belongs beside them.

    Args:
        judged: What the detector said.
        draws: Bootstrap samples.
        shuffles: Times that groups are dealt out by lot, for `Fairness.by_chance`.
        small: Images that a cell needs in order not to be flagged.
        seed: Of both.
    """
    drawn = _Drawn(judged)
    figures = {name: bootstrap(drawn.figure(name), judged.unit, draws=draws, seed=seed) for name in FIGURES}
    label = (judged.kind != REAL).astype(np.float64)
    mean = bootstrap(lambda w: judged.matrix(w).mean(axis=(1, 2)), judged.unit, draws=draws, seed=seed)
    matrix, counts = judged.matrix(), judged.counts
    return Fairness(
        kinds=judged.kinds,
        groups=judged.groups,
        matrix=matrix,
        counts=counts,
        units={name: len(set(judged.unit[judged.group == name].tolist())) for name in judged.groups},
        figures=figures,
        by_chance=by_chance(judged, shuffles=shuffles, seed=seed),
        auc=metric_interval("auc", label, judged.score, judged.unit, draws=draws, seed=seed),
        accuracy=mean_interval(judged.correct.astype(np.float64), judged.unit, draws=draws, seed=seed),
        mean_accuracy=mean,
        weak=tuple(name for name, row in zip(judged.kinds, matrix, strict=True) if row.mean() < WEAK),
        small=tuple(name for name, row in zip(judged.groups, counts.T, strict=True) if row.min() < small),
        threshold=judged.threshold,
    )


class _Drawn:
    """The figures under the weightings that a bootstrap asks for.

    Every bootstrap with the same seed asks for the same weightings in the same order, so what the first one computes
    for all figures is kept for the eleven others.
    """

    def __init__(self, judged: Judged) -> None:
        self.judged, self.known = judged, list[dict[str, Array]]()

    def figure(self, name: str) -> Statistic:
        """The statistic of one figure, for one bootstrap."""
        asked = count()

        def value(weights: Array) -> Array:
            number = next(asked)
            if number == len(self.known):
                self.known.append(fairness(self.judged.matrix(weights)))
            return self.known[number][name]

        return value


def by_chance(judged: Judged, *, shuffles: int = 500, level: float = 0.95, seed: int = 0) -> dict[str, float]:
    """What each figure stays below in a share `level` of the draws when people are dealt into the groups by lot.

    Ranges of shares that are measured on few images are above 0 even where everybody is treated alike, so a figure
    says something only where it exceeds this one. {} where some person is in several groups.
    """
    names, first, unit = np.unique(judged.unit, return_index=True, return_inverse=True)
    group_of = judged.group[first]
    if (group_of[unit] != judged.group).any() or shuffles < 1:
        return {}
    rng = np.random.default_rng(seed)
    drawn: list[dict[str, Array]] = []
    for _ in range(shuffles):
        try:
            dealt = Judged(
                judged.score, judged.kind, group_of[rng.permutation(len(names))][unit], judged.unit, judged.threshold
            )
        except BadInput:  # a cell came out empty: people differ in the kinds that they have images of
            continue
        drawn.append(fairness(dealt.matrix()))
    return {name: float(np.quantile([d[name] for d in drawn], level)) for name in FIGURES} if drawn else {}


def matrix_of(correct: ArrayLike, kind: Sequence[str], group: Sequence[str]) -> Array:
    """A from what was right and wrong: shares of `correct` (N,) in each cell of kinds ("real" first) and groups."""
    right = np.asarray(correct, dtype=bool)
    names = np.asarray(kind, dtype=str)
    score = np.where(right == (names != REAL), 1.0, 0.0)  # a score that is right exactly there
    return Judged(score, names, np.asarray(group, dtype=str), np.arange(len(right)).astype(str)).matrix()
