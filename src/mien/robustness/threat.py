# SPDX-License-Identifier: Apache-2.0
"""What a classifier is tested against, and how its losses of accuracy are summed up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mien.attacks import PGD, Attack, standard_suite
from mien.errors import BadInput


def robustness_disparity(right: Tensor, budgets: Sequence[float], *, alive: bool = False) -> Tensor:
    """RD = (1/n) sum_i (A_0 - A_i) / eps_i, image by image; its mean over the images is the RD of the paper.

    Args:
        right: (n + 1, B), whether each image is classified rightly without attack and at each budget.
        budgets: The n budgets eps_i, above 0.
        alive: Leave out budgets at which no image is right: each adds A_0 / eps_i, whatever the model does.

    Returns:
        (B,) of float64; zeros where no budget is left.

    >>> robustness_disparity(torch.tensor([[True, True], [True, False], [False, False]]), [0.1, 0.2])
    tensor([2.5000, 7.5000], dtype=torch.float64)
    """
    eps = torch.tensor(budgets, dtype=torch.float64)
    if len(eps) != len(right) - 1 or not bool((eps > 0).all()):
        raise BadInput(
            f"budgets are {list(budgets)} for {len(right)} rows: give one above 0 for each row but the first"
        )
    a = right.double().cpu()
    counted = right[1:].any(dim=1).cpu() if alive else torch.ones(len(eps), dtype=torch.bool)
    lost = (a[:1] - a[1:]) / eps[:, None]
    return lost[counted].sum(dim=0) / max(int(counted.sum()), 1)


@dataclass(frozen=True)
class Threat:
    """How robustness is measured: L-inf, PGD with steps of eps / 4 (the paper's 2/255 at 8/255).

    Args:
        eps: Budget of the robust accuracies, in (0, 1].
        steps: Steps of PGD at `eps`; on the curve every eps / 4 adds a quarter of them (the paper: 5 for 2/255).
        budgets: Points of the curve: eps / 4, 2 eps / 4, ... as far as 1 (the paper: 10, up to 20/255).
        suite_steps: Steps of each APGD run of the worst-case suite.
        targets: Classes that APGD-T tries.
        queries: Of the square attack.
    """

    eps: float = 8 / 255
    steps: int = 20
    budgets: int = 10
    suite_steps: int = 100
    targets: int = 9
    queries: int = 5000

    def __post_init__(self) -> None:
        if not 0 < self.eps <= 1:
            raise BadInput(f"threat.eps is {self.eps}: it must lie in (0, 1], since images do: 8 levels are 8/255")
        if self.steps < 4:
            raise BadInput(f"threat.steps is {self.steps}: it must be at least 4, one for each quarter of eps")
        for name in ("budgets", "suite_steps", "targets", "queries"):
            if getattr(self, name) < 1:
                raise BadInput(f"threat.{name} is {getattr(self, name)}: it must be at least 1")

    def pgd(self) -> PGD:
        """PGD at `eps`, from one random start."""
        return PGD(self.eps, self.steps, drop_fooled=True)

    def sweep(self) -> dict[float, PGD]:
        """Budget -> PGD for `mien.attacks.robustness_curve` with warm starts, where the steps of all budgets add up."""
        quarter = self.eps / 4
        budgets = [quarter * i for i in range(1, self.budgets + 1) if quarter * i <= 1]
        return {b: PGD(b, max(self.steps // 4, 1), quarter, drop_fooled=True) for b in budgets}

    def suite(self, classes: int) -> dict[str, Attack]:
        """The attacks of the worst case."""
        return standard_suite(self.eps, classes, steps=self.suite_steps, targets=self.targets, queries=self.queries)
