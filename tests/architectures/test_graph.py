# SPDX-License-Identifier: Apache-2.0
"""Graphs, their orders and the spaces of cells, against matrices and brute force."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.architectures.cells import (
    EDGES_201,
    format_201,
    graphs_201,
    parse_201,
    parse_json,
    to_json,
    without_none,
)
from mien.architectures.generated import COST, SIZES, costs, generate
from mien.architectures.graph import Graph, Graphs, differs, is_legal, last_swap, permuted, random_order
from mien.architectures.operators import ATTRIBUTES, SPACES, operator_code
from mien.errors import BadInput

CELL = "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|skip_connect~0|avg_pool_3x3~1|none~2|"


@st.composite
def cells(draw):
    """A generated cell of up to 9 nodes."""
    return generate(40, draw(st.integers(0, 50)))[draw(st.integers(0, 39))]


def test_the_rewritten_edge_cell_is_the_papers():
    graph = parse_201(CELL)
    assert graph.op.tolist() == [0, 2, 1, 5, 4, 3, 5, 6]
    wanted = {0: {1, 2, 4}, 1: {3, 5}, 2: {6}, 3: {6}, 4: {7}, 5: {7}, 6: {7}}
    assert {(int(s), int(t)) for s, t in EDGES_201.T} == {(s, t) for s, targets in wanted.items() for t in targets}


def test_codes_of_operators_are_the_papers():
    assert [operator_code("nas-bench-101", name) for name in SPACES["nas-bench-101"]] == [0, 1, 2, 3, 4]
    assert operator_code("nas-bench-101", "conv3x3-bn-relu") == 2
    order = ("nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "skip_connect", "none")
    assert [operator_code("nas-bench-201", name) for name in order] == [1, 2, 3, 4, 5]
    assert len(ATTRIBUTES) <= 32
    assert max(map(len, ATTRIBUTES.values())) <= 8


def test_many_strings_at_once_are_the_same_graphs():
    texts = [CELL, format_201(["none"] * 6), format_201(["skip_connect"] * 6)]
    together, single = graphs_201(texts), Graphs.of([parse_201(text) for text in texts], "nas-bench-201")
    for name in ("op", "start", "edges", "edge_start"):
        assert np.array_equal(getattr(together, name), getattr(single, name))


@given(cells())
def test_permuted_is_p_a_pt(graph):
    rng = np.random.default_rng(0)
    graphs = Graphs.of([graph, graph], graph.space)
    position = random_order(graphs, rng)
    assert is_legal(graphs, position).all()
    found = permuted(graphs, position)
    for number in range(2):
        own = position[graphs.start[number] : graphs.start[number + 1]]
        p = np.zeros((len(graph), len(graph)), dtype=int)
        p[own, np.arange(len(graph))] = 1
        moved = p @ graph.adjacency().astype(int) @ p.T
        assert np.array_equal(found[number].adjacency(), moved.astype(bool))
        assert np.array_equal(found[number].op, p @ graph.op)
        assert own[0] == 0
        assert own[-1] == len(graph) - 1
        assert not np.tril(moved).any()


def test_sixty_six_of_720_interior_orders_are_legal_in_nas_bench_201_and_all_are_drawn():
    graph = parse_201(CELL)
    one = Graphs.of([graph], graph.space)
    orders = [np.array([0, *inner, 7]) for inner in permutations(range(1, 7))]
    legal = {tuple(order) for order in orders if is_legal(one, order)[0]}
    assert (len(orders), len(legal)) == (720, 66)
    many = Graphs.of([graph] * 3000, graph.space)
    drawn = {tuple(row) for row in random_order(many, np.random.default_rng(0)).reshape(-1, 8)}
    assert drawn == legal


def test_the_last_swap_in_nas_bench_201_exchanges_nodes_5_and_6_and_is_legal():
    graphs = Graphs.of([parse_201(CELL)], "nas-bench-201")
    position = last_swap(graphs)
    assert position.tolist() == [0, 1, 2, 3, 4, 6, 5, 7]
    assert is_legal(graphs, position).all()
    assert differs(graphs, permuted(graphs, position)).all()


def test_legality_looks_at_each_graph_alone():
    chain = Graph.of("generated", ["input", "conv1x1", "conv3x3", "output"], [(0, 1), (1, 2), (2, 3)])
    wide = Graph.of("generated", ["input", "conv1x1", "conv3x3", "output"], [(0, 1), (0, 2), (1, 3), (2, 3)])
    small = Graph.of("generated", ["input", "skip", "output"], [(0, 1), (1, 2)])
    graphs = Graphs.of([chain, wide, small], "generated")
    position = last_swap(graphs)
    assert position.tolist() == [0, 2, 1, 3, 0, 2, 1, 3, 0, 1, 2]
    assert is_legal(graphs, position).tolist() == [False, True, True]
    same = Graph.of("generated", ["input", "skip", "skip", "output"], [(0, 1), (0, 2), (1, 3), (2, 3)])
    symmetric = Graphs.of([same], "generated")
    assert not differs(symmetric, permuted(symmetric, last_swap(symmetric))).any(), "a twin that is no other graph"


def test_absent_edges_in_place_of_none():
    graph = without_none(parse_201(CELL))
    assert graph.ops == ("input", "nor_conv_3x3", "nor_conv_1x1", "skip_connect", "avg_pool_3x3", "output")
    assert graph.edges.T.tolist() == [[0, 1], [0, 2], [0, 3], [1, 4], [3, 5], [4, 5]]
    full = parse_201(format_201(["skip_connect"] * 6))
    assert without_none(full) is full


@given(cells())
def test_json_and_slices_keep_a_cell(graph):
    assert parse_json(to_json(graph)).fingerprint() == graph.fingerprint()
    graphs = Graphs.of([graph, *generate(3, 0)], graph.space)
    assert graphs[0].fingerprint() == graph.fingerprint()
    counts = graphs.counts()
    assert counts[0].tolist() == [graph.ops.count(name) for name in SPACES["generated"]]


@given(cells())
def test_costs_of_generated_cells_by_walking_every_path(graph):
    assert SIZES[0] <= len(graph) <= SIZES[1]
    follow = {i: [int(t) for s, t in graph.edges.T if s == i] for i in range(len(graph))}

    def dearest(node):
        return COST[graph.ops[node]] + max((dearest(after) for after in follow[node]), default=0.0)

    found = costs(graph)
    assert found["path"] == pytest.approx(dearest(0))
    assert found["cost"] == pytest.approx(dearest(0) + sum(COST[name] for name in graph.ops) / 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("|none~0|", "not an architecture of NAS-Bench-201"),
        (CELL.replace("skip_connect", "skip_conect"), "did you mean 'skip_connect'"),
        ('{"operations": ["input"]', "is not JSON"),
        ('{"operations": ["input", "output"], "adjacency": [[0, 1]]}', "2 rows of 2"),
        ('{"operations": ["input", "output"], "adjacency": [[0, 0], [1, 0]]}', "edge 1 -> 0"),
        ('{"operations": ["input", "out"], "adjacency": [[0, 1], [0, 0]]}', "did you mean 'output'"),
        ('{"operations": ["input"], "adjacency": [[0]], "space": "onnx"}', "space of cells in JSON"),
    ],
)
def test_text_that_is_no_cell(text, message):
    with pytest.raises(BadInput, match=message):
        (parse_201 if text.startswith("|") else parse_json)(text)
