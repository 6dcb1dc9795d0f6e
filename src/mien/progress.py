# SPDX-License-Identifier: Apache-2.0
"""Progress for people: a bar on a terminal, plain lines now and then elsewhere. Written to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, TypeVar

T = TypeVar("T")

PLAIN_INTERVAL = 10.0
"""Seconds between two plain lines: a log file of an hour stays readable."""
SPEED_PERIOD = 600.0
"""Seconds over which a bar takes the speed: steps that are slower than this get no time left. Rich's own is 30."""


class Progress:
    """A bar over `total` steps, or plain lines where stderr is not a terminal.

    Args:
        total: Number of steps; 0 when it is not known.
        label: What is being done.
        done: Steps that were made before.
        stream: Where to write; stderr by default.
    """

    def __init__(self, total: int, label: str, *, done: int = 0, stream: TextIO | None = None) -> None:
        self.total, self.label, self.done = total, label, done
        self.stream = stream if stream is not None else sys.stderr
        self._shown = ""
        self._begun = self._told = time.monotonic()
        self._start = done
        self._bar: Any = None
        if self.stream.isatty():
            self._bar, self._task = _rich_bar(self.stream, label, total, done)

    def advance(self, count: int = 1) -> None:
        """`count` steps are done."""
        self.done += count
        if self._bar is not None:
            self._bar.advance(self._task, count)
        elif time.monotonic() - self._told >= PLAIN_INTERVAL:
            self._tell()

    def show(self, **numbers: float) -> None:
        """Numbers to show beside the bar from now on."""
        self._shown = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        if self._bar is not None:
            self._bar.update(self._task, shown=self._shown)

    def note(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self.stream, flush=True)

    def close(self) -> None:
        """Leave the bar as it is, or say the last plain line."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self._told > self._begun:  # short work stays silent
            self._tell()
            self._told = self._begun

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tell(self) -> None:
        self._told = time.monotonic()
        made = max(self.done - self._start, 1)
        rate = (self._told - self._begun) / made
        left = f", {rate * (self.total - self.done):.0f} s left" if self.total > self.done else ""
        of = f"/{self.total}" if self.total else ""
        print(f"{self.label}: {self.done}{of}{left}  {self._shown}".rstrip(), file=self.stream, flush=True)


def track(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """The items, with progress."""
    with Progress(total, label) as progress:
        for item in items:
            yield item
            progress.advance()


def _rich_bar(stream: TextIO, label: str, total: int, done: int) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    shown = TextColumn("{task.fields[shown]}")
    bar = Bar(*columns, shown, console=Console(file=stream), speed_estimate_period=SPEED_PERIOD)
    task = bar.add_task(label, total=total or None, completed=done, shown="")
    bar.start()
    return bar, task
