# SPDX-License-Identifier: Apache-2.0
"""What classifiers that learn from noisy labels share: the noise, the two stages, validation on noisy labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from mien.classification.data import CIFAR10
from mien.classification.method import ImageClassifier
from mien.engine import Phase, Schedule, Stages
from mien.engine.evaluation import predictions
from mien.engine.method import Optimizers
from mien.errors import BadInput
from mien.nn.network import Network
from mien.optim.recipe import Recipe
from mien.supervision.noise import Noise
from mien.supervision.transition import LEAST, noisy_posterior, rows_of

WARM_UP, JOINT = "warm-up", "joint"
"""The stages."""
CHUNK = 1024
"""Transition matrices that are in memory at a time."""


class NoisyLabelClassifier(ImageClassifier):
    """A classifier whose training labels may be wrong; it answers with its opinion on the true class.

    Args:
        network: The classifier.
        optimizer: How it is trained; in the warm-up at a constant rate.
        image_size: Height and width in pixels of the images that it is given.
        classes: Names of the classes; None for those of the training data (in Python: CIFAR-10's).
        leave_out: Names of classes whose images are not used.
        noise: How the training labels are made wrong; the room does it.
        warmup_epochs: Passes over all training data before the joint stage, 0 or more.
    """

    scope = (
        "Names the class of an image, in the opinion of a model that was trained on labels of which some were wrong. "
        "What it says of wrong labels is an estimate that follows from its assumptions, not a correction."
    )

    def __init__(
        self,
        *,
        network: Network,
        optimizer: Recipe,
        image_size: int,
        classes: Sequence[str] | None,
        leave_out: Sequence[str],
        noise: Noise,
        warmup_epochs: int = 0,
    ) -> None:
        names = CIFAR10 if classes is None else classes
        kept = [name for name in names if name not in leave_out]
        super().__init__(network=network, optimizer=optimizer, image_size=image_size, classes=kept)
        if warmup_epochs < 0:
            raise BadInput(f"warmup_epochs is {warmup_epochs}: it must be 0 or more")
        self.leave_out, self.noise, self.warmup_epochs = tuple(leave_out), noise, warmup_epochs
        self.warming_up = False

    def schedule(self, epochs: int) -> Schedule:
        """The warm-up, if there is one, then `epochs` passes of the joint stage."""
        warm_up = {WARM_UP: self.warmup_epochs} if self.warmup_epochs else {}
        return Stages(warm_up | {JOINT: epochs})

    def build_phase(self, phase: Phase) -> None:
        """Note the stage; a phase by another name is a joint stage."""
        self.warming_up = phase.name == WARM_UP

    def recipe(self) -> Recipe:
        """How the classifier is trained in this stage."""
        return replace(self.optimizer, schedule="constant") if self.warming_up else self.optimizer

    def optimizers(self, phase: Phase) -> Optimizers:
        """One optimiser over the classifier."""
        return {"main": self.recipe().build(self.classifier.parameters(), phase.total_steps)}

    def transitions(self, posterior: Tensor) -> Tensor | None:
        """T(x), (B, K, K), of images with posteriors f(x) (B, K); None for a method without a notion of it."""
        return None

    @torch.no_grad()
    def transition_rows(self, posterior: Tensor, label: Tensor) -> Tensor | None:
        """The rows of T(x) at the labels, (N, K), without holding all N matrices; None as above."""
        rows = []
        for p, y in zip(posterior.split(CHUNK), label.split(CHUNK), strict=True):
            transition = self.transitions(p.to(self.device))
            if transition is None:
                return None
            rows.append(rows_of(transition.cpu(), y))
        return torch.cat(rows) if rows else torch.zeros(0, len(self.classes))

    def posteriors(self, data: Dataset[Any], batch_size: int = 128) -> Tensor:
        """f(x) of all samples in their order, not augmented, (N, K) on the CPU. Eval mode, no gradients."""
        plain = data.plain() if hasattr(data, "plain") else data
        answers = (answer for _, answer in predictions(self, plain, batch_size))
        return torch.cat([answer.logits.float().softmax(dim=1).cpu() for answer in answers])

    @torch.no_grad()
    def validate(self, data: Dataset[Any], *, batch_size: int = 64) -> dict[str, float]:
        """How well NOISY labels are foretold, by g = T^T f: true ones are not to be had. Accuracy and mean -log g."""
        right, loss, count = 0, 0.0, 0
        for batch, answer in predictions(self, data, batch_size):
            posterior = answer.logits.float().softmax(dim=1)
            transition = self.transitions(posterior)
            noisy = posterior if transition is None else noisy_posterior(posterior, transition)
            right += int((noisy.argmax(dim=1) == batch.label).sum())
            loss += float(F.nll_loss(noisy.clamp_min(LEAST).log(), batch.label, reduction="sum"))
            count += len(batch.label)
        return {"noisy_accuracy": right / count, "loss": loss / count}
