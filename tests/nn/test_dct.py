# SPDX-License-Identifier: Apache-2.0
"""The cosine transform against its sum and scipy's, and one-pass statistics against those of all arrays at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.errors import BadInput
from mien.nn.dct import CoefficientStatistics, along, dct, dct2, dct_matrix, idct, idct2


@pytest.mark.parametrize("n", [1, 2, 7, 48, 128, 129])
def test_the_matrix_is_orthonormal_and_its_rows_are_the_cosines(n):
    matrix = dct_matrix(n)
    assert (matrix @ matrix.T - torch.eye(n, dtype=torch.float64)).abs().max() < 1e-12
    for k in {0, 1 % n, n - 1}:
        for m in {0, n // 2, n - 1}:
            scale = math.sqrt((1 if k == 0 else 2) / n)
            assert float(matrix[k, m]) == pytest.approx(
                scale * math.cos(math.pi * (2 * m + 1) * k / (2 * n)), abs=1e-12
            )


@settings(deadline=None, max_examples=20)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.integers(-3, 2), st.integers(0, 1000))
def test_one_axis_is_scipys_and_the_inverse_undoes_it(shape, dim, seed):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = dct(x, dim)
    assert np.allclose(found.numpy(), scipy.fft.dct(x.numpy(), axis=dim, norm="ortho"), atol=1e-12)
    assert torch.allclose(idct(found, dim), x, atol=1e-12)


def test_two_axes_are_a_double_sum_with_the_adjoint_as_gradient():
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    found = dct2(x)
    u, v = 3, 2
    by_hand = sum(
        math.sqrt(2 / 5) * math.sqrt(2 / 4) * x[1, 2, m, n].item()
        * math.cos(math.pi * (2 * m + 1) * u / 10) * math.cos(math.pi * (2 * n + 1) * v / 8)
        for m in range(5) for n in range(4)
    )  # fmt: skip
    assert found[1, 2, u, v].item() == pytest.approx(by_hand, abs=1e-12)
    upstream = torch.randn_like(found)
    found.backward(upstream)
    assert torch.allclose(x.grad, idct2(upstream), atol=1e-12), "orthonormal: the adjoint is the inverse"
    assert torch.autograd.gradcheck(dct2, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))


def test_fast_transforms_and_products_agree_also_twice_differentiated():
    x = torch.randn(3, 17, 24, dtype=torch.float64, requires_grad=True)
    for dim, inverse in ((0, False), (1, True), (2, False)):
        assert torch.allclose((idct if inverse else dct)(x, dim), along(x, dim, inverse=inverse), atol=1e-12)
    fast, slow = dct2(x), along(along(x, -1), -2)
    assert torch.allclose(fast, slow, atol=1e-12)
    curves = [torch.autograd.grad(torch.autograd.grad((c**4).sum(), x, create_graph=True)[0].square().sum(), x)[0]
              for c in (fast, slow)]  # fmt: skip
    assert torch.allclose(*curves, rtol=1e-9)
    assert torch.allclose(dct2(x.mT), dct2(x).mT, atol=1e-12), "whatever the strides"


def test_elsewhere_than_on_the_cpu_and_in_recorded_graphs_it_is_a_product():
    assert dct2(torch.empty(2, 8, 8, device="meta")).shape == (2, 8, 8)
    assert dct2(torch.empty(0, 8, 8)).shape == (0, 8, 8)

    class Transform(torch.nn.Module):
        def forward(self, x):
            return dct2(x)

    exported = torch.export.export(Transform(), (torch.rand(2, 8, 8),)).module()
    x = torch.rand(2, 8, 8)
    assert torch.allclose(exported(x), dct2(x), atol=1e-5), "not the constant of the first call"


def test_a_constant_patch_is_its_first_coefficient_alone():
    found = dct2(torch.full((128, 128), 96.0))
    assert float(found[0, 0]) == pytest.approx(12288, rel=1e-6)
    rest = found.clone()
    rest[0, 0] = 0
    assert rest.abs().max() < 0.05


def test_half_precision_is_computed_wide_and_bad_input_is_refused():
    x = torch.rand(4, 8, 8)
    assert dct2(x.half()).dtype == torch.float16
    assert torch.allclose(dct2(x.half()).float(), dct2(x), atol=2e-2)
    with pytest.raises(BadInput, match="n is 0"):
        dct_matrix(0)
    with pytest.raises(BadInput, match="dim is 2"):
        dct(torch.rand(3, 3), 2)
    with pytest.raises(BadInput, match="floating-point"):
        dct(torch.arange(4))


def test_statistics_in_one_pass_are_those_of_all_arrays_at_once():
    rng = np.random.default_rng(0)
    values = 1e4 + rng.normal(size=(37, 3, 4)) * rng.uniform(0.1, 5, size=(3, 4))
    statistics = CoefficientStatistics((3, 4))
    for part in np.split(values, [1, 1, 9, 20]):  # one of them is empty
        statistics.update(torch.from_numpy(part))
    assert int(statistics.count) == 37
    assert np.allclose(statistics.mean.numpy(), values.mean(axis=0), rtol=1e-13)
    assert np.allclose(statistics.deviation().numpy(), values.std(axis=0), rtol=1e-9), "population, not sample"
    standardised = statistics.standardise(torch.from_numpy(values))
    assert standardised.mean(dim=0).abs().max() < 1e-8
    assert torch.allclose(standardised.var(dim=0, unbiased=False), torch.ones(3, 4, dtype=torch.float64))


def test_statistics_of_constants_do_not_divide_by_zero_and_travel_with_the_state():
    statistics = CoefficientStatistics((2,), floor=1e-3)
    x = torch.tensor([[5.0, 1.0], [5.0, 3.0]])
    assert torch.equal(statistics.standardise(x), x), "nothing seen, nothing changed"
    statistics.update(x)
    assert torch.equal(statistics.deviation(), torch.tensor([1e-3, 1.0], dtype=torch.float64))
    other = CoefficientStatistics((2,), floor=1e-3)
    other.load_state_dict(statistics.state_dict())
    assert torch.equal(other.standardise(x), torch.tensor([[0.0, -1.0], [0.0, 1.0]]))
    with pytest.raises(BadInput, match=r"last axes must be \(2,\)"):
        statistics.update(torch.rand(4, 3))
    with pytest.raises(BadInput, match="floor is 0"):
        CoefficientStatistics((2,), floor=0)
