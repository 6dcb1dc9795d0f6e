# SPDX-License-Identifier: Apache-2.0
"""Discriminator, its losses and the pool of old fakes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mien.errors import BadInput
from mien.nn.patchgan import FakePool, PatchGAN, feature_matching, initialise, least_squares


def test_the_papers_size_and_shapes():
    with torch.device("meta"):
        net = PatchGAN().build(6)
        outputs = net(torch.empty(1, 6, 512, 512))
    assert sum(p.numel() for p in net.parameters()) == 8_303_427
    assert [len(scale) for scale in outputs] == [5, 5, 5]
    assert [scale[0].shape[1:] for scale in outputs] == [(64, 257, 257), (64, 129, 129), (64, 65, 65)]
    assert all(scale[-1].shape[1] == 1 for scale in outputs)


def test_a_score_sees_a_patch():
    """70 pixels for three layers: stride 2 three times, then two of stride 1, kernel 4."""
    net = PatchGAN(scales=1, width=2).build(3).double()
    for layer in net.modules():
        if isinstance(layer, nn.InstanceNorm2d):
            layer.forward = lambda x: x  # type: ignore[method-assign]  # its mean is of the whole picture
    image = torch.rand(1, 3, 160, 160, dtype=torch.float64, requires_grad=True)
    scores = net(image)[0][-1]
    (gradient,) = torch.autograd.grad(scores[0, 0, 10, 10], image)
    rows = gradient.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == 70


def test_losses_by_hand():
    scores = [[torch.zeros(1), torch.tensor([[0.5, 2.0]])], [torch.zeros(1), torch.tensor([[1.0]])]]
    assert float(least_squares(scores, real=True)) == pytest.approx((0.25 + 1.0) / 2 + 0.0)
    assert float(least_squares(scores, real=False)) == pytest.approx((0.25 + 4.0) / 2 + 1.0)
    made = [[torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([9.0])]] * 2
    real = [[torch.tensor([0.0]), torch.tensor([5.0]), torch.tensor([0.0])]] * 2
    # 4 / 2 layers x (1 + 3), the mean of two equal scales; the scores themselves do not count.
    assert float(feature_matching(made, real)) == pytest.approx(8.0)


def test_feature_matching_of_the_real_side_has_no_gradient():
    made, real = torch.ones(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    feature_matching([[made, made]], [[real, real]]).backward()
    assert made.grad is not None
    assert real.grad is None


def test_pool_gives_what_it_was_given_until_it_is_full_and_then_every_second():
    torch.manual_seed(0)
    pool = FakePool(4)
    new = torch.arange(4.0).view(4, 1, 1, 1)
    assert torch.equal(pool.exchange(new), new)
    given = [float(pool.exchange(torch.full((1, 1, 1, 1), float(i)))) for i in range(4, 404)]
    old = sum(value != i for i, value in enumerate(given, start=4))
    assert 160 < old < 240
    assert all(value <= i for i, value in enumerate(given, start=4))
    assert len(set(given)) == 400  # what was stored is given once at most: it is replaced then
    assert torch.equal(FakePool(0).exchange(new), new)


def test_pool_of_one_size():
    pool = FakePool(2)
    pool.exchange(torch.zeros(1, 3, 4, 4))
    with pytest.raises(BadInput, match="holds fakes of 4 x 4 pixels, not of 8 x 4"):
        pool.exchange(torch.zeros(1, 3, 8, 4))


def test_first_weights():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(64, 64, 3), nn.BatchNorm2d(4096), nn.ConvTranspose2d(64, 64, 3))
    bias = net[0].bias.clone()
    initialise(net)
    for layer, mean in ((net[0], 0.0), (net[1], 1.0), (net[2], 0.0)):
        assert float(layer.weight.detach().mean()) == pytest.approx(mean, abs=2e-3)
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert not net[1].bias.any()
    assert torch.equal(net[0].bias, bias)


@pytest.mark.parametrize("options", [{"scales": 0}, {"width": 0}, {"layers": 9}])
def test_bad_sizes_are_refused(options: dict[str, int]):
    with pytest.raises(BadInput, match=f"patchgan.{next(iter(options))} is"):
        PatchGAN(**options)
