# SPDX-License-Identifier: Apache-2.0
"""What the adaptation room offers to the command line: classes that arrive task by task, one classifier for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mien.adaptation.learner import ContinualClassifier
from mien.adaptation.readers import DOWNLOAD, READERS, read
from mien.adaptation.tasks import ClassTasks, FoundedTasks, class_order, open_tasks, task_of
from mien.classification.data import EMBEDDED, LAYOUTS, ClassData, LabelledImages, Part
from mien.classification.method import ImageClassifier, checked_label
from mien.classification.room import ClassificationRoom, manifest
from mien.engine import Method, Schedule, Tasks, TrainingData
from mien.errors import BadInput
from mien.files import whole_file
from mien.metrics.continual import average_accuracy, backward_forgetting, forgetting, last_accuracy
from mien.room import Answers, DataOptions, Preset, PresetName, TestData, Using

FORGETTING = ("validation_forgetting", "validation_backward_forgetting")
CONTROL = "cosine-heads"
"""The baseline that adapts nothing."""


class Adaptation(ClassificationRoom):
    """Class-incremental learners."""

    family = "adaptation"
    kinds = (*LAYOUTS, *READERS)
    how_to_get: ClassVar[Mapping[str, str]] = {**ClassificationRoom.how_to_get, **DOWNLOAD}

    def preset(self, name: str, preset: PresetName) -> Preset:
        """The paper's size: ViT-B/16 with published weights. Small: 108 k weights at 32 pixels, from scratch."""
        if preset == "paper":
            return Preset(settings={"batch_size": 48}, epochs=20)
        config: dict[str, Any] = {
            "network": {"name": "tiny_vit", "pretrained": False},
            "image_size": 32,
            "crop": None,
            "augment": "shift_flip",
            "optimizer": {"lr": 0.01, "warmup_steps": 10},
            "foundation": 40,
            "alignment": {"epochs": 40},
        }
        return Preset(config if name == CONTROL else config | {"rank": 4}, {"batch_size": 48}, epochs=15)

    def data_config(self, name: str, source: str, options: DataOptions) -> dict[str, Any]:
        """The names of the classes, in the order in which tasks take them: drawn from the seed."""
        return {"classes": class_order(read(source, "train", options.kind).classes, options.seed)}

    def schedule(self, method: Method, data: TrainingData, epochs: int) -> Schedule:
        """`epochs` passes over each task, after the foundation if there is one."""
        model = learner(method)
        count = len(model.sizes)
        return FoundedTasks(model.foundation, count, epochs) if model.foundation else Tasks(count, epochs)

    # --- data -------------------------------------------------------------------------------------------------
    def read(self, source: str, model: ImageClassifier, part: Part, options: DataOptions) -> ClassData:
        """A part of `source`, with labels in the order of the model's classes."""
        return read(source, part, options.kind).relabelled(model.classes)

    def open_data(self, source: str, method: Method, options: DataOptions) -> ClassTasks:
        """The training part of `source`, task by task, a share of each task held out for validation."""
        model = learner(method)
        data = self.read(source, model, "train", options)
        augment = "shift" if source == EMBEDDED and model.augment != "none" else model.augment
        return open_tasks(
            data,
            model.sizes,
            model.image_size,
            augment=augment,
            crop=model.crop,
            validation=options.validation,
            seed=options.seed,
        )

    def open_test(self, source: str, method: Method, options: DataOptions) -> TestData:
        """The test part of `source`: the images of the classes that have been learned."""
        model = learner(method)
        data = self.read(source, model, "test", options)
        seen = data.subset(np.flatnonzero(data.label.numpy() < len(_learned(model))).tolist())
        if not len(seen):
            raise BadInput(
                f"{source}: no image of the classes that the model has learned: {', '.join(_learned(model))}"
            )
        return TestData(LabelledImages(seen, model.image_size, crop=model.crop), manifest(seen))

    # --- answers ----------------------------------------------------------------------------------------------
    def measure(self, model: ImageClassifier, dataset: Any, logits: Tensor, label: np.ndarray) -> dict[str, np.ndarray]:
        """As for all classifiers. Raises BadInput for images of classes that no task has taught yet."""
        checked_label(torch.from_numpy(label), logits.shape[1])
        return super().measure(model, dataset, logits, label)

    def details(self, model: ImageClassifier, label: np.ndarray, values: dict[str, np.ndarray]) -> dict[str, Any]:
        """Accuracy on the images of each task, over all classes learned."""
        sizes, right = learner(model).sizes, values["accuracy"]
        task = task_of(sizes, label)
        present = sorted(set(task.tolist()))
        return {
            "tasks": {
                f"task {t}": {"accuracy": right[task == t].mean(), "images": int((task == t).sum())} for t in present
            }
        }

    def evaluate(self, method: Method, test: TestData, out: Path | None, using: Using) -> dict[str, Any]:
        """Accuracy over all classes learned and of each task, and what was measured on held-out images in training."""
        model = learner(method)
        found = super().evaluate(model, test, out, using)
        done, tasks = model.task + 1, len(model.sizes)
        found["notes"].append(
            f"accuracy is over the {len(_learned(model))} classes of {done} of {tasks} tasks, no task told"
            + (": A_Last" if done == tasks else "")
        )
        matrix = model.accuracies[:done, :done].cpu().double().numpy()
        if not np.isfinite(matrix[np.tril_indices(done)]).all():
            return found  # nothing was held out
        found["metrics"] |= {
            n: {"value": v, "low": None, "high": None} for n, v in figures(matrix, model.sizes).items()
        }
        found["lower_is_better"] += [name for name in FORGETTING if name in found["metrics"]]
        found["accuracy_matrix"] = [row[: t + 1].tolist() for t, row in enumerate(matrix)]
        found["notes"].append(
            "validation_*: from the accuracy matrix, measured after each task on held-out training images"
        )
        if out is not None and using.pictures:
            found["pictures"].append(_picture(out, matrix))
        return found

    def predict(self, method: Method, inputs: Sequence[Any], out: Path | None, using: Using) -> Answers:
        """A row per image: the class, its probability, and the runner-up, of the classes learned."""
        _learned(learner(method))
        return super().predict(method, inputs, out, using)


def learner(method: Method) -> ContinualClassifier:
    """The method, if it learns task by task."""
    if not isinstance(method, ContinualClassifier):
        raise BadInput(f"{method.name!r} is no ContinualClassifier: the adaptation room works with those")
    return method


def figures(matrix: np.ndarray, sizes: Sequence[int]) -> dict[str, float]:
    """A_Last, A_Avg and forgetting of an accuracy matrix (T, T), tasks weighted by their classes."""
    counts = list(sizes[: len(matrix)])
    found = {
        "validation_a_last": last_accuracy(matrix, counts),
        "validation_a_avg": average_accuracy(matrix, counts),
    }
    if len(matrix) > 1:
        found |= dict(zip(FORGETTING, (forgetting(matrix), backward_forgetting(matrix)), strict=True))
    return found


def _learned(model: ContinualClassifier) -> tuple[str, ...]:
    """The classes of the tasks so far. Raises BadInput before the first."""
    if model.task < 0:
        raise BadInput(f"this {model.name} has learned no task yet: train it first")
    return model.classes[: sum(model.sizes[: model.task + 1])]


def _picture(out: Path, matrix: np.ndarray) -> str:
    from mien.report.matrix import accuracy_matrix
    from mien.report.plots import png

    picture = "accuracy-matrix.png"
    with whole_file(out / picture) as temporary:
        temporary.write_bytes(png(accuracy_matrix(matrix)))
    return picture


ROOM = Adaptation()
