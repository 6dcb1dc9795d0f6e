# SPDX-License-Identifier: Apache-2.0
"""Readers of labelled images, for the layouts they come in.

embedded      the 1,797 handwritten digits that scikit-learn ships, 8 x 8 pixels; two thirds to train on
cifar         CIFAR-10 or CIFAR-100, the binary version as published (the Python version is pickled: refused)
arrays        an .npz file with train_x, train_y, test_x, test_y and, if it likes, classes
classes       a folder per class; or such folders inside train/ and test/ (val/, validation/)

What they give is described in `mien.classification.samples`, whose names can be imported from here, too.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from mien.classification.samples import (
    Augmentation,
    ClassData,
    Labelled,
    LabelledImages,
    Part,
    middle_view,
    without_copies,
)
from mien.data.listing import list_images
from mien.errors import BadInput, unknown_name

__all__ = [
    "CIFAR10",
    "DOWNLOAD",
    "EMBEDDED",
    "LAYOUTS",
    "PARTS",
    "Augmentation",
    "ClassData",
    "Labelled",
    "LabelledImages",
    "Part",
    "class_names",
    "image_folders",
    "middle_view",
    "read",
    "without_copies",
]

EMBEDDED = "embedded"
LAYOUTS = ("auto", "cifar", "arrays", "classes")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Names of CIFAR-10's classes in the order of its labels."""
PARTS: dict[Part, tuple[str, ...]] = {"train": ("train", "training"), "test": ("test", "val", "validation")}
DOWNLOAD = {
    "cifar": "unpack cifar-10-binary.tar.gz (data_batch_1.bin to data_batch_5.bin, test_batch.bin) or "
    "cifar-100-binary.tar.gz (train.bin, test.bin) into this folder",
    "arrays": "save an .npz file with train_x, train_y, test_x and test_y",
    "classes": "give a folder per class, at least two (class/image.jpg), or such folders inside train/ and test/",
}
"""Kind -> what to download and how it must lie."""
MAX_ARRAY_BYTES = 8 * 2**30

# What zipfile and numpy raise on files that are no .npz, damaged, encrypted, or packed in a way that they do not know.
ARRAY_ERRORS = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read(source: str, part: Part, kind: str = "auto") -> ClassData:
    """One part of the data in `source`; data that lie in one piece are both parts.

    Args:
        source: A folder, an .npz file, or "embedded".
        part: "train" or "test".
        kind: One of `LAYOUTS`; "auto" looks.

    Raises:
        BadInput: The data are missing or not as they must be; says how they must lie.
    """
    if source == EMBEDDED:
        return _digits(part)
    path = Path(source)
    if not path.exists():
        raise BadInput(f"{path} does not exist: give a folder, an .npz file, or {EMBEDDED!r} for handwritten digits")
    if kind not in LAYOUTS:
        raise unknown_name("layout of labelled images", kind, LAYOUTS)
    layout = _layout(path) if kind == "auto" else kind
    return {"cifar": _cifar, "arrays": _arrays, "classes": _folders}[layout](path, part)


def class_names(source: str, kind: str = "auto") -> tuple[str, ...]:
    """Names of the classes of the data in `source`, in the order of their labels."""
    return read(source, "train", kind).classes


def _layout(path: Path) -> str:
    if path.is_file():
        if path.suffix != ".npz":
            raise BadInput(f"{path} is a file: give a folder with a folder per class, or an .npz file")
        return "arrays"
    if _cifar_folder(path) is not None:
        return "cifar"
    return "arrays" if list(path.glob("*.npz")) else "classes"


def _digits(part: Part) -> ClassData:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(pixels))
    rows = np.sort(order[: 2 * len(order) // 3] if part == "train" else order[2 * len(order) // 3 :])
    images = torch.from_numpy(pixels[rows])[:, None].repeat(1, 3, 1, 1)
    about = "handwritten digits of scikit-learn (" + ("training" if part == "train" else "held-out") + " part)"
    names = tuple(f"digit {i}" for i in rows)
    return ClassData(images, torch.from_numpy(digits.target[rows]).long(), tuple("0123456789"), names, about)


def _cifar_folder(path: Path) -> tuple[Path, bool] | None:
    """The folder of the binary files, and whether it is CIFAR-100; None if this is not CIFAR."""
    for folder in (path, path / "cifar-10-batches-bin", path / "cifar-100-binary"):
        if (folder / "data_batch_1.bin").is_file():
            return folder, False
        if (folder / "train.bin").is_file():
            return folder, True
    for folder in (path, path / "cifar-10-batches-py", path / "cifar-100-python"):
        if (folder / "data_batch_1").is_file() or ((folder / "train").is_file() and (folder / "meta").is_file()):
            raise BadInput(
                f"{folder} holds the Python version of CIFAR, which is pickled and could run code: "
                "download the binary version (cifar-10-binary.tar.gz or cifar-100-binary.tar.gz)"
            )
    return None


def _cifar(path: Path, part: Part) -> ClassData:
    found = _cifar_folder(path)
    if found is None:
        raise BadInput(f"{path}: no CIFAR here: {DOWNLOAD['cifar']}")
    folder, fine = found
    if fine:
        files, head = [folder / ("train.bin" if part == "train" else "test.bin")], 2
    else:
        training = [f"data_batch_{i}.bin" for i in range(1, 6)]
        files, head = [folder / name for name in (training if part == "train" else ["test_batch.bin"])], 1
    rows = []
    for file in files:
        if not file.is_file():
            raise BadInput(f"{folder}: no {file.name}: the binary version of CIFAR is not complete")
        raw = np.fromfile(file, dtype=np.uint8)
        if not len(raw) or len(raw) % (head + 3072):
            raise BadInput(f"{file}: {len(raw)} bytes are no whole number of images of {head + 3072} bytes")
        rows.append(raw.reshape(-1, head + 3072))
    table = np.concatenate(rows)
    classes = _cifar_names(folder, fine)
    label = torch.from_numpy(table[:, head - 1].astype(np.int64))
    if int(label.max()) >= len(classes):
        raise BadInput(f"{folder}: label {int(label.max())} is not one of the {len(classes)} classes: a damaged file")
    images = torch.from_numpy(np.ascontiguousarray(table[:, head:])).view(-1, 3, 32, 32)
    which = "CIFAR-100" if fine else "CIFAR-10"
    names = tuple(f"{which} {part} {i}" for i in range(len(images)))
    return ClassData(images, label, classes, names, f"{which}, {part} part")


def _cifar_names(folder: Path, fine: bool) -> tuple[str, ...]:
    listing = folder / ("fine_label_names.txt" if fine else "batches.meta.txt")
    if not listing.is_file():
        return tuple(f"class {i:02d}" for i in range(100)) if fine else CIFAR10
    return tuple(listing.read_text(encoding="utf-8", errors="replace").split())


def _arrays(path: Path, part: Part) -> ClassData:
    file = path
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if len(files) != 1:
            raise BadInput(f"{path} holds {len(files)} .npz files: name one of them")
        file = files[0]
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_ARRAY_BYTES:
                raise BadInput(f"{file} holds more than {MAX_ARRAY_BYTES:,} bytes: make it smaller, or use folders")
        with np.load(file, allow_pickle=False) as stored:
            prefix = next((name for name in (*PARTS[part], "") if f"{name}_x".lstrip("_") in stored), None)
            if prefix is None:
                raise BadInput(f"{file} has {', '.join(stored)}: it must hold train_x, train_y, test_x and test_y")
            x, y = (np.asarray(stored[f"{prefix}_{letter}".lstrip("_")]) for letter in "xy")
            names = tuple(map(str, stored["classes"])) if "classes" in stored else ()
    except BadInput:
        raise
    except ARRAY_ERRORS as error:
        raise BadInput(f"{file} cannot be read as arrays ({' '.join(str(error).split())[:120]})") from error
    x = x[..., None].repeat(3, axis=-1) if x.ndim == 3 else x
    shaped = x.dtype == np.uint8 and x.ndim == 4 and x.shape[-1] == 3 and y.shape == x.shape[:1]
    if not shaped or not x.size or y.dtype.kind not in "iu":
        raise BadInput(
            f"{file}: images are {x.dtype} {x.shape} with labels {y.dtype} {y.shape}: "
            "use uint8 (N, H, W, 3) or (N, H, W), and integers (N,)"
        )
    label = torch.from_numpy(y.astype(np.int64))
    classes = names or tuple(f"class {i}" for i in range(int(label.max()) + 1))
    if int(label.min()) < 0 or int(label.max()) >= len(classes):
        raise BadInput(f"{file}: labels run from {int(label.min())} to {int(label.max())} for {len(classes)} classes")
    images = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    kept = tuple(f"{file.stem} {prefix or 'all'} {i}" for i in range(len(images)))
    return ClassData(images, label, classes, kept, f"{file.name}, {prefix or 'all'} part")


def _folders(path: Path, part: Part) -> ClassData:
    if not path.is_dir():
        raise BadInput(f"{path} is a file: give a folder with a folder per class")
    inner = {child.name.lower(): child for child in path.iterdir() if child.is_dir()}
    split = any(name in inner for name in PARTS["train"]) and any(name in inner for name in PARTS["test"])
    root = next(inner[name] for name in PARTS[part] if name in inner) if split else path
    return image_folders(root, f"{path.name}, {part} part" if split else path.name)


def image_folders(root: Path, name: str | None = None) -> ClassData:
    """A folder per class with images in it, at least two. `name` is what the description calls the data."""
    folders = sorted((child for child in root.iterdir() if child.is_dir()), key=lambda child: child.name)
    found = [(folder.name, list_images(folder)) for folder in folders if not folder.name.startswith(".")]
    found = [(name, images) for name, images in found if images]
    if len(found) < 2:
        raise BadInput(f"{root}: {len(found)} folders with images: {DOWNLOAD['classes']}")
    files = [image for _, images in found for image in images]
    label = torch.tensor([i for i, (_, images) in enumerate(found) for _ in images], dtype=torch.long)
    about = f"{len(found)} classes in {name or root.name}"
    return ClassData(files, label, tuple(name for name, _ in found), tuple(map(str, files)), about)
