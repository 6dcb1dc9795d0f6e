# SPDX-License-Identifier: Apache-2.0
"""Readers against tiny tables in the layouts in which they are published, written here byte by byte."""

from __future__ import annotations

import base64
import json
import struct

import numpy as np
import pytest
from whole_networks import network

from mien.architectures import opening
from mien.architectures.cells import format_201
from mien.architectures.data import Architectures
from mien.architectures.generated import generate
from mien.architectures.nar_former import NARFormer
from mien.architectures.opening import drawn, open_test, open_training, training_half
from mien.architectures.readers import default_target, layout_of, look, network_from, network_json, read
from mien.errors import BadInput
from mien.room import DataOptions

OPS = ("nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "skip_connect", "none")


def texts(count, seed=0):
    rng = np.random.default_rng(seed)
    found = {format_201([OPS[i] for i in rng.integers(0, 5, 6)]): None for _ in range(3 * count)}
    return list(found)[:count]


def npz_folder(path, count=20):
    rng = np.random.default_rng(1)
    np.savez(path / "latency.npz", arch=np.array(texts(count)), pixel3=rng.uniform(1, 30, count))
    np.savez(path / "accuracy.npz", cifar10_test=rng.uniform(50, 95, count))
    return path


def message(validation, test, *, evaluations=2):
    """A metrics protocol buffer: repeated field 1, each with doubles in 4 and 5; the last one is final."""
    result = b""
    for step in range(evaluations):
        shift = 0.0 if step == evaluations - 1 else 0.5
        inner = bytes([2 << 3]) + b"\x96\x01"  # a variable integer that nobody asks for
        inner += bytes([(4 << 3) | 1]) + struct.pack("<d", validation - shift)
        inner += bytes([(5 << 3) | 1]) + struct.pack("<d", test - shift)
        result += bytes([(1 << 3) | 2, len(inner)]) + inner
    return result


def record(name, epochs, adjacency, operations, metrics):
    data = json.dumps([name, epochs, adjacency, operations, base64.b64encode(metrics).decode()]).encode()
    return struct.pack("<Q", len(data)) + b"\0" * 4 + data + b"\0" * 4


def tfrecord(path):
    chain = ("010001000", "input,conv3x3-bn-relu,output")
    fork = ("0110000100010000", "input,conv1x1-bn-relu,maxpool3x3,output")
    parts = [
        record("a", 108, *chain, message(0.9, 0.8)),
        record("a", 108, *chain, message(0.94, 0.82)),
        record("a", 36, *chain, message(0.1, 0.1)),
        record("b", 108, *fork, message(0.7, 0.6)),
    ]
    path.write_bytes(b"".join(parts))
    return path


def test_nas_bench_201_as_arrays(tmp_path):
    table = read(str(npz_folder(tmp_path)))
    assert layout_of(tmp_path) == "nas-bench-201"
    assert (table.graphs.space, len(table)) == ("nas-bench-201", 20)
    assert (table.units["pixel3"], table.units["cifar10_test"]) == ("ms", "")
    assert table.values["cifar10_test"].min() >= 0.5
    assert table.values["cifar10_test"].max() <= 0.95, "percentages become shares"
    assert table.values["pixel3"].max() > 1, "milliseconds stay"
    assert default_target(table) == "cifar10_test"
    assert table.names[0] == texts(20)[0]


def test_nas_bench_101_as_published(tmp_path):
    table = read(str(tfrecord(tmp_path / "nasbench_only108.tfrecord")))
    assert table.graphs.space == "nas-bench-101"
    assert list(table.names) == ["a", "b"]
    assert table.values["validation_accuracy"] == pytest.approx([0.92, 0.7]), "the mean of the repeats of 108 epochs"
    assert table.values["test_accuracy"] == pytest.approx([0.81, 0.6])
    assert default_target(table) == "validation_accuracy", "test accuracies are for testing"
    assert table.graphs[0].edges.T.tolist() == [[0, 1], [1, 2]]
    assert table.graphs[1].edges.T.tolist() == [[0, 1], [0, 2], [1, 3], [2, 3]]


def test_nas_bench_101_as_json_lines(tmp_path):
    line = {"operations": ["input", "conv3x3-bn-relu", "output"], "adjacency": [[0, 1, 0], [0, 0, 1], [0, 0, 0]]}
    rows = [line | {"name": "x", "validation_accuracy": 0.9}, line | {"name": "y", "validation_accuracy": 0.8}]
    (tmp_path / "cells.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    table = read(str(tmp_path))
    assert list(table.names) == ["x", "y"]
    assert table.values["validation_accuracy"].tolist() == [0.9, 0.8]


def test_a_csv_of_ones_own_with_parts(tmp_path):
    a, b, c = texts(3)
    (tmp_path / "mine.csv").write_text(f"arch,ms,part\n{a},3.5,train\n{b},,train\n{c},4.5,test\n")
    table = read(str(tmp_path / "mine.csv"))
    assert table.own
    assert np.isnan(table.values["ms"][1])
    model = NARFormer(space="nas-bench-201", target="ms", frequencies=6, layers=1)
    assert open_test(str(tmp_path), model, DataOptions()).dataset.rows == [2]


def test_nnlqp_reads_families_parts_batch_and_latency(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    made = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", 1, [1, 3, 8, 8])],
            [helper.make_tensor_value_info("y", 1, [1, 3, 8, 8])],
        )
    )
    for name in ("a.onnx", "b.onnx"):
        onnx.save(made, str(tmp_path / name))
    (tmp_path / "gt_stage.txt").write_text("1 a.onnx 4 12.5 ResNet 0 train\n2 b.onnx 1 3.25 VGG 0 test\n")
    table = read(str(tmp_path))
    assert table.values["latency"].tolist() == [12.5, 3.25]
    assert (list(table.families), list(table.parts)) == (["ResNet", "VGG"], ["train", "test"])
    assert table.graphs.static[:, 0].tolist() == [4.0, 1.0]
    assert look(str(tmp_path)) == ("onnx", "latency")
    (tmp_path / "gt_stage.txt").write_text("1 a.onnx 4 12.5 ResNet 0 train\n2 b.onnx one 3.25 VGG 0 test\n")
    with pytest.raises(BadInput, match="line 2: batch is 'one': it must be a number"):
        read(str(tmp_path))
    (tmp_path / "b.onnx").unlink()
    with pytest.raises(BadInput, match=r"1 of the 2 ONNX files .*the first: b.onnx"):
        read(str(tmp_path))


def measured(folder, families=("resnet", "vit"), each=6):
    (folder / "networks").mkdir(parents=True)
    for f, family in enumerate(families):
        for i in range(each):
            graph = network(ops=("Conv", *["Relu"] * (i + 1), "Gemm"), edges=[(k, k + 1) for k in range(i + 2)])
            graph.static[1] = 0.1 * (1 + i) + f
            one = {"family": family, "graph": network_json(graph), "latency_ms": {"median": 1.0 + i + 3 * f}}
            (folder / "networks" / f"{family}-{i:03d}.json").write_text(json.dumps(one))
    return folder


def test_a_measured_set_with_a_family_left_out(tmp_path):
    folder = measured(tmp_path / "m")
    table = read(str(folder))
    assert layout_of(folder) == "measured"
    assert table.values["latency"].tolist()[:3] == [1.0, 2.0, 3.0]
    model = NARFormer(space="onnx", target="latency", frequencies=2, heads=2, layers=1, leave_out="vit")
    data = open_training(str(folder), model, DataOptions(validation=0.2))
    kept = {data._train.table.families[row] for row in [*data._train.rows, *data._validation.rows]}
    assert kept == {"resnet"}
    tested = open_test(str(folder), model, DataOptions()).dataset
    assert {tested.table.families[row] for row in tested.rows} == {"vit"}
    assert tested.buckets is None
    wrong = NARFormer(space="onnx", target="latency", frequencies=2, heads=2, layers=1, leave_out="vitt")
    with pytest.raises(BadInput, match="did you mean 'vit'"):
        open_training(str(folder), wrong, DataOptions())
    (folder / "networks" / "vit-000.json").write_text("{}")
    with pytest.raises(BadInput, match=r"vit-000.json is not what mien measure wrote"):
        read(str(folder))


def test_a_whole_network_survives_json():
    graph = network()
    again = network_from(json.loads(json.dumps(network_json(graph))))
    assert again.fingerprint() == graph.fingerprint()


def test_halves_of_a_space_do_not_depend_on_the_file_and_do_not_meet(tmp_path):
    table = read("embedded")
    train, test = training_half(table), opening.test_half(table)
    assert sorted(train + test) == list(range(len(table)))
    assert 0.4 < len(train) / len(table) < 0.6
    assert drawn(table, train, 20, 3) == drawn(table, train[::-1], 20, 3)
    assert drawn(table, train, 20, 3) != drawn(table, train, 20, 4)
    model = NARFormer(space="generated", target="cost", frequencies=6, layers=1)
    opened = open_training("embedded", model, DataOptions())
    seen, kept = set(opened.manifest()["groups"]), set(open_test("embedded", model, DataOptions()).manifest["groups"])
    assert not seen & kept
    assert not set(opened._train.groups) & set(opened._validation.groups)


def test_cells_of_one_size_share_a_batch():
    table = read("embedded")
    data = Architectures(table, range(50), ("cost",))
    assert data.buckets.tolist() == [len(cell) for cell in generate(50, 0)]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no architectures here"),
        ({"x.csv": "name,ms\na,1\n"}, "column `arch`"),
        ({"x.csv": f"arch,ms\n{format_201(['none'] * 6)},fast\n"}, "line 2: ms is 'fast'"),
        ({"x.tfrecord": "what is this"}, "is not nasbench_only108.tfrecord or is damaged"),
        ({"x.jsonl": '{"operations": 3}\n'}, "line 1"),
        ({"x.npz": "no arrays"}, "cannot be read as arrays"),
        ({"gt.txt": "1 a.onnx\n"}, "a line needs id"),
    ],
)
def test_data_that_cannot_be_used(tmp_path, files, said):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=said):
        read(str(tmp_path))
