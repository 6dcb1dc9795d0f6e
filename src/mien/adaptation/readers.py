# SPDX-License-Identifier: Apache-2.0
"""Readers for data sets of class-incremental learning, as their owners publish them.

cub           CUB_200_2011.tgz: images.txt, image_class_labels.txt, classes.txt, train_test_split.txt, images/
domainnet     a folder per domain (clipart, infograph, painting, quickdraw, real, sketch) with a folder per class, and
              DOMAIN_train.txt, DOMAIN_test.txt ("clipart/bee/clipart_025_000001.jpg 24"); all domains that have lists
imagenet-r    imagenet-r.tar: a folder per WordNet id; it has no test part, see `without_test_part`
imagenet-a    imagenet-a.tar: likewise

Everything else (CIFAR-100, arrays, a folder per class, embedded digits) is read by `mien.classification.data`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mien.classification.data import EMBEDDED, ClassData, Part, image_folders
from mien.classification.data import read as read_classes
from mien.data.splits import split_by_group
from mien.errors import BadInput

DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
DOWNLOAD = {
    "cub": "download CUB_200_2011.tgz and unpack it into this folder "
    "(CUB_200_2011/images.txt, image_class_labels.txt, classes.txt, train_test_split.txt, images/)",
    "domainnet": "download a domain (clipart.zip) and its lists (clipart_train.txt, clipart_test.txt), so that "
    "clipart/bee/x.jpg and the lists lie in this folder",
    **{
        name: f"download {name}.tar and unpack it into this folder ({name}/n01443537/..., a folder per WordNet id)"
        for name in ("imagenet-r", "imagenet-a")
    },
}
"""Kind -> what to download and how it must lie."""


def read(source: str, part: Part, kind: str = "auto") -> ClassData:
    """One part of the data in `source`; the layouts above and those of `mien.classification.data.read`.

    Raises:
        BadInput: The data are missing or not as they must be; says what to download and how it must lie.
    """
    layout = recognise(source) if kind == "auto" and source != EMBEDDED else kind
    reader = READERS.get(layout)
    return read_classes(source, part, layout) if reader is None else reader(Path(source), part)


def recognise(source: str) -> str:
    """The layout of `source` if it is one of this file's, else "auto"."""
    path = Path(source)
    if _cub_folder(path) is not None:
        return "cub"
    if any((path / f"{domain}_train.txt").is_file() for domain in DOMAINS):
        return "domainnet"
    return next((name for name in ("imagenet-r", "imagenet-a") if _wordnet_folder(path, name) is not None), "auto")


# --- CUB ------------------------------------------------------------------------------------------------------
def _cub_folder(path: Path) -> Path | None:
    return next((f for f in (path, path / "CUB_200_2011") if (f / "images.txt").is_file()), None)


def _cub(path: Path, part: Part) -> ClassData:
    folder = _cub_folder(path)
    if folder is None:
        raise BadInput(f"{path}: no CUB-200-2011 here: {DOWNLOAD['cub']}")
    classes = dict(_pairs(folder / "classes.txt"))
    files, label, training = (
        dict(_pairs(folder / f"{name}.txt")) for name in ("images", "image_class_labels", "train_test_split")
    )
    if not files.keys() == label.keys() == training.keys() or not set(label.values()) <= classes.keys():
        raise BadInput(
            f"{folder}: images.txt, image_class_labels.txt, train_test_split.txt and classes.txt disagree: a damaged "
            "copy, unpack CUB_200_2011.tgz again"
        )
    index = {number: i for i, number in enumerate(classes)}
    wanted = "1" if part == "train" else "0"
    chosen = [number for number in files if training[number] == wanted]
    paths = [folder / "images" / files[number] for number in chosen]
    return _files(paths, [index[label[n]] for n in chosen], list(classes.values()), f"CUB-200-2011, {part} part")


def _pairs(file: Path) -> list[tuple[str, str]]:
    """The lines "KEY VALUE" of a list."""
    if not file.is_file():
        raise BadInput(f"{file} is missing: it belongs to the published data set")
    pairs = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        key, _, value = line.strip().partition(" ")
        if key and not value:
            raise BadInput(f"{file}, line {number}: {line!r} is no pair of two words")
        if key:
            pairs.append((key, value.strip()))
    return pairs


# --- DomainNet ------------------------------------------------------------------------------------------------
def _domainnet(path: Path, part: Part) -> ClassData:
    lists = [path / f"{domain}_{part}.txt" for domain in DOMAINS]
    lists = [file for file in lists if file.is_file()]
    if not lists:
        raise BadInput(f"{path}: no DomainNet here: {DOWNLOAD['domainnet']}")
    names: dict[int, str] = {}
    paths, label = [], []
    for file in lists:
        for name, number in _pairs(file):
            parts = Path(name).parts
            if len(parts) != 3 or not number.isdigit() or names.setdefault(int(number), parts[1]) != parts[1]:
                raise BadInput(f"{file}: {name!r} with label {number!r} does not fit DOMAIN/CLASS/FILE and its class")
            paths.append(path / name)
            label.append(int(number))
    order = sorted(names)
    about = f"DomainNet ({', '.join(file.stem.rpartition('_')[0] for file in lists)}), {part} part"
    return _files(paths, [order.index(number) for number in label], [names[number] for number in order], about)


# --- ImageNet-R, ImageNet-A -----------------------------------------------------------------------------------
def _wordnet_folder(path: Path, name: str) -> Path | None:
    candidates = [path / name] + ([path] if path.resolve().name == name else [])
    return next((f for f in candidates if f.is_dir() and any(map(_is_wordnet, f.iterdir()))), None)


def _is_wordnet(path: Path) -> bool:
    return path.is_dir() and re.fullmatch(r"n\d{8}", path.name) is not None


def _wordnet(name: str) -> Callable[[Path, Part], ClassData]:
    def reader(path: Path, part: Part) -> ClassData:
        folder = _wordnet_folder(path, name)
        if folder is None:
            raise BadInput(f"{path}: no {name} here: {DOWNLOAD[name]}")
        return without_test_part(image_folders(folder), part, folder)

    return reader


def without_test_part(data: ClassData, part: Part, root: Path) -> ClassData:
    """Four fifths of each class to train on, the rest to test on.

    The owners publish no split and the lists of earlier papers are not part of the data, so the images are ordered by a
    hash of their names: the same on every machine, wherever the folder lies.
    """
    names = [str(Path(name).relative_to(root)) for name in data.names]
    train, test = split_by_group(names, (0.8, 0.2), seed=0, labels=data.label.tolist())
    chosen = data.subset(train if part == "train" else test)
    return ClassData(chosen.images, chosen.label, chosen.classes, chosen.names, f"{root.name}, {part} part (80 : 20)")


def _files(paths: Sequence[Path], label: Sequence[int], classes: Sequence[str], about: str) -> ClassData:
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        raise BadInput(f"{missing} is missing, though a list of the data set names it: unpack the images again")
    if len(set(classes)) < len(classes) or not paths:
        raise BadInput(f"{about}: {len(paths)} images of {len(set(classes))} different classes: a damaged copy")
    return ClassData(paths, torch.tensor(label, dtype=torch.long), tuple(classes), tuple(map(str, paths)), about)


READERS: dict[str, Callable[[Path, Part], ClassData]] = {
    "cub": _cub,
    "domainnet": _domainnet,
    "imagenet-r": _wordnet("imagenet-r"),
    "imagenet-a": _wordnet("imagenet-a"),
}
