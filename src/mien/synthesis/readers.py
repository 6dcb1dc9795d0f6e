# SPDX-License-Identifier: Apache-2.0
"""Readers of paired pictures: from what a user or a data set's owners publish to pairs, input and target.

embedded      generated scenes of polygons: a noisy outline in, textures and colours out
folders       a folder for each side, files of the same name: sketch/7.png and photo/7.png. Also inside train/ and test/
              (or val/), with these inside them (sketch/train/), or as train_A, train_B, test_A, test_B (pix2pixHD)
side-by-side  one file for each pair, its halves "left" and "right", in a folder or in its train/ and test/ or val/, as
              pix2pix's data sets and the anime sketch colorization pairs come
sen12         SEN1-2: ROIs*/s1_N/*_s1_N_pM.png (radar) and ROIs*/s2_N/*_s2_N_pM.png (optical); a group is a scene N
arrays        .npz files with two arrays of images, uint8 (N, H, W, 3) or (N, H, W), and, if it likes, `name` (N,) that
              says whom each pair shows. Files that hold one of the two only are left out

A pair is one group, or all pairs of a folder below the side (sketch/ann/1.png) are.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mien.data.listing import list_images, natural_key, printable
from mien.errors import BadInput, unknown_name
from mien.synthesis.data import Pair
from mien.synthesis.polygons import SIDES as POLYGON_SIDES
from mien.synthesis.polygons import polygon_pairs

EMBEDDED = "embedded"
EMBEDDED_PAIRS = {"train": range(256), "test": range(1_000_000, 1_000_064)}
"""Numbers of the generated scenes to train on, and of others to test on."""

Part = Literal["train", "test"]
PARTS: dict[str, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val")}
DOWNLOAD = {
    "folders": "give a folder for each side, files of the same name in them (sketch/7.png and photo/7.png)",
    "side-by-side": "give files that hold both halves side by side, or a folder for each side",
    "sen12": "download SEN1-2, a season at least, and unpack it into this folder, so that "
    "s1_1/ROIs1158_spring_s1_1_p30.png (radar) and s2_1/ROIs1158_spring_s2_1_p30.png (optical) lie in ROIs1158_spring/",
    "arrays": "save an .npz file with two arrays of images",
}
"""Kind -> what to download and how it must lie."""
MAX_ARRAY_BYTES = 2 * 2**30

KNOWN_SIDES = (
    ("sketch", "photo"),
    ("sketch", "image"),
    ("sketch", "colour"),
    ("sketch", "color"),
    ("input", "target"),
    ("source", "target"),
    ("s1", "s2"),
    ("sar", "optical"),
    ("A", "B"),
    ("a", "b"),
    ("left", "right"),
)
"""Sides whose names say which is the input."""

_SEN12 = re.compile(r"(?P<roi>.+)_s[12]_(?P<scene>\d+)_p(?P<patch>\d+)$")


@dataclass(frozen=True)
class Found:
    """What a reader found.

    Args:
        pairs: In natural order.
        sides: Names of input and target.
        about: One line on the data.
    """

    pairs: list[Pair]
    sides: tuple[str, str]
    about: str


def read(source: str, part: Part, kind: str = "auto", sides: tuple[str | None, str | None] = (None, None)) -> Found:
    """The pairs of one part; where data lie in one piece, all of them for either part.

    Args:
        source: A folder, an .npz file, or "embedded".
        part: "train" or "test".
        kind: One of `READERS`; "auto" looks.
        sides: Names of input and target; None where the names of the data say which is which.

    Raises:
        BadInput: The data are missing, a pair lacks a half, or the names do not say what is translated into what.
    """
    if source == EMBEDDED:
        chosen = _chosen(POLYGON_SIDES, sides, "the generated scenes")
        pairs = polygon_pairs(EMBEDDED_PAIRS[part], backwards=chosen != POLYGON_SIDES)
        about = f"{len(pairs)} generated scenes of five polygons ({'training' if part == 'train' else 'unseen'} ones)"
        return Found(pairs, chosen, about)
    path = Path(source)
    if not path.exists():
        raise BadInput(f"{path} does not exist: give a folder, an .npz file, or {EMBEDDED!r} for generated scenes")
    layout = layout_of(path) if kind == "auto" else kind
    if layout not in READERS:
        raise unknown_name("kind of data", layout, ("auto", *READERS))
    if path.is_file() and layout != "arrays":
        raise BadInput(f"{path} is a file: give a folder of pairs, or an .npz file")
    found = READERS[layout](path, part, sides)
    if not found.pairs:
        raise BadInput(f"{path}: no pairs of images here, {part} part: {DOWNLOAD[layout]}")
    return found


def layout_of(path: Path) -> str:
    """Which layout a folder or file has."""
    if path.is_file() or any(path.glob("*.npz")):
        return "arrays"
    if any(path.glob("ROIs*/s1_*")) or any(path.glob("s1_*")):
        return "sen12"
    return "folders" if _side_folders(path) else "side-by-side"


def side_names(source: str, kind: str = "auto") -> tuple[str, str]:
    """Names of input and target of the data in `source`, as they say themselves."""
    return read(source, "train", kind).sides


# --- folders ------------------------------------------------------------------------------------------------------
def _subfolders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _side_folders(path: Path, part: Part | None = None) -> dict[str, Path]:
    """Sides -> the folder of one part of them (of "train", or else "test", when no part is named)."""
    if not path.is_dir():
        return {}
    parts = PARTS[part] if part is not None else (*PARTS["train"], *PARTS["test"])
    every = {*PARTS["train"], *PARTS["test"]}
    names = _subfolders(path)
    for prefix in parts:
        if (path / prefix).is_dir():
            inner = _subfolders(path / prefix)
            if len(inner) >= 2:
                return {name: path / prefix / name for name in inner}
        joined = {n.removeprefix(f"{prefix}_"): path / n for n in names if n.startswith(f"{prefix}_")}
        if len(joined) >= 2:
            return joined
        nested = {n: path / n / prefix for n in names if n not in every and (path / n / prefix).is_dir()}
        if len(nested) >= 2:
            return nested
    divided = any(n in every or n.split("_")[0] in every for n in names) or any(
        (path / n / p).is_dir() for n in names for p in every
    )
    return {} if divided or len(names) < 2 else {name: path / name for name in names}


def folders(path: Path, part: Part, sides: tuple[str | None, str | None]) -> Found:
    """A folder for each side."""
    there = _side_folders(path, part)
    if not there and _side_folders(path):
        wanted = " or ".join(PARTS[part])
        raise BadInput(f"{path} has no {part} part: put its pairs into folders named {wanted}")
    if not there:
        raise BadInput(f"{path}: no folders of two sides here: {DOWNLOAD['folders']}")
    chosen = _chosen(tuple(there), sides, str(path))
    files = [_by_stem(there[name]) for name in chosen]
    _complete(files[0], files[1], [there[name] for name in chosen])
    pairs = []
    for stem in sorted(files[0], key=natural_key):
        group = stem.split("/")[0]
        pairs.append(Pair(files[0][stem], files[1][stem], str(files[0][stem]), group))
    return Found(pairs, chosen, f"{len(pairs)} pairs in {path.name}, {chosen[0]} to {chosen[1]}")


def _by_stem(folder: Path) -> dict[str, Path]:
    """Path below the folder without its suffix -> file."""
    found: dict[str, Path] = {}
    for file in list_images(folder):
        stem = file.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise BadInput(f"{printable(str(file))} and {found[stem].name} have the same name but for the suffix")
        found[stem] = file
    return found


def _complete(first: dict[str, Path], second: dict[str, Path], folders: Sequence[Path]) -> None:
    lonely = sorted(set(first) ^ set(second), key=natural_key)
    if lonely:
        stem = lonely[0]
        file, other = (first[stem], folders[1]) if stem in first else (second[stem], folders[0])
        more = f" ({len(lonely)} files have none)" if len(lonely) > 1 else ""
        raise BadInput(f"{printable(str(file))} has no partner of the same name in {printable(str(other))}{more}")


def side_by_side(path: Path, part: Part, sides: tuple[str | None, str | None]) -> Found:
    """One file for each pair."""
    chosen = _chosen(("left", "right"), sides, f"{path} (files with both halves side by side)")
    every = {*PARTS["train"], *PARTS["test"]}
    where = next((path / name for name in PARTS[part] if (path / name).is_dir()), None)
    if where is None:
        if every & set(_subfolders(path)):
            raise BadInput(f"{path} has no {part} part: put its pairs into a folder named {' or '.join(PARTS[part])}")
        where = path
    pairs = []
    for file in list_images(where):
        stem = file.relative_to(where).with_suffix("").as_posix()
        pairs.append(Pair(file, None, str(file), stem.split("/")[0], input_left=chosen[0] == "left"))
    return Found(pairs, chosen, f"{len(pairs)} pairs side by side in {path.name}, {chosen[0]} to {chosen[1]}")


def sen12(path: Path, part: Part, sides: tuple[str | None, str | None]) -> Found:
    """SEN1-2, which its owners do not split: all of it for either part."""
    chosen = _chosen(("s1", "s2"), sides, str(path))
    both: dict[str, dict[str, Path]] = {"s1": {}, "s2": {}}
    groups: dict[str, str] = {}
    roots = sorted(path.glob("ROIs*")) or [path]
    for folder in (f for root in roots for f in sorted(root.glob("s[12]_*")) if f.is_dir()):
        for file in list_images(folder):
            match = _SEN12.match(file.stem)
            if match is None:
                raise BadInput(f"{printable(str(file))}: SEN1-2 calls its files ROIs1158_spring_s1_0_p30.png and so on")
            key = f"{match['roi']} {match['scene']} p{match['patch']}"
            both[folder.name[:2]][key] = file
            groups[key] = f"{match['roi']} scene {match['scene']}"
    first, second = both[chosen[0]], both[chosen[1]]
    _complete(first, second, [path, path])
    pairs = [Pair(first[key], second[key], str(first[key]), groups[key]) for key in sorted(first, key=natural_key)]
    return Found(pairs, chosen, f"{len(pairs)} pairs of {len(set(groups.values()))} scenes of SEN1-2, {path.name}")


# --- arrays -------------------------------------------------------------------------------------------------------
def arrays(path: Path, part: Part, sides: tuple[str | None, str | None]) -> Found:
    """Two arrays of images in a file; several files are laid end to end."""
    files = [path] if path.is_file() else sorted(path.glob("*.npz"))
    if path.is_file() and path.suffix != ".npz":
        raise BadInput(f"{path} is a file: give a folder of pairs, or an .npz file")
    held = [_images_in(file) for file in files]
    both = [(file, images, names) for file, (images, names) in zip(files, held, strict=True) if len(images) >= 2]
    if not both:
        seen = ", ".join(sorted({name for images, _ in held for name in images})) or "none"
        raise BadInput(f"{path}: a pair needs two arrays of images in one .npz file; found {seen}")
    chosen: tuple[str, str] | None = None
    pairs: list[Pair] = []
    for file, images, names in both:
        chosen = _chosen(tuple(sorted(images)), sides, str(file))
        one, other = images[chosen[0]], images[chosen[1]]
        if len(one) != len(other) or (names is not None and len(names) != len(one)):
            counts = f"{len(one)} of {chosen[0]}, {len(other)} of {chosen[1]}"
            counts += f", {len(names)} names" if names is not None else ""
            raise BadInput(f"{file}: {counts}: a pair lacks a half")
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            label = str(i) if names is None else names[i]
            pairs.append(Pair(a, b, f"{file.name} {i}" + (f" ({label})" if names is not None else ""), label))
    assert chosen is not None
    left = f"; {len(files) - len(both)} files with one side only are left out" if len(both) < len(files) else ""
    return Found(pairs, chosen, f"{len(pairs)} pairs in {path.name}, {chosen[0]} to {chosen[1]}{left}")


def _images_in(file: Path) -> tuple[dict[str, Tensor], list[str] | None]:
    """Arrays of images by name, uint8 (N, 3, H, W); and the array `name`."""
    if file.stat().st_size > MAX_ARRAY_BYTES:
        raise BadInput(f"{file}: more than {MAX_ARRAY_BYTES:,} bytes")
    images, names = {}, None
    try:
        with np.load(file, allow_pickle=False) as stored:
            for key in stored.files:
                array = stored[key]
                if key == "name":
                    names = [str(value) for value in array]
                elif array.dtype == np.uint8 and (array.ndim == 3 or (array.ndim == 4 and array.shape[-1] == 3)):
                    array = array[..., None].repeat(3, axis=-1) if array.ndim == 3 else array
                    images[key] = torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(f"{file} cannot be read as arrays ({' '.join(str(error).split())[:120]})") from error
    return images, names


def _chosen(there: Iterable[str], sides: tuple[str | None, str | None], where: str) -> tuple[str, str]:
    """Input and target among the sides that are there."""
    names = tuple(there)
    for name in sides:
        if name is not None and name not in names:
            raise BadInput(f"{where} has no side {name!r}: there are {', '.join(names) or 'none'}")
    first, second = sides
    if first is not None and second is not None:
        return first, second
    for a, b in (POLYGON_SIDES, *KNOWN_SIDES):
        if a in names and b in names and first in (None, a) and second in (None, b):
            return a, b
    rest = [name for name in names if name not in sides]
    if len(names) == 2 and (first is None) != (second is None):
        return (first, rest[0]) if first is not None else (rest[0], second)  # type: ignore[return-value]
    found = ", ".join(names) or "none"
    raise BadInput(
        f"{where}: which side is translated into which? Name them with --method.input and --method.target, two of "
        f"those that are there: {found}"
    )


READERS: dict[str, Callable[[Path, Part, tuple[str | None, str | None]], Found]] = {
    "folders": folders,
    "side-by-side": side_by_side,
    "sen12": sen12,
    "arrays": arrays,
}
