# SPDX-License-Identifier: Apache-2.0
"""Answers for architectures that a user names: strings, JSON cells, ONNX files, folders of them, graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from mien.architectures.cells import parse_201, parse_json
from mien.architectures.data import Architecture
from mien.architectures.graph import Graph
from mien.architectures.networks import from_exported, read_onnx
from mien.architectures.predictor import LEVEL, Predictor
from mien.data.batch import move
from mien.errors import BadInput, MienError, unknown_name
from mien.room import Answers, Row, Using

LIMITS = (
    f"low and high: {LEVEL:.0%} of architectures like the validation ones lie between them; of others nothing is known",
    "a value holds for the device, software, data set and input size that the training values were measured with",
)


def is_written_out(text: str) -> bool:
    """Whether a text is an architecture itself, not the path of a file."""
    return text.startswith(("|", "{"))


def answer(model: Predictor, inputs: Sequence[Any], using: Using) -> Answers:
    """See `mien.room.Room.predict`."""
    if using.target is not None and using.target not in model.targets:
        raise unknown_name(f"target of this {model.name}", using.target, model.targets)
    items = list(_items(inputs))
    batches = [items[i : i + using.batch_size] for i in range(0, len(items), using.batch_size)][: using.max_steps]
    total = sum(map(len, batches))
    notes = [*LIMITS]
    if total < len(items):
        notes.append(f"{len(items) - total} of {len(items)} architectures were left out")
    if not bool(model.margin.isfinite().all()):
        notes.append("too few validation architectures for intervals (9 are needed)")
    return Answers(total, _rows(model, batches, using), tuple(notes))


def _items(inputs: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """What each row is called and the architecture, still unread."""
    for number, given in enumerate(inputs):
        if not isinstance(given, (str, Path)):
            yield f"architecture {number}", given
        elif isinstance(given, str) and is_written_out(given):
            yield given, given
        elif Path(given).is_dir():
            files = sorted(file for file in Path(given).rglob("*") if file.suffix in (".onnx", ".json"))
            if not files:
                raise BadInput(f"{given}: no .onnx or .json files in this folder")
            yield from ((str(file), file) for file in files)
        else:
            yield str(given), Path(given)


def read_architecture(given: Any) -> Graph:
    """The graph of an architecture string, a JSON cell, an ONNX or JSON file, an exported program, or a graph."""
    if isinstance(given, Graph):
        return given
    if isinstance(given, torch.export.ExportedProgram):
        return from_exported(given)
    if isinstance(given, str):
        return parse_201(given) if given.startswith("|") else parse_json(given)
    if isinstance(given, Path):
        if given.suffix == ".onnx":
            return read_onnx(given)
        if given.suffix == ".json":
            return parse_json(given.read_text(encoding="utf-8"))
        raise BadInput(f"{given}: give an .onnx file, a .json cell, or an architecture string such as '|none~0|+...'")
    raise BadInput(f"a {type(given).__name__} is no architecture: give a path, a string, a Graph or an ExportedProgram")


def _rows(model: Predictor, batches: list[list[tuple[str, Any]]], using: Using) -> Iterator[Row]:
    for batch in batches:
        read = [_attempt(model, given) for _, given in batch]
        graphs = [graph for graph in read if isinstance(graph, Graph)]
        found = iter(_values(model, graphs, using)) if graphs else iter(())
        for (name, _), graph in zip(batch, read, strict=True):
            yield Row(name, error=graph) if isinstance(graph, str) else Row(name, next(found))


def _attempt(model: Predictor, given: Any) -> Graph | str:
    """The graph as the model wants it, or why there is none."""
    try:
        graph = read_architecture(given)
        if graph.space != model.space_name:
            return f"an architecture of the space {graph.space!r}: this model is for {model.space_name!r}"
        return model.view(graph)
    except (MienError, OSError, UnicodeDecodeError) as error:
        return " ".join(str(error).split())


def _values(model: Predictor, graphs: list[Graph], using: Using) -> Iterator[dict[str, Any]]:
    with torch.no_grad():
        unknown = torch.full((len(graphs), len(model.targets)), torch.nan)
        estimate = model.predict(move(Architecture(graphs, unknown), using.device))
    columns = [part.cpu().tolist() for part in (estimate.value, estimate.low, estimate.high)]
    shown = [i for i, name in enumerate(model.targets) if using.target in (None, name)]
    for graph, value, low, high in zip(graphs, *columns, strict=True):
        row: dict[str, Any] = {}
        for i in shown:
            name = model.targets[i]
            bounded = isfinite(model.margin[i].item())
            row[name] = _short(value[i])
            row[f"{name}_low"] = _short(low[i]) if bounded else None
            row[f"{name}_high"] = _short(high[i]) if bounded else None
        yield row | {"outside": model.domain.outside(graph) or None}


def _short(value: float) -> float:
    return float(f"{value:.6g}")
