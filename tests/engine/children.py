# SPDX-License-Identifier: Apache-2.0
"""What runs in child processes of the engine's tests: a toy run that may kill itself, and a rank of two."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import torch
from torch.utils.data._utils import worker

CONTEXT = multiprocessing.get_context("forkserver")  # children fork from a clean process: fast, and no threads in it
CONTEXT.set_forkserver_preload(["torch", "torch._dynamo", "toys", "mien.engine", "mien.engine.fabric", "children"])


def _die_at(count: int, function, after=None):
    """`function`, but its `count`-th call kills the process, after `after` (half of what it would have done)."""
    calls = 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == count:
            if after is not None:
                after(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return wrapped


def _half_a_file(tensors, path, metadata) -> None:
    Path(path).write_bytes(b"\x00" * 1000)


def train(name: str, out: str, workers: int, resume: bool, where: str, count: int) -> None:
    """Train a toy; die at the `count`-th step, checkpoint write, rename, or phase end, or not at all."""
    import toys
    from mien.engine import fit, loop, state

    torch.set_num_threads(1)
    multiprocessing.set_start_method(None, force=True)  # the platform's: a fork server's loaders would outlive a kill
    worker.MP_STATUS_CHECK_INTERVAL = 0.2  # loader processes of a killed run end soon, so the next may start
    if where == "step":
        loop._Loop._update = _die_at(count, loop._Loop._update)
    elif where == "write":
        state.save_file = _die_at(count, state.save_file, after=_half_a_file)
    elif where == "between phases":
        loop._Loop._close_phase = _die_at(count, loop._Loop._close_phase)
    case = toys.case(name)
    settings = toys.settings(case, checkpoint_every=4, workers=workers)
    fit(
        case.method,
        case.data,
        schedule=case.schedule,
        settings=settings,
        out=out,
        strategies=case.strategies,
        resume=resume,
    )


def rank(name: str, out: str, rank: int, port: int, changes: dict, precision: str) -> None:
    """One of two processes that train together."""
    import toys
    from mien.engine import fit

    torch.set_num_threads(1)
    os.environ.update(
        LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    case = toys.case(name)
    if hasattr(case.method, "dropout"):
        case.method.dropout = 0.0
    settings = toys.settings(case, devices=2, precision=precision, **changes)
    fit(case.method, case.data, schedule=case.schedule, settings=settings, out=out, strategies=case.strategies)
    torch.save({"state": case.method.state_dict(), "finished": True}, f"{out}.rank{rank}.pt")


def start(function, *args, timeout: float = 120.0):
    """Run `function` in a child; gives the process."""
    process = CONTEXT.Process(target=function, args=args)
    process.start()
    return process


def finish(process, timeout: float = 120.0) -> int:
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"the child did not end within {timeout} s")
    return process.exitcode
