# SPDX-License-Identifier: Apache-2.0
"""Noise generators: exact rates, rows that are the distribution the labels were drawn from, and seeds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mien.errors import BadInput
from mien.supervision.noise import (
    SPREAD,
    Noise,
    asymmetric,
    flip_rates,
    flip_targets,
    instance_dependent,
    symmetric,
)

NAMES = ("bird", "cat", "dog", "frog")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def labels(count, classes=4, seed=1):
    return torch.randint(0, classes, (count,), generator=generator(seed))


@given(count=st.integers(0, 60), classes=st.integers(2, 6), rate=st.floats(0, 0.99), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_symmetric_changes_exactly_the_rate(count, classes, rate, seed):
    y = labels(count, classes, seed)
    noisy, rows = symmetric(y, classes, rate, generator(seed))
    assert int((noisy != y).sum()) == round(rate * count)
    assert bool((noisy >= 0).all())
    assert bool((noisy < classes).all())
    for i in range(count):
        for j in range(classes):
            expected = 1 - rate if j == int(y[i]) else rate / (classes - 1)
            assert float(rows[i, j]) == pytest.approx(expected, abs=1e-6)
    again, _ = symmetric(y, classes, rate, generator(seed))
    assert torch.equal(noisy, again)


def test_symmetric_errors_fall_on_all_other_classes_alike():
    y = torch.zeros(30_000, dtype=torch.long)
    noisy, _ = symmetric(y, 4, 0.5, generator())
    counts = torch.bincount(noisy, minlength=4)[1:].tolist()
    assert sum(counts) == 15_000
    assert stats.chisquare(counts).pvalue > 1e-4


@given(count=st.integers(0, 60), rate=st.floats(0, 0.99), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_asymmetric_changes_exactly_the_rate_of_every_class(count, rate, seed):
    y, target = labels(count, 4, seed), torch.tensor([0, 2, 1, 0])
    noisy, rows = asymmetric(y, target, rate, generator(seed))
    for c in range(4):
        members = y == c
        wrong = noisy[members] != c
        assert int(wrong.sum()) == (0 if c == 0 else round(rate * int(members.sum())))
        assert bool((noisy[members][wrong] == target[c]).all())
    for i in range(count):
        c = int(y[i])
        expected = [0.0] * 4
        expected[c] += 1 - rate
        expected[int(target[c])] += rate
        assert rows[i].tolist() == pytest.approx(expected, abs=1e-6)


def test_flips_are_written_from_to():
    assert flip_targets(None, NAMES).tolist() == [1, 2, 3, 0]
    assert flip_targets(["cat:dog"], NAMES).tolist() == [0, 2, 2, 3]
    for flips, message in [
        (["cat-dog"], "write FROM:TO"),
        (["cat:bear"], "bear"),
        (["cat:dog", "cat:bird"], "two classes"),
    ]:
        with pytest.raises(BadInput, match=message):
            flip_targets(flips, NAMES)


def test_instance_rows_are_the_formula():
    """W first, then q, from one generator; float64 loops."""
    x, y = 255 * torch.rand(9, 12, generator=generator(3)), labels(9)
    _, rows = instance_dependent([x[:4], x[4:]], y, 4, 0.3, generator(7))
    source = generator(7)
    w = torch.randn(12, 4, generator=source).double()
    q = flip_rates(9, 0.3, source)
    for i in range(9):
        score = [sum(float(x[i, d]) * float(w[d, j]) for d in range(12)) for j in range(4)]
        score[int(y[i])] = -math.inf
        top = max(score)
        weight = [math.exp(s - top) for s in score]
        expected = [float(q[i]) * v / sum(weight) for v in weight]
        expected[int(y[i])] = 1 - float(q[i])
        assert rows[i].tolist() == pytest.approx(expected, abs=1e-5)


def test_instance_labels_are_drawn_from_their_rows():
    x, y = 0.05 * torch.rand(1, 6, generator=generator(3)), torch.tensor([2])
    count = 40_000
    noisy, rows = instance_dependent([x.expand(count, 6)], y.expand(count), 4, 0.4, generator(5))
    found = torch.bincount(noisy, minlength=4).double() / count
    assert torch.allclose(found, rows.double().mean(dim=0), atol=0.01)
    assert torch.allclose(rows.sum(dim=1), torch.ones(count), atol=1e-6)


def test_the_weights_follow_from_the_seed_alone_and_similar_images_go_wrong_alike():
    x, y = 255 * torch.rand(40, 12, generator=generator(3)), labels(40)
    _, rows = instance_dependent([x], y, 4, 0.3, generator(7))
    _, part = instance_dependent([x[:10]], y[:10], 4, 0.3, generator(7))
    assert torch.equal(rows[:10].argsort(dim=1)[:, 1:3], part.argsort(dim=1)[:, 1:3]), "the order of the other classes"
    near, _ = instance_dependent([(x + 0.01)], y, 4, 0.3, generator(7))
    first, _ = instance_dependent([x], y, 4, 0.3, generator(7))
    assert torch.equal(near, first)
    other, _ = instance_dependent([x], y, 4, 0.3, generator(8))
    assert not torch.equal(other, first)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
def test_flip_rates_are_a_truncated_normal(rate):
    q = flip_rates(20_000, rate, generator(2)).numpy()
    law = stats.truncnorm(-rate / SPREAD, (1 - rate) / SPREAD, loc=rate, scale=SPREAD)
    assert stats.kstest(q, law.cdf).pvalue > 1e-4
    assert 0 < q.min() < q.max() < 1
    x, y = torch.rand(20_000, 3, generator=generator()), labels(20_000)
    noisy, rows = instance_dependent([x], y, 4, rate, generator(4))
    wrong = float((noisy != y).double().mean())
    assert wrong == pytest.approx(law.mean(), abs=4 * math.sqrt(0.25 / 20_000))
    expected = float(1 - rows.gather(1, y[:, None]).double().mean())
    assert expected == pytest.approx(law.mean(), abs=0.004)


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric", "instance"])
def test_noise_of_a_kind_follows_from_its_seed(kind):
    y, x = labels(50), torch.rand(50, 5, generator=generator(2))
    one, rows = Noise(kind, 0.4, 3).make(y, NAMES, [x])
    two, _ = Noise(kind, 0.4, 3).make(y, NAMES, [x])
    other, _ = Noise(kind, 0.4, 4).make(y, NAMES, [x])
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert rows.shape == (50, 4)
    clean, identity = Noise(kind, 0.0).make(y, NAMES, iter(()))
    assert torch.equal(clean, y)
    assert torch.equal(identity, torch.eye(4)[y])


def test_the_seed_of_none_is_the_runs():
    assert Noise("symmetric", 0.2).seeded(5).seed == 5
    assert Noise("symmetric", 0.2, 3).seeded(5).seed == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Noise("symetric", 0.1), "symmetric"),
        (lambda: Noise("symmetric", 1.0), "noise.rate is 1.0"),
        (lambda: Noise("symmetric", -0.1), "noise.rate is -0.1"),
        (lambda: Noise("symmetric", math.nan), "noise.rate is nan"),
        (lambda: Noise("none", 0.2), "noise.rate is 0.2"),
        (lambda: Noise("given"), "needs a file"),
        (lambda: Noise("symmetric", 0.1, file="x.csv"), "noise.file"),
        (lambda: Noise("symmetric", 0.1, flips=("cat:dog",)), "flips are for asymmetric"),
        (lambda: Noise("symmetric", 0.1, seed=-1), "noise.seed is -1"),
        (lambda: symmetric(labels(3), 4, 1.5, generator()), "noise.rate is 1.5"),
    ],
)
def test_bad_input_is_one_line(make, message):
    with pytest.raises(BadInput, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
