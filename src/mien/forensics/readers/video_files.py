# SPDX-License-Identifier: Apache-2.0
"""Video files of one's own: `CLASS/video.mp4` or `CLASS/GROUP/.../video.mp4`, one class being called real."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mien.data.folders import REAL_NAMES, Record, class_labels
from mien.data.listing import is_image_file, natural_key, printable
from mien.data.video import is_video_file
from mien.errors import BadInput


def video_files(folder: str | os.PathLike[str]) -> list[Record]:
    """Every video file is a record and a video. The group is the folder below the class, or without one its name.

    The class is no part of the group: real/12.mp4 and fake/12.mp4 are taken for the same person or scene.

    Returns:
        Records in natural order of their paths.

    Raises:
        BadInput: No such folder, no video files, or video files in no class folder.
    """
    folder = Path(folder)
    paths = sorted(_videos(folder), key=natural_key)
    if not paths:
        raise BadInput(f"{printable(str(folder))}: no video files in this folder")
    parts = [path.relative_to(folder).parts for path in paths]
    stray = next((path for path, part in zip(paths, parts, strict=True) if len(part) == 1), None)
    if stray is not None:
        raise BadInput(f"{printable(str(stray))}: lies in no class folder; expected {folder.name}/CLASS/video.mp4")
    labels = class_labels({part[0] for part in parts})
    return [
        Record(
            path,
            labels[part[0]],
            "/".join(part[1:-1]) or path.stem,
            "real" if part[0].lower() in REAL_NAMES else part[0],
            0,
            path.relative_to(folder).as_posix(),
        )
        for path, part in zip(paths, parts, strict=True)
    ]


def holds_videos(folder: Path) -> bool:
    """Whether the first image or video file that is found below `folder` is a video."""
    first = next((path for path in folder.rglob("*") if is_image_file(path) or is_video_file(path)), None)
    return first is not None and is_video_file(first)


def _videos(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise BadInput(f"{printable(str(folder))}: {'a file, not a folder' if folder.exists() else 'no such folder'}")
    return (path for path in folder.rglob("*") if is_video_file(path) and path.is_file())
