# SPDX-License-Identifier: Apache-2.0
"""What a run says while it goes: means of losses and logged numbers, a bar or plain lines, and Ctrl-C."""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mien.engine.method import Session
from mien.engine.ranks import Ranks
from mien.engine.run import LAST, Run
from mien.engine.schedule import Phase
from mien.engine.seeding import stable_seed
from mien.engine.settings import Settings
from mien.errors import TrainingStopped
from mien.progress import Progress


class Journal:
    """Collects the numbers of the steps and writes their means. Losses stay on their device between two lines."""

    def __init__(self, run: Run, settings: Settings, ranks: Ranks) -> None:
        self.run, self.settings, self.ranks = run, settings, ranks
        self.size = 0  # bytes of the metrics file
        self.losses: list[dict[str, Tensor]] = []
        self.steps: list[int] = []
        self.logged: dict[str, list[Tensor | float]] = {}
        self.progress: Progress | None = None
        self._pending: list[dict[str, Tensor]] = []
        self._interrupted = threading.Event()
        self._agreed = False

    def begin(self, phase: Phase, done: int) -> None:
        """A phase starts at its step `done`."""
        if self.progress is not None:
            self.progress.close()
        self.progress = Progress(phase.total_steps, phase.name, done=done) if self.ranks.rank == 0 else None

    def record(self, losses: dict[str, Tensor]) -> None:
        """The losses of one update."""
        self._pending.append(losses)

    def log(self, name: str, value: Tensor | float) -> None:
        """A number of this step."""
        self.logged.setdefault(name, []).append(value.detach() if isinstance(value, Tensor) else value)

    def after_step(self, step: int, epoch: int, phase: Phase, updater: Any) -> None:
        """All updates of a batch are made."""
        self.losses.extend(self._pending)
        self.steps.extend([step] * len(self._pending))
        self._pending = []
        if self.progress is not None:
            self.progress.advance()
        if step % self.settings.log_every == 0:
            self.flush(step, epoch, phase, updater)

    def flush(self, step: int, epoch: int, phase: Phase, updater: Any) -> None:
        """Write the means since the last line. Raises TrainingStopped when a loss was not finite."""
        if not self.losses:
            return
        columns: dict[str, list[Tensor]] = {}
        for losses in self.losses:
            for name, value in losses.items():
                columns.setdefault(name, []).append(value)
        means = {name: float(torch.stack(values).double().mean()) for name, values in columns.items()}
        broken = [name for name, mean in means.items() if not math.isfinite(mean)]
        broken = next((names for names in self.ranks.gather_objects(broken) if names), [])
        if broken:
            self._stop(broken[0])
        rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in updater.optimizers.items()}
        line = {"step": step, "epoch": epoch, "phase": phase.name, "losses": means, "logged": self._logged()}
        self.losses, self.steps = [], []
        self.size = self.run.write_metrics(line | {"lr": rates})
        if self.progress is not None:
            self.progress.show(**means)

    def flush_logged(self, step: int, phase: Phase) -> None:
        """Write what was logged before the first step of a phase, which a resume from its start does not repeat."""
        if self.logged:
            line = {"step": step, "epoch": 0, "phase": phase.name, "logged": self._logged()}
            self.size = self.run.write_metrics(line)

    def _logged(self) -> dict[str, float]:
        """The means of the logged numbers, which are forgotten."""
        logged, self.logged = self.logged, {}
        return {name: float(torch.tensor([float(v) for v in values]).mean()) for name, values in logged.items()}

    def discard(self) -> None:
        """Forget what was not written: the phase failed."""
        self.losses, self.steps, self.logged, self._pending = [], [], {}, []

    def _stop(self, name: str) -> None:
        values = [float(losses.get(name, math.nan)) for losses in self.losses]
        first = next((i for i, value in enumerate(values) if not math.isfinite(value)), 0)
        value, step = values[first], self.steps[first]
        path = self.run.folder / LAST if self.run.folder is not None else None
        good = f"the last good checkpoint is {path}" if path is not None and path.exists() else "nothing was saved"
        raise TrainingStopped(f"loss {name!r} is {value} at step {step}: training stopped; {good}")

    def validation(self, step: int, epoch: int, phase: Phase, metrics: dict[str, float]) -> None:
        """Write the metrics of a validation."""
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self.size = self.run.write_metrics({"step": step, "epoch": epoch, "phase": phase.name, "validation": finite})
        if self.progress is not None:
            self.progress.show(**metrics)

    def failure(self, step: int, phase: Phase, reason: str) -> None:
        """Write and say that a client is left out of its round."""
        self.size = self.run.write_metrics({"step": step, "phase": phase.name, "failure": reason})
        text = f"client {phase.client} is left out of round {phase.round}: {reason}"
        if self.progress is not None:
            self.progress.note(text)
        elif self.ranks.rank == 0:
            print(text, file=sys.stderr)

    # --- Ctrl-C -----------------------------------------------------------------------------------------------
    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C inside finishes the step, saves, and then raises KeyboardInterrupt; a second one stops at once."""
        main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGINT) if main else None

        def ask(*_: Any) -> None:
            if self._interrupted.is_set():
                raise KeyboardInterrupt
            self._interrupted.set()

        if main:
            signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            if main:
                signal.signal(signal.SIGINT, before)
            if self.progress is not None:
                self.progress.close()

    def interrupted(self, step: int) -> bool:
        """Whether a stop was asked for. Several ranks agree on the answer, now and then, since that costs a message."""
        if self.ranks.world_size == 1:
            self._agreed = self._interrupted.is_set()
            return self._agreed
        if step % self.settings.log_every:
            return False
        self._agreed = any(self.ranks.gather_objects(self._interrupted.is_set()))
        return self._agreed

    def stop_if_interrupted(self) -> None:
        """Raise KeyboardInterrupt when a stop was asked for; called right after a checkpoint."""
        if self._agreed:
            folder = self.run.folder
            saved = f": saved, continue with mien train --resume {folder}" if folder is not None else ""
            raise KeyboardInterrupt(f"interrupted{saved}")


class LiveSession(Session):
    """What the engine lends to a method while it trains."""

    def __init__(self, ranks: Ranks, journal: Journal, seed: int, step: Callable[[], int]) -> None:
        self.rank, self.world_size = ranks.rank, ranks.world_size
        self._ranks, self._journal, self._seed, self._step = ranks, journal, seed, step

    def gather(self, tensor: Tensor) -> Tensor:
        """Rows of all ranks in rank order."""
        return self._ranks.gather(tensor)

    def log(self, name: str, value: Tensor | float) -> None:
        """Record a number of this step."""
        self._journal.log(name, value)

    def shared_generator(self) -> torch.Generator:
        """Seeded by the run and the step, hence alike on all ranks and after a resume."""
        return torch.Generator().manual_seed(stable_seed(self._seed, "shared", self._step()))
