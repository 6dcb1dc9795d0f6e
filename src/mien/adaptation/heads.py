# SPDX-License-Identifier: Apache-2.0
"""Cosine heads with the CosFace loss, and their alignment on features drawn from the Gaussians of the classes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.engine import Adaptation, Losses, Method, Optimizers, Phase, Step
from mien.errors import BadInput
from mien.optim.recipe import Recipe


class CosineHead(nn.Module):
    """Cosines of features (B, d) with a weight for each class: (B, classes) in [-1, 1]. No bias.

    Args:
        features: d.
        classes: Of one task.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes, features))

    def start(self) -> None:
        """Draw the weights from torch's global generator, uniform with variance 1 / (3 d)."""
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, features: Tensor) -> Tensor:
        """Cosines."""
        return F.linear(F.normalize(features, dim=1), F.normalize(self.weight, dim=1))


def cosines(heads: nn.ModuleList, features: Tensor) -> Tensor:
    """The cosines of all heads side by side, (B, classes seen so far)."""
    return torch.cat([head(features) for head in heads], dim=1)


def cosface(cosine: Tensor, label: Tensor, scale: float, margin: float) -> Tensor:
    """CosFace loss of every sample, (B,).

    L = -log( exp(s (cos_y - m)) / (exp(s (cos_y - m)) + sum_{j != y} exp(s cos_j)) )

    Args:
        cosine: (B, C).
        label: y, (B,), in 0 .. C - 1.
        scale: s.
        margin: m.

    >>> cosface(torch.tensor([[0.5, 0.5]]), torch.tensor([0]), scale=20.0, margin=0.0)  # log 2
    tensor([0.6931])
    """
    shift = F.one_hot(label, cosine.shape[1]).to(cosine.dtype) * margin
    return F.cross_entropy(scale * (cosine - shift), label, reduction="none")


# --- classifier alignment -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Alignment:
    """Classifier alignment after every task but the first (LoDA+CA).

    Args:
        epochs: Passes over drawn features; the paper's 5. 0 leaves it out.
        samples: Features drawn per class and epoch, and features of a batch.
        temperature: tau, by which logits are divided, beside the mean of their norms in the tasks; > 0. The paper:
            0.3 for CIFAR-100, 0.1 for DomainNet, else 0.2.
        ridge: Added to the diagonal of every covariance, > 0.
        recipe: How the heads are trained.

    Raises:
        BadInput: For a value outside its range.
    """

    epochs: int = 0
    samples: int = 256
    temperature: float = 0.3
    ridge: float = 1e-3
    recipe: Recipe = Recipe(kind="sgd", lr=0.01, weight_decay=5e-4, schedule="cosine")

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.samples < 1:
            raise BadInput(f"alignment has {self.epochs} epochs of {self.samples} samples: use 0 or more of 1 or more")
        for name in ("temperature", "ridge"):
            if not getattr(self, name) > 0:
                raise BadInput(f"alignment.{name} is {getattr(self, name)}: it must be above 0")


class ClassGaussians(nn.Module):
    """Mean and covariance of the features of each class of a task; the covariance as its Cholesky factor.

    Args:
        features: d.
        classes: Of the task.
    """

    mean: Tensor
    factor: Tensor

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(classes, features))
        self.register_buffer("factor", torch.zeros(classes, features, features))

    def fit(self, features: Tensor, label: Tensor, ridge: float) -> None:
        """Take features (N, d) with labels (N,) in 0 .. classes - 1. Raises BadInput for a class without any."""
        for c in range(len(self.mean)):
            rows = features[label == c].double().cpu()
            if not len(rows):
                raise BadInput(f"class {c} of the task has no image: its features have no mean")
            centred = rows - rows.mean(dim=0)
            covariance = centred.T @ centred / max(len(rows) - 1, 1)
            self.mean[c] = rows.mean(dim=0).to(self.mean)
            covariance.diagonal().add_(ridge)
            self.factor[c] = torch.linalg.cholesky(covariance).to(self.factor)

    def draw(self, samples: int, shrink: float, generator: torch.Generator) -> Tensor:
        """Features (classes, samples, d), the means multiplied by `shrink`."""
        noise = torch.randn(len(self.mean), samples, self.mean.shape[1], generator=generator).to(self.mean)
        return shrink * self.mean[:, None] + noise @ self.factor.mT


class _Aligner(Method):
    """All heads together, on batches (features (B, d), labels (B,))."""

    def __init__(self, heads: nn.ModuleList, options: Alignment) -> None:
        super().__init__()
        self.heads = copy.deepcopy(heads).requires_grad_(True)
        self.options = options

    def losses(self, batch: tuple[Tensor, Tensor]) -> Losses:
        features, label = batch
        parts = [head(features) for head in self.heads]
        norms = torch.stack([part.norm(dim=1) + 1e-7 for part in parts]).mean(dim=0)
        logits = torch.cat(parts, dim=1) / (norms[:, None] * self.options.temperature)
        return {"cross_entropy": F.cross_entropy(logits, label)}

    def optimizers(self, phase: Phase) -> Optimizers:
        return {"main": self.options.recipe.build(self.heads.parameters(), phase.total_steps)}


def align(
    heads: nn.ModuleList, gaussians: Sequence[ClassGaussians], options: Alignment, generator: torch.Generator
) -> None:
    """Train all heads, in place, on features drawn from the classes' Gaussians.

    The mean of a class of task t_c is multiplied by 0.9 + 0.1 (t_c + 1) / (t + 1), t the last task, from 0.

    Args:
        heads: One for each task.
        gaussians: Of the classes of each task.
        options: How.
        generator: What is drawn, on the CPU.
    """
    aligner = _Aligner(heads, options)
    classes = sum(len(g.mean) for g in gaussians)
    label = torch.arange(classes, device=gaussians[0].mean.device).repeat_interleave(options.samples)
    run = Adaptation(aligner, aligner.optimizers(Phase(total_steps=options.epochs * classes)))
    for _ in range(options.epochs):
        drawn = [
            g.draw(options.samples, 0.9 + 0.1 * (task + 1) / len(gaussians), generator).flatten(0, 1)
            for task, g in enumerate(gaussians)
        ]
        features = torch.cat(drawn)
        for rows in torch.randperm(len(features), generator=generator).split(options.samples):
            run.update(Step("main", aligner.losses, (features[rows], label[rows])))
    heads.load_state_dict(aligner.heads.state_dict())
