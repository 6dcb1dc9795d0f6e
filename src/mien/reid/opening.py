# SPDX-License-Identifier: Apache-2.0
"""From a folder to training, validation and test crops of persons, with the manifest of what is seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mien.data.splits import split_by_group
from mien.engine import Fixed
from mien.errors import BadInput
from mien.reid.data import PersonData, PersonImages
from mien.reid.embedder import Embedder
from mien.reid.readers import read
from mien.room import DataOptions, TestData


class OpenedPersons(Fixed):
    """Training and validation crops with the manifest of what is seen: persons are the groups."""

    def __init__(self, data: PersonData, train: PersonImages, validation: PersonImages | None) -> None:
        super().__init__(train, validation)
        self._data = data

    def manifest(self) -> dict[str, Any]:
        """Persons, file hashes and the description."""
        return self._data.manifest()


def open_training(source: str, model: Embedder, options: DataOptions) -> OpenedPersons:
    """Training crops, and those of a share of the persons for validation. See `mien.room.Room.open_data`.

    Identities are used to keep persons whole and to measure, never to train an unsupervised method.
    """
    data = read(source, "train", options.kind)
    train, held = held_out(data, options.validation, options.seed)
    validation = None if held is None else PersonImages(held, model.image_size)
    return OpenedPersons(data, PersonImages(train, model.image_size, model.augment), validation)


def open_test(source: str, model: Embedder, options: DataOptions) -> TestData:
    """Queries and gallery. See `mien.room.Room.open_test`."""
    data = read(source, "test", options.kind)
    return TestData(PersonImages(data, model.image_size), data.manifest())


def held_out(data: PersonData, share: float, seed: int) -> tuple[PersonData, PersonData | None]:
    """Training and validation crops of different persons; None where `share` is 0.

    Persons that more than one camera saw are held out in the same share as the others: only they can be searched for.

    Raises:
        BadInput: Nobody who could be searched for is held out, or fewer than two persons are left to train on.
    """
    if not share:
        return data, None
    searchable = [seen > 1 for seen in cameras_of(data)]
    train, held = split_by_group(data.people, (1 - share, share), seed=seed, labels=searchable)
    if not any(searchable[i] for i in held):
        raise BadInput(
            f"{data.description}: no person that two cameras saw can be held out for validation: use --validation 0"
        )
    return data.subset(train), _searched_among_themselves(data.subset(held))


def cameras_of(data: PersonData) -> list[int]:
    """How many cameras saw the person of each crop, (N,)."""
    pairs = set(zip(data.people, data.camera.tolist(), strict=True))
    count: dict[str, int] = {}
    for person, _ in pairs:
        count[person] = count.get(person, 0) + 1
    return [count[person] for person in data.people]


def _searched_among_themselves(data: PersonData) -> PersonData:
    """Training crops have no roles: held out, each is searched for among all others."""
    everything = np.ones(len(data), bool)
    return replace(data, query=everything, gallery=everything)


def crops_in(source: str, options: DataOptions) -> int:
    """Crops in the training part of `source`."""
    return len(read(source, "train", options.kind))
