# SPDX-License-Identifier: Apache-2.0
"""Faces of the arena: who is trained and who is tested on, forgeries of both, and perturbed copies.

What a detector sees differs (single faces, clips, faces edited step by step, clients), so a row of `BUILDERS` makes
training and test data for each; the faces and the persons are the same for all.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class Part:
    """Faces and whose they are.

    Args:
        faces: uint8 (N, 3, H, W).
        people: (N,).
    """

    faces: Tensor
    people: list[str]


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
        frames = ForgedFrames(self.test.faces, self.test.people, self.test.faces.shape[-1], kinds=KINDS, seed=seed + 1)
        report = confound_report(frames.image, frames.kinds, frames.groups)
        if strict:
            report.require_clean()
        return replace(self, confound={"marked": report.confounded, **report.to_json()})


def material(data: str, train_faces: int, test_faces: int, group_by: str | None, seed: int) -> Material:
    """Faces to train and to test on.

    Raises:
        BadInput: Fewer than six persons, or groups are asked for where there are none.
    """
    groups: Mapping[str, str] | None
    if data == EMBEDDED:
        trained, tested = EMBEDDED_PEOPLE
        faces, people = generated_people(range(trained + tested), EMBEDDED_FACES)
        groups, files = None, []
    else:
        found = _read(data, 2 * (train_faces + test_faces), seed)
        faces, people, files = found.faces, found.names, found.manifest["files"]
        known = found.attributes and (group_by is None or group_by in found.attributes[0])
        groups = dict(zip(people, found.values(group_by), strict=True)) if known and group_by else None
    if group_by is not None and groups is None:
        raise BadInput(f"--group-by is {group_by!r}: {data} has no labels.csv with such a column")
    count = len(set(people))
    if count < 6:
        raise BadInput(f"{data} holds {count} persons: the arena needs at least 6, four to train and two to test on")
    parts = split_by_group(people, (TRAIN_SHARE, 1 - TRAIN_SHARE), seed=seed)
    train, test = _some(faces, people, parts[0], train_faces, seed), _some(faces, people, parts[1], test_faces, seed)
    where = "generated faces" if data == EMBEDDED else f"faces in {Path(data).name}"
    about = (
        f"{where}: {len(train.people)} of {len(set(train.people))} persons to train, {len(test.people)} of "
        f"{len(set(test.people))} others to test"
    )
    manifest = {"groups": sorted(set(train.people)), "files": sorted(files), "description": f"forgeries, {about}"}
    return Material(train, test, groups, about, manifest)


def _read(data: str, most: int, seed: int) -> People:
    """Faces of a table of people, at most so many; or all those of people's folders."""
    if layout_of(data) == "attributes":
        return table_people(data, most=most, seed=seed)
    records = people_folders(data)
    faces, people = load_people(records)
    return People(faces, people, [], {"files": sorted(set(fingerprints([record.path for record in records])))})


def _some(faces: Tensor, people: Sequence[str], rows: Sequence[int], most: int, seed: int) -> Part:
    """At most so many of the rows, drawn from the seed."""
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:most].sort().values.tolist()
    chosen = [list(rows)[i] for i in drawn]
    return Part(faces[chosen], [people[i] for i in chosen])


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
    """A client for each kind of forgery, with persons of its own."""
    people = found.train.people
    shares = split_by_group(people, [1 / len(kinds)] * len(kinds), seed=seed)
    datasets = []
    for kind, rows in zip(kinds, shares, strict=True):
        part = Part(found.train.faces[list(rows)], [people[i] for i in rows])
        datasets.append(BUILDERS[detector.sees][0](detector, part, (kind,), seed))
    return ClientFaces(list(kinds), datasets, {}, found.manifest)


def _frames(detector: Detector, part: Part, kinds: Sequence[str], seed: int) -> Dataset[Faces]:
    return ForgedFrames(part.faces, part.people, detector.image_size, kinds=kinds, seed=seed, training=True)


def _test_frames(detector: Detector, part: Part, kinds: Sequence[str], seed: int) -> Dataset[Faces]:
    return ForgedFrames(part.faces, part.people, detector.image_size, kinds=kinds, seed=seed, frames=1)


def _films(detector: Detector, part: Part, kinds: Sequence[str], seed: int) -> Dataset[Faces]:
    shape = (detector.image_size, detector.frames)
    return StillClips(part.faces, part.people, *shape, kinds=kinds, seed=seed, training=True)


def _test_films(detector: Detector, part: Part, kinds: Sequence[str], seed: int) -> Dataset[Faces]:
    shape = (detector.image_size, detector.frames)
    return StillClips(part.faces, part.people, *shape, kinds=kinds, seed=seed, per_unit=1)


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
