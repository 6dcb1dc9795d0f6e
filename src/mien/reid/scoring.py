# SPDX-License-Identifier: Apache-2.0
"""How well a trained embedder finds persons it has never seen: numbers with intervals over persons, and pictures."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mien.engine import predictions
from mien.errors import BadInput
from mien.files import whole_file
from mien.metrics.intervals import interval_json, mean_interval
from mien.metrics.retrieval import Retrieval
from mien.progress import track
from mien.reid.data import PersonImages
from mien.reid.embedder import Embedder, person_images, searched
from mien.reid.ranked import Found, RankedList, cmc_curve, nearest_valid, ranked_lists, shown_queries
from mien.report.plots import png
from mien.room import TestData, Using

SHOWN = 6
"""Queries in the picture of ranked lists."""


def evaluate(model: Embedder, test: TestData, out: Path | None, using: Using) -> dict[str, Any]:
    """See `mien.room.Room.evaluate`."""
    if using.mode is not None or using.source is not None or using.target is not None:
        raise BadInput("mode, source and target: evaluation of re-identification has none of them")
    data = person_images(test.dataset)
    features = features_of(model, data, using)
    found = searched(data, features)
    found.means()  # raises where no query can be answered
    queries = query_rows(data, len(features))
    rows = queries[found.answered]
    people = [data.groups[i] for i in rows]
    values = found.values()
    table = {name: mean_interval(column, people, seed=using.seed) for name, column in values.items()}
    lists = {name: column.tolist() for name, column in values.items()}
    return {
        "metrics": {name: interval_json(interval) for name, interval in table.items()},
        "primary": "mAP",
        "items": [
            {"id": data.data.names[i], "group": person, "values": {name: lists[name][n] for name in lists}}
            for n, (i, person) in enumerate(zip(rows, people, strict=True))
        ],
        "pictures": _pictures(model, data, features, found, out) if out is not None and using.pictures else [],
        "notes": _notes(data, len(features), found, people),
    }


def features_of(model: Embedder, data: PersonImages, using: Using) -> NDArray[np.float32]:
    """Features of the crops, (n, D): of all, or of those of the first `using.max_steps` batches."""
    total = -(-len(data) // using.batch_size)
    total = total if using.max_steps is None else min(total, using.max_steps)
    stream = islice(predictions(model, data, using.batch_size, workers=using.workers), total)
    return torch.cat([answer.feature.float().cpu() for _, answer in track(stream, total, "embed")]).numpy()


def query_rows(data: PersonImages, count: int) -> NDArray[np.int64]:
    """Places in the data set of the queries among its first `count` crops."""
    return np.flatnonzero(data.query[:count])


def _notes(data: PersonImages, count: int, found: Retrieval, people: list[str]) -> list[str]:
    gallery, queries = int(data.gallery[:count].sum()), len(found.first)
    lines = [
        f"{queries} queries, {gallery} gallery crops; a query is not ranked against its own person under its own "
        "camera (protocol of Market-1501, single query)",
        f"intervals: 95 % bootstrap over {len(set(people))} persons",
    ]
    left_out = int((~found.answered).sum())
    if left_out:
        lines.append(f"{left_out} queries are left out: no other camera of the gallery has seen their person")
    if count < len(data):
        lines.append(f"only the first {count} of {len(data)} crops were used: a smaller gallery is easier")
    return lines


def _pictures(
    model: Embedder, data: PersonImages, features: NDArray[np.float32], found: Retrieval, out: Path
) -> list[str]:
    count = len(features)
    queries, gallery = query_rows(data, count), np.flatnonzero(data.gallery[:count])
    rows = []
    for number in shown_queries(found, SHOWN):
        i = int(queries[number])
        who, by = int(data.identity[i]), int(data.camera[i])
        nearest = nearest_valid(
            features[gallery] @ features[i], (who, by), data.identity[gallery], data.camera[gallery]
        )
        found_crops = [
            Found(data[int(j)].image, f"{features[i] @ features[j]:.2f}", bool(data.identity[j] == who))
            for j in gallery[nearest]
        ]
        title = f"AP {found.average_precision[number]:.2f}"
        rows.append(RankedList(Found(data[i].image, f"query\n{title}"), found_crops))
    pictures = {
        "ranked-lists.png": ranked_lists(rows, title="Query and its ten nearest, from the best to the worst query"),
        "cmc.png": cmc_curve(found, name=model.name),
    }
    for name, drawn in pictures.items():
        with whole_file(out / name) as temporary:
            temporary.write_bytes(png(drawn))
    return list(pictures)
