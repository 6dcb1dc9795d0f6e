# SPDX-License-Identifier: Apache-2.0
"""Lightning Fabric behind one file: several processes (DDP), bf16 and fp16. Nothing else in mien imports it.

Why not the Trainer: two optimisers, task sequences, re-clustering between epochs and federated clients go against its
grain. FSDP is left out until it can be tested on GPUs.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from mien.engine.ranks import Ranks
from mien.engine.settings import Settings

_DDP_ARGUMENTS = inspect.signature(DistributedDataParallel).parameters  # one was renamed in torch 2.14
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class FabricRanks(Ranks):
    """This process among those that Fabric started, or that torchrun, SLURM or MPI did."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        count = settings.devices
        strategy: Any = "auto"
        if count * settings.nodes > 1:
            # broadcast_buffers would overwrite memory banks and BN statistics of the other ranks at every forward.
            # find_unused_parameters: a step of one optimiser leaves the parameters of the others without gradient.
            quiet = "forward_sync_buffers" if "forward_sync_buffers" in _DDP_ARGUMENTS else "broadcast_buffers"
            options: dict[str, Any] = {quiet: False, "find_unused_parameters": True, "timeout": timedelta(minutes=30)}
            strategy = DDPStrategy(**options)
        devices: Any = [device.index] if device.index is not None and count == 1 else count
        self.fabric = Fabric(
            accelerator=device.type,
            devices=devices,
            num_nodes=settings.nodes,
            strategy=strategy,
            precision=PRECISIONS[settings.precision],  # type: ignore[arg-type]
        )
        self.fabric.launch()
        super().__init__(self.fabric.device)
        self.rank, self.world_size = self.fabric.global_rank, self.fabric.world_size

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module under DDP and autocast. Parameters that thaw afterwards would not be averaged: wrap per phase."""
        return self.fabric.setup_module(module)

    def wrap_optimizer(self, optimizer: Optimizer) -> Any:
        """The optimiser whose `step` goes through the loss scaler."""
        return self.fabric.setup_optimizers(optimizer)

    def backward(self, loss: Tensor) -> None:
        """Scaled backward."""
        self.fabric.backward(loss)

    def hold_back(self, wrapped: nn.Module, enabled: bool) -> AbstractContextManager[Any]:
        """DDP's no_sync."""
        if not enabled or self.world_size == 1:
            return nullcontext()
        return self.fabric.no_backward_sync(wrapped)  # type: ignore[arg-type]

    def unscale(self, optimizer: Any) -> None:
        """Undo the fp16 factor, so that clipping sees true norms."""
        self.fabric.strategy.precision.unscale_gradients(getattr(optimizer, "optimizer", optimizer))

    def gather(self, tensor: Tensor) -> Tensor:
        """Rows of all ranks; ranks may hold different numbers of rows."""
        tensor = tensor.detach().contiguous()
        if self.world_size == 1:
            return tensor
        own = torch.tensor([len(tensor)], device=tensor.device)
        counts = [torch.empty_like(own) for _ in range(self.world_size)]
        dist.all_gather(counts, own)
        sizes = [int(count) for count in counts]
        padded = tensor.new_zeros((max(sizes), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's value."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """The first rank's value."""
        return self.fabric.broadcast(value)

    @torch.no_grad()
    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Mean over ranks, in place."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)
                tensor /= self.world_size

    @torch.no_grad()
    def copy_first_(self, tensors: Sequence[Tensor]) -> None:
        """The first rank's values, in place."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def scaler_state(self) -> dict[str, Any]:
        """State of the fp16 loss scaler."""
        return self.fabric.strategy.precision.state_dict()

    def load_scaler_state(self, state: dict[str, Any]) -> None:
        """Take back the state of the fp16 loss scaler."""
        self.fabric.strategy.precision.load_state_dict(state)

    def close(self) -> None:
        """Leave the process group, so that another run may open one."""
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
