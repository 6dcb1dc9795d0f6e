# SPDX-License-Identifier: Apache-2.0
"""The arena's result as one page: who is best where, where all fail, what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mien.data.forge_pairs import KINDS
from mien.forensics.arena.data import CLEAN, PERTURBATIONS
from mien.metrics.intervals import Interval
from mien.report.html import Cell, Page
from mien.report.matrix import shaded
from mien.report.plots import lines
from mien.report.style import Theme

SEEN, UNSEEN = "seen", "unseen"
FAILS = 0.6
"""Where the best AUC is below this, all detectors fail."""
NAMES = {"jpeg": "JPEG"}
"""Of perturbations that are not written as words."""
SIGN = "†"
"""Behind the names of marked kinds."""

Result = Mapping[str, Any]


def marked(result: Result) -> list[str]:
    """Kinds that thumbnails betray: shown, but left out of means."""
    return list((result["confound"] or {}).get("marked", ()))


def free(result: Result) -> list[str]:
    """Kinds that are not marked."""
    return [kind for kind in KINDS if kind not in marked(result)]


def in_order(result: Result) -> list[str]:
    """All kinds, the marked ones last."""
    return [*free(result), *(kind for kind in KINDS if kind in marked(result))]


def shown(result: Result, kind: str) -> str:
    """A kind's name with the sign, where it is marked."""
    return f"{kind} {SIGN}" if kind in marked(result) else kind


def auc(detector: Result, kind: str, condition: str, state: str) -> float:
    """Mean AUC over a detector's runs in which `kind` was seen (or unseen) in training; NaN where there is none."""
    runs = [run for run in detector["runs"] if (kind in run["trained on"]) == (state == SEEN)]
    values = [run[condition]["auc"][kind]["value"] for run in runs if kind in run[condition]["auc"]]
    return float(np.mean(values)) if values else float("nan")


def mean_auc(detector: Result, kinds: Sequence[str], condition: str, state: str) -> float:
    """Mean over kinds; NaN without any."""
    values = [auc(detector, kind, condition, state) for kind in kinds]
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def columns(result: Result) -> list[tuple[str, str, str, str]]:
    """Of the matrix: (what is written above it, kind or "", perturbation or "", seen or unseen); marked kinds last."""

    def of(kinds: Sequence[str]) -> list[tuple[str, str, str, str]]:
        return [(f"{shown(result, kind)}\n{state}", kind, "", state) for state in (SEEN, UNSEEN) for kind in kinds]

    perturbed = [(f"{kind}\n{state}", "", kind, state) for state in (SEEN, UNSEEN) for kind in PERTURBATIONS]
    return [*of(free(result)), *perturbed, *of([kind for kind in KINDS if kind in marked(result)])]


def matrix(result: Result) -> np.ndarray:
    """AUC, (detectors, columns); NaN where a detector has no such run."""
    rows = []
    for detector in result["detectors"].values():
        row = []
        for _, kind, perturbation, state in columns(result):
            if kind:
                row.append(auc(detector, kind, CLEAN, state))
                continue
            conditions = [name for name, (what, _) in result["conditions"].items() if what == perturbation]
            row.append(float(np.mean([mean_auc(detector, free(result), name, state) for name in conditions])))
        rows.append(row)
    return np.array(rows)


def page(result: Result) -> Page:
    """The page."""
    names = list(result["detectors"])
    protocol = result["protocol"]
    made = Page("Arena: is this face forged?", subtitle=result["data"])
    if result["rehearsal"]:
        made.note(f"A rehearsal of {protocol['max_steps']} steps a phase: the figures mean nothing.", "warning")
    made.section("Who is best where")
    table = matrix(result)
    made.plot(
        lambda theme: shaded(table, names, [c[0] for c in columns(result)], theme=theme, title="AUC, in hundredths"),
        alt="AUC of every detector on every kind of forgery, seen and unseen, and on perturbed faces; table below",
        caption="Seen: the kind was in training; outside detectors have seen none. Perturbed faces: mean over "
        "strengths and kinds.",
    )
    if marked(result):
        made.note(
            f"{SIGN} Small thumbnails tell this kind from real faces, so that a detector may have gone by framing, "
            "light or compression. It is shown last, and left out of every mean and of every comparison of groups."
        )
    _winners(made, result, table)
    if "fairfd" in names:
        made.paragraph(_pruning(result))
    made.note("A score is a model's opinion about an image. It is not evidence about a person or an event.", "warning")
    made.section("Clean faces, with intervals")
    _intervals(made, result)
    made.section("Perturbed faces")
    _curves(made, result)
    _groups(made, result)
    made.section("What it costs")
    _costs(made, result)
    made.section("Are the forgeries fair?")
    _confound(made, result)
    made.section("Protocol")
    made.paragraph(
        "Each detector is trained on one half of the kinds, then on the other, with its small preset, by "
        f"{protocol['epochs']} pass{'es' * (protocol['epochs'] != 1)} over the same faces, seed {protocol['seed']}, "
        "and no choice of the best epoch. "
        "Outside detectors are tested only. Intervals are 95 % bootstrap over persons; one seed, so they do not "
        "hold the chance of training."
    )
    ran = {key: result[key] for key in ("command", "commit") if key in result} | result.get("took", {})
    table_of = [(key.replace("_", " "), _said(value)) for key, value in {**protocol, **ran}.items()]
    made.table(("what", "value"), table_of, caption="What was run")
    return made


def _said(value: Any) -> str:
    """A value of the protocol for people."""
    if isinstance(value, (list, tuple)):
        return ", ".join(value) or "-"
    return "-" if value is None else str(value)


def _winners(made: Page, result: Result, table: np.ndarray) -> None:
    names = list(result["detectors"])
    rows: list[tuple[Cell, ...]] = []
    for (title, *_), column in zip(columns(result), table.T, strict=True):
        if not np.isfinite(column).any():
            continue
        best = int(np.nanargmax(column))
        verdict = "all fail" if column[best] < FAILS else ""
        rows.append((title.replace("\n", ", "), names[best], float(column[best]), verdict))
    made.table(("test", "best", "AUC", ""), rows, caption=f"The best of each column; all fail below an AUC of {FAILS}")


def _pruning(result: Result) -> str:
    """What fairfd pruned; that says in what it differs from plain."""
    counts = [run["train"].get("pruned_weights", 0) for run in result["detectors"]["fairfd"]["runs"]]
    if any(counts):
        return f"fairfd pruned {' and '.join(str(n) for n in counts)} weights, by {result['protocol']['group_by']}."
    return "fairfd pruned nothing, since nothing is known of groups here: it is plain, trained on fewer persons."


def _intervals(made: Page, result: Result) -> None:
    for state in (SEEN, UNSEEN):
        rows: list[tuple[Cell, ...]] = []
        for name, detector in result["detectors"].items():
            cells: list[Cell] = []
            for kind in in_order(result):
                found = [
                    r[CLEAN]["auc"][kind] for r in detector["runs"] if (kind in r["trained on"]) == (state == SEEN)
                ]
                cells.append(_interval(found[0]) if found else None)
            if any(cell is not None for cell in cells):
                rows.append((name, *cells))
        if rows:
            head = ("detector", *(shown(result, kind) for kind in in_order(result)))
            made.table(head, rows, caption=f"AUC on kinds {state} in training")


def _interval(found: Mapping[str, Any]) -> Interval:
    low, high = (float("nan") if found.get(k) is None else float(found[k]) for k in ("low", "high"))
    return Interval(float(found["value"]), low, high)


def _curves(made: Page, result: Result) -> None:
    kinds = free(result)
    made.paragraph("Curves are of kinds seen in training, those of outside detectors of all kinds.")
    for perturbation in PERTURBATIONS:
        at = {n: level for n, (what, level) in result["conditions"].items() if what == perturbation}
        steps, places = [CLEAN, *at], [0, *at.values()]
        curves = {}
        for name, detector in result["detectors"].items():
            state = UNSEEN if detector["outside"] else SEEN
            curves[name] = [mean_auc(detector, kinds, step, state) for step in steps]

        def draw(theme: Theme, places: Any = places, curves: Any = curves, what: str = perturbation) -> Any:
            return lines(
                places,
                curves,
                theme,
                x=f"strength of {what}",
                y="AUC",
                title=NAMES.get(what, what.capitalize()),
                chance=0.5,
            )

        fallen = {name: values[0] - values[-1] for name, values in curves.items()}
        worst = max(fallen, key=lambda name: fallen[name] if np.isfinite(fallen[name]) else -1)
        made.plot(draw, alt=f"AUC against the strength of {perturbation}; {worst} falls most, by {fallen[worst]:.2f}")


def _groups(made: Page, result: Result) -> None:
    by = result["protocol"]["group_by"]
    if by is None:
        return
    made.section(f"By {by}")
    over = "the kinds that are not marked" if marked(result) else "all kinds"
    groups = sorted({g for d in result["detectors"].values() for r in d["runs"] for g in r[CLEAN].get("groups", {})})
    if not groups:
        made.paragraph("Every kind is marked: nothing is left to compare groups by.")
        return
    rows: list[tuple[Cell, ...]] = []
    for name, detector in result["detectors"].items():
        values = [
            float(np.mean([r[CLEAN]["groups"][g]["auc"] for r in detector["runs"] if g in r[CLEAN]["groups"]]))
            for g in groups
        ]
        rows.append((name, *values, max(values) - min(values)))
    made.table((f"detector, AUC by {by}", *groups, "range"), rows, caption=f"AUC over {over}, mean over both halves")
    figures = {name: [run[CLEAN]["fairness"] for run in d["runs"]] for name, d in result["detectors"].items()}
    names = list(next(iter(figures.values()))[0])
    fair: list[tuple[Cell, ...]] = [
        (name, *(float(np.mean([run[key] for run in runs])) for key in names)) for name, runs in figures.items()
    ]
    made.table(
        ("detector", *names),
        fair,
        caption=f"Disparities of the accuracy at 0.5 over {over}; lower is fairer, see the AUC too",
    )


def _costs(made: Page, result: Result) -> None:
    rows: list[tuple[Cell, ...]] = []
    for name, detector in result["detectors"].items():
        trained = [run["train"] for run in detector["runs"] if "train" in run]
        seconds = float(np.mean([t["cpu_seconds"] for t in trained])) if trained else None
        weights = trained[0]["weights"] if trained else None
        answer = float(np.mean([run[CLEAN]["cost"]["ms_per_item"] for run in detector["runs"]]))
        rows.append((name, weights, seconds, answer))
    head = ("detector", "weights", "training, s of CPU", "an answer, ms")
    made.table(head, rows, caption="Mean over both halves; answers in batches, loading not included")


def _confound(made: Page, result: Result) -> None:
    found = result["confound"]
    if found is None:
        made.paragraph("The check was not made.")
        return
    bad = [shown(result, kind) for kind in marked(result)]
    made.paragraph(
        f"A linear classifier on thumbnails of {found['size']} pixels sees neither seams nor textures. Kinds that it "
        f"tells from real faces with confidence (lower bound above {found['limit']}) are marked and left out of means: "
        f"{', '.join(bad) if bad else 'none'}."
    )
    rows: list[tuple[Cell, ...]] = [
        (k["kind"], k["auc"], k["low"], k["high"], "marked" if k["confounded"] else "") for k in found["kinds"]
    ]
    made.table(("kind", "AUC of thumbnails", "from", "to", ""), rows, caption="What thumbnails tell")
