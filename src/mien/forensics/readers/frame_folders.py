# SPDX-License-Identifier: Apache-2.0
"""What the readers of public forgery sets share: finding folders of frames, and saying what is missing."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mien.data.folders import Record
from mien.data.listing import list_images, natural_key, printable
from mien.data.video import is_video_file
from mien.errors import BadInput, unknown_name

FRAME_FOLDERS = ("frames", "images", "faces", "crops")

HELP = {
    "FaceForensics++": "ask its authors (Roessler et al., TU Munich) through their request form, extract the frames to "
    "original_sequences/youtube/c23/frames/000/*.png and manipulated_sequences/Deepfakes/c23/frames/000_003/*.png, and "
    "lay train.json, val.json and test.json (its published splits) beside them",
    "DeepFakeDetection": "it comes with FaceForensics++ (ask Roessler et al., TU Munich); extract the frames to "
    "original_sequences/actors/c23/frames/NAME/*.png and manipulated_sequences/DeepFakeDetection/c23/frames/NAME/*.png",
    "Celeb-DF v2": "ask its authors (Li et al., University at Albany) through their request form, extract the frames "
    "to Celeb-real/frames/id0_0000/*.png, likewise YouTube-real and Celeb-synthesis, beside List_of_testing_videos.txt",
    "DFDC preview": "download it from Meta AI's page of the DFDC after accepting the terms, and extract the frames of "
    "each video that dataset.json lists to a folder of the video's name without .mp4, or to method_A/frames/NAME/*.png",
    "DeepfakeNIR": "ask its authors (Wang et al., Xidian University) for it and unpack every archive in place: videos "
    "as sub5/*.mp4 (a real subject) and sub3_5/*.mp4 (face 3 on subject 5), or their frames as sub3_5/CLIP/*.png",
    "ForgeryNIR": "ask its authors (Wang et al., Xidian University) for it and unpack one of its sets so that the "
    "folder holds 0_real/*.png and likewise cyclegan, progan, stylegan and stylegan2, or train, val, test with these",
    "WildDeepfake": "ask its authors (Zi et al., Fudan University) through their request form and unpack every archive "
    "in place: real_train/NUMBER/real/SEQUENCE/*.png, likewise fake_train, real_test and fake_test",
    "FairFD": "ask its authors (Liu et al.) for it and those of RFW for the real images, and lay it out as "
    "real/RACE/*.png and APPROACH/RACE/*.png, races African, Asian, Caucasian, Indian",
    "Seq-DeepFake": "ask its authors (Shao, Wu, Liu; project page of SeqDeepFake) and unpack it so that "
    "facial_components and facial_attributes each hold annotations/train.csv, val.csv and test.csv beside "
    "images/train/EDITS/*.jpg, with the unedited faces in images/train/original, likewise val and test",
}
"""Data set -> what to download and how it must lie."""


def no_data(name: str, what: str) -> BadInput:
    """The error for a set that is missing or incomplete: what, where to get it, and how it must lie."""
    return BadInput(f"{name}: {printable(what)}; {HELP[name]}")


def root_folder(folder: str | os.PathLike[str], name: str) -> Path:
    """The folder of a set, if it is there."""
    folder = Path(folder)
    if not folder.is_dir():
        raise no_data(name, f"no folder {folder}")
    return folder


def check_split(split: str, allowed: Sequence[str]) -> None:
    """Raise `BadInput` for a split that the set does not have."""
    if split not in allowed:
        raise unknown_name("split", split, allowed)


def child(folder: Path, name: str) -> Path:
    """`folder/name`, whatever the letters' case on disk (copies of the sets differ)."""
    if (folder / name).exists() or not folder.is_dir():
        return folder / name
    return next((entry for entry in sorted(folder.iterdir()) if entry.name.lower() == name.lower()), folder / name)


def videos_in(folder: Path, name: str, frames: str | None, *, files: bool = False) -> dict[str, Path]:
    """Folders of frames by video name: in the frame folder of `folder`, or in `folder` itself.

    With `files`, where there are no frames, the video files themselves.
    """
    if not folder.is_dir():
        raise no_data(name, f"no folder {folder}")
    present = [f for f in ([frames] if frames else FRAME_FOLDERS) if (folder / f).is_dir()]
    if len(present) > 1:
        raise BadInput(f"{name}: {printable(str(folder))} holds {' and '.join(present)}: say which with frames=")
    if frames and not present:
        raise no_data(name, f"no folder {folder / frames}")
    base = folder / present[0] if present else folder
    inside = sorted(base.iterdir(), key=natural_key)
    videos = {entry.name: entry for entry in inside if entry.is_dir() and not entry.name.startswith(".")}
    if not present:
        entries = [*inside, *(videos.pop("videos").iterdir() if "videos" in videos else [])]
        found = {entry.stem: entry for entry in sorted(entries, key=natural_key) if is_video_file(entry)}
        if not videos and found:
            if files:
                return found
            raise no_data(name, f"{folder} holds videos but no frames")
    if not videos:
        raise no_data(name, f"no folders of frames in {base}")
    return videos


def frame_records(folder: Path, label: int, group: str, kind: str, video: str) -> list[Record]:
    """The frames of one video in natural order; empty if the folder holds none. A video file is one record."""
    if folder.is_file():
        return [Record(folder, label, group, kind, 0, video)]
    return [Record(path, label, group, kind, i, video) for i, path in enumerate(list_images(folder))]


def complete(name: str, missing: Sequence[str], listed: int, records: Sequence[Record], partial: bool) -> list[Record]:
    """The records, after a check that nothing listed is silently absent."""
    if not records:
        raise no_data(name, f"no frames of the {listed} videos that were asked for")
    check_missing(name, missing, listed, partial, "videos have no frames", "extract them")
    return list(records)


def check_missing(name: str, missing: Sequence[str], listed: int, partial: bool, what: str, remedy: str) -> None:
    """Raise BadInput when something of what is listed is missing, unless part of it is enough."""
    if missing and not partial:
        raise BadInput(
            f"{name}: {len(missing)} of {listed} {what} (first: {printable(missing[0])}): "
            f"{remedy}, or allow it with partial=True"
        )


def read_json(path: Path, name: str) -> Any:
    """The content of a set's JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise no_data(name, f"no file {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{name}: {printable(str(path))} is not JSON ({printable(str(error))})") from error
