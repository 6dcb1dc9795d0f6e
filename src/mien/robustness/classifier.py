# SPDX-License-Identifier: Apache-2.0
"""What all adversarially trained classifiers share: images are attacked inside the loss, and validated under attack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from mien.attacks.probe import answers
from mien.classification.data import Labelled
from mien.classification.method import ImageClassifier, checked_label, cross_entropy
from mien.engine import Losses, Optimizers, Phase, Step
from mien.engine.evaluation import predictions
from mien.errors import BadInput
from mien.nn.network import Network
from mien.optim.closures import AdversarialWeights
from mien.optim.recipe import Recipe
from mien.robustness.threat import Threat

NETWORK = Network("preact_resnet18", normalise="backbone")
RECIPE = Recipe(kind="sgd", lr=0.1, weight_decay=5e-4, schedule="steps")
"""As in Yu et al., Strength-Adaptive Adversarial Training: the rate falls tenfold at 1/2 and at 3/4."""


@dataclass
class Attacked(Labelled):
    """A training batch that keeps its adversarial images, so that an optimiser that asks twice gets the same ones.

    Args:
        adversarial: (B, 3, H, W), or None before they are made.
    """

    adversarial: Tensor | None = None


class RobustClassifier(ImageClassifier):
    """Thin base: the mean cross-entropy of adversarial images.

    Args:
        network: The classifier. What it does to normalise images is inside it: budgets are in [0, 1].
        optimizer: How it is trained.
        image_size: Height and width in pixels of the images that it is given.
        classes: Names of the classes; None for those of the training data (in Python: CIFAR-10's).
        threat: What it is validated and evaluated against.
        awp: gamma of adversarial weight perturbation (the paper's 0.01), >= 0; 0 for none.
    """

    scope = (
        "Names a class for every image, also for images of none, and was trained so that small changes of the pixels "
        "made on purpose change the answer less often. Attacks other than those it was tested with, larger changes, "
        "and images unlike the training data may be answered wrongly."
    )

    def __init__(
        self,
        *,
        network: Network,
        optimizer: Recipe,
        image_size: int,
        classes: Sequence[str] | None,
        threat: Threat,
        awp: float,
    ) -> None:
        super().__init__(network=network, optimizer=optimizer, image_size=image_size, classes=classes)
        if not 0 <= awp < 1:
            raise BadInput(f"awp is {awp}: it must lie in [0, 1)")
        self.threat, self.awp = threat, awp

    def perturbed(self, image: Tensor, label: Tensor) -> Tensor:
        """The adversarial images that are learned from. A method says which."""
        raise TypeError(f"{type(self).__name__} defines no perturbed()")

    def steps(self, batch: Labelled) -> Iterator[Step]:
        """One Step; its batch keeps the adversarial images."""
        yield Step("main", self.losses, Attacked(batch.image, batch.label, batch.group, batch.path))

    def adversarial(self, batch: Labelled) -> Tensor:
        """The adversarial images of a batch, made when they are first asked for."""
        label = checked_label(batch.label, len(self.classes))  # type: ignore[arg-type]
        if not isinstance(batch, Attacked):
            return self.perturbed(batch.image, label)
        if batch.adversarial is None:
            batch.adversarial = self.perturbed(batch.image, label)
        return batch.adversarial

    def losses(self, batch: Labelled) -> Losses:
        """Cross-entropy on adversarial images."""
        assert isinstance(batch.label, Tensor)
        return {"cross_entropy": cross_entropy(self.classifier(self.adversarial(batch)), batch.label)}

    def optimizers(self, phase: Phase) -> Optimizers:
        """One optimiser over the classifier, with adversarial weight perturbation where it is asked for."""
        optimizer = self.optimizer.optimizer(self.classifier.parameters())
        wrapped = AdversarialWeights(optimizer, self.awp) if self.awp else optimizer
        return {"main": self.optimizer.scheduled(wrapped, phase.total_steps)}

    def validate(self, data: Dataset[Any], *, batch_size: int = 64) -> dict[str, float]:
        """Accuracy, robust accuracy (PGD at the threat's budget, the same starts every time) and mean cross-entropy."""
        generator = torch.Generator().manual_seed(0)
        attack = self.threat.pgd()
        right, robust, loss, count = 0, 0, 0.0, 0
        for batch, answer in predictions(self, data, batch_size):
            known = answer.logits.argmax(dim=1) == batch.label
            image, label = batch.image[known], batch.label[known]
            attacked = attack(self.classifier, image, label, generator=generator)
            robust += int((answers(self.classifier, attacked) == label).sum())
            right += int(known.sum())
            loss += float(F.cross_entropy(answer.logits.float(), batch.label, reduction="sum"))
            count += len(batch.label)
        return {"accuracy": right / count, "robust_accuracy": robust / count, "loss": loss / count}
