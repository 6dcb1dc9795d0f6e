# SPDX-License-Identifier: Apache-2.0
"""The two classics that every method here must beat: adversarial training and TRADES.

    adversarial training   L = CE(f(x'), y),   x' by PGD on CE
    TRADES                 L = CE(f(x), y) + beta KL(f(x) || f(x')),   x' by PGD on the KL

Sources: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018; Zhang et al.,
Theoretically Principled Trade-off between Robustness and Accuracy, ICML 2019 (beta 6, 10 steps of 0.007 from noise of
deviation 0.001, attacked in eval mode).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from mien.attacks import PGD
from mien.attacks.objectives import kl
from mien.attacks.probe import Mode
from mien.classification.data import Labelled
from mien.classification.method import cross_entropy
from mien.engine import Losses
from mien.errors import BadInput
from mien.nn.network import Network
from mien.optim.recipe import Recipe
from mien.robustness.classifier import NETWORK, RECIPE, RobustClassifier
from mien.robustness.threat import Threat


class AdversarialTraining(RobustClassifier):
    """Adversarial training with one fixed budget.

    Args:
        network: The classifier.
        optimizer: How it is trained.
        image_size: Height and width in pixels of the images that it is given.
        classes: Names of the classes; None for those of the training data (in Python: CIFAR-10's).
        threat: What it is validated and evaluated against.
        awp: gamma of adversarial weight perturbation, >= 0; 0 for none.
        eps: Budget, in [0, 1].
        attack_steps: Steps of PGD from a random start, at least 1.
        attack_step: Length of a step; None for eps / 4.
        attack_mode: "train" attacks with batch norm in train mode, as the scripts that SAAT is compared with do; "eval"
            in eval mode.
    """

    name = "adversarial-training"

    def __init__(
        self,
        *,
        network: Network = NETWORK,
        optimizer: Recipe = RECIPE,
        image_size: int = 32,
        classes: Sequence[str] | None = None,
        threat: Threat = Threat(),
        awp: float = 0.0,
        eps: float = 8 / 255,
        attack_steps: int = 10,
        attack_step: float | None = None,
        attack_mode: Mode = "train",
    ) -> None:
        super().__init__(
            network=network, optimizer=optimizer, image_size=image_size, classes=classes, threat=threat, awp=awp
        )
        self.eps, self.attack_steps, self.attack_step, self.attack_mode = eps, attack_steps, attack_step, attack_mode
        self.attack = PGD(eps, attack_steps, attack_step, keep="last", mode=attack_mode)

    def perturbed(self, image: Tensor, label: Tensor) -> Tensor:
        """By PGD."""
        return self.attack(self.classifier, image, label)


class Trades(AdversarialTraining):
    """TRADES: natural accuracy and closeness of the answers within the ball.

    Args:
        network: The classifier.
        optimizer: How it is trained.
        image_size: Height and width in pixels of the images that it is given.
        classes: Names of the classes; None for those of the training data (in Python: CIFAR-10's).
        threat: What it is validated and evaluated against.
        awp: gamma of adversarial weight perturbation, >= 0; 0 for none.
        eps: Budget, in [0, 1].
        attack_steps: Steps of PGD on the divergence, at least 1.
        attack_step: Length of a step; None for eps / 4.
        attack_mode: "eval" or "train".
        beta: Weight of the divergence, >= 0.
    """

    name = "trades"

    def __init__(
        self,
        *,
        network: Network = NETWORK,
        optimizer: Recipe = RECIPE,
        image_size: int = 32,
        classes: Sequence[str] | None = None,
        threat: Threat = Threat(),
        awp: float = 0.0,
        eps: float = 8 / 255,
        attack_steps: int = 10,
        attack_step: float | None = 0.007,
        attack_mode: Mode = "eval",
        beta: float = 6.0,
    ) -> None:
        super().__init__(
            network=network,
            optimizer=optimizer,
            image_size=image_size,
            classes=classes,
            threat=threat,
            awp=awp,
            eps=eps,
            attack_steps=attack_steps,
            attack_step=attack_step,
            attack_mode=attack_mode,
        )
        if not beta >= 0:
            raise BadInput(f"beta is {beta}: it must be 0 or more")
        self.beta = beta
        self.attack = replace(self.attack, loss="kl", start="normal")

    def losses(self, batch: Labelled) -> Losses:
        """Cross-entropy of natural images, and beta times the mean divergence."""
        assert isinstance(batch.label, Tensor)
        attacked = self.adversarial(batch)
        natural = self.classifier(batch.image)
        divergence = kl(self.classifier(attacked), natural).sum() / max(len(batch.image), 1)
        return {"cross_entropy": cross_entropy(natural, batch.label), "divergence": self.beta * divergence}
