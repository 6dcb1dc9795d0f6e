# SPDX-License-Identifier: Apache-2.0
"""Where a run stands: the part of its state that is neither weights nor chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mien.engine.method import Epoch
from mien.engine.run import phase_from
from mien.engine.schedule import Outcome, Phase


@dataclass
class Cursor:
    """The position of a run. Every field is in every checkpoint.

    Args:
        history: Outcomes of the finished phases.
        step: Updates since the start of the run.
        phase_step: Updates since the start of the phase.
        epoch: Finished epochs of the phase.
        position: Batches of the open epoch that are done; 0 outside an epoch.
        given: What `begin_epoch` gave for the open epoch.
        samples: Size of the phase's training data.
        best: Best value of the monitored metric in this phase; rounds share theirs.
        waited: Validations since then.
        validated: Metrics of the last validation in this phase.
    """

    history: list[Outcome] = field(default_factory=list)
    step: int = 0
    phase_step: int = 0
    epoch: int = 0
    position: int = 0
    given: Epoch | None = None
    samples: int = 0
    best: float | None = None
    waited: int = 0
    validated: dict[str, float] = field(default_factory=dict)

    def enter_phase(self, phase: Phase) -> None:
        """Stand at the start of a new phase. Only rounds are measured alike: any other phase looks for its own best."""
        if phase.round is None:
            self.best = None
        self.phase_step = self.epoch = self.position = self.waited = 0
        self.given, self.validated = None, {}

    def leave_epoch(self) -> None:
        """Stand after the open epoch."""
        self.epoch, self.position, self.given = self.epoch + 1, 0, None

    def leave_phase(self, phase: Phase, stopped_early: bool, failure: str | None) -> None:
        """Remember the outcome of the phase."""
        plain = replace(phase, total_steps=0)
        self.history.append(Outcome(plain, dict(self.validated), stopped_early, failure, self.samples))

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain["history"] = [asdict(outcome) for outcome in self.history]
        plain["given"] = vars(self.given) if self.given is not None else None
        return plain

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Cursor:
        """Take back what `state` gave."""
        history = [Outcome(**{**plain, "phase": phase_from(plain["phase"])}) for plain in state["history"]]
        given = Epoch(**state["given"]) if state["given"] is not None else None
        return cls(**{**state, "history": history, "given": given})
