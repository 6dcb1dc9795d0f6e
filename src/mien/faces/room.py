# SPDX-License-Identifier: Apache-2.0
"""What the faces room offers to the command line: which expression is this, learnt from few labels?"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mien.classification.data import LabelledImages, Part, without_copies
from mien.classification.method import ImageClassifier
from mien.classification.room import ClassificationRoom
from mien.data.splits import split_by_group
from mien.engine import Fixed, Method, TrainingData
from mien.errors import BadInput
from mien.faces.ada_cm import AdaCM
from mien.faces.data import PAPER_TOTAL, FaceData, FaceViews, few_labels
from mien.faces.readers import DOWNLOAD, LAYOUTS, read, unlabelled
from mien.metrics.intervals import interval_json, mean_interval
from mien.room import DataOptions, Preset, PresetName, TestData, Using


class OpenedFaces(Fixed):
    """Training and validation faces without common persons, with the manifest of what is seen."""

    def __init__(self, train: FaceViews, validation: LabelledImages | None, manifest: dict[str, Any]) -> None:
        super().__init__(train, validation)
        self._manifest = manifest

    def manifest(self) -> dict[str, Any]:
        """Persons, where they are known, and hashes of all faces."""
        return self._manifest


class KnownFaces(LabelledImages):
    """Test faces of the classes that a model knows, with their persons; `notes` says how many others there were.

    Raises:
        BadInput: The model knows none of the classes.
    """

    data: FaceData

    def __init__(self, data: FaceData, model: AdaCM) -> None:
        others = [name for name in data.classes if name not in model.classes]
        kept = data.without(others).relabelled(model.classes)
        if not len(kept):
            raise BadInput(
                f"{data.description}: faces of {', '.join(others)}: the model knows {', '.join(model.classes)}"
            )
        super().__init__(kept, model.image_size)
        self.groups = list(kept.persons)
        missing = f"{len(data) - len(kept)} of {len(data)} faces were left out"
        self.notes = [f"{missing}: the model does not know {', '.join(others)}"] if len(kept) < len(data) else []


class FacesRoom(ClassificationRoom):
    """Readers of expressions."""

    family: ClassVar[str] = "faces"
    kinds: ClassVar[tuple[str, ...]] = LAYOUTS
    how_to_get: ClassVar[Mapping[str, str]] = DOWNLOAD

    def preset(self, name: str, preset: PresetName) -> Preset:
        """The paper's: ResNet-18 at 224 pixels, 20 epochs of 800 updates. Small: 47 k weights, for a laptop."""
        if preset == "paper":
            return Preset(epochs=20)
        config = {
            "network": {"name": "tiny_blocks", "normalise": "none"},
            "image_size": 32,
            "optimizer": {"lr": 1e-3},
            "labels": {"total": None, "per_class": 25},
            "iterations": 60,
            "unlabelled_batch": 48,
            "scale": 10.0,
            "dropout": 0.1,
            "teacher_decay": 0.98,
        }
        return Preset(config, epochs=10)

    def data_config(self, name: str, source: str, options: DataOptions) -> dict[str, Any]:
        """The names of the expressions."""
        return {"classes": list(read(source, "train", options.kind).classes)}

    def read(self, source: str, model: ImageClassifier, part: Part, options: DataOptions) -> FaceData:
        """A part of `source`, with all its labels: training faces without copies of test faces, or `KnownFaces`."""
        data = read(source, part, options.kind)
        if part == "test":
            return KnownFaces(data, reader(model)).data
        data = without_copies(data, lambda: read(source, "test", options.kind))
        return data.without(reader(model).leave_out).relabelled(model.classes)

    def open_data(self, source: str, method: Method, options: DataOptions) -> TrainingData:
        """Training faces of which few keep their label; a share of the persons is held out, with theirs.

        A saved model tells which labels it saw: the seed of the draw, where it is None, becomes the run's, and "auto"
        becomes a number.
        """
        model = reader(method)
        train, held = self.read(source, model, "train", options), None
        if options.validation:
            shares = (1 - options.validation, options.validation)
            rows = split_by_group(train.persons, shares, seed=options.seed, labels=train.label.tolist())
            train, held = train.subset(rows[0]), train.subset(rows[1])
        labels = model.labels.seeded(options.seed).fitted(train)
        if labels.per_class != model.labels.per_class:
            warnings.warn(
                f"labels: the classes are too small for the paper's {PAPER_TOTAL}: {labels.per_class} faces of each "
                "keep their label, half of the smallest class",
                stacklevel=2,
            )
        model.labels = labels
        seen, label = few_labels(train, model.labels, unlabelled(source))
        validation = None if held is None else LabelledImages(held, model.image_size)
        return OpenedFaces(FaceViews(seen, label, model.image_size), validation, manifest(seen, held))

    def open_test(self, source: str, method: Method, options: DataOptions) -> TestData:
        """The test faces of `source`; everything, where it has no parts."""
        model = reader(method)
        images = KnownFaces(read(source, "test", options.kind), model)
        return TestData(images, manifest(images.data))

    def evaluate(self, method: Method, test: TestData, out: Path | None, using: Using) -> dict[str, Any]:
        """Accuracy, also class by class, and negative log-likelihood; intervals over persons where they are known."""
        found = super().evaluate(reader(method), test, out, using)
        items = found["items"]
        persons = list(getattr(test.dataset, "groups", ()))[: len(items)]
        if len(persons) == len(items) and len(set(persons)) < len(items):
            for name in items[0]["values"]:
                column = np.array([item["values"][name] for item in items])
                found["metrics"][name] = interval_json(mean_interval(column, persons, seed=using.seed))
            for item, person in zip(items, persons, strict=True):
                item["group"] = person
            found["notes"][0] = f"intervals: 95 % bootstrap over {len(set(persons))} persons; nll in nats"
        found["notes"] += getattr(test.dataset, "notes", ())
        return found


def reader(method: Method) -> AdaCM:
    """The method, if it reads expressions."""
    if not isinstance(method, AdaCM):
        raise BadInput(f"{method.name!r} is no reader of expressions: the faces room works with those")
    return method


def manifest(*parts: FaceData | None) -> dict[str, Any]:
    """As `TrainingData.manifest`; the persons, where they are known."""
    found = [part for part in parts if part is not None]
    persons = {p for part in found for p, name in zip(part.persons, part.names, strict=True) if p != name}
    files = {file for part in found for file in part.hashes()}
    return {"groups": sorted(persons), "files": sorted(files), "description": found[0].description}


ROOM = FacesRoom()
