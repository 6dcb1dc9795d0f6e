# SPDX-License-Identifier: Apache-2.0
"""DeepfakeNIR (Wang et al., IEEE TCSVT 2023): near-infrared faces, real and swapped, clean and perturbed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mien.data.folders import Record
from mien.data.listing import list_images, natural_key
from mien.data.video import is_video_file
from mien.forensics.readers.frame_folders import check_split, frame_records, no_data, root_folder

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
        folder: Holds the folders of subjects at any depth, archives unpacked; clips are video files or folders of
            frames. Folders whose name says perturbed or distorted are the other half of the set.
        split: train, test, or all (then no forgery is left out).

    Raises:
        BadInput: What is missing, where to get it and how it must lie.
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
    for place in sorted(_folders(root, 6), key=natural_key):
        match = _SUBJECT.fullmatch(place.name)
        if match is None or _is_perturbed(place.relative_to(root)) != perturbed:
            continue
        donor, target = (int(match.group(1)), int(match.group(2))) if match.group(2) else (None, int(match.group(1)))
        if split != "all" and (_side(target) != split or (donor is not None and _side(donor) != split)):
            continue
        label, kind = (0, "real") if donor is None else (1, "DeepFaceLab")
        for clip in _clips(place):
            key = f"deepfake-nir/{clip.relative_to(root).as_posix()}"
            records += frame_records(clip, label, f"deepfake-nir/sub{target}", kind, key)
    if not records:
        half = "perturbed clips" if perturbed else "clips"
        raise no_data(NAME, f"no {half} of split {split} in {root}")
    return records


def _side(subject: int) -> str:
    group = (subject - 1) // SUBJECTS_PER_GROUP
    return "train" if group < TRAINING_GROUPS else "test"


def _is_perturbed(place: Path) -> bool:
    return any(word in part.lower() for part in place.parts for word in _PERTURBED)


def _clips(place: Path) -> list[Path]:
    """Video files, and folders of frames; frames that lie in the subject's folder itself are one clip."""
    inside = sorted((p for p in place.iterdir() if not p.name.startswith(".")), key=natural_key)
    found = [p for p in inside if is_video_file(p) or (p.is_dir() and not _SUBJECT.fullmatch(p.name))]
    return found if found or not list_images(place) else [place]


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    for entry in folder.iterdir() if depth else ():
        if entry.is_dir() and not entry.name.startswith("."):
            yield entry
            yield from _folders(entry, depth - 1)
