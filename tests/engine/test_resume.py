# SPDX-License-Identifier: Apache-2.0
"""Kill -9 at any moment, resume, and the weights are bit-equal to the unbroken run."""

from __future__ import annotations

import json
import os
import random
import signal
import time

import pytest
from children import finish, start, train
from safetensors.numpy import load_file

TOYS = ["plain", "two", "relabelled", "tasks", "rounds"]


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def lines(run):
    """The metrics without the clock."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "time"} for row in rows]


def assert_same_run(run, reference):
    ours, theirs = weights(run), weights(reference)
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert value.tobytes() == ours[name].tobytes(), f"{name} differs after the resume"
    assert lines(run) == lines(reference)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The unbroken run of every toy, trained in a process of its own without workers."""
    folder = tmp_path_factory.mktemp("unbroken")
    for name in TOYS:
        assert finish(start(train, name, str(folder / name), 0, False, "", 0)) == 0
    return folder


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", TOYS)
def test_killed_runs_end_with_the_bits_of_the_unbroken_one(name, workers, unbroken, tmp_path):
    """Fails if any generator, optimiser, position, label, buffer, client or metric line is lost or repeated."""
    draw = random.Random(f"{name}/{workers}/{os.environ.get('MIEN_TEST_SEED', '0')}")
    run = tmp_path / "run"
    kills = [("step", draw.randint(2, 6)), ("write", draw.randint(2, 3)), ("between phases", 1)]
    if workers == 0:  # starting loader processes takes long
        kills += [("step", draw.randint(1, 3)), ("write", draw.randint(1, 4)), ("step", draw.randint(2, 9))]
    killed = 0
    for where, count in kills:
        code = finish(start(train, name, str(run), workers, True, where, count))
        killed += code == -signal.SIGKILL
        if code == 0:
            break
    assert killed >= 3, "the run ended before it was killed often enough to mean anything"
    assert finish(start(train, name, str(run), workers, True, "", 0)) == 0
    assert_same_run(run, unbroken / name)


@pytest.mark.parametrize("name", ["plain", "rounds"])
def test_a_kill_at_a_random_instant_from_outside(name, unbroken, tmp_path):
    """Fails if there is a window in which the folder cannot be resumed."""
    draw = random.Random(time.time_ns())
    run = tmp_path / "run"
    waits = [draw.uniform(0.0, 0.6) for _ in range(4)]
    for wait in waits:
        process = start(train, name, str(run), 0, True, "", 0)
        time.sleep(wait)
        process.kill()
        finish(process)
    assert finish(start(train, name, str(run), 0, True, "", 0)) == 0, f"waits were {waits}"
    assert_same_run(run, unbroken / name)


def test_a_finished_run_is_left_as_it_is(unbroken, tmp_path):
    run = unbroken / "plain"
    before = weights(run), lines(run)
    assert finish(start(train, "plain", str(run), 0, True, "step", 1)) == 0  # a single step would kill it
    assert weights(run).keys() == before[0].keys()
    assert lines(run) == before[1]
