# SPDX-License-Identifier: Apache-2.0
"""VGG-19 as a fixed measure of how images look: its features by the names of papers (relu3_1), the perceptual loss.

The weights are torchvision's for ImageNet, by name or from a file; they are downloaded when first needed and are no
part of what is trained with them or saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import BadInput, unknown_name
from mien.nn.network import read_state

TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""Of the five taps in the perceptual loss (pix2pixHD)."""

_CONVOLUTIONS = (2, 2, 4, 4, 4)
"""In each stage of VGG-19; stages end with max pooling."""


def layer_names() -> list[str]:
    """Names of the layers of torchvision's `vgg19().features` in order: conv1_1, relu1_1, ..., pool5."""
    names = []
    for stage, count in enumerate(_CONVOLUTIONS, 1):
        for i in range(1, count + 1):
            names += [f"conv{stage}_{i}", f"relu{stage}_{i}"]
        names.append(f"pool{stage}")
    return names


class Vgg19(nn.Module):
    """The outputs of some layers of VGG-19, without gradients for its weights.

    Args:
        weights: "vgg19" for torchvision's weights (downloaded once), or a file of a `vgg19` state dict: safetensors, or
            .pth read without unpickling code.
        taps: Layers, in order, by the names that `layer_names` gives.

    Raises:
        BadInput: Weights that cannot be had or do not fit, or an unknown layer. One line that says what to do.
    """

    def __init__(self, weights: str = "vgg19", taps: Sequence[str] = TAPS) -> None:
        super().__init__()
        names = layer_names()
        for tap in taps:
            if tap not in names:
                raise unknown_name("layer of VGG-19", tap, names)
        ends = [names.index(tap) + 1 for tap in taps]
        if ends != sorted(set(ends)):
            raise BadInput(f"layers of VGG-19 are {list(taps)}: name each once, in the network's order")
        features = _features(weights)
        for layer in features:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        self.parts = nn.ModuleList(features[a:b] for a, b in zip([0, *ends], ends, strict=False))
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor) -> list[Tensor]:
        """One map for each tap. Images (B, 3, H, W) in whatever range the caller's paper uses."""
        outputs = []
        for part in self.parts:
            image = part(image)
            outputs.append(image)
        return outputs


def perceptual_loss(network: Vgg19, image: Tensor, target: Tensor, weights: Sequence[float] = WEIGHTS) -> Tensor:
    """Weighted sum over the taps of the L1 distance between the features of `image` and those of `target`, fixed."""
    with torch.no_grad():
        wanted = network(target)
    found = network(image)
    terms = [weight * F.l1_loss(a, b) for weight, a, b in zip(weights, found, wanted, strict=True)]
    return torch.stack(terms).sum()


def _features(weights: str) -> nn.Sequential:
    from torchvision.models import VGG19_Weights, vgg19

    if weights == "vgg19":
        known = VGG19_Weights.IMAGENET1K_V1
        try:
            return vgg19(weights=known).features
        except (OSError, RuntimeError) as error:  # no connection; a broken download
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
            raise BadInput(
                f"VGG-19's weights could not be had ({reason}): fetch {known.url} on a machine with a connection and "
                "name the file in place of 'vgg19', or train without the perceptual loss (weight 0, preset small)"
            ) from error
    with torch.device("meta"):  # the classifier's 120 million weights are not needed
        features = vgg19().features
    state = {
        name.removeprefix("features."): value
        for name, value in read_state(Path(weights), "VGG-19's weights").items()
        if name.startswith("features.")
    }
    try:
        features.load_state_dict(state, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"VGG-19's weights: {weights} is no state dict of torchvision's vgg19: {reason}") from error
    return features
