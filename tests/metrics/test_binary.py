# SPDX-License-Identifier: Apache-2.0
"""Every metric against plain loops over pairs or thresholds, and against scikit-learn; then what must be refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from mien.errors import BadInput
from mien.metrics import binary


def loop_auc(labels, scores):
    """All pairs, one by one."""
    wins = [
        (p > n) + 0.5 * (p == n)
        for p, y in zip(scores, labels, strict=True)
        if y
        for n, z in zip(scores, labels, strict=True)
        if not z
    ]
    return sum(wins) / len(wins)


def loop_average_precision(labels, scores):
    """One threshold after the other, everything counted anew."""
    total, before, value = sum(labels), 0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        called = [y for y, s in zip(labels, scores, strict=True) if s >= threshold]
        value += (sum(called) - before) / total * sum(called) / len(called)
        before = sum(called)
    return value


@st.composite
def scored(draw):
    """Few distinct scores, so that ties are common; both classes occur."""
    n = draw(st.integers(2, 25))
    labels = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n).filter(lambda y: 0 < sum(y) < n))
    scores = draw(st.lists(st.integers(0, 6), min_size=n, max_size=n))
    return labels, [s / 6 for s in scores]


@settings(max_examples=60, deadline=None)
@given(scored())
def test_ranking_metrics_equal_loops_and_sklearn_with_ties(case):
    # Fails when ties are broken by position, when a threshold is skipped, or when the classes are mixed up.
    labels, scores = case
    assert binary.auc(labels, scores) == pytest.approx(loop_auc(labels, scores), abs=1e-12)
    assert binary.auc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    assert binary.average_precision(labels, scores) == pytest.approx(loop_average_precision(labels, scores), abs=1e-12)
    expected = sk.average_precision_score(labels, scores)
    assert binary.average_precision(labels, scores) == pytest.approx(expected, abs=1e-12)
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    crossing = brentq(lambda x: x - 1 + np.interp(x, fpr, tpr), -1e-9, 1 + 1e-9)
    vertical = np.isclose(fpr, crossing, atol=1e-6).sum() > 1  # interp is ambiguous on a vertical piece of the curve
    if not vertical:
        assert binary.eer(labels, scores) == pytest.approx(crossing, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(scored())
def test_curves_equal_sklearn_and_their_area_is_the_auc(case):
    labels, scores = case
    curve = binary.roc_curve(labels, scores)
    fpr, tpr, thresholds = sk.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(curve.false_positive, fpr, atol=1e-12)
    np.testing.assert_allclose(curve.true_positive, tpr, atol=1e-12)
    np.testing.assert_allclose(curve.thresholds[1:], thresholds[1:])
    assert np.trapezoid(curve.true_positive, curve.false_positive) == pytest.approx(binary.auc(labels, scores))
    pr = binary.precision_recall_curve(labels, scores)
    precision, recall, thresholds = sk.precision_recall_curve(labels, scores)
    np.testing.assert_allclose(pr.precision, precision[:-1][::-1], atol=1e-12)
    np.testing.assert_allclose(pr.recall, recall[:-1][::-1], atol=1e-12)
    np.testing.assert_allclose(pr.thresholds, thresholds[::-1])


def test_eer_of_known_curves():
    # Two reals at .1 .4, two forged at .3 .8: at 0.4 one of two reals is called forged and one of two forged is missed.
    assert binary.eer([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.8]) == pytest.approx(0.5)
    assert binary.eer([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.8]) == 0.0
    assert binary.eer([0, 0, 1, 1], [0.8, 0.9, 0.3, 0.1]) == 1.0
    assert binary.eer([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5]) == pytest.approx(0.5)  # one step: the diagonal
    # Steps of 1/3 and 1/4: the curve passes (1/3, 1/2) and (1/3, 3/4); misses equal false alarms at exactly 1/3.
    labels, scores = [1, 1, 0, 1, 0, 1, 0], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    assert binary.eer(labels, scores) == pytest.approx(1 / 3)


@settings(max_examples=30, deadline=None)
@given(scored(), st.integers(0, 2**31))
def test_weights_mean_repetition(case, seed):
    # Fails when a weighted form treats weight 3 otherwise than three copies of the item.
    labels, scores = map(np.array, case)
    times = np.random.default_rng(seed).integers(0, 4, size=(3, len(labels)))
    for name, metric in binary.METRICS.items():
        values = metric.weighted(labels.astype(float), scores, times.astype(float))
        for row, value in zip(times, values, strict=True):
            y, s = np.repeat(labels, row), np.repeat(scores, row)
            plain = getattr(binary, name)
            if len(y) == 0 or (metric.both_classes and y.min() == y.max()):
                assert math.isnan(value), name
            else:
                assert value == pytest.approx(plain(y, s), abs=1e-12), name


def test_accuracies_at_a_threshold():
    labels, scores = [0, 0, 0, 1], [0.1, 0.5, 0.7, 0.6]
    assert binary.accuracy(labels, scores) == 0.5  # 0.5 itself counts as forged
    assert binary.accuracy(labels, scores, threshold=0.55) == 0.75
    assert binary.balanced_accuracy(labels, scores) == pytest.approx((1 / 3 + 1) / 2)
    predicted = np.array(scores) >= 0.55
    assert binary.balanced_accuracy(labels, scores, 0.55) == pytest.approx(
        sk.balanced_accuracy_score(labels, predicted)
    )
    assert binary.accuracy([1, 1], [0.9, 0.2]) == 0.5  # one class is fine here


def test_calibration_equals_loops_and_sklearn():
    rng = np.random.default_rng(0)
    scores = rng.random(500)
    labels = (rng.random(500) < scores**2).astype(int)
    found = binary.calibration(labels, scores, bins=8)
    observed, predicted = calibration_curve(labels, scores, n_bins=8)
    np.testing.assert_allclose(found.observed, observed)
    np.testing.assert_allclose(found.predicted, predicted)
    ece = 0.0
    for b in range(8):
        inside = [i for i in range(500) if b / 8 <= scores[i] < (b + 1) / 8]
        assert found.count[b] == len(inside)
        gap = sum(labels[i] for i in inside) / len(inside) - sum(scores[i] for i in inside) / len(inside)
        ece += len(inside) / 500 * abs(gap)
    assert found.ece == pytest.approx(ece)
    assert (
        found.brier == pytest.approx(sk.brier_score_loss(labels, scores)) == pytest.approx(binary.brier(labels, scores))
    )


def test_calibration_bounds_and_empty_bins():
    found = binary.calibration([0, 1, 1], [0.0, 1.0, 0.5], bins=4)
    assert found.count.tolist() == [1, 0, 1, 1]  # 0.5 opens a bin, 1.0 is in the last one
    assert np.isnan(found.observed[1])
    assert found.ece == pytest.approx(0.5 / 3)


def test_groups_and_the_reference_group():
    labels = [0, 0, 1, 1, 1, 1]
    scores = [0.2, 0.6, 0.9, 0.5, 0.1, 0.3]
    kinds = ["real", "real", "swap", "swap", "blend", "blend"]
    table = binary.by_group(binary.auc, labels, scores, kinds, reference="real")
    assert list(table) == ["blend", "swap"]
    assert table["swap"].value == loop_auc([0, 0, 1, 1], [0.2, 0.6, 0.9, 0.5]) == 0.75
    assert (table["blend"].items, table["blend"].positives) == (4, 2)
    alone = binary.by_group(binary.auc, labels, scores, kinds)
    assert set(alone) == {"real", "swap", "blend"}
    assert all(math.isnan(row.value) for row in alone.values())  # one class each: documented NaN
    assert binary.by_group(binary.accuracy, labels, scores, kinds)["swap"].value == 1.0


@pytest.mark.parametrize(
    ("labels", "scores", "says"),
    [
        ([], [], "no items"),
        ([0, 1], [0.5], "same length"),
        ([0, 1, -1], [0.1, 0.2, 0.3], "label -1 at item 2"),
        ([0, 1], [0.1, math.nan], "score 1 is NaN"),
        ([[0, 1]], [[0.1, 0.2]], "one-dimensional"),
        ([1, 1], [0.1, 0.2], "both classes"),
    ],
)
@pytest.mark.parametrize("metric", ["auc", "eer", "average_precision", "balanced_accuracy", "roc_curve"])
def test_bad_input_is_one_clear_line(metric, labels, scores, says):
    with pytest.raises(BadInput, match=says) as caught:
        getattr(binary, metric)(labels, scores)
    assert "\n" not in str(caught.value)


def test_probabilities_are_required_where_they_are_meant():
    for metric in (binary.brier, binary.calibration):
        with pytest.raises(BadInput, match=r"1\.5 at item 1"):
            metric([0, 1], [0.2, 1.5])
    with pytest.raises(BadInput, match="bins is 0"):
        binary.calibration([0, 1], [0.2, 0.5], bins=0)
    with pytest.raises(BadInput, match="one for each"):
        binary.by_group(binary.auc, [0, 1], [0.2, 0.5], ["a"])


def test_tensors_are_accepted():
    import torch

    assert binary.auc(torch.tensor([0, 1]), torch.tensor([0.2, 0.7])) == 1.0


def test_a_million_items_are_sorted_not_paired():
    # An O(N^2) computation would need 2.5e11 comparisons and never end.
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(2, size=1_000_000), rng.random(1_000_000)
    assert binary.auc(labels, scores) == pytest.approx(0.5, abs=0.005)
