# SPDX-License-Identifier: Apache-2.0
"""Grey pictures: the shares of the colours, any number of leading axes, one channel."""

import pytest
import torch

from mien.nn.grey import grey


@pytest.mark.parametrize("lead", [(), (1,), (2, 5)])
def test_grey_is_the_weighted_sum_of_the_colours(lead):
    image = torch.eye(3).reshape(3, 1, 3).expand(*lead, 3, 1, 3)  # a red, a green and a blue pixel
    assert grey(image).shape == (*lead, 1, 1, 3)
    assert torch.equal(grey(image), torch.tensor([0.299, 0.587, 0.114]).expand(*lead, 1, 1, 3))


def test_one_channel_stays():
    image = torch.rand(2, 1, 4, 5)
    assert grey(image) is image
