# SPDX-License-Identifier: Apache-2.0
"""`mien compare RUN RUN`: is one run better than the other on the same data, and how sure is that?"""

from __future__ import annotations

import json
from collections.abc import Collection, Set
from pathlib import Path
from typing import Any

from mien.commands._parser import Parser, natural
from mien.errors import BadInput, unknown_name
from mien.files import write_json


def run(arguments: list[str]) -> int:
    """Print the paired difference, second minus first, with its interval over persons or videos."""
    parser = Parser("compare", "The paired difference between two runs that were evaluated on the same data.")
    parser.add_argument("first", metavar="RUN", help="a run folder that was evaluated, or an evaluation.json")
    parser.add_argument("second", metavar="RUN", help="the run to compare with it")
    parser.add_argument("--metric", help="the metric (default: all that both runs have)")
    parser.add_argument("--out", metavar="FILE", help="also write the result as JSON")
    parser.add_argument("--seed", type=natural, default=0, help="of the bootstrap")
    given = parser.read(arguments)
    result = compare(read_evaluation(given.first), read_evaluation(given.second), given.metric, given.seed)
    print(f"second minus first on {result['items']} items of {result['groups']} groups")
    width = max(len(name) for name in result["differences"])
    for name, found in result["differences"].items():
        print(f"{name:<{width}}  {found['first']:.3f} -> {found['second']:.3f}  {_difference(found)}")
    if given.out is not None:
        write_json(given.out, {"first": given.first, "second": given.second, **result})
        print(f"written: {given.out}")
    return 0


def read_evaluation(path: str | Path) -> dict[str, Any]:
    """The evaluation.json of a run. Raises BadInput when there is none."""
    folder = Path(path)
    places = [folder] if folder.is_file() else [folder / "evaluation.json", folder / "evaluation" / "evaluation.json"]
    file = next((place for place in places if place.is_file()), None)
    if not folder.exists():
        raise BadInput(f"{folder} does not exist: give a run folder or an evaluation.json")
    if file is None:
        raise BadInput(f"{folder} has not been evaluated: run mien evaluate {folder} --data DIR first")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{file} is not JSON: {error}") from error
    items = value.get("items") if isinstance(value, dict) else None
    if not isinstance(items, list) or not items or not all(isinstance(i, dict) and _is_item(i) for i in items):
        raise BadInput(f"{file} has no scored items: it must be what mien evaluate wrote")
    if len({item["id"] for item in items}) < len(items):
        raise BadInput(f"{file} scores an item twice: it cannot be compared")
    return dict(value)


def _is_item(item: dict[str, Any]) -> bool:
    """A scored item: a label and a score, or numbers of its own whose means are the metrics."""
    return {"id", "group"} <= set(item) and ({"label", "score"} <= set(item) or isinstance(item.get("values"), dict))


def compare(first: dict[str, Any], second: dict[str, Any], metric: str | None, seed: int = 0) -> dict[str, Any]:
    """The differences of two evaluations, second minus first.

    Args:
        first: An evaluation.
        second: Another, of the same items.
        metric: Name of a metric, or None for all that both evaluations report.
        seed: Of the bootstrap.

    Raises:
        BadInput: The items differ, or the metric is unknown.
    """
    one, two = ({item["id"]: item for item in value["items"]} for value in (first, second))
    if one.keys() != two.keys():
        raise BadInput(
            f"the runs were evaluated on different items ({len(one.keys() - two.keys())} only in the first, "
            f"{len(two.keys() - one.keys())} only in the second): evaluate both on the same data"
        )
    names = sorted(one)
    for field in ("label", "group"):
        if any(one[name].get(field) != two[name].get(field) for name in names):
            raise BadInput(f"the runs give the same items another {field}: evaluate both on the same data")
    pairs = [(one[name], two[name]) for name in names]
    reported = first.get("metrics", {}).keys() & second.get("metrics", {}).keys()
    prefix = "video_" if str(first.get("primary", "")).startswith("video_") else ""  # what the items are
    groups = [item["group"] for item, _ in pairs]
    return {
        "items": len(names),
        "groups": len(set(groups)),
        "differences": (
            _means(pairs, groups, metric, first.get("lower_is_better", ()), seed)
            if "values" in pairs[0][0]
            else _binary(pairs, groups, metric, reported, prefix, seed)
        ),
    }


Pairs = list[tuple[dict[str, Any], dict[str, Any]]]


def _means(pairs: Pairs, groups: list[str], metric: str | None, lower: Collection[str], seed: int) -> dict[str, Any]:
    """Differences of metrics that are means of the items' own numbers."""
    from mien.metrics.intervals import interval_json, mean_difference

    known = [name for name in pairs[0][0]["values"] if all(name in item["values"] for pair in pairs for item in pair)]
    if metric is not None and metric not in known:
        raise unknown_name("metric", metric, known)
    result = {}
    for name in [metric] if metric is not None else known:
        sides = [[pair[side]["values"][name] for pair in pairs] for side in (0, 1)]
        result[name] = {
            "first": sum(sides[0]) / len(pairs),
            "second": sum(sides[1]) / len(pairs),
            "difference": interval_json(mean_difference(sides[0], sides[1], groups, seed=seed)),
            "higher_is_better": name not in lower,
        }
    return result


def _binary(
    pairs: Pairs, groups: list[str], metric: str | None, reported: Set[str], prefix: str, seed: int
) -> dict[str, Any]:
    """Differences of metrics of labels and scores, called as the evaluations call them."""
    from mien.metrics.binary import METRICS
    from mien.metrics.intervals import interval_json, metric_interval, paired_difference

    known = {prefix + name: name for name in METRICS}
    if metric is not None and metric not in known:
        raise unknown_name("metric", metric, known)
    chosen = [metric] if metric is not None else [name for name in known if name in reported]
    if not chosen:
        raise BadInput(f"the runs report no common metric: name one with --metric ({', '.join(known)})")
    labels = [item["label"] for item, _ in pairs]
    scores = [[pair[side]["score"] for pair in pairs] for side in (0, 1)]
    differences = {}
    for called in chosen:
        name = known[called]
        found = paired_difference(name, labels, scores[0], scores[1], groups, seed=seed)
        values = [metric_interval(name, labels, side, groups, draws=1, seed=seed).value for side in scores]
        differences[called] = {
            "first": values[0],
            "second": values[1],
            "difference": interval_json(found),
            "higher_is_better": METRICS[name].higher_is_better,
        }
    return differences


def _difference(found: dict[str, Any]) -> str:
    value, low, high, p = (found["difference"].get(name) for name in ("value", "low", "high", "p"))
    if low is None or high is None:
        return f"{value:+.3f} (one group only: no interval)"
    better = (low > 0) == found["higher_is_better"]
    words = "the second is better" if better else "the first is better"
    if low <= 0 <= high:
        words = "no clear difference"
    elif p is not None and p > 0.05:
        words = "too few groups to tell"
    return f"{value:+.3f}  [{low:+.3f}, {high:+.3f}]  p {p:.2g}  {words}"
