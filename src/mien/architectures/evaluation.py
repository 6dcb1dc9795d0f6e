# SPDX-License-Identifier: Apache-2.0
"""How well a predictor does on measured architectures: ranking, relative errors, coverage of its intervals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mien.architectures.data import Table
from mien.architectures.graph import Floats, Graphs
from mien.architectures.predictor import LEVEL, Estimate, Predictor
from mien.architectures.readers import default_target
from mien.engine import predictions
from mien.errors import BadInput, unknown_name
from mien.files import whole_file
from mien.metrics.intervals import Interval, interval_json
from mien.metrics.ranking import LOWER_IS_BETTER, intervals, kendall_tau, relative_error
from mien.progress import track
from mien.room import TestData, Using


@dataclass
class Answered:
    """What a predictor says of test architectures, all (N, T) or (N,).

    Args:
        truth: Measured values, NaN where there are none.
        value: Predicted values.
        inside: Whether the measured value lies in the interval.
        linear: What ridge regression on operator counts says.
        names: Of the architectures.
        groups: As `Architecture.group`.
    """

    truth: Floats
    value: Floats
    inside: np.ndarray
    linear: Floats
    names: list[str]
    groups: list[str]


def answered(model: Predictor, dataset: Any, using: Using) -> Answered:
    """Predictions for a data set of `Architecture`."""
    parts: list[tuple[Floats, ...]] = []
    names: list[str] = []
    groups: list[str] = []
    total = -(-len(dataset) // using.batch_size)
    stream = predictions(model, dataset, using.batch_size, workers=using.workers)
    for step, (batch, answer) in enumerate(track(stream, total, "evaluate"), start=1):
        assert isinstance(answer, Estimate)
        truth = batch.value.double()
        linear = model.count_estimates(Graphs.of(batch.graph, model.space_name))
        inside = (truth >= answer.low) & (truth <= answer.high)
        parts.append(tuple(part.cpu().numpy() for part in (truth, answer.value, inside, linear)))
        names += batch.name
        groups += batch.group
        if step == using.max_steps:
            break
    measured, predicted, covered, counted = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Answered(measured, predicted, covered, counted, names, groups)


def compared(model: Predictor, table: Table | None, target: str | None) -> tuple[list[tuple[int, str]], list[str]]:
    """Which output is held against which of the data's values: (number of the output, name), and notes on it.

    Args:
        model: The predictor.
        table: The test data's table; None for a data set of the user's, whose values are those of the outputs.
        target: What the user named, or None.
    """
    heads = model.targets
    columns = list(heads) if table is None else list(table.values)
    if target is not None:
        if target not in columns:
            raise unknown_name("target", target, columns)
        if target not in heads and len(heads) > 1:
            raise unknown_name(f"output of this {model.name}", target, heads)
        pairs = [(heads.index(target) if target in heads else 0, target)]
    else:
        pairs = [(i, name) for i, name in enumerate(heads) if name in columns]
        if not pairs:
            assert table is not None
            pairs = [(0, default_target(table))]
    return pairs, [
        f"the model was trained to predict {heads[i]!r} and is held against {name!r}: the ranking says how well one "
        "stands for the other; MAPE and Acc compare different numbers"
        for i, name in pairs
        if heads[i] != name
    ]


def evaluate(model: Predictor, test: TestData, out: Path | None, using: Using) -> dict[str, Any]:
    """See `mien.room.Room.evaluate`."""
    dataset: Any = test.dataset
    table: Table | None = getattr(dataset, "table", None)
    pairs, notes = compared(model, table, using.target)
    found = answered(model, dataset, using)
    metrics: dict[str, Any] = {}
    items: dict[str, dict[str, float]] = {name: {} for name in found.names}
    pictures: list[str] = []
    for head, name in pairs:
        truth = found.truth[:, head]
        if table is not None:
            truth = table.values[name][dataset.rows[: len(truth)]]
        there = np.isfinite(truth)
        if there.sum() < 2:
            raise BadInput(f"{int(there.sum())} test architectures have a value of {name!r}: a ranking needs 2")
        prefix = "" if len(pairs) == 1 else f"{name}/"
        x, y = truth[there], found.value[there, head]
        for key, interval in intervals(x, y, seed=using.seed).items():
            metrics[prefix + key] = interval_json(interval)
        linear = kendall_tau(x, found.linear[there, head])
        metrics[f"{prefix}kendall_tau_ridge_on_counts"] = interval_json(Interval(linear, np.nan, np.nan))
        if model.targets[head] == name and bool(np.isfinite(model.margin[head].item())):
            coverage = float(found.inside[there, head].mean())
            metrics[f"{prefix}coverage"] = interval_json(Interval(coverage, np.nan, np.nan))
        if (x != 0).all():
            for i, error in zip(np.flatnonzero(there), relative_error(x, y), strict=True):
                items[found.names[i]] |= {f"{prefix}mape": float(error), f"{prefix}acc10": float(error <= 0.1)}
        if out is not None and using.pictures:
            pictures.append(picture(out, name, x, y))
    return {
        "metrics": metrics,
        "primary": next(iter(metrics)),
        "lower_is_better": [name for name in metrics if name.rpartition("/")[2] in LOWER_IS_BETTER],
        "items": [{"id": n, "group": g, "values": items[n]} for n, g in zip(found.names, found.groups, strict=True)],
        "pictures": pictures,
        "notes": [
            *notes,
            f"intervals: 95 % bootstrap over {len(found.names)} architectures; coverage is the share of measured "
            f"values in the model's {LEVEL:.0%} intervals",
            "ridge on counts is linear regression on how often each operator occurs: a target that it ranks as well "
            "proves nothing about a network",
        ],
    }


def picture(out: Path, name: str, truth: Floats, predicted: Floats) -> str:
    """Write the scatter of measured and predicted values; give the file's name."""
    from mien.report.plots import png, scatter  # matplotlib: only when something is written

    safe = "".join(c if c.isalnum() else "-" for c in name)
    drawn = scatter(truth, predicted, x=f"measured {name}", y=f"predicted {name}")
    with whole_file(out / f"scatter-{safe}.png") as temporary:
        temporary.write_bytes(png(drawn))
    return f"scatter-{safe}.png"
