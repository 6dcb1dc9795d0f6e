# SPDX-License-Identifier: Apache-2.0
"""The way of a user: train, evaluate and predict on folders; what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mien
from mien.cli import main
from mien.data.images import load_tensor
from mien.metrics.quality import edge_f1, psnr, ssim
from mien.synthesis.polygons import scene
from mien.synthesis.readers import read
from mien.synthesis.room import translated
from mien.synthesis.scoring import grid
from mien.synthesis.translator import Translator


def pairs_file(folder: Path, numbers: range, names: str = "p") -> Path:
    """A file of the layout of sketch/photo sets."""
    folder.mkdir(parents=True, exist_ok=True)
    poor, rich = (np.stack(side) for side in zip(*(scene(i) for i in numbers), strict=True))
    np.savez(folder / "pairs.npz", sketch=poor, photo=rich, name=np.array([f"{names}{i}" for i in numbers]))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on pairs 0 .. 11."""
    root = tmp_path_factory.mktemp("room")
    data = pairs_file(root / "data", range(12))
    options = [
        "--preset",
        "small",
        "--data",
        str(data),
        "--max-steps",
        "2",
        "--out",
        str(root / "run"),
        "--device",
        "cpu",
    ]
    assert main(["train", "cshnet", *options]) == 0
    pairs_file(root / "others", range(20, 26), names="q")
    return root


def test_sides_are_taken_from_the_data(run: Path):
    config = json.loads((run / "run" / "config.json").read_text())["origin"]["config"]
    assert (config["input"], config["target"]) == ("sketch", "photo")


def test_figures_are_those_of_the_pictures(run: Path):
    """The means of figures of single pictures, made here from the loaded method."""
    out = run / "evaluation"
    assert (
        main(["evaluate", str(run / "run"), "--data", str(run / "others"), "--out", str(out), "--device", "cpu"]) == 0
    )
    result = json.loads((out / "evaluation.json").read_text())
    model = mien.load(run / "run")
    assert isinstance(model, Translator)
    table: dict[str, list[float]] = {"l1": [], "psnr": [], "ssim": [], "edge_f1": [], "l1_of_input": []}
    for i in range(20, 26):
        given, truth = (torch.from_numpy(side).permute(2, 0, 1)[None].float() / 255 for side in scene(i))
        with torch.no_grad():
            made = model.translate(given)
        table["l1"].append(float((made - truth).abs().mean()))
        table["l1_of_input"].append(float((given - truth).abs().mean()))
        for name, figure in (("psnr", psnr), ("ssim", ssim), ("edge_f1", edge_f1)):
            table[name].append(float(figure(made, truth)))
    for name, values in table.items():
        assert result["metrics"][name]["value"] == pytest.approx(np.mean(values), rel=1e-4), name
    assert result["metrics"]["fid"]["value"] > 0
    assert set(result["lower_is_better"]) == {"l1", "l1_of_input", "fid"}
    assert len(result["items"]) == 6
    assert [item["group"] for item in result["items"]] == [f"q{i}" for i in range(20, 26)]
    assert any("random convolutions" in note for note in result["notes"])
    sheet = load_tensor(out / "examples.png")
    assert sheet.shape[-1] > 3 * 64 * 4


def test_data_seen_in_training_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", str(run / "run"), "--data", str(run / "data")]) == 2
    assert "was trained on" in capsys.readouterr().err
    other = pairs_file(tmp_path / "named", range(40, 44), names="p4")  # p440 and so on: other people
    again = pairs_file(tmp_path / "again", range(3, 5), names="p")
    assert main(["evaluate", str(run / "run"), "--data", str(again), "--out", str(tmp_path / "x")]) == 2
    assert (
        main(["evaluate", str(run / "run"), "--data", str(other), "--out", str(tmp_path / "y"), "--max-steps", "1"])
        == 0
    )


def test_predict_writes_pictures_of_the_size_that_came_in(run: Path, tmp_path: Path):
    sizes = {"a.png": (50, 31), "b.png": (7, 5), "c.png": (64, 64)}
    for name, (height, width) in sizes.items():
        picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / name)
    (tmp_path / "broken.png").write_text("none")
    files = [str(tmp_path / name) for name in (*sizes, "broken.png")]
    for mode in ("resize", "whole"):
        out = tmp_path / mode
        assert main(["predict", str(run / "run"), *files, "--mode", mode, "--out", str(out), "--format", "json"]) == 1
        rows = json.loads((out / "predictions.json").read_text())["rows"]
        for row, (height, width) in zip(rows, sizes.values(), strict=False):
            assert load_tensor(out / row["values"]["picture"]).shape == (3, height, width)
        assert rows[-1]["error"]
    same = [load_tensor(tmp_path / mode / "translated-00002-c.png") for mode in ("resize", "whole")]
    assert torch.equal(*same)  # at the training size there is nothing to resize


def test_a_large_picture_is_a_row_with_a_reason(run: Path):
    model = mien.load(run / "run")
    answers = list(mien.predict(model, [torch.rand(3, 1100, 1000), torch.rand(3, 20, 20)], mode="whole"))
    assert "1000 x 1100 pixels: mode 'whole' takes 1,048,576; use mode 'resize'" in (answers[0].error or "")
    assert answers[1].values["height"] == 20


def test_stretching_is_undone(run: Path):
    """A picture twice as wide gives what its stretched copy gives, at the old size."""
    model = mien.load(run / "run")
    assert isinstance(model, Translator)
    wide = torch.rand(3, 64, 128)
    assert translated(model, wide).shape == (3, 64, 128)
    assert not translated(model, wide).equal(translated(model, wide, "whole"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method.target", "drawing"], "has no side 'drawing': there are photo, sketch"),
        (["--method.input", "photo", "--method.target", "photo"], "input and target are both 'photo'"),
        (["--method.image_size", "50"], "image_size is 50: use a multiple of 4"),
        (["--method.architecture.window", "7"], "architecture.window is 7"),
        (["--method.weights.perceptual", "1", "--method.vgg", "none.pth"], "none.pth does not exist"),
        (["--kind", "pairs"], "unknown kind of data 'pairs'"),
        (["--data", "none", "--kind", "sen12"], "none does not exist: download SEN1-2"),
    ],
)
def test_bad_wishes_are_one_line_and_write_nothing(
    run: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "run"
    options = ["--preset", "small", "--data", str(run / "data"), "--max-steps", "1", "--out", str(out)]
    assert main(["train", "cshnet", *options, *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mode", "whole"], "is evaluated at its own size"),
        (["--features", "none.pth"], "none.pth does not exist"),
    ],
)
def test_bad_wishes_at_the_test(
    run: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert (
        main(["evaluate", str(run / "run"), "--data", str(run / "others"), "--out", str(tmp_path / "e"), *words]) == 2
    )
    assert message in capsys.readouterr().err


def test_features_are_for_rooms_that_know_them(tmp_path: Path):
    method = mien.create("plain", network={"name": "tiny_cnn"}, image_size=32)
    with pytest.raises(mien.errors.BadInput, match=r"features is 'x.pth': 'plain' is not measured"):
        mien.evaluate(method, "embedded", features="x.pth")


def test_generated_scenes_are_not_moved_and_a_folders_pairs_are(run: Path):
    from mien.job import plan

    for data, moved in (("embedded", False), (str(run / "data"), True)):
        job = plan("cshnet", data, preset="small")
        train = job.open_data(job.create()).train(None)  # type: ignore[arg-type]
        assert (train.flip, train.shift > 0) == (moved, moved)  # type: ignore[attr-defined]


def test_groups_that_are_bare_numbers_are_not_names(tmp_path: Path):
    from mien.synthesis.room import _manifest

    for side in ("A", "B"):
        for name in ("1", "ann"):
            (tmp_path / side).mkdir(exist_ok=True)
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / side / f"{name}.png")
    assert _manifest(str(tmp_path), "train", read(str(tmp_path), "train"))["groups"] == ["ann"]


def test_a_grid_shows_every_picture():
    rows = [torch.stack([torch.full((3, 4, 5), (3 * i + j) / 20) for j in range(3)]) for i in range(5)]
    sheet = grid(rows, columns=2)
    for i in range(5):
        for j in range(3):
            assert int((sheet[0] == (3 * i + j) / 20).sum()) == 20
