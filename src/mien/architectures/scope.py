# SPDX-License-Identifier: Apache-2.0
"""Does a graph lie outside what a predictor was trained on? Kinds of operators, number of nodes, distance.

The distance is that to the nearest training graph, over how often each operator occurs, edges, depth and, of whole
networks, the static values; all as logarithms, in units of their spread over the training graphs. It is held against
the distances of training graphs to their own nearest ones.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mien.architectures.graph import Floats, Graph, Graphs
from mien.architectures.operators import operators

KEPT = 2000
"""Most training graphs that are kept to measure distances to; of more, as many at equal steps are kept."""
WITHIN = 0.99
"""Share of training graphs whose distance to their nearest one counts as near."""


def features(graphs: Graphs) -> Floats:
    """What distances are measured over, (B, K)."""
    edges = np.diff(graphs.edge_start)[:, None]
    parts = [graphs.counts(), edges, depths(graphs)[:, None]]
    if graphs.static is not None:
        parts.append(graphs.static * [1, 1e3, 1e3, 1e3])  # in MFLOPs and so on: log1p tells small networks apart
    return np.log1p(np.concatenate(parts, axis=1))


def depths(graphs: Graphs) -> Floats:
    """Edges on the longest path of each graph, (B,)."""
    depth = np.zeros(len(graphs.op), dtype=np.int64)
    source, target = graphs.edges
    for _ in range(int(graphs.length.max(initial=0))):
        before = depth.copy()
        np.maximum.at(depth, target, before[source] + 1)
        if np.array_equal(before, depth):
            break
    return np.maximum.reduceat(depth, graphs.start[:-1]).astype(np.float64) if len(graphs) else np.zeros(0)


class Scope(nn.Module):
    """What was trained on, in buffers.

    Args:
        space: Space of the graphs.
    """

    seen: Tensor
    sizes: Tensor
    scale: Tensor
    near: Tensor
    known: Tensor

    def __init__(self, space: str) -> None:
        super().__init__()
        self.space = space
        self.register_buffer("seen", torch.zeros(len(operators(space)), dtype=torch.bool))
        self.register_buffer("sizes", torch.zeros(2, dtype=torch.long))
        self.register_buffer("scale", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("near", torch.zeros((), dtype=torch.float64))
        self.register_buffer("known", torch.zeros(0, 0, dtype=torch.float64))

    def learn(self, graphs: Graphs) -> None:
        """Remember the training graphs."""
        self.seen[:] = torch.from_numpy(np.isin(np.arange(len(self.seen)), graphs.op))
        self.sizes[:] = torch.tensor([int(graphs.length.min()), int(graphs.length.max())])
        found = features(graphs)
        spread = found.std(axis=0)
        scale = torch.from_numpy(1 / np.where(spread > 0.05, spread, 0.05))  # what never varied may differ a little
        different = torch.from_numpy(np.unique(found, axis=0)) * scale
        kept = different[:: -(-len(different) // KEPT)]
        between = torch.cdist(kept, kept).fill_diagonal_(torch.inf).amin(dim=1)
        near = torch.quantile(between, WITHIN) if len(kept) > 1 else between.new_zeros(())
        device = self.seen.device
        self.scale, self.known, self.near = scale.to(device), kept.to(device), near.to(device)

    def outside(self, graph: Graph) -> str:
        """In which respects a graph is unlike the training graphs, in words; "" where it is like them."""
        if not len(self.known):
            return "not known: the model has not been trained"
        names, reasons = operators(self.space), []
        unseen = sorted({names[code] for code in graph.op if not self.seen[code]})
        if unseen:
            reasons.append(f"operators never seen in training: {', '.join(unseen)}")
        low, high = self.sizes.tolist()
        if not low <= len(graph) <= high:
            reasons.append(f"{len(graph)} nodes, trained on {low} to {high}")
        own = torch.from_numpy(features(Graphs.of([graph], self.space))).to(self.scale) * self.scale
        distance, near = float(torch.cdist(own, self.known).min()), float(self.near)
        if distance > near + 1e-9:
            reasons.append(f"distance {distance:.2g} to the nearest training graph, theirs are below {near:.2g}")
        return "; ".join(reasons)
