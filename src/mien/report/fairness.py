# SPDX-License-Identifier: Apache-2.0
"""The page of a fairness audit."""

from __future__ import annotations

from mien.metrics.fairness import FIGURES, FORMS, Fairness
from mien.report.html import Cell, Page, Tile
from mien.report.matrix import shaded
from mien.report.rows import ForestRow, forest

MEANING = {
    "DPD": "demographic parity: all images, real and forged",
    "DEOdds": "equalised odds: real and forged images, half and half",
    "DEO": "equal opportunity: forged images",
    "STD": "deviation in place of range, all images",
}


def add_fairness(page: Page, found: Fairness, *, column: str, over: str) -> None:
    """Tiles, the matrix, the twelve figures, and what must be read beside them.

    Args:
        page: Where they go.
        found: The report.
        column: What the groups are groups of: "race".
        over: What the intervals run over: "400 persons".
    """
    page.section("Result")
    page.tiles(
        [
            Tile("AUC", found.auc, "all images"),
            Tile("mean accuracy", found.mean_accuracy, f"every cell alike, score {found.threshold:g}"),
            Tile("AADPD", found.figures["AADPD"], "lower is fairer"),
            Tile("URDPD", found.figures["URDPD"], "lower is fairer"),
        ]
    )
    add_warnings(page, found)
    page.section("Accuracy by group")
    picture = [[*row, row.mean()] for row in found.matrix]
    columns = [*found.groups, "mean"]
    page.plot(
        lambda theme: shaded(
            picture, found.kinds, columns, theme, title=f"Correct at {found.threshold:g}, %, by {column}", low=0.0
        ),
        alt=f"Share of images classified correctly, by kind and {column}: {matrix_in_words(found)}.",
        caption="Row real: called real. Other rows: called forged. 50 is a coin.",
    )
    rows: list[tuple[Cell, ...]] = [
        (name, found.units[name], *(int(n) for n in found.counts[:, i])) for i, name in enumerate(found.groups)
    ]
    page.table([column, "persons", *found.kinds], rows, caption="Images that each cell was measured on")
    page.section("Fairness figures")
    page.paragraph(
        "Naive figures average over the kinds of forgery first, so that opposite biases cancel. AA takes the disparity "
        "of each kind first; UR also divides it by the utility of its row, 1 + mean accuracy."
    )
    page.plot(
        lambda theme: forest(
            [ForestRow(name, found.figures[name], _chance(found, name), name.startswith("UR")) for name in FIGURES],
            x="disparity (0: all groups alike)",
            reference=0.0,
            title="Twelve figures with 95 % intervals",
            theme=theme,
        ),
        alt="Fairness figures: " + "; ".join(f"{name} {found.figures[name]}" for name in FIGURES) + ".",
    )
    page.table(
        ["figure", "value", "from", "to", "by chance below", "what it compares"],
        [_figure_row(found, name) for name in FIGURES],
        caption=f"95 % bootstrap intervals over {over}. By chance below: what the figure stays below in 95 % of draws "
        "that deal people into groups of these sizes by lot; a smaller value says nothing",
    )


def add_warnings(page: Page, found: Fairness) -> None:
    """What makes fairness figures misleading."""
    if found.weak:
        page.note(
            f"Mean accuracy is below one half for {', '.join(found.weak)}: there the detector is worse than a coin, "
            "and a small disparity is no merit.",
            "warning",
        )
    if found.small:
        page.note(f"Few images in some cell of {', '.join(found.small)}: read those columns with care.", "warning")
    page.note(
        "No figure here punishes a detector that always gives the same answer: it treats all groups alike. Never rank "
        "detectors by fairness alone."
    )


def add_pruned(page: Page, before: Fairness, after: Fairness, zeroed: dict[str, int], how: str) -> None:
    """Before and after pruning, on the same images.

    Args:
        page: Where they go.
        before: The report of the detector as it was.
        after: The report of the pruned one.
        zeroed: Convolution -> weights that became zero.
        how: Which weights were taken, in a few words.
    """
    page.section("After pruning")
    page.paragraph(f"{sum(zeroed.values())} weights of {len(zeroed)} convolutions were set to zero: {how}.")
    names = [("AUC", before.auc, after.auc), ("mean accuracy", before.mean_accuracy, after.mean_accuracy)]
    names += [(name, before.figures[name], after.figures[name]) for name in FIGURES]
    page.table(
        ["figure", "before", "after", "difference"],
        [(name, str(old), str(new), new.value - old.value) for name, old, new in names],
        caption="On the same images, none of which was calibrated on; in brackets 95 % intervals",
    )
    page.table(["convolution", "weights set to zero"], list(zeroed.items()), caption="What was pruned")


def matrix_in_words(found: Fairness) -> str:
    """The matrix as a sentence."""
    rows = []
    for kind, values in zip(found.kinds, found.matrix, strict=True):
        rows.append(f"{kind}: " + ", ".join(f"{g} {v:.2f}" for g, v in zip(found.groups, values, strict=True)))
    return "; ".join(rows)


def _chance(found: Fairness, name: str) -> str:
    return f"by chance below {found.by_chance[name]:.3f}" if name in found.by_chance else ""


def _figure_row(found: Fairness, name: str) -> tuple[Cell, ...]:
    interval = found.figures[name]
    low, high = (interval.low, interval.high) if interval.exists else (None, None)
    form = next(form for form in sorted(FORMS, key=len, reverse=True) if name.endswith(form))
    return (name, interval.value, low, high, found.by_chance.get(name), MEANING[form])
