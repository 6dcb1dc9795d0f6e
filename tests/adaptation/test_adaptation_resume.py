# SPDX-License-Identifier: Apache-2.0
"""Killed in the middle of a task and at its end, then resumed: the bits of the unbroken run."""

from __future__ import annotations

import json
import signal

import pytest
from children import finish, start
from safetensors.numpy import load_file
from training import train


def lines(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "time"} for row in rows]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    run = tmp_path_factory.mktemp("unbroken") / "run"
    assert finish(start(train, str(run), False, "", 0)) == 0
    return run


# 16 training images of a task: 4 updates an epoch (5, 5, 5 and 1 image: that one is a plain step); 4 + 8 + 8 in all
@pytest.mark.parametrize(
    "kills",
    [
        [("step", 7), ("step", 9)],  # in the first task, and in the second
        [("between phases", 2), ("between phases", 2)],  # after the adapters were merged, before that was saved
        [("write", 5), ("write", 9)],
    ],
    ids=["in a task", "at the end of a task", "while a checkpoint is written"],
)
def test_a_killed_run_ends_with_the_bits_of_the_unbroken_one(kills, unbroken, tmp_path):
    """Fails if adapters, their bases, S_old, heads, Gaussians, the look-ahead's draws or a metric line are lost."""
    run = tmp_path / "run"
    for where, count in kills:
        assert finish(start(train, str(run), True, where, count)) == -signal.SIGKILL
    assert finish(start(train, str(run), True, "", 0)) == 0
    ours, theirs = (load_file(r / "model" / "model.safetensors") for r in (run, unbroken))
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert value.tobytes() == ours[name].tobytes(), f"{name} differs after the resume"
    assert lines(run) == lines(unbroken)
