# SPDX-License-Identifier: Apache-2.0
"""Folders and tables of images as lists of records.

A record says where an image lies, what it is, and two things that must not be confused:
    * `group`: what must not be split. Images of one person, or made from one video, share a group; training and test
      data never share one (`mien.data.splits`).
    * `video`: the frames that belong together in time and get one common answer. Empty for single pictures.
One group may hold several videos: an original and the forgeries made from it.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from mien.data.images import MAX_BYTES, load_tensor
from mien.data.listing import list_images, natural_key, printable
from mien.data.zipped import inside_zip, read_member
from mien.errors import BadInput, unknown_name

REAL_NAMES = frozenset({"real", "reals", "original", "originals", "genuine", "authentic", "pristine"})
COLUMNS = ("path", "label", "group", "kind", "video", "frame")


@dataclass(frozen=True)
class Record:
    """One image file and what is known about it.

    Args:
        path: The file.
        label: 0 real, 1 forged in forensics; elsewhere the index of the class; None unknown.
        group: Person or video that must not be split; images that share pixels or a person share it.
        kind: "real", the kind of forgery, or the name of the class; "" unknown.
        frame: Position in the video, from 0.
        video: Frames with the same name are one video with one label; "" for a single picture.
        attributes: What else is known about who is seen: pairs of a name ("race") and a value.
    """

    path: Path
    label: int | None
    group: str
    kind: str = ""
    frame: int = 0
    video: str = ""
    attributes: tuple[tuple[str, str], ...] = ()


def class_labels(names: Iterable[str]) -> dict[str, int]:
    """Labels of class folders by name.

    With a class of real images ("real", "original", "genuine", ...) that one is 0 and every other is 1, forged; the
    name stays as the record's kind. Otherwise classes are numbered in sorted order.

    >>> class_labels(["real", "deepfakes", "faceswap"])
    {'deepfakes': 1, 'faceswap': 1, 'real': 0}
    >>> class_labels(["sad", "happy"])
    {'happy': 0, 'sad': 1}
    """
    names = sorted(set(names))
    if any(name.lower() in REAL_NAMES for name in names):
        return {name: int(name.lower() not in REAL_NAMES) for name in names}
    return {name: index for index, name in enumerate(names)}


def _labels(names: Iterable[str], classes: Sequence[str] | None, folder: Path) -> dict[str, int]:
    names = list(names)
    if classes is None:
        return class_labels(names)
    for name in names:
        if name not in classes:
            raise unknown_name(f"class folder in {printable(str(folder))}", name, classes)
    return {name: index for index, name in enumerate(classes)}


def _kind(name: str) -> str:
    return "real" if name.lower() in REAL_NAMES else name


def _images(folder: str | os.PathLike[str]) -> tuple[Path, list[tuple[Path, tuple[str, ...]]]]:
    """The folder and its images, each with the parts of its path below the folder."""
    folder = Path(folder)
    images = list_images(folder)
    if not images:
        raise BadInput(f"{printable(str(folder))}: no images in this folder (JPEG, PNG, WebP, BMP or TIFF files)")
    return folder, [(path, path.relative_to(folder).parts) for path in images]


def class_folders(folder: str | os.PathLike[str], *, classes: Sequence[str] | None = None) -> list[Record]:
    """Single pictures in class folders: `CLASS/picture.jpg` or `CLASS/GROUP/.../picture.jpg`.

    The group is the folder below the class, or without one the picture's name. The class is no part of it: real/id7 and
    fake/id7, or real/12.png and fake/12.png, are taken for the same person or scene and never split.

    Args:
        folder: Where the class folders lie.
        classes: Class names in the order of their labels; default as `class_labels`.

    Returns:
        Records sorted by path in natural order (2 before 10).

    Raises:
        BadInput: No such folder, no images, or images outside any class folder.
    """
    folder, images = _images(folder)
    stray = next((path for path, parts in images if len(parts) == 1), None)
    if stray is not None:
        raise BadInput(f"{printable(str(stray))}: lies in no class folder; expected {folder.name}/CLASS/picture.jpg")
    labels = _labels({parts[0] for _, parts in images}, classes, folder)
    return [
        Record(path, labels[parts[0]], "/".join(parts[1:-1]) or path.stem, _kind(parts[0])) for path, parts in images
    ]


def video_folders(folder: str | os.PathLike[str], *, classes: Sequence[str] | None = None) -> list[Record]:
    """Videos as folders of frames: `CLASS/.../VIDEO/frame.png`, or `VIDEO/frame.png` without labels.

    Every folder that holds images is a video, its images in natural order are the frames, and it is a group of its own.
    Where a person or a source video recurs in several videos use a table with a group column (`labels_csv`).

    Args:
        folder: Where the class folders, or the videos, lie. A folder of nothing but frames is one video.
        classes: Class names in the order of their labels; default as `class_labels`.

    Raises:
        BadInput: No such folder, no images, labelled and unlabelled videos mixed, or frames directly in a folder
            named real.
    """
    folder, images = _images(folder)
    depths = {min(len(parts) - 1, 2) for _, parts in images}
    if len(depths) > 1:
        raise BadInput(
            f"{printable(str(folder))}: some frames lie in CLASS/VIDEO/ and some do not; "
            "give every video a folder, and every video folder a class folder or none"
        )
    labelled = depths == {2}
    names = {parts[0] for _, parts in images if len(parts) > 1}
    if not labelled and any(name.lower() in REAL_NAMES for name in names):
        raise BadInput(
            f"{printable(str(folder))}: frames lie directly in class folders ({', '.join(sorted(names)[:5])}); "
            "put those of each video into a folder of its own, or read them as single pictures"
        )
    labels = _labels(names, classes, folder) if labelled else {}
    records: list[Record] = []
    counts: dict[str, int] = {}
    for path, parts in images:
        video = "/".join(parts[:-1]) or folder.resolve().name
        frame = counts.get(video, 0)
        counts[video] = frame + 1
        label, kind = (labels[parts[0]], _kind(parts[0])) if labelled else (None, "")
        records.append(Record(path, label, video, kind, frame, video))
    return records


def people_folders(folder: str | os.PathLike[str]) -> list[Record]:
    """Pictures of people, a folder for each person: `PERSON/.../picture.jpg`. The person is the group.

    The label stays unknown (None): these pictures are neither real nor forged until somebody says so, and whoever needs
    identities as numbers has them in the group.

    Raises:
        BadInput: No such folder, no images, or a picture that lies in no person's folder.
    """
    folder, images = _images(folder)
    for path, parts in images:
        if len(parts) == 1:
            raise BadInput(f"{printable(str(path))}: lies in no person's folder; expected PERSON/picture.jpg")
    return [Record(path, None, parts[0]) for path, parts in images]


def labels_csv(file: str | os.PathLike[str]) -> list[Record]:
    """A table of images: columns `path`, `label` and any of `group`, `kind`, `video`, `frame`; one header line, UTF-8.

    Paths are relative to the table's folder and stay inside it. A label is a number from 0, `real` (0), `fake` or
    `forged` (1), or empty (unknown). Without a group the video is the group, or the path where there is no video either
    (each picture stands for itself): give the column when persons recur.

    Returns:
        Records sorted by path in natural order.

    Raises:
        BadInput: Names the line: an unknown or missing column, a bad label or frame, a path that is absolute, leaves
            the folder, does not exist or comes twice; or the table is empty or not text.
    """
    file = Path(file)
    name = printable(str(file))
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.reader(stream))
    except FileNotFoundError as error:
        raise BadInput(f"{name}: no such file") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{name}: cannot be read as a UTF-8 table ({error})") from error
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    for column in header:
        if column not in COLUMNS:
            raise unknown_name(f"column in {name}", column, COLUMNS)
    for column in ("path", "label"):
        if header.count(column) != 1:
            raise BadInput(f"{name}: the first line must name the column {column!r} once; it holds {header}")
    records: list[Record] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        where = f"{name}, row {number}"
        if len(row) != len(header):
            raise BadInput(f"{where}: {len(row)} cells under {len(header)} columns")
        record = _row(dict(zip(header, (cell.strip() for cell in row), strict=True)), file.parent, where)
        key = str(record.path)
        if key in seen:
            raise BadInput(f"{where}: {printable(key)} came in row {seen[key]} already")
        seen[key] = number
        records.append(record)
    if not records:
        raise BadInput(f"{name}: the table holds no images")
    return sorted(records, key=lambda record: natural_key(record.path))


def _row(cells: dict[str, str], folder: Path, where: str) -> Record:
    relative = os.path.normpath(cells["path"])
    if not cells["path"] or Path(relative).parts[:1] == ("..",) or Path(relative).is_absolute():
        raise BadInput(f"{where}: path {cells['path']!r} must lie inside the table's folder, relative to it")
    path = folder / relative
    if not path.is_file():
        raise BadInput(f"{where}: no such file {printable(str(path))}")
    names = {"": None, "real": 0, "fake": 1, "forged": 1}
    text = cells["label"].lower()
    if text not in names and not (text.isascii() and text.isdigit()):
        raise BadInput(f"{where}: label {cells['label']!r} must be a number from 0, real, fake, forged or empty")
    frame = cells.get("frame", "") or "0"
    if not (frame.isascii() and frame.isdigit()):
        raise BadInput(f"{where}: frame {frame!r} must be a number from 0")
    video = cells.get("video", "")
    group = cells.get("group", "") or video or Path(relative).as_posix()
    label = names[text] if text in names else int(text)
    return Record(path, label, group, cells.get("kind", ""), int(frame), video)


def take_frames(records: Sequence[Record], n: int, stride: int = 1, *, drop_short: bool = False) -> list[Record]:
    """The first `n` frames of every video at a fixed stride: positions 0, stride, 2 stride, ... in order of `frame`.

    Single pictures (records without a video) are kept as they are.

    Args:
        records: In any order; the result keeps the order in which videos first appear.
        n: Frames per video at most.
        stride: Distance in frames.
        drop_short: Leave out videos that have fewer than `n` frames at this stride; otherwise they keep what they have.

    Raises:
        BadInput: `n` or `stride` below 1; or nothing is left.
    """
    if n < 1 or stride < 1:
        raise BadInput(f"n = {n}, stride = {stride}: both must be at least 1")
    videos: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        key = ("video", record.video) if record.video else ("picture", str(record.path))
        videos.setdefault(key, []).append(record)
    taken: list[Record] = []
    for (what, _), frames in videos.items():
        chosen = sorted(frames, key=lambda record: record.frame)[::stride][:n]
        if what == "picture" or len(chosen) == n or not drop_short:
            taken.extend(chosen)
    if records and not taken:
        raise BadInput(f"no video has {n} frames at stride {stride}: take fewer, or keep short videos")
    return taken


def require_classes(records: Sequence[Record], labels: Sequence[int] = (0, 1), *, where: str = "the data") -> None:
    """Check that every label is present.

    Raises:
        BadInput: Says which are missing and what was found.
    """
    counts: dict[int | None, int] = {}
    for record in records:
        counts[record.label] = counts.get(record.label, 0) + 1
    missing = [label for label in labels if label not in counts]
    if missing:
        found = ", ".join(f"{count} of label {_word(label)}" for label, count in sorted(counts.items(), key=str))
        lacking = " and ".join(_word(label) for label in missing)
        raise BadInput(f"{where}: no image of label {lacking}; found {found or 'nothing'}")


def _word(label: int | None) -> str:
    return {None: "unknown", 0: "0 (real)", 1: "1 (forged)"}.get(label, str(label))


def fingerprints(paths: Iterable[str | os.PathLike[str]], *, threads: int = 4) -> list[str]:
    """SHA-256 of each file as 64 hexadecimal digits, in the order given; files are read in parallel, piece by piece.

    Raises:
        BadInput: A file cannot be read.
    """
    with ThreadPoolExecutor(max_workers=threads) as pool:
        return list(pool.map(_fingerprint, paths))


def _fingerprint(path: str | os.PathLike[str]) -> str:
    try:
        if (inside := inside_zip(path)) is not None:
            return hashlib.sha256(read_member(*inside, MAX_BYTES)).hexdigest()  # as if it were unpacked
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{printable(os.fspath(path))}: cannot be read ({error.strerror or error})") from error


class ImageRecords(Dataset[tuple[Tensor, Record]]):
    """Records as (image, record), the image (3, H, W), float32 in [0, 1].

    Args:
        records: What to read; only paths are held, files are opened when an item is asked for.
        size: (height, width), or one number for a square, as `mien.data.images.load_tensor`; None keeps each size.
        transform: Applied to the image; to be picklable it must be a function or object of a module.
    """

    seeded = False  # nothing random here; the engine need not seed

    def __init__(
        self,
        records: Sequence[Record],
        size: int | tuple[int, int] | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.records = list(records)
        self.size = size
        self.transform = transform

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, Record]:
        record = self.records[index]
        image = load_tensor(record.path, self.size)
        return (image if self.transform is None else self.transform(image)), record
