# SPDX-License-Identifier: Apache-2.0
"""Does a forgery betray itself by framing, brightness or compression alone? Ask a classifier that sees 12 pixels.

A thumbnail of 12 x 12 pixels shows neither blend edges nor textures. If a linear classifier on it tells forged from
real, on people it was not trained on, a detector's score on that kind says little, and the kind is marked confounded.
Boosted trees are reported beside it: they find what is not linear (layout and pose of swapped faces), but do not
decide, since real cues may survive on thumbnails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

from mien.errors import BadInput

LIMIT = 0.6
"""A kind whose AUC on thumbnails is above this with confidence is confounded."""


@dataclass(frozen=True)
class KindReport:
    """What thumbnails tell about one kind of forgery.

    Args:
        kind: Its name.
        real: Real images looked at.
        forged: Forged images of this kind.
        people: Identities that were scored (no identity is in training and scoring at once).
        auc: Of logistic regression; `low` and `high` are its 95 % interval over identities.
        low: Lower bound.
        high: Upper bound.
        boosted_auc: Of gradient-boosted trees, with `boosted_low` and `boosted_high`.
        boosted_low: Lower bound.
        boosted_high: Upper bound.
        confounded: Whether `low` is above the limit.
    """

    kind: str
    real: int
    forged: int
    people: int
    auc: float
    low: float
    high: float
    boosted_auc: float
    boosted_low: float
    boosted_high: float
    confounded: bool


@dataclass(frozen=True)
class ConfoundReport:
    """The check of a whole data set.

    Args:
        kinds: One row per kind of forgery.
        limit: Above which lower bound a kind is confounded.
        size: Thumbnail side in pixels.
        scored: "held-out people", or "cross-validation over people" with the number of folds.
    """

    kinds: list[KindReport]
    limit: float
    size: int
    scored: str

    @property
    def confounded(self) -> list[str]:
        """Kinds to leave out of means."""
        return [row.kind for row in self.kinds if row.confounded]

    def to_json(self) -> dict[str, Any]:
        """As plain numbers, strings, lists and dicts."""
        return asdict(self)

    def table(self) -> str:
        """As text for a terminal."""
        lines = [f"{'kind':<16} {'logistic AUC':<20} {'boosted AUC':<20} verdict"]
        for row in self.kinds:
            linear = f"{row.auc:.3f} [{row.low:.3f}, {row.high:.3f}]"
            boosted = f"{row.boosted_auc:.3f} [{row.boosted_low:.3f}, {row.boosted_high:.3f}]"
            lines.append(f"{row.kind:<16} {linear:<20} {boosted:<20} {'confounded' if row.confounded else 'ok'}")
        return "\n".join(lines)

    def require_clean(self) -> None:
        """Refuse confounded data (`--strict`).

        Raises:
            BadInput: Some kind is confounded.
        """
        bad = [f"{row.kind} (AUC {row.auc:.2f}, at least {row.low:.2f})" for row in self.kinds if row.confounded]
        if bad:
            raise BadInput(
                f"confounded: {self.size}-pixel thumbnails alone tell {', '.join(bad)} from real, the limit is "
                f"{self.limit}; leave these kinds out, or run without --strict to see them marked"
            )


def thumbnails(images: Tensor, size: int = 12) -> NDArray[np.float32]:
    """Area-averaged thumbnails as rows.

    Args:
        images: (N, 3, H, W), uint8 or float in [0, 1].
        size: Side in pixels.

    Returns:
        (N, 3 * size * size), in [0, 1].
    """
    rows = []
    for part in images.split(256):
        scaled = part.float() / 255 if part.dtype == torch.uint8 else part.float()
        rows.append(F.adaptive_avg_pool2d(scaled, size).flatten(1).numpy())
    return np.concatenate(rows) if rows else np.zeros((0, 3 * size * size), dtype=np.float32)


def confound_report(
    images: Tensor,
    kinds: Sequence[str],
    groups: Sequence[str],
    *,
    test_groups: Sequence[str] | None = None,
    size: int = 12,
    limit: float = LIMIT,
    folds: int = 5,
    resamples: int = 1000,
    seed: int = 0,
) -> ConfoundReport:
    """Check every kind of forgery in a data set against its real images.

    Args:
        images: All of them, (N, 3, H, W), uint8 or float in [0, 1], as a detector would see them.
        kinds: Kind of each, "real" for real ones.
        groups: Identity of each. None is ever in training and in scoring at once.
        test_groups: Identities to score, the others train; default cross-validation over identities.
        size: Thumbnail side in pixels.
        limit: A kind is confounded if the lower 95 % bound of its AUC is above this.
        folds: Of the cross-validation; fewer identities than folds take one fold each.
        resamples: Bootstrap resamples of identities.
        seed: Of the bootstrap and the trees.

    Raises:
        BadInput: Lengths differ, there are no real or no forged images, or fewer than two identities on either side.
    """
    kind, group = np.asarray(kinds, dtype=str), np.asarray(groups, dtype=str)
    if not len(images) == len(kind) == len(group):
        raise BadInput(f"{len(images)} images, {len(kind)} kinds, {len(group)} groups: one of each is needed")
    names = sorted(set(kind.tolist()) - {"real"})
    if not names or not (kind == "real").any():
        raise BadInput("the confound check needs real and forged images: kind 'real' and at least one other")
    held = None if test_groups is None else np.isin(group, np.asarray(test_groups, dtype=str))
    features = thumbnails(images, size)
    rows = []
    for name in names:
        use = (kind == "real") | (kind == name)
        label = (kind[use] == name).astype(np.int64)
        splits = _splits(group[use], label, None if held is None else held[use], folds, name)
        scored = np.concatenate([test for _, test in splits])
        people = group[use][scored]
        figures = []
        for boosted in (False, True):
            score = _scores(features[use], label, splits, boosted, seed)[scored]
            figures.append((_auc(label[scored], score), *_interval(label[scored], score, people, resamples, seed)))
        (auc, low, high), trees = figures
        count = len(np.unique(people))
        real, forged = int((label == 0).sum()), int(label.sum())
        rows.append(KindReport(name, real, forged, count, auc, low, high, *trees, confounded=low > limit))
    fold_count = min(folds, len(np.unique(group)))
    how = f"cross-validation over people, {fold_count} folds" if test_groups is None else "held-out people"
    return ConfoundReport(rows, limit, size, how)


Split = tuple[NDArray[np.int64], NDArray[np.int64]]


def _splits(
    group: NDArray[np.str_], label: NDArray[np.int64], held: NDArray[np.bool_] | None, folds: int, kind: str
) -> list[Split]:
    people = len(np.unique(group))
    if people < 2:
        raise BadInput(f"{kind}: all images are of {people} identity: the confound check splits by identity, give more")
    if held is None:
        splits = list(GroupKFold(min(folds, people)).split(group, groups=group))
    else:
        splits = [(np.flatnonzero(~held), np.flatnonzero(held))]
    for train, test in splits:
        if len(np.unique(label[train])) < 2 or len(np.unique(label[test])) < 2:
            raise BadInput(f"{kind}: a side of the split by identity has one class only: give more identities")
    return splits


def _scores(
    features: NDArray[np.float32], label: NDArray[np.int64], splits: list[Split], boosted: bool, seed: int
) -> NDArray[np.float64]:
    """Out-of-fold scores, as ranks in (0, 1) within their fold: folds have different offsets."""
    scores = np.full(len(label), np.nan)
    for train, test in splits:
        model: ClassifierMixin
        if boosted:
            model = HistGradientBoostingClassifier(
                max_iter=100, learning_rate=0.1, early_stopping=False, random_state=seed
            )
        else:
            # C = 0.01: 432 correlated pixels against a few thousand images; larger values overfit and score lower.
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        model.fit(features[train], label[train])
        value = model.predict_proba(features[test])[:, 1]
        _, place, times = np.unique(value, return_inverse=True, return_counts=True)
        scores[test] = (np.cumsum(times) - 0.5 * (times - 1) - 0.5)[place] / len(test)  # ties share their mean rank
    return scores


def _auc(label: NDArray[np.int64], score: NDArray[np.float64]) -> float:
    return float(roc_auc_score(label, score))


def _interval(
    label: NDArray[np.int64], score: NDArray[np.float64], people: NDArray[np.str_], resamples: int, seed: int
) -> tuple[float, float]:
    """95 % percentile interval of the AUC over resampled identities.

    A resample is a weight per identity; with the scores sorted once, its AUC is one cumulative sum.
    """
    rng = np.random.default_rng(seed)
    _, person = np.unique(people, return_inverse=True)
    levels, place = np.unique(score, return_inverse=True)
    count = int(person.max()) + 1
    values = []
    for _ in range(resamples):
        weight = np.bincount(rng.integers(count, size=count), minlength=count)[person].astype(np.float64)
        real = np.bincount(place, weights=weight * (label == 0), minlength=len(levels))
        forged = np.bincount(place, weights=weight * (label == 1), minlength=len(levels))
        pairs = real.sum() * forged.sum()
        if pairs > 0:  # a resample may hold one class only when identities have few images
            values.append(float((forged * (np.cumsum(real) - 0.5 * real)).sum() / pairs))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
