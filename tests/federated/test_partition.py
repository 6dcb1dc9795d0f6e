# SPDX-License-Identifier: Apache-2.0
"""Who holds what: nothing lost that must not be, nothing twice, no person at two clients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mien.engine import Rounds, Single
from mien.errors import BadInput
from mien.federated.partition import by_kind, by_label_skew, deal, kinds_of_clients
from mien.federated.plan import Federated, norm_names

names = st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=60)


@given(names, st.integers(1, 6), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_dealing_loses_nothing_and_splits_no_group(groups, clients, seed):
    if clients > len(set(groups)):
        with pytest.raises(BadInput, match="use fewer"):
            deal(groups, clients, seed=seed)
        return
    parts = deal(groups, clients, seed=seed)
    assert sorted(i for part in parts for i in part) == list(range(len(groups)))
    owners = [{groups[i] for i in part} for part in parts]
    assert all(owners)
    assert sum(map(len, owners)) == len(set(groups)), "a group was given to two clients"
    assert parts == deal(groups, clients, seed=seed)


def test_dealing_follows_the_shares_and_the_seed():
    groups = [f"p{i // 5}" for i in range(300)]
    sizes = [len(part) for part in deal(groups, 3, seed=0, shares=[1, 2, 3])]
    assert sizes == [50, 100, 150]
    assert [len(part) for part in deal(groups, 4, seed=0)] == [75] * 4
    assert deal(groups, 4, seed=0) != deal(groups, 4, seed=1)


@given(st.integers(2, 6), st.floats(0.2, 50.0), st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_label_skew_loses_nothing(clients, concentration, seed):
    labels = [0] * 60 + [1] * 60
    parts = by_label_skew(labels, clients, concentration=concentration, seed=seed)
    assert sorted(i for part in parts for i in part) == list(range(120))
    assert all(parts)


def test_a_small_concentration_skews_the_labels_and_a_large_one_does_not():
    labels = np.repeat([0, 1], 500)

    def spread(concentration):
        parts = [by_label_skew(labels, 4, concentration=concentration, seed=s) for s in range(5)]
        return np.mean([np.std([labels[part].mean() for part in found]) for found in parts])

    assert spread(1000.0) < 0.03 < 0.2 < spread(0.2)


def test_one_kind_for_each_client_and_persons_of_its_own():
    kinds, groups = [], []
    for person in range(13):
        kinds += ["real", "swap", "blend", "grid"] * 3
        groups += [f"p{person}"] * 12
    parts = by_kind(kinds, groups, seed=0)
    assert len(parts) == 3
    for part, kind in zip(parts, sorted({"swap", "blend", "grid"}), strict=True):
        assert {kinds[i] for i in part} == {"real", kind}
        whole = [i for i in range(len(kinds)) if groups[i] in {groups[j] for j in part} and kinds[i] in ("real", kind)]
        assert part == whole, "a client must hold all of its persons' real faces and forgeries of its kind"
    owners = [{groups[i] for i in part} for part in parts]
    assert sorted(len(own) for own in owners) == [4, 4, 5]
    assert not owners[0] & owners[1] | owners[0] & owners[2] | owners[1] & owners[2]


def test_forgeries_whose_groups_have_no_real_images_go_to_the_client_of_their_kind():
    kinds = ["real"] * 8 + ["swap"] * 4 + ["blend"] * 4
    parts = by_kind(kinds, [f"g{i}" for i in range(16)], seed=3)
    assert [[kinds[i] for i in part].count("real") for part in parts] == [4, 4]
    assert [sorted({kinds[i] for i in part}) for part in parts] == [["blend", "real"], ["real", "swap"]]
    assert sorted(i for part in parts for i in part) == list(range(16)), "nothing had to be left out"


def test_kinds_are_shared_where_numbers_differ():
    assert kinds_of_clients(["a", "b", "c"], 2) == [["a", "c"], ["b"]]
    assert kinds_of_clients(["a", "b"], 5) == [["a"], ["b"], ["a"], ["b"], ["a"]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: deal(["a"], 0, seed=0), "clients is 0"),
        (lambda: deal(["a", "b"], 2, seed=0, shares=[1.0]), "one above 0 is needed for each of 2"),
        (lambda: by_label_skew([0, 1], 2, concentration=0.0, seed=0), "concentration is 0.0"),
        (lambda: by_label_skew([0, 1], 9, concentration=1.0, seed=0), "leave some of 9 clients"),
        (lambda: by_kind(["real"], ["a"], seed=0), "hold no forgery"),
        (lambda: by_kind(["real", "x", "y"], ["a", "b", "c"], seed=0), "would hold no real sample"),
        (lambda: Federated(regime="x"), "federated.regime is 'x'"),
        (lambda: Federated(partition="x"), "federated.partition is 'x'"),
        (lambda: Federated(norms="x"), "federated.norms is 'x'"),
        (lambda: Federated(clients=0), "federated.clients is 0"),
        (lambda: Federated(clients=2, partition="folder"), "folders are as many as there are"),
        (lambda: Federated(shares=(1.0, 2.0)), "only 'even' takes shares"),
        (lambda: Federated(fraction=0.0), "federated.fraction is 0.0"),
        (lambda: Federated(local_epochs=0), "local_epochs is 0"),
        (lambda: Federated(alone=-1), "federated.alone is -1"),
        (lambda: Federated(regime="local", alone=4).schedule(2, 4), "numbered 0 to 3"),
    ],
)
def test_bad_values_are_refused_in_one_line(make, message):
    with pytest.raises(BadInput, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_all_regimes_pass_over_the_data_equally_often():
    rounds = Federated(local_epochs=3).schedule(5, clients=4)
    assert isinstance(rounds, Rounds)
    assert (rounds.count, rounds.clients, rounds.epochs) == (5, 4, 3)
    for regime in ("central", "local"):
        assert Federated(regime=regime, local_epochs=3).schedule(5, clients=4) == Single(15)


def test_the_batch_norm_policy_names_what_stays():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm1d(4, affine=False)))
    statistics = {f"{n}.{k}" for n in ("1", "2.0") for k in ("running_mean", "running_var", "num_batches_tracked")}
    assert Federated(norms="average").personal(module) == ()
    assert set(Federated(norms="statistics").personal(module)) == statistics
    assert set(norm_names(module)) == statistics | {"1.weight", "1.bias"}
    assert set(norm_names(module)) <= set(module.state_dict())
