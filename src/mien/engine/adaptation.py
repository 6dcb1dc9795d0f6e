# SPDX-License-Identifier: Apache-2.0
"""Test-time adaptation: a method is lent to a few updates and comes back bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mien.engine.method import Method, Optimizers, Step
from mien.engine.ranks import Ranks
from mien.engine.seeding import kept_generators
from mien.engine.update import Updater


class Adaptation:
    """What `adapted` lends: `update(step)` makes one update of the method."""

    def __init__(self, method: Method, optimizers: Optimizers) -> None:
        self._updater = Updater(method, optimizers, Ranks(method.device))

    def update(self, step: Step) -> dict[str, Tensor]:
        """Run a Step; gives its detached losses."""
        return self._updater.update([step])

    def optimizer_state(self) -> dict[str, object]:
        """The optimisers' state, for those who carry it from one adaptation to the next."""
        return self._updater.state()

    def load_optimizer_state(self, state: dict[str, object]) -> None:
        """Take back `optimizer_state`."""
        self._updater.load_state(state)


@contextmanager
def adapted(method: Method, optimizers: Callable[[], Optimizers]) -> Iterator[Adaptation]:
    """Lend `method` to a small run of Steps; on leaving, also by an error, everything is as it was.

    Restored bit for bit: parameters, buffers, `requires_grad`, gradients, train and eval modes, and the global
    generators. Works under `no_grad` (not under `inference_mode`).

    Args:
        method: The method; it is changed in place inside.
        optimizers: Makes the optimisers; called inside, so that it may freeze parameters first.
    """
    tensors = [*method.parameters(), *method.buffers()]
    kept = [tensor.detach().clone() for tensor in tensors]
    gradients = [(p, p.requires_grad, p.grad) for p in method.parameters()]
    modes = [(module, module.training) for module in method.modules()]
    for parameter, _, _ in gradients:
        parameter.grad = None
    with kept_generators():
        try:
            yield Adaptation(method, optimizers())
        finally:
            with torch.no_grad():
                for tensor, value in zip(tensors, kept, strict=True):
                    tensor.copy_(value)
            for parameter, requires_grad, gradient in gradients:
                parameter.requires_grad_(requires_grad)
                parameter.grad = gradient
            for module, training in modes:
                module.training = training
