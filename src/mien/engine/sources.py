# SPDX-License-Identifier: Apache-2.0
"""Where training data come from: one data set per phase, what to validate on, and what a run has seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset

from mien.engine.schedule import Phase


class TrainingData:
    """Data of a run. Override `train`; the rest has defaults."""

    def train(self, phase: Phase) -> Dataset[Any]:
        """The training data of a phase: the same for all phases, one task's, one client's."""
        raise TypeError(f"{type(self).__name__} defines no train()")

    def validation(self, phase: Phase) -> Dataset[Any] | Mapping[str, Dataset[Any]] | None:
        """Held-out data after a phase or epoch; several by name (the tasks seen so far), or None."""
        return None

    def manifest(self) -> dict[str, Any]:
        """What the run is trained on: {"groups": [...], "files": [sha256, ...], "description": "..."}.

        Evaluation refuses data that share a group or a file with it.
        """
        return {"groups": [], "files": [], "description": type(self).__name__}


class Fixed(TrainingData):
    """The same data set in every phase, with one to validate on or none."""

    def __init__(self, train: Dataset[Any], validation: Dataset[Any] | None = None) -> None:
        self._train, self._validation = train, validation

    def train(self, phase: Phase) -> Dataset[Any]:
        """The data set."""
        return self._train

    def validation(self, phase: Phase) -> Dataset[Any] | None:
        """The held-out data set."""
        return self._validation


class PerTask(TrainingData):
    """A sequence of data sets: one per task, or one per client. Validation covers the tasks seen so far, by name."""

    def __init__(self, train: list[Dataset[Any]], validation: list[Dataset[Any]] | None = None) -> None:
        self._train, self._validation = train, validation

    def train(self, phase: Phase) -> Dataset[Any]:
        """The data of the phase's client or task."""
        return self._train[phase.client if phase.client is not None else phase.task or 0]

    def validation(self, phase: Phase) -> Mapping[str, Dataset[Any]] | None:
        """The held-out data of all tasks up to this one; in federated rounds of every client."""
        if self._validation is None:
            return None
        last = len(self._validation) if phase.task is None else phase.task + 1
        return {
            f"task{i}" if phase.task is not None else f"client{i}": d for i, d in enumerate(self._validation[:last])
        }


def as_training_data(data: TrainingData | Dataset[Any]) -> TrainingData:
    """`data` itself, or a plain data set used in every phase."""
    return data if isinstance(data, TrainingData) else Fixed(data)
