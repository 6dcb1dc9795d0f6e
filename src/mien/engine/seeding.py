# SPDX-License-Identifier: Apache-2.0
"""Chance: seeds that follow from what they are for, and the state of every global generator."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_MASK = np.uint64(0xFFFFFFFFFFFFFFFF)


def stable_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) that depends on all parts and on nothing else: not on the process, the order or the machine.

    >>> stable_seed(0, "phase", 1) == stable_seed(0, "phase", 1) != stable_seed(0, "phase", 2)
    True
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def sample_seeds(base: int, indices: np.ndarray) -> np.ndarray:
    """A seed >= 0 for each sample: the SplitMix64 finaliser of base + index. (n,) integers -> (n,) int64."""
    with np.errstate(over="ignore"):
        z = np.uint64(base) + (indices.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(1)).astype(np.int64)


def seed_cpu(seed: int) -> None:
    """Seed the global CPU generators of torch, numpy and Python."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002 - libraries draw from it
    random.seed(seed)


def seed_all(seed: int) -> None:
    """Seed every global generator, those of accelerators too."""
    seed_cpu(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def generator_states() -> dict[str, Any]:
    """The states of every global generator, as a tree of tensors and numbers."""
    legacy: Any = np.random.get_state()  # noqa: NPY002
    name, keys, position, has_gauss, gauss = legacy
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": {"name": name, "keys": torch.from_numpy(keys.astype(np.int64)), "rest": [position, has_gauss, gauss]},
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_generators(states: dict[str, Any]) -> None:
    """Put back what `generator_states` gave."""
    torch.set_rng_state(states["torch"])
    saved = states["numpy"]
    np.random.set_state((saved["name"], saved["keys"].numpy().astype(np.uint32), *saved["rest"]))  # noqa: NPY002
    random.setstate(states["python"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])


@contextmanager
def kept_generators() -> Iterator[None]:
    """Whatever is drawn inside leaves no trace in the global generators."""
    states = generator_states()
    try:
        yield
    finally:
        restore_generators(states)


@contextmanager
def kept_cpu_generators() -> Iterator[None]:
    """`kept_generators` for the CPU alone: cheap enough for every batch of samples."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])
