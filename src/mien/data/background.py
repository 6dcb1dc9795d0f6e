# SPDX-License-Identifier: Apache-2.0
"""Items that a thread makes while the caller works on earlier ones.

Threads, since decoders of images and videos, and torch, let others run while they work.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def in_background(source: Iterable[T], depth: int = 2) -> Iterator[T]:
    """The items of `source`, made by a thread of its own from the first that is asked for to the last.

    Args:
        source: What makes the items; whatever it raises is raised here.
        depth: Items that may wait at most.
    """
    with closing(Background(source, depth)) as items:
        yield from items


class Background(Generic[T]):
    """As `in_background`, at work from now on until it is closed."""

    def __init__(self, source: Iterable[T], depth: int = 2) -> None:
        self._waiting: queue.Queue[tuple[str, Any]] = queue.Queue(max(depth, 1))
        self._stopped = threading.Event()
        self._worker = threading.Thread(target=self._work, args=(source,), daemon=True)
        self._worker.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        what, value = self._waiting.get()
        if what == "item":
            found: T = value
            return found
        self._waiting.put((what, value))  # the end stays the end
        if what == "error":
            raise value
        raise StopIteration

    def close(self) -> None:
        """Stop after the item that is being made."""
        self._stopped.set()
        self._worker.join()

    def _work(self, source: Iterable[T]) -> None:
        try:
            for item in source:
                if not self._put("item", item):
                    return
            self._put("end", None)
        except Exception as error:  # noqa: BLE001 - handed on as it is
            self._put("error", error)
        finally:
            if isinstance(source, Generator):
                source.close()  # now, and not whenever nobody refers to it any more: it may hold a file

    def _put(self, what: str, value: Any) -> bool:
        while not self._stopped.is_set():
            try:
                self._waiting.put((what, value), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
