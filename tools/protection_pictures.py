# SPDX-License-Identifier: Apache-2.0
"""What the protection network that comes with mien is trained on: generated faces, and photographs of two libraries.

The photographs are those that scikit-image and scikit-learn bring with them; they are read where they are installed.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.data.folders import fingerprints
from mien.data.images import load_tensor, resize_tensor
from mien.engine import Phase, TrainingData
from mien.errors import MissingExtra
from mien.privacy.data import People, Portrait, Portraits
from mien.privacy.opening import generated_people

PEOPLE, FACES = (*range(16), *range(24, 72)), 12
"""Generated people, those that `mien evaluate pro-face-s --data embedded` tests on (16 to 23) left out, and faces."""
SIZE, LEAST = 64, 48
"""Side of a training picture, and of the smallest square that one is made of, in pixels."""
TRAINED = (
    *("skimage/chelsea.png", "skimage/coffee.png", "skimage/rocket.jpg", "skimage/hubble_deep_field.jpg"),
    *("skimage/motorcycle_left.png", "skimage/camera.png", "skimage/brick.png", "skimage/grass.png"),
    *("skimage/gravel.png", "sklearn/china.jpg"),
)
HELD_OUT = ("skimage/astronaut.png", "sklearn/flower.jpg")
FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}


def photographs(names: tuple[str, ...]) -> list[Path]:
    """Files of photographs by library and name. Raises MissingExtra without scikit-image."""
    found = []
    for library, _, name in (text.partition("/") for text in names):
        spec = find_spec(library)
        if spec is None or spec.origin is None:
            raise MissingExtra(f"the photograph {name}", "dev")
        found.append(Path(spec.origin).parent / FOLDERS[library] / name)
    return found


def tiles(files: list[Path], size: int) -> Portraits:
    """Photographs cut into squares of twice the size that they are shown at, for a test."""
    squares: list[Tensor] = []
    for file in files:
        rows = load_tensor(file).unfold(1, 2 * size, 2 * size).unfold(2, 2 * size, 2 * size)
        squares += rows.permute(1, 2, 0, 3, 4).reshape(-1, 3, 2 * size, 2 * size).unbind()
    names = tuple(f"square-{i:03d}" for i in range(len(squares)))
    images = (torch.stack(squares) * 255).round().to(torch.uint8)
    return Portraits(People(images, names, names, False, "squares of photographs"), size)


class Pictures(TrainingData, Dataset[Portrait]):
    """Squares of faces and of photographs, half each: of any place and size, mirrored or not, new in every epoch."""

    seeded = True

    def __init__(self) -> None:
        self._faces = generated_people(PEOPLE, FACES, "")
        self._files = photographs(TRAINED)
        self._photographs = [load_tensor(file) for file in self._files]

    def __len__(self) -> int:
        return 2 * len(self._faces)

    def __getitem__(self, index: int) -> Portrait:
        number, photograph = divmod(index, 2)
        if photograph:
            image = self._photographs[number % len(self._photographs)]
        else:
            image = torch.as_tensor(self._faces.images[number]).float() / 255
        most = min(image.shape[-2:])
        share, down, right, flip = torch.rand(4).tolist()
        side = round(LEAST * math.exp(share * math.log(most / LEAST)))
        top, left = int(down * (image.shape[1] - side + 1)), int(right * (image.shape[2] - side + 1))
        square = resize_tensor(image[:, top : top + side, left : left + side], SIZE)
        return Portrait(square.flip(-1) if flip < 0.5 else square)

    def train(self, phase: Phase) -> Dataset[Portrait]:
        """These."""
        return self

    def manifest(self) -> dict[str, Any]:
        """The generated people, hashes of all pictures, and what they are."""
        found = self._faces.manifest()
        photos = ", ".join(Path(name).stem for name in TRAINED)
        about = (
            f"{len(self._faces)} generated faces of {len(PEOPLE)} people, and photographs that scikit-image and "
            f"scikit-learn bring ({photos})"
        )
        return {**found, "files": sorted({*found["files"], *fingerprints(self._files)}), "description": about}
