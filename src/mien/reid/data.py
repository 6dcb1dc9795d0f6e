# SPDX-License-Identifier: Apache-2.0
"""What re-identification methods see and answer: crops of persons in, embeddings out; and how crops are varied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import InterpolationMode, functional

from mien.answering import load_image
from mien.data.folders import fingerprints
from mien.data.images import open_image
from mien.errors import BadInput

IMAGENET_MEAN = (0.485, 0.456, 0.406)

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass
class Crops:
    """A person crop with what is known about it; a batch of them is the same type with stacked fields.

    Args:
        image: (3, H, W), in a batch (B, 3, H, W); float32 in [0, 1].
        identity: Number of the person in the data set, for measuring only: unsupervised methods never read it.
        camera: Number of the camera.
        index: Place in the data set.
        group: Name of the person; never in two splits.
        path: The file, or a name.
    """

    image: Tensor
    identity: int | Tensor = -1
    camera: int | Tensor = -1
    index: int | Tensor = -1
    group: str | list[str] = ""
    path: str | list[str] = ""


@dataclass
class Embedding:
    """The answer for a batch.

    Args:
        feature: L2-normalised, (B, D).
    """

    feature: Tensor


@dataclass(frozen=True)
class Augmentation:
    """How training crops are varied.

    Args:
        flip: Probability that a crop is mirrored.
        padding: Black pixels put around a crop before a window of its own size is cut out at random, >= 0.
        erasing: Probability that a rectangle is filled with the mean colour of ImageNet. It takes 2 to 40 % of the
            area, its height is 0.3 to 3.3 times its width (Zhong et al., Random Erasing Data Augmentation).

    Raises:
        BadInput: For a value outside its range.
    """

    flip: float = 0.5
    padding: int = 10
    erasing: float = 0.5

    def __post_init__(self) -> None:
        for name in ("flip", "erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"augment.{name} is {getattr(self, name)}: it must lie in [0, 1]")
        if self.padding < 0:
            raise BadInput(f"augment.padding is {self.padding}: it must be 0 or more")

    def __call__(self, image: Tensor) -> Tensor:
        """A varied crop of the same shape, (3, H, W); drawn from torch's global generator."""
        height, width = image.shape[-2:]
        flip, top, left, erase, area, ratio, y, x = torch.rand(8).tolist()
        if flip < self.flip:
            image = image.flip(-1)
        p = self.padding
        padded = image.new_zeros(3, height + 2 * p, width + 2 * p)
        padded[:, p : p + height, p : p + width] = image
        row, column = int(top * (2 * p + 1)), int(left * (2 * p + 1))
        image = padded[:, row : row + height, column : column + width]
        if erase < self.erasing:
            size, shape = (0.02 + 0.38 * area) * height * width, 0.3 * (3.3 / 0.3) ** ratio
            tall, wide = min(round((size * shape) ** 0.5), height), min(round((size / shape) ** 0.5), width)
            row, column = int(y * (height - tall + 1)), int(x * (width - wide + 1))
            image[:, row : row + tall, column : column + wide] = torch.tensor(IMAGENET_MEAN)[:, None, None]
        return image


@dataclass(frozen=True)
class PersonData:
    """One part of a data set as it lies on disk.

    Args:
        images: The N files, or uint8 (N, 3, h, w).
        people: Name of the person in each crop, (N,).
        camera: Number of the camera of each crop, (N,).
        query: Which crops are searched for, (N,).
        gallery: Which crops are searched, (N,).
        names: What every crop is called, (N,).
        description: One line that says which data these are.
    """

    images: Sequence[Path] | Tensor
    people: tuple[str, ...]
    camera: NDArray[np.int64]
    query: NDArray[np.bool_]
    gallery: NDArray[np.bool_]
    names: tuple[str, ...]
    description: str

    def __len__(self) -> int:
        return len(self.people)

    def subset(self, rows: Sequence[int]) -> PersonData:
        """Some of the crops."""
        chosen = list(rows)
        images = self.images[chosen] if isinstance(self.images, Tensor) else [self.images[i] for i in chosen]
        people, names = (tuple(column[i] for i in chosen) for column in (self.people, self.names))
        return PersonData(
            images, people, self.camera[chosen], self.query[chosen], self.gallery[chosen], names, self.description
        )

    def manifest(self) -> dict[str, Any]:
        """Persons, file hashes and the description, as `TrainingData.manifest`."""
        files = [] if isinstance(self.images, Tensor) else fingerprints(self.images)
        return {"groups": sorted(set(self.people)), "files": sorted(set(files)), "description": self.description}


class PersonImages(Dataset[Crops]):
    """A `PersonData` as samples.

    Args:
        data: The crops.
        size: Height and width of the samples.
        augment: How they are varied, or None.
    """

    def __init__(self, data: PersonData, size: Size, augment: Augmentation | None = None) -> None:
        self.data, self.size, self.augment = data, size, augment
        self.seeded = augment is not None
        self.groups = list(data.people)
        self.identity = np.unique(np.array(data.people), return_inverse=True)[1].astype(np.int64)
        self.camera, self.query, self.gallery = data.camera, data.query, data.gallery

    def __len__(self) -> int:
        return len(self.data)

    def plain(self) -> PersonImages:
        """The same crops without augmentation."""
        return PersonImages(self.data, self.size)

    def __getitem__(self, index: int) -> Crops:
        image = load_crop(self.data.images[index], self.size)
        if self.augment is not None:
            image = self.augment(image)
        identity, camera = int(self.identity[index]), int(self.camera[index])
        return Crops(image, identity, camera, index, self.data.people[index], self.data.names[index])


def load_crop(source: Any, size: Size) -> Tensor:
    """A crop stretched to `size` by bicubic interpolation, (3, H, W) in [0, 1].

    Args:
        source: A file, uint8 (3, h, w), or what `mien.answering.load_image` takes.
        size: Height and width in pixels.
    """
    if isinstance(source, (str, Path)):
        file = open_image(source, at_least=(2 * size[0], 2 * size[1]))
        image = _resized(torch.from_numpy(np.array(file)).permute(2, 0, 1), size).float() / 255
    elif isinstance(source, Tensor) and source.dtype == torch.uint8:
        image = _resized(source, size).float() / 255
    else:
        image = _resized(load_image(source), size).clamp(0, 1)  # the cubic overshoots
    return image


def _resized(image: Tensor, size: Size) -> Tensor:
    if image.shape[-2:] == size:
        return image
    return functional.resize(image, list(size), InterpolationMode.BICUBIC, antialias=True)
