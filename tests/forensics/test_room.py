# SPDX-License-Identifier: Apache-2.0
"""The room from end to end, small: data in, train, evaluate, predict, demo; and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mien import api
from mien.answering import items_of
from mien.cli import main
from mien.errors import BadInput
from mien.forensics.clips.pooling import video_score
from mien.forensics.data import ForgedFrames
from mien.forensics.detector import Detector
from mien.forensics.opening import generated_people, layout_of, open_training
from mien.forensics.scoring import First
from mien.room import DataOptions


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Six generated people as a folder of people."""
    folder = tmp_path_factory.mktemp("people")
    faces, names = generated_people(range(40, 46), 6)
    for i, (face, name) in enumerate(zip(faces, names, strict=True)):
        (folder / name).mkdir(exist_ok=True)
        Image.fromarray(face.permute(1, 2, 0).numpy()).save(folder / name / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def run(people, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    arguments = ["train", "acmf", "--data", str(people), "--preset", "small", "--max-steps", "3"]
    assert main([*arguments, "--validation", "0.34", "--out", str(out), "--crop", "none"]) == 0
    return out


def test_both_classes_hold_the_same_people_and_units_are_pure():
    faces, names = generated_people(range(3), 5)
    data = ForgedFrames(faces, names, 64, frames=2)
    assert set(data.groups) == set(names)
    by_unit = {}
    for unit, kind, group in zip(data.units, data.kinds, data.groups, strict=True):
        by_unit.setdefault(unit, set()).add((kind, group))
    assert all(len(members) == 1 for members in by_unit.values())
    assert max(data.units.count(unit) for unit in by_unit) == 2
    sample = data[1]
    assert sample.image.shape == (3, 64, 64)
    assert sample.mask.shape == (1, 64, 64)


def test_training_and_validation_share_no_person(people):
    data = open_training(str(people), 64, DataOptions(validation=0.34, crop="none"))
    train, held = set(data._train.groups), set(data._validation.groups)
    assert not train & held
    assert len(train | held) == 6


def test_layouts_are_recognised(people, tmp_path):
    assert layout_of(str(people)) == "people"
    for name in ("real", "fake"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 20)).save(tmp_path / name / "0.png")
    assert layout_of(str(tmp_path)) == "classes"


def test_evaluate_on_other_people_writes_figures_and_pictures(run, tmp_path):
    result = api.evaluate(run, "embedded", tmp_path / "out", max_steps=40)
    assert 0 <= result["metrics"]["auc"]["value"] <= 1
    assert result["primary"] == "video_auc"
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert written["metrics"] == result["metrics"]
    assert all((tmp_path / "out" / name).stat().st_size > 1000 for name in result["pictures"])


def test_a_short_evaluation_is_short_for_all_its_figures(run, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(Detector, "further_figures", lambda self, data, **rest: shown.append(len(data)) or {})
    result = api.evaluate(run, "embedded", max_steps=2, batch_size=150)
    assert shown == [300]
    assert any(note.startswith("the first 300 of ") for note in result["notes"])
    assert not any(note.startswith("the first") for note in api.evaluate(run, "embedded")["notes"])


def test_a_short_evaluation_counts_units_where_whole_units_are_answered_for(run, people, tmp_path):
    """Fails if what is left of the data forgets whose its samples are."""
    held = api.evaluate(run, "embedded", mode="fac", source=str(people), max_steps=12, batch_size=2)
    units = {item["id"] for item in held["items"]}
    assert len(units) == 12
    assert {item["label"] for item in held["items"]} == {0, 1}


def test_the_beginning_of_a_data_set_says_whose_its_samples_are():
    faces, names = generated_people(range(3), 5)
    data = ForgedFrames(faces, names, 64, frames=2)
    few = First(data, 2, 7)
    assert (few.groups, few.units) == (data.groups[:14], data.units[:14])
    whole = First(data, 3, 7, by_unit=True)
    assert set(whole.units) == set(list(dict.fromkeys(data.units))[:3])
    assert len(whole) == sum(unit in whole.units for unit in data.units)
    assert not hasattr(few, "clients")


def test_evaluating_on_the_training_people_is_refused(run, people, capsys):
    assert main(["evaluate", str(run), "--data", str(people)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "train" in err


def test_predict_goes_past_a_broken_file_and_names_it(run, people, tmp_path, capsys):
    folder = tmp_path / "mixed"
    folder.mkdir()
    first = next(people.rglob("*.png"))
    (folder / "a.png").write_bytes(first.read_bytes())
    (folder / "b.png").write_text("not a picture")
    (folder / "c.png").write_bytes(first.read_bytes())
    assert main(["predict", str(run), str(folder), "--crop", "none", "--out", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert "b.png" in captured.err
    assert len(list((tmp_path / "out").glob("evidence-*.png"))) == 2


def test_predict_from_python_takes_images(run):
    image = torch.rand(3, 80, 70)
    array = (image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    rows = list(api.predict(run, [image, array, Image.fromarray(array)], crop="none"))
    assert [row.error for row in rows] == [None] * 3
    assert rows[1].values["score"] == rows[2].values["score"]
    bad = list(api.predict(run, [torch.rand(1, 8, 8)], crop="none"))
    assert "give PIL" in bad[0].error


def test_fac_from_the_command_line_needs_a_source(run, people, capsys):
    assert main(["predict", str(run), str(people), "--crop", "none", "--mode", "fac"]) == 2
    assert "mode 'plain' works without" in capsys.readouterr().err
    one = next(p for p in people.iterdir() if p.is_dir())
    assert main(["predict", str(run), str(one), "--crop", "none", "--mode", "fac", "--source", "embedded"]) == 0


@pytest.mark.parametrize("what", ["empty", "one class", "file"])
def test_data_that_cannot_be_used(tmp_path, what, capsys):
    data = tmp_path / "data"
    data.mkdir()
    if what == "one class":
        (data / "real").mkdir()
        Image.new("RGB", (20, 20)).save(data / "real" / "0.png")
    if what == "file":
        data = data / "x.txt"
        data.write_text("hello")
    assert main(["train", "acmf", "--data", str(data), "--preset", "small", "--crop", "none"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("mien: ")
    assert err.count("\n") == 1


def test_video_score_is_the_mean_of_the_log_odds():
    assert video_score(np.array([0.5])) == pytest.approx(0.5)
    assert video_score(np.array([0.2, 0.8])) == pytest.approx(0.5)
    assert video_score(np.array([0.9, 0.9])) == pytest.approx(0.9)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no images"):
        items_of([tmp_path])


def test_the_demo_writes_one_self_contained_page(people, tmp_path, capsys):
    assert main(["demo", "--data", str(people), "--out", str(tmp_path / "demo"), "--max-steps", "2"]) == 0
    out = capsys.readouterr().out
    assert "AUC" in out
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "data:image/png;base64" in page
