# SPDX-License-Identifier: Apache-2.0
"""Readers for tables of architectures as they are published, and for those of one's own.

nas-bench-201   a folder of .npz files: one holds `arch`, the architecture strings, and all hold arrays (N,) in that
                order, one for each target. Arrays of accuracy.npz are percentages and become shares; all others are
                latencies in ms.
csv             a .csv file with the column `arch` (architecture strings) and a column of numbers for each target
nas-bench-101   nasbench_only108.tfrecord or nasbench_full.tfrecord as published, or JSON lines (below)
nnlqp           a folder with gt.txt or gt_stage.txt (id, ONNX file, batch, latency, family, ...) and the ONNX files
measured        what `mien measure` writes: networks/*.json
embedded        generated cells with a synthetic cost

A line of JSON for NAS-Bench-101: {"operations": [...], "adjacency": [[...]], "validation_accuracy": 0.94, ...}.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mien.architectures.cells import graphs_201, parse_201
from mien.architectures.data import Table
from mien.architectures.generated import costs, generate
from mien.architectures.graph import Floats, Graph, Graphs
from mien.architectures.nas_bench_101 import read_101
from mien.architectures.networks import read_onnx
from mien.architectures.operators import GENERATED, NAS_BENCH_101, NAS_BENCH_201, ONNX
from mien.errors import BadInput
from mien.files import file_in
from mien.progress import track

EMBEDDED = "embedded"
LAYOUTS = ("auto", NAS_BENCH_201, "csv", NAS_BENCH_101, "nnlqp", "measured")
GENERATED_CELLS = 1200
"""Generated cells: enough to train on some and to test on others."""
MAX_BYTES = 2**31
FIRST = ("freerea_cifar10_accuracy", "cifar10_test", "validation_accuracy", "test_accuracy", "latency", "cost")
"""Targets that are taken when none is named, the first that the data have. On NAS-Bench-101 the paper trains on
validation accuracies and ranks by test accuracies: `mien evaluate RUN --target test_accuracy`."""


def read(source: str, kind: str = "auto") -> Table:
    """The table in a folder or file. Raises BadInput when it is missing or not as it must be."""
    if source == EMBEDDED:
        return _generated()
    path = Path(source)
    if not path.exists():
        raise BadInput(f"{path} does not exist: give a folder, a .csv file, or {EMBEDDED!r} for generated cells")
    layout = layout_of(path) if kind == "auto" else kind
    readers = {NAS_BENCH_201: _npz, "csv": _csv, NAS_BENCH_101: read_101, "nnlqp": _nnlqp, "measured": _measured}
    table = readers[layout](path)
    if not len(table) or not table.values:
        raise BadInput(f"{path}: {len(table)} architectures with {len(table.values)} targets: nothing to learn from")
    return table


def layout_of(path: Path) -> str:
    """The layout of a folder or file, recognised by what lies in it."""
    if file_in(path, "*.csv") is not None:
        return "csv"
    if file_in(path, "*.tfrecord") is not None or file_in(path, "*.jsonl") is not None:
        return NAS_BENCH_101
    if any("arch" in _arrays(file) for file in _npz_files(path)):
        return NAS_BENCH_201
    if path.is_dir():
        if (path / "networks").is_dir():
            return "measured"
        if _gt_file(path) is not None:
            return "nnlqp"
    raise BadInput(
        f"{path}: no architectures here: it must hold .npz files with `arch`, a .csv file with `arch`, "
        "nasbench_only108.tfrecord, gt.txt with ONNX files, or what mien measure wrote"
    )


def look(source: str, kind: str = "auto") -> tuple[str, str]:
    """The space of the architectures in a folder or file, and the target that is meant when none is named."""
    if source != EMBEDDED and Path(source).exists():
        layout = layout_of(Path(source)) if kind == "auto" else kind
        if layout in ("nnlqp", "measured"):
            return ONNX, "latency"  # without reading thousands of graphs
    table = read(source, kind)
    return table.graphs.space, default_target(table)


def default_target(table: Table) -> str:
    """The target that is meant when none is named."""
    return next((name for name in FIRST if name in table.values), next(iter(table.values)))


# --- generated ------------------------------------------------------------------------------------------------
def _generated() -> Table:
    cells = generate(GENERATED_CELLS, seed=0)
    values = [costs(cell) for cell in cells]
    columns = {name: np.array([row[name] for row in values]) for name in values[0]}
    names = [f"generated-{i:04d}" for i in range(len(cells))]
    about = "procedurally generated cells with a synthetic cost (no network was trained or timed)"
    return Table(Graphs.of(cells, GENERATED), columns, names, [cell.fingerprint() for cell in cells], about)


# --- NAS-Bench-201 --------------------------------------------------------------------------------------------
def _arrays(file: Path) -> Mapping[str, Any]:
    if file.stat().st_size > MAX_BYTES:
        raise BadInput(f"{file}: more than {MAX_BYTES:,} bytes")
    try:
        with np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError) as error:
        reason = " ".join(str(error).split())[:120]
        raise BadInput(f"{file} cannot be read as arrays ({reason})") from error


def _npz_files(path: Path) -> list[Path]:
    return [path] * (path.suffix == ".npz") if path.is_file() else sorted(path.glob("*.npz"))


def _npz(path: Path) -> Table:
    files = {file.stem: _arrays(file) for file in _npz_files(path)}
    holder = next((stem for stem, arrays in files.items() if "arch" in arrays), None)
    if holder is None:
        raise BadInput(f"{path}: no .npz file with `arch`, the architecture strings of NAS-Bench-201")
    texts = [str(text) for text in files[holder]["arch"]]
    values: dict[str, Floats] = {}
    units: dict[str, str] = {}
    for stem, arrays in files.items():
        for name, array in arrays.items():
            if array.shape != (len(texts),) or not np.issubdtype(array.dtype, np.number):
                continue
            if name in values:
                raise BadInput(f"{path}: two arrays are called {name!r}: rename one of them")
            share = stem == "accuracy"
            values[name] = array.astype(np.float64) / (100 if share else 1)
            units[name] = "" if share else "ms"
    about = f"NAS-Bench-201 cells in {path.resolve().name}"
    return Table(graphs_201(texts), values, texts, texts, about, units=units)


def _csv(path: Path) -> Table:
    file = file_in(path, "*.csv")
    if file is None:
        raise BadInput(f"{path}: no .csv file")
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{file} cannot be read as CSV ({error})") from error
    if not rows or "arch" not in rows[0]:
        raise BadInput(f"{file}: it needs a first line with the column `arch` and a column for each target")
    texts = [row["arch"] or "" for row in rows]
    names = [name for name in rows[0] if name and name not in ("arch", "part")]
    values = {name: np.array([_number(row[name], file, i, name) for i, row in enumerate(rows)]) for name in names}
    parts = [row["part"] or "" for row in rows] if "part" in rows[0] else ()
    graphs = Graphs.of([parse_201(text) for text in texts], NAS_BENCH_201)
    return Table(graphs, values, texts, texts, f"architectures in {file.name}", parts=parts, own=True)


def _number(text: str | None, file: Path, row: int, name: str) -> float:
    if not text:
        return float("nan")
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"{file}, line {row + 2}: {name} is {text!r}: it must be a number") from None


# --- whole networks -------------------------------------------------------------------------------------------
def _gt_file(path: Path) -> Path | None:
    return next((path / name for name in ("gt.txt", "gt_stage.txt") if (path / name).is_file()), None)


def _nnlqp(path: Path) -> Table:
    listing = _gt_file(path)
    if listing is None:
        raise BadInput(f"{path}: no gt.txt or gt_stage.txt, the list of NNLQP's networks")
    rows = [line.split() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
    if any(len(row) < 5 for row in rows):
        raise BadInput(f"{listing}: a line needs id, ONNX file, batch, latency in ms and family")
    missing = [row[1] for row in rows if not (path / row[1]).is_file()]
    if missing:
        raise BadInput(
            f"{path}: {len(missing)} of the {len(rows)} ONNX files of {listing.name} are missing (the first: "
            f"{missing[0]}): NNLQP's graphs are a download of their own, to be unpacked here"
        )
    batch, latency = (
        np.array([_number(row[column], listing, i - 1, name) for i, row in enumerate(rows)])
        for column, name in ((2, "batch"), (3, "latency"))
    )
    graphs = [read_onnx(path / row[1]) for row in track(rows, len(rows), "read ONNX graphs")]
    for graph, images in zip(graphs, batch, strict=True):
        assert graph.static is not None
        graph.static[0] = images
    parts = [row[6] if len(row) > 6 else "" for row in rows]
    return _networks(graphs, latency, [row[1] for row in rows], [row[4] for row in rows], parts, "NNLQP networks")


def _measured(path: Path) -> Table:
    files = sorted((path / "networks").glob("*.json"))
    if not files:
        raise BadInput(f"{path}: no networks/*.json: mien measure --out {path} writes them")
    graphs, latency, families = [], [], []
    for file in files:
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            graphs.append(network_from(record["graph"]))
            latency.append(float(record["latency_ms"]["median"]))
            families.append(str(record["family"]))
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{file} is not what mien measure wrote ({type(error).__name__}: {error})") from error
    about = f"networks of {len(set(families))} families timed by mien measure, in {path.resolve().name}"
    return _networks(graphs, np.array(latency), [file.stem for file in files], families, (), about)


def _networks(
    graphs: list[Graph],
    latency: Floats,
    names: Sequence[str],
    families: Sequence[str],
    parts: Sequence[str],
    about: str,
) -> Table:
    return Table(
        Graphs.of(graphs, ONNX),
        {"latency": latency},
        names,
        [graph.fingerprint() for graph in graphs],
        about,
        families,
        parts,
        {"latency": "ms"},
    )


def network_json(graph: Graph) -> dict[str, Any]:
    """A whole network as plain JSON, NaN as null."""
    assert graph.attributes is not None
    assert graph.shape is not None
    assert graph.static is not None

    def plain(rows: Floats) -> list[list[float | None]]:
        return [[None if np.isnan(x) else float(x) for x in row] for row in rows]

    return {
        "ops": list(graph.ops),
        "edges": graph.edges.T.tolist(),
        "attributes": plain(graph.attributes),
        "shape": plain(graph.shape),
        "static": graph.static.tolist(),
    }


def network_from(value: Mapping[str, Any]) -> Graph:
    """The graph that `network_json` wrote."""
    graph = Graph.of(ONNX, value["ops"], value["edges"])
    attributes, shape = (np.array(value[key], dtype=np.float64) for key in ("attributes", "shape"))
    static = np.array(value["static"], dtype=np.float64)
    if attributes.shape != (len(graph), 8) or shape.shape != (len(graph), 4) or static.shape != (4,):
        raise BadInput(f"a network of {len(graph)} nodes with attributes {attributes.shape} and shapes {shape.shape}")
    return Graph(ONNX, graph.op, graph.edges, attributes, shape, static)
