# SPDX-License-Identifier: Apache-2.0
"""Strategies cut across methods: adversarial examples, weight averaging, label-noise handling. A list, in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mien.engine.method import Losses, Method
from mien.errors import BadInput


class Strategy:
    """Base of strategies: every hook does nothing."""

    def begin(self, method: Method) -> None:
        """Runs at the start of every phase, after the method's structure is built and before any state is loaded."""

    def batch(self, method: Method, batch: Any) -> Any:
        """The batch that the loss method sees. Runs inside the loss call, so it may use the network (an attack)."""
        return batch

    def losses(self, method: Method, batch: Any, losses: Losses) -> Losses:
        """The losses that are summed."""
        return losses

    def gradients(self, method: Method, optimizer: str) -> None:
        """Runs after backward, before clipping. Gradients are in `.grad`."""

    def after_step(self, method: Method) -> None:
        """Runs after the updates of a batch, without gradients."""

    def evaluation_weights(self) -> Mapping[str, Tensor] | None:
        """Weights to evaluate and save with, by state name, in place of the trained ones; None to leave them."""
        return None

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold: a tree of tensors and plain values."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""


class EMA(Strategy):
    """Exponential moving average of all floating-point weights, used to evaluate and to save.

    average <- decay * average + (1 - decay) * weight, after every step. Buffers are copied.

    Args:
        decay: In [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise BadInput(f"EMA decay is {decay}: it must lie in [0, 1)")
        self.decay = decay
        self.average: dict[str, Tensor] = {}

    def begin(self, method: Method) -> None:
        """Start from the weights for names that are new or changed their shape."""
        current = dict(method.named_parameters())
        kept = {n: t for n, t in self.average.items() if n in current and t.shape == current[n].shape}
        self.average = {name: kept.get(name, weight.detach().clone()) for name, weight in current.items()}

    @torch.no_grad()
    def after_step(self, method: Method) -> None:
        """Move the average towards the weights."""
        names = list(self.average)
        weights = dict(method.named_parameters())
        torch._foreach_lerp_([self.average[n] for n in names], [weights[n] for n in names], 1 - self.decay)

    def evaluation_weights(self) -> Mapping[str, Tensor]:
        """The averages."""
        return self.average

    def state(self) -> dict[str, Any]:
        """The averages."""
        return {"average": self.average}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back the averages, on the device they live on."""
        self.average = {
            n: t.to(self.average[n].device if n in self.average else t.device) for n, t in state["average"].items()
        }


@torch.no_grad()
def keep_evaluation_weights(method: Method, strategies: Sequence[Strategy]) -> dict[str, Tensor]:
    """Give the method the strategies' evaluation weights for good; returns the ones that they replace."""
    own = dict(method.named_parameters()) | dict(method.named_buffers())
    replaced: dict[str, Tensor] = {}
    for strategy in strategies:
        for name, value in (strategy.evaluation_weights() or {}).items():
            replaced.setdefault(name, own[name].detach().clone())
            own[name].copy_(value)
    return replaced


@contextmanager
def evaluation_weights(method: Method, strategies: Sequence[Strategy]) -> Iterator[None]:
    """Lend the method the strategies' evaluation weights; the trained ones come back bit for bit."""
    replaced = keep_evaluation_weights(method, strategies)
    try:
        yield
    finally:
        own = dict(method.named_parameters()) | dict(method.named_buffers())
        with torch.no_grad():
            for name, value in replaced.items():
                own[name].copy_(value)
