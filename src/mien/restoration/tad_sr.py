# SPDX-License-Identifier: Apache-2.0
"""TAD-SR: super-resolution by a diffusion model distilled to one step.

One Step Diffusion-based Super-Resolution with Time-Aware Distillation, He and others, 2024, arXiv:2408.07476.

A teacher restores in T steps of residual shifting (`mien.diffusion.residual_shift`); a student that starts as its copy
learns to do it in one, z = s(x_T), from three signals:

    L_reg = MSE(z, z*),  z* the teacher's T-step result from the same noise
    L_HSD = mean(g z),   g = eps(z_t') - eps(z*_t'), fixed: both results are noised alike to one of the smallest times
                         t', the frozen teacher estimates the noise of both; what differs is detail that z lacks
    L_G   = -mean D(z_t), D a discriminator on the frozen teacher's features of noised results that knows the time t
    L     = L_reg + 1 L_HSD + 0.02 L_G

L_HSD has no meaning as a value, only its gradient g / numel has. For a Gaussian component of variance v and a teacher
that answers with its posterior mean, g = gain (z - z*) with gain = (1 - eta) sigma / ((1 - eta)^2 v + sigma^2) and
sigma = kappa sqrt(eta): small t' amplify what varies little, which is detail.

Differences from the paper
    * It restores latents of a VQ autoencoder, crops of 256 pixels being 64 x 64 latents; here pixels are the default,
      since no autoencoder comes along. The paper preset is the paper's network on crops of 64 pixels. For latents:
      `--method.autoencoder.name FOLDER --method.crop 256`, FOLDER a VQModel of diffusers that shrinks by 4.
    * The paper preset counts passes over the user's pictures; the paper makes 30,000 updates on crops of ImageNet.
    * The student's forward pass is made once for each of the two optimisers.
    * Window attention is of the second Swin generation, so released weights do not fit.
    * Noise for g and for D is Gaussian, as in the paper's formulas: the released code's uniform noise is
      `noise="uniform"`, and its input that is scaled twice `scaled_twice=True`.

>>> method = TADSR(network=UNetSize(16, (1, 2), 1, attention=(1,), width=32), process=ResidualShift(4))
>>> method.restore(torch.rand(1, 3, 16, 16)).shape  # before the student stage: the teacher's steps
torch.Size([1, 3, 64, 64])
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mien.diffusion.residual_shift import Predictor, ResidualShift
from mien.diffusion.unet import UNet, UNetSize
from mien.engine import Losses, Optimizers, Phase, Stages, Step
from mien.errors import BadInput
from mien.nn.empty import empty_loss
from mien.optim.recipe import Recipe
from mien.restoration.autoencoder import Autoencoder
from mien.restoration.data import Degraded
from mien.restoration.degradation import Degradation
from mien.restoration.discriminator import TimeAwareDiscriminator, hinge
from mien.restoration.restorer import Restorer

Score = Literal["hsd", "sds", "none"]
Noise = Literal["normal", "uniform"]


def score_direction(
    process: ResidualShift,
    teacher: Predictor,
    z: Tensor,
    target: Tensor,
    y: Tensor,
    t: Tensor,
    noise: Tensor,
    *,
    score: Score = "hsd",
    scaled_twice: bool = False,
) -> Tensor:
    """g, the direction in which z is to go down; no gradient passes through it.

    Args:
        process: The diffusion.
        teacher: The frozen network, bound to what it is conditioned on.
        z: The student's result, (B, C, H, W).
        target: The teacher's result z*.
        y: The degraded image or latent.
        t: Times (B,).
        noise: What both results are noised with.
        score: "hsd" subtracts the teacher's estimate for z*; "sds" subtracts the noise itself, whose constant bias the
            paper removes.
        scaled_twice: As the released code does.
    """

    @torch.no_grad()
    def estimate(result: Tensor) -> Tensor:
        x = process.noised(result, y, t, noise)
        scaled = process.scaled(x, t)
        x0 = teacher(process.scaled(scaled, t) if scaled_twice else scaled, t)
        return process.noise_in(x, x0, y, t)

    reference = noise if score == "sds" else estimate(target)
    return (estimate(z.detach()) - reference).detach()


@dataclass(frozen=True)
class Distillation:
    """What the student learns from.

    Args:
        score: Score distillation: "hsd" (the paper's), "sds" or "none" (ablations).
        score_steps: t' is uniform in 1 .. score_steps: the smallest times.
        score_weight: Of L_HSD; 0.1 for faces.
        gan_weight: Of L_G, 0.2 for faces; 0 trains no discriminator.
        time_aware: Whether the discriminator knows the time.
        target: "teacher", or "truth" for the ground truth in place of z*.
        noise: "normal", or "uniform" on [0, 1) as in the released code.
        scaled_twice: Scale the network's input twice in L_HSD, as in the released code.
    """

    score: Score = "hsd"
    score_steps: int = 3
    score_weight: float = 1.0
    gan_weight: float = 0.02
    time_aware: bool = True
    target: Literal["teacher", "truth"] = "teacher"
    noise: Noise = "normal"
    scaled_twice: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (
            ("score", ("hsd", "sds", "none")),
            ("target", ("teacher", "truth")),
            ("noise", ("normal", "uniform")),
        ):
            if getattr(self, name) not in allowed:
                raise BadInput(f"distillation.{name} is {getattr(self, name)!r}: use {', '.join(allowed)}")
        for name in ("score_weight", "gan_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise BadInput(f"distillation.{name} is {getattr(self, name)}: it must be 0 or more, and finite")
        if self.score_steps < 1:
            raise BadInput(f"distillation.score_steps is {self.score_steps}: it must be at least 1")


@dataclass
class _Draws:
    """What a step of the student draws once, for both optimisers."""

    batch: Degraded
    y: Tensor
    start: Tensor
    target: Tensor
    seen: Tensor
    seen_noise: Tensor


class TADSR(Restorer):
    """One-step diffusion super-resolution: a residual-shifting teacher, then its distilled student.

    Args:
        scale: How many times as large the result is.
        network: Teacher and student.
        process: The diffusion.
        autoencoder: Where it happens: pixels, or the latents of an autoencoder.
        degradation: What happens to training pictures.
        crop: Height and width in pixels of training pictures.
        distillation: What the student learns from.
        optimizer: Of the student, and of the teacher.
        discriminator_optimizer: Of the discriminator.
        ema: Decay of the average of weights that is used and saved.
    """

    name = "tad-sr"
    scope = (
        "Enlarges photographs that were degraded as in its training. What it adds is likely, not true: faces, letters "
        "and numbers may come out as others. Not for evidence, identification or measurement."
    )

    def __init__(
        self,
        *,
        scale: int = 4,
        network: UNetSize = UNetSize(),
        process: ResidualShift = ResidualShift(cap=0.001**0.5),
        autoencoder: Autoencoder = Autoencoder(),
        degradation: Degradation = Degradation(),
        crop: int = 256,
        distillation: Distillation = Distillation(),
        optimizer: Recipe = Recipe(lr=5e-5, weight_decay=0.0, warmup_steps=5000),
        discriminator_optimizer: Recipe = Recipe(lr=5e-5, weight_decay=0.0, warmup_steps=5000),
        ema: float = 0.999,
    ) -> None:
        super().__init__(scale=scale, autoencoder=autoencoder, degradation=degradation, crop=crop)
        if distillation.score_steps > process.steps:
            raise BadInput(
                f"distillation.score_steps is {distillation.score_steps}: the process has {process.steps} steps"
            )
        if crop % (need := self.space.factor * network.divisor):
            raise BadInput(f"crop is {crop}: the network needs a multiple of {need}")
        self.network, self.process, self.distillation, self.ema = network, process, distillation, ema
        self.optimizer, self.discriminator_optimizer = optimizer, discriminator_optimizer
        self.teacher = network.build(self.space.channels + self.space.colours, self.space.channels)
        self.student: UNet | None = None
        self.discriminator: TimeAwareDiscriminator | None = None

    @property
    def divisor(self) -> int:
        """Height and width of results must be multiples of this."""
        return self.space.factor * self.network.divisor * (self.network.window if self.network.attention else 1)

    @staticmethod
    def stages(teacher: int, student: int) -> Stages:
        """The training: passes over the data for each."""
        return Stages({"teacher": teacher, "student": student})

    # --- training ---------------------------------------------------------------------------------------------
    def build_phase(self, phase: Phase) -> None:
        """The student stage begins with a copy of the teacher, which is fixed from then on."""
        if phase.name == "student" and self.student is None:
            self.student = copy.deepcopy(self.teacher)
            if self.distillation.gan_weight:
                widths = self.network.feature_widths
                self.discriminator = TimeAwareDiscriminator(widths, time_aware=self.distillation.time_aware)
        self.teacher.requires_grad_(self.student is None)

    def optimizers(self, phase: Phase) -> Optimizers:
        """AdamW for the network that learns, and for the discriminator."""
        trained = self.teacher if self.student is None else self.student
        found: Optimizers = {"main": self.optimizer.build(trained.parameters(), phase.total_steps)}
        if self.discriminator is not None:
            parameters = self.discriminator.parameters()
            found["discriminator"] = self.discriminator_optimizer.build(parameters, phase.total_steps)
        return found

    def steps(self, batch: Degraded) -> Iterator[Step]:
        """The teacher's loss; or the discriminator's, then the student's."""
        if self.student is None:
            yield Step("main", self.teacher_losses, batch)
            return
        draws = self._draws(batch)
        if self.discriminator is not None:
            yield Step("discriminator", self.discriminator_losses, draws)
        yield Step("main", self.student_losses, draws)

    def teacher_losses(self, batch: Degraded) -> Losses:
        """MSE of the predicted x0 at uniform times."""
        if not len(batch.image):
            return {"mse": empty_loss(self.teacher)}
        x0, y = self.space.encode(batch.image), self._start(batch.degraded)
        t = torch.randint(1, self.process.steps + 1, (len(y),), device=y.device)
        x_t = self.process.noised(x0, y, t, torch.randn_like(y))
        return {"mse": F.mse_loss(self.process.predicted(self._bound(self.teacher, batch.degraded), x_t, t), x0)}

    def _draws(self, batch: Degraded) -> _Draws:
        y = self._start(batch.degraded)
        start = torch.randn_like(y) if batch.noise is None else batch.noise
        if self.distillation.target == "truth" or not len(y):
            target = self.space.encode(batch.image)
        elif batch.target is not None:
            target = batch.target
        else:
            with torch.no_grad():
                target = self.process.sample(self._bound(self.teacher, batch.degraded), y, start)
        # Times of the discriminator: 0 .. T-2 of the code, whose first is our 1; the prior's time never comes.
        seen = torch.randint(1, self.process.steps, (len(y),), device=y.device)
        return _Draws(batch, y, start, target, seen, self._noise(y))

    def discriminator_losses(self, draws: _Draws) -> Losses:
        """Hinge losses on noised truth and noised results."""
        assert self.student is not None
        assert self.discriminator is not None
        if not len(draws.y):
            return {"real": empty_loss(self.discriminator)}
        with torch.no_grad():
            z = self.process.one_step(self._bound(self.student, draws.batch.degraded), draws.y, draws.start)
            real = self._features(self.space.encode(draws.batch.image), draws)
            fake = self._features(z, draws)
        return hinge(self.discriminator(real, draws.seen), self.discriminator(fake, draws.seen))

    def student_losses(self, draws: _Draws) -> Losses:
        """L_reg, L_HSD and L_G, weighted."""
        assert self.student is not None
        if not len(draws.y):
            return {"regression": empty_loss(self.student)}
        how = self.distillation
        z = self.process.one_step(self._bound(self.student, draws.batch.degraded), draws.y, draws.start)
        losses: dict[str, Tensor] = {"regression": F.mse_loss(z, draws.target)}
        if how.score != "none" and how.score_weight:
            t = torch.randint(1, how.score_steps + 1, (len(z),), device=z.device)
            teacher = self._bound(self.teacher, draws.batch.degraded)
            g = score_direction(
                self.process, teacher, z, draws.target, draws.y, t, self._noise(z),
                score=how.score, scaled_twice=how.scaled_twice,
            )  # fmt: skip
            losses[how.score] = how.score_weight * (g * z).mean()
        if self.discriminator is not None:
            losses["gan"] = -how.gan_weight * self.discriminator(self._features(z, draws), draws.seen).mean()
        return losses

    def _features(self, z: Tensor, draws: _Draws) -> list[Tensor]:
        x = self.process.scaled(self.process.noised(z, draws.y, draws.seen, draws.seen_noise), draws.seen)
        return self.teacher.features(self._joined(x, draws.batch.degraded), draws.seen)

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn_like(like) if self.distillation.noise == "normal" else torch.rand_like(like)

    # --- restoring --------------------------------------------------------------------------------------------
    def restored(self, degraded: Tensor, noise: Tensor) -> Tensor:
        """One call of the student, or T of the teacher before there is a student; in the space of latents."""
        y = self._start(degraded)
        if self.student is not None:
            return self.process.one_step(self._bound(self.student, degraded), y, noise)
        return self.process.sample(self._bound(self.teacher, degraded), y, noise)

    def as_teacher(self) -> TADSR:
        """A method that restores in the teacher's T steps, with the same weights (shared, not copied)."""
        other = copy.copy(self)
        other._modules = {**self._modules, "student": None, "discriminator": None}
        return other

    def _start(self, degraded: Tensor) -> Tensor:
        """y: the enlarged image, encoded."""
        return self.space.encode(self.enlarged(degraded))

    def _joined(self, x: Tensor, degraded: Tensor) -> Tensor:
        """X beside the degraded image at the size of x."""
        seen = degraded * 2 - 1
        if seen.shape[-2:] != x.shape[-2:]:
            seen = F.interpolate(seen, size=x.shape[-2:], mode="bicubic", antialias=True)
        return torch.cat([x, seen], dim=1)

    def _bound(self, network: UNet, degraded: Tensor) -> Predictor:
        return lambda x, t: network(self._joined(x, degraded), t)


def faces(method: Distillation = Distillation()) -> Distillation:
    """The paper's weights for blind face restoration (T = 4 and delta = 0.2 go with them)."""
    return replace(method, score_weight=0.1, gan_weight=0.2)
