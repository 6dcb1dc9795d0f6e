# SPDX-License-Identifier: Apache-2.0
"""TAD-SR's formulas against closed forms, and the shape of its training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mien import catalog
from mien.diffusion.residual_shift import ResidualShift
from mien.diffusion.unet import UNetSize
from mien.engine import Phase, Settings, fit
from mien.engine.method import build
from mien.errors import BadInput
from mien.optim.recipe import Recipe
from mien.restoration.autoencoder import Autoencoder
from mien.restoration.data import Crops, Degraded
from mien.restoration.degradation import Degradation
from mien.restoration.discriminator import TimeAwareDiscriminator, hinge
from mien.restoration.tad_sr import TADSR, Distillation, score_direction

SIZE = UNetSize(8, (1, 2), 1, attention=(1,), window=4, width=32, depth=1, norm="pixel")
PROCESS = ResidualShift(steps=15)


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small(**changes: object) -> TADSR:
    torch.manual_seed(0)
    options: dict[str, object] = {
        "network": SIZE,
        "process": ResidualShift(steps=4),
        "distillation": Distillation(score_steps=2),
        "crop": 32,
        "optimizer": Recipe(lr=1e-3),
        "discriminator_optimizer": Recipe(lr=1e-3),
        "ema": 0.9,
    }
    return TADSR(**{**options, **changes})  # type: ignore[arg-type]


def student(**changes: object) -> TADSR:
    """In the student stage, its zero-initialised convolutions moved, so that everything depends on everything."""
    method = small(**changes)
    for parameter in method.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    build(method, Phase(name="teacher"))
    build(method, Phase(name="student"))
    return method


def batch(count: int = 2, seed: int = 0) -> Degraded:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(count, 3, 32, 32, generator=generator)
    return Degraded(image, image[..., ::4, ::4], ["a"] * count)


# --- score distillation -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("step", [1, 2, 3, 8])
def test_a_constant_teacher_gives_the_difference_times_its_factor(step: int):
    """g = (1 - eta) / (kappa sqrt eta) (z - z*): 24.99, 4.21, 2.75 at t = 1, 2, 3 of 15."""
    z, target, y, noise = (draws(3, 1, 4, 4, seed=s) for s in range(4))
    t = torch.full((3,), step)
    g = score_direction(PROCESS, lambda _x, _t: torch.full_like(z, 0.3), z, target, y, t, noise)
    eta = float(PROCESS.sqrt_eta[step] ** 2)
    factor = (1 - eta) / (2 * math.sqrt(eta))
    # The teacher's constant cancels, and what is left is what the noise formula makes of x_t' itself.
    assert torch.allclose(g, factor * (z - target), atol=1e-9)
    if step <= 3:
        assert factor == pytest.approx({1: 24.99, 2: 4.21, 3: 2.75}[step], abs=5e-3)


@pytest.mark.parametrize(
    ("variance", "gains"), [(1.0, [0.04, 0.22, 0.32, 0.49, 0.01]), (0.01, [3.45, 3.57, 2.55, 0.81, 0.01])]
)
def test_a_gaussian_teacher_gives_the_closed_form(variance: float, gains: list[float]):
    """Small times amplify what varies little: the method's claim in one formula. Fails when the noise is estimated
    from z in place of the teacher's answer.
    """
    z, target, noise = (draws(2, 1, 3, 3, seed=s) for s in range(3))
    y = torch.zeros_like(z)
    for step, gain in zip((1, 2, 3, 8, 15), gains, strict=True):
        eta = float(PROCESS.sqrt_eta[step] ** 2)
        sigma = 2 * math.sqrt(eta)

        def posterior_mean(x: torch.Tensor, _t: torch.Tensor, eta: float = eta, sigma: float = sigma) -> torch.Tensor:
            x_t = x * math.sqrt(4 * eta + 1)
            return x_t * (1 - eta) * variance / ((1 - eta) ** 2 * variance + sigma**2)

        g = score_direction(PROCESS, posterior_mean, z, target, y, torch.full((2,), step), noise)
        exact = (1 - eta) * sigma / ((1 - eta) ** 2 * variance + sigma**2)
        assert torch.allclose(g, exact * (z - target), atol=1e-9)
        assert exact == pytest.approx(gain, abs=6e-3)


def test_equal_results_draw_nothing_with_hsd_and_something_with_sds():
    z, y, noise = (draws(2, 1, 3, 3, seed=s) for s in range(3))
    t = torch.tensor([1, 2])

    def teacher(x: torch.Tensor, _t: torch.Tensor) -> torch.Tensor:
        return 0.4 * x

    assert not score_direction(PROCESS, teacher, z, z, y, t, noise).any()
    assert score_direction(PROCESS, teacher, z, z, y, t, noise, score="sds").abs().min() > 1e-3
    exact = score_direction(PROCESS, lambda _x, _t: z, z, z, y, t, noise, score="sds")
    assert exact.abs().max() < 1e-9  # a teacher that recovers the noise has no bias


def test_the_loss_has_the_gradient_g_over_its_size_and_none_reaches_the_teacher():
    method = student(distillation=Distillation(score_steps=1, gan_weight=0.0))
    data = batch()
    draws_ = method._draws(data)
    assert method.discriminator is None
    torch.manual_seed(1)
    losses = method.student_losses(draws_)
    assert set(losses) == {"regression", "hsd"}
    losses["hsd"].backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert method.student is not None
    # The same gradient by hand, through z alone.
    found = method.student.out[2].weight.grad.clone()
    method.zero_grad()
    torch.manual_seed(1)
    z = method.process.one_step(method._bound(method.student, data.degraded), draws_.y, draws_.start)
    t = torch.randint(1, 2, (2,))
    g = score_direction(
        method.process, method._bound(method.teacher, data.degraded), z, draws_.target, draws_.y, t, torch.randn_like(z)
    )
    z.backward(g / z.numel())
    assert torch.allclose(found, method.student.out[2].weight.grad, atol=1e-7)


@pytest.mark.parametrize("change", [{"noise": "uniform"}, {"scaled_twice": True}])
def test_the_released_codes_ways_are_options_that_change_the_gradient(change: dict[str, object]):
    ways = []
    for options in ({}, change):
        method = student(distillation=Distillation(score_steps=2, gan_weight=0.0, **options))  # type: ignore[arg-type]
        torch.manual_seed(3)
        ways.append(method.student_losses(method._draws(batch()))["hsd"].item())
    assert ways[0] != ways[1]


# --- discriminator --------------------------------------------------------------------------------------------------
def test_logits_do_not_depend_on_the_image_before_the_first_step():
    """The 3 x 3 convolution starts at 0: the generator gets no gradient until the discriminator has moved."""
    torch.manual_seed(0)
    judge = TimeAwareDiscriminator((8, 16)).eval()  # in train mode every call sharpens the spectral norm
    one, other = ([torch.randn(2, c, 4, 4, requires_grad=True) for c in (8, 16)] for _ in range(2))
    t = torch.tensor([1, 2])
    assert torch.equal(judge(one, t), judge(other, t))
    assert judge(one, t).shape == (2, 64 * 16 * 2)
    judge(one, t).mean().backward()
    assert not one[0].grad.any()
    assert judge.heads[0].convolution.weight.grad.any()


def test_time_reaches_the_logits_only_when_asked_for():
    torch.manual_seed(0)
    for aware in (True, False):
        judge = TimeAwareDiscriminator((8,), time_aware=aware).eval()
        nn.init.normal_(judge.heads[0].convolution.weight)
        features = [torch.randn(1, 8, 4, 4)]
        same = torch.equal(judge(features, torch.tensor([1])), judge(features, torch.tensor([9])))
        assert same is not aware


def test_hinge_by_hand():
    losses = hinge(torch.tensor([0.5, 2.0]), torch.tensor([-3.0, 0.0]))
    assert float(losses["real"]) == pytest.approx(0.25)
    assert float(losses["fake"]) == pytest.approx(0.5)


# --- training -------------------------------------------------------------------------------------------------------
def test_the_student_starts_as_the_teacher_and_the_teacher_stays():
    pictures = [torch.rand(3, 40, 40) for _ in range(4)]
    data = Crops(pictures, 32, 4, lambda image: Degradation("bicubic").apply(image, 4))
    method = small()
    fit(method, data, schedule=method.stages(1, 1), settings=Settings(batch_size=2, max_steps=2))
    assert method.student is not None
    frozen = {k: v.clone() for k, v in method.teacher.state_dict().items()}
    other = small()
    fit(other, data, schedule=other.stages(1, 2), settings=Settings(batch_size=2, max_steps=2))
    assert all(torch.equal(v, frozen[k]) for k, v in other.teacher.state_dict().items())
    assert not torch.equal(other.student.stem.weight, other.teacher.stem.weight)  # type: ignore[union-attr]


def test_before_the_student_the_teacher_answers_and_a_teacher_can_be_had_again():
    method = student()
    images = torch.rand(1, 3, 8, 8)
    one = method.restore(images)
    teacher = method.as_teacher()
    many = teacher.restore(images)
    assert teacher.student is None
    assert method.student is not None
    assert not torch.equal(one, many)
    assert torch.equal(small_teacher(method).restore(images), many)


def small_teacher(method: TADSR) -> TADSR:
    alone = small()
    alone.teacher.load_state_dict(method.teacher.state_dict())
    return alone.eval()


def test_a_target_that_is_given_is_used_and_not_made_again(monkeypatch: pytest.MonkeyPatch):
    method = student()
    data = batch()
    data.noise = method.noise((0, 0, 32, 32)).repeat(2, 1, 1, 1)
    data.target = method.process.sample(
        method._bound(method.teacher, data.degraded), method._start(data.degraded), data.noise
    ).detach()
    made = method._draws(Degraded(data.image, data.degraded, data.name, data.noise))
    assert torch.allclose(made.target, data.target)
    monkeypatch.setattr(ResidualShift, "sample", lambda *_a, **_k: pytest.fail("the teacher was asked"))
    assert method._draws(data).target is data.target


def test_the_papers_network_has_the_papers_maps():
    """Five maps of 160, 320, 320, 640, 640 channels at 32, 16, 8, 8, 8 for latents of 64."""
    with torch.device("meta"):
        network = UNetSize().build(6, 3)
        maps = network.features(torch.empty(1, 6, 64, 64), torch.ones(1))
    assert [tuple(m.shape[1:]) for m in maps] == [(160, 32, 32), (320, 16, 16), (320, 8, 8), (640, 8, 8), (640, 8, 8)]
    assert UNetSize().feature_widths == (160, 320, 320, 640, 640)


def test_the_paper_preset_gives_the_network_maps_of_that_size():
    """In pixels, which are the default: the paper's 256 pixels would be maps with 16 times as many places."""
    preset = catalog.room("tad-sr").preset("tad-sr", "paper")
    with torch.device("meta"):
        method = TADSR(**preset.config)
    assert (method.autoencoder.name, method.crop // method.space.factor) == ("pixel", 64)
    assert method.network == UNetSize()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 0}, "scale is 0"),
        ({"crop": 30}, "crop is 30"),
        ({"distillation": Distillation(score_steps=9)}, "score_steps is 9"),
        ({"autoencoder": Autoencoder("/nowhere/at/all")}, "autoencoder"),
    ],
)
def test_bad_input_is_one_line(options: dict[str, object], words: str):
    with pytest.raises(BadInput, match=words):
        small(**options)


def test_images_of_any_size_come_out_at_scale_times_theirs():
    method = student()
    for height, width in ((1, 1), (5, 9), (17, 8)):
        assert method.restore(torch.rand(1, 3, height, width)).shape == (1, 3, 4 * height, 4 * width)
    with pytest.raises(BadInput, match="images have shape"):
        method.restore(torch.rand(1, 1, 8, 8))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_weights_are_numbers_from_zero(weight: float):
    with pytest.raises(BadInput, match="gan_weight is"):
        Distillation(gan_weight=weight)
