# SPDX-License-Identifier: Apache-2.0
"""Class-incremental splits: a data set cut into tasks of disjoint classes.

The order of the classes is the order of their labels: task 0 has the first labels, task 1 the next. `class_order` draws
it, a method's `classes` holds it, and whatever is trained or tested is relabelled into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from mien.classification.data import ClassData, LabelledImages
from mien.classification.room import manifest
from mien.engine import PerTask
from mien.errors import BadInput

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

    def manifest(self) -> dict[str, Any]:
        """Hashes of all images; groups are not known."""
        return manifest(self._data)
