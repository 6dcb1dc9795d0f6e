# SPDX-License-Identifier: Apache-2.0
"""The U-shaped network: what its options change and what they leave alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mien.diffusion.unet import UNetSize
from mien.errors import BadInput

SIZE = UNetSize(8, (1, 2), 1, attention=())


def test_a_shortcut_adds_the_inputs_channels_by_factors_of_the_time():
    torch.manual_seed(0)
    plain = SIZE.build(3, 2)
    torch.manual_seed(0)
    direct = UNetSize(8, (1, 2), 1, attention=(), shortcut=True).build(3, 2)
    direct.load_state_dict(plain.state_dict(), strict=False)
    x, t = torch.randn(2, 3, 8, 4), torch.tensor([1, 6])
    assert direct.shortcut is not None
    assert torch.equal(direct(x, t), plain(x, t))  # the factors start at 0
    nn.init.zeros_(direct.shortcut.weight)
    direct.shortcut.bias.data = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    added = torch.stack([x[:, 0] + 2 * x[:, 1] + 3 * x[:, 2], 4 * x[:, 0] + 5 * x[:, 1] + 6 * x[:, 2]], dim=1)
    assert torch.allclose(direct(x, t), plain(x, t) + added, atol=1e-5)
    nn.init.normal_(direct.shortcut.weight)
    early, late = (direct(x, torch.tensor([n, n])) - plain(x, torch.tensor([n, n])) for n in (1, 6))
    assert not torch.allclose(early, late)
    # Features are those of the network without it.
    assert all(torch.equal(a, b) for a, b in zip(direct.features(x, t), plain.features(x, t), strict=True))


def test_weights_of_networks_without_a_shortcut_have_the_names_they_had():
    assert not [name for name in SIZE.build(2, 1).state_dict() if "shortcut" in name]


@pytest.mark.parametrize("side", [5, 6])
def test_maps_that_cannot_be_halved_are_refused(side: int):
    network, x, t = UNetSize(8, (1, 1, 1), 1, attention=()).build(1, 1), torch.zeros(1, 1, 4, side), torch.ones(1)
    with pytest.raises(BadInput, match=f"the map is 4 x {side}: .* multiples of 4"):
        network(x, t)
