# SPDX-License-Identifier: Apache-2.0
"""MDIT's experiment: what its variants share, and that each really is what its name says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.errors import BadInput
from mien.proofs import mdit as proof
from mien.proofs.base import Seed
from mien.supervision.data import truth_of
from mien.supervision.method import NoisyLabelClassifier
from mien.supervision.noise import one_hot


@pytest.fixture
def short(monkeypatch):
    """A small experiment on digits."""
    for name, value in (("IMAGES", 300), ("WARM", 1), ("EPOCHS", 2), ("EVERY", 1)):
        monkeypatch.setattr(proof, name, value)
    return Seed(3, proof.make_data("embedded", 3))


def test_a_seed_has_its_own_images_and_noise_which_all_variants_share():
    one, two, other = (proof.make_data("embedded", seed).train for seed in (0, 0, 1))
    assert one.data.names == two.data.names
    assert torch.equal(one.label, two.label)
    assert one.data.names != other.data.names or not torch.equal(one.label, other.label)
    truth = truth_of(one)
    assert 0.2 < float((one.label != truth.label).double().mean()) < 0.4


def test_test_labels_are_true_and_no_test_image_is_trained_on(tmp_path):
    data = proof.make_data("embedded", 0)
    assert not set(data.train.data.hashes()) & set(data.test.data.hashes())
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "one.npz", x=x, y=np.arange(60) % 3)
    whole = proof.make_data(str(tmp_path / "one.npz"), 0)
    assert len(whole.train) + len(whole.test) == 60
    assert not set(whole.train.data.hashes()) & set(whole.test.data.hashes())


def test_multiplied_disgust_is_left_out_of_fer2013(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"{part}_x": rng.integers(0, 255, (30, 8, 8), dtype=np.uint8) for part in ("train", "test")}
    arrays |= {f"{part}_y": np.arange(30) % 3 for part in ("train", "test")}
    classes = np.array(["angry", "disgust", "fear"])
    for name, kept in (("fer2013", ("angry", "fear")), ("other", ("angry", "disgust", "fear"))):
        np.savez(tmp_path / f"{name}.npz", **arrays, classes=classes)
        assert proof.make_data(str(tmp_path / f"{name}.npz"), 0).classes == kept
        assert f"{len(kept)} classes" in proof.about(str(tmp_path / f"{name}.npz"))


def test_all_variants_make_the_same_updates_from_the_same_weights(short, monkeypatch):
    made, first = [], []
    monkeypatch.setattr(NoisyLabelClassifier, "after_step", lambda self: made.append(self.warming_up))
    make = proof._make

    def noting(*args, **kwargs):
        method = make(*args, **kwargs)
        first.append(method.classifier.state_dict()["body.fc.weight"].clone())
        return method

    monkeypatch.setattr(proof, "_make", noting)
    joint = {}
    for name in (proof.CE, proof.FORWARD, proof.MDIT_, proof.ALL, proof.LOWEST):
        made.clear()
        values = proof.PROOF.variants[name](short)
        joint[name] = made.count(False)
        assert 0 <= values["accuracy"] <= 1
    assert set(joint.values()) == {4}, "2 epochs over 240 confident images of 300, in batches of 128"
    assert all(torch.equal(weight, first[0]) for weight in first)
    assert set(short.kept) == {"plain", "entropy"}


def test_the_error_of_cross_entropy_is_that_of_the_identity(short):
    data = short.data.train
    truth = truth_of(data)
    method = proof._make(short, proof.NoisyCE)
    expected = (one_hot(truth.label, 10) - truth.rows).abs().sum() / truth.rows.sum()
    assert proof.error_of(method, data) == pytest.approx(float(expected), rel=1e-5)


def test_the_control_has_labels_by_lot(short, monkeypatch):
    seen = {}
    monkeypatch.setattr(proof, "_trained", lambda seed, *_a, **_k: seen.update(data=seed.data.train) or "method")
    monkeypatch.setattr(proof, "_values", lambda seed, method: {})
    proof._by_lot(short)
    ours, theirs = seen["data"].label, short.data.train.label
    assert torch.equal(torch.bincount(ours), torch.bincount(theirs))
    assert float((ours == theirs).double().mean()) < 0.3


def test_data_that_do_not_exist_are_one_line(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        proof.about(str(tmp_path / "none"))
