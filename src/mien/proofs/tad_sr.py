# SPDX-License-Identifier: Apache-2.0
"""TAD-SR's experiment: how much detail a one-step student keeps of its teacher's.

Grey crops of 32 pixels, four times enlarged after blur and noise, in pixels. For every seed one teacher of 8 steps is
trained, its results for the training crops are made once, and every student starts from it and gets the same crops,
noise and number of updates. Detail is the energy of the Laplacian: a student can only be asked to reach the teacher's,
so the metric is the distance of the two, |log(student / teacher)|.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from mien.data.splits import split_by_group
from mien.diffusion.residual_shift import ResidualShift
from mien.diffusion.unet import UNetSize
from mien.engine import Settings, Stages, fit
from mien.engine.seeding import kept_generators, seed_all, stable_seed
from mien.errors import BadInput
from mien.metrics.quality import psnr
from mien.optim.recipe import Recipe
from mien.proofs.base import Proof, Seed, Values
from mien.restoration.autoencoder import Autoencoder
from mien.restoration.data import Degraded, Picture, load
from mien.restoration.degradation import Degradation
from mien.restoration.readers import EMBEDDED, embedded, plain_folder
from mien.restoration.tad_sr import TADSR, Distillation

SIDE, SCALE, BATCH = 32, 4, 8
CROPS, TEST_CROPS = 1024, 192
TEACHER_STEPS, STUDENT_STEPS = 2000, 400
TEACHER_RATE, STUDENT_RATE = 1e-3, 1e-3
MEAN_OF = 4
METRIC = "distance of detail from the teacher's"
HELD_OUT = "Set14"
"""A folder of this name inside the data is tested on and never trained on."""
NETWORK = UNetSize(16, (1, 2, 2), 1, attention=(), shortcut=True)
PROCESS = ResidualShift(steps=8)
DEGRADATION = Degradation("blur-noise", noise=20.0)


class Crops(Dataset[Degraded]):
    """Crops that were made once: the truth, the degraded, and later the noise and the teacher's result."""

    seeded = False

    def __init__(self, image: Tensor, degraded: Tensor) -> None:
        self.image, self.degraded = image, degraded
        self.noise: Tensor | None = None
        self.target: Tensor | None = None

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> Degraded:
        noise, target = (None if x is None else x[index] for x in (self.noise, self.target))
        return Degraded(self.image[index], self.degraded[index], "", noise, target)


@dataclass
class Data:
    """The crops of a seed."""

    train: Crops
    test: Crops


def _pictures(data: str) -> tuple[list[Picture | Tensor], list[Picture | Tensor]]:
    """What is trained and what is tested on; no picture is in both."""
    if data == EMBEDDED:
        return list(embedded("train")), list(embedded("test"))
    found = plain_folder(Path(data), "train", SCALE)
    held = [p for p in found if HELD_OUT in p.path.parts]
    rest = [p for p in found if HELD_OUT not in p.path.parts]
    if held and rest:
        return list(rest), list(held)
    if len(found) < 3:
        raise BadInput(f"{data}: {len(found)} pictures: the proof needs 3 or more")
    train, test = split_by_group([str(i) for i in range(len(found))], (2 / 3, 1 / 3), seed=0)
    return [found[i] for i in train], [found[i] for i in test]


def _crops(pictures: list[Picture | Tensor], count: int, seed: int) -> Crops:
    """Crops from everywhere, of the detailed half of what is drawn: flat ones have nothing to lose."""
    images = [load(picture, 1, SCALE)[0] for picture in pictures]
    images = [image for image in images if min(image.shape[-2:]) >= SIDE]
    if not images:
        raise BadInput(f"the data have no picture of at least {SIDE} x {SIDE} pixels to cut crops from")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = []
        for i in range(2 * count):
            image = images[i % len(images)]
            top, left = (int(torch.randint(n - SIDE + 1, ())) for n in image.shape[-2:])
            drawn.append(image[:, top : top + SIDE, left : left + SIDE])
        image = torch.stack(drawn)
        image = image[laplacian(image).argsort(descending=True)[:count].sort().values]
        return Crops(image, torch.stack([DEGRADATION.apply(crop, SCALE) for crop in image]))


def make_data(data: str, seed: int) -> Data:
    """Crops of the training pictures and of the test pictures, others for every seed."""
    train, test = _pictures(data)
    return Data(_crops(train, CROPS, 2 * seed + 1), _crops(test, TEST_CROPS, 2 * seed + 2))


def about(data: str) -> str:
    """One line on the data."""
    train, test = _pictures(data)
    where = "embedded pictures" if data == EMBEDDED else Path(data).name
    return (
        f"{where}: {CROPS} grey crops of {SIDE} pixels from {len(train)} pictures, tested on {TEST_CROPS} from "
        f"{len(test)} others; x{SCALE} after blur and noise"
    )


def laplacian(image: Tensor) -> Tensor:
    """Mean squared response to the 4-neighbour Laplacian of each picture (B, 1, H, W): (B,)."""
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]
    return F.conv2d(image, kernel.to(image)).square().mean(dim=(1, 2, 3))


def radial_spectrum(image: Tensor, rings: int = 12) -> Tensor:
    """Mean log power of the batch in rings of equal width up to the Nyquist frequency: (rings,)."""
    power = torch.fft.fft2(image).abs().square().mean(dim=(0, 1))
    rows, columns = (torch.fft.fftfreq(n).abs() for n in image.shape[-2:])
    ring = ((rows[:, None].square() + columns.square()).sqrt() / 0.5 * rings).long()
    return torch.stack([power[ring == r].mean().clamp_min(1e-12).log() for r in range(rings)])


def detail_distance(result: Tensor, teacher: Tensor) -> float:
    """|log| of the ratio of two batches' mean detail."""
    return abs(math.log(float(laplacian(result).mean() / laplacian(teacher).mean())))


def spectrum_distance(result: Tensor, truth: Tensor) -> float:
    """Mean difference of two batches' log power over the rings."""
    return float((radial_spectrum(result) - radial_spectrum(truth)).abs().mean())


def _method(**how: Any) -> TADSR:
    return TADSR(
        scale=SCALE,
        network=NETWORK,
        process=PROCESS,
        autoencoder=Autoencoder(colours=1),
        degradation=DEGRADATION,
        crop=SIDE,
        distillation=Distillation(**{"score_steps": 2, **how}),
        optimizer=Recipe(lr=STUDENT_RATE, weight_decay=0.0, schedule="cosine"),
        discriminator_optimizer=Recipe(lr=STUDENT_RATE, weight_decay=0.0),
    )


def _teacher(seed: Seed, *, anew: bool = False) -> TADSR:
    """The teacher of a seed; its results for all crops are kept with them."""
    data: Data = seed.data
    parts = {"train": data.train, "test": data.test}

    def make() -> dict[str, Tensor]:
        with kept_generators():
            seed_all(stable_seed(seed.number, "teacher"))
            method = _method()
            method.optimizer = Recipe(lr=TEACHER_RATE, weight_decay=0.0, schedule="cosine", warmup_steps=50)
            _fit(method, "teacher", seed, TEACHER_STEPS)
        method.eval()
        found = {f"weights.{name}": value for name, value in method.teacher.state_dict().items()}
        for name, crops in parts.items():
            generator = torch.Generator().manual_seed(stable_seed(seed.number, f"noise of {name}"))
            crops.noise = torch.randn(crops.image.shape, generator=generator)
            found |= {f"noise.{name}": crops.noise, f"target.{name}": _restored(method, crops, crops.noise)}
        return found

    found = seed.tensors("teacher", make, anew=anew)
    for name, crops in parts.items():
        crops.noise, crops.target = found[f"noise.{name}"], found[f"target.{name}"]
    method = _method()
    weights = {name.removeprefix("weights."): value for name, value in found.items() if name.startswith("weights.")}
    method.teacher.load_state_dict(weights)
    return method.to(seed.device).eval()


def _fit(method: TADSR, stage: str, seed: Seed, steps: int) -> None:
    steps = seed.max_steps or steps
    epochs = -(-steps // -(-CROPS // BATCH))
    settings = Settings(batch_size=BATCH, seed=seed.number, max_steps=steps, device=seed.device)
    fit(method, seed.data.train, schedule=Stages({stage: epochs}), settings=settings)


@torch.no_grad()
def _restored(method: TADSR, crops: Crops, noise: Tensor) -> Tensor:
    """Results from given noise, in the space of latents."""
    parts = zip(crops.degraded.split(64), noise.split(64), strict=True)
    return torch.cat([method.restored(one.to(method.device), other.to(method.device)).cpu() for one, other in parts])


def _student(**how: Any) -> Any:
    def measure(seed: Seed) -> Values:
        teacher = _teacher(seed)
        with kept_generators():
            seed_all(stable_seed(seed.number, "student"))
            method = _method(**how)
            method.teacher.load_state_dict(teacher.teacher.state_dict())
            _fit(method, "student", seed, STUDENT_STEPS)
        return _values(method.eval(), seed)

    return measure


def _values(method: TADSR, seed: Seed) -> Values:
    test: Crops = seed.data.test
    assert test.noise is not None
    assert test.target is not None
    result, best = (method.space.decode(x) for x in (_restored(method, test, test.noise), test.target))
    generator = torch.Generator().manual_seed(stable_seed(seed.number, "more noise"))
    draws = [torch.randn(test.image.shape, generator=generator) for _ in range(MEAN_OF)]
    mean = torch.stack([method.space.decode(_restored(method, test, noise)) for noise in draws]).mean(dim=0)
    bicubic = method.enlarged(test.degraded).clamp(0, 1)
    plain, truth = psnr(bicubic, test.image).mean(), laplacian(test.image).mean()
    return {
        METRIC: detail_distance(result, best),
        "detail over the truth's": float(laplacian(result).mean() / truth),
        "bicubic's detail over the truth's": float(laplacian(bicubic).mean() / truth),
        "PSNR over bicubic's": float(psnr(result, test.image).mean() - plain),
        f"PSNR of the mean of {MEAN_OF} results over bicubic's": float(psnr(mean, test.image).mean() - plain),
        "PSNR to the teacher": float(psnr(result, best).clamp_max(99).mean()),
        "spectrum's distance from the truth's": spectrum_distance(result, test.image),
        "bicubic's spectrum's distance": spectrum_distance(bicubic, test.image),
        "brightness over the truth's": float((result - test.image).mean()),
    }


def _as_teacher(seed: Seed) -> Values:
    return _values(_teacher(seed, anew=True), seed)


PROOF = Proof(
    name="tad-sr",
    claim="Score distillation at small noise and a time-aware discriminator keep more of the teacher's detail in one "
    "step than regression to its results.",
    variants={
        "teacher, 8 steps": _as_teacher,
        "regression": _student(score="none", gan_weight=0.0),
        "+ SDS": _student(score="sds", gan_weight=0.0),
        "+ HSD": _student(gan_weight=0.0),
        "+ HSD at all times": _student(score_steps=8, gan_weight=0.0),
        "+ HSD + GAN": _student(),
        "+ HSD + GAN without time": _student(time_aware=False),
    },
    primary="+ HSD + GAN",
    baseline="regression",
    metric=METRIC,
    higher_is_better=False,
    data=make_data,
    about=about,
    ablations={
        "SDS over regression": ("+ SDS", "regression"),
        "HSD over regression": ("+ HSD", "regression"),
        "HSD over SDS": ("+ HSD", "+ SDS"),
        "small times over all times": ("+ HSD", "+ HSD at all times"),
        "GAN over none": ("+ HSD + GAN", "+ HSD"),
        "time over no time": ("+ HSD + GAN", "+ HSD + GAN without time"),
    },
    notes=(
        "detail over the truth's: the teacher's own is the most that a student can be asked for; above 1 it is noise",
        "PSNR falls where detail is added: read both",
    ),
)
