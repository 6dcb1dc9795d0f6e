# SPDX-License-Identifier: Apache-2.0
"""All numbers of a binary score in one dictionary, with intervals: what an evaluation writes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from mien.errors import BadInput
from mien.metrics.binary import METRICS, calibration, checked, members
from mien.metrics.intervals import DRAWS, Interval, bootstrap, metric_interval


def summarise(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    *,
    threshold: float = 0.5,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """Every named metric with its interval, and both accuracies at `threshold`.

    Args:
        labels: (N,), 0 or 1; both must occur.
        scores: (N,), probabilities of class 1.
        groups: Name of every item's person or video, (N,): what the intervals run over.
        threshold: Scores at or above it are called class 1.
        draws: Bootstrap samples.
        seed: Of the draws.
    """
    y, s = checked(labels, scores)
    called = (s >= threshold).astype(np.float64)  # as a score it has its threshold at 0.5, where the metrics look
    table = {
        name: metric_interval(name, y, called if "accuracy" in name else s, groups, draws=draws, seed=seed)
        for name in METRICS
    }
    error = calibration(y, s).ece
    table["ece"] = Interval(error, math.nan, math.nan)  # biased upwards in every resample: an interval would mislead
    return table


def by_kind(
    metric: str,
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    kinds: ArrayLike,
    *,
    reference: str = "real",
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """A metric for every kind of forgery against all items of the `reference` kind, with intervals over groups.

    Args:
        metric: A name in `METRICS`.
        labels: (N,), 0 or 1.
        scores: (N,).
        groups: Name of every item's person or video, (N,).
        kinds: Kind of every item, (N,); those of class 0 are of the kind `reference`.
        reference: The kind that stands beside every other.
        draws: Bootstrap samples.
        seed: Of the draws.
    """
    y, s = checked(labels, scores)
    names, people = np.asarray(kinds).astype(str), np.asarray(groups)
    if names.shape != y.shape:
        raise BadInput(f"kinds have shape {names.shape}: one for each of the {len(y)} items is needed")
    if not (names == reference).any():
        raise BadInput(f"no item is of the kind {reference!r}: kinds are {', '.join(sorted(set(names.tolist())))}")
    return {
        kind: metric_interval(metric, y[mask], s[mask], people[mask], draws=draws, seed=seed)
        for kind, mask in members(names, reference).items()
    }


def by_subgroup(
    metric: str,
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    subgroups: ArrayLike,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """A metric within every subgroup (of age, of skin tone), with intervals over groups.

    A subgroup that holds one class only gets the value NaN when the metric needs both.

    Args:
        metric: A name in `METRICS`.
        labels: (N,), 0 or 1.
        scores: (N,).
        groups: Name of every item's person or video, (N,).
        subgroups: Subgroup of every item, (N,).
        draws: Bootstrap samples.
        seed: Of the draws.
    """
    y, s = checked(labels, scores)
    people = np.asarray(groups)
    table = {}
    for name, mask in members(subgroups).items():
        if METRICS[metric].both_classes and y[mask].min() == y[mask].max():
            table[name] = Interval(math.nan, math.nan, math.nan)
        else:
            table[name] = metric_interval(metric, y[mask], s[mask], people[mask], draws=draws, seed=seed)
    return table


def mean_over_kinds(
    metric: str,
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    kinds: ArrayLike,
    *,
    reference: str = "real",
    leave_out: tuple[str, ...] = (),
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Mean over kinds of a metric of each kind against the reference, with one interval for the mean.

    Args:
        metric: A name in `METRICS`.
        labels: (N,), 0 or 1.
        scores: (N,).
        groups: Name of every item's person or video, (N,).
        kinds: Kind of every item, (N,).
        reference: The kind that stands beside every other.
        leave_out: Kinds that do not count, such as those that framing alone gives away.
        draws: Bootstrap samples.
        seed: Of the draws.
    """
    y, s = checked(labels, scores)
    masks = [mask for kind, mask in members(kinds, reference).items() if kind not in leave_out]
    if not masks:
        raise BadInput(f"no kind is left to average over: {', '.join(leave_out)} are left out")
    weighted = METRICS[metric].weighted
    return bootstrap(
        lambda w: np.mean([weighted(y[m], s[m], w[:, m]) for m in masks], axis=0), groups, draws=draws, seed=seed
    )


def metrics_json(table: dict[str, Interval]) -> dict[str, dict[str, float | None]]:
    """Intervals as plain JSON: name -> {"value", "low", "high"}; what does not exist is None."""
    return {name: interval.to_json() for name, interval in table.items()}
