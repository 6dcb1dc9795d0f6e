# SPDX-License-Identifier: Apache-2.0
"""From a folder of the user's, or nothing at all, to training and test data of the forensics room.

Labelled data are read as they lie. A folder of people (a folder per person) holds no forgeries: they are made from its
faces, so that real and forged share photographs, framing and encoding; so they are from the faces of a table that says
who is seen, but not what is forged. "embedded" generates the people, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.data.attributes import attribute_table, is_attribute_table
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
from mien.data.video import is_video_file
from mien.engine import Phase, TrainingData
from mien.errors import BadInput
from mien.forensics.data import FaceRecords, Faces, ForgedFrames
from mien.forensics.people import People, skin_of, table_people
from mien.forensics.readers.sets import READERS, WITH_FILES, recognise
from mien.forensics.readers.video_files import holds_videos, video_files
from mien.room import DataOptions, TestData

EMBEDDED = "embedded"
LAYOUTS = ("auto", "classes", "videos", "video-files", "csv", "attributes", "people", *READERS)
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
            return "attributes" if is_attribute_table(path) else "csv"
        raise BadInput(f"{path} is a file: give a folder, or a table that ends in .csv")
    if not path.is_dir():
        raise BadInput(f"{path} does not exist: give a folder, or {EMBEDDED!r} for generated people")
    if (known := recognise(path)) is not None:
        return known
    if (path / "labels.csv").is_file():
        return "attributes" if is_attribute_table(path) else "csv"
    folders = [child for child in path.iterdir() if child.is_dir()]
    if not any(child.name.lower() in REAL_NAMES for child in folders):
        return "people"
    if holds_videos(path):
        return "video-files"
    return "videos" if all(any(inner.is_dir() for inner in child.iterdir()) for child in folders) else "classes"


def layout_in(source: str, options: DataOptions) -> str:
    """The layout that was named, or else the one that is recognised."""
    return options.kind if options.kind != "auto" or source == EMBEDDED else layout_of(source)


def read_records(source: str, layout: str, split: str, *, files: bool = False) -> list[Record]:
    """The records of labelled data; of published data sets, those of their own split ("train" or "test").

    Args:
        source: The folder or table.
        layout: One of `LAYOUTS`, not "auto".
        split: Of published data sets.
        files: Whether video files are wanted as they are; otherwise only frames are.

    Raises:
        BadInput: Among others, for video files where frames are needed.
    """
    records = _read(source, layout, split, files)
    first = next((record.path for record in records if is_video_file(record.path)), None)
    if first is not None and not files:
        raise BadInput(f"{first} is a video file: extract its frames, or use a detector of clips (fcan-dct)")
    return records


def _read(source: str, layout: str, split: str, files: bool) -> list[Record]:
    path = Path(source)
    if files and layout in WITH_FILES:
        return READERS[layout](path, split, files=True)
    if layout in READERS:
        return READERS[layout](path, split)
    if layout == "video-files":
        return video_files(path)
    if layout == "attributes":
        return attribute_table(path)
    if layout == "csv":
        return labels_csv(path / "labels.csv" if path.is_dir() else path)
    return (video_folders if layout == "videos" else class_folders)(path)


def kinds_in(source: str, options: DataOptions) -> list[str]:
    """The kinds of forgery in training data: of people's faces those that are made, of labelled data those present."""
    layout = layout_in(source, options)
    if source == EMBEDDED or layout == "people":
        return list(KINDS)
    records = read_records(source, layout, "train", files=True)
    if _made_of_faces(layout, records):
        return list(KINDS)
    return sorted({record.kind for record in records if record.label == 1})


def open_training(source: str, size: int, options: DataOptions) -> OpenedData:
    """Training and validation data. See `mien.room.Room.open_data`."""
    layout = options.kind if options.kind != "auto" or source == EMBEDDED else layout_of(source)
    if source == EMBEDDED or layout == "people":
        return _forged(read_people(source, options, test=False), size, options)
    records = read_records(source, layout, "train")
    if _made_of_faces(layout, records):
        return _forged(table_people(source, seed=options.seed), size, options)
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
        people = read_people(source, options, test=True)
        return TestData(forged_frames(people, size, seed=options.seed), people.manifest)
    records = read_records(source, layout, "test")
    if _made_of_faces(layout, records):
        people = table_people(source, seed=options.seed)
        return TestData(forged_frames(people, size, seed=options.seed), people.manifest)
    require_classes(records, where=source)
    dataset = FaceRecords(records, size, crop=options.crop)
    return TestData(dataset, dataset.manifest(f"{layout} data in {Path(source).name}"))


def faces_to_forge(source: str, options: DataOptions, *, test: bool) -> People | None:
    """The faces that forgeries are made from; None where the data say themselves what is forged."""
    layout = layout_in(source, options)
    if source == EMBEDDED or layout == "people":
        return read_people(source, options, test=test)
    if layout == "attributes" and _made_of_faces(layout, read_records(source, layout, "test" if test else "train")):
        return table_people(source, seed=options.seed)
    return None


def _made_of_faces(layout: str, records: Sequence[Record]) -> bool:
    """Whether a table says who is seen, but of no image whether it is forged."""
    return layout == "attributes" and all(record.label is None for record in records)


def forged_frames(people: People, size: int, **options: Any) -> ForgedFrames:
    """Faces and the forgeries made from them; options as for `ForgedFrames`."""
    return ForgedFrames(people.faces, people.names, size, attributes=people.attributes, **options)


def _forged(people: People, size: int, options: DataOptions) -> OpenedData:
    train: Sequence[int] = range(len(people.names))
    validation = None
    if options.validation:
        train, held = split_by_group(people.names, (1 - options.validation, options.validation), seed=options.seed)
        kept = people.part(held)
        swappable = len(set(kept.names)) > 1
        kinds = KINDS if swappable else tuple(kind for kind in KINDS if kind != "swap")
        validation = forged_frames(kept, size, kinds=kinds, seed=options.seed)
    frames = forged_frames(people.part(train), size, seed=options.seed, training=True)
    return OpenedData(frames, validation, people.manifest)


def read_people(source: str, options: DataOptions, *, test: bool) -> People:
    """The faces of people's folders, or generated ones."""
    if source == EMBEDDED:
        trained, tested = EMBEDDED_PEOPLE
        faces, names = generated_people(range(trained, trained + tested) if test else range(trained), EMBEDDED_FACES)
        which = "unseen" if test else "training"
        about = f"forgeries made from procedurally generated faces ({which} people, no real person)"
        return People(faces, names, skin_of(names), {"groups": sorted(set(names)), "files": [], "description": about})
    records = people_folders(source)
    faces, names = load_people(records)
    manifest = {
        "groups": sorted(set(names)),
        "files": sorted(set(fingerprints([record.path for record in records]))),
        "description": f"forgeries made from the faces of {len(set(names))} people in {Path(source).name}",
    }
    return People(faces, names, [], manifest)


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
