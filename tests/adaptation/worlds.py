# SPDX-License-Identifier: Apache-2.0
"""A small world of classes for the tests of this room, also for their child processes."""

from __future__ import annotations

import torch

from mien.adaptation.loda import LoDA
from mien.adaptation.tasks import open_tasks
from mien.classification.data import ClassData
from mien.nn.network import Network
from mien.optim.recipe import Recipe

SIZE = 16
NAMES = tuple("abcdefgh")


def images(count=6, seed=0, names=NAMES):
    """`count` noisy images of each class, which is told by its colours and its frame."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.rand(len(names), 3, 1, 1, generator=torch.Generator().manual_seed(77))
    label = torch.arange(len(names)).repeat_interleave(count)
    noise = torch.rand(len(label), 3, SIZE, SIZE, generator=generator)
    picture = 0.7 * colours[label] + 0.3 * noise
    for i, c in enumerate(label.tolist()):
        picture[i, :, c : c + 4] = 1 - colours[c]
    pixels = (255 * picture).to(torch.uint8)
    return ClassData(pixels, label, tuple(names), tuple(f"{seed}/{i}" for i in range(len(label))), "coloured noise")


def make(kind=LoDA, **changes):
    """A learner of two tasks of four classes on an untrained network."""
    torch.manual_seed(0)
    config = {
        "network": Network("tiny_vit"),
        "image_size": SIZE,
        "classes": NAMES,
        "tasks": 2,
        "augment": "shift_flip",
        "crop": None,
        "optimizer": Recipe(kind="sgd", lr=0.05, schedule="cosine"),
    }
    if kind.__name__ != "ContinualClassifier":
        config["rank"] = 3
    return kind(**{**config, **changes})


def data(method, validation=0.34):
    """The world cut into the method's tasks."""
    return open_tasks(
        images(), method.sizes, SIZE, augment=method.augment, crop=method.crop, validation=validation, seed=0
    )
