# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io

import pytest

from mien import progress
from mien.progress import Progress, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_come_every_ten_seconds(clock):
    stream = io.StringIO()
    bar = Progress(100, "work", stream=stream)
    for second in range(1, 26):
        clock[0] = float(second)
        bar.advance()
    bar.show(loss=0.5)
    bar.close()
    # 1 step a second: a line after 10 and after 20 seconds, with what is left, and one at the end.
    assert stream.getvalue().splitlines() == [
        "work: 10/100, 90 s left",
        "work: 20/100, 80 s left",
        "work: 25/100, 75 s left  loss 0.5",
    ]


def test_short_work_is_silent(clock):
    stream = io.StringIO()
    with Progress(3, "work", stream=stream) as bar:
        for _ in range(3):
            bar.advance()
    assert stream.getvalue() == ""


def test_resumed_work_does_not_count_what_was_done_before(clock):
    stream = io.StringIO()
    bar = Progress(100, "work", done=90, stream=stream)
    clock[0] = 10.0
    bar.advance(5)
    assert stream.getvalue() == "work: 95/100, 10 s left\n"  # 2 s a step, 5 steps to go


def test_track_gives_the_items(clock):
    assert list(track("abc", 3, "letters")) == ["a", "b", "c"]


def test_a_terminal_gets_a_bar_and_notes():
    stream = Terminal()
    with Progress(2, "work", stream=stream) as bar:
        bar.advance()
        bar.note("[careful] with markup")
        bar.show(loss=1.5)
        bar.advance()
    assert "work" in stream.getvalue()
    assert "[careful] with markup" in stream.getvalue()
    assert "2/2" in stream.getvalue()


def test_a_note_without_a_terminal_is_a_line():
    stream = io.StringIO()
    Progress(1, "work", stream=stream).note("seen")
    assert stream.getvalue() == "seen\n"


def test_a_bar_over_slow_steps_shows_the_time_that_is_left():
    """Tiles of a large network take longer than the half minute over which rich takes the speed."""
    now, stream = [0.0], Terminal()
    with Progress(5, "work", stream=stream) as bar:
        task = bar._bar.tasks[0]
        bar._bar.get_time = task._get_time = lambda: now[0]
        task.start_time = 0.0
        for _ in range(3):
            now[0] += 100
            bar.advance()
        assert task.time_remaining == pytest.approx(200)
