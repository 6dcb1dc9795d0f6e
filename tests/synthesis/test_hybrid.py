# SPDX-License-Identifier: Apache-2.0
"""CSHNet's generator: sizes of the paper, formulas of its blocks by hand, and any size of picture."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from mien.errors import BadInput
from mien.synthesis.hybrid import CES, IGC, SEC, Architecture, ConvUnit, HybridGenerator, PoolFormer, guided

SMALL = Architecture(width=8, downs=2, window=4, heads=4, drop_path=0.0)


def made(architecture: Architecture, seed: int = 0) -> HybridGenerator:
    torch.manual_seed(seed)
    return architecture.build().eval()


def number(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_paper_has_its_number_of_weights():
    with torch.device("meta"):
        net = Architecture().build()
    assert net.igc is not None
    assert [number(unit) for unit in net.scb] == [17_372_224] * 4
    assert [type(unit) for unit in net.scb] == [SEC, CES, SEC, CES]
    assert number(net.igc) == 12_172_160
    assert number(net.encoder) + number(net.decoder) == 5_915_459
    assert number(net) == 87_576_515


def test_the_paper_has_its_shapes():
    with torch.device("meta"):
        net = Architecture().build()
        image = torch.empty(1, 3, 512, 512)
        shapes = []
        for layer in net.encoder:
            image = layer(image)
            shapes.append(tuple(image.shape[1:]))
        assert net.igc is not None
        a, b = net.igc(torch.empty(1, 3, 512, 512))
    assert a is not None
    assert b is not None
    stages = [shape for i, shape in enumerate(shapes) if i in (4, 8, 12, 16)]
    assert stages == [(64, 512, 512), (128, 256, 256), (256, 128, 128), (512, 64, 64)]
    assert a.shape == b.shape == (1, 512, 64, 64)


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


@pytest.mark.parametrize("kind", [SEC, CES])
def test_blocks_are_their_formulas(kind: type[SEC] | type[CES]):
    """With R(x) = 2 x and W(x) = 3 x every number can be made by hand; fails when the leading branch is swapped."""
    block = kind(3, lambda: Times(2.0), lambda: Times(3.0)).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lead, other = (2 * x, 3 * (2 * x)) if kind is SEC else (3 * x, 2 * (3 * x))
    joined = torch.cat([lead, other / (1 + torch.exp(-lead))], dim=1)
    weight, bias = block.merge.weight[:, :, 0, 0], block.merge.bias
    expected = torch.einsum("oc,bchw->bohw", weight, joined) + bias[:, None, None]
    assert torch.allclose(block(x), expected, atol=1e-12)


@pytest.mark.parametrize("width", [4, 16, 64])
def test_merges_pass_the_same_share_of_the_signal_at_every_width(width: int):
    """0.02 sqrt(2 x 512), at the paper's width with the paper's N(0, 0.02)."""
    torch.manual_seed(0)
    net = Architecture(width=width, heads=4, guide="none", pool_former=False).build()
    merges = [unit.merge.weight for unit in net.scb]
    gains = [float(w.std() * w.shape[1] ** 0.5) for w in merges]
    assert sum(gains) / 4 == pytest.approx(0.64, rel=0.03)
    assert float(net.decoder[0].weight.std()) == pytest.approx(0.02, rel=0.05)


def test_convolution_unit_is_two_groups_with_one_relu_and_a_residual():
    unit = ConvUnit(6)
    kinds = [type(layer).__name__ for layer in unit.cnn]
    group = ["Conv2d"] * 4 + ["BatchNorm2d"]
    assert kinds == [*group, "ReLU", *group]
    assert [m.kernel_size[0] for m in unit.cnn if isinstance(m, nn.Conv2d)] == [1, 3, 3, 1, 1, 3, 3, 1]
    x = torch.randn(2, 6, 5, 5)
    assert torch.equal(unit.eval()(x), unit.cnn(x) + x)


def test_pool_former_starts_as_the_identity_and_is_its_formula():
    torch.manual_seed(0)
    block = PoolFormer(4).double()
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    assert (block(x) - x).abs().max() < 1e-4
    with torch.no_grad():
        block.gain1.fill_(0.7)
        block.gain2.fill_(0.0)
    normed = (x - x.mean(dim=(1, 2, 3), keepdim=True)) / (
        x.var(dim=(1, 2, 3), keepdim=True, correction=0) + 1e-5
    ).sqrt()
    pooled = torch.empty_like(x)
    for i in range(5):
        for j in range(6):  # neighbours that are there, and no zeros beyond the border
            pooled[..., i, j] = normed[..., max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].mean(dim=(2, 3))
    assert torch.allclose(block(x), x + 0.7 * (pooled - normed), atol=1e-9)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (4, 4), (20, 36), (64, 28)])
def test_pictures_of_any_multiple_work(height: int, width: int):
    """Smaller than a window, no multiple of it, longer than wide."""
    net = made(SMALL)
    out = net(torch.rand(2, 3, height, width) * 2 - 1)
    assert out.shape == (2, 3, height, width)
    assert torch.isfinite(out).all()
    assert out.abs().max() <= 1


def test_pictures_of_a_batch_do_not_see_each_other():
    net = made(SMALL)
    batch = torch.rand(3, 3, 24, 24)
    assert torch.allclose(net(batch)[1:2], net(batch[1:2]), atol=1e-5)


def test_guide_attends_over_positions_at_batch_one():
    """Fails in a layer that takes the batch for the positions: a far pixel then changes nothing here."""
    torch.manual_seed(0)
    guide = IGC(16, 8, 4, 4).eval()
    one = torch.rand(1, 3, 64, 64)
    other = one.clone()
    other[..., :4, :4] = 1 - other[..., :4, :4]
    a, changed = guide(one)[0], guide(other)[0]
    assert a is not None
    assert changed is not None
    assert (a - changed)[..., 12:, 12:].abs().max() > 1e-6


def test_one_norm_serves_both_places_of_the_guide():
    with torch.device("meta"):
        names = [name for name, _ in IGC(16, 8, 4, 4).named_parameters() if "norm.weight" in name]
    assert len(names) == 3


def test_a_of_one_and_b_of_zero_change_nothing():
    torch.manual_seed(0)
    net = made(SMALL)
    image = torch.rand(1, 3, 16, 16)
    assert net.igc is not None
    assert net.igc.a is not None
    assert net.igc.b is not None
    with torch.no_grad():
        for layer, bias in ((net.igc.a, 1.0), (net.igc.b, 0.0)):
            layer.weight.zero_()
            assert layer.bias is not None
            layer.bias.fill_(bias)
        unguided = made(dataclasses.replace(SMALL, guide="none"))
        missing = unguided.load_state_dict(net.state_dict(), strict=False)
        assert not missing.missing_keys
        assert torch.allclose(net(image), unguided(image), atol=1e-6)


@pytest.mark.parametrize(("at", "expected"), [("pairs", 2), ("blocks", 5)])
def test_where_the_guide_is_used(at: str, expected: int):
    """Every unit replaced by the identity and b by 1: the bottleneck adds 1 at each use."""
    net = made(dataclasses.replace(SMALL, guide="b", guide_at=at))
    net.scb = nn.ModuleList(nn.Identity() for _ in range(4))
    seen: list[Tensor] = []
    net.decoder = nn.Sequential(nn.Identity())
    net.encoder.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    assert net.igc is not None
    assert net.igc.b is not None
    assert net.igc.b.bias is not None
    with torch.no_grad():
        net.igc.b.weight.zero_()
        net.igc.b.bias.fill_(1.0)
        out = net(torch.rand(1, 3, 16, 16))
    assert torch.allclose(out, seen[0] + expected, atol=1e-5)


def test_guided_by_hand():
    h, a, b = torch.tensor([2.0]), torch.tensor([3.0]), torch.tensor([5.0])
    assert [float(guided(h, *pair)) for pair in ((a, b), (a, None), (None, b), (None, None))] == [11, 6, 7, 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0}, "architecture.width is 0"),
        ({"units": ()}, "architecture.units are"),
        ({"units": ("sec", "cse")}, "architecture.units are"),
        ({"window": 5}, "architecture.window is 5: it must be even"),
        ({"heads": 3}, "architecture.heads is 3: it must divide"),
        ({"drop_path": 1.0}, "architecture.drop_path is 1.0"),
        ({"guide": "c"}, "architecture.guide is 'c'"),
        ({"guide_at": "c"}, "architecture.guide_at is 'c'"),
        ({"mlp_ratio": 0.0}, "mlp_ratio is 0.0"),
    ],
)
def test_bad_sizes_are_refused(options: dict[str, object], words: str):
    with pytest.raises(BadInput, match=words):
        dataclasses.replace(SMALL, **options)  # type: ignore[arg-type]
