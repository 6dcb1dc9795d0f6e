# SPDX-License-Identifier: Apache-2.0
"""Window attention against loops over tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mien.nn.windows import ConvMLP, WindowAttention, WindowBlock


def slow_attention(module: WindowAttention, x: Tensor) -> Tensor:
    """Every token looks at the tokens of its window that it may see; windows follow from places, not from rolling."""
    _, height, width, dim = x.shape
    heads, per_head = module.heads, dim // module.heads

    def window_of(place: int, length: int) -> tuple[int, bool]:
        if length <= module.window:
            return 0, False
        full = length + -length % module.window
        shifted = (place - module.shift) % full
        return shifted // module.window, place < module.shift  # what came round is another region

    q, k, v = (module.qkv(x)[..., i * dim : (i + 1) * dim].unflatten(-1, (heads, per_head)) for i in range(3))
    out = torch.zeros_like(x).unflatten(-1, (heads, per_head))
    places = [(i, j) for i in range(height) for j in range(width)]
    for i, j in places:
        home = (window_of(i, height), window_of(j, width))
        others = [(a, b) for a, b in places if (window_of(a, height), window_of(b, width)) == home]
        for h in range(heads):
            logits = []
            for a, b in others:
                one, other = q[0, i, j, h], k[0, a, b, h]
                cosine = one @ other / (one.norm() * other.norm())
                d = torch.tensor([float(i - a), float(j - b)], dtype=x.dtype)
                bias = module.bias(d.sign() * (1 + d.abs()).log())[h]
                logits.append(cosine / max(float(module.tau[h]), 0.01) + bias)
            share = torch.stack(logits).softmax(0)
            out[0, i, j, h] = sum(s * v[0, a, b, h] for s, (a, b) in zip(share, others, strict=True))
    return module.out(out.flatten(-2))


@pytest.mark.parametrize(("height", "width", "shift"), [(8, 8, 0), (8, 8, 2), (6, 9, 2), (3, 7, 2), (2, 3, 0)])
@torch.no_grad()
def test_attention_is_that_of_loops_for_any_size(height: int, width: int, shift: int):
    """Fails when padding is seen, when what came round is seen, or when a bias belongs to another offset."""
    torch.manual_seed(0)
    module = WindowAttention(6, 2, 4, shift).double()
    module.tau[1] = 0.2 if shift else 0.001  # below the floor, where logits near 100 would outweigh the mask of -100
    x = torch.randn(1, height, width, 6, dtype=torch.float64)
    # What came round is pushed down by 100, which e^-100 makes nothing of in float64 beside the rest.
    assert torch.allclose(module(x), slow_attention(module, x), atol=1e-9)


def test_bias_starts_from_log_offsets():
    module = WindowAttention(4, 2, 4)
    table = module.offset_bias(3, 2)
    assert table.shape == (2, 6, 6)
    offset = torch.tensor([math.log(3.0), -math.log(2.0)])  # from row 0, column 1 seen from row 2, column 0: (2, -1)
    assert torch.allclose(table[:, 4, 1], module.bias(offset), atol=1e-6)


def test_conv_mlp_mixes_neighbours_only():
    torch.manual_seed(0)
    mlp = ConvMLP(4).double()
    x = torch.randn(1, 7, 7, 4, dtype=torch.float64)
    other = x.clone()
    other[0, 3, 3] += 1
    changed = (mlp(x) - mlp(other)).abs().amax(dim=(0, 3)) > 1e-12
    expected = torch.zeros(7, 7, dtype=torch.bool)
    expected[2:5, 2:5] = True
    assert torch.equal(changed, expected)


def test_block_normalises_its_branches_at_their_end():
    torch.manual_seed(0)
    block = WindowBlock(4, 2, 4, 2, drop_path=0.5).eval()
    x = torch.randn(2, 8, 8, 4)
    y = x + block.norm1(block.attention(x))
    assert torch.equal(block(x), y + block.norm2(block.mlp(y)))
    torch.manual_seed(0)
    assert not torch.equal(block.train()(x), block.eval()(x))
