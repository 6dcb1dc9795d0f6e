# SPDX-License-Identifier: Apache-2.0
"""Small whole networks for the tests beside this file."""

from __future__ import annotations

from mien.architectures.graph import Graph
from mien.architectures.readers import network_from


def network(ops=("Conv", "Relu", "Conv", "Add"), edges=((0, 1), (1, 2), (0, 3), (2, 3)), gflops=0.25) -> Graph:
    """A graph of space "onnx" with some attributes."""
    return network_from(
        {
            "ops": list(ops),
            "edges": [list(edge) for edge in edges],
            "attributes": [[3, 2, 1, None, 1, 0.5, None, None]] * len(ops),
            "shape": [[1, 16 + i, 8, None] for i in range(len(ops))],
            "static": [1, gflops, 0.011, 0.5],
        }
    )
