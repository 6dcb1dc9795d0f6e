# SPDX-License-Identifier: Apache-2.0
"""NCPLR's proof: what it is made from, and that it runs whole on a folder of a user's and on generated people."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mien.clustering.jaccard import jaccard_neighbours
from mien.data.pedestrians import photograph_pedestrians, sample_pedestrians
from mien.proofs.base import Seed
from mien.proofs.fixed_features import FixedFeatures, wrong_labels
from mien.proofs.ncplr import KNOWN, LABELS, PROOF, Persons, _starting_weights, make_data
from mien.proofs.runner import Plan, gather, run_seed


def folder_of_persons(root, people=12, pictures=4):
    everybody = sample_pedestrians(people, 5)
    who, camera = np.repeat(np.arange(people), 2 * pictures), np.tile(np.arange(2 * pictures) % 2, people)
    for number, crop in enumerate(photograph_pedestrians(everybody, who, camera, seed=9, height=48, width=24)):
        path = root / f"{who[number]:03d}" / f"{camera[number] + 1:02d}_{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((crop.transpose(1, 2, 0) * 255).astype(np.uint8)).save(path)
    return root


def test_persons_of_training_and_test_differ_and_every_seed_splits_anew(tmp_path):
    folder_of_persons(tmp_path)
    splits = []
    for seed in range(3):
        data = make_data(str(tmp_path), seed)
        train, test = set(data.train.groups), set(data.test.groups)
        assert not train & test
        assert (len(train), len(test)) == (8, 4)
        splits.append(frozenset(test))
    assert len(set(splits)) > 1
    assert PROOF.about(str(tmp_path)).startswith("12 persons")
    generated = make_data("embedded", 0)
    assert not set(generated.train.groups) & set(generated.test.groups)


def test_thirty_percent_of_the_labels_are_wrong_half_of_them_by_whole_cameras():
    truth, camera = np.repeat(np.arange(20), 16), np.tile(np.repeat([0, 1], 8), 20)
    label = wrong_labels(truth, camera, np.random.default_rng(0))
    wrong = label != truth
    assert wrong.mean() == 0.3
    assert label.max() < 20
    by_camera = wrong.reshape(20, 2, 8).all(axis=2)
    assert by_camera.sum() * 8 / len(truth) == 0.15


def test_a_classifier_on_wrong_labels():
    rng = np.random.default_rng(0)
    truth, camera = np.repeat(np.arange(6), 30), np.tile(np.arange(3), 60)
    z = 4 * np.eye(16)[truth] + 1.5 * rng.normal(size=(180, 16))
    points = torch.nn.functional.normalize(torch.from_numpy(z), dim=1)
    near = jaccard_neighbours(points, k1=20, k2=6, radius=0.6)
    fixed = FixedFeatures.of(torch.from_numpy(z), truth, camera, near, np.random.default_rng(1))
    assert np.array_equal(fixed.present.numpy().sum(axis=1), np.diff(near.start))

    def share(how):
        return fixed.labelled_rightly(how, torch.Generator().manual_seed(0))

    unit, label = points.numpy(), fixed.label.numpy()
    centre = np.array([unit[label == c].mean(axis=0) for c in range(6)])
    centre /= np.linalg.norm(centre, axis=1, keepdims=True)
    assert share("start") == pytest.approx(np.mean((z @ centre.T).argmax(axis=1) == truth))
    assert share("late") < share("early"), "in the end wrong labels are learnt by heart"
    assert share("refined") > share("late")
    assert share("refined") == share("refined")


def test_every_variant_runs_on_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("mien.proofs.ncplr.STARTING", (20, 4, 1))
    monkeypatch.setattr("mien.proofs.fixed_features.LATE", 5)
    folder_of_persons(tmp_path / "people", people=15, pictures=6)
    plan = Plan("mien.proofs.ncplr:PROOF", str(tmp_path / "people"), tmp_path / "pieces", max_steps=2)
    plan.pieces.mkdir()
    run_seed(plan, 0)
    values = {}
    for path in plan.pieces.glob("*.json"):
        piece = json.loads(path.read_text())
        values[piece["variant"]] = piece["values"]
    assert set(values) == set(PROOF.variants)
    for name, found in values.items():
        assert 0 <= found["mAP"] <= 1, name
    assert values["NCPLR"]["share with neighbours in the batch"] > 0
    without = {name for name, found in values.items() if LABELS not in found}
    assert without == {"random weights", "GL-NCPLR", "shuffled clusters", KNOWN}


def test_every_seed_has_a_classifier_for_its_own_crops(monkeypatch):
    """Fails when a seed's size is kept for the next one, whose folder may have more crops."""
    sizes = []

    def fitted(*_, max_clusters, **__):
        sizes.append(max_clusters)
        raise KeyboardInterrupt

    monkeypatch.setattr("mien.proofs.ncplr._fitted", fitted)
    monkeypatch.setattr("mien.proofs.ncplr._starting_weights", lambda seed: {})
    for crops in (40, 400):
        with pytest.raises(KeyboardInterrupt):
            PROOF.variants["NCPLR"](Seed(0, Persons(range(crops), None)))
    assert sizes == [10, 100]


def test_the_controls_can_fail():
    values = {name: {"0": {"mAP": 0.1}, "1": {"mAP": 0.1}} for name in PROOF.variants}
    for control, bound in (("random weights", "start"), ("shuffled clusters", "Cluster Contrast")):
        for below, passed in ((0.05, True), (-0.05, False)):
            given = values | {bound: {seed: {"mAP": 0.1 + below} for seed in "01"}}
            found = gather(PROOF, given, {}, "embedded", None)["controls"]
            assert found[control]["passed"] is passed


def test_halves_start_as_the_whole(monkeypatch):
    monkeypatch.setattr("mien.proofs.ncplr.STARTING", (10, 4, 1))
    start = _starting_weights(Seed(0, None, max_steps=1))
    names = [name for name in start if "necks.0" in name]
    assert len(names) >= 4
    assert all(torch.equal(start[name], start[name.replace("necks.0", f"necks.{i}")]) for name in names for i in (1, 2))
