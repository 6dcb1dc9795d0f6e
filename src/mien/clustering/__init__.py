# SPDX-License-Identifier: Apache-2.0
"""Clusters of features, sparse: nearest neighbours, k-reciprocal Jaccard distances, DBSCAN on them."""
