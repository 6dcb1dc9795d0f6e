# SPDX-License-Identifier: Apache-2.0
"""Adapters against y = W x + b + sum g B A x written out, merging, taking out, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mien.errors import BadInput
from mien.nn.lora import LoRALinear, adapt, linear_layers, restore


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4, bias=False))


def filled(module, seed=1):
    """Every adapter with weights drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith((".A", ".B")):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


@settings(max_examples=25, deadline=None)
@given(
    inputs=st.integers(1, 7),
    outputs=st.integers(1, 7),
    scales=st.lists(st.floats(-2, 2), min_size=1, max_size=3),
    lead=st.lists(st.integers(0, 3), max_size=2),
    data=st.data(),
)
def test_the_forward_pass_is_the_equation(inputs, outputs, scales, lead, data):
    rank = data.draw(st.integers(1, inputs))
    base = nn.Linear(inputs, outputs).double()
    branches = {f"k{i}": g for i, g in enumerate(scales)}
    layer = filled(LoRALinear(base, branches, rank))
    x = torch.randn(*lead, inputs, dtype=torch.float64)
    expected = x @ base.weight.T + base.bias
    for name, g in branches.items():
        branch = layer.branch(name)
        expected = expected + g * (x @ branch.A.T) @ branch.B.T
    assert torch.allclose(layer(x), expected, atol=1e-10)


def test_gradients_reach_a_and_b_of_every_branch_and_equal_numerical_ones():
    layer = filled(LoRALinear(nn.Linear(4, 3).double(), {"a": 0.25, "b": 0.5}, 2))
    names = [n for n, _ in layer.named_parameters()]
    x = torch.randn(5, 4, dtype=torch.float64)

    def of(*values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(of, values)


def test_new_adapters_change_nothing_and_merged_ones_compute_the_same():
    plain = network()
    adapted = copy.deepcopy(plain)
    layers = adapt(adapted, linear_layers(adapted, ["*"]), {"general": 0.25, "isolated": 0.5}, rank=2)
    assert sorted(layers) == ["0", "2"]
    x = torch.randn(7, 6)
    with torch.no_grad():
        for layer in layers.values():
            for name in layer.branches:
                layer.branch(name).A.normal_()
        assert torch.equal(adapted(x), plain(x)), "B is zero at first"
        before = filled(adapted)(x)
        for layer in layers.values():
            layer.merge()
        assert torch.allclose(adapted(x), before, atol=1e-5)
        restore(adapted)
        assert torch.allclose(adapted(x), before, atol=1e-5)
    assert [n for n, _ in adapted.named_parameters()] == [n for n, _ in plain.named_parameters()]


def test_taking_out_without_merging_leaves_the_old_weights():
    plain = network()
    adapted = copy.deepcopy(plain)
    adapt(adapted, ["0"], {"main": 1.0}, rank=1)
    filled(adapted)
    restore(adapted)
    assert all(torch.equal(a, b) for a, b in zip(adapted.parameters(), plain.parameters(), strict=True))


def test_layers_are_chosen_by_name():
    module = nn.ModuleDict({"attn": nn.ModuleDict({"qkv": nn.Linear(2, 6)}), "mlp": nn.Linear(2, 2)})
    assert list(linear_layers(module, ["*.qkv"])) == ["attn.qkv"]
    assert list(linear_layers(module, ["mlp", "*.qkv"])) == ["attn.qkv", "mlp"]
    with pytest.raises(BadInput, match=r"no linear layer is called so; there are attn\.qkv, mlp"):
        linear_layers(module, ["*.proj"])


@pytest.mark.parametrize("rank", [0, 7])
def test_a_rank_outside_the_inputs_is_refused(rank):
    with pytest.raises(BadInput, match=f"rank is {rank}"):
        adapt(network(), ["0"], {"main": 1.0}, rank)
