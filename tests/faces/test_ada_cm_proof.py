# SPDX-License-Identifier: Apache-2.0
"""Ada-CM's experiment: what its variants share, and what is measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.proofs import ada_cm as proof
from mien.proofs.base import Seed


@pytest.fixture
def file(tmp_path):
    """Twelve persons, each with six faces of two expressions."""
    rng = np.random.default_rng(0)
    y = np.arange(72) % 2
    x = (60 + 90 * y[:, None, None] + rng.integers(0, 50, (72, 12, 12))).astype(np.uint8)
    names = np.array([f"S{i // 6:03d}_{i % 6:03d}" for i in range(72)])
    np.savez(tmp_path / "faces.npz", x=x, y=y, name=names, classes=np.array(["calm", "glad"]))
    return str(tmp_path / "faces.npz")


def test_seeds_differ_in_which_faces_are_labelled_and_persons_are_apart(file):
    one, two, other = (proof.make_data(file, seed) for seed in (0, 0, 1))
    assert torch.equal(one.train.label, two.train.label)
    assert not torch.equal(one.train.label, other.train.label)
    assert not set(one.train.data.persons) & set(one.test.data.persons)
    assert "50 of 60 faces" not in proof.about(file)
    assert "30 of 60 faces" in proof.about(file), "half of the smallest class"


def test_a_variant_reports_every_class_and_what_became_of_the_unlabelled(file, monkeypatch):
    monkeypatch.setattr(proof, "EPOCHS", 2)
    monkeypatch.setattr(proof, "PASSES", 12)
    seed = Seed(0, proof.make_data(file, 0))
    values = proof.PROOF.variants[proof.FULL](seed)
    assert values[proof.ACCURACY] == pytest.approx((values["accuracy of calm"] + values["accuracy of glad"]) / 2)
    assert {"share in subset I", "pseudo-labels that are right", "least margin", "largest margin"} <= set(values)
    again = proof.PROOF.variants[proof.FULL](Seed(0, proof.make_data(file, 0)))
    assert again == values
    assert proof.PROOF.variants[proof.FULL](seed) == values, "from the views that the first run drew"
    seed.data.train = proof.FaceViews(seed.data.train.data, seed.data.train.label, proof.SIZE)
    assert proof.PROOF.variants[proof.FULL](seed) == values, "as they would be without being kept"


def test_the_variants_are_what_they_are_called(monkeypatch):
    seen = {}
    monkeypatch.setattr(proof, "_trained", lambda seed, train, **config: config)
    monkeypatch.setattr(proof, "_values", lambda seed, config: config)
    for name in (proof.ONLY, proof.FIXED, proof.RAMP, proof.ADAPTIVE, proof.FULL):
        seen[name] = proof.PROOF.variants[name](Seed(0, type("Data", (), {"train": None})()))
    assert seen[proof.ONLY] == {"unsupervised_weight": 0.0, "contrast_weight": 0.0}
    assert (seen[proof.FIXED]["margin"].kind, seen[proof.FIXED]["margin"].floor) == ("fixed", 0.95)
    assert seen[proof.RAMP]["margin"].kind == "ramp"
    assert seen[proof.ADAPTIVE] == {"contrast_weight": 0.0}
    assert seen[proof.FULL] == {}
