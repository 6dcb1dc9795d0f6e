# SPDX-License-Identifier: Apache-2.0
"""GazeForensics' experiment: does guidance by a gaze model help where another clue stops holding?

Faces are drawn (`mien.proofs.gaze_clips`), or with `--data` the eyes alone, on photographs: where they look must be
known. Forged clips have irises that jitter each by itself, a weak edge around the eyes, and in training mostly another
tint. Tested on new people twice: with the tint as in training, and with a tint that says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mien.data.folders import people_folders
from mien.data.images import resize_tensor
from mien.data.splits import split_by_group
from mien.engine import Settings, Single, Stages, fit
from mien.engine.seeding import kept_generators, seed_all, stable_seed
from mien.errors import TrainingStopped
from mien.forensics.gazeforensics import GazeForensics, gaze_errors
from mien.forensics.opening import load_people
from mien.forensics.readers.gaze import TEACHER, GazeImages
from mien.forensics.scoring import score
from mien.job import EMBEDDED
from mien.metrics.binary import auc
from mien.nn.network import Network
from mien.optim.recipe import Recipe
from mien.proofs.base import Proof, Seed, Values, shuffled
from mien.proofs.fcan_dct import ClipSet
from mien.proofs.gaze_clips import SIZE, Portraits, gaze_clips, gaze_pictures

FRAMES, BATCH, EPOCHS, TEACHER_EPOCHS = 8, 16, 12, 12
TRAIN, TEST, PEOPLE = 800, 400, 60
PICTURES = (3000, 400)
"""For the gaze teacher, to train and to test, of other people."""
SHARES = (0.3, 0.1, 0.35, 0.25)
"""Of people in photographs: for the teacher, for its test, for the clips to train on, and for those to test on."""
AGREEMENT = 0.9
CLEARLY_BETTER = 0.6
"""The teacher's error over that of the mean, at most."""
SHIFTED, INSIDE = "AUC, tint says nothing", "AUC, tint as in training"


@dataclass
class Clips:
    """The data of a seed: gaze for the teacher, clips to train on, and two tests of the same new people."""

    gaze: GazeImages
    held_gaze: GazeImages
    train: ClipSet
    inside: ClipSet
    shifted: ClipSet


def make_data(data: str, seed: int) -> Clips:
    """Other people for every seed and every part; photographs are of the same people, split anew."""
    teacher, held, train, test = (PEOPLE,) * 4 if data == EMBEDDED else _portraits(data, seed)
    parts = [GazeImages(*gaze_pictures(10 * seed + i, who, PICTURES[i]), SIZE) for i, who in enumerate((teacher, held))]

    def clips(which: str, who: int | Portraits, count: int, tinted: float) -> ClipSet:
        image, label, people = gaze_clips(seed, which, who, count, FRAMES, tinted=tinted)
        return ClipSet(image, ["forged" if y else "real" for y in label], people, training=which == "train")

    inside, shifted = clips("testing", test, TEST, AGREEMENT), clips("testing", test, TEST, 0.5)
    return Clips(parts[0], parts[1], clips("train", train, TRAIN, AGREEMENT), inside, shifted)


def _portraits(data: str, seed: int) -> list[Portraits]:
    """People for the teacher, for its test, for the clips to train on, and for those to test on."""
    faces, people = load_people(people_folders(data))
    small = resize_tensor(faces, SIZE)
    parts = split_by_group(people, SHARES, seed=seed)
    return [Portraits(small[rows], [people[i] for i in rows]) for rows in parts]


def about(data: str) -> str:
    """One line on the data."""
    if data == EMBEDDED:
        who, others = f"drawn faces of {PEOPLE} people", "others"
    else:
        photographs = people_folders(data)
        count = len({photograph.group for photograph in photographs})
        who, others = f"eyes drawn on {len(photographs)} photographs of {count} people", "other people"
    return (
        f"{who}: {TRAIN} clips of {FRAMES} frames to train, twice {TEST} of others to test; {PICTURES[0]} pictures of "
        f"{others} for the gaze teacher"
    )


class EyeNet(nn.Module):
    """Four convolutions whose mean over places is 32 features; it sees 23 pixels, an eye and its surroundings."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, stride in ((16, 2), (32, 2), (32, 1), (32, 1)):
            layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """Features (B, 32) of images (B, 3, 48, 48)."""
        return self.features(image).mean(dim=(2, 3))


def _method(seed: Seed, kind: type[GazeForensics] = GazeForensics, **config: Any) -> GazeForensics:
    seed_all(stable_seed(seed.number, "weights"))
    return kind(
        network=Network.of(EyeNet()),
        optimizer=Recipe(kind="adamw", lr=2e-3, weight_decay=1e-2),
        teacher_optimizer=Recipe(kind="adamw", lr=3e-3, weight_decay=1e-2, schedule="cosine"),
        image_size=SIZE,
        frames=FRAMES,
        width=64,
        heads=2,
        compression=(32, 16, 8),
        hidden=(32, 16),
        view=1.0,
        **{"leaky": 8} | config,
    )


def _taught(seed: Seed) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Weights of the gaze teacher and its errors in degrees.

    Raises:
        TrainingStopped: It is not clearly better than the mean: then nothing can be learnt from its guidance.
    """
    with kept_generators():
        method = _method(seed)
        settings = Settings(batch_size=32, seed=seed.number, max_steps=seed.max_steps, device=seed.device)
        fit(method, seed.data.gaze, schedule=Stages({TEACHER: TEACHER_EPOCHS}), settings=settings)
        errors = gaze_errors(method.teacher, seed.data.held_gaze)
    share = errors["gaze_degrees"] / errors["gaze_degrees_of_the_mean"]
    if share > CLEARLY_BETTER and seed.max_steps is None:
        raise TrainingStopped(f"the gaze teacher errs by {share:.2f} of the mean's error: {errors}")
    return {k: v.cpu() for k, v in method.teacher.state_dict().items()}, errors


def _variant(kind: type[GazeForensics] = GazeForensics, **config: Any) -> Callable[[Seed], Values]:
    """Test AUC on both sets, and the teacher's errors."""

    def measure(seed: Seed) -> Values:
        weights, errors = seed.once("teacher", lambda: _taught(seed))
        with kept_generators():
            method = _method(seed, kind, **config)
            method.teacher.load_state_dict(weights)
            method.taught.fill_(True)
            settings = Settings(batch_size=BATCH, seed=seed.number, max_steps=seed.max_steps, device=seed.device)
            fit(method, seed.data.train, schedule=Single(EPOCHS), settings=settings)
        values = {}
        for name, test in ((SHIFTED, seed.data.shifted), (INSIDE, seed.data.inside)):
            scored = score(method.eval(), test)
            values[name] = auc(scored.label, scored.score)
        return {**values, **errors}

    return measure


GUIDED, UNGUIDED = "guided, leaky", "unguided, from the teacher"

PROOF = Proof(
    name="gazeforensics",
    claim="Guidance by a gaze model with a leaky part finds forged eyes better than none where a tint misleads.",
    variants={
        "frozen teacher": _variant(backend="frozen", leaky=0),
        UNGUIDED: _variant(guidance=0.0),
        "unguided, from random weights": _variant(guidance=0.0, start_from_teacher=False),
        "guided, no leaky part": _variant(leaky=0),
        GUIDED: _variant(),
        "shuffled labels": _variant(shuffled(GazeForensics)),
    },
    primary=GUIDED,
    baseline=UNGUIDED,
    metric=SHIFTED,
    data=make_data,
    about=about,
    ablations={
        "leaky part": (GUIDED, "guided, no leaky part"),
        "guided over frozen": (GUIDED, "frozen teacher"),
        "start from the teacher": (UNGUIDED, "unguided, from random weights"),
    },
    controls={"shuffled labels": (0.4, 0.6)},
    notes=(
        "eyes are drawn: this says what the parts do, not how well real forgeries are found",
        "both tests show the same clips of the same people; they differ in the tint alone",
        "the authors' own early study found guidance alone no better than none",
    ),
)
