# SPDX-License-Identifier: Apache-2.0
"""What a predictor of architectures must beat: regressions on tables of numbers, and a graph convolutional network.

one-hot   a random forest, or ridge regression, on the operator of every node (and the wiring, where it varies)
counts    ridge regression on how often each operator occurs: `mien.architectures.predictor.ridge_on_counts`
GCN       H <- relu(D^-1/2 (A + A^T + I) D^-1/2 H W), mean over nodes, sigmoid     (Kipf and Welling, ICLR 2017)
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.architectures.data import Architecture
from mien.architectures.graph import Floats, Graphs
from mien.architectures.operators import operators
from mien.architectures.predictor import Predictor
from mien.engine import Phase
from mien.engine.method import Losses, Optimizers
from mien.optim.recipe import Recipe


def one_hot(graphs: Graphs, nodes: int) -> Floats:
    """Operators and wiring as 0 and 1: (B, nodes K + nodes (nodes - 1) / 2), absent nodes are zeros.

    Args:
        graphs: B graphs of at most `nodes` nodes.
        nodes: Places for nodes.
    """
    count, kinds = len(graphs), len(operators(graphs.space))
    ops = np.zeros((count, nodes, kinds))
    ops[graphs.owner, graphs.position, graphs.op] = 1
    wired = np.zeros((count, nodes, nodes))
    source, target = graphs.edges
    wired[graphs.owner[source], graphs.position[source], graphs.position[target]] = 1
    return np.concatenate([ops.reshape(count, -1), wired[:, *np.triu_indices(nodes, 1)]], axis=1)


def random_forest(train: Graphs, value: Floats, test: Graphs, seed: int, trees: int = 300) -> Floats:
    """Predictions (B,) of a random forest on one-hot operators, trained on values (N,)."""
    from sklearn.ensemble import RandomForestRegressor

    nodes = int(max(train.length.max(), test.length.max()))
    forest = RandomForestRegressor(trees, random_state=seed).fit(one_hot(train, nodes), value)
    return np.asarray(forest.predict(one_hot(test, nodes)))


def ridge_on_one_hot(train: Graphs, value: Floats, test: Graphs, penalty: float = 1.0) -> Floats:
    """Predictions (B,) of ridge regression on one-hot operators, trained on values (N,)."""
    from sklearn.linear_model import Ridge

    nodes = int(max(train.length.max(), test.length.max()))
    return np.asarray(Ridge(alpha=penalty).fit(one_hot(train, nodes), value).predict(one_hot(test, nodes)))


class GraphConvolution(Predictor):
    """A graph convolutional network on cells, trained with the squared error.

    Args:
        space: Space of the graphs.
        target: Name of the value to predict, or several with commas between them.
        optimizer: How it is trained.
        width: Numbers of a node.
        layers: Convolutions.
    """

    name = "gcn"

    def __init__(
        self,
        *,
        space: str | None = None,
        target: str | None = None,
        optimizer: Recipe = Recipe(lr=1e-2, schedule="linear", decay_from=0.0),
        width: int = 96,
        layers: int = 4,
    ) -> None:
        super().__init__(
            space=space,
            target=target,
            scaling=None,
            train_size=None,
            leave_out=None,
            none_edges="operation",
            optimizer=optimizer,
        )
        self.width, self.layers = width, layers
        sizes = [len(operators(self.space_name)), *[width] * layers]
        self.convolutions = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(width, len(self.targets))

    def outputs(self, graphs: Graphs) -> Tensor:
        """U of every graph, (B, T)."""
        owner = torch.from_numpy(graphs.owner)
        x = F.one_hot(torch.from_numpy(graphs.op), len(operators(self.space_name))).float()
        nodes = torch.arange(len(graphs.op))
        edges = torch.from_numpy(graphs.edges)
        source, target = torch.cat([edges, edges.flip(0), nodes.expand(2, -1)], dim=1)
        scale = source.bincount(minlength=len(nodes)).float().rsqrt()
        weight = (scale[source] * scale[target])[:, None]
        for layer in self.convolutions:
            x = torch.relu(torch.zeros(len(nodes), self.width).index_add(0, target, weight * layer(x)[source]))
        pooled = x.new_zeros(len(graphs), self.width).index_add(0, owner, x)
        return self.head(pooled / torch.from_numpy(graphs.length)[:, None]).sigmoid()

    def losses(self, batch: Architecture) -> Losses:
        """Mean squared error."""
        return {"squared_error": F.mse_loss(self.outputs(self.batch_graphs(batch)), self.to_output(batch.value))}

    def optimizers(self, phase: Phase) -> Optimizers:
        """One optimiser over everything."""
        return {"main": self.optimizer.build(self.parameters(), phase.total_steps)}
