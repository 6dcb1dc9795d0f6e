# SPDX-License-Identifier: Apache-2.0
"""Pictures of what was found: a query, then the nearest crops of the gallery, right and wrong ones marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mien.errors import BadInput
from mien.metrics.retrieval import Retrieval, valid
from mien.report.plots import dress, figure
from mien.report.style import LIGHT, Theme

NEAREST = 10
"""Crops shown for each query."""


@dataclass(frozen=True)
class Found:
    """One crop in a ranked list.

    Args:
        image: (3, H, W) in [0, 1]; array or CPU tensor.
        title: What stands above it.
        right: Whether it shows the query's person; None where that is not known, or for the query itself.
    """

    image: Any
    title: str = ""
    right: bool | None = None


@dataclass(frozen=True)
class RankedList:
    """A query with what was found, the nearest first."""

    query: Found
    found: Sequence[Found]


def ranked_lists(rows: Sequence[RankedList], *, title: str = "", theme: Theme = LIGHT) -> Figure:
    """Ranked lists below each other.

    Right crops have a solid frame and the word "right" below, wrong ones a dashed frame and "wrong": not colour alone.

    Args:
        rows: From top to bottom.
        title: Heading.
        theme: Colours.

    Raises:
        BadInput: Nothing to show.
    """
    columns = 1 + max((len(row.found) for row in rows), default=0)
    if columns < 2:
        raise BadInput("no ranked lists to show")
    height, width = np.asarray(rows[0].query.image).shape[-2:]
    cell = 0.62
    made = figure(cell * columns + 0.9, len(rows) * (cell * height / width + 0.34) + (0.3 if title else 0.0), theme)
    grid = made.subplots(len(rows), columns, squeeze=False, width_ratios=[1.0] * columns)
    for row, line in zip(rows, grid, strict=True):
        _draw(line[0], row.query, theme)
        for axes, found in zip(line[1:], [*row.found, *[None] * (columns - 1 - len(row.found))], strict=True):
            _draw(axes, found, theme)
    if title:
        made.suptitle(title, color=theme.ink, fontsize=9.5, fontweight="bold", x=0.01, ha="left")
    return made


def _draw(axes: Axes, found: Found | None, theme: Theme) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if found is None:
        return
    pixels = np.clip(np.asarray(found.image, dtype=np.float64), 0, 1).transpose(1, 2, 0)
    axes.imshow(pixels, interpolation="antialiased")
    axes.set_title(found.title, fontsize=6.5, color=theme.ink, pad=2)
    if found.right is None:
        return
    colour = theme.series[2] if found.right else theme.series[1]
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=2.0, linestyle="-" if found.right else (0, (2.5, 1.5)))
    axes.set_xlabel("right" if found.right else "wrong", fontsize=6.5, color=colour, labelpad=2)


def cmc_curve(found: Retrieval, *, name: str, ranks: int = 20, theme: Theme = LIGHT) -> Figure:
    """The cumulated matching characteristic: share of queries with a right crop among the first k, for k up to `ranks`.

    Args:
        found: What the queries found.
        name: What the legend calls it.
        ranks: The largest k.
        theme: Colours.
    """
    first = found.first[found.answered]
    share = [float((first < k).mean()) for k in range(1, ranks + 1)]
    made = figure(5.6, 4.0, theme)
    axes = made.add_subplot()
    dress(axes, theme, x="rank k", y="queries with a right crop by k", title=f"CMC of {name}")
    axes.plot(range(1, ranks + 1), share, color=theme.series[0], linewidth=2, marker="o", markersize=4)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set_ylim(-0.01, 1.01)
    return made


def shown_queries(found: Retrieval, count: int) -> NDArray[np.int64]:
    """Queries to show, (at most `count`,): from the best to the worst average precision in even steps."""
    rows = np.flatnonzero(found.answered)
    order = rows[np.argsort(-found.average_precision[rows], kind="stable")]
    return order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(np.int64))]


def nearest_valid(
    similarity: NDArray[np.floating],
    query: tuple[int, int],
    identity: NDArray[np.int64],
    camera: NDArray[np.int64],
    count: int = NEAREST,
) -> NDArray[np.int64]:
    """The `count` most similar crops of a gallery that a query is ranked against, the nearest first.

    Args:
        similarity: Of the query to the gallery, (G,).
        query: Its identity and camera.
        identity: Of the gallery, (G,).
        camera: Of the gallery, (G,).
        count: How many.
    """
    rows = np.flatnonzero(valid(*query, identity, camera))
    return rows[np.argsort(-similarity[rows], kind="stable")[:count]]
