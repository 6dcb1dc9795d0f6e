# SPDX-License-Identifier: Apache-2.0
"""Labelled images: the batch type, a part of a data set, and its samples with or without augmentation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.data.folders import fingerprints
from mien.data.images import load_tensor, resize_tensor
from mien.errors import BadInput, unknown_name

Part = Literal["train", "test"]
Augmentation = Literal["none", "shift", "shift_flip", "resized"]


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


Data = TypeVar("Data", bound=ClassData)


def without_copies(data: Data, test: Callable[[], ClassData]) -> Data:
    """Training images that are not among the test images, pixel for pixel.

    Published sets hold copies of test images among the training images (FER2013 does), which `mien evaluate` refuses.
    Only for images in memory: files are left to the user, like data in one piece, whose two parts are the same. What
    was left out is said in the description.

    Args:
        data: Training images.
        test: Reads the test images; raises BadInput where there are none.
    """
    if not isinstance(data.images, Tensor):
        return data
    try:
        other = test()
    except BadInput:  # there is no test part
        return data
    seen = set() if other.names == data.names else set(other.hashes())
    rows = [i for i, found in enumerate(data.hashes()) if found not in seen]
    if len(rows) == len(data):
        return data
    about = f"{data.description} without {len(data) - len(rows)} copies of test images"
    return cast("Data", replace(data.subset(rows), description=about))


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
    height, width = image.shape[-2:]
    short = round(size / crop)
    shape = (short, short * width // height) if height <= width else (short * height // width, short)
    resized = resize_tensor(image, shape)
    top, left = (round((side - size) / 2) for side in shape)
    return resized[..., top : top + size, left : left + size]


def _augmentation(name: Augmentation, size: int) -> Any:
    if name == "none":
        return None
    from torchvision.transforms import v2 as transforms  # late: it takes a second to import

    flip = transforms.RandomHorizontalFlip()
    if name == "resized":
        return transforms.Compose([transforms.RandomResizedCrop(size, (0.05, 1.0), antialias=True), flip])
    shift = transforms.RandomCrop(size, padding=max(size // 8, 1))
    if name == "shift":
        return shift
    if name == "shift_flip":
        return transforms.Compose([shift, flip])
    raise BadInput(f"augment is {name!r}: use none, shift, shift_flip or resized")
