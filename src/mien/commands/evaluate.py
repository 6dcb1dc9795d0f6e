# SPDX-License-Identifier: Apache-2.0
"""`mien evaluate WEIGHTS --data DIR`: numbers with intervals, curves, and a refusal of data that were trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mien.commands._apply import WEIGHTS, add_apply_options, apply_options, say
from mien.commands._parser import Parser, set_threads


def run(arguments: list[str]) -> int:
    """Evaluate and print the figures."""
    parser = Parser("evaluate", "Numbers with 95 % intervals (over persons or videos) on data the model has not seen.")
    parser.add_argument("weights", metavar="WEIGHTS", help=WEIGHTS)
    parser.add_argument("--data", required=True, metavar="DIR", help="labelled data, or 'embedded'")
    parser.add_argument("--kind", default="auto", help="layout of the data")
    parser.add_argument("--strict", action="store_true", help="refuse data whose classes differ in framing alone")
    parser.add_argument(
        "--allow-same-names",
        action="store_true",
        help="persons or videos that are called as in training are different ones (files are still compared)",
    )
    parser.add_argument("--features", metavar="FILE", help="Inception's weights, for the FID of pictures that are made")
    add_apply_options(parser, out="evaluation.json and pictures (default: WEIGHTS/evaluation, or NAME-evaluation)")
    given = parser.read(arguments)
    set_threads(given.threads)

    from mien.api import evaluate

    options = {
        "kind": given.kind,
        "strict": given.strict,
        "allow_same_names": given.allow_same_names,
        "features": given.features,
        **apply_options(given),
    }
    if given.dry_run:
        return _rehearse(given.weights, given.data, options)
    beside = Path(given.weights) / "evaluation" if Path(given.weights).exists() else Path(f"{given.weights}-evaluation")
    out = Path(given.out) if given.out is not None else beside
    result = evaluate(given.weights, given.data, out, **options)
    print(figures(result))
    say(result["notes"])
    print(f"written: {out / 'evaluation.json'}")
    return 0


def figures(result: dict[str, Any]) -> str:
    """The metrics, one per line, the primary one first: name, value, interval.

    >>> print(figures({"primary": "auc", "metrics": {"auc": {"value": 0.9, "low": 0.85, "high": 0.94}}}))
    auc  0.900  [0.850, 0.940]
    """
    metrics: dict[str, Any] = result["metrics"]
    primary = result["primary"]
    names = [name for name in metrics if name == primary] + [name for name in metrics if name != primary]
    width = max((len(name) for name in names), default=0)
    return "\n".join(f"{name:<{width}}  {interval(metrics[name])}" for name in names)


def interval(metric: dict[str, Any]) -> str:
    """Value and bounds, as far as they exist."""
    value, low, high = (metric.get(name) for name in ("value", "low", "high"))
    if value is None:
        return "undefined"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f}  [{low:.3f}, {high:.3f}]"


def _rehearse(weights: str, data: str, options: dict[str, Any]) -> int:
    from mien.api import autocast, open_trial
    from mien.rehearsal import rehearse_predictions

    precision = options.pop("precision")
    trial = open_trial(weights, data, **options)
    with autocast(trial.opened.device, precision):
        lines = rehearse_predictions(
            trial.opened.method, trial.test.dataset, trial.using.batch_size, trial.using.workers
        )
    print("\n".join(lines))
    return 0
