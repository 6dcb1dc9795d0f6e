# SPDX-License-Identifier: Apache-2.0
"""Faces of the arena: who is trained and who is tested on, forgeries of both, and perturbed copies.

What a detector sees differs (single faces, clips, faces edited step by step, clients), so a row of `BUILDERS` makes
training and test data for each; the faces and the persons are the same for all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.data.confound import confound_report
from mien.data.folders import fingerprints, people_folders
from mien.data.forge_pairs import KINDS
from mien.data.perturb import LEVELS, perturb
from mien.data.splits import split_by_group
from mien.engine import TrainingData
from mien.errors import BadInput
from mien.forensics.clients import ClientFaces, plan_of
from mien.forensics.clips.stills import StillClips
from mien.forensics.clips.videos import ClipDetector
from mien.forensics.data import Faces, ForgedFrames
from mien.forensics.detector import Detector
from mien.forensics.opening import (
    EMBEDDED,
    EMBEDDED_FACES,
    EMBEDDED_PEOPLE,
    OpenedData,
    generated_people,
    layout_of,
    load_people,
)
from mien.forensics.people import People, table_people

CLEAN = "clean"
PERTURBATIONS = ("jpeg", "blur", "noise", "contrast", "resize")
CONDITIONS: dict[str, tuple[Any, ...]] = {
    CLEAN: (),
    **{f"{kind} {level}": (kind, level) for kind in PERTURBATIONS for level in LEVELS},
}
"""Name -> kind and strength of the perturbation of test faces."""
REFERENCE = 224
"""Height in pixels that the perturbations' sizes belong to; smaller faces get the same shares."""
TRAIN_SHARE = 2 / 3
"""Of the persons."""
LEAST = (4, 2)
"""Persons to train and to test on, of all and of each group."""


@dataclass(frozen=True)
class Part:
    """Faces and whose they are.

    Args:
        faces: uint8 (N, 3, H, W).
        people: (N,).
        donors: Group of each, (N,): a swap's donor is of the same one, so that groups can be compared. None: anybody.
        column: What the groups are, for instance "race".
    """

    faces: Tensor
    people: list[str]
    donors: list[str] | None = None
    column: str = ""

    def part(self, rows: Sequence[int]) -> Part:
        """Some of the faces."""
        donors = None if self.donors is None else [self.donors[i] for i in rows]
        return Part(self.faces[list(rows)], [self.people[i] for i in rows], donors, self.column)

    def people_of(self) -> dict[str, int]:
        """Group -> number of persons; one group "" where none are known."""
        donors = self.donors or [""] * len(self.people)
        return Counter(donor for donor, _ in set(zip(donors, self.people, strict=True)))

    @property
    def known(self) -> dict[str, Any]:
        """What data sets of forgeries are told of groups."""
        if self.donors is None:
            return {}
        return {"donors": self.donors, "attributes": [{self.column: value} for value in self.donors]}


@dataclass(frozen=True)
class Material:
    """The faces of an arena, split by person.

    Args:
        train: To train on.
        test: To test on; other persons.
        group_of: Person -> group, or None.
        about: One line.
        manifest: Of the training faces.
        confound: What thumbnails tell of each kind of the test forgeries, and which kinds are marked.
    """

    train: Part
    test: Part
    group_of: Mapping[str, str] | None
    about: str
    manifest: dict[str, Any]
    confound: dict[str, Any] | None = None

    def checked(self, seed: int, *, strict: bool) -> Material:
        """With the confound check made; with `strict`, marked kinds are refused."""
        test = self.test
        frames = ForgedFrames(test.faces, test.people, test.faces.shape[-1], kinds=KINDS, seed=seed + 1, **test.known)
        report = confound_report(frames.image, frames.kinds, frames.groups)
        if strict:
            report.require_clean()
        return replace(self, confound={"marked": report.confounded, **report.to_json()})


def material(data: str, train_faces: int, test_faces: int, group_by: str | None, seed: int) -> Material:
    """Faces to train and to test on.

    Raises:
        BadInput: Fewer than six persons, or groups are asked for where there are none.
    """
    values: list[str] | None = None
    if data == EMBEDDED:
        trained, tested = EMBEDDED_PEOPLE
        faces, people = generated_people(range(trained + tested), EMBEDDED_FACES)
        files: Sequence[str] = []
    else:
        found = _read(data, 2 * (train_faces + test_faces), seed)
        faces, people, files = found.faces, found.names, found.manifest["files"]
        if group_by is not None and found.attributes and group_by in found.attributes[0]:
            values = found.values(group_by)
    if group_by is not None and values is None:
        raise BadInput(f"--group-by is {group_by!r}: {data} has no labels.csv with such a column")
    count = len(set(people))
    if count < sum(LEAST):
        raise BadInput(
            f"{data} holds {count} persons: the arena needs at least {sum(LEAST)}, {LEAST[0]} to train and {LEAST[1]} "
            "to test on"
        )
    whole = Part(faces, people, values, group_by or "")
    parts = split_by_group(people, (TRAIN_SHARE, 1 - TRAIN_SHARE), seed=seed, labels=values)
    train, test = _some(whole, parts[0], train_faces, seed), _some(whole, parts[1], test_faces, seed)
    left_out: list[str] = []
    if values is not None:
        train, test, left_out = _comparable(train, test)
    where = "generated faces" if data == EMBEDDED else f"faces in {Path(data).name}"
    about = (
        f"{where}: {len(train.people)} of {len(set(train.people))} persons to train, {len(test.people)} of "
        f"{len(set(test.people))} others to test"
    )
    if left_out:
        about += f"; {group_by} {', '.join(left_out)} left out, of whom there are too few"
    manifest = {"groups": sorted(set(train.people)), "files": sorted(files), "description": f"forgeries, {about}"}
    group_of = None if values is None else dict(zip(people, values, strict=True))
    return Material(train, test, group_of, about, manifest)


def _read(data: str, most: int, seed: int) -> People:
    """Faces of a table of people, at most so many; or all those of people's folders."""
    if layout_of(data) == "attributes":
        return table_people(data, most=most, seed=seed)
    records = people_folders(data)
    faces, people = load_people(records)
    return People(faces, people, [], {"files": sorted(set(fingerprints([record.path for record in records])))})


def _some(whole: Part, rows: Sequence[int], most: int, seed: int) -> Part:
    """At most so many of the rows, drawn from the seed."""
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:most].sort().values.tolist()
    return whole.part([rows[i] for i in drawn])


def _comparable(train: Part, test: Part) -> tuple[Part, Part, list[str]]:
    """The groups of which there are persons enough in both parts, and the names of the others."""
    enough = [
        {g for g, n in part.people_of().items() if n >= least} for part, least in zip((train, test), LEAST, strict=True)
    ]
    kept = enough[0] & enough[1]
    if len(kept) < 2:
        raise BadInput(
            f"--group-by is {train.column!r}: {', '.join(sorted(kept)) or 'no group'} has {LEAST[0]} persons to train "
            f"and {LEAST[1]} to test on, and two groups must have them"
        )
    parts = [p.part([i for i, group in enumerate(p.donors or ()) if group in kept]) for p in (train, test)]
    return parts[0], parts[1], sorted((set(train.people_of()) | set(test.people_of())) - kept)


# --- what a detector sees -------------------------------------------------------------------------------------
def training(detector: Detector, found: Material, kinds: Sequence[str], seed: int) -> TrainingData:
    """Training data of a detector: forgeries of these kinds, and the real faces that they were made from."""
    if plan_of(detector) is not None:
        return _clients(detector, found, kinds, seed)
    train = BUILDERS[detector.sees][0](detector, found.train, kinds, seed)
    data = OpenedData(train, None, found.manifest)
    return detector.with_further_data(data, seed) if isinstance(detector, ClipDetector) else data


def exam(detector: Detector, found: Material, seed: int) -> Dataset[Faces]:
    """Test data: all kinds of forgery of the test persons; the same for all detectors that see the same."""
    return BUILDERS[detector.sees][1](detector, found.test, KINDS, seed + 1)


def _clients(detector: Detector, found: Material, kinds: Sequence[str], seed: int) -> ClientFaces:
    """A client for each kind of forgery, with persons of its own; who is alone in a group swaps with anybody's face."""
    shares = split_by_group(found.train.people, [1 / len(kinds)] * len(kinds), seed=seed, labels=found.train.donors)
    own = [found.train.part(rows) for rows in shares]
    own = [replace(part, donors=None) if min(part.people_of().values()) < 2 else part for part in own]
    datasets = [
        BUILDERS[detector.sees][0](detector, part, (kind,), seed) for kind, part in zip(kinds, own, strict=True)
    ]
    return ClientFaces(list(kinds), datasets, {}, found.manifest)


def _frames(detector: Detector, part: Part, kinds: Sequence[str], seed: int) -> Dataset[Faces]:
    size = detector.image_size
    return ForgedFrames(part.faces, part.people, size, kinds=kinds, seed=seed, training=True, **part.known)


def _test_frames(detector: Detector, part: Part, kinds: Sequence[str], seed: int) -> Dataset[Faces]:
    size = detector.image_size
    return ForgedFrames(part.faces, part.people, size, kinds=kinds, seed=seed, frames=1, **part.known)


def _films(detector: Detector, part: Part, kinds: Sequence[str], seed: int) -> Dataset[Faces]:
    shape = (detector.image_size, detector.frames)
    return StillClips(part.faces, part.people, *shape, kinds=kinds, seed=seed, training=True, **part.known)


def _test_films(detector: Detector, part: Part, kinds: Sequence[str], seed: int) -> Dataset[Faces]:
    shape = (detector.image_size, detector.frames)
    return StillClips(part.faces, part.people, *shape, kinds=kinds, seed=seed, per_unit=1, **part.known)


Builder = Callable[[Detector, Part, Sequence[str], int], Dataset[Faces]]

BUILDERS: dict[str, tuple[Builder, Builder]] = {
    "faces": (_frames, _test_frames),
    "clips": (_films, _test_films),
    "edits": (_frames, _test_frames),  # learnt by the label: nobody knows the lists of these forgeries
}
"""`Detector.sees` -> who makes training data, and who test data: (detector, part, kinds, seed)."""


class Perturbed(Dataset[Faces]):
    """A data set whose images were perturbed, all in the same way at the same strength.

    Args:
        faces: The clean samples; images (3, H, W) or clips (T, 3, H, W), whose frames get the same noise.
        kind: See `mien.data.perturb`.
        level: Strength, 1 to 5.
        seed: Of what is drawn.
    """

    seeded = False

    def __init__(self, faces: Dataset[Faces], kind: str, level: int, *, seed: int = 0) -> None:
        self.faces, self.kind, self.level, self.seed = faces, kind, level, seed

    def __len__(self) -> int:
        return len(self.faces)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Faces:
        sample = self.faces[index]
        frames = sample.image.reshape(-1, *sample.image.shape[-3:])
        made = perturb(frames, self.kind, self.level, seed=self.seed, items=[index] * len(frames), reference=REFERENCE)
        return replace(sample, image=made.reshape(sample.image.shape))
