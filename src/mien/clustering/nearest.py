# SPDX-License-Identifier: Apache-2.0
"""The nearest neighbours of every sample among all samples.

Exact up to `EXACT_LIMIT` samples: a block of rows times all others, the largest products of each row kept. With the
extra `cluster` faiss does it (a little faster on the CPU), else torch; both give the same lists apart from ties. Beyond
the limit the time, which grows like N^2, asks for an approximate search, which needs the extra: an inverted file of
faiss that visits an eighth of its cells. `benchmarks/clustering.py` states the share of neighbours that it finds.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mien.errors import BadInput, MissingExtra

Search = Literal["auto", "exact", "approximate"]

EXACT_LIMIT = 100_000
"""Samples up to which "auto" searches exactly: about ten minutes at 2048 dimensions on two cores."""

_BLOCK = 1 << 23
"""Products held at once: 32 MiB in float32."""


def nearest(features: Tensor, k: int, search: Search = "auto") -> NDArray[np.int64]:
    """The k samples with the smallest Euclidean distance to each sample, the nearest first, itself always first.

    Args:
        features: L2-normalised rows (N, D), N >= 1, float32 or float64, on any device.
        k: Length of the lists, >= 1; cut to N.
        search: "exact"; "approximate" (extra `cluster`); "auto" is exact up to `EXACT_LIMIT` samples.

    Returns:
        Indices (N, min(k, N)).

    Raises:
        BadInput: Rows that are not finite or not normalised, or a value outside its range.

    >>> nearest(torch.eye(3)[[0, 1, 0]], 2)
    array([[0, 2],
           [1, 0],
           [2, 0]])
    """
    check_features(features)
    if k < 1:
        raise BadInput(f"k is {k}: it must be at least 1")
    if search not in ("auto", "exact", "approximate"):
        raise BadInput(f"search is {search!r}: use auto, exact or approximate")
    count = len(features)
    k = min(k, count)
    if search == "approximate" or (search == "auto" and count > EXACT_LIMIT):
        found = _approximate(features, k)
    elif features.device.type == "cpu" and features.dtype == torch.float32 and find_spec("faiss") is not None:
        found = _faiss_exact(features, k)
    else:
        found = _torch_exact(features, k)
    return _self_first(found)


def check_features(features: Tensor) -> None:
    """Raise `BadInput` unless `features` are finite L2-normalised rows (N, D), N >= 1."""
    if features.ndim != 2 or len(features) == 0:
        raise BadInput(f"features have shape {tuple(features.shape)}: (N, D) with at least one row is needed")
    length = torch.linalg.vector_norm(features, dim=1)
    if not bool(((length - 1).abs() < 1e-3).all()):  # also false for NaN
        worst = length[(length - 1).abs().nan_to_num(torch.inf).argmax()]
        raise BadInput(f"features are not L2-normalised: a row has the length {float(worst):.4g}")


def _torch_exact(features: Tensor, k: int) -> NDArray[np.int64]:
    rows = max(_BLOCK // len(features), 1)
    return torch.cat([(block @ features.T).topk(k, dim=1).indices.cpu() for block in features.split(rows)]).numpy()


def _faiss_exact(features: Tensor, k: int) -> NDArray[np.int64]:
    import faiss

    index: Any = faiss.IndexFlatIP(features.shape[1])
    return _searched(index, features, k)


def _approximate(features: Tensor, k: int) -> NDArray[np.int64]:
    if find_spec("faiss") is None:
        raise MissingExtra(f"approximate search among {len(features)} samples", "cluster")
    import faiss

    count, dimensions = features.shape
    cells = max(int(np.sqrt(count)), 1)
    quantiser: Any = faiss.IndexFlatIP(dimensions)
    index: Any = faiss.IndexIVFFlat(quantiser, dimensions, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1  # faiss warns on stderr otherwise
    index.train(features.cpu().float().numpy())
    index.nprobe = max(cells // 8, 8)
    return _searched(index, features, k)


def _searched(index: Any, features: Tensor, k: int) -> NDArray[np.int64]:
    points = np.ascontiguousarray(features.detach().cpu().float().numpy())
    index.add(points)
    found: NDArray[np.int64] = index.search(points, k)[1]
    return found


def _self_first(found: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every list with its own sample at the front: duplicates of a sample may have come before it, or in its place.

    Places that an approximate search left empty (-1) are filled with the sample itself, which changes no set.
    """
    own = np.arange(len(found))[:, None]
    place = np.where(found == own, 0, np.where(found < 0, 2, 1))
    place[(place > 0).all(axis=1), -1] = 0  # itself is missing: the last one goes
    ranked = np.take_along_axis(found, np.argsort(place, axis=1, kind="stable"), axis=1)
    ranked[:, :1] = own
    return np.where(ranked < 0, own, ranked)
