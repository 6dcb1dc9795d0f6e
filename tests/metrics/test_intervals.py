# SPDX-License-Identifier: Apache-2.0
"""Intervals against a naive loop, against scipy, and by how often they cover the truth."""

import json
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from mien.errors import BadInput
from mien.metrics import intervals
from mien.metrics.binary import METRICS, OneClass, auc
from mien.metrics.intervals import Interval, bootstrap, holm, metric_interval, paired_difference, paired_t, verdict
from mien.metrics.summary import by_kind, by_subgroup, mean_over_kinds, metrics_json, summarise


def people(groups=8, each=6, shift=0.4, seed=0):
    """Labels, scores in (0, 1) with an effect of the person, and names."""
    rng = np.random.default_rng(seed)
    names = np.repeat([f"person {i}" for i in range(groups)], each)
    labels = np.tile([0, 1], groups * each // 2)
    raw = rng.normal(size=len(names)) + np.repeat(rng.normal(size=groups), each) + shift * labels
    return labels, 1 / (1 + np.exp(-raw)), names


def naive(labels, scores, names, draws, seed):
    """Bootstrap by gathering the images of the drawn persons, one draw at a time."""
    distinct = sorted(set(names))
    values = []
    for drawn in np.random.default_rng(seed).integers(len(distinct), size=(draws, len(distinct))):
        items = np.concatenate([np.flatnonzero(names == distinct[g]) for g in drawn])
        values.append(roc_auc_score(labels[items], scores[items]))
    return np.array(values)


def test_bootstrap_equals_the_naive_loop():
    # Fails when frames are drawn instead of persons, or when a person drawn twice does not count twice.
    labels, scores, names = people()
    found = metric_interval("auc", labels, scores, names, draws=300, seed=3)
    values = naive(labels, scores, names, 300, 3)
    outside = stats.norm.cdf(stats.t.ppf(0.025, 7) * math.sqrt(8 / 7))
    assert outside < 0.025  # wider than the plain percentile interval
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [outside, 1 - outside])))
    assert found.value == pytest.approx(roc_auc_score(labels, scores))
    assert found.units == 8


def test_order_of_items_and_size_of_chunks_do_not_matter(monkeypatch):
    labels, scores, names = people()
    found = metric_interval("auc", labels, scores, names, draws=200)
    order = np.random.default_rng(1).permutation(len(names))
    assert metric_interval("auc", labels[order], scores[order], names[order], draws=200) == found
    monkeypatch.setattr(intervals, "_CHUNK", 100)
    assert metric_interval("auc", labels, scores, names, draws=200) == found
    assert metric_interval("auc", labels, scores, names, draws=200, seed=1).low != found.low


def test_persons_are_the_unit_not_images():
    # With strong effects of the person the interval over images is far too narrow.
    labels, scores, names = people(groups=10, each=100)
    rng = np.random.default_rng(0)
    effect = np.repeat(rng.normal(size=10), 100)
    scores = 1 / (1 + np.exp(-(scores + effect * (2 * labels - 1))))
    by_person = metric_interval("auc", labels, scores, names)
    by_image = metric_interval("auc", labels, scores, np.arange(len(labels)))
    assert by_person.high - by_person.low > 3 * (by_image.high - by_image.low)


def test_six_persons_cover_the_truth_where_plain_percentiles_do_not():
    # The mean of six draws from a normal: 95 % must contain 0 in about 95 % of repeats (plain percentiles: 83-88 %).
    rng = np.random.default_rng(0)
    inside = plain = 0
    for repeat in range(300):
        x = rng.normal(size=6)
        seen = []

        def mean(w, x=x, seen=seen):
            seen.append(w @ x / w.sum(axis=1))
            return seen[-1]

        inside += bootstrap(mean, np.arange(6), draws=500, seed=repeat).contains(0.0)
        low, high = np.quantile(seen[1], [0.025, 0.975])
        plain += low <= 0 <= high
    assert 0.91 <= inside / 300 <= 0.985
    assert plain / 300 < 0.905


def test_many_groups_agree_with_scipy():
    x = np.random.default_rng(0).exponential(size=400)
    found = bootstrap(lambda w: w @ x / w.sum(axis=1), np.arange(400), draws=4000)
    other = stats.bootstrap((x,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1))
    assert found.low == pytest.approx(other.confidence_interval.low, abs=0.01)
    assert found.high == pytest.approx(other.confidence_interval.high, abs=0.01)


def test_draws_of_one_class_are_left_out_and_counted():
    # Three videos of one class each: a draw has both classes unless it is all real or lacks the only forged video.
    labels, scores = np.array([0, 0, 1]), np.array([0.2, 0.3, 0.9])
    found = metric_interval("auc", labels, scores, ["a", "b", "c"], draws=4000)
    assert (found.low, found.high) == (1.0, 1.0)
    assert found.undefined == pytest.approx((2 / 3) ** 3 + (1 / 3) ** 3, abs=0.03)


def test_one_group_has_no_bounds_and_is_json():
    found = metric_interval("auc", [0, 1], [0.1, 0.9], ["a", "a"])
    assert found.value == 1.0
    assert not found.exists
    assert found.contains(-5)
    assert json.dumps(found.to_json(), allow_nan=False) == '{"value": 1.0, "low": null, "high": null}'
    assert str(found) == "1.000"


def test_paired_difference_cancels_what_both_share():
    labels, scores, names = people(groups=12, each=20, seed=5)
    better = scores + 0.05 * labels
    paired = paired_difference("auc", labels, scores, better, names)
    assert paired.value == pytest.approx(roc_auc_score(labels, better) - roc_auc_score(labels, scores))
    assert paired.low > 0
    assert verdict(paired, higher_is_better=True) == "holds"
    assert paired.p is not None
    assert paired.p < 0.01
    alone = metric_interval("auc", labels, better, names)
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)
    same = paired_difference("auc", labels, scores, scores, names)
    assert (same.value, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    assert verdict(same, higher_is_better=True) == "inconclusive"
    back = paired_difference("auc", labels, better, scores, names)
    assert (back.low, back.high) == pytest.approx((-paired.high, -paired.low))


def test_few_groups_do_not_say_more_than_that_they_agree():
    labels, scores, names = people(groups=4, each=20, seed=5)
    assert paired_difference("brier", labels, scores, 0.2 + 0.6 * labels, names).p == 2.0**-3


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_every_named_metric_has_an_interval_around_it(metric):
    labels, scores, names = people(groups=15, each=8)
    found = metric_interval(metric, labels, scores, names, draws=200)
    assert found.low < found.value < found.high
    assert found.undefined == 0


def test_paired_t_equals_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=5), rng.normal(0.5, 1, size=5)
    found = paired_t(b - a)
    test = stats.ttest_rel(b, a)
    bounds = test.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((bounds.low, bounds.high, test.pvalue))
    assert (found.value, found.units) == (pytest.approx((b - a).mean()), 5)
    assert paired_t(b - a, level=0.99).low < found.low


def test_paired_t_of_one_seed_and_of_equal_differences():
    one = paired_t([0.3])
    assert one.value == 0.3
    assert not one.exists
    assert verdict(one, higher_is_better=True) == "inconclusive"
    saturated = paired_t([0.1 + 0.2, 0.3, 0.3])  # equal up to rounding
    assert saturated.low == saturated.high == pytest.approx(0.3)
    assert saturated.p == 0.0
    assert paired_t([0.0, 0.0]).p == 1.0
    for wrong in ([], [math.nan, 1.0], [[1.0]]):
        with pytest.raises(BadInput, match="finite numbers"):
            paired_t(wrong)


def test_holm_by_hand_and_in_any_order():
    # 0.01 x 4, then 0.02 x 3, then 0.03 x 2 (raised to the one before), then 0.9 x 1.
    expected = {"d": 0.9, "a": 0.04, "c": 0.06, "b": 0.06}
    assert holm({"d": 0.9, "a": 0.01, "c": 0.03, "b": 0.02}) == pytest.approx(expected)
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}
    with pytest.raises(BadInput, match="p value of 'a' is nan"):
        holm({"a": math.nan})


@pytest.mark.parametrize(
    ("low", "high", "higher", "expected"),
    [
        (0.01, 0.2, True, "holds"),
        (0.01, 0.2, False, "fails"),
        (-0.2, -0.01, False, "holds"),
        (-0.2, -0.01, True, "fails"),
        (-0.1, 0.3, True, "inconclusive"),
        (0.0, 0.3, True, "inconclusive"),
        (math.nan, math.nan, True, "inconclusive"),
    ],
)
def test_verdict(low, high, higher, expected):
    assert verdict(Interval((low + high) / 2, low, high), higher) == expected


def test_bad_input():
    with pytest.raises(BadInput, match="did you mean 'auc'"):
        metric_interval("acu", [0, 1], [0.1, 0.2], ["a", "b"])
    with pytest.raises(BadInput, match="one for each of the 2"):
        metric_interval("auc", [0, 1], [0.1, 0.2], ["a"])
    with pytest.raises(OneClass):
        metric_interval("auc", [1, 1], [0.1, 0.2], ["a", "b"])
    with pytest.raises(BadInput, match="probabilities"):
        metric_interval("brier", [0, 1], [0.1, 7.0], ["a", "b"])
    with pytest.raises(BadInput, match="level is 95"):
        bootstrap(lambda w: w.sum(axis=1), ["a", "b"], level=95)
    with pytest.raises(BadInput, match="draws is 0"):
        bootstrap(lambda w: w.sum(axis=1), ["a", "b"], draws=0)
    with pytest.raises(BadInput, match="at least one item"):
        bootstrap(lambda w: w.sum(axis=1), [])


def test_summary_has_all_numbers_and_the_threshold_moves_only_accuracies():
    labels, scores, names = people(groups=10, each=10)
    table = summarise(labels, scores, names, draws=100)
    assert set(table) == {*METRICS, "ece"}
    assert not table["ece"].exists
    moved = summarise(labels, scores, names, threshold=0.8, draws=100)
    assert {name for name in table if moved[name].value != table[name].value} == {"accuracy", "balanced_accuracy"}
    assert moved["accuracy"].value == pytest.approx(((scores >= 0.8) == labels).mean())
    json.dumps(metrics_json(moved), allow_nan=False)


def test_kinds_are_each_compared_with_the_reals():
    labels, scores, names = people(groups=10, each=12)
    kinds = np.where(labels == 0, "real", np.where(np.arange(len(labels)) % 4 == 1, "swap", "blend"))
    table = by_kind("auc", labels, scores, names, kinds, draws=100)
    swap, blend = ((kinds == "real") | (kinds == kind) for kind in ("swap", "blend"))
    assert table["swap"].value == pytest.approx(roc_auc_score(labels[swap], scores[swap]))
    mean = mean_over_kinds("auc", labels, scores, names, kinds, draws=200)
    assert mean.value == pytest.approx((auc(labels[swap], scores[swap]) + auc(labels[blend], scores[blend])) / 2)
    assert mean.low < mean.value < mean.high
    alone = mean_over_kinds("auc", labels, scores, names, kinds, leave_out=("blend",), draws=50)
    assert alone.value == table["swap"].value
    with pytest.raises(BadInput, match="no kind is left"):
        mean_over_kinds("auc", labels, scores, names, kinds, leave_out=("blend", "swap"))
    with pytest.raises(BadInput, match="no item is of the kind 'real'"):
        by_kind("auc", labels, scores, names, ["x"] * len(labels))


def test_subgroups_of_one_class_are_undefined_not_wrong():
    table = by_subgroup(
        "auc", [0, 1, 1, 1], [0.1, 0.9, 0.4, 0.6], ["a", "b", "c", "d"], ["young", "young", "old", "old"]
    )
    assert table["young"].value == 1.0
    assert math.isnan(table["old"].value)
    assert str(table["old"]) == "undefined"
