# SPDX-License-Identifier: Apache-2.0
"""What is remembered of old tasks' inputs: for each layer a sum of second moments, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mien.classification.method import ImageClassifier
from mien.engine import evaluation_loader
from mien.engine.evaluation import modes_kept
from mien.nn.moments import input_moments

Moments = dict[str, Tensor]
"""Name of a layer -> second moment of its inputs, (D, D), float32 on the CPU."""


class InputMemory(nn.Module):
    """S_old of every layer: the running sum over past tasks of their mean second moments.

    Args:
        widths: Name of a layer -> D, its inputs.
    """

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        for name, width in widths.items():
            self.register_buffer(_key(name), torch.zeros(width, width))

    def __getitem__(self, name: str) -> Tensor:
        """S_old of a layer, (D, D)."""
        return self.get_buffer(_key(name))

    def add(self, moments: Moments) -> None:
        """S_old <- S_old + S_t."""
        for name, moment in moments.items():
            self[name].add_(moment.to(self[name].device))


def _key(name: str) -> str:
    return name.replace(".", "_")  # a buffer's name has no dots


def collect(method: ImageClassifier, names: Iterable[str], data: Dataset[Any], batch_size: int = 64) -> Moments:
    """S_t: second moments of the inputs of layers of the network over all images, augmented as in training.

    Every image is augmented under a seed of its own that is the same in every pass, so that passes before and after
    training differ by the weights alone.
    """
    layers = {name: method.classifier.body.get_submodule(name) for name in names}
    with modes_kept(method), input_moments(layers) as moments, torch.no_grad():
        method.eval()
        for batch in evaluation_loader(data, batch_size, device=method.device):
            method.classifier(batch.image)
    return {name: moment.mean() for name, moment in moments.items()}
