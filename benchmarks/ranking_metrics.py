# SPDX-License-Identifier: Apache-2.0
"""CMC, mAP and mINP of a re-identification test against a bare sort of its distances.

The promise is set against `numpy.argsort` of the float32 matrix, which orders the gallery of each query and does
nothing else: no identities, no cameras, no precision. The usual recipe (argsort, then for each query a mask of what is
taken out and a cumulated sum) stands beside it. Results are checked against a plain loop over queries and ranks.

    python benchmarks/ranking_metrics.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import numpy as np
from _contract import measure, peak_memory, promise, publish
from numpy.typing import NDArray

from mien.metrics.retrieval import Retrieval, feature_retrieval, retrieval

QUERIES, GALLERY, PEOPLE, CAMERAS = 1000, 8000, 700, 6
LARGE, LARGE_DIMENSIONS = (3000, 20_000), 256
MOST_RATIO, MOST_DIFFERENCE, MOST_MEMORY_MB = 1.5, 1e-9, 2000.0

Problem = tuple[NDArray, NDArray, NDArray, NDArray, NDArray]


def problem(queries: int, gallery: int) -> Problem:
    """Distances with an effect of the person, identities and cameras."""
    rng = np.random.default_rng(0)
    identity, other = rng.integers(PEOPLE, size=queries), rng.integers(PEOPLE, size=gallery)
    distance = rng.random((queries, gallery), dtype=np.float32)
    distance -= 0.3 * (identity[:, None] == other[None])
    return distance, identity, other, rng.integers(CAMERAS, size=queries), rng.integers(CAMERAS, size=gallery)


def loop(problem: Problem) -> Retrieval:
    """One query and one rank at a time."""
    distance, identity, other, camera, by = problem
    precision, penalty = np.full(len(distance), np.nan), np.full(len(distance), np.nan)
    first = np.full(len(distance), -1, np.int64)
    for i, row in enumerate(distance):
        rank, hits, total = 0, 0, 0.0
        for j in np.argsort(row, kind="stable").tolist():
            right = other[j] == identity[i]
            if right and by[j] == camera[i]:
                continue
            rank += 1
            if right:
                hits += 1
                total += hits / rank
                first[i] = rank - 1 if hits == 1 else first[i]
                penalty[i] = rank
        if hits:
            precision[i], penalty[i] = total / hits, hits / penalty[i]
    return Retrieval(precision, penalty, first)


def recipe(problem: Problem) -> tuple[float, float]:
    """The usual way: order everything, then mask and cumulate query by query. mAP and rank-1."""
    distance, identity, other, camera, by = problem
    order = np.argsort(distance, axis=1)
    precision, first = [], []
    for i, row in enumerate(order):
        right = other[row] == identity[i]
        right = right[~(right & (by[row] == camera[i]))]
        if right.any():
            places = np.flatnonzero(right)
            precision.append(np.mean(np.arange(1, len(places) + 1) / (places + 1)))
            first.append(places[0] == 0)
    return float(np.mean(precision)), float(np.mean(first))


def memory(kind: str) -> float:
    """Peak memory in MB of the large test in a process of its own, its input included."""
    found = subprocess.run([sys.executable, __file__, "--large", kind], capture_output=True, text=True, check=True)
    return float(found.stdout.split()[-1])


def large(kind: str) -> None:
    """The large test, then the peak memory of this process."""
    rng = np.random.default_rng(0)
    queries, gallery = LARGE
    labels = [rng.integers(count, size=size) for count in (PEOPLE, CAMERAS) for size in LARGE]
    if kind == "distances":
        retrieval(rng.random((queries, gallery), dtype=np.float32), *labels).means()
    else:
        points = [rng.normal(size=(size, LARGE_DIMENSIONS)).astype(np.float32) for size in LARGE]
        points = [p / np.linalg.norm(p, axis=1, keepdims=True) for p in points]
        feature_retrieval(*points, *labels).means()
    print(peak_memory())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", choices=("distances", "features"), help="only the large test; prints its memory")
    options = parser.parse_args()
    if options.large is not None:
        large(options.large)
        return
    given = problem(QUERIES, GALLERY)
    ours, slow = retrieval(*given), loop(given)
    same = np.array_equal(ours.first, slow.first) and np.array_equal(ours.answered, slow.answered)
    assert same, "first ranks differ from the loop's"
    rows = ours.answered
    differences = {
        "average precision": float(np.abs(ours.average_precision - slow.average_precision)[rows].max()),
        "inverse negative penalty": float(
            np.abs(ours.inverse_negative_penalty - slow.inverse_negative_penalty)[rows].max()
        ),
    }
    assert max(differences.values()) <= MOST_DIFFERENCE, differences
    assert abs(recipe(given)[0] - ours.means()["mAP"]) < 1e-9

    table = measure(
        {
            "argsort, bare": lambda: np.argsort(given[0], axis=1),
            "sort, bare": lambda: np.sort(given[0], axis=1),
            "retrieval": lambda: retrieval(*given),
            "usual recipe": lambda: recipe(given),
        },
        over="argsort, bare",
        repeats=9,
    )
    ratio = table["contenders"]["retrieval"]["ratio"]["median"]
    promises = [
        promise("retrieval over a bare float32 argsort", ratio, MOST_RATIO),
        promise("largest difference from a plain loop", max(differences.values()), MOST_DIFFERENCE),
    ]
    for kind in ("distances", "features"):
        what = f"peak memory of {LARGE[0]} x {LARGE[1]} from {kind}, input included, MB"
        promises.append(promise(what, memory(kind), MOST_MEMORY_MB))
    publish(
        "ranking_metrics",
        promises=promises,
        equal={"largest difference from a plain loop": differences, "queries left out": int((~rows).sum())},
        size={"queries": QUERIES, "gallery": GALLERY, "persons": PEOPLE, "cameras": CAMERAS},
        timing=table,
    )


if __name__ == "__main__":
    main()
