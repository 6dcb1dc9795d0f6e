# SPDX-License-Identifier: Apache-2.0
"""The engine's parts, one by one."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD

import toys
from mien.engine import (
    EMA,
    Fixed,
    Outcome,
    Phase,
    Rounds,
    Settings,
    Single,
    Stages,
    Step,
    Strategy,
    Tasks,
    adapted,
    fit,
    load_weights,
    predictions,
    saved_folder,
)
from mien.engine import state as state_module
from mien.engine.federation import average_states
from mien.engine.loading import SeededView, epoch_plan, training_loader
from mien.engine.run import Run
from mien.engine.seeding import generator_states, kept_generators, restore_generators, sample_seeds, stable_seed
from mien.engine.state import load_state, save_state
from mien.engine.update import takes_closures
from mien.errors import BadInput, TrainingStopped
from mien.optim.closures import GradientAligned, SharpnessAware

# --- state ---------------------------------------------------------------------------------------------------

leaves = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=8)
trees = st.recursive(leaves, lambda t: st.lists(t, max_size=3) | st.dictionaries(st.text(max_size=5), t, max_size=3))


@hypothesis_settings(max_examples=50, deadline=None)
@given(tree=trees)
def test_any_plain_tree_survives_a_file(tree, tmp_path_factory):
    """Fails if a key, a type or a float's bits are lost, whatever the strings are."""
    path = tmp_path_factory.mktemp("state") / "s.safetensors"
    save_state(path, {"tree": tree}, "test")
    assert load_state(path, "test")["tree"] == tree


def test_tensors_tuples_odd_keys_and_ties_survive(tmp_path):
    shared = torch.randn(3, 4)
    tree = {
        "a": shared,
        "b": shared,
        "t": (1, (2.5, None)),
        3: {"x/y": torch.tensor(7)},
        "view": shared[1:],
        "e": torch.zeros(0, 2),
    }
    tree["bf16"] = torch.ones(2, dtype=torch.bfloat16)
    save_state(tmp_path / "s", tree, "test")
    back = load_state(tmp_path / "s", "test")
    assert torch.equal(back["a"], shared)
    assert back["b"].data_ptr() == back["a"].data_ptr()
    assert torch.equal(back["view"], shared[1:])
    assert back["t"] == (1, (2.5, None))
    assert int(back[3]["x/y"]) == 7
    assert back["e"].shape == (0, 2)
    assert back["bf16"].dtype == torch.bfloat16


def test_what_cannot_be_stored_is_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match="a/0 is a function"):
        save_state(tmp_path / "s", {"a": [print.__call__.__class__ and (lambda: 0)]}, "test")


@pytest.mark.parametrize(("content", "message"), [(b"", "cannot be read"), (b"hello, I am text", "cannot be read")])
def test_a_file_that_is_no_checkpoint(tmp_path, content, message):
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        load_state(tmp_path / "s", "checkpoint")


def test_another_kind_and_a_newer_format(tmp_path, monkeypatch):
    save_state(tmp_path / "s", {}, "weights")
    with pytest.raises(BadInput, match="is not a checkpoint file: it is weights"):
        load_state(tmp_path / "s", "checkpoint")
    monkeypatch.setattr(state_module, "FORMAT", 2)
    monkeypatch.setattr(state_module, "MIGRATIONS", [lambda header: {**header, "format": 2}])
    save_state(tmp_path / "new", {"x": 1}, "weights")
    monkeypatch.undo()
    with pytest.raises(BadInput, match="format 2: this mien reads formats 1 to 1"):
        load_state(tmp_path / "new", "weights")


def test_an_old_format_is_migrated(tmp_path, monkeypatch):
    """Fails if migrations are skipped or run in another order."""
    save_state(tmp_path / "s", {"x": 1}, "weights")

    def one_to_two(header):
        return {**header, "format": 2, "tree": {"x": header["tree"]["x"] + 1}}

    def two_to_three(header):
        return {**header, "format": 3, "tree": {"y": header["tree"]["x"] * 10}}

    monkeypatch.setattr(state_module, "FORMAT", 3)
    monkeypatch.setattr(state_module, "MIGRATIONS", [one_to_two, two_to_three])
    assert load_state(tmp_path / "s", "weights") == {"y": 20}


def _save_under_a_limit(path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        save_state(path, {"w": torch.zeros(10000)}, "test")
    except TrainingStopped as error:
        os._exit(42 if "intact" in str(error) else 1)
    os._exit(0)


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """The file size limit makes the write fail half-way, like a full disk. Fails if the old file is touched first."""
    path = tmp_path / "last.safetensors"
    save_state(path, {"w": torch.ones(3)}, "test")
    child = multiprocessing.get_context("fork").Process(target=_save_under_a_limit, args=(path,))
    child.start()
    child.join(60)
    assert child.exitcode == 42
    assert torch.equal(load_state(path, "test")["w"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"], "a temporary file was left behind"


# --- chance --------------------------------------------------------------------------------------------------


def test_seeds_depend_on_every_part_and_are_spread():
    assert len({stable_seed(0, "a", i) for i in range(1000)}) == 1000
    assert stable_seed(1, "ab") != stable_seed(1, "a", "b")
    seeds = sample_seeds(5, np.arange(10000))
    assert len(set(seeds.tolist())) == 10000
    assert seeds.min() >= 0
    assert abs(np.mean(seeds / 2**63) - 0.5) < 0.02


def test_generators_come_back():
    states = generator_states()
    first = torch.rand(3), np.random.rand(3)
    with kept_generators():
        torch.rand(100)
        np.random.rand(7)
    second = torch.rand(3), np.random.rand(3)
    restore_generators(states)
    assert torch.equal(first[0], torch.rand(3))
    assert np.array_equal(first[1], np.random.rand(3))
    assert torch.equal(second[0], torch.rand(3)), "kept_generators left a trace"


# --- loading -------------------------------------------------------------------------------------------------


@hypothesis_settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 60), batch=st.integers(1, 9), world=st.integers(1, 4), seed=st.integers(0, 9))
def test_a_plan_visits_samples_once_and_shares_equally(size, batch, world, seed):
    if size < world:
        with pytest.raises(BadInput, match="nothing to train on"):
            epoch_plan(size, batch, world, seed, None)
        return
    plan = epoch_plan(size, batch, world, seed, None)
    seen = np.concatenate(plan)
    assert len(set(seen.tolist())) == len(seen) == size // world * world
    assert all(len(row) % world == 0 for row in plan)
    assert all(len(row) == batch * world for row in plan[:-1])


def test_samples_depend_on_their_index_alone_not_on_workers_or_order():
    data = toys.Points(20, noise=1.0)
    plan = [np.array([3, 1, 2, 0]), np.array([7, 5])]
    options = {"start": 0, "rank": 0, "world_size": 1, "seed": 4}
    reference = [b.x for b in training_loader(data, plan, workers=0, **options)]
    spawned = [b.x for b in training_loader(data, plan, workers=1, context="spawn", **options)]
    assert all(torch.equal(a, b) for a, b in zip(reference, spawned, strict=True))
    shuffled = [b.x for b in training_loader(data, [np.array([5, 0])], workers=0, **options)]
    assert torch.equal(shuffled[0], torch.stack([reference[1][1], reference[0][3]]))


def test_loading_leaves_the_global_generators_alone():
    before = torch.get_rng_state()
    SeededView(toys.Points(4, noise=1.0)).__getitems__([(0, 1), (1, 2)])
    assert torch.equal(before, torch.get_rng_state())


# --- schedules -----------------------------------------------------------------------------------------------


def walk(schedule, seed=0, metrics=lambda phase: {}):
    history = []
    while (phase := schedule.next_phase(history, seed)) is not None:
        history.append(Outcome(phase, metrics(phase)))
        assert len(history) < 100
    return history


def test_the_four_shapes():
    assert [o.phase.name for o in walk(Single(2))] == ["train"]
    assert [(o.phase.name, o.phase.epochs) for o in walk(Stages({"a": 1, "b": 3}))] == [("a", 1), ("b", 3)]
    assert [o.phase.task for o in walk(Tasks(3))] == [0, 1, 2]
    rounds = walk(Rounds(2, clients=3))
    assert [(o.phase.round, o.phase.client, o.phase.closes_round) for o in rounds] == [
        (r, c, c == 2) for r in range(2) for c in range(3)
    ]


def test_rounds_draw_their_clients_from_the_seed_and_stop_when_stale():
    chosen = [tuple(o.phase.client for o in walk(Rounds(4, clients=10, fraction=0.3), seed)) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 12
    losses = iter([5.0, 4.0, 4.5, 4.6, 1.0])
    stopping = Rounds(5, clients=2, patience=2)
    history = walk(stopping, metrics=lambda phase: {"loss": next(losses)} if phase.closes_round else {})
    assert history[-1].phase.round == 3, "two rounds without a better loss than round 1's should end it"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Single(0), "epochs is 0"),
        (lambda: Stages({}), "at least one stage"),
        (lambda: Rounds(1, clients=2, fraction=0.0), "fraction is 0.0"),
        (lambda: Settings(batch_size=0), "batch_size is 0"),
        (lambda: Settings(patience=3), "monitor is not"),
        (lambda: Settings(clip=-1.0), "clip is -1.0"),
        (lambda: Settings(precision="64"), "precision is '64'"),
        (lambda: EMA(1.0), "EMA decay is 1.0"),
    ],
)
def test_settings_that_make_no_sense(make, message):
    with pytest.raises(BadInput, match=message):
        make()


# --- updates -------------------------------------------------------------------------------------------------


class Tensors(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))


def test_sharpness_aware_steps_with_the_gradient_at_the_ascended_point():
    module = Tensors()
    optimizer = SharpnessAware(SGD(module.parameters(), lr=0.1), rho=0.5)

    def closure():
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = (module.w**4).sum()
            loss.backward()
        return loss.detach()

    w = np.array([1.0, -2.0])
    g = 4 * w**3
    moved = w + 0.5 * g / np.linalg.norm(g)
    expected = w - 0.1 * 4 * moved**3
    assert takes_closures(optimizer)
    assert float(optimizer.step([closure])) == pytest.approx(17.0)
    assert np.allclose(module.w.detach().numpy(), expected, atol=1e-12)


def test_gradient_aligned_looks_ahead_per_tensor_and_steps_twice():
    module, head = Tensors(), nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
    base = SGD([{"params": [module.w]}, {"params": [head], "perturb": False}], lr=0.1)
    optimizer = GradientAligned(base, rho_max=0.3, seed=1)
    scale = {"one": 1.0, "two": 3.0}

    def closure(name):
        def call():
            optimizer.zero_grad()
            with torch.enable_grad():
                loss = scale[name] * ((module.w**2).sum() + (head * module.w[0]).sum())
                loss.backward()
            return loss.detach()

        return call

    import random

    rho = random.Random("1/1").uniform(0, 0.3)
    w, h = np.array([1.0, -2.0]), 0.5
    for source, target in ((1.0, 3.0), (3.0, 1.0)):
        g = source * (2 * w + np.array([h, 0]))
        move = -rho * g / np.linalg.norm(g)
        at = w + move
        w, h = w - 0.1 * target * (2 * at + np.array([h, 0])), h - 0.1 * target * at[0]
    optimizer.step([closure("one"), closure("two")])
    assert np.allclose(module.w.detach().numpy(), w, atol=1e-12)
    assert float(head.detach()) == pytest.approx(h)


def test_clipping_bounds_the_gradient_of_every_step():
    class Steep(toys.Plain):
        def losses(self, batch):
            return {"steep": 1e4 * super().losses(batch)["ce"]}

        def optimizers(self, phase):
            return {"main": SGD(self.parameters(), lr=1.0)}

    method = Steep()
    before = torch.cat([p.detach().flatten() for p in method.parameters()])
    fit(method, toys.Points(4), settings=Settings(batch_size=4, clip=0.5, device="cpu"))
    after = torch.cat([p.detach().flatten() for p in method.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.5, rel=1e-4)


def test_accumulation_equals_the_larger_batch():
    weights = []
    for options in ({"batch_size": 12}, {"batch_size": 4, "accumulate": 3}):
        method = toys.Client()
        fit(method, toys.Points(48), settings=Settings(device="cpu", **options))
        weights.append(method.network[0].weight.detach())
    assert torch.allclose(*weights, atol=1e-6)


def test_a_step_with_a_wrong_optimiser_or_too_many_batches():
    class Wrong(toys.Plain):
        def steps(self, batch):
            yield Step(*self.wrong(batch))

    for wrong, message in (
        (lambda self, b: ("nope", self.losses, b), "names the optimiser 'nope'"),
        (lambda self, b: ("main", self.losses, b, b), "2 batches: a plain optimiser takes exactly one"),
    ):
        Wrong.wrong = wrong
        with pytest.raises(BadInput, match=message):
            fit(Wrong(), toys.Points(8), settings=Settings(device="cpu"))


def test_gradients_of_the_other_optimiser_are_off():
    """Fails if the critic's step leaves gradients on the generator, which its own step would then use."""
    method, seen = toys.Two(), []

    class Watch(Strategy):
        def gradients(self, method, optimizer):
            other = method.generator if optimizer == "critic" else method.critic
            seen.append([p.requires_grad for p in other.parameters()])

    fit(method, toys.Points(8), settings=Settings(batch_size=8, device="cpu"), strategies=[Watch()])
    assert not any(flag for flags in seen for flag in flags)
    assert all(p.requires_grad for p in method.parameters())


# --- strategies ----------------------------------------------------------------------------------------------


def test_ema_is_the_recursion_and_is_used_to_evaluate_and_save(tmp_path):
    class Recorded(toys.Client):
        def after_step(self):
            self.__dict__.setdefault("trace", []).append(self.network[0].weight.detach().clone())

    method = Recorded()
    average = method.network[0].weight.detach().clone()
    fit(
        method,
        toys.Points(24),
        settings=Settings(batch_size=4, device="cpu"),
        out=tmp_path / "run",
        strategies=[EMA(0.8)],
    )
    for weight in method.trace:
        average = 0.8 * average + 0.2 * weight
    saved = Recorded()
    load_weights(saved, tmp_path / "run")
    assert torch.allclose(saved.network[0].weight, average, atol=1e-6)
    assert torch.equal(method.network[0].weight, method.trace[-1]), "training weights must come back after saving"


def test_a_stage_hands_on_the_averaged_weights():
    class Taught(toys.Plain):
        """Copies its network when the second stage is built, as a student does its teacher."""

        def build_phase(self, phase):
            if phase.index == 1:
                self.copied = self.network[0].weight.detach().clone()
                self.averaged = averages.average["network.0.weight"].clone()

    averages = EMA(0.9)
    method = Taught()
    stages, settings = Stages({"teacher": 2, "student": 1}), Settings(batch_size=4, device="cpu")
    fit(method, toys.Points(24), schedule=stages, settings=settings, strategies=[averages])
    alone = Taught()
    fit(alone, toys.Points(24), schedule=Stages({"teacher": 2}), settings=settings)
    assert torch.equal(method.copied, method.averaged)
    assert not torch.equal(method.copied, alone.network[0].weight), "the last weights are not their average"


def test_strategies_run_in_order_inside_the_loss_call():
    calls = []

    class Named(Strategy):
        def __init__(self, name):
            self.named = name

        def batch(self, method, batch):
            calls.append(f"batch {self.named}")
            return toys.Point(batch.x * 0, batch.y)

        def losses(self, method, batch, losses):
            calls.append(f"losses {self.named}")
            assert float(batch.x.abs().sum()) == 0, "the loss must see the batch that the strategy made"
            return {**losses, self.named: losses["ce"] * 0}

    fit(
        toys.Plain(), toys.Points(4), settings=Settings(batch_size=4, device="cpu"), strategies=[Named("a"), Named("b")]
    )
    assert calls == ["batch a", "batch b", "losses a", "losses b"]


# --- federated -----------------------------------------------------------------------------------------------


def test_averaging_identical_clients_is_the_identity_and_integers_are_taken():
    state = {"w": torch.randn(50), "count": torch.tensor(7)}
    mean = average_states([state] * 3, [1.0, 5.0, 0.3])
    assert torch.equal(mean["w"], state["w"])
    assert mean["count"].dtype == torch.int64


def test_a_client_that_throws_is_left_out_and_recorded(tmp_path):
    class Breaks(toys.Client):
        def begin_phase(self, phase, data):
            if phase.client == 1:
                raise RuntimeError("the disk of client 1 is gone")

    data = toys.case("rounds").data
    method = Breaks()
    fit(
        method, data, schedule=Rounds(2, clients=3), settings=Settings(batch_size=4, device="cpu"), out=tmp_path / "run"
    )
    history = load_state(tmp_path / "run" / "checkpoints" / "last.safetensors", "checkpoint")["cursor"]["history"]
    assert [bool(outcome["failure"]) for outcome in history] == [False, True, False] * 2
    assert "client 1 is gone" in history[1]["failure"]
    method = Breaks()
    method.begin_phase = lambda phase, data: 1 / 0
    with pytest.raises(TrainingStopped, match="no client finished round 0"):
        fit(method, data, schedule=Rounds(1, clients=2), settings=Settings(device="cpu"))


def test_personal_keys_stay_with_their_client():
    """With personal heads the shared body moves with the average and each client continues from its own head."""
    starts = {}

    class Watched(toys.Client):
        def begin_phase(self, phase, data):
            starts[phase.round, phase.client] = {k: v.clone() for k, v in self.state_dict().items()}

    case = toys.case("rounds")
    fit(Watched(), case.data, schedule=Rounds(2, clients=2), settings=Settings(batch_size=4, device="cpu"))
    assert torch.equal(starts[1, 0]["network.0.weight"], starts[1, 1]["network.0.weight"])
    assert not torch.equal(starts[1, 0]["network.2.weight"], starts[1, 1]["network.2.weight"])


# --- runs ----------------------------------------------------------------------------------------------------


def test_a_run_folder_holds_what_it_should(tmp_path):
    run = tmp_path / "run"
    settings = Settings(batch_size=8, device="cpu", monitor="loss", higher_is_better=False, log_every=2)
    fit(toys.Plain(), Fixed(toys.Points(32), toys.Points(8, seed=3)), schedule=Single(2), settings=settings, out=run)
    assert sorted(p.name for p in run.iterdir()) == [
        "best", "checkpoints", "config.json", "manifest.json", "metrics.jsonl", "model", "versions.json",
    ]  # fmt: skip
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "losses" in row] == [2, 4, 6, 8]
    assert len([row for row in rows if "validation" in row]) == 2
    assert saved_folder(run) == run / "best"
    with pytest.raises(BadInput, match="already holds a run: resume it"):
        fit(toys.Plain(), toys.Points(8), settings=settings, out=run)


def test_nan_stops_with_the_step_the_loss_and_the_last_good_checkpoint(tmp_path):
    settings = Settings(batch_size=4, device="cpu", checkpoint_every=3, log_every=50)
    with pytest.raises(TrainingStopped, match=r"loss 'ce' is nan at step 8: .* last good checkpoint is .*last"):
        fit(toys.Plain(nan_at=8), toys.Points(48), settings=settings, out=tmp_path / "run")
    kept = load_state(tmp_path / "run" / "checkpoints" / "last.safetensors", "checkpoint")
    assert kept["cursor"]["step"] == 6
    assert all(torch.isfinite(v).all() for v in kept["method"].values())


def test_patience_ends_a_phase():
    class Flat(toys.Plain):
        epochs = 0

        def validate(self, data, *, batch_size=64):
            Flat.epochs += 1
            return {"auc": 0.5}

    settings = Settings(device="cpu", monitor="auc", patience=2)
    fit(Flat(), Fixed(toys.Points(8), toys.Points(8)), schedule=Single(50), settings=settings)
    assert Flat.epochs == 3


def test_ctrl_c_finishes_the_step_saves_and_resumes(tmp_path):
    class Interrupting(toys.Plain):
        def after_step(self):
            if self.calls == 5:
                os.kill(os.getpid(), signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    settings = Settings(batch_size=4, device="cpu")
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt, match="continue with mien train --resume"):
        fit(Interrupting(), toys.Points(48), schedule=Single(2), settings=settings, out=run)
    assert load_state(run / "checkpoints" / "last.safetensors", "checkpoint")["cursor"]["step"] == 5
    Interrupting.after_step = lambda self: None
    fit(Interrupting(), toys.Points(48), schedule=Single(2), settings=settings, out=run, resume=True)
    assert load_state(run / "checkpoints" / "last.safetensors", "checkpoint")["cursor"]["step"] == 24


def test_resuming_with_another_method_or_configuration(tmp_path):
    settings = Settings(device="cpu")
    fit(toys.Plain(), toys.Points(8), settings=settings, out=tmp_path / "run")
    with pytest.raises(BadInput, match="of another run: its method is 'toy-plain', not 'toy-two'"):
        fit(toys.Two(), toys.Points(8), settings=settings, out=tmp_path / "run", resume=True)
    with pytest.raises(BadInput, match="its method_config"):
        fit(toys.Plain(dropout=0.5), toys.Points(8), settings=settings, out=tmp_path / "run", resume=True)


def test_max_steps_ends_every_phase():
    steps = []

    class Counting(toys.Growing):
        def after_step(self):
            steps.append(len(self.heads))

    case = toys.case("tasks")
    fit(Counting(), case.data, schedule=Tasks(3, 5), settings=toys.settings(case, max_steps=4))
    assert steps == [1] * 4 + [2] * 4 + [3] * 4


def test_a_saved_method_with_grown_heads_loads_again(tmp_path):
    case = toys.case("tasks")
    fit(case.method, case.data, schedule=case.schedule, settings=toys.settings(case), out=tmp_path / "run")
    again = toys.Growing()
    load_weights(again, tmp_path / "run")
    assert len(again.heads) == 3
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), case.method.state_dict().values(), strict=True)
    )
    with pytest.raises(BadInput, match="cannot be loaded into 'toy-plain'"):
        load_weights(toys.Plain(), tmp_path / "run")


def test_validation_over_tasks_gives_rows_of_the_accuracy_matrix(tmp_path):
    case = toys.case("tasks")
    fit(case.method, case.data, schedule=case.schedule, settings=toys.settings(case), out=tmp_path / "run")
    history = load_state(tmp_path / "run" / "checkpoints" / "last.safetensors", "checkpoint")["cursor"]["history"]
    assert [sorted(k for k in o["metrics"] if k.endswith("/loss")) for o in history] == [
        [f"task{i}/loss" for i in range(t + 1)] for t in range(3)
    ]


def test_predictions_run_in_eval_mode_in_order_and_leave_the_mode():
    method = toys.Plain(dropout=0.9).train()
    data = toys.Points(10)
    answers = torch.cat([answer for _, answer in predictions(method, data, batch_size=3)])
    assert torch.allclose(answers, method.network(data.x).softmax(1), atol=1e-6)
    assert method.training


# --- adaptation ----------------------------------------------------------------------------------------------


def snapshot(method):
    generators = torch.get_rng_state().clone()
    tensors = {k: v.clone() for k, v in method.state_dict().items()}
    return tensors, [m.training for m in method.modules()], [p.requires_grad for p in method.parameters()], generators


@pytest.mark.parametrize("fails", [False, True])
def test_adaptation_changes_inside_and_restores_bit_for_bit(fails):
    method = toys.Plain(norm=True).train()
    method.network[2].eval()
    method.network[0].bias.requires_grad_(False)
    method.network[0].weight.grad = torch.ones_like(method.network[0].weight)
    before = snapshot(method)
    batch = toys.Point(torch.randn(8, 6), torch.arange(8) % 2)
    before = (*before[:3], torch.get_rng_state().clone())
    try:
        with torch.no_grad(), adapted(method, lambda: {"main": SGD(method.network.parameters(), lr=0.5)}) as run:
            losses = run.update(Step("main", method.losses, batch))
            method.eval()
            torch.rand(5)
            assert not losses["ce"].requires_grad
            assert not torch.equal(method.network[0].weight, before[0]["network.0.weight"])
            if fails:
                raise RuntimeError("inside")
    except RuntimeError:
        assert fails
    after = snapshot(method)
    assert all(torch.equal(before[0][k], after[0][k]) for k in before[0])
    assert before[1] == after[1]
    assert before[2] == after[2]
    assert torch.equal(before[3], after[3])
    assert torch.equal(method.network[0].weight.grad, torch.ones_like(method.network[0].weight))


def test_bf16_trains_and_fp16_on_the_cpu_is_refused():
    fit(toys.Sharp(), toys.Points(8), settings=Settings(device="cpu", precision="bf16"))
    with pytest.raises(BadInput, match="fp16 needs a CUDA device"):
        fit(toys.Plain(), toys.Points(8), settings=Settings(device="cpu", precision="fp16"))


def test_a_phase_is_plain_data():
    assert Phase(index=2, name="x") == Phase(**json.loads(json.dumps(vars(Phase(index=2, name="x")))))


def test_a_start_that_was_killed_before_its_record_was_whole_can_be_made_again(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / ".config.json.12-abcd.tmp").write_text("{")
    Run(tmp_path).create({"method": "x"}, {})
    assert Run(tmp_path).exists()
    with pytest.raises(BadInput, match="already holds a run"):
        Run(tmp_path).create({"method": "x"}, {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").touch()
    with pytest.raises(BadInput, match="something else"):
        Run(tmp_path / "other").create({"method": "x"}, {})
