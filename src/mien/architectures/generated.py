# SPDX-License-Identifier: Apache-2.0
"""Procedurally generated cells with a stated synthetic cost, so that everything runs with nothing downloaded.

No network is behind these numbers. A cell is a random acyclic graph of 5 to 9 nodes; its operators have a fixed cost,
    sum   what all operators cost together,
    path  what the dearest path from the input to the output costs,
    cost  path + sum / 2, which needs operators and wiring alike.
"""

from __future__ import annotations

import numpy as np

from mien.architectures.graph import Graph, checked_edges
from mien.architectures.operators import GENERATED, SPACES

COST = {"input": 0.0, "conv1x1": 1.0, "conv3x3": 3.0, "conv5x5": 6.0, "pool3x3": 0.5, "skip": 0.1, "output": 0.0}
SIZES = (5, 9)
"""Fewest and most nodes."""
DENSITY = 0.25
"""Probability of an edge between two nodes beyond those that connect every node."""


def generate(count: int, seed: int) -> list[Graph]:
    """`count` different cells; the same for the same seed, and the first of more are the same cells."""
    rng = np.random.default_rng(seed)
    found: dict[str, Graph] = {}
    while len(found) < count:
        graph = _draw(rng)
        found.setdefault(graph.fingerprint(), graph)
    return list(found.values())


def _draw(rng: np.random.Generator) -> Graph:
    size = int(rng.integers(SIZES[0], SIZES[1] + 1))
    inner = rng.integers(1, len(SPACES[GENERATED]) - 1, size - 2)
    op = np.concatenate([[0], inner, [len(SPACES[GENERATED]) - 1]]).astype(np.int64)
    wired = np.triu(rng.random((size, size)) < DENSITY, 1)
    wired[0, -1] = False
    for node in range(1, size - 1):  # every node lies on a path from the input to the output
        if not wired[:node, node].any():
            wired[rng.integers(0, node), node] = True
    for node in range(size - 2, 0, -1):
        if not wired[node, node + 1 :].any():
            wired[node, rng.integers(node + 1, size)] = True
    return Graph(GENERATED, op, checked_edges([(int(s), int(t)) for s, t in np.argwhere(wired)], size))


def costs(graph: Graph) -> dict[str, float]:
    """The three costs of a cell."""
    own = [COST[name] for name in graph.ops]
    longest = list(own)
    for source, target in graph.edges.T:  # sorted by target: a source is final before it is used
        longest[target] = max(longest[target], longest[source] + own[target])
    total, path = sum(own), longest[-1]
    return {"cost": path + total / 2, "sum": total, "path": path}
