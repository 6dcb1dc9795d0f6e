# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters (LoRA, Hu and others, 2022) on the linear layers of any network, chosen by name.

    y = W x + b + sum_k g_k B_k A_k x,    A_k (r, inputs), B_k (outputs, r), B_k = 0 at first

A layer may have several branches k. All of them are computed as one pair of products: their rows are stacked, and the
factors g_k scale the small B_k, not the tokens. `merge` puts the sum into W; `restore` takes the wrappers out, and the
network is the one that it was, with other weights.

>>> network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
>>> layers = adapt(network, linear_layers(network, ["0"]), {"main": 1.0}, rank=2)
>>> sorted(name for name, _ in layers["0"].named_parameters())
['base.bias', 'base.weight', 'branches.main.A', 'branches.main.B']
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import BadInput


class Branch(nn.Module):
    """g B A of one layer; zero until B is trained.

    Args:
        base: The layer that it is added to.
        rank: r, rows of A.
        scale: g.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        like = base.weight
        self.A = nn.Parameter(torch.zeros(rank, base.in_features, dtype=like.dtype, device=like.device))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank, dtype=like.dtype, device=like.device))
        self.scale = scale

    def product(self) -> Tensor:
        """What W changes by, g B A, (outputs, inputs)."""
        return self.scale * self.B @ self.A


class LoRALinear(nn.Module):
    """A linear layer with low-rank branches beside it.

    Args:
        base: The layer, which keeps its own `requires_grad`.
        branches: Name -> g.
        rank: r of every branch, from 1 to the layer's inputs.
    """

    def __init__(self, base: nn.Linear, branches: Mapping[str, float], rank: int) -> None:
        super().__init__()
        if not 1 <= rank <= base.in_features:
            raise BadInput(f"rank is {rank}: it must lie between 1 and the layer's {base.in_features} inputs")
        self.base = base
        self.branches = nn.ModuleDict({name: Branch(base, rank, scale) for name, scale in branches.items()})

    def branch(self, name: str) -> Branch:
        """The branch called `name`."""
        found = self.branches[name]
        assert isinstance(found, Branch)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        branches = [self.branch(name) for name in self.branches]
        down = torch.cat([branch.A for branch in branches])
        up = torch.cat([branch.scale * branch.B for branch in branches], dim=1)
        return self.base(x) + F.linear(F.linear(x, down), up)

    @torch.no_grad()
    def merge(self) -> None:
        """Add all branches to W and set every B to zero: the layer computes what it did."""
        for name in self.branches:
            branch = self.branch(name)
            self.base.weight += branch.product()
            branch.B.zero_()


def linear_layers(module: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Linear]:
    """The linear layers of `module` whose names match one of `patterns` (as of files: "*.attn.qkv"), by name.

    Raises:
        BadInput: When none does.
    """
    layers = {name: child for name, child in module.named_modules() if isinstance(child, nn.Linear)}
    chosen = {n: child for n, child in layers.items() if any(fnmatchcase(n, pattern) for pattern in patterns)}
    if not chosen:
        shown = ", ".join(list(layers)[:6]) + (", ..." if len(layers) > 6 else "")
        raise BadInput(f"layers are {list(patterns)}: no linear layer is called so; there are {shown or 'none'}")
    return chosen


def adapt(module: nn.Module, names: Iterable[str], branches: Mapping[str, float], rank: int) -> dict[str, LoRALinear]:
    """Put a `LoRALinear` in the place of each layer; gives them by name.

    Args:
        module: The network, changed in place.
        names: Of its linear layers.
        branches: Name -> g.
        rank: r of every branch.
    """
    adapted = {}
    for name in names:
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        adapted[name] = LoRALinear(layer, branches, rank)
        _replace(module, name, adapted[name])
    return adapted


def restore(module: nn.Module) -> None:
    """Put the plain layers back in place. What was not merged is lost."""
    for name, child in list(module.named_modules()):
        if isinstance(child, LoRALinear):
            _replace(module, name, child.base)


def _replace(module: nn.Module, name: str, child: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, child)
