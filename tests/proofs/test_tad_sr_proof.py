# SPDX-License-Identifier: Apache-2.0
"""TAD-SR's proof: its figures by hand, its split, that variants share teacher and noise, and that each runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mien.data.images import save_png
from mien.engine import Settings, Stages
from mien.errors import BadInput
from mien.proofs import tad_sr as proof
from mien.proofs.base import Seed
from mien.proofs.runner import Plan, run_seed
from mien.proofs.tad_sr import METRIC, PROOF, detail_distance, laplacian, make_data, radial_spectrum, spectrum_distance
from mien.restoration.data import Picture


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CROPS": 16, "TEST_CROPS": 6, "MEAN_OF": 2}.items():
        monkeypatch.setattr(proof, name, value)


def folder(path: Path, names: list[str], side: int = 40) -> str:
    """Pictures of noise, each with a brightness of its own."""
    generator = torch.Generator().manual_seed(0)
    for i, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        save_png(path / name, 0.1 * torch.rand(3, side, side, generator=generator) + i / 12)
    return str(path)


def shown(pictures: list[Picture | torch.Tensor]) -> set[str]:
    return {p.path.name if isinstance(p, Picture) else str(float(p.double().sum())) for p in pictures}


# --- figures --------------------------------------------------------------------------------------------------------
def test_laplacian_is_the_loop():
    image = torch.rand(2, 1, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for found, one in zip(laplacian(image).tolist(), image[:, 0].numpy(), strict=True):
        squares = [
            (one[y - 1, x] + one[y + 1, x] + one[y, x - 1] + one[y, x + 1] - 4 * one[y, x]) ** 2
            for y in range(1, 4)
            for x in range(1, 5)
        ]
        assert found == pytest.approx(np.mean(squares))
    ramp = torch.arange(36.0).reshape(1, 1, 6, 6)
    assert float(laplacian(ramp)) == 0  # a ramp has no detail
    assert float(laplacian(2 * image)[0]) == pytest.approx(4 * float(laplacian(image)[0]))


def test_spectrum_by_sums_over_frequencies():
    """The definition of the transform in plain loops, rings of the first picture's size."""
    image = torch.rand(2, 1, 7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    power: dict[int, list[float]] = {}
    for u in range(7):
        for v in range(7):
            fu, fv = (k / 7 if k <= 3 else k / 7 - 1 for k in (u, v))
            waves = [[np.exp(-2j * math.pi * (u * y + v * x) / 7) for x in range(7)] for y in range(7)]
            mean = np.mean([abs((one[0].numpy() * np.array(waves)).sum()) ** 2 for one in image])
            power.setdefault(int(math.hypot(fu, fv) / 0.5 * 3), []).append(float(mean))
    expected = [math.log(np.mean(power[ring])) for ring in range(3)]
    assert radial_spectrum(image, rings=3).tolist() == pytest.approx(expected)


def test_a_wave_is_in_its_ring():
    place = torch.arange(32, dtype=torch.float64)
    wave = torch.cos(2 * math.pi * 9 * place / 32).expand(1, 1, 32, 32)
    assert int(radial_spectrum(wave).argmax()) == int(9 / 32 / 0.5 * 12)


def test_distances_are_zero_for_equal_pictures_and_known_for_scaled_ones():
    image = torch.rand(3, 1, 16, 16)
    assert detail_distance(image, image) == spectrum_distance(image, image) == 0
    for factor in (0.5, 3.0):  # too little detail is as far as too much
        assert detail_distance(factor * image, image) == pytest.approx(2 * abs(math.log(factor)), rel=1e-5)
        assert spectrum_distance(factor * image, image) == pytest.approx(2 * abs(math.log(factor)), rel=1e-5)


# --- data -----------------------------------------------------------------------------------------------------------
def test_the_held_out_folder_is_tested_on_and_never_trained_on(tmp_path: Path):
    data = folder(tmp_path, [f"BSD100/{i}.png" for i in range(5)] + ["Set14/a.png", "Set14/b.png"])
    train, test = proof._pictures(data)
    assert shown(train) == {f"{i}.png" for i in range(5)}
    assert shown(test) == {"a.png", "b.png"}
    assert "from 5 pictures, tested on 6 from 2 others" in proof.about(data)
    made = make_data(data, 0)
    assert made.train.image.mean(dim=(1, 2, 3)).max() < 5 / 12 < made.test.image.mean(dim=(1, 2, 3)).min()


@pytest.mark.parametrize("source", ["folder", "embedded"])
def test_no_picture_is_on_both_sides(source: str, tmp_path: Path):
    data = folder(tmp_path, [f"{i}.png" for i in range(6)]) if source == "folder" else source
    train, test = proof._pictures(data)
    assert shown(train)
    assert shown(test)
    assert not shown(train) & shown(test)


def test_crops_are_the_detailed_half_and_others_for_every_seed(tmp_path: Path):
    data = folder(tmp_path, [f"{i}.png" for i in range(6)])
    one, again, other = (make_data(data, seed) for seed in (0, 0, 1))
    assert one.train.image.shape == (16, 1, 32, 32)
    assert one.train.degraded.shape == (16, 1, 8, 8)
    assert torch.equal(one.train.image, again.train.image)
    assert torch.equal(one.test.degraded, again.test.degraded)
    assert not torch.equal(one.train.image, other.train.image)
    flat = [torch.full((1, 40, 40), 0.5), torch.rand(1, 40, 40)]
    assert laplacian(proof._crops(flat, 8, 0).image).min() > 0.01  # type: ignore[arg-type]


def test_too_little_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="2 pictures: the proof needs 3 or more"):
        make_data(folder(tmp_path / "few", ["0.png", "1.png"]), 0)
    with pytest.raises(BadInput, match="no picture of at least 32 x 32"):
        make_data(folder(tmp_path / "small", [f"{i}.png" for i in range(4)], side=20), 0)


# --- variants -------------------------------------------------------------------------------------------------------
def test_every_variant_runs_from_one_teacher_which_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trained: list[tuple[str, dict[str, torch.Tensor], torch.Tensor | None, Settings]] = []
    real = proof.fit

    def watched(method: proof.TADSR, data: proof.Crops, *, schedule: Stages, settings: Settings) -> None:
        (stage,) = schedule.epochs
        weights = {name: value.clone() for name, value in method.teacher.state_dict().items()}
        trained.append((stage, weights, data.target, settings))
        real(method, data, schedule=schedule, settings=settings)
        if stage == "student":
            assert method.student is not None
            assert all(torch.equal(weights[name], value) for name, value in method.teacher.state_dict().items())
            assert any(not torch.equal(weights[name], value) for name, value in method.student.state_dict().items())

    monkeypatch.setattr(proof, "fit", watched)
    plan = Plan("mien.proofs.tad_sr:PROOF", "embedded", tmp_path, max_steps=1)
    run_seed(plan, 0)
    values = {
        piece["variant"]: piece["values"]
        for path in tmp_path.glob("*-0.json")
        for piece in [json.loads(path.read_text())]
    }
    assert set(values) == set(PROOF.variants)
    assert values["teacher, 8 steps"][METRIC] == 0
    assert values["teacher, 8 steps"]["PSNR to the teacher"] == 99
    assert all(math.isfinite(value) for one in values.values() for value in one.values())
    assert len({json.dumps(one) for one in values.values()}) == len(values)  # every variant learns something else
    # One teacher, then students with its weights, its results and the same settings; a resume does not train it again.
    assert [stage for stage, *_ in trained] == ["teacher"] + ["student"] * (len(PROOF.variants) - 1)
    _, weights, target, settings = trained[1]
    assert target is not None
    for _, other, its_target, its_settings in trained[2:]:
        assert all(torch.equal(weights[name], value) for name, value in other.items())
        assert torch.equal(its_target, target)  # type: ignore[arg-type]
        assert its_settings == settings
    next(tmp_path.glob("regression-0.json")).unlink()
    run_seed(plan, 0)
    assert [stage for stage, *_ in trained[len(PROOF.variants) :]] == ["student"]
    assert torch.equal(trained[-1][2], target)  # type: ignore[arg-type]


def test_targets_are_the_teachers_results_from_the_kept_noise():
    seed = Seed(100, make_data("embedded", 100), max_steps=1)
    method = proof._teacher(seed)
    crops = seed.data.train
    assert crops.noise is not None
    assert crops.target is not None
    assert not torch.equal(crops.noise[:6], seed.data.test.noise)
    with torch.no_grad():
        y = method.space.encode(method.enlarged(crops.degraded[:2]))
        expected = method.process.sample(method._bound(method.teacher, crops.degraded[:2]), y, crops.noise[:2])
    assert torch.allclose(crops.target[:2], expected, atol=1e-5)
    sample = crops[1]
    assert torch.equal(sample.noise, crops.noise[1])  # type: ignore[arg-type]
    assert torch.equal(sample.target, crops.target[1])  # type: ignore[arg-type]


def test_variants_differ_in_what_they_say_and_in_nothing_else():
    names = set(PROOF.variants)
    assert {PROOF.primary, PROOF.baseline} <= names
    assert {name for pair in PROOF.ablations.values() for name in pair} <= names
    full, plain = proof._method(), proof._method(score="none", gan_weight=0.0)
    assert full.distillation.score_steps == 2
    assert (full.distillation.score_weight, full.distillation.gan_weight) == (1.0, 0.02)  # the paper's
    assert full.optimizer == plain.optimizer
    assert full.optimizer.weight_decay == 0
