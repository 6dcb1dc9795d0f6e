# SPDX-License-Identifier: Apache-2.0
"""`--dry-run`: a couple of real batches, then an estimate of what the whole would take."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch.utils.data import Dataset

from mien.engine import Method, Outcome, Phase, Schedule, Strategy, TrainingData, fit, predictions
from mien.engine.loading import dataset_size, phase_steps
from mien.engine.schedule import History
from mien.job import Job
from mien.room import Answers


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    Args:
        steps: Updates in all phases.
        seconds_per_step: Of the last batch tried.
        memory: Peak bytes: of the GPU where one is used, else of the process.
        samples: Training samples of the first phase.
        phases: Number of phases.
    """

    steps: int
    seconds_per_step: float
    memory: int
    samples: int
    phases: int

    def lines(self) -> list[str]:
        """For people."""
        total = self.steps * self.seconds_per_step
        return [
            f"samples: {self.samples}",
            f"steps: {self.steps} in {self.phases} phase{'s' if self.phases > 1 else ''}",
            f"time: {duration(total)} ({self.seconds_per_step:.3g} s a step, without validation)",
            f"peak memory: {self.memory / 2**20:.0f} MB",
        ]


class _Clock(Strategy):
    """When each step ended."""

    def __init__(self) -> None:
        self.ticks: list[float] = []

    def begin(self, method: Method) -> None:
        """The clock starts."""
        self.ticks.append(time.perf_counter())

    def after_step(self, method: Method) -> None:
        """One step more."""
        if method.device.type == "cuda":
            torch.cuda.synchronize()
        self.ticks.append(time.perf_counter())


class _TrainingOnly(TrainingData):
    """Data without validation, which a couple of batches say nothing about."""

    def __init__(self, data: TrainingData) -> None:
        self.data = data

    def train(self, phase: Phase) -> Dataset[Any]:
        """As the data have it."""
        return self.data.train(phase)


@dataclass(frozen=True)
class _First:
    """A schedule of one phase: the first of another schedule."""

    phase: Phase

    def next_phase(self, history: History, seed: int) -> Phase | None:
        """It, then nothing."""
        return None if history else self.phase


def rehearse(job: Job) -> Estimate:
    """Run two batches of a job (the first warms up) and estimate the rest. Nothing is written."""
    method = job.create()
    data = job.open_data(method)
    schedule = job.schedule(method, data)
    settings = job.settings
    phases = list(planned_phases(schedule, settings.seed))
    sets = [data.train(phase) for phase in phases]
    processes = settings.devices * settings.nodes
    steps = sum(
        phase_steps(method, phase, dataset, settings, processes) for phase, dataset in zip(phases, sets, strict=True)
    )
    clock = _Clock()
    brief = replace(settings, max_steps=min(2, steps), checkpoint_every=None, monitor=None, patience=None)
    fit(method, _TrainingOnly(data), schedule=_First(phases[0]), settings=brief, strategies=[clock])
    seconds = clock.ticks[-1] - clock.ticks[-2]
    return Estimate(steps, seconds, peak_memory(method.device), dataset_size(sets[0]), len(phases))


def rehearse_predictions(method: Method, dataset: Dataset[Any], batch_size: int, workers: int) -> list[str]:
    """Predict two batches of test data (the first warms up) and say what all of them would take."""
    names = getattr(dataset, "groups", None) if method.predicts_by_group else None
    batches = len(set(names)) if names is not None else -(-dataset_size(dataset) // batch_size)
    ticks = [time.perf_counter()]
    for _ in islice(predictions(method, dataset, batch_size, workers=workers), 2):
        ticks.append(time.perf_counter())
    seconds = ticks[-1] - ticks[-2]
    return [
        f"samples: {dataset_size(dataset)}",
        f"time: {duration(seconds * batches)} ({seconds:.3g} s a batch, {batches} batches)",
        f"peak memory: {peak_memory(method.device) / 2**20:.0f} MB",
    ]


def rehearse_rows(answers: Answers, batch_size: int, device: torch.device) -> list[str]:
    """Compute the rows of two batches (the first warms up) and say what all of them would take."""
    rows = iter(answers)
    ticks = [time.perf_counter()]
    done = 0
    for _ in range(2):
        found = sum(1 for _ in islice(rows, batch_size))
        if found:
            done = found
            ticks.append(time.perf_counter())
    seconds = (ticks[-1] - ticks[-2]) / max(done, 1) if len(ticks) > 1 else 0.0
    return [
        f"rows: {answers.total}",
        f"time: {duration(seconds * answers.total)} ({seconds:.3g} s a row)",
        f"peak memory: {peak_memory(device) / 2**20:.0f} MB",
    ]


def planned_phases(schedule: Schedule, seed: int) -> Iterator[Phase]:
    """The phases of a run in which nothing stops early."""
    history: list[Outcome] = []
    while (phase := schedule.next_phase(history, seed)) is not None:
        yield phase
        history.append(Outcome(phase))


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that was allocated on a GPU, or the most that the process held in memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most if sys.platform == "darwin" else most * 1024)  # Linux counts in kilobytes


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(3700)
    '1 h 02 min'
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
