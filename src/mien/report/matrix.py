# SPDX-License-Identifier: Apache-2.0
"""Matrices as pictures: accuracy over a sequence of tasks, or any figures of rows and columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from mien.report.plots import dress, figure
from mien.report.style import LIGHT, Theme

_WRITTEN = 12
"""Tasks up to which every cell shows its number."""


def accuracy_matrix(matrix: ArrayLike, theme: Theme = LIGHT) -> Figure:
    """A[t, i], the accuracy on task i after learning task t, as shades with numbers; a column that pales is forgotten.

    Args:
        matrix: A, (T, T), in [0, 1]; what lies above the diagonal is left white.
        theme: Colours.
    """
    a = np.asarray(matrix, dtype=np.float64)
    count = len(a)
    side = min(2.6 + 0.55 * count, 8.0)
    made = figure(side, side, theme)
    axes = made.add_subplot()
    dress(axes, theme, x="accuracy on task", y="after learning task", title="Accuracy matrix", grid="")
    shown = np.ma.masked_where(np.triu(np.ones_like(a), 1) > 0, a)
    axes.imshow(shown, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(count))
    axes.set_yticks(range(count))
    if count <= _WRITTEN:
        for t, i in zip(*np.tril_indices(count), strict=True):
            ink = "white" if a[t, i] > 0.6 else "black"
            axes.text(float(i), float(t), f"{100 * a[t, i]:.0f}", ha="center", va="center", fontsize=9, color=ink)
    return made


def shaded(
    values: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    theme: Theme = LIGHT,
    *,
    title: str = "",
    low: float = 0.5,
    high: float = 1.0,
) -> Figure:
    """Figures in [0, 1] as shades with numbers in hundredths; NaN is left blank.

    Args:
        values: (rows, columns).
        rows: Names of the rows.
        columns: Names of the columns.
        theme: Colours.
        title: Above the picture.
        low: Value of the lightest shade.
        high: Value of the darkest.
    """
    a = np.asarray(values, dtype=np.float64)
    made = figure(2.0 + 0.62 * len(columns), 1.9 + 0.34 * len(rows), theme)
    axes = made.add_subplot()
    dress(axes, theme, title=title, grid="")
    axes.imshow(np.ma.masked_invalid(a), vmin=low, vmax=high, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=55, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    for r, c in np.argwhere(np.isfinite(a)):
        ink = "white" if a[r, c] > low + 0.6 * (high - low) else "black"
        axes.text(float(c), float(r), f"{100 * a[r, c]:.0f}", ha="center", va="center", fontsize=9, color=ink)
    return made
