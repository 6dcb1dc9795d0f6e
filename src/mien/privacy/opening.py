# SPDX-License-Identifier: Apache-2.0
"""From a folder of the user's, or nothing at all, to portraits to train on and to test with.

people      a folder per person: PERSON/picture.jpg
photos      any folder of pictures; nobody is known, every picture stands for itself
embedded    generated people, those of the test never trained on

Pictures are taken as they are, the middle square resized; faces are not searched for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mien.data.folders import people_folders
from mien.data.listing import list_images
from mien.data.people import render_faces, sample_people
from mien.data.splits import split_by_group
from mien.engine import Fixed
from mien.errors import BadInput
from mien.privacy.data import People, Portraits
from mien.room import DataOptions, TestData

EMBEDDED = "embedded"
LAYOUTS = ("auto", "people", "photos")
EMBEDDED_PEOPLE = (16, 8)
"""Generated people to train on, and further ones to test on."""
EMBEDDED_FACES = 24
"""Generated faces of each person."""
EMBEDDED_SIZE = 112


class OpenedPeople(Fixed):
    """Training and validation portraits of different people, with the manifest of what is seen."""

    def __init__(self, data: People, train: Portraits, validation: Portraits | None) -> None:
        super().__init__(train, validation)
        self._data = data

    def manifest(self) -> dict[str, Any]:
        """Persons, file hashes and the description."""
        return self._data.manifest()


def read(source: str, kind: str = "auto", *, test: bool = False) -> People:
    """All pictures of `source`.

    Args:
        source: A folder, or "embedded".
        kind: "people", "photos", or "auto": people where every picture lies in a folder of its own person.
        test: For "embedded", the people that are never trained on.

    Raises:
        BadInput: No such folder, or no pictures in it.
    """
    if source == EMBEDDED:
        trained, tested = EMBEDDED_PEOPLE
        which = range(trained, trained + tested) if test else range(trained)
        return generated_people(which, EMBEDDED_FACES, f"generated faces ({'unseen' if test else 'training'} people)")
    path = Path(source)
    if not path.is_dir():
        state = "is a file" if path.exists() else "does not exist"
        raise BadInput(f"{path} {state}: give a folder of people or photographs, or {EMBEDDED!r}")
    images = list_images(path)
    if not images:
        raise BadInput(f"{path}: no images in this folder (JPEG, PNG, WebP, BMP or TIFF files)")
    if kind == "auto":
        kind = "people" if all(image.parent != path for image in images) else "photos"
    if kind == "photos":
        names = tuple(map(str, images))
        return People(images, names, names, False, f"{len(names)} photographs in {path.name}")
    records = people_folders(path)
    people = tuple(record.group for record in records)
    names = tuple(str(record.path) for record in records)
    about = f"{len(names)} photographs of {len(set(people))} people in {path.name}"
    return People([record.path for record in records], people, names, True, about)


def generated_people(which: Sequence[int], faces: int, about: str) -> People:
    """Procedurally generated faces; the same people for the same numbers."""
    people = sample_people(max(which) + 1, seed=0)
    index = np.repeat(np.asarray(which), faces)
    seeds = index.astype(np.uint64) * np.uint64(100_003) + np.tile(np.arange(faces, dtype=np.uint64), len(which))
    images, _ = render_faces(people, index, seeds, size=EMBEDDED_SIZE, masks=False)
    names = tuple(f"generated-{i:03d}" for i in index)
    numbered = tuple(f"{name}-{n % faces:02d}" for n, name in enumerate(names))
    return People(torch.from_numpy(np.round(images * 255).astype(np.uint8)), names, numbered, True, about)


def open_training(source: str, size: int, options: DataOptions) -> OpenedPeople:
    """Portraits to train on, and those of other people to validate on. See `mien.room.Room.open_data`."""
    data = read(source, options.kind)
    if not options.validation:
        return OpenedPeople(data, Portraits(data, size), None)
    train, held = split_by_group(data.people, (1 - options.validation, options.validation), seed=options.seed)
    return OpenedPeople(data, Portraits(data.subset(train), size), Portraits(data.subset(held), size))


def open_test(source: str, size: int, options: DataOptions) -> TestData:
    """Everything in `source`; for "embedded" the people that are never trained on."""
    data = read(source, options.kind, test=True)
    return TestData(Portraits(data, size), data.manifest())
