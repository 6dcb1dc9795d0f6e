# SPDX-License-Identifier: Apache-2.0
"""Cells as text: architecture strings of NAS-Bench-201, and cells of NAS-Bench-101 (and generated ones) as JSON.

A NAS-Bench-201 cell has its operators on the edges between four nodes. It is rewritten with the operators as nodes: the
input, six operators in the order of the string, the output (paper: the tokenizer's input).

    |op~0|+|op~0|op~1|+|op~0|op~1|op~2|      node 1 <- 0,  node 2 <- 0, 1,  node 3 <- 0, 1, 2
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mien.architectures.graph import Graph, Graphs, Ints, checked_edges
from mien.architectures.operators import GENERATED, NAS_BENCH_101, NAS_BENCH_201, SPACES, operator_code
from mien.errors import BadInput, unknown_name

SOURCES_201 = (0, 0, 1, 0, 1, 2)
"""The node that each of the six operators of a NAS-Bench-201 cell reads, in the order of the string."""

EDGES_201 = checked_edges([(0, 1), (0, 2), (0, 4), (1, 3), (1, 5), (2, 6), (3, 6), (4, 7), (5, 7), (6, 7)], 8)
"""input -> operators out of node 0; operators into a node -> operators out of it; operators into node 3 -> output."""

_TOKEN = re.compile(r"\|([^|~+]+)~(\d)")


def parse_201(text: str) -> Graph:
    """The graph of an architecture string, 8 nodes.

    Raises:
        BadInput: It is not of the form above, or has an unknown operator.

    >>> parse_201("|none~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|none~1|none~2|").op.tolist()
    [0, 5, 2, 5, 4, 5, 5, 6]
    """
    return Graph(NAS_BENCH_201, np.array([0, *codes_201(text), 6], dtype=np.int64), EDGES_201)


def codes_201(text: str) -> list[int]:
    """The codes of the six operators of an architecture string. Raises as `parse_201`."""
    found = _TOKEN.findall(text)
    if tuple(int(source) for _, source in found) != SOURCES_201 or format_201([name for name, _ in found]) != text:
        raise BadInput(
            f"{text[:120]!r} is not an architecture of NAS-Bench-201: it must look like "
            "|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|none~1|none~2|"
        )
    inner = SPACES[NAS_BENCH_201][1:-1]
    for name, _ in found:
        if name not in inner:
            raise unknown_name(f"operator of {NAS_BENCH_201}", name, inner)
    return [operator_code(NAS_BENCH_201, name) for name, _ in found]


def format_201(ops: Sequence[str]) -> str:
    """The architecture string of six operators.

    >>> format_201(["none"] * 6)
    '|none~0|+|none~0|none~1|+|none~0|none~1|none~2|'
    """
    words = [f"{op}~{source}" for op, source in zip(ops, SOURCES_201, strict=True)]
    return "+".join(f"|{'|'.join(part)}|" for part in (words[:1], words[1:3], words[3:]))


def graphs_201(texts: Sequence[str]) -> Graphs:
    """Many architecture strings at once."""
    count = len(texts)
    op = np.array([[0, *codes_201(text), 6] for text in texts], dtype=np.int64).reshape(-1)
    edges = (EDGES_201[:, None, :] + 8 * np.arange(count)[None, :, None]).reshape(2, -1)
    ends = np.arange(count + 1)
    return Graphs(NAS_BENCH_201, op, 8 * ends, edges, EDGES_201.shape[1] * ends)


def without_none(graph: Graph) -> Graph:
    """The cell with absent edges in place of operators "none": their nodes are dropped, all others stay.

    NAS-Bench-201 then has varying wiring and length.

    >>> without_none(parse_201("|none~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|skip_connect~2|")).ops
    ('input', 'nor_conv_3x3', 'skip_connect', 'output')
    """
    if graph.space != NAS_BENCH_201:
        return graph
    keep = graph.op != operator_code(NAS_BENCH_201, "none")
    if keep.all():
        return graph
    number: Ints = np.cumsum(keep) - 1
    edges = graph.edges[:, keep[graph.edges].all(axis=0)]
    return Graph(graph.space, graph.op[keep], number[edges])


def parse_json(text: str) -> Graph:
    """A cell from JSON: {"operations": ["input", ...], "adjacency": [[0, 1, ...], ...]}, adjacency[j][i] for j -> i.

    It is of NAS-Bench-101 unless "space" names another. Raises BadInput for anything else.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadInput(f"{text[:60]!r} is not JSON: {error}") from error
    return cell_from(value)


def cell_from(value: Any) -> Graph:
    """As `parse_json`, from the parsed value."""
    operations = value.get("operations") if isinstance(value, dict) else None
    matrix = value.get("adjacency") if isinstance(value, dict) else None
    if not isinstance(operations, list) or not all(isinstance(name, str) for name in operations) or not operations:
        raise BadInput('a cell needs "operations", a list of names such as "input", "conv3x3-bn-relu", "output"')
    size = len(operations)
    rows = matrix if isinstance(matrix, list) and all(isinstance(row, list) for row in matrix) else []
    if len(rows) != size or not all(len(row) == size and set(row) <= {0, 1} for row in rows):
        raise BadInput(f'a cell of {size} operations needs "adjacency", {size} rows of {size} zeros and ones')
    space = value.get("space", NAS_BENCH_101)
    if space not in (NAS_BENCH_101, GENERATED):
        raise unknown_name("space of cells in JSON", str(space), (NAS_BENCH_101, GENERATED))
    return Graph.of(space, operations, [(j, i) for j in range(size) for i in range(size) if rows[j][i]])


def to_json(graph: Graph) -> str:
    """The JSON that `parse_json` reads."""
    matrix = graph.adjacency().astype(int).tolist()
    return json.dumps({"space": graph.space, "operations": list(graph.ops), "adjacency": matrix})
