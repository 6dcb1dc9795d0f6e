# SPDX-License-Identifier: Apache-2.0
"""From a data set to batches: the plan of an epoch, a seed for every sample, and the loader that carries both.

The plan is drawn before the epoch: which samples, in which batches. A rank takes its columns, a resumed run starts at
its row, and any number of workers gives the same bits, since every sample is made under its own seed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from mien.data.batch import collate
from mien.engine.method import Epoch, Method
from mien.engine.schedule import Phase
from mien.engine.seeding import kept_cpu_generators, sample_seeds, seed_cpu, stable_seed
from mien.engine.settings import Settings
from mien.errors import BadInput

Plan = list[np.ndarray]
"""The batches of an epoch, each an array of sample indices."""


def epoch_plan(
    size: int, batch_size: int, world_size: int, seed: int, epoch: Epoch | None, buckets: np.ndarray | None = None
) -> Plan:
    """Batches over all ranks together, in order.

    Each holds `batch_size * world_size` indices, the last may hold fewer, always a multiple of `world_size` so that
    ranks have equal shares. With `buckets` (the bucket of every sample), a batch holds samples of one bucket only. A
    given `Epoch.order` is used as it is.
    """
    if epoch is not None and epoch.order is not None:
        plan = list(epoch.order.numpy())
        if any(len(row) % world_size for row in plan):
            raise BadInput(f"batches of {len(plan[0])} cannot be shared equally by {world_size} processes")
        return plan
    chosen = np.arange(size) if epoch is None or epoch.indices is None else epoch.indices.numpy()
    rng = np.random.default_rng(seed)
    order = chosen[rng.permutation(len(chosen))]
    parts = [order] if buckets is None else [order[buckets[order] == bucket] for bucket in np.unique(buckets[order])]
    parts = [part[: len(part) // world_size * world_size] for part in parts]
    step = batch_size * world_size
    plan = [part[start : start + step] for part in parts for start in range(0, len(part), step)]
    if not plan:
        raise BadInput(f"the training data has {len(chosen)} samples for {world_size} processes: nothing to train on")
    return plan if buckets is None else [plan[i] for i in rng.permutation(len(plan))]


def steps_per_epoch(
    size: int,
    batch_size: int,
    world_size: int,
    accumulate: int,
    batches: int | None = None,
    buckets: np.ndarray | None = None,
) -> int:
    """Updates in an epoch over `size` samples, or of `batches` batches where a method gives batches of its own.

    A `size` below that of the data is taken to be spread over the buckets as all samples are.
    """
    if batches is None:
        counts = [] if buckets is None else np.unique(buckets, return_counts=True)[1].tolist()
        sizes = [size] if buckets is None else [count * size // len(buckets) for count in counts]
        batches = sum(-(-(part // world_size) // batch_size) for part in sizes)
    return -(-batches // accumulate)


def phase_steps(method: Method, phase: Phase, data: Dataset[Any], settings: Settings, world_size: int) -> int:
    """Updates of a phase in which nothing stops early, over the samples or batches that the method says it takes."""
    chosen, batches = method.samples_per_epoch(phase, data), method.batches_per_epoch()
    size = dataset_size(data) if chosen is None else chosen
    epoch = steps_per_epoch(size, settings.batch_size, world_size, settings.accumulate, batches, buckets_of(data))
    return min(phase.epochs * epoch, settings.max_steps or sys.maxsize)


def buckets_of(dataset: Dataset[Any]) -> np.ndarray | None:
    """The bucket of every sample, where the data set has `buckets`: batches then hold samples of one bucket only."""
    if isinstance(dataset, Subset):
        whole = buckets_of(dataset.dataset)
        return None if whole is None else whole[np.asarray(dataset.indices)]
    buckets = getattr(dataset, "buckets", None)
    return None if buckets is None else np.asarray(buckets)


def is_seeded(dataset: Dataset[Any]) -> bool:
    """Whether samples draw chance, so that each must be made under its own seed."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return bool(getattr(dataset, "seeded", not isinstance(dataset, TensorDataset)))


@dataclass(frozen=True)
class Whole:
    """A batch that was made at once, not sample by sample."""

    batch: Any


def collate_samples(samples: list[Any] | Whole) -> Any:
    """The batch of what `SeededView` gave."""
    return samples.batch if isinstance(samples, Whole) else collate(samples)


class SeededView(Dataset[Any]):
    """A data set read by (index, seed) keys. `fields` replaces fields of the samples (new labels)."""

    def __init__(self, dataset: Dataset[Any], fields: dict[str, torch.Tensor] | None = None) -> None:
        self.dataset = dataset
        self.fields = fields or {}
        self.seeded = is_seeded(dataset)

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[Any] | Whole:
        if isinstance(self.dataset, TensorDataset) and not self.fields:
            rows = [index for index, _ in keys]
            return Whole(tuple(tensor[rows] for tensor in self.dataset.tensors))  # sample by sample costs 0.1 ms a step
        if self.seeded:
            samples = []
            with kept_cpu_generators():
                for index, seed in keys:
                    seed_cpu(seed)
                    samples.append(self.dataset[index])
        elif hasattr(self.dataset, "__getitems__"):
            samples = self.dataset.__getitems__([index for index, _ in keys])
        else:
            samples = [self.dataset[index] for index, _ in keys]
        if self.fields:
            return [self._relabelled(sample, index) for sample, (index, _) in zip(samples, keys, strict=True)]
        return samples

    def _relabelled(self, sample: Any, index: int) -> Any:
        import dataclasses

        values = {name: column[index] for name, column in self.fields.items()}
        if isinstance(sample, dict):
            return {**sample, **values}
        return dataclasses.replace(sample, **values)


class SeededBatches:
    """The batch sampler: rows of the plan from a position on, this rank's columns, with a seed beside each index."""

    def __init__(self, plan: Plan, start: int, rank: int, world_size: int, seed: int) -> None:
        self.plan, self.start, self.rank, self.world_size, self.seed = plan, start, rank, world_size, seed

    def __len__(self) -> int:
        return len(self.plan) - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rows = self.plan[self.start :]
        if not rows:
            return
        seeds = sample_seeds(self.seed, np.concatenate(rows))  # at once: row by row it costs 50 us a step
        offset = 0
        for row in rows:
            share = len(row) // self.world_size
            first = self.rank * share
            own = row[first : first + share]
            yield list(zip(own.tolist(), seeds[offset + first : offset + first + share].tolist(), strict=True))
            offset += len(row)


def training_loader(
    dataset: Dataset[Any],
    plan: Plan,
    *,
    start: int,
    rank: int,
    world_size: int,
    seed: int,
    workers: int,
    fields: dict[str, torch.Tensor] | None = None,
    context: str | None = None,
) -> DataLoader[Any]:
    """This rank's batches of an epoch from row `start` on."""
    return DataLoader(
        SeededView(dataset, fields),
        batch_sampler=SeededBatches(plan, start, rank, world_size, stable_seed(seed, "sample")),
        collate_fn=collate_samples,
        num_workers=workers,
        generator=torch.Generator().manual_seed(0),  # else the loader draws from the global generator
        multiprocessing_context=context if workers else None,
        pin_memory=torch.cuda.is_available(),
    )


def dataset_size(dataset: Dataset[Any]) -> int:
    """Number of samples. Raises BadInput for an empty data set or one without a length."""
    try:
        size = len(dataset)  # type: ignore[arg-type]
    except TypeError:
        raise BadInput(f"{type(dataset).__name__} has no length: training needs a map-style data set") from None
    if size == 0:
        raise BadInput("the training data is empty: 0 samples")
    return size
