# SPDX-License-Identifier: Apache-2.0
"""How attacks look at a model: its answers and gradients, without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mien.attacks.objectives import Objective
from mien.engine.evaluation import modes_kept
from mien.errors import BadInput

Model = Callable[[Tensor], Tensor]
"""(B, C, H, W) in [0, 1] -> logits. Normalisation belongs inside, or budgets would be in other units."""

Mode = Literal["eval", "train"]


class Attack(Protocol):
    """What every attack is: a callable that gives adversarial images, (B, C, H, W) in [0, 1] within its budget."""

    def __call__(
        self,
        model: Model,
        image: Tensor,
        label: Tensor,
        *,
        generator: torch.Generator | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Adversarial images.

        Args:
            model: From images to logits.
            image: Natural images, (B, C, H, W) in [0, 1].
            label: Their classes, (B,).
            generator: Of all draws; torch's global one by default.
            start: Where to start instead of where the attack would, (B, C, H, W); it is projected into the budget.
        """


@contextmanager
def attacking(model: Model, mode: Mode) -> Iterator[None]:
    """The model in eval or train mode while it is attacked; its modes come back, batch statistics do not move.

    In train mode batch norm normalises by the batch, but the running statistics are left out: a step of training
    attacks ten times and more for each time that it learns.
    """
    if mode not in ("eval", "train"):
        raise BadInput(f"mode is {mode!r}: use eval or train")
    if not isinstance(model, nn.Module):
        yield
        return
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    with modes_kept(model):
        model.train(mode == "train")
        for norm in norms:  # nn.BatchNorm in train mode then neither reads nor writes its running statistics
            norm.track_running_stats = mode == "eval"
        try:
            yield
        finally:
            for norm in norms:
                norm.track_running_stats = True


def natural_images(image: Tensor, label: Tensor) -> Tensor:
    """The images, detached. Raises BadInput where they are none, or have no labels."""
    if not image.is_floating_point() or image.ndim != 4 or label.shape != image.shape[:1]:
        raise BadInput(
            f"images are {image.dtype} {tuple(image.shape)} with labels {tuple(label.shape)}: "
            "attacks take floating-point (B, C, H, W) and (B,)"
        )
    if image.numel() and not bool(((image >= 0) & (image <= 1)).all()):
        raise BadInput("images have values outside [0, 1]: attacks work on pixels; normalise inside the model")
    return image.detach()


class Look(NamedTuple):
    """What a model answers, and where its objective rises.

    Args:
        scores: (B, C): logits; of several passes the logarithm of their mean probabilities, whose softmax these are.
        loss: The objective, (B,).
        gradient: Of each image's objective with respect to the image.
    """

    scores: Tensor
    loss: Tensor
    gradient: Tensor


def look(model: Model, image: Tensor, against: Tensor, objective: Objective, passes: int = 1) -> Look:
    """Answers and gradients at images (B, C, H, W).

    Args:
        model: From images to logits.
        image: Where to look.
        against: What the objective compares the logits with.
        objective: What is differentiated.
        passes: Expectation over transformation: means over so many passes of a model that draws (1 for others).
    """
    at = image.detach().requires_grad_()
    total: list[Tensor] = []
    for _ in range(passes):
        with torch.enable_grad():
            logits = _full(model(at))
            loss = objective(logits, against)
            (gradient,) = torch.autograd.grad(loss.sum(), at)
        scores = logits.detach() if passes == 1 else logits.detach().softmax(dim=1)
        found = [scores, loss.detach(), gradient]
        total = found if not total else [a + b for a, b in zip(total, found, strict=True)]
    if passes == 1:
        return Look(*total)
    mean = Look(*(value / passes for value in total))
    return mean._replace(scores=_logarithm(mean.scores))


@torch.no_grad()
def glance(
    model: Model, image: Tensor, against: Tensor, objective: Objective, passes: int = 1
) -> tuple[Tensor, Tensor]:
    """As `look`, without gradients: scores and objective."""
    if passes == 1:
        logits = _full(model(image))
        return logits, objective(logits, against)
    drawn = [_full(model(image)) for _ in range(passes)]
    losses = torch.stack([objective(logits, against) for logits in drawn])
    mean = torch.stack([logits.softmax(dim=1) for logits in drawn]).mean(dim=0)
    return _logarithm(mean), losses.mean(dim=0)


@torch.no_grad()
def answers(model: Model, image: Tensor, passes: int = 1) -> Tensor:
    """The classes (B,) that a model in eval mode names, of several passes by their mean probabilities."""
    with attacking(model, "eval"):
        if not len(image):
            return torch.zeros(0, dtype=torch.long, device=image.device)
        return torch.stack([_full(model(image)).softmax(dim=1) for _ in range(passes)]).sum(dim=0).argmax(dim=1)


@dataclass
class Worst:
    """The worst image of each row so far: one that is misclassified beats one that is not, then the larger objective.

    Args:
        image: (B, C, H, W).
        loss: Its objective, (B,).
        fooled: Whether it is misclassified, (B,).
    """

    image: Tensor
    loss: Tensor
    fooled: Tensor

    @classmethod
    def before(cls, natural: Tensor) -> Worst:
        """Nothing has been seen yet."""
        loss = natural.new_full((len(natural),), -torch.inf)
        return cls(natural.clone(), loss, torch.zeros_like(loss, dtype=torch.bool))

    def see(self, rows: Tensor, image: Tensor, loss: Tensor, fooled: Tensor) -> None:
        """Images of some rows, with their objective and whether they are misclassified."""
        before = self.fooled[rows]
        worse = (fooled & ~before) | ((fooled == before) & (loss > self.loss[rows]))
        found = worse.nonzero()[:, 0]
        where = rows[found]
        # whole images are copied, which indexing would do value by value
        self.image.index_copy_(0, where, image.index_select(0, found))
        self.loss[where], self.fooled[where] = loss[found].to(self.loss), fooled[found]


def _logarithm(probabilities: Tensor) -> Tensor:
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def _full(logits: Tensor) -> Tensor:
    """Logits of mixed precision as float32: an attack compares losses that differ little."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
