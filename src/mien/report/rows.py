# SPDX-License-Identifier: Apache-2.0
"""Figures with a named row for each number: intervals (forest plots), and the values of every seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mien.errors import BadInput
from mien.metrics.intervals import Interval
from mien.report.plots import dress, figure
from mien.report.style import LIGHT, Theme


@dataclass(frozen=True)
class ForestRow:
    """A line of a forest plot.

    Args:
        name: What the number is of.
        interval: The number with its bounds.
        note: Text at the right: "p 0.03", "120 images".
        emphasis: Whether it is the claim; drawn bold, and larger.
    """

    name: str
    interval: Interval
    note: str = ""
    emphasis: bool = False


def forest(
    rows: Sequence[ForestRow], *, x: str, reference: float | None = 0.0, title: str = "", theme: Theme = LIGHT
) -> Figure:
    """Numbers with their intervals below each other, against a line of reference.

    Args:
        rows: From top to bottom.
        x: What the numbers are, with their unit.
        reference: Where to draw the line "no difference" or "chance"; None for none.
        title: Heading.
        theme: Colours.
    """
    if not rows:
        raise BadInput("a forest plot needs at least one row")
    made = figure(7.2, 1.0 + 0.36 * len(rows), theme)
    axes = made.add_subplot()
    dress(axes, theme, x=x, title=title, grid="x")
    draw_forest(axes, rows, reference, theme)
    return made


def draw_forest(axes: Axes, rows: Sequence[ForestRow], reference: float | None, theme: Theme) -> None:
    """The rows of a forest plot on given axes."""
    if reference is not None:
        axes.axvline(reference, color=theme.muted, linewidth=1.2, linestyle="--", zorder=1)
    for i, row in enumerate(rows):
        colour = theme.series[1] if row.emphasis else theme.series[0]
        marker, size, width = ("D", 7.0, 2.6) if row.emphasis else ("o", 5.5, 1.8)
        if row.interval.exists:
            axes.plot(
                [row.interval.low, row.interval.high], [i, i], color=colour, linewidth=width, solid_capstyle="butt"
            )
        if math.isfinite(row.interval.value):
            axes.plot([row.interval.value], [i], marker=marker, markersize=size, color=colour, zorder=3)
        if row.note:
            axes.annotate(
                row.note, (1.02, i), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, color=theme.muted
            )
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.emphasis else "normal")
        label.set_fontsize(9.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.08)


def seeds(values: Mapping[str, Mapping[str, float]], *, x: str, proposed: str, theme: Theme = LIGHT) -> Figure:
    """Every seed's value of every variant as a point, with the mean as a bar.

    Args:
        values: Variant -> seed -> value.
        x: Name of the metric.
        proposed: The variant that the claim is about.
        theme: Colours.
    """
    made = figure(7.2, 1.0 + 0.36 * len(values), theme)
    axes = made.add_subplot()
    dress(axes, theme, x=x, grid="x")
    draw_seeds(axes, values, proposed, theme)
    return made


def draw_seeds(axes: Axes, values: Mapping[str, Mapping[str, float]], proposed: str, theme: Theme) -> None:
    """The points of `seeds` on given axes; a seed has the same height in every row, so pairs can be followed."""
    names = sorted({seed for column in values.values() for seed in column}, key=lambda s: (len(s), s))
    offset = dict(zip(names, np.linspace(-0.2, 0.2, len(names)) if len(names) > 1 else [0.0], strict=True))
    for i, (name, column) in enumerate(values.items()):
        colour = theme.series[1] if name == proposed else theme.series[0]
        axes.plot(
            list(column.values()),
            [i + offset[seed] for seed in column],
            linestyle="",
            marker="o",
            markersize=4.2,
            color=colour,
            alpha=0.75,
            markeredgewidth=0,
        )
        mean = float(np.mean(list(column.values())))
        axes.plot([mean, mean], [i - 0.34, i + 0.34], color=colour, linewidth=2.4, solid_capstyle="butt")
    axes.set_yticks(range(len(values)), list(values))
    for label, name in zip(axes.get_yticklabels(), values, strict=True):
        label.set_fontweight("bold" if name == proposed else "normal")
        label.set_fontsize(9.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.margins(x=0.06)
