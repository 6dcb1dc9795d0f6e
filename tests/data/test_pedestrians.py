# SPDX-License-Identifier: Apache-2.0
"""Generated pedestrians: the same for the same seeds however they are drawn; persons and cameras leave their marks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.data.draws import item_seeds
from mien.data.pedestrians import photograph_pedestrians, sample_pedestrians
from mien.errors import BadInput

PEOPLE = sample_pedestrians(6, seed=0)


def test_pictures_are_images():
    x = photograph_pedestrians(PEOPLE, range(6), [0, 1, 2, 3, 0, 1], 0)
    assert x.shape == (6, 3, 64, 32)
    assert x.dtype == np.float32
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1
    assert photograph_pedestrians(PEOPLE, [], [], 0, height=16, width=8).shape == (0, 3, 16, 8)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=6), st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_a_picture_does_not_depend_on_its_neighbours(rows, cut):
    who, by = (np.array(column) for column in zip(*rows, strict=True))
    seeds = item_seeds(3, np.arange(len(rows)))
    whole = photograph_pedestrians(PEOPLE, who, by, seeds, height=32, width=16)
    parts = [photograph_pedestrians(PEOPLE, who[p], by[p], seeds[p], height=32, width=16) for p in (
        slice(cut), slice(cut, None))]  # fmt: skip
    assert np.array_equal(whole, np.concatenate(parts))


def test_more_people_leave_the_first_as_they_were_and_seeds_make_others():
    many = sample_pedestrians(20, seed=0)
    assert np.array_equal(many.colours[:6], PEOPLE.colours)
    assert np.array_equal(many.stripes[:6], PEOPLE.stripes)
    assert not np.array_equal(sample_pedestrians(6, seed=1).colours, PEOPLE.colours)


def test_a_person_looks_more_like_himself_than_like_others_under_one_camera():
    who = np.repeat(np.arange(6), 8)
    x = photograph_pedestrians(PEOPLE, who, np.zeros(48, np.int64), 5).reshape(48, 3, 8, 8, 4, 8).mean(axis=(3, 5))
    x = x.reshape(48, -1)
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    same = who[:, None] == who[None]
    own = distance[same & ~np.eye(48, dtype=bool)].mean()
    assert own < 0.8 * distance[~same].mean()


def test_cameras_differ_and_are_the_same_for_everyone():
    who, by = np.repeat(np.arange(6), 20), np.tile(np.repeat(np.arange(2), 10), 6)
    x = photograph_pedestrians(PEOPLE, who, by, 1)
    corner = x[:, :, :6, :4].mean(axis=(2, 3))  # the wall behind them
    first, second = corner[by == 0], corner[by == 1]
    between = np.abs(first.mean(axis=0) - second.mean(axis=0)).max()
    assert between > 0.1
    people = np.stack([corner[(by == 0) & (who == i)].mean(axis=0) for i in range(6)])
    assert np.ptp(people, axis=0).max() < between


def test_bad_arguments():
    for arguments, message in [
        (([6], [0], 0), "index has person 6 to 6: there are 6"),
        (([-1], [0], 0), "index has person -1"),
        (([0, 1], [0], 0), r"index \(2,\) and camera \(1,\)"),
        (([0], [0], np.zeros(2, np.uint64)), r"seed has shape \(2,\)"),
    ]:
        with pytest.raises(BadInput, match=message):
            photograph_pedestrians(PEOPLE, *arguments)
    with pytest.raises(BadInput, match="height is 8 and width 8"):
        photograph_pedestrians(PEOPLE, [0], [0], 0, height=8, width=8)
    with pytest.raises(BadInput, match="count is 0"):
        sample_pedestrians(0, 0)
