# SPDX-License-Identifier: Apache-2.0
"""Residual shifting: a diffusion that leads from a clean image x0 to its degraded version y, not to pure noise.

Yue, Wang and Loy, ResShift: Efficient Diffusion Model for Image Super-resolution by Residual Shifting, NeurIPS 2023.

    q(x_t | x0, y) = N(x0 + eta_t (y - x0), kappa^2 eta_t I),         t = 1 .. T,   prior x_T = y + kappa sqrt(eta_T) e
    sqrt(eta_t) = sqrt(eta_1) b^(beta_t),  beta_t = ((t-1)/(T-1))^p (T-1),  b = (sqrt(eta_T) / sqrt(eta_1))^(1/(T-1))

A network f predicts x0 from x_t / sqrt(kappa^2 eta_t + 1). Times are 1 .. T here, as in the paper; eta_0 = 0.

>>> process = ResidualShift(steps=4, least=0.2)
>>> [round(float(s), 4) for s in process.sqrt_eta[1:]]
[0.1, 0.5201, 0.7614, 0.99]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mien.errors import BadInput

Predictor = Callable[[Tensor, Tensor], Tensor]
"""(scaled x_t (B, C, H, W), times (B,) from 1 to T) -> the prediction of x0; what else it needs is bound to it."""


@dataclass(frozen=True)
class ResidualShift:
    """The process. Plain data, for the command line and config.json.

    Args:
        steps: T, at least 2.
        kappa: Strength of the noise, > 0.
        least: delta: sqrt(eta_1) is the smaller of delta and delta / kappa; > 0.
        cap: Largest sqrt(eta_1), or None. The first ResShift code and its heirs cap at sqrt(0.001).
        last: sqrt(eta_T), in (0, 1].
        power: p; below 1 the middle of the chain is noisier.
    """

    steps: int = 15
    kappa: float = 2.0
    least: float = 0.04
    cap: float | None = None
    last: float = 0.99
    power: float = 0.3

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise BadInput(f"steps is {self.steps}: residual shifting needs at least 2")
        for name in ("kappa", "least", "power"):
            if not getattr(self, name) > 0:
                raise BadInput(f"{name} is {getattr(self, name)}: it must be above 0")
        if not self._first < self.last <= 1:
            raise BadInput(
                f"last is {self.last}: it must lie in ({self._first:g}, 1], sqrt(eta_1) being {self._first:g}"
            )

    @property
    def _first(self) -> float:
        first = min(self.least / self.kappa, self.least)
        return first if self.cap is None else min(first, self.cap)

    @cached_property
    def sqrt_eta(self) -> Tensor:
        """sqrt(eta_t) for t = 0 .. T, (T + 1,), float64; the first is 0."""
        share = torch.arange(self.steps, dtype=torch.float64) / (self.steps - 1)
        growth = math.log(self.last / self._first)
        return torch.cat([torch.zeros(1, dtype=torch.float64), self._first * (growth * share**self.power).exp()])

    def eta(self, t: Tensor, like: Tensor) -> Tensor:
        """eta_t of times (B,), shaped to multiply `like` (B, ...)."""
        table = self.sqrt_eta.square().to(device=like.device, dtype=like.dtype)
        return table[t.to(like.device)].reshape(-1, *[1] * (like.ndim - 1))

    def scaled(self, x_t: Tensor, t: Tensor) -> Tensor:
        """What the network sees: x_t / sqrt(kappa^2 eta_t + 1), of unit size for x0 of unit size."""
        return x_t / (self.kappa**2 * self.eta(t, x_t) + 1).sqrt()

    def noised(self, x0: Tensor, y: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """A draw of q(x_t | x0, y) with `noise` ~ N(0, I)."""
        eta = self.eta(t, x0)
        return x0 + eta * (y - x0) + self.kappa * eta.sqrt() * noise

    def prior(self, y: Tensor, noise: Tensor) -> Tensor:
        """x_T, where restoring begins: y + kappa sqrt(eta_T) noise."""
        return y + self.kappa * float(self.sqrt_eta[-1]) * noise

    def noise_in(self, x_t: Tensor, x0: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """The noise that an estimate x0 implies: (x_t - (1 - eta_t) x0 - eta_t y) / (kappa sqrt(eta_t))."""
        eta = self.eta(t, x_t)
        return (x_t - (1 - eta) * x0 - eta * y) / (self.kappa * eta.sqrt())

    def posterior(self, x_t: Tensor, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """A draw of q(x_{t-1} | x_t, x0): mean (eta_{t-1} x_t + alpha_t x0) / eta_t, alpha_t = eta_t - eta_{t-1},
        variance kappa^2 eta_{t-1} alpha_t / eta_t, which is 0 at t = 1.
        """
        now, before = self.eta(t, x_t), self.eta(t - 1, x_t)
        alpha = now - before
        return (before * x_t + alpha * x0) / now + self.kappa * (before * alpha / now).sqrt() * noise

    def deterministic(self, x_t: Tensor, x0: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """x_{t-1} = k x0 + m x_t + j y with the noise kept: m = sqrt(eta_{t-1} / eta_t), j = eta_{t-1} - sqrt(eta_{t-1}
        eta_t), k = 1 - m - j. With the true x0, every x_t holds the same noise, and x_0 is x0.
        """
        now, before = self.eta(t, x_t), self.eta(t - 1, x_t)
        m, j = (before / now).sqrt(), before - (before * now).sqrt()
        return (1 - m - j) * x0 + m * x_t + j * y

    def predicted(self, predictor: Predictor, x_t: Tensor, t: Tensor) -> Tensor:
        """The network's x0 for x_t at times (B,)."""
        return predictor(self.scaled(x_t, t), t)

    def sample(
        self, predictor: Predictor, y: Tensor, noise: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """T calls of the network from x_T to x_0.

        Args:
            predictor: The network.
            y: Degraded images or latents, (B, C, H, W).
            noise: N(0, I) of the same shape: the noise of x_T.
            generator: None for the deterministic chain; else every step draws from the posterior with it.
        """
        x = self.prior(y, noise)
        for step in range(self.steps, 0, -1):
            t = torch.full((len(y),), step, device=y.device)
            x0 = self.predicted(predictor, x, t)
            if generator is None:
                x = self.deterministic(x, x0, y, t)
            else:
                drawn = torch.randn(y.shape, generator=generator, dtype=y.dtype).to(y.device)
                x = self.posterior(x, x0, t, drawn)
        return x

    def one_step(self, predictor: Predictor, y: Tensor, noise: Tensor) -> Tensor:
        """One call of a distilled network, at t = T: its x0 for x_T."""
        return self.predicted(predictor, self.prior(y, noise), torch.full((len(y),), self.steps, device=y.device))
