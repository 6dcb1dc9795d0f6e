# SPDX-License-Identifier: Apache-2.0
"""Which model is kept as the best, where phases are measured differently and where clients have models of their own."""

from __future__ import annotations

import json
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file

import toys
from mien.engine import Fixed, PerTask, Rounds, Settings, Single, Stages, Tasks, fit, saved_folder
from mien.engine import training as training_module
from mien.engine.federation import average_states
from mien.engine.state import load_state, module_state
from mien.errors import BadInput

SPLIT = Fixed(toys.Points(16), toys.Points(8, seed=3))


class Scripted(toys.Client):
    """Validation gives what the script says, by phase: one answer after the other. The states it saw are kept."""

    name = "toy-scripted"
    script: ClassVar[dict] = {}

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.seen = {}, {}

    def validate(self, data, *, batch_size=64):
        phase = self.built[-1].name
        count = self.asked[phase] = self.asked.get(phase, 0) + 1
        self.seen[phase, count - 1] = {k: v.clone() for k, v in module_state(self).items()}
        return self.script[phase][count - 1]


def scripted(script):
    return type("Scripted", (Scripted,), {"script": script})()


def auc(*values):
    return [{"auc": value} for value in values]


def degrees(*values):
    return [{"degrees": value} for value in values]


def settings(**changes):
    return Settings(**{"batch_size": 4, "device": "cpu", "monitor": "auc", **changes})


def same(folder, state):
    """Whether a saved folder holds exactly this state."""
    saved = load_file(folder / "model.safetensors")
    return set(saved) == set(state) and all(torch.equal(saved[name], value) for name, value in state.items())


# --- phases ------------------------------------------------------------------------------------------------------
def test_a_phase_that_lacks_the_metric_keeps_no_best_and_has_all_its_epochs(tmp_path):
    """Fails if a teacher that is measured otherwise ends the run, or counts as validations without progress."""
    method = scripted({"teacher": degrees(9.0, 8.0, 7.0), "student": auc(0.5, 0.7, 0.6, 0.6)})
    stages = Stages({"teacher": 3, "student": 4})
    fit(method, SPLIT, schedule=stages, settings=settings(patience=1), out=tmp_path / "run")
    assert method.asked == {"teacher": 3, "student": 3}, "patience counts the student's validations alone"
    assert same(tmp_path / "run" / "best", method.seen["student", 1])


def test_the_best_is_that_of_the_last_phase_that_gives_the_metric(tmp_path):
    method = scripted({"teacher": auc(0.9, 0.8), "student": auc(0.4, 0.6, 0.5), "after": degrees(3.0)})
    stages = Stages({"teacher": 2, "student": 3, "after": 1})
    fit(method, SPLIT, schedule=stages, settings=settings(), out=tmp_path / "run")
    assert same(tmp_path / "run" / "best", method.seen["student", 1]), "0.9 of the teacher is another measure"


def test_of_equals_the_last_is_kept_and_patience_goes_on(tmp_path):
    """A stage may train what the metric does not see: its first epoch is then no better than its last."""
    method = scripted({"train": auc(0.5, 0.7, 0.7, 0.6, 0.9)})
    fit(method, SPLIT, schedule=Single(5), settings=settings(patience=2), out=tmp_path / "run")
    assert method.asked == {"train": 4}
    assert same(tmp_path / "run" / "best", method.seen["train", 2])


def test_what_the_end_of_a_phase_makes_of_the_method_is_measured_too(tmp_path):
    class Pruned(Scripted):
        script: ClassVar[dict] = {"train": auc(0.5, 0.6, 0.7)}

        def end_phase(self, phase, data):
            with torch.no_grad():
                next(self.parameters()).zero_()

    method = Pruned()
    fit(method, SPLIT, schedule=Single(2), settings=settings(), out=tmp_path / "run")
    assert same(tmp_path / "run" / "best", method.seen["train", 2])


def test_a_first_value_that_is_no_number_is_beaten(tmp_path):
    method = scripted({"train": auc(float("nan"), 0.2, float("nan"))})
    fit(method, SPLIT, schedule=Single(3), settings=settings(), out=tmp_path / "run")
    assert same(tmp_path / "run" / "best", method.seen["train", 1])


def test_patience_of_phases_is_refused_for_rounds(tmp_path):
    with pytest.raises(BadInput, match="patience is 2: it ends phases"):
        fit(
            scripted({}),
            PerTask([toys.Points(8)]),
            schedule=Rounds(3, clients=1),
            settings=settings(patience=2),
            out=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


def test_the_best_of_tasks_knows_all_tasks(tmp_path):
    """Fails if the first task, which is measured on itself alone, wins over the sequence."""

    class Forgetting(toys.Growing):
        def validate(self, data, *, batch_size=64):
            return {"auc": 1.0 / len(self.heads)}

    tasks = PerTask([toys.Points(8)] * 3, [toys.Points(8)] * 3)
    fit(Forgetting(), tasks, schedule=Tasks(3), settings=settings(), out=tmp_path / "run")
    saved = json.loads((saved_folder(tmp_path / "run") / "config.json").read_text())
    assert [phase["task"] for phase in saved["phases"]] == [0, 1, 2]


@pytest.mark.parametrize("stop", [("teacher", 2), ("student", 1), ("student", 3)])
def test_the_best_survives_a_resume(stop, tmp_path):
    """Fails if a resume forgets the best of its phase or takes up that of the one before."""
    script = {"teacher": auc(0.9, 0.95), "student": auc(0.4, 0.6, 0.5, 0.5)}

    def run(out, method, resume=False):
        stages = Stages({"teacher": 2, "student": 4})
        fit(method, SPLIT, schedule=stages, settings=settings(patience=2), out=out, resume=resume)

    whole = scripted(script)
    run(tmp_path / "whole", whole)
    broken = scripted(script)

    def interrupted(data, *, batch_size=64):
        if (broken.built[-1].name, broken.asked.get(broken.built[-1].name, 0) + 1) == stop:
            raise KeyboardInterrupt
        return Scripted.validate(broken, data, batch_size=batch_size)

    broken.validate = interrupted
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", broken)
    again = scripted(script)
    again.asked = dict(broken.asked)
    run(tmp_path / "broken", again, resume=True)
    assert same(tmp_path / "broken" / "best", whole.seen["student", 1])
    assert again.asked == whole.asked == {"teacher": 2, "student": 4}


@pytest.mark.parametrize(
    ("schedule", "script", "validations"),
    [
        (Single(3), {"train": auc(0.5, 0.5, 0.5)}, 1),
        (Stages({"a": 2, "b": 3}), {"a": degrees(1.0, 1.0), "b": auc(0.5, 0.5, 0.5)}, 3),
        (Rounds(3, clients=1), {f"round {r}, client 0": auc(0.5) for r in range(3)}, 1),
    ],
)
def test_a_metric_that_no_phase_gives_ends_the_run_as_soon_as_that_is_known(schedule, script, validations, tmp_path):
    method = scripted(script)
    with pytest.raises(BadInput, match=r"monitor is 'acu': validation gives auc") as error:
        fit(method, SPLIT, schedule=schedule, settings=settings(monitor="acu"), out=tmp_path / "run")
    assert ("degrees" in str(error.value)) == ("a" in script)
    assert sum(method.asked.values()) == validations
    assert not (tmp_path / "run" / "model").exists()


def test_no_run_is_finished_without_its_metric_where_the_last_phase_is_not_validated(tmp_path):
    class FirstOnly(Fixed):
        def validation(self, phase):
            return super().validation(phase) if phase.index == 0 else None

    data = FirstOnly(toys.Points(8), toys.Points(8))
    stages = Stages({"a": 1, "b": 1})
    with pytest.raises(BadInput, match="monitor is 'acu': validation gives auc"):
        fit(scripted({"a": auc(0.5)}), data, schedule=stages, settings=settings(monitor="acu"), out=tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    fit(scripted({"a": auc(0.5)}), data, schedule=stages, settings=settings(), out=tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "model").exists()


# --- clients -----------------------------------------------------------------------------------------------------
class Measured(toys.Client):
    """Two clients; the second round validates best. Notes what comes back from every client."""

    name = "toy-measured"
    values: ClassVar = (0.5, 0.9, 0.7)

    def __init__(self) -> None:
        super().__init__()
        self.back = {}

    def end_phase(self, phase, data):
        self.back[phase.round, phase.client] = {k: v.clone() for k, v in module_state(self).items()}

    def validate(self, data, *, batch_size=64):
        return {"auc": self.values[self.built[-1].round]}


CLIENTS = PerTask([toys.Points(16, seed=i) for i in range(2)], [toys.Points(8, seed=5 + i) for i in range(2)])


def own_models(method, round_):
    """What clients 0 and 1 have after a round: the mean of the body, the head of each."""
    back = [method.back[round_, client] for client in (0, 1)]
    mean = average_states(back, [1.0, 1.0])
    return [{k: v if k.startswith("network.2.") else mean[k] for k, v in own.items()} for own in back]


def test_best_holds_the_clients_of_its_round(tmp_path):
    """Fails if `best` has the server's model alone, or the clients of the last round."""
    method, run = Measured(), tmp_path / "run"
    fit(method, CLIENTS, schedule=Rounds(3, clients=2), settings=settings(), out=run)
    best, last = own_models(method, 1), own_models(method, 2)
    for client in (0, 1):
        assert same(run / "best" / "clients" / f"client{client}", best[client])
        assert same(run / "clients" / f"client{client}", last[client])
    assert same(run / "best", average_states(best, [1.0, 1.0]))
    assert same(run / "model", module_state(method))
    assert sorted(p.name for p in (run / "best").iterdir()) == [
        "README.md",
        "clients",
        "config.json",
        "model.safetensors",
    ]
    assert sorted(p.name for p in (run / "best" / "clients" / "client0").iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip


def test_best_is_replaced_with_its_clients_or_not_at_all(tmp_path, monkeypatch):
    """The disk is full at the last client of the better round. Fails if rounds are mixed or anything is left over."""
    method, run, save = Measured(), tmp_path / "run", training_module.save_pretrained
    calls = []

    def full(module, folder, **options):
        calls.append(folder.name)
        if calls.count("client1") == 2:
            raise OSError("no space left on device")
        return save(module, folder, **options)

    monkeypatch.setattr(training_module, "save_pretrained", full)
    with pytest.raises(OSError, match="no space left"):
        fit(method, CLIENTS, schedule=Rounds(3, clients=2), settings=settings(), out=run)
    first = own_models(method, 0)
    assert same(run / "best", average_states(first, [1.0, 1.0]))
    assert all(same(run / "best" / "clients" / f"client{client}", first[client]) for client in (0, 1))
    assert not [p.name for p in run.iterdir() if p.name.startswith(".")]
    monkeypatch.undo()
    fit(again := Measured(), CLIENTS, schedule=Rounds(3, clients=2), settings=settings(), out=run, resume=True)
    assert same(run / "clients" / "client0", own_models(again, 2)[0])
    kept = load_state(run / "checkpoints" / "last.safetensors", "checkpoint")["cursor"]
    assert kept["best"] == 0.9


def test_clients_without_weights_of_their_own_have_no_folders(tmp_path):
    class Alike(Measured):
        personal = ()

    fit(Alike(), CLIENTS, schedule=Rounds(2, clients=2), settings=settings(), out=tmp_path / "run")
    assert (tmp_path / "run" / "best").exists()
    assert not (tmp_path / "run" / "best" / "clients").exists()
    assert not (tmp_path / "run" / "clients").exists()
