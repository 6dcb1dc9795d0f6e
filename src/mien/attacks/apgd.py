# SPDX-License-Identifier: Apache-2.0
"""APGD: projected gradient ascent with momentum that halves its own steps, image by image.

    z       = Proj( x_k + eta * ascent(grad) )
    x_(k+1) = Proj( x_k + 0.75 (z - x_k) + 0.25 (x_k - x_(k-1)) ),   x_1 = z,   eta_0 = 2 eps

At the checkpoints w_j = ceil(p_j N), p_0 = 0, p_1 = 0.22, p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06), an image's
eta is halved, and it goes back to its best point, where the loss rose in fewer than 75 % of the steps since w_(j-1), or
where eta was not halved at w_(j-1) and the best loss has not risen since.

Source: Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
Attacks, ICML 2020, algorithm 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from mien.attacks.ball import Norm, ascent, check_budget, drawn, project
from mien.attacks.objectives import OBJECTIVES
from mien.attacks.probe import Model, Worst, attacking, glance, look, natural_images
from mien.errors import BadInput

MOMENTUM, RISE = 0.75, 0.75


def checkpoints(steps: int) -> list[int]:
    """Steps w_1, w_2, ... after which step sizes are looked at.

    >>> checkpoints(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    ends = [math.ceil(round(share * steps, 9)) for share in shares[1:-1]]
    return sorted(set(ends))


@dataclass(frozen=True)
class APGD:
    """Settings of APGD; called, it attacks (see `mien.attacks.probe.Attack`). Misclassified images leave the batch.

    Args:
        eps: Budget in pixel units: in [0, 1] for linf, 0 or more for l2.
        steps: Gradient steps of each run, at least 1.
        norm: "linf" or "l2".
        loss: "ce" (APGD-CE), "dlr", "margin", or "dlr_targeted" (APGD-T): one run towards each of the `targets` most
            likely wrong classes.
        targets: Runs of "dlr_targeted", at least 1; no more than there are wrong classes.
        restarts: Runs from so many random starts (of each target), at least 1.
        passes: Gradients and answers are means over so many passes, for models that draw (EOT).
    """

    eps: float = 8 / 255
    steps: int = 100
    norm: Norm = "linf"
    loss: Literal["ce", "dlr", "margin", "dlr_targeted"] = "ce"
    targets: int = 9
    restarts: int = 1
    passes: int = 1

    def __post_init__(self) -> None:
        check_budget(self.eps, self.norm)
        for name in ("steps", "targets", "restarts", "passes"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.loss not in ("ce", "dlr", "margin", "dlr_targeted"):
            raise BadInput(f"loss is {self.loss!r}: use ce, dlr, margin or dlr_targeted")

    def __call__(
        self,
        model: Model,
        image: Tensor,
        label: Tensor,
        *,
        generator: torch.Generator | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """The worst images found; `start` is where the first run begins."""
        natural = natural_images(image, label)
        worst = Worst.before(natural)
        if not len(natural):
            return worst.image
        with attacking(model, "eval"):
            for against in self._against(model, natural, label):
                for _ in range(self.restarts):
                    at = drawn(natural, self.eps, self.norm, generator) if start is None else start.detach()
                    start = None
                    at = project(at, natural, self.eps, self.norm)
                    rows = (~worst.fooled).nonzero()[:, 0]
                    if len(rows):
                        self._run(model, worst, rows, at[rows], natural[rows], label[rows], against[rows])
        return worst.image

    def _against(self, model: Model, natural: Tensor, label: Tensor) -> list[Tensor]:
        """What the runs' losses compare with: the labels, or labels with each of the likeliest wrong classes."""
        if self.loss != "dlr_targeted":
            return [label]
        logits, _ = glance(model, natural, label, OBJECTIVES["ce"], self.passes)
        wrong = logits.scatter(1, label[:, None], -torch.inf)
        classes = wrong.topk(min(self.targets, logits.shape[1] - 1), dim=1).indices
        return [torch.stack([label, target], dim=1) for target in classes.T]

    def _run(
        self, model: Model, worst: Worst, rows: Tensor, start: Tensor, natural: Tensor, label: Tensor, against: Tensor
    ) -> None:
        """One run of the images in `rows`; `worst` learns of every iterate."""
        goal = OBJECTIVES[self.loss]
        scores, loss, gradient = look(model, start, against, goal, self.passes)
        fooled = scores.argmax(dim=1) != label
        worst.see(rows, start, loss, fooled)
        at = _Points(rows, natural, label, against, start, start, loss, gradient, start, loss, gradient)
        at.eta = torch.full_like(loss, 2 * self.eps)
        at.loss_then = loss
        at.keep(~fooled)
        ends, begun = checkpoints(self.steps), 0
        for k in range(self.steps):
            if not len(at.rows):
                return
            ascended = at.x + at.eta.view(-1, 1, 1, 1) * ascent(at.gradient, self.norm)
            moved = project(ascended, at.natural, self.eps, self.norm)
            if k:
                moved = at.x + MOMENTUM * (moved - at.x) + (1 - MOMENTUM) * (at.x - at.before)
                moved = project(moved, at.natural, self.eps, self.norm)
            scores, loss, gradient = look(model, moved, at.against, goal, self.passes)
            fooled = scores.argmax(dim=1) != at.label
            worst.see(at.rows, moved, loss, fooled)
            at.move(moved, loss, gradient)
            at.keep(~fooled)
            if k + 1 in ends:
                at.look_back(k + 1 - begun)
                begun = k + 1


@dataclass
class _Points:
    """The images of a run that are not misclassified yet. All fields have the images as their first axis."""

    rows: Tensor
    natural: Tensor
    label: Tensor
    against: Tensor
    before: Tensor
    x: Tensor
    loss: Tensor
    gradient: Tensor
    best: Tensor
    best_loss: Tensor
    best_gradient: Tensor
    eta: Tensor = field(init=False)
    loss_then: Tensor = field(init=False)  # the best loss at the last checkpoint
    rises: Tensor = field(init=False)  # steps since then that raised the loss
    halved: Tensor = field(init=False)  # whether eta was halved then

    def __post_init__(self) -> None:
        self.rises = torch.zeros_like(self.loss)
        self.halved = torch.zeros_like(self.loss, dtype=torch.bool)

    def keep(self, which: Tensor) -> None:
        """Leave the others out."""
        if not bool(which.all()):
            for name, value in vars(self).items():
                setattr(self, name, value[which])

    def move(self, x: Tensor, loss: Tensor, gradient: Tensor) -> None:
        """To the next iterate."""
        self.rises = self.rises + (loss > self.loss)
        self.before, self.x, self.loss, self.gradient = self.x, x, loss, gradient
        better = loss > self.best_loss
        self._copy(better, ("best", "best_loss", "best_gradient"), ("x", "loss", "gradient"))

    def look_back(self, steps: int) -> None:
        """A checkpoint, `steps` after the last one."""
        stuck = ~self.halved & (self.best_loss <= self.loss_then)
        self.halved = (self.rises < RISE * steps) | stuck
        self.eta = torch.where(self.halved, self.eta / 2, self.eta)
        self._copy(self.halved, ("x", "loss", "gradient"), ("best", "best_loss", "best_gradient"))
        self.loss_then, self.rises = self.best_loss, torch.zeros_like(self.rises)

    def _copy(self, which: Tensor, to: tuple[str, ...], source: tuple[str, ...]) -> None:
        for name, other in zip(to, source, strict=True):
            new, old = getattr(self, other), getattr(self, name)
            setattr(self, name, torch.where(which.view(-1, *[1] * (new.ndim - 1)), new, old))
