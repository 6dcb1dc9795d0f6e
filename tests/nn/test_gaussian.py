# SPDX-License-Identifier: Apache-2.0
"""Our blur is torchvision's."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional

from mien.nn.gaussian import gaussian_blur


@pytest.mark.parametrize("kernel", [(5, 5), (9, 3), (7, 1), (1, 11)])
@pytest.mark.parametrize("sigma", [0.3, 1.7, 12.0])
def test_it_is_the_blur_of_torchvision(kernel, sigma):
    image = torch.rand(2, 3, 21, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for one in (image, image.float()):
        assert torch.equal(
            gaussian_blur(one, kernel, sigma), functional.gaussian_blur(one, list(kernel), [sigma, sigma])
        )


def test_a_constant_stays_and_gradients_pass():
    image = torch.full((1, 1, 8, 8), 0.4, requires_grad=True)
    blurred = gaussian_blur(image, (5, 5), 2.0)
    assert torch.allclose(blurred, image)
    blurred.sum().backward()
    assert float(image.grad.sum()) == pytest.approx(64)
