# SPDX-License-Identifier: Apache-2.0
"""How near translated pictures come to the true ones, with pictures of both side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from mien.data.images import save_png
from mien.engine.evaluation import predictions
from mien.errors import BadInput
from mien.metrics.frechet import FrechetDistance
from mien.metrics.intervals import interval_json, mean_interval
from mien.metrics.quality import edge_f1, psnr, ssim
from mien.progress import track
from mien.room import TestData, Using
from mien.synthesis.translator import Translator

BEST_PSNR = 99.0
"""What equal pictures count as, so that a mean exists."""
SHOWN, COLUMNS = 12, 4
GAP = 2
"""Pixels between pictures of a grid."""


def picture_values(image: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Figures of each picture, (B,) each: l1 in [0, 1], PSNR in dB, SSIM, F1 of edges; pictures (B, 3, H, W)."""
    return {
        "l1": (image - truth).abs().mean(dim=(1, 2, 3)),
        "psnr": psnr(image, truth).clamp(max=BEST_PSNR),
        "ssim": ssim(image, truth),
        "edge_f1": edge_f1(image, truth),
    }


@dataclass
class Scored:
    """Figures of all pictures of a test.

    Args:
        values: Figure -> one number for each picture, in order.
        names: Of the pairs.
        distance: The Fréchet distance of all results from all true pictures.
        shown: The first ones: input, result, truth, (3, 3, H, W) each.
    """

    values: dict[str, list[float]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    distance: FrechetDistance = field(default_factory=FrechetDistance)
    shown: list[Tensor] = field(default_factory=list)

    def add(self, given: Tensor, made: Tensor, truth: Tensor, names: list[str]) -> None:
        """A batch: inputs, results and true pictures, (B, 3, H, W) in [0, 1]."""
        table = picture_values(made, truth)
        table |= {f"{name}_of_input": value for name, value in picture_values(given, truth).items() if name != "psnr"}
        for name, column in table.items():
            self.values.setdefault(name, []).extend(column.tolist())
        self.distance.update(made, truth)
        self.names.extend(names)
        for row in range(min(len(made), SHOWN - len(self.shown))):
            self.shown.append(torch.stack([given[row], made[row], truth[row]]).cpu())


def score(
    model: Translator, dataset: Dataset[Any], *, batch_size: int = 16, workers: int = 0, features: str | None = None
) -> Scored:
    """Translate a data set of `Translation` and compare.

    Args:
        model: The method.
        dataset: The pairs.
        batch_size: Pairs at a time.
        workers: Processes that load.
        features: File of Inception's weights for the Fréchet distance, or None for random features.
    """
    scored = Scored(distance=FrechetDistance(features, model.device))
    batches = -(-len(dataset) // batch_size)  # type: ignore[arg-type]
    for batch, answer in track(predictions(model, dataset, batch_size, workers=workers), batches, "evaluate"):
        scored.add(batch.input, answer.image, batch.image, list(batch.name))
    return scored


def grid(rows: list[Tensor], columns: int = COLUMNS) -> Tensor:
    """Pictures (k, 3, H, W) of several examples as one (3, ., .): those of an example side by side on white."""
    if not rows:
        raise BadInput("no pictures to show")
    _, _, height, width = rows[0].shape
    count = len(rows[0])
    columns = min(columns, len(rows))
    across, down = columns * (count * (width + GAP) + 2 * GAP), -(-len(rows) // columns) * (height + GAP)
    sheet = torch.ones(3, down + GAP, across)
    for i, pictures in enumerate(rows):
        top = GAP + i // columns * (height + GAP)
        left = 2 * GAP + i % columns * (count * (width + GAP) + 2 * GAP)
        for picture in pictures:
            sheet[:, top : top + height, left : left + width] = picture
            left += width + GAP
    return sheet


def evaluate(model: Translator, test: TestData, out: Path | None, using: Using) -> dict[str, Any]:
    """What `mien.room.Room.evaluate` gives."""
    if using.mode is not None or using.source is not None or using.target is not None:
        raise BadInput(f"{model.name!r} is evaluated at its own size: leave --mode, --source and --target out")
    dataset = test.dataset
    total = len(dataset)  # type: ignore[arg-type]
    size = min(using.batch_size, 16)
    taken = min(total, total if using.max_steps is None else using.max_steps * size)
    groups = list(getattr(dataset, "groups", range(total)))[:taken]
    part = dataset if taken == total else Subset(dataset, range(taken))
    scored = score(model, part, batch_size=size, workers=using.workers, features=using.features)
    names = [str(group) for group in groups]
    columns = {name: np.asarray(column) for name, column in scored.values.items()}
    metrics: dict[str, Any] = {n: interval_json(mean_interval(c, names, seed=using.seed)) for n, c in columns.items()}
    notes = [
        f"intervals: 95 % bootstrap over {len(set(names))} groups; {model.image_size} pixels a side",
        "..._of_input: the input itself taken for the answer, which a translation must beat",
    ]
    if scored.distance.count >= 2:
        metrics["fid"] = {"value": scored.distance.value(), "low": None, "high": None}
        notes.append(f"fid: {taken} pictures; features: {scored.distance.features}")
    if taken < total:
        notes.append(f"{total - taken} pairs were left out")
    pictures = []
    if out is not None and using.pictures:
        save_png(out / "examples.png", grid(scored.shown))
        pictures.append("examples.png")
        notes.append("examples.png: input, result, truth")
    return {
        "metrics": metrics,
        "primary": "l1",
        "lower_is_better": [name for name in metrics if name.startswith(("l1", "fid"))],
        "items": [
            {"id": f"{i}: {name}", "group": group, "values": {key: float(c[i]) for key, c in columns.items()}}
            for i, (name, group) in enumerate(zip(scored.names, names, strict=True))
        ],
        "pictures": pictures,
        "notes": notes,
    }
