# SPDX-License-Identifier: Apache-2.0
"""Work in other processes that never outlive the one that asked for it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait

from mien.errors import TrainingStopped


@contextmanager
def workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """`count` fresh processes for the time of a block.

    An exception in the block, Ctrl-C among them, ends what they are at: nobody waits for hours of work that is no
    longer wanted. They also end when this process is killed.

    Raises:
        TrainingStopped: One of them died, which breaks off what all do.
    """
    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_end_with_parent)
    try:
        yield pool
    except BaseException as stop:
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        if isinstance(stop, BrokenProcessPool):
            raise TrainingStopped("a worker process died: it was killed, or the machine ran out of memory") from stop
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
