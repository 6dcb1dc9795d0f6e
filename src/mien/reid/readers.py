# SPDX-License-Identifier: Apache-2.0
"""Readers: from a folder to the training or test part of a re-identification data set.

embedded         generated pedestrians: 40 to train on and 20 others to test on, 12 pictures each by 4 cameras
market1501       Market-1501-v15.09.15: bounding_box_train/, bounding_box_test/, query/ with 0002_c1s1_000451_03.jpg
dukemtmc-reid    DukeMTMC-reID: the same folders with 0001_c2_f0046182.jpg
personx          PersonX: the same folders with ID_cCAMERA...; or several scenes, each in a folder of its own
msmt17           MSMT17_V1 or V2: list_train.txt, list_val.txt, list_query.txt, list_gallery.txt beside train/ and test/
                 (V2: mask_train_v2/, mask_test_v2/); the camera is field 3 of 0000_000_01_0303morning_0015_0.jpg
veri776          VeRi: image_train/, image_query/, image_test/ with 0001_c001_00016450_0.jpg (vehicles)
person-folders   a folder for each person with CAMERA_ANGLE.png; or such folders inside train/ and test/ (val/)
person-split     the same persons, cut by name: two thirds to train on, a third to test on
unlabelled       crops of unknown persons, in any folders: to train unsupervised methods on, with --validation 0

Where a layout has no queries of its own every crop is searched for among all others. In persons' folders the camera is
the number that a name begins with (01_3.png), or that follows the person's (0002_c1...). Where names do not tell the
cameras are unknown, and each crop counts as one: then only the crop itself is left out of its gallery.
Persons are called by their data set, too (market1501/0002): persons of different sets are different.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mien.data.draws import item_seeds
from mien.data.listing import list_images, natural_key
from mien.data.pedestrians import photograph_pedestrians, sample_pedestrians
from mien.data.splits import split_by_group
from mien.errors import BadInput
from mien.reid.data import PersonData

Part = Literal["train", "test"]
EMBEDDED = "embedded"
LAYOUTS = (
    "auto", "market1501", "dukemtmc-reid", "personx", "msmt17", "veri776", "person-folders", "person-split",
    "unlabelled",
)  # fmt: skip
EMBEDDED_PEOPLE = (40, 20)
"""Generated pedestrians to train on, and further ones to test on."""
EMBEDDED_CROPS, EMBEDDED_CAMERAS = 12, 4
PARTS: dict[Part, tuple[str, ...]] = {"train": ("train", "training"), "test": ("test", "val", "validation")}

_BOXES = ("bounding_box_train", "query", "bounding_box_test")
_VEHICLES = ("image_train", "image_query", "image_test")
DOWNLOAD = {
    "market1501": f"unpack Market-1501-v15.09.15.zip and name its folder, with {', '.join(_BOXES)} in it",
    "dukemtmc-reid": f"unpack DukeMTMC-reID.zip and name its folder, with {', '.join(_BOXES)} in it",
    "personx": f"unpack PersonX and name its folder, or that of one of its scenes, with {', '.join(_BOXES)} in it",
    "veri776": "unpack VeRi.zip (VeRi-776, on request from its authors) and name its folder, with "
    f"{', '.join(_VEHICLES)} in it",
    "msmt17": "unpack MSMT17_V1 or MSMT17_V2 (on request from its authors) and name its folder, with list_train.txt, "
    "list_val.txt, list_query.txt and list_gallery.txt in it",
}
"""Kind -> what to download and how it must lie."""

Crop = tuple[Path, str, int]
"""File, name of the person, camera."""


def read(source: str, part: Part, kind: str = "auto") -> PersonData:
    """One part of the data in `source`; persons' folders that lie in one piece are both parts.

    Args:
        source: A folder, or "embedded".
        part: "train" or "test".
        kind: One of `LAYOUTS`; "auto" looks.

    Raises:
        BadInput: The data are missing or not as they must be; says how they must lie.
    """
    if source == EMBEDDED:
        return generated(part)
    path = Path(source)
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise BadInput(f"{path} {what}: give a folder, or {EMBEDDED!r} for generated pedestrians")
    layout = _layout(path) if kind == "auto" else kind
    data = READERS[layout](path, part, layout)
    _require_persons(data, path)
    return data


def _require_persons(data: PersonData, path: Path) -> None:
    persons = len(set(data.people))
    if persons < 2:
        raise BadInput(f"{path}: {len(data)} crops of {persons} person: give at least two persons")


def _layout(path: Path) -> str:
    if all((path / name).is_dir() for name in _BOXES):
        first = next((image.name for image in list_images(path / _BOXES[0])), "")
        if re.match(r"-?\d+_c\ds\d_", first):
            return "market1501"
        return "dukemtmc-reid" if re.match(r"-?\d+_c\d_f\d", first) else "personx"
    if all((path / name).is_dir() for name in _VEHICLES):
        return "veri776"
    if (path / "list_train.txt").is_file():
        return "msmt17"
    inner = [child for child in path.iterdir() if child.is_dir()]
    scenes = [child for child in inner if all((child / name).is_dir() for name in _BOXES)]
    return "personx" if scenes else "person-folders"


# --- published data sets ------------------------------------------------------------------------------------------
def _boxes(path: Path, part: Part, layout: str) -> PersonData:
    """Three folders with the person and the camera in the names of the files."""
    folders = _VEHICLES if layout == "veri776" else _BOXES
    roots = [path]
    if layout == "personx" and not (path / _BOXES[0]).is_dir():
        roots = sorted((child for child in path.iterdir() if (child / _BOXES[0]).is_dir()), key=natural_key)
    wanted = folders[:1] if part == "train" else folders[1:]
    lists: list[list[Crop]] = []
    for folder in wanted:
        crops: list[Crop] = []
        for number, root in enumerate(roots):
            if not (root / folder).is_dir():
                raise BadInput(f"{root}: no folder {folder}: {DOWNLOAD[layout]}")
            prefix = f"{layout}/{root.name}/" if len(roots) > 1 else f"{layout}/"
            crops += [_named(image, prefix, number) for image in list_images(root / folder)]
        lists.append([crop for crop in crops if not crop[1].endswith("/-1")])  # -1: junk, by the protocol left out
    if not roots or not all(lists):
        raise BadInput(f"{path}: {' and '.join(wanted)} hold no images: {DOWNLOAD[layout]}")
    return _parts(lists, part, f"{layout} ({part} part) in {path.name}")


def _named(image: Path, prefix: str, scene: int) -> Crop:
    found = re.match(r"(-?\d+)_c(\d+)", image.name)
    if found is None:
        raise BadInput(f"{image}: its name does not begin with PERSON_cCAMERA, such as 0002_c1")
    return image, prefix + found[1], int(found[2]) + 1000 * scene  # cameras of different scenes are different


def _msmt17(path: Path, part: Part, layout: str) -> PersonData:
    lists: list[tuple[str, ...]] = [("train", "val")] if part == "train" else [("query",), ("gallery",)]
    folder = next((path / name for name in (part, f"mask_{part}_v2") if (path / name).is_dir()), None)
    if folder is None:
        raise BadInput(f"{path}: no folder {part} or mask_{part}_v2: {DOWNLOAD[layout]}")
    found = [[crop for name in names for crop in _listed(path / f"list_{name}.txt", folder, part)] for names in lists]
    return _parts(found, part, f"{layout} ({part} part) in {path.name}")


def _listed(table: Path, folder: Path, part: Part) -> list[Crop]:
    if not table.is_file():
        raise BadInput(f"{table} does not exist: {DOWNLOAD['msmt17']}")
    crops = []
    for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        file, _, person = line.strip().rpartition(" ")
        fields = Path(file).name.split("_")
        if len(fields) < 3 or not fields[2].isdigit() or not person.isdigit() or ".." in Path(file).parts:
            raise BadInput(f"{table}, line {number}: {line!r} is not FILE PERSON with the camera as FILE's third field")
        if not (folder / file).is_file():
            raise BadInput(f"{table}, line {number}: {folder / file} does not exist")
        crops.append((folder / file, f"msmt17/{part}-{person}", int(fields[2])))  # both parts count from 0
    return crops


def _parts(lists: Sequence[list[Crop]], part: Part, description: str) -> PersonData:
    """Training crops are all of one list; test crops are queries, then gallery."""
    crops = [crop for crops in lists for crop in crops]
    is_query = np.repeat([part == "test", False][: len(lists)], [len(crops) for crops in lists])
    return _gathered(crops, is_query, ~is_query, description)


def _gathered(crops: Sequence[Crop], query: np.ndarray, gallery: np.ndarray, description: str) -> PersonData:
    """Sorted by person, so that the first part of the test data holds queries with their matches."""
    order = sorted(range(len(crops)), key=lambda i: (natural_key(crops[i][1]), natural_key(crops[i][0])))
    files, people, cameras = zip(*(crops[i] for i in order), strict=True)
    return PersonData(
        list(files), people, np.array(cameras), query[order], gallery[order], tuple(map(str, files)), description
    )


# --- folders of persons -------------------------------------------------------------------------------------------
def _folders(path: Path, part: Part, layout: str) -> PersonData:
    inner = {child.name.lower(): child for child in path.iterdir() if child.is_dir()}
    halves = {p: next((inner[name] for name in PARTS[p] if name in inner), None) for p in PARTS}
    split = all(halves.values())
    lone = (halves["train"] or halves["test"]) if len(inner) == 1 else None  # just the place where the persons lie
    root = (halves[part] if split else lone) or path
    crops: list[tuple[Path, str]] = []
    for image in list_images(root):
        inside = image.relative_to(root).parts
        if len(inside) == 1:
            raise BadInput(f"{image}: lies in no person's folder; expected {root.name}/PERSON/CAMERA_ANGLE.png")
        crops.append((image, inside[0]))
    if not crops:
        raise BadInput(f"{root}: no images: give a folder for each person (PERSON/CAMERA_ANGLE.png)")
    numbers = _cameras(crops)
    known = numbers is not None
    everything = np.ones(len(crops), bool)
    persons = len({person for _, person in crops})
    about = f"{persons} persons in {path.name}" + (f" ({part} part)" if split else "")
    about += "" if known else ", cameras unknown: each crop counts as one"
    rows = [(*crop, number) for crop, number in zip(crops, numbers or range(len(crops)), strict=True)]
    return _gathered(rows, everything, everything, about)


def _unlabelled(path: Path, part: Part, layout: str) -> PersonData:
    """Every crop is a person of its own: nobody knows better."""
    if part == "test":
        raise BadInput(f"{path}: no persons are known in data of the kind {layout!r}: test on labelled crops")
    files = list_images(path)
    if not files:
        raise BadInput(f"{path}: no images to train on")
    crops = [(file, str(file.relative_to(path))) for file in files]
    numbers = _cameras([(file, "") for file in files])
    rows = [(*crop, number) for crop, number in zip(crops, numbers or range(len(crops)), strict=True)]
    everything = np.ones(len(crops), bool)
    return _gathered(rows, everything, everything, f"{len(crops)} crops of unknown persons in {path.name}")


def _cameras(crops: Sequence[tuple[Path, str]]) -> list[int] | None:
    """Cameras by the names of the files, or None where these do not tell: some name none, or no person has two."""
    for pattern in (r"-?\d+_c(\d+)", r"(?:c|cam)?(\d+)[_-]"):
        found = [re.match(pattern, image.name.lower()) for image, _ in crops]
        numbers = [int(match[1]) for match in found if match is not None]
        if len(numbers) == len(crops):
            pairs = {(person, number) for (_, person), number in zip(crops, numbers, strict=True)}
            return numbers if len(pairs) > len({person for _, person in crops}) else None
    return None


def _split_folders(path: Path, part: Part, layout: str) -> PersonData:
    whole = _folders(path, part, layout)
    return split_persons(whole, seed=0)[part]


def split_persons(data: PersonData, *, seed: int) -> dict[Part, PersonData]:
    """Two thirds of the persons to train on and a third to test on; another split for every seed."""
    train, test = split_by_group(data.people, (2 / 3, 1 / 3), seed=seed)
    sides: dict[Part, PersonData] = {"train": data.subset(train), "test": data.subset(test)}
    return {
        part: replace(side, description=f"{len(set(side.people))} of {data.description} ({part} part)")
        for part, side in sides.items()
    }


READERS: dict[str, Callable[[Path, Part, str], PersonData]] = {
    "market1501": _boxes,
    "dukemtmc-reid": _boxes,
    "personx": _boxes,
    "veri776": _boxes,
    "msmt17": _msmt17,
    "person-folders": _folders,
    "person-split": _split_folders,
    "unlabelled": _unlabelled,
}


# --- generated ----------------------------------------------------------------------------------------------------
def generated(part: Part, seed: int = 0) -> PersonData:
    """Generated pedestrians: those to train on, or others to test on. Another seed gives other people."""
    train, test = EMBEDDED_PEOPLE
    persons = np.arange(train) if part == "train" else np.arange(train, train + test)
    who = np.repeat(persons, EMBEDDED_CROPS)
    number = np.tile(np.arange(EMBEDDED_CROPS), len(persons))
    camera = number % EMBEDDED_CAMERAS
    seeds = item_seeds(seed, who * EMBEDDED_CROPS + number, "crop")
    pictures = photograph_pedestrians(sample_pedestrians(train + test, seed), who, camera, seeds)
    everything = np.ones(len(who), bool)
    return PersonData(
        torch.from_numpy(np.round(pictures * 255).astype(np.uint8)),
        tuple(f"generated-{seed}-{i:03d}" for i in who),
        camera,
        everything,
        everything,
        tuple(f"pedestrian {i} picture {j}" for i, j in zip(who, number, strict=True)),
        f"procedurally generated pedestrians ({'training' if part == 'train' else 'unseen'} people, no real person)",
    )
