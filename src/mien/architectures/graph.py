# SPDX-License-Identifier: Apache-2.0
"""A neural architecture as a graph, and many of them in flat arrays.

Nodes are numbered in a topological order: every edge goes from a lower to a higher number. Everything that is done to a
batch of graphs (codes, permutations, counts) works on the flat arrays of `Graphs`, without a loop over nodes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mien.architectures.operators import ONNX, operator_code, operators
from mien.errors import BadInput

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SLOTS = 8
"""Attributes of a node."""
SIDES = 4
"""Entries of an output shape."""
STATIC = ("batch", "gflops", "mparams", "gbytes")


class Graph:
    """One architecture. Not a dataclass: a batch holds a list of graphs, not a graph of stacked fields.

    Args:
        space: Whose operators these are, a key of `mien.architectures.operators.SPACES`.
        op: Code of each node's operator, (L,).
        edges: (2, E), sources and targets, source < target, sorted by (target, source).
        attributes: Of whole networks: (L, 8), NaN where there is none.
        shape: Of whole networks: the nodes' output shapes, (L, 4), NaN beyond their rank.
        static: Of whole networks: batch size, FLOPs / 1e9, parameters / 1e9, memory access in bytes / 1e9.
    """

    __slots__ = ("attributes", "edges", "op", "shape", "space", "static")

    def __init__(
        self,
        space: str,
        op: Ints,
        edges: Ints,
        attributes: Floats | None = None,
        shape: Floats | None = None,
        static: Floats | None = None,
    ) -> None:
        self.space, self.op, self.edges = space, op, edges
        self.attributes, self.shape, self.static = attributes, shape, static

    @classmethod
    def of(cls, space: str, ops: Sequence[str], edges: Iterable[tuple[int, int]]) -> Graph:
        """A cell from names of operators and pairs (source, target).

        Raises:
            BadInput: An unknown operator, an edge to nowhere, or one that goes back.

        >>> Graph.of("generated", ["input", "conv3x3", "output"], [(1, 2), (0, 1)]).edges.tolist()
        [[0, 1], [1, 2]]
        """
        codes = np.array([operator_code(space, name) for name in ops], dtype=np.int64)
        return cls(space, codes, checked_edges(edges, len(codes)))

    def __len__(self) -> int:
        return len(self.op)

    @property
    def ops(self) -> tuple[str, ...]:
        """Names of the operators."""
        names = operators(self.space)
        return tuple(names[code] for code in self.op)

    def adjacency(self) -> NDArray[np.bool_]:
        """(L, L), A[j, i] where an edge goes from j to i."""
        matrix = np.zeros((len(self), len(self)), dtype=bool)
        matrix[self.edges[0], self.edges[1]] = True
        return matrix

    def fingerprint(self) -> str:
        """A short name that equal graphs share and others do not."""
        digest = hashlib.sha256(self.space.encode())
        for part in (self.op, self.edges, self.attributes, self.shape, self.static):
            digest.update(b"-" if part is None else np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()[:16]


def checked_edges(edges: Iterable[tuple[int, int]], nodes: int) -> Ints:
    """Edges as (2, E), sorted, each once. Raises BadInput for one that is not from a lower to a higher node."""
    found = np.array(sorted({(int(t), int(s)) for s, t in edges}), dtype=np.int64).reshape(-1, 2).T[::-1]
    wrong = (found[0] < 0) | (found[1] >= nodes) | (found[0] >= found[1])
    if wrong.any():
        source, target = found[:, wrong.argmax()]
        raise BadInput(
            f"edge {source} -> {target} in a graph of {nodes} nodes: nodes must be in topological order, "
            "every edge from a lower to a higher one"
        )
    return np.ascontiguousarray(found)


@dataclass(frozen=True)
class Graphs:
    """Many graphs of one space, laid end to end.

    Args:
        space: Whose operators these are.
        op: (N,), all nodes.
        start: (B + 1,): graph b has the nodes start[b] to start[b + 1].
        edges: (2, E), numbers of nodes among all N, sorted by (target, source).
        edge_start: (B + 1,): where each graph's edges begin.
        attributes: (N, 8) or None.
        shape: (N, 4) or None.
        static: (B, 4) or None.
    """

    space: str
    op: Ints
    start: Ints
    edges: Ints
    edge_start: Ints
    attributes: Floats | None = None
    shape: Floats | None = None
    static: Floats | None = None

    @classmethod
    def of(cls, graphs: Sequence[Graph], space: str) -> Graphs:
        """The graphs laid end to end. Raises BadInput when one is of another space."""
        other = next((graph.space for graph in graphs if graph.space != space), None)
        if other is not None:
            raise BadInput(f"an architecture is of the space {other!r}: this model was made for {space!r}")
        start = _ends([len(graph.op) for graph in graphs])
        edges = [graph.edges for graph in graphs]
        edge_start = _ends([pairs.shape[1] for pairs in edges])
        joined = np.concatenate(edges, axis=1) if edges else np.zeros((2, 0), dtype=np.int64)
        whole = space == ONNX
        return cls(
            space,
            np.concatenate([graph.op for graph in graphs]) if graphs else np.zeros(0, dtype=np.int64),
            start,
            joined + np.repeat(start[:-1], np.diff(edge_start)),
            edge_start,
            _stacked([graph.attributes for graph in graphs], SLOTS) if whole else None,
            _stacked([graph.shape for graph in graphs], SIDES) if whole else None,
            _stacked([None if graph.static is None else graph.static[None] for graph in graphs], 4) if whole else None,
        )

    def __len__(self) -> int:
        return len(self.start) - 1

    def __getitem__(self, index: int) -> Graph:
        if not 0 <= index < len(self):
            raise IndexError(index)
        nodes = slice(self.start[index], self.start[index + 1])
        edges = self.edges[:, self.edge_start[index] : self.edge_start[index + 1]] - self.start[index]
        whole = self.attributes is not None and self.shape is not None and self.static is not None
        if not whole:
            return Graph(self.space, self.op[nodes], edges)
        return Graph(
            self.space,
            self.op[nodes],
            edges,
            self.attributes[nodes],  # type: ignore[index]
            self.shape[nodes],  # type: ignore[index]
            self.static[index],  # type: ignore[index]
        )

    def take(self, rows: Iterable[int]) -> Graphs:
        """Some of the graphs, in the order of `rows`."""
        return Graphs.of([self[row] for row in rows], self.space)

    @property
    def length(self) -> Ints:
        """Number of nodes of each graph, (B,)."""
        return np.diff(self.start)

    @property
    def owner(self) -> Ints:
        """The graph that each node belongs to, (N,)."""
        return np.repeat(np.arange(len(self)), self.length)

    @property
    def position(self) -> Ints:
        """Each node's number in its own graph, from 0, (N,)."""
        return np.arange(len(self.op)) - self.start[self.owner]

    def counts(self) -> Floats:
        """How often each operator occurs in each graph, (B, number of operators)."""
        kinds = len(operators(self.space))
        flat = np.bincount(self.owner * kinds + self.op, minlength=len(self) * kinds)
        return flat.reshape(len(self), kinds).astype(np.float64)


def _ends(sizes: Sequence[int]) -> Ints:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)


def _stacked(parts: Sequence[Floats | None], width: int) -> Floats:
    if any(part is None for part in parts):
        raise BadInput("an architecture of space 'onnx' has no attributes, shapes or static values: read it from ONNX")
    return np.concatenate(parts) if parts else np.zeros((0, width))  # type: ignore[arg-type]


# --- orders of the nodes ------------------------------------------------------------------------------------------
def permuted(graphs: Graphs, position: Ints) -> Graphs:
    """The same graphs with their nodes in another order: A' = P A P^T and ops' = P ops.

    Args:
        graphs: Graphs.
        position: The new position of every node in its own graph, (N,). It must be a legal order.
    """
    new = graphs.start[graphs.owner] + position
    edges = new[graphs.edges]
    order = np.lexsort((edges[0], edges[1]))  # graphs stay in their order: a graph's nodes keep their range

    def moved(values: NDArray[np.generic] | None) -> NDArray[np.generic] | None:
        if values is None:
            return None
        result = np.empty_like(values)
        result[new] = values
        return result

    return Graphs(
        graphs.space,
        moved(graphs.op),  # type: ignore[arg-type]
        graphs.start,
        edges[:, order],
        graphs.edge_start,
        moved(graphs.attributes),  # type: ignore[arg-type]
        moved(graphs.shape),  # type: ignore[arg-type]
        graphs.static,
    )


def is_legal(graphs: Graphs, position: Ints) -> NDArray[np.bool_]:
    """Whether A' stays strictly upper triangular, for each graph, (B,)."""
    new = position[graphs.edges]
    legal = np.ones(len(graphs), dtype=bool)
    legal[graphs.owner[graphs.edges[0]][new[0] >= new[1]]] = False
    return legal


def differs(first: Graphs, second: Graphs) -> NDArray[np.bool_]:
    """Whether operators, their attributes or the wiring differ, for each pair of graphs of equal sizes, (B,)."""
    nodes = first.op != second.op
    for one, other in ((first.attributes, second.attributes), (first.shape, second.shape)):
        if one is not None and other is not None:
            nodes |= ~((one == other) | (np.isnan(one) & np.isnan(other))).all(axis=1)
    result = np.zeros(len(first), dtype=bool)
    result[first.owner[nodes]] = True
    edges = (first.edges != second.edges).any(axis=0)
    result[first.owner[first.edges[0]][edges]] = True
    return result


def last_swap(graphs: Graphs) -> Ints:
    """The order that exchanges the last two interior nodes; graphs with fewer than two keep theirs; (N,)."""
    position = graphs.position.copy()
    long = np.flatnonzero(graphs.length >= 4)
    last = graphs.start[1:][long] - 2
    position[last] -= 1
    position[last - 1] += 1
    return position


def random_order(graphs: Graphs, generator: np.random.Generator) -> Ints:
    """A legal order with the first and the last node in their places, drawn for each graph, (N,).

    Place by place, one of the nodes whose predecessors are all placed is drawn, each as likely as the others.
    """
    count, most = len(graphs), int(graphs.length.max(initial=0))
    position, owner = graphs.position, graphs.owner
    missing = np.full((count, most), -1)  # predecessors not yet placed; -1: no node, or placed
    missing[owner, position] = np.bincount(graphs.edges[1], minlength=len(owner))
    follows = np.zeros((count, most, most), dtype=np.int64)
    follows[owner[graphs.edges[0]], position[graphs.edges[0]], position[graphs.edges[1]]] = 1
    result = np.zeros((count, most), dtype=np.int64)
    rows = np.arange(count)
    for place in range(most):
        alive = rows[graphs.length > place]
        score = np.where(missing[alive] == 0, generator.random((len(alive), most)), -1.0)
        score[:, 0] = np.where(missing[alive, 0] == 0, 2.0, -1.0)  # the first node comes first
        final = graphs.length[alive] - 1
        early = np.flatnonzero(place < final)
        score[early, final[early]] = -1.0  # the last node comes last
        chosen = score.argmax(axis=1)
        result[alive, chosen] = place
        missing[alive] -= follows[alive, chosen]
        missing[alive, chosen] = -1
    return result[owner, position]
