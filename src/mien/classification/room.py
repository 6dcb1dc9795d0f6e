# SPDX-License-Identifier: Apache-2.0
"""What a family of classifiers offers to the command line; families derive their room from this one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mien.answering import Item, batches_of, items_of, load_ahead, load_image
from mien.classification.data import (
    DOWNLOAD,
    EMBEDDED,
    LAYOUTS,
    ClassData,
    Labelled,
    LabelledImages,
    Part,
    class_names,
    middle_view,
    read,
    without_copies,
)
from mien.classification.method import ImageClassifier
from mien.data.batch import collate, move
from mien.data.splits import split_by_group
from mien.engine import Fixed, Method, TrainingData, predictions
from mien.errors import BadInput
from mien.metrics.intervals import Interval, interval_json, mean_interval
from mien.progress import track
from mien.room import Answers, DataOptions, Room, Row, TestData, Using

LIMITS = (
    "an answer is a model's opinion about an image; images unlike the training data get one, too, and it may be wrong",
)


class OpenedClasses(Fixed):
    """Training and validation data of a classifier, with the manifest of what it sees."""

    def __init__(self, data: ClassData, train: LabelledImages, validation: LabelledImages | None) -> None:
        super().__init__(train, validation)
        self._data = data

    def manifest(self) -> dict[str, Any]:
        """Hashes of all images; groups are not known."""
        return manifest(self._data)


def manifest(data: ClassData) -> dict[str, Any]:
    """As `TrainingData.manifest`."""
    return {"groups": [], "files": sorted(set(data.hashes())), "description": data.description}


def held_out(data: ClassData, share: float, seed: int) -> tuple[ClassData, ClassData | None]:
    """Training and validation images, the classes in equal shares; None where `share` is 0."""
    if not share:
        return data, None
    train, held = split_by_group(data.names, (1 - share, share), seed=seed, labels=data.label.tolist())
    return data.subset(train), data.subset(held)


class ClassificationRoom(Room):
    """Opens labelled images, reports accuracy, names classes."""

    kinds: ClassVar[tuple[str, ...]] = LAYOUTS
    how_to_get: ClassVar[Mapping[str, str]] = DOWNLOAD

    def data_config(self, name: str, source: str, options: DataOptions) -> dict[str, Any]:
        """The names of the classes."""
        return {"classes": list(class_names(source, options.kind))}

    # --- what a family may do differently -----------------------------------------------------------------------
    lower_is_better: ClassVar[tuple[str, ...]] = ("nll",)
    """Those of `measure`'s numbers that are better when they are lower."""

    def read(self, source: str, model: ImageClassifier, part: Part, options: DataOptions) -> ClassData:
        """A part of `source`, with labels into the model's classes; training images without copies of test images."""
        data = read(source, part, options.kind)
        if part == "train":
            data = without_copies(data, lambda: read(source, "test", options.kind))
        return data.relabelled(model.classes)

    def measure(self, model: ImageClassifier, dataset: Any, logits: Tensor, label: np.ndarray) -> dict[str, np.ndarray]:
        """Numbers of the first images of a test set, as `per_image`."""
        return per_image(logits, label)

    def details(self, model: ImageClassifier, label: np.ndarray, values: dict[str, np.ndarray]) -> dict[str, Any]:
        """Further entries of evaluation.json, from the labels (N,) and what `measure` gave."""
        return {}

    def answer(self, model: ImageClassifier, item: Item, logits: Tensor) -> dict[str, Any]:
        """The columns of an image's row, from its logits (C,) on the CPU."""
        top, rows = logits.softmax(dim=0).topk(2)
        first, second = (model.classes[int(i)] for i in rows)
        values = {"class": first, "probability": round(float(top[0]), 6)}
        return values | {"second": second, "second_probability": round(float(top[1]), 6)}

    # --- the room -------------------------------------------------------------------------------------------------
    def open_data(self, source: str, method: Method, options: DataOptions) -> TrainingData:
        """The training part of `source`, a share of it held out for validation."""
        model = classifier(method)
        data = self.read(source, model, "train", options)
        train, held = held_out(data, options.validation, options.seed)
        augment = "shift" if source == EMBEDDED and model.augmentation != "none" else model.augmentation
        validation = None if held is None else LabelledImages(held, model.image_size, crop=model.crop)
        return OpenedClasses(data, LabelledImages(train, model.image_size, augment), validation)

    def open_test(self, source: str, method: Method, options: DataOptions) -> TestData:
        """The test part of `source`; everything, where it has no parts."""
        model = classifier(method)
        data = self.read(source, model, "test", options)
        return TestData(LabelledImages(data, model.image_size, crop=model.crop), manifest(data))

    def evaluate(self, method: Method, test: TestData, out: Path | None, using: Using) -> dict[str, Any]:
        """Accuracy, mean accuracy of the classes, and negative log-likelihood in nats."""
        model = classifier(method)
        logits, label, names = collect(model, test.dataset, using)
        total = len(test.dataset)  # type: ignore[arg-type]
        values = self.measure(model, test.dataset, logits, label)
        table: dict[str, Interval] = {
            name: mean_interval(column, names, seed=using.seed) for name, column in values.items()
        }
        right = values["accuracy"]
        present = sorted(set(label.tolist()))
        by_class = {model.classes[c]: float(right[label == c].mean()) for c in present}
        metrics = {name: interval_json(interval) for name, interval in table.items()}
        metrics["class_accuracy"] = {"value": float(np.mean(list(by_class.values()))), "low": None, "high": None}
        return {
            "metrics": metrics,
            "primary": "accuracy",
            "lower_is_better": [name for name in self.lower_is_better if name in values],
            "classes": by_class,
            **self.details(model, label, values),
            "items": items(names, values),
            "pictures": [],
            "notes": [
                f"intervals: 95 % bootstrap over {len(set(names))} images; nll in nats",
                *([f"{total - len(names)} of {total} images were left out"] if len(names) < total else []),
            ],
        }

    def predict(self, method: Method, inputs: Sequence[Any], out: Path | None, using: Using) -> Answers:
        """A row per image: the class, its probability, and the runner-up."""
        model = classifier(method)
        found = items_of(inputs)
        batches = batches_of(found, using.batch_size)[: using.max_steps]
        total = sum(map(len, batches))
        left_out = (f"{len(found) - total} of {len(found)} images were left out",) if total < len(found) else ()
        return Answers(total, self._rows(model, batches, using), (*LIMITS, *left_out))

    def _rows(self, model: ImageClassifier, batches: list[list[Item]], using: Using) -> Iterator[Row]:
        for batch in load_ahead(batches, partial(_shown, size=model.image_size, crop=model.crop)):
            images = [image for _, image in batch if isinstance(image, Tensor)]
            logits = iter(_logits(model, images, using.device))
            for item, image in batch:
                if isinstance(image, str):
                    yield Row(item.name, error=image)
                else:
                    yield Row(item.name, self.answer(model, item, next(logits)))


def classifier(method: Method) -> ImageClassifier:
    """The method, if it is a classifier."""
    if not isinstance(method, ImageClassifier):
        raise BadInput(f"{method.name!r} is no mien.classification.method.ImageClassifier: this room works with those")
    return method


def collect(method: Method, dataset: Any, using: Using) -> tuple[Tensor, np.ndarray, list[str]]:
    """Logits (N, C) on the CPU, labels (N,) and names of a test set. Images of unknown class are refused."""
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    names: list[str] = []
    total = -(-len(dataset) // using.batch_size)
    stream = predictions(method, dataset, using.batch_size, workers=using.workers)
    for step, (batch, answer) in enumerate(track(stream, total, "evaluate"), start=1):
        logits.append(answer.logits.float().cpu())
        labels.append(batch.label.cpu())
        start = len(names)
        names.extend(name or f"image {start + i}" for i, name in enumerate(batch.path))
        if step == using.max_steps:
            break
    label = torch.cat(labels).numpy()
    if (label < 0).any():
        raise BadInput(f"{int((label < 0).sum())} of {len(label)} images have no class: evaluation needs labels")
    return torch.cat(logits), label, names


def per_image(logits: Tensor, label: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers of every image whose means are the metrics: accuracy (1 right, 0 wrong) and nll, each (N,)."""
    target = torch.from_numpy(label).long()
    return {
        "accuracy": (logits.argmax(dim=1) == target).double().numpy(),
        "nll": F.cross_entropy(logits.double(), target, reduction="none").numpy(),
    }


def items(names: Sequence[str], values: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """The items of evaluation.json."""
    columns = {name: column.tolist() for name, column in values.items()}
    return [{"id": n, "group": n, "values": {k: v[i] for k, v in columns.items()}} for i, n in enumerate(names)]


def _shown(source: Any, size: int, crop: float | None) -> Tensor:
    return load_image(source, size) if crop is None else middle_view(load_image(source), size, crop)


def _logits(model: ImageClassifier, images: list[Tensor], device: str) -> Tensor:
    if not images:
        return torch.zeros(0, len(model.classes))
    batch = move(collate([Labelled(image, -1) for image in images]), device)
    with torch.no_grad():
        return model.predict(batch).logits.float().cpu()
