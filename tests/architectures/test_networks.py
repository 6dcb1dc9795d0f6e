# SPDX-License-Identifier: Apache-2.0
"""Graphs of whole networks from ONNX and from torch.export: nodes, wiring and costs counted by hand."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch
from torch import nn

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from mien.architectures.answers import read_architecture  # noqa: E402
from mien.architectures.networks import export_onnx, from_exported, from_module, graph_of, read_onnx  # noqa: E402
from mien.errors import BadInput  # noqa: E402

helper = onnx.helper


class Residual(nn.Module):
    """Convolution, batch norm, ReLU, a skip, pooling, a linear layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 1, groups=2, bias=False)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        y = self.norm(self.first(x)).relu()
        z = self.drop(self.second(y) + y)
        return self.head(z.mean((2, 3)))


def model_of(nodes, inputs, outputs, weights=()):
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(name, 1, shape) for name, shape in inputs],
            [helper.make_tensor_value_info(name, 1, shape) for name, shape in outputs],
            [onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
    )


def test_a_module_of_ones_own_by_hand():
    model = Residual()
    graph = from_module(model, torch.rand(2, 3, 16, 16))
    assert model.training, "the mode is given back"
    assert graph.ops == ("Conv", "Relu", "Conv", "Add", "ReduceMean", "Gemm")
    assert graph.edges.T.tolist() == [[0, 1], [1, 2], [1, 3], [2, 3], [3, 4], [4, 5]]
    kernel, stride, pad, dilation, group, bias = graph.attributes[0, :6]
    assert (kernel, stride, pad, dilation, group, bias) == (3, 2, 1, 1, 1, 1)
    assert (graph.attributes[2, 0], graph.attributes[2, 4], graph.attributes[2, 5]) == (1, 2, 0)
    assert np.isnan(graph.attributes[:, 6:]).all()
    assert graph.shape[0].tolist() == [2, 8, 8, 8]
    assert graph.shape[5, :2].tolist() == [2, 5]
    assert np.isnan(graph.shape[5, 2:]).all()
    maps = 2 * 8 * 8 * 8
    flops = 2 * maps * 27 + maps + 2 * maps * 4 + maps + maps + 2 * 10 * 8
    parameters = (8 * 27 + 8) + 8 * 4 + (5 * 8 + 5)
    numbers = (2 * 3 * 256 + 224 + maps) + 2 * maps + (2 * maps + 32) + 3 * maps + (maps + 16) + (16 + 45 + 10)
    assert graph.static.tolist() == pytest.approx([2, flops / 1e9, parameters / 1e9, 4 * numbers / 1e9])


def test_exported_programs_files_and_modules_give_one_graph(tmp_path):
    model, x = Residual().eval(), torch.rand(1, 3, 16, 16)
    exported = torch.export.export(model, (x,))
    export_onnx(model, (x,)).save(str(tmp_path / "m.onnx"))
    prints = {g.fingerprint() for g in (from_exported(exported), from_module(model, x), read_onnx(tmp_path / "m.onnx"))}
    assert prints == {read_architecture(exported).fingerprint()}


def test_the_older_exporters_batch_norm_and_constants_are_seen_through():
    nodes = [
        helper.make_node("Constant", [], ["shape"], value=onnx.numpy_helper.from_array(np.array([1, -1]))),
        helper.make_node("Dropout", ["x"], ["d"]),
        helper.make_node("Reshape", ["d", "shape"], ["r"]),
        helper.make_node("Gemm", ["r", "w", "b"], ["y"], transB=1),
    ]
    model = model_of(nodes, [("x", [1, 2, 3])], [("y", [1, 4])], [("w", (4, 6)), ("b", (4,))])
    graph = graph_of(model)
    assert graph.ops == ("Reshape", "Gemm")
    assert graph.edges.T.tolist() == [[0, 1]]
    assert graph.static[1] == pytest.approx(2 * 4 * 6 / 1e9)
    assert graph.static[2] == pytest.approx(28 / 1e9)


def test_a_weight_that_two_nodes_share_is_one_parameter():
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"]), helper.make_node("Gemm", ["y", "w"], ["z"])]
    graph = graph_of(model_of(nodes, [("x", [1, 6])], [("z", [1, 6])], [("w", (6, 6))]))
    assert graph.static[2] == pytest.approx(36 / 1e9)
    assert graph.static[3] == pytest.approx(4 * (6 + 36 + 6 + 6 + 36 + 6) / 1e9)


def test_large_weights_are_not_needed(tmp_path):
    model = Residual().eval()
    program = export_onnx(model, (torch.rand(1, 3, 16, 16),))
    before = graph_of(program.model_proto).fingerprint()
    proto = program.model_proto
    for tensor in proto.graph.initializer:
        if len(tensor.dims) == 4:
            tensor.ClearField("raw_data")
    assert graph_of(proto).fingerprint() == before


@pytest.mark.parametrize(
    ("nodes", "shape", "said"),
    [
        ([helper.make_node("Rellu", ["x"], ["y"], name="n")], [1, 3], "did you mean 'Relu'"),
        ([helper.make_node("Relu", ["x"], ["y"])], ["batch", 3], r"no fixed size at axis 0 \(batch\)"),
        ([helper.make_node("Relu", ["nothing"], ["y"], name="n")], [1, 3], "'nothing', which nothing before it makes"),
        ([helper.make_node("Shape", ["x"], ["y"])], [1, 3], "no operator that depends on its input"),
    ],
)
def test_models_that_cannot_be_read(nodes, shape, said, tmp_path):
    onnx.save(model_of(nodes, [("x", shape)], [("y", None)]), str(tmp_path / "m.onnx"))
    with pytest.raises(BadInput, match=said) as caught:
        read_onnx(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_onnx(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"what is this" * 20)
    with pytest.raises(BadInput, match=r"x\.onnx"):
        read_onnx(tmp_path / "x.onnx")
    with pytest.raises(BadInput, match="does not exist"):
        read_onnx(tmp_path / "y.onnx")


def test_without_the_package_one_line_names_the_extra(monkeypatch, tmp_path):
    real = builtins.__import__

    def blocked(name, *rest, **more):
        if name.split(".")[0] in ("onnx", "onnxscript"):
            raise ImportError(name)
        return real(name, *rest, **more)

    (tmp_path / "m.onnx").write_bytes(b"")
    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(BadInput, match=r"pip install 'mien\[export\]'"):
        read_onnx(tmp_path / "m.onnx")
    with pytest.raises(BadInput, match=r"pip install 'mien\[export\]'"):
        export_onnx(nn.ReLU(), (torch.rand(1),))
