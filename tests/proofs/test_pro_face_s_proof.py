# SPDX-License-Identifier: Apache-2.0
"""What PRO-Face S's experiment is given: other persons to test on, and photographs that show none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mien.proofs import pro_face_s as proof
from mien.proofs.base import Seed

UNSEEN = "PSNR of unseen photographs, dB"


@pytest.fixture
def small(monkeypatch):
    """Six people with six faces each, and a matcher of one step."""
    monkeypatch.setattr(proof, "GENERATED", (6, 6))
    monkeypatch.setattr(proof, "MATCHER_STEPS", 1)


@pytest.fixture
def photographs(tmp_path):
    """Three loose pictures, not all as wide as high."""
    noise = np.random.default_rng(0)
    for i, size in enumerate([(40, 60), (64, 64), (90, 50)]):
        Image.fromarray(noise.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / f"{i}.png")
    return str(tmp_path)


def test_nobody_is_trained_and_tested(small):
    data = proof.make_data("embedded", 100)
    assert len(set(data.train.groups)) == 4
    assert len(set(data.person)) == 2
    assert data.photographs.shape == (48, 3, 32, 32)


def test_loose_pictures_are_the_unseen_photographs(small, photographs):
    data = proof.make_data(photographs, 100)
    assert data.photographs.shape == (3, 3, 32, 32)
    assert "3 photographs" in proof.about(photographs)
    found = [
        proof.PROOF.variants[proof.RIGHT](Seed(100, proof.make_data(source, 100), max_steps=1))
        for source in ("embedded", photographs)
    ]
    assert found[0][UNSEEN] != found[1][UNSEEN]
    assert found[0][proof.METRIC] == found[1][proof.METRIC], "the faces are the same"
