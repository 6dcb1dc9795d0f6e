# SPDX-License-Identifier: Apache-2.0
"""CMC, mAP and mINP against a plain loop, and what the Market-1501 protocol takes out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from mien.errors import BadInput
from mien.metrics import retrieval as module
from mien.metrics.retrieval import feature_retrieval, retrieval, valid


def loop(distance, query, gallery, query_camera, gallery_camera):
    """One query, one rank at a time: (AP, INP, first) or None for a query without a right one."""
    found = []
    for i, row in enumerate(distance):
        order = sorted(range(len(row)), key=lambda j: (row[j], j))
        order = [j for j in order if not (gallery[j] == query[i] and gallery_camera[j] == query_camera[i])]
        hits = [rank for rank, j in enumerate(order, start=1) if gallery[j] == query[i]]
        if not hits:
            found.append(None)
            continue
        precision = sum(k / rank for k, rank in enumerate(hits, start=1)) / len(hits)
        found.append((precision, len(hits) / hits[-1], hits[0] - 1))
    return found


def assert_is_the_loop(found, expected):
    for i, want in enumerate(expected):
        if want is None:
            assert found.first[i] == -1
            assert np.isnan(found.average_precision[i])
            assert np.isnan(found.inverse_negative_penalty[i])
        else:
            assert found.average_precision[i] == pytest.approx(want[0], abs=1e-9)
            assert found.inverse_negative_penalty[i] == pytest.approx(want[1], abs=1e-9)
            assert found.first[i] == want[2]


def problem(seed, queries=40, size=300, people=12, cameras=3, levels=None):
    rng = np.random.default_rng(seed)
    distance = rng.random((queries, size)) if levels is None else rng.integers(levels, size=(queries, size)) / levels
    return (
        distance.astype(np.float32),
        rng.integers(people + 2, size=queries),  # two persons are not in the gallery
        rng.integers(people, size=size),
        rng.integers(cameras, size=queries),
        rng.integers(cameras, size=size),
    )


@pytest.mark.parametrize("levels", [None, 2, 7])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_plain_loop_with_ties_in_the_order_of_the_gallery(seed, levels):
    data = problem(seed, levels=levels)
    assert_is_the_loop(retrieval(*data), loop(*data))


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 12), st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_small_galleries_with_any_ties(seed, queries, size, cameras, levels):
    data = problem(seed, queries, size, people=3, cameras=cameras, levels=levels)
    assert_is_the_loop(retrieval(*data), loop(*data))


def test_without_cameras_in_common_ap_is_scikit_learns():
    distance, query, gallery, _, _ = problem(5)
    found = retrieval(distance, query, gallery, np.zeros(len(query)), np.ones(len(gallery)))
    for i in np.flatnonzero(found.answered):
        expected = average_precision_score(gallery == query[i], -distance[i])
        assert found.average_precision[i] == pytest.approx(expected, abs=1e-9)


def test_blocks_do_not_matter(monkeypatch):
    data = problem(7)
    whole = retrieval(*data)
    monkeypatch.setattr(module, "_BLOCK", 700)  # two queries at a time
    cut = retrieval(*data)
    assert np.array_equal(whole.average_precision, cut.average_precision, equal_nan=True)
    assert np.array_equal(whole.first, cut.first)


def test_own_person_by_own_camera_is_taken_out_but_others_by_that_camera_stay():
    mask = valid(1, 5, np.array([1, 1, 2, 2]), np.array([5, 6, 5, 6]))
    assert mask.tolist() == [False, True, True, True]
    nearest_is_own = retrieval([[0.0, 0.2, 0.1]], [1], [1, 1, 2], [5], [5, 6, 6])
    assert nearest_is_own.first[0] == 1  # person 2 ranks first, the own camera's crop not at all


def test_features_give_the_order_of_their_distances():
    rng = np.random.default_rng(0)
    query, gallery = (rng.normal(size=(n, 16)) for n in (30, 200))
    query, gallery = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery))
    labels = [rng.integers(n, size=size) for n, size in ((9, 30), (9, 200), (3, 30), (3, 200))]
    distance = np.linalg.norm(query[:, None] - gallery[None], axis=2)
    assert_is_the_loop(feature_retrieval(query, gallery, *labels), loop(distance, *labels))


def test_means_leave_out_what_cannot_be_answered():
    found = retrieval([[0.1, 0.2], [0.1, 0.2]], [1, 9], [2, 1], [0, 0], [1, 1])
    assert found.means((1, 2)) == {"mAP": 0.5, "rank-1": 0.0, "rank-2": 1.0, "mINP": 0.5}
    assert found.answered.tolist() == [True, False]
    with pytest.raises(BadInput, match="none of the 1 queries"):
        retrieval([[0.1, 0.2]], [9], [2, 1], [0], [1, 1]).means()


def test_an_empty_gallery_and_no_queries_are_no_errors():
    assert retrieval(np.zeros((2, 0)), [1, 2], [], [0, 0], []).first.tolist() == [-1, -1]
    assert retrieval(np.zeros((0, 3)), [], [1, 2, 3], [], [0, 0, 0]).first.tolist() == []


def test_bad_input():
    with pytest.raises(BadInput, match=r"\(Q, G\)"):
        retrieval(np.zeros((2, 3)), [1, 2], [1, 2], [0, 0], [1, 1])
    distance = np.array([[0.1, np.nan]])
    with pytest.raises(BadInput, match="NaN"):
        retrieval(distance, [1], [1, 2], [0], [1, 1])
