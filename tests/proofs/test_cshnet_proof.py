# SPDX-License-Identifier: Apache-2.0
"""CSHNet's proof: variants of one size, data of a seed, and that it runs whole on a folder and on generated scenes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mien.errors import BadInput
from mien.proofs import cshnet as proof
from mien.proofs.base import Seed
from mien.proofs.cshnet import ARCHITECTURES, EDGES, METRIC, PROOF, PURE, UNET, make_data
from mien.proofs.runner import Plan, run_seed
from mien.synthesis.data import Translation
from mien.synthesis.pix2pix import UNet
from mien.synthesis.polygons import scene


def folder_of_pairs(folder: Path, count: int = 24) -> Path:
    """Two pairs of each person."""
    folder.mkdir()
    poor, rich = (np.stack(side) for side in zip(*(scene(i) for i in range(count)), strict=True))
    np.savez(folder / "pairs.npz", sketch=poor, photo=rich, name=np.array([f"person {i // 2}" for i in range(count)]))
    return folder


def test_all_variants_have_the_size_of_the_guided_hybrid():
    with torch.device("meta"):
        nets = {name: architecture.build() for name, architecture in ARCHITECTURES.items()}
        nets["U-Net"] = UNet(UNET)  # type: ignore[assignment]
    sizes = {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}
    wanted = sizes["SEC/CES + IGC"]
    assert all(abs(size / wanted - 1) < 0.015 for size in sizes.values()), sizes


def test_people_of_training_and_test_differ_and_every_seed_splits_anew(tmp_path: Path):
    data = str(folder_of_pairs(tmp_path / "pairs"))
    one, other = make_data(data, 0), make_data(data, 1)
    for made in (one, other):
        assert len(made.test) == 4
        assert len(made.train) == 20
        assert not set(made.train.groups) & set(made.test.groups)
    assert set(one.test.groups) != set(other.test.groups)
    assert one.train.flip
    assert not one.test.flip


def test_constant_is_the_error_of_the_median_picture(tmp_path: Path):
    made = make_data(str(folder_of_pairs(tmp_path / "pairs")), 0)
    train, test = (torch.stack([data.pairs[i].target for i in range(len(data))]) for data in (made.train, made.test))  # type: ignore[misc]
    expected = np.mean([np.abs(picture - np.median(train.numpy(), axis=0)).mean() / 255 for picture in test.numpy()])
    assert made.constant == pytest.approx(expected)
    # And no picture of one colour is nearer.
    assert made.constant < min(np.abs(test.numpy() / 255 - level).mean() for level in np.linspace(0, 1, 11))


def test_scenes_of_seeds_and_parts_differ(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(proof, "SCENES", 4)
    monkeypatch.setattr(proof, "TEST_SCENES", 3)
    groups = [
        set(part.groups)
        for seed in (0, 1)
        for part in (make_data("embedded", seed).train, make_data("embedded", seed).test)
    ]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 14


def test_shuffled_targets_are_those_of_others():
    torch.manual_seed(0)
    common = proof._common(0.0)
    control = proof.Shuffled(architecture=ARCHITECTURES["8 CNN"], **common).eval()
    honest = proof.CSHNet(architecture=ARCHITECTURES["8 CNN"], **common).eval()
    honest.load_state_dict(control.state_dict())
    given, truth = torch.rand(3, 3, 64, 64), torch.rand(3, 3, 64, 64)
    wrong = control.generator_losses(Translation(given, truth))["l1"]
    moved = honest.generator_losses(Translation(given, truth[[2, 0, 1]]))["l1"]
    assert float(wrong.detach()) == pytest.approx(float(moved.detach()))


def test_the_baseline_is_the_better_pure_one(monkeypatch: pytest.MonkeyPatch):
    values = {"8 CNN": 0.4, "8 Swin": 0.3}
    monkeypatch.setattr(proof, "_hybrid", lambda name: lambda seed: {METRIC: values[name]})
    assert PROOF.variants[PURE](Seed(0, None))[METRIC] == 0.3


@pytest.mark.parametrize("data", ["folder", "embedded"])
def test_every_variant_runs(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(proof, "SCENES", 8)
    monkeypatch.setattr(proof, "TEST_SCENES", 4)
    source = str(folder_of_pairs(tmp_path / "pairs")) if data == "folder" else "embedded"
    plan = Plan("mien.proofs.cshnet:PROOF", source, tmp_path / "pieces", max_steps=1)
    plan.pieces.mkdir()
    run_seed(plan, 0)
    pieces = [json.loads(path.read_text()) for path in plan.pieces.glob("*.json")]
    assert {piece["variant"] for piece in pieces} == set(PROOF.variants)
    assert all(0 < piece["values"][METRIC] < 20 and 0 <= piece["values"]["edge F1"] <= 1 for piece in pieces)
    assert set(EDGES.variants) <= set(PROOF.variants)


def test_too_few_people_are_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="the proof needs 12 groups or more"):
        make_data(str(folder_of_pairs(tmp_path / "few", 10)), 0)
