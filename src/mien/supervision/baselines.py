# SPDX-License-Identifier: Apache-2.0
"""What a method for noisy labels must beat: cross-entropy that takes them for true, and one transition matrix for all.

Forward correction: Patrini, Rozza, Menon, Nock, Qu, "Making Deep Neural Networks Robust to Label Noise: a Loss
Correction Approach", CVPR 2017. It goes on from the network that T was estimated with, where the authors start anew, so
that every method here makes the same number of steps.

Example:
    >>> NoisyCE(network=Network("tiny_cnn"), image_size=8).image_size
    8
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.classification.data import Labelled
from mien.engine import Phase
from mien.engine.method import Losses
from mien.errors import BadInput
from mien.nn.network import Network
from mien.optim.recipe import Recipe
from mien.supervision.method import NoisyLabelClassifier
from mien.supervision.noise import Noise
from mien.supervision.transition import anchor_transition, forward_risk, noisy_posterior

PAPER = Network("cifar_resnet34", normalise="backbone")
SGD = Recipe(kind="sgd", lr=0.01, weight_decay=1e-3, schedule="steps", milestones=(0.6, 0.9))
"""MDIT's classifier: x 0.1 at epochs 30 and 45 of 50. The baselines get the same."""


class NoisyCE(NoisyLabelClassifier):
    """Cross-entropy on the labels as they are given.

    Args:
        network: The classifier.
        optimizer: How it is trained; the default is MDIT's, so that both get the same.
        image_size: Height and width in pixels of the images that it is given.
        classes: Names of the classes; None for those of the training data (in Python: CIFAR-10's).
        leave_out: Names of classes whose images are not used.
        noise: How the training labels are made wrong.
    """

    name = "noisy-ce"

    def __init__(
        self,
        *,
        network: Network = PAPER,
        optimizer: Recipe = SGD,
        image_size: int = 32,
        classes: Sequence[str] | None = None,
        leave_out: Sequence[str] = (),
        noise: Noise = Noise(),
    ) -> None:
        super().__init__(
            network=network,
            optimizer=optimizer,
            image_size=image_size,
            classes=classes,
            leave_out=leave_out,
            noise=noise,
        )


class ForwardCorrection(NoisyLabelClassifier):
    """Forward correction with one transition matrix, estimated from anchor points after a warm-up with cross-entropy.

    Args:
        network: The classifier.
        optimizer: How it is trained; the default is MDIT's, so that both get the same.
        image_size: Height and width in pixels of the images that it is given.
        classes: Names of the classes; None for those of the training data (in Python: CIFAR-10's).
        leave_out: Names of classes whose images are not used.
        noise: How the training labels are made wrong.
        warmup_epochs: Passes with cross-entropy before T is estimated, at least 1.
        anchor_quantile: Where the anchor of a class stands among all images, in (0, 1].
    """

    name = "forward-correction"
    transition: Tensor

    def __init__(
        self,
        *,
        network: Network = PAPER,
        optimizer: Recipe = SGD,
        image_size: int = 32,
        classes: Sequence[str] | None = None,
        leave_out: Sequence[str] = (),
        noise: Noise = Noise(),
        warmup_epochs: int = 10,
        anchor_quantile: float = 0.97,
    ) -> None:
        super().__init__(
            network=network,
            optimizer=optimizer,
            image_size=image_size,
            classes=classes,
            leave_out=leave_out,
            noise=noise,
            warmup_epochs=warmup_epochs,
        )
        if warmup_epochs < 1:
            raise BadInput(f"warmup_epochs is {warmup_epochs}: T is estimated after it, at least 1 is needed")
        if not 0 < anchor_quantile <= 1:
            raise BadInput(f"anchor_quantile is {anchor_quantile}: it must lie in (0, 1]")
        self.anchor_quantile = anchor_quantile
        self.register_buffer("transition", torch.eye(len(self.classes)))

    def begin_phase(self, phase: Phase, data: Dataset[Any]) -> None:
        """Estimate T, once, when the joint stage begins."""
        if not self.warming_up:
            self.transition.copy_(anchor_transition(self.posteriors(data), self.anchor_quantile))

    def losses(self, batch: Labelled) -> Losses:
        """Cross-entropy in the warm-up, then the forward risk."""
        if self.warming_up:
            return super().losses(batch)
        assert isinstance(batch.label, Tensor)
        posterior = self.classifier(batch.image).float().softmax(dim=1)
        return {"forward": forward_risk(noisy_posterior(posterior, self.transition), batch.label)}

    def transitions(self, posterior: Tensor) -> Tensor:
        """The one matrix for every image."""
        return self.transition.expand(len(posterior), -1, -1)
