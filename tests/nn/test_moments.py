# SPDX-License-Identifier: Apache-2.0
"""Second moments collected by hooks, against the sum over rows written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mien.errors import BadInput
from mien.nn.moments import SecondMoment, input_moments


@settings(max_examples=25, deadline=None)
@given(width=st.integers(1, 5), sizes=st.lists(st.integers(0, 6), min_size=1, max_size=4), tokens=st.integers(1, 3))
def test_the_mean_is_over_all_rows_however_they_come(width, sizes, tokens):
    moment = SecondMoment()
    rows = []
    for size in sizes:
        x = torch.randn(size, tokens, width)
        moment.add(x)
        rows += list(x.reshape(-1, width).double())
    if not rows:
        with pytest.raises(BadInput, match="no input has reached"):
            moment.mean()
        return
    expected = torch.zeros(width, width, dtype=torch.float64)
    for row in rows:
        expected += torch.outer(row, row)
    assert moment.rows == len(rows)
    assert torch.allclose(moment.mean().double(), expected / len(rows), atol=1e-6)


def test_hooks_see_what_flows_into_the_named_layers_and_are_gone_afterwards():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(8, 3)
    with input_moments({"first": network[0], "last": network[2]}) as moments:
        network(x[:5])
        network(x[5:])
    inner = network[1](network[0](x)).detach()
    assert torch.allclose(moments["first"].mean(), x.T @ x / 8, atol=1e-6)
    assert torch.allclose(moments["last"].mean(), inner.T @ inner / 8, atol=1e-6)
    network(x)
    assert moments["first"].rows == 8, "a hook was left behind"


def test_hooks_are_taken_out_after_an_error():
    layer = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="stop"), input_moments({"layer": layer}):
        raise RuntimeError("stop")
    assert not layer._forward_pre_hooks
