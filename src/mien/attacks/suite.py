# SPDX-License-Identifier: Apache-2.0
"""The worst of several attacks, and robust accuracy as the budget grows.

An image counts as robust only if every attack of the list has failed on it, so each attack sees only those that the
ones before it have left (the idea of AutoAttack, Croce and Hein, ICML 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from mien.attacks.apgd import APGD
from mien.attacks.ball import Norm
from mien.attacks.objectives import margin
from mien.attacks.probe import Attack, Model, answers, attacking, glance, natural_images
from mien.attacks.square import Square
from mien.errors import BadInput


@dataclass(frozen=True)
class WorstCase:
    """What several attacks came to.

    Args:
        image: The adversarial images (B, C, H, W): misclassified, or those of the largest margin.
        broken_by: (B,), which attack of the list was the first to succeed, from 0; -1 for images that are
            misclassified without attack, and the number of attacks for robust ones.
        attacks: Names of the attacks.
    """

    image: Tensor
    broken_by: Tensor
    attacks: tuple[str, ...]

    @property
    def robust(self) -> Tensor:
        """(B,), whether no attack succeeded."""
        return self.broken_by == len(self.attacks)


def standard_suite(
    eps: float,
    classes: int,
    *,
    norm: Norm = "linf",
    steps: int = 100,
    targets: int = 9,
    queries: int = 5000,
    passes: int = 1,
) -> dict[str, Attack]:
    """APGD-CE, APGD-T and (L-inf, models that do not draw) Square: name -> attack.

    The composition of AutoAttack without FAB. With two or three classes, where the targeted loss does not exist,
    APGD on the margin takes its place. What a suite cannot find is in `limits`.

    Args:
        eps: Budget.
        classes: Number of classes of the model.
        norm: Norm of the budget.
        steps: Gradient steps of each APGD run.
        targets: Classes that APGD-T tries.
        queries: Of Square.
        passes: Of models that draw. Square, which keeps what raised a single answer, is left out for them; it can be
            added with `passes` of its own.
    """
    suite: dict[str, Attack] = {"apgd-ce": APGD(eps, steps, norm, "ce", passes=passes)}
    if classes >= 4:
        suite["apgd-t"] = APGD(eps, steps, norm, "dlr_targeted", targets=targets, passes=passes)
    else:
        suite["apgd-margin"] = APGD(eps, steps, norm, "margin", passes=passes)
    if norm == "linf" and passes == 1:
        suite["square"] = Square(eps, queries)
    return suite


def limits(attacks: Mapping[str, Attack]) -> str:
    """What a robust accuracy under these attacks does not say, in one line for whoever reads it.

    >>> limits(standard_suite(0.5, 10, norm="l2"))
    'no FAB and no attack without gradients: a model that masks its gradients is not found out'
    """
    if any(isinstance(attack, Square) for attack in attacks.values()):
        return "no FAB; of the attacks square alone needs no gradients"
    return "no FAB and no attack without gradients: a model that masks its gradients is not found out"


def worst_case(
    model: Model,
    image: Tensor,
    label: Tensor,
    attacks: Mapping[str, Attack],
    *,
    generator: torch.Generator | None = None,
    passes: int = 1,
) -> WorstCase:
    """Attack with each in turn what is still classified rightly.

    Args:
        model: From images to logits.
        image: Natural images, (B, C, H, W) in [0, 1].
        label: Their classes, (B,).
        attacks: Name -> attack, the cheapest first.
        generator: Of all draws.
        passes: An image is misclassified when the mean of so many answers is wrong; more than 1 for models that draw.
    """
    natural = natural_images(image, label)
    names = tuple(attacks)
    found = natural.clone()
    right = answers(model, natural, passes) == label
    broken_by = torch.where(right, len(names), -1)
    height = torch.full_like(natural[:, 0, 0, 0], -torch.inf)  # largest margin of what was tried
    for number, attack in enumerate(attacks.values()):
        rows = (broken_by == len(names)).nonzero()[:, 0]
        if not len(rows):
            break
        tried = attack(model, natural[rows], label[rows], generator=generator)
        with attacking(model, "eval"):
            scores, margins = glance(model, tried, label[rows], margin, passes)
        fooled = scores.argmax(dim=1) != label[rows]
        better = fooled | (margins > height[rows])
        found[rows[better]], height[rows[better]] = tried[better], margins[better].to(height)
        broken_by[rows[fooled]] = number
    return WorstCase(found, broken_by, names)


def robustness_curve(
    model: Model,
    image: Tensor,
    label: Tensor,
    attacks: Mapping[float, Attack],
    *,
    generator: torch.Generator | None = None,
    warm_start: bool = True,
    passes: int = 1,
) -> Tensor:
    """Which images are still classified rightly at each budget: (budgets + 1, B) of bool, without attack first.

    The curve cannot rise: an image that is misclassified within a small ball is so within every larger one, and is
    not attacked again.

    Args:
        model: From images to logits.
        image: Natural images, (B, C, H, W) in [0, 1].
        label: Their classes, (B,).
        attacks: Budget -> attack with that budget, rising.
        generator: Of all draws.
        warm_start: Each budget starts where the one before ended, so that its steps add up; otherwise where the
            attack itself starts.
        passes: An image is misclassified when the mean of so many answers is wrong; more than 1 for models that draw.
    """
    budgets = list(attacks)
    if any(b <= a for a, b in pairwise(budgets)):
        raise BadInput(f"budgets are {budgets}: they must rise")
    natural = natural_images(image, label)
    right = [answers(model, natural, passes) == label]
    at = natural.clone()
    for number, attack in enumerate(attacks.values()):
        rows = right[-1].nonzero()[:, 0]
        still = right[-1].clone()
        if len(rows):
            start = at[rows] if warm_start and number else None
            at[rows] = attack(model, natural[rows], label[rows], generator=generator, start=start)
            still[rows] = answers(model, at[rows], passes) == label[rows]
        right.append(still)
    return torch.stack(right)
