# SPDX-License-Identifier: Apache-2.0
"""What readers of expressions share: a network whose last layer sees features of unit length, and the answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.classification.method import Opinion
from mien.nn.network import Classifier, Network

RAFDB = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")
"""RAF-DB's classes in the order of its labels. All readers use these words, and "contempt"."""
SAME = {
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "happiness": "happy",
    "sadness": "sad",
    "surprised": "surprise",
}
"""Other data sets' words for these classes."""


@dataclass
class Expression(Opinion):
    """The answer for a batch.

    Args:
        feature: (B, d), of unit length.
    """

    feature: Tensor


def common_name(name: str) -> str:
    """The readers' word for an expression; what is no such word stays.

    >>> common_name("Anger"), common_name("class 3")
    ('angry', 'class 3')
    """
    word = SAME.get(name.lower(), name.lower())
    return word if word in (*RAFDB, "contempt") else name


class UnitHead(nn.Module):
    """A trunk, dropout, features scaled to unit length, and a linear layer.

    Args:
        trunk: Images, normalised -> features (B, d).
        features: d.
        num_classes: Logits.
        dropout: Share of the trunk's features that are dropped in training, before they are scaled.
        scale: Of the logits. They are at most scale ||W_c||, so a small one keeps a young network unsure.
    """

    def __init__(self, trunk: nn.Module, features: int, num_classes: int, dropout: float, scale: float) -> None:
        super().__init__()
        self.trunk, self.dropout, self.scale = trunk, nn.Dropout(dropout), scale
        self.fc = nn.Linear(features, num_classes)

    def features(self, image: Tensor) -> Tensor:
        """Features of unit length, (B, d)."""
        if not len(image):  # batch norm has nothing to average
            return image.new_zeros(0, self.fc.in_features)
        return F.normalize(self.dropout(self.trunk(image)).flatten(1), dim=1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        return self.scale * self.fc(self.features(image))


def unit_classifier(network: Network, num_classes: int, image_size: int, dropout: float, scale: float) -> Classifier:
    """A network by name with a `UnitHead`; `Classifier.with_features` then gives the unit features."""
    made = network.build(0, image_size)
    with torch.no_grad():
        features = made.eval()(torch.zeros(1, 3, image_size, image_size)).flatten(1).shape[1]
    made.body = UnitHead(made.body, features, num_classes, dropout, scale)
    made.cam_layer_name = f"trunk.{made.cam_layer_name}"
    return made.train()
