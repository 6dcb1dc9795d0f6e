# SPDX-License-Identifier: Apache-2.0
"""NAR-Former's tokenizer: every number becomes a Fourier code, every node a token of such codes.

    PE(v) = [sin(p_0), cos(p_0), sin(p_1), cos(p_1), ...]
    "nerf"   p_k = (v pi) f_k,  f = linspace(1, 2^(F - 1), F), linear spacing          F frequencies, 2F numbers
    "trans"  p_k = v 10000^(-k / F)

    cell            t_i = [PE(op_i); PE(i); sum_{j: A[j,i]=1} PE(j)]                                    width 6F
    whole network   t_i = [PE(op_i); 8 attributes; 4 sides of the output; sum_{j: A[j,i]=1} PE(j); PE(i)]   width 30F

The first node's sum is PE(-1); a later node without predecessors has zeros there, as has an attribute that is absent.
With F = 32 a nerf code of an integer is a deterministic hash in single precision (the phases lie beyond its digits),
and in double precision, the default here, a Fourier code of period 2 (F - 1) = 62.

A batch is encoded at once: each different number once, sums over predecessors in the order of their numbers. A loop
over nodes gives the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mien.architectures.graph import SIDES, SLOTS, Graphs
from mien.errors import BadInput

CodeKind = Literal["nerf", "trans"]
CodePrecision = Literal["float64", "float32"]

END = 1e5
"""What the END token says in each of its three parts."""


@dataclass(frozen=True)
class Codes:
    """How numbers become codes.

    Args:
        frequencies: F, >= 2.
        kind: "nerf" or "trans".
        precision: Of phases, sines and cosines; float32 is what the released code computes in.
    """

    frequencies: int = 32
    kind: CodeKind = "nerf"
    precision: CodePrecision = "float64"

    def __post_init__(self) -> None:
        if self.frequencies < 2:
            raise BadInput(f"frequencies is {self.frequencies}: it must be at least 2")
        if self.kind not in ("nerf", "trans"):
            raise BadInput(f"code is {self.kind!r}: use nerf or trans")
        if self.precision not in ("float64", "float32"):
            raise BadInput(f"precision is {self.precision!r}: use float64 or float32")

    @property
    def width(self) -> int:
        """Numbers in a code."""
        return 2 * self.frequencies

    def __call__(self, values: Tensor) -> Tensor:
        """PE of numbers (...,) -> (..., 2F), in `precision`. NaN gives zeros.

        >>> Codes(2, "trans")(torch.tensor([0.0])).tolist()
        [[0.0, 1.0, 0.0, 1.0]]
        """
        dtype = torch.float64 if self.precision == "float64" else torch.float32
        v = values.to(dtype)[..., None]
        if self.kind == "nerf":
            phase = (v * math.pi) * torch.linspace(1.0, 2.0 ** (self.frequencies - 1), self.frequencies, dtype=dtype)
        else:
            steps = torch.arange(self.frequencies, dtype=dtype) / self.frequencies
            phase = v * 10000.0**-steps
        code = torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(-2)
        return torch.where(v.isnan(), torch.zeros((), dtype=dtype), code)

    def each(self, values: np.ndarray) -> Tensor:
        """As a call, for many numbers of which few differ: each different one is computed once."""
        different, where = np.unique(values, return_inverse=True)
        return self(torch.from_numpy(different.astype(np.float64)))[torch.from_numpy(where.reshape(values.shape))]


def node_tokens(graphs: Graphs, codes: Codes) -> Tensor:
    """The tokens of all nodes, (N, 6F) or, for whole networks, (N, 30F)."""
    place = codes(torch.arange(int(graphs.length.max(initial=0))))[torch.from_numpy(graphs.position)]
    source = _sums(place, graphs)
    source[torch.from_numpy(graphs.start[:-1])] = codes(torch.tensor(-1))
    operator = codes.each(graphs.op)
    if graphs.attributes is None or graphs.shape is None:
        return torch.cat([operator, place, source], dim=1)
    numbers = codes.each(np.concatenate([graphs.attributes, graphs.shape], axis=1)).flatten(1)
    return torch.cat([operator, numbers, source, place], dim=1)


def _sums(place: Tensor, graphs: Graphs) -> Tensor:
    """The sum of the codes of each node's predecessors, (N, 2F)."""
    result = torch.zeros_like(place)
    source, target = graphs.edges
    if len(target):
        first = np.flatnonzero(np.diff(target, prepend=-1))  # edges are sorted by target
        sums = np.add.reduceat(place[torch.from_numpy(source)].numpy(), first, axis=0)
        result[torch.from_numpy(target[first])] = torch.from_numpy(sums)
    return result


def end_token(codes: Codes) -> Tensor:
    """The token after a cell's last node, (6F,)."""
    return codes(torch.tensor([END, END, END])).flatten()


def static_codes(graphs: Graphs, codes: Codes) -> Tensor:
    """PE of batch size, FLOPs, parameters and memory access of whole networks, (B, 8F)."""
    assert graphs.static is not None
    return codes(torch.from_numpy(graphs.static)).flatten(1)


def token_width(codes: Codes, whole: bool) -> int:
    """Numbers in a token."""
    return codes.width * (3 + SLOTS + SIDES if whole else 3)
