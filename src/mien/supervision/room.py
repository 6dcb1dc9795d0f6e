# SPDX-License-Identifier: Apache-2.0
"""What the supervision room offers to the command line: classifiers that learn from noisy labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien.answering import Item
from mien.classification.data import ClassData, Part, read, without_copies
from mien.classification.method import ImageClassifier
from mien.classification.room import ClassificationRoom
from mien.engine import Method, Schedule, TrainingData
from mien.errors import BadInput
from mien.room import Answers, DataOptions, Preset, PresetName, Using
from mien.supervision.data import truth_of, with_noise, with_rows
from mien.supervision.method import NoisyLabelClassifier
from mien.supervision.transition import mislabelled

GIVEN = "mislabelled: the model's estimate of the chance that the label, the name of the image's folder, is wrong"


class Supervision(ClassificationRoom):
    """Noisy labels in training, true ones in tests."""

    family = "supervision"
    lower_is_better = ("nll", "transition_error")

    def preset(self, name: str, preset: PresetName) -> Preset:
        """The paper's: ResNet-34 at 32 pixels, 10 + 50 epochs. Small: 47 k weights, for a laptop."""
        staged = name != "noisy-ce"
        if preset == "paper":
            return Preset(settings={"batch_size": 128}, epochs=50 if staged else 60)
        network = {"name": "tiny_blocks", "normalise": "none"}
        config: dict[str, Any] = {"network": network, "image_size": 32, "optimizer": {"lr": 0.05}}
        if staged:
            config["warmup_epochs"] = 5
        if name == "mdit":
            config["transition_optimizer"] = {"lr": 0.025}
        return Preset(config, {"batch_size": 64}, epochs=20 if staged else 25)

    def schedule(self, method: Method, data: TrainingData, epochs: int) -> Schedule:
        """The method's warm-up, then `epochs` passes."""
        return learner(method).schedule(epochs)

    def read(self, source: str, model: ImageClassifier, part: Part, options: DataOptions) -> ClassData:
        """Training images with noisy labels, of which validation gets a share; test images with true ones.

        The noise's seed, where it is None, becomes the run's: a saved model tells how its labels were made.
        """
        model = learner(model)
        data = read(source, part, options.kind)
        if part == "train":
            data = without_copies(data, lambda: read(source, "test", options.kind))
        left_out = [name for name in model.leave_out if part == "train" or name in data.classes]
        data = data.without(left_out).relabelled(model.classes)
        if part == "test":
            return with_rows(data, model.noise, model.image_size)
        model.noise = model.noise.seeded(options.seed)
        return with_noise(data, model.noise, model.image_size, source)

    def measure(self, model: ImageClassifier, dataset: Any, logits: Tensor, label: np.ndarray) -> dict[str, np.ndarray]:
        """With transition matrices and noise that is made here, also the L1 error of each image's true row."""
        values = super().measure(model, dataset, logits, label)
        truth = truth_of(dataset)
        if truth is not None and truth.rows is not None:
            rows = learner(model).transition_rows(logits.softmax(dim=1), torch.from_numpy(label))
            if rows is not None:  # a true row sums to 1, so the mean of these is ||T_hat - T||_1 / ||T||_1
                values["transition_error"] = (rows - truth.rows[: len(rows)]).abs().sum(dim=1).double().numpy()
        return values

    def predict(self, method: Method, inputs: Sequence[Any], out: Path | None, using: Using) -> Answers:
        """A row per image: the class, the runner-up, and whether the label that its folder gives it may be wrong."""
        answers = super().predict(method, inputs, out, using)
        return replace(answers, notes=(*answers.notes, GIVEN))

    def answer(self, model: ImageClassifier, item: Item, logits: Tensor) -> dict[str, Any]:
        """The label is the name of the folder, where that is a class."""
        given = Path(item.source).parent.name if isinstance(item.source, (str, Path)) else None
        chance = None
        if given in model.classes:
            posterior = logits.softmax(dim=0)[None]
            with torch.no_grad():
                transition = learner(model).transitions(posterior.to(model.device))
            if transition is not None:
                label = torch.tensor([model.classes.index(given)])
                chance = round(float(mislabelled(posterior, transition.cpu(), label)), 6)
        values = {"label": given if given in model.classes else None, "mislabelled": chance}
        return super().answer(model, item, logits) | values


def learner(method: Method) -> NoisyLabelClassifier:
    """The method, if it learns from noisy labels."""
    if not isinstance(method, NoisyLabelClassifier):
        raise BadInput(f"{method.name!r} is no NoisyLabelClassifier: the supervision room works with those")
    return method


ROOM = Supervision()
