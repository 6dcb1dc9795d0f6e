# SPDX-License-Identifier: Apache-2.0
"""Figures of a sequence of tasks, from the accuracy matrix A: A[t, i] is the accuracy on task i after learning task t.

A is lower triangular; what lies above the diagonal is NaN. Accuracies are over all classes seen so far: no image says
which task it belongs to.

>>> A = np.array([[0.9, np.nan], [0.7, 0.8]])
>>> round(last_accuracy(A), 3), round(average_accuracy(A), 3), round(forgetting(A), 3)
(0.75, 0.825, 0.2)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import BadInput

Array = NDArray[np.float64]


def accuracy_matrix(rows: Sequence[Mapping[str, float]], metric: str = "accuracy") -> Array:
    """A, (T, T), from the validations after each task, whose metrics are called "task0/accuracy", "task1/accuracy".

    Args:
        rows: The metrics after task 0, 1, ..., as the history of a run holds them.
        metric: What comes after the stroke.

    Raises:
        BadInput: A row lacks a task that it should have.
    """
    matrix = np.full((len(rows), len(rows)), math.nan)
    for t, row in enumerate(rows):
        for i in range(t + 1):
            name = f"task{i}/{metric}"
            if name not in row:
                raise BadInput(f"the validation after task {t} has no {name}: it has {', '.join(row) or 'nothing'}")
            matrix[t, i] = row[name]
    return matrix


def is_task_metric(name: str) -> bool:
    """Whether a validation metric belongs to a task: "task3/accuracy"."""
    return re.match(r"task\d+/", name) is not None


def stage_accuracies(matrix: ArrayLike, counts: Sequence[int] | None = None) -> Array:
    """A_t, (T,): the accuracy after task t on the images of all tasks up to it.

    Args:
        matrix: A, (T, T).
        counts: Test images of each task, (T,); None weighs tasks equally.
    """
    a = _checked(matrix)
    n = np.ones(len(a)) if counts is None else np.asarray(counts, dtype=np.float64)
    if n.shape != (len(a),) or not (n > 0).all():
        raise BadInput(f"counts are {n.tolist()}: one number above 0 for each of the {len(a)} tasks is needed")
    return np.array([a[t, : t + 1] @ n[: t + 1] / n[: t + 1].sum() for t in range(len(a))])


def last_accuracy(matrix: ArrayLike, counts: Sequence[int] | None = None) -> float:
    """A_Last: the accuracy over all classes after the last task."""
    return float(stage_accuracies(matrix, counts)[-1])


def average_accuracy(matrix: ArrayLike, counts: Sequence[int] | None = None) -> float:
    """A_Avg: the mean over t of the accuracy after task t on all classes seen by then."""
    return float(stage_accuracies(matrix, counts).mean())


def forgetting(matrix: ArrayLike) -> float:
    """The mean over all tasks but the last of (best accuracy ever - accuracy at the end); NaN for one task.

    The best one before the end is meant: a task that only got better forgets a negative amount.
    """
    a = _checked(matrix)
    if len(a) < 2:
        return math.nan
    return float(np.mean([a[i:-1, i].max() - a[-1, i] for i in range(len(a) - 1)]))


def backward_forgetting(matrix: ArrayLike) -> float:
    """BWF: the mean over all tasks but the last of (accuracy when learned - accuracy at the end); NaN for one task."""
    a = _checked(matrix)
    if len(a) < 2:
        return math.nan
    return float((a.diagonal()[:-1] - a[-1, :-1]).mean())


def _checked(matrix: ArrayLike) -> Array:
    a = np.asarray(matrix, dtype=np.float64)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or not len(a) or not np.isfinite(a[np.tril_indices(len(a))]).all():
        raise BadInput(f"the accuracy matrix has shape {a.shape}: a square with numbers on and below its diagonal")
    return a
