# SPDX-License-Identifier: Apache-2.0
"""Ranking metrics against scipy and against bootstrap samples that are really drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mien.errors import BadInput
from mien.metrics.ranking import (
    accuracy_within,
    intervals,
    kendall_tau,
    mape,
    relative_error,
    spearman,
    weighted_kendall_tau,
    weighted_spearman,
)

NUMBERS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=40)


@given(NUMBERS)
def test_tau_and_rho_are_scipys_with_and_without_ties(pairs):
    x, y = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert math.isnan(kendall_tau(x, y))
        assert math.isnan(spearman(x, y))
        return
    assert kendall_tau(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_tau_of_many_items_by_counting_pairs():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 137))
    sign = np.sign(np.subtract.outer(x, x) * np.subtract.outer(y, y))
    assert kendall_tau(x, y) == pytest.approx(sign[np.triu_indices(137, 1)].mean(), abs=1e-12)


@given(NUMBERS, st.integers(0, 2**32 - 1))
def test_a_weight_of_two_is_an_item_twice(pairs, seed):
    # Pairs of an item with its own copy are tied in both, so both forms must leave them out alike.
    x, y = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    drawn = np.random.default_rng(seed).integers(len(x), size=len(x))
    weights = np.bincount(drawn, minlength=len(x)).astype(float)[None]
    for weighted, plain in ((weighted_kendall_tau, stats.kendalltau), (weighted_spearman, stats.spearmanr)):
        found = weighted(x, y, weights)[0]
        if len(set(x[drawn])) == 1 or len(set(y[drawn])) == 1:
            assert math.isnan(found)
        else:
            assert found == pytest.approx(plain(x[drawn], y[drawn]).statistic, abs=1e-12)


def test_relative_errors_by_hand():
    truth, predicted = [2.0, 10.0, -4.0], [2.2, 5.0, -4.5]
    assert relative_error(truth, predicted) == pytest.approx([0.1, 0.5, 0.125])
    assert mape(truth, predicted) == pytest.approx((0.1 + 0.5 + 0.125) / 3)
    assert accuracy_within([10.0, 10.0, 10.0], [11.0, 11.1, 9.0]) == pytest.approx(2 / 3), "the limit itself is within"


def test_intervals_hold_the_value_and_shrink_with_more_items():
    rng = np.random.default_rng(1)
    widths = []
    for count in (40, 400):
        x = rng.uniform(1, 2, count)
        found = intervals(x, x + rng.normal(size=count) * 0.2, draws=200)
        assert set(found) == {"kendall_tau", "spearman", "mape", "acc10"}
        assert all(i.low < i.value < i.high for i in found.values())
        widths.append(found["kendall_tau"].high - found["kendall_tau"].low)
    assert widths[1] < widths[0] / 2
    assert set(intervals([0.0, 1.0, 2.0], [0.0, 1.0, 3.0], draws=50)) == {"kendall_tau", "spearman"}


def test_what_is_refused():
    with pytest.raises(BadInput, match=r"true values \(2,\) and predicted ones \(3,\)"):
        kendall_tau([1, 2], [1, 2, 3])
    with pytest.raises(BadInput, match="must be finite"):
        spearman([1.0, math.nan], [1.0, 2.0])
    with pytest.raises(BadInput, match="1 of 2 true values are 0"):
        mape([0.0, 1.0], [1.0, 1.0])
    with pytest.raises(BadInput, match="N at least 1"):
        kendall_tau([], [])
