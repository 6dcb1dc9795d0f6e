# SPDX-License-Identifier: Apache-2.0
"""Bias pruning: every formula against loops, the rules of the edge cases, and the method around them."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mien.engine import Phase, Settings, Single, fit
from mien.errors import BadInput
from mien.forensics.audit.foreign import ModuleDetector
from mien.forensics.data import Faces, ForgedFrames
from mien.forensics.fairfd import FairFD
from mien.forensics.opening import layout_of
from mien.forensics.parts.pruning import Means, calibrate, importance, lowest, prune, prune_
from mien.forensics.readers.fairfd import APPROACHES, RACES, fairfd
from mien.nn.network import Network


class Skipping(nn.Module):
    """Declares the skip convolution first and runs it last, as Xception does; one convolution never runs."""

    def __init__(self):
        super().__init__()
        self.skip = nn.Conv2d(3, 4, 3, padding=1)
        self.main = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.unused = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc((self.main(x) + self.skip(x)).mean(dim=(2, 3)))


class Known(torch.utils.data.Dataset):
    """Faces of two groups, the forged ones pure noise that must not be calibrated on."""

    def __init__(self, n=12, size=8):
        g = torch.Generator().manual_seed(0)
        self.images = torch.rand(n, 3, size, size, generator=g)
        self.groups = [f"p{i}" for i in range(n)]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        race = "xyz"[i % 3]
        label = int(i >= 9)
        return Faces(self.images[i] * (0.2 + 0.3 * (i % 3)), label, self.groups[i], attributes={"race": race})


def detector(module=None):
    torch.manual_seed(1)
    return ModuleDetector(module or Skipping(), image_size=8).eval()


def test_mean_maps_are_those_of_a_loop_over_single_images_matched_by_name():
    method, data = detector(), Known()
    found = calibrate(method, data, None, batch_size=2)
    assert set(found.means) == {"module.skip", "module.main.0"}, "a convolution that never runs is left alone"
    assert found.counts == {"x": 3, "y": 3, "z": 3}, "three of twelve are forged"
    for name in ("skip", "main.0"):
        layer = method.module.get_submodule(name)
        for g, race in enumerate("xyz"):
            maps = [layer(data[i].image[None])[0] for i in range(9) if i % 3 == g]
            torch.testing.assert_close(
                found.means[f"module.{name}"][race], (sum(maps) / 3).detach().double(), atol=1e-6, rtol=1e-5
            )
    b = found.spreads()["module.skip"]
    for c in range(4):
        norms = [math.sqrt(float((found.means["module.skip"][r][c] ** 2).sum())) for r in "xyz"]
        mean = sum(norms) / 3
        assert float(b[c]) == pytest.approx(math.sqrt(sum((n - mean) ** 2 for n in norms) / 3), rel=1e-9)
    assert not any(m._forward_hooks for m in method.modules()), "the hooks are gone"


def test_calibration_leaves_modes_and_weights_and_statistics_as_they_were():
    method = detector().train()
    before = copy.deepcopy(method.state_dict())
    calibrate(method, Known(), "race")
    assert method.training
    assert method.module.main[1].training
    assert all(torch.equal(before[k], v) for k, v in method.state_dict().items())


def test_images_of_two_sizes_are_refused():
    method = detector()
    means = Means(method)
    with means.watching("x", 1), torch.no_grad():
        method.module(torch.rand(1, 3, 8, 8))
    with pytest.raises(BadInput, match="images of one size"), means.watching("x", 1), torch.no_grad():
        method.module(torch.rand(1, 3, 10, 10))


def test_a_mean_map_keeps_its_sign():
    """A channel whose sign varies over images averages out: the norm is taken of the mean, not the mean of norms."""
    layer = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(layer.weight)
    means = Means(layer)
    with means.watching("x", 2), torch.no_grad():
        layer(torch.tensor([[[[2.0]]], [[[-2.0]]]]))
    assert means.means[""]["x"].abs().max() == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["bpfa", "weight", "activation"]), st.floats(0, 0.9))
def test_what_is_pruned_is_what_a_loop_would_prune(seed, pruning, rho):
    rng = np.random.default_rng(seed)
    w = np.round(rng.normal(size=(4, 2, 3, 3)), 1)  # rounded: ties and zeros occur
    b = np.round(np.abs(rng.normal(size=4)), 1)
    b[rng.integers(4)] = 0
    scored = []
    for index, value in enumerate(w.flatten()):
        c = index // 18
        s = abs(value) if pruning in ("bpfa", "weight") else 1.0
        if pruning != "weight":
            s = s / b[c] if b[c] > 0 else math.inf
        scored.append((s, index))
    wanted = [index for s, index in sorted(scored)[: int(rho * w.size)] if math.isfinite(s)]
    found = lowest(importance(torch.tensor(w), torch.tensor(b), pruning), rho)
    assert sorted(found.tolist()) == sorted(wanted)
    # scores are compared inside a layer only, so the scale of its activations must not matter
    again = lowest(importance(torch.tensor(w), torch.tensor(b) * 1024, pruning), rho)
    assert torch.equal(found, again)


def test_a_dead_channel_is_protected_also_where_its_weights_are_zero():
    w, b = torch.tensor([[0.0, 0.0], [3.0, 1.0]]), torch.tensor([0.0, 1.0])
    score = importance(w, b)
    assert torch.isinf(score[0]).all()
    assert lowest(score, 0.5).tolist() == [3, 2]
    assert lowest(score, 0.9).tolist() == [3, 2], "never more than what is not protected"
    assert lowest(importance(w, torch.zeros(2)), 0.5).numel() == 0, "a layer that is dead altogether is left alone"


def test_ties_go_to_the_lowest_index_and_layers_below_a_thousand_weights_keep_all():
    assert lowest(torch.ones(10), 0.35).tolist() == [0, 1, 2]
    assert lowest(torch.ones(999), 0.001).numel() == 0
    assert lowest(torch.ones(1000), 0.001).tolist() == [0]


def test_pruning_touches_convolutions_alone_and_leaves_the_detector():
    method = detector()
    before = copy.deepcopy(method.state_dict())
    pruned, zeroed = prune(method, Known(), rho=0.1, group_by="race")
    assert all(torch.equal(before[k], v) for k, v in method.state_dict().items())
    assert zeroed == {"module.skip": 10, "module.main.0": 10}
    for name, value in pruned.state_dict().items():
        gone = int((value == 0).sum() - (before[name] == 0).sum())
        assert gone == zeroed.get(name.removesuffix(".weight"), 0), name
    module = pruned.module
    assert int((module.skip.weight == 0).sum()) == 10
    kept = module.skip.weight != 0
    assert torch.equal(module.skip.weight[kept], method.module.skip.weight[kept])


def test_the_memory_format_of_weights_does_not_matter():
    plain = torch.nn.Conv2d(6, 4, 3)
    turned = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    for module in (plain, turned):
        assert prune_(module, {"": torch.ones(4)}, rho=0.1, pruning="weight") == {"": 21}
    assert torch.equal(plain.weight, turned.weight)


@pytest.mark.parametrize("norm", [torch.nn.utils.parametrizations.weight_norm, lambda layer: layer])
def test_what_is_said_to_be_zero_is_zero_also_behind_a_parametrisation(norm):
    torch.manual_seed(0)
    layer = norm(nn.Conv2d(3, 8, 3)).eval()
    before = layer.weight.detach().clone()
    assert prune_(layer, {"": torch.ones(8)}, rho=0.1, pruning="weight") == {"": 21}
    layer(torch.rand(1, 3, 9, 9))
    lowest_ones = before.abs().flatten().argsort()[:21]
    expected = before.clone()
    expected.view(-1)[lowest_ones] = 0
    assert int((layer.weight == 0).sum()) == 21
    torch.testing.assert_close(layer.weight.detach(), expected)


class Doubled(nn.Module):
    """A parametrisation without an inverse."""

    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize(
    "norm",
    [
        torch.nn.utils.parametrizations.orthogonal,
        lambda layer: torch.nn.utils.parametrize.register_parametrization(layer, "weight", Doubled()),
        lambda layer: torch.nn.utils.spectral_norm(layer),
    ],
)
def test_weights_that_do_not_stay_zero_are_refused(norm):
    torch.manual_seed(0)
    layer = nn.Sequential(norm(nn.Conv2d(3, 8, 3))).eval()
    with torch.no_grad():
        layer(torch.rand(1, 3, 9, 9))
    with pytest.raises(BadInput, match="convolution '0' are computed from others and do not become zero"):
        prune_(layer, {"0": torch.ones(8)}, rho=0.1, pruning="weight")


class WithoutDoubles(torch.Tensor):
    """A tensor of a device that has no float64, such as MPS."""

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_devices_without_doubles_can_be_calibrated_on():
    class There(nn.Conv2d):
        def forward(self, x):
            return super().forward(x).as_subclass(WithoutDoubles)

    layer, x = There(3, 4, 1), torch.rand(2, 3, 5, 5)
    means = Means(layer)
    with means.watching("x", 2), torch.no_grad():
        layer(x)
        expected = nn.functional.conv2d(x, layer.weight, layer.bias).double().mean(0)
    torch.testing.assert_close(means.means[""]["x"], expected)
    weight, b = torch.tensor([[1.0, -2.0]]), torch.tensor([0.5])
    there = importance(weight.as_subclass(WithoutDoubles), b.as_subclass(WithoutDoubles))
    torch.testing.assert_close(there.as_subclass(torch.Tensor), torch.tensor([[2.0, 4.0]]))


def test_random_pruning_follows_its_seed():
    spreads = {"skip": torch.ones(4)}
    made = []
    for seed in (0, 0, 1):
        module = copy.deepcopy(detector().module)
        prune_(module, spreads, rho=0.2, pruning="random", seed=seed)
        made.append(module.skip.weight)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"rho": 1.0}, r"rho is 1.0"), ({"pruning": "magic"}, "pruning is 'magic'"), ({"group_by": "age"}, "age")],
)
def test_bad_arguments(change, message):
    with pytest.raises(BadInput, match=message):
        prune(detector(), Known(), **change)


def test_one_group_cannot_be_calibrated_on():
    with pytest.raises(BadInput, match="two groups or more: found x"):
        calibrate(detector(), torch.utils.data.Subset(Known(), [0, 3, 6]), "race")
    with pytest.raises(BadInput, match="no convolution of 3 channels"):
        prune_(detector().module, {"skip": torch.ones(3)})


# --- the method ---------------------------------------------------------------------------------------------------
def frames(people=10, each=4, attributes=True):
    torch.manual_seed(0)
    faces = torch.randint(0, 255, (people * each, 3, 16, 16), dtype=torch.uint8)
    names = [f"p{i // each}" for i in range(people * each)]
    known = [{"race": "ab"[int(name[1:]) % 2]} for name in names] if attributes else []
    return ForgedFrames(faces, names, 16, kinds=("self-blend",), training=True, attributes=known)


def test_persons_are_kept_out_of_training_and_the_end_of_training_prunes_once():
    seen = set()

    class Watched(FairFD):
        def losses(self, batch):
            seen.update(batch.group)
            return super().losses(batch)

    method = Watched(network=Network("tiny_cnn"), image_size=16, rho=0.01, calibration=0.3)
    data = frames()
    train, held = method.parts(data)
    kept = [i for rows in held.values() for i in rows]
    groups = {name: {data.groups[i] for i in part} for name, part in (("train", train), ("held", kept))}
    assert not groups["train"] & groups["held"]
    assert len(groups["train"] | groups["held"]) == 10
    assert held.keys() == {"a", "b"}
    assert all(data.attributes[i]["race"] == race and not data.label[i] for race, rows in held.items() for i in rows)
    fit(method, data, schedule=Single(2), settings=Settings(batch_size=8, max_steps=6, device="cpu"))
    assert seen <= groups["train"]
    convolutions = [m for m in method.modules() if isinstance(m, nn.Conv2d)]
    expected = [int(0.01 * m.weight.numel()) for m in convolutions]
    assert [int((m.weight == 0).sum()) for m in convolutions] == expected
    assert int(method.zeroed) == sum(expected) > 0
    assert f"{sum(expected)} weights were pruned" in method.card()
    assert method.further_figures(data)["pruned_weights"].value == sum(expected)


class Counted(Known):
    """A caller's own data set, which counts how often each sample is read."""

    def __init__(self, n, seed=0):
        super().__init__(n, size=16)
        del self.groups
        self.reads = torch.zeros(n, dtype=torch.int64)
        self.turn = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()

    def __getitem__(self, i):
        self.reads[i] += 1
        at = self.turn[i]
        return Faces(self.images[at], at % 2, "", attributes={"race": "ab"[at // 2 % 2]})


def small(**options):
    torch.manual_seed(0)
    return FairFD(network=Network("tiny_cnn"), image_size=16, rho=0.01, **options)


def test_a_data_set_of_the_callers_own_is_read_once_to_find_the_parts():
    data = Counted(40)
    method = small()
    fit(method, data, schedule=Single(3), settings=Settings(batch_size=8, device="cpu"))
    _, held = method.parts(Counted(40))
    calibrated = sum(map(len, held.values()))
    assert 2 <= calibrated < 8, "of eight kept out some are forged"
    assert int(data.reads.sum()) == 3 * 32 + calibrated + 40 + 1, "one to learn whether groups are named"
    assert int(method.zeroed) > 0


def test_a_second_training_on_other_data_divides_them_anew():
    one, other = Counted(40, seed=0), Counted(44, seed=1)
    again, fresh = small(), small()
    how = {"schedule": Single(1), "settings": Settings(batch_size=8, max_steps=2, device="cpu")}
    fit(again, one, **how)
    assert again._divided is None, "a trained method holds no data"
    assert again.parts(one) != again.parts(other)
    again.load_state_dict(fresh.state_dict())
    fit(again, other, **how)
    fit(fresh, other, **how)
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize("seed", range(4))
def test_of_a_small_group_somebody_is_kept_out_too(seed):
    """A fifth of three times four persons is two; each race has one."""
    train, held = small(seed=seed).parts(Known())
    assert {race: len(rows) for race, rows in held.items()} == {"x": 1, "y": 1, "z": 1}
    assert len(train) == 9


def test_a_group_without_a_real_image_kept_out_is_refused():
    alone = torch.utils.data.Subset(Known(), [0, 3, 6, 1, 4, 7, 2])
    with pytest.raises(BadInput, match=r"no real image of z is kept apart to calibrate on, only of x, y"):
        small().begin_phase(Phase(), alone)
    with pytest.raises(BadInput, match="no real image of x is kept apart to calibrate on, only of y, z"):
        calibrate(detector(), torch.utils.data.Subset(Known(), [1, 2, 4, 5, 9]), "race")


def test_a_person_of_two_groups_is_in_one_part():
    data = frames(people=8)
    data.attributes = [{"race": "aabb"[i % 4]} for i in range(len(data))]  # real and forged of both, of every person
    train, held = small(calibration=0.4).parts(data)
    kept = {data.groups[i] for rows in held.values() for i in rows}
    assert held.keys() == {"a", "b"}
    assert not kept & {data.groups[i] for i in train}


def test_without_attributes_nothing_is_pruned_and_the_card_says_so():
    method = FairFD(network=Network("tiny_cnn"), image_size=16, rho=0.01)
    fit(method, frames(attributes=False), settings=Settings(batch_size=8, max_steps=2, device="cpu"))
    assert int(method.zeroed) == 0
    assert "Nothing was pruned" in method.card()


def test_data_that_could_not_be_calibrated_on_are_refused_before_training():
    method = FairFD(network=Network("tiny_cnn"), image_size=16, group_by="gender")
    with pytest.raises(BadInput, match="gender"):
        method.begin_phase(Phase(), frames())
    with pytest.raises(BadInput, match="calibration is 0"):
        FairFD(network=Network("tiny_cnn"), image_size=16, calibration=0)


def test_a_run_that_was_killed_and_resumed_is_pruned_alike(tmp_path):
    class Killed(FairFD):
        left = 10**9

        def losses(self, batch):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().losses(batch)

    def run(out, left=10**9, resume=False):
        torch.manual_seed(0)
        method = Killed(network=Network("tiny_cnn"), image_size=16, rho=0.01)
        method.left = left
        how = Settings(batch_size=8, max_steps=6, checkpoint_every=2, device="cpu")
        fit(method, frames(), schedule=Single(2), settings=how, out=out, resume=resume)
        return method

    whole = run(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", left=3)
    again = run(tmp_path / "b", resume=True)
    assert int(again.zeroed) > 0
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


# --- the reader ---------------------------------------------------------------------------------------------------
def fairfd_tree(root, *, nested=False, approaches=APPROACHES):
    for kind in ("RFW", *approaches):
        for race in RACES:
            place = root / race / kind if nested else root / kind / race
            if kind == "RFW":
                place = place / "m.0ab"
            place.mkdir(parents=True)
            (place / "m.0ab_0001.jpg").touch()
    return root


@pytest.mark.parametrize("nested", [False, True])
def test_fairfd_is_read_in_both_orders_of_nesting(tmp_path, nested):
    records = fairfd(fairfd_tree(tmp_path / "d", nested=nested))
    assert len(records) == 4 * 12
    assert {(r.label, r.kind) for r in records} == {(0, "real"), *((1, kind) for kind in APPROACHES)}
    assert {dict(r.attributes)["race"] for r in records} == set(RACES)
    assert len({r.group for r in records}) == 4, "an identity's real and forged images are one group"
    assert layout_of(str(tmp_path / "d")) == "fairfd"


def test_fairfd_says_what_is_missing(tmp_path):
    tree = fairfd_tree(tmp_path / "d", approaches=("FaceSwap", "DCFace"))
    with pytest.raises(BadInput, match=r"36 of 48 cells are empty \(first: SimSwap/African\)"):
        fairfd(tree)
    assert len(fairfd(tree, partial=True)) == 12
    with pytest.raises(BadInput, match="for test only"):
        fairfd(tree, "train")
    with pytest.raises(BadInput, match="no folder"):
        fairfd(tmp_path / "missing")
    (tmp_path / "e" / "FaceSwap" / "Asian").mkdir(parents=True)
    with pytest.raises(BadInput, match="no real images"):
        fairfd(tmp_path / "e")
