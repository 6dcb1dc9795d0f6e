# SPDX-License-Identifier: Apache-2.0
"""LoDA's subspaces and recalibration against generalised eigenvalues, an iteration, and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.adaptation.loda import energy_ratio, general_subspace, isolated_subspace, recalibration_matrix
from mien.adaptation.null_space_lora import null_subspace
from mien.errors import BadInput


def moments(width, seed, rows=400):
    """Second moments of old and new tokens whose directions differ in energy, float64."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for _ in range(2):
        scales = torch.logspace(0, -2, width, dtype=torch.float64)[torch.randperm(width, generator=generator)]
        mix = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator))[0]
        x = (torch.randn(rows, width, dtype=torch.float64, generator=generator) * scales) @ mix
        result.append(x.T @ x / rows)
    return result


def best_trace_ratio(old, new, rank):
    """max over orthonormal U of tr(U^T new U) / tr(U^T old U), by the iteration that converges to it."""
    value = 0.0
    for _ in range(200):
        basis = np.linalg.eigh((new - value * old).numpy())[1][:, -rank:]
        value = np.trace(basis.T @ new.numpy() @ basis) / np.trace(basis.T @ old.numpy() @ basis)
    return value


@settings(max_examples=20, deadline=None)
@given(width=st.integers(2, 16), seed=st.integers(0, 999), data=st.data())
def test_the_general_subspace_has_the_most_energy_in_both(width, seed, data):
    old, new = moments(width, seed)
    rank = data.draw(st.integers(1, width))
    basis = general_subspace(old, new, rank)
    assert torch.allclose(basis.T @ basis, torch.eye(rank, dtype=torch.float64), atol=1e-10)
    energy = float((basis.T @ (old + new) @ basis).trace())
    assert energy == pytest.approx(np.linalg.eigvalsh((old + new).numpy())[-rank:].sum())


@settings(max_examples=20, deadline=None)
@given(width=st.integers(2, 16), seed=st.integers(0, 999))
def test_of_rank_1_the_isolated_direction_is_the_largest_generalised_eigenvector(width, seed):
    old, new = moments(width, seed)
    basis, added = isolated_subspace(old, new, 1)
    best = scipy.linalg.eigh(new.numpy(), old.numpy(), eigvals_only=True)[-1]
    assert added == 0
    assert energy_ratio(basis, old, new) == pytest.approx(best, rel=1e-8)
    for other in (torch.randn(width, 1, dtype=torch.float64), null_subspace(old, 1), general_subspace(old, new, 1)):
        assert energy_ratio(other, old, new) <= best * (1 + 1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), rank=st.integers(2, 6))
def test_of_higher_rank_the_ratio_is_close_to_the_best_and_never_above(seed, rank):
    old, new = moments(24, seed)
    basis, _ = isolated_subspace(old, new, rank)
    assert torch.allclose(basis.T @ basis, torch.eye(rank, dtype=torch.float64), atol=1e-8)
    ratio, best = energy_ratio(basis, old, new), best_trace_ratio(old, new, rank)
    eigenvalues = scipy.linalg.eigh(new.numpy(), old.numpy(), eigvals_only=True)
    # every direction of the span has at least the r-th eigenvalue, so their traces have, too
    assert eigenvalues[-rank] * (1 - 1e-9) <= ratio <= best * (1 + 1e-9)
    assert ratio > energy_ratio(general_subspace(old, new, rank), old, new)
    span = scipy.linalg.eigh(new.numpy(), old.numpy())[1][:, -rank:]  # the span is that of the top eigenvectors
    inside = basis.numpy() @ (basis.numpy().T @ span)
    assert np.allclose(inside, span, atol=1e-6 * np.abs(span).max())


def test_a_singular_old_moment_gets_the_least_ridge_that_works_and_says_so():
    old, new = moments(6, 0)
    old[:, 5] = old[5] = 0
    basis, added = isolated_subspace(old, new, 1)
    steps = np.cumsum(10.0 ** np.arange(-12, 0))
    assert np.isclose(added, steps, rtol=1e-9).any()
    assert torch.isfinite(basis).all()
    assert float(basis[5].abs()) > 0.99, "the direction that old tasks never used is the isolated one"
    with pytest.raises(BadInput, match="not finite"):
        isolated_subspace(torch.full((2, 2), torch.nan), torch.eye(2), 1)


# --- recalibration --------------------------------------------------------------------------------------------
def objective(lam, B, A, old, new, gamma):
    """||B Lam A X_old^T||^2 + gamma ||B (Lam - I) A X_new^T||^2, with X^T X in the place of X."""
    drift = B @ lam @ A
    lost = B @ (lam - torch.eye(len(lam), dtype=lam.dtype)) @ A
    return (drift @ old @ drift.T).trace() + gamma * (lost @ new @ lost.T).trace()


def case(seed, width=10, rank=3):
    old, new = moments(width, seed)
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(rank, width, dtype=torch.float64, generator=generator)
    B = torch.randn(7, rank, dtype=torch.float64, generator=generator)
    return A, B, old, new


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9999), gamma=st.floats(0.1, 10))
def test_the_full_recalibration_minimises_the_objective(seed, gamma):
    A, B, old, new = case(seed)
    lam = recalibration_matrix(A, old, new, gamma, "full").requires_grad_()
    value = objective(lam, B, A, old, new, gamma)
    (gradient,) = torch.autograd.grad(value, lam)
    assert float(gradient.abs().max()) < 1e-7 * float(value.detach()) + 1e-9
    diagonal = recalibration_matrix(A, old, new, gamma, "diagonal")
    identity = recalibration_matrix(A, old, new, gamma, "none")
    assert torch.equal(identity, torch.eye(3, dtype=torch.float64))
    assert float(value.detach()) <= float(objective(diagonal, B, A, old, new, gamma)) * (1 + 1e-9)
    drift = B @ lam.detach() @ A
    assert float((drift @ old @ drift.T).trace()) < float(objective(identity, B, A, old, new, gamma))


def test_the_diagonal_recalibration_is_the_published_row_by_row_form():
    A, _, old, new = case(3)
    lam = recalibration_matrix(A, old, new, 3.0, "diagonal")
    for i, a in enumerate(A):
        go, gn = float(a @ old @ a), float(a @ new @ a)
        eta = go / (go + 3.0 * gn + 1e-12)
        assert float(lam[i, i]) == pytest.approx(1 - eta, rel=1e-12)
    assert float((lam - torch.diag(lam.diagonal())).abs().max()) == 0


@pytest.mark.parametrize("form", ["full", "diagonal"])
def test_directions_without_energy_stay_finite(form):
    A = torch.eye(2, 3)
    lam = recalibration_matrix(A, torch.zeros(3, 3), torch.zeros(3, 3), 3.0, form)
    assert torch.isfinite(lam).all()
