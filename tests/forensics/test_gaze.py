# SPDX-License-Identifier: Apache-2.0
"""The gaze model and its data: bins, angles and losses by hand; published layouts; generated faces."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.data.images import save_png
from mien.errors import BadInput
from mien.forensics.parts.gaze import BINS, GazeTeacher, angle_bins, angular_error, direction, expected_angle, gaze_loss
from mien.forensics.readers import gaze as gaze_data
from mien.forensics.readers.gaze import GazeFiles, gaze360, generated_gaze, mpiifacegaze, read_gaze, with_teacher
from mien.nn.network import Network


def test_expected_angle_is_the_sum_over_bins():
    logits = torch.randn(3, 2, 90)
    p = logits.softmax(dim=-1)
    for i in range(3):
        for j in range(2):
            mean = sum(float(p[i, j, k]) * (4 * k) for k in range(90)) - 180
            assert float(expected_angle(logits)[i, j]) == pytest.approx(mean, abs=1e-3)
    sure = torch.zeros(90)
    sure[50] = 100
    assert float(expected_angle(sure)) == pytest.approx(20)


def test_loss_by_hand():
    logits, gaze = torch.randn(4, 2, 90), torch.tensor([[3.0, -5.0], [40.0, 0.0], [-179.0, 90.0], [500.0, -500.0]])
    entropy, square = gaze_loss(logits, gaze, alpha=0.5)
    log_p = logits.log_softmax(dim=-1)
    bins = [[45, 43], [55, 45], [0, 67], [89, 0]]
    assert angle_bins(gaze).tolist() == bins
    plain = sum(-float(log_p[i, j, bins[i][j]]) for i in range(4) for j in range(2)) / 4
    assert float(entropy) == pytest.approx(plain, rel=1e-5)
    squares = (expected_angle(logits) - gaze).square().mean(dim=0).sum()
    torch.testing.assert_close(square, 0.5 * squares)
    nothing = gaze_loss(logits[:0], gaze[:0])
    assert [float(x) for x in nothing] == [0.0, 0.0]


@settings(max_examples=50, deadline=None)
@given(yaw=st.floats(-179, 179), pitch=st.floats(-89, 89), turn=st.floats(0, 30))
def test_angles_between_directions(yaw, pitch, turn):
    first = torch.tensor([yaw, pitch], dtype=torch.float64)
    assert float(direction(first).norm()) == pytest.approx(1)
    assert float(angular_error(first, first)) == pytest.approx(0, abs=1e-6)
    if abs(pitch + turn) < 90:
        second = torch.tensor([yaw, pitch + turn], dtype=torch.float64)
        assert float(angular_error(first, second)) == pytest.approx(turn, abs=1e-6)
    level = torch.tensor([[yaw, 0.0], [yaw + turn, 0.0]], dtype=torch.float64)
    assert float(angular_error(level[0], level[1])) == pytest.approx(turn, abs=1e-6)


def test_the_teacher_has_two_heads_on_pooled_features():
    teacher = GazeTeacher(Network("tiny_blocks"), 32)
    assert teacher(torch.rand(2, 3, 32, 32)).shape == (2, 2, BINS)
    assert teacher.gaze(torch.rand(2, 3, 32, 32)).shape == (2, 2)
    assert teacher.width == teacher.yaw.in_features == 64


# --- published layouts ----------------------------------------------------------------------------------------
@pytest.fixture
def three_sixty(tmp_path):
    lines = ["rec_000/head/000000/000000.jpg 0 0 -1", "rec_000/head/000000/000001.jpg 0.5 0.5 -0.70710678"]
    lines += ["rec_001/head/000002/000000.jpg -1 0 0", "rec_002/head/000000/000000.jpg 0 -1 0"]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n\n")
    for i, line in enumerate(lines):
        save_png(tmp_path / "imgs" / line.split()[0], torch.full((3, 10, 10), i / 10))
    return tmp_path


def test_gaze360(three_sixty):
    records = gaze360(three_sixty)
    assert [r.group for r in records] == [f"gaze360/rec_00{i}" for i in (0, 0, 1, 2)]
    found = [tuple(round(v, 3) for v in r.gaze) for r in records]
    assert found == [(0, 0), (round(math.degrees(math.atan2(0.5, 0.70710678)), 3), 30), (-90, 0), (0, -90)]
    sample = GazeFiles(records, 8)[2]
    assert sample.image.shape == (3, 8, 8)
    assert sample.gaze.tolist() == [-90, 0]
    assert read_gaze(str(three_sixty)) == records


@pytest.fixture
def laptops(tmp_path):
    rng = np.random.default_rng(0)
    for person in ("p00", "p03"):
        lines = []
        for i in range(2):
            name = f"day01/{i:04d}.jpg"
            landmarks = [20, 20, 28, 20, 34, 20, 42, 20, 24, 40, 38, 40]
            centre, target = [10.0, 20.0, 600.0], [10.0 + 100 * i, 20.0, 0.0]
            numbers = [100, 200, *landmarks, *[0.1] * 6, *centre, *target]
            lines.append(" ".join(map(str, [name, *numbers, "left"])))
            save_png(tmp_path / person / name, torch.from_numpy(rng.random((3, 60, 64), dtype=np.float32)))
        (tmp_path / person / f"{person}.txt").write_text("\n".join(lines))
    return tmp_path


def test_mpiifacegaze(laptops):
    records = read_gaze(str(laptops))
    assert [r.group for r in records] == ["mpiifacegaze/p00"] * 2 + ["mpiifacegaze/p03"] * 2
    assert records[0].gaze == (0, 0)  # straight to the camera
    assert records[1].gaze[0] == pytest.approx(math.degrees(math.atan2(-100, 600)))
    assert records[0].box == (20, 20, 42, 40)
    sample = GazeFiles(records, 16)[0]
    assert sample.image.shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg 1 2", "line 1: 3 cells"),
        ("a.jpg 1 2 x", "could not convert"),
        ("a.jpg 0 0 0", "no direction"),
        ("a.jpg 0 nan 1", "not finite"),
        ("../a.jpg 0 0 -1", "must lie inside"),
        ("", "the list is empty"),
    ],
)
def test_lines_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(BadInput, match=message) as caught:
        gaze360(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_data_say_how_they_must_lie(tmp_path):
    for call in (gaze360, mpiifacegaze, lambda p: read_gaze(str(p)), lambda p: read_gaze(str(p / "none"))):
        with pytest.raises(BadInput, match=r"Gaze360 .* MPIIFaceGaze"):
            call(tmp_path)
    with pytest.raises(BadInput, match="split"):
        gaze360(tmp_path, "all")


def test_generated_faces_are_the_same_every_time_and_at_most_64_pixels_before_they_are_enlarged():
    made = generated_gaze(48, people=3, pictures=4)
    again = generated_gaze(48, people=3, pictures=4)
    assert torch.equal(made.image, again.image)
    assert made.image.shape == (12, 3, 48, 48)
    assert float(made.gaze[:, 0].std()) > 5
    assert len(set(made.groups)) == 3
    large = generated_gaze(80, people=1, pictures=1)
    assert large.image.shape[-1] == 64
    assert large[0].image.shape == (3, 80, 80)


def test_generated_gaze_is_the_turn_of_the_head_plus_that_of_the_eyes(monkeypatch):
    factors = {"yaw": [10.0, 0.0], "pitch": [0.0, -5.0], "gaze_x": [0.5, -1.0], "gaze_y": [0.0, 0.6]}
    values = {name: np.array(column) for name, column in factors.items()}
    rendered = np.zeros((2, 3, 16, 16)), SimpleNamespace(values=values)
    monkeypatch.setattr(gaze_data, "render_faces", lambda *args, **kwargs: rendered)
    made = generated_gaze(16, people=1, pictures=2)
    assert made.gaze.tolist() == [[10 + 0.5 * 30, 0], [-30, -5 + 0.6 * 25]]


def test_the_teachers_phase_has_its_own_data(three_sixty):
    from mien.engine import Phase, TrainingData

    class Clips(TrainingData):
        def train(self, phase):
            return "clips"

        def validation(self, phase):
            return "held"

        def manifest(self):
            return {"groups": ["a"], "files": ["f"], "description": "clips"}

    data = with_teacher(Clips(), str(three_sixty), 16, 0)
    assert data.train(Phase(name="student")) == "clips"
    assert data.validation(Phase(name="student")) == "held"
    train, held = data.train(Phase(name="teacher")), data.validation(Phase(name="teacher"))
    assert not set(train.groups) & set(held.groups)
    assert len(train) + len(held) == 4
    manifest = data.manifest()
    assert len(manifest["files"]) == 5
    assert "gaze teacher: 4 faces" in manifest["description"]
