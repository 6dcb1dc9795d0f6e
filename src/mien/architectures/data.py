# SPDX-License-Identifier: Apache-2.0
"""Architectures with measured values: the sample type, a table of a space, and its rows as a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.architectures.graph import Floats, Graph, Graphs
from mien.architectures.operators import ONNX
from mien.errors import unknown_name


@dataclass
class Architecture:
    """A graph and what is known of it; in a batch, lists and stacked values.

    Args:
        graph: The graph; in a batch a list of B.
        value: One number for each target, (T,), in a batch (B, T); NaN unknown.
        name: What it is called.
        group: What must not be split between training and test: graphs that are the same share it.
    """

    graph: Graph | list[Graph]
    value: Tensor
    name: str | list[str] = ""
    group: str | list[str] = ""


@dataclass(frozen=True)
class Table:
    """Architectures of one space with their values.

    Args:
        graphs: All of them.
        values: Target -> (N,), NaN where it was not measured.
        names: What each is called.
        groups: As `Architecture.group`.
        description: One line that says which data these are.
        families: Family of each network, where there are families.
        parts: "train", "validation" or "test" of each, where the data say so.
        units: Target -> its unit; "" for a number without one.
        own: Whether this is a selection of the user's, not the table of a whole search space.
    """

    graphs: Graphs
    values: Mapping[str, Floats]
    names: Sequence[str]
    groups: Sequence[str]
    description: str
    families: Sequence[str] = ()
    parts: Sequence[str] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    own: bool = False

    def __len__(self) -> int:
        return len(self.graphs)

    def targets(self, wanted: Sequence[str]) -> list[str]:
        """The wanted targets. Raises BadInput, with the nearest name, for one that the data do not have."""
        for name in wanted:
            if name not in self.values:
                raise unknown_name("target", name, self.values)
        return list(wanted)


class Architectures(Dataset[Architecture]):
    """Rows of a table as samples.

    Args:
        table: The table.
        rows: Which rows, in order.
        targets: Names of the values of a sample; one that the table lacks is NaN.
    """

    seeded = False

    def __init__(self, table: Table, rows: Sequence[int], targets: Sequence[str]) -> None:
        self.table, self.rows, self.targets = table, list(map(int, rows)), tuple(targets)
        unknown = np.full(len(table), np.nan)
        columns = [np.asarray(table.values.get(name, unknown), dtype=np.float64) for name in self.targets]
        self.value = torch.from_numpy(np.stack(columns, axis=1))
        self.groups = [table.groups[row] for row in self.rows]

    @property
    def buckets(self) -> np.ndarray | None:
        """Number of nodes of each cell: training batches hold cells of one size (paper: the bucket sampler).

        None for whole networks, few of which have the same size: their batches are mixed.
        """
        return None if self.table.graphs.space == ONNX else self.table.graphs.length[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Architecture:
        row = self.rows[index]
        return Architecture(self.table.graphs[row], self.value[row], self.table.names[row], self.table.groups[row])


def graphs_of(data: Dataset[Architecture], space: str) -> tuple[Graphs, Tensor]:
    """All graphs and values (N, T) of any data set of architectures."""
    samples = [data[i] for i in range(len(data))]  # type: ignore[arg-type]
    value = torch.stack([sample.value for sample in samples])
    return Graphs.of([sample.graph for sample in samples], space), value  # type: ignore[misc]
