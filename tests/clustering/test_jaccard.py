# SPDX-License-Identifier: Apache-2.0
"""Neighbours, k-reciprocal Jaccard distances and DBSCAN against plain sets, loops and scikit-learn."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN

from mien.clustering import jaccard, nearest
from mien.clustering.dbscan import dbscan
from mien.clustering.jaccard import TIE, Neighbours, jaccard_neighbours
from mien.clustering.recipe import Clustering, pairwise_f_score
from mien.errors import BadInput, MissingExtra


def blobs(people=6, each=7, dimensions=8, spread=0.5, seed=0):
    rng = np.random.default_rng(seed)
    centre = np.repeat(rng.normal(size=(people, dimensions)), each, axis=0)
    points = centre + spread * rng.normal(size=centre.shape)
    return torch.nn.functional.normalize(torch.from_numpy(points), dim=1)


def lists(points, k):
    """The k nearest of each, itself first, by sorting."""
    distance = 2 - 2 * points @ points.T
    np.fill_diagonal(distance, -1)
    return [list(np.argsort(row, kind="stable")[:k]) for row in distance]


def slow(points, k1, k2):
    """D from sets of Python and one sum at a time, by the fuzzy form 1 - sum min / sum max."""
    n = len(points)
    near, half = lists(points, k1), lists(points, round(k1 / 2) + 1)

    def reciprocal(of, i):
        return {j for j in of[i] if i in of[j]}

    encoding = np.zeros((n, n))
    for i in range(n):
        own = reciprocal(near, i)
        expanded = set(own)
        for c in own:
            other = reciprocal(half, c)
            if len(other & own) > 2 / 3 * len(other):
                expanded |= other
        weights = {j: math.exp(-(2 - 2 * float(points[i] @ points[j]))) for j in expanded}
        for j, weight in weights.items():
            encoding[i, j] = weight / sum(weights.values())
    encoding = np.array([np.mean([encoding[j] for j in near[i][:k2]], axis=0) for i in range(n)])
    distance = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            distance[i, j] = 1 - np.minimum(encoding[i], encoding[j]).sum() / np.maximum(encoding[i], encoding[j]).sum()
    return distance


def dense(neighbours, fill=1.0):
    made = np.full((len(neighbours), len(neighbours)), fill)
    made[neighbours.row, neighbours.index] = neighbours.distance
    return made


# --- neighbours -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("search", [nearest._torch_exact, nearest._faiss_exact])
def test_exact_neighbours_are_those_of_sorting(search):
    pytest.importorskip("faiss")
    points = blobs().float()
    found = nearest._self_first(search(points, 9))
    assert found.tolist() == [[int(j) for j in row] for row in lists(points.double().numpy(), 9)]


def test_everything_works_without_faiss(monkeypatch):
    points = blobs().float()
    with_it = nearest.nearest(points, 5)
    monkeypatch.setattr(nearest, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert np.array_equal(nearest.nearest(points, 5), with_it)
    with pytest.raises(MissingExtra, match=r"mien\[cluster\]"):
        nearest.nearest(points, 5, "approximate")


def test_duplicates_keep_themselves_first():
    points = blobs(2, 1).float()[[0, 1, 0, 0, 0]]
    found = nearest.nearest(points, 3)
    assert found[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert all(len(set(row)) == 3 for row in found.tolist())


def test_lists_that_lack_their_own_sample_or_have_gaps():
    found = nearest._self_first(np.array([[2, 1, 0], [2, 0, 3], [2, -1, 1], [-1, -1, -1]]))
    assert found.tolist() == [[0, 2, 1], [1, 2, 0], [2, 1, 2], [3, 3, 3]]


def test_the_approximate_search_finds_most_neighbours():
    pytest.importorskip("faiss")
    points = blobs(60, 20, spread=0.7).float()
    exact, quick = (nearest.nearest(points, 10, search) for search in ("exact", "approximate"))
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact.tolist(), quick.tolist(), strict=True)])
    assert shared > 0.6


def test_bad_features():
    for points, message in [
        (torch.zeros(0, 4), r"shape \(0, 4\)"),
        (torch.ones(3, 4), "not L2-normalised: a row has the length 2"),
        (torch.full((3, 4), torch.nan), "not L2-normalised"),
    ]:
        with pytest.raises(BadInput, match=message):
            nearest.nearest(points, 2)
    with pytest.raises(BadInput, match="k is 0"):
        nearest.nearest(torch.eye(3), 0)
    with pytest.raises(BadInput, match="search is 'fast'"):
        nearest.nearest(torch.eye(3), 1, "fast")


# --- distances ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("k1", "k2"), [(10, 3), (6, 6), (5, 1), (30, 6), (1, 1)])
@pytest.mark.parametrize("spread", [0.3, 0.8])
def test_distances_are_those_of_plain_sets(k1, k2, spread):
    points = blobs(spread=spread)
    expected = slow(points.numpy(), k1, k2)
    near = jaccard_neighbours(points, k1=k1, k2=k2, radius=0.9)
    inside = expected <= 0.9
    assert np.array_equal(dense(near, np.nan) >= 0, inside)
    assert np.abs(dense(near)[inside] - expected[inside]).max() < 1e-12
    assert (dense(near).diagonal() == 0).all()
    assert np.array_equal(dense(near), dense(near).T)


def test_float32_is_close_and_blocks_do_not_matter(monkeypatch):
    points = blobs(spread=0.8)
    exact = dense(jaccard_neighbours(points, k1=10, k2=3, radius=0.9))
    single = jaccard_neighbours(points.float(), k1=10, k2=3, radius=0.9)
    assert np.abs(dense(single) - exact).max() < 4e-6
    monkeypatch.setattr(jaccard, "_TERMS", 50)
    monkeypatch.setattr(jaccard, "_BLOCK", 100)
    cut = dense(jaccard_neighbours(points, k1=10, k2=3, radius=0.9))
    assert np.abs(cut - exact).max() < 1e-12


def test_views_are_mixed_by_their_weights():
    views = [blobs(seed=0), blobs(seed=0, spread=0.6), blobs(seed=1)]
    weights = (0.6, 0.2, 0.2)
    expected = sum(w * slow(view.numpy(), 10, 3) for w, view in zip(weights, views, strict=True))
    near = jaccard_neighbours(views, k1=10, k2=3, radius=0.7, weights=weights)
    inside = expected <= 0.7 + TIE
    assert np.array_equal(dense(near, np.nan) >= 0, inside)
    assert np.abs(dense(near)[inside] - expected[inside]).max() < 1e-12


@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 6), st.floats(0.0, 0.95))
@settings(max_examples=25, deadline=None)
def test_neighbours_are_symmetric_sorted_and_hold_themselves(seed, k1, k2, radius):
    near = jaccard_neighbours(blobs(4, 5, seed=seed), k1=k1, k2=k2, radius=radius)
    matrix = dense(near, np.nan)
    assert np.array_equal(matrix, matrix.T, equal_nan=True)
    assert (matrix.diagonal() == 0).all()
    assert (near.distance >= 0).all()
    assert (near.distance <= radius + TIE).all()
    for i in range(len(near)):
        assert (np.diff(near.index[near.start[i] : near.start[i + 1]]) > 0).all()


def test_one_sample_and_copies_of_one_sample():
    alone = jaccard_neighbours(torch.eye(1), radius=0.5)
    assert (alone.index.tolist(), alone.distance.tolist()) == ([0], [0.0])
    copies = jaccard_neighbours(torch.eye(3)[[0, 0, 0, 0]], k1=4, k2=2, radius=0.5)
    assert len(copies.index) == 16
    assert np.abs(copies.distance).max() < 1e-6


def test_smaller_radii_and_subsets():
    near = jaccard_neighbours(blobs(spread=0.6), k1=10, k2=3, radius=0.8)
    matrix = dense(near, np.nan)
    within = near.within(0.3)
    assert np.array_equal(dense(within, np.nan) >= 0, matrix <= 0.3 + TIE)
    mask = np.arange(len(near)) % 2 == 0
    among = dense(near.among(mask), np.nan)
    kept = mask[:, None] & mask[None]
    assert np.isnan(among[~kept]).all()
    assert np.array_equal(among[kept], matrix[kept], equal_nan=True)


def test_bad_arguments():
    points = blobs()
    for changes, message in [
        ({"k1": 0}, "k1 is 0"),
        ({"k2": 0}, "k2 is 0"),
        ({"radius": 1.0}, "radius is 1.0"),
        ({"weights": (0.5,)}, r"weights are \[0.5\]"),
    ]:
        with pytest.raises(BadInput, match=message):
            jaccard_neighbours(points, **changes)
    with pytest.raises(BadInput, match=r"views of \[42, 41\] samples"):
        jaccard_neighbours([points, points[1:]], weights=(0.5, 0.5))


# --- clusters -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("eps", [0.2, 0.5, 0.7])
@pytest.mark.parametrize("min_samples", [1, 2, 4, 9])
def test_clusters_are_scikit_learns(eps, min_samples):
    points = blobs(12, 9, spread=0.8, seed=3)
    near = jaccard_neighbours(points, k1=10, k2=3, radius=0.8)
    reference = DBSCAN(eps=eps + TIE, min_samples=min_samples, metric="precomputed").fit(dense(near)).labels_
    assert np.array_equal(dbscan(near, eps=eps, min_samples=min_samples), reference)


def graph(edges, count):
    pairs = sorted({(i, i) for i in range(count)} | {(a, b) for a, b in edges} | {(b, a) for a, b in edges})
    row, column = (np.array(c) for c in zip(*pairs, strict=True))
    return Neighbours(np.r_[0, np.cumsum(np.bincount(row, minlength=count))], column, np.zeros(len(row)))


@given(st.integers(1, 14), st.integers(1, 5), st.data())
@settings(max_examples=60, deadline=None)
def test_any_graph_is_clustered_as_by_scikit_learn(count, min_samples, data):
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))
    near = graph(data.draw(st.lists(pairs, max_size=3 * count)), count)
    reference = DBSCAN(eps=0.5, min_samples=min_samples, metric="precomputed").fit(dense(near)).labels_
    assert np.array_equal(dbscan(near, eps=0.4, min_samples=min_samples), reference)


def test_all_outliers():
    assert dbscan(graph([], 5), eps=0.5, min_samples=2).tolist() == [-1] * 5


def test_the_recipe_joins_the_parts():
    points, how = blobs(spread=0.1), Clustering(k1=6, k2=3, eps=0.6, min_samples=3)
    near = how.neighbours(points, radius=0.2)
    assert near.distance.max() > 0.2, "the radius must not cut off what DBSCAN needs"
    label = how.labels(near)
    assert pairwise_f_score(label, np.repeat(np.arange(6), 7)) == 1.0
    for changes, message in [
        ({"eps": 1.0}, "eps is 1.0"),
        ({"min_samples": 0}, "min_samples is 0"),
        ({"search": "x"}, "search is 'x'"),
    ]:
        with pytest.raises(BadInput, match=message):
            Clustering(**changes)


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 3)), min_size=1, max_size=15))
@settings(max_examples=60, deadline=None)
def test_the_f_score_counts_pairs(rows):
    label, truth = (np.array(column) for column in zip(*rows, strict=True))
    pairs = [(i, j) for i in range(len(rows)) for j in range(i)]
    same = {(i, j): label[i] == label[j] and label[i] >= 0 for i, j in pairs}
    right = sum(same[p] and truth[p[0]] == truth[p[1]] for p in pairs)
    claimed, true = sum(same.values()), sum(truth[i] == truth[j] for i, j in pairs)
    expected = 2 * right / (claimed + true) if claimed + true else 0.0
    assert pairwise_f_score(label, truth) == pytest.approx(expected)


def test_f_score_of_columns_that_do_not_fit():
    with pytest.raises(BadInput, match="one of each"):
        pairwise_f_score([0, 1], [0])
