# SPDX-License-Identifier: Apache-2.0
"""What PFR-Forgery's experiment is given: clients that share no person, cameras that change no label, equal steps."""

from __future__ import annotations

import pytest
import torch

from mien.engine import fit
from mien.proofs import pfr_forgery as proof
from mien.proofs.base import Seed


@pytest.fixture
def small(monkeypatch):
    """Twelve people with two faces each."""
    monkeypatch.setattr(proof, "GENERATED", (12, 2))
    monkeypatch.setattr(proof, "BATCH", 4)


def test_clients_share_no_person_and_nobody_is_tested_who_was_trained_on(small, monkeypatch):
    monkeypatch.setattr(proof, "FEW", 1)
    data = proof.make_data("embedded", 100)
    owned = [set(client.groups) for client in data.clients[proof.MANY]]
    assert sum(map(len, owned)) == len(set.union(*owned)) == 8
    for test, kind in zip(data.tests, proof.KINDS, strict=True):
        assert not set(test.groups) & set.union(*owned)
        assert set(test.kinds) == {"real", kind}
        assert int(test.label.sum()) * 2 == len(test)
    assert set(data.unknown.kinds) == {"real", proof.UNKNOWN}
    assert data.clients[proof.MANY][0][0].image.shape == (3, 64, 64)
    few = data.clients[1]
    assert [set(client.groups) for client in few] == owned
    assert [len(client) for client in few] == [2 * len(people) for people in owned], "one face and its forgery of each"
    assert all(set(part.kinds) == {"real", kind} for part, kind in zip(few, proof.KINDS, strict=True))


def test_a_camera_lies_over_real_and_forged_alike(small):
    one, other = proof.Camera.drawn(100, 0), proof.Camera.drawn(100, 1)
    assert not torch.equal(one.gain, other.gain)
    image = torch.rand(2, 3, 4, 4)
    expected = (one.gain[1] * image[1, 1, 2, 3] ** one.gamma[1] + one.offset[1]).clamp(0, 1)
    assert torch.allclose(one(image)[1, 1, 2, 3], expected[0, 0])
    faces, people = proof._load("embedded")
    with_camera = proof.Pairs(faces[:4], people[:4], "nearest", 0, one)
    without = proof.Pairs(faces[:4], people[:4], "nearest", 0, None)
    shift = [(with_camera.image - without.image.float()).mean(dim=(0, 2, 3))[c] for c in range(3)]
    assert max(abs(float(s)) for s in shift) > 2
    means = with_camera.image.float().mean(dim=(2, 3))
    assert torch.allclose(means[:4], means[4:], atol=6), "it tells clients apart, not labels"


def test_a_rehearsal_measures_variants_with_as_many_steps(small, monkeypatch):
    seed, made = Seed(100, proof.make_data("embedded", 100), max_steps=1), {}

    def counted(method, data, **rest):
        run = fit(method, data, **rest)
        made.setdefault(name, 0)
        phases = len(method.built)
        made[name] += phases * rest["settings"].max_steps
        return run

    monkeypatch.setattr(proof, "fit", counted)
    for name in ("FedPR", "FedAvg", "two heads alone", "FedPR, matching", "local only", "local only, few faces"):
        values = proof.PROOF.variants[name](seed)
        assert 0 <= values[proof.METRIC] <= 1, name
        mean = sum(values[f"AUC, {kind}"] for kind in proof.KINDS) / 4
        assert values[proof.METRIC] == pytest.approx(mean)
    assert set(made.values()) == {8}, "two rounds of four clients, or two passes of each alone"


def test_clients_are_measured_with_their_own_models(small, monkeypatch):
    seed, seen = Seed(100, proof.make_data("embedded", 100), max_steps=1), []
    monkeypatch.setattr(proof, "_values", lambda models, data: seen.append(models))
    for name in ("FedPR", "FedAvg"):
        proof.PROOF.variants[name](seed)
    own, common = seen
    heads = [model.own.path.head.weight for model in own]
    assert not torch.equal(heads[0], heads[1])
    assert torch.equal(own[0].shared.mean, own[1].shared.mean)
    assert len({id(model) for model in common}) == 1
