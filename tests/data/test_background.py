# SPDX-License-Identifier: Apache-2.0
"""Items made by another thread: their order, their errors, their end."""

from __future__ import annotations

import threading
import time

import pytest

from mien.data.background import Background, in_background
from mien.errors import BadInput


def test_background_keeps_order_hands_on_errors_and_ends():
    assert list(in_background(range(20))) == list(range(20))

    def broken():
        yield 1
        raise BadInput("broken")

    run = in_background(broken())
    assert next(run) == 1
    with pytest.raises(BadInput, match="broken"):
        next(run)

    made = []

    def endless():
        while True:
            made.append(len(made))
            yield made[-1]

    before = threading.active_count()
    run = in_background(endless(), depth=3)
    assert next(run) == 0
    time.sleep(0.05)
    run.close()
    assert threading.active_count() == before
    assert len(made) <= 6


def test_work_begins_before_the_first_item_is_asked_for_and_the_end_stays_the_end():
    begun = threading.Event()

    def made():
        begun.set()
        yield 1

    items = Background(made())
    assert begun.wait(60)
    assert list(items) == [1]
    assert list(items) == []
    items.close()


def test_closing_closes_what_makes_the_items():
    ended = []

    def made():
        try:
            while True:
                yield 1
        finally:
            ended.append(threading.current_thread())

    source = made()  # somebody else may still refer to it
    items = Background(source)
    assert next(items) == 1
    items.close()
    assert len(ended) == 1
