# SPDX-License-Identifier: Apache-2.0
"""NAR-Former's second experiment: the latency of whole networks, one family of ten left out (paper: NNLQP).

The data are a folder that `mien measure` wrote. Seed s leaves out family s, in the order of their names, trains on the
others and predicts the one left out, so that ten seeds are ten families. What must be beaten is what every engineer
has: a line through the logarithms of FLOPs and memory access.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mien.architectures.data import Architectures, Table
from mien.architectures.graph import Floats, Graphs
from mien.architectures.nar_former import NARFormer
from mien.architectures.operators import ONNX
from mien.architectures.predictor import ridge_on_counts
from mien.architectures.readers import read
from mien.engine import EMA, Settings, Single, fit
from mien.engine.seeding import kept_generators, seed_all, stable_seed
from mien.errors import BadInput
from mien.metrics.ranking import accuracy_within, kendall_tau, mape
from mien.optim.recipe import Recipe
from mien.proofs.base import Proof, Seed, Values

TARGET, ACC, STEPS, BATCH = "latency", "Acc(10 %)", 250, 16
SMALL: dict[str, Any] = {
    "frequencies": 4,
    "layers": 2,
    "static": "log",
    "dropout": 0.0,
    "optimizer": Recipe(lr=1e-3, schedule="linear", decay_from=0.0),
}
"""Tokens of 120 numbers. Chosen on 200 other networks, drawn with another seed."""


@dataclass
class Networks:
    """The data of a seed.

    Args:
        table: All networks.
        train: Rows of the families to train on.
        test: Rows of the family left out.
    """

    table: Table
    train: list[int]
    test: list[int]


def measured(data: str) -> Table:
    """The table. Raises BadInput for data without families of whole networks."""
    table = read(data) if data != "embedded" else None
    if table is None or table.graphs.space != ONNX or len(set(table.families)) < 2:
        raise BadInput(f"{data} holds no families of whole networks: give a folder that mien measure --out DIR wrote")
    return table


def make_data(data: str, seed: int) -> Networks:
    """Networks to train on and the family left out."""
    table = measured(data)
    names = sorted(set(table.families))
    left = names[seed % len(names)]
    rows = range(len(table))
    test = [i for i in rows if table.families[i] == left]
    return Networks(table, [i for i in rows if table.families[i] != left], test)


def about(data: str) -> str:
    """One line on the data."""
    table = measured(data)
    return f"{table.description}: {len(table)} of them, latency in ms; seed s leaves out family s, ten seeds are all"


# --- variants -------------------------------------------------------------------------------------------------
def _scores(networks: Networks, predicted: Floats) -> Values:
    truth = networks.table.values[TARGET][networks.test]
    return {
        ACC: accuracy_within(truth, predicted),
        "MAPE": mape(truth, predicted),
        "Kendall tau": kendall_tau(truth, predicted),
    }


def _former(*, shuffled: bool = False, **config: Any) -> Callable[[Seed], Values]:
    def measure(seed: Seed) -> Values:
        networks: Networks = seed.data
        table = networks.table
        if shuffled:
            latency = table.values[TARGET].copy()
            order = np.random.default_rng(seed.number).permutation(networks.train)
            latency[networks.train] = latency[order]
            table = replace(table, values={TARGET: latency})
        average = EMA(0.98)
        with kept_generators():
            seed_all(stable_seed(seed.number, "weights"))
            method = NARFormer(space=ONNX, target=TARGET, **SMALL | config)
            budget = seed.max_steps or STEPS
            settings = Settings(batch_size=BATCH, seed=seed.number, max_steps=budget, device=seed.device)
            data = Architectures(table, networks.train, (TARGET,))
            fit(method, data, schedule=Single(budget), settings=settings, strategies=[average])
        with torch.no_grad():
            for name, parameter in method.named_parameters():
                parameter.copy_(average.average[name])
            outputs = method.eval().outputs(table.graphs.take(networks.test))
        return _scores(networks, method.to_value(outputs)[:, 0].cpu().numpy())

    return measure


def _regression(fit_and_predict: Callable[[Graphs, Floats, Graphs, int], Floats]) -> Callable[[Seed], Values]:
    """A regression of the logarithm of the latency."""

    def measure(seed: Seed) -> Values:
        networks: Networks = seed.data
        train, test = (networks.table.graphs.take(rows) for rows in (networks.train, networks.test))
        value = np.log(networks.table.values[TARGET][networks.train])
        return _scores(networks, np.exp(fit_and_predict(train, value, test, seed.number)))

    return measure


def _static(graphs: Graphs) -> Floats:
    assert graphs.static is not None
    return np.log(np.maximum(graphs.static * [1, 1e9, 1e9, 1e9], 1))


def _line(train: Graphs, value: Floats, test: Graphs, seed: int) -> Floats:
    from sklearn.linear_model import LinearRegression

    flops_and_memory = [1, 3]
    line = LinearRegression().fit(_static(train)[:, flops_and_memory], value)
    return np.asarray(line.predict(_static(test)[:, flops_and_memory]))


def _forest(train: Graphs, value: Floats, test: Graphs, seed: int) -> Floats:
    from sklearn.ensemble import RandomForestRegressor

    def columns(graphs: Graphs) -> Floats:
        return np.concatenate([_static(graphs), graphs.counts()], axis=1)

    forest = RandomForestRegressor(300, random_state=seed).fit(columns(train), value)
    return np.asarray(forest.predict(columns(test)))


def _on_counts(train: Graphs, value: Floats, test: Graphs, seed: int) -> Floats:
    weights = ridge_on_counts(train, torch.from_numpy(value)[:, None]).numpy()
    return np.asarray((weights[0] + test.counts() @ weights[1:])[:, 0])


FULL, LINEAR, LAST = "NAR-Former", "static values over 1e9 (paper)", "last token (plain transformer)"
LINE, FOREST, COUNTS = "line through FLOPs and memory access", "random forest on totals and counts", "ridge on counts"
SHUFFLED = "shuffled latencies"

PROOF = Proof(
    name="nar-former-networks",
    claim="NAR-Former predicts more latencies of an unseen family within 10 % than FLOPs and memory access do.",
    variants={
        FULL: _former(),
        LINEAR: _former(static="linear"),
        LAST: _former(queries=()),
        SHUFFLED: _former(shuffled=True),
        LINE: _regression(_line),
        FOREST: _regression(_forest),
        COUNTS: _regression(_on_counts),
    },
    primary=FULL,
    baseline=LINE,
    metric=ACC,
    data=make_data,
    about=about,
    ablations={
        "logarithms of the static values": (FULL, LINEAR),
        "fusion over the last token": (FULL, LAST),
        "over a random forest": (FULL, FOREST),
    },
    controls={SHUFFLED: (0.0, 0.2)},
    notes=(
        "the released augmentation exchanges the last two interior nodes, which follow each other in these networks: "
        "it has no twins to offer, and the consistency loss is zero",
        "differences are paired over families, which differ more than repetitions of one would",
    ),
)
