# SPDX-License-Identifier: Apache-2.0
"""The weights that come with mien: they load, answer at once, are small, and are those that their cards name."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mien
from mien.catalog import SHIPPED, shipped
from mien.cli import main
from mien.data.images import load_tensor
from mien.data.people import render_faces, sample_people
from mien.engine.pretrained import WEIGHTS
from mien.engine.state import load_state, save_state
from mien.errors import BadInput
from mien.job import plan
from mien.weights import open_weights

ROOT = Path(__file__).parent.parent
NAMES = ("nar-former", "pro-face-s")
HEAVY = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
LIGHT = "|skip_connect~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("shipped_weights", ROOT / "tools" / "shipped_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the folders --------------------------------------------------------------------------------------------------
def test_all_together_are_small_and_nothing_else_lies_there():
    assert sorted(path.name for path in SHIPPED.iterdir()) == list(NAMES)
    files = [file for file in SHIPPED.rglob("*") if file.is_file()]
    assert {file.name for file in files} == {"config.json", "manifest.json", "model.safetensors", "README.md"}
    assert sum(file.stat().st_size for file in files) < 20e6


def test_they_are_package_data():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (patterns,) = re.findall(r"^\[tool\.setuptools\.package-data\]\nmien = (\[.*\])", text, re.MULTILINE)
    found = {file for pattern in json.loads(patterns) for file in SHIPPED.parent.glob(pattern)}
    assert found >= {file for file in SHIPPED.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_the_name_opens_them_and_the_card_is_theirs(name):
    folder = shipped(name)
    opened = open_weights(name, torch.device("cpu"))
    assert opened.method.name == name
    assert not opened.method.training
    assert str(opened.folder) == name
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() in card
    assert opened.manifest["description"] in card
    assert opened.manifest["description"] in opened.trained_on
    assert all(bool(value.isfinite().all()) for value in opened.method.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_script_makes_the_method_that_is_shipped(script, name):
    last, _ = script.STAGES[-1]
    config = {"nar-former": script.PREDICTOR["config"], "pro-face-s": {**script.FLOW, "wrong_recovery": last}}[name]
    preset = script.PROTECTION["preset"] if name == "pro-face-s" else "paper"
    made = plan(name, None, preset=preset, config=config).create().config()
    kept = json.loads((shipped(name) / "config.json").read_text())["config"]
    assert json.loads(json.dumps(made)) == kept


def test_only_what_may_be_given_away_was_trained_on():
    values = json.loads((shipped("nar-former") / "config.json").read_text())["config"]["target"]
    assert not re.search("freerea", values, re.IGNORECASE), "that table of accuracies has no licence"
    trained = json.loads((shipped("pro-face-s") / "manifest.json").read_text())
    assert trained["groups"]
    assert all(name.startswith("generated-") for name in trained["groups"])


def test_a_folder_of_that_name_is_taken_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nar-former").mkdir()
    with pytest.raises(BadInput, match="neither a run folder nor a saved folder"):
        open_weights("nar-former", torch.device("cpu"))
    assert shipped("../pretrained") is None
    assert shipped("acmf") is None


def test_info_says_that_weights_come_with_a_method(capsys):
    assert main(["info", "nar-former"]) == 0
    assert "come with mien" in capsys.readouterr().out
    assert main(["info", "acmf"]) == 0
    assert "come with mien" not in capsys.readouterr().out


# --- latencies and accuracies -------------------------------------------------------------------------------------
def table(capsys):
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_a_cells_latency_on_a_device_at_once(capsys):
    assert main(["predict", "nar-former", HEAVY, LIGHT, "--device", "pixel3", "--format", "csv"]) == 0
    heavy, light = table(capsys)
    assert list(heavy) == ["path", "pixel3", "pixel3_low", "pixel3_high", "outside", "error"]
    for row in (heavy, light):
        low, value, high = (float(row[name]) for name in ("pixel3_low", "pixel3", "pixel3_high"))
        assert 0 < low < value < high
    assert not light["outside"]
    assert 28 < float(heavy["pixel3"]) < 38, "measured: 33.0 ms"
    assert 1.1 < float(light["pixel3"]) < 2.0, "measured: 1.5 ms"


def test_accuracies_are_ranked_as_they_should_be(capsys):
    assert main(["predict", "nar-former", HEAVY, LIGHT, "--target", "cifar10_test", "--format", "csv"]) == 0
    heavy, light = (float(row["cifar10_test"]) for row in table(capsys))
    assert light < heavy
    assert abs(heavy - 0.822) < 0.03, "measured: 0.822"
    assert abs(light - 0.785) < 0.03, "measured: 0.785"


def test_every_target_of_the_card_answers():
    (row,) = mien.predict("nar-former", HEAVY, device="cpu")
    card = (shipped("nar-former") / "README.md").read_text(encoding="utf-8")
    names = re.findall(r"^\| (\w+) \| \d", card, re.MULTILINE)
    assert len(names) == 23
    assert all(row.values[f"{name}_low"] < row.values[name] < row.values[f"{name}_high"] for name in names)


def test_training_may_start_from_them(tmp_path):
    few = ["--preset", "small", "--max-steps", "1", "--batch-size", "2", "--method.optimizer.lr", "1e-9"]
    out = tmp_path / "run"
    assert main(["train", "pro-face-s", "--data", "embedded", "--weights", "pro-face-s", *few, "--out", str(out)]) == 0
    begun, ended = (load_state(path / "model.safetensors", WEIGHTS) for path in (shipped("pro-face-s"), out / "model"))
    assert all(torch.allclose(begun[name], ended[name], atol=1e-6) for name in begun)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nar-former", HEAVY, "--device", "pixel33"], "auto, cpu, cuda, cuda:N or mps to compute on, or a target of"),
        (["nar-former", HEAVY, "--device", "pixel33"], "gold_6226"),
        (["nar-former", HEAVY, "--device", "pixel3", "--target", "eyeriss"], "name one of the two"),
        (["pro-face-s", "PHOTO", "--device", "pixel3"], "device is 'pixel3': use auto, cpu, cuda, cuda:N or mps"),
    ],
)
def test_a_device_that_is_none_is_one_line(arguments, words, tmp_path, capsys):
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png")
    given = [str(tmp_path / "photo.png") if word == "PHOTO" else word for word in arguments]
    assert main(["predict", *given]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_a_device_that_computes_leaves_all_targets(capsys):
    assert main(["predict", "nar-former", HEAVY, "--device", "cpu", "--format", "csv"]) == 0
    (row,) = table(capsys)
    assert {"pixel3", "gold_6226", "cifar10_test"} <= set(row)


# --- protection ---------------------------------------------------------------------------------------------------
@pytest.fixture
def photo(tmp_path):
    """A generated face of a person who was not trained on, 112 pixels, and a key."""
    picture = render_faces(sample_people(24, seed=0), np.array([20]), np.array([7], dtype=np.uint64), size=112)[0][0]
    Image.fromarray(np.round(picture.transpose(1, 2, 0) * 255).astype(np.uint8)).save(tmp_path / "photo.png")
    (tmp_path / "key").write_text("correct horse battery staple\n")
    return tmp_path / "photo.png"


def db(a, b):
    a, b = (np.asarray(Image.open(path), dtype=np.float64) for path in (a, b))
    return 10 * np.log10(255**2 / ((a - b) ** 2).mean())


def test_a_photograph_is_protected_and_comes_back_without_training_anything(photo, tmp_path, capsys):
    key = ["--key-file", str(tmp_path / "key"), "--device", "cpu"]
    hidden, back = str(tmp_path / "hidden.png"), str(tmp_path / "back.png")
    assert main(["protect", str(photo), "--out", hidden, "--whole", "--cost", "10", *key]) == 0
    said = capsys.readouterr().err
    assert "everybody has the weights" in said
    assert "keep the weights secret, too" not in said
    assert main(["reveal", hidden, "--out", back, *key]) == 0
    assert db(photo, back) > 27
    assert db(photo, hidden) < 25, "what others see is not the photograph"
    named = [*key, "--weights", "pro-face-s"]
    assert main(["reveal", hidden, "--out", str(tmp_path / "again.png"), *named]) == 0
    assert (tmp_path / "again.png").read_bytes() == Path(back).read_bytes()


def test_another_key_shows_no_more_than_everybody_sees(photo, tmp_path, script):
    from protection_figures import detail

    hidden, back, wrong = (str(tmp_path / name) for name in ("hidden.png", "back.png", "wrong.png"))
    (tmp_path / "other").write_text("correct horse battery stable\n")
    arguments = ["--whole", "--cost", "10", "--no-verifier", "--no-check", "--device", "cpu"]
    key, other = (["--key-file", str(tmp_path / name), "--device", "cpu"] for name in ("key", "other"))
    assert main(["protect", str(photo), "--out", hidden, *arguments, *key[:2]]) == 0
    assert main(["reveal", hidden, "--out", back, *key]) == 0
    assert main(["reveal", hidden, "--out", wrong, *other]) == 0
    original = load_tensor(photo)[None]
    right, seen, found = (detail(load_tensor(path)[None], original) for path in (back, hidden, wrong))
    assert right > 0.95
    assert found < seen + 0.1
    assert db(photo, wrong) < db(photo, hidden) + 1


# --- the script that makes them -----------------------------------------------------------------------------------
def test_the_check_tells_the_same_weights_from_others(script, tmp_path, capsys):
    there = shipped("pro-face-s") / "model.safetensors"
    assert script.compare(there, there) == 0
    state = load_state(there, WEIGHTS)
    name = next(iter(state))
    state[name] = state[name] + 0.25
    save_state(tmp_path / "other.safetensors", state, WEIGHTS)
    assert script.compare(tmp_path / "other.safetensors", there) == 1
    assert "differ by up to 0.25" in capsys.readouterr().err


def test_training_people_are_not_those_of_the_test(script):
    from protection_pictures import HELD_OUT, PEOPLE, TRAINED

    from mien.privacy.opening import EMBEDDED_PEOPLE

    trained, tested = EMBEDDED_PEOPLE
    assert not set(PEOPLE) & set(range(trained, trained + tested))
    assert not set(TRAINED) & set(HELD_OUT)
