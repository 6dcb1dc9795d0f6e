# SPDX-License-Identifier: Apache-2.0
"""FCAN-DCT's experiment: clips of one face each, forged in space or in time, and what finds which.

A clip is one picture, filmed: smooth sub-pixel motion, slow light, sensor noise, one warp per frame from the original.
Half of the clips are real; of the others half are forged in every frame alike (the face shrunk by 1.75 and enlarged
again), and half in time (the face's colour swings with a period of 2 to 4 frames). All clips that do not swing carry a
still offset of the same kind, drawn so that a single frame of a swinging clip is distributed like one of a real clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from mien.data import forge_ops as ops
from mien.data.draws import item_seeds
from mien.data.folders import people_folders
from mien.data.forge import face_mask
from mien.data.splits import split_by_group
from mien.engine import Settings, Single, fit
from mien.engine.loading import steps_per_epoch
from mien.engine.seeding import kept_generators, seed_all, stable_seed
from mien.forensics.clips.stills import camera
from mien.forensics.data import Faces
from mien.forensics.fcan_dct import FCANDCT, TemporalAttention, augmented, moments
from mien.forensics.opening import generated_people, load_people
from mien.forensics.scoring import score
from mien.job import EMBEDDED
from mien.metrics.binary import auc
from mien.nn.network import Network
from mien.optim.recipe import Recipe
from mien.proofs.base import Proof, Seed, Values, shuffled
from mien.proofs.resynthesis import near_infrared

SPACE, TIME = "forged in space", "forged in time"
FACE, SIZE, FRAMES, BATCH, STEPS = 64, 48, 8, 16, 600
COUNTS = (1200, 400)
"""Clips to train and to test on."""
GENERATED = (24, 40)
AMPLITUDE, PERIOD, SHRINK = (0.02, 0.04), (2, 3, 4), 1.75
REACH, LIGHT = 3.0, 0.1
"""How far the camera moves in pixels, and the share by which the light drifts: real clips change in time, too."""
METRIC = "AUC"


class ClipSet(Dataset[Faces]):
    """Clips in memory, uint8 (N, T, 3, S, S); in training mirrored as a whole."""

    def __init__(self, image: Tensor, kinds: list[str], groups: list[str], *, training: bool = False) -> None:
        self.image, self.kinds, self.groups = image, kinds, groups
        self.training, self.seeded = training, training

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> Faces:
        clip = self.image[index].float() / 255
        if self.training and torch.rand(()) < 0.5:
            clip = clip.flip(-1)
        kind = self.kinds[index]
        return Faces(clip, int(kind != "real"), self.groups[index], kind, "", None, f"clip {index}")

    def first(self, frames: int) -> ClipSet:
        """The same clips, their first frames only."""
        return ClipSet(self.image[:, :frames], self.kinds, self.groups, training=self.training)

    def infrared(self, seed: int) -> ClipSet:
        """The same clips as if filmed in near-infrared: brightness alone, through another curve for every clip."""
        image = ops.to_bytes(near_infrared(self.image.float() / 255, seed))
        return ClipSet(image, self.kinds, self.groups, training=self.training)


@dataclass
class Clips:
    """The data of a seed."""

    train: ClipSet
    test: ClipSet


def make_clip(face: Tensor, kind: str, seed: int) -> Tensor:
    """A clip of one face, uint8 (T, 3, SIZE, SIZE).

    Args:
        face: (3, H, W) in [0, 1].
        kind: "real", `SPACE` or `TIME`.
        seed: Whatever is drawn follows from it.
    """
    rng = np.random.default_rng(seed)
    mask = face_mask(face[None], item_seeds(seed, [0], "mask"), softness=(1.5, 4.0))
    if kind == SPACE:
        copy = ops.resampled(face[None], torch.tensor([1 / SHRINK]))
        face = ops.blend(face[None], copy, mask)[0]
    amplitude, period, phase = rng.uniform(*AMPLITUDE), rng.choice(PERIOD), rng.uniform(0, 2 * math.pi)
    colour = torch.from_numpy(rng.normal(size=3)).float()
    colour = colour / colour.norm() * math.sqrt(3)
    time = torch.arange(FRAMES) if kind == TIME else torch.zeros(FRAMES)
    swing = amplitude * torch.cos(2 * math.pi * time / period + phase)
    scene = face + mask * swing[:, None, None, None] * colour[:, None, None]
    return ops.to_bytes(camera(scene.clamp(0, 1), seed, SIZE, reach=REACH, light=LIGHT))


def _load(data: str) -> tuple[Tensor, list[str]]:
    if data == EMBEDDED:
        return generated_people(range(GENERATED[0]), GENERATED[1], size=FACE)
    return load_people(people_folders(data), FACE)


def make_data(data: str, seed: int) -> Clips:
    """Two thirds of the people to train on, a third to test on; another split and other clips for every seed."""
    faces, people = _load(data)
    parts = []
    for side, rows in enumerate(split_by_group(people, (2 / 3, 1 / 3), seed=seed)):
        rng = np.random.default_rng([seed, side])
        chosen = rng.choice(rows, COUNTS[side], replace=len(rows) < COUNTS[side])
        kinds = [("real", SPACE, "real", TIME)[i % 4] for i in range(COUNTS[side])]
        numbers = rng.integers(2**31, size=COUNTS[side]).tolist()
        clips = [make_clip(faces[i].float() / 255, kind, s) for i, kind, s in zip(chosen, kinds, numbers, strict=True)]
        parts.append(ClipSet(torch.stack(clips), kinds, [people[i] for i in chosen], training=side == 0))
    return Clips(*parts)


def about(data: str) -> str:
    """One line on the data."""
    made = f"{COUNTS[0]} clips of {FRAMES} frames to train, {COUNTS[1]} to test"
    if data == EMBEDDED:
        return f"filmed generated faces of {GENERATED[0]} people: {made}"
    return f"filmed photographs of {len({r.group for r in people_folders(data)})} people: {made}"


class FourLayers(nn.Module):
    """Four convolutions, 64 channels and 6 x 6 places in the end."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, stride in ((16, 2), (32, 2), (48, 2), (64, 1)):
            layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)

    def forward_features(self, image: Tensor) -> Tensor:
        """The map (B, 64, 6, 6) of images (B, 3, 48, 48)."""
        return self.features(image)

    def forward(self, image: Tensor) -> Tensor:
        """Its mean over places."""
        return self.features(image).mean(dim=(2, 3))


def _trained(seed: Seed, train: ClipSet, kind: type[FCANDCT] = FCANDCT, **config: Any) -> FCANDCT:
    with kept_generators():
        seed_all(stable_seed(seed.number, "weights"))
        recipe = Recipe(kind="adam", lr=2e-3, weight_decay=5e-4, schedule="cosine")
        frames = train.image.shape[1]
        method = kind(network=Network.of(FourLayers()), optimizer=recipe, image_size=SIZE, frames=frames, **config)
        steps = seed.max_steps or STEPS
        epochs = -(-steps // steps_per_epoch(len(train), BATCH, 1, 1))
        settings = Settings(batch_size=BATCH, seed=seed.number, max_steps=steps, device=seed.device)
        fit(method, train, schedule=Single(epochs), settings=settings)
    return method.eval()


def _variant(view: Callable[[Seed], Clips] = lambda seed: seed.data, **config: Any) -> Callable[[Seed], Values]:
    """AUC on all clips, and of each kind of forgery against the real ones."""

    def measure(seed: Seed) -> Values:
        clips = view(seed)
        scored = score(_trained(seed, clips.train, **config), clips.test)
        kinds = np.array(scored.kind)
        values = {METRIC: auc(scored.label, scored.score)}
        for kind in (SPACE, TIME):
            rows = (kinds == "real") | (kinds == kind)
            values[f"AUC, {kind}"] = auc(scored.label[rows], scored.score[rows])
        return values

    return measure


def first_frames(seed: Seed) -> Clips:
    """The first frame of every clip."""
    return Clips(seed.data.train.first(1), seed.data.test.first(1))


def infrared(seed: Seed) -> Clips:
    """The same clips as if filmed in near-infrared, to train and to test on."""

    def make() -> Clips:
        return Clips(seed.data.train.infrared(seed.number), seed.data.test.infrared(seed.number + 1000))

    made: Clips = seed.once("near-infrared", make)
    return made


# --- on features alone ----------------------------------------------------------------------------------------
def drifting(count: int, seed: int, channels: int = 16) -> tuple[Tensor, Tensor]:
    """Features over time, (count, T, channels), and labels: a still part, slow drift of 0.02 to 0.12 cycles a frame
    and of log-normal size, and noise; of forged ones also a weak alternation of period 2 to 4 in a random direction.
    """
    g = torch.Generator().manual_seed(seed)
    time = torch.arange(FRAMES).view(1, -1, 1)
    still = torch.randn(count, 1, channels, generator=g)
    size = torch.randn(count, 1, 1, generator=g).exp()
    cycles = 0.02 + 0.1 * torch.rand(count, 1, channels, generator=g)
    phase = 2 * math.pi * torch.rand(count, 1, channels, generator=g)
    drift = size * torch.sin(2 * math.pi * cycles * time + phase)
    label = torch.arange(count) % 2
    period = torch.randint(2, 5, (count, 1, 1), generator=g)
    direction = F.normalize(torch.randn(count, 1, channels, generator=g), dim=2)
    turn = 2 * math.pi * torch.rand(count, 1, 1, generator=g)
    swing = torch.cos(2 * math.pi * time / period + turn) * direction
    noise = 0.05 * torch.randn(count, FRAMES, channels, generator=g)
    return still + drift + noise + 0.5 * label.view(-1, 1, 1) * swing, label


def features_alone(how: str, seed: int, steps: int = 600) -> float:
    """Test AUC of a linear layer on moments of drifting features; `how` is mean, moments, sigmoid or tanh."""
    with kept_generators():
        torch.manual_seed(seed)
        attending = how in ("sigmoid", "tanh")
        attention = TemporalAttention(16, FRAMES, 4, 32, attention=attending)
        if how == "sigmoid":  # gains of 1 to 2 instead: no frequency can be removed
            attention.frequency[3] = attention.channel[3] = nn.Sigmoid()
        head = nn.Sequential(nn.Linear(16 if how == "mean" else 32, 32), nn.ReLU(), nn.Linear(32, 2))
        (x, y), (test, truth) = drifting(1200, seed), drifting(1200, seed + 10_000)

        def logits(z: Tensor) -> Tensor:
            if how == "mean":
                return head(z.mean(dim=1))
            return head(moments(augmented(z, *attention.gains(z)) if attending else z))

        parameters = [*head.parameters(), *attention.parameters()]
        optimizer = torch.optim.Adam(parameters, 5e-3)
        for _ in range(steps):
            rows = torch.randint(len(x), (64,))
            optimizer.zero_grad()
            F.cross_entropy(logits(x[rows]), y[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            difference = logits(test).diff(dim=1)[:, 0]
    return float(auc(truth.numpy(), difference.numpy()))


def check(data: str) -> Any:
    """Test AUC on features alone, three seeds."""
    ways = ("mean", "moments", "sigmoid", "tanh")
    found = {how: [round(features_alone(how, seed), 3) for seed in range(3)] for how in ways}
    return {"AUC on drifting features, where forged ones alternate": found}


BOTH, MOMENTS = "CFE + FTA", "mean + std"

PROOF = Proof(
    name="fcan-dct",
    claim="Compact features and temporal attention find forged clips better than mean and deviation over time do.",
    variants={
        "mean": _variant(cfe=False, temporal="none"),
        MOMENTS: _variant(cfe=False, temporal="moments"),
        "CFE": _variant(temporal="none"),
        "FTA": _variant(cfe=False),
        BOTH: _variant(),
        "one frame": _variant(first_frames),
        f"{MOMENTS}, near-infrared": _variant(infrared, cfe=False, temporal="moments"),
        f"{BOTH}, near-infrared": _variant(infrared),
        "shuffled labels": _variant(kind=shuffled(FCANDCT)),
    },
    primary=BOTH,
    baseline=MOMENTS,
    metric=METRIC,
    data=make_data,
    about=about,
    ablations={
        "CFE over the mean": ("CFE", "mean"),
        "FTA over mean + std": ("FTA", MOMENTS),
        "both over FTA": (BOTH, "FTA"),
        "both over CFE": (BOTH, "CFE"),
        "time over one frame": (BOTH, "one frame"),
        "both over mean + std in near-infrared": (f"{BOTH}, near-infrared", f"{MOMENTS}, near-infrared"),
    },
    controls={"shuffled labels": (0.4, 0.6)},
    check=check,
    notes=(
        "one frame: the same network on the first frame of each clip; it must be near 0.5 on clips forged in time",
        "all variants see the same clips in the same order for the same number of steps",
        "near-infrared is imitated: brightness alone, with a gamma and a gain for every clip",
    ),
)
