# SPDX-License-Identifier: Apache-2.0
"""The part of a report that says how well a score tells forged from real: figures, curves, a table by kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from mien.files import whole_file
from mien.metrics.binary import calibration, precision_recall_curve, roc_curve
from mien.metrics.intervals import Interval
from mien.report.html import Page, Tile
from mien.report.plots import png, precision_recall, reliability, roc
from mien.report.rows import ForestRow, forest

NAMES = {
    "auc": "AUC",
    "average_precision": "average precision",
    "eer": "equal error rate",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "brier": "Brier score",
    "ece": "calibration error",
}


def add_figures(page: Page, table: Mapping[str, Interval], *, over: str, threshold: float = 0.5) -> None:
    """Tiles of the first four numbers, and a table of all.

    Args:
        page: Where they go.
        table: What `mien.metrics.summary.summarise` gives.
        over: What the intervals run over: "6 persons".
        threshold: Of the accuracies.
    """
    shown = [name for name in ("auc", "average_precision", "eer", "balanced_accuracy") if name in table]
    page.tiles([Tile(NAMES[name], table[name]) for name in shown])
    rows = [
        (NAMES.get(name, name), i.value, i.low if i.exists else None, i.high if i.exists else None)
        for name, i in table.items()
    ]
    caption = f"All figures with 95 % intervals over {over}; accuracies at a threshold of {threshold:g}"
    page.table(["figure", "value", "from", "to"], rows, caption=caption)


def add_curves(page: Page, labels: ArrayLike, scores: Mapping[str, ArrayLike]) -> None:
    """ROC and precision-recall curves of one or several models on the same items, and the first one's calibration.

    Args:
        page: Where they go.
        labels: (N,), 0 or 1.
        scores: Name of the model -> probabilities (N,).
    """
    y = np.asarray(labels)
    rocs = {name: roc_curve(y, s) for name, s in scores.items()}
    precisions = {name: precision_recall_curve(y, s) for name, s in scores.items()}
    first = next(iter(scores))
    reliable = calibration(y, scores[first])
    at_tenth = "; ".join(
        f"{name} finds {100 * np.interp(0.1, c.false_positive, c.true_positive):.0f} % of the forgeries"
        for name, c in rocs.items()
    )
    with page.row():
        page.plot(lambda theme: roc(rocs, theme), alt=f"ROC curves. At 10 % false alarms {at_tenth}.")
        page.plot(
            lambda theme: precision_recall(precisions, float(y.mean()), theme),
            alt=f"Precision and recall; guessing would have a precision of {y.mean():.2f}.",
        )
        page.plot(
            lambda theme: reliability(reliable, theme, first),
            alt=f"Calibration of {first}: the expected calibration error is {reliable.ece:.3f}.",
        )


def add_kinds(page: Page, kinds: Mapping[str, Interval], *, counts: Mapping[str, int], marked: ArrayLike = ()) -> None:
    """A forest plot and a table of the AUC by kind of forgery.

    Args:
        page: Where they go.
        kinds: Kind -> AUC against the real images, with its interval.
        counts: Kind -> number of forged images.
        marked: Kinds that framing alone gives away; they are named as such and do not count.
    """
    confounded = set(np.asarray(marked).astype(str).tolist())
    rows = [
        ForestRow(f"{kind} (confounded)" if kind in confounded else kind, interval, f"{counts.get(kind, 0)} images")
        for kind, interval in kinds.items()
    ]
    words = "; ".join(f"{kind} {interval}" for kind, interval in kinds.items())
    page.plot(
        lambda theme: forest(rows, x="AUC against real images", reference=0.5, title="By kind of forgery", theme=theme),
        alt=f"AUC by kind of forgery with 95 % intervals, the dashed line is chance: {words}.",
    )


def write_pictures(folder: str | Path, labels: ArrayLike, scores: ArrayLike, name: str = "score") -> list[str]:
    """Write roc.png, precision-recall.png and calibration.png into a folder and return their names.

    Args:
        folder: An existing folder.
        labels: (N,), 0 or 1; both must occur.
        scores: Probabilities (N,).
        name: What the legends call the score.
    """
    y = np.asarray(labels)
    pictures = {
        "roc.png": roc({name: roc_curve(y, scores)}),
        "precision-recall.png": precision_recall({name: precision_recall_curve(y, scores)}, float(y.mean())),
        "calibration.png": reliability(calibration(y, scores)),
    }
    for file, drawn in pictures.items():
        with whole_file(Path(folder) / file) as temporary:
            temporary.write_bytes(png(drawn))
    return list(pictures)
