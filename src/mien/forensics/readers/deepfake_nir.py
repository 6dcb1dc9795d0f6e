# SPDX-License-Identifier: Apache-2.0
"""DeepfakeNIR (Wang et al., IEEE TCSVT 2023): near-infrared faces, real and swapped, clean and perturbed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mien.data.folders import Record
from mien.data.listing import is_image_file, natural_key, printable
from mien.data.video import is_video_file
from mien.errors import BadInput
from mien.forensics.readers.frame_folders import check_split, no_data, root_folder

NAME = "DeepfakeNIR"
SUBJECTS_PER_GROUP, GROUPS, TRAINING_GROUPS = 10, 6, 4
_SUBJECT = re.compile(r"sub[-_ ]?(\d+)(?:[-_ ](\d+))?", re.IGNORECASE)
_PERTURBED = ("perturb", "distort")


def deepfake_nir(folder: str | os.PathLike[str], split: str = "train") -> list[Record]:
    """The clean clips. `sub3_5/clip.mp4` is face 3 on subject 5, `sub5/clip.mp4` subject 5 as filmed.

    Sixty subjects in six groups of ten (1 to 10, 11 to 20, ...); faces of one group replace those of the next. There
    is no published list of a split: train is targets of the first four groups, test those of the last two, and a
    forgery whose donor belongs to the other side is left out, so that no subject is seen on both. The group that is
    never split is the subject who is seen.

    Args:
        folder: Holds the folders of subjects at any depth, archives unpacked. Clips lie at any depth below them: video
            files, and the images of a folder. Folders whose name says perturbed or distorted are the other half of the
            set.
        split: train, test, or all (then no forgery is left out).

    Raises:
        BadInput: What is missing, where to get it and how it must lie; a folder of a subject that holds nothing.
    """
    return _records(folder, split, perturbed=False)


def deepfake_nir_perturbed(folder: str | os.PathLike[str], split: str = "train") -> list[Record]:
    """The perturbed twins of the clips: see `deepfake_nir`. They lie in folders called perturbed or distorted."""
    return _records(folder, split, perturbed=True)


def is_deepfake_nir(folder: Path) -> bool:
    """Whether folders named like sub3_5 and sub5 lie in `folder` or one or two levels below."""
    names = {m.group(2) is not None for p in _folders(folder, 3) if (m := _SUBJECT.fullmatch(p.name)) is not None}
    return names == {True, False}


def _records(folder: str | os.PathLike[str], split: str, *, perturbed: bool) -> list[Record]:
    check_split(split, ("train", "test", "all"))
    root = root_folder(folder, NAME)
    records: list[Record] = []
    for place in sorted(_folders(root), key=natural_key):
        inner = place.relative_to(root)
        match = next((m for part in reversed(inner.parts) if (m := _SUBJECT.fullmatch(part))), None)
        if match is None or _is_perturbed(inner) != perturbed:
            continue
        donor, target = (int(match.group(1)), int(match.group(2))) if match.group(2) else (None, int(match.group(1)))
        if split != "all" and (_side(target) != split or (donor is not None and _side(donor) != split)):
            continue
        label, kind = (0, "real") if donor is None else (1, "DeepFaceLab")
        for clip, files in _clips(place):
            key = f"deepfake-nir/{clip.relative_to(root).as_posix()}"
            group = f"deepfake-nir/sub{target}"
            records += [Record(path, label, group, kind, i, key) for i, path in enumerate(files)]
    if not records:
        half = "perturbed clips" if perturbed else "clips"
        raise no_data(NAME, f"no {half} of split {split} in {root}")
    return records


def _side(subject: int) -> str:
    group = (subject - 1) // SUBJECTS_PER_GROUP
    return "train" if group < TRAINING_GROUPS else "test"


def _is_perturbed(place: Path) -> bool:
    return any(word in part.lower() for part in place.parts for word in _PERTURBED)


def _clips(place: Path) -> list[tuple[Path, list[Path]]]:
    """The clips that lie in a folder itself, with their files: its images are one, every video file is one."""
    inside = sorted(place.iterdir(), key=natural_key)
    frames = [path for path in inside if is_image_file(path)]
    found = [(place, frames)] if frames else []
    found += [(path, [path]) for path in inside if is_video_file(path)]
    if not found and not any(_folders(place, 1)):
        raise BadInput(f"{NAME}: {printable(str(place))} holds neither images nor videos: fill it, or take it away")
    return found


def _folders(folder: Path, depth: int = -1) -> Iterator[Path]:
    """The folders below, hidden ones left out; to any depth, or so many levels. A link to a folder above ends it."""
    above = {folder.resolve(), *folder.resolve().parents} if depth else set()
    for entry in folder.iterdir() if depth else ():
        if entry.is_dir() and not entry.name.startswith(".") and entry.resolve() not in above:
            yield entry
            yield from _folders(entry, depth - 1)
