# SPDX-License-Identifier: Apache-2.0
"""Whom does this picture look like? Crops ranked against each other, or against a gallery of known persons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mien.answering import Item, batches_of, items_of, load_ahead
from mien.data.batch import collate, move
from mien.errors import BadInput
from mien.files import whole_file
from mien.reid.data import Crops, PersonImages, load_crop
from mien.reid.embedder import Embedder
from mien.reid.ranked import NEAREST, Found, RankedList, ranked_lists
from mien.reid.readers import read
from mien.reid.scoring import features_of
from mien.report.plots import png
from mien.room import Answers, Row, Using

LIMITS = (
    "similarity is a cosine in [-1, 1]; a high one says that two pictures look alike to the model, not that they show "
    "the same person; the nearest picture is named even where the person is in none",
)
PICTURED = 20
"""Queries whose ranked lists are drawn."""


@dataclass(frozen=True)
class Gallery:
    """What pictures are compared with.

    Args:
        features: (G, D), normalised.
        names: What each crop is called, (G,).
        people: Person of each crop, (G,); empty where persons are not known.
        image: Number of a crop -> its picture (3, H, W).
    """

    features: NDArray[np.float32]
    names: Sequence[str]
    people: Sequence[str]
    image: Callable[[int], Tensor]


def answer(model: Embedder, inputs: Sequence[Any], out: Path | None, using: Using) -> Answers:
    """See `mien.room.Room.predict`. With `using.source` its persons are the gallery, else the inputs themselves.

    Features of the gallery are kept in memory (4 D bytes a picture), pictures are not.
    """
    if using.mode is not None or using.target is not None:
        raise BadInput("mode and target: ranking has neither; a gallery of known persons is named by source")
    items = items_of(inputs)
    batches = batches_of(items, using.batch_size)[: using.max_steps]
    total = sum(map(len, batches))
    notes = list(LIMITS)
    if total < len(items):
        notes.append(f"{len(items) - total} of {len(items)} pictures were left out")
    drawn = out if using.pictures else None
    if drawn is not None and total > PICTURED:
        notes.append(f"ranked lists are drawn of the first {PICTURED} pictures")
    if using.source is not None:
        gallery = known_persons(model, using.source, using)
        return Answers(total, _known_rows(model, batches, gallery, drawn, using), tuple(notes))
    if total < 2:
        raise BadInput("one picture has nothing to be compared with: give several, or a gallery with --source DIR")
    return Answers(total, _mutual_rows(model, batches, drawn, using), tuple(notes))


def known_persons(model: Embedder, source: str, using: Using) -> Gallery:
    """The gallery of a folder that any reader of this room knows, or of "embedded"."""
    data = PersonImages(read(source, "test"), model.image_size)
    features = features_of(model, data, Using(using.batch_size, using.workers, using.device))
    rows = np.flatnonzero(data.gallery)
    names, people = ([column[i] for i in rows] for column in (data.data.names, data.groups))
    return Gallery(features[rows], names, people, lambda i: data[int(rows[i])].image)


def _known_rows(
    model: Embedder, batches: list[list[Item]], gallery: Gallery, out: Path | None, using: Using
) -> Iterator[Row]:
    """The most similar person, and the most similar other one."""
    people = np.array(gallery.people)
    number = 0
    for item, feature in _embedded(model, batches, using):
        if isinstance(feature, str):
            yield Row(item.name, error=feature)
            continue
        similarity = gallery.features @ feature
        best = int(similarity.argmax())
        others = np.where(people == people[best], -np.inf, similarity)
        second = int(others.argmax())
        there = bool(np.isfinite(others[second]))
        values = {"person": str(people[best]), "similarity": _short(similarity[best]), "nearest": gallery.names[best]}
        values |= {
            "second_person": str(people[second]) if there else None,
            "second_similarity": _short(similarity[second]) if there else None,
        }
        if out is not None and number < PICTURED:
            number += 1
            _draw(out, number, item, model, similarity, gallery)
        yield Row(item.name, values)


def _mutual_rows(model: Embedder, batches: list[list[Item]], out: Path | None, using: Using) -> Iterator[Row]:
    """The two most similar other pictures."""
    answered = list(_embedded(model, batches, using))
    features = [feature for _, feature in answered if not isinstance(feature, str)]
    items = [item for item, feature in answered if not isinstance(feature, str)]
    load = partial(load_crop, size=model.image_size)
    table = np.stack(features) if features else np.zeros((0, 1), np.float32)
    gallery = Gallery(table, [item.name for item in items], (), lambda i: load(items[i].source))
    number = 0
    for item, feature in answered:
        if isinstance(feature, str):
            yield Row(item.name, error=feature)
            continue
        similarity = gallery.features @ feature
        similarity[number] = -np.inf  # itself
        number += 1
        yield Row(item.name, _two_nearest(similarity, gallery.names))
        if out is not None and number <= PICTURED and len(items) > 1:
            _draw(out, number, item, model, similarity, gallery)


def _two_nearest(similarity: NDArray[np.float32], names: Sequence[str]) -> dict[str, Any]:
    """The columns of a row; None where there are not so many others."""
    values: dict[str, Any] = dict.fromkeys(("nearest", "similarity", "second", "second_similarity"))
    for prefix, row in zip(("", "second_"), np.argsort(-similarity, kind="stable").tolist(), strict=False):
        if np.isfinite(similarity[row]):
            values[prefix[:-1] or "nearest"] = names[row]
            values[f"{prefix}similarity"] = _short(similarity[row])
    return values


def _embedded(
    model: Embedder, batches: list[list[Item]], using: Using
) -> Iterator[tuple[Item, NDArray[np.float32] | str]]:
    """Each item with its feature (D,), or with the reason why there is none."""
    for batch in load_ahead(batches, partial(load_crop, size=model.image_size)):
        images = [image for _, image in batch if isinstance(image, Tensor)]
        features = iter(_features(model, images, using.device)) if images else iter(())
        for item, image in batch:
            yield item, image if isinstance(image, str) else next(features)


def _features(model: Embedder, images: list[Tensor], device: str) -> NDArray[np.float32]:
    with torch.no_grad():
        return model.predict(move(collate([Crops(image) for image in images]), device)).feature.float().cpu().numpy()


def _draw(
    out: Path, number: int, item: Item, model: Embedder, similarity: NDArray[np.float32], gallery: Gallery
) -> None:
    """ranked-NNN.png: the picture and what is most like it."""
    order = [i for i in np.argsort(-similarity, kind="stable")[:NEAREST].tolist() if np.isfinite(similarity[i])]
    found = []
    for i in order:
        name = gallery.people[i] if gallery.people else _file(gallery.names[i])
        found.append(Found(gallery.image(i), f"{_label(name)}\n{similarity[i]:.2f}"))
    query = Found(load_crop(item.source, model.image_size), f"query\n{_label(_file(item.name))}")
    with whole_file(out / f"ranked-{number:03d}.png") as temporary:
        temporary.write_bytes(png(ranked_lists([RankedList(query, found)])))


def _file(name: str) -> str:
    """FOLDER/FILE of a path, without the suffix."""
    path = Path(name)
    return "/".join((*path.parts[-2:-1], path.stem))


def _label(text: str) -> str:
    """The end of a name, as much as fits above a crop."""
    return text if len(text) <= 10 else "…" + text[-9:]


def _short(value: Any) -> float:
    return round(float(value), 6)
