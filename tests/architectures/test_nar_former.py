# SPDX-License-Identifier: Apache-2.0
"""NAR-Former's sequence, twins, losses and optimiser against its equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from whole_networks import network

from mien.architectures.cells import parse_201
from mien.architectures.data import Architecture, Architectures, Table
from mien.architectures.encoding import end_token, node_tokens
from mien.architectures.generated import generate
from mien.architectures.graph import Graphs
from mien.architectures.nar_former import NARFormer, ranking_loss, twins
from mien.data.batch import collate
from mien.engine import Phase
from mien.errors import BadInput

A = "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|skip_connect~0|avg_pool_3x3~1|none~2|"
B = "|none~0|+|none~0|nor_conv_3x3~1|+|none~0|skip_connect~1|skip_connect~2|"


def make(**changes):
    torch.manual_seed(0)
    return NARFormer(**{"frequencies": 6, "layers": 1, **changes}).eval()


def batch(graphs, values):
    return Architecture(list(graphs), torch.tensor(values, dtype=torch.float64)[:, None])


def test_the_sequence_of_a_cell_is_depth_nodes_end():
    method, graph = make(), parse_201(A)
    tokens = node_tokens(Graphs.of([graph], graph.space), method.codes)
    seen = []
    method.transformer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    method.vectors(Graphs.of([graph], graph.space))
    (sequence,) = seen[0]
    assert sequence.shape == (10, 36), "an 8-node cell is a sequence of 10 tokens"
    assert torch.equal(sequence[1:9], tokens)
    assert torch.equal(sequence[9], end_token(method.codes).float())
    depth = method.depth_codes(torch.tensor(8)).float()
    assert depth.shape == (36,)
    assert torch.equal(sequence[0], method.depth_map(depth))


def test_a_whole_network_ends_in_its_depth_token_and_the_head_reads_static_codes():
    method = make(space="onnx", heads=2, frequencies=2)
    graphs = Graphs.of([network()], "onnx")
    seen, joined = [], []
    method.transformer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    method.head.register_forward_pre_hook(lambda _, given: joined.append(given[0]))
    method.outputs(graphs)
    assert seen[0].shape == (1, 5, 60)
    assert torch.equal(seen[0][0, :4], node_tokens(graphs, method.codes))
    assert joined[0].shape == (1, 60 + 16)
    log = make(space="onnx", heads=2, frequencies=2, static="log")
    log.head.register_forward_pre_hook(lambda _, given: joined.append(given[0]))
    log.outputs(graphs)
    wanted = log.codes(torch.log2(torch.tensor([1, 0.25e9, 0.011e9, 0.5e9], dtype=torch.float64))).flatten().float()
    assert torch.allclose(joined[1][0, 60:], wanted)


def test_graphs_of_several_sizes_are_answered_as_if_alone_and_in_order():
    method, cells = make(space="generated"), generate(12, 0)
    together = method.outputs(Graphs.of(cells, "generated"))
    assert len({len(cell) for cell in cells}) > 2
    for cell, output in zip(cells, together, strict=True):
        assert torch.allclose(method.outputs(Graphs.of([cell], "generated"))[0], output, atol=1e-6)


def test_the_answer_depends_on_the_order_of_the_nodes_until_trained_not_to():
    method, graphs = make(), Graphs.of([parse_201(A)], "nas-bench-201")
    other = twins(graphs, "swap", np.random.default_rng(0))[0]
    assert float((method.outputs(graphs) - method.outputs(Graphs.of([other], graphs.space))).abs().detach()) > 1e-4


def test_twins_swap_the_last_two_interior_nodes_or_take_any_legal_order():
    graphs = Graphs.of([parse_201(A), parse_201(B)], "nas-bench-201")
    found = twins(graphs, "swap", np.random.default_rng(0))
    assert found[0].op.tolist() == [0, 2, 1, 5, 4, 5, 3, 6]
    drawn = [twins(graphs, "random", np.random.default_rng(seed)) for seed in range(30)]
    assert len({pairs[0].fingerprint() for pairs in drawn if 0 in pairs}) > 10  # the order that it has is no twin
    assert twins(graphs, "none", np.random.default_rng(0)) == {}


def test_ranking_loss_pair_by_pair():
    p, y = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    order = torch.tensor([3, 0, 4, 1, 2])
    slow = [abs((p[i, t] - p[order[i], t]) - (y[i, t] - y[order[i], t])) for i in range(5) for t in range(2)]
    assert float(ranking_loss(p, y, order)) == pytest.approx(float(sum(slow)) / 10)


def test_the_three_losses_are_the_equations():
    method = make(augmentation="swap")  # eval mode: no dropout, so that both halves can be computed apart
    graphs = [parse_201(A), parse_201(B)]
    values = [0.9, 0.4]
    with torch.no_grad():
        torch.manual_seed(5)
        found = method.losses(batch(graphs, values))
        torch.manual_seed(5)
        torch.randint(2**62, ())
        order = torch.randperm(4)
        pairs = twins(Graphs.of(graphs, "nas-bench-201"), "swap", np.random.default_rng(0))
        assert sorted(pairs) == [0, 1]
        f = [float(method.outputs(Graphs.of([g], "nas-bench-201"))) for g in [*graphs, pairs[0], pairs[1]]]
    y = values * 2
    assert float(found["squared_error"]) == pytest.approx(sum((a - b) ** 2 for a, b in zip(f, y, strict=True)) / 4)
    rank = sum(abs((f[i] - f[j]) - (y[i] - y[j])) for i, j in enumerate(order.tolist())) / 4
    assert float(found["ranking"]) == pytest.approx(0.1 * rank, rel=1e-4)
    gap = (abs(f[0] - f[2]) + abs(f[1] - f[3])) / 2
    assert float(found["consistency"]) == pytest.approx(0.5 * gap, rel=1e-4)


def test_an_architecture_without_a_twin_is_paired_with_itself():
    method = make()
    same = parse_201("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    with torch.no_grad():
        alone = method.losses(batch([parse_201(A)], [0.5]))["consistency"]
        both = method.losses(batch([parse_201(A), same], [0.5, 0.5]))["consistency"]
    # the cell of equal operators has a twin, too: its wiring differs when nodes 5 and 6 change places
    assert not torch.equal(alone, both)
    chain = next(cell for cell in generate(50, 0) if not twins(Graphs.of([cell], cell.space), "swap", None))
    lonely = make(space="generated").losses(batch([chain], [1.0]))
    assert float(lonely["consistency"].detach()) == 0.0


def test_gradients_of_the_sum_reach_every_part():
    method = make().train()
    sum(method.losses(batch([parse_201(A), parse_201(B)], [0.9, 0.1])).values()).backward()
    silent = [name for name, p in method.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # keys' biases shift all scores of a query alike, and softmax takes that out
    assert all(name.endswith("key.bias") for name in silent), silent


def test_biases_are_not_decayed_and_the_rate_warms_up_and_falls_to_zero():
    method = make()
    phase = Phase("train", 1, total_steps=50)
    optimizer, scheduler = method.optimizers(phase)["main"]
    decayed, plain = optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"], decayed["eps"]) == (0.01, 0.0, 1e-8)
    biases = {id(p) for name, p in method.named_parameters() if name.endswith("bias")}
    assert {id(p) for p in plain["params"]} == biases
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(method.parameters()))
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:5] == pytest.approx([1e-4 * (i + 1) / 5 for i in range(5)])
    assert max(rates) == pytest.approx(1e-4)
    assert rates[-1] < 4e-6
    assert rates[5:] == sorted(rates[5:], reverse=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "heads is 5: it must divide the 36"),
        ({"layers": 0}, "layers is 0"),
        ({"queries": (4, 0)}, "queries is"),
        ({"warmup": 1.0}, "warmup is 1.0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"average": 1.0}, "average is 1.0"),
        ({"augmentation": "all"}, "augmentation is 'all'"),
        ({"ranking_weight": -1.0}, "weights of losses"),
        ({"static": "sqrt"}, "static is 'sqrt'"),
        ({"scaling": "cube"}, "scaling is 'cube'"),
        ({"space": "nas-bench-102"}, "did you mean 'nas-bench-101'"),
        ({"none_edges": "gone"}, "none_edges is 'gone'"),
        ({"train_size": 0}, "train_size is 0"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(BadInput, match=message):
        make(**changes)


def table(values, *, count=60):
    cells = generate(count, 1)
    names = [cell.fingerprint() for cell in cells]
    return Table(Graphs.of(cells, "generated"), {"cost": np.asarray(values)}, names, names, "toy cells")


def learned(values, **changes):
    method = make(space="generated", target="cost", **changes)
    data = Architectures(table(values), range(60), ("cost",))
    method.begin_phase(Phase("train", 1), data)
    return method, data


def test_scalings_there_and_back():
    values = np.linspace(2.0, 400.0, 60)
    for scaling, low, high in (("unit", 2.0, 400.0), ("log", np.log(2.0), np.log(400.0))):
        method, _ = learned(values, scaling=scaling)
        room = 0.1 * (high - low)
        y = torch.tensor([[2.0], [37.0], [400.0]])
        plain = y.double().log() if scaling == "log" else y.double()
        u = (plain - (low - room)) / (high - low + 2 * room)
        assert torch.allclose(method.to_output(y).double(), u, atol=1e-6)
        assert torch.allclose(method.to_value(method.to_output(y)).float(), y, rtol=1e-4)
    method = make(space="generated", target="share,cost", scaling="mixed")
    both = Table(**{**table(values).__dict__, "values": {"share": np.linspace(0, 1, 60), "cost": values}})
    method.begin_phase(Phase("train", 1), Architectures(both, range(60), ("share", "cost")))
    y = torch.tensor([[0.3, 37.0]])
    room = 0.1 * np.log(200.0)
    by_hand = [[(0.3 + 0.1) / 1.2, (np.log(37.0) - np.log(2.0) + room) / (np.log(200.0) + 2 * room)]]
    assert torch.allclose(method.to_output(y).double(), torch.tensor(by_hand, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(method.to_value(method.to_output(y)).float(), y, rtol=1e-4)
    method, _ = learned(np.linspace(0, 1, 60))
    assert float(method.to_output(torch.tensor([[0.3]]))) == pytest.approx(0.3), "accuracies stay as they are"
    with pytest.raises(BadInput, match="scaling is 'none'"):
        learned(values, scaling="none")
    with pytest.raises(BadInput, match="1 values are not above 0"):
        learned(np.linspace(0, 400, 60), scaling="log")
    with pytest.raises(BadInput, match="have no value"):
        learned(np.full(60, np.nan))


def test_the_interval_is_the_conformal_quantile_and_covers():
    rng = np.random.default_rng(0)
    method, data = learned(rng.uniform(10, 20, 60))
    with torch.no_grad():
        found = method.validate(data)
        output = method.outputs(data.table.graphs).double()
        error = (output - method.to_output(data.value).double()).abs()[:, 0].sort().values
    assert float(method.margin) == pytest.approx(float(error[int(np.ceil(61 * 0.9)) - 1]))
    assert found["loss"] == pytest.approx(float(error.square().mean()), rel=1e-5)
    estimate = method.predict(collate([data[i] for i in range(60)]))
    inside = (data.value >= estimate.low) & (data.value <= estimate.high)
    assert 0.9 <= float(inside.double().mean()) <= 0.95
    few = Architectures(data.table, range(5), ("cost",))
    method.validate(few)
    assert torch.isinf(method.margin).all(), "five architectures cannot bound nine tenths"


def test_the_linear_reference_is_ridge_regression_on_counts():
    from sklearn.linear_model import Ridge

    values = np.random.default_rng(0).uniform(1, 5, 60)
    method, data = learned(values)
    counts = data.table.graphs.counts()
    oracle = Ridge(alpha=1.0).fit(counts, method.to_output(data.value)[:, 0].double().numpy()).predict(counts)
    wanted = method.to_value(torch.from_numpy(oracle)[:, None])
    assert torch.allclose(method.count_estimates(data.table.graphs), wanted, atol=1e-6)
