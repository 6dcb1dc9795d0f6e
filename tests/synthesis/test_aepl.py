# SPDX-License-Identifier: Apache-2.0
"""The adaptive edge perception loss against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_sample_image

from mien.nn.edges import gradients, local_maxima
from mien.synthesis.aepl import KERNEL, SIGMA, adaptive_edge_loss, edge_map, entropy_threshold, low_threshold


def entropy(counts: list[int]) -> float:
    total = sum(counts)
    return -sum(n / total * math.log2(n / total) for n in counts if n)


def slow_threshold(counts: list[int]) -> tuple[int, float]:
    """The definition, split by split."""
    best, found = -1.0, 0
    for t in range(len(counts)):
        low, high = counts[: t + 1], counts[t + 1 :]
        if sum(low) and sum(high):
            value = entropy(low) + entropy(high)
            if value > best + 1e-9:
                best, found = value, t
    return found, best


@given(st.lists(st.integers(0, 6), min_size=2, max_size=24))
@settings(max_examples=150, deadline=None)
def test_threshold_is_that_of_the_definition(counts: list[int]):
    assert int(entropy_threshold(torch.tensor([counts]))[0]) == slow_threshold(counts)[0]


def test_threshold_of_the_cards_histograms():
    four, two, none = (np.bincount(v, minlength=256).tolist() for v in ([40, 41, 200, 201], [30, 90], [7, 7]))
    assert slow_threshold(four) == (41, pytest.approx(2.0))
    # All three at once: no row looks at another one.
    assert entropy_threshold(torch.tensor([four, two, none])).tolist() == [41, 30, 0]


def test_a_high_threshold_is_reduced():
    edges = torch.zeros(2, 1, 2, 2)
    edges[0, 0] = torch.tensor([[140.0, 141.0], [200.0, 201.0]])
    edges[1, 0] = torch.tensor([[90.9, 91.0], [200.0, 201.0]])
    # 141 -> floor(141 / 2.5); 91 -> floor(36.4)
    assert low_threshold(edges).tolist() == [56, 36]


def slow_edges(
    image: np.ndarray, low: float, keep_also: np.ndarray | None = None, high: float = 180
) -> tuple[np.ndarray, np.ndarray]:
    """Edge map (H, W) of (3, H, W) in [0, 1] and what is kept, pixel by pixel in float64."""
    grey = 255 * (0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2])
    height, width = grey.shape
    place = np.arange(KERNEL) - KERNEL // 2
    kernel = np.exp(-(place**2) / (2 * SIGMA**2))
    kernel /= kernel.sum()

    def at(plane: np.ndarray, y: int, x: int) -> float:
        y = -y if y < 0 else 2 * height - 2 - y if y >= height else y
        x = -x if x < 0 else 2 * width - 2 - x if x >= width else x
        return float(plane[y, x])

    blurred, mag, way = np.zeros_like(grey), np.zeros_like(grey), np.zeros(grey.shape, int)
    for y in range(height):
        for x in range(width):
            blurred[y, x] = sum(
                kernel[i] * kernel[j] * at(grey, y + place[i], x + place[j])
                for i in range(KERNEL)
                for j in range(KERNEL)
            )
    for y in range(height):
        for x in range(width):
            p = [[at(blurred, y + i, x + j) for j in (-1, 0, 1)] for i in (-1, 0, 1)]
            gx = p[0][2] + 2 * p[1][2] + p[2][2] - p[0][0] - 2 * p[1][0] - p[2][0]
            gy = p[2][0] + 2 * p[2][1] + p[2][2] - p[0][0] - 2 * p[0][1] - p[0][2]
            mag[y, x] = math.sqrt(gx * gx + gy * gy + 1e-6)
            way[y, x] = round(math.degrees(math.atan2(gy, gx)) % 180 / 45) % 4
    result, kept = np.zeros_like(grey), np.zeros(grey.shape, bool)
    clipped = np.minimum(mag, 255)
    for y in range(height):
        for x in range(width):
            dx, dy = ((1, 0), (1, 1), (0, 1), (-1, 1))[way[y, x]]
            sides = [
                clipped[y + s * dy, x + s * dx] if 0 <= y + s * dy < height and 0 <= x + s * dx < width else 0.0
                for s in (1, -1)
            ]
            kept[y, x] = clipped[y, x] >= max(sides) and clipped[y, x] >= low
            if kept[y, x] or (keep_also is not None and keep_also[y, x]):
                result[y, x] = 255.0 if mag[y, x] > high else mag[y, x]
    return result, kept


def picture(seed: int, height: int = 18, width: int = 15) -> torch.Tensor:
    """Two edges on a slope, with a little noise, so that nothing ties."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, height, width, generator=generator) * 0.1
    image[:, :, width // 2 + seed % 3 :] += 0.6
    image[:, height // 3 :, : width // 3] += 0.25
    return image.clamp(0, 1).double()


def test_loss_is_that_of_plain_loops():
    real, fake = picture(0), picture(1)
    edges, _ = slow_edges(real.numpy(), 0.0, high=255)  # the threshold is found before strong edges are raised
    histogram = np.bincount(np.minimum(edges, 255).astype(int).ravel(), minlength=256).tolist()
    low = slow_threshold(histogram)[0]
    low = math.floor(low / 2.5) if low > 90 else low
    wanted, kept = slow_edges(real.numpy(), low)
    found, _ = slow_edges(fake.numpy(), low, kept)
    expected = 0.01 * ((wanted - found) ** 2).mean()
    assert expected > 1
    assert float(adaptive_edge_loss(fake[None], real[None])) == pytest.approx(expected, rel=1e-9)


def test_a_batch_is_the_mean_of_its_pictures():
    real, fake = (torch.stack([picture(s) for s in seeds]) for seeds in ((0, 1, 2), (3, 4, 5)))
    each = [float(adaptive_edge_loss(fake[i : i + 1], real[i : i + 1])) for i in range(3)]
    assert float(adaptive_edge_loss(fake, real)) == pytest.approx(sum(each) / 3)


def test_equal_pictures_cost_nothing_and_flat_ones_have_a_finite_gradient():
    image = picture(0)[None].requires_grad_()
    assert float(adaptive_edge_loss(image, image.detach()).detach()) == 0
    flat = torch.full((1, 3, 12, 12), 0.5, requires_grad=True)
    adaptive_edge_loss(flat, picture(0, 12, 12)[None].float()).backward()
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


def test_an_edge_that_the_fake_lacks_pulls_at_it():
    """Fails when only the fake's own edges are kept: a nearly flat picture would then never get the real one's."""
    real = torch.zeros(1, 3, 24, 24)
    real[..., 12:] = 0.8
    fake = (0.02 * real + 0.4).requires_grad_()
    before = adaptive_edge_loss(fake, real)
    before.backward()
    assert fake.grad is not None
    assert fake.grad[..., 10:14].abs().max() > 0
    assert fake.grad[..., :2].abs().max() == 0  # blur and Sobel reach five pixels
    with torch.no_grad():
        after = adaptive_edge_loss(fake - 1e-4 * fake.grad.sign(), real)
    assert after < before


def test_gradient_of_the_edge_map_is_its_mask():
    magnitude = torch.tensor([[[[10.0, 150.0, 181.0, 400.0]]]], requires_grad=True)
    keep = torch.tensor([[[[True, False, True, True]]]])
    edges = edge_map(magnitude, keep)
    assert edges.flatten().tolist() == [10, 0, 255, 255]
    edges.sum().backward()
    assert magnitude.grad is not None
    assert magnitude.grad.flatten().tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_photographs_keep_a_fifth_of_their_pixels_and_have_the_known_thresholds(name: str):
    """Figures for real photographs that the specification names: about 20 % survive, T_L in 39 .. 82."""
    photo = torch.from_numpy(np.array(load_sample_image(name))).permute(2, 0, 1)[None].float()
    magnitude, gx, gy = gradients(photo, KERNEL, SIGMA)
    maxima = local_maxima(magnitude.clamp(max=255), gx, gy)
    assert 0.1 < float(maxima.float().mean()) < 0.3
    assert 30 <= int(low_threshold(magnitude.clamp(max=255) * maxima)) <= 90
