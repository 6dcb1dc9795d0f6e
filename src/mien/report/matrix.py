# SPDX-License-Identifier: Apache-2.0
"""The accuracy matrix of a sequence of tasks as a picture."""

from __future__ import annotations

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
