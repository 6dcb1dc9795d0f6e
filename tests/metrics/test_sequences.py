# SPDX-License-Identifier: Apache-2.0
"""Sequence figures against worked examples, plain loops, and what they must not reward."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.errors import BadInput
from mien.metrics.sequences import sequence_figures, sequence_intervals

TRUTH = [[1, 2, 0, 0, 0], [3, 0, 0, 0, 0], [0, 0, 0, 0, 0], [4, 5, 1, 0, 0]]
FOUND = [[1, 2, 0, 0, 0], [3, 1, 0, 0, 0], [0, 0, 0, 0, 0], [5, 4, 1, 0, 0]]

orders = st.permutations(range(1, 6)).flatmap(lambda p: st.integers(0, 5).map(lambda n: [*p[:n], *[0] * (5 - n)]))
lists = st.lists(st.tuples(orders, st.lists(st.integers(0, 7), min_size=5, max_size=5)), min_size=1, max_size=8)


def every_list():
    """Lists of lengths 0 to 5, all orders of the length once, every length with the same total weight by repetition."""
    rows = []
    for length in range(6):
        some = list(permutations(range(1, 6), length))
        rows += [[*p, *[0] * (5 - length)] for p in some] * (120 // len(some))
    return np.array(rows)


def test_the_worked_example():
    figures = sequence_figures(TRUTH, FOUND)
    expected = {
        "fixed": 0.85,
        "adaptive": 5 / 8,
        "csm": 0.5,
        "csm_plus": 1 / 3,
        "csm_at_1": 2 / 3,
        "csm_at_2": 1 / 2,
        "csm_at_3": 0.0,
        "csm_0": 1.0,
        "csm_1": 0.0,
        "csm_2": 1.0,
        "csm_3": 0.0,
        "set_f1": 12 / 13,
    }
    assert figures == pytest.approx(expected), "and nothing for lengths that do not occur"


def test_always_nothing_is_rewarded_by_fixed_alone():
    truth = every_list()
    figures = sequence_figures(truth, np.zeros_like(truth))
    assert figures["fixed"] == pytest.approx(0.5)
    assert figures["adaptive"] == pytest.approx(1 / 16)  # 0.06: one of one for the sixth that is empty, else 0 of c
    assert figures["csm"] == pytest.approx(1 / 6)
    assert figures["csm_plus"] == 0
    assert figures["set_f1"] == 0


def test_the_right_set_in_reverse_order():
    truth = every_list()
    turned = np.array([[*row[row > 0][::-1], *row[row == 0]] for row in truth])
    figures = sequence_figures(truth, turned)
    # A middle entry stays in its place where the length is odd: 1 of 1, 0 of 2, 1 of 3, 0 of 4, 1 of 5, and 1 of 1.
    assert figures["fixed"] == pytest.approx((5 + (4 + 1) + 3 + (2 + 1) + 1 + 1) / 30)
    assert figures["adaptive"] == pytest.approx((1 + 1 + 0 + 1 + 0 + 1) / 16)
    assert figures["csm_plus"] == pytest.approx(0.2)
    assert figures["set_f1"] == 1.0


def test_a_list_that_is_too_long_is_wrong_but_its_prefix_is_right():
    figures = sequence_figures([[1, 2, 0, 0, 0]], [[1, 2, 3, 0, 0]])
    assert figures["csm"] == figures["csm_plus"] == figures["csm_2"] == 0
    assert figures["csm_at_2"] == 1
    assert "csm_at_3" not in figures
    assert figures["adaptive"] == pytest.approx(2 / 3)


def test_complete_matching_is_not_always_below_adaptive():
    figures = sequence_figures([[0] * 5] * 3 + [[1, 2, 3, 4, 5]], [[0] * 5] * 3 + [[5, 4, 3, 2, 1]])
    assert figures["csm"] == 0.75
    assert figures["adaptive"] == pytest.approx(4 / 8)


def test_a_zero_or_a_stray_token_inside_a_found_list_shifts_nothing():
    figures = sequence_figures([[1, 2, 3, 0, 0]], [[1, 0, 3, 0, 0]])
    assert figures["adaptive"] == pytest.approx(2 / 3)
    assert figures["fixed"] == pytest.approx(4 / 5)
    assert sequence_figures([[1, 2, 3, 0, 0]], [[1, 7, 3, 0, 0]])["adaptive"] == pytest.approx(2 / 3)


@given(lists)
def test_against_plain_loops(pairs):
    truth, found = [list(y) for y, _ in pairs], [list(z) for _, z in pairs]
    fixed = adaptive = adaptive_count = complete = plus = plus_count = overlap = sizes = 0
    prefix = {k: [0, 0] for k in range(1, 6)}
    for y, z in zip(truth, found, strict=True):
        fixed += sum(a == b for a, b in zip(y, z, strict=True))
        c = max(sum(a != 0 for a in y), sum(b != 0 for b in z))
        adaptive += sum(y[t] == z[t] for t in range(c)) if c else 1
        adaptive_count += c or 1
        complete += y == z
        plus += y == z and y[0] != 0
        plus_count += y[0] != 0
        overlap += 2 * len(set(y) & set(z) - {0})
        sizes += len(set(y) - {0}) + len(set(z) - {0})
        for k, row in prefix.items():
            if sum(a != 0 for a in y) >= k:
                row[0] += y[:k] == z[:k]
                row[1] += 1
    got = sequence_figures(truth, found)
    assert got["fixed"] == pytest.approx(fixed / (5 * len(truth)))
    assert got["adaptive"] == pytest.approx(adaptive / adaptive_count)
    assert got["csm"] == pytest.approx(complete / len(truth))
    assert got["csm"] <= got["fixed"] + 1e-12
    assert got.get("csm_plus") == (pytest.approx(plus / plus_count) if plus_count else None)
    assert got.get("set_f1") == (pytest.approx(overlap / sizes) if sizes else None)
    for k, (hits, count) in prefix.items():
        assert got.get(f"csm_at_{k}") == (pytest.approx(hits / count) if count else None)


def test_intervals_have_the_figures_as_values_and_run_over_groups():
    truth, found = TRUTH * 6, FOUND * 6
    groups = [f"person {i // 4}" for i in range(24)]
    intervals = sequence_intervals(truth, found, groups, draws=200)
    assert {name: interval.value for name, interval in intervals.items()} == pytest.approx(
        sequence_figures(TRUTH, FOUND)
    )
    assert intervals["csm_plus"].units == 6
    assert intervals["csm_plus"].low == intervals["csm_plus"].high, "all persons are alike"
    other = sequence_intervals(truth, found, [f"{i % 4}" for i in range(24)], draws=200, seed=1)
    assert other["csm_plus"].low < other["csm_plus"].high
    assert other["csm_3"].undefined > 0, "draws without a list of three are left out"


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        ([[1, 0]], [[1, 0, 0]], "shapes"),
        ([1, 0], [1, 0], "shapes"),
        (np.zeros((0, 5), int), np.zeros((0, 5), int), "shapes"),
        ([[0, 1]], [[0, 0]], "goes on after a 0"),
        ([[1, 0]], [[-1, 0]], "found lists hold -1"),
        ([[1.5, 0]], [[1, 0]], "true lists hold"),
    ],
)
def test_what_is_refused(truth, found, message):
    with pytest.raises(BadInput, match=message):
        sequence_figures(truth, found)
