# SPDX-License-Identifier: Apache-2.0
"""NAR-Former's tokens for NAS-Bench-like cells and for networks of 200 nodes, against loops over nodes.

The plain loop computes the codes of all numbers of a node in one call, node by node. The loop with a table computes
every different number once and then only gathers and adds, in numpy, node by node: the best that a loop does here, and
published beside it without a promise.

    python benchmarks/graphs.py [--small]
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch
from _contract import measure, promise, publish
from torch import Tensor

from mien.architectures.cells import format_201, graphs_201
from mien.architectures.encoding import Codes, node_tokens
from mien.architectures.generated import generate
from mien.architectures.graph import SIDES, SLOTS, Graph, Graphs, checked_edges
from mien.architectures.operators import GENERATED, NAS_BENCH_201, ONNX, SPACES

LIMIT = 20.0
CELLS, NETWORKS, NODES = (64, 4, 200) if "--small" in sys.argv else (1000, 32, 200)


def nas_bench_201(count: int, rng: np.random.Generator) -> Graphs:
    """Random cells of NAS-Bench-201."""
    names = SPACES[NAS_BENCH_201][1:-1]
    return graphs_201([format_201([names[i] for i in rng.integers(0, 5, 6)]) for _ in range(count)])


def networks(count: int, nodes: int, rng: np.random.Generator) -> Graphs:
    """Chains of operators with skips over two to eight nodes, attributes and shapes: the form of a whole network."""
    made = []
    for _ in range(count):
        skips = [(int(i), int(min(i + rng.integers(2, 9), nodes - 1))) for i in rng.integers(0, nodes - 2, nodes // 5)]
        attributes = rng.integers(0, 8, (nodes, SLOTS)).astype(float)
        attributes[rng.random(attributes.shape) < 0.5] = np.nan
        shape = 2.0 ** rng.integers(0, 9, (nodes, SIDES))
        op = rng.integers(0, len(SPACES[ONNX]), nodes)
        edges = checked_edges([(i, i + 1) for i in range(nodes - 1)] + skips, nodes)
        made.append(Graph(ONNX, op, edges, attributes, shape, np.ones(4)))
    return Graphs.of(made, ONNX)


def numbers_of(graph: Graph, node: int) -> tuple[list[float], list[int]]:
    """Operator, attributes and shape of a node, and its predecessors (-1 before the first)."""
    own = [float(graph.op[node])]
    if graph.attributes is not None and graph.shape is not None:
        own += [*graph.attributes[node], *graph.shape[node]]
    return own, [-1] if node == 0 else graph.edges[0][graph.edges[1] == node].tolist()


def joined(own: list, place: object, source: object, whole: bool) -> list:
    return [*own, source, place] if whole else [*own, place, source]


def by_node(graphs: list[Graph], codes: Codes) -> Tensor:
    """The plain loop."""
    tokens = []
    for graph in graphs:
        whole = graph.attributes is not None
        for node in range(len(graph)):
            own, before = numbers_of(graph, node)
            code = codes(torch.tensor([*own, node, *before], dtype=torch.float64))
            source = torch.zeros(codes.width, dtype=code.dtype)
            for row in code[len(own) + 1 :]:
                source = source + row
            tokens.append(torch.cat(joined(list(code[: len(own)]), code[len(own)], source, whole)))
    return torch.stack(tokens).float()


def with_table(graphs: list[Graph], codes: Codes) -> Tensor:
    """The loop that computes each different number once."""
    table: dict[float, np.ndarray] = {}

    def code(value: float) -> np.ndarray:
        key = None if value != value else value  # NaN is no key
        if key not in table:
            table[key] = codes(torch.tensor(value, dtype=torch.float64)).numpy()
        return table[key]

    tokens = []
    for graph in graphs:
        whole = graph.attributes is not None
        for node in range(len(graph)):
            own, before = numbers_of(graph, node)
            source = np.zeros(codes.width)
            for j in before:
                source = source + code(float(j))
            tokens.append(np.concatenate(joined([code(v) for v in own], code(float(node)), source, whole)))
    return torch.from_numpy(np.stack(tokens)).float()


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    cases = {
        f"{CELLS} cells of NAS-Bench-201, 8 nodes": (nas_bench_201(CELLS, rng), Codes(32, "nerf")),
        f"{CELLS} generated cells, 5 to 9 nodes": (Graphs.of(generate(CELLS, 0), GENERATED), Codes(32, "nerf")),
        f"{NETWORKS} networks of {NODES} nodes": (networks(NETWORKS, NODES, rng), Codes(32, "trans")),
    }
    equal, timing, promises = {}, {}, []
    for name, (graphs, codes) in cases.items():
        apart = [graphs[i] for i in range(len(graphs))]
        contenders: dict[str, Callable[[], Tensor]] = {
            "node_tokens": lambda graphs=graphs, codes=codes: node_tokens(graphs, codes),
            "loop over nodes": lambda apart=apart, codes=codes: by_node(apart, codes),
            "loop with a table of codes": lambda apart=apart, codes=codes: with_table(apart, codes),
        }
        found = {label: run() for label, run in contenders.items()}
        apart_by = {k: float((v - found["node_tokens"]).abs().max()) for k, v in found.items() if k != "node_tokens"}
        assert not any(apart_by.values()), (name, apart_by)
        equal[name] = apart_by
        timing[name] = measure(contenders, over="node_tokens", items=len(graphs))
        for label in apart_by:
            ratio = timing[name]["contenders"][label]["ratio"]["median"]
            if label == "loop over nodes":
                promises.append(promise(f"{label} over node_tokens, {name}", ratio, LIMIT, at_least=True))
            else:
                print(f"       {label} over node_tokens, {name}: {ratio:.4g} (no promise)", flush=True)
    publish(
        "graphs",
        promises=promises,
        equal={"largest difference from node_tokens": equal},
        cells=CELLS,
        networks=[NETWORKS, NODES],
        timing=timing,
    )


if __name__ == "__main__":
    main()
