# SPDX-License-Identifier: Apache-2.0
"""VGG-19's features from a file of weights; the file here holds random ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import vgg19

from mien.errors import BadInput
from mien.nn.vgg import TAPS, WEIGHTS, Vgg19, layer_names, perceptual_loss


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    state = {}
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in vgg19().state_dict().items() if k.startswith("features.")}
    for name, shape in shapes.items():
        fan = max(torch.Size(shape[1:]).numel(), 1)
        state[name] = torch.randn(shape) * (2 / fan) ** 0.5 if len(shape) > 1 else torch.zeros(shape)
    path = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    save_file(state, path)
    return path


def test_taps_are_the_relus_of_torchvisions_network(weights: Path):
    """The same file in torchvision's own network, whose ReLUs are counted: 1, 3, 5, 9, 13."""
    from safetensors.torch import load_file

    with torch.device("meta"):
        features = vgg19().features
    features.load_state_dict({k.removeprefix("features."): v for k, v in load_file(weights).items()}, assign=True)
    image = torch.rand(1, 3, 32, 32)
    expected, x = [], image
    for layer in features:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            expected.append(x.clone())
    found = Vgg19(str(weights))(image)
    assert len(found) == 5
    for tap, index in zip(found, (0, 2, 4, 8, 12), strict=True):
        assert torch.allclose(tap, expected[index], atol=1e-5)


def test_loss_by_hand_and_where_its_gradient_goes(weights: Path):
    network = Vgg19(str(weights))
    image, target = torch.rand(1, 3, 16, 16, requires_grad=True), torch.rand(1, 3, 16, 16, requires_grad=True)
    loss = perceptual_loss(network, image, target)
    pairs = zip(WEIGHTS, network(image), network(target), strict=True)
    assert float(loss.detach()) == pytest.approx(sum(w * float((a - b).abs().mean().detach()) for w, a, b in pairs))
    loss.backward()
    assert image.grad is not None
    assert target.grad is None
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert float(perceptual_loss(network, image, image).detach()) == 0


def test_names_follow_the_papers():
    names = layer_names()
    assert len(names) == 37
    assert names[:5] == ["conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1"]
    assert set(TAPS) < set(names)


def test_bad_weights_and_taps_are_one_line(weights: Path, tmp_path: Path):
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name, words in ((tmp_path / "none.pth", "does not exist"), (tmp_path / "other.safetensors", "no state dict")):
        with pytest.raises(BadInput, match=words) as error:
            Vgg19(str(name))
        assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match="unknown layer of VGG-19 'relu9_1'"):
        Vgg19(str(weights), ["relu9_1"])
    with pytest.raises(BadInput, match="name each once"):
        Vgg19(str(weights), ["relu2_1", "relu1_1"])
