# SPDX-License-Identifier: Apache-2.0
"""Schedules: in which phases a method is trained. Pure functions of the history; no torch here.

A schedule answers one question: given the outcomes of the finished phases, what comes next? Since the history is in
every checkpoint, early stops and the clients that were chosen survive a resume.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mien.errors import BadInput


@dataclass(frozen=True)
class Phase:
    """A stretch of training with fixed structure and optimisers. Plain data.

    Args:
        index: Position in the run, from 0.
        name: What people call it: "train", "teacher", "task 2", "round 3, client 1".
        epochs: Passes over the phase's data.
        task: Number of the task, from 0, in a sequence of tasks.
        round: Number of the federated round, from 0.
        client: The client that trains, from 0.
        closes_round: Whether the clients' results are averaged after this phase.
        total_steps: Optimiser iterations of the phase; the engine fills it in once the data are known.
    """

    index: int = 0
    name: str = "train"
    epochs: int = 1
    task: int | None = None
    round: int | None = None
    client: int | None = None
    closes_round: bool = False
    total_steps: int = 0


@dataclass
class Outcome:
    """What is remembered of a finished phase. JSON only.

    Args:
        phase: The phase.
        metrics: Its last validation metrics; for tasks one row of the accuracy matrix is in here.
        stopped_early: Whether patience ended it.
        failure: Why a client is left out of its round, or None.
        samples: Number of training samples; the weight of a client in the average.
    """

    phase: Phase
    metrics: dict[str, float] = field(default_factory=dict)
    stopped_early: bool = False
    failure: str | None = None
    samples: int = 0


History = Sequence[Outcome]


class Schedule(Protocol):
    """Anything with this function is a schedule."""

    def next_phase(self, history: History, seed: int) -> Phase | None:
        """The phase after `history`, or None when training is complete. The same arguments give the same answer."""


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise BadInput(f"{name} is {value}: it must be at least 1")


@dataclass(frozen=True)
class Single:
    """One phase. `epochs` passes over the data.

    >>> Single(3).next_phase([], seed=0).epochs
    3
    """

    epochs: int = 1

    def __post_init__(self) -> None:
        _positive("epochs", self.epochs)

    def next_phase(self, history: History, seed: int) -> Phase | None:
        """The one phase, then None."""
        return Phase(epochs=self.epochs) if not history else None


@dataclass(frozen=True)
class Stages:
    """Named stages, one after the other: teacher then student, warm-up then joint.

    >>> stages = Stages({"teacher": 5, "student": 2})
    >>> stages.next_phase([], seed=0).name
    'teacher'
    """

    epochs: dict[str, int]

    def __post_init__(self) -> None:
        if not self.epochs:
            raise BadInput("Stages needs at least one stage, for instance {'teacher': 5, 'student': 2}")
        for name, count in self.epochs.items():
            _positive(f"epochs of stage {name!r}", count)

    def next_phase(self, history: History, seed: int) -> Phase | None:
        """The next stage in the order given."""
        done = len(history)
        if done == len(self.epochs):
            return None
        name, epochs = list(self.epochs.items())[done]
        return Phase(index=done, name=name, epochs=epochs)


@dataclass(frozen=True)
class Tasks:
    """A sequence of tasks (continual learning), `epochs` passes over the data of each."""

    count: int
    epochs: int = 1

    def __post_init__(self) -> None:
        _positive("number of tasks", self.count)
        _positive("epochs", self.epochs)

    def next_phase(self, history: History, seed: int) -> Phase | None:
        """Task 0, 1, ... count - 1."""
        done = len(history)
        return Phase(index=done, name=f"task {done}", epochs=self.epochs, task=done) if done < self.count else None


@dataclass(frozen=True)
class Rounds:
    """Federated rounds: chosen clients train one after the other from the same state, then their results are averaged.

    Args:
        count: Most rounds.
        clients: Number of clients.
        fraction: Share of the clients that train in a round, in (0, 1]; at least one does.
        epochs: Local passes of a client over its own data.
        patience: Rounds without a better `metric` after which training ends; None for never.
        metric: Name of the validation metric that patience watches.
        higher_is_better: Its sense.
        weighting: Whether a client's result counts by its number of samples or like every other's.

    >>> [Rounds(2, clients=2).next_phase([], seed=0).name]
    ['round 0, client 0']
    """

    count: int
    clients: int
    fraction: float = 1.0
    epochs: int = 1
    patience: int | None = None
    metric: str = "loss"
    higher_is_better: bool = False
    weighting: Literal["samples", "uniform"] = "samples"

    def __post_init__(self) -> None:
        _positive("number of rounds", self.count)
        _positive("number of clients", self.clients)
        _positive("epochs", self.epochs)
        if not 0 < self.fraction <= 1:
            raise BadInput(f"fraction is {self.fraction}: it must lie in (0, 1]")

    def chosen(self, round_: int, seed: int) -> list[int]:
        """The clients of a round, in the order in which they train; drawn from (seed, round) alone."""
        size = max(int(self.fraction * self.clients), 1)
        if size == self.clients:
            return list(range(self.clients))
        return sorted(random.Random(f"{seed}/{round_}").sample(range(self.clients), size))

    def next_phase(self, history: History, seed: int) -> Phase | None:
        """The next client of the open round, or the first of the next round."""
        round_, position = 0, 0
        if history:
            last = history[-1].phase
            assert last.round is not None
            if last.closes_round:
                round_ = last.round + 1
            else:
                round_ = last.round
                position = sum(outcome.phase.round == round_ for outcome in history)
        if position == 0 and (round_ == self.count or self._stale(history)):
            return None
        order = self.chosen(round_, seed)
        client = order[position]
        return Phase(
            index=len(history),
            name=f"round {round_}, client {client}",
            epochs=self.epochs,
            round=round_,
            client=client,
            closes_round=position == len(order) - 1,
        )

    def _stale(self, history: History) -> bool:
        if self.patience is None:
            return False
        sign = 1.0 if self.higher_is_better else -1.0
        scores = [sign * o.metrics[self.metric] for o in history if o.phase.closes_round and self.metric in o.metrics]
        best = max(range(len(scores)), key=lambda i: scores[i]) if scores else 0
        return len(scores) - 1 - best >= self.patience


SCHEDULES: dict[str, Any] = {"single": Single, "stages": Stages, "tasks": Tasks, "rounds": Rounds}
