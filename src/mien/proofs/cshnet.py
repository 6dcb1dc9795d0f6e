# SPDX-License-Identifier: Apache-2.0
"""CSHNet's experiment: which unit the bottleneck is made of, everything else equal.

A generator of 64 x 64 pictures with 8 x 8 tokens of 48 channels and four units, trained with L1 alone (and the edge
loss where it is named), without rivals: what is compared is the generator. All variants have the same number of weights
within 1.5 %, and see the same pictures in the same order in as many updates. Generated polygons by default, whose
texture only their shape tells; or pairs of a folder, split by person.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mien.data.splits import split_by_group
from mien.engine import Settings, Single, fit
from mien.engine.loading import steps_per_epoch
from mien.engine.seeding import kept_generators, seed_all, stable_seed
from mien.errors import BadInput
from mien.optim.recipe import Recipe
from mien.proofs.base import Proof, Seed, Values
from mien.synthesis.cshnet import CSHNet
from mien.synthesis.data import Pair, Pairs, Translation, load_pair
from mien.synthesis.hybrid import Architecture
from mien.synthesis.pix2pix import Pix2Pix, UNetSize
from mien.synthesis.polygons import SIZE, polygon_pairs
from mien.synthesis.readers import EMBEDDED, read
from mien.synthesis.scoring import score
from mien.synthesis.translator import Translator, Weights

STEPS, BATCH = 250, 8
SCENES, TEST_SCENES = 1200, 150
TEST_SHARE = 1 / 6
SHIFT = 3
EDGE_WEIGHT = 0.003
RECIPE = Recipe(kind="adam", lr=3e-3, betas=(0.5, 0.999), weight_decay=0.0, schedule="linear")
HYBRID = Architecture(width=6, downs=3, window=4, heads=4, drop_path=0.0, guide="none", pool_former=False)
GUIDED = replace(HYBRID, guide="a_b")
METRIC = "L1 over that of the median picture"


@dataclass
class Data:
    """The pairs of a seed, and the L1 of the picture that every test picture is nearest to without looking."""

    train: Pairs
    test: Pairs
    constant: float


def make_data(data: str, seed: int) -> Data:
    """Other scenes for every seed; of a folder another sixth of the people to test on."""
    if data == EMBEDDED:
        start = 10_000_000 + seed * 10_000
        train, test = (
            polygon_pairs(range(start, start + SCENES)),
            polygon_pairs(range(start + 5000, start + 5000 + TEST_SCENES)),
        )
        return _data(train, test, augmented=False)  # a texture that is moved is another texture
    pairs = read(data, "train").pairs
    if len({pair.group for pair in pairs}) < 12:
        raise BadInput(f"{data}: {len(pairs)} pairs of too few groups: the proof needs 12 groups or more")
    kept = [_at_size(pair) for pair in pairs]
    rows, rest = split_by_group([pair.group for pair in kept], (1 - TEST_SHARE, TEST_SHARE), seed=seed)
    return _data([kept[i] for i in rows], [kept[i] for i in rest], augmented=True)


def _at_size(pair: Pair) -> Pair:
    """The pair in memory, at the size of the experiment."""
    one, other = ((255 * side).round().byte() for side in load_pair(pair, SIZE))
    return replace(pair, input=one, target=other)


def _data(train: list[Pair], test: list[Pair], *, augmented: bool) -> Data:
    truth = {
        name: np.stack([np.asarray(p.target) for p in pairs]) for name, pairs in (("train", train), ("test", test))
    }
    constant = np.abs(truth["test"] - np.median(truth["train"], axis=0)).mean() / 255
    moved = Pairs(train, SIZE, flip=augmented, shift=SHIFT if augmented else 0)
    return Data(moved, Pairs(test, SIZE), float(constant))


def about(data: str) -> str:
    """One line on the data."""
    if data == EMBEDDED:
        return (
            f"generated scenes of five polygons, {SCENES} to train on, {TEST_SCENES} others to test on, {SIZE} pixels"
        )
    return f"{read(data, 'train').about}; {SIZE} pixels, five sixths of the people to train on, the others to test on"


# --- generators of one size -----------------------------------------------------------------------------------------
ARCHITECTURES: dict[str, Architecture] = {
    "8 CNN": replace(HYBRID, units=("cnn",) * 8, cnn_width=49),
    "8 Swin": replace(HYBRID, units=("swin",) * 8, mlp_ratio=7.0),
    "4 SEC": replace(HYBRID, units=("sec",) * 4, cnn_width=55),
    "4 CES": replace(HYBRID, units=("ces",) * 4, cnn_width=55),
    "SEC/CES": replace(HYBRID, cnn_width=55),
    "SEC/CES + IGC": GUIDED,
}
"""Bottlenecks of one size. A pure unit is half of a hybrid one, so there are twice as many; widths make up the rest."""
UNET = UNetSize(width=14, downs=5, dropout=0.0)


# --- variants -------------------------------------------------------------------------------------------------------
class Shuffled(CSHNet):
    """The control that must fail: every input has the target of another one."""

    name = "shuffled-control"

    def generator_losses(self, batch: Translation) -> Any:
        """The losses on targets moved on by one."""
        return super().generator_losses(replace(batch, image=batch.image.roll(1, 0)))


def _trained(seed: Seed, make: Callable[[], Translator]) -> Translator:
    data: Data = seed.data
    with kept_generators():
        seed_all(stable_seed(seed.number, "weights"))
        method = make()
        steps = seed.max_steps or STEPS
        epochs = -(-steps // steps_per_epoch(len(data.train), BATCH, 1, 1))
        settings = Settings(batch_size=BATCH, seed=seed.number, max_steps=steps, device=seed.device)
        fit(method, data.train, schedule=Single(epochs), settings=settings)
    return method.eval()


def _values(seed: Seed, method: Translator) -> Values:
    data: Data = seed.data
    scored = score(method, data.test)
    values = {name: float(np.mean(scored.values[key])) for name, key in _FIGURES.items()}
    return {
        METRIC: values["L1"] / data.constant,
        **values,
        "Fréchet distance, random features": scored.distance.value(),
        "weights": float(sum(p.numel() for p in method.generator.parameters())),
    }


_FIGURES = {"L1": "l1", "SSIM": "ssim", "edge F1": "edge_f1"}


def _common(edge: float) -> dict[str, Any]:
    weights = Weights(edge=edge, l1=1.0)
    return {"weights": weights, "optimizer": RECIPE, "image_size": SIZE}


def _hybrid(name: str, *, edge: float = 0.0, kind: type[CSHNet] = CSHNet) -> Callable[[Seed], Values]:
    """A variant by the name of its bottleneck; one seed trains it once."""

    def measure(seed: Seed) -> Values:
        def run() -> Values:
            make = lambda: kind(architecture=ARCHITECTURES[name], **_common(edge))  # noqa: E731
            return _values(seed, _trained(seed, make))

        found: Values = seed.once(f"{kind.name} {name} {edge}", run)
        return found

    return measure


def _unet(seed: Seed) -> Values:
    return _values(seed, _trained(seed, lambda: Pix2Pix(unet=UNET, shift=0, **_common(0.0))))


def _better_pure(seed: Seed) -> Values:
    """Of the two pure bottlenecks the one with the lower L1 on the test data: a baseline that is given every doubt."""
    return min((_hybrid(name)(seed) for name in ("8 CNN", "8 Swin")), key=lambda values: values[METRIC])


PURE, FULL = "the better of the pure ones", "SEC/CES + IGC + AEPL"
VARIANTS: dict[str, Callable[[Seed], Values]] = {
    "8 CNN": _hybrid("8 CNN"),
    "8 Swin": _hybrid("8 Swin"),
    PURE: _better_pure,
    "U-Net": _unet,
    "4 SEC": _hybrid("4 SEC"),
    "4 CES": _hybrid("4 CES"),
    "SEC/CES": _hybrid("SEC/CES"),
    "SEC/CES + IGC": _hybrid("SEC/CES + IGC"),
    FULL: _hybrid("SEC/CES + IGC", edge=EDGE_WEIGHT),
    "shuffled pairs": _hybrid("SEC/CES + IGC", kind=Shuffled),
}

PROOF = Proof(
    name="cshnet",
    claim="Alternating CNN-led and Swin-led blocks translate with less error than either unit alone in a generator of "
    "the same size.",
    variants=VARIANTS,
    primary="SEC/CES",
    baseline=PURE,
    metric=METRIC,
    higher_is_better=False,
    data=make_data,
    about=about,
    ablations={
        "hybrid over CNN": ("SEC/CES", "8 CNN"),
        "hybrid over Swin": ("SEC/CES", "8 Swin"),
        "hybrid over U-Net": ("SEC/CES", "U-Net"),
        "alternating over SEC alone": ("SEC/CES", "4 SEC"),
        "alternating over CES alone": ("SEC/CES", "4 CES"),
        "IGC over none": ("SEC/CES + IGC", "SEC/CES"),
        "AEPL over none": (FULL, "SEC/CES + IGC"),
    },
    controls={"shuffled pairs": (0.9, 2.0)},
    notes=(
        "with 8 x 8 tokens and windows of 4 one shifted pair of blocks nearly sees the whole map: this says nothing "
        "about the range of attention",
        "the edge loss may cost L1: whether it sharpens is in the edge F1, and the proof cshnet-edges is about that",
        "no PoolFormer blocks, whose gains start at 1e-5 and hardly move in so few updates; no rivals",
        f"smaller than first laid out, so that a seed takes minutes of a CPU: {STEPS} updates of width {HYBRID.width}, "
        f"{HYBRID.downs} halvings (48 channels at 8 x 8 tokens) and windows of {HYBRID.window}, not 800 of width 16, "
        "2 halvings (64 channels at 16 x 16 tokens) and windows of 8; nothing here is trained to the end",
    ),
)
"""The bottleneck."""

EDGES = Proof(
    name="cshnet-edges",
    claim="The adaptive edge perception loss makes edges come out nearer to the true ones.",
    variants={name: VARIANTS[name] for name in ("SEC/CES + IGC", FULL)},
    primary=FULL,
    baseline="SEC/CES + IGC",
    metric="edge F1",
    data=make_data,
    about=about,
    notes=(
        "edges are found with a lighter blur and another threshold than those of the loss",
        "in the released code the loss has no gradient, so that its network is the baseline here",
    ),
)
"""The edge loss."""
