# SPDX-License-Identifier: Apache-2.0
"""The twelve figures against numbers worked out by hand and plain loops, and the report around them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mien.errors import BadInput
from mien.metrics.binary import OneClass
from mien.metrics.fairness import FIGURES, Judged, assess, by_chance, fairness, matrix_of, utility

CANCELLING = np.array([[0.8, 0.8, 0.8, 0.8], [0.9, 0.5, 0.9, 0.5], [0.5, 0.9, 0.5, 0.9]])


def rounded(A, digits=6):
    return {name: round(float(value), digits) for name, value in fairness(A).items()}


def test_opposite_biases_cancel_in_the_naive_figures_alone():
    found = rounded(CANCELLING)
    assert [found[name] for name in ("DPD", "DEOdds", "DEO", "STD")] == [0, 0, 0, 0]
    assert [found["AA" + name] for name in ("DPD", "DEOdds", "DEO", "STD")] == [0.266667, 0.2, 0.4, 0.133333]
    expected = [0.156863, 0.117647, 0.235294, 0.078431]
    assert [found["UR" + name] for name in ("DPD", "DEOdds", "DEO", "STD")] == expected


def test_utility_tells_apart_what_disparity_does_not():
    low = np.tile([0.5, 0.6, 0.4, 0.5], (12, 1))
    assert rounded(low)["AADPD"] == rounded(low + 0.35)["AADPD"] == 0.2
    assert rounded(low)["URDPD"] == 0.133333
    assert rounded(low + 0.35)["URDPD"] == 0.108108


def test_a_random_matrix_gives_the_known_numbers():
    found = rounded(np.random.default_rng(0).uniform(0.3, 0.95, (12, 4)), 4)
    expected = {
        "DPD": (0.1157, 0.3737, 0.2291),
        "DEOdds": (0.2641, 0.3872, 0.2508),
        "DEO": (0.1248, 0.3710, 0.2248),
        "STD": (0.0439, 0.1519, 0.0932),
    }
    for form, numbers in expected.items():
        assert (found[form], found["AA" + form], found["UR" + form]) == numbers


def slow(A):
    """The definitions in loops over plain numbers."""
    rows, groups = len(A), len(A[0])

    def rng(v):
        return max(v) - min(v)

    def std(v):
        mean = sum(v) / len(v)
        return math.sqrt(sum((x - mean) ** 2 for x in v) / len(v))

    o = [sum(A[i][r] for i in range(rows)) / rows for r in range(groups)]
    f = [sum(A[i][r] for i in range(1, rows)) / (rows - 1) for r in range(groups)]
    out = {"DPD": rng(o), "DEOdds": (rng(A[0]) + rng(f)) / 2, "DEO": rng(f), "STD": std(o)}
    for name, u in (("AA", [1] * rows), ("UR", [1 + sum(row) / groups for row in A])):
        d, s = [rng(A[i]) / u[i] for i in range(rows)], [std(A[i]) / u[i] for i in range(rows)]
        deo = sum(d[1:]) / (rows - 1)
        out |= {f"{name}DPD": sum(d) / rows, f"{name}DEOdds": (d[0] + deo) / 2, f"{name}DEO": deo}
        out[f"{name}STD"] = sum(s) / rows
    return out


matrices = st.tuples(st.integers(2, 6), st.integers(1, 5)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(0, 1, width=32))
)


@settings(max_examples=60, deadline=None)
@given(matrices, st.randoms())
def test_the_figures_are_their_definitions_and_do_not_depend_on_order(A, random):
    found = fairness(A)
    assert list(found) == list(FIGURES)
    for name, value in slow(A.tolist()).items():
        assert float(found[name]) == pytest.approx(value, abs=1e-12)
        assert 0 <= found[name] <= 1 + 1e-12
    for form in ("DPD", "DEOdds", "DEO", "STD"):
        assert found["UR" + form] <= found["AA" + form] + 1e-12  # the utility is at least 1 ...
        assert found["UR" + form] >= found["AA" + form] / 2 - 1e-12  # ... and at most 2
        assert found[form] <= found["AA" + form] + 1e-12  # a range of means is at most the mean of the ranges
    columns = list(range(A.shape[1]))
    random.shuffle(columns)
    rows = list(range(1, len(A)))
    random.shuffle(rows)
    shuffled = fairness(A[[0, *rows]][:, columns])
    assert all(float(shuffled[name]) == pytest.approx(float(found[name]), abs=1e-12) for name in FIGURES)


@pytest.mark.parametrize("real", [0.0, 1.0])
def test_a_constant_answer_looks_fair_whatever_is_asked(real):
    """The trap that reports must warn of: no figure punishes it."""
    A = np.full((4, 3), 1 - real)
    A[0] = real
    assert set(rounded(A).values()) == {0.0}
    np.testing.assert_allclose(utility(A), [1 + real, *[2 - real] * 3])


@pytest.mark.parametrize("A", [np.ones((1, 3)), np.ones(3), np.array([[0.5, 1.2], [0.5, 0.5]])])
def test_what_is_no_matrix_of_accuracies_is_refused(A):
    with pytest.raises(BadInput, match="matrix"):
        fairness(A)


# --- from scores to the report ------------------------------------------------------------------------------------
def judged(n=40, bias=0.0, seed=0, threshold=0.5):
    """n people in two groups; each has a real image and two forgeries; group b is judged worse by `bias`."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.where(np.arange(n) % 2, "b", "a"), 3)
    kind = np.tile(["real", "swap", "blend"], n)
    right = rng.random(3 * n) < 0.8 - bias * (group == "b")
    score = np.where(right == (kind != "real"), 0.9, 0.1)
    return Judged(score, kind, group, np.repeat(np.arange(n), 3).astype(str), threshold)


def test_the_matrix_counts_what_is_right():
    score = [0.1, 0.9, 0.2, 0.5, 0.49, 0.7]
    kind = ["real", "real", "real", "swap", "swap", "swap"]
    found = Judged(score, kind, ["9", "9", "10", "9", "10", "10"], list("uvwxyz"))
    assert found.kinds == ("real", "swap")
    assert found.groups == ("9", "10"), "numbers in the order of their values"
    np.testing.assert_allclose(found.matrix(), [[0.5, 1.0], [1.0, 0.5]])
    np.testing.assert_array_equal(found.counts, [[2, 1], [1, 2]])
    weights = np.array([[1.0, 0, 1, 1, 1, 3], [1, 1, 0, 1, 1, 1]])
    many = found.matrix(weights)
    np.testing.assert_allclose(many[0], [[1, 1], [1, 0.75]])
    assert np.isnan(many[1, 0, 1])
    np.testing.assert_allclose(matrix_of(found.correct, kind, found.group), found.matrix())


def test_the_threshold_decides():
    sharp = judged(threshold=0.95)
    np.testing.assert_array_equal(sharp.matrix(), [[1, 1], [0, 0], [0, 0]])


def test_the_report_of_a_biased_detector():
    found = assess(judged(n=200, bias=0.4), draws=200, shuffles=100)
    aadpd = found.figures["AADPD"]
    assert aadpd.low < aadpd.value < aadpd.high
    assert aadpd.low > found.by_chance["AADPD"], "the bias is far more than chance"
    assert aadpd.value == pytest.approx(0.4, abs=0.1)
    assert aadpd.units == 200
    assert found.units == {"a": 100, "b": 100}
    assert found.accuracy.value == pytest.approx(found.mean_accuracy.value), "all cells hold as many images"
    assert found.small == ()
    assert json.loads(json.dumps(found.to_json()))["fairness"]["AADPD"]["value"] == pytest.approx(aadpd.value)


def test_without_bias_chance_explains_the_figures():
    found = assess(judged(n=200, bias=0.0, seed=3), draws=50, shuffles=200)
    assert found.figures["AADPD"].value > 0, "a range of shares is never quite 0"
    assert found.figures["AADPD"].value < 1.5 * found.by_chance["AADPD"]
    assert found.by_chance["AADPD"] > 0.02


def test_intervals_are_those_of_a_bootstrap_over_persons_by_hand():
    data = judged(n=30, bias=0.3)
    found = assess(data, draws=400, shuffles=0)
    rng, values = np.random.default_rng(5), []
    for _ in range(400):
        rows = np.concatenate([np.flatnonzero(data.unit == str(p)) for p in rng.integers(0, 30, 30)])
        part = Judged(data.score[rows], data.kind[rows], data.group[rows], data.unit[rows])
        values.append(float(fairness(part.matrix())["URDPD"]))
    low, high = np.quantile(values, [0.025, 0.975])
    interval = found.figures["URDPD"]
    assert interval.low == pytest.approx(low, abs=0.03)  # the house's bounds lie a little further out
    assert interval.high == pytest.approx(high, abs=0.03)
    assert found.by_chance == {}


def test_weak_rows_and_small_groups_are_flagged():
    data = judged(n=40)
    worse = np.where(data.kind == "swap", 0.2, data.score)
    found = assess(Judged(worse, data.kind, data.group, data.unit), draws=20, shuffles=0, small=30)
    assert found.weak == ("swap",)
    assert found.small == ("a", "b")
    assert assess(data, draws=20, shuffles=0, small=20).small == ()


def test_people_who_change_groups_have_no_chance_level():
    data = judged(n=10)
    group = data.group.copy()
    group[0] = "b"
    assert by_chance(Judged(data.score, data.kind, group, data.unit), shuffles=5) == {}


def test_what_cannot_be_compared_is_refused():
    data = judged(n=10)
    with pytest.raises(OneClass, match="all forged"):
        Judged([0.5, 0.5], ["swap", "swap"], ["a", "b"], ["1", "2"])
    with pytest.raises(BadInput, match="of the group 'a'"):
        Judged([0.5, 0.5], ["real", "swap"], ["a", "a"], ["1", "2"])
    with pytest.raises(BadInput, match="group 'b' has no image of kind 'swap'"):
        Judged([0.5, 0.5, 0.5], ["real", "swap", "real"], ["a", "a", "b"], ["1", "1", "2"])
    with pytest.raises(BadInput, match="probabilities"):
        Judged(np.where(np.arange(30) == 3, np.nan, data.score), data.kind, data.group, data.unit)
    with pytest.raises(BadInput, match="one of each"):
        Judged(data.score[1:], data.kind, data.group, data.unit)
