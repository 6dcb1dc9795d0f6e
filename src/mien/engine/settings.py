# SPDX-License-Identifier: Apache-2.0
"""How a run is made: the settings that every method shares. Plain data; the command line is generated from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mien.errors import BadInput

Precision = Literal["32", "bf16", "fp16"]


@dataclass(frozen=True)
class Settings:
    """Settings of a training run.

    Args:
        batch_size: Samples per batch and process.
        accumulate: Batches whose gradients are added up for one update.
        clip: Largest gradient norm of an optimiser's parameters; None leaves gradients alone.
        max_steps: Ends every phase after so many steps; None for no limit.
        seed: Everything that is drawn follows from it.
        workers: Processes that load data; 0 loads in the training process. Any number gives the same bits.
        precision: "32", "bf16" (autocast) or "fp16" (autocast with a loss scaler).
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        devices: Processes that train together on this machine (DDP).
        nodes: Machines.
        checkpoint_every: Steps between checkpoints inside an epoch; None for one at the start of every epoch only.
        log_every: Steps between lines of metrics.
        validate_every: Epochs between validations.
        monitor: Validation metric that picks the best checkpoint, for instance "auc"; None keeps the last only. The
            best is that of the last phase whose validation gives the metric, or of all federated rounds; of equals the
            last.
        higher_is_better: The sense of `monitor`.
        patience: Validations without a better `monitor` after which a phase ends; None for never.
        tensorboard: Also write TensorBoard event files (extra `tensorboard`).
    """

    batch_size: int = 32
    accumulate: int = 1
    clip: float | None = None
    max_steps: int | None = None
    seed: int = 0
    workers: int = 0
    precision: Precision = "32"
    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    checkpoint_every: int | None = None
    log_every: int = 50
    validate_every: int = 1
    monitor: str | None = None
    higher_is_better: bool = True
    patience: int | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "devices", "nodes", "log_every", "validate_every"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("max_steps", "checkpoint_every", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"{name} is {value}: it must be at least 1, or left out")
        if self.clip is not None and not self.clip > 0:
            raise BadInput(f"clip is {self.clip}: it must be above 0, or left out")
        if self.workers < 0:
            raise BadInput(f"workers is {self.workers}: it must be 0 or more")
        if self.precision not in ("32", "bf16", "fp16"):
            raise BadInput(f"precision is {self.precision!r}: use 32, bf16 or fp16")
        if self.patience is not None and self.monitor is None:
            raise BadInput(
                "patience is set but monitor is not: name the validation metric to watch, e.g. monitor='auc'"
            )
