# SPDX-License-Identifier: Apache-2.0
"""Labels of data sets of faces without reading an image, where the data set knows them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset


def labels_of(data: Dataset[Any]) -> Tensor:
    """Labels (N,) of a data set of `Faces`, int64: 0 real, 1 forged, -1 unknown.

    Taken from a tensor `label`, or from `records`; of any other data set the samples are read.
    """
    if isinstance(data, Subset):
        return labels_of(data.dataset)[torch.as_tensor(list(data.indices))]
    if isinstance(data, ConcatDataset):
        return torch.cat([labels_of(part) for part in data.datasets])
    known: Any = data
    if isinstance(label := getattr(known, "label", None), Tensor) and label.shape == (len(known),):
        return label.long().cpu()
    if (records := getattr(known, "records", None)) is not None:
        return torch.tensor([-1 if record.label is None else record.label for record in records])
    return torch.tensor([int(known[i].label) for i in range(len(known))])
