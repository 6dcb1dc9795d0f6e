# SPDX-License-Identifier: Apache-2.0
"""Federated rounds in one process: one live method, and for every client the state that is loaded before it trains."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

State = dict[str, Any]


def is_personal(name: str, patterns: Sequence[str]) -> bool:
    """Whether a state key stays with its client."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def average_states(states: Sequence[Mapping[str, Any]], weights: Sequence[float]) -> State:
    """Weighted mean of client states, key by key (FedAvg).

    Floating-point tensors are averaged in float64 with weights that sum to one; integer tensors (batch counters) and
    everything else are taken from the first state.

    >>> average_states([{"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0])}], [3, 1])
    {'w': tensor([1.])}
    """
    total = float(sum(weights))
    result: State = {}
    for name, first in states[0].items():
        if isinstance(first, Tensor) and first.is_floating_point():
            mean = sum(state[name].double() * (weight / total) for state, weight in zip(states, weights, strict=True))
            result[name] = mean.to(first.dtype)
        else:
            result[name] = first
    return result


@dataclass
class Federation:
    """The server's state, the clients' personal states, and what has come back in the open round.

    Args:
        personal: Patterns of the keys that are never averaged.
        weighting: "samples" weighs a client by its number of samples, "uniform" does not.
    """

    personal: tuple[str, ...] = ()
    weighting: Literal["samples", "uniform"] = "samples"
    shared: State = field(default_factory=dict)
    clients: dict[str, State] = field(default_factory=dict)
    sums: State = field(default_factory=dict)
    total: float = 0.0

    def start(self, state: Mapping[str, Any]) -> None:
        """Take the first server state; clients without a personal state of their own start from its personal part."""
        self.shared = _copy(state)

    def state_for(self, client: int) -> State:
        """What client `client` starts from: the shared keys of the server and its own personal keys."""
        return {**self.shared, **self.clients.get(str(client), {})}

    def common(self) -> State:
        """A model for those who are no clients: the shared keys, and the plain mean of what the clients keep."""
        if not self.personal or not self.clients:
            return self.shared
        return {**self.shared, **average_states(list(self.clients.values()), [1.0] * len(self.clients))}

    def receive(self, client: int, state: Mapping[str, Any], samples: int) -> None:
        """A client's result: its personal keys are kept for it, its shared keys are added to the round's sums.

        Sums, not states, so that memory does not grow with the number of clients.
        """
        self.clients[str(client)] = _copy({n: v for n, v in state.items() if is_personal(n, self.personal)})
        weight = float(samples) if self.weighting == "samples" else 1.0
        self._add({n: v for n, v in state.items() if not is_personal(n, self.personal)}, weight)

    def _add(self, state: Mapping[str, Any], weight: float) -> None:
        for name, value in state.items():
            if isinstance(value, Tensor) and value.is_floating_point():
                value = value.detach().cpu()
                if name not in self.sums:
                    self.sums[name] = torch.zeros(value.shape, dtype=torch.float64)
                self.sums[name].add_(value, alpha=weight)
            elif name not in self.sums:
                self.sums.update(_copy({name: value}))
        self.total += weight

    def close_round(self) -> bool:
        """Average what came back into the server's state. False when nothing came back."""
        if not self.total:
            return False
        for name, value in self.sums.items():
            summed = isinstance(value, Tensor) and value.is_floating_point()
            dtype = self.shared[name].dtype if name in self.shared else torch.get_default_dtype()
            self.shared[name] = value.div_(self.total).to(dtype) if summed else value
        self.sums, self.total = {}, 0.0
        return True

    def state(self) -> State:
        """For the checkpoint."""
        return {"shared": self.shared, "clients": self.clients, "sums": self.sums, "total": self.total}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.shared, self.clients = dict(state["shared"]), dict(state["clients"])
        self.sums, self.total = dict(state.get("sums", {})), float(state.get("total", 0.0))
        for returned, weight in zip(state.get("returned", ()), state.get("weights", ()), strict=True):
            self._add(returned, weight)  # a checkpoint of the first version holds the states themselves


def _copy(state: Mapping[str, Any]) -> State:
    return {
        name: value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value
        for name, value in state.items()
    }
