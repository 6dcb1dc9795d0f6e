# SPDX-License-Identifier: Apache-2.0
"""The FairFD test set (Liu et al., AAAI 2025): real faces of RFW and eleven kinds of forgery, for each of four races.

A folder for each approach and in it one for each race, or the other way round; the real images lie in a folder called
real, RFW, or data as RFW has it:

    real/African/m.0xnkj/m.0xnkj_0001.jpg      FaceSwap/African/m.0xnkj_0001.png
    African/real/m.0xnkj_0001.jpg              African/FaceSwap/m.0xnkj_0001.png

The set is for test only. Names are compared without regard to case, dashes and underscores. The group, which must not
be split, is the identity: the part of the file's name before the last underscore and its number, as in RFW; what is
named otherwise is a group of its own.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mien.data.folders import Record
from mien.data.listing import list_images
from mien.errors import BadInput
from mien.forensics.readers.frame_folders import no_data, root_folder

RACES = ("African", "Asian", "Caucasian", "Indian")
APPROACHES = (
    "FaceSwap",
    "SimSwap",
    "FastReen",
    "Dual_Generator_Face_Reen",
    "MaskGAN",
    "StarGAN",
    "StyleGAN",
    "SDSwap",
    "DCFace",
    "Face2Diffusion",
    "FSRT",
)
_REAL = ("real", "rfw", "data")


def fairfd(folder: str | os.PathLike[str], split: str = "test", *, partial: bool = False) -> list[Record]:
    """The images of FairFD, label 0 real and 1 forged, kind the approach, attribute "race".

    Args:
        folder: Holds a folder for each approach (or each race).
        split: "test": the set has no other.
        partial: Accept that approaches are missing for some races or altogether. Some real images must be there.

    Raises:
        BadInput: What is missing, where to get it and how it must lie; another split.
    """
    if split != "test":
        raise BadInput(f"FairFD: split {split!r} does not exist; the set is for test only, detectors come trained")
    root = root_folder(folder, "FairFD")
    records: list[Record] = []
    found = set()
    for (kind, race), place in sorted(cells(root).items()):
        images = list_images(place)
        label = int(kind != "real")
        records += [_record(path, label, kind, race) for path in images]
        found |= {(kind, race)} if images else set()
    missing = [f"{kind}/{race}" for kind in ("real", *APPROACHES) for race in RACES if (kind, race) not in found]
    if not any(kind == "real" for kind, _ in found):
        raise no_data("FairFD", f"no real images in {root}")
    if missing and not partial:
        empty = f"{len(missing)} of {4 * (1 + len(APPROACHES))} cells are empty (first: {missing[0]})"
        raise no_data("FairFD", f"{empty}, which partial=True accepts")
    return records


def cells(root: Path) -> dict[tuple[str, str], Path]:
    """Folder of each kind and race, in either order of nesting."""
    kinds = {_plain(name): name for name in APPROACHES} | dict.fromkeys(_REAL, "real")
    races = {_plain(name): name for name in RACES}
    found: dict[tuple[str, str], Path] = {}
    for outer in sorted(path for path in root.iterdir() if path.is_dir()):
        for inner in sorted(path for path in outer.iterdir() if path.is_dir()):
            a, b = _plain(outer.name), _plain(inner.name)
            if a in kinds and b in races:
                found[kinds[a], races[b]] = inner
            elif a in races and b in kinds:
                found[kinds[b], races[a]] = inner
    return found


def looks_like_fairfd(root: Path) -> bool:
    """Whether a folder has cells of real images of two races or more."""
    return sum(kind == "real" for kind, _ in cells(root)) > 1


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


def _record(path: Path, label: int, kind: str, race: str) -> Record:
    match = re.fullmatch(r"(.+)_\d+", path.stem)
    identity = match.group(1) if match else f"{kind}/{path.stem}"
    return Record(path, label, f"fairfd/{race}/{identity}", kind, attributes=(("race", race),))
