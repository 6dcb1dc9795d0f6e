# SPDX-License-Identifier: Apache-2.0
"""Whole networks as graphs: ONNX files, and models of one's own through `torch.export` (extra `export`).

Nodes are the operators that a runtime would execute: constants are folded, dropout and casts vanish. Only the graph is
read, never the weights. FLOPs, parameters and memory access follow from operators and shapes:

    FLOPs    2 x multiply-adds of convolutions and matrix products; window size x outputs of pooling; else 1 per output
    memory   bytes that every node reads (inputs and parameters) and writes, each once, in single precision
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from mien.architectures.graph import SIDES, SLOTS, Graph, checked_edges
from mien.architectures.operators import ALIASES, ATTRIBUTES, ONNX, TRANSPARENT, operator_code
from mien.errors import BadInput, MissingExtra

BYTES = 4
"""Of a number: memory access is counted in single precision."""
MAX_BYTES = 2**31
"""Of an ONNX file: the format itself ends there."""

KEPT_NUMBERS = 1024
"""Constants up to this size are kept for shape inference: shapes and indices are among them."""

Shape = tuple[int, ...]


@dataclass
class _Reading:
    """A model half read.

    Args:
        shapes: Name of a value -> its shape, for what depends on the input.
        constants: Name of a value that does not depend on the input -> its shape; None where that is not known.
        integers: Names of constants that are sizes, axes or indices, and so no parameters.
        maker: Name of a value -> number of the node that makes it; -1 for the input.
    """

    shapes: dict[str, Shape] = field(default_factory=dict)
    constants: dict[str, Shape | None] = field(default_factory=dict)
    integers: set[str] = field(default_factory=set)
    maker: dict[str, int] = field(default_factory=dict)
    op: list[int] = field(default_factory=list)
    edges: list[tuple[int, int]] = field(default_factory=list)
    attributes: list[list[float]] = field(default_factory=list)
    sides: list[list[float]] = field(default_factory=list)
    flops: float = 0.0
    numbers: float = 0.0
    weights: dict[str, int] = field(default_factory=dict)


def read_onnx(path: str | Path) -> Graph:
    """The graph of an ONNX file.

    Raises:
        BadInput: No ONNX file, an unknown operator (with the nearest known ones), an input of unknown size.
        MissingExtra: The package onnx is not installed.
    """
    onnx = _onnx()
    file = Path(path)
    if not file.is_file():
        raise BadInput(f"{file} does not exist")
    if file.stat().st_size > MAX_BYTES:
        raise BadInput(f"{file} has more than {MAX_BYTES:,} bytes: that is no ONNX file")
    try:
        model = onnx.load(str(file), load_external_data=False)
        return graph_of(model)
    except BadInput as error:
        raise BadInput(f"{file}: {error}") from error
    except Exception as error:  # what the parser raises depends on the protobuf runtime
        if type(error).__module__.split(".")[0] not in ("google", "onnx", "builtins"):
            raise
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise BadInput(f"{file} cannot be read as ONNX ({reason})") from error


def from_exported(program: Any) -> Graph:
    """The graph of a `torch.export.ExportedProgram`, through the same ONNX exporter that measured networks come from.

    Raises:
        BadInput: The exporter or the table of operators does not know something in it.
        MissingExtra: The packages onnx and onnxscript are not installed.
    """
    _onnx()
    return graph_of(export_onnx(program).model_proto)


def from_module(module: Any, *inputs: Any) -> Graph:
    """The graph of a module of one's own for example inputs, whose sizes count. The module is exported in eval mode."""
    import torch

    training = module.training
    try:
        return from_exported(torch.export.export(module.eval(), tuple(inputs)))
    finally:
        module.train(training)


def export_onnx(model: Any, inputs: tuple[Any, ...] | None = None) -> Any:
    """Torch's ONNX program of an exported program, or of a module with example inputs; silently."""
    import logging
    import warnings

    import torch

    try:
        import onnxscript  # noqa: F401 - torch would fail later and in more words
    except ImportError as error:
        raise MissingExtra("exporting to ONNX", "export") from error
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.onnx.export(model, inputs or (), dynamo=True, verbose=False)
    except torch.onnx.errors.OnnxExporterError as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"the model cannot be exported to ONNX ({reason})") from error
    finally:
        logger.setLevel(level)


def graph_of(model: Any) -> Graph:
    """The graph of a parsed ONNX model, whose large weights are dropped on the way."""
    onnx = _onnx()
    for tensor in model.graph.initializer:
        if prod(tensor.dims) > KEPT_NUMBERS:  # shape inference would copy them
            for values in ("raw_data", "float_data"):
                tensor.ClearField(values)
    try:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise BadInput(f"its shapes cannot be inferred ({' '.join(str(error).split())[:120]})") from error
    reading = _Reading()
    graph = model.graph
    integers = {onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.BOOL}
    for tensor in graph.initializer:
        reading.constants[tensor.name] = tuple(tensor.dims)
        if tensor.data_type in integers:
            reading.integers.add(tensor.name)
    for value in (*graph.value_info, *graph.output):
        if (shape := _shape(value)) is not None:
            reading.shapes[value.name] = shape
        if value.type.tensor_type.elem_type in integers:
            reading.integers.add(value.name)
    batch = None
    for value in graph.input:
        if value.name in reading.constants:
            continue
        reading.shapes[value.name] = shape = _fixed(value)
        reading.maker[value.name] = -1
        batch = shape[0] if batch is None and shape else batch
    for node in graph.node:
        _read_node(node, reading, onnx.helper.get_attribute_value)
    if not reading.op:
        raise BadInput("the model has no operator that depends on its input")
    scale = np.array([1, 1e9, 1e9, 1e9])
    totals = [batch or 1, reading.flops, sum(reading.weights.values()), BYTES * reading.numbers]
    return Graph(
        ONNX,
        np.array(reading.op, dtype=np.int64),
        checked_edges(reading.edges, len(reading.op)),
        np.array(reading.attributes),
        np.array(reading.sides),
        np.array(totals, dtype=np.float64) / scale,
    )


def _read_node(node: Any, reading: _Reading, attribute_value: Any) -> None:
    inputs = [name for name in node.input if name]
    kind = node.op_type
    if kind == "Shape" or all(name in reading.constants for name in inputs):
        for name in node.output:  # known before the network runs
            reading.constants[name] = reading.shapes.get(name)
        return
    if kind in TRANSPARENT:
        source = node.input[0]
        reading.maker[node.output[0]] = reading.maker[source]
        reading.shapes.setdefault(node.output[0], reading.shapes.get(source, ()))
        return
    try:
        code = operator_code(ONNX, kind)
    except BadInput as error:
        raise BadInput(f"node {node.name!r}: {error}") from error
    number = len(reading.op)
    for name in inputs:
        if name not in reading.constants and name not in reading.maker:
            raise BadInput(f"node {node.name!r} reads {name!r}, which nothing before it makes")
        if reading.maker.get(name, -1) >= 0:
            reading.edges.append((reading.maker[name], number))
    for name in node.output:
        reading.maker[name] = number
    output = reading.shapes.get(node.output[0])
    if output is None:
        raise BadInput(f"the output shape of node {node.name!r} ({kind}) is not known: export with fixed input sizes")
    found = {attribute.name: attribute_value(attribute) for attribute in node.attribute}
    parameters = {name: reading.constants[name] for name in inputs if name in reading.constants}
    operator = ALIASES.get(kind, kind)
    reading.op.append(code)
    reading.sides.append([*map(float, output[:SIDES]), *[float("nan")] * (SIDES - len(output))][:SIDES])
    reading.attributes.append(_slots(operator, found, node, parameters))
    sources = [reading.shapes.get(name, ()) for name in inputs if name not in reading.constants]
    reading.flops += _flops(operator, output, sources, [p for p in parameters.values() if p], found)
    for name, shape in parameters.items():
        if shape and prod(shape) > 1 and name not in reading.integers and name not in reading.weights:
            reading.weights[name] = prod(shape)
    made = sum(prod(reading.shapes.get(name, ())) for name in node.output if name)
    reading.numbers += sum(map(prod, sources)) + sum(reading.weights.get(name, 0) for name in parameters) + made


def _slots(operator: str, found: Mapping[str, Any], node: Any, parameters: Mapping[str, Shape | None]) -> list[float]:
    """The attributes in the order of the operator's slots, the first element of each; NaN where there is none."""
    row = [float("nan")] * SLOTS
    for slot, name in enumerate(ATTRIBUTES[operator]):
        value = found.get(name)
        if name == "bias":
            value = float(len(node.input) > 2 and bool(node.input[2]))
        elif name == "kernel_shape" and value is None and operator.startswith("Conv") and len(node.input) > 1:
            weight = parameters.get(node.input[1])
            value = weight[2:] if weight else None  # optional in ONNX: the weight says it
        if isinstance(value, (list, tuple)):
            value = value[0] if value else None
        if isinstance(value, (int, float)):
            row[slot] = float(value)
    return row


def _flops(
    operator: str, output: Shape, sources: list[Shape], parameters: list[Shape], found: Mapping[str, Any]
) -> float:
    """Of one node, from its output shape, the shapes of what it reads, and its parameters' shapes."""
    weight = max(parameters, key=len, default=())
    if operator == "Conv" and len(weight) > 2:
        return 2.0 * prod(output) * prod(weight[1:])
    if operator == "ConvTranspose" and len(weight) > 2:
        return 2.0 * prod(sources[0]) * prod(weight[1:])
    if operator in ("Gemm", "MatMul"):
        rows = sources[0] if sources else ()
        inner = rows[0 if operator == "Gemm" and found.get("transA") else -1] if rows else 1
        return 2.0 * prod(output) * inner
    if operator in ("MaxPool", "AveragePool"):
        return float(prod(output) * prod(found.get("kernel_shape", ())))
    if operator in ("GlobalAveragePool", "ReduceMean"):
        return float(prod(sources[0]))
    if operator in ("Reshape", "Transpose", "Slice", "Split", "Concat", "Gather", "Pad", "DepthToSpace"):
        return 0.0
    return float(prod(output))


def _fixed(value: Any) -> Shape:
    dims = []
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        if not dim.HasField("dim_value") or dim.dim_value < 1:
            raise BadInput(
                f"input {value.name!r} has no fixed size at axis {axis} ({dim.dim_param or 'unknown'}): costs depend "
                "on sizes, so export with fixed ones"
            )
        dims.append(int(dim.dim_value))
    return tuple(dims)


def _shape(value: Any) -> Shape | None:
    dims = value.type.tensor_type.shape.dim
    if not value.type.HasField("tensor_type") or any(not dim.HasField("dim_value") for dim in dims):
        return None
    return tuple(int(dim.dim_value) for dim in dims)


def _onnx() -> Any:
    try:
        import onnx
        import onnx.shape_inference
    except ImportError as error:
        raise MissingExtra("reading ONNX graphs", "export") from error
    return onnx
