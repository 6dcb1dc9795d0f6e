# SPDX-License-Identifier: Apache-2.0
"""What forensics methods see and answer: face images with labels in, a score and evidence out.

Two data sets: images on disk that are labelled already (`FaceRecords`), and forgeries made from faces
(`ForgedFaces`). Both give `Faces`, know the group of every sample (the person or source video that must not be split)
and its unit (the video that gets one score).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.data.faces import crop as crop_face
from mien.data.folders import Record, fingerprints
from mien.data.forge_pairs import KINDS, PairedForgeries
from mien.data.images import load_tensor, resize_tensor
from mien.errors import BadInput


@dataclass
class Faces:
    """A face image with what is known about it; a batch of them is the same type with stacked fields.

    Args:
        image: (3, H, W), in a batch (B, 3, H, W); float32 in [0, 1].
        label: 0 real, 1 forged, -1 unknown.
        group: Person or source video; never in two splits.
        kind: "real" or the kind of forgery.
        path: The file; "" for a generated image.
        mask: (1, H, W) in [0, 1], where it was forged; None if nobody knows.
        unit: The video that gets one score together; "" for a single picture.
        attributes: What else is known about who is seen, name ("race") -> value, in a batch -> list of values.
    """

    image: Tensor
    label: int | Tensor
    group: str | list[str] = ""
    kind: str | list[str] = ""
    path: str | list[str] = ""
    mask: Tensor | None = None
    unit: str | list[str] = ""
    attributes: Mapping[str, str | list[str]] = field(default_factory=dict)


@dataclass
class Verdict:
    """The answer for a batch.

    Args:
        score: Probability of forged, (B,) in [0, 1].
        evidence: Where the score comes from, (B, 1, H, W) in [0, 1], or None.
        picture: What else is shown beside each input, (B, 3, H, W) in [0, 1], or None.
        columns: What else is said about each input: name of a column -> B plain values.
    """

    score: Tensor
    evidence: Tensor | None = None
    picture: Tensor | None = None
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)


class FaceRecords(Dataset[Faces]):
    """Labelled images on disk.

    Args:
        records: What to read.
        size: Side of the square images in pixels.
        crop: "none" takes images as they are; "auto" finds and aligns the face (extra `face`).
        flip: Mirror every second image at random; for training.
    """

    def __init__(self, records: Sequence[Record], size: int, *, crop: str = "none", flip: bool = False) -> None:
        self.records, self.size, self.crop, self.flip = list(records), size, crop, flip
        self.seeded = flip
        self.groups = [record.group for record in self.records]
        self.units = [record.video or str(record.path) for record in self.records]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Faces:
        record = self.records[index]
        image = load_face(record.path, self.size, self.crop)
        if image is None:
            raise BadInput(f"{record.path}: no face found: leave it out, or crop faces beforehand and use --crop none")
        if self.flip and torch.rand(()) < 0.5:
            image = image.flip(-1)
        label = -1 if record.label is None else record.label
        return Faces(
            image, label, record.group, record.kind, str(record.path), None, self.units[index], dict(record.attributes)
        )

    def manifest(self, description: str) -> dict[str, Any]:
        """Groups and file hashes, for the check that test data were not trained on."""
        files = fingerprints([record.path for record in self.records])
        return {"groups": sorted(set(self.groups)), "files": sorted(set(files)), "description": description}


def load_face(path: Any, size: int, crop: str) -> Tensor | None:
    """The face of an image file as (3, size, size) in [0, 1]; None where none is found with crop "auto"."""
    if crop == "none":
        return load_tensor(path, size)
    found = crop_face(load_tensor(path), crop, size=size)
    return None if found.image is None else resize_tensor(found.image, size)


class ForgedFrames(Dataset[Faces]):
    """Real faces and the forgeries made from them, in memory.

    A unit is what one person's faces of one kind make up, so that a "video" is real or forged as a whole.

    Args:
        faces: uint8 (N, 3, H, W).
        people: Whose face each is.
        size: Side of the samples. Where the faces are larger a window is cut out and nothing is resampled, since
            shrinking would blur the traces; where they are smaller they are enlarged.
        kinds: Kinds of forgery (`mien.data.forge_pairs.KINDS`).
        seed: Of the forgeries.
        training: Random windows and mirroring; otherwise the middle.
        frames: Faces per unit; a person's faces of a kind are dealt into units of at most so many.
        attributes: What is known about who is seen in each face, name -> value.
        donors: Name of the set from which each face's donors for a swap come; by default all faces are one set.
    """

    def __init__(
        self,
        faces: Tensor,
        people: Sequence[str],
        size: int,
        *,
        kinds: Sequence[str] = KINDS,
        seed: int = 0,
        training: bool = False,
        frames: int = 12,
        attributes: Sequence[Mapping[str, str]] = (),
        donors: Sequence[str] | None = None,
    ) -> None:
        pairs = PairedForgeries(faces, people, kinds=kinds, seed=seed, real_copies=1, splits=donors)
        made = pairs.arrays()
        assert isinstance(made.label, Tensor)
        assert isinstance(made.item, Tensor)
        self.image, self.mask, self.label = made.image, made.mask, made.label
        self.kinds, self.groups = list(made.kind), list(made.group)
        self.size, self.training, self.seeded = size, training, training
        self.units = units_of(self.groups, self.kinds, frames)
        self.attributes = [attributes[i] for i in made.item.tolist()] if len(attributes) else []

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> Faces:
        image, mask = self.image[index].float() / 255, self.mask[index].float() / 255
        height, width = image.shape[-2:]
        if min(height, width) > self.size:
            top, left = (height - self.size) // 2, (width - self.size) // 2
            if self.training:
                top = int(torch.randint(height - self.size + 1, ()))
                left = int(torch.randint(width - self.size + 1, ()))
            window = (..., slice(top, top + self.size), slice(left, left + self.size))
            image, mask = image[window], mask[window]
        elif (height, width) != (self.size, self.size):
            image, mask = resize_tensor(image, self.size), resize_tensor(mask.expand(3, -1, -1), self.size)[:1]
        if self.training and torch.rand(()) < 0.5:
            image, mask = image.flip(-1), mask.flip(-1)
        kind, group, unit = self.kinds[index], self.groups[index], self.units[index]
        known = self.attributes[index] if self.attributes else {}
        return Faces(image, int(self.label[index]), group, kind, "", mask, unit, known)


def units_of(groups: Sequence[str], kinds: Sequence[str], frames: int) -> list[str]:
    """Names of units: person, kind and a running number for every `frames` faces."""
    seen: dict[tuple[str, str], int] = {}
    names = []
    for key in zip(groups, kinds, strict=True):
        count = seen[key] = seen.get(key, -1) + 1
        names.append(f"{key[0]}/{key[1]}/{count // frames}")
    return names
