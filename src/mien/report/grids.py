# SPDX-License-Identifier: Apache-2.0
"""Pictures of examples: faces with the forged area and with what the model looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mien.errors import BadInput
from mien.report.plots import figure
from mien.report.style import LIGHT, Theme

Image = NDArray[np.float64]


@dataclass(frozen=True)
class Example:
    """One image with what is known and what was said about it.

    Args:
        image: (3, H, W) in [0, 1]; array or CPU tensor.
        title: First line above it: "forged: swap".
        detail: Second line: "score 0.93".
        mask: Where it was forged, (H, W) or (1, H, W) in [0, 1], or None.
        evidence: What the model looked at, (H, W) or (1, H, W) in [0, 1], or None.
        wrong: Whether the model's answer is wrong; said beside the score in words, not only by colour.
    """

    image: Any
    title: str = ""
    detail: str = ""
    mask: Any = None
    evidence: Any = None
    wrong: bool = False


def _pixels(image: Any) -> Image:
    array = np.asarray(image, dtype=np.float64)
    if array.ndim != 3 or array.shape[0] != 3:
        raise BadInput(f"image has shape {array.shape}: (3, H, W) in [0, 1] is needed")
    return np.clip(array, 0, 1).transpose(1, 2, 0)


def _plane(plane: Any, shape: tuple[int, ...], name: str) -> Image:
    array = np.asarray(plane, dtype=np.float64)
    array = array[0] if array.ndim == 3 and array.shape[0] == 1 else array
    if array.shape != shape:
        raise BadInput(f"{name} has shape {np.shape(plane)}: the image is {shape[0]} x {shape[1]}")
    return np.clip(array, 0, 1)


def _grey(pixels: Image) -> Image:
    return np.repeat((pixels @ [0.299, 0.587, 0.114])[..., None], 3, axis=2)


def with_mask(image: Any, mask: Any, colour: tuple[float, float, float] = (0.84, 0.37, 0.0)) -> Image:
    """The image in grey with the masked area tinted, (H, W, 3) in [0, 1].

    Args:
        image: (3, H, W) in [0, 1].
        mask: (H, W) or (1, H, W) in [0, 1].
        colour: Of the tint, as RGB in [0, 1].
    """
    pixels = _pixels(image)
    share = 0.55 * _plane(mask, pixels.shape[:2], "mask")[..., None]
    return _grey(pixels) * (1 - share) + share * np.array(colour)


def with_evidence(image: Any, evidence: Any) -> Image:
    """The image in grey under the evidence map in colour (dark: none, yellow: most), (H, W, 3) in [0, 1].

    Args:
        image: (3, H, W) in [0, 1].
        evidence: (H, W) or (1, H, W) in [0, 1].
    """
    pixels = _pixels(image)
    plane = _plane(evidence, pixels.shape[:2], "evidence")
    share = (0.25 + 0.5 * plane)[..., None]
    return _grey(pixels) * (1 - share) + share * colormaps["inferno"](plane)[..., :3]


def examples(items: Sequence[Example], *, columns: int = 6, theme: Theme = LIGHT) -> Figure:
    """Examples side by side; below each its forged area and its evidence, where any example has them.

    Args:
        items: In reading order.
        columns: Examples in a row.
        theme: Colours.
    """
    if not items:
        raise BadInput("no examples to show")
    layers = ["image"]
    layers += ["forged area"] if any(item.mask is not None for item in items) else []
    layers += ["evidence"] if any(item.evidence is not None for item in items) else []
    columns = min(columns, len(items))
    bands = math.ceil(len(items) / columns)
    width = 7.6 / max(columns, 4)
    made = figure(width * columns + 0.3, bands * (width * len(layers) + 0.5), theme)
    grid = made.subplots(bands * len(layers), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for i, item in enumerate(items):
        top, column = i // columns * len(layers), i % columns
        for j, layer in enumerate(layers):
            axes = grid[top + j, column]
            _draw(axes, item, layer, theme)
            if column == 0:
                axes.text(
                    -0.06, 0.5, layer, transform=axes.transAxes, rotation=90, va="center", ha="right",
                    fontsize=8.5, color=theme.muted,
                )  # fmt: skip
        colour = theme.series[1] if item.wrong else theme.ink
        lines = [item.title, f"{item.detail}, wrong" if item.wrong else item.detail]
        grid[top, column].set_title("\n".join(line for line in lines if line), fontsize=8.5, color=colour, pad=4)
    return made


def _draw(axes: Axes, item: Example, layer: str, theme: Theme) -> None:
    plane = {"image": item.image, "forged area": item.mask, "evidence": item.evidence}[layer]
    height, width = np.asarray(item.image).shape[-2:]
    if plane is None:
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_box_aspect(height / width)
        axes.text(0.5, 0.5, "none", ha="center", va="center", fontsize=9, color=theme.muted)
        return
    if layer == "image":
        pixels = _pixels(item.image)
    else:
        pixels = with_mask(item.image, plane) if layer == "forged area" else with_evidence(item.image, plane)
    axes.imshow(pixels, interpolation="nearest" if max(height, width) < 48 else "antialiased")
