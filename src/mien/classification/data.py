# SPDX-License-Identifier: Apache-2.0
"""Labelled images: the batch type, data sets in memory and on disk, and readers for the layouts they come in.

embedded      the 1,797 handwritten digits that scikit-learn ships, 8 x 8 pixels; two thirds to train on
cifar         CIFAR-10 or CIFAR-100, the binary version as published (the Python version is pickled: refused)
arrays        an .npz file with train_x, train_y, test_x, test_y and, if it likes, classes
classes       a folder per class; or such folders inside train/ and test/ (val/, validation/)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2 as transforms
from torchvision.transforms.v2 import functional

from mien.data.folders import fingerprints
from mien.data.images import load_tensor, resize_tensor
from mien.data.listing import list_images
from mien.errors import BadInput, unknown_name

Part = Literal["train", "test"]
Augmentation = Literal["none", "shift", "shift_flip", "resized"]

EMBEDDED = "embedded"
LAYOUTS = ("auto", "cifar", "arrays", "classes")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Names of CIFAR-10's classes in the order of its labels."""
PARTS: dict[Part, tuple[str, ...]] = {"train": ("train", "training"), "test": ("test", "val", "validation")}
MAX_ARRAY_BYTES = 8 * 2**30


@dataclass
class Labelled:
    """An image and its class; a batch of them is the same type with stacked fields.

    Args:
        image: (3, H, W), in a batch (B, 3, H, W); float32 in [0, 1].
        label: Index of the class; -1 unknown.
        group: What must not be split between training and test; "" where every image stands for itself.
        path: The file or the image's place in its data set.
    """

    image: Tensor
    label: int | Tensor
    group: str | list[str] = ""
    path: str | list[str] = ""


@dataclass(frozen=True)
class ClassData:
    """One part of a data set as it lies on disk.

    Args:
        images: uint8 (N, 3, h, w), or the N files.
        label: (N,), indices into `classes`.
        classes: Names of the classes.
        names: What every image is called, (N,).
        description: One line that says which data these are.
    """

    images: Tensor | Sequence[Path]
    label: Tensor
    classes: tuple[str, ...]
    names: tuple[str, ...]
    description: str

    def __len__(self) -> int:
        return len(self.label)

    def hashes(self) -> list[str]:
        """SHA-256 of every image: of the file, or of the pixels."""
        if isinstance(self.images, Tensor):
            return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in self.images.contiguous()]
        return fingerprints(self.images)

    def subset(self, rows: Sequence[int]) -> ClassData:
        """Some of the images."""
        chosen = list(rows)
        images = self.images[chosen] if isinstance(self.images, Tensor) else [self.images[i] for i in chosen]
        names = tuple(self.names[i] for i in chosen)
        return ClassData(images, self.label[chosen], self.classes, names, self.description)

    def without(self, names: Sequence[str]) -> ClassData:
        """The images of all other classes. Raises BadInput for a name that is no class."""
        for name in names:
            if name not in self.classes:
                raise unknown_name("class", name, self.classes)
        dropped = torch.tensor([name in names for name in self.classes])
        kept = self.subset(torch.nonzero(~dropped[self.label])[:, 0].tolist())
        rest = tuple(name for name in self.classes if name not in names)
        table = (~dropped).cumsum(0) - 1
        return ClassData(kept.images, table[kept.label], rest, kept.names, kept.description)

    def relabelled(self, classes: Sequence[str]) -> ClassData:
        """The same images with labels into another list of classes. Raises BadInput for a class that is not in it."""
        for name in self.classes:
            if name not in classes:
                raise unknown_name("class", name, classes)
        table = torch.tensor([list(classes).index(name) for name in self.classes], dtype=torch.long)
        return ClassData(self.images, table[self.label], tuple(classes), self.names, self.description)


class LabelledImages(Dataset[Labelled]):
    """A `ClassData` as samples.

    Args:
        data: The images.
        size: Side of the square samples in pixels; other images are resized.
        augment: "none"; "shift" pads by an eighth and crops at random; "shift_flip" also mirrors; "resized" cuts out
            5 to 100 % of the image, resizes and mirrors. Drawn from torch's global generator.
        crop: As `middle_view`, for samples that are not "resized"; None resizes whole images to squares.
    """

    def __init__(self, data: ClassData, size: int, augment: Augmentation = "none", crop: float | None = None) -> None:
        self.data, self.size, self.augment, self.crop = data, size, augment, crop
        self.seeded = augment != "none"
        self.label, self.classes = data.label, data.classes
        self.groups = list(data.names)
        self._change = _augmentation(augment, size)

    def __len__(self) -> int:
        return len(self.data)

    def plain(self) -> LabelledImages:
        """The same samples without augmentation."""
        return LabelledImages(self.data, self.size, crop=self.crop)

    def __getitem__(self, index: int) -> Labelled:
        images = self.data.images
        whole = self.augment == "resized" or self.crop is not None  # what is cut out is cut out of the whole image
        if isinstance(images, Tensor):
            image = images[index].float() / 255
            image = image if whole else resize_tensor(image, self.size)
        else:
            image = load_tensor(images[index], None if whole else self.size)
        if self.crop is not None and self.augment != "resized":
            image = middle_view(image, self.size, self.crop)
        if self._change is not None:
            image = self._change(image)
        name = self.data.names[index]
        return Labelled(image, int(self.label[index]), name, name)


def middle_view(image: Tensor, size: int, crop: float) -> Tensor:
    """The middle square (3, size, size) of an image (3, h, w) whose shorter side was resized to size / crop.

    >>> middle_view(torch.rand(3, 30, 60), 28, 0.875).shape
    torch.Size([3, 28, 28])
    """
    resized = functional.resize(image, [round(size / crop)], antialias=True)
    return functional.center_crop(resized, [size, size])


def _augmentation(name: Augmentation, size: int) -> Any:
    if name == "none":
        return None
    flip = transforms.RandomHorizontalFlip()
    if name == "resized":
        return transforms.Compose([transforms.RandomResizedCrop(size, (0.05, 1.0), antialias=True), flip])
    shift = transforms.RandomCrop(size, padding=max(size // 8, 1))
    if name == "shift":
        return shift
    if name == "shift_flip":
        return transforms.Compose([shift, flip])
    raise BadInput(f"augment is {name!r}: use none, shift, shift_flip or resized")


# --- readers --------------------------------------------------------------------------------------------------
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
        raise BadInput(
            f"{path}: no CIFAR here: unpack cifar-10-binary.tar.gz (data_batch_1.bin to data_batch_5.bin, "
            "test_batch.bin) or cifar-100-binary.tar.gz (train.bin, test.bin) into it"
        )
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
    return tuple(listing.read_text(encoding="utf-8").split())


def _arrays(path: Path, part: Part) -> ClassData:
    file = path
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if len(files) != 1:
            raise BadInput(f"{path} holds {len(files)} .npz files: name one of them")
        file = files[0]
    if file.stat().st_size > MAX_ARRAY_BYTES:
        raise BadInput(f"{file}: more than {MAX_ARRAY_BYTES:,} bytes")
    try:
        with np.load(file, allow_pickle=False) as stored:
            prefix = next((name for name in (*PARTS[part], "") if f"{name}_x".lstrip("_") in stored), None)
            if prefix is None:
                raise BadInput(f"{file} has {', '.join(stored)}: it must hold train_x, train_y, test_x and test_y")
            x, y = (stored[f"{prefix}_{letter}".lstrip("_")] for letter in "xy")
            names = tuple(map(str, stored["classes"])) if "classes" in stored else ()
    except BadInput:
        raise
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise BadInput(f"{file} cannot be read as arrays ({' '.join(str(error).split())[:120]})") from error
    x = x[..., None].repeat(3, axis=-1) if x.ndim == 3 else x
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[-1] != 3 or y.shape != x.shape[:1] or not len(x):
        raise BadInput(
            f"{file}: images are {x.dtype} {x.shape} with labels {y.shape}: "
            "use uint8 (N, H, W, 3) or (N, H, W), and (N,)"
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
        raise BadInput(
            f"{root}: {len(found)} folders with images: give a folder per class, at least two (class/image.jpg), "
            "or such folders inside train/ and test/"
        )
    files = [image for _, images in found for image in images]
    label = torch.tensor([i for i, (_, images) in enumerate(found) for _ in images], dtype=torch.long)
    about = f"{len(found)} classes in {name or root.name}"
    return ClassData(files, label, tuple(name for name, _ in found), tuple(map(str, files)), about)
