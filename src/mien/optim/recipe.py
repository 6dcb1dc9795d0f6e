# SPDX-License-Identifier: Apache-2.0
"""Which optimiser with which settings and learning-rate schedule, as plain data for command line and config.json."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mien.errors import BadInput

Kind = Literal["sgd", "adam", "adamw"]
Decay = Literal["constant", "cosine", "linear", "steps"]


@dataclass(frozen=True)
class Recipe:
    """An optimiser and its learning-rate schedule, stepped once per update.

    Args:
        kind: "sgd", "adam" or "adamw".
        lr: Learning rate after the warm-up, > 0.
        betas: Decay rates of Adam's two moments, each in [0, 1). Unused by sgd.
        momentum: Momentum of sgd, in [0, 1). Unused by adam and adamw.
        nesterov: Nesterov momentum (sgd).
        weight_decay: Decoupled for adamw, added to the gradient for the others; >= 0. On all parameters.
        schedule: "constant"; "cosine" down to `final_lr`; "linear" is constant up to `decay_from` and then falls along
            a line to `final_lr`; "steps" multiplies by `gamma` at each of `milestones`.
        warmup_steps: Updates over which the rate rises linearly from lr / warmup_steps to lr.
        final_lr: Where "cosine" and "linear" end, >= 0.
        decay_from: Share of all updates after which "linear" falls, in [0, 1).
        milestones: Shares of all updates, rising, each in (0, 1), at which "steps" lowers the rate.
        gamma: Factor of "steps", in (0, 1].

    Raises:
        BadInput: For a value outside its range.
    """

    kind: Kind = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.01
    schedule: Decay = "constant"
    warmup_steps: int = 0
    final_lr: float = 0.0
    decay_from: float = 0.5
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        # lists come from JSON; tuples keep the recipe hashable and equal to the one that was written
        object.__setattr__(self, "betas", tuple(self.betas))
        object.__setattr__(self, "milestones", tuple(self.milestones))
        if self.kind not in ("sgd", "adam", "adamw"):
            raise BadInput(f"kind is {self.kind!r}: use sgd, adam or adamw")
        if self.schedule not in ("constant", "cosine", "linear", "steps"):
            raise BadInput(f"schedule is {self.schedule!r}: use constant, cosine, linear or steps")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise BadInput(f"lr is {self.lr}: it must be above 0")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise BadInput(f"betas is {self.betas}: use two numbers in [0, 1)")
        if not 0 <= self.momentum < 1:
            raise BadInput(f"momentum is {self.momentum}: it must lie in [0, 1)")
        if self.nesterov and not self.momentum:
            raise BadInput("nesterov needs a momentum above 0")
        for name in ("weight_decay", "final_lr", "warmup_steps"):
            if not getattr(self, name) >= 0:
                raise BadInput(f"{name} is {getattr(self, name)}: it must be 0 or more")
        if not 0 <= self.decay_from < 1:
            raise BadInput(f"decay_from is {self.decay_from}: it must lie in [0, 1)")
        if not all(0 < m < 1 for m in self.milestones) or list(self.milestones) != sorted(self.milestones):
            raise BadInput(f"milestones is {self.milestones}: use rising shares of the training in (0, 1)")
        if not 0 < self.gamma <= 1:
            raise BadInput(f"gamma is {self.gamma}: it must lie in (0, 1]")

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The optimiser alone, over the parameters that require gradients."""
        chosen = [parameter for parameter in parameters if parameter.requires_grad]
        if not chosen:
            raise BadInput("there is nothing to train: no parameter requires a gradient")
        if self.kind == "sgd":
            return torch.optim.SGD(
                chosen, self.lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay
            )
        adam: Callable[..., Optimizer] = torch.optim.Adam if self.kind == "adam" else torch.optim.AdamW
        return adam(chosen, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)

    def build(self, parameters: Iterable[nn.Parameter], total_steps: int) -> tuple[Optimizer, LambdaLR]:
        """The optimiser and its schedule over `total_steps` updates (at least 1).

        Raises:
            BadInput: When no parameter requires a gradient.
        """
        return self.scheduled(self.optimizer(parameters), total_steps)

    def scheduled(self, optimizer: Optimizer, total_steps: int) -> tuple[Optimizer, LambdaLR]:
        """An optimiser of one's own (other groups, closures) with the recipe's schedule over `total_steps` updates."""
        return optimizer, LambdaLR(optimizer, partial(self.factor, total_steps=max(total_steps, 1)))

    def factor(self, step: int, total_steps: int) -> float:
        """What the learning rate of update `step` (from 0) of `total_steps` is multiplied by, in [0, 1].

        >>> [Recipe(schedule="cosine").factor(step, 4) for step in (0, 2, 4)]
        [1.0, 0.5, 0.0]
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "steps":
            return float(self.gamma ** sum(step >= m * total_steps for m in self.milestones))
        low = self.final_lr / self.lr
        if self.schedule == "cosine":
            share = min((step - self.warmup_steps) / max(total_steps - self.warmup_steps, 1), 1.0)
            return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share))
        if self.schedule == "linear":
            start = max(self.decay_from * total_steps, self.warmup_steps)
            share = (step - start) / max(total_steps - start, 1)
            return 1 - (1 - low) * min(max(share, 0.0), 1.0)
        return 1.0
