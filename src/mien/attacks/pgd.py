# SPDX-License-Identifier: Apache-2.0
"""Projected gradient ascent: steps of a fixed length within a ball around each image.

    x_(k+1) = Proj( x_k + step * ascent(grad_x loss(f(x_k), y)) )

Source: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018; with one step as long as
the budget, FGSM of Goodfellow et al., Explaining and Harnessing Adversarial Examples, ICLR 2015.

>>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4))
>>> image, label = torch.full((2, 3, 4, 4), 0.5), torch.tensor([0, 1])
>>> float((PGD(eps=0.1)(model, image, label) - image).abs().max())
0.10000002384185791
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mien.attacks.ball import Norm, ascent, check_budget, drawn, project
from mien.attacks.objectives import OBJECTIVES, Objective, ObjectiveName
from mien.attacks.probe import Mode, Model, Worst, attacking, glance, look, natural_images
from mien.errors import BadInput, unknown_name

NORMAL_START = 0.001
"""Deviation of the start "normal", as in TRADES."""


@dataclass(frozen=True)
class PGD:
    """Settings of projected gradient ascent; called, it attacks (see `mien.attacks.probe.Attack`).

    Args:
        eps: Budget in pixel units: in [0, 1] for linf, 0 or more for l2.
        steps: Gradient steps, at least 1.
        step: Length of a step; None for eps / 4, which is 2/255 at 8/255.
        norm: "linf" or "l2".
        loss: What rises: "ce", "margin" or "dlr" of the labels; "kl", the distance from the answer without attack;
            "targeted", the nearness to a class.
        start: "uniform" in the ball; "normal", noise of deviation 0.001; "natural", the image itself.
        restarts: Attacks from so many starts, at least 1; more than 1 need keep "worst".
        keep: "last" gives the last iterate, which is what is trained on. "worst" gives the worst of all iterates:
            misclassified before not misclassified, then by the loss.
        drop_fooled: An image leaves the batch as soon as it is misclassified, which is what a robust accuracy counts.
        passes: Gradients and answers are means over so many passes, for models that draw (EOT).
        mode: "eval", or "train" to let batch norm normalise by the batch. The model's own modes, running statistics and
            gradients stay as they are.
    """

    eps: float = 8 / 255
    steps: int = 20
    step: float | None = None
    norm: Norm = "linf"
    loss: ObjectiveName = "ce"
    start: Literal["uniform", "normal", "natural"] = "uniform"
    restarts: int = 1
    keep: Literal["last", "worst"] = "worst"
    drop_fooled: bool = False
    passes: int = 1
    mode: Mode = "eval"

    def __post_init__(self) -> None:
        check_budget(self.eps, self.norm)
        for name in ("steps", "restarts", "passes"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.step is not None and not self.step > 0:
            raise BadInput(f"step is {self.step}: it must be above 0, or left out")
        if self.loss not in OBJECTIVES or self.loss == "dlr_targeted":
            raise unknown_name("loss of an attack", self.loss, [name for name in OBJECTIVES if name != "dlr_targeted"])
        if self.start not in ("uniform", "normal", "natural") or self.keep not in ("last", "worst"):
            raise BadInput(f"start is {self.start!r} and keep is {self.keep!r}: see the documentation of PGD")
        if self.mode not in ("eval", "train"):
            raise BadInput(f"mode is {self.mode!r}: use eval or train")
        if self.keep == "last" and self.restarts > 1:
            raise BadInput(f"restarts is {self.restarts} with keep 'last': use keep 'worst'")
        if self.drop_fooled and self.mode == "train":
            raise BadInput("drop_fooled changes the batch, and mode 'train' normalises by the batch: use mode 'eval'")

    def __call__(
        self,
        model: Model,
        image: Tensor,
        label: Tensor,
        *,
        generator: torch.Generator | None = None,
        start: Tensor | None = None,
        against: Tensor | None = None,
        objective: Objective | None = None,
    ) -> Tensor:
        """Adversarial images. `start` is where the first of the `restarts` begins.

        Args:
            model: From images to logits.
            image: Natural images, (B, C, H, W) in [0, 1].
            label: Their classes, (B,).
            generator: Of the starts; torch's global one by default.
            start: (B, C, H, W), projected into the ball.
            against: What the objective compares with, first axis B: the class to reach for "targeted"; the labels by
                default, and for "kl" the logits without attack.
            objective: An objective of your own in place of `loss`.
        """
        natural = natural_images(image, label)
        worst = Worst.before(natural)
        if not len(natural):
            return worst.image
        with attacking(model, self.mode):
            if against is None:
                if self.loss == "targeted" and objective is None:
                    raise BadInput("loss 'targeted' needs the classes to reach: against=classes")
                against = label
                if self.loss == "kl" and objective is None:
                    against, _ = glance(model, natural, label, OBJECTIVES["ce"], self.passes)
            goal = objective or OBJECTIVES[self.loss]
            for restart in range(self.restarts):
                if restart == 0 and start is not None:
                    at = project(start.detach(), natural, self.eps, self.norm)
                else:
                    at = self._drawn(natural, generator)
                rows = torch.arange(len(natural), device=natural.device)
                if self.drop_fooled:
                    rows = rows[~worst.fooled]
                last = self._climb(model, goal, worst, rows, at, natural, label, against)
        return last if self.keep == "last" else worst.image

    def _drawn(self, natural: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.start == "uniform":
            return drawn(natural, self.eps, self.norm, generator)
        if self.start == "natural":
            return natural
        noise = torch.randn(natural.shape, generator=generator, dtype=natural.dtype).to(natural.device)
        return project(natural + NORMAL_START * noise, natural, self.eps, self.norm)

    def _climb(
        self,
        model: Model,
        goal: Objective,
        worst: Worst,
        rows: Tensor,
        start: Tensor,
        natural: Tensor,
        label: Tensor,
        against: Tensor,
    ) -> Tensor:
        """The last iterates of all images; `worst` learns of those of `rows`, which shrink as images are dropped."""
        length = self.eps / 4 if self.step is None else self.step
        result = start.clone()
        everyone = (start, natural, label, against)
        x, x0, y, target = everyone if len(rows) == len(start) else (value[rows] for value in everyone)
        looks = self.keep == "worst" or self.drop_fooled
        for _ in range(self.steps):
            if not len(rows):
                return result
            scores, loss, gradient = look(model, x, target, goal, self.passes)
            if looks:
                fooled = scores.argmax(dim=1) != y
                worst.see(rows, x, loss, fooled)
                if self.drop_fooled and bool(fooled.any()):
                    result[rows] = x
                    left = ~fooled
                    rows, x, x0, y, target, gradient = (v[left] for v in (rows, x, x0, y, target, gradient))
            x = project(torch.add(x, ascent(gradient, self.norm), alpha=length), x0, self.eps, self.norm)
        result[rows] = x
        if self.keep == "worst" and len(rows):
            scores, loss = glance(model, x, target, goal, self.passes)
            worst.see(rows, x, loss, scores.argmax(dim=1) != y)
        return result


def fgsm(model: Model, image: Tensor, label: Tensor, eps: float = 8 / 255) -> Tensor:
    """One step as long as the budget, from the image itself."""
    return PGD(eps=eps, steps=1, step=eps or None, start="natural", keep="last")(model, image, label)
