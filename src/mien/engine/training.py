# SPDX-License-Identifier: Apache-2.0
"""A run in progress apart from its loop: what it holds, how that is validated, saved and taken up again."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mien.engine.cursor import Cursor
from mien.engine.evaluation import modes_kept
from mien.engine.federation import Federation
from mien.engine.journal import Journal, LiveSession
from mien.engine.method import Method, build
from mien.engine.pretrained import save_pretrained
from mien.engine.ranks import Ranks
from mien.engine.run import Run, phase_from, run_config
from mien.engine.schedule import Outcome, Phase, Rounds, Schedule
from mien.engine.seeding import generator_states, kept_generators, stable_seed
from mien.engine.settings import Settings
from mien.engine.sources import TrainingData
from mien.engine.state import load_module_state, load_state, module_state, save_state
from mien.engine.strategy import Strategy, evaluation_weights
from mien.engine.update import Updater
from mien.errors import BadInput
from mien.files import whole_folder

KIND = "checkpoint"


class Training:
    """One run in progress. A checkpoint holds its cursor, method, updater, strategies, federation and generators."""

    def __init__(
        self,
        method: Method,
        data: TrainingData,
        schedule: Schedule,
        settings: Settings,
        run: Run,
        ranks: Ranks,
        strategies: Sequence[Strategy],
    ) -> None:
        self.method, self.data, self.schedule, self.settings = method, data, schedule, settings
        self.run, self.ranks, self.strategies = run, ranks, tuple(strategies)
        self.federation = Federation(method.personal, schedule.weighting) if isinstance(schedule, Rounds) else None
        self.journal = Journal(run, settings, ranks)
        self.at = Cursor()
        self.updater: Updater | None = None
        self.resumed: dict[str, Any] | None = None  # a checkpoint that is not yet taken up in full
        method.session = LiveSession(ranks, self.journal, settings.seed, lambda: self.at.step)

    # --- validation -------------------------------------------------------------------------------------------
    def validate(self, phase: Phase) -> None:
        """Evaluate on the phase's held-out data, with the strategies' weights; keep the best model."""
        sets = self.data.validation(phase)
        if sets is None:
            return
        self.average_statistics()
        metrics: dict[str, float] = {}
        with modes_kept(self.method), evaluation_weights(self.method, self.strategies), kept_generators():
            for name, dataset in (sets if isinstance(sets, Mapping) else {"": sets}).items():
                with self._model_of(name):
                    found = self.method.validate(dataset, batch_size=self.settings.batch_size)
                metrics.update({f"{name}/{key}" if name else key: value for key, value in found.items()})
        for key in sorted({name.rpartition("/")[2] for name in metrics if "/" in name}):
            parts = [value for name, value in metrics.items() if name.endswith(f"/{key}")]
            metrics.setdefault(key, sum(parts) / len(parts))
        self.at.validated = self.ranks.from_first(metrics)
        self.journal.validation(self.at.step, self.at.epoch, phase, self.at.validated)
        self._keep_best(phase)

    @contextmanager
    def _model_of(self, name: str) -> Iterator[None]:
        """The held-out data of a client that keeps weights of its own ("client3") are measured with its own model."""
        number = name.removeprefix("client")
        own = self.federation is not None and bool(self.federation.personal) and name != number and number.isdigit()
        if own and self.federation is not None:
            self.load_client(int(number))
        yield
        if own and self.federation is not None:
            self.load_client(None)

    def _keep_best(self, phase: Phase) -> None:
        """Save what is better than before. A phase that lacks the metric (a teacher's) keeps no best and all epochs."""
        monitor = self.settings.monitor
        if monitor is None:
            return
        if monitor not in self.at.validated:
            if phase.round is not None or self._is_last(phase):  # a later round would not give it either
                self.require_monitored()
            return
        value = self.at.validated[monitor]
        sign = 1.0 if self.settings.higher_is_better else -1.0
        if self.at.best is None or math.isnan(self.at.best) or sign * value > sign * self.at.best:
            self.at.best, self.at.waited = value, 0
        else:
            self.at.waited += 1
        if value == self.at.best:  # of equals the last: a stage may train what the metric does not see
            self.save_best()

    def _is_last(self, phase: Phase) -> bool:
        outcome = Outcome(phase, self.at.validated)
        return self.schedule.next_phase([*self.at.history, outcome], self.settings.seed) is None

    def require_monitored(self) -> None:
        """Raise BadInput when no validation of the run has given the monitored metric."""
        monitor = self.settings.monitor
        given = {name for outcome in self.at.history for name in outcome.metrics} | set(self.at.validated)
        if monitor is not None and monitor not in given:
            raise BadInput(f"monitor is {monitor!r}: validation gives {', '.join(sorted(given)) or 'nothing'}")

    def patience_is_over(self) -> bool:
        """Whether the monitored metric has not improved for too long."""
        return self.settings.patience is not None and self.at.waited >= self.settings.patience

    def average_statistics(self) -> None:
        """Batch-norm statistics are per rank while training; they are averaged before evaluating and saving."""
        if self.ranks.world_size > 1:
            norms = [m for m in self.method.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
            self.ranks.average_([b for m in norms for b in (m.running_mean, m.running_var) if b is not None])

    # --- saving and resuming ----------------------------------------------------------------------------------
    def start(self, resume: bool, origin: Any) -> None:
        """Begin a new run folder, or take up the last checkpoint of one."""
        if isinstance(self.schedule, Rounds) and self.settings.patience is not None:
            raise BadInput(f"patience is {self.settings.patience}: it ends phases; rounds have their own (schedule)")
        config = self._config(origin)
        path = self.run.checkpoint
        self.method.to(self.ranks.device)
        if resume and path is None:
            raise BadInput("resume needs the run folder: give out")
        if resume and path is not None and path.exists():
            self._resume(path, config)
        elif self.ranks.rank == 0 and not (resume and self.run.exists()):
            self.run.create(config, self.data.manifest())
        if self.ranks.rank == 0:
            self.run.open_metrics(self.journal.size, self.settings.tensorboard, self.at.step)

    def _config(self, origin: Any) -> dict[str, Any]:
        return run_config(self.method, self.schedule, self.settings, self.strategies, origin)

    def _resume(self, path: Path, config: dict[str, Any]) -> None:
        state = load_state(path, KIND)
        for key in ("method", "class", "method_config", "schedule", "strategies"):
            if state["config"][key] != config[key]:
                raise BadInput(f"{path} is of another run: its {key} is {state['config'][key]!r}, not {config[key]!r}")
        if state["world_size"] != self.ranks.world_size:
            raise BadInput(f"{path} was written by {state['world_size']} processes: resume with as many")
        self.at = Cursor.from_state(state["cursor"])
        self.journal.size = state["metrics_size"]
        for outcome in self.at.history:
            build(self.method, outcome.phase)
        if state["phase"] is not None:
            build(self.method, phase_from(state["phase"]))
            self.resumed = state
        self.method.to(self.ranks.device)
        self.load(state["method"])
        for strategy, kept in zip(self.strategies, state["strategies"], strict=True):
            strategy.begin(self.method)
            strategy.load_state(kept)
        if self.federation is not None:
            self.federation.load_state(state["federation"])

    def checkpoint_is_due(self) -> bool:
        """Whether this step is a safe point, or the user asked to stop."""
        every = self.settings.checkpoint_every
        return (every is not None and self.at.step % every == 0) or self.journal.interrupted(self.at.step)

    def checkpoint(self, phase: Phase | None) -> None:
        """Write the last checkpoint; `phase` is None when training is complete."""
        if self.run.checkpoint is None:
            self.journal.stop_if_interrupted()
            return
        if phase is not None and self.updater is not None:
            self.journal.flush(self.at.step, self.at.epoch, phase, self.updater)
        self.average_statistics()
        generators = self.ranks.gather_objects(generator_states())
        if self.ranks.rank == 0:
            state = {
                "config": self._config(None),
                "world_size": self.ranks.world_size,
                "phase": asdict(phase) if phase is not None else None,
                "cursor": self.at.state(),
                "method": module_state(self.method),
                "updater": self.updater.state() if phase is not None and self.updater is not None else None,
                "strategies": [strategy.state() for strategy in self.strategies],
                "federation": self.federation.state() if self.federation is not None else None,
                "generators": generators,
                "metrics_size": self.journal.size,
            }
            save_state(self.run.checkpoint, state, KIND)
        self.journal.stop_if_interrupted()

    def save_best(self) -> None:
        """Save what has just validated best as `best`, clients included: one folder, replaced as a whole."""
        if self.run.folder is None or self.ranks.rank > 0:
            return
        with whole_folder(self.run.folder / "best") as folder:
            self._save_model(folder)
            self._save_clients(folder / "clients")

    def save_last(self) -> None:
        """Save what training ended with as `model` and `clients`."""
        if self.run.folder is None or self.ranks.rank > 0:
            return
        self._save_model(self.run.folder / "model")
        self._save_clients(self.run.folder / "clients")

    def _save_model(self, folder: Path) -> None:
        """Save the method with the strategies' weights."""
        with evaluation_weights(self.method, self.strategies):
            save_pretrained(self.method, folder, phases=self.method.built)

    def _save_clients(self, folder: Path) -> None:
        """Save the model of every client that keeps weights of its own, as `client0` and so on."""
        if self.federation is None or not self.federation.personal:
            return
        for client in self.federation.clients:
            self.load_client(int(client))
            save_pretrained(self.method, folder / f"client{client}", phases=self.method.built)
        self.load_client(None)

    def load(self, state: dict[str, Any]) -> None:
        """Load a state into the method."""
        load_module_state(self.method, state, self.method.dynamic_buffers)

    def load_client(self, client: int | None) -> None:
        """Load the model of a client, or with None the server's."""
        assert self.federation is not None
        self.load(self.federation.common() if client is None else self.federation.state_for(client))
        self.method.stands_for(client)

    def seed(self, *parts: int | str) -> int:
        """A seed that follows from the run's and from what it is for."""
        return stable_seed(self.settings.seed, *parts)


def checksum(method: Method) -> int:
    """A checksum over all parameters, bit by bit."""
    result = 0
    for parameter in method.parameters():
        raw = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        result = zlib.crc32(raw.tobytes(), result)
    return result
