# SPDX-License-Identifier: Apache-2.0
"""What FairFD's experiment is given: unequal training, equal tests, people in one part only; and its thresholds."""

from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from mien.metrics.fairness import Judged
from mien.proofs import fairfd as proof
from mien.proofs.base import Seed


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Five races as UTKFace codes them: 0 is frequent, 4 is to be left out; one photograph comes twice."""
    folder = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    rows = [(race, gender) for race, n in (("0", 60), ("1", 12), ("2", 14), ("3", 12), ("4", 30)) for gender in "01"
            for _ in range(n // 2)]  # fmt: skip
    with (folder / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "age", "gender", "race"])
        for i, (race, gender) in enumerate(rows):
            pixels = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
            if i == 1:
                (folder / "1.png").write_bytes((folder / "0.png").read_bytes())
            writer.writerow([f"{i}.png", 40, gender, race])
    return str(folder)


def test_training_is_unequal_and_tests_are_equal(table):
    data = proof.make_data(table, 100)
    test = Counter((row["race"], kind) for row, kind in zip(data.test.attributes, data.test.kinds, strict=True))
    assert {race for race, _ in test} == set("0123")
    assert len({test["1", kind] for kind in ("real", *proof.KINDS)}) == 1
    assert abs(test["0", "real"] - test["3", "real"]) <= 1  # the photograph that comes twice
    genders = Counter((row["race"], row["gender"]) for row in data.test.attributes)
    assert genders["1", "0"] == genders["1", "1"] == genders["3", "0"] == genders["2", "1"]
    frames = data.train.dataset
    train = Counter((frames.attributes[i]["race"], frames.kinds[i]) for i in data.train.indices)
    assert train["0", "self-blend"] == pytest.approx(proof.MAJORITY * train["1", "self-blend"], abs=1)
    assert train["0", "real"] == 3 * train["0", "self-blend"], "as many real images as forged ones"
    poor = [race for race in "0123" if not train[race, proof.MISSING]]
    assert len(poor) == 2
    assert "0" not in poor
    people = [set(frames.groups), set(data.calibration.groups), set(data.test.groups)]
    assert not people[0] & people[1] | people[0] & people[2] | people[1] & people[2]
    assert not (data.calibration.label != 0).any(), "calibrated on real faces alone"


def test_every_seed_has_another_split_and_leaves_other_groups_short(table):
    made = [proof.make_data(table, seed) for seed in (100, 101, 100)]
    assert made[0].test.groups == made[2].test.groups
    assert made[0].test.groups != made[1].test.groups
    assert "race 0: 60, race 1: 12, race 2: 14, race 3: 12" in proof.about(table)


def test_the_matched_threshold_restores_the_rate():
    rng = np.random.default_rng(0)
    score, kind = rng.random(200), np.where(np.arange(200) < 100, "real", "swap")
    judged = Judged(score, kind, np.where(np.arange(200) % 2, "a", "b"), np.arange(200).astype(str))
    for rate in (0.0, 0.37, 1.0):
        found = proof.matched(judged, rate)
        assert found.correct[:100].mean() == pytest.approx(rate)
    shifted = Judged(score / 2, kind, judged.group, judged.unit)
    np.testing.assert_array_equal(proof.matched(shifted, 0.6).correct, proof.matched(judged, 0.6).correct)


def test_the_network_is_about_the_size_that_was_planned():
    assert 90_000 < sum(p.numel() for p in proof.FourLayers().parameters()) < 110_000


def test_every_variant_prunes_the_same_network_with_the_same_calibration(table):
    seed = Seed(100, proof.make_data(table, 100), max_steps=2)
    found = {name: measure(seed) for name, measure in proof.PROOF.variants.items()}
    network = seed.kept["detector"]
    assert not any((m.weight == 0).any() for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    numbers = [m.weight.numel() for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(numbers) == 4
    for name, rho in proof.RHOS.items():
        gone = {variant: values[f"weights set to zero, {name}"] for variant, values in found.items()}
        assert gone.pop("unpruned") == 0
        assert set(gone.values()) == {float(sum(int(rho * n) for n in numbers))}
    keys = {frozenset(values) for values in found.values()}
    assert len(keys) == 1
    assert proof.PROOF.metric in keys.pop()
    unpruned = found["unpruned"]
    assert len({unpruned[f"URDPD, {name}"] for name in proof.RHOS}) == 1
