# SPDX-License-Identifier: Apache-2.0
"""Sobel derivatives and non-maximum suppression on planes whose edges are known."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import ndimage

from mien.nn.edges import gradients, local_maxima, sobel


def test_sobel_is_scipys():
    plane = torch.rand(2, 1, 7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gx, gy = sobel(plane)
    for i in range(2):
        for axis, found in ((1, gx), (0, gy)):
            expected = ndimage.sobel(plane[i, 0].numpy(), axis=axis, mode="mirror")
            assert torch.allclose(found[i, 0], torch.from_numpy(expected))


@pytest.mark.parametrize("degrees", [0, 45, 90, 135, 200])
def test_a_straight_edge_is_one_or_two_pixels_wide(degrees: int):
    """A blurred step in any direction; fails when neighbours are taken along the edge, or x and y are swapped."""
    y, x = torch.meshgrid(torch.arange(33.0) - 16, torch.arange(33.0) - 16, indexing="ij")
    across = x * math.cos(math.radians(degrees)) + y * math.sin(math.radians(degrees))
    image = torch.sigmoid(across).expand(1, 3, 33, 33)
    magnitude, gx, gy = gradients(image, 5, 1.0)
    keep = (local_maxima(magnitude, gx, gy) & (magnitude > 0.5 * magnitude.max()))[0, 0, 8:25, 8:25]
    near = across[8:25, 8:25].abs()
    assert bool(keep[near < 0.4].all())
    assert not bool(keep[near > 0.75].any())  # between the two a pixel may tie with its neighbour


def test_magnitude_has_a_finite_gradient_where_it_is_flat():
    image = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    gradients(image, 5, 1.0)[0].sum().backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()


def test_both_of_a_tie_are_kept_and_the_border_counts_as_nothing():
    magnitude = torch.tensor([[[[2.0, 1.0, 3.0, 3.0, 1.0]]]])
    across, along = torch.ones_like(magnitude), torch.zeros_like(magnitude)
    assert local_maxima(magnitude, across, along).flatten().tolist() == [True, False, True, True, False]
    assert local_maxima(magnitude, along, across).all()  # nothing above and below
