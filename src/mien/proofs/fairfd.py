# SPDX-License-Identifier: Apache-2.0
"""FairFD's experiment: does Bias Pruning with Fair Activations make a biased detector fairer?

A detector is biased on purpose: seven in ten of its training faces are of one group, and for two of the other groups
one kind of forgery is missing. It is calibrated on real faces of people kept apart, and tested on others; groups are
balanced by gender and age wherever the data tell. Every variant prunes the same network with the same calibration, at
three shares of the weights; "random" is the control that the paper lacks.

Pruning that merely shifts all scores moves every figure at a fixed threshold. So figures are also taken at the
threshold that gives the pruned detector the true-negative rate of the unpruned one.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from mien.data.attributes import attribute_names, attribute_table, column_of
from mien.data.confound import confound_report
from mien.data.draws import item_seeds, uniforms
from mien.data.folders import fingerprints
from mien.engine import Settings, Single, fit
from mien.engine.loading import steps_per_epoch
from mien.engine.seeding import kept_generators, seed_all, stable_seed
from mien.errors import BadInput, TrainingStopped
from mien.forensics.data import Faces, ForgedFrames
from mien.forensics.opening import EMBEDDED, forged_frames, generated_people
from mien.forensics.parts.pruning import Calibration, Pruning, calibrate, prune_
from mien.forensics.people import People, load_table, skin_of, unlabelled
from mien.forensics.plain import PlainDetector
from mien.forensics.scoring import score
from mien.metrics.binary import auc
from mien.metrics.fairness import REAL, Judged, fairness
from mien.nn.network import Network
from mien.nn.tiny import local_high_pass
from mien.optim.recipe import Recipe
from mien.proofs.base import Proof, Seed, Values

KINDS = ("self-blend", "region-edit", "re-synthesis")
MISSING = "re-synthesis"
"""The kind that two groups are not trained on."""
SIZE, STEPS, BATCH = 64, 400, 32
SHARES = (40, 48, 80)
"""Of each group's people, to train, calibrate and test on, as parts of 168: what UTKFace's smallest group holds."""
MAJORITY = 7
"""Times as many training faces as each of the others has."""
RHOS = {"0.1 %": 0.001, "1 %": 0.01, "5 %": 0.05}
LEAST_BIAS = 0.05
"""AADPD of the unpruned detector below which there is nothing to prune away."""
GENERATED = (66, 8)
"""People and faces of each, where they are generated."""
AGES = (13, 31, 51)


class FourLayers(nn.Module):
    """Four 3 x 3 convolutions of 24, 48, 64 and 96 channels on the image and its local high-pass; 96 k weights."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 6
        for width in (24, 48, 64, 96):
            layers += [nn.MaxPool2d(2)] if layers else []
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.features, self.fc = nn.Sequential(*layers), nn.Linear(channels, 2)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> logits (B, 2)."""
        both = torch.cat([image, 8 * local_high_pass(image)], dim=1)
        return self.fc(self.features(both).mean(dim=(2, 3)))


@dataclass
class Data:
    """The data of a seed.

    Args:
        train: Unequal shares of the groups, real faces as often as forged ones.
        calibration: Real faces of every group.
        test: Real and forged faces of every group.
        column: What the groups are groups of.
    """

    train: Dataset[Faces]
    calibration: ForgedFrames
    test: ForgedFrames
    column: str


# --- data -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Faceless:
    """Who there is, before any face is opened.

    Args:
        names: Whose face each is.
        values: Their groups.
        strata: Gender and age class, where the data tell.
        column: What the groups are groups of.
        load: The faces of some rows.
    """

    names: list[str]
    values: list[str]
    strata: list[str]
    column: str
    load: Callable[[Sequence[int]], People]


def make_data(data: str, seed: int) -> Data:
    """Groups balanced by gender and age, people in one part only; another split for every seed."""
    who = _who(data)
    train, held, test = _parts(who, seed)
    first = Counter(who.values).most_common(1)[0][0]
    others = sorted(set(who.values) - {first})
    poor = {others[(seed + k) % len(others)] for k in range(2)}  # which two groups go short follows from the seed
    frames = forged_frames(who.load(train), SIZE, kinds=KINDS, seed=seed, training=True)
    rows = [i for i, row in enumerate(frames.attributes) if frames.kinds[i] != MISSING or row[who.column] not in poor]
    real = [i for i in rows if frames.kinds[i] == REAL]
    return Data(
        Subset(frames, [*rows, *real, *real]),
        forged_frames(who.load(held), SIZE, kinds=(), seed=seed + 1),
        forged_frames(who.load(test), SIZE, kinds=KINDS, seed=seed + 2),
        who.column,
    )


def _who(data: str) -> Faceless:
    """The people of up to four groups."""
    if data == EMBEDDED:
        faces, names = generated_people(range(GENERATED[0]), GENERATED[1], 96)
        people = People(faces, names, skin_of(names), {})
        return Faceless(names, people.values("skin"), [""] * len(names), "skin", people.part)
    records = unlabelled(attribute_table(data), data)
    column = column_of(attribute_names(records), None)
    groups = _largest([dict(record.attributes)[column] for record in records])
    kept = [record for record in records if dict(record.attributes)[column] in groups]
    known = [dict(record.attributes) for record in kept]
    files = fingerprints([record.path for record in kept])
    first: dict[str, str] = {}  # a photograph that comes twice is one person
    names = [first.setdefault(file, record.group) for file, record in zip(files, kept, strict=True)]

    def load(rows: Sequence[int]) -> People:
        return load_table([kept[i] for i in rows], data, len(records))

    return Faceless(names, [row[column] for row in known], [_stratum(row) for row in known], column, load)


def _largest(values: Sequence[str]) -> set[str]:
    """Up to four groups; of UTKFace's five races all but "4", which is none of the four named ones."""
    counts = Counter(values)
    if set(counts) == set("01234"):
        return set("0123")
    return {name for name, _ in counts.most_common(4)}


def _stratum(row: Mapping[str, str]) -> str:
    """Gender and age class, where the table tells."""
    age = row.get("age", "")
    return f"{row.get('gender', '')}/{sum(int(age) >= a for a in AGES) if age.isdigit() else ''}"


def _parts(who: Faceless, seed: int) -> tuple[list[int], list[int], list[int]]:
    """Rows to train, calibrate and test on. People are drawn within group and stratum, as many in every group."""
    names, values, strata = who.names, who.values, who.strata
    cells: dict[tuple[str, str], list[str]] = {}
    rows: dict[str, list[int]] = {}
    for i, (name, value, stratum) in enumerate(zip(names, values, strata, strict=True)):
        rows.setdefault(name, []).append(i)
        if len(rows[name]) == 1:
            cells.setdefault((value, stratum), []).append(name)
    groups = sorted(set(values))
    first = Counter(values).most_common(1)[0][0]
    train: list[str] = []
    held: list[str] = []
    test: list[str] = []
    spare: list[str] = []
    for stratum in sorted(set(strata)):
        quota = min(len(cells.get((group, stratum), ())) for group in groups)
        sizes = [round(quota * sum(SHARES[:k]) / sum(SHARES)) for k in (1, 2)]
        for group in groups:
            members = _shuffled(cells.get((group, stratum), []), seed)
            train += members[: sizes[0]]
            held += members[sizes[0] : sizes[1]]
            test += members[sizes[1] : quota]
            if group == first:
                spare += members[quota:]
    wanted = (MAJORITY - 1) * len(train) // len(groups)
    train += _shuffled(spare, seed)[:wanted]
    if not train or not held or not test:
        raise BadInput("too few people in some group: every group needs some to train, calibrate and test on")
    parts = [sorted(i for name in part for i in rows[name]) for part in (train, held, test)]
    return parts[0], parts[1], parts[2]


def _shuffled(names: Sequence[str], seed: int) -> list[str]:
    order: Any = uniforms(item_seeds(seed, np.arange(len(names)), "order"), "place")[:, 0].argsort() if names else []
    return [sorted(names)[i] for i in order]


def about(data: str) -> str:
    """One line on the data."""
    if data == EMBEDDED:
        return f"forgeries made from generated faces by skin tone: {GENERATED[0]} people, {GENERATED[1]} faces each"
    who = _who(data)
    shown = ", ".join(f"{who.column} {name}: {count}" for name, count in sorted(Counter(who.values).items()))
    return f"forgeries made from real faces ({shown}), groups balanced by gender and age in calibration and test"


def check(data: str) -> Any:
    """Whether 12-pixel thumbnails tell the kinds apart, by people."""
    made = make_data(data, 0).test
    return confound_report(made.image, made.kinds, made.groups).to_json()


# --- variants ---------------------------------------------------------------------------------------------------------
def _trained(seed: Seed) -> PlainDetector:
    """The biased detector, the same for all variants."""

    def train() -> PlainDetector:
        with kept_generators():
            seed_all(stable_seed(seed.number, "weights"))
            recipe = Recipe(lr=3e-3, betas=(0.9, 0.95), schedule="cosine")
            method = PlainDetector(network=Network.of(FourLayers()), optimizer=recipe, image_size=SIZE)
            data: Any = seed.data.train
            steps = seed.max_steps or STEPS
            epochs = -(-steps // steps_per_epoch(len(data), BATCH, 1, 1))
            settings = Settings(batch_size=BATCH, seed=seed.number, max_steps=steps, device=seed.device)
            fit(method, data, schedule=Single(epochs), settings=settings)
        return method.eval()

    return seed.once("detector", train)


def _calibration(seed: Seed) -> Calibration:
    data: Data = seed.data
    return seed.once("calibration", lambda: calibrate(_trained(seed), data.calibration, data.column))


def _judged(seed: Seed, method: PlainDetector) -> Judged:
    data: Data = seed.data
    scored = score(method, data.test)
    groups = [row[data.column] for row in scored.attributes]
    return Judged(scored.score, np.array(scored.kind), np.array(groups), np.array(scored.group))


def matched(judged: Judged, rate: float) -> Judged:
    """The same scores at the threshold that calls a share `rate` of the real images real."""
    real = np.sort(judged.score[judged.kind == REAL])
    place = round(rate * len(real))
    low = real[place - 1] if place else 0.0
    high = real[place] if place < len(real) else 1.0
    return Judged(judged.score, judged.kind, judged.group, judged.unit, (low + high) / 2)


def _figures(judged: Judged, before: Judged, rho: str) -> Values:
    true_negatives = float((before.correct & (before.kind == REAL)).sum() / (before.kind == REAL).sum())
    plain = fairness(judged.matrix())
    equal = fairness(matched(judged, true_negatives).matrix())
    label = (judged.kind != REAL).astype(float)
    return {
        f"URDPD at equal TNR, {rho}": float(equal["URDPD"]),
        f"AADEO at equal TNR, {rho}": float(equal["AADEO"]),
        f"URDPD, {rho}": float(plain["URDPD"]),
        f"AADEO, {rho}": float(plain["AADEO"]),
        f"AADPD, {rho}": float(plain["AADPD"]),
        f"AUC, {rho}": auc(label, judged.score),
        f"mean accuracy, {rho}": float(judged.matrix().mean()),
    }


def _variant(pruning: Pruning | None) -> Callable[[Seed], Values]:
    def measure(seed: Seed) -> Values:
        method = _trained(seed)
        before = seed.once("unpruned", lambda: _judged(seed, method))
        bias = float(fairness(before.matrix())["AADPD"])
        if bias < LEAST_BIAS and seed.max_steps is None:
            raise TrainingStopped(f"the detector of seed {seed.number} is hardly biased (AADPD {bias:.3f}): no test")
        values: Values = {}
        for name, rho in RHOS.items():
            judged, gone = before, 0
            if pruning is not None:
                pruned = copy.deepcopy(method)
                spreads = _calibration(seed).spreads()
                gone = sum(prune_(pruned, spreads, rho=rho, pruning=pruning, seed=seed.number).values())
                judged = _judged(seed, pruned)
            values |= {**_figures(judged, before, name), f"weights set to zero, {name}": float(gone)}
        return values

    return measure


PROOF = Proof(
    name="fairfd",
    claim="Pruning by fair activations lowers the utility-regularised disparity of a biased detector.",
    variants={
        "unpruned": _variant(None),
        "WEIG": _variant("weight"),
        "activation only": _variant("activation"),
        "random": _variant("random"),
        "BPFA": _variant("bpfa"),
    },
    primary="BPFA",
    baseline="unpruned",
    metric="URDPD at equal TNR, 5 %",
    higher_is_better=False,
    data=make_data,
    about=about,
    ablations={
        "BPFA over WEIG": ("BPFA", "WEIG"),
        "BPFA over random": ("BPFA", "random"),
        "BPFA over activation only": ("BPFA", "activation only"),
        "random over unpruned": ("random", "unpruned"),
    },
    check=check,
    notes=(
        "the bias is made: seven in ten training faces are of one group, two of the others lack one kind of forgery",
        "on the seed that settings were chosen on (100), 0.1 % and 1 % of the smallest weights changed hardly any "
        "decision, with BPFA and WEIG alike, so the claim is tested at 5 %; the paper's share, 0.1 %, is reported too",
        "equal TNR: at the threshold that gives the true-negative rate of the unpruned detector; plain figures are at "
        "0.5, where pruning that merely shifts all scores looks like a change of fairness",
        "cells hold about 78 images, so a disparity of some hundredths is within what chance gives",
    ),
)
