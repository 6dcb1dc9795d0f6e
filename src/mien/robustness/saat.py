# SPDX-License-Identifier: Apache-2.0
"""Strength-Adaptive Adversarial Training.

Yu, Zhou, Shen, Yu, Han, Gong, Wang, Liu; preprint 2022, IEEE TPAMI 2026, arXiv 2210.01288.

Adversarial training with one budget for all leaves a gap between natural and robust accuracy that changes with the
network, and its attacks get weaker as the network gets stronger. Here the loss is what is fixed: the budget of each
image grows until its adversarial loss reaches rho.

    AT:    x'_i = argmax of l(f(x'), y_i)   over |x' - x_i| <= eps
    SAAT:  x'_i = argmin of |x' - x_i|      subject to l(f(x'), y_i) >= rho          (l: cross-entropy in nats)

    SA-PGD (Algorithm 1), image by image:
        x' = x, eps = 0
        until l(f(x'), y) >= rho or eps = eps_max:
            eps = min(eps + tau, eps_max)
            K times, until l(f(x'), y) >= rho:   x' = Proj_{B(x, eps), [0, 1]}( x' + alpha sign(grad l(f(x'), y)) )

    training:  L = mean of l(f(x'), y)

rho <= 0 is natural training, rho = infinity adversarial training at eps_max; above 0.96 ln C it does not converge. Two
forms go by the name. `SAPGD.down()` is Algorithm 1: easy images are weakened. `SAPGD.up()`, the released script and
the best results, starts from PGD-10 at 8/255: easy images keep it, hard ones are strengthened up to eps_max. SAAT-AWP
is the same adversary with adversarial weight perturbation (awp = 0.01, eps_max = 9/255).

Robustness disparity, the paper's measure of the gap, is `mien.robustness.threat.robustness_disparity`.

Differences from the paper
    * rho = None stands for the paper's 1.7 at 10 classes, scaled to the number of classes C: 1.7 ln C / ln 10.
    * In mode "train" batch norm normalises by the batch, as in the script, but the attack's passes do not move the
      running statistics (in the script they do). There an image may fall below rho again, because others changed; it is
      then taken up at the radius reached, as in the script. In mode "eval" images that reached rho leave the batch.
    * The script attacks the first batch of each epoch in eval mode, by oversight; here all are attacked alike.
    * Adversarial weight perturbation finds its direction with the network itself instead of a copy: the running
      statistics see two passes of a step.
    * The best weights are chosen on a held-out part (`monitor=robust_accuracy`), not on the test set.

Example:
    >>> from mien.nn.network import Network
    >>> method = SAAT(network=Network("tiny_blocks"), adversary=SAPGD.down(rho=0.5, mode="eval"))
    >>> found = sa_pgd(method.classifier, torch.rand(2, 3, 32, 32), torch.tensor([0, 1]), method.adversary)
    >>> bool((found.budget == 0).all())  # a new network's loss, about ln 10, is above rho: nothing is needed
    True
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mien.attacks.ball import ascent, check_budget, project
from mien.attacks.objectives import cross_entropy
from mien.attacks.pgd import PGD
from mien.attacks.probe import Mode, Model, attacking, look, natural_images
from mien.errors import BadInput
from mien.nn.network import Network
from mien.optim.recipe import Recipe
from mien.robustness.classifier import NETWORK, RECIPE, RobustClassifier
from mien.robustness.threat import Threat

RHO, RHO_CLASSES = 1.7, 10
"""The paper's rho, and the number of classes it is for."""


@dataclass(frozen=True)
class SAPGD:
    """Settings of the adaptive adversary. The defaults are the paper's best, `SAPGD.up()`.

    Args:
        rho: Loss in nats that each image's attack aims at; None for 1.7 ln C / ln 10.
        eps_max: Largest budget, in [0, 1]: some images never reach rho.
        tau: By how much a budget grows, > 0.
        K: Steps at each budget, at least 1.
        alpha: Length of a step, > 0.
        start_eps: Budget before the first increment, in [0, eps_max].
        warm_start: Start from PGD at `start_eps`, from a random point; otherwise from the image.
        warm_steps: Steps of that PGD, at least 1.
        mode: "train" attacks with batch norm in train mode, "eval" in eval mode.
    """

    rho: float | None = None
    eps_max: float = 14 / 255
    tau: float = 2 / 255
    K: int = 3
    alpha: float = 2 / 255
    start_eps: float = 8 / 255
    warm_start: bool = True
    warm_steps: int = 10
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_budget(self.eps_max, "linf", "adversary.eps_max")
        if not 0 <= self.start_eps <= self.eps_max:
            raise BadInput(f"adversary.start_eps is {self.start_eps}: it must lie in [0, eps_max = {self.eps_max}]")
        for name in ("tau", "alpha"):
            if not getattr(self, name) > 0:
                raise BadInput(f"adversary.{name} is {getattr(self, name)}: it must be above 0")
        for name in ("K", "warm_steps"):
            if getattr(self, name) < 1:
                raise BadInput(f"adversary.{name} is {getattr(self, name)}: it must be at least 1")
        if self.mode not in ("eval", "train"):
            raise BadInput(f"adversary.mode is {self.mode!r}: use train or eval")
        if self.rho is not None and math.isnan(self.rho):
            raise BadInput("adversary.rho is not a number: give nats, or leave it out")

    def level(self, classes: int) -> float:
        """The loss to reach, for a number of classes."""
        return RHO * math.log(classes) / math.log(RHO_CLASSES) if self.rho is None else self.rho

    def budgets(self) -> list[float]:
        """The budgets after the start, the last one cut to eps_max.

        >>> [round(255 * eps) for eps in SAPGD(eps_max=11 / 255).budgets()]
        [10, 11]
        """
        count = math.ceil((self.eps_max - self.start_eps) / self.tau - 1e-9)
        return [min(self.start_eps + (i + 1) * self.tau, self.eps_max) for i in range(count)]

    @classmethod
    def up(cls, **changes: Any) -> SAPGD:
        """The released script: PGD-10 at 8/255, then hard images are strengthened, up to 14/255."""
        return cls(**changes)

    @classmethod
    def down(cls, **changes: Any) -> SAPGD:
        """Algorithm 1 as in the paper's table: from 0, easy images are weakened, up to 8/255 with rho 1.5."""
        return cls(**{"rho": 1.5, "eps_max": 8 / 255, "start_eps": 0.0, "warm_start": False, **changes})


class Strengthened(NamedTuple):
    """What SA-PGD made.

    Args:
        image: Adversarial images (B, 3, H, W).
        budget: The radius that each image was last moved within, (B,); `start_eps` (0 without warm start) for images
            that were not moved after the start.
        moved: Whether its budget was raised, (B,).
    """

    image: Tensor
    budget: Tensor
    moved: Tensor


def sa_pgd(
    model: Model,
    image: Tensor,
    label: Tensor,
    how: SAPGD,
    *,
    generator: torch.Generator | None = None,
) -> Strengthened:
    """Algorithm 1 for a batch: images whose loss is below rho are active, and only they move.

    Args:
        model: From images to logits.
        image: Natural images, (B, 3, H, W) in [0, 1].
        label: Their classes, (B,).
        how: Settings.
        generator: Of the random start; torch's global one by default.
    """
    natural = natural_images(image, label)
    x = natural.clone()
    if how.warm_start:
        warm = PGD(how.start_eps, how.warm_steps, how.alpha, keep="last", mode=how.mode)
        x = warm(model, natural, label, generator=generator)
    budget = torch.full_like(natural[:, 0, 0, 0], how.start_eps if how.warm_start else 0.0)
    moved = torch.zeros_like(budget, dtype=torch.bool)
    everyone = rows = torch.arange(len(x), device=x.device)
    with attacking(model, how.mode):
        for eps in how.budgets():
            for _ in range(how.K):
                if not len(rows):
                    return Strengthened(x, budget, moved)
                found = look(model, x[rows], label[rows], cross_entropy)
                active = found.loss < how.level(found.scores.shape[1])
                chosen = rows[active]
                step = how.alpha * ascent(found.gradient[active], "linf")
                x[chosen] = project(x[chosen] + step, natural[chosen], eps, "linf")
                budget[chosen], moved[chosen] = eps, True
                # In train mode the others are needed for the statistics, and may become active again.
                rows = chosen if how.mode == "eval" else everyone if len(chosen) else chosen
    return Strengthened(x, budget, moved)


class SAAT(RobustClassifier):
    """SAAT: adversarial training on images whose attacks all reach the same loss.

    Args:
        network: The classifier.
        optimizer: How it is trained.
        image_size: Height and width in pixels of the images that it is given.
        classes: Names of the classes; None for those of the training data (in Python: CIFAR-10's).
        threat: What it is validated and evaluated against.
        awp: gamma of adversarial weight perturbation (SAAT-AWP: 0.01), >= 0; 0 for none.
        adversary: The adaptive adversary.
    """

    name = "saat"

    def __init__(
        self,
        *,
        network: Network = NETWORK,
        optimizer: Recipe = RECIPE,
        image_size: int = 32,
        classes: Sequence[str] | None = None,
        threat: Threat = Threat(),
        awp: float = 0.0,
        adversary: SAPGD = SAPGD(),
    ) -> None:
        super().__init__(
            network=network, optimizer=optimizer, image_size=image_size, classes=classes, threat=threat, awp=awp
        )
        self.adversary = adversary

    def perturbed(self, image: Tensor, label: Tensor) -> Tensor:
        """By SA-PGD; logs the mean budget and the share of images that were strengthened beyond the start."""
        found = sa_pgd(self.classifier, image, label, self.adversary)
        if len(image):
            self.log("budget", found.budget.mean())
            self.log("strengthened", found.moved.float().mean())
        return found.image
