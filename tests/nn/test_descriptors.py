# SPDX-License-Identifier: Apache-2.0
"""Descriptors against a plain computation, pixel by pixel, and what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mien.errors import BadInput
from mien.nn.descriptors import descriptors, face_points


def by_hand(image, x, y, cell):
    """One descriptor with loops over pixels, cells and orientations."""
    histogram = np.zeros((4, 4, 8))
    reach = math.ceil(cell * 2.5) + 1
    for row in range(y - reach, y + reach + 1):
        for column in range(x - reach, x + reach + 1):
            if not (1 <= row < image.shape[0] - 1 and 1 <= column < image.shape[1] - 1):
                continue
            right = image[row, column + 1] - image[row, column - 1]
            up = image[row - 1, column] - image[row + 1, column]
            u, v = (column - x) / cell, (row - y) / cell
            strength = math.hypot(right, up) * math.exp(-(u * u + v * v) / 8)
            turn = (math.atan2(up, right) % (2 * math.pi)) / (2 * math.pi) * 8
            low, share = int(turn) % 8, turn - int(turn)
            for r in range(4):
                for c in range(4):
                    near = max(0, 1 - abs(u - (c - 1.5))) * max(0, 1 - abs(v - (r - 1.5)))
                    histogram[r, c, low] += strength * near * (1 - share)
                    histogram[r, c, (low + 1) % 8] += strength * near * share
    found = histogram.ravel()
    found = np.minimum(found / np.linalg.norm(found), 0.2)
    return np.minimum(512 * found / np.linalg.norm(found), 255)


@pytest.mark.parametrize("cell", [1.5, 2.0, 0.9])
def test_a_descriptor_is_the_plain_computation(cell):
    rng = np.random.default_rng(1)
    images = rng.uniform(0, 255, size=(2, 20, 24))
    points = torch.tensor([[[10.0, 9.0], [0.0, 19.0], [12.4, 3.6]], [[5.0, 5.0], [23.0, 0.0], [30.0, 10.0]]])
    found = descriptors(torch.from_numpy(images), points, cell)
    assert found.shape == (2, 3, 128)
    for b, i in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]:
        x, y = (round(float(value)) for value in points[b, i])
        assert np.allclose(found[b, i].numpy(), by_hand(images[b], x, y, cell), atol=0.05), (b, i)
    assert 0 < float(found.max()) <= 255
    assert not found[1, 2].any(), "nothing of the image is near"


def test_brightness_and_contrast_do_not_change_it_and_flat_areas_have_none():
    image, points = torch.rand(1, 16, 16), torch.full((1, 1, 2), 8.0)
    found = descriptors(image, points)
    assert torch.allclose(descriptors(40 + 100 * image, points), found, atol=1e-2)
    assert not torch.allclose(descriptors(image.flip(-1), points), found, atol=1.0), "upright: a mirrored one differs"
    assert torch.equal(descriptors(torch.full((1, 16, 16), 7.0), points), torch.zeros(1, 1, 128))
    assert descriptors(image[:0], points[:0]).shape == (0, 1, 128)
    assert not descriptors(image.requires_grad_(), points).requires_grad


def test_a_ramp_has_the_orientation_of_its_rise():
    up = torch.linspace(1, 0, 16)[:, None].expand(1, 16, 16)  # brighter at the top
    found = descriptors(up, torch.full((1, 1, 2), 8.0)).view(4, 4, 8)
    assert (found[..., 2] > 0).all(), "a quarter of a turn, counter-clockwise"
    assert float(found[..., [0, 1, 3, 4, 5, 6, 7]].max()) < 1e-3


def test_templates_lie_in_the_image_and_are_distinct():
    for count in (17, 68):
        points = face_points(count)
        assert points.shape == (count, 2)
        assert float(points.min()) > 0
        assert float(points.max()) < 1
        assert len({tuple(round(v, 4) for v in point) for point in points.tolist()}) >= count - 1
    whole = face_points(68)
    assert float(whole[8, 1]) == float(whole[:, 1].max()), "the chin is lowest"
    assert float(whole[36, 0]) < float(whole[30, 0]) < float(whole[45, 0]), "eye, nose, eye"
    with pytest.raises(BadInput, match="count is 5"):
        face_points(5)


def test_bad_input_is_refused():
    with pytest.raises(BadInput, match="grey images"):
        descriptors(torch.rand(1, 3, 8, 8), torch.zeros(1, 1, 2))
    with pytest.raises(BadInput, match=r"\(2, L, 2\) is needed"):
        descriptors(torch.rand(2, 8, 8), torch.zeros(1, 1, 2))
    with pytest.raises(BadInput, match="cell is 0"):
        descriptors(torch.rand(1, 8, 8), torch.zeros(1, 1, 2), 0)
