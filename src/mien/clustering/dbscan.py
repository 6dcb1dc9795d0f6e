# SPDX-License-Identifier: Apache-2.0
"""DBSCAN (Ester et al., KDD 1996) on neighbours that are already known.

Samples with at least `min_samples` neighbours, themselves included, are cores; cores within `eps` of each other share a
cluster; another sample joins the first cluster that has a core within `eps` of it, or is an outlier.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from mien.clustering.jaccard import Neighbours
from mien.errors import BadInput


def dbscan(neighbours: Neighbours, *, eps: float, min_samples: int) -> NDArray[np.int64]:
    """Cluster of each sample, (N,), from 0 in the order of the clusters' first cores; -1 for outliers.

    The labels are those of scikit-learn's DBSCAN on the dense matrix of distances (with eps + `TIE`).

    Args:
        neighbours: All pairs within `eps`, or within a larger radius.
        eps: Radius, in [0, 1].
        min_samples: Neighbours of a core within `eps`, itself included, >= 1.

    >>> line = Neighbours(np.array([0, 2, 5, 7, 8]), np.array([0, 1, 0, 1, 2, 1, 2, 3]), np.zeros(8))
    >>> dbscan(line, eps=0.5, min_samples=3)
    array([ 0,  0,  0, -1])
    """
    if not 0 <= eps <= 1:
        raise BadInput(f"eps is {eps}: it must lie in [0, 1]")
    if min_samples < 1:
        raise BadInput(f"min_samples is {min_samples}: it must be at least 1")
    near = neighbours.within(eps)
    count = len(near)
    core = np.diff(near.start) >= min_samples
    row, column = near.row, near.index
    linked = core[row] & core[column]
    graph = sparse.csr_array((np.ones(linked.sum(), np.int8), (row[linked], column[linked])), (count, count))
    component = connected_components(graph, directed=False)[1]
    cluster = np.full(count, count)  # stands for none, and is above all clusters
    first, found = np.unique(component[core], return_index=True)
    number = np.empty(component.max(initial=-1) + 1, np.int64)
    number[first] = np.argsort(np.argsort(found))
    cluster[core] = number[component[core]]
    joins = ~core[row] & core[column]
    np.minimum.at(cluster, row[joins], cluster[column[joins]])
    return np.where(cluster == count, -1, cluster)
