# SPDX-License-Identifier: Apache-2.0
"""The room from end to end, small: train, evaluate, predict with strings, files and graphs; and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from whole_networks import network

from mien import api
from mien.architectures.cells import format_201, to_json
from mien.architectures.generated import generate
from mien.architectures.graph import Graphs
from mien.architectures.readers import network_json
from mien.architectures.scope import Scope, depths
from mien.cli import main

OPS = ("nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "skip_connect", "none")


def cell_folder(folder, count=300):
    """NAS-Bench-201 cells whose accuracy and latency follow from their operators."""
    rng = np.random.default_rng(0)
    drawn = np.unique(rng.integers(0, 5, (3 * count, 6)), axis=0)[:count]
    arch = np.array([format_201([OPS[i] for i in row]) for row in drawn])
    convolutions = (drawn == 1).sum(1) * 3 + (drawn == 0).sum(1)
    np.savez(folder / "latency.npz", arch=arch, phone=2.0 + convolutions, chip=1.0 + (drawn == 2).sum(1))
    np.savez(folder / "accuracy.npz", cifar10_test=60.0 + 1.5 * convolutions)
    return folder


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return cell_folder(tmp_path_factory.mktemp("cells"))


@pytest.fixture(scope="module")
def run(cells, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    arguments = [
        "train",
        "nar-former",
        "--data",
        str(cells),
        "--preset",
        "small",
        "--max-steps",
        "40",
        "--out",
        str(out),
    ]
    more = ["--method.layers", "1", "--method.frequencies", "6", "--method.target", "cifar10_test,phone"]
    assert main([*arguments, *more]) == 0
    return out


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A predictor of whole networks, trained on a measured folder."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "networks").mkdir()
    for i in range(24):
        graph = network(("Conv", *["Relu"] * (1 + i % 4), "Gemm"), [(k, k + 1) for k in range(2 + i % 4)])
        graph.static[1] = 0.0001 * (1 + i)
        record = {"family": f"f{i % 3}", "graph": network_json(graph), "latency_ms": {"median": 1.0 + i}}
        (folder / "networks" / f"n{i:02d}.json").write_text(json.dumps(record))
    return api.train(
        "nar-former",
        folder,
        preset="small",
        max_steps=6,
        config={"layers": 1, "frequencies": 2, "heads": 2, "static": "log"},
    )


def test_train_learns_more_than_nothing_and_evaluates(run, cells, capsys, tmp_path):
    assert main(["evaluate", str(run), "--data", str(cells), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "cifar10_test/kendall_tau" in printed
    written = json.loads((tmp_path / "evaluation.json").read_text())
    metrics = written["metrics"]
    assert metrics["cifar10_test/kendall_tau"]["value"] > 0.2
    assert metrics["cifar10_test/kendall_tau"]["low"] < metrics["cifar10_test/kendall_tau"]["value"]
    assert metrics["cifar10_test/kendall_tau_ridge_on_counts"]["value"] > 0.9, "this target is linear in the counts"
    assert 0 <= metrics["phone/coverage"]["value"] <= 1
    assert sorted(written["lower_is_better"]) == ["cifar10_test/mape", "phone/mape"]
    assert all((tmp_path / name).stat().st_size > 1000 for name in written["pictures"])


def test_a_target_that_was_not_learnt_is_compared_by_rank_and_said(run, cells):
    result = api.evaluate(run, cells, target="phone")
    assert set(result["metrics"]) >= {"kendall_tau", "mape"}
    with pytest.raises(ValueError, match="output of this nar-former 'chip'"):
        api.evaluate(run, cells, target="chip")


def test_embedded_trains_evaluates_and_is_deterministic(tmp_path):
    taus = []
    for _ in range(2):
        config = {"layers": 1, "frequencies": 6}
        method = api.train("nar-former", "embedded", preset="small", max_steps=5, config=config)
        taus.append(api.evaluate(method, "embedded")["metrics"]["kendall_tau"]["value"])
    assert taus[0] == taus[1]


def test_predict_takes_strings_json_files_and_folders(run, tmp_path, capsys):
    text = format_201(["nor_conv_3x3"] * 6)
    (tmp_path / "bad.json").write_text("{}")
    arguments = ["predict", str(run), text, str(tmp_path / "bad.json"), "--format", "json"]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    rows = json.loads(captured.out)["rows"]
    values = rows[0]["values"]
    assert values["cifar10_test_low"] < values["cifar10_test"] < values["cifar10_test_high"]
    assert 'a cell needs "operations"' in rows[1]["error"]
    assert "bad.json" in captured.err
    assert main(["predict", str(run), text.replace("~0|+", "~1|+", 1)]) == 1
    capsys.readouterr()
    assert main(["predict", str(run), str(tmp_path / "nothing.onnx")]) == 2
    assert "give an .onnx or .json file, a folder of them, or an architecture string" in capsys.readouterr().err


def test_predict_says_what_a_cell_of_another_space_is(run, capsys):
    assert main(["predict", str(run), to_json(generate(1, 0)[0]), "--format", "json"]) == 1
    assert "this model is for 'nas-bench-201'" in json.loads(capsys.readouterr().out)["rows"][0]["error"]


def test_an_onnx_file_of_ones_own_and_an_exported_program(whole_run, tmp_path):
    pytest.importorskip("onnxscript")
    from mien.architectures.networks import export_onnx

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    x = torch.rand(1, 3, 8, 8)
    export_onnx(model, (x,)).save(str(tmp_path / "mine.onnx"))
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    rows = list(api.predict(whole_run, [tmp_path, torch.export.export(model, (x,)), network(gflops=90.0)]))
    broken, mine, exported, far = rows
    assert "broken.onnx" in broken.path
    assert broken.error
    assert mine.values == exported.values
    assert mine.values["latency"] > 0
    assert "operators never seen in training: Reshape" in mine.values["outside"]
    assert "distance" in far.values["outside"]
    assert "never seen in training: Add" in far.values["outside"]


def test_an_interval_for_whole_networks_needs_nine_of_them(whole_run):
    answers = api.predict(whole_run, [network(("Conv", "Relu", "Gemm"), [(0, 1), (1, 2)])])
    (row,) = answers.rows
    assert row.values["latency_low"] is None
    assert any("too few validation architectures" in note for note in answers.notes)


def test_what_is_inside_and_what_is_outside():
    graphs = Graphs.of(generate(200, 0), "generated")
    scope = Scope("generated")
    assert "has not been trained" in scope.outside(graphs[0])
    scope.learn(graphs)
    inside = sum(not scope.outside(graph) for graph in generate(400, 0)[200:])
    assert inside > 180, "cells of the same kind lie inside, but for about one in a hundred"
    assert all(not scope.outside(graphs[i]) for i in range(200))
    few = Scope("generated")
    few.learn(Graphs.of([g for g in generate(200, 0) if "conv5x5" not in g.ops], "generated"))
    strange = next(graph for graph in generate(200, 0) if "conv5x5" in graph.ops)
    assert "never seen in training: conv5x5" in few.outside(strange)


def test_depth_is_the_longest_path():
    cells = generate(30, 2)
    found = depths(Graphs.of(cells, "generated"))
    for cell, depth in zip(cells, found, strict=True):
        power, longest = cell.adjacency().astype(int), 0
        reach = power
        while reach.any():
            longest, reach = longest + 1, reach @ power
        assert depth == longest


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method.target", "cifar_test"], "unknown target"),
        (["--method.train_size", "100000"], "train_size is 100000"),
        (["--method.leave_out", "vit"], "have no families"),
        (["--kind", "nnlqq"], "kind of data"),
        (["--method.heads", "7"], "heads is 7"),
    ],
)
def test_bad_input_is_one_line(cells, arguments, said, capsys, tmp_path):
    base = ["train", "nar-former", "--data", str(cells), "--preset", "small", "--out", str(tmp_path / "r")]
    assert main([*base, *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
