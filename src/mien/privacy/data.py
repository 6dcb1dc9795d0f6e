# SPDX-License-Identifier: Apache-2.0
"""What privacy methods see and answer: portraits in; obfuscated, protected and revealed pictures out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from mien.classification.data import middle_view
from mien.data.folders import fingerprints
from mien.data.images import load_tensor, resize_tensor


@dataclass
class Portrait:
    """A picture of somebody; a batch of them is the same type with stacked fields.

    Args:
        image: (3, H, W), in a batch (B, 3, H, W); float32 in [0, 1].
        group: Who it is; "" where the picture stands for itself.
        path: The file, or a name.
    """

    image: Tensor
    group: str | list[str] = ""
    path: str | list[str] = ""


@dataclass
class Protection:
    """The answer for a batch of B images; every field is (B, 3, H, W), nominally in [0, 1].

    Args:
        obfuscated: What everybody may see, y.
        protected: What is given away: looks like y and holds the original. Not clipped.
        revealed: What the right key gives back. Not clipped.
        wrong: What another key gives. Not clipped.
    """

    obfuscated: Tensor
    protected: Tensor
    revealed: Tensor
    wrong: Tensor


@dataclass(frozen=True)
class People:
    """Pictures as they lie on disk or in memory.

    Args:
        images: The N files, or uint8 (N, 3, h, w).
        people: Who is in each picture, (N,); names of the pictures where nobody is known.
        names: What every picture is called, (N,).
        known: Whether `people` are persons.
        description: One line that says which data these are.
    """

    images: Sequence[Path] | Tensor
    people: tuple[str, ...]
    names: tuple[str, ...]
    known: bool
    description: str

    def __len__(self) -> int:
        return len(self.people)

    def subset(self, rows: Sequence[int]) -> People:
        """Some of the pictures."""
        chosen = list(rows)
        images = self.images[chosen] if isinstance(self.images, Tensor) else [self.images[i] for i in chosen]
        people, names = (tuple(column[i] for i in chosen) for column in (self.people, self.names))
        return People(images, people, names, self.known, self.description)

    def manifest(self) -> dict[str, Any]:
        """Persons, hashes and the description, as `TrainingData.manifest`."""
        if isinstance(self.images, Tensor):
            files = [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in self.images.contiguous()]
        else:
            files = fingerprints(self.images)
        groups = sorted(set(self.people)) if self.known else []
        return {"groups": groups, "files": sorted(set(files)), "description": self.description}


class Portraits(Dataset[Portrait]):
    """`People` as samples.

    Args:
        data: The pictures.
        size: Side of the samples in pixels; the middle square of a picture is resized to it.
    """

    seeded = False

    def __init__(self, data: People, size: int) -> None:
        self.data, self.size = data, size
        self.groups = list(data.people)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Portrait:
        images = self.data.images
        if isinstance(images, Tensor):
            image = resize_tensor(images[index].float() / 255, self.size)
        else:
            image = middle_view(load_tensor(images[index]), self.size, 1.0)
        return Portrait(image, self.data.people[index], self.data.names[index])
