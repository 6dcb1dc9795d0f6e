# SPDX-License-Identifier: Apache-2.0
"""Residual shifting against the tables and identities of its papers."""

from __future__ import annotations

import math

import pytest
import torch

from mien.diffusion.residual_shift import ResidualShift
from mien.errors import BadInput

FIFTEEN = [.02, .1172, .1763, .2336, .2916, .351, .4124, .4759, .5417, .6099, .6807, .754, .83, .9086, .99]  # fmt: skip


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("process", "table"),
    [
        (ResidualShift(), FIFTEEN),
        (ResidualShift(steps=4, least=0.2), [0.1, 0.5201, 0.7614, 0.99]),
        (ResidualShift(steps=4, least=0.2, cap=math.sqrt(0.001)), [0.0316, 0.3764, 0.6673, 0.99]),
        (ResidualShift(steps=8), [0.02, 0.1763, 0.2916, 0.4124, 0.5417, 0.6807, 0.83, 0.99]),
    ],
)
def test_the_schedule_has_the_published_values(process: ResidualShift, table: list[float]):
    """Fails when the exponent, the first value or its cap differ."""
    assert process.sqrt_eta[0] == 0
    assert torch.allclose(process.sqrt_eta[1:], torch.tensor(table, dtype=torch.float64), atol=5e-5)


def test_the_input_factors_are_the_published_ones():
    process = ResidualShift()
    factor = 1 / process.scaled(torch.ones(4, 1), torch.tensor([1, 2, 3, 15]))[:, 0]
    assert torch.allclose(factor, torch.tensor([1.0008, 1.0271, 1.0603, 2.2182]), atol=5e-5)


@pytest.mark.parametrize("steps", [2, 4, 15])
def test_with_the_true_image_every_state_keeps_its_noise(steps: int):
    """Fails when m, j or k of the deterministic step are wrong, or when the last step does not return x0."""
    process = ResidualShift(steps=steps)
    x0, y, noise = draws(3, 1, 4, 4), draws(3, 1, 4, 4, seed=1), draws(3, 1, 4, 4, seed=2)
    x = process.noised(x0, y, torch.full((3,), steps), noise)
    for step in range(steps, 0, -1):
        t = torch.full((3,), step)
        assert torch.allclose(process.noise_in(x, x0, y, t), noise, atol=1e-9)
        x = process.deterministic(x, x0, y, t)
        if step > 1:
            assert torch.allclose(x, process.noised(x0, y, t - 1, noise), atol=1e-12)
    assert torch.allclose(x, x0, atol=1e-12)
    assert torch.allclose(process.sample(lambda _x, _t: x0, y, noise), x0, atol=1e-12)


def test_the_posterior_is_bayes_rule():
    """Against the product of the two Gaussians q(x_t | x_{t-1}) and q(x_{t-1} | x0), written out."""
    process = ResidualShift(steps=5, kappa=1.5)
    x_t, x0, y = draws(4, 1, 1, 1), draws(4, 1, 1, 1, seed=1), draws(4, 1, 1, 1, seed=2)
    for step in (1, 2, 5):
        t = torch.full((4,), step)
        now, before = (float(process.sqrt_eta[k] ** 2) for k in (step, step - 1))
        mean = process.posterior(x_t, x0, t, torch.zeros_like(x_t))
        spread = process.posterior(x_t, x0, t, torch.ones_like(x_t)) - mean
        if step == 1:
            assert torch.allclose(mean, x0, atol=1e-12)
            assert spread.abs().max() < 1e-12
            continue
        alpha = now - before
        precision = 1 / (1.5**2 * alpha) + 1 / (1.5**2 * before)
        by_hand = (
            (x_t - alpha * (y - x0)) / (1.5**2 * alpha) + (x0 + before * (y - x0)) / (1.5**2 * before)
        ) / precision
        assert torch.allclose(mean, by_hand, atol=1e-10)
        assert torch.allclose(spread, torch.full_like(spread, precision**-0.5), atol=1e-10)


def test_a_chain_of_draws_repeats_with_its_generator_and_ends_without_noise():
    process, y, noise = ResidualShift(steps=4), draws(2, 1, 3, 3), draws(2, 1, 3, 3, seed=1)
    x0 = draws(2, 1, 3, 3, seed=3)

    def run(seed: int) -> torch.Tensor:
        return process.sample(lambda x, _t: 0.5 * x + 0.5 * x0, y, noise, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))
    exact = process.sample(lambda _x, _t: x0, y, noise, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(exact, x0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "value"), [("steps", 1), ("kappa", 0.0), ("least", -1.0), ("power", 0.0), ("last", 0.01)]
)
def test_bad_input_names_the_argument(name: str, value: float):
    with pytest.raises(BadInput, match=f"^{name} is"):
        ResidualShift(**{name: value})  # type: ignore[arg-type]
