# SPDX-License-Identifier: Apache-2.0
"""The room from end to end, small: train, evaluate, predict; the accuracy matrix; and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from worlds import NAMES, SIZE, data, images, make

from mien import api
from mien.adaptation.room import ROOM, figures
from mien.adaptation.tasks import class_order
from mien.classification.data import LabelledImages
from mien.cli import main
from mien.engine import Phase, Tasks, fit
from mien.engine import Settings as EngineSettings
from mien.errors import BadInput
from mien.metrics import continual
from mien.room import DataOptions


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The small world as an .npz file."""
    folder = tmp_path_factory.mktemp("world")
    arrays = {}
    for part, seed, count in (("train", 0, 8), ("test", 9, 4)):
        made = images(count, seed)
        arrays[f"{part}_x"] = made.images.permute(0, 2, 3, 1).numpy()
        arrays[f"{part}_y"] = made.label.numpy()
    np.savez(folder / "world.npz", classes=np.array(NAMES), **arrays)
    return folder


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    arguments = ["train", "loda", "--data", str(source), "--preset", "small", "--max-steps", "3", "--seed", "4"]
    assert main([*arguments, "--validation", "0.25", "--out", str(out), "--device", "cpu"]) == 0
    return out


def test_training_goes_through_foundation_and_tasks_in_the_order_of_the_seed(run):
    config = json.loads((run / "model" / "config.json").read_text())
    assert [p["name"] for p in config["phases"]] == ["foundation", "task 0", "task 1"]
    assert config["config"]["classes"] == class_order(NAMES, 4)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("isolated_energy_ratio" in line.get("logged", {}) for line in lines)
    seen = {(line["phase"], name) for line in lines for name in line.get("validation", ()) if "/accuracy" in name}
    assert seen == {("task 0", "task0/accuracy"), ("task 1", "task0/accuracy"), ("task 1", "task1/accuracy")}


def test_evaluate_gives_accuracy_by_task_and_the_matrix_of_the_training(run, source, tmp_path):
    result = api.evaluate(run, source, tmp_path / "out", device="cpu")
    assert result["primary"] == "accuracy"
    right = [item["values"]["accuracy"] for item in result["items"]]
    assert result["metrics"]["accuracy"]["value"] == pytest.approx(np.mean(right))
    tasks = result["tasks"]
    assert [tasks[name]["images"] for name in ("task 0", "task 1")] == [16, 16]
    assert np.mean([tasks[name]["accuracy"] for name in tasks]) == pytest.approx(np.mean(right))
    matrix = np.full((2, 2), np.nan)
    matrix[0, :1], matrix[1] = result["accuracy_matrix"]
    assert result["metrics"]["validation_a_avg"]["value"] == pytest.approx(continual.average_accuracy(matrix))
    assert result["metrics"]["validation_forgetting"]["value"] == pytest.approx(continual.forgetting(matrix))
    assert "validation_forgetting" in result["lower_is_better"]
    assert result["pictures"] == ["accuracy-matrix.png"]
    with Image.open(tmp_path / "out" / "accuracy-matrix.png") as drawn:
        assert min(drawn.size) > 300
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["tasks"] == tasks


def test_evaluating_on_training_images_is_refused(run, source, tmp_path, capsys):
    with np.load(source / "world.npz") as stored:
        np.savez(tmp_path / "again.npz", x=stored["train_x"], y=stored["train_y"], classes=stored["classes"])
    assert main(["evaluate", str(run), "--data", str(tmp_path / "again.npz")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "was trained on 64 of 64 test files" in err


def test_predict_names_classes_and_goes_past_a_broken_file(run, tmp_path, capsys):
    for name, shape in (("a.png", (16, 16)), ("c.png", (90, 40))):
        Image.new("RGB", shape, (90, 20, 20)).save(tmp_path / name)
    (tmp_path / "b.png").write_text("no picture")
    assert main(["predict", str(run), str(tmp_path), "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    assert "b.png" in captured.err
    rows = list(api.predict(run, [torch.rand(3, 50, 70)], device="cpu"))
    assert rows[0].error is None
    assert rows[0].values["class"] in NAMES


def test_a_model_in_the_middle_of_its_tasks_is_asked_only_about_what_it_learned(source):
    method = make()
    with pytest.raises(BadInput, match="has learned no task yet"):
        ROOM.open_test(str(source), method, DataOptions())
    with pytest.raises(BadInput, match="has learned no task yet"):
        api.predict(method, [torch.rand(3, 20, 20)])
    fit(method, data(method), schedule=Tasks(1), settings=EngineSettings(batch_size=8, device="cpu", max_steps=1))
    test = ROOM.open_test(str(source), method, DataOptions())
    assert sorted(set(test.dataset.label.tolist())) == [0, 1, 2, 3]
    result = api.evaluate(method, source, device="cpu")
    assert any("4 classes of 1 of 2 tasks" in note for note in result["notes"])
    assert "validation_forgetting" not in result["metrics"]
    with pytest.raises(BadInput, match="labels run from 0 to 7: there are 4 classes"):
        api.evaluate(method, LabelledImages(images(), SIZE), device="cpu")


def test_training_without_held_out_images_has_no_matrix(source):
    method = make()
    tasks = ROOM.open_data(str(source), method, DataOptions(validation=0.0))
    assert tasks.validation(Phase(task=1)) is None
    fit(method, tasks, schedule=Tasks(2), settings=EngineSettings(batch_size=8, device="cpu", max_steps=1))
    result = api.evaluate(method, source, device="cpu")
    assert "accuracy_matrix" not in result
    assert "validation_a_avg" not in result["metrics"]


def test_held_out_images_come_from_every_task_and_are_not_trained_on(source):
    tasks = ROOM.open_data(str(source), make(), DataOptions(validation=0.25))
    for t in range(2):
        train, held = tasks.train(Phase(task=t)), tasks.validation(Phase(task=1))[f"task{t}"]
        assert set(train.label.tolist()) == set(held.label.tolist()) == set(range(4 * t, 4 * t + 4))
        assert not set(train.groups) & set(held.groups)
        assert (len(train), len(held)) == (24, 8)
    assert tasks.validation(Phase(name="foundation")) is None


def test_figures_weigh_tasks_by_their_classes():
    matrix = np.array([[0.8, np.nan], [0.5, 0.9]])
    found = figures(matrix, (6, 2))
    assert found["validation_a_last"] == pytest.approx((6 * 0.5 + 2 * 0.9) / 8)
    assert found["validation_a_avg"] == pytest.approx((0.8 + (6 * 0.5 + 2 * 0.9) / 8) / 2)
    assert found["validation_backward_forgetting"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method.tasks", "5"], "tasks is 5 for 8 classes"),
        (["--method.tasks", "[7, 1]"], "two classes or more"),
        (["--method.rank", "100"], "rank is 100"),
        (["--kind", "cub"], "download CUB_200_2011.tgz"),
        (["--method.layers", '["*.nothing"]'], "no linear layer is called so"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(arguments, message, source, tmp_path, capsys):
    out = tmp_path / "run"
    code = main(["train", "loda", "--data", str(source), "--preset", "small", "--out", str(out), *arguments])
    err = capsys.readouterr().err
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not out.exists()
