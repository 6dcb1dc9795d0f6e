# SPDX-License-Identifier: Apache-2.0
"""Figures of single pictures, and the Fréchet distance of sets of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import linalg, ndimage

from mien.errors import BadInput
from mien.metrics.frechet import INCEPTION_KEY, FrechetDistance, RandomFeatures
from mien.metrics.quality import edge_f1, edge_pixels, luma, psnr, ssim, without_border


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def square(left: int, size: int = 32) -> torch.Tensor:
    image = torch.zeros(1, 3, size, size)
    image[..., 8:24, left : left + 14] = 1
    return image


def test_luma_is_studio_range_and_borders_are_cut():
    # BT.601: black 16, white 235, red 16 + 65.481.
    colours = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0]]).T.reshape(1, 3, 1, 3)
    assert (255 * luma(colours)).flatten().tolist() == pytest.approx([16, 235, 81.481], abs=1e-3)
    image = random(1, 3, 9, 7)
    assert torch.equal(without_border(image, 2), image[..., 2:7, 2:5])
    assert torch.equal(without_border(image, 0), image)
    for border in (-1, 4):
        with pytest.raises(BadInput, match=f"border is {border}"):
            without_border(image, border)


def test_ssim_is_that_of_its_definition():
    """Gaussian windows of 11 pixels, sigma 1.5, by scipy in float64; windows see the picture mirrored."""
    one, other = random(1, 1, 30, 26).double(), random(1, 1, 30, 26, seed=1).double()
    x, y = one[0, 0].numpy(), (0.6 * one + 0.4 * other)[0, 0].numpy()

    def mean(plane: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(plane, 1.5, truncate=5 / 1.5, mode="mirror")

    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    table = (2 * mx * my + 1e-4) * (2 * both + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    found = float(ssim(torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None]))
    assert found == pytest.approx(float(table.mean()), abs=1e-9)


def test_figures_are_of_each_picture_alone():
    image, truth = random(3, 3, 24, 24), random(3, 3, 24, 24, seed=1)
    for figure in (psnr, ssim, edge_f1):
        each = torch.cat([figure(image[i : i + 1], truth[i : i + 1]) for i in range(3)])
        assert torch.allclose(figure(image, truth), each, atol=1e-6)
        with pytest.raises(BadInput, match=r"equal \(B, C, H, W\) needed"):
            figure(image, truth[:2])


def test_edges_may_be_one_pixel_off_and_no_more():
    truth = square(9)
    assert float(edge_f1(truth, truth)) == 1
    assert float(edge_f1(square(10), truth)) == 1
    assert float(edge_f1(square(11), truth)) < 0.7
    assert float(edge_f1(square(10), truth, tolerance=0)) < 0.9
    assert float(edge_f1(square(11), truth, tolerance=2)) == 1


def test_edge_f1_by_hand():
    """The square against one with a bar added: recall is 1, precision the share of edges that are the square's."""
    truth, more = square(4), square(4)
    more[..., 8:24, 26:30] = 1
    own, other = edge_pixels(truth)[0, 0], edge_pixels(more)[0, 0]
    near = ndimage.binary_dilation(own.numpy(), np.ones((3, 3)))
    precision = (other.numpy() & near).sum() / other.sum().item()
    assert 0.4 < precision < 0.9
    assert float(edge_f1(more, truth)) == pytest.approx(2 * precision / (1 + precision))
    assert float(edge_f1(truth, more)) == pytest.approx(float(edge_f1(more, truth)))


def test_pictures_without_edges():
    flat = torch.full((1, 3, 32, 32), 0.5)
    assert float(edge_f1(flat, flat)) == 1
    assert float(edge_f1(flat, square(9))) == 0
    assert float(edge_f1(square(9), flat)) == 0


# --- sets -----------------------------------------------------------------------------------------------------------
def test_distance_is_that_of_its_definition():
    """Means, covariances and the matrix root by numpy and scipy, on the features themselves."""
    image, truth = random(90, 3, 16, 16), random(70, 3, 16, 16, seed=1) ** 2
    distance = FrechetDistance()
    for part in image.split(40):
        distance.update(part, truth[:0])
    distance.update(image[:0], truth)
    network = RandomFeatures()
    x, y = network(image).double().numpy(), network(truth).double().numpy()
    root = linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert distance.count == 70
    assert distance.value() == pytest.approx(expected, rel=1e-3)


def test_distance_grows_with_blur_and_noise_and_is_small_for_the_same_kind():
    def squares(seed: int) -> torch.Tensor:
        return torch.cat([square(1 + (7 * i + seed) % 16) for i in range(16)]) * (
            0.6 + 0.4 * random(16, 1, 1, 1, seed=seed)
        )

    def distance(image: torch.Tensor) -> float:
        found = FrechetDistance()
        found.update(image, squares(1))
        return found.value()

    same, noise = squares(2), random(16, 3, 32, 32)
    blurred = torch.nn.functional.avg_pool2d(same, 5, 1, 2)
    order = [distance(x) for x in (squares(1), same, blurred, 0.5 * same + 0.5 * noise)]
    assert order[0] == pytest.approx(0, abs=1e-4)
    assert order == sorted(order)
    assert order[2] > 2 * order[1]


def test_random_features_are_the_same_everywhere():
    """They come from their own seed: neither the global generator nor its use plays a part. Numbers of this release."""
    torch.manual_seed(5)
    one = RandomFeatures()(torch.linspace(0, 1, 3 * 16 * 16).reshape(1, 3, 16, 16))
    torch.rand(7)
    other = RandomFeatures()(torch.linspace(0, 1, 3 * 16 * 16).reshape(1, 3, 16, 16))
    assert torch.equal(one, other)
    assert one.shape == (1, RandomFeatures.num_features)
    assert not RandomFeatures().state_dict()


def test_bad_weights_are_one_line(tmp_path: Path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    save_file({INCEPTION_KEY: torch.zeros(1)}, tmp_path / "y.safetensors")
    cases = ("none.pth", "does not exist"), ("x.safetensors", "holds other weights"), ("y.safetensors", "FID")
    for name, words in cases:
        with pytest.raises(BadInput, match=words) as error:
            FrechetDistance(str(tmp_path / name))
        assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match="there are 0"):
        FrechetDistance().value()
