# SPDX-License-Identifier: Apache-2.0
"""FCAN-DCT: both modules against plain computations, the exact facts of the spectrum, and two-way behaviours."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dct as scipy_dct
from torch import nn

from mien.errors import BadInput
from mien.forensics.data import Faces
from mien.forensics.fcan_dct import (
    FCANDCT,
    CompactFeatures,
    Projection,
    TemporalAttention,
    augmented,
    compact_code,
    moments,
    spatial_basis,
    zigzag,
)
from mien.nn.dct import dct_matrix
from mien.nn.network import Network


def small(**config):
    torch.manual_seed(0)
    return FCANDCT(network=Network("tiny_blocks"), image_size=32, **{"frames": 4} | config)


def batch(count=3, frames=4, size=32):
    return Faces(torch.rand(count, frames, 3, size, size), torch.arange(count) % 2)


# --- spatial frequencies --------------------------------------------------------------------------------------
def test_zigzag_is_that_of_jpeg():
    order = [0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5]  # of ITU-T T.81, row by row in an 8 x 8 block
    assert zigzag(16, 8, 8) == [(k // 8, k % 8) for k in order]
    assert sorted(zigzag(6, 2, 3)) == [(u, v) for u in range(2) for v in range(3)]


@pytest.mark.parametrize(("height", "width"), [(6, 6), (7, 7), (4, 5)])
def test_the_basis_by_its_formula(height, width):
    basis = spatial_basis(16, height, width)
    for (u, v), plane in zip(zigzag(16, height, width), basis, strict=True):
        su = math.sqrt((1 if u == 0 else 2) / height)
        sv = math.sqrt((1 if v == 0 else 2) / width)
        for i in range(height):
            for j in range(width):
                row = su * math.cos(math.pi * (2 * i + 1) * u / (2 * height))
                column = sv * math.cos(math.pi * (2 * j + 1) * v / (2 * width))
                assert float(plane[i, j]) == pytest.approx(row * column, abs=1e-6)
    flat = basis.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(16), atol=1e-5, rtol=0)


def test_the_code_takes_each_channel_at_the_frequency_of_its_group():
    maps = torch.rand(2, 8, 5, 5)
    basis = spatial_basis(4, 5, 5)
    code = compact_code(maps, basis)
    for n in range(2):
        for c in range(8):
            assert float(code[n, c]) == pytest.approx(float((maps[n, c] * basis[c // 2]).sum()), abs=1e-5)
    torch.testing.assert_close(code[:, 0], maps[:, 0].mean(dim=(1, 2)) * 5)  # (0, 0): pooling times sqrt(h w)


def test_compact_features_step_by_step():
    torch.manual_seed(1)
    module = CompactFeatures(64, (6, 6), 16, 16, 32).eval()
    maps = torch.rand(2, 3, 64, 6, 6)
    found, places = module(maps)
    per_clip = []
    for b in range(2):
        frames = []
        for t in range(3):
            x = maps[b, t]
            q = torch.stack([(x[c] * module.basis[c // 4]).sum() for c in range(64)])
            first, second = module.channel[0], module.channel[2]
            a = (second.weight @ (first.weight @ q + first.bias).relu() + second.bias).sigmoid()
            ax = a[:, None, None] * x
            p = ((module.place.weight[0] * ax).sum(dim=0) + module.place.bias).flatten().softmax(dim=0)
            torch.testing.assert_close(places[b, t].flatten(), p)
            frames.append((ax.flatten(1) * p).sum(dim=1))
        per_clip.append(torch.stack(frames).mean(dim=0))
    torch.testing.assert_close(found, module.project(torch.stack(per_clip)))
    assert module.channel[0].out_features == 4


@pytest.mark.parametrize(("channels", "size", "n", "message"), [(64, (6, 6), 12, "divide"), (64, (2, 2), 16, "1 to 4")])
def test_frequencies_that_do_not_fit(channels, size, n, message):
    with pytest.raises(BadInput, match=message):
        CompactFeatures(channels, size, n, 16, 32)


# --- temporal frequencies -------------------------------------------------------------------------------------
@pytest.mark.parametrize("frames", [1, 2, 8, 14])
def test_the_transform_is_orthonormal_and_that_of_scipy(frames):
    matrix = dct_matrix(frames)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(frames, dtype=torch.float64), atol=1e-12, rtol=0)
    z = np.random.default_rng(0).normal(size=(frames, 3))
    np.testing.assert_allclose(matrix.numpy() @ z, scipy_dct(z, axis=0, norm="ortho"), atol=1e-12)


def test_no_gain_changes_nothing():
    z = torch.rand(2, 8, 5)
    torch.testing.assert_close(augmented(z, torch.zeros(2, 8), torch.zeros(2, 5)), z)


def test_gains_in_the_spectrum_by_loops():
    z, alpha, beta = torch.rand(2, 8, 3).double(), torch.rand(2, 8).double() * 2 - 1, torch.rand(2, 3).double() * 2 - 1
    found = scipy_dct(augmented(z, alpha, beta).numpy(), axis=1, norm="ortho")
    before = scipy_dct(z.numpy(), axis=1, norm="ortho")
    for b in range(2):
        for k in range(8):
            for c in range(3):
                gain = (1 + alpha[b, k]) * (1 + beta[b, c] if k else 1)
                assert found[b, k, c] == pytest.approx(before[b, k, c] * float(gain), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(frames=st.integers(1, 16), seed=st.integers(0, 99))
def test_parseval(frames, seed):
    """mean_t Z' = F'_0 / sqrt(T), population variance = (1/T) sum_(k>0) F'_k^2."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(2, frames, 4, generator=generator, dtype=torch.float64)
    alpha = torch.rand(2, frames, generator=generator, dtype=torch.float64) * 2 - 1
    beta = torch.rand(2, 4, generator=generator, dtype=torch.float64) * 2 - 1
    after = augmented(z, alpha, beta)
    spectrum = torch.from_numpy(scipy_dct(after.numpy(), axis=1, norm="ortho"))
    found = moments(after)
    torch.testing.assert_close(found[:, :4], spectrum[:, 0] / math.sqrt(frames))
    energy = spectrum[:, 1:].square().sum(dim=1) / frames
    torch.testing.assert_close(found[:, 4:], (energy + 1e-5).sqrt())


def test_a_static_clip_has_no_energy_above_zero():
    spectrum = dct_matrix(8) @ torch.rand(1, 5, dtype=torch.float64).expand(8, 5)
    assert float(spectrum[1:].abs().max()) < 1e-12


def test_an_alternation_of_period_two():
    spectrum = dct_matrix(8) @ torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)
    expected = {1: 0.51, 3: 0.60, 5: 0.90, 7: 2.56}
    for k in range(8):
        assert abs(float(spectrum[k])) == pytest.approx(expected.get(k, 0.0), abs=0.005)
    assert int(spectrum.abs().argmax()) == 7


def test_gains_read_magnitudes_and_start_at_zero():
    torch.manual_seed(2)
    module = TemporalAttention(64, 8, 16, 32)
    z = torch.rand(3, 8, 64)
    assert all(float(gain.abs().max()) == 0 for gain in module.gains(z))
    for layer in (module.frequency[2], module.channel[2]):
        nn.init.normal_(layer.weight, std=0.5)
        nn.init.normal_(layer.bias, std=0.5)
    spectrum = torch.from_numpy(scipy_dct(z.double().numpy(), axis=1, norm="ortho")).float()
    u1, u2, v1, v2 = module.frequency[0], module.frequency[2], module.channel[0], module.channel[2]
    for b in range(3):
        energy = torch.tensor([float(spectrum[b, k].abs().sum()) / 64 for k in range(8)])
        hidden = (u1.weight @ (1 + energy).log() + u1.bias).relu()
        torch.testing.assert_close(module.gains(z)[0][b], (u2.weight @ hidden + u2.bias).tanh())
        above = spectrum[b, 1:].abs().sum(dim=0) / 7
        hidden = (v1.weight @ above + v1.bias).relu()
        torch.testing.assert_close(module.gains(z)[1][b], (v2.weight @ hidden + v2.bias).tanh())
    flipped = module.gains(z.flip(1))  # F_k of a reversed clip is +-F_k: the phase plays no part
    torch.testing.assert_close(flipped[0], module.gains(z)[0])
    assert v1.out_features == 4


def test_attention_may_remove_a_frequency_and_no_channel_at_rest():
    z = torch.rand(1, 8, 4)
    alpha = torch.zeros(1, 8)
    alpha[0, 1:] = -1
    gone = augmented(z, alpha, torch.zeros(1, 4))
    torch.testing.assert_close(gone, z.mean(dim=1, keepdim=True).expand_as(z))
    torch.testing.assert_close(augmented(z, torch.zeros(1, 8), -torch.ones(1, 4)).mean(dim=1), z.mean(dim=1))


@pytest.mark.parametrize("frames", [1, 4])
def test_one_frame_and_static_clips_have_finite_gradients(frames):
    method = small(frames=frames)
    clip = torch.rand(2, 1, 3, 32, 32).expand(-1, frames, -1, -1, -1).clone().requires_grad_()
    sum(method.losses(Faces(clip, torch.tensor([0, 1]))).values()).backward()
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    assert all(bool(g.isfinite().all()) for g in gradients)
    assert bool(clip.grad.isfinite().all())


# --- the whole ------------------------------------------------------------------------------------------------
def test_losses_are_the_three_cross_entropies():
    method, data = small(dropout=0.0).eval(), batch()
    features, _ = method.branches(data.image)
    losses = method.losses(data)
    heads = [method.head(torch.cat(features, dim=1)), method.heads[0](features[0]), method.heads[1](features[1])]
    expected = [-logits.log_softmax(dim=1)[range(3), data.label].mean() for logits in heads]
    torch.testing.assert_close(losses["cross_entropy"], expected[0])
    torch.testing.assert_close(losses["branch_0"], 0.5 * expected[1])
    torch.testing.assert_close(losses["branch_1"], 0.5 * expected[2])
    assert "branch_0" not in small(auxiliary=0.0).losses(data)


def test_order_of_frames_matters_to_neither_branch_but_flicker_does():
    """At the start, with neutral attention, the moments see energy in time and not its order."""
    method, data = small().eval(), batch()
    plain = method.predict(data).score
    torch.testing.assert_close(method.predict(Faces(data.image.flip(1), data.label)).score, plain)
    still = data.image[:, :1].expand_as(data.image)
    assert not torch.allclose(method.predict(Faces(still, data.label)).score, plain)


@pytest.mark.parametrize(
    ("config", "count"),
    [({}, 2), ({"cfe": False}, 1), ({"temporal": "none"}, 1), ({"temporal": "moments"}, 2)],
)
def test_branches_may_be_left_out(config, count):
    method = small(**config)
    assert len(method.branches(batch().image)[0]) == count
    assert method.head.in_features == count * 256
    alone = small(cfe=False, temporal="none").eval()
    still = batch().image[:, :1].expand(-1, 4, -1, -1, -1)
    mean = alone.branches(still)[0][0]
    assert mean.shape == (3, 256)


def test_a_picture_is_set_in_motion_and_grey_works():
    method = small().eval()
    grey = torch.rand(2, 1, 40, 40).expand(-1, 3, -1, -1)
    assert method.predict(Faces(grey, torch.zeros(2))).score.shape == (2,)


def test_evidence_is_where_the_places_weigh():
    method = small().eval()
    assert method.predict(batch()).evidence is None
    method.evidence = True
    evidence = method.predict(batch()).evidence
    assert evidence.shape == (3, 1, 32, 32)
    assert float(evidence.max()) <= 1
    other = small(cfe=False).eval()
    other.evidence = True
    assert other.predict(batch()).evidence is None


def test_a_batch_of_one_clip_trains_on_running_statistics():
    module = Projection(5, 3).train()
    with torch.no_grad():
        module.norm.running_mean.fill_(0.3)
    before = module.norm.running_mean.clone()
    x = torch.rand(1, 5)
    found = module(x)
    assert torch.equal(module.norm.running_mean, before)
    torch.testing.assert_close(found, module.eval()(x))


def test_the_papers_size():
    with torch.device("meta"):
        method = FCANDCT()
    backbone = sum(p.numel() for p in method.backbone.parameters())
    assert backbone == 23_508_032  # ResNet-50 without its classifier
    hidden = 2048 // 16
    weigh = 2048 * hidden + hidden + hidden * 2048 + 2048
    project = 2048 * 256 + 256 + 512
    compact = weigh + 2048 + 1 + project
    temporal = 2 * (8 * 8 + 8) + weigh + 4096 * 256 + 256 + 512
    heads = 2 * (256 * 2 + 2) + 512 * 2 + 2
    assert sum(p.numel() for p in method.parameters()) == backbone + compact + temporal + heads


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"temporal": "sometimes"}, "fta, moments or none"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"auxiliary": -1.0}, "auxiliary is -1"),
        ({"perturbed": 2.0}, "perturbed is 2"),
        ({"frequencies": 7}, "divide the network's 64 channels"),
        ({"frequencies": 32}, "1 to 16"),
        ({"reduction": 0}, "at least 1"),
        ({"frames": 0}, "at least 1"),
    ],
)
def test_bad_input(config, message):
    with pytest.raises(BadInput, match=message):
        small(**config)
