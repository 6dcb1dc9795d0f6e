# SPDX-License-Identifier: Apache-2.0
"""One update: closures of a Step (zero, call, sum, backward, unscale, clip) and the optimiser's step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mien.engine.method import Losses, Method, Optimizers, Step
from mien.engine.ranks import Ranks
from mien.engine.strategy import Strategy
from mien.errors import BadInput


@dataclass
class _Box:
    """Hides a batch from the wrappers, which would cast its masks and labels or copy its dataclasses."""

    batch: Any


class LossCall(nn.Module):
    """The one way in: a loss method of the method, with the strategies around it, as one forward pass.

    One loss call is one distributed forward, however often the loss uses a network inside.
    """

    def __init__(self, method: Method, strategies: Sequence[Strategy]) -> None:
        super().__init__()
        self.method = method
        self.strategies = tuple(strategies)

    def forward(self, name: str, box: _Box) -> dict[str, Tensor]:
        """The named losses of the loss method `name`."""
        batch = box.batch
        for strategy in self.strategies:
            batch = strategy.batch(self.method, batch)
        losses: Losses = getattr(self.method, name)(batch)
        for strategy in self.strategies:
            losses = strategy.losses(self.method, batch, losses)
        return dict(losses)


class Updater:
    """Runs Steps for the optimisers of one phase.

    Args:
        method: The method, already built for the phase.
        optimizers: What `Method.optimizers` gave.
        ranks: The processes.
        strategies: In order.
        clip: Largest gradient norm per optimiser, or None.
    """

    def __init__(
        self,
        method: Method,
        optimizers: Optimizers,
        ranks: Ranks,
        strategies: Sequence[Strategy] = (),
        clip: float | None = None,
    ) -> None:
        pairs = {name: o if isinstance(o, tuple) else (o, None) for name, o in optimizers.items()}
        self.method, self.ranks, self.strategies, self.clip = method, ranks, tuple(strategies), clip
        self.optimizers: dict[str, Optimizer] = {name: pair[0] for name, pair in pairs.items()}
        self.schedulers: dict[str, LRScheduler] = {name: pair[1] for name, pair in pairs.items() if pair[1] is not None}
        self.call = ranks.wrap(LossCall(method, strategies))
        self.stepped = {n: o if takes_closures(o) else ranks.wrap_optimizer(o) for n, o in self.optimizers.items()}
        self.parameters = {name: _parameters(optimizer) for name, optimizer in self.optimizers.items()}
        self.others = {name: self._others(name) for name in self.optimizers}

    def update(self, steps: Sequence[Step]) -> dict[str, Tensor]:
        """One update from one Step, or from the same Step of several accumulated batches. Gives the detached losses."""
        first = steps[0]
        name = first.optimizer
        if name not in self.optimizers:
            raise BadInput(f"a Step names the optimiser {name!r}: this phase has {', '.join(self.optimizers)}")
        if any(step.optimizer != name or len(step.batches) != len(first.batches) for step in steps):
            raise BadInput("accumulated batches disagree: their i-th Steps must name one optimiser and as many batches")
        seen: list[dict[str, Tensor]] = []
        closures = [self._closure(name, steps, column, seen) for column in range(len(first.batches))]
        optimizer: Any = self.stepped[name]
        with _frozen(self.others[name]) if self.others[name] else nullcontext():
            if takes_closures(optimizer):
                optimizer.step(closures)
            else:
                if len(closures) != 1:
                    raise BadInput(f"a Step has {len(closures)} batches: a plain optimiser takes exactly one")
                closures[0]()
                optimizer.step()
        if name in self.schedulers:
            self.schedulers[name].step()
        return seen[0]

    def _closure(
        self, name: str, steps: Sequence[Step], column: int, seen: list[dict[str, Tensor]]
    ) -> Callable[[], Tensor]:
        """The gradients of batch `column` of every Step, averaged, in `.grad`; the loss is given back, detached."""

        def closure() -> Tensor:
            self.optimizers[name].zero_grad(set_to_none=True)
            parts: list[dict[str, Tensor]] = []
            with torch.enable_grad():
                for i, step in enumerate(steps):
                    with self.ranks.hold_back(self.call, enabled=i < len(steps) - 1):
                        losses = self.call(step.loss.__name__, _Box(step.batches[column]))
                        total = reduce(add, losses.values())
                        self.ranks.backward(total if len(steps) == 1 else total / len(steps))
                    parts.append({key: value.detach() for key, value in losses.items()})
            for strategy in self.strategies:
                strategy.gradients(self.method, name)
            if self.clip is not None:
                self.ranks.unscale(self.stepped[name])
                torch.nn.utils.clip_grad_norm_(self.parameters[name], self.clip)
            seen.append(parts[0] if len(parts) == 1 else _mean(parts))
            return total.detach() if len(parts) == 1 else reduce(add, seen[-1].values())

        return closure

    def _others(self, name: str) -> list[nn.Parameter]:
        own = set(map(id, self.parameters[name]))
        everyone = [p for other, ps in self.parameters.items() if other != name for p in ps]
        return [p for p in dict.fromkeys(everyone) if id(p) not in own and p.requires_grad]

    def refuse_closures(self, what: str, advice: str) -> None:
        """Raise BadInput when an optimiser takes closures, which a loss scaler cannot serve."""
        for name, optimizer in self.optimizers.items():
            if takes_closures(optimizer):
                raise BadInput(f"{what} and the optimiser {name!r} is {type(optimizer).__name__}: {advice}")

    def state(self) -> dict[str, Any]:
        """States of optimisers (by parameter name), schedules and scaler."""
        names = {id(p): n for n, p in self.method.named_parameters()}
        return {
            "optimizers": {name: optimizer_state(o, names) for name, o in self.optimizers.items()},
            "schedulers": {name: scheduler.state_dict() for name, scheduler in self.schedulers.items()},
            "scaler": self.ranks.scaler_state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave. Raises BadInput when the optimisers or their parameters are others."""
        if set(state["optimizers"]) != set(self.optimizers):
            raise BadInput(
                f"the checkpoint's optimisers are {sorted(state['optimizers'])}, not {sorted(self.optimizers)}"
            )
        names = {id(p): n for n, p in self.method.named_parameters()}
        for name, optimizer in self.optimizers.items():
            load_optimizer_state(optimizer, state["optimizers"][name], names)
        for name, scheduler in self.schedulers.items():
            scheduler.load_state_dict(state["schedulers"][name])
        if state["scaler"]:
            self.ranks.load_scaler_state(state["scaler"])


@contextmanager
def _frozen(parameters: list[nn.Parameter]) -> Iterator[None]:
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def takes_closures(optimizer: Any) -> bool:
    """Whether the optimiser's `step` takes a list of closures, one per batch of the Step."""
    return bool(getattr(optimizer, "takes_closures", False))


def _mean(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([part[key] for part in parts]).mean() for key in parts[0]}


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def optimizer_state(optimizer: Optimizer, names: Mapping[int, str]) -> dict[str, Any]:
    """State by parameter name, so that it survives a change of order. `names`: id of parameter -> name."""
    raw = optimizer.state_dict()
    order = [names[id(p)] for p in _parameters(optimizer)]
    groups = [{**group, "params": [order[i] for i in group["params"]]} for group in raw["param_groups"]]
    return {"state": {order[i]: value for i, value in raw["state"].items()}, "groups": groups}


def load_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any], names: Mapping[int, str]) -> None:
    """Take back `optimizer_state`."""
    order = [names[id(p)] for p in _parameters(optimizer)]
    position = {name: i for i, name in enumerate(order)}
    stored = [name for group in state["groups"] for name in group["params"]]
    if sorted(stored) != sorted(order):
        raise BadInput(
            f"the checkpoint's optimiser has {len(stored)} parameters that are not the {len(order)} of this run"
        )
    by_name = {name: group for group in state["groups"] for name in group["params"]}
    groups = []
    for group in optimizer.state_dict()["param_groups"]:
        saved = by_name[order[group["params"][0]]] if group["params"] else group
        groups.append({**saved, "params": group["params"]})
    optimizer.load_state_dict(
        {"state": {position[name]: value for name, value in state["state"].items()}, "param_groups": groups}
    )
