# SPDX-License-Identifier: Apache-2.0
"""A run that may kill itself, in a child process."""

from __future__ import annotations


def train(out: str, resume: bool, where: str, count: int) -> None:
    """Train LoDA with everything on; die at the `count`-th update, checkpoint write or phase end, or not at all."""
    import torch
    from children import _die_at, _half_a_file
    from worlds import data, make

    from mien.adaptation.heads import Alignment
    from mien.adaptation.tasks import FoundedTasks
    from mien.engine import Settings, fit, loop, state

    torch.set_num_threads(1)
    if where == "step":
        loop._Loop._update = _die_at(count, loop._Loop._update)
    elif where == "write":
        state.save_file = _die_at(count, state.save_file, after=_half_a_file)
    elif where == "between phases":
        loop._Loop._close_phase = _die_at(count, loop._Loop._close_phase)
    method = make(foundation=1, alignment=Alignment(epochs=1, samples=8))
    fit(
        method,
        data(method),
        schedule=FoundedTasks(1, 2, 2),
        settings=Settings(batch_size=5, device="cpu", checkpoint_every=2, log_every=1),
        out=out,
        resume=resume,
    )


def two(out: str, rank: int, port: int) -> None:
    """One of two processes that train together; small batches, so that a rank may lack one of the groups."""
    import os

    import torch
    from worlds import data, make

    from mien.engine import Settings, Tasks, fit

    torch.set_num_threads(1)
    os.environ.update(
        LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    method = make(augment="none")
    fit(
        method,
        data(method),
        schedule=Tasks(1, 2),
        settings=Settings(batch_size=2, device="cpu", devices=2),
    )
    torch.save(method.state_dict(), f"{out}.rank{rank}.pt")
