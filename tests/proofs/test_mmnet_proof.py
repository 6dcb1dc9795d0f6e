# SPDX-License-Identifier: Apache-2.0
"""What MMNet's experiment is given, its control, and that it runs whole on a folder of a user's."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from mien.forensics.mmnet import MMNet
from mien.forensics.opening import generated_people
from mien.proofs import mmnet as proof
from mien.proofs.base import Seed
from mien.proofs.mmnet import BASELINE, METRIC, PROOF, OrdersByLot, make_data, shuffled_lists
from mien.proofs.runner import Plan, run_seed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("people")
    faces, names = generated_people(range(60, 66), 3, size=64)
    for i, (face, name) in enumerate(zip(faces, names, strict=True)):
        (root / name).mkdir(exist_ok=True)
        Image.fromarray(face.permute(1, 2, 0).numpy()).save(root / name / f"{i}.png")
    return root


def test_people_of_training_and_test_differ_and_every_seed_splits_anew(folder):
    one, other = make_data(str(folder), 100), make_data(str(folder), 101)
    for data in (one, other):
        assert not set(data.train.groups) & set(data.test.groups)
        assert (len(data.train), len(data.test)) == (12 * proof.COPIES, 6)
        assert data.train.training
        assert not data.test.training
    assert set(one.test.groups) != set(other.test.groups) or not torch.equal(one.test.sequence, other.test.sequence)
    assert "6 people, 18 photographs" in proof.about(str(folder))


def test_the_control_keeps_the_regions_and_draws_their_order():
    torch.manual_seed(0)
    lists = torch.tensor([[1, 2, 3, 0, 0], [0] * 5, [5, 0, 0, 0, 0]]).repeat(200, 1)
    drawn = shuffled_lists(lists)
    assert torch.equal(drawn.sort(dim=1).values, lists.sort(dim=1).values)
    assert torch.equal(drawn[1::3], lists[1::3])
    assert bool((drawn[:, :-1].eq(0) <= drawn[:, 1:].eq(0)).all()), "padding comes last"
    assert len({tuple(row) for row in drawn[::3].tolist()}) == 6


def test_variants_differ_by_their_parts_alone(monkeypatch):
    made = []
    monkeypatch.setattr(proof, "_fit", lambda method, *rest: made.append(method))
    monkeypatch.setattr(proof, "_values", lambda seed, method: {METRIC: 0.0})
    seed = Seed(100, None)
    for name, variant in PROOF.variants.items():
        if "recovery" not in name:
            variant(seed)
    one, scales, presence, both, control = made
    assert isinstance(control, OrdersByLot)
    assert [m.scales for m in made] == [(5,), (3, 4, 5), (3, 4, 5), (3, 4, 5), (5,)]
    assert [(m.presence, m.backward) for m in made] == [
        (False, False),
        (False, False),
        (True, False),
        (True, True),
        (False, False),
    ]
    weights = [m.detector.backbone.state_dict() for m in made]
    assert all(torch.equal(weights[0][k], w[k]) for w in weights for k in w), "all start from the same backbone"
    same = {key: value for key, value in one.config().items() if key not in BASELINE}
    assert all({k: v for k, v in m.config().items() if k not in BASELINE} == same for m in (scales, presence, both))


def test_every_variant_runs_on_a_folder(folder, tmp_path):
    (tmp_path / "pieces").mkdir()
    run_seed(Plan("mien.proofs.mmnet:PROOF", str(folder), tmp_path / "pieces", max_steps=2), 100)
    values = {}
    for path in (tmp_path / "pieces").glob("*.json"):
        piece = json.loads(path.read_text())
        values[piece["variant"]] = piece["values"]
    assert set(values) == set(PROOF.variants)
    full = values["MMNet, recovery by all signals"]
    assert full[METRIC] == values["+ backwards (MMNet)"][METRIC]
    assert {
        "PSNR inside",
        "PSNR outside, left as it is",
        "called edited after the recovery by a second detector",
    } <= set(full)
    assert "PSNR" not in values["one scale, forwards"]


def test_what_detectors_call_edited():
    method = MMNet(**{**SMALL, **BASELINE}).eval()
    people = generated_people(range(2), 3, size=64)
    test = proof.EditedFrames(proof.People(*people, [], {}), 64, copies=2)

    class Same(MMNet):
        def recovered(self, image, read, sequence):
            return image, image[:, :1]

    same = Same(**{**SMALL, **BASELINE}).eval()
    counts = proof.still_edited(same, method, test)
    assert counts["called edited by its own detector"] == counts["called edited after the recovery by its own detector"]
    edited = test.sequence[:, 0] != 0
    odds = method.detector.edited_odds(method.detector(test.image[edited].float() / 255))
    assert counts["called edited by a second detector"] == pytest.approx(float((odds > 0).float().mean()))


SMALL = {"network": proof.Network("tiny_pyramid"), "image_size": 64, "width": 16, "hidden": 16, "decoder_layers": 1}
