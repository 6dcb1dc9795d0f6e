# SPDX-License-Identifier: Apache-2.0
"""Server and client apart, with the weights carried by hand: the same run as in one process."""

from __future__ import annotations

import pytest
import torch

import toys
from mien.engine import Phase, Rounds, Settings, fit
from mien.engine.federation import Federation, average_states, is_personal
from mien.errors import TrainingStopped
from mien.federated.roles import Host, Member

SETTINGS = Settings(batch_size=4, device="cpu")


def make(broken=None):
    torch.manual_seed(0)
    method = toys.Client(dropout=0.2)

    def begin(phase, data):
        if broken is not None and phase.client == broken[1] and phase.round == broken[0]:
            raise RuntimeError("the disk is gone")

    method.begin_phase = begin
    return method


def apart(schedule, data, broken=None):
    """The rounds with a host and members that share nothing but arrays."""
    host = Host(make(), schedule)
    members = [Member(make(broken), data.train(Phase(client=c)), c, SETTINGS) for c in range(schedule.clients)]
    while phases := host.phases():
        came, why = {}, {}
        for phase in reversed(phases):  # the order in which answers come in must not matter
            try:
                came[phase.client] = members[phase.client].train([a.copy() for a in host.shared()], phase)
            except RuntimeError as error:
                why[phase.client] = f"RuntimeError: {error}"
        host.close(phases, came, why)
    return host, members


@pytest.mark.parametrize("broken", [None, (1, 1), (1, 2)])
@pytest.mark.parametrize("fraction", [1.0, 0.7])
def test_apart_is_together_bit_for_bit(broken, fraction, capsys):
    schedule, data = Rounds(3, clients=3, fraction=fraction, epochs=2), toys.case("rounds").data
    host, members = apart(schedule, data, broken)
    together = make(broken)
    states = {}

    def remember(phase, _):  # what each client leaves a round with
        states[phase.client] = {k: v.clone() for k, v in together.state_dict().items()}

    together.end_phase = remember
    fit(together, data, schedule=schedule, settings=SETTINGS)
    for name, value in together.state_dict().items():
        if not is_personal(name, together.personal):
            assert torch.equal(value, host.federation.shared[name]), name
    for client, state in states.items():
        for name, value in members[client].own.items():
            assert torch.equal(value, state[name]), "a client's own weights must be those of the run in one process"
    failures = [outcome.failure for outcome in host.history if outcome.failure]
    if broken and fraction == 1.0:
        assert failures == ["RuntimeError: the disk is gone"]
        assert f"client {broken[1]} is left out of round 1: RuntimeError" in capsys.readouterr().err
        assert len(host.history) == 9


def test_a_round_in_which_nobody_answers_ends_the_run():
    host = Host(make(), Rounds(3, clients=2))
    host.close(host.phases(), {}, {0: "it is not connected"})
    assert isinstance(host.error, TrainingStopped)
    assert host.phases() == []


def test_the_clients_metrics_are_averaged_and_stop_the_run():
    host = Host(make(), Rounds(9, clients=2, patience=1, metric="auc", higher_is_better=True))
    for auc in (0.6, 0.7, 0.7):
        phases = host.phases()
        host.close(phases, {p.client: ([a.copy() for a in host.shared()], 3) for p in phases}, {})
        host.note_metrics({1: {"auc": auc + 0.1}, 0: {"auc": auc - 0.1}})
    assert host.history[-1].metrics == pytest.approx({"client0/auc": 0.6, "client1/auc": 0.8, "auc": 0.7})
    assert host.phases() == []


def test_those_who_are_no_clients_get_the_mean_of_what_stays():
    federation = Federation(personal=("head.*",))
    federation.start({"body.w": torch.zeros(2), "head.w": torch.full((2,), 9.0)})
    federation.receive(0, {"body.w": torch.zeros(2), "head.w": torch.tensor([1.0, 2.0])}, samples=30)
    federation.receive(1, {"body.w": torch.full((2,), 4.0), "head.w": torch.tensor([3.0, 4.0])}, samples=10)
    federation.close_round()
    assert torch.equal(federation.common()["head.w"], torch.tensor([2.0, 3.0]))
    assert torch.equal(federation.common()["body.w"], torch.tensor([1.0, 1.0]))
    assert torch.equal(federation.state_for(5)["head.w"], torch.full((2,), 9.0)), "a newcomer starts from the first"


def test_the_running_sums_are_the_average_and_survive_a_checkpoint():
    torch.manual_seed(3)
    states = [{"w": torch.randn(40), "half": torch.randn(3).half(), "count": torch.tensor(c)} for c in range(5)]
    weights = [3, 1, 4, 1, 5]
    first = Federation()
    first.start(states[0])
    for client in (0, 1):
        first.receive(client, states[client], weights[client])
    second = Federation()
    second.load_state(first.state())
    old = Federation()  # the first version of checkpoints held the states that had come back
    old.load_state({"shared": states[0], "clients": {}, "returned": states[:2], "weights": weights[:2]})
    for federation in (second, old):
        for client in (2, 3, 4):
            federation.receive(client, states[client], weights[client])
        assert federation.close_round()
        assert not federation.close_round(), "nothing came back in the new round"
        assert torch.equal(federation.shared["count"], states[0]["count"])
        for name in ("w", "half"):
            mean = sum(s[name].double() * n for s, n in zip(states, weights, strict=True)) / sum(weights)
            assert federation.shared[name].dtype == states[0][name].dtype
            assert torch.equal(federation.shared[name], mean.to(states[0][name].dtype)), name
            torch.testing.assert_close(average_states(states, weights)[name], federation.shared[name])
