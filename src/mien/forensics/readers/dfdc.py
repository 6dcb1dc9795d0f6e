# SPDX-License-Identifier: Apache-2.0
"""The preview of the Deepfake Detection Challenge as records; `readers.sets` lists it with the others."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mien.data.folders import Record
from mien.data.listing import natural_key, printable
from mien.errors import BadInput
from mien.forensics.readers.frame_folders import (
    FRAME_FOLDERS,
    check_split,
    complete,
    frame_records,
    read_json,
    root_folder,
)


def dfdc_preview(
    folder: str | os.PathLike[str],
    split: str = "train",
    *,
    augmented: bool | None = None,
    partial: bool = False,
) -> list[Record]:
    """The preview of the Deepfake Detection Challenge (Dolhansky et al., 2019): 66 actors, two methods of swapping.

    dataset.json gives label, set and augmentations of each video, such as
    `method_A/1003254/1003254_A/1255229_1003254_A_001.mp4`: actor 1003254 with the face of 1255229 (from the names,
    inferred). Actors who occur in one video, directly or through others of the split, are one group. Whoever occurs in
    the test set is left out of train, with all videos of theirs.

    Args:
        folder: Holds dataset.json, original_videos, method_A and method_B.
        split: train, test, or all.
        augmented: True takes only videos with augmentations (some of the test videos were resized, slowed down or
            compressed again), False only those without, None both.
        partial: Accept listed videos without frames.

    Raises:
        BadInput: What is missing, where to get it and how it must lie; a table that is not as published.
    """
    name = "DFDC preview"
    check_split(split, ("train", "test", "all"))
    root = root_folder(folder, name)
    table = read_json(root / "dataset.json", name)
    if not isinstance(table, dict) or not table:
        raise BadInput(f"{name}: {printable(str(root / 'dataset.json'))} must map videos to their label and set")
    for video, entry in table.items():
        fit = (
            isinstance(entry, dict) and entry.get("label") in ("real", "fake") and entry.get("set") in ("train", "test")
        )
        parts = Path(video).parts
        if not fit or len(parts) < 2 or Path(video).is_absolute() or ".." in parts:
            raise BadInput(f"{name}: entry {video!r} of dataset.json needs label real or fake and set train or test")
    people = {video: _dfdc_people(video, entry) for video, entry in table.items()}
    tested = {person for video, entry in table.items() if entry["set"] == "test" for person in people[video]}
    wanted = [
        video
        for video, entry in table.items()
        if split == "all" or (entry["set"] == split and (split == "test" or not people[video] & tested))
    ]
    # Groups before the choice of augmentations, so that they do not depend on it.
    group = _linked([people[video] for video in wanted])
    wanted = [v for v in wanted if augmented is None or bool(table[v].get("augmentations")) == augmented]
    records: list[Record] = []
    missing: list[str] = []
    for video in sorted(wanted, key=natural_key):
        entry = table[video]
        part, stem = Path(video).parts[0], Path(video).stem
        places = (
            root / Path(video).with_suffix(""),
            *(root / part / f / stem for f in FRAME_FOLDERS),
            root / part / stem,
        )
        place = next((p for p in places if p.is_dir()), None)
        label, kind = (0, "real") if entry["label"] == "real" else (1, part)
        first = min(people[video])
        found = place is not None and frame_records(
            place, label, f"dfdc-preview/{group[first]}", kind, f"dfdc-preview/{Path(video).with_suffix('').as_posix()}"
        )
        records += found or []
        missing += [] if found else [video]
    return complete(name, missing, len(wanted), records, partial)


def _dfdc_people(video: str, entry: dict[str, Any]) -> frozenset[str]:
    """Actors of a video: from the table where it names them, and from the numbers in its name."""
    named = {str(entry[key]) for key in ("target_id", "swapped_id") if entry.get(key)}
    numbers = re.findall(r"(?<!\d)\d{4,}(?!\d)", Path(video).stem)  # takes have three digits
    return frozenset(named | set(numbers)) or frozenset({Path(video).stem})


def _linked(sets: Iterable[frozenset[str]]) -> dict[str, str]:
    """For each member the least member that it is linked to by sets that share members."""
    parent: dict[str, str] = {}

    def find(member: str) -> str:
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    for members in sets:
        for member in members:
            parent.setdefault(member, member)
        first, *others = sorted(find(member) for member in members)
        for other in others:
            parent[other] = first
    return {member: find(member) for member in parent}
