# SPDX-License-Identifier: Apache-2.0
"""What the server and a client do in federated rounds, whatever carries the weights between them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.engine import Method, Outcome, Phase, Rounds, Settings
from mien.engine.clients import train_phase
from mien.engine.federation import Federation, is_personal
from mien.engine.ranks import choose_device
from mien.engine.state import load_module_state, module_state
from mien.errors import BadInput, MienError, TrainingStopped


class Host:
    """The rounds as the server sees them.

    Args:
        method: With the first weights.
        schedule: The rounds.
        seed: Of the run.
    """

    def __init__(self, method: Method, schedule: Rounds, seed: int = 0) -> None:
        self.schedule, self.seed = schedule, seed
        self.federation = Federation(method.personal, schedule.weighting)
        self.federation.start(module_state(method))
        self.names = travelling(method)
        self.history: list[Outcome] = []
        self.error: MienError | None = None

    def phases(self) -> list[Phase]:
        """The phases of the next round; none when training is over."""
        past, found = list(self.history), []
        while self.error is None and (phase := self.schedule.next_phase(past, self.seed)) is not None:
            found.append(phase)
            past.append(Outcome(phase))
            if phase.closes_round:
                return found
        return []

    def shared(self) -> list[Any]:
        """The shared weights as arrays, by name."""
        return [self.federation.shared[name].numpy() for name in self.names]

    def close(self, phases: Sequence[Phase], came: Mapping[int, tuple[list[Any], int]], why: Mapping[int, str]) -> None:
        """Average what came back, in the order of the clients, and remember who is missing and why."""
        for phase in phases:
            assert phase.client is not None
            arrays, samples = came.get(phase.client, (None, 0))
            failure = None if arrays is not None else why.get(phase.client, "it did not answer")
            if arrays is not None:
                state = {n: torch.from_numpy(a.copy()) for n, a in zip(self.names, arrays, strict=True)}
                self.federation.receive(phase.client, state, samples)
            self.history.append(Outcome(phase, failure=failure, samples=samples))
            if failure is not None:
                print(f"client {phase.client} is left out of round {phase.round}: {failure}", file=sys.stderr)
        if not self.federation.close_round():
            self.error = TrainingStopped(f"no client finished round {phases[0].round}: {self.history[-1].failure}")

    def note_metrics(self, found: Mapping[int, Mapping[str, float]]) -> None:
        """Keep every client's metrics, and their means, with the round's last outcome."""
        metrics = {f"client{c}/{name}": float(v) for c, own in sorted(found.items()) for name, v in own.items()}
        for name in sorted({name for own in found.values() for name in own}):
            values = [float(own[name]) for _, own in sorted(found.items()) if name in own]
            metrics[name] = sum(values) / len(values)
        if self.history:
            self.history[-1] = replace(self.history[-1], metrics=metrics)


class Member:
    """A client: its method, and what stays with it.

    Args:
        method: Made as the server's; trained in place.
        data: The client's own.
        client: Its number, from 0.
        settings: How it trains.
        held: Held-out data, or None.
    """

    def __init__(
        self, method: Method, data: Dataset[Any], client: int, settings: Settings, held: Dataset[Any] | None = None
    ) -> None:
        self.method, self.data, self.client, self.settings, self.held = method, data, client, settings, held
        self.names, self.rounds = travelling(method), 0
        self.own = self._personal()

    def train(self, arrays: Sequence[Any], phase: Phase) -> tuple[list[Any], int]:
        """One local phase from the shared weights; gives the new ones and the number of samples."""
        self.take(arrays)
        samples = train_phase(self.method, self.data, phase, self.settings)
        self.own = self._personal()
        self.rounds += 1
        state = module_state(self.method)
        return [state[name].detach().cpu().numpy() for name in self.names], samples

    def validate(self, arrays: Sequence[Any]) -> dict[str, float]:
        """Metrics of the shared weights with the client's own, on its held-out data."""
        self.take(arrays)
        if self.held is None:
            return {}
        self.method.to(choose_device(self.settings.device)).eval()
        return self.method.validate(self.held, batch_size=self.settings.batch_size)

    def take(self, arrays: Sequence[Any]) -> None:
        """Load the shared weights and the client's own."""
        shared = {name: torch.from_numpy(a.copy()) for name, a in zip(self.names, arrays, strict=True)}
        load(self.method, {**module_state(self.method), **self.own, **shared})
        self.method.stands_for(self.client)

    def _personal(self) -> dict[str, Any]:
        patterns, state = self.method.personal, module_state(self.method)
        return {
            name: value.detach().cpu().clone() if isinstance(value, Tensor) else value
            for name, value in state.items()
            if is_personal(name, patterns)
        }


def travelling(method: Method) -> list[str]:
    """Names of the shared state, sorted. Raises BadInput for one that is no tensor."""
    state = module_state(method)
    names = sorted(name for name in state if not is_personal(name, method.personal))
    for name in names:
        if not isinstance(state[name], Tensor):
            raise BadInput(f"{method.name}: {name} is no tensor and cannot travel: make it personal")
    return names


def load(method: Method, state: dict[str, Any]) -> None:
    """Load a whole state into the method."""
    load_module_state(method, state, method.dynamic_buffers)
