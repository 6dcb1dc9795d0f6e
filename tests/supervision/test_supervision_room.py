# SPDX-License-Identifier: Apache-2.0
"""The room from end to end: noisy labels in, true ones to test on, estimates out; and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mien import api, catalog
from mien.answering import load_image
from mien.classification.data import LabelledImages, read
from mien.cli import main
from mien.job import plan
from mien.supervision.data import label_accuracy, pixels, truth_of, with_noise, with_rows
from mien.supervision.noise import Noise
from mien.supervision.transition import transition_error

NOISE = ["--method.noise.kind", "instance", "--method.noise.rate", "0.4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of grey levels, 12 images each to train on and 4 to test on."""
    root = tmp_path_factory.mktemp("levels")
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for c, name in enumerate(("dark", "grey", "light")):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixel = rng.integers(80 * c, 80 * c + 60, (10, 12, 3), dtype=np.uint8)
                Image.fromarray(pixel).save(root / part / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    arguments = ["train", "mdit", "--data", str(folder), "--preset", "small", "--max-steps", "3", "--seed", "4"]
    assert main([*arguments, *NOISE, "--method.image_size", "16", "--out", str(out)]) == 0
    return out


def test_a_saved_model_tells_how_its_labels_were_made(run):
    config = json.loads((run / "model" / "config.json").read_text())["config"]
    assert config["noise"] == {"kind": "instance", "rate": 0.4, "seed": 4, "flips": None, "file": None}
    assert config["classes"] == ["dark", "grey", "light"]
    phases = [json.loads(line)["phase"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(phases)) == ["warm-up", "joint"]
    logged = {
        key for line in (run / "metrics.jsonl").read_text().splitlines() for key in str(json.loads(line)).split("'")
    }
    assert {"transition_error", "confident_label_accuracy", "noisy_accuracy"} <= logged


def test_evaluation_gives_accuracy_and_the_error_of_t(run, folder, tmp_path):
    result = api.evaluate(run, folder, tmp_path / "out")
    metrics = result["metrics"]
    assert {"accuracy", "nll", "transition_error", "class_accuracy"} <= set(metrics)
    assert "transition_error" in result["lower_is_better"]
    method = api.load(run)
    test = with_rows(read(str(folder), "test"), method.noise, 16)
    images = LabelledImages(test, 16)
    with torch.no_grad():
        p = method.posteriors(images)
        rows = method.transition(p)[torch.arange(12), test.label]
    assert metrics["transition_error"]["value"] == pytest.approx(transition_error(rows, test.truth.rows), rel=1e-4)


def test_predict_says_whether_the_folders_label_may_be_wrong(run, folder):
    image = folder / "test" / "dark" / "0.png"
    rows = list(api.predict(run, [image, torch.rand(3, 20, 20)]))
    assert rows[0].values["label"] == "dark"
    assert 0 <= rows[0].values["mislabelled"] <= 1
    assert rows[1].values["label"] is None
    assert rows[1].values["mislabelled"] is None
    method = api.load(run)
    with torch.no_grad():
        f = method.classifier(load_image(image, 16)[None]).softmax(1)[0]
        transition = method.transition(f[None])[0]
    expected = 1 - float(f[0] * transition[0, 0]) / float(f @ transition[:, 0])
    assert rows[0].values["mislabelled"] == pytest.approx(expected, abs=1e-5)


def test_training_and_validation_labels_are_noisy_and_test_labels_true():
    job = plan("mdit", "embedded", preset="small", config={"noise": {"kind": "symmetric", "rate": 0.3}})
    method = job.create()
    data = job.open_data(method)
    clean = read("embedded", "train")
    truths = []
    for part in (data._train, data._validation):
        truth = truth_of(part)
        true = torch.tensor([int(clean.label[clean.names.index(name)]) for name in part.groups])
        assert torch.equal(truth.label, true)
        truths.append((part.label, truth.label))
    wrong = [float((label != truth).double().mean()) for label, truth in truths]
    total = sum(int((label != truth).sum()) for label, truth in truths)
    assert total == round(0.3 * len(clean)), "the rate is exact over both parts together"
    assert 0.2 < wrong[1] < 0.4
    test = catalog.room("mdit").open_test("embedded", method, job.options)
    assert torch.equal(test.dataset.label, read("embedded", "test").label)
    again = plan("mdit", "embedded", preset="small", config={"noise": {"kind": "symmetric", "rate": 0.3}})
    assert torch.equal(again.open_data(again.create())._train.label, data._train.label)
    other = replace(job, options=replace(job.options, seed=1))
    train, held = (part.data for part in vars(other.open_data(other.create())).values() if hasattr(part, "data"))
    found = dict(zip((*train.names, *held.names), (*train.label.tolist(), *held.label.tolist()), strict=True))
    first = dict(zip(data._train.groups, data._train.label.tolist(), strict=True))
    assert any(found[name] != label for name, label in first.items()), "another seed, other labels"


def test_grey_images_count_once_and_pixels_are_raw():
    digits = read("embedded", "test").subset(range(5))
    (chunk,) = pixels(digits, 8)
    assert chunk.shape == (5, 64)
    assert torch.equal(chunk.round().byte(), digits.images[:, 0].flatten(1))


def test_copies_of_test_images_are_not_trained_on(tmp_path):
    """Else `mien evaluate` refuses the test part of the same file."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (24, 8, 8), dtype=np.uint8), np.arange(24) % 3
    np.savez(tmp_path / "x.npz", train_x=x, train_y=y, test_x=np.concatenate([x[5:7], 255 - x[7:12]]), test_y=y[5:12])
    job = plan("mdit", tmp_path / "x.npz", preset="small")
    data = job.open_data(job.create())
    assert len(data._train) + len(data._validation) == 22
    assert "without 2 copies of test images" in data.manifest()["description"]
    clean = read(str(tmp_path / "x.npz"), "test")
    assert not set(data.manifest()["files"]) & set(clean.hashes())
    np.savez(tmp_path / "y.npz", train_x=x, train_y=y)
    alone = plan("mdit", tmp_path / "y.npz", preset="small")
    assert len(alone.open_data(alone.create())._train) > 20, "a file without a test part is all trained on"


def test_a_subset_keeps_its_truth_and_clean_data_have_none():
    data = with_noise(read("embedded", "test"), Noise("instance", 0.4, 1), 8, "embedded")
    part = data.subset([3, 5])
    assert torch.equal(part.truth.label, data.truth.label[[3, 5]])
    assert torch.equal(part.truth.rows, data.truth.rows[[3, 5]])
    assert f"{label_accuracy(data.label, data.truth.label):.1%}" in data.description
    assert with_noise(read("embedded", "test"), Noise(), 8, "embedded").truth is None


def test_given_labels_by_path_and_in_order(folder, tmp_path):
    names = read(str(folder), "train")
    rows = [f"{name.removeprefix(str(folder) + '/')},light" for name in reversed(names.names)]
    (folder / "noisy.csv").write_text("path,label\n" + "\n".join(rows))
    np.savez(tmp_path / "noisy.npz", np.arange(36) % 3)
    given = with_noise(names, Noise("given", file="noisy.csv"), 8, str(folder))
    assert given.label.tolist() == [2] * 36
    assert torch.equal(given.truth.label, names.label)
    assert given.truth.rows is None
    ordered = with_noise(names, Noise("given", file=str(tmp_path / "noisy.npz")), 8, str(folder))
    assert ordered.label.tolist() == [i % 3 for i in range(36)]
    arguments = ["train", "mdit", "--data", str(folder), "--preset", "small", "--max-steps", "1"]
    given_file = ["--method.noise.kind", "given", "--method.noise.file", "noisy.csv"]
    assert main([*arguments, *given_file, "--out", str(tmp_path / "run")]) == 0


def fails(capsys, arguments, message):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert message in err


def test_bad_input_is_one_line(folder, tmp_path, capsys):
    train = ["train", "mdit", "--data", str(folder), "--preset", "small", "--out", str(tmp_path / "none")]
    (tmp_path / "short.csv").write_text("label\ndark\n")
    (tmp_path / "wrong.csv").write_text("label\n" + "pink\n" * 36)
    (tmp_path / "no.csv").write_text("name\na\n")
    np.savez(tmp_path / "two.npz", a=np.arange(3), b=np.arange(3))
    kind, file = "--method.noise.kind", "--method.noise.file"
    for extra, message in [
        ([kind, "instance", "--method.noise.rate", "1.5"], "noise.rate is 1.5"),
        ([kind, "given"], "given needs a file"),
        ([kind, "given", file, "absent.csv"], "does not exist"),
        ([kind, "given", file, str(tmp_path / "short.csv")], "1 labels for 36 images"),
        ([kind, "given", file, str(tmp_path / "wrong.csv")], "pink"),
        ([kind, "given", file, str(tmp_path / "no.csv")], "column 'label'"),
        ([kind, "given", file, str(tmp_path / "two.npz")], "one array (N,)"),
        (["--method.leave_out", '["pink"]'], "pink"),
        (["--method.manifold.k_intra", "0"], "manifold.k_intra is 0"),
    ]:
        fails(capsys, [*train, *extra], message)
    assert not (tmp_path / "none").exists()


def test_a_class_can_be_left_out(folder, tmp_path):
    arguments = ["train", "mdit", "--data", str(folder), "--preset", "small", "--max-steps", "1"]
    out = tmp_path / "run"
    assert main([*arguments, "--method.leave_out", '["grey"]', "--out", str(out)]) == 0
    assert api.load(out).classes == ("dark", "light")
    assert set(api.evaluate(out, folder)["classes"]) == {"dark", "light"}
    other = tmp_path / "other"
    for level, name in ((70, "dark"), (230, "light")):
        (other / name).mkdir(parents=True)
        Image.new("RGB", (12, 10), (level,) * 3).save(other / name / "0.png")
    assert len(api.evaluate(out, other)["items"]) == 2, "data that have no such class can be tested on, too"


@pytest.mark.parametrize("name", ["noisy-ce", "forward-correction"])
def test_baselines_go_the_same_way(name, folder, tmp_path):
    out = tmp_path / "run"
    arguments = ["train", name, "--data", str(folder), "--preset", "small", "--max-steps", "1", "--epochs", "1"]
    assert main([*arguments, *NOISE, "--out", str(out)]) == 0
    metrics = api.evaluate(out, folder)["metrics"]
    assert ("transition_error" in metrics) == (name == "forward-correction")
