# SPDX-License-Identifier: Apache-2.0
"""Second moments of what flows into layers, collected by hooks while a network runs; no sample is kept.

>>> layer = nn.Linear(2, 1)
>>> import torch
>>> with input_moments({"layer": layer}) as moments:
...     _ = layer(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
>>> moments["layer"].mean()
tensor([[1., 1.],
        [1., 2.]])
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mien.errors import BadInput


class SecondMoment:
    """The mean of x x^T over rows x that come batch by batch. Not centred."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self.rows = 0

    def add(self, x: Tensor) -> None:
        """Take the rows of (..., D). Products are made where `x` is, sums are kept on the CPU in float64."""
        rows = x.detach().reshape(-1, x.shape[-1]).float()
        product = (rows.T @ rows).cpu().double()
        self._sum = product if self._sum is None else self._sum.add_(product)
        self.rows += len(rows)

    def mean(self) -> Tensor:
        """S, (D, D) float32 on the CPU. Raises BadInput when no row has come."""
        if self._sum is None or not self.rows:
            raise BadInput("no input has reached the layer: there is no second moment")
        return (self._sum / self.rows).float()


@contextmanager
def input_moments(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, SecondMoment]]:
    """Inside, every forward pass of a layer adds the rows of its first input to the layer's moment."""
    moments = {name: SecondMoment() for name in layers}

    def hook(name: str) -> Any:
        return lambda _module, inputs: moments[name].add(inputs[0])

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield moments
    finally:
        for handle in handles:
            handle.remove()
