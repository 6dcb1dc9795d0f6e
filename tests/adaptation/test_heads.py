# SPDX-License-Identifier: Apache-2.0
"""Cosine heads, the CosFace loss against its formula, Gaussians of classes, and alignment on what they give."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mien.adaptation.heads import Alignment, ClassGaussians, CosineHead, align, cosface, cosines
from mien.errors import BadInput


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(0, 4),
    classes=st.integers(2, 5),
    scale=st.floats(1, 30),
    margin=st.floats(0, 0.5),
    seed=st.integers(0, 99),
)
def test_cosface_is_the_formula(batch, classes, scale, margin, seed):
    generator = torch.Generator().manual_seed(seed)
    cosine = torch.rand(batch, classes, generator=generator, dtype=torch.float64) * 2 - 1
    label = torch.randint(classes, (batch,), generator=generator)
    found = cosface(cosine, label, scale, margin)
    assert found.shape == (batch,)
    for i in range(batch):
        y, row = int(label[i]), cosine[i].tolist()
        own = math.exp(scale * (row[y] - margin))
        rest = sum(math.exp(scale * c) for j, c in enumerate(row) if j != y)
        assert float(found[i]) == pytest.approx(-math.log(own / (own + rest)), abs=1e-9)


def test_heads_give_cosines_of_all_tasks_side_by_side():
    torch.manual_seed(0)
    heads = nn.ModuleList([CosineHead(5, 2), CosineHead(5, 3)])
    for head in heads:
        head.start()
    x = torch.randn(4, 5)
    found = cosines(heads, x)
    weights = torch.cat([head.weight for head in heads])
    for i in range(4):
        for c in range(5):
            expected = float((x[i] @ weights[c] / (x[i].norm() * weights[c].norm())).detach())
            assert float(found[i, c].detach()) == pytest.approx(expected, abs=1e-6)
    assert torch.allclose(cosines(heads, 7 * x), found, atol=1e-6)


def gaussians(seed=0, width=4):
    """Two tasks of two classes whose features lie around different axes, and their Gaussians."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for task in range(2):
        label = torch.arange(2).repeat_interleave(60)
        centre = 3 * torch.eye(width)[2 * task + label]
        mix = torch.randn(width, width, generator=generator) * 0.2
        features = centre + torch.randn(120, width, generator=generator) @ mix
        fitted = ClassGaussians(width, 2)
        fitted.fit(features, label, ridge=1e-3)
        result.append((fitted, features, label))
    return result


def test_gaussians_hold_mean_and_covariance_and_draw_from_them():
    (fitted, features, label), _ = gaussians()
    for c in range(2):
        rows = features[label == c]
        assert torch.allclose(fitted.mean[c], rows.mean(dim=0), atol=1e-5)
        covariance = torch.cov(rows.T) + 1e-3 * torch.eye(4)
        assert torch.allclose(fitted.factor[c] @ fitted.factor[c].T, covariance, atol=1e-5)
    drawn = fitted.draw(40000, 0.95, torch.Generator().manual_seed(1))
    assert drawn.shape == (2, 40000, 4)
    assert torch.allclose(drawn.mean(dim=1), 0.95 * fitted.mean, atol=0.02)
    assert torch.allclose(torch.cov(drawn[1].T), fitted.factor[1] @ fitted.factor[1].T, atol=0.02)


def test_one_image_of_a_class_is_enough_and_none_is_refused():
    fitted = ClassGaussians(3, 2)
    fitted.fit(torch.randn(3, 3), torch.tensor([0, 0, 1]), ridge=1e-3)
    assert torch.isfinite(fitted.factor).all()
    with pytest.raises(BadInput, match="class 1 of the task has no image"):
        fitted.fit(torch.randn(2, 3), torch.tensor([0, 0]), ridge=1e-3)


def test_alignment_settles_a_dispute_between_tasks_and_changes_nothing_else():
    """The second task's head claims the first task's features, until both are trained together."""
    (first, x, label), (second, z, other) = gaussians()
    heads = nn.ModuleList([CosineHead(4, 2), CosineHead(4, 2)])
    with torch.no_grad():
        heads[0].weight.copy_(torch.tensor([[1.0, -0.5, 1.0, 1.0], [-0.5, 1.0, 1.0, 1.0]]))
        heads[1].weight.copy_(torch.tensor([[1.0, 1.0, 1.0, -0.5], [1.0, 1.0, -0.5, 1.0]]))
    heads.requires_grad_(False)
    features, target = torch.cat([x, z]), torch.cat([label, other + 2])

    def accuracy():
        return float((cosines(heads, features).argmax(dim=1) == target).double().mean())

    before = accuracy()
    moments = [first.mean.clone(), second.mean.clone()]
    with torch.no_grad():  # as the end of a task
        align(heads, [first, second], Alignment(epochs=60, samples=64), torch.Generator().manual_seed(0))
    assert before < 0.7
    assert accuracy() > 0.95
    assert torch.equal(first.mean, moments[0])
    assert torch.equal(second.mean, moments[1])
    assert not any(p.requires_grad for p in heads.parameters())


def test_alignment_repeats_and_shrinks_old_means(monkeypatch):
    seen = []
    original = ClassGaussians.draw

    def spy(self, samples, shrink, generator):
        seen.append((samples, round(shrink, 6)))
        return original(self, samples, shrink, generator)

    monkeypatch.setattr(ClassGaussians, "draw", spy)
    results = []
    for _ in range(2):
        pairs = gaussians()
        torch.manual_seed(0)
        heads = nn.ModuleList([CosineHead(4, 2), CosineHead(4, 2)])
        for head in heads:
            head.start()
        options = Alignment(epochs=1, samples=8)
        align(heads, [pair[0] for pair in pairs], options, torch.Generator().manual_seed(3))
        results.append([head.weight.clone() for head in heads])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert seen[:2] == [(8, 0.95), (8, 1.0)], "0.9 + 0.1 (t_c + 1) / (t + 1)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": -1}, "alignment has -1 epochs"),
        ({"samples": 0}, "of 0 samples"),
        ({"temperature": 0.0}, r"alignment\.temperature is 0\.0"),
        ({"ridge": -1.0}, r"alignment\.ridge is -1\.0"),
    ],
)
def test_bad_options_are_named(changes, message):
    with pytest.raises(BadInput, match=message):
        Alignment(**changes)
