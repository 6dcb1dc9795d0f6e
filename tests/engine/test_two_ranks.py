# SPDX-License-Identifier: Apache-2.0
"""Two processes equal one with the doubled batch; with batch norm the two agree with each other bit for bit."""

from __future__ import annotations

import socket

import pytest
import torch
from children import finish, rank, start

import toys
from mien.engine import fit


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def two_ranks(name, tmp_path, precision="32", **changes):
    port = free_port()
    processes = [start(rank, name, str(tmp_path / "run"), r, port, changes, precision) for r in range(2)]
    assert [finish(p) for p in processes] == [0, 0]
    states = [torch.load(f"{tmp_path / 'run'}.rank{r}.pt", weights_only=True)["state"] for r in range(2)]
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), f"the ranks disagree about {key}"
    return states[0]


@pytest.mark.parametrize(
    "name", ["plain", "two", "sharp", "aligned", "tasks", "bank", "rounds", "accumulate", "relabelled"]
)
def test_two_ranks_equal_one_process_with_the_doubled_batch(name, tmp_path):
    """Fails if a gradient is not averaged, a bank misses the other rank's rows, or samples are shared out otherwise."""
    case = toys.case(name)
    if hasattr(case.method, "dropout"):
        case.method.dropout = 0.0  # each rank draws its own masks: no equality is to be expected
    settings = toys.settings(case)
    single = toys.settings(case, batch_size=2 * settings.batch_size)
    if name == "relabelled":
        single = settings  # its own order already holds the batches of all ranks
    fit(case.method, case.data, schedule=case.schedule, settings=single, strategies=case.strategies)
    together = two_ranks(f"{name}", tmp_path)
    for key, value in case.method.state_dict().items():
        gap = float((value - together[key]).abs().max()) if value.numel() else 0.0
        assert gap <= 1e-6, f"{key} differs by {gap}"


def test_with_batch_norm_the_ranks_agree_bit_for_bit(tmp_path):
    two_ranks("norm", tmp_path)


def test_bf16_on_two_ranks_agrees_too(tmp_path):
    two_ranks("two", tmp_path, precision="bf16")
