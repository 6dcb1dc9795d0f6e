# SPDX-License-Identifier: Apache-2.0
"""Folders of pictures: plain ones, pairs, DIV2K and RealSR as their owners publish them, and pictures that ship with
scikit-learn. Each reader gives pictures of one part, "train" or "test"; plain folders have no parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mien.data.images import open_image
from mien.data.listing import list_images
from mien.data.people import render_faces, sample_people
from mien.errors import BadInput, unknown_name
from mien.restoration.data import Picture

EMBEDDED = "embedded"
Part = Literal["train", "test"]
EMBEDDED_PEOPLE = {"train": range(24), "test": range(24, 32)}
_PHOTO = {"train": "china.jpg", "test": "flower.jpg"}
DOWNLOAD = {
    "div2k": "unpack DIV2K_train_HR.zip and DIV2K_valid_HR.zip into this folder; small pictures, if any, as "
    "DIV2K_train_LR_bicubic/X4/0001x4.png",
    "realsr": "unpack RealSR into this folder, so that Canon/Train/4/ and Canon/Test/4/ hold NAME_HR.png "
    "beside NAME_LR4.png, and Nikon/ likewise",
    "pairs": "give large and small pictures of the same name in hr/ and lr/",
}
"""Kind -> what to download and how it must lie."""
_REALSR = re.compile(r"(?P<name>.+)_(?P<kind>HR|LR(?P<scale>[234]))$")


def plain_folder(folder: Path, part: Part, scale: int) -> list[Picture]:
    """All images in a folder and below it, as they should come out."""
    return [Picture(path) for path in list_images(folder)]


def pair_folders(folder: Path, part: Part, scale: int) -> list[Picture]:
    """FOLDER/hr/NAME.* and FOLDER/lr/NAME.*, the latter `scale` times smaller."""
    return _paired(folder / "hr", folder / "lr", "pairs", lambda path: path.stem)


def div2k(folder: Path, part: Part, scale: int) -> list[Picture]:
    """DIV2K_train_HR, DIV2K_valid_HR/NNNN.png; where DIV2K_*_LR_bicubic/X4/NNNNx4.png lies beside, its partners."""
    split = "train" if part == "train" else "valid"
    whole = _existing(folder / f"DIV2K_{split}_HR", "div2k")
    small = folder / f"DIV2K_{split}_LR_bicubic" / f"X{scale}"
    if not small.is_dir():
        return [Picture(path) for path in list_images(whole)]
    return _paired(whole, small, "div2k", lambda path: path.stem.removesuffix(f"x{scale}"))


def realsr(folder: Path, part: Part, scale: int) -> list[Picture]:
    """RealSR: Canon and Nikon, Train and Test, 2 to 4: NAME_HR.png beside NAME_LR4.png.

    Version 3 publishes the camera's picture enlarged to the size of the other one: there, as the first pair shows, it
    is shrunk by `scale` again.
    """
    found: dict[tuple[Path, str], dict[str, Path]] = {}
    for camera in ("Canon", "Nikon"):
        for path in list_images(_existing(folder / camera / part.capitalize() / str(scale), "realsr")):
            match = _REALSR.match(path.stem)
            if match is not None and match["scale"] in (None, str(scale)):
                found.setdefault((path.parent, match["name"]), {})["HR" if match["scale"] is None else "LR"] = path
    lonely = [f"{where / name}" for (where, name), both in found.items() if len(both) < 2]
    if lonely:
        raise BadInput(f"{lonely[0]}: only one of _HR and _LR{scale} is there ({len(lonely)} such)")
    pairs = [(both["HR"], both["LR"]) for _, both in sorted(found.items())]
    enlarged = len({open_image(path).size for path in pairs[0]}) == 1 if pairs else False
    return [Picture(whole, small, enlarged) for whole, small in pairs]


READERS: dict[str, Callable[[Path, Part, int], list[Picture]]] = {
    "div2k": div2k,
    "realsr": realsr,
    "pairs": pair_folders,
    "folder": plain_folder,
}
_SIGNS = {"div2k": ("DIV2K_train_HR", "DIV2K_valid_HR"), "realsr": ("Canon", "Nikon"), "pairs": ("hr",)}
HAS_PARTS = frozenset({"div2k", "realsr"})


def layout_of(folder: Path) -> str:
    """The layout of a folder, recognised by the names in it."""
    if not folder.is_dir():
        raise BadInput(f"{folder} does not exist: give a folder of pictures, or {EMBEDDED!r} for ones that ship")
    for name, signs in _SIGNS.items():
        if any((folder / sign).is_dir() for sign in signs):
            return name
    return "folder"


def read(source: str, part: Part, kind: str, scale: int) -> list[Picture]:
    """The pictures of a folder.

    Raises:
        BadInput: Unknown layout, a part that is not there, a picture without its partner, no pictures.
    """
    folder = Path(source)
    name = layout_of(folder) if kind == "auto" else kind
    if name not in READERS:
        raise unknown_name("kind of data", name, READERS)
    pictures = READERS[name](folder, part, scale)
    if not pictures:
        raise BadInput(f"{folder}: no images in this folder (JPEG, PNG, WebP, BMP or TIFF files)")
    return pictures


def embedded(part: Part) -> list[Tensor]:
    """A photograph that ships with scikit-learn, in tiles of 160 pixels, and generated faces: (3, H, W) in [0, 1]."""
    from sklearn.datasets import load_sample_image

    photo = torch.from_numpy(np.array(load_sample_image(_PHOTO[part]))).permute(2, 0, 1).float() / 255
    height, width = (n // 160 * 160 for n in photo.shape[-2:])
    tiles = photo[:, :height, :width].unfold(1, 160, 160).unfold(2, 160, 160).flatten(1, 2).transpose(0, 1)
    people = EMBEDDED_PEOPLE[part]
    factors = sample_people(people.stop, 0)
    faces, _ = render_faces(factors, np.asarray(people), 0, size=128, masks=False)
    return [*tiles, *torch.from_numpy(faces)]


def _existing(folder: Path, kind: str) -> Path:
    if not folder.is_dir():
        raise BadInput(f"{folder} is missing: {DOWNLOAD[kind]}")
    return folder


def _paired(whole: Path, small: Path, kind: str, name: Callable[[Path], str]) -> list[Picture]:
    partners = {name(path): path for path in list_images(_existing(small, kind))}
    pictures = [(path, partners.pop(path.stem, None)) for path in list_images(_existing(whole, kind))]
    missing = [path for path, partner in pictures if partner is None]
    if missing or partners:
        lonely = missing[0] if missing else next(iter(partners.values()))
        raise BadInput(f"{lonely} has no partner of the same name ({len(missing) + len(partners)} such)")
    return [Picture(path, partner) for path, partner in pictures]
