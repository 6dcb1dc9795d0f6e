# SPDX-License-Identifier: Apache-2.0
"""Perturbations: each against a plain computation, the same whatever the batch, in range, and one for a clip."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from mien.data.perturb import DEEPFAKE_NIR, LEVELS, STRENGTHS, draw, perturb, perturb_clip
from mien.errors import BadInput


@pytest.fixture(scope="module")
def images():
    """Six pictures with edges, ramps and texture, (6, 3, 48, 40), float32."""
    generator = torch.Generator().manual_seed(3)
    ramp = torch.linspace(0.1, 0.9, 40).expand(6, 3, 48, 40).clone()
    ramp[:, 1] *= 0.5
    ramp[:, :, 10:30, 8:20] = 0.75
    return (ramp + 0.1 * (torch.rand(6, 3, 48, 40, generator=generator) - 0.5)).clamp(0, 1)


@pytest.mark.parametrize("kind", STRENGTHS)
@pytest.mark.parametrize("level", LEVELS)
def test_shape_type_and_range_stay(images, kind, level):
    whole = (images * 255).round().byte()
    soft, hard = perturb(images, kind, level), perturb(whole, kind, level)
    assert soft.shape == hard.shape == images.shape
    assert (soft.dtype, hard.dtype) == (torch.float32, torch.uint8)
    assert 0 <= float(soft.min()) <= float(soft.max()) <= 1
    # uint8 and float are the same perturbation, up to the rounding of input and output (jpeg: of its coefficients)
    close = (soft - hard.float() / 255).abs()
    assert float(close.mean()) < 1 / 255
    assert not torch.equal(whole, hard)
    assert torch.equal(perturb(whole[:0], kind, level), whole[:0])


@pytest.mark.parametrize("kind", STRENGTHS)
def test_stronger_changes_more_and_the_input_is_left_alone(images, kind):
    before = images.clone()
    distance = [float((perturb(images, kind, level) - images).square().mean()) for level in LEVELS]
    assert all(a < b for a, b in pairwise(distance))
    assert torch.equal(before, images)


@pytest.mark.parametrize("kind", STRENGTHS)
def test_an_image_does_not_depend_on_its_batch(images, kind):
    together = perturb(images, kind, 3, seed=9)
    for i in range(len(images)):
        assert torch.equal(perturb(images[i : i + 1], kind, 3, seed=9, items=[i]), together[i : i + 1])
    if kind in ("blocks", "noise"):
        assert not torch.equal(perturb(images, kind, 3, seed=10), together)
        shared = perturb(images[:1].expand(3, -1, -1, -1), kind, 3, items=[5, 5, 6])
        assert torch.equal(shared[0], shared[1])
        assert not torch.equal(shared[0], shared[2])


def test_blocks_are_grey_squares():
    for level, count in enumerate(STRENGTHS["blocks"], start=1):
        grey = perturb(torch.zeros(4, 3, 300, 300), "blocks", level) > 0
        assert torch.equal(grey[:, 0], grey[:, 2])
        share = grey[:, 0].flatten(1).sum(dim=1)
        assert bool((share <= count * 64).all())
        assert bool((share > count * 64 * 0.85).all())  # few overlap on a large picture
    one = perturb(torch.ones(1, 3, 300, 300), "blocks", 1)
    assert sorted(set(one.flatten().tolist())) == pytest.approx([128 / 255, 1.0])
    # Every connected run of grey along a row is at least a block wide.
    row = (one[0, 0] < 1).numpy()
    for line in row[row.any(axis=1)]:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(int), [0]])))
        assert (edges[1::2] - edges[::2] >= 8).all()


def test_noise_has_its_deviation_and_no_colour_in_common():
    for level, deviation in enumerate(STRENGTHS["noise"], start=1):
        added = perturb(torch.full((2, 3, 200, 200), 0.5), "noise", level) - 0.5
        assert float(added.mean()) == pytest.approx(0, abs=4 * deviation / 490)
        assert float(added.std()) == pytest.approx(deviation, rel=0.01)
        correlation = np.corrcoef(added[0].flatten(1).numpy())
        assert np.abs(correlation - np.eye(3)).max() < 0.02


def test_contrast_against_torchvision(images):
    for level, factor in enumerate(STRENGTHS["contrast"], start=1):
        torch.testing.assert_close(perturb(images, "contrast", level), tv.adjust_contrast(images, factor))


def test_blur_against_torchvision_away_from_the_edges(images):
    for level, kernel in enumerate(STRENGTHS["blur"], start=1):
        k = int(kernel)
        ours, theirs = perturb(images, "blur", level), tv.gaussian_blur(images, [k, k])
        inner = (..., slice(k // 2, 48 - k // 2), slice(k // 2, 40 - k // 2))
        torch.testing.assert_close(ours[inner], theirs[inner])
    flat = torch.full((1, 3, 6, 6), 0.3)
    torch.testing.assert_close(perturb(flat, "blur", 5), flat)  # any size, edges repeat


def test_jpeg_against_pillow(images):
    whole = (images * 255).round().byte()
    for level, quality in enumerate(STRENGTHS["jpeg"], start=1):
        ours = perturb(whole, "jpeg", level)
        for image, result in zip(whole, ours, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, "JPEG", quality=int(quality))
            assert np.array_equal(np.asarray(Image.open(buffer)), result.permute(1, 2, 0).numpy())


def test_resize_removes_what_is_finer_than_the_small_picture(images):
    stripes = torch.zeros(1, 3, 40, 40)
    stripes[..., ::2] = 1  # one pixel on, one off: nothing of it is left at half the size
    assert float((perturb(stripes, "resize", 3) - 0.5).abs()[..., 4:-4].max()) < 0.02
    smooth = torch.linspace(0, 1, 40).expand(1, 3, 40, 40).clone()
    assert float((perturb(smooth, "resize", 3) - smooth).abs()[..., 4:-4].max()) < 0.01


def test_reference_scales_blocks_and_blur():
    black = torch.zeros(1, 3, 56, 56)
    grey = (perturb(black, "blocks", 1, reference=224) > 0)[0, 0]
    assert int(grey.sum()) <= 16 * 4  # 8 x 8 at 224 pixels are 2 x 2 at 56
    assert int(grey.sum()) > 16 * 4 * 0.6
    point = torch.zeros(1, 3, 57, 57)
    point[:, :, 28, 28] = 1
    spread = perturb(point, "blur", 1, reference=228)[0, 0]  # deviation 1.4 / 4, three pixels become one
    assert int((spread > 0).sum()) == 9
    w = float(np.exp(-0.5 / 0.35**2))
    assert float(spread[28, 28]) == pytest.approx(1 / (1 + 2 * w) ** 2, rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 20), width=st.integers(1, 20), kind=st.sampled_from(sorted(STRENGTHS)))
def test_any_size_works(height, width, kind):
    image = torch.full((1, 3, height, width), 0.5)
    changed = perturb(image, kind, 5)
    assert changed.shape == image.shape
    assert bool(changed.isfinite().all())


def test_draws_are_even_and_belong_to_the_item():
    drawn = draw(4, range(5000))
    counts = {pair: drawn.count(pair) for pair in set(drawn)}
    assert set(counts) == {(kind, level) for kind in DEEPFAKE_NIR for level in LEVELS}
    assert min(counts.values()) > 140  # 200 expected, deviation 14
    assert draw(4, [4321]) == [drawn[4321]]


def test_a_clip_gets_one_perturbation(images):
    still = images[:1].expand(4, -1, -1, -1)
    for item in range(12):
        clip = perturb_clip(still, seed=1, item=item)
        assert all(torch.equal(clip[0], frame) for frame in clip[1:])
        ((kind, level),) = draw(1, [item])
        assert torch.equal(clip[:1], perturb(still[:1], kind, level, seed=1, items=[item]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "blurr"}, "did you mean 'blur'"),
        ({"level": 0}, "from 1 to 5"),
        ({"level": 6}, "from 1 to 5"),
        ({"images": torch.zeros(3, 8, 8)}, "uint8 or float32"),
        ({"images": torch.zeros(1, 3, 8, 8, dtype=torch.float64)}, "uint8 or float32"),
        ({"items": [1, 2]}, "2 numbers for 1 images"),
        ({"reference": -1}, "reference is -1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_input(change, message):
    arguments = {"images": torch.zeros(1, 3, 8, 8), "kind": "noise", "level": 1} | change
    with pytest.raises(BadInput, match=message):
        perturb(**arguments)


def test_bad_kinds():
    with pytest.raises(BadInput, match="kinds is empty"):
        draw(0, [1], [])
    with pytest.raises(BadInput, match="unknown kind"):
        draw(0, [1], ["rain"])
