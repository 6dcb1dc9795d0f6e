# SPDX-License-Identifier: Apache-2.0
"""Readers of expressions: from what a data set's owners publish to faces, their classes and, where known, persons.

embedded      generated people in a studio: 60 to train on and 30 others to test on, two pictures of every expression
rafdb         RAF-DB, basic: EmoLabel/list_patition_label.txt beside Image/aligned/train_00001_aligned.jpg
fer2013       FER2013: fer2013.csv with emotion, pixels, Usage (PublicTest and PrivateTest are tested on), or its copy
              icml_face_data.csv
ckplus        CK+: Emotion/S005/001/..._emotion.txt beside cohn-kanade-images/S005/001/*.png; the last three frames of a
              sequence. Every fifth person is tested on
affectnet     AffectNet: train_set/ and val_set/ (test) with images/0.jpg and annotations/0_exp.npy, eight expressions
arrays        an .npz file, as in `mien.classification.data`. An array `name` says whose faces these are: S011_004 is
              person S011, and data that lie in one piece are then cut by person, as CK+ is
classes       a folder per expression, or such folders inside train/ and test/ (SFEW: Train/, Val/)

All of them call an expression by the same word, RAF-DB's, so that a model can be tested on a set that it was not
trained on: CK+'s "anger" is "angry".

An extra folder `unlabelled/` of any layout on disk is for training only: faces without a label.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mien.classification import data as classification
from mien.classification.data import EMBEDDED, ClassData, Part
from mien.data.listing import list_images, natural_key
from mien.data.people import EXPRESSIONS, render_faces, sample_people
from mien.errors import BadInput
from mien.faces.data import FaceData, with_persons
from mien.faces.expression import RAFDB, common_name

LAYOUTS = ("auto", "rafdb", "fer2013", "ckplus", "affectnet", "arrays", "classes")
DOWNLOAD = {
    "rafdb": "unpack RAF-DB's basic/ (on request from its authors) and name its folder, with "
    "EmoLabel/list_patition_label.txt and Image/aligned/ in it",
    "fer2013": "download fer2013.csv from Kaggle (challenges in representation learning)",
    "ckplus": "unpack both archives of CK+ (on request) into this folder, cohn-kanade-images/ and Emotion/",
    "affectnet": "unpack AffectNet's train_set and val_set (on request), each with images/ and annotations/, into this "
    "folder",
    **{kind: classification.DOWNLOAD[kind] for kind in ("arrays", "classes")},
}
"""Kind -> what to download and how it must lie."""
EMBEDDED_PEOPLE, EMBEDDED_EACH, EMBEDDED_SIZE = (60, 30), 2, 64
"""Generated people to train on and others to test on; faces of each expression and person; their side in pixels."""
FACE = (slice(16, 60), slice(10, 54))
"""Rows and columns of a picture that show the face from the brows to the chin, as published faces are cut out."""
STUDIO: dict[str, Any] = {
    **dict.fromkeys(("intensity", "blink", "gain", "contrast"), 1.0),
    **dict.fromkeys(
        ("yaw", "pitch", "roll", "shift_x", "shift_y", "gaze_x", "gaze_y", "light_x", "warmth", "tint"), 0.0
    ),
    **{"zoom": 0.88, "light_y": -0.3, "ambient": 0.8},
}
"""Factors that do not vary: posed faces in even light, since a few hundred pictures do not teach to see past more."""

FER2013 = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
CKPLUS = ("neutral", "angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")
AFFECTNET = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt")
PEAK_FRAMES = 3
TEST_SHARE = 5
"""Every so many-th person of CK+ is tested on."""


def read(source: str, part: Part, kind: str = "auto") -> FaceData:
    """One part of the faces in `source`.

    Args:
        source: A folder, a file, or "embedded".
        part: "train" or "test".
        kind: One of `LAYOUTS`; "auto" looks.

    Raises:
        BadInput: The data are missing or not as they must be; says how they must lie.
    """
    if source == EMBEDDED:
        return generated(part)
    path = Path(source)
    if not path.exists():
        raise BadInput(f"{path} does not exist: give a folder, a file, or {EMBEDDED!r} for generated people")
    layout = layout_of(path) if kind == "auto" else kind
    if layout in ("arrays", "classes"):
        return _general(path, part, layout)
    return READERS[layout](path, part)


def layout_of(path: Path) -> str:
    """Which layout a folder or file has."""
    for name, mark in _MARKS.items():
        if any((path / each).exists() for each in mark):
            return name
    if path.suffix == ".csv":
        return "fer2013"
    return "arrays" if path.is_file() or list(path.glob("*.npz")) else "classes"


def unlabelled(source: str) -> list[Path]:
    """Faces without a label in `source`; none where it has no folder for them."""
    folder = Path(source) / "unlabelled"
    return list_images(folder) if source != EMBEDDED and folder.is_dir() else []


@cache
def generated(part: Part) -> FaceData:
    """Generated people; kept, since drawing them takes seconds."""
    trained, tested = EMBEDDED_PEOPLE
    who = range(trained) if part == "train" else range(trained, trained + tested)
    shown = np.tile(np.repeat(np.arange(len(EXPRESSIONS)), EMBEDDED_EACH), len(who))
    index = np.repeat(np.asarray(who), len(EXPRESSIONS) * EMBEDDED_EACH)
    people = sample_people(trained + tested, seed=0)
    seeds = (index * 100_003 + np.arange(len(index))).astype(np.uint64)
    images, _ = render_faces(people, index, seeds, size=EMBEDDED_SIZE, masks=False, expression=shown, **STUDIO)
    pixels = torch.from_numpy(np.round(images[:, :, *FACE] * 255).astype(np.uint8))
    names = tuple(f"generated-{i:03d} {n}" for n, i in enumerate(index))
    about = f"procedurally generated faces ({'training' if part == 'train' else 'unseen'} people, no real person)"
    classes = tuple(map(common_name, EXPRESSIONS))
    data = ClassData(pixels, torch.from_numpy(shown).long(), classes, names, about)
    return with_persons(data, [f"generated-{i:03d}" for i in index])


# --- as published -------------------------------------------------------------------------------------------------
def _rafdb(path: Path, part: Part) -> FaceData:
    root = path / "basic" if (path / "basic").is_dir() else path
    listing, folder = root / "EmoLabel" / "list_patition_label.txt", root / "Image" / "aligned"
    if not listing.is_file() or not folder.is_dir():
        raise BadInput(f"{root}: no RAF-DB here: {DOWNLOAD['rafdb']}")
    files, labels = [], []
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), start=1):
        name, _, label = line.partition(" ")
        if not line.strip() or not name.startswith(f"{part}_"):
            continue
        if label.strip() not in {str(i) for i in range(1, 8)}:
            raise BadInput(f"{listing}, line {number}: label {label.strip()!r}: it must be 1 to 7")
        files.append(folder / f"{Path(name).stem}_aligned.jpg")
        labels.append(int(label) - 1)
    return _files(root, files, labels, RAFDB, f"RAF-DB, {part} part")


def _fer2013(path: Path, part: Part) -> FaceData:
    names = ("fer2013.csv", "icml_face_data.csv")
    file = path if path.is_file() else next((path / name for name in names if (path / name).is_file()), None)
    if file is None:
        raise BadInput(f"{path}: no FER2013 here: {DOWNLOAD['fer2013']}")
    wanted = ("Training",) if part == "train" else ("PublicTest", "PrivateTest")
    images, labels = [], []
    with file.open(newline="", encoding="utf-8-sig") as text:
        for number, cells in enumerate(csv.DictReader(text), start=2):
            row = {(key or "").strip().lower(): value for key, value in cells.items()}
            if not {"emotion", "pixels", "usage"} <= set(row):
                raise BadInput(f"{file}: columns {', '.join(row)}: it must have emotion, pixels and Usage")
            if row["usage"] not in wanted:
                continue
            try:
                pixels, label = np.array(row["pixels"].split(), dtype=np.int64), int(row["emotion"])
            except ValueError:
                raise BadInput(f"{file}, line {number}: emotion and pixels must be numbers") from None
            if len(pixels) != 48 * 48 or pixels.min() < 0 or pixels.max() > 255 or not 0 <= label < 7:
                raise BadInput(f"{file}, line {number}: {len(pixels)} pixels, emotion {label}: 2304 of 0-255, 0-6")
            images.append(pixels.astype(np.uint8).reshape(1, 48, 48))
            labels.append(label)
    if not images:
        raise BadInput(f"{file}: no row whose Usage is {' or '.join(wanted)}")
    faces = torch.from_numpy(np.stack(images)).expand(-1, 3, -1, -1).contiguous()
    about = f"FER2013, {part} part"
    found = tuple(f"{about} {i}" for i in range(len(faces)))
    return with_persons(ClassData(faces, torch.tensor(labels), FER2013, found, about))


def _ckplus(path: Path, part: Part) -> FaceData:
    frames, emotions = path / "cohn-kanade-images", path / "Emotion"
    if not frames.is_dir() or not emotions.is_dir():
        raise BadInput(f"{path}: no CK+ here: {DOWNLOAD['ckplus']}")
    files, labels, persons = [], [], []
    for file in sorted(emotions.rglob("*_emotion.txt"), key=natural_key):
        try:
            label = int(float(file.read_text(encoding="ascii")))
        except (ValueError, UnicodeDecodeError):
            raise BadInput(f"{file}: no number: it must hold an emotion, 1 to 7") from None
        if not 0 <= label < len(CKPLUS):
            raise BadInput(f"{file}: emotion {label}: it must be 0 to 7")
        sequence = frames / file.relative_to(emotions).parent
        peak = sorted(sequence.glob("*.png"), key=natural_key)[-PEAK_FRAMES:] if sequence.is_dir() else []
        if not peak:
            raise BadInput(f"{sequence}: no frames of the sequence whose emotion is {file.name}")
        files += peak
        labels += [label] * len(peak)
        persons += [file.relative_to(emotions).parts[0]] * len(peak)
    whole = _files(path, files, labels, CKPLUS, "CK+", persons)
    return _cut(whole.without([name for c, name in enumerate(CKPLUS) if c not in labels]), part)


def _affectnet(path: Path, part: Part) -> FaceData:
    root = path / ("train_set" if part == "train" else "val_set")
    if not (root / "images").is_dir() or not (root / "annotations").is_dir():
        raise BadInput(f"{path}: {root.name} is missing or not whole: {DOWNLOAD['affectnet']}")
    files, labels = [], []
    for image in list_images(root / "images"):
        note = root / "annotations" / f"{image.stem}_exp.npy"
        try:
            label = int(np.load(note, allow_pickle=False))
        except (OSError, ValueError, EOFError, TypeError):
            raise BadInput(f"{note}: missing, or no number: it must hold the expression of {image.name}") from None
        if not 0 <= label <= 10:
            raise BadInput(f"{note}: expression {label}: it must be 0 to 10")
        if label < len(AFFECTNET):  # 8 to 10: none, uncertain, no face
            files.append(image)
            labels.append(label)
    return _files(root, files, labels, AFFECTNET, f"AffectNet, {part} part")


READERS: dict[str, Callable[[Path, Part], FaceData]] = {
    "rafdb": _rafdb,
    "fer2013": _fer2013,
    "ckplus": _ckplus,
    "affectnet": _affectnet,
}
_MARKS: dict[str, tuple[str, ...]] = {
    "rafdb": ("EmoLabel", "basic/EmoLabel"),
    "fer2013": ("fer2013.csv", "icml_face_data.csv"),
    "ckplus": ("cohn-kanade-images", "Emotion"),
    "affectnet": ("train_set", "val_set"),
}


def _files(
    root: Path,
    files: Sequence[Path],
    labels: Sequence[int],
    classes: Sequence[str],
    about: str,
    persons: Sequence[str] | None = None,
) -> FaceData:
    if not files:
        raise BadInput(f"{root}: no faces of {about}")
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise BadInput(f"{root}: {len(missing)} of {len(files)} faces are missing; the first is {missing[0]}")
    names = tuple(map(str, files))
    return with_persons(ClassData(list(files), torch.tensor(labels), tuple(classes), names, about), persons)


# --- general layouts ----------------------------------------------------------------------------------------------
def _general(path: Path, part: Part, layout: str) -> FaceData:
    data = _in_common_words(classification.read(str(path), part, layout))
    if layout != "arrays":
        return with_persons(data)
    file = path if path.is_file() else next(iter(sorted(path.glob("*.npz"))))
    with np.load(file, allow_pickle=False) as stored:
        names = stored["name"] if "name" in stored and "x" in stored else None
        if names is None or len(names) != len(data):
            return with_persons(data)
        persons = [re.split(r"[_/ ]", str(name))[0] for name in names]
    return _cut(with_persons(data, persons), part)


def _in_common_words(data: ClassData) -> ClassData:
    """The same images under the readers' words; classes for which there is one word are one class."""
    words = [common_name(name) for name in data.classes]
    classes = tuple(dict.fromkeys(words))
    table = torch.tensor([classes.index(word) for word in words])
    return replace(data, label=table[data.label], classes=classes)


def _cut(data: FaceData, part: Part) -> FaceData:
    """The training or the test persons of data that lie in one piece: every fifth by name is tested on."""
    persons = sorted(set(data.persons), key=natural_key)
    tested = set(persons[TEST_SHARE - 1 :: TEST_SHARE])
    if not tested:
        raise BadInput(f"{data.description}: {len(persons)} persons: at least {TEST_SHARE} are needed to cut by person")
    rows = [i for i, person in enumerate(data.persons) if (person in tested) == (part == "test")]
    found = data.subset(rows)
    about = f"{data.description.removesuffix(', all part')}, {part} persons"
    return FaceData(found.images, found.label, found.classes, found.names, about, found.persons)
