# SPDX-License-Identifier: Apache-2.0
"""The encoder, the memory of clusters, the sampler: against loops and by what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mien.errors import BadInput
from mien.nn.network import Network
from mien.reid.clusters import ClusterMemory, camera_aware_batches, centres, cluster_cross_entropy, moved_centres
from mien.reid.encoder import Encoder, Neck, generalised_mean


# --- the encoder ----------------------------------------------------------------------------------------------------
def test_the_pooling_lies_between_mean_and_maximum():
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    assert torch.allclose(generalised_mean(x, 1.0), x.mean(dim=(2, 3)))
    assert torch.allclose(generalised_mean(x, 400.0), x.amax(dim=(2, 3)), atol=0.01)
    by_hand = (sum(float(v) ** 3 for v in x[1, 2].flatten()) / 20) ** (1 / 3)
    assert float(generalised_mean(x, 3.0)[1, 2]) == pytest.approx(by_hand)
    assert torch.autograd.gradcheck(
        lambda p: generalised_mean(x, p), torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    )


def test_the_neck_learns_its_exponent_and_keeps_its_bias():
    neck = Neck(4)
    assert float(neck.p.detach()) == 3.0
    assert neck.p.requires_grad
    neck(torch.rand(6, 4, 3, 3)).square().sum().backward()
    assert neck.norm.bias.grad is None
    assert neck.p.grad is not None
    assert (neck.norm.bias == 0).all()


def test_halves_are_seen_apart():
    torch.manual_seed(0)
    encoder = Encoder(Network("tiny_blocks"), (64, 32), "up-down").eval()
    image = torch.rand(2, 3, 64, 32)
    whole, upper, lower = encoder(image)
    features = encoder.backbone.feature_map(image)
    assert features.shape == (2, 64, 8, 4)
    for z, region, neck in zip(
        (upper, lower), (features[:, :, :4], features[:, :, 4:]), encoder.necks[1:], strict=True
    ):
        assert torch.equal(z, neck(region))
    assert whole.shape == upper.shape == lower.shape == (2, 64)
    assert len(Encoder(Network("tiny_blocks"), (64, 32))(image)) == 1
    with pytest.raises(BadInput, match="no halves"):
        Encoder(Network("tiny_blocks"), (8, 32), "up-down")


def test_the_papers_network_keeps_its_last_resolution():
    """ResNet-50: 23.5 million weights without a classifier; stride 16 in place of 32; 2048 numbers."""
    with torch.device("meta"):
        encoder = Encoder(Network("resnet50", normalise="backbone"), (320, 128))
    backbone = sum(p.numel() for p in encoder.backbone.parameters())
    assert backbone == 23_508_032
    assert encoder.dimensions == 2048
    with torch.no_grad():
        assert encoder.backbone.to("meta").feature_map(torch.empty(1, 3, 320, 128, device="meta")).shape[2:] == (20, 8)


def test_a_transformer_has_no_halves_to_pool():
    with pytest.raises(BadInput, match="feature map"):
        Encoder(Network("tiny_vit"), (32, 32))


# --- the memory -----------------------------------------------------------------------------------------------------
def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def test_centres_are_normalised_means_without_outliers():
    features, label = unit(7, 5), torch.tensor([0, 1, -1, 0, 2, 1, 0])
    found = centres(features, label)
    for c in range(3):
        mean = features[label == c].mean(dim=0)
        assert torch.allclose(found[c], mean / mean.norm())


def test_the_loss_is_cross_entropy_of_cosines_over_temperature():
    feature, centre, label = unit(6, 5), unit(3, 5, seed=1), torch.tensor([0, 1, 2, 2, 0, 1])
    expected = 0.0
    for f, y in zip(feature, label.tolist(), strict=True):
        scores = [float(f @ m) / 0.05 for m in centre]
        expected += (np.log(np.sum(np.exp(scores))) - scores[y]) / 6
    assert float(cluster_cross_entropy(feature, centre, label, 0.05)) == pytest.approx(expected)
    nothing = cluster_cross_entropy(feature[:0].requires_grad_(), centre, label[:0], 0.05)
    assert float(nothing.detach()) == 0.0
    nothing.backward()


@given(st.lists(st.integers(0, 3), max_size=12), st.floats(0.0, 0.99))
@settings(max_examples=40, deadline=None)
def test_centres_move_sample_by_sample_in_order(labels, momentum):
    centre, feature, label = unit(4, 5, seed=1), unit(len(labels), 5), torch.tensor(labels, dtype=torch.long)
    expected = centre.clone()
    for f, y in zip(feature, labels, strict=True):
        row = momentum * expected[y] + (1 - momentum) * f
        expected[y] = row / row.norm()
    assert torch.allclose(moved_centres(centre, feature, label, momentum), expected, atol=1e-12)


def test_the_memory_has_no_gradient_and_takes_its_size_from_the_epoch():
    memory = ClusterMemory(0.05, 0.1)
    memory.centre = unit(3, 5)
    feature = unit(4, 5, seed=2).requires_grad_()
    memory(feature, torch.tensor([0, 1, 2, 0])).backward()
    assert feature.grad is not None
    assert not memory.centre.requires_grad
    assert not list(memory.parameters())
    assert isinstance(memory, nn.Module)
    before = memory.centre.clone()
    memory.update(feature.detach()[:1], torch.tensor([1]))
    assert (memory.centre != before).any(dim=1).tolist() == [False, True, False]


# --- the sampler ----------------------------------------------------------------------------------------------------
def batches(label, camera, clusters=3, crops=4, count=20, seed=0):
    return camera_aware_batches(
        np.array(label),
        np.array(camera),
        clusters=clusters,
        crops=crops,
        batches=count,
        rng=np.random.default_rng(seed),
    )


def test_a_batch_holds_p_different_clusters_with_k_crops_each():
    rng = np.random.default_rng(0)
    label, camera = rng.integers(-1, 7, 200), rng.integers(4, size=200)
    found = batches(label, camera)
    assert found.shape == (20, 12)
    for row in found:
        groups = label[row].reshape(3, 4)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0].tolist())) == 3
        assert (groups >= 0).all()
        for crops in row.reshape(3, 4):
            assert (camera[crops[1:]] != camera[crops[0]]).all(), "the others come from other cameras"
            assert len(set(crops.tolist())) == 4, "there are enough crops: none comes twice"
    counts = np.bincount(label[found[:2].reshape(-1)], minlength=7)
    assert (counts == 4).sum() == 6, "no cluster comes again before all others did, but for a rest"


def test_clusters_of_one_camera_and_of_one_crop():
    found = batches([0, 0, 0, 1, 2, 2], [5, 5, 5, 5, 1, 2], crops=3)
    for row in found:
        for crops in row.reshape(3, 3).tolist():
            if crops[0] in (0, 1, 2):
                assert sorted(crops) == [0, 1, 2]
            elif crops[0] == 3:
                assert crops == [3, 3, 3]
            else:
                assert crops[1:] == [9 - crops[0]] * 2  # the other camera's only crop, twice


def test_fewer_clusters_than_wanted():
    assert batches([0, 0, 1, 1], [0, 1, 0, 1], clusters=16, crops=2, count=5).shape == (5, 4)


def test_the_seed_decides():
    label, camera = np.arange(60) % 6, np.arange(60) % 4
    assert np.array_equal(batches(label, camera), batches(label, camera))
    assert not np.array_equal(batches(label, camera), batches(label, camera, seed=1))
