# SPDX-License-Identifier: Apache-2.0
"""How well a detector does: frames and videos, overall and per kind of forgery, with intervals over groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.utils.data import Subset

from mien.engine import Method, predictions
from mien.errors import BadInput
from mien.forensics.clips.pooling import Pooling, video_score
from mien.forensics.data import Faces, Verdict
from mien.metrics.binary import OneClass, members
from mien.metrics.intervals import Interval, metric_interval

THRESHOLD = 0.5
_FIELDS = ("score", "label", "group", "kind", "name", "unit")
METRICS = ("auc", "average_precision", "eer", "accuracy", "balanced_accuracy", "brier")


@dataclass
class Scored:
    """Scores of a data set, one entry per frame or per video.

    Args:
        score: Probability of forged, (N,).
        label: 0 or 1, (N,).
        group: Person or source video, (N,): what intervals are drawn over.
        kind: "real" or the kind of forgery, (N,).
        name: What it is called, (N,): the file or the video.
        unit: The video that a frame belongs to, (N,).
        attributes: What else is known about who is seen in each, name -> value; empty where nothing is.
    """

    score: np.ndarray
    label: np.ndarray
    group: list[str]
    kind: list[str]
    name: list[str]
    unit: list[str] = field(default_factory=list)
    attributes: list[dict[str, str]] = field(default_factory=list)

    def videos(self, pooling: Pooling = "log_odds") -> Scored:
        """One entry per unit, its score that of its frames or clips together, in order of first appearance."""
        rows: dict[str, list[int]] = {}
        for i, unit in enumerate(self.unit):
            rows.setdefault(unit, []).append(i)
        first = [members[0] for members in rows.values()]
        return Scored(
            np.array([video_score(self.score[members], pooling) for members in rows.values()]),
            self.label[first],
            [self.group[i] for i in first],
            [self.kind[i] for i in first],
            list(rows),
            list(rows),
        )

    @property
    def has_videos(self) -> bool:
        """Whether some unit has more than one frame."""
        return len(set(self.unit)) < len(self.unit)


def score(method: Method, dataset: Any, *, batch_size: int = 64, workers: int = 0) -> Scored:
    """The method's scores on a data set of `Faces`. Samples of unknown label (-1) are refused."""
    parts: dict[str, list[Any]] = {name: [] for name in (*_FIELDS, "attributes")}
    stream = predictions(method, dataset, batch_size, workers=workers, cap=batch_size)
    for batch, verdict in stream:
        _collect(parts, batch, verdict)
    labels = np.array(parts["label"])
    if (labels < 0).any():
        raise BadInput(
            f"{int((labels < 0).sum())} of {len(labels)} images have no label: evaluation needs real and forged"
        )
    return Scored(np.array(parts["score"]), labels, **{name: parts[name] for name in (*_FIELDS[2:], "attributes")})


def _collect(parts: dict[str, list[Any]], batch: Faces, verdict: Verdict) -> None:
    count = len(batch.group)
    if verdict.score.shape != (count,):
        raise BadInput(f"the detector gives scores {tuple(verdict.score.shape)} for {count} images: one each is needed")
    parts["score"].extend(verdict.score.float().cpu().tolist())
    parts["label"].extend(batch.label.tolist())  # type: ignore[union-attr]
    parts["group"].extend(batch.group)
    parts["kind"].extend(batch.kind)
    start = len(parts["name"])
    parts["name"].extend(path or f"sample {start + i}" for i, path in enumerate(batch.path))
    parts["unit"].extend(unit or parts["name"][start + i] for i, unit in enumerate(batch.unit))
    columns: dict[str, Any] = dict(batch.attributes)
    parts["attributes"].extend({name: values[i] for name, values in columns.items()} for i in range(count))


class First(Subset[Faces]):
    """The beginning of a data set, which still says whose its samples are.

    Args:
        dataset: The whole.
        batches: How many batches, or units for a detector that answers for whole units.
        batch_size: Samples of a batch.
        by_unit: Whether `batches` counts units.
    """

    def __init__(self, dataset: Any, batches: int, batch_size: int, *, by_unit: bool = False) -> None:
        rows = list(range(min(batches * batch_size, len(dataset))))
        if by_unit:
            kept = set(list(dict.fromkeys(dataset.units))[:batches])
            rows = [i for i, unit in enumerate(dataset.units) if unit in kept]
        super().__init__(dataset, rows)
        for name in ("groups", "units", "clients"):
            if hasattr(dataset, name):
                setattr(self, name, [getattr(dataset, name)[i] for i in rows])


def figures(scored: Scored, seed: int = 0, pooling: Pooling = "log_odds") -> dict[str, Interval]:
    """Every metric with its interval. Frame metrics always, `video_` ones where there are videos."""
    table = {name: _interval(name, scored, seed) for name in METRICS}
    if scored.has_videos:
        videos = scored.videos(pooling)
        table |= {f"video_{name}": _interval(name, videos, seed) for name in METRICS}
    return table


def by_kind(scored: Scored, seed: int = 0) -> dict[str, Interval]:
    """AUC of each kind of forgery against all real images."""
    table = {}
    for kind, mask in members(scored.kind, "real").items():
        rows = np.flatnonzero(mask)
        part = _part(scored, rows)
        table[kind] = _interval("auc", part, seed)
    return table


def by_client(
    scored: Scored, clients: Sequence[str], seed: int = 0, pooling: Pooling = "log_odds"
) -> dict[str, dict[str, Interval]]:
    """The figures of every client's own samples; {} where samples belong to no client.

    Args:
        scored: Frames in the order of the data set.
        clients: Client of every sample of the data set.
        seed: Of the intervals.
        pooling: How a video is scored.
    """
    table = {}
    for client in dict.fromkeys(clients):
        rows = np.flatnonzero(np.array(clients) == client)
        if len(set(scored.label[rows].tolist())) == 2:
            part = _part(scored, rows)
            table[client] = figures(part, seed, pooling)
    return table


def _part(scored: Scored, rows: np.ndarray) -> Scored:
    columns = (scored.group, scored.kind, scored.name, scored.unit)
    return Scored(scored.score[rows], scored.label[rows], *([column[i] for i in rows] for column in columns))


def _interval(metric: str, scored: Scored, seed: int) -> Interval:
    try:
        return metric_interval(metric, scored.label, scored.score, scored.group, seed=seed)
    except OneClass as error:
        present = "real" if (scored.label == 0).all() else "forged"
        raise BadInput(f"the test data holds {present} images only: evaluation needs real and forged ones") from error
