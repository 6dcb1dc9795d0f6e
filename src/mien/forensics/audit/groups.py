# SPDX-License-Identifier: Apache-2.0
"""Data for an audit: real and forged faces of people of whom a group is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from mien.data.attributes import FILE, attribute_names, attribute_table, column_of
from mien.data.folders import Record, require_classes
from mien.data.forge_pairs import KINDS
from mien.data.splits import split_by_group
from mien.errors import BadInput
from mien.forensics.data import FaceRecords, Faces
from mien.forensics.detector import Detector
from mien.forensics.opening import (
    EMBEDDED,
    EMBEDDED_FACES,
    EMBEDDED_PEOPLE,
    forged_frames,
    generated_people,
    layout_of,
    read_records,
)
from mien.forensics.parts.pruning import real_images
from mien.forensics.people import People, balanced_people, skin_of
from mien.forensics.readers.sets import READERS
from mien.room import DataOptions


@dataclass(frozen=True)
class Grouped:
    """Data of an audit.

    Args:
        data: What is audited.
        calibration: Persons kept apart to calibrate pruning on, or None.
        column: The attribute that makes the groups.
        group_of: Person -> group, for persons who are in one.
        manifest: See `mien.room.TestData`; of both parts.
        calibration_manifest: Of the persons kept apart, or None.
        notes: Lines for the reader.
    """

    data: Dataset[Faces]
    calibration: Dataset[Faces] | None
    column: str
    group_of: Mapping[str, str]
    manifest: dict[str, Any]
    calibration_manifest: dict[str, Any] | None
    notes: tuple[str, ...] = ()


def open_grouped(
    source: str,
    detector: Detector,
    options: DataOptions,
    *,
    group_by: str | None = None,
    per_group: int = 200,
    calibration: float = 0.0,
) -> Grouped:
    """Faces with groups from a table, a FairFD folder, or "embedded" people.

    Args:
        source: A folder or table, or "embedded".
        detector: Who will see them.
        options: How they are read.
        group_by: The column that makes the groups; None for race, or the only one.
        per_group: Where forgeries are made: most faces of a group; each gives an image of every kind.
        calibration: Share of the persons of every group who are kept apart, in [0, 1).

    Raises:
        BadInput: The data say nothing about who is seen, or cannot be read.
    """
    if not 0 <= calibration < 1:
        raise BadInput(f"share to calibrate on is {calibration}: it must lie in [0, 1)")
    layout = options.kind if options.kind != "auto" or source == EMBEDDED else layout_of(source)
    if source == EMBEDDED:
        people = _embedded()
        return _of_people(people, column_of(("skin",), group_by), detector, options, calibration)
    if layout not in ("attributes", *READERS):
        if (Path(source) / FILE).is_file():
            attribute_table(source)  # says what is wrong with it
        raise BadInput(
            f"{source} does not say who is seen: an audit needs a labels.csv with a column of images (file or path) "
            "and one of groups, such as race"
        )
    records = READERS[layout](Path(source), "test", partial=True) if layout == "fairfd" else None
    records = records or read_records(source, layout, "test")
    if all(record.label is None for record in records):
        people, column = balanced_people(source, group_by, per_group=per_group, seed=options.seed)
        return _of_people(people, column, detector, options, calibration)
    return _of_records(records, source, layout, detector, options, group_by, calibration)


def _embedded() -> People:
    trained, tested = EMBEDDED_PEOPLE
    faces, names = generated_people(range(trained, trained + 3 * tested), EMBEDDED_FACES // 2)
    about = "forgeries made from procedurally generated faces (unseen people, no real person)"
    return People(faces, names, skin_of(names), {"groups": sorted(set(names)), "files": [], "description": about})


def _of_people(people: People, column: str, detector: Detector, options: DataOptions, share: float) -> Grouped:
    """Forgeries of every kind made from each face; a swap's donor is of the same group."""
    values = people.values(column)
    kept, notes = _in_company(people.names, values, column)
    people, values = people.part(kept), [values[i] for i in kept]
    audited, held = _apart(people.names, [(value, True) for value in values], share, options.seed)
    part = people.part(audited)
    data = _seen(part, column, detector, options.seed)
    calibration, own = None, None
    if held:
        kept_out = people.part(held)
        calibration = forged_frames(kept_out, detector.image_size, kinds=(), seed=options.seed)
        own = {**people.manifest, "groups": sorted(set(kept_out.names)), "files": sorted(set(kept_out.files))}
    group_of = dict(zip(people.names, values, strict=True))
    manifest = people.manifest | {"groups": sorted(set(people.names)), "files": sorted(set(people.files))}
    return Grouped(data, calibration, column, group_of, manifest, own, notes)


def _seen(people: People, column: str, detector: Detector, seed: int) -> Dataset[Faces]:
    """The faces and their forgeries as the detector sees them."""
    values = people.values(column)
    if detector.sees == "faces":
        return forged_frames(people, detector.image_size, seed=seed, donors=values)
    from mien.forensics.arena.data import BUILDERS, Part

    if detector.sees not in BUILDERS:
        raise BadInput(f"{detector.name} sees {detector.sees}: an audit can make faces and {', '.join(BUILDERS)}")
    return BUILDERS[detector.sees][1](detector, Part(people.faces, people.names, list(values), column), KINDS, seed)


def _of_records(
    records: Sequence[Record],
    source: str,
    layout: str,
    detector: Detector,
    options: DataOptions,
    group_by: str | None,
    share: float,
) -> Grouped:
    if detector.sees != "faces":
        raise BadInput(f"{detector.name} sees {detector.sees}: an audit of labelled images is for detectors of images")
    require_classes(records, where=source)
    column = column_of(attribute_names(records), group_by)
    values = [dict(record.attributes)[column] for record in records]
    notes: tuple[str, ...] = ()
    if share:
        kept, notes = _in_company([record.group for record in records], values, column)
        records, values = [records[i] for i in kept], [values[i] for i in kept]
    seen = [(value, record.label == 0) for value, record in zip(values, records, strict=True)]
    audited, held = _apart([record.group for record in records], seen, share, options.seed)
    data = FaceRecords([records[i] for i in audited], detector.image_size, crop=options.crop)
    real = [records[i] for i in held if records[i].label == 0]
    calibration = FaceRecords(real, detector.image_size, crop=options.crop) if real else None
    about = f"{layout} data in {Path(source).name}"
    manifest = FaceRecords(records, detector.image_size).manifest(about)
    own = calibration.manifest(f"{about}, part to calibrate on") if calibration is not None else None
    group_of = dict(zip([record.group for record in records], values, strict=True))
    return Grouped(data, calibration, column, group_of, manifest, own, notes)


def _in_company(names: Sequence[str], values: Sequence[str], column: str) -> tuple[list[int], tuple[str, ...]]:
    """Samples of groups of four persons or more, and a note on the groups that are left out."""
    persons: dict[str, set[str]] = {}
    for name, value in zip(names, values, strict=True):
        persons.setdefault(value, set()).add(name)
    lonely = sorted(value for value, known in persons.items() if len(known) < 4)
    if len(persons) - len(lonely) < 2:
        raise BadInput(
            f"column {column!r} makes {len(persons) - len(lonely)} groups of four persons or more: two are needed"
        )
    notes = (f"groups of fewer than four persons were left out: {', '.join(lonely)}",) if lonely else ()
    return [i for i, value in enumerate(values) if value not in lonely], notes


def _apart(
    names: Sequence[str], seen: Sequence[tuple[str, bool]], share: float, seed: int
) -> tuple[Sequence[int], Sequence[int]]:
    """What is audited, and what is kept apart; no person is in both, and every group is.

    Args:
        names: Person of every sample.
        seen: Group of every sample, and whether it is real.
        share: Of the persons, kept apart.
        seed: Of the draw.

    Raises:
        BadInput: Some group has no real image among what is kept apart, or nothing left to audit.
    """
    if not share:
        return range(len(names)), ()
    audited, held = split_by_group(names, (1 - share, share), seed=seed, labels=seen)
    real_images(seen, held)
    lost = sorted({group for group, _ in seen} - {seen[i][0] for i in audited})
    if lost:
        raise BadInput(f"share to calibrate on is {share}: nobody of {', '.join(lost)} is left to audit, lower it")
    return audited, held
