# SPDX-License-Identifier: Apache-2.0
"""Grad-CAM and the high-pass against slow independent references; the network table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from mien.errors import BadInput
from mien.nn.frequency import high_part, scaled_half_box
from mien.nn.gradcam import gradcam, normalise_maps
from mien.nn.network import Network


def small():
    torch.manual_seed(1)
    body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU())
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).double()


def slow_gradcam(network, layer, image):
    """One image after the other, through the whole network, in numpy where it can be."""
    maps = []
    for x in image:
        kept = []
        handle = layer.register_forward_hook(lambda m, i, o, kept=kept: kept.append(o))
        logits = network(x[None].clone().requires_grad_())
        handle.remove()
        activation = kept[0]
        gradient = torch.autograd.grad(logits[0, logits.argmax()], activation)[0].numpy()[0]
        weights = gradient.mean(axis=(1, 2))
        cam = sum(w * a for w, a in zip(weights, activation.detach().numpy()[0], strict=True))
        cam = F.interpolate(torch.tensor(cam)[None, None], x.shape[-2:], mode="bilinear", align_corners=True)[
            0, 0
        ].numpy()
        span = cam.max() - cam.min()
        maps.append((cam - cam.min()) / span if span > 1e-12 else np.zeros_like(cam))
    return np.stack(maps)


def test_gradcam_equals_one_image_at_a_time():
    network, image = small().eval(), torch.rand(4, 3, 12, 10, dtype=torch.float64)
    maps, logits = gradcam(network, network[0][3], image)
    assert np.allclose(maps.numpy(), slow_gradcam(network, network[0][3], image), atol=1e-10)
    assert torch.allclose(logits, network(image))
    assert float(maps.min()) == 0.0
    assert float(maps.max()) == 1.0


def test_gradcam_leaves_gradients_and_modes_alone_and_works_under_no_grad():
    network = small().train()
    with torch.no_grad():
        gradcam(network, network[0][3], torch.rand(2, 3, 9, 9, dtype=torch.float64))
    assert all(p.grad is None for p in network.parameters())
    assert network.training


def test_the_maps_gradient_flows_through_the_activations_but_not_the_weights():
    """Central differences of the map's mean with w held fixed: fails if w carries gradient or min and max do not."""
    network, image = small().eval(), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    parameter = network[0][0].weight
    maps, _ = gradcam(network, network[0][3], image, differentiable=True)
    target = torch.rand_like(maps)
    (gradient,) = torch.autograd.grad(((maps - target) ** 2).mean(), parameter)

    activation = {}
    network[0][3].register_forward_hook(lambda m, i, o: activation.__setitem__("a", o))
    logits = network(image)
    chosen = logits.gather(1, logits.argmax(1)[:, None]).sum()
    w = torch.autograd.grad(chosen, activation["a"])[0].mean((2, 3)).detach()

    def loss():
        with torch.no_grad():
            network(image)
            cam = torch.einsum("bk,bkhw->bhw", w, activation["a"])
            cam = F.interpolate(cam[:, None], (8, 8), mode="bilinear", align_corners=True)[:, 0]
            return float(((normalise_maps(cam) - target) ** 2).mean())

    for index in [(0, 0, 0, 0), (3, 1, 2, 1), (4, 2, 1, 0)]:
        with torch.no_grad():
            parameter[index] += 1e-6
            up = loss()
            parameter[index] -= 2e-6
            down = loss()
            parameter[index] += 1e-6
        assert float(gradient[index]) == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-8)


def test_a_flat_map_is_zero():
    assert torch.equal(normalise_maps(torch.full((2, 3, 3), 0.7)), torch.zeros(2, 3, 3))


def slow_high_part(x, d, variant):
    """The definition, with numpy's complex FFT."""
    f = np.fft.fftshift(np.fft.fft2(x))
    cy, cx = x.shape[0] // 2, x.shape[1] // 2
    f[cy - d : cy + d, cx - d : cx + d] = 0
    back = np.fft.ifft2(np.fft.ifftshift(f))
    return np.abs(back) if variant == "modulus" else np.abs(back.real)


@pytest.mark.parametrize("variant", ["absolute", "modulus"])
@pytest.mark.parametrize(("size", "d"), [((32, 32), 3), ((31, 40), 2), ((17, 19), 1)])
def test_the_high_part_is_the_definition(variant, size, d):
    image = torch.rand(2, 3, *size, dtype=torch.float64)
    ours = high_part(image, d, variant)
    for b in range(2):
        for c in range(3):
            assert np.allclose(ours[b, c].numpy(), slow_high_part(image[b, c].numpy(), d, variant), atol=1e-10)


def test_the_two_published_variants_differ_a_little_and_a_constant_has_no_high_part():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 224, 224)
    gap = (high_part(image, 5, "absolute") - high_part(image, 5, "modulus")).abs().max()
    assert 1e-4 < float(gap) < 0.05
    assert float(high_part(torch.full((1, 3, 32, 32), 0.3), 3).abs().max()) < 1e-6
    assert scaled_half_box(224) == 5
    assert scaled_half_box(112) in (2, 3)


def test_xception_has_the_papers_size_and_map():
    with torch.device("meta"):
        network = Network().build(2)
    assert sum(p.numel() for p in network.parameters()) == 20_811_050
    shapes = []
    network.cam_layer.register_forward_hook(lambda m, i, o: shapes.append(tuple(o.shape)))
    network.to("meta").eval()(torch.empty(1, 3, 224, 224, device="meta"))
    assert shapes == [(1, 1536, 7, 7)]


def test_local_weights_are_loaded_and_bad_ones_refused(tmp_path):
    first = Network("tiny_cnn").build(2, 64)
    save_file(first.body.state_dict(), tmp_path / "w.safetensors")
    again = Network("tiny_cnn", weights=str(tmp_path / "w.safetensors")).build(2, 64)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    with pytest.raises(BadInput, match="does not exist"):
        Network("tiny_cnn", weights="nowhere.safetensors").build(2, 64)
    with pytest.raises(BadInput, match="did you mean"):
        Network("xceptoin").build(2)
    (tmp_path / "x.safetensors").write_text("text")
    with pytest.raises(BadInput, match="cannot be read as weights"):
        Network("tiny_cnn", weights=str(tmp_path / "x.safetensors")).build(2, 64)


def test_the_modulus_has_the_right_gradient_and_none_at_zero():
    """Fails when the backward pass is not the derivative, or when 0 / 0 of a black image reaches the weights."""
    image = torch.rand(1, 8, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: high_part(x, 2, "modulus"), image)
    flat = torch.zeros(1, 8, 8, requires_grad=True)
    high_part(flat, 2, "modulus").sum().backward()
    assert float(flat.grad.abs().max()) == 0.0
