# SPDX-License-Identifier: Apache-2.0
"""One phase of a longer run, trained alone: what a federated client on a machine of its own does in a round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from mien.engine.loop import _Loop
from mien.engine.method import Method, Session
from mien.engine.ranks import open_ranks
from mien.engine.run import Run
from mien.engine.schedule import History, Outcome, Phase
from mien.engine.settings import Settings
from mien.engine.sources import Fixed


@dataclass(frozen=True)
class _Alone:
    phase: Phase

    def next_phase(self, history: History, seed: int) -> Phase | None:
        return self.phase if len(history) == self.phase.index else None


def train_phase(method: Method, data: Dataset[Any], phase: Phase, settings: Settings) -> int:
    """Train one phase with the very batches and draws that it would have in its run, and give the number of samples.

    The method's weights are where the phase starts, and where it ends. Nothing is written and nothing validated.

    Args:
        method: What to train, in place.
        data: The data of the phase: a client's own.
        phase: Its `index` says how many phases came before it.
        settings: Those of the run.

    Raises:
        BadInput: The data or the settings do not fit.
        TrainingStopped: A loss is not finite.
    """
    ranks = open_ranks(settings)
    try:
        training = _Loop(method, Fixed(data), _Alone(phase), settings, Run(None), ranks, ())
        training.at.history = [Outcome(Phase(index=i)) for i in range(phase.index)]
        training.start(False, None)
        training.train()
        return training.at.history[-1].samples
    finally:
        ranks.close()
        method.session = Session()
