# SPDX-License-Identifier: Apache-2.0
"""Which operators a graph is made of: one table per space, whose order is the operators' code.

Cells carry nothing but their operators and their wiring. A node of a whole network (space "onnx") also has attributes,
laid out in the order listed here for its operator, and an output shape.
"""

from __future__ import annotations

from mien.errors import BadInput, unknown_name

NAS_BENCH_101, NAS_BENCH_201, GENERATED, ONNX = "nas-bench-101", "nas-bench-201", "generated", "onnx"

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "Conv": ("kernel_shape", "strides", "pads", "dilations", "group", "bias"),
    "ConvTranspose": ("kernel_shape", "strides", "pads", "dilations", "group", "bias"),
    "Gemm": ("transA", "transB", "bias"),
    "MatMul": (),
    "BatchNormalization": (),
    "LayerNormalization": ("axis",),
    "GroupNormalization": ("num_groups",),
    "Relu": (),
    "LeakyRelu": ("alpha",),
    "Clip": ("min", "max"),
    "Sigmoid": (),
    "HardSigmoid": (),
    "HardSwish": (),
    "Gelu": (),
    "Tanh": (),
    "Softmax": ("axis",),
    "MaxPool": ("kernel_shape", "strides", "pads", "dilations", "ceil_mode"),
    "AveragePool": ("kernel_shape", "strides", "pads", "dilations", "ceil_mode"),
    "GlobalAveragePool": (),
    "ReduceMean": ("keepdims",),
    "Add": (),
    "Mul": (),
    "Elementwise": (),
    "Concat": ("axis",),
    "Split": ("axis",),
    "Slice": (),
    "Reshape": (),
    "Transpose": (),
    "Resize": (),
    "Pad": (),
    "Gather": ("axis",),
    "DepthToSpace": ("blocksize",),
}
"""Operators of whole networks, and the attributes of each in the order of its slots. At most 32: one-hot codes of
NAR-Former V2 have so many places."""

ALIASES: dict[str, str] = {
    "Sub": "Add",
    "Sum": "Add",
    "Div": "Mul",
    **dict.fromkeys(("PRelu", "Elu", "Selu", "Celu"), "LeakyRelu"),
    **dict.fromkeys(("Swish", "Mish", "Softplus", "Softsign"), "HardSwish"),
    **dict.fromkeys(
        ("Abs", "Neg", "Sqrt", "Reciprocal", "Exp", "Log", "Erf", "Pow", "Min", "Max", "Where", "Sin", "Cos"),
        "Elementwise",
    ),
    "InstanceNormalization": "GroupNormalization",
    "RMSNormalization": "LayerNormalization",
    "GlobalMaxPool": "GlobalAveragePool",
    **dict.fromkeys(("ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"), "ReduceMean"),
    **dict.fromkeys(("Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile"), "Reshape"),
    "Upsample": "Resize",
    "SpaceToDepth": "DepthToSpace",
    "LogSoftmax": "Softmax",
}
"""Operators of ONNX that cost about as much as one of the table, and are written as that one."""

TRANSPARENT = frozenset({"Identity", "Dropout", "Cast", "CastLike"})
"""Operators that runtimes remove: what comes in goes out."""

SPACES: dict[str, tuple[str, ...]] = {
    NAS_BENCH_101: ("input", "conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3", "output"),
    NAS_BENCH_201: ("input", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "skip_connect", "none", "output"),
    GENERATED: ("input", "conv1x1", "conv3x3", "conv5x5", "pool3x3", "skip", "output"),
    ONNX: tuple(ATTRIBUTES),
}
"""Space -> names of its operators; the position is the code (paper: its data sets)."""


def operators(space: str) -> tuple[str, ...]:
    """The operators of a space. Raises BadInput for an unknown space."""
    if space not in SPACES:
        raise unknown_name("space of architectures", space, SPACES)
    return SPACES[space]


def operator_code(space: str, name: str) -> int:
    """The code of an operator. Raises BadInput, with the nearest known names, for one that the space does not have.

    >>> operator_code("nas-bench-201", "skip_connect"), operator_code("onnx", "Flatten")
    (4, 26)
    """
    known = operators(space)
    if space == ONNX:
        name = ALIASES.get(name, name)
    if name in known:
        return known.index(name)
    names = [*known, *ALIASES, *TRANSPARENT] if space == ONNX else list(known)
    raise BadInput(str(unknown_name(f"operator of {space}", name, names)))
