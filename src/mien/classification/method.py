# SPDX-License-Identifier: Apache-2.0
"""What all classifiers share: named classes, a network with a logit for each, accuracy for validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from mien.classification.data import CIFAR10, Augmentation, Labelled
from mien.engine import Method, Phase
from mien.engine.evaluation import predictions
from mien.engine.method import Losses, Optimizers
from mien.errors import BadInput
from mien.nn.network import Classifier, Network
from mien.optim.recipe import Recipe


@dataclass
class Opinion:
    """The answer for a batch.

    Args:
        logits: (B, C) of the classes.
    """

    logits: Tensor


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy of (B, C) logits and (B,) labels; B = 0 gives a zero that is connected to `logits`.

    Raises:
        BadInput: For a label outside 0 .. C - 1: such an image cannot be trained on.
    """
    return F.cross_entropy(logits, checked_label(label, logits.shape[1]), reduction="sum") / max(len(label), 1)


def checked_label(label: Tensor, classes: int) -> Tensor:
    """Labels (B,) as int64. Raises BadInput for one outside 0 .. `classes` - 1: it cannot be trained on."""
    if bool(((label < 0) | (label >= classes)).any()):
        raise BadInput(f"labels run from {int(label.min())} to {int(label.max())}: there are {classes} classes")
    return label.long()


class ImageClassifier(Method):
    """A network with one logit for each class.

    Args:
        network: The classifier.
        optimizer: How it is trained.
        image_size: Height and width in pixels of the images that it is given.
        classes: Names of the classes; None for those of the training data (in Python: CIFAR-10's).
    """

    augmentation: ClassVar[Augmentation] = "shift_flip"
    """How training images are varied; handwritten digits are never mirrored."""

    crop: float | None = None
    """What part of a test image is shown, as `mien.classification.data.middle_view`; None for all of it."""

    def __init__(
        self, *, network: Network, optimizer: Recipe, image_size: int, classes: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        names = tuple(CIFAR10 if classes is None else classes)
        if len(names) < 2 or len(set(names)) < len(names):
            raise BadInput(f"classes are {list(names)}: give at least two different names")
        if image_size < 8:
            raise BadInput(f"image_size is {image_size}: it must be at least 8 pixels")
        self.network, self.optimizer, self.image_size, self.classes = network, optimizer, image_size, names
        self.classifier = self.build_network()

    def build_network(self) -> Classifier:
        """The network, with a logit for each class."""
        return self.network.build(len(self.classes), self.image_size)

    def optimizers(self, phase: Phase) -> Optimizers:
        """One optimiser over the classifier."""
        return {"main": self.optimizer.build(self.classifier.parameters(), phase.total_steps)}

    def losses(self, batch: Labelled) -> Losses:
        """Cross-entropy."""
        assert isinstance(batch.label, Tensor)
        return {"cross_entropy": cross_entropy(self.classifier(batch.image), batch.label)}

    def predict(self, batch: Labelled) -> Opinion:
        """Logits."""
        return Opinion(self.classifier(batch.image))

    def validate(self, data: Dataset[Any], *, batch_size: int = 64) -> dict[str, float]:
        """Accuracy and mean cross-entropy."""
        right, loss, count = 0, 0.0, 0
        for batch, answer in predictions(self, data, batch_size):
            right += int((answer.logits.argmax(dim=1) == batch.label).sum())
            loss += float(F.cross_entropy(answer.logits.float(), batch.label, reduction="sum"))
            count += len(batch.label)
        return {"accuracy": right / count, "loss": loss / count}

    def config(self) -> dict[str, Any]:
        """The constructor's arguments. Weights to start from are left out: what is saved has its own."""
        config = super().config()
        config["network"] |= {"pretrained": False, "weights": None}
        return config
