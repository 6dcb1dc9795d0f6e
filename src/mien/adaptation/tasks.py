# SPDX-License-Identifier: Apache-2.0
"""Class-incremental splits: a data set cut into tasks of disjoint classes.

The order of the classes is the order of their labels: task 0 has the first labels, task 1 the next. `class_order` draws
it, a method's `classes` holds it, and whatever is trained or tested is relabelled into it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Dataset

from mien.classification.data import Augmentation, ClassData, LabelledImages
from mien.classification.room import held_out, manifest
from mien.engine import PerTask, Phase, Tasks
from mien.engine.schedule import History
from mien.errors import BadInput

FOUNDATION = "foundation"
"""Name of the phase, before the first task, in which the network itself is trained."""

PAPER_TASKS = 10
LEAST = 4
"""Classes of a task, at least, where nobody says how many: LoDA's two groups of classes then hold two each."""


def task_sizes(classes: int, tasks: int | Sequence[int] | None) -> tuple[int, ...]:
    """How many classes each task has.

    Args:
        classes: Number of classes.
        tasks: Number of tasks, as equal as possible, the first ones larger; or the classes of each; or None for 10
            tasks, fewer where they would have less than four classes.

    Raises:
        BadInput: A task has less than two classes (a loss over its own classes is then zero, and it would learn
            nothing), or the numbers do not add up.

    >>> task_sizes(10, 3), task_sizes(101, [51, 25, 25]), task_sizes(10, None)
    ((4, 3, 3), (51, 25, 25), (5, 5))
    """
    if tasks is None:
        tasks = min(PAPER_TASKS, max(classes // LEAST, 1))
    if isinstance(tasks, int):
        if not 1 <= tasks <= classes // 2:
            raise BadInput(
                f"tasks is {tasks} for {classes} classes: use 1 to {classes // 2}; a task needs two classes, since "
                "what it learns is to tell its own classes apart"
            )
        return tuple(classes // tasks + (i < classes % tasks) for i in range(tasks))
    sizes = tuple(tasks)
    if not sizes or min(sizes) < 2 or sum(sizes) != classes:
        raise BadInput(f"tasks are {list(sizes)}: they must hold two classes or more each and all {classes} together")
    return sizes


@dataclass(frozen=True)
class FoundedTasks:
    """A sequence of tasks that begins with a phase in which the network itself is trained.

    Args:
        foundation: Epochs of that phase, >= 1.
        count: Number of tasks.
        epochs: Passes over the data of each task.
    """

    foundation: int
    count: int
    epochs: int = 1

    def next_phase(self, history: History, seed: int) -> Phase | None:
        """The foundation, then task 0, 1, ... count - 1."""
        if not history:
            return Phase(index=0, name=FOUNDATION, epochs=self.foundation)
        found = Tasks(self.count, self.epochs).next_phase(history[1:], seed)
        return None if found is None else replace(found, index=found.index + 1)


def class_order(names: Sequence[str], seed: int) -> list[str]:
    """The names in the order in which tasks take them.

    Drawn as published protocols draw it, with numpy's legacy generator: their seed 1993 gives their order.
    """
    return [names[i] for i in np.random.RandomState(seed % 2**32).permutation(len(names))]


def by_task(data: ClassData, sizes: Sequence[int]) -> list[ClassData]:
    """The images of each task, their labels as they are in `data`."""
    label = data.label.numpy()
    bounds = pairwise(accumulate(sizes, initial=0))
    return [data.subset(np.flatnonzero((label >= start) & (label < end)).tolist()) for start, end in bounds]


def task_of(sizes: Sequence[int], label: ArrayLike) -> NDArray[np.int64]:
    """The task of each label (N,).

    >>> task_of([2, 3], [0, 1, 2, 4])
    array([0, 0, 1, 1])
    """
    return np.searchsorted(np.cumsum(sizes), label, side="right")


class ClassTasks(PerTask):
    """Training and validation images task by task, with the manifest of what all tasks see.

    Args:
        data: All images that the manifest names.
        train: Training images of each task.
        validation: Validation images of each task, or None.
    """

    def __init__(self, data: ClassData, train: list[LabelledImages], validation: list[LabelledImages] | None) -> None:
        super().__init__(list(train), None if validation is None else list(validation))
        self._data = data

    def validation(self, phase: Phase) -> Mapping[str, Dataset[Any]] | None:
        """The held-out images of the tasks so far; none before the first."""
        return None if phase.task is None else super().validation(phase)

    def manifest(self) -> dict[str, Any]:
        """Hashes of all images; groups are not known."""
        return manifest(self._data)


def open_tasks(
    data: ClassData,
    sizes: Sequence[int],
    image_size: int,
    *,
    augment: Augmentation = "none",
    crop: float | None = None,
    validation: float = 0.0,
    seed: int = 0,
) -> ClassTasks:
    """Training data cut into tasks.

    Args:
        data: All training images, their labels in the order in which tasks take the classes.
        sizes: How many classes each task has.
        image_size: Side of the samples in pixels.
        augment: How training images are varied, as `LabelledImages`.
        crop: What part of validation images is shown, as `LabelledImages`.
        validation: Share of the images of each task that is held out, in [0, 1).
        seed: Of that split.

    Raises:
        BadInput: A class has no image, or too few to hold one out.
    """
    counts = np.bincount(data.label.numpy(), minlength=len(data.classes))
    empty = [name for name, count in zip(data.classes, counts, strict=True) if not count]
    if empty:
        raise BadInput(
            f"{data.description}: no training image of {', '.join(empty)}: a task cannot learn a class without images"
        )
    parts = [held_out(task, validation, seed) for task in by_task(data, sizes)]
    train = [LabelledImages(part, image_size, augment) for part, _ in parts]
    held = [LabelledImages(part, image_size, crop=crop) for _, part in parts if part is not None]
    return ClassTasks(data, train, held or None)
