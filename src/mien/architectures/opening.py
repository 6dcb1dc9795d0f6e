# SPDX-License-Identifier: Apache-2.0
"""From a table to training, validation and test architectures.

A table of a whole search space (NAS-Bench-101 and -201, generated cells) is cut into two halves by a hash of the
architecture: one to draw training and validation from, one to test on, whatever the seed and the values. A file that
marks its rows ("train", "validation", "test") keeps its own parts, `leave_out` keeps a whole family of networks for the
test, and other data are used as a whole, for training or for testing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mien.architectures.cells import without_none
from mien.architectures.data import Architectures, Table
from mien.architectures.graph import Graphs
from mien.architectures.operators import GENERATED, NAS_BENCH_101, NAS_BENCH_201
from mien.architectures.predictor import Predictor
from mien.architectures.readers import read
from mien.data.splits import split_by_group
from mien.engine import Fixed
from mien.errors import BadInput, unknown_name
from mien.room import DataOptions, TestData

TRAIN_SIZE = {NAS_BENCH_201: 781, NAS_BENCH_101: 4236}
"""Training architectures of a search space when none are named (paper: 5 and 1 %)."""
VALIDATION_SIZE = 200
"""Validation architectures of a search space (paper)."""


class OpenedTable(Fixed):
    """Training and validation data with the manifest of what is seen: names of architectures are the groups."""

    def __init__(self, train: Architectures, validation: Architectures | None) -> None:
        super().__init__(train, validation)
        self._sets = [train] if validation is None else [train, validation]

    def manifest(self) -> dict[str, Any]:
        """The architectures, and which values were learnt."""
        return manifest(self._sets)


def manifest(sets: Sequence[Architectures]) -> dict[str, Any]:
    """As `TrainingData.manifest`."""
    table, targets = sets[0].table, sets[0].targets
    values = ", ".join(f"{name} ({table.units[name]})" if table.units.get(name) else name for name in targets)
    groups = sorted({group for dataset in sets for group in dataset.groups})
    return {"groups": groups, "files": [], "description": f"{table.description}: {values}"}


def open_training(source: str, model: Predictor, options: DataOptions) -> OpenedTable:
    """Training and validation data. See `mien.room.Room.open_data`."""
    table = checked(read(source, options.kind), model)
    targets = table.targets(model.targets)
    pool, held = training_rows(table, model)
    pool, held = (known(table, rows, targets) for rows in (pool, held))
    if not held:
        pool, held = split(table, pool, model.train_size, options)
    elif model.train_size is not None:
        pool = drawn(table, pool, model.train_size, options.seed)
    return OpenedTable(Architectures(table, pool, targets), Architectures(table, held, targets) if held else None)


def open_test(source: str, model: Predictor, options: DataOptions) -> TestData:
    """Test data; targets that the data lack are NaN. See `mien.room.Room.open_test`."""
    table = checked(read(source, options.kind), model)
    dataset = Architectures(table, test_rows(table, model), model.targets)
    return TestData(dataset, manifest([dataset]))


def checked(table: Table, model: Predictor) -> Table:
    """The table with its graphs as the model wants them. Raises BadInput for another space or an unknown family."""
    if table.graphs.space != model.space_name:
        raise BadInput(f"the data are of the space {table.graphs.space!r}: this model is for {model.space_name!r}")
    if model.leave_out is not None and model.leave_out not in table.families:
        if not table.families:
            raise BadInput(f"leave_out is {model.leave_out!r}: these data have no families")
        raise unknown_name("family to leave out", model.leave_out, set(table.families))
    if model.none_edges == "operation":
        return table
    graphs = Graphs.of([without_none(table.graphs[i]) for i in range(len(table.graphs))], table.graphs.space)
    return Table(**{**table.__dict__, "graphs": graphs})


def training_rows(table: Table, model: Predictor) -> tuple[list[int], list[int]]:
    """Rows that may be trained on, and rows that the data mark for validation."""
    if model.leave_out is not None:
        return [i for i, family in enumerate(table.families) if family != model.leave_out], []
    if table.parts:
        marks = [part.lower() for part in table.parts]
        train = [i for i, mark in enumerate(marks) if mark in ("", "train")]
        return train, [i for i, mark in enumerate(marks) if mark in ("validation", "val")]
    return (training_half(table) if is_space(table) else list(range(len(table)))), []


def test_rows(table: Table, model: Predictor) -> list[int]:
    """Rows to test on."""
    if model.leave_out is not None:
        return [i for i, family in enumerate(table.families) if family == model.leave_out]
    if any(part.lower() == "test" for part in table.parts):
        return [i for i, part in enumerate(table.parts) if part.lower() == "test"]
    return test_half(table) if is_space(table) else list(range(len(table)))


def is_space(table: Table) -> bool:
    """Whether the table is that of a whole search space, which training and testing share."""
    return table.graphs.space in (NAS_BENCH_101, NAS_BENCH_201, GENERATED) and not table.own


def training_half(table: Table) -> list[int]:
    """Rows of a search space that may be trained on."""
    return _half(table, 0)


def test_half(table: Table) -> list[int]:
    """Rows of a search space that are kept for testing."""
    return _half(table, 1)


def _half(table: Table, which: int) -> list[int]:
    return [i for i, name in enumerate(table.groups) if hashlib.sha256(name.encode()).digest()[0] % 2 == which]


def known(table: Table, rows: Sequence[int], targets: Sequence[str]) -> list[int]:
    """The rows whose values are all there."""
    there = np.all([np.isfinite(table.values[name]) for name in targets], axis=0)
    return [row for row in rows if there[row]]


def drawn(table: Table, rows: Sequence[int], count: int, seed: int) -> list[int]:
    """`count` of the rows, drawn by the seed; the same for every order of the rows in the file."""
    if count > len(rows):
        raise BadInput(f"train_size is {count}: the data have {len(rows)} architectures to train on")
    ordered = sorted(rows, key=lambda row: table.groups[row])
    return [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))[:count]]


def split(
    table: Table, pool: Sequence[int], train_size: int | None, options: DataOptions
) -> tuple[list[int], list[int]]:
    """Training and validation rows of a pool; no validation rows where `options.validation` is 0."""
    if len(pool) < 2:
        raise BadInput(f"{len(pool)} architectures with values: training needs at least 2")
    space = table.graphs.space
    if is_space(table) and space in TRAIN_SIZE:
        spare = VALIDATION_SIZE if options.validation else 0
        size = train_size or min(TRAIN_SIZE[space], max(len(pool) - spare, len(pool) // 2))
        order = drawn(table, pool, max(size, len(pool)), options.seed)
        return order[:size], order[size : size + spare]
    train, held = list(pool), []
    if options.validation:
        groups = [table.groups[row] for row in pool]
        parts = split_by_group(groups, (1 - options.validation, options.validation), seed=options.seed)
        train, held = ([pool[i] for i in part] for part in parts)
    return train if train_size is None else drawn(table, train, train_size, options.seed), held
