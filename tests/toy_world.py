# SPDX-License-Identifier: Apache-2.0
"""The world of `plugin/toy_room.py`: folders of points, and the plug-in that brings the method."""

from __future__ import annotations

import random
from pathlib import Path

PLUGIN = Path(__file__).parent / "plugin"


def write_points(folder: Path, *, seed: int, count: int = 24, prefix: str = "g") -> Path:
    """Points of two classes, the line x + y = 0 between them, four to a group."""
    draw = random.Random(seed)
    folder.mkdir(parents=True)
    for i in range(count):
        x, y = draw.uniform(-1, 1), draw.uniform(-1, 1)
        label = int(x + y > 0)
        if i < 2:  # both classes, whatever is drawn
            x, y, label = (0.5, 0.5, 1) if i else (-0.5, -0.5, 0)
        (folder / f"{i:02d}.pt.csv").write_text(f"{x},{y},{label},{prefix}{i // 4}")
    return folder
