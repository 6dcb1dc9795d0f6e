# SPDX-License-Identifier: Apache-2.0
"""The manifold term against loops over pairs, and what follows from its definition."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.errors import BadInput
from mien.supervision.manifold import Manifold, dense_affinity, manifold_term, neighbour_graphs
from mien.supervision.transition import TransitionNetwork


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_term(transition, affinity):
    """sum_ij S_ij ||T_i - T_j||_F^2."""
    size = len(transition)
    pairs = product(range(size), range(size))
    return sum(affinity[i, j] * (transition[i] - transition[j]).pow(2).sum() for i, j in pairs)


def slow_graph(z, label, k, sigma, agree, search):
    """S^I or S^B, row by row."""
    size = len(z)
    found = torch.zeros(size, size, dtype=torch.float64)
    for i in range(size):
        square = {j: float(((z[i] - z[j]) ** 2).sum()) for j in range(size) if j != i}
        right = {j for j in square if (int(label[i]) == int(label[j])) == agree}
        among = right if search == "label" else set(square)
        for j in sorted(among, key=square.__getitem__)[:k]:
            if j in right:
                found[i, j] = math.exp(-square[j] / sigma**2)
    return found


@pytest.mark.parametrize("search", ["batch", "label"])
@pytest.mark.parametrize(("first", "second"), [(1, 1), (3, 5), (5, 2), (50, 50)])
def test_graphs_are_the_definition(search, first, second):
    z, label = draw(12, 5), torch.arange(12) % 3
    intra, inter = neighbour_graphs(z, label, first, second, 1.7, search)
    assert torch.allclose(intra, slow_graph(z, label, first, 1.7, True, search), atol=1e-12)
    assert torch.allclose(inter, slow_graph(z, label, second, 1.7, False, search), atol=1e-12)
    assert float((intra + inter).diagonal().abs().sum()) == 0
    if search == "batch" and first == second:
        assert ((intra + inter > 0).sum(dim=1) == min(first, 11)).all(), "each neighbour is in one of the two graphs"


def test_the_dense_form_is_the_released_one():
    p = draw(9, 4).softmax(1)
    found = dense_affinity(p, 1.1)
    for i, j in product(range(9), range(9)):
        sign = 1 if int(p[i].argmax()) == int(p[j].argmax()) else -1
        expected = sign * math.exp(-float(((p[i] - p[j]) ** 2).sum()) / (2 * 1.1**2))
        assert float(found[i, j]) == pytest.approx(expected, abs=1e-6)


@given(size=st.integers(0, 9), classes=st.integers(2, 4), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_trace_form_is_the_sum_over_pairs_with_its_gradients(size, classes, seed):
    ours = draw(size, classes, classes, seed=seed).softmax(2).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    s = draw(size, size, seed=seed + 1)
    s = (s + s.T) / 2
    fast = manifold_term(ours, s)
    fast.backward()
    slow = slow_term(theirs, s) + 0 * theirs.sum()
    slow.backward()
    assert float(fast.detach()) == pytest.approx(float(slow.detach()), abs=1e-10)
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-10)


def test_a_directed_graph_breaks_the_trace_form_and_symmetrising_mends_it():
    transition = draw(8, 3, 3).softmax(2)
    directed, _ = neighbour_graphs(draw(8, 2), torch.arange(8) % 2, 2, 2, 1.0)
    truth = float(slow_term(transition, directed))
    assert float(manifold_term(transition, directed)) != pytest.approx(truth, rel=1e-3)
    assert float(manifold_term(transition, (directed + directed.T) / 2)) == pytest.approx(truth)


@pytest.mark.parametrize("graphs", ["both", "intra"])
@pytest.mark.parametrize(("average", "space"), [("edges", "features"), ("pairs", "posterior")])
def test_the_knn_form_is_m_i_minus_m_b(graphs, average, space):
    features, p, label, transition = (
        draw(10, 6),
        draw(10, 3).softmax(1),
        torch.arange(10) % 3,
        draw(10, 3, 3).softmax(2),
    )
    term = Manifold(graphs=graphs, average=average, space=space, k_intra=3, k_inter=4, sigma=1.5)
    z = features if space == "features" else p
    intra = slow_graph(z, label, 3, 1.5, True, "batch") / (30 if average == "edges" else 100)
    inter = slow_graph(z, label, 4, 1.5, False, "batch") / (40 if average == "edges" else 100)
    expected = slow_term(transition, intra) - (slow_term(transition, inter) if graphs == "both" else 0)
    found = manifold_term(transition, term.affinity(features, p, label))
    assert float(found) == pytest.approx(float(expected), abs=1e-12)


def test_the_dense_term_averages_over_all_pairs_and_can_leave_out_the_minus():
    p, label, transition = draw(7, 3).softmax(1), torch.arange(7) % 3, draw(7, 3, 3).softmax(2)
    s = dense_affinity(p, 1.1) / 49
    for graphs, expected in (("both", s), ("intra", s.clamp_min(0))):
        found = manifold_term(transition, Manifold(form="dense", graphs=graphs).affinity(p, p, label))
        assert float(found) == pytest.approx(float(slow_term(transition, expected)), abs=1e-9)


def test_random_edges_are_the_same_graph_on_other_images():
    z, label = draw(20, 4), torch.arange(20) % 4
    nearest = Manifold(sigma=2.0).affinity(z, z.softmax(1), label)
    torch.manual_seed(0)
    mixed = Manifold(sigma=2.0, edges="random").affinity(z, z.softmax(1), label)
    assert not torch.allclose(mixed, nearest)
    assert torch.allclose(mixed, mixed.T)
    assert torch.allclose(torch.linalg.eigvalsh(mixed), torch.linalg.eigvalsh(nearest), atol=1e-10)


def test_at_the_start_the_term_and_its_gradients_are_zero():
    """T is the same for every x, so only the forward risk breaks the tie."""
    network, p = TransitionNetwork(5), draw(16, 5).float().softmax(1).requires_grad_()
    term = Manifold().affinity(draw(16, 3).float(), p, torch.arange(16) % 5)
    value = manifold_term(network(p), term)
    value.backward()
    assert float(value.detach()) == pytest.approx(0, abs=1e-9)
    assert float(network.linear.weight.grad.abs().max()) < 1e-6
    assert float(p.grad.abs().max()) < 1e-6


def test_affinities_are_constants():
    z = draw(6, 3).requires_grad_()
    assert not Manifold().affinity(z, z.softmax(1), torch.arange(6) % 2).requires_grad
    assert not Manifold(form="dense").affinity(z, z.softmax(1), torch.arange(6) % 2).requires_grad


@given(seed=st.integers(0, 200), classes=st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_the_term_is_bounded_because_rows_are_distributions(seed, classes):
    transition = (20 * draw(10, classes, classes, seed=seed)).softmax(2)
    s = Manifold(sigma=3.0).affinity(draw(10, 2, seed=seed), transition[:, 0], torch.arange(10) % 2)
    assert abs(float(manifold_term(transition, s))) <= 2 * classes * float(s.abs().sum()) + 1e-9


@pytest.mark.parametrize("size", [0, 1, 2])
@pytest.mark.parametrize("form", ["knn", "dense"])
def test_tiny_batches_are_finite(size, form):
    z, label = draw(size, 3), torch.zeros(size, dtype=torch.long)
    for search in ("batch", "label"):
        s = Manifold(form=form, search=search).affinity(z, z.softmax(1), label)
        assert s.shape == (size, size)
        assert math.isfinite(float(manifold_term(draw(size, 3, 3).softmax(2), s)))


def test_equal_images_are_neighbours_like_any_others():
    z = torch.zeros(5, 3, dtype=torch.float64)
    intra, inter = neighbour_graphs(z, torch.zeros(5, dtype=torch.long), 2, 2, 1.1)
    assert ((intra == 1).sum(dim=1) == 2).all()
    assert float(intra.diagonal().sum() + inter.sum()) == 0


@pytest.mark.parametrize("graphs", ["both", "intra"])
@pytest.mark.parametrize(
    ("search", "average", "space"), [("batch", "edges", "features"), ("label", "pairs", "posterior")]
)
def test_a_whole_data_set_edge_by_edge_is_the_dense_matrix(graphs, search, average, space, monkeypatch):
    monkeypatch.setattr("mien.supervision.manifold.ROWS", 16)  # several chunks
    z, p, label, transition = draw(50, 4), draw(50, 3).softmax(1), torch.arange(50) % 3, draw(50, 3, 3).softmax(2)
    term = Manifold(graphs=graphs, search=search, average=average, space=space, k_intra=5, k_inter=9, sigma=1.5)
    signed = slow_graph(z if space == "features" else p, label, 5, 1.5, True, search) / (
        250 if average == "edges" else 2500
    )
    if graphs == "both":
        other = slow_graph(z if space == "features" else p, label, 9, 1.5, False, search)
        signed = signed - other / (450 if average == "edges" else 2500)
    assert term.over(transition, z, p, label) == pytest.approx(float(slow_term(transition, signed)), rel=1e-9)
    assert term.over(transition[:0], z[:0], p[:0], label[:0]) == 0.0
    with pytest.raises(BadInput, match="use knn"):
        Manifold(form="dense").over(transition, z, p, label)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Manifold(form="kn"), "knn"),
        (lambda: Manifold(graphs="inter"), "manifold.graphs"),
        (lambda: Manifold(space="pixels"), "manifold.space"),
        (lambda: Manifold(search="all"), "manifold.search"),
        (lambda: Manifold(average="sum"), "manifold.average"),
        (lambda: Manifold(edges="far"), "manifold.edges"),
        (lambda: Manifold(k_intra=0), "manifold.k_intra is 0"),
        (lambda: Manifold(k_inter=0), "manifold.k_inter is 0"),
        (lambda: Manifold(weight=-0.3), "manifold.weight is -0.3"),
        (lambda: Manifold(weight=math.nan), "manifold.weight is nan"),
        (lambda: Manifold(sigma=0), "manifold.sigma is 0"),
    ],
)
def test_bad_input_is_one_line(make, message):
    with pytest.raises(BadInput, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
