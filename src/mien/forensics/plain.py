# SPDX-License-Identifier: Apache-2.0
"""A plain detector: any network, trained with cross-entropy. The honest baseline that every method here must beat.

Example:
    >>> from mien.nn.network import Network
    >>> PlainDetector(network=Network("tiny_cnn"), image_size=64).image_size
    64
"""

from __future__ import annotations

from mien.forensics.detector import NetworkDetector, ScoreForm
from mien.nn.network import Network
from mien.optim.recipe import Recipe


class PlainDetector(NetworkDetector):
    """Plain detector, trained with cross-entropy on images as they are.

    Args:
        network: The classifier.
        optimizer: How it is trained; the default is ACMF's, so that both get the same.
        image_size: Height and width in pixels of the images that it is given.
        score: How two logits become one score.
    """

    name = "plain"

    def __init__(
        self,
        *,
        network: Network = Network(),
        optimizer: Recipe = Recipe(betas=(0.9, 0.95)),
        image_size: int = 224,
        score: ScoreForm = "softmax",
    ) -> None:
        super().__init__(network=network, optimizer=optimizer, image_size=image_size, score=score)
