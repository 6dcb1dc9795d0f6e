# SPDX-License-Identifier: Apache-2.0
"""LoDA's task from its beginning to its end: branches, gradient-aligned steps, merging, what is remembered."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F
from worlds import SIZE, data, images, make

from mien.adaptation.heads import cosines
from mien.adaptation.learner import ContinualClassifier
from mien.adaptation.loda import LoDA, general_subspace, isolated_subspace, recalibration_matrix
from mien.adaptation.memory import collect
from mien.adaptation.null_space_lora import NullSpaceLoRA
from mien.adaptation.sequential_lora import SequentialLoRA
from mien.adaptation.tasks import FoundedTasks, open_tasks
from mien.classification.data import Labelled, LabelledImages
from mien.data.batch import collate
from mien.engine import Phase, Settings, Step, Tasks, fit
from mien.engine.method import build
from mien.engine.ranks import Ranks
from mien.engine.update import Updater
from mien.errors import BadInput
from mien.optim.recipe import Recipe

KINDS = [ContinualClassifier, SequentialLoRA, NullSpaceLoRA, LoDA]


def phase(task, total=10):
    return Phase(index=task, name=f"task {task}", task=task, total_steps=total)


def begin(method, task, tasks):
    """Enter a task as the engine does."""
    build(method, phase(task))
    with torch.no_grad():
        method.begin_phase(phase(task), tasks.train(phase(task)))
    return method


def second_task(**changes):
    """A LoDA that has learned its first task and has begun the second, and its data."""
    method = make(**changes)
    tasks = data(method)
    begin(method, 0, tasks)
    with torch.no_grad():
        for layer in method.adapters().values():
            layer.branch("general").B.normal_(std=0.05)
        method.end_phase(phase(0), tasks.train(phase(0)))
    return begin(method, 1, tasks), tasks


def batch_of(tasks, task, count=8):
    dataset = tasks.train(phase(task))
    step = len(dataset) // count
    torch.manual_seed(5)
    return collate([dataset[i * step] for i in range(count)])


# --- branches -------------------------------------------------------------------------------------------------
def test_the_first_task_trains_a_general_branch_whole_later_ones_only_b():
    method = make()
    tasks = data(method)
    begin(method, 0, tasks)
    new = collect(method, method.widths, tasks.train(phase(0)))
    for name, layer in method.adapters().items():
        assert list(layer.branches) == ["general"]
        branch = layer.branch("general")
        assert branch.scale == 0.25
        assert branch.A.requires_grad
        assert branch.B.requires_grad
        assert torch.allclose(branch.A.square().sum(dim=1), torch.full((3,), 1 / 3), atol=1e-5)
        span = general_subspace(torch.zeros_like(new[name]), new[name], 3).float()
        assert torch.allclose(branch.A.abs() * math.sqrt(3), span.T.abs(), atol=1e-3)
    method, tasks = second_task()
    new = collect(method, method.widths, tasks.train(phase(1)))
    for name, layer in method.adapters().items():
        assert {n: layer.branch(n).scale for n in layer.branches} == {"general": 0.25, "isolated": 0.5}
        old = method.memory[name]
        expected = {
            "general": general_subspace(old, new[name], 3).T.float() / math.sqrt(3),
            "isolated": isolated_subspace(old, new[name], 3)[0].T.float() / math.sqrt(3),
        }
        for kind, A in expected.items():
            branch = layer.branch(kind)
            assert not branch.A.requires_grad
            assert not branch.B.detach().any()
            assert torch.allclose(branch.A.T @ branch.A, A.T @ A, atol=1e-4), "not the span of the subspace"
    trained = {n.rpartition(".")[2] for n, p in method.named_parameters() if p.requires_grad}
    assert trained == {"B", "weight"}
    ratio, ridge = method.isolation.tolist()
    assert ratio > 0
    assert 0 <= ridge < 1
    assert [p.requires_grad for p in method.heads.parameters()] == [False, True]


@pytest.mark.parametrize(("subspaces", "scales"), [("general", {"general": 0.5}), ("isolated", {"isolated": 1.0})])
def test_one_subspace_alone_is_not_halved(subspaces, scales):
    method, _ = second_task(subspaces=subspaces)
    for layer in method.adapters().values():
        assert {n: layer.branch(n).scale for n in layer.branches} == scales


# --- gradient-aligned steps -----------------------------------------------------------------------------------
def test_groups_are_half_of_the_classes_each():
    method, tasks = second_task()
    batch = batch_of(tasks, 1)
    first, second = method.groups(batch)
    classes = set(batch.label.tolist())
    one, other = set(first.label.tolist()), set(second.label.tolist())
    assert one | other == classes
    assert not one & other
    assert len(one) == len(classes) // 2
    assert len(first.label) + len(second.label) == len(batch.label)
    same = batch.label == batch.label[0]
    assert len(method.groups(Labelled(batch.image[same], batch.label[same]))) == 1, "one class: a plain step"
    assert len(method.groups(Labelled(batch.image[:0], batch.label[:0]))) == 1
    method.gao = False
    assert len(method.groups(batch)) == 1


def gradient(method, values, batch):
    """The gradient of the mean loss of a group at given weights, by name; independent of the engine."""
    at = {n: v.detach().clone().requires_grad_() for n, v in values.items()}

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.method = method

        def forward(self):
            cosine = self.method.heads[-1](self.method.classifier(batch.image))
            return F.cross_entropy(20 * cosine, batch.label - 4)

    loss = functional_call(Loss(), {f"method.{n}": v for n, v in at.items()}, ())
    return dict(zip(at, torch.autograd.grad(loss, list(at.values())), strict=True))


@pytest.mark.parametrize("rho_max", [0.0, 0.7])
def test_an_update_is_two_steps_each_with_a_gradient_from_a_moved_point(rho_max):
    """Without momentum and decay: w <- w - lr grad L(target)(w + e), e = -rho g / ||g|| of the source, in turn."""
    recipe = Recipe(kind="sgd", lr=0.1, momentum=0.0, weight_decay=0.0)
    method, tasks = second_task(rho_max=rho_max, optimizer=recipe)
    with torch.no_grad():
        for layer in method.adapters().values():
            for name in layer.branches:
                layer.branch(name).B.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    batch = batch_of(tasks, 1)
    groups = method.groups(batch)
    values = {n: p.detach().clone() for n, p in method.named_parameters() if p.requires_grad}
    updater = Updater(method, method.optimizers(phase(1)), Ranks(torch.device("cpu")))
    group = updater.optimizers["main"].param_groups[0]
    rho = random.Random(f"{group['rho_seed']}/1").uniform(0, rho_max)
    updater.update(list(method.steps(batch)))
    for source, target in (groups, groups[::-1]):
        first = gradient(method, values, source)
        moved = {n: v if "heads" in n else v - rho * first[n] / (first[n].norm() + 1e-12) for n, v in values.items()}
        second = gradient(method, moved, target)
        values = {n: v - 0.1 * second[n] for n, v in values.items()}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(parameter, values[name], atol=2e-6), name


# --- the end of a task ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["diagonal", "full", "none"])
def test_merging_keeps_the_recalibrated_forward_pass_and_leaves_nothing_of_lora(form):
    method, tasks = second_task(recalibration=form, stats_passes=1)
    dataset = tasks.train(phase(1))
    with torch.no_grad():
        for layer in method.adapters().values():
            for name in layer.branches:
                layer.branch(name).B.normal_(std=0.05)
    new = collect(method, method.widths, dataset)
    kept = {}
    for name, layer in method.adapters().items():
        g, i = layer.branch("general"), layer.branch("isolated")
        lam = recalibration_matrix(g.A, method.memory[name], new[name], 3.0, form).float()
        kept[name] = layer.base.weight + 0.25 * g.B @ lam @ g.A + 0.5 * i.B @ i.A
    old = {name: method.memory[name].clone() for name in method.widths}
    with torch.no_grad():
        method.end_phase(phase(1), dataset)
    assert not method.adapters()
    assert not any(".branches." in name for name in method.state_dict())
    for name, weight in kept.items():
        assert torch.allclose(method.classifier.body.get_submodule(name).weight, weight, atol=1e-5)
        assert torch.allclose(method.memory[name], old[name] + new[name], atol=1e-4)


def test_the_first_task_is_merged_without_recalibration():
    method = make()
    tasks = data(method)
    begin(method, 0, tasks)
    image = batch_of(tasks, 0).image
    with torch.no_grad():
        for layer in method.adapters().values():
            layer.branch("general").B.normal_(std=0.05)
        before = method.classifier(image)
        method.end_phase(phase(0), tasks.train(phase(0)))
        assert torch.allclose(method.classifier(image), before, atol=1e-5)


def test_two_passes_remember_the_inputs_before_and_after_merging():
    method, tasks = second_task(stats_passes=2)
    dataset = tasks.train(phase(1))
    with torch.no_grad():
        for layer in method.adapters().values():
            layer.branch("isolated").B.normal_(std=0.05)
        old = {name: method.memory[name].clone() for name in method.widths}
        before = collect(method, method.widths, dataset)
        method.end_phase(phase(1), dataset)
        after = collect(method, method.widths, dataset)
    for name in method.widths:
        assert torch.allclose(method.memory[name], old[name] + before[name] + after[name], atol=1e-4)


# --- whole runs -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_learns_task_by_task_and_measures_the_accuracy_matrix(kind):
    method = make(kind, foundation=2)
    settings = Settings(batch_size=8, device="cpu", seed=1)
    fit(method, data(method), schedule=FoundedTasks(2, 2, 2), settings=settings)
    assert [p.name for p in method.built] == ["foundation", "task 0", "task 1"]
    assert method.base_head is None
    matrix = method.accuracies
    assert torch.isfinite(matrix[[0, 1, 1], [0, 0, 1]]).all()
    assert torch.isnan(matrix[0, 1])
    held = data(method)._validation
    for t in range(2):
        assert method.validate(held[t])["accuracy"] == pytest.approx(float(matrix[1, t]))
    answer = method.predict(batch_of(data(method), 1)).logits
    assert answer.shape == (8, 8)
    body = method.classifier(batch_of(data(method), 1).image)
    assert torch.allclose(answer, 20 * cosines(method.heads, body), atol=1e-5)
    assert float(answer.detach().abs().max()) <= 20.001


def test_heads_alone_leave_the_network_as_it_is():
    method = make(ContinualClassifier)
    before = [p.clone() for p in method.classifier.parameters()]
    fit(method, data(method), schedule=Tasks(2, 1), settings=Settings(batch_size=8, device="cpu"))
    assert all(torch.equal(a, b) for a, b in zip(before, method.classifier.parameters(), strict=True))


def test_the_null_space_is_where_old_inputs_have_least_energy():
    method = make(NullSpaceLoRA)
    tasks = data(method)
    begin(method, 0, tasks)
    with torch.no_grad():
        method.end_phase(phase(0), tasks.train(phase(0)))
    begin(method, 1, tasks)
    for name, layer in method.adapters().items():
        old, A = method.memory[name].double(), layer.branch("main").A.double()
        energy = 3 * float((A @ old @ A.T).trace())
        assert energy == pytest.approx(float(torch.linalg.eigvalsh(old)[:3].clamp(min=0).sum()), abs=1e-4)
        assert not layer.branch("main").A.requires_grad


# --- what is refused ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": [7, 1]}, r"tasks are \[7, 1\]: they must hold two classes or more"),
        ({"tasks": 5}, "tasks is 5 for 8 classes"),
        ({"tasks": [4, 3]}, "all 8 together"),
        ({"rank": 0}, "rank is 0"),
        ({"rank": 65}, "rank is 65"),
        ({"layers": ["*.none"]}, "no linear layer is called so"),
        ({"gamma": 0.0}, "gamma is 0.0"),
        ({"rho_max": -1.0}, "rho_max is -1.0"),
        ({"subspaces": "all"}, "subspaces is 'all'"),
        ({"recalibration": "half"}, "recalibration is 'half'"),
        ({"stats_passes": 3}, "stats_passes is 3"),
        ({"augment": "mirror"}, "augment is 'mirror'"),
        ({"crop": 0.0}, "crop is 0.0"),
        ({"scale": 0.0}, "scale is 0.0"),
        ({"foundation": -1}, "foundation is -1"),
        ({"image_size": 12}, "multiple of 8"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with pytest.raises(BadInput, match=message):
        make(**changes)


def test_bad_batches_and_data_are_named():
    method = make()
    with pytest.raises(BadInput, match="has learned no task yet"):
        method.predict(Labelled(torch.rand(1, 3, SIZE, SIZE), torch.tensor([0])))
    tasks = data(method)
    begin(method, 0, tasks)
    with pytest.raises(BadInput, match=r"images are \(3, 20, 20\): this loda takes \(3, 16, 16\)"):
        method.losses(Labelled(torch.rand(2, 3, 20, 20), torch.tensor([0, 1])))
    with pytest.raises(BadInput, match="give the data task by task"):
        method.losses(Labelled(torch.rand(2, 3, SIZE, SIZE), torch.tensor([0, 5])))
    some = images()
    lacking = some.subset([i for i, c in enumerate(some.label.tolist()) if c != 6])
    with pytest.raises(BadInput, match="no training image of g"):
        open_tasks(lacking, (4, 4), SIZE)


def test_images_of_any_size_are_resized():
    some = images()
    wide = torch.rand(3, 40, 90).mul(255).to(torch.uint8)[None]
    one = type(some)(wide, some.label[:1], some.classes, some.names[:1], "wide")
    assert LabelledImages(one, SIZE)[0].image.shape == (3, SIZE, SIZE)
    assert LabelledImages(one, SIZE, crop=0.875)[0].image.shape == (3, SIZE, SIZE)


def test_a_task_too_many_is_refused():
    method = make()
    for task in range(2):
        build(method, phase(task))
    with pytest.raises(BadInput, match="all 2 tasks are learned"):
        build(method, phase(2))


def test_steps_of_a_batch_name_the_loss():
    method, tasks = second_task()
    (step,) = method.steps(batch_of(tasks, 1))
    assert isinstance(step, Step)
    assert step.loss.__name__ == "losses"
    assert len(step.batches) == 2
