# SPDX-License-Identifier: Apache-2.0
"""NAS-Bench-101 as published, read without TensorFlow: records of JSON, with accuracies in a protocol buffer."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from mien.architectures.cells import cell_from
from mien.architectures.data import Table
from mien.architectures.graph import Graph, Graphs
from mien.architectures.operators import NAS_BENCH_101
from mien.errors import BadInput
from mien.files import file_in


def read_101(path: Path) -> Table:
    """The table in a file, or in a folder that holds one. Raises BadInput when there is none or it is damaged."""
    file = file_in(path, "*.tfrecord") or file_in(path, "*.jsonl")
    if file is None:
        raise BadInput(
            f"{path}: no NAS-Bench-101 here: download nasbench_only108.tfrecord (it is read without TensorFlow and "
            "nothing in it is run), or export cells as JSON lines; pickled conversions are not read"
        )
    cells: dict[str, tuple[Graph, list[Mapping[str, float]]]] = {}
    for name, graph, metrics in _records(file) if file.suffix == ".tfrecord" else _lines(file):
        cells.setdefault(name, (graph, []))[1].append(metrics)
    columns = {key: None for _, runs in cells.values() for run in runs for key in run}
    values = {
        key: np.array([np.mean([run.get(key, np.nan) for run in runs]) for _, runs in cells.values()])
        for key in columns
    }
    names = list(cells)
    graphs = Graphs.of([graph for graph, _ in cells.values()], NAS_BENCH_101)
    return Table(graphs, values, names, names, f"NAS-Bench-101 cells in {file.name}")


def _lines(file: Path) -> Iterator[tuple[str, Graph, Mapping[str, float]]]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            graph = cell_from(value)
        except ValueError as error:
            raise BadInput(f"{file}, line {number}: {error}") from error
        numbers = {k: float(v) for k, v in value.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
        yield str(value.get("name", graph.fingerprint())), graph, numbers


def _records(file: Path) -> Iterator[tuple[str, Graph, Mapping[str, float]]]:
    """Cells trained for 108 epochs: mean over their repeats is taken by the caller.

    A record is length (8 bytes), its check sum (4), data, their check sum (4). The data are a JSON list: name, epochs,
    adjacency as zeros and ones, operations with commas, metrics as a base64 protocol buffer.
    """
    with file.open("rb") as stream:
        while head := stream.read(12):
            try:
                (size,) = struct.unpack("<Q", head[:8])
                if size > 2**20:
                    raise ValueError(f"a record of {size} bytes")
                data = stream.read(size)
                if len(data) < size or len(stream.read(4)) < 4:
                    raise ValueError("it ends inside a record")
                name, epochs, adjacency, operations, metrics = json.loads(data)
                if epochs != 108:
                    continue
                ops = operations.split(",")
                flat = np.array(list(adjacency), dtype=np.int64).reshape(len(ops), len(ops))
                final = _final_metrics(base64.b64decode(metrics, validate=True))
            except (ValueError, TypeError, AttributeError, struct.error) as error:
                raise BadInput(f"{file} is not nasbench_only108.tfrecord or is damaged ({error})") from error
            edges = [(int(s), int(t)) for s, t in np.argwhere(flat)]
            yield str(name), Graph.of(NAS_BENCH_101, ops, edges), final


def _final_metrics(message: bytes) -> dict[str, float]:
    """Accuracies after the last epoch. Field 1 of the message is repeated, one for each evaluation, the last is final;
    in it fields 4 and 5 are validation and test accuracy.
    """
    last: bytes | None = None
    for number, value in _fields(message):
        if number == 1 and isinstance(value, bytes):
            last = value
    found = dict(_fields(last or b""))
    names = {4: "validation_accuracy", 5: "test_accuracy"}
    result = {name: float(found[number]) for number, name in names.items() if isinstance(found.get(number), float)}
    if len(result) < 2:
        raise ValueError("metrics without validation and test accuracy")
    return result


def _fields(message: bytes) -> Iterator[tuple[int, float | int | bytes]]:
    """Fields of a protocol buffer message: numbers of 8 and 4 bytes, variable integers, and byte strings."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(message) or shift > 63:
                raise ValueError("a damaged protocol buffer")
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        wire = key & 7
        if wire == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(wire)
        if size is None:
            if wire != 2:
                raise ValueError("a damaged protocol buffer")
            size = varint()
        part = message[at : at + size]
        if len(part) < size:
            raise ValueError("a damaged protocol buffer")
        at += size
        yield key >> 3, part if wire == 2 else float(struct.unpack("<d" if wire == 1 else "<f", part)[0])
