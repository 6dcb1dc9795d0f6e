# SPDX-License-Identifier: Apache-2.0
"""The loop: phases, epochs, steps. Every method is trained by this file.

Safe points, where a checkpoint may be written: the start of a phase, before `begin_epoch`, and every N steps. A resume
replays from the last one, and since every sample and every phase has its own seed, it gives the same bits.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from mien.data.batch import move
from mien.engine.evaluation import modes_kept
from mien.engine.loading import Plan, buckets_of, dataset_size, epoch_plan, phase_steps, training_loader
from mien.engine.method import Method, Session, Step, build
from mien.engine.ranks import open_ranks
from mien.engine.run import Run, phase_from
from mien.engine.schedule import Phase, Schedule, Single, Stages
from mien.engine.seeding import restore_generators, seed_all
from mien.engine.settings import Settings
from mien.engine.sources import TrainingData, as_training_data
from mien.engine.state import module_state
from mien.engine.strategy import Strategy, keep_evaluation_weights
from mien.engine.training import Training, checksum
from mien.engine.update import Updater
from mien.errors import BadInput, TrainingStopped


def fit(
    method: Method,
    data: TrainingData | Dataset[Any],
    *,
    schedule: Schedule | None = None,
    settings: Settings | None = None,
    out: str | Path | None = None,
    strategies: Sequence[Strategy] = (),
    resume: bool = False,
    origin: Any = None,
) -> Run:
    """Train `method` in place.

    Args:
        method: What to train.
        data: One data set, or data per phase.
        schedule: Which phases; one epoch by default.
        settings: How.
        out: The run folder. None writes nothing.
        strategies: Hooks around the method's losses, in order.
        resume: Continue the run in `out` from its last checkpoint; a new run is started when there is none yet.
        origin: JSON value kept in config.json: how the caller came here.

    Returns:
        The run.

    Raises:
        BadInput: The data, the settings or the checkpoint do not fit. A new run that fails before its first update
            leaves no folder.
        TrainingStopped: A loss is not finite, ranks disagree, or the disk is full. Earlier checkpoints are intact.
        KeyboardInterrupt: After the step was finished and saved.
    """
    settings = settings or Settings()
    run = Run(Path(out) if out is not None else None)
    ranks = open_ranks(settings)
    training = None
    try:
        training = _Loop(method, as_training_data(data), schedule or Single(), settings, run, ranks, strategies)
        training.start(resume, origin)
        training.train()
    except Exception:
        if training is not None and training.at.step == 0:
            run.discard()
        raise
    finally:
        run.close()
        ranks.close()
        method.session = Session()
    return run


class _Loop(Training):
    """The loop over phases, epochs and steps."""

    # --- the loop ---------------------------------------------------------------------------------------------
    def train(self) -> None:
        """All phases from where the run stands."""
        with self.journal.interruptible():
            while (phase := self._next_phase()) is not None:
                failure = self._attempt(phase)
                self._close_phase(phase, failure)
            if any(outcome.metrics for outcome in self.at.history):
                self.require_monitored()
            self.save_last()
            self.checkpoint(None)

    def _train_phase(self, phase: Phase) -> None:
        dataset = self.data.train(phase)
        phase = self._sized(phase, dataset)
        updater = self._enter_phase(phase, dataset)
        while self._unfinished(phase):
            plan = self._begin_epoch(phase, dataset)
            for batches in self._batches(dataset, plan):
                self._update(updater, batches)
                self.at.step += 1
                self.at.phase_step += 1
                self.at.position += len(batches)
                self.journal.after_step(self.at.step, self.at.epoch, phase, updater)
                if self.checkpoint_is_due():
                    self.checkpoint(phase)
            self._end_epoch(phase)
        self._leave_phase(phase, dataset, updater)

    def _update(self, updater: Updater, batches: list[Any]) -> None:
        """The updates of one batch, or of several accumulated ones in lockstep."""
        for steps in _lockstep([self.method.steps(batch) for batch in batches]):
            self.journal.record(updater.update(steps))
        with torch.no_grad():
            self.method.after_step()
            for strategy in self.strategies:
                strategy.after_step(self.method)

    def _batches(self, dataset: Dataset[Any], plan: Plan) -> Iterator[list[Any]]:
        """This rank's batches from the current position on, in groups that make one update."""
        loader = training_loader(
            dataset,
            plan,
            start=self.at.position,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            seed=self.seed("epoch", len(self.at.history), self.at.epoch),
            workers=self.settings.workers,
            fields=dict(self.at.given.fields) if self.at.given else None,
        )
        group: list[Any] = []
        for batch in loader:
            group.append(batch if self.ranks.device.type == "cpu" else move(batch, self.ranks.device))
            if len(group) == self.settings.accumulate:
                yield group
                group = []
        if group:
            yield group

    # --- phases -----------------------------------------------------------------------------------------------
    def _next_phase(self) -> Phase | None:
        if self.resumed is not None:
            return phase_from(self.resumed["phase"])
        return self.schedule.next_phase(self.at.history, self.settings.seed)

    def _sized(self, phase: Phase, dataset: Dataset[Any]) -> Phase:
        self.at.samples = dataset_size(dataset)
        steps = phase_steps(self.method, phase, dataset, self.settings, self.ranks.world_size)
        return replace(phase, total_steps=steps)

    def _attempt(self, phase: Phase) -> str | None:
        """Train the phase. For a federated client, the reason why it failed, if it did."""
        if self.federation is None or self.ranks.world_size > 1:  # ranks could not agree on a failure of one of them
            self._train_phase(phase)
            return None
        try:
            self._train_phase(phase)
        except Exception as error:
            if isinstance(error, BadInput) and self.at.step == 0:
                raise  # nothing is trained yet: the configuration is wrong, or the very first file
            self.journal.discard()
            self.resumed = None
            return f"{type(error).__name__}: {error}"
        return None

    def _enter_phase(self, phase: Phase, dataset: Dataset[Any]) -> Updater:
        """Build and begin a new phase, or take up the one that the checkpoint was in."""
        self.updater = None  # before the next one: the hooks of an old DDP wrapper would still average gradients
        if self.resumed is None:
            self._begin_phase(phase, dataset)
        self.updater = Updater(
            self.method, self.method.optimizers(phase), self.ranks, self.strategies, self.settings.clip
        )
        if self.settings.precision == "fp16":
            self.updater.refuse_closures("precision is 'fp16'", "use bf16 or 32")
        self.method.train()
        if self.resumed is None:
            self.journal.flush_logged(self.at.step, phase)
            self.checkpoint(phase)
        else:
            self.updater.load_state(self.resumed["updater"])
            restore_generators(self.resumed["generators"][self.ranks.rank])
            self.resumed = None
        self.journal.begin(phase, self.at.phase_step)
        return self.updater

    def _begin_phase(self, phase: Phase, dataset: Dataset[Any]) -> None:
        self.at.enter_phase(phase)
        seed_all(self.seed("phase", phase.index, self.ranks.rank))
        if isinstance(self.schedule, Stages):
            keep_evaluation_weights(self.method, self.strategies)  # a stage hands on the weights that were validated
        build(self.method, phase)
        self.method.to(self.ranks.device)
        if self.federation is not None and phase.client is not None:
            if not self.federation.shared:
                self.federation.start(module_state(self.method))
            self.load_client(phase.client)
        self.ranks.copy_first_([*self.method.parameters(), *self.method.buffers()])
        with modes_kept(self.method), torch.no_grad():
            self.method.begin_phase(phase, dataset)
        for strategy in self.strategies:
            strategy.begin(self.method)

    def _leave_phase(self, phase: Phase, dataset: Dataset[Any], updater: Updater) -> None:
        self.journal.flush(self.at.step, self.at.epoch, phase, updater)
        with modes_kept(self.method), torch.no_grad():
            self.method.end_phase(phase, dataset)
        self.average_statistics()
        sums = self.ranks.gather_objects(checksum(self.method))
        if len(set(sums)) > 1:
            raise TrainingStopped(f"the processes hold different weights after phase {phase.name!r}: checksums {sums}")

    def _close_phase(self, phase: Phase, failure: str | None) -> None:
        stopped = self.patience_is_over()
        if self.federation is not None:
            self._close_client(phase, failure)
        elif phase.task is not None or type(self.method).end_phase is not Method.end_phase:
            self.validate(phase)  # again: end_phase may have changed the method (merged adapters, pruned weights)
        self.at.leave_phase(phase, stopped, failure)

    def _close_client(self, phase: Phase, failure: str | None) -> None:
        assert self.federation is not None
        assert phase.client is not None
        if failure is None:
            self.federation.receive(phase.client, module_state(self.method), self.at.samples)
        else:
            self.journal.failure(self.at.step, phase, failure)
        self.at.validated = {}
        if phase.closes_round:
            if not self.federation.close_round():
                raise TrainingStopped(f"no client finished round {phase.round}; client {phase.client}: {failure}")
            self.load_client(None)
            self.validate(phase)

    # --- epochs -----------------------------------------------------------------------------------------------
    def _unfinished(self, phase: Phase) -> bool:
        inside = self.at.position > 0  # a checkpoint at the last step of an epoch still owes the epoch its end
        more = self.at.epoch < phase.epochs and self._updates_left() > 0
        return inside or (more and not self.patience_is_over())

    def _begin_epoch(self, phase: Phase, dataset: Dataset[Any]) -> Plan:
        if self.at.position == 0:
            if self.at.epoch > 0:
                self.checkpoint(phase)
            self.average_statistics()  # whether or not a checkpoint was written, which averages them, too
            with modes_kept(self.method), torch.no_grad():
                self.method.eval()
                self.at.given = self.ranks.from_first(self.method.begin_epoch(self.at.epoch, dataset))
        seed = self.seed("plan", len(self.at.history), self.at.epoch)
        plan = epoch_plan(
            self.at.samples, self.settings.batch_size, self.ranks.world_size, seed, self.at.given, buckets_of(dataset)
        )
        return plan[: self.at.position + min(self._updates_left(), len(plan)) * self.settings.accumulate]

    def _updates_left(self) -> int:
        """Updates until `max_steps`. Not until `total_steps`: a method may give epochs of a length of its own."""
        return (self.settings.max_steps or sys.maxsize) - self.at.phase_step

    def _end_epoch(self, phase: Phase) -> None:
        self.at.leave_epoch()
        last = self.at.epoch >= phase.epochs or self._updates_left() <= 0
        if self.federation is None and (last or self.at.epoch % self.settings.validate_every == 0):
            self.validate(phase)


def _lockstep(streams: list[Iterator[Step]]) -> Iterator[list[Step]]:
    """The i-th Steps of all accumulated batches together; they must be equally many."""
    for steps in zip_longest(*streams):
        if any(step is None for step in steps):
            raise BadInput("accumulated batches yield different numbers of Steps: use accumulate=1")
        yield list(steps)
