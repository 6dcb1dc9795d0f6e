# SPDX-License-Identifier: Apache-2.0
"""The multi-stage fusion transformer against its equations, one head and one token at a time, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mien.architectures.fusion import Attention, CrossBlock, EncoderBlock, FuseUnit, FusionTransformer
from mien.architectures.nar_former import NARFormer


def norm(x: torch.Tensor, layer: nn.LayerNorm) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


def affine(x: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
    return x @ layer.weight.T + layer.bias


def attend(query: torch.Tensor, memory: torch.Tensor, part: Attention, *, projected: bool = True) -> torch.Tensor:
    """Of one sequence, (Q, d) and (L, d), head by head."""
    q = affine(query, part.query) if projected else query
    k, v = affine(memory, part.key), affine(memory, part.value)
    size = q.shape[1] // part.heads
    heads = []
    for h in range(part.heads):
        cut = slice(h * size, (h + 1) * size)
        weights = [[float(a @ b) / math.sqrt(size) for b in k[:, cut]] for a in q[:, cut]]
        heads.append(torch.tensor(weights, dtype=torch.float64).softmax(-1) @ v[:, cut])
    return affine(torch.cat(heads, dim=1), part.out)


def feed(x: torch.Tensor, part) -> torch.Tensor:
    first, _, _, second = part.layers
    return x + affine(affine(norm(x, part.norm), first).clamp_min(0), second)


def encode(x: torch.Tensor, block: EncoderBlock) -> torch.Tensor:
    normed = norm(x, block.norm)
    return feed(x + attend(normed, normed, block.attention), block.feed_forward)


def fuse(query: torch.Tensor, memory: torch.Tensor, unit: FuseUnit) -> torch.Tensor:
    z = attend(norm(query, unit.norm), norm(memory, unit.memory_norm), unit.attention)
    return feed(z, unit.feed_forward)


def compress(x: torch.Tensor, block: CrossBlock) -> torch.Tensor:
    read = attend(block.query[0], norm(x, block.norm), block.attention, projected=False)
    return feed(read, block.feed_forward)


def shaken(model: nn.Module) -> nn.Module:
    """The model with random biases and norms, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model.double().eval()


@pytest.mark.parametrize("queries", [(4, 2, 1), (3, 1), (1,)])
def test_the_stages_are_the_equations(queries):
    torch.manual_seed(0)
    model = shaken(FusionTransformer(12, 2, 3, queries, 0.1))
    tokens = torch.randn(2, 5, 12, dtype=torch.float64)
    wanted = []
    with torch.no_grad():
        for memory in tokens:
            for block in model.encoder:
                memory = encode(memory, block)
            x = compress(memory, model.cross[0])
            for unit, block in zip(model.fuse, model.cross[1:], strict=True):
                x = compress(fuse(x, memory, unit), block)
            assert len(x) == 1
            wanted.append(norm(x, model.norm)[0])
        assert torch.allclose(model(tokens), torch.stack(wanted), atol=1e-10)


def test_without_queries_it_is_a_plain_transformer_that_reads_the_last_token():
    torch.manual_seed(0)
    model = shaken(FusionTransformer(12, 2, 3, (), 0.1))
    tokens = torch.randn(1, 4, 12, dtype=torch.float64)
    x = tokens[0]
    with torch.no_grad():
        for block in model.encoder:
            x = encode(x, block)
        assert torch.allclose(model(tokens)[0], norm(x[-1:], model.norm)[0], atol=1e-10)


def test_learnt_queries_have_no_projection_and_unit_scale():
    torch.manual_seed(0)
    block = CrossBlock(192, 6, 0.1, 4)
    assert block.query.shape == (1, 4, 192)
    assert float(block.query.detach().std()) == pytest.approx(1.0, abs=0.05)
    assert isinstance(block.attention.query, nn.Identity)


def test_gradients_against_finite_differences():
    torch.manual_seed(0)
    model = shaken(FusionTransformer(4, 1, 2, (2, 1), 0.0))
    assert torch.autograd.gradcheck(model, torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True))


def test_parameters_of_the_papers_sizes():
    with torch.device("meta"):
        transformer = FusionTransformer(192, 6, 6, (4, 2, 1), 0.1)
    method = NARFormer()
    count = sum(p.numel() for p in method.parameters())
    assert count == 4_822_081, "the paper's setting for cells, depth map and head included"
    assert sum(p.numel() for p in method.depth_map.parameters()) == 37_056
    assert sum(p.numel() for p in method.head.parameters()) == 193
    assert sum(p.numel() for p in transformer.parameters()) == count - 37_056 - 193
    whole = NARFormer(space="onnx", layers=1)
    assert [layer.in_features for layer in whole.head if isinstance(layer, nn.Linear)] == [1216, 608, 304, 152]
