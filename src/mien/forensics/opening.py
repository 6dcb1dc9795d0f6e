# SPDX-License-Identifier: Apache-2.0
"""From a folder of the user's, or nothing at all, to training and test data of the forensics room.

Labelled data are read as they lie. A folder of people (a folder per person) holds no forgeries: they are made from its
faces, so that real and forged share photographs, framing and encoding. "embedded" generates the people, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.data.folders import (
    REAL_NAMES,
    Record,
    class_folders,
    fingerprints,
    labels_csv,
    people_folders,
    require_classes,
    video_folders,
)
from mien.data.forge_pairs import KINDS
from mien.data.images import load_tensor
from mien.data.people import render_faces, sample_people
from mien.data.splits import split_by_group, split_records
from mien.engine import Phase, TrainingData
from mien.errors import BadInput
from mien.forensics.data import FaceRecords, Faces, ForgedFrames
from mien.forensics.readers import READERS, recognise
from mien.room import DataOptions, TestData

EMBEDDED = "embedded"
LAYOUTS = ("auto", "classes", "videos", "csv", "people", *READERS)
PEOPLE_SIZE = 112
"""Side of the faces that forgeries are made from; samples are windows of it."""
EMBEDDED_PEOPLE = (16, 8)
"""Generated people to train on, and further ones to test on."""
EMBEDDED_FACES = 24
"""Generated faces of each person."""


class OpenedData(TrainingData):
    """Training and validation data without common groups, and their manifest."""

    def __init__(self, train: Dataset[Faces], validation: Dataset[Faces] | None, manifest: dict[str, Any]) -> None:
        self._train, self._validation, self._manifest = train, validation, manifest

    def train(self, phase: Phase) -> Dataset[Faces]:
        """The training data."""
        return self._train

    def validation(self, phase: Phase) -> Dataset[Faces] | None:
        """The validation data, if any."""
        return self._validation

    def manifest(self) -> dict[str, Any]:
        """Groups, file hashes and a description."""
        return self._manifest


def layout_of(source: str) -> str:
    """The layout of a folder, recognised by what lies in it."""
    path = Path(source)
    if path.is_file():
        if path.suffix.lower() == ".csv":
            return "csv"
        raise BadInput(f"{path} is a file: give a folder, or a table that ends in .csv")
    if not path.is_dir():
        raise BadInput(f"{path} does not exist: give a folder, or {EMBEDDED!r} for generated people")
    if (known := recognise(path)) is not None:
        return known
    if (path / "labels.csv").is_file():
        return "csv"
    folders = [child for child in path.iterdir() if child.is_dir()]
    if not any(child.name.lower() in REAL_NAMES for child in folders):
        return "people"
    return "videos" if all(any(inner.is_dir() for inner in child.iterdir()) for child in folders) else "classes"


def read_records(source: str, layout: str, split: str) -> list[Record]:
    """The records of labelled data; of published data sets, those of their own split ("train" or "test")."""
    path = Path(source)
    if layout in READERS:
        return READERS[layout](path, split)
    if layout == "csv":
        return labels_csv(path / "labels.csv" if path.is_dir() else path)
    return (video_folders if layout == "videos" else class_folders)(path)


def open_training(source: str, size: int, options: DataOptions) -> OpenedData:
    """Training and validation data. See `mien.room.Room.open_data`."""
    layout = options.kind if options.kind != "auto" or source == EMBEDDED else layout_of(source)
    if source == EMBEDDED or layout == "people":
        faces, people, manifest = _people(source, options, test=False)
        return _forged(faces, people, size, options, manifest)
    records = read_records(source, layout, "train")
    require_classes(records, where=source)
    train, held = records, []
    if options.validation:
        train, held = split_records(records, (1 - options.validation, options.validation), seed=options.seed)
    dataset = FaceRecords(train, size, crop=options.crop, flip=True)
    validation = FaceRecords(held, size, crop=options.crop) if len({r.label for r in held}) == 2 else None
    return OpenedData(dataset, validation, FaceRecords(records, size).manifest(f"{layout} data in {Path(source).name}"))


def open_test(source: str, size: int, options: DataOptions) -> TestData:
    """Everything in `source`; for "embedded" the people who are never trained on. See `mien.room.Room.open_test`."""
    layout = options.kind if options.kind != "auto" or source == EMBEDDED else layout_of(source)
    if source == EMBEDDED or layout == "people":
        faces, people, manifest = _people(source, options, test=True)
        return TestData(ForgedFrames(faces, people, size, seed=options.seed), manifest)
    records = read_records(source, layout, "test")
    require_classes(records, where=source)
    dataset = FaceRecords(records, size, crop=options.crop)
    return TestData(dataset, dataset.manifest(f"{layout} data in {Path(source).name}"))


def _forged(faces: Tensor, people: list[str], size: int, options: DataOptions, manifest: dict[str, Any]) -> OpenedData:
    train: Sequence[int] = range(len(people))
    validation = None
    if options.validation:
        train, held = split_by_group(people, (1 - options.validation, options.validation), seed=options.seed)
        swappable = len({people[i] for i in held}) > 1
        kinds = KINDS if swappable else tuple(kind for kind in KINDS if kind != "swap")
        validation = ForgedFrames(faces[held], [people[i] for i in held], size, kinds=kinds, seed=options.seed)
    chosen = list(train)
    names = [people[i] for i in chosen]
    return OpenedData(ForgedFrames(faces[chosen], names, size, seed=options.seed, training=True), validation, manifest)


def _people(source: str, options: DataOptions, *, test: bool) -> tuple[Tensor, list[str], dict[str, Any]]:
    """Faces as uint8 (N, 3, H, W), whose they are, and the manifest."""
    if source == EMBEDDED:
        trained, tested = EMBEDDED_PEOPLE
        faces, names = generated_people(range(trained, trained + tested) if test else range(trained), EMBEDDED_FACES)
        which = "unseen" if test else "training"
        about = f"forgeries made from procedurally generated faces ({which} people, no real person)"
        return faces, names, {"groups": sorted(set(names)), "files": [], "description": about}
    records = people_folders(source)
    faces, names = load_people(records)
    manifest = {
        "groups": sorted(set(names)),
        "files": sorted(set(fingerprints([record.path for record in records]))),
        "description": f"forgeries made from the faces of {len(set(names))} people in {Path(source).name}",
    }
    return faces, names, manifest


def load_people(records: Sequence[Record], size: int = PEOPLE_SIZE) -> tuple[Tensor, list[str]]:
    """Faces of people's folders as uint8 (N, 3, size, size), and whose they are."""
    faces = torch.stack([load_tensor(record.path, size).mul(255).round().byte() for record in records])
    return faces, [record.group for record in records]


def generated_people(which: Sequence[int], faces: int, size: int = PEOPLE_SIZE) -> tuple[Tensor, list[str]]:
    """Faces of procedurally generated people as uint8, and their names. The same people for the same numbers."""
    people = sample_people(max(which) + 1, seed=0)
    index = np.repeat(np.asarray(which), faces)
    seeds = index.astype(np.uint64) * np.uint64(100_003) + np.tile(np.arange(faces, dtype=np.uint64), len(which))
    images, _ = render_faces(people, index, seeds, size=size, masks=False)
    return torch.from_numpy(np.round(images * 255).astype(np.uint8)), [f"generated-{i:03d}" for i in index]
