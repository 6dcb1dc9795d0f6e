# SPDX-License-Identifier: Apache-2.0
"""What NAR-Former's experiments train and test on, and that every variant gives its figures."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mien.architectures.graph import Graph, checked_edges
from mien.architectures.operators import ONNX, operator_code
from mien.architectures.readers import network_json
from mien.errors import BadInput
from mien.proofs import nar_former, nar_former_networks
from mien.proofs.base import Seed


def test_cells_to_train_and_test_on_are_different_ones_and_follow_from_the_seed():
    one, again, other = (nar_former.make_data("embedded", seed) for seed in (0, 0, 1))
    assert one.train == again.train
    assert one.train != other.train
    assert not set(one.train) & set(one.test)
    assert len(one.train) == 156
    assert one.target == "cost"


@pytest.mark.parametrize("variant", nar_former.PROOF.variants)
def test_every_variant_on_generated_cells(variant):
    seed = Seed(0, nar_former.make_data("embedded", 0), max_steps=2)
    before = seed.data.table.values["cost"].copy()
    values = nar_former.PROOF.variants[variant](seed)
    assert -1 <= values["Kendall tau"] <= 1
    assert np.array_equal(seed.data.table.values["cost"], before)
    if variant == "accuracy and devices together":
        assert set(values) >= {"Kendall tau, sum", "Kendall tau, path"}
    if "NAR-Former" in variant:
        assert values["change under a swap"] > 0


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    (folder / "networks").mkdir()
    rng = np.random.default_rng(0)
    for i in range(36):
        op = np.array([operator_code(ONNX, name) for name in ("Conv", *["Relu"] * (1 + i % 3), "Gemm")])
        size = len(op)
        flops = float(rng.uniform(0.01, 2))
        static = np.array([1, flops, flops / 50, flops / 10])
        edges = checked_edges([(k, k + 1) for k in range(size - 1)], size)
        graph = Graph(ONNX, op, edges, np.full((size, 8), 3.0), np.full((size, 4), 8.0), static)
        record = {"family": f"f{i % 3}", "graph": network_json(graph), "latency_ms": {"median": 4 * flops}}
        (folder / "networks" / f"n{i:02d}.json").write_text(json.dumps(record))
    return str(folder)


def test_a_seed_leaves_out_a_family_and_all_have_their_turn(measured):
    left = []
    for number in range(3):
        networks = nar_former_networks.make_data(measured, number)
        families = [networks.table.families[i] for i in networks.test]
        assert len(set(families)) == 1
        assert not set(families) & {networks.table.families[i] for i in networks.train}
        assert len(networks.train) + len(networks.test) == 36
        left.append(families[0])
    assert left == ["f0", "f1", "f2"]


@pytest.mark.parametrize("variant", nar_former_networks.PROOF.variants)
def test_every_variant_on_networks(variant, measured):
    seed = Seed(0, nar_former_networks.make_data(measured, 0), max_steps=1)
    values = nar_former_networks.PROOF.variants[variant](seed)
    assert 0 <= values["Acc(10 %)"] <= 1
    assert values["MAPE"] >= 0
    if variant == nar_former_networks.LINE:
        assert values["Acc(10 %)"] == 1.0, "a latency that is a multiple of the FLOPs lies on the line"


def test_cells_are_no_networks():
    with pytest.raises(BadInput, match="embedded holds no families of whole networks"):
        nar_former_networks.about("embedded")
