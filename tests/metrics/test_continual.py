# SPDX-License-Identifier: Apache-2.0
"""Figures of the accuracy matrix against loops over its entries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.errors import BadInput
from mien.metrics import continual


def lower(values):
    """A lower triangular matrix with NaN above the diagonal."""
    count = int((math.isqrt(8 * len(values) + 1) - 1) / 2)
    a = np.full((count, count), np.nan)
    a[np.tril_indices(count)] = values[: count * (count + 1) // 2]
    return a


matrices = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.floats(0, 1), min_size=n * (n + 1) // 2, max_size=n * (n + 1) // 2).map(lower)
)


@settings(max_examples=60, deadline=None)
@given(matrix=matrices, data=st.data())
def test_the_figures_are_the_formulas(matrix, data):
    tasks = len(matrix)
    counts = data.draw(st.lists(st.integers(1, 9), min_size=tasks, max_size=tasks))
    stages = [sum(counts[i] * matrix[t, i] for i in range(t + 1)) / sum(counts[: t + 1]) for t in range(tasks)]
    assert continual.last_accuracy(matrix, counts) == pytest.approx(stages[-1])
    assert continual.average_accuracy(matrix, counts) == pytest.approx(sum(stages) / tasks)
    assert continual.last_accuracy(matrix) == pytest.approx(sum(matrix[-1]) / tasks)
    if tasks == 1:
        assert math.isnan(continual.forgetting(matrix))
        assert math.isnan(continual.backward_forgetting(matrix))
        return
    best = [max(matrix[t, i] for t in range(i, tasks - 1)) for i in range(tasks - 1)]
    assert continual.forgetting(matrix) == pytest.approx(
        sum(b - matrix[-1, i] for i, b in enumerate(best)) / (tasks - 1), abs=1e-12
    )
    assert continual.backward_forgetting(matrix) == pytest.approx(
        sum(matrix[i, i] - matrix[-1, i] for i in range(tasks - 1)) / (tasks - 1), abs=1e-12
    )
    assert continual.forgetting(matrix) >= continual.backward_forgetting(matrix) - 1e-12


def test_the_matrix_is_read_from_the_validations_of_a_run():
    rows = [{"task0/accuracy": 0.9, "accuracy": 0.9}, {"task0/accuracy": 0.5, "task1/accuracy": 0.7, "task1/loss": 3.0}]
    matrix = continual.accuracy_matrix(rows)
    assert matrix[0, 0] == 0.9
    assert matrix[1].tolist() == [0.5, 0.7]
    assert np.isnan(matrix[0, 1])
    with pytest.raises(BadInput, match="after task 1 has no task1/accuracy"):
        continual.accuracy_matrix([rows[0], {"task0/accuracy": 0.5}])
    assert continual.is_task_metric("task10/loss")
    assert not continual.is_task_metric("loss")


@pytest.mark.parametrize("matrix", [np.zeros((0, 0)), np.zeros((2, 3)), lower([0.5, np.nan, 0.5])])
def test_no_matrix_is_refused(matrix):
    with pytest.raises(BadInput, match="accuracy matrix has shape"):
        continual.last_accuracy(matrix)


@pytest.mark.parametrize("counts", [[1], [1, 0]])
def test_counts_that_do_not_fit_are_refused(counts):
    with pytest.raises(BadInput, match="counts are"):
        continual.last_accuracy(lower([0.5, 0.5, 0.5]), counts)
