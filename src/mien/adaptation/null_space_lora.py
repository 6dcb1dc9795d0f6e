# SPDX-License-Identifier: Apache-2.0
"""Null-space LoRA: new tasks learn only where the inputs of old tasks have the least energy.

The usual way to protect old tasks, and the baseline that LoDA is compared with. From the second task on A holds the
eigenvectors of S_old with the smallest eigenvalues, divided by sqrt(3), and stays; only B is trained.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.adaptation.memory import collect
from mien.adaptation.sequential_lora import SequentialLoRA


def null_subspace(old: Tensor, rank: int) -> Tensor:
    """The eigenvectors of S_old (D, D) with the `rank` smallest eigenvalues, (D, rank), float64.

    >>> null_subspace(torch.diag(torch.tensor([2.0, 0.1])), 1).abs()
    tensor([[0.],
            [1.]], dtype=torch.float64)
    """
    return torch.linalg.eigh(old.double().cpu())[1][:, :rank]


class NullSpaceLoRA(SequentialLoRA):
    """Sequential LoRA whose adapters lie where old tasks have least energy; the first task is that of sequential LoRA.

    S_old is the sum over past tasks of the second moments that are collected with the merged weights.
    """

    name = "null-space-lora"
    remembers: ClassVar[bool] = True

    def trains_down(self) -> bool:
        """In the first task only."""
        return self.task == 0

    def start_branches(self, data: Dataset[Any]) -> None:
        """A from S_old; in the first task that of plain LoRA."""
        if self.task == 0:
            super().start_branches(data)
            return
        for name, layer in self.adapters().items():
            layer.branch("main").A.copy_(null_subspace(self.memory[name], self.rank).T / math.sqrt(3))

    def end_task(self, data: Dataset[Any]) -> None:
        """Merge, then remember the inputs."""
        super().end_task(data)
        self.memory.add(collect(self, self.widths, data))
