# SPDX-License-Identifier: Apache-2.0
"""ForgeryNIR as records; `mien.forensics.readers.sets` lists it with the others."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from mien.data.folders import Record
from mien.data.listing import list_images, natural_key, printable
from mien.errors import BadInput
from mien.forensics.readers.frame_folders import check_split, no_data, root_folder

NAME = "ForgeryNIR"
REAL = "0_real"
FORGED = ("cyclegan", "progan", "stylegan", "stylegan2")
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
"""As many of each class as the paper's 7,000, 1,000 and 2,000."""


def forgery_nir(folder: str | os.PathLike[str], split: str = "train") -> list[Record]:
    """ForgeryNIR (Wang et al., TIFS 2022): near-infrared faces, real or by one of four generators.

    One of its sets is read at a time: ForgeryNIR-std (as generated), -rand (one perturbation each), -mix (several), or
    the hard test set ForgeryNIR+. Sets that were unpacked into train, val and test are read so; otherwise images are
    split 7 : 1 : 2 by a hash of their group. The group is the subject, where the file is named as in CASIA NIR-VIS 2.0
    (s1_NIR_10039_001), or else the file's name, so that a face and what was made from it are never split.

    Args:
        folder: One set: holds 0_real, cyclegan, progan, stylegan and stylegan2, or train, val and test with these.
        split: train, val, test, or all. ForgeryNIR+ is for test only.

    Raises:
        BadInput: What is missing, where to get it and how it must lie; several sets in the folder.
    """
    check_split(split, (*SHARES, "all"))
    root = root_folder(folder, NAME)
    sets = [child for child in sorted(root.iterdir(), key=natural_key) if _is_set(child) and child.name not in SHARES]
    if sets:
        names = ", ".join(child.name for child in sets)
        raise BadInput(f"{NAME}: {printable(str(root))} holds {names}: name one of them, they are not to be mixed")
    parts = list(SHARES) if split == "all" else [split]
    if root.name.endswith("+"):
        if split not in ("test", "all"):
            raise BadInput(f"{NAME}+ is a test set: it has no split {split!r}")
        return _records(root)
    if any((root / part).is_dir() for part in SHARES):
        return [record for part in parts for record in _records(root / part)]
    return _records(root, lambda group: _part(group) in parts)


def looks_like_forgery_nir(folder: Path) -> bool:
    """Whether a folder is one of the sets, or holds one."""
    return folder.is_dir() and (_is_set(folder) or any(_is_set(child) for child in folder.iterdir()))


def _is_set(folder: Path) -> bool:
    return (folder / REAL).is_dir()


def _records(root: Path, wanted: Callable[[str], bool] = lambda group: True) -> list[Record]:
    records: list[Record] = []
    for kind in (REAL, *FORGED):
        if not (root / kind).is_dir():
            raise no_data(NAME, f"no folder {root / kind}")
        for path in list_images(root / kind):
            group = _group(path)
            if wanted(group):
                records.append(Record(path, int(kind != REAL), group, "real" if kind == REAL else kind))
    if not records:
        raise no_data(NAME, f"no images in {root}")
    return records


def _group(path: Path) -> str:
    subject = re.search(r"_NIR_(\d{5})_", path.stem, re.IGNORECASE)
    return f"forgerynir/{subject.group(1) if subject else path.stem}"


def _part(group: str) -> str:
    place = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8]) / 2**64
    return "train" if place < SHARES["train"] else "val" if place < 1 - SHARES["test"] else "test"
