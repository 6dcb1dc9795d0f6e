# SPDX-License-Identifier: Apache-2.0
"""Samples and batches: a sample is a dataclass (or dict, tuple, tensor); its batch is the same type, stacked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def collate(samples: Sequence[Any]) -> Any:
    """Stack samples into a batch of the same type.

    Tensors and arrays are stacked, numbers become a tensor, strings and everything else become a list, `None` stays
    `None`. Dataclasses, dicts and tuples are collated field by field.

    >>> collate([{"x": torch.zeros(2), "name": "a"}, {"x": torch.ones(2), "name": "b"}])
    {'x': tensor([[0., 0.],
            [1., 1.]]), 'name': ['a', 'b']}
    """
    first = samples[0]
    if first is None:
        return first
    if isinstance(first, Tensor):
        return torch.stack(list(samples))
    if isinstance(first, np.ndarray):
        return torch.from_numpy(np.stack(samples))
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        fields = {f.name: collate([getattr(s, f.name) for s in samples]) for f in dataclasses.fields(first)}
        return type(first)(**fields)
    if isinstance(first, dict):
        return {key: collate([s[key] for s in samples]) for key in first}
    if isinstance(first, tuple):
        columns = [collate(column) for column in zip(*samples, strict=True)]
        return type(first)(*columns) if hasattr(first, "_fields") else tuple(columns)
    if isinstance(first, (bool, int, float, np.number)):
        return torch.tensor(samples)
    return list(samples)


def move(batch: Any, device: torch.device | str) -> Any:
    """The batch with every tensor on `device`; on the CPU with CPU tensors nothing is copied."""
    value = batch
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: move(getattr(value, f.name), device) for f in dataclasses.fields(value)})
    if isinstance(value, dict):
        return {key: move(item, device) for key, item in value.items()}
    if isinstance(value, tuple):
        items = [move(item, device) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return batch


def batch_size(batch: Any) -> int:
    """Number of samples in a batch: the length of its first tensor or list."""
    if isinstance(batch, (Tensor, list)):
        return len(batch)
    if dataclasses.is_dataclass(batch):
        values: Any = (getattr(batch, f.name) for f in dataclasses.fields(batch))
    elif isinstance(batch, dict):
        values = batch.values()
    elif isinstance(batch, tuple):
        values = batch
    else:
        return 1
    return next((batch_size(value) for value in values if value is not None), 0)
