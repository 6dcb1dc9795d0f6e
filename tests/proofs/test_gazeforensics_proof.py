# SPDX-License-Identifier: Apache-2.0
"""What the experiment of GazeForensics is given: eyes that look where they say, jitter and edge of forged clips, a tint
that goes with the label in one test and not in the other, and the same start for all variants."""

from __future__ import annotations

import pytest
import torch

from mien.data.images import save_png
from mien.errors import TrainingStopped
from mien.forensics.opening import generated_people
from mien.metrics.binary import auc
from mien.proofs import gazeforensics as proof
from mien.proofs.base import Seed
from mien.proofs.gaze_clips import Portraits, gaze_clips, gaze_pictures


@pytest.fixture(scope="module")
def data():
    counts = (proof.TRAIN, proof.TEST, proof.PICTURES)
    proof.TRAIN, proof.TEST, proof.PICTURES = 40, 60, (64, 32)
    made = proof.make_data("embedded", 100)
    proof.TRAIN, proof.TEST, proof.PICTURES = counts
    return made


def tint(image):
    """Red over blue of the skin below the eyes, where neither light nor skin tone changes it much."""
    skin = image[..., 28:32, 18:30].float().mean(dim=(1, 3, 4))
    return (skin[:, 0] / skin[:, 2]).numpy()


def test_irises_follow_the_gaze():
    """The dark of the eyes lies to the right where the gaze is to the right, and lower where it is down."""
    image, gaze, _ = gaze_pictures(100, 20, 400)
    dark = (160 - image.float().mean(dim=1)[:, 16:28]).clamp_min(0)
    columns = (dark.sum(dim=1) * torch.arange(48)).sum(dim=1) / dark.sum(dim=(1, 2))
    assert float(torch.corrcoef(torch.stack([columns, gaze[:, 0]]))[0, 1]) > 0.2
    assert float(gaze[:, 0].abs().max()) <= 30
    assert float(gaze[:, 1].abs().max()) <= 20


def test_forged_clips_jitter_at_the_eyes():
    """Between frames the eyes of forged clips change more than those of real ones, the mouth does not."""
    image, label, _ = gaze_clips(100, "x", 20, 80, 8)
    change = image.float().diff(dim=1).square()
    eyes, mouth = change[..., 16:26, :].mean(dim=(1, 2, 3, 4)), change[..., 32:40, :].mean(dim=(1, 2, 3, 4))
    assert auc(label.numpy(), eyes.numpy()) > 0.7
    assert auc(label.numpy(), mouth.numpy()) == pytest.approx(0.5, abs=0.2)
    still, _, _ = gaze_clips(100, "x", 20, 80, 8, jitter=False)
    assert torch.equal(still[::2], image[::2])
    assert not torch.equal(still[1::2], image[1::2])


def test_the_tint_goes_with_the_label_where_it_should(data):
    for part, low, high in ((data.train, 0.65, 1.0), (data.inside, 0.65, 1.0), (data.shifted, 0.3, 0.7)):
        label = [int(kind != "real") for kind in part.kinds]
        assert low <= auc(label, tint(part.image)) <= high
    assert data.inside.groups == data.shifted.groups
    assert not set(data.train.groups) & set(data.inside.groups)


def test_variants_share_the_teacher(data):
    seed = Seed(100, data, max_steps=2)
    found = {}
    for name in (proof.GUIDED, "frozen teacher", "unguided, from random weights"):
        found[name] = proof.PROOF.variants[name](seed)
    assert len({values["gaze_degrees"] for values in found.values()}) == 1
    assert {proof.SHIFTED, proof.INSIDE} <= set(found[proof.GUIDED])


def test_a_poor_teacher_stops_the_experiment(data, monkeypatch):
    monkeypatch.setattr(proof, "TEACHER_EPOCHS", 1)
    with pytest.raises(TrainingStopped, match="gaze teacher errs"):
        proof.PROOF.variants[proof.GUIDED](Seed(100, data))


@pytest.fixture
def photographs(tmp_path):
    """A folder of ten people with two faces each."""
    faces, people = generated_people(range(10), 2, 112)
    for i, (face, name) in enumerate(zip(faces, people, strict=True)):
        (tmp_path / name).mkdir(exist_ok=True)
        save_png(tmp_path / name / f"{i}.png", face.float() / 255)
    return tmp_path


def test_eyes_are_drawn_on_photographs_of_people_who_share_no_part(photographs, monkeypatch):
    for name, value in (("TRAIN", 8), ("TEST", 6), ("PICTURES", (16, 8))):
        monkeypatch.setattr(proof, name, value)
    made, other = proof.make_data(str(photographs), 100), proof.make_data(str(photographs), 101)
    assert not torch.equal(made.train.image, other.train.image)
    parts = [set(part.people) for part in proof._portraits(str(photographs), 100)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 10
    assert set(made.train.groups) <= parts[2]
    assert set(made.inside.groups) <= parts[3]
    assert made.inside.groups == made.shifted.groups
    assert "20 photographs of 10 people" in proof.about(str(photographs))


def test_only_the_eyes_of_a_photograph_are_drawn():
    grey = Portraits(torch.full((1, 3, 48, 48), 128, dtype=torch.uint8), ["p"])
    image, label, _ = gaze_clips(100, "x", grey, 8, 4)
    mean = image[label == 0].float().mean(dim=2)
    spread = mean.flatten(2).std(dim=2)[..., None, None]
    plain = mean[..., 36:, :].mean(dim=(2, 3), keepdim=True)
    changed = (mean - plain).abs() > 25
    assert spread.min() > 0
    assert changed[..., 14:30, :].any()
    assert not changed[..., :14, :].any()
    assert not changed[..., 30:, :].any()
