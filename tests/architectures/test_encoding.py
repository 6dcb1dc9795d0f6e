# SPDX-License-Identifier: Apache-2.0
"""The tokenizer against loops over nodes, and its codes against the formulas in exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from whole_networks import network

from mien.architectures.cells import parse_201
from mien.architectures.encoding import Codes, end_token, node_tokens, static_codes, token_width
from mien.architectures.generated import generate
from mien.architectures.graph import Graph, Graphs
from mien.errors import BadInput

CELL = "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|skip_connect~0|avg_pool_3x3~1|none~2|"


def exact(value: Fraction, frequencies: int) -> list[float]:
    """A nerf code with the phase reduced in rational arithmetic, one number at a time."""
    code = []
    for k in range(frequencies):
        frequency = 1 + Fraction(k * (2 ** (frequencies - 1) - 1), frequencies - 1)
        turn = math.pi * float(value * frequency % 2)
        code += [math.sin(turn), math.cos(turn)]
    return code


@pytest.mark.parametrize("frequencies", [2, 6, 16, 32, 96])
def test_nerf_codes_are_exact_for_whole_numbers(frequencies):
    values = [-1, 0, 1, 2, 7, 8, 61, 100_000]
    found = Codes(frequencies)(torch.tensor(values))
    wanted = torch.tensor([exact(Fraction(v), frequencies) for v in values], dtype=torch.float64)
    assert torch.allclose(found, wanted, atol=1e-9)
    assert found.shape == (len(values), 2 * frequencies)


def test_nerf_codes_of_other_numbers():
    values = [0.25, -7.75, 3.5, 0.3]
    found = Codes(8)(torch.tensor(values, dtype=torch.float64))
    wanted = torch.tensor([exact(Fraction(v), 8) for v in values], dtype=torch.float64)
    assert torch.allclose(found, wanted, atol=1e-11)


def test_with_32_frequencies_the_period_is_62_and_whole_numbers_below_are_far_apart():
    codes = Codes(32)(torch.arange(124))
    assert torch.allclose(codes[:62], codes[62:], atol=1e-10)
    distance = torch.cdist(codes[:62], codes[:62]).fill_diagonal_(8.0)
    assert float(distance.min()) > 7.8


def test_float32_codes_are_the_released_ones():
    # Parity is the order of the product, (v pi) f, in single precision with inclusive linear frequencies.
    f = torch.linspace(1.0, 2.0**31, 32)
    found = Codes(32, precision="float32")(torch.tensor([3.0]))[0]
    for k in range(32):
        phase = (torch.tensor(3.0) * math.pi) * f[k]
        assert float(found[2 * k]) == pytest.approx(float(phase.sin()), abs=1e-6)
        assert float(found[2 * k + 1]) == pytest.approx(float(phase.cos()), abs=1e-6)
    assert found.dtype == torch.float32
    assert not torch.allclose(found.double(), Codes(32)(torch.tensor([3.0]))[0], atol=0.1), "other codes, and said so"


def test_trans_codes():
    found = Codes(4, "trans")(torch.tensor([5.0]))[0]
    wanted = [g(5 * 10000 ** (-k / 4)) for k in range(4) for g in (math.sin, math.cos)]
    assert found.tolist() == pytest.approx(wanted, abs=1e-12)
    assert Codes(4, "trans")(torch.tensor([math.nan])).tolist() == [[0.0] * 8]


def slow_tokens(graph: Graph, codes: Codes) -> torch.Tensor:
    """One node at a time, from the adjacency matrix."""
    adjacency = graph.adjacency()
    rows = []
    for i in range(len(graph)):
        before = [j for j in range(len(graph)) if adjacency[j, i]]
        source = torch.zeros(codes.width, dtype=torch.float64)
        for j in before:
            source = source + codes(torch.tensor(j)).double()
        if i == 0:
            source = codes(torch.tensor(-1)).double()
        own = codes(torch.tensor(i)).double()
        parts = [codes(torch.tensor(int(graph.op[i]))).double()]
        if graph.attributes is None:
            parts += [own, source]
        else:
            for value in [*graph.attributes[i], *graph.shape[i]]:
                parts.append(codes(torch.tensor(value)).double())
            parts += [source, own]
        rows.append(torch.cat(parts))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["nerf", "trans"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_batch_of_tokens_is_the_loop_over_nodes(kind, whole):
    graphs = [network(), network(("Conv", "Relu"), ((0, 1),))] if whole else [parse_201(CELL)] * 2
    codes = Codes(5, kind)
    together = Graphs.of(graphs, graphs[0].space)
    found = node_tokens(together, codes, torch.float64)
    assert torch.equal(node_tokens(together, codes), found.float())
    assert torch.equal(found, torch.cat([slow_tokens(graph, codes) for graph in graphs]))
    assert found.shape[1] == token_width(codes, whole) == (5 * 2 * (15 if whole else 3))


def test_tokens_of_varying_cells_and_of_a_node_without_predecessors():
    cells = generate(30, 3)
    codes = Codes(6)
    assert torch.equal(
        node_tokens(Graphs.of(cells, "generated"), codes, torch.float64),
        torch.cat([slow_tokens(cell, codes) for cell in cells]),
    )
    loose = Graph.of("generated", ["input", "skip", "output"], [(0, 2)])
    tokens = node_tokens(Graphs.of([loose], "generated"), codes)
    assert torch.equal(tokens[1, 24:], torch.zeros(12))


def test_widths_end_and_static_values_of_the_paper():
    codes = Codes()
    assert (codes.width, token_width(codes, False), token_width(codes, True)) == (64, 192, 960)
    end = end_token(codes)
    assert torch.allclose(end, torch.tensor(exact(Fraction(100_000), 32) * 3, dtype=torch.float64), atol=1e-9)
    static = static_codes(Graphs.of([network()], "onnx"), Codes(32, "trans"))
    assert static.shape == (1, 256)
    parts = [Codes(32, "trans")(torch.tensor(v, dtype=torch.float64)) for v in (1, 0.25, 0.011, 0.5)]
    assert torch.equal(static[0], torch.cat(parts))


def test_no_graphs_give_no_tokens():
    assert node_tokens(Graphs.of([], "generated"), Codes(4)).shape == (0, 24)


def test_a_whole_network_needs_its_attributes():
    bare = Graph("onnx", np.array([0]), np.zeros((2, 0), dtype=np.int64))
    with pytest.raises(BadInput, match="has no attributes"):
        Graphs.of([bare], "onnx")


@pytest.mark.parametrize(("field", "value"), [("frequencies", 1), ("kind", "fourier"), ("precision", "float16")])
def test_bad_codes(field, value):
    with pytest.raises(BadInput, match=repr(value)):
        Codes(**{field: value})
