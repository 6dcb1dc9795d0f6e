# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
from collections import Counter

import numpy as np
from PIL import Image

from mien.report.palette import of_few_colours
from mien.report.plots import lines, png
from mien.report.style import DARK


def test_frequent_colours_are_kept_and_rare_ones_take_the_nearest():
    """Against a plain loop over colours."""
    rng = np.random.default_rng(0)
    frequent = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    pixels = np.concatenate([np.repeat(frequent, 3, axis=0), rng.integers(0, 256, (132, 3), dtype=np.uint8)])
    pixels = rng.permutation(pixels).reshape(30, 30, 3)
    found = np.asarray(of_few_colours(pixels).convert("RGB"))
    count = Counter(map(tuple, pixels.reshape(-1, 3).tolist()))
    kept = [colour for colour, times in count.items() if times >= 3]
    assert len(kept) == 256
    for before, after in zip(pixels.reshape(-1, 3).tolist(), found.reshape(-1, 3).tolist(), strict=True):
        distance = [sum((a - b) ** 2 for a, b in zip(before, colour, strict=True)) for colour in kept]
        assert sum((a - b) ** 2 for a, b in zip(before, after, strict=True)) == min(distance)


def test_a_chart_gets_smaller_and_its_paper_stays():
    drawn = lines([0, 1, 2], {f"curve {i}": [i / 9, 0.5, 1 - i / 9] for i in range(9)}, DARK, x="x", y="y", title="t")
    full, small = png(drawn), png(drawn, palette=True)
    assert len(small) < len(full) / 2
    before, after = (np.asarray(Image.open(io.BytesIO(found)).convert("RGB")) for found in (full, small))
    assert np.array_equal(before[:5, :5], after[:5, :5])
    assert (before != after).any(axis=2).mean() < 0.05


def test_the_axis_begins_below_chance_and_below_what_is_worse():
    options = {"x": "x", "y": "y", "title": "t"}
    for values, wanted in (([0.7, 0.9], 0.39), ([0.3, float("nan")], 0.29)):
        (axes,) = lines([0, 1], {"a": values}, chance=0.5, **options).axes
        assert abs(axes.get_ylim()[0] - wanted) < 1e-9
        assert any(list(line.get_ydata()) == [0.5, 0.5] for line in axes.lines)
    (plain,) = lines([0, 1], {"a": [0.7, 0.9]}, **options).axes
    assert plain.get_ylim()[0] == -0.01
