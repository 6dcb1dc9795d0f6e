# SPDX-License-Identifier: Apache-2.0
"""What FCAN-DCT's experiment is given: forgeries in space or in time alone, other people in the test, one budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.forensics.opening import generated_people
from mien.metrics.binary import auc
from mien.proofs import fcan_dct as proof
from mien.proofs.base import Seed


@pytest.fixture(scope="module")
def face():
    return generated_people(range(1), 1, size=proof.FACE)[0][0].float() / 255


@pytest.fixture(scope="module")
def clips():
    """Sixty clips of each kind, of the same faces under other seeds."""
    faces, _ = generated_people(range(10), 2, size=proof.FACE)
    made = {}
    for kind in ("real", proof.SPACE, proof.TIME):
        made[kind] = [proof.make_clip(faces[i % 20].float() / 255, kind, 1000 + i).float() / 255 for i in range(60)]
    return {kind: torch.stack(of) for kind, of in made.items()}


def test_a_clip_follows_from_its_seed(face):
    first = proof.make_clip(face, proof.TIME, 3)
    assert first.shape == (8, 3, 48, 48)
    assert first.dtype == torch.uint8
    assert torch.equal(first, proof.make_clip(face, proof.TIME, 3))
    assert not torch.equal(first, proof.make_clip(face, proof.TIME, 4))


def test_a_clip_forged_in_time_is_its_original_but_for_a_swing(face):
    """Frame 0 is the still offset at the same phase, so it is the same; later frames swing with the drawn period."""
    real, forged = (proof.make_clip(face, kind, 11).float() / 255 for kind in ("real", proof.TIME))
    assert torch.equal(real[0], forged[0])
    swing = (forged - real)[:, :, 20:28, 20:28].mean(dim=(2, 3))
    assert float(swing[1:].abs().max()) > 0.01
    assert float(swing.abs().max()) < 2 * proof.AMPLITUDE[1] * 3**0.5


def test_a_clip_forged_in_space_is_smoother_in_every_frame(clips):
    def detail(clip):
        return (clip[..., 1:] - clip[..., :-1]).square().mean(dim=(1, 2, 3, 4))

    assert bool((detail(clips[proof.SPACE]) < detail(clips["real"])).float().mean() > 0.9)


def test_no_single_frame_tells_a_swing_but_time_does(clips):
    """The mean colour of a frame, and how far it strays, are the same; what changes between frames is not."""
    kinds = np.array([0] * 60 + [1] * 60)
    both = torch.cat([clips["real"], clips[proof.TIME]])
    frame = both[:, 3].mean(dim=(2, 3))
    strays = (frame - frame.mean(dim=0)).norm(dim=1)
    assert auc(kinds, strays.numpy()) == pytest.approx(0.5, abs=0.13)  # four deviations of 60 against 60
    change = both.mean(dim=(3, 4)).diff(n=2, dim=1).square().mean(dim=(1, 2))
    assert auc(kinds, change.numpy()) > 0.8


def test_people_of_the_test_are_others(monkeypatch):
    monkeypatch.setattr(proof, "COUNTS", (24, 12))
    data = proof.make_data("embedded", 100)
    assert (len(data.train), len(data.test)) == (24, 12)
    assert not set(data.train.groups) & set(data.test.groups)
    assert data.test.kinds.count("real") == 6
    assert data.test.kinds.count(proof.SPACE) == data.test.kinds.count(proof.TIME) == 3
    assert data.train.first(1)[0].image.shape == (1, 3, 48, 48)
    assert not data.test.first(1).training
    assert "24 clips of 8 frames" in proof.about("embedded")
    seed = Seed(100, data, max_steps=2)
    for name in ("mean", "one frame", proof.BOTH, f"{proof.BOTH}, near-infrared"):
        values = proof.PROOF.variants[name](seed)
        assert set(values) == {proof.METRIC, f"AUC, {proof.SPACE}", f"AUC, {proof.TIME}"}


def test_near_infrared_is_one_curve_for_a_clip():
    """No colour is left, and what was brighter is brighter in every frame of the clip."""
    clips = torch.stack([proof.make_clip(torch.full((3, 64, 64), 0.4), "real", seed) for seed in range(3)])
    made = proof.ClipSet(clips, ["real"] * 3, ["a"] * 3).infrared(5)
    assert made.image.shape == clips.shape
    assert bool((made.image[:, :, :1] == made.image).all())
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 1, 3, 1, 1)
    for before, after in zip((clips * weights).sum(dim=2), made.image[:, :, 0].double(), strict=True):
        order = before.flatten().argsort()
        assert bool((after.flatten()[order].diff() >= 0).all())
    assert made.image.float().mean(dim=(1, 2, 3, 4)).unique().numel() == 3


def test_drifting_features_need_more_than_moments():
    """Forged ones alternate; reals move far more, so the deviation tells nothing; the spectrum does."""
    x, y = proof.drifting(600, 100)
    assert auc(y.numpy(), x.std(dim=1).norm(dim=1).numpy()) == pytest.approx(0.5, abs=0.1)
    high = x.diff(n=2, dim=1).square().mean(dim=(1, 2))
    assert auc(y.numpy(), high.numpy()) > 0.7
