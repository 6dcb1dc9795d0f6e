# SPDX-License-Identifier: Apache-2.0
"""Images with noisy labels. What is known of the truth lies beside the labels: training and validation never read it.

Noise is made once for the whole training part, before any of it is held out: validation has noisy labels like training.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.classification.data import ClassData, Labelled, LabelledImages
from mien.errors import BadInput, unknown_name
from mien.supervision.noise import Noise

CHUNK = 1024
"""Images that are in memory at a time while labels are made from pixels."""


@dataclass(frozen=True)
class Truth:
    """What is known of noisy labels.

    Args:
        label: True classes, (N,).
        rows: True transition rows (N, K), as in `mien.supervision.noise`; None where they are not known.
    """

    label: Tensor
    rows: Tensor | None


@dataclass(frozen=True)
class NoisyData(ClassData):
    """A `ClassData` whose labels may be wrong, with the truth where it is known."""

    truth: Truth | None = None

    def subset(self, rows: Sequence[int]) -> NoisyData:
        """Some of the images, with their truth."""
        chosen = list(rows)
        truth = self.truth
        if truth is not None:
            truth = Truth(truth.label[chosen], None if truth.rows is None else truth.rows[chosen])
        return NoisyData(**vars(super().subset(chosen)), truth=truth)


def truth_of(dataset: Dataset[Labelled]) -> Truth | None:
    """What is known of a data set's labels."""
    return getattr(getattr(dataset, "data", None), "truth", None)


def label_accuracy(label: Tensor, truth: Tensor) -> float:
    """Share of labels that are right; NaN for none."""
    return float((label == truth).double().mean())


def with_noise(data: ClassData, noise: Noise, size: int, source: str) -> NoisyData:
    """Training data with noisy labels.

    Args:
        data: Images and their labels: true ones, unless the noise is "none".
        noise: With its seed set.
        size: Side in pixels at which images are looked at.
        source: Where the data are: a noise file lies beside them.
    """
    if noise.kind == "none":
        return NoisyData(**vars(data))
    if noise.file is not None:
        label, rows = given_labels(Path(source), noise.file, data), None
        about = f"labels from {Path(noise.file).name}"
    else:
        label, rows = noise.make(data.label, data.classes, pixels(data, size))
        about = f"{noise.kind} label noise, rate {noise.rate:g}, seed {noise.seed}"
    right = label_accuracy(label, data.label)
    about = f"{data.description}, {about}: {right:.1%} of the labels are those of the data"
    return NoisyData(data.images, label, data.classes, data.names, about, Truth(data.label, rows))


def with_rows(data: ClassData, noise: Noise, size: int) -> NoisyData:
    """Test data with their true labels, and the rows that the noise would draw a noisy one from, where it is made."""
    rows = noise.make(data.label, data.classes, pixels(data, size))[1] if noise.synthetic else None
    return NoisyData(**vars(data), truth=Truth(data.label, rows))


def pixels(data: ClassData, size: int) -> Iterator[Tensor]:
    """Chunks (n, d) of pixel values in [0, 255] of the images at `size`; grey images count once, d = size^2."""
    grey = isinstance(data.images, Tensor) and torch.equal(data.images, data.images[:, :1].expand_as(data.images))
    images = LabelledImages(data, size)
    for start in range(0, len(data), CHUNK):
        rows = range(start, min(start + CHUNK, len(data)))
        chunk = torch.stack([images[i].image for i in rows])
        yield 255 * (chunk[:, :1] if grey else chunk).flatten(1)


def given_labels(source: Path, name: str, data: ClassData) -> Tensor:
    """Labels of a file, (N,).

    A .csv has a column `label` and, if it likes, a column `path`: the image's place below the data's folder. Without
    it, or in a .npz with one array (N,), the labels are in the order of the data. Labels are names or numbers of
    classes.

    Args:
        source: The data: a folder or an .npz file.
        name: The file: an absolute path, or beside the data.
        data: Whose labels they are.

    Raises:
        BadInput: The file is missing or broken, or labels are missing, too many, or of no class.
    """
    folder = source if source.is_dir() else source.parent
    file = folder / name
    if not file.is_file():
        raise BadInput(f"noise.file: {file} does not exist: put it beside the data, or give its absolute path")
    if file.suffix not in (".csv", ".npz"):
        raise BadInput(f"noise.file: {file} has the suffix {file.suffix!r}: use .csv or .npz")
    labels, paths = _csv(file) if file.suffix == ".csv" else (_npz(file), None)
    if paths is not None:
        table = {str(folder / path): label for path, label in zip(paths, labels, strict=True)}
        missing = [image for image in data.names if image not in table]
        if missing:
            raise BadInput(f"noise.file: {file} has no label for {len(missing)} images; the first is {missing[0]}")
        labels = [table[image] for image in data.names]
    if len(labels) != len(data):
        raise BadInput(f"noise.file: {file} has {len(labels)} labels for {len(data)} images")
    known = {name: i for i, name in enumerate(data.classes)}
    numbers = {str(i): i for i in range(len(known))} | known  # a class that is called 3 is meant by 3
    for label in labels:
        if label not in numbers:
            raise unknown_name(f"class in {file}:", label, known)
    return torch.tensor([numbers[label] for label in labels], dtype=torch.long)


def _csv(file: Path) -> tuple[list[str], list[str] | None]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            rows = list(csv.DictReader(text))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"noise.file: {file} is not a table ({error})") from error
    if not rows or any(row.get("label") is None for row in rows):
        raise BadInput(f"noise.file: {file} must have a column 'label' (and 'path', if it likes) in every row")
    return [row["label"] for row in rows], [row["path"] for row in rows] if "path" in rows[0] else None


def _npz(file: Path) -> list[str]:
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored}
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(f"noise.file: {file} cannot be read as arrays ({' '.join(str(error).split())[:120]})") from error
    found = list(arrays.values())
    if len(found) != 1 or found[0].ndim != 1 or found[0].dtype.kind not in "iuU":
        shapes = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
        raise BadInput(f"noise.file: {file} holds {shapes}: it must be one array (N,) of numbers or names of classes")
    return [str(value) for value in found[0].tolist()]
