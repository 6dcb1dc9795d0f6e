# SPDX-License-Identifier: Apache-2.0
"""Faces with known gaze: MPIIFaceGaze and Gaze360 as their owners publish them, or generated people.

Angles are degrees, yaw and pitch as each set defines them; 0, 0 looks into the camera. A model trained on one set must
not be measured on another without looking up the signs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.data.detection import Box
from mien.data.faces import crop_box
from mien.data.folders import fingerprints
from mien.data.images import load_tensor, resize_tensor
from mien.data.listing import printable
from mien.data.people import render_faces, sample_people
from mien.data.splits import split_by_group
from mien.engine import Phase, TrainingData
from mien.errors import BadInput
from mien.forensics.parts.gaze import Gaze

EMBEDDED = "embedded"
TEACHER = "teacher"
"""Name of the phase that trains on gaze."""
GENERATED = (120, 60)
"""Generated people, and pictures of each; with fewer, a small network learns the people by heart."""
RENDERED = 64
"""Largest side in pixels of generated faces; beyond it they are enlarged."""
EYE = (30.0, 25.0)
"""Degrees that the eyes of generated people turn at most: yaw at gaze_x = 1, pitch at gaze_y = 1."""
AROUND = 0.4
"""What a crop of MPIIFaceGaze shows beyond the box of its six landmarks (eyes and mouth), on each side."""

_HELP = (
    "Gaze360 (request it from MIT CSAIL) holds imgs/ and train.txt, validation.txt, test.txt with lines "
    "'rec_000/head/000000/000000.jpg X Y Z'; MPIIFaceGaze (from MPI Informatik) holds p00/p00.txt to p14/p14.txt"
)


@dataclass(frozen=True)
class GazeRecord:
    """A picture and where its face looks.

    Args:
        path: The file.
        gaze: Yaw and pitch in degrees.
        group: Person or recording; never split.
        box: Where the face is, pixels, or None for the whole picture.
    """

    path: Path
    gaze: tuple[float, float]
    group: str
    box: Box | None = None


def gaze360(folder: str | os.PathLike[str], split: str = "train") -> list[GazeRecord]:
    """Gaze360 (Kellnhofer et al., ICCV 2019): heads of 238 people; yaw = atan2(x, -z), pitch = asin(y).

    Args:
        folder: Holds the lists and imgs/.
        split: train, validation or test, as published. The recording is the group.
    """
    if split not in ("train", "validation", "test"):
        raise BadInput(f"split is {split!r}: Gaze360 has train, validation and test")
    root = Path(folder)
    records = []
    for where, cells in _lines(root / f"{split}.txt"):
        if len(cells) != 4:
            raise BadInput(f"{where}: {len(cells)} cells; expected a path and three numbers")
        x, y, z = _numbers(cells[1:], where)
        group = f"gaze360/{Path(cells[0]).parts[0]}"
        records.append(GazeRecord(_inside(root / "imgs", cells[0], where), _angles(x, y, -z, where), group))
    return records


def mpiifacegaze(folder: str | os.PathLike[str], split: str = "train") -> list[GazeRecord]:
    """MPIIFaceGaze (Zhang et al., CVPRW 2017): 15 people before their laptops, a folder each.

    A line of p00/p00.txt is a file, the place on the screen (2), six landmarks (12), the pose of the head (6), the
    centre of the face and the target of the gaze in the camera's coordinates (3 and 3), and the eye of the evaluation.
    The gaze is target - centre; yaw = atan2(-x, -z), pitch = asin(-y).

    Args:
        folder: Holds p00, p01, ...
        split: Any word: there is no published split. The person is the group.
    """
    root = Path(folder)
    records = []
    for file in sorted(root.glob("p[0-9][0-9]/p[0-9][0-9].txt")):
        for where, cells in _lines(file):
            if len(cells) not in (27, 28):
                raise BadInput(f"{where}: {len(cells)} cells; expected the 28 of MPIIFaceGaze")
            values = _numbers(cells[1:27], where)
            x, y, z = (values[23 + i] - values[20 + i] for i in range(3))
            across, down = values[2:14:2], values[3:14:2]
            box = (min(across), min(down), max(across), max(down))
            path = _inside(file.parent, cells[0], where)
            records.append(GazeRecord(path, _angles(-x, -y, -z, where), f"mpiifacegaze/{file.parent.name}", box))
    if not records:
        raise BadInput(f"{printable(str(root))}: no gaze data here; {_HELP}")
    return records


def read_gaze(folder: str, split: str = "train") -> list[GazeRecord]:
    """The records of a folder in either layout."""
    path = Path(folder)
    if (path / f"{split}.txt").is_file():
        return gaze360(path, split)
    if path.is_dir():
        return mpiifacegaze(path, split)
    raise BadInput(f"{printable(str(path))}: no such folder of gaze data; {_HELP}")


def _angles(sideways: float, up: float, ahead: float, where: str) -> tuple[float, float]:
    length = math.sqrt(sideways**2 + up**2 + ahead**2)
    if not length > 0:
        raise BadInput(f"{where}: the gaze has no direction")
    return math.degrees(math.atan2(sideways, ahead + 0.0)), math.degrees(math.asin(up / length))


def _lines(file: Path) -> list[tuple[str, list[str]]]:
    """Cells of each line, with where it is."""
    name = printable(str(file))
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise BadInput(f"{name}: no such file; {_HELP}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{name}: cannot be read ({error})") from error
    found = [(f"{name}, line {i}", line.split()) for i, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise BadInput(f"{name}: the list is empty")
    return found


def _numbers(cells: Sequence[str], where: str) -> list[float]:
    try:
        values = [float(cell) for cell in cells]
    except ValueError as error:
        raise BadInput(f"{where}: {error}") from error
    if not all(map(math.isfinite, values)):
        raise BadInput(f"{where}: a number is not finite")
    return values


def _inside(folder: Path, relative: str, where: str) -> Path:
    path = Path(os.path.normpath(relative))
    if path.is_absolute() or path.parts[:1] == ("..",):
        raise BadInput(f"{where}: path {relative!r} must lie inside the data's folder")
    return folder / path


class GazeFiles(Dataset[Gaze]):
    """Pictures on disk with their gaze, `size` x `size` pixels. Nothing is mirrored: that would turn the yaw."""

    seeded = False

    def __init__(self, records: Sequence[GazeRecord], size: int) -> None:
        self.records, self.size = list(records), size
        self.groups = [record.group for record in records]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Gaze:
        record = self.records[index]
        if record.box is None:
            image = load_tensor(record.path, self.size)
        else:
            image = crop_box(load_tensor(record.path), record.box, self.size, margin=AROUND)
        return Gaze(image, torch.tensor(record.gaze), record.group)


class GazeImages(Dataset[Gaze]):
    """Pictures in memory with their gaze.

    Args:
        image: uint8 (N, 3, H, W).
        gaze: Degrees, (N, 2).
        groups: Person of each.
        size: Side of the samples.
    """

    seeded = False

    def __init__(self, image: Tensor, gaze: Tensor, groups: Sequence[str], size: int) -> None:
        self.image, self.gaze, self.groups, self.size = image, gaze, list(groups), size

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> Gaze:
        image = resize_tensor(self.image[index].float() / 255, self.size)
        return Gaze(image, self.gaze[index], self.groups[index])

    def part(self, rows: Sequence[int]) -> GazeImages:
        """Some of the pictures."""
        return GazeImages(self.image[rows], self.gaze[rows], [self.groups[i] for i in rows], self.size)


def generated_gaze(size: int, people: int = GENERATED[0], pictures: int = GENERATED[1], seed: int = 900) -> GazeImages:
    """Generated people who look about, framed alike: gaze is the turn of the head plus that of the eyes, yaw to the
    image's right and pitch downwards.
    """
    index = np.repeat(np.arange(people), pictures)
    side = min(max(size, 16), RENDERED)
    framing: dict[str, Any] = {"zoom": 0.95, "shift_x": 0.0, "shift_y": 0.0, "roll": 0.0, "blur": 0.0}
    images, factors = render_faces(sample_people(people, seed), index, seed, size=side, masks=False, **framing)
    turned = [
        factors.values[head] + reach * factors.values[eye]
        for head, eye, reach in (("yaw", "gaze_x", EYE[0]), ("pitch", "gaze_y", EYE[1]))
    ]
    image = torch.from_numpy(np.round(images * 255).astype(np.uint8))
    gaze = torch.from_numpy(np.stack(turned, axis=1)).float()
    return GazeImages(image, gaze, [f"generated-gaze-{i:03d}" for i in index], size)


class WithTeacher(TrainingData):
    """Training data whose first phase trains the gaze teacher.

    Args:
        data: Of the other phases.
        train: Gaze to train on.
        validation: Gaze of other people, or None.
        about: One line for the manifest.
        files: Hashes of the files.
    """

    def __init__(
        self,
        data: TrainingData,
        train: Dataset[Gaze],
        validation: Dataset[Gaze] | None,
        about: str,
        files: Sequence[str] = (),
    ) -> None:
        self.data, self.gaze, self.held = data, train, validation
        self.about, self.files = about, list(files)

    def train(self, phase: Phase) -> Dataset[Any]:
        """Gaze in the teacher's phase."""
        return self.gaze if phase.name == TEACHER else self.data.train(phase)

    def validation(self, phase: Phase) -> Any:
        """Gaze in the teacher's phase."""
        return self.held if phase.name == TEACHER else self.data.validation(phase)

    def manifest(self) -> dict[str, Any]:
        """That of the clips, and the files of the gaze data."""
        found = dict(self.data.manifest())
        found["files"] = sorted({*found.get("files", []), *self.files})
        found["description"] = f"{found.get('description', '')}; gaze teacher: {self.about}"
        return found


def with_teacher(data: TrainingData, source: str, size: int, seed: int) -> WithTeacher:
    """The data, preceded by gaze from a folder or of generated people; a tenth of the people are held out."""
    if source == EMBEDDED:
        made = generated_gaze(size)
        train, held = split_by_group(made.groups, (0.9, 0.1), seed=seed)
        return WithTeacher(data, made.part(train), made.part(held), f"generated faces of {GENERATED[0]} people")
    records = read_gaze(source)
    train, held = split_by_group([record.group for record in records], (0.9, 0.1), seed=seed)
    files = [GazeFiles([records[i] for i in rows], size) for rows in (train, held)]
    hashes = sorted(set(fingerprints([record.path for record in records])))
    return WithTeacher(data, files[0], files[1], f"{len(records)} faces in {Path(source).name}", hashes)
