# SPDX-License-Identifier: Apache-2.0
"""Two processes: groups of classes are agreed on, also where one of them has no sample of a group."""

from __future__ import annotations

import socket

import torch
from children import finish, start
from training import two
from worlds import data, make

from mien.engine import Settings, Tasks, fit


def test_two_ranks_equal_one_process_with_the_doubled_batch(tmp_path):
    """Fails if groups differ between ranks, or if the mean over a group is not over both ranks.

    One task: in later ones bases come from nearly singular moments, which rounding turns.
    """
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    processes = [start(two, str(tmp_path / "run"), r, port) for r in range(2)]
    method = make(augment="none")
    fit(method, data(method), schedule=Tasks(1, 2), settings=Settings(batch_size=4, device="cpu"))
    assert [finish(p) for p in processes] == [0, 0]
    first, second = (torch.load(f"{tmp_path / 'run'}.rank{r}.pt", weights_only=True) for r in range(2))
    for name, value in method.state_dict().items():
        assert torch.equal(first[name].nan_to_num(), second[name].nan_to_num()), f"the ranks disagree about {name}"
        gap = float((value - first[name]).nan_to_num().abs().max()) if value.numel() else 0.0
        assert gap <= 1e-5 * max(1.0, float(value.nan_to_num().abs().max())), f"{name} differs by {gap}"
