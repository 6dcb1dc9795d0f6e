# SPDX-License-Identifier: Apache-2.0
"""k-reciprocal Jaccard distances and DBSCAN: sparse, against the usual dense N x N implementation in numpy.

The dense one is written here as well as numpy allows: neighbours by faiss, sets as rows of a matrix, the overlap of two
sets looked up among its few members only, an inverted index for the sums of minima, scikit-learn's DBSCAN on the
matrix. Both get the same features: persons of 4 to 60 pictures, a quarter of them spread too widely to be found.

Memory is the peak of a process of its own for each size, its input and all that it imports included.

    python benchmarks/clustering.py [--sizes 1000 2000]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.metadata import version

import faiss
import numpy as np
import torch
from _contract import measure, peak_memory, promise, publish
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score

from mien.clustering.dbscan import dbscan
from mien.clustering.jaccard import TIE, jaccard_neighbours
from mien.clustering.nearest import nearest

SIZES = (1000, 2000, 4000, 8000, 16000, 32000)
DENSE_UP_TO = 8000
"""Beyond, three dense matrices of N x N would not fit beside each other in 16 GB with two threads' copies."""
DIMENSIONS, K1, K2, EPS, MIN_SAMPLES = 256, 30, 6, 0.5, 4
LEAST_SPEED_UP, MOST_MEMORY_MB, LARGEST = 5.0, 1500.0, 32000


def features(count: int) -> torch.Tensor:
    """Persons of 4 to 60 pictures on the unit sphere."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(count), rng.integers(4, 61, count))[:count]
    spread = np.where(rng.random(count) < 0.25, 2.5, rng.uniform(0.6, 1.4, count))[person]
    points = rng.normal(size=(count, DIMENSIONS))[person] + spread[:, None] * rng.normal(size=(count, DIMENSIONS))
    points = points[rng.permutation(count)]
    return torch.nn.functional.normalize(torch.from_numpy(points), dim=1).float()


def sparse(points: torch.Tensor) -> NDArray[np.int64]:
    near = jaccard_neighbours(points, k1=K1, k2=K2, radius=EPS)
    return dbscan(near, eps=EPS, min_samples=MIN_SAMPLES)


def dense(points: NDArray[np.float32]) -> NDArray[np.int64]:
    clusterer = DBSCAN(eps=EPS + TIE, min_samples=MIN_SAMPLES, metric="precomputed")
    return clusterer.fit(dense_distance(points)).labels_


def dense_distance(points: NDArray[np.float32]) -> NDArray[np.float32]:
    count = len(points)
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(points)
    ranked = index.search(points, K1)[1]
    rows = np.arange(count)[:, None]
    mutual = np.zeros((count, count), bool)
    mutual[rows, ranked] = True
    mutual &= mutual.T.copy()
    mutual_half = np.zeros((count, count), bool)
    mutual_half[rows, ranked[:, : round(K1 / 2) + 1]] = True
    mutual_half &= mutual_half.T.copy()
    halves = [np.flatnonzero(row) for row in mutual_half]
    encoding = np.zeros((count, count), np.float32)
    for i in range(count):
        own = np.flatnonzero(mutual[i])
        shared = mutual_half[np.ix_(own, own)].sum(axis=1)
        members = [halves[c] for c, common in zip(own, shared, strict=True) if 3 * common > 2 * len(halves[c])]
        expanded = np.unique(np.concatenate([own, *members]))
        weight = np.exp(2 * (points[expanded] @ points[i]) - 2)
        encoding[i, expanded] = weight / weight.sum()
    averaged = np.zeros_like(encoding)
    for k in range(K2):
        averaged += encoding[ranked[:, k]]
    averaged /= K2
    turned = averaged.T.copy()  # columns become rows: reading them with a stride costs ten times as much
    holders = [np.flatnonzero(column) for column in turned]
    distance = np.empty((count, count), np.float32)
    for i in range(count):
        sums = np.zeros(count, np.float32)
        for k in np.flatnonzero(averaged[i]):
            sums[holders[k]] += np.minimum(averaged[i, k], turned[k, holders[k]])
        distance[i] = 1 - sums / (2 - sums)
    return np.maximum(distance, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--memory", type=int, metavar="N", help="only cluster N features; prints the peak memory")
    options = parser.parse_args()
    if options.memory is not None:
        sparse(features(options.memory))
        print(peak_memory())
        return
    equal, timing, promises = {}, {}, []
    for threads in options.threads:
        torch.set_num_threads(threads)
        faiss.omp_set_num_threads(threads)
        for count in options.sizes:
            points = features(count)
            array = points.numpy()
            runs = {"sparse": lambda points=points: sparse(points)}
            if count <= DENSE_UP_TO:
                runs["dense"] = lambda array=array: dense(array)
            if threads == options.threads[0]:
                equal[str(count)] = labels_agree(points, array)
            table = measure(runs, over="sparse", warm_up=0, memory=False)  # comparing the labels has run both
            timing[f"{threads} threads, N = {count}"] = table
            ours = table["contenders"]["sparse"]
            print(f"N = {count}, {threads} threads: {ours['wall_ms']['median'] / 1e3:.2f} s", flush=True)
            if count == DENSE_UP_TO:
                ratio = table["contenders"]["dense"]["ratio"]["median"]
                what = f"dense over sparse at N = {count}, {threads} threads"
                promises.append(promise(what, ratio, LEAST_SPEED_UP, at_least=True))
    peaks = {str(count): memory(count) for count in options.sizes}
    if LARGEST in options.sizes:
        promises.append(promise(f"peak memory at N = {LARGEST}, MB", peaks[str(LARGEST)], MOST_MEMORY_MB))
    publish(
        "clustering",
        promises=promises,
        equal={"labels equal those of the dense matrix, and what was found": equal},
        dimensions=DIMENSIONS,
        settings={"k1": K1, "k2": K2, "eps": EPS, "min_samples": MIN_SAMPLES},
        peak_memory_mb=peaks,
        approximate_search=approximate(max(options.sizes)),
        faiss=version("faiss-cpu"),
        timing=timing,
    )


def memory(count: int) -> float:
    """Peak memory in MB of a process that clusters `count` features."""
    found = subprocess.run(
        [sys.executable, __file__, "--memory", str(count)], capture_output=True, text=True, check=True
    )
    return float(found.stdout.split()[-1])


def labels_agree(points: torch.Tensor, array: NDArray[np.float32]) -> dict[str, object]:
    """The labels are the dense ones where these can be had; what they look like everywhere."""
    labels = sparse(points)
    found: dict[str, object] = {"clusters": int(labels.max()) + 1, "outliers": int((labels < 0).sum())}
    if len(points) <= DENSE_UP_TO:
        reference = dense(array)
        assert np.array_equal(labels, reference), "the labels differ from the dense implementation's"
        found["adjusted Rand index"] = adjusted_rand_score(reference, labels)
    return found


def approximate(count: int) -> dict[str, float]:
    """What the approximate search finds of the exact neighbours, and whether its clusters are the same."""
    points = features(count)
    exact, quick = (nearest(points, K1, search) for search in ("exact", "approximate"))
    shared = np.mean([len(np.intersect1d(a, b)) / K1 for a, b in zip(exact, quick, strict=True)])
    near = jaccard_neighbours(points, k1=K1, k2=K2, radius=EPS, search="approximate")
    labels = dbscan(near, eps=EPS, min_samples=MIN_SAMPLES)
    agreement = adjusted_rand_score(sparse(points), labels)
    return {"N": count, "share of neighbours found": float(shared), "adjusted Rand index": float(agreement)}


if __name__ == "__main__":
    main()
