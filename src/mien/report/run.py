# SPDX-License-Identifier: Apache-2.0
"""The report of a training run, made from what is in its folder and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from mien.errors import BadInput
from mien.report.html import Cell, Page, Tile
from mien.report.plots import training_curves

Line = dict[str, Any]
Series = dict[str, dict[str, list[tuple[float, float]]]]

_PAUSE = 600.0
"""Seconds between two metric lines from which on the run counts as having been interrupted, not as having computed."""


def read_metrics(path: str | Path) -> list[Line]:
    """The lines of a metrics file. A last line that a killed process left half written is not one yet.

    Raises BadInput when another line is not JSON.
    """
    lines = []
    text = Path(path).read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            if number == len(text):
                break
            raise BadInput(f"{path}, line {number}, is not JSON: {error}") from error
    return lines


def metric_series(lines: Iterable[Line]) -> Series:
    """Points (step, value) by panel and name: losses, then logged numbers, validation, learning rates."""
    panels = {"losses": "Losses", "logged": "Logged", "validation": "Validation", "lr": "Learning rate"}
    series: Series = {title: {} for title in panels.values()}
    for line in lines:
        for field, title in panels.items():
            for name, value in line.get(field, {}).items():
                number = math.nan if value is None else float(value)
                series[title].setdefault(name, []).append((float(line["step"]), number))
    return {title: names for title, names in series.items() if names}


def computing_time(lines: Iterable[Line]) -> float:
    """Seconds between the first and the last line, without the pauses of interrupted runs."""
    times = [float(line["time"]) for line in lines if "time" in line]
    gaps = (b - a for a, b in pairwise(times))
    return sum(gap for gap in gaps if 0 < gap < _PAUSE)


def run_page(folder: str | Path) -> Page:
    """The report of a run as a page, to which sections may be added. Raises BadInput when `folder` is not a run."""
    folder = Path(folder)
    config = _json(folder, "config.json")
    if config is None:
        raise BadInput(f"{folder} is not a run folder: it has no config.json")
    versions = _json(folder, "versions.json") or {}
    manifest = _json(folder, "manifest.json") or {}
    lines = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").is_file() else []
    method = str(config.get("method", "run"))
    page = Page(f"Training run: {method}", subtitle=_subtitle(config, versions, manifest))
    page.section("Result")
    page.tiles(_tiles(lines))
    if lines:
        series = metric_series(lines)
        page.section("Curves")
        page.plot(lambda theme: training_curves(series, theme), alt=_in_words(series))
        _validation_table(page, lines)
        _failure_table(page, lines)
    else:
        page.note("The run has not written any metrics yet.")
    page.section("What it was trained on")
    page.paragraph(str(manifest.get("description") or "The run's manifest does not describe its data."))
    counts: list[tuple[Cell, ...]] = [
        (what, len(manifest[name]))
        for name, what in (("groups", "persons, videos or other groups"), ("files", "files, known by their SHA-256"))
        if isinstance(manifest.get(name), list)
    ]
    if counts:
        page.table(["what", "count"], counts, caption="Training data that an evaluation of this model refuses")
    page.section("How it was run")
    settings = config.get("settings", {})
    if settings:
        page.table(["setting", "value"], [(k, _short(v)) for k, v in settings.items()], caption="Settings")
    shown = {k: v for k, v in config.items() if k != "settings"}
    page.details("Configuration in full", json.dumps(shown, indent=2))
    page.table(["what", "version"], _version_rows(versions), caption="Versions")
    return page


def run_report(folder: str | Path) -> Path:
    """Write `report.html` into a run folder and return its path."""
    return run_page(folder).write(Path(folder) / "report.html")


def _json(folder: Path, name: str) -> dict[str, Any] | None:
    path = folder / name
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise BadInput(f"{path} is not a JSON object: {error}") from error


def _subtitle(config: Line, versions: Line, manifest: Line) -> str:
    schedule = config.get("schedule", {})
    parts = [str(schedule.get("kind", "")), f"seed {config.get('settings', {}).get('seed', 0)}"]
    parts += [f"mien {versions['mien']}"] if "mien" in versions else []
    parts += [str(manifest["description"])] if manifest.get("description") else []
    return " · ".join(part for part in parts if part)


def _tiles(lines: list[Line]) -> list[Tile]:
    steps = max((int(line["step"]) for line in lines), default=0)
    epochs = max((int(line.get("epoch", 0)) for line in lines), default=-1) + 1
    tiles = [Tile("steps", steps, f"in {epochs} epoch{'s' if epochs != 1 else ''}")]
    seconds = computing_time(lines)
    if seconds:
        tiles.append(Tile("time", _duration(seconds), "pauses left out"))
    losses = [line["losses"] for line in lines if line.get("losses")]
    if losses:
        total = sum(value for value in losses[-1].values() if value is not None)
        tiles.append(Tile("last loss", total, "sum of the named losses"))
    validations = [line["validation"] for line in lines if line.get("validation")]
    tiles += [Tile(f"last validation: {name}", value) for name, value in list((validations or [{}])[-1].items())[:3]]
    return tiles


def _validation_table(page: Page, lines: list[Line]) -> None:
    validations = [line for line in lines if line.get("validation")][-20:]
    if not validations:
        return
    names = list(dict.fromkeys(name for line in validations for name in line["validation"]))
    rows = [
        (
            f"{line.get('phase', 'train')}, epoch {line.get('epoch', 0)}",
            int(line["step"]),
            *(line["validation"].get(name) for name in names),
        )
        for line in validations
    ]
    page.table(["when", "step", *names], rows, caption="Validations, the last twenty at most")


def _failure_table(page: Page, lines: list[Line]) -> None:
    failures = [(str(line["phase"]), int(line["step"]), str(line["failure"])) for line in lines if line.get("failure")]
    if failures:
        page.table(["who", "step", "why"], failures, caption="Clients that were left out of their round")


def _in_words(series: Series) -> str:
    """What the curves show, for readers who cannot see them."""
    words = []
    for panel, names in series.items():
        for name, points in names.items():
            finite = [value for _, value in points if math.isfinite(value)]
            if finite:
                words.append(f"{panel}, {name}: from {finite[0]:.4g} to {finite[-1]:.4g}")
    return "Curves over the training steps. " + "; ".join(words) + "."


def _version_rows(versions: Line) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for name, value in versions.items():
        if isinstance(value, dict):
            rows += _version_rows(value)
        elif name != "format":
            rows.append((name, _short(value)))
    return rows


def _short(value: Any) -> Cell:
    return value if value is None or isinstance(value, (str, int, float, bool)) else json.dumps(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else (f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s")
