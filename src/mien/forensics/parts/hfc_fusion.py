# SPDX-License-Identifier: Apache-2.0
"""How the streams of HFC-MFFD become one answer: levels, the weights of their streams, and the decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.engine.seeding import stable_seed
from mien.errors import BadInput


@dataclass(frozen=True)
class Fusion:
    """How the weights of the streams are found.

    Args:
        kind: "learned" weighs the streams by softmax(w); "sum" adds their logits up.
        lr: Learning rate of Adam for w.
        batch: Images per update.
        epochs: Passes over the training scores.
        samples: At most so many training images, evenly picked; None for all.

    Raises:
        BadInput: For a value outside its range.
    """

    kind: Literal["learned", "sum"] = "learned"
    lr: float = 1e-4
    batch: int = 256
    epochs: int = 150
    samples: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("learned", "sum"):
            raise BadInput(f"fusion.kind is {self.kind!r}: use learned or sum")
        if not self.lr > 0 or self.batch < 1 or self.epochs < 0:
            raise BadInput(
                f"fusion.lr is {self.lr}, batch {self.batch}, epochs {self.epochs}: above 0, at least 1, and 0 or more"
            )
        if self.samples is not None and self.samples < 1:
            raise BadInput(f"fusion.samples is {self.samples}: it must be at least 1, or left out")


class Level(nn.Module):
    """The streams of one level, each (B, 3, H, W) -> logits (B, C), and w, which starts at 1.

    Args:
        streams: Name -> network; maybe none.
    """

    weights: Tensor

    def __init__(self, streams: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.streams = nn.ModuleDict(streams)
        self.register_buffer("weights", torch.ones(len(streams)))

    def names(self) -> list[str]:
        """The streams in order."""
        return list(self.streams)

    def scores(self, image: Tensor, used: Sequence[str]) -> Tensor:
        """Logits of the streams in use, (K, B, C)."""
        return torch.stack([self.streams[name](image).float() for name in used])

    def weights_of(self, used: Sequence[str]) -> Tensor:
        """The streams in use, only their w, (K,)."""
        return self.weights[[i for i, name in enumerate(self.streams) if name in used]]


def fused(scores: Tensor, weights: Tensor) -> Tensor:
    """S = sum_k exp(w_k) s_k / sum_k exp(w_k); equal weights give the mean.

    Args:
        scores: Logits of the streams, (K, B, C).
        weights: w, (K,).

    Returns:
        (B, C).

    >>> fused(torch.tensor([[[0.0, 1.0]], [[2.0, 3.0]]]), torch.ones(2))
    tensor([[1., 2.]])
    """
    return torch.einsum("kbc,k->bc", scores, weights.softmax(0))


def learn_weights(scores: Tensor, target: Tensor, settings: Fusion, class_weight: Tensor | None = None) -> Tensor:
    """The w that minimises the cross-entropy of the fused score on frozen scores, by Adam from w = 1.

    Args:
        scores: Logits of the streams on training images, (K, N, C).
        target: Their classes, (N,).
        settings: Steps and their size.
        class_weight: Of the cross-entropy, (C,), or None.

    Returns:
        (K,), float32. Ones where there is nothing to learn from: no image, or one stream.
    """
    weights = torch.ones(len(scores))
    if not len(target) or len(scores) < 2:
        return weights
    scores, target = scores.detach().float().cpu(), target.cpu()
    class_weight = None if class_weight is None else class_weight.detach().float().cpu()
    weights.requires_grad_(True)
    optimizer = torch.optim.Adam([weights], settings.lr)
    for epoch in range(settings.epochs):
        order = torch.randperm(len(target), generator=torch.Generator().manual_seed(stable_seed("fusion", epoch)))
        for rows in order.split(settings.batch):
            with torch.enable_grad():
                loss = F.cross_entropy(fused(scores[:, rows], weights), target[rows], class_weight)
                (weights.grad,) = torch.autograd.grad(loss, weights)
            optimizer.step()
    return weights.detach()


def decide(authenticity: Tensor, generator: Tensor) -> Tensor:
    """The class of each image: 0 where argmax S_b is 0 (real), otherwise 1 + argmax S_g; (B,).

    Args:
        authenticity: S_b, (B, 2).
        generator: S_g of the images that S_b calls forged, in their order, (number of those, K). There is none for the
            others: what networks that were trained on forged faces say about a real one means nothing.
    """
    answer = authenticity.argmax(dim=1)
    answer[answer == 1] = 1 + generator.argmax(dim=1)
    return answer
