# SPDX-License-Identifier: Apache-2.0
"""The method's equations against plain computations: transform, flow, losses, recovery; and a short training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from mien import api
from mien.engine import Phase
from mien.errors import BadInput
from mien.nn.lpips import Lpips
from mien.nn.wavelet import haar, inverse_haar
from mien.optim.recipe import Recipe
from mien.privacy.data import Portrait
from mien.privacy.flow import DenseBlock, SecureCoupling, SecureFlow, bounded_scale
from mien.privacy.obfuscate import Obfuscation
from mien.privacy.pro_face_s import ProFaceS, hinge, pixel_triplet


def spread_out(module, std=0.03, seed=0):
    """The module with all weights from N(0, std^2), in float64."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * std
    return module


def small(**config):
    torch.manual_seed(0)
    return ProFaceS(**{"blocks": 2, "growth": 4, "perceptual": "none", "image_size": 16} | config)


def pictures(count=2, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(count, 3, size, size, generator=generator) * 2 - 1 for _ in range(2)]


# --- transform ----------------------------------------------------------------------------------------------------
def test_haar_is_the_cards_formula_in_the_cards_order():
    image = torch.randn(1, 2, 4, 6, dtype=torch.float64)
    bands = haar(image)
    for channel in range(2):
        for row in range(2):
            for column in range(3):
                a = image[0, channel, 2 * row, 2 * column]
                b = image[0, channel, 2 * row + 1, 2 * column]
                c = image[0, channel, 2 * row, 2 * column + 1]
                d = image[0, channel, 2 * row + 1, 2 * column + 1]
                expected = [(a + b + c + d) / 2, (-a - b + c + d) / 2, (-a + b - c + d) / 2, (a - b - c + d) / 2]
                for band, value in enumerate(expected):
                    assert bands[0, 2 * band + channel, row, column] == value


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 9999))
@hypothesis_settings(max_examples=25, deadline=None)
def test_haar_is_undone_and_keeps_lengths(rows, columns, channels, seed):
    image = torch.randn(2, channels, 2 * rows, 2 * columns, generator=torch.Generator().manual_seed(seed))
    bands = haar(image)
    assert (inverse_haar(bands) - image).abs().max() < 1e-6
    assert torch.allclose(bands.square().sum(), image.square().sum(), rtol=1e-5)


def test_odd_sides_and_wrong_channels_are_refused():
    for shape in ((1, 3, 5, 4), (1, 3, 4, 5), (3, 4, 4)):
        with pytest.raises(BadInput, match="even H and W"):
            haar(torch.zeros(shape))
    with pytest.raises(BadInput, match="4 C"):
        inverse_haar(torch.zeros(1, 6, 2, 2))


def test_a_transformed_key_has_mean_square_one_and_few_values():
    key = haar(torch.randint(0, 2, (1, 1, 32, 32)).float() * 2 - 1)
    assert key.shape == (1, 4, 16, 16)
    assert set(key.unique().tolist()) <= {-2.0, -1.0, 0.0, 1.0, 2.0}
    assert float(key.square().mean()) == 1.0


# --- the flow -----------------------------------------------------------------------------------------------------
def test_parameter_counts_are_the_cards():
    with torch.device("meta"):
        counts = [sum(p.numel() for p in m.parameters()) for m in (DenseBlock(), SecureCoupling(), SecureFlow(3))]
    assert counts == [89_420, 357_680, 1_073_040]


def test_dense_block_is_five_convolutions_that_see_all_before_them():
    block = spread_out(DenseBlock(5, 2, growth=3))
    image = torch.randn(1, 5, 6, 4)
    seen = image
    for number, layer in enumerate(block.layers):
        made = nn.functional.conv2d(seen, layer.weight, layer.bias, padding=1)
        if number < 4:
            made = torch.where(made > 0, made, 0.01 * made)
            seen = torch.cat([seen, made], dim=1)
    assert [layer.in_channels for layer in block.layers] == [5, 8, 11, 14, 17]
    assert torch.allclose(block(image), made, atol=1e-6)


def test_scale_is_bounded_and_one_at_zero():
    s = torch.tensor([-80.0, -1.0, 0.0, 1.0, 80.0])
    expected = [math.exp(4 * (1 / (1 + math.exp(-v)) - 0.5)) for v in s.tolist()]
    assert torch.allclose(bounded_scale(s), torch.tensor(expected))
    assert bounded_scale(s)[2] == 1
    ends = bounded_scale(s)[[0, -1]].tolist()
    assert ends == pytest.approx([math.exp(-2), math.exp(2)], rel=1e-6)  # reached only where the sigmoid rounds


def test_coupling_changes_the_cover_first_and_shows_the_new_one_to_the_secret():
    block = spread_out(SecureCoupling(4), 0.1)
    y, x, k = torch.randn(1, 12, 4, 4), torch.randn(1, 12, 4, 4), torch.randn(1, 4, 4, 4)
    xk = torch.cat([x, k], 1)
    new_y = y * bounded_scale(block.omega(xk)) + block.phi(xk)
    yk = torch.cat([new_y, k], 1)
    new_x = x * bounded_scale(block.rho(yk)) + block.eta(yk)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(block(y, x, k), (new_y, new_x), strict=True))


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_flow_is_inverted_by_the_true_lost_branch(dtype, limit):
    flow = spread_out(SecureFlow(3, 32)).to(dtype)
    y, x, k = (torch.randn(2, c, 8, 8, dtype=dtype) for c in (12, 12, 4))
    with torch.no_grad():
        cover, secret = flow(y, x, k)
        back_y, back_x = flow.inverse(cover, secret, k)
    assert (cover - y).abs().max() > 0.01  # something happens
    assert max(float((back_y - y).abs().max()), float((back_x - x).abs().max())) < limit


# --- the method ---------------------------------------------------------------------------------------------------
def test_untrained_it_hides_nothing_and_reveals_the_repeated_key():
    model = small().eval()
    x, y = pictures()
    bits = model.new_bits(x)
    with torch.no_grad():
        protected = model.protect(y, x, bits)
        revealed = model.reveal(protected, bits)
    assert torch.allclose(protected, y, atol=1e-6)
    assert torch.allclose(revealed, inverse_haar(haar(bits).repeat(1, 3, 1, 1)), atol=1e-5)
    assert revealed.abs().max() <= 1 + 1e-5
    assert not torch.allclose(revealed, bits.expand_as(revealed))  # bands are in the key's order, not the image's


def test_the_key_enters_as_condition_and_as_the_lost_branch():
    """Reveal is the inverse flow by hand; the condition alone, or the branch alone, of another key changes it."""
    model = spread_out(small(), 0.1).eval()
    x, y = pictures()
    bits, other = model.new_bits(x), model.new_bits(x)
    with torch.no_grad():
        protected = model.protect(y, x, bits)
        k, w = haar(bits), haar(other)
        by_hand = inverse_haar(model.flow.inverse(haar(protected), torch.cat([k, k, k], 1), k)[1])
        branch = inverse_haar(model.flow.inverse(haar(protected), torch.cat([w, w, w], 1), k)[1])
        condition = inverse_haar(model.flow.inverse(haar(protected), torch.cat([k, k, k], 1), w)[1])
        assert torch.equal(model.reveal(protected, bits), by_hand)
        assert min(float((c - by_hand).abs().max()) for c in (branch, condition)) > 1e-3


def test_noise_in_place_of_the_key_is_repeatable_in_use_and_drawn_in_training():
    model = small(missing="noise")
    x, y = pictures()
    bits = model.new_bits(x)
    with torch.no_grad():
        model.train()
        assert not torch.equal(model.reveal(y, bits), model.reveal(y, bits))
        model.eval()
        assert torch.equal(model.reveal(y, bits), model.reveal(y, bits))


def slow_losses(mode, x, y, hidden, right, wrong):
    """Both losses with d1 in the place of LPIPS, by loops over numbers in float64."""
    x, y, hidden, right, wrong = (t.double().numpy() for t in (x, y, hidden, right, wrong))

    def d1(a, b):
        return float(np.abs(a - b).mean())

    def tp(a, p, n):
        return max(0.0, d1(a, p) - d1(a, n) + 1.2)

    rows = []
    for b in range(x.shape[0]):
        for c in range(3):
            for h in range(x.shape[2]):
                near, far = (sum(abs(x[b, c, h] - t[b, c, h])) for t in (right, wrong))
                rows.append(max(0.0, near - far + 1.2))
    image = 5 * d1(y, hidden) + d1(y, hidden)
    if mode == "random":
        return 0.3 * image + 0.5 * d1(x, right) + 0.2 * (tp(x, right, wrong) + sum(rows) / len(rows))
    return 0.2 * image + 0.3 * (d1(right, x) + d1(wrong, y)) + 0.5 * (tp(right, x, y) + tp(wrong, y, x))


@pytest.mark.parametrize("mode", ["random", "obfuscated"])
def test_losses_are_the_cards(mode):
    model = small(wrong_recovery=mode)
    parts = [torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    assert float(sum(model.loss(*parts).values())) == pytest.approx(slow_losses(mode, *parts), rel=1e-5)


def test_pixel_triplet_sums_over_the_width():
    anchor, near, far = torch.zeros(1, 1, 1, 4), torch.full((1, 1, 1, 4), 0.5), torch.full((1, 1, 1, 4), 0.6)
    assert float(pixel_triplet(anchor, near, far)) == pytest.approx(4 * 0.5 - 4 * 0.6 + 1.2)
    assert float(pixel_triplet(anchor, near, far + 1)) == 0
    assert float(hinge(torch.tensor(1.0), torch.tensor(1.0))) == pytest.approx(1.2)


def test_gradients_flow_through_all_three_passes():
    model = spread_out(small(), 0.1)
    x, y = pictures()
    bits, other = model.new_bits(x), model.new_bits(x)
    hidden = model.protect(y, x, bits)
    for revealed in (model.reveal(hidden, bits), model.reveal(hidden, other)):
        (gradient,) = torch.autograd.grad(revealed.sum(), hidden, retain_graph=True)
        assert gradient.abs().max() > 0
    losses = model.losses(Portrait((x + 1) / 2))
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_optimizer_is_adam_with_the_cards_settings():
    optimizer, _ = ProFaceS(blocks=1, growth=1, perceptual="none").optimizers(Phase(total_steps=5))["main"]
    group = optimizer.param_groups[0]
    assert isinstance(optimizer, torch.optim.Adam)
    found = group["lr"], group["eps"], group["weight_decay"], group["betas"]
    assert found == (1e-5, 1e-6, 1e-5, (0.9, 0.999))


def test_first_weights_are_small_and_the_last_layer_zero():
    torch.manual_seed(0)
    block = DenseBlock()
    assert all(not p.any() for p in block.layers[-1].parameters())
    for layer in block.layers[:-1]:
        assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
        assert layer.bias.abs().max() > 0


def test_training_brings_the_face_back_for_the_right_key_only():
    """Two flat pictures are enough to see the direction; each step is checked against none being made."""
    torch.manual_seed(0)
    recipe = Recipe(kind="adam", lr=5e-3, weight_decay=0.0)
    config = {"growth": 8, "obfuscation": Obfuscation(("mask",)), "optimizer": recipe}
    model = small(**config)
    image = torch.rand(4, 3, 1, 1).expand(4, 3, 16, 16) * torch.linspace(0.3, 1, 16)
    optimizer, _ = model.optimizers(Phase(total_steps=60))["main"]
    for _ in range(60):
        optimizer.zero_grad()
        sum(model.losses(Portrait(image)).values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    with torch.no_grad():
        answer = model.eval().predict(Portrait(image))
    right, wrong = ((picture - image).abs().mean() for picture in (answer.revealed, answer.wrong))
    assert float(right) < 0.15
    assert float(wrong) > 2 * float(right)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"wrong_recovery": "noise"}, "wrong_recovery: 'noise'"),
        ({"image_size": 17}, "image_size is 17"),
        ({"image_size": 16, "perceptual": "lpips"}, "at least 32"),
        ({"blocks": 0}, "blocks is 0"),
        ({"obfuscation": {"kinds": ["blurr"]}}, "did you mean 'blur'"),
        ({"obfuscation": {"strength": 0}}, "strength is 0"),
    ],
)
def test_bad_configuration_is_one_line(config, words):
    with pytest.raises(BadInput, match=words) as error:
        api.create("pro-face-s", **config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["wrong_recovery", "missing", "perceptual"])
def test_unknown_words_are_refused_by_the_class_itself(name):
    with pytest.raises(BadInput, match=f"{name} is 'other': use .* or "):
        ProFaceS(**{name: "other"})


# --- LPIPS --------------------------------------------------------------------------------------------------------


def test_lpips_is_zero_for_equal_pictures_and_has_gradients(monkeypatch):
    import torchvision

    class Features:
        features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])

    monkeypatch.setattr(torchvision.models, "vgg16", lambda *_, **__: Features)
    torch.manual_seed(0)
    network = Lpips()
    a, b = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    assert network(a, a).abs().max() == 0
    a.requires_grad_()
    found = network(a, b)
    assert found.shape == (2,)
    assert (found > 0).all()
    found.sum().backward()
    assert a.grad.abs().max() > 0
    assert not any(p.requires_grad for p in network.parameters())
    with pytest.raises(BadInput, match="at least 32"):
        network(a[..., :16, :16], b[..., :16, :16])
    model = ProFaceS(blocks=1, growth=2, image_size=32)
    assert not any("perceptual" in name for name in model.state_dict())
    model.__dict__["_perceptual_network"] = network
    terms = model.loss(*(torch.rand(2, 3, 32, 32) for _ in range(5)))
    assert all(torch.isfinite(v) for v in terms.values())


def test_missing_vgg_weights_are_one_line_that_says_what_to_fetch(monkeypatch):
    import torchvision

    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "vgg16", refuse)
    with pytest.raises(BadInput, match=r"vgg16-.*\.pth") as error:
        Lpips()
    assert "\n" not in str(error.value)
    assert "none" in str(error.value)
