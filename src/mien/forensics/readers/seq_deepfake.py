# SPDX-License-Identifier: Apache-2.0
"""Seq-DeepFake, faces edited step by step, as records; `mien.forensics.readers.sets` lists it with the other sets.

Shao, Wu, Liu, Detecting and Recovering Sequential DeepFake Manipulation, ECCV 2022: about 85,000 faces in two parts,
facial components (28 orders of edits) and facial attributes (26), each with lists of training, validation and test.
"""

from __future__ import annotations

import csv
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mien.data.folders import Record
from mien.data.listing import natural_key, printable
from mien.errors import BadInput, unknown_name
from mien.forensics.readers.frame_folders import check_missing, check_split, no_data, root_folder

NAME = "Seq-DeepFake"
Vocabulary = Literal["components", "attributes"]
TOKENS: dict[str, tuple[str, ...]] = {
    "components": ("nose", "eye", "eyebrow", "lip", "hair"),
    "attributes": ("bangs", "eyeglasses", "beard", "smiling", "young"),
}
"""Part -> names of its tokens 1 to 5; 0 is "no further edit"."""
LONGEST = 5
FOLDERS = {"components": "facial_components", "attributes": "facial_attributes"}
_IMAGE = re.compile(r"\.(jpe?g|png|webp|bmp)$", re.IGNORECASE)


@dataclass(frozen=True)
class Edits:
    """An image of the set.

    Args:
        record: The file, label 0 where nothing was edited.
        sequence: Tokens of the edits in order, 0 after the last.
        original: The face before the edits, or None where the copy of the set has none.
    """

    record: Record
    sequence: tuple[int, ...]
    original: Path | None


def seq_deepfake(
    folder: str | os.PathLike[str], split: str = "train", *, part: Vocabulary | None = None, partial: bool = False
) -> list[Record]:
    """The images as real (nothing edited) and forged, for detectors that do not ask which edits were made.

    Args:
        folder: Holds facial_components, facial_attributes, or both.
        split: train, val, test, or all.
        part: One of the two; None for those that are there.
        partial: Accept listed images that are not there.

    Raises:
        BadInput: What is missing, where to get it and how it must lie; a list that cannot be read.
    """
    root = root_folder(folder, NAME)
    parts = [part] if part is not None else [name for name, inner in FOLDERS.items() if (root / inner).is_dir()]
    if not parts:
        raise no_data(NAME, f"neither facial_components nor facial_attributes in {root}")
    return [edits.record for name in parts for edits in seq_deepfake_edits(root, split, part=name, partial=partial)]


def seq_deepfake_edits(
    folder: str | os.PathLike[str], split: str = "train", *, part: str = "components", partial: bool = False
) -> list[Edits]:
    """The images of one part with their edits in order, sorted by path.

    `PART/annotations/SPLIT.csv` has a line for every image: its path and the five numbers of its list, in one cell or
    in five. Paths are relative to images/SPLIT, images, the part or the set. An original lies under the same name in
    images/SPLIT/original; where a copy has none, edits can be learnt but not undone. Everything made from one
    photograph (the same name without suffix) is one group.

    Args:
        folder: Holds facial_components, facial_attributes, or both.
        split: train, val, test, or all.
        part: "components" or "attributes".
        partial: Accept listed images that are not there.

    Raises:
        BadInput: As `seq_deepfake`.
    """
    check_split(split, ("train", "val", "test", "all"))
    if part not in FOLDERS:
        raise unknown_name(f"part of {NAME}", part, FOLDERS)
    root = root_folder(folder, NAME)
    base = root / FOLDERS[part]
    if not base.is_dir():
        raise no_data(NAME, f"no folder {base}")
    found: list[Edits] = []
    missing: list[str] = []
    listed = 0
    for one in ("train", "val", "test") if split == "all" else (split,):
        rows = _annotations(base / "annotations" / f"{one}.csv")
        listed += len(rows)
        places = [base / "images" / one, base / "images", base, root]
        originals = _originals(places[0])
        for name, sequence in rows:
            path = next((place / name for place in places if (place / name).is_file()), None)
            if path is None:
                missing.append(name)
                continue
            tokens = [TOKENS[part][t - 1] for t in sequence if t]
            group = f"seq-deepfake/{part}/{path.stem}"
            record = Record(path, int(bool(tokens)), group, "-".join(tokens) or "real")
            found.append(Edits(record, sequence, originals.get(path.stem) if tokens else path))
    if not found:
        raise no_data(NAME, f"none of the {listed} listed images of {base.name}, {split}, are there")
    check_missing(NAME, missing, listed, partial, "listed images are missing", "add them")
    return sorted(found, key=lambda edits: natural_key(edits.record.path))


def _originals(images: Path) -> dict[str, Path]:
    """Unedited images of a split by name without suffix."""
    folder = next((images / name for name in ("original", "Original") if (images / name).is_dir()), None)
    return {} if folder is None else {path.stem: path for path in folder.iterdir() if _IMAGE.search(path.name)}


def _annotations(file: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Path and list of every line; a first line without an image is a header."""
    where = printable(str(file))
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.reader(stream))
    except FileNotFoundError as error:
        raise no_data(NAME, f"no file {file}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{NAME}: {where} cannot be read ({error})") from error
    found = []
    for number, row in enumerate(rows, start=1):
        place = next((i for i, cell in enumerate(row) if _IMAGE.search(cell.strip())), None)
        if place is None:
            if number > 1 and any(cell.strip() for cell in row):
                raise BadInput(f"{NAME}: line {number} of {where} names no image")
            continue
        name = row[place].strip()
        numbers = tuple(int(digits) for digits in re.findall(r"\d+", " ".join(row[place + 1 :])))
        used = [n for n in numbers if n]
        fit = len(numbers) == LONGEST and max(numbers) <= LONGEST and list(numbers[: len(used)]) == used
        if not fit:
            raise BadInput(
                f"{NAME}: line {number} of {where} gives {list(numbers)}: {LONGEST} numbers from 0 to {LONGEST}, "
                "zeros at the end, are needed"
            )
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BadInput(f"{NAME}: line {number} of {where}: path {name!r} must lie inside the set")
        found.append((name, numbers))
    if not found:
        raise BadInput(f"{NAME}: {where} lists no images")
    return found
