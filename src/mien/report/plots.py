# SPDX-License-Identifier: Apache-2.0
"""Curves and intervals as matplotlib figures. No pyplot: nothing global is read or set, and any thread may draw.

Every function takes the theme it is drawn in and returns a `Figure`; `png` turns that into a file's bytes, the same
bytes for the same numbers.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from mien.errors import BadInput
from mien.metrics.binary import Calibration, PrecisionRecall, RocCurve
from mien.report.palette import of_few_colours
from mien.report.style import DASHES, LIGHT, MARKERS, Theme

DOTS_PER_INCH = 192
"""Two dots for each CSS pixel: sharp on phones."""

_INSIDE = 6
"""Curves up to which the legend stands inside the picture."""

_POINTS = 500
"""Points of a training curve; more than a screen can show are averaged."""


def figure(width: float, height: float, theme: Theme) -> Figure:
    """An empty figure, in inches of 96 CSS pixels."""
    made = Figure(figsize=(width, height), layout="constrained", facecolor=theme.paper)
    FigureCanvasAgg(made)
    return made


def png(drawn: Figure, *, palette: bool = False) -> bytes:
    """The figure as a PNG file.

    Args:
        drawn: The figure.
        palette: Keep its 256 most frequent colours, and take the nearest of them for the others, at the edges of
            letters and lines: a third of the size, for figures without photographs.
    """
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    if palette:
        image = of_few_colours(np.asarray(Image.open(buffer).convert("RGB")))
        buffer = io.BytesIO()
        image.save(buffer, "png")
    return buffer.getvalue()


def dress(axes: Axes, theme: Theme, *, x: str = "", y: str = "", title: str = "", grid: str = "both") -> None:
    """The common look of all axes: two spines, a light grid below the data, sentence-case labels."""
    axes.set_facecolor(theme.paper)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(True, axis=grid, color=theme.grid, linewidth=0.8)  # type: ignore[arg-type]
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(theme.muted)
    axes.tick_params(colors=theme.ink, labelsize=9, length=3, color=theme.muted)
    axes.set_xlabel(x, color=theme.ink, fontsize=10)
    axes.set_ylabel(y, color=theme.ink, fontsize=10)
    if title:
        axes.set_title(title, color=theme.ink, fontsize=10.5, fontweight="bold", loc="left", pad=8)


def legend(axes: Axes, theme: Theme, where: str = "best") -> None:
    """A legend without a frame, in the theme's ink."""
    axes.legend(
        loc=where,  # type: ignore[call-overload]
        frameon=False,
        labelcolor=theme.ink,
        fontsize=9,
        handlelength=2.6,
    )


def _unit_square(axes: Axes) -> None:
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")
    ticks = np.linspace(0, 1, 6)
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)


def roc(curves: Mapping[str, RocCurve], theme: Theme = LIGHT) -> Figure:
    """ROC curves, name -> curve; write the AUC into the name."""
    made = figure(4.4, 4.4, theme)
    axes = made.add_subplot()
    dress(axes, theme, x="false alarms (real called forged)", y="forgeries found", title="ROC")
    axes.plot([0, 1], [0, 1], color=theme.muted, linewidth=1, linestyle=":")
    for i, (name, curve) in enumerate(curves.items()):
        axes.plot(curve.false_positive, curve.true_positive, label=name, linewidth=2, **_line(i, theme))
    _unit_square(axes)
    legend(axes, theme, "lower right")
    return made


def precision_recall(curves: Mapping[str, PrecisionRecall], base_rate: float, theme: Theme = LIGHT) -> Figure:
    """Precision-recall curves, name -> curve, over the line of a detector that guesses.

    Args:
        curves: The curves.
        base_rate: Share of forged items, the precision of guessing, in [0, 1].
        theme: Colours.
    """
    made = figure(4.4, 4.4, theme)
    axes = made.add_subplot()
    dress(
        axes, theme, x="recall (forgeries found)", y="precision (alarms that are right)", title="Precision and recall"
    )
    axes.axhline(base_rate, color=theme.muted, linewidth=1, linestyle=":")
    for i, (name, curve) in enumerate(curves.items()):
        precision = np.r_[curve.precision[0], curve.precision]
        axes.step(np.r_[0.0, curve.recall], precision, label=name, where="pre", linewidth=2, **_line(i, theme))
    _unit_square(axes)
    legend(axes, theme, "lower left")
    return made


def reliability(curve: Calibration, theme: Theme = LIGHT, label: str = "") -> Figure:
    """Share of forgeries against the mean score of a bin, above how many items each bin holds."""
    made = figure(4.4, 4.4, theme)
    upper, lower = made.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    title = f"Calibration (expected error {curve.ece:.3f})"
    dress(upper, theme, y="share that is forged", title=title)
    dress(lower, theme, x="score (probability of forged)", y="items", grid="y")
    upper.plot([0, 1], [0, 1], color=theme.muted, linewidth=1, linestyle=":")
    full = curve.count > 0
    upper.plot(
        curve.predicted[full],
        curve.observed[full],
        marker="o",
        markersize=5.5,
        linewidth=2,
        label=label,
        **_line(0, theme),
    )
    upper.set_ylim(-0.02, 1.02)
    lower.bar(
        curve.edges[:-1],
        curve.count,
        width=np.diff(curve.edges) * 0.92,
        align="edge",
        color=theme.series[0],
        alpha=0.75,
    )
    lower.set_xlim(-0.01, 1.01)
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    if label:
        legend(upper, theme, "upper left")
    return made


def _line(i: int, theme: Theme) -> dict[str, Any]:
    return {"color": theme.series[i % len(theme.series)], "linestyle": DASHES[i % len(DASHES)]}


def scatter(truth: np.ndarray, predicted: np.ndarray, *, x: str, y: str, theme: Theme = LIGHT) -> Figure:
    """Predicted against true values, (N,) each, with the line on which they are equal.

    Args:
        truth: True values.
        predicted: Predicted values.
        x: What the true values are, with their unit.
        y: What the predicted values are.
        theme: Colours.
    """
    made = figure(4.4, 4.4, theme)
    axes = made.add_subplot()
    dress(axes, theme, x=x, y=y)
    ends = [float(min(truth.min(), predicted.min())), float(max(truth.max(), predicted.max()))]
    axes.plot(ends, ends, color=theme.muted, linewidth=1, linestyle=":")
    alpha = 0.5 if len(truth) > 200 else 0.8
    axes.plot(truth, predicted, "o", color=theme.series[0], markersize=3.5, markeredgewidth=0, alpha=alpha)
    axes.set_aspect("equal")
    return made


def robustness(budgets: Sequence[float], curves: Mapping[str, Sequence[float]], theme: Theme = LIGHT) -> Figure:
    """Accuracy under attack against the budget.

    Args:
        budgets: L-inf budgets in [0, 1], rising, 0 for no attack.
        curves: Name of a model -> its accuracy at each budget, in [0, 1].
        theme: Colours.
    """
    levels = [255 * budget for budget in budgets]
    return lines(levels, curves, theme, x="budget (levels of 255)", y="accuracy", title="Accuracy under attack")


def lines(
    at: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    theme: Theme = LIGHT,
    *,
    x: str,
    y: str,
    title: str,
    chance: float | None = None,
) -> Figure:
    """Shares in [0, 1] against a rising quantity, a line with markers for each name.

    Args:
        at: Places on the x axis.
        curves: Name -> the share at each place; NaN leaves a gap.
        theme: Colours.
        x: Name of the x axis.
        y: Name of the y axis.
        title: Above the picture.
        chance: What guessing reaches, as a dotted line; the axis then begins a little below it, or where values do.
    """
    many = len(curves) > _INSIDE
    made = figure(7.2 if many else 5.6, 4.0, theme)
    axes = made.add_subplot()
    dress(axes, theme, x=x, y=y, title=title)
    for i, (name, values) in enumerate(curves.items()):
        turn = i // len(MARKERS)  # of the second seven, other marks on the same lines
        mark = MARKERS[(i + 3 * turn) % len(MARKERS)]
        axes.plot(list(at), values, label=name, linewidth=2, marker=mark, **_line(i, theme))
    bottom = 0.0
    if chance is not None:
        bottom = float(np.nanmin([chance - 0.1, *(value for values in curves.values() for value in values)]))
        axes.axhline(chance, color=theme.muted, linestyle=":", linewidth=1)
    axes.set_ylim(bottom - 0.01, 1.01)
    legend(axes, theme, "best")
    if many:
        axes.get_legend().set_loc("upper left")  # type: ignore[union-attr]
        axes.get_legend().set_bbox_to_anchor((1.0, 1.0))  # type: ignore[union-attr]
    return made


def training_curves(series: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], theme: Theme = LIGHT) -> Figure:
    """Panels below each other that share the step axis.

    Args:
        series: Panel -> name -> points (step, value) by step: {"losses": {"ce": [(50, 0.7), ...]}}. Values that are
            not finite leave a gap.
        theme: Colours.
    """
    if not series:
        raise BadInput("nothing to draw: the run has no metrics yet")
    made = figure(7.2, 0.4 + 2.1 * len(series), theme)
    panels = made.subplots(len(series), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (panel, lines) in zip(panels, series.items(), strict=True):
        dress(axes, theme, title=panel)
        for i, (name, points) in enumerate(lines.items()):
            thin = _thinned(points)
            dot = MARKERS[i % len(MARKERS)] if len(thin) < 25 else ""
            axes.plot(thin[:, 0], thin[:, 1], label=name, linewidth=1.8, marker=dot, markersize=4, **_line(i, theme))
        if len(lines) > 1 or panel != next(iter(lines)):
            legend(axes, theme)
    panels[-1].set_xlabel("step", color=theme.ink, fontsize=10)
    panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return made


def _thinned(points: Sequence[tuple[float, float]]) -> np.ndarray:
    """(n, 2) points, averaged in runs so that at most `_POINTS` are left."""
    array = np.array(points, dtype=np.float64).reshape(-1, 2)
    run = math.ceil(len(array) / _POINTS)
    if run < 2:
        return array
    return np.array([array[i : i + run].mean(axis=0) for i in range(0, len(array), run)])
