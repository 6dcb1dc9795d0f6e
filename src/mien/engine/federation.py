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
    returned: list[State] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def start(self, state: Mapping[str, Any]) -> None:
        """Take the first server state; clients without a personal state of their own start from its personal part."""
        self.shared = _copy(state)

    def state_for(self, client: int) -> State:
        """What client `client` starts from: the shared keys of the server and its own personal keys."""
        return {**self.shared, **self.clients.get(str(client), {})}

    def receive(self, client: int, state: Mapping[str, Any], samples: int) -> None:
        """A client's result: its personal keys are kept for it, its shared keys wait for the average."""
        self.clients[str(client)] = _copy({n: v for n, v in state.items() if is_personal(n, self.personal)})
        self.returned.append(_copy({n: v for n, v in state.items() if not is_personal(n, self.personal)}))
        self.weights.append(float(samples) if self.weighting == "samples" else 1.0)

    def close_round(self) -> bool:
        """Average what came back into the server's state. False when nothing came back."""
        if not self.returned:
            return False
        self.shared = {**self.shared, **average_states(self.returned, self.weights)}
        self.returned, self.weights = [], []
        return True

    def state(self) -> State:
        """For the checkpoint."""
        return {"shared": self.shared, "clients": self.clients, "returned": self.returned, "weights": self.weights}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.shared, self.clients = dict(state["shared"]), dict(state["clients"])
        self.returned, self.weights = list(state["returned"]), list(state["weights"])


def _copy(state: Mapping[str, Any]) -> State:
    return {
        name: value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value
        for name, value in state.items()
    }
