# SPDX-License-Identifier: Apache-2.0
"""SAAT's experiment: does a budget that follows the loss beat one budget for all?

All variants of a seed see the same images and start from the same weights. SAAT uses larger budgets than the one it
starts from, and whoever trains with larger budgets falls more slowly; so its baseline is adversarial training at the
mean budget that SAAT itself used, and adversarial training at the nominal and at the largest budget stand beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mien.classification.data import EMBEDDED, Augmentation, ClassData, LabelledImages, Part, read
from mien.data.images import resize_tensor
from mien.engine import Settings, Single, fit
from mien.engine.seeding import kept_generators, seed_all, stable_seed
from mien.nn.network import Network
from mien.optim.recipe import Recipe
from mien.proofs.base import Proof, Seed, Values
from mien.robustness.baselines import AdversarialTraining, Trades
from mien.robustness.classifier import RobustClassifier
from mien.robustness.room import ALIVE, measure
from mien.robustness.saat import SAAT, SAPGD, sa_pgd
from mien.robustness.threat import Threat
from mien.room import Using

SIZE, BATCH, EPOCHS = 16, 64, 12
TRAIN, TEST = 1200, 400
NOMINAL = {True: 0.1, False: 8 / 255}
"""The budget that robustness is asked for at: on digits, which are black and white, and on photographs."""
LARGEST = 1.75
"""eps_max over the nominal budget, the paper's 14/255 over 8/255."""


@dataclass
class Images:
    """The data of a seed."""

    train: LabelledImages
    test: LabelledImages
    eps: float


class Watched(SAAT):
    """SAAT that remembers the mean budget it used. It learns nothing from it."""

    def perturbed(self, image: Tensor, label: Tensor) -> Tensor:
        """By SA-PGD."""
        found = sa_pgd(self.classifier, image, label, self.adversary)
        self.__dict__.setdefault("used", []).append(float(found.budget.mean()))
        return found.image


def _read(data: str, part: Part, count: int, seed: int) -> ClassData:
    """`count` images, others for every seed, at `SIZE` pixels."""
    whole = read(data, part)
    rows = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))[:count].sort().values.tolist()
    some = whole.subset(rows)
    if not isinstance(some.images, Tensor):
        return some
    small = resize_tensor(some.images.float() / 255, SIZE).mul(255).round().to(torch.uint8)
    return replace(some, images=small)


def make_data(data: str, seed: int) -> Images:
    """Images to train and to test on."""
    augment: Augmentation = "shift" if data == EMBEDDED else "shift_flip"
    train, test = (_read(data, part, count, seed) for part, count in (("train", TRAIN), ("test", TEST)))  # type: ignore[arg-type]
    return Images(LabelledImages(train, SIZE, augment), LabelledImages(test, SIZE), NOMINAL[data == EMBEDDED])


def about(data: str) -> str:
    """One line on the data."""
    train, test = read(data, "train"), read(data, "test")
    what = "scikit-learn's digits" if data == EMBEDDED else Path(data).name
    used, tested = min(TRAIN, len(train)), min(TEST, len(test))
    eps = NOMINAL[data == EMBEDDED]
    return f"{what} at {SIZE} x {SIZE} pixels: {used} images to train, {tested} to test; L-inf, eps {eps:.3g}"


def _trained(seed: Seed, kind: type[RobustClassifier], **config: Any) -> RobustClassifier:
    data: Images = seed.data
    with kept_generators():
        seed_all(stable_seed(seed.number, "weights"))
        method = kind(
            network=Network("tiny_blocks"),
            optimizer=Recipe(kind="sgd", lr=0.05, weight_decay=5e-4, schedule="steps"),
            image_size=SIZE,
            classes=data.train.classes,
            threat=Threat(data.eps, suite_steps=20, targets=3, queries=150),
            **config,
        )
        settings = Settings(batch_size=BATCH, seed=seed.number, max_steps=seed.max_steps, device=seed.device)
        fit(method, data.train, schedule=Single(EPOCHS), settings=settings)
    return method.eval()


def _values(seed: Seed, method: RobustClassifier) -> Values:
    test: LabelledImages = seed.data.test
    found = measure(method, test, Using(batch_size=200, device=seed.device, seed=seed.number), suite=True)
    return {
        "robustness disparity": float(found.values[ALIVE].mean()),
        "robustness disparity, all budgets": float(found.values["robustness_disparity"].mean()),
        "natural accuracy": float(found.right[0].mean()),
        "accuracy under PGD-20": float(found.values["robust_accuracy"].mean()),
        "accuracy under the worst of the suite": float(found.values["suite_accuracy"].mean()),
    }


def _adversary(seed: Seed, **changes: Any) -> SAPGD:
    """The paper's, its lengths in the proportions of 8/255: steps and increments of a quarter of the nominal budget."""
    eps = seed.data.eps
    return SAPGD(**{"eps_max": LARGEST * eps, "tau": eps / 4, "alpha": eps / 4, "start_eps": eps, **changes})


def _saat(**changes: Any) -> Callable[[Seed], Values]:
    return lambda seed: _values(seed, _trained(seed, SAAT, adversary=_adversary(seed, **changes)))


def _up(seed: Seed) -> Watched:
    def train() -> RobustClassifier:
        return _trained(seed, Watched, adversary=_adversary(seed))

    found = seed.once("up", train)
    assert isinstance(found, Watched)
    return found


def _saat_up(seed: Seed) -> Values:
    method = _up(seed)
    return _values(seed, method) | {"mean budget over the nominal": _mean_budget(method) / seed.data.eps}


def _mean_budget(method: Watched) -> float:
    used = method.__dict__["used"]
    return sum(used) / len(used)


def _fixed(times: float | None) -> Callable[[Seed], Values]:
    """Adversarial training at `times` the nominal budget; None for the mean that SAAT used."""

    def run(seed: Seed) -> Values:
        eps = _mean_budget(_up(seed)) if times is None else times * seed.data.eps
        method = _trained(seed, AdversarialTraining, eps=eps, attack_step=seed.data.eps / 4)
        return _values(seed, method)

    return run


def _trades(seed: Seed) -> Values:
    eps = seed.data.eps
    return _values(seed, _trained(seed, Trades, eps=eps, attack_step=eps / 4))


UP, SAME = "SAAT up", "AT at SAAT's mean budget"

PROOF = Proof(
    name="saat",
    claim="Budgets that follow the loss give a lower robustness disparity than one budget of the same mean.",
    variants={
        UP: _saat_up,
        SAME: _fixed(None),
        "AT": _fixed(1.0),
        "AT at the largest budget": _fixed(LARGEST),
        "SAAT down": lambda seed: _values(
            seed,
            _trained(
                seed,
                SAAT,
                adversary=_adversary(
                    seed,
                    rho=1.5 * math.log(len(seed.data.train.classes)) / math.log(10),
                    eps_max=seed.data.eps,
                    start_eps=0.0,
                    warm_start=False,
                ),
            ),
        ),
        "SAAT up, rho x 0.75": lambda seed: _saat(rho=0.75 * SAPGD().level(len(seed.data.train.classes)))(seed),
        "TRADES": _trades,
        "natural training": _fixed(0.0),
    },
    primary=UP,
    baseline=SAME,
    metric="robustness disparity",
    higher_is_better=False,
    data=make_data,
    about=about,
    ablations={
        "SAAT up over AT": (UP, "AT"),
        "SAAT up over AT at the largest budget": (UP, "AT at the largest budget"),
        "SAAT down over AT": ("SAAT down", "AT"),
        "rho over 0.75 rho": (UP, "SAAT up, rho x 0.75"),
        "SAAT up over TRADES": (UP, "TRADES"),
    },
    notes=(
        "robustness disparity: mean of (A_0 - A_i) / eps_i over budgets at which something is right; a network that "
        "is always wrong has 0, so read it beside the accuracies",
        "the suite: APGD-CE, APGD-T and the square attack, short; the paper's AutoAttack is longer",
        "robust overfitting, the paper's second claim, needs a network of 1 M weights and 60 epochs: not tested here",
    ),
)
