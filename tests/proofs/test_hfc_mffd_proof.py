# SPDX-License-Identifier: Apache-2.0
"""What HFC-MFFD's experiment is given: generators that leave the rest alone, worn copies, and rivals of one size."""

from __future__ import annotations

import pytest
import torch

from mien.data.draws import item_seeds
from mien.proofs import hfc_mffd as proof
from mien.proofs.base import Seed
from mien.proofs.resynthesis import GENERATORS, few_of_each, regenerated, zero_insertion


@pytest.fixture
def small(monkeypatch):
    """Six people with three faces each."""
    monkeypatch.setattr(proof, "GENERATED", (6, 3))


def test_generators_keep_what_lies_outside_the_face_and_differ_from_each_other():
    faces = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    made = {name: regenerated(faces, name, 5) for name in GENERATORS}
    for name, image in made.items():
        assert torch.equal(image[..., :2, :2], faces[..., :2, :2]), name
        assert (image - faces)[..., 24:40, 24:40].abs().mean() > 0.02, name
        assert torch.equal(image, regenerated(faces, name, 5))
    names = list(made)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not torch.allclose(made[one], made[other], atol=0.01)


def test_zero_insertion_keeps_brightness():
    flat = torch.full((1, 3, 9, 8), 0.4)
    assert torch.allclose(zero_insertion(flat, item_seeds(0, [0], "x")), flat, atol=1e-6)


def test_no_person_is_in_both_parts_and_four_are_forged_for_one_real(small):
    data, other = proof.make_data("embedded", 100), proof.make_data("embedded", 101)
    train, test = data.part("train"), data.part("test")
    assert not set(train.groups) & set(test.groups)
    assert len(train) == 5 * 3 * 4
    assert len(test) == 5 * 3 * 2
    assert data.test != other.test
    assert [train.kinds.count(kind) for kind in ("real", *GENERATORS)] == [12] * 5
    assert train[0].image.shape == (3, 112, 112)
    worn = data.part("test", worn=True)
    changed = (worn.image.float() - test.image.float()).abs().mean(dim=(1, 2, 3))
    assert (changed > 0.3).all(), "every copy is worn, real and forged alike"
    infrared = data.part("train", infrared=True)
    spread = infrared.image.float().std(dim=1).mean()
    assert spread < 3, "one channel, but for the colours of JPEG"
    assert "generated people" in proof.about("embedded")


def test_the_first_of_each_person_are_kept():
    assert few_of_each(list("aabab"), [4, 0, 1, 2, 3], 1) == [4, 0]


def test_a_rehearsal_measures_variants(small):
    seed = Seed(100, proof.make_data("embedded", 100), max_steps=1)
    counts = {}
    for name in ("hierarchical", "flat", "near-infrared"):
        values = proof.PROOF.variants[name](seed)
        assert 0 <= values[proof.METRIC] <= 1, name
        assert ("accuracy of five classes, clean" in values) == (name != "near-infrared"), name
        counts[name] = values
    assert counts["hierarchical"] != counts["flat"]


def test_the_flat_rival_has_as_many_networks_of_every_stream(small):
    seed = Seed(100, None)
    flat, whole = (proof._method(seed, decision=decision) for decision in ("flat", "hierarchical"))
    for one, other in ((flat.first, whole.first), (flat.second, whole.second)):
        assert one.names() == other.names()
    sizes = [sum(p.numel() for p in method.parameters()) for method in (flat, whole)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    first = [method.first.streams["image"].trunk.state_dict() for method in (flat, whole)]
    assert all(torch.equal(a, b) for a, b in zip(*map(dict.values, first), strict=True)), "the same first weights"


def test_real_recall_is_of_what_a_method_decides(small):
    """A flat one says "real" where real beats each generator; that is not a score below a half."""
    seed = Seed(100, proof.make_data("embedded", 100))
    method = proof._method(seed, decision="flat").eval()
    logits = torch.tensor([0.5, 0.4, 0.4, 0.4, 0.4])  # real has a fifth of the probability, and more than any other
    method.fused = lambda image, *levels: logits.expand(len(image), -1)
    values = proof._values(seed, method)
    assert values["real recall, clean"] == 1
    assert values["balanced accuracy, clean"] == 0.5
