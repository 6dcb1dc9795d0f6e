# SPDX-License-Identifier: Apache-2.0
"""NAR-Former's tokenizer: every number becomes a Fourier code, every node a token of such codes.

    PE(v) = [sin(p_0), cos(p_0), sin(p_1), cos(p_1), ...]
    "nerf"   p_k = (v pi) f_k,  f = linspace(1, 2^(F - 1), F), linear spacing          F frequencies, 2F numbers
    "trans"  p_k = v 10000^(-k / F)

    cell            t_i = [PE(op_i); PE(i); sum_{j: A[j,i]=1} PE(j)]                                    width 6F
    whole network   t_i = [PE(op_i); 8 attributes; 4 sides of the output; sum_{j: A[j,i]=1} PE(j); PE(i)]   width 30F

The first node's sum is PE(-1); a later node without predecessors has zeros there, as has an attribute that is absent.
With F = 32 a nerf code of an integer is a deterministic hash in single precision (the phases lie beyond its digits) and
with exact phases, the default here, a Fourier code of period 2 (F - 1) = 62, since f_k mod 2 = 1 + k / 31. Frequencies
beyond 2^53 would be a hash in double precision, too, and another one on another processor; so whole turns are taken out
of f_k v before it is rounded:  p_k = pi (v (f_k mod 2) + (v - round v) (f_k - f_k mod 2)).

A batch is encoded at once: each different number once, sums over predecessors in the order of their numbers. A loop
over nodes gives the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from mien.architectures.graph import SIDES, SLOTS, Graphs
from mien.architectures.operators import operators
from mien.errors import BadInput

CodeKind = Literal["nerf", "trans"]
CodePrecision = Literal["float64", "float32"]
StaticScale = Literal["linear", "log"]

END = 1e5
"""What the END token says in each of its three parts."""


@dataclass(frozen=True)
class Codes:
    """How numbers become codes.

    Args:
        frequencies: F, >= 2.
        kind: "nerf" or "trans".
        precision: Of phases, sines and cosines; "float64" has exact phases, float32 is what the released code computes
            in.
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
        if self.kind == "nerf" and self.precision == "float64":
            part, turns = (torch.tensor(numbers, dtype=dtype) for numbers in _frequencies(self.frequencies))
            phase = math.pi * (v * part + (v - v.round()) * turns)
        elif self.kind == "nerf":
            phase = (v * math.pi) * torch.linspace(1.0, 2.0 ** (self.frequencies - 1), self.frequencies, dtype=dtype)
        else:
            steps = torch.arange(self.frequencies, dtype=dtype) / self.frequencies
            phase = v * 10000.0**-steps
        code = torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(-2)
        return torch.where(v.isnan(), torch.zeros((), dtype=dtype), code)


@cache
def _frequencies(count: int) -> tuple[list[float], list[float]]:
    """The nerf frequencies modulo 2, and what is left of them: exact, then rounded once."""
    exact = [1 + Fraction(k * (2 ** (count - 1) - 1), count - 1) for k in range(count)]
    return [float(f % 2) for f in exact], [float(f - f % 2) for f in exact]


def node_tokens(graphs: Graphs, codes: Codes, dtype: torch.dtype = torch.float32) -> Tensor:
    """The tokens of all nodes, (N, 6F) or, for whole networks, (N, 30F), computed in `codes.precision` and rounded."""
    kinds, size = len(operators(graphs.space)), int(graphs.length.max(initial=0))
    operator, place = graphs.op[:, None], kinds + graphs.position[:, None]  # rows of a table of codes
    numbers, parts, source = np.zeros(0), [operator, place, place], 2  # `source` waits for its sum
    if graphs.attributes is not None and graphs.shape is not None:
        values = np.concatenate([graphs.attributes, graphs.shape], axis=1)
        numbers, where = np.unique(values, return_inverse=True)
        parts = [operator, kinds + size + where.reshape(values.shape), place, place]
        source = 1 + values.shape[1]
    table = codes(torch.from_numpy(np.concatenate([np.arange(kinds), np.arange(size), numbers])))
    row = torch.from_numpy(np.concatenate(parts, axis=1))
    tokens = table.to(dtype).index_select(0, row.flatten()).view(*row.shape, codes.width)
    tokens[:, source] = _sums(table[kinds : kinds + size], graphs).to(dtype)
    tokens[torch.from_numpy(graphs.start[:-1]), source] = codes(torch.tensor(-1)).to(dtype)
    return tokens.flatten(1)


def _sums(place: Tensor, graphs: Graphs) -> Tensor:
    """The sum of the codes of each node's predecessors, (N, 2F), from the codes of positions, (positions, 2F)."""
    source, target = graphs.edges
    first = np.searchsorted(target, np.arange(len(graphs.op) + 1))  # edges are sorted by target, then source
    codes = place.numpy()
    reads = csr_array(
        (np.ones(len(source), dtype=codes.dtype), graphs.position[source], first),
        shape=(len(graphs.op), len(codes)),
    )
    return torch.from_numpy(reads @ codes)  # row by row in the order of the predecessors


def end_token(codes: Codes) -> Tensor:
    """The token after a cell's last node, (6F,)."""
    return codes(torch.tensor([END, END, END])).flatten()


def static_codes(graphs: Graphs, codes: Codes, scale: StaticScale = "linear") -> Tensor:
    """PE of batch size, FLOPs, parameters and memory access of whole networks, (B, 8F).

    Args:
        graphs: B whole networks.
        codes: The codes.
        scale: "linear" takes the last three over 1e9 (paper); "log" all four as binary logarithms, of at least 1 each.
    """
    assert graphs.static is not None
    values = graphs.static
    if scale == "log":
        values = np.log2(np.maximum(values * [1, 1e9, 1e9, 1e9], 1))
    return codes(torch.from_numpy(values)).flatten(1)


def token_width(codes: Codes, whole: bool) -> int:
    """Numbers in a token."""
    return codes.width * (3 + SLOTS + SIDES if whole else 3)
