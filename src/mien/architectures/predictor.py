# SPDX-License-Identifier: Apache-2.0
"""What all predictors of an architecture's cost or accuracy share: targets and their units, an interval, a scope.

A network's outputs u stand for values y of one or several targets:
    "none"  y = u, for values in [0, 1] (paper: accuracies)
    "unit"  y = low + (high - low) u, the training values in the middle of (0, 1)
    "log"   log y = low + (high - low) u, for latencies over orders of magnitude
    "mixed" each target for itself: "unit" where all its training values lie in [0, 1], else "log"
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.architectures.cells import without_none
from mien.architectures.data import Architecture, graphs_of
from mien.architectures.graph import Graph, Graphs
from mien.architectures.operators import NAS_BENCH_201, ONNX, operators
from mien.architectures.scope import Scope
from mien.engine import Method, Phase
from mien.errors import BadInput
from mien.metrics.ranking import kendall_tau
from mien.optim.recipe import Recipe

Scaling = Literal["none", "unit", "log", "mixed"]
NoneEdges = Literal["operation", "absent"]

LEVEL = 0.9
"""Share of architectures like the validation ones whose value lies in its interval."""


@dataclass
class Estimate:
    """The answer for a batch.

    Args:
        value: (B, T).
        low: Lower end of the interval, (B, T); minus infinity (zero, with "log") where there is no interval.
        high: Upper end, (B, T); infinity where there is none.
    """

    value: Tensor
    low: Tensor
    high: Tensor


class Predictor(Method):
    """A network that gives a number for each target of a graph.

    Args:
        space: Space of the graphs, a key of `mien.architectures.operators.SPACES`; None for that of the data.
        target: Name of the value to predict, or several with commas between them; None for the data's first.
        scaling: How outputs stand for values: "none", "unit", "log" or "mixed"; None for "none" where all training
            values lie in [0, 1], else "log" for whole networks and "unit" for cells.
        train_size: Architectures to train on where a table holds a whole search space; None for the space's usual.
        leave_out: Family of networks that is not trained on but tested on; None for none.
        none_edges: Whether operators "none" of NAS-Bench-201 are nodes, or absent.
        optimizer: How it is trained.
    """

    scope = (
        "Predicts numbers of neural architectures (accuracy, latency) from their graphs, for the data set, device and "
        "software that the training values were measured with, and for architectures like the training ones. Other "
        "devices, input sizes, batch sizes or kinds of networks have other values. Intervals are those of validation "
        "architectures and hold for similar ones only."
    )
    dynamic_buffers = ("domain.scale", "domain.known")

    span: Tensor
    logarithmic: Tensor
    margin: Tensor
    ridge: Tensor

    def __init__(
        self,
        *,
        space: str | None,
        target: str | None,
        scaling: Scaling | None,
        train_size: int | None,
        leave_out: str | None,
        none_edges: NoneEdges,
        optimizer: Recipe,
    ) -> None:
        super().__init__()
        if scaling not in (None, "none", "unit", "log", "mixed"):
            raise BadInput(f"scaling is {scaling!r}: use none, unit, log or mixed")
        if none_edges not in ("operation", "absent"):
            raise BadInput(f"none_edges is {none_edges!r}: use operation or absent")
        if train_size is not None and train_size < 1:
            raise BadInput(f"train_size is {train_size}: it must be at least 1")
        self.space, self.target, self.scaling, self.train_size = space, target, scaling, train_size
        self.leave_out, self.none_edges, self.optimizer = leave_out, none_edges, optimizer
        self.space_name = space or NAS_BENCH_201
        kinds = len(operators(self.space_name))
        count = len(self.targets)
        self.domain = Scope(self.space_name)
        self.register_buffer("span", torch.tensor([[0.0, 1.0]] * count, dtype=torch.float64))
        self.register_buffer("logarithmic", torch.zeros(count, dtype=torch.bool))
        self.register_buffer("margin", torch.full((count,), math.inf, dtype=torch.float64))
        self.register_buffer("ridge", torch.zeros(kinds + 1, count, dtype=torch.float64))

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the values that are predicted."""
        names = tuple(name.strip() for name in (self.target or "value").split(","))
        if not all(names) or len(set(names)) < len(names):
            raise BadInput(f"target is {self.target!r}: name one value, or several different ones with commas")
        return names

    @property
    def whole(self) -> bool:
        """Whether the graphs are whole networks."""
        return self.space_name == ONNX

    @abstractmethod
    def outputs(self, graphs: Graphs) -> Tensor:
        """U of every graph, (B, T)."""

    def view(self, graph: Graph) -> Graph:
        """The graph as this predictor wants it: "none" as a node, or absent."""
        return without_none(graph) if self.none_edges == "absent" else graph

    # --- values and outputs -----------------------------------------------------------------------------------
    def to_output(self, value: Tensor) -> Tensor:
        """U for values y, (B, T), in single precision."""
        y = self._scaled(value.double())
        return ((y - self.span[:, 0]) / (self.span[:, 1] - self.span[:, 0])).float()

    def to_value(self, output: Tensor) -> Tensor:
        """Y for outputs u, (B, T), in double precision."""
        y = self.span[:, 0] + (self.span[:, 1] - self.span[:, 0]) * output.double()
        return torch.where(self.logarithmic, y.exp(), y)

    def _scaled(self, value: Tensor) -> Tensor:
        """Logarithms of those targets that have them, (B, T); the others as they are."""
        return torch.where(self.logarithmic, value.log(), value)

    def _learn_span(self, value: Tensor) -> None:
        """Fit the scaling to training values (N, T)."""
        shares = ((value >= 0) & (value <= 1)).all(dim=0)
        scaling = self.scaling
        if scaling is None:
            scaling = "none" if bool(shares.all()) else "log" if self.whole else "unit"
        self.logarithmic.copy_(~shares if scaling == "mixed" else torch.full_like(shares, scaling == "log"))
        below = int((value[:, self.logarithmic] <= 0).sum())
        if below:
            raise BadInput(f"scaling is {scaling!r} and {below} values are not above 0: use scaling=unit")
        if scaling == "none" and not bool(shares.all()):
            raise BadInput("scaling is 'none' and values lie outside [0, 1]: use scaling=unit or scaling=log")
        if scaling == "none":
            return
        y = self._scaled(value.double())
        low, high = y.amin(dim=0), y.amax(dim=0)
        room = 0.1 * (high - low).clamp_min(1e-6)  # a sigmoid reaches neither 0 nor 1, and unseen values may lie beyond
        self.span.copy_(torch.stack([low - room, high + room], dim=1))

    # --- hooks ------------------------------------------------------------------------------------------------
    def begin_phase(self, phase: Phase, data: Dataset[Any]) -> None:
        """Learn the scaling, what is like the training graphs, and the linear reference: ridge on operator counts."""
        graphs, value = graphs_of(data, self.space_name)
        value = value.to(self.device)
        if not bool(value.isfinite().all()):
            raise BadInput("some training architectures have no value (NaN): leave them out")
        self._learn_span(value)
        self.domain.learn(graphs)
        self.ridge.copy_(ridge_on_counts(graphs, self.to_output(value).double().cpu()))

    def validate(self, data: Dataset[Any], *, batch_size: int = 64) -> dict[str, float]:
        """Kendall's tau (mean over targets) and mean squared error; also sets the interval by split conformal.

        The margin of a target is the ceil((n + 1) 0.9)-th smallest |u - u*| over n validation architectures; infinite
        where that is more than n.
        """
        graphs, value = graphs_of(data, self.space_name)
        truth = self.to_output(value.to(self.device)).double()
        output = torch.cat([self._batch(graphs, start, batch_size) for start in range(0, len(graphs), batch_size)])
        error = (output.double() - truth).abs()
        rank = math.ceil((len(error) + 1) * LEVEL)
        far = error.new_full(self.margin.shape, math.inf)
        self.margin.copy_(error.sort(dim=0).values[rank - 1] if rank <= len(error) else far)
        columns = zip(truth.T.cpu().numpy(), output.T.cpu().numpy(), strict=True)
        taus = [0.0 if math.isnan(tau := kendall_tau(x, y)) else tau for x, y in columns]  # equal values rank nothing
        return {"kendall_tau": float(np.mean(taus)), "loss": float(error.square().mean())}

    def _batch(self, graphs: Graphs, start: int, size: int) -> Tensor:
        self.eval()
        with torch.no_grad():
            return self.outputs(graphs.take(range(start, min(start + size, len(graphs)))))

    # --- answers ----------------------------------------------------------------------------------------------
    def predict(self, batch: Architecture) -> Estimate:
        """The values of the batch's graphs with their intervals."""
        output = self.outputs(self.batch_graphs(batch)).double()
        low, high = self.to_value(output - self.margin), self.to_value(output + self.margin)
        return Estimate(self.to_value(output), low, high)

    def count_estimates(self, graphs: Graphs) -> Tensor:
        """What the linear reference says, (B, T): ridge regression on how often each operator occurs."""
        counts = torch.from_numpy(graphs.counts()).to(self.ridge.device)
        return self.to_value(self.ridge[0] + counts @ self.ridge[1:])

    def batch_graphs(self, batch: Architecture) -> Graphs:
        """The graphs of a batch laid end to end."""
        assert isinstance(batch.graph, list)
        return Graphs.of(batch.graph, self.space_name)


def ridge_on_counts(graphs: Graphs, target: Tensor, penalty: float = 1.0) -> Tensor:
    """Ridge regression on operator counts, in closed form: (K + 1, T), the intercept first and not penalised.

    Args:
        graphs: B graphs.
        target: (B, T), float64.
        penalty: Of the squared coefficients, > 0.
    """
    counts = torch.from_numpy(graphs.counts())
    centre, mean = counts.mean(dim=0), target.mean(dim=0)
    x, y = counts - centre, target - mean
    weights = torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    return torch.cat([(mean - centre @ weights)[None], weights])
