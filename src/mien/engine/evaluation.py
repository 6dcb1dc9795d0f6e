# SPDX-License-Identifier: Apache-2.0
"""Passing over data without training: batches in order, predictions, mean losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mien.data.batch import batch_size as size_of
from mien.data.batch import move
from mien.engine.loading import SeededBatches, SeededView, collate_samples
from mien.engine.method import Method
from mien.engine.seeding import kept_generators, stable_seed
from mien.errors import BadInput


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Train and eval modes of all submodules come back as they were."""
    modes = [(child, child.training) for child in module.modules()]
    try:
        yield
    finally:
        for child, training in modes:
            child.training = training


def evaluation_loader(
    dataset: Dataset[Any],
    batch_size: int,
    *,
    workers: int = 0,
    device: torch.device | str = "cpu",
    by_group: bool = False,
    cap: int | None = None,
    groups: Sequence[str] | None = None,
) -> Iterator[Any]:
    """Batches in the order of the data set, the same on every pass.

    Args:
        dataset: Map-style data set.
        batch_size: Samples per batch; ignored with `by_group`.
        workers: Processes that load.
        device: Where the batches go.
        by_group: Whether a batch is one whole group, in order of first appearance.
        cap: With `by_group`, the most samples of a group; more are thinned at a fixed stride. None for all.
        groups: Group of every sample; by default `dataset.units` (what is predicted together) or `dataset.groups`.
    """
    size = len(dataset)  # type: ignore[arg-type]
    if by_group:
        names = groups if groups is not None else getattr(dataset, "units", getattr(dataset, "groups", None))
        if names is None:
            raise BadInput(f"{type(dataset).__name__} has no `groups`: this method predicts whole groups at once")
        members: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            members.setdefault(name, []).append(index)
        plan = [_thinned(np.asarray(rows), cap) for rows in members.values()]
    else:
        plan = [np.arange(start, min(start + batch_size, size)) for start in range(0, size, batch_size)]
    loader: DataLoader[Any] = DataLoader(
        SeededView(dataset),
        batch_sampler=SeededBatches(plan, 0, 0, 1, stable_seed("evaluation")),
        collate_fn=collate_samples,
        num_workers=workers,
        generator=torch.Generator().manual_seed(0),
    )
    for batch in loader:
        yield move(batch, device)


def _thinned(rows: np.ndarray, cap: int | None) -> np.ndarray:
    if cap is None or len(rows) <= cap:
        return rows
    return rows[(np.arange(cap) * len(rows)) // cap]


def predictions(
    method: Method,
    dataset: Dataset[Any],
    batch_size: int = 64,
    *,
    workers: int = 0,
    cap: int | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Each batch with the method's answer: eval mode, no gradients, whole groups where the method wants them."""
    loader = evaluation_loader(
        dataset, batch_size, workers=workers, device=method.device, by_group=method.predicts_by_group, cap=cap
    )
    with modes_kept(method):
        method.eval()
        for batch in loader:
            with torch.no_grad():
                answer = method.predict(batch)
            yield batch, answer


def mean_losses(method: Method, dataset: Dataset[Any], batch_size: int = 64) -> dict[str, float]:
    """The mean of each named loss over the samples, and their sum as "loss". Eval mode, no gradients."""
    totals: dict[str, float] = {}
    count = 0
    with modes_kept(method), torch.no_grad(), kept_generators():
        method.eval()
        for batch in evaluation_loader(dataset, batch_size, device=method.device):
            size = size_of(batch)
            count += size
            for name, value in method.losses(batch).items():
                totals[name] = totals.get(name, 0.0) + float(value) * size
    means = {name: total / count for name, total in totals.items()} if count else {}
    return {**means, "loss": sum(means.values())} if means else {}
