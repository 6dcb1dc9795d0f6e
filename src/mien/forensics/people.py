# SPDX-License-Identifier: Apache-2.0
"""Faces that forgeries are made from, and what is known about who is seen in them.

A table of faces (`mien.data.attributes`) without labels is like a folder of people: nothing in it is forged, so the
forgeries are made from its faces. Without a column of persons each face is a person of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mien.data.attributes import attribute_names, attribute_table, column_of
from mien.data.folders import Record, fingerprints
from mien.data.images import load_tensor
from mien.data.people import sample_people
from mien.errors import BadInput

LARGEST = 112
"""Side of the faces that forgeries are made from, where the images are larger."""
MOST = 2000
"""Faces of a table that are held in memory, with four forgeries of each; more are drawn from."""
SKIN = ("light", "medium", "dark")
"""Groups of generated people: thirds of the range of skin tones."""


@dataclass(frozen=True)
class People:
    """Faces, whose they are, and what is known about them.

    Args:
        faces: uint8 (N, 3, H, W).
        names: Whose face each is, (N,).
        attributes: What is known about each, name -> value, (N,), the same names in all; [] where nothing is.
        manifest: See `mien.room.TestData`.
        files: SHA-256 of each face's file, (N,); () where they are not files.
    """

    faces: Tensor
    names: list[str]
    attributes: list[Mapping[str, str]]
    manifest: dict[str, Any]
    files: Sequence[str] = ()

    def part(self, rows: Sequence[int]) -> People:
        """Some of the faces, with the manifest of all."""
        known = [self.attributes[i] for i in rows] if self.attributes else []
        files = [self.files[i] for i in rows] if self.files else ()
        return People(self.faces[list(rows)], [self.names[i] for i in rows], known, self.manifest, files)

    def values(self, column: str) -> list[str]:
        """The value of one attribute for every face."""
        return [row[column] for row in self.attributes]


def table_people(source: str, *, most: int = MOST, seed: int = 0) -> People:
    """The faces of a table without labels; of more than `most`, as many drawn from the seed.

    Raises:
        BadInput: See `attribute_table`; or some rows have labels and some do not.
    """
    records = unlabelled(attribute_table(source), source)
    return load_table(_drawn(records, most, seed), source, len(records))


def balanced_people(source: str, group_by: str | None, *, per_group: int, seed: int = 0) -> tuple[People, str]:
    """At most `per_group` faces of each group of a table without labels, drawn from the seed, and the column.

    Args:
        source: The table, or the folder that it lies in.
        group_by: The column; None for the one that `column_of` takes.
        per_group: Most faces of a group, at least 1.
        seed: Of the draw.
    """
    records = unlabelled(attribute_table(source), source)
    column = column_of(attribute_names(records), group_by)
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(dict(record.attributes)[column], []).append(record)
    chosen = [record for rows in groups.values() for record in _drawn(rows, per_group, seed)]
    return load_table(chosen, source, len(records)), column


def unlabelled(records: Sequence[Record], source: str) -> Sequence[Record]:
    """The records, after a check that none has a label."""
    labelled = sum(record.label is not None for record in records)
    if labelled:
        raise BadInput(
            f"{source}: {labelled} of {len(records)} images have labels: label all of them, or none, and forgeries "
            "are made from the faces"
        )
    return records


def load_table(records: Sequence[Record], source: str, of: int) -> People:
    """Faces of records in memory, squares of the first image's shorter side or of `LARGEST`.

    Args:
        records: What to load.
        source: The folder or table, for the description.
        of: How many records there were.
    """
    side = min(LARGEST, *load_tensor(records[0].path).shape[-2:])
    faces = torch.stack([load_tensor(record.path, side).mul(255).round().byte() for record in records])
    files = fingerprints([record.path for record in records])
    known: dict[str, str] = {}  # the same photograph twice is the same person twice, whatever the files are called
    names = [known.setdefault(file, record.group) for file, record in zip(files, records, strict=True)]
    part = f"{len(records)} of {of}" if len(records) < of else str(of)
    manifest = {
        "groups": sorted(set(names)),
        "files": sorted(set(files)),
        "description": f"forgeries made from {part} faces in {_where(source)}",
    }
    return People(faces, names, [dict(record.attributes) for record in records], manifest, files)


def _where(source: str) -> str:
    path = Path(source).resolve()
    return path.name if path.is_dir() else path.parent.name


def _drawn(records: Sequence[Record], most: int, seed: int) -> list[Record]:
    """At most so many of the records, in their order."""
    if most < 1:
        raise BadInput(f"{most} faces are asked for: it must be at least 1")
    if len(records) <= most:
        return list(records)
    drawn = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))[:most]
    return [records[i] for i in sorted(drawn.tolist())]


def skin_of(names: Sequence[str]) -> list[Mapping[str, str]]:
    """What is known about generated people, who are called generated-012 and so on: which third of skin tones."""
    numbers = [int(name.rpartition("-")[2]) for name in names]
    tone = sample_people(max(numbers) + 1, seed=0).values["skin_tone"]
    return [{"skin": SKIN[min(int(3 * tone[i]), 2)]} for i in numbers]
