# SPDX-License-Identifier: Apache-2.0
"""Transition matrices: the direction of the product, the start near the identity, anchors, Bayes' rule."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mien.errors import BadInput
from mien.supervision.transition import (
    BOUND,
    TransitionNetwork,
    anchor_transition,
    forward_risk,
    mislabelled,
    noisy_posterior,
    rows_of,
    transition_error,
)


def stochastic(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(-1)


def test_the_noisy_posterior_sums_over_the_true_class():
    """Fails for a transposed T."""
    f, transition = stochastic(5, 3), stochastic(5, 3, 3, seed=1)
    g = noisy_posterior(f, transition)
    one = noisy_posterior(f, transition[0])
    for n in range(5):
        for j in range(3):
            assert float(g[n, j]) == pytest.approx(sum(float(transition[n, i, j] * f[n, i]) for i in range(3)))
            assert float(one[n, j]) == pytest.approx(sum(float(transition[0, i, j] * f[n, i]) for i in range(3)))
    assert torch.allclose(g.sum(dim=1), torch.ones(5, dtype=torch.float64))


def test_the_forward_risk_is_the_formula_and_cross_entropy_without_noise():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label = torch.tensor([0, 1, 2, 3, 0, 1])
    g = noisy_posterior(logits.softmax(1), stochastic(6, 4, 4))
    expected = -sum(math.log(float(g[i, label[i]])) for i in range(6)) / 6
    assert float(forward_risk(g, label)) == pytest.approx(expected)
    plain = noisy_posterior(logits.softmax(1), torch.eye(4, dtype=torch.float64))
    assert float(forward_risk(plain, label)) == pytest.approx(float(F.cross_entropy(logits, label)))
    assert float(forward_risk(g[:0], label[:0])) == 0.0
    assert float(forward_risk(torch.tensor([[0.0, 1.0]]), torch.tensor([0]))) == pytest.approx(-math.log(1e-12))
    with pytest.raises(BadInput, match="there are 4 classes"):
        forward_risk(g, label + 1)


@pytest.mark.parametrize("classes", [2, 6, 10])
def test_the_network_starts_near_the_identity_for_every_image(classes):
    network = TransitionNetwork(classes)
    transition = network(stochastic(7, classes).float())
    assert transition.shape == (7, classes, classes)
    expected = 0.9 * torch.eye(classes) + 0.1 / classes
    assert torch.allclose(transition, expected.expand(7, -1, -1), atol=2e-5)
    assert sum(p.numel() for p in network.parameters()) == classes**3


def test_the_network_is_a_clamped_linear_map_with_normalised_rows():
    network, p = TransitionNetwork(3), stochastic(4, 3).float().requires_grad_()
    with torch.no_grad():
        network.linear.weight.add_(0.8 * torch.randn(9, 3, generator=torch.Generator().manual_seed(2)))
    transition = network(p)
    weight = network.linear.weight.detach().double()
    for n in range(4):
        for i in range(3):
            row = [sum(float(weight[3 * i + j, k]) * float(p[n, k].detach()) for k in range(3)) for j in range(3)]
            row = [min(max(v, BOUND), 1 - BOUND) for v in row]
            assert transition[n, i].tolist() == pytest.approx([v / sum(row) for v in row], rel=1e-5)
    assert torch.allclose(transition.sum(dim=2), torch.ones(4, 3))
    transition[:, 0, 0].sum().backward()
    assert p.grad is not None
    assert float(p.grad.abs().sum()) > 0, "the gradient flows through the posterior into the classifier"


def test_the_chance_of_a_wrong_label_is_bayes_rule():
    f, transition, label = stochastic(5, 3), stochastic(5, 3, 3, seed=1), torch.tensor([0, 1, 2, 0, 1])
    found = mislabelled(f, transition, label)
    for n in range(5):
        joint = [float(f[n, i] * transition[n, i, label[n]]) for i in range(3)]
        wrong = sum(v for i, v in enumerate(joint) if i != int(label[n])) / sum(joint)
        assert float(found[n]) == pytest.approx(wrong)


def test_anchors_of_a_noisy_network_give_its_matrix():
    truth = torch.tensor([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.3, 0.1, 0.6]])
    sure = torch.eye(3).repeat_interleave(20, dim=0)
    mixed = stochastic(60, 3).float()
    g = noisy_posterior(torch.cat([sure, mixed]), truth)
    assert torch.allclose(anchor_transition(g, 1.0), truth, atol=1e-6)
    g[0] = torch.tensor([0.99, 0.0, 0.01])  # an outlier above all anchors of class 0
    assert not torch.allclose(anchor_transition(g, 1.0), truth, atol=1e-2)
    assert torch.allclose(anchor_transition(g, 0.97), truth, atol=1e-6)
    assert torch.allclose(anchor_transition(mixed, 0.5).sum(dim=1), torch.ones(3))
    with pytest.raises(BadInput, match="0 images"):
        anchor_transition(g[:0])


def test_the_error_is_relative_and_zero_for_the_truth():
    truth, label = stochastic(6, 4, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    rows = rows_of(truth, label)
    assert all(torch.equal(rows[n], truth[n, label[n]]) for n in range(6))
    assert transition_error(rows, rows) == 0.0
    other = stochastic(6, 4, seed=5)
    total = sum(abs(float(other[n, k] - rows[n, k])) for n in range(6) for k in range(4))
    assert transition_error(other, rows) == pytest.approx(total / 6), "rows sum to 1"
    assert transition_error(2 * truth, truth) == pytest.approx(1.0)
