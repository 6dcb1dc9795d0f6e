# SPDX-License-Identifier: Apache-2.0
"""Tables that say who is seen in each image: a labels.csv with columns such as age, gender or race.

    file,age,gender,race
    00000.jpg,24,1,2

The image column is called file, path, image or filename. Columns that `mien.data.folders.labels_csv` knows (label,
group, kind, video, frame) mean the same here, person and identity mean group; every other column is an attribute, and
its cells are taken as they stand. Images lie beside the table, in a folder `images` beside it, or in one zip archive
beside it, which is read in place.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mien.data.folders import COLUMNS, REAL_NAMES, Record
from mien.data.listing import natural_key, printable
from mien.data.zipped import members
from mien.errors import BadInput, unknown_name

FILE = "labels.csv"
PREFERRED = ("race", "ethnicity", "skin")
"""What groups are made of where nobody says."""
_IMAGE = ("file", "path", "image", "filename")
_GROUP = ("group", "person", "identity")
_LABELS = {"": None, "real": 0, "0": 0, "fake": 1, "forged": 1, "1": 1}


def is_attribute_table(source: str | os.PathLike[str]) -> bool:
    """Whether a folder's labels.csv, or this table, has columns that `labels_csv` does not know, or lacks a label."""
    path = Path(source)
    file = path / FILE if path.is_dir() else path
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            header = _names(next(csv.reader(stream), []))
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    named = any(name in _IMAGE for name in header)
    return named and (not set(header) <= set(COLUMNS) or "label" not in header)


def attribute_table(source: str | os.PathLike[str]) -> list[Record]:
    """The images of a table with what is known about who is seen.

    Labels are 0 or real, 1, fake or forged; without the column they are unknown (None), as they are where a cell is
    empty. Without a person's column each image is a person of its own. A kind that is a word for real images (original,
    genuine, ...) is "real".

    Args:
        source: The table, or a folder with labels.csv.

    Returns:
        Records sorted by path in natural order, with the same attributes in all.

    Raises:
        BadInput: Names the row: a missing image, a path that leaves the folder, one that comes twice, a bad label or
            frame, a label that contradicts the kind; or the table is empty, has no column of images, two of them, or no
            attribute.
    """
    path = Path(source)
    file = path / FILE if path.is_dir() else path
    shown = printable(str(file))
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.reader(stream))
    except FileNotFoundError as error:
        raise BadInput(f"{shown}: no such file") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{shown}: cannot be read as a UTF-8 table ({error})") from error
    header = _names(rows[0]) if rows else []
    repeated = [name for name, times in Counter(header).items() if times > 1]
    image = [name for name in header if name in _IMAGE]
    if len(image) != 1 or repeated:
        raise BadInput(f"{shown}: the first line must name one column of images ({', '.join(_IMAGE)}) and no column "
                       f"twice; it holds {', '.join(header) or 'nothing'}")  # fmt: skip
    others = [name for name in header if name not in (*_IMAGE, *_GROUP, *COLUMNS)]
    if not others:
        raise BadInput(f"{shown}: no column of attributes such as race or age; it holds {', '.join(header)}")
    places = _Places(file.parent)
    records: list[Record] = []
    for number, row in enumerate(rows[1:], start=2):
        if any(cell.strip() for cell in row):
            where = f"{shown}, row {number}"
            if len(row) != len(header):
                raise BadInput(f"{where}: {len(row)} cells under {len(header)} columns")
            cells = dict(zip(header, (cell.strip() for cell in row), strict=True))
            records.append(_record(cells, cells[image[0]], others, places, where))
    if not records:
        raise BadInput(f"{shown}: the table holds no images")
    twice = [name for name, times in Counter(str(record.path) for record in records).items() if times > 1]
    if twice:
        raise BadInput(f"{shown}: {printable(twice[0])} is named in several rows")
    return sorted(records, key=lambda record: natural_key(record.path))


def attribute_names(records: Sequence[Record]) -> tuple[str, ...]:
    """The attributes that all of the records have, in the order of the first one."""
    common = set.intersection(*({name for name, _ in record.attributes} for record in records)) if records else set()
    return tuple(name for name, _ in records[0].attributes if name in common) if records else ()


def _names(row: Sequence[str]) -> list[str]:
    return [cell.strip().lower() for cell in row]


class _Places:
    """Where the images of a table lie."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        archives = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".zip" and path.is_file())
        self.archive = next((path for path in archives if path.stem == "images"), None)
        if self.archive is None and len(archives) == 1:
            self.archive = archives[0]
        names = members(self.archive) if self.archive is not None else ()
        self.inside = set(names)
        tails = Counter(Path(name).name for name in names)
        self.by_tail = {Path(name).name: name for name in names if tails[Path(name).name] == 1}

    def find(self, name: str, where: str) -> Path:
        relative = os.path.normpath(name)
        if not name or Path(relative).parts[:1] == ("..",) or Path(relative).is_absolute() or "\0" in name:
            raise BadInput(f"{where}: image {name!r} must lie inside the table's folder, relative to it")
        for place in (self.folder / relative, self.folder / "images" / relative):
            if place.is_file():
                return place
        inside = relative if relative in self.inside else self.by_tail.get(relative)
        if self.archive is None or inside is None:
            packed = f", in images/ or in {self.archive.name}" if self.archive is not None else " or in images/"
            raise BadInput(f"{where}: no image {printable(name)} beside the table{packed}")
        return self.archive / inside


def _record(cells: dict[str, str], image: str, others: Sequence[str], places: _Places, where: str) -> Record:
    path = places.find(image, where)
    text = cells.get("label", "").lower()
    if text not in _LABELS:
        raise BadInput(f"{where}: label {cells['label']!r} must be 0, real, 1, fake, forged or empty")
    label = _LABELS[text]
    frame = cells.get("frame", "") or "0"
    if not (frame.isascii() and frame.isdigit()):
        raise BadInput(f"{where}: frame {frame!r} must be a number from 0")
    person = next((cells[name] for name in _GROUP if cells.get(name)), "")
    video = cells.get("video", "")
    group = person or video or f"{places.folder.resolve().name}/{Path(os.path.normpath(image)).as_posix()}"
    kind = cells.get("kind", "") or {None: "", 0: "real", 1: "forged"}[label]
    kind = "real" if kind.lower() in REAL_NAMES else kind
    if label is not None and (kind == "real") != (label == 0):
        raise BadInput(
            f"{where}: {printable(image)} has label {label} and kind {kind!r}: real images have label 0 and kind real "
            "or none, forged ones label 1 and another kind or none"
        )
    return Record(path, label, group, kind, int(frame), video, tuple((name, cells[name]) for name in others))


def column_of(names: Sequence[str], wanted: str | None, preferred: Sequence[str] = PREFERRED) -> str:
    """The attribute that groups are made of.

    Args:
        names: The attributes that there are.
        wanted: The one that was asked for; None takes the first of `preferred` that is there, or the only one.
        preferred: In this order.

    Raises:
        BadInput: It is not there, or the choice is not clear.
    """
    if wanted is not None:
        if wanted not in names:
            raise (
                unknown_name("column", wanted, names)
                if names
                else BadInput(f"the data have no column {wanted!r}: they say nothing about who is seen")
            )
        return wanted
    found = next((name for name in preferred if name in names), names[0] if len(names) == 1 else None)
    if found is None:
        raise BadInput(f"which column makes the groups? Name one of {', '.join(names) or 'none: the data have none'}")
    return found
