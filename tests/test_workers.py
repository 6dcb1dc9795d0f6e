# SPDX-License-Identifier: Apache-2.0
"""Processes that work for us: what they give, and that none is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mien.errors import TrainingStopped
from mien.workers import workers


def note(path, seconds):
    """Write who works, then work."""
    Path(path).write_text(str(os.getpid()))
    time.sleep(seconds)
    return os.getpid()


def wait_until(true, seconds=60.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_work_is_done_in_other_processes_which_are_then_gone(tmp_path):
    before = multiprocessing.active_children()
    with workers(2) as pool:
        done = [pool.submit(note, str(tmp_path / name), 0.0).result() for name in "ab"]
    assert os.getpid() not in done
    assert multiprocessing.active_children() == before


def test_an_exception_ends_the_work_that_is_under_way_and_what_waits_for_its_turn(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    before = multiprocessing.active_children()

    def interrupted():
        with workers(1) as pool:
            pool.submit(note, str(first), 600.0)
            pool.submit(note, str(second), 0.0)
            wait_until(first.exists)
            raise KeyboardInterrupt

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - begun < 120
    assert multiprocessing.active_children() == before
    assert not second.exists()


def test_a_worker_that_dies_is_reported_in_one_line():
    with pytest.raises(TrainingStopped, match="a worker process died"), workers(1) as pool:
        pool.submit(os._exit, 3).result()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_process_that_is_killed(tmp_path, sent):
    file = tmp_path / "pid"
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_workers import note, workers
if __name__ == "__main__":
    with workers(1) as pool:
        pool.submit(note, {str(file)!r}, 600.0).result()
"""
    (tmp_path / "parent.py").write_text(script)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py")])
    try:
        wait_until(lambda: file.exists() and file.read_text())
        pid = int(file.read_text())
        assert alive(pid)
        parent.send_signal(sent)
        parent.wait(60)
        wait_until(lambda: not alive(pid))
    finally:
        parent.kill()
