# SPDX-License-Identifier: Apache-2.0
"""The processes that train together, seen from one of them. Here the plain case: one process in 32 bit."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mien.engine.settings import Settings
from mien.errors import BadInput


class Ranks:
    """One process, 32 bit: nothing is wrapped, so nothing costs."""

    rank = 0
    world_size = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module as it is called in training; on this rank's device."""
        return module.to(self.device)

    def wrap_optimizer(self, optimizer: Optimizer) -> Any:
        """The optimiser as its `step` is called."""
        return optimizer

    def backward(self, loss: Tensor) -> None:
        """Gradients of `loss`, averaged over ranks."""
        loss.backward()

    def hold_back(self, wrapped: nn.Module, enabled: bool) -> AbstractContextManager[Any]:
        """A context in which gradients are not yet averaged over ranks (all but the last of accumulated batches)."""
        return nullcontext()

    def unscale(self, optimizer: Any) -> None:
        """Undo a loss scaler's factor on the gradients."""

    def gather(self, tensor: Tensor) -> Tensor:
        """(n, ...) of every rank, concatenated in rank order; n may differ. Without gradient."""
        return tensor.detach()

    def gather_objects(self, value: Any) -> list[Any]:
        """A small picklable value of every rank, in rank order."""
        return [value]

    def from_first(self, value: Any) -> Any:
        """The first rank's value on every rank."""
        return value

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over ranks, in place."""

    def copy_first_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by the first rank's, in place."""

    def scaler_state(self) -> dict[str, Any]:
        """State of the fp16 loss scaler."""
        return {}

    def load_scaler_state(self, state: dict[str, Any]) -> None:
        """Take back the state of the fp16 loss scaler."""

    def close(self) -> None:
        """Leave the process group."""


def names_device(name: str) -> bool:
    """Whether a name is that of a device to compute on, there or not.

    >>> names_device("cuda:3"), names_device("pixel3")
    (True, False)
    """
    return name.partition(":")[0] in ("auto", "cpu", "cuda", "mps")


def choose_device(name: str) -> torch.device:
    """The device by name; "auto" is CUDA, then MPS, then the CPU. Raises BadInput for one that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadInput(f"device is {name!r}: use auto, cpu, cuda, cuda:N or mps") from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device.type, False):
        raise BadInput(f"device {name!r} is not available on this machine: use cpu or auto")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise BadInput(f"device {name!r} does not exist: there are {torch.cuda.device_count()} CUDA devices")
    return device


def open_ranks(settings: Settings) -> Ranks:
    """The ranks that the settings ask for. Lightning Fabric is imported only when it is needed (it takes seconds)."""
    device = choose_device(settings.device)
    if settings.precision == "fp16" and device.type != "cuda":
        raise BadInput(f"precision is 'fp16' on {device.type}: fp16 needs a CUDA device; use bf16 or 32")
    if settings.devices * settings.nodes == 1 and settings.precision == "32":
        return Ranks(device)
    from mien.engine.fabric import FabricRanks

    return FabricRanks(settings, device)
