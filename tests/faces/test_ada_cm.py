# SPDX-License-Identifier: Apache-2.0
"""Ada-CM: margins, the two subsets, the three losses, what a batch holds, the teacher; and the room from end to end."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mien import api
from mien.classification.data import ClassData
from mien.cli import main
from mien.data.batch import collate
from mien.engine import Phase, Settings, Single, fit
from mien.errors import BadInput
from mien.faces.ada_cm import AdaCM, Margin, adaptive_margin, contrast, mean_confidence, partition, rounds
from mien.faces.data import FaceViews, Labels, with_persons
from mien.faces.expression import UnitHead
from mien.job import plan
from mien.nn.network import Network

NAMES = ("calm", "glad", "sad")
SMALL = {
    "network": Network("tiny_blocks"),
    "image_size": 16,
    "classes": NAMES,
    "labels": Labels(per_class=4),
    "iterations": 5,
    "labelled_batch": 4,
    "unlabelled_batch": 6,
    "scale": 10.0,
    "dropout": 0.0,
    "teacher_decay": 0.9,
}


def faces(count=36, known=4):
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(count) % 3
    level = 50 + 70 * label[:, None, None, None] + 20 * torch.randn(count, 3, 20, 20, generator=generator)
    names = tuple(f"face {i}" for i in range(count))
    data = with_persons(ClassData(level.clamp(0, 255).byte(), label, NAMES, names, "levels"))
    return FaceViews(data, Labels(per_class=known, seed=0).hidden(data), 16)


def make(kind=AdaCM, seed=0, **changes):
    torch.manual_seed(seed)
    return kind(**SMALL | changes)


def batch_of(views, labelled=4, hidden=6):
    rows = [*torch.nonzero(views.label >= 0)[:labelled, 0], *torch.nonzero(views.label < 0)[:hidden, 0]]
    torch.manual_seed(1)
    return collate([views[int(i)] for i in rows])


def middle_confidence(method, batch):
    """A margin that about half of the unlabelled faces pass; batch norm learns nothing."""
    network = copy.deepcopy(method).classifier
    weak = [network(view[batch.label < 0]).detach().softmax(1) for view in (batch.image, batch.second)]
    return float(((weak[0] + weak[1]) / 2).max(dim=1).values.median()) + 1e-6


# --- margins ----------------------------------------------------------------------------------------------------
def test_the_margin_rises_with_the_epoch_and_the_confidence():
    assert adaptive_margin(torch.ones(3), 1).tolist() == pytest.approx([0.8] * 3), "0.97 x 0.731 is below the floor"
    for epoch in (2, 3, 4, 5, 10):
        leaves = 0.8 * (1 + math.exp(-epoch)) / 0.97
        assert leaves == pytest.approx({2: 0.936, 3: 0.866, 4: 0.840, 5: 0.830, 10: 0.825}[epoch], abs=5e-4)
        below, above = adaptive_margin(torch.tensor([leaves - 0.001, leaves + 0.001]), epoch).tolist()
        assert below == pytest.approx(0.8)
        assert above > 0.8
    assert float(adaptive_margin(torch.ones(1), 50)) == pytest.approx(0.97)
    assert float(adaptive_margin(torch.tensor([math.nan]), 9)) == pytest.approx(0.8), "no face is right"
    assert float(adaptive_margin(torch.tensor([0.6]), 3, floor=0.1, beta=0.5, gamma=2.0)) == pytest.approx(0.3 / 1.125)


def test_only_faces_that_are_right_count():
    p = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    label = torch.arange(40) % 3
    found = mean_confidence(p, label)
    for c in range(3):
        right = [float(p[i].max()) for i in range(40) if int(label[i]) == c == int(p[i].argmax())]
        assert float(found[c]) == pytest.approx(sum(right) / len(right))


def test_margins_come_from_the_teacher_and_the_labelled_faces():
    method, views = make().eval(), faces()
    with torch.no_grad():
        for p in method.classifier.parameters():
            p.zero_()  # whatever the network itself says, the teacher counts
        method.teacher.body.fc.weight.mul_(5)
    found = method.margins(views, 4)
    epoch = method.begin_epoch(4, views)
    assert torch.equal(method.threshold, found)
    assert epoch.order.shape == (5, 10)
    plain = torch.stack([views[int(i)].image for i in torch.nonzero(views.label >= 0)[:, 0]])
    assert plain.shape == (12, 3, 16, 16)
    for kind, expected in (("fixed", 0.8), ("ramp", 0.97 / (1 + math.exp(-4)))):
        assert make(margin=Margin(kind)).margins(views, 4).tolist() == pytest.approx([expected] * 3)


def test_the_first_two_epochs_have_the_floor():
    method, views = make(), faces()
    assert method.threshold.tolist() == pytest.approx([0.8] * 3)
    method.begin_epoch(0, views)
    assert method.threshold.tolist() == pytest.approx([0.8] * 3)
    method.begin_epoch(1, views)
    assert method.threshold.tolist() == pytest.approx([0.8] * 3)


# --- subsets ----------------------------------------------------------------------------------------------------
def test_the_partition_of_the_card():
    """q = (.9, .7, .85), c = (0, 1, 2), T = (.8, .8, .9) gives (1, 0, 0)."""
    q = torch.tensor([[0.9, 0.05, 0.05], [0.15, 0.7, 0.15], [0.05, 0.1, 0.85]]).log()
    chosen, label = partition(q, q, torch.tensor([0.8, 0.8, 0.9]))
    assert chosen.tolist() == [True, False, False]
    assert label.tolist() == [0, 1, 2]


def test_the_partition_uses_the_mean_of_both_views_in_either_order():
    a, b = (torch.randn(30, 3, generator=torch.Generator().manual_seed(i)) * 3 for i in (0, 1))
    margin = torch.tensor([0.6, 0.7, 0.5])
    chosen, label = partition(a, b, margin)
    for i in range(30):
        mean = (a[i].softmax(0) + b[i].softmax(0)) / 2
        assert int(label[i]) == int(mean.argmax())
        assert bool(chosen[i]) == bool(mean.max() >= margin[label[i]])
    assert 0 < int(chosen.sum()) < 30
    again = partition(b, a, margin)
    assert torch.equal(again[0], chosen)
    assert torch.equal(again[1], label)
    assert not partition(a.requires_grad_(), b, margin)[0].requires_grad


# --- losses -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [2, 5])
def test_the_contrast_is_cross_entropy_over_the_others(count):
    a, b = (F.normalize(torch.randn(count, 4, generator=torch.Generator().manual_seed(i)), dim=1) for i in (0, 1))
    f = [*a, *b]
    total = 0.0
    for i in range(2 * count):
        similar = {k: float(f[i] @ f[k]) / 0.07 for k in range(2 * count) if k != i}
        total += math.log(sum(math.exp(s) for s in similar.values())) - similar[(i + count) % (2 * count)]
    assert float(contrast(a, b)) == pytest.approx(total / (2 * count), rel=1e-5)
    assert float(contrast(b, a)) == pytest.approx(float(contrast(a, b)), rel=1e-6), "the views may be swapped"


def test_the_contrast_of_none_one_and_equal_features():
    x = F.normalize(torch.randn(6, 4), dim=1).requires_grad_()
    nothing = contrast(x[:0], x[:0])
    nothing.backward()
    assert float(nothing.detach()) == 0.0
    assert float(contrast(x[:1], x[1:2]).detach()) == 0.0
    same = x[:1].expand(6, 4)
    assert float(contrast(same, same).detach()) == pytest.approx(math.log(11), rel=1e-5)


def test_the_losses_are_the_equations(monkeypatch):
    method, views = make(contrast_weight=0.3), faces()
    batch = batch_of(views)
    twin = copy.deepcopy(method)
    middle = middle_confidence(method, batch)
    method.threshold.fill_(middle)
    passes = []
    forward = UnitHead.features
    monkeypatch.setattr(UnitHead, "features", lambda self, image: passes.append(image) or forward(self, image))
    losses = {name: float(value.detach()) for name, value in method.losses(batch).items()}
    hidden = batch.label < 0
    expected = [batch.image[hidden], batch.second[hidden], batch.image[~hidden], batch.strong[hidden]]
    assert all(torch.equal(a, b) for a, b in zip(passes, expected, strict=True)), "four passes, in this order"
    outputs = [[part.detach() for part in twin.classifier.with_features(image)] for image in expected]
    p = [(a.softmax(0) + b.softmax(0)) / 2 for a, b in zip(outputs[0][0], outputs[1][0], strict=True)]
    chosen = [bool(v.max() >= middle) for v in p]
    assert 0 < sum(chosen) < 6
    strong = outputs[3][0].log_softmax(1)
    unsupervised = -sum(float(strong[i, p[i].argmax()]) for i in range(6) if chosen[i]) / 6
    rows = [i for i in range(6) if not chosen[i]]
    assert losses["supervised"] == pytest.approx(
        0.5 * float(F.cross_entropy(outputs[2][0], batch.label[~hidden])), rel=1e-4
    )
    assert losses["unsupervised"] == pytest.approx(unsupervised, rel=1e-4)
    assert losses["contrast"] == pytest.approx(
        0.3 * float(contrast(outputs[0][1][rows], outputs[1][1][rows])), rel=1e-3
    )


def test_weak_views_learn_through_the_contrast_and_not_through_the_pseudo_labels():
    method, batch = make(margin=Margin(floor=0.0), contrast_weight=1.0).eval(), batch_of(faces())
    losses = method.losses(batch)
    weight = method.classifier.body.fc.weight
    (grad,) = torch.autograd.grad(losses["unsupervised"], weight, retain_graph=True)
    logits = method.classifier(batch.strong[batch.label < 0])
    pseudo = partition(*(method.classifier(v[batch.label < 0]) for v in (batch.image, batch.second)), method.threshold)[
        1
    ]
    (alone,) = torch.autograd.grad(F.cross_entropy(logits, pseudo), weight)
    assert torch.allclose(grad, alone, atol=1e-6)
    method = make(margin=Margin(floor=1.0), contrast_weight=1.0).eval()
    losses = method.losses(batch)
    grads = torch.autograd.grad(losses["contrast"], list(method.classifier.body.trunk.parameters()), allow_unused=True)
    assert sum(float(g.abs().sum()) for g in grads if g is not None) > 0
    assert float(losses["unsupervised"].detach()) == 0


def test_a_loss_of_weight_0_costs_no_gradient_and_changes_nothing_else():
    batch = batch_of(faces())
    method, whole = (make(contrast_weight=weight).train() for weight in (0.0, 1.0))
    for one in (method, whole):
        one.threshold.fill_(middle_confidence(one, batch))
    losses, parts = method.losses(batch), whole.losses(batch)
    assert not losses["contrast"].requires_grad
    assert all(float(value.detach()) > 0 for value in parts.values()), "each of them has something to learn"
    sum(losses.values()).backward()
    (parts["supervised"] + parts["unsupervised"]).backward()
    for (name, ours), theirs in zip(method.classifier.named_parameters(), whole.classifier.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), name
    for (name, ours), theirs in zip(method.named_buffers(), whole.buffers(), strict=True):
        assert torch.equal(ours, theirs), f"batch norm sees every pass: {name}"
    assert not make(unsupervised_weight=0.0).losses(batch)["unsupervised"].requires_grad


def test_random_choice_keeps_the_number():
    views = faces()
    numbers = []
    for chosen in ("confident", "random"):
        method = make(margin=Margin(floor=0.45, chosen=chosen)).eval()
        logged = {}
        method.session = type("Log", (), {"log": lambda _s, n, v, logged=logged: logged.update({n: float(v)})})()
        method.losses(batch_of(views))
        numbers.append(logged["subset_one"])
    assert numbers[0] == numbers[1] > 0


# --- batches and updates ----------------------------------------------------------------------------------------
def test_each_batch_holds_labelled_then_unlabelled_faces_and_all_get_their_turn():
    method, views = make(iterations=9), faces()
    order = method.begin_epoch(0, views).order
    assert method.batches_per_epoch() == 9 == len(order)
    label = views.label[order % len(views)]
    assert bool((label[:, :4] >= 0).all())
    assert bool((label[:, 4:] < 0).all())
    counts = torch.bincount(order[:, :4].flatten() % len(views), minlength=len(views))[views.label >= 0]
    assert counts.tolist() == [3] * 12, "36 draws of 12 faces"
    assert len(order[:, :4].unique()) == 36, "each time under another index, so another view"


def test_two_processes_get_both_kinds():
    method, views = make(), faces()
    method.session = type(
        "Two", (), {"world_size": 2, "shared_generator": lambda _s: torch.Generator().manual_seed(0)}
    )()
    order = method._order(views)
    assert order.shape == (5, 20)
    label = views.label[order % len(views)].view(5, 2, 10)
    assert bool((label[:, :, :4] >= 0).all())
    assert bool((label[:, :, 4:] < 0).all())


def test_rounds_go_through_all_before_any_comes_again():
    found = rounds(torch.tensor([3, 5, 8]), 8, 10, torch.Generator().manual_seed(0))
    assert sorted(found[:3].tolist()) == [3, 5, 8]
    assert sorted(found[3:6].tolist()) == [13, 15, 18]
    assert len(found) == 8


def test_the_teacher_follows_and_the_weights_shrink():
    method, views = make(shrink=0.5), faces()
    method.begin_epoch(0, views)
    before = {k: v.clone() for k, v in method.classifier.state_dict().items()}
    teacher = {k: v.clone() for k, v in method.teacher.state_dict().items()}
    assert all(torch.equal(before[k], teacher[k]) for k in before)
    method.optimizers(Phase(total_steps=3))
    with torch.no_grad():
        for p in method.classifier.parameters():
            p.add_(1.0)
        method.classifier.body.trunk.features[1].num_batches_tracked.add_(7)
    method.after_step()
    for name, value in method.teacher.state_dict().items():
        if "num_batches" in name:
            continue
        moved = before[name] + 1.0 if name in dict(method.classifier.named_parameters()) else before[name]
        assert torch.allclose(value, 0.9 * teacher[name] + 0.1 * moved, atol=1e-6)
        assert torch.allclose(method.classifier.state_dict()[name], moved * (1 - 0.5 * 5e-4), atol=1e-6)
    assert int(method.teacher.body.trunk.features[1].num_batches_tracked) == 7, "integers are copied"
    assert not any(p.requires_grad for p in method.teacher.parameters())


def test_features_are_of_unit_length_and_the_teacher_answers():
    method, batch = make().eval(), batch_of(faces())
    with torch.no_grad():
        method.classifier.body.fc.weight.zero_()
        answer = method.predict(batch)
        x = F.normalize(method.teacher.body.trunk(batch.image), dim=1)
    assert torch.allclose(answer.feature, x, atol=1e-6)
    assert torch.allclose(
        answer.logits, 10 * (x @ method.teacher.body.fc.weight.T + method.teacher.body.fc.bias), atol=1e-5
    )
    noisy = make(dropout=0.5).train()
    assert torch.allclose(noisy.classifier.with_features(batch.image)[1].norm(dim=1), torch.ones(10), atol=1e-5)


def test_the_papers_network():
    """ResNet-18 without its last layer has 11,176,512 weights; 512 features to 7 expressions."""
    with torch.device("meta"):
        method = AdaCM()
        logits, feature = method.classifier.eval().with_features(torch.zeros(2, 3, 224, 224))
    assert sum(p.numel() for p in method.classifier.parameters()) == 11_176_512 + 512 * 7 + 7
    assert logits.shape == (2, 7)
    assert feature.shape == (2, 512)
    assert method.classifier.get_submodule("body." + method.classifier.cam_layer_name) is method.classifier.cam_layer


def test_a_stopped_run_resumes_to_the_same_bits(tmp_path):
    """Fails if margins, the teacher or the epoch's batches are lost."""
    weights = []
    for name in ("whole", "broken"):
        method, views = make(Stopping), faces()
        how = {"schedule": Single(3), "settings": Settings(device="cpu", checkpoint_every=2)}
        if name == "broken":
            method.stop_at = 8
            with pytest.raises(RuntimeError, match="stopped"):
                fit(method, views, out=tmp_path / name, **how)
            method = make(Stopping, seed=7)
            fit(method, views, out=tmp_path / name, resume=True, **how)
        else:
            fit(method, views, out=tmp_path / name, **how)
        weights.append(torch.cat([v.flatten().float() for v in method.state_dict().values()]))
    assert torch.equal(*weights)


class Stopping(AdaCM):
    """Breaks off at a step."""

    stop_at = -1

    def after_step(self):
        super().after_step()
        self.stop_at -= 1
        if self.stop_at == 0:
            raise RuntimeError("stopped")


# --- the room ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def persons(tmp_path_factory):
    """Ten persons, nine faces each of three expressions, in one file."""
    file = tmp_path_factory.mktemp("faces") / "faces.npz"
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = (60 + 60 * y[:, None, None] + rng.integers(0, 50, (90, 20, 20))).astype(np.uint8)
    names = np.array([f"S{i // 9:03d}_{i % 9:03d}" for i in range(90)])
    np.savez(file, x=x, y=y, name=names, classes=np.array(NAMES))
    return file


def arguments(persons, *extra):
    small = ["--preset", "small", "--method.image_size", "16", "--method.labels.per_class", "6"]
    return ["train", "ada-cm", "--data", str(persons), *small, "--max-steps", "3", *extra]


def test_train_evaluate_predict(persons, tmp_path):
    out = tmp_path / "run"
    assert main([*arguments(persons, "--seed", "5"), "--out", str(out)]) == 0
    method = api.load(out)
    assert method.labels == Labels(per_class=6, seed=5)
    result = api.evaluate(out, persons)
    assert {"accuracy", "nll", "class_accuracy"} == set(result["metrics"])
    assert set(result["classes"]) == set(NAMES)
    assert {item["group"] for item in result["items"]} == {"S004", "S009"}
    assert "2 persons" in result["notes"][-1]
    (row,) = list(api.predict(out, torch.rand(3, 30, 30)))
    assert row.values["class"] in NAMES


def test_the_papers_preset_takes_data_that_are_too_small_for_its_labels(persons, tmp_path):
    """72 faces of training persons, a tenth of the persons held out: 21 of each class, of which 10 keep their label."""
    job = plan("ada-cm", persons, config={"network": {"name": "tiny_blocks", "normalise": "none"}, "image_size": 16})
    method = job.create()
    with pytest.warns(UserWarning, match="10 faces of each keep their label, half of the smallest class"):
        data = job.open_data(method)
    assert method.labels == Labels(per_class=10, seed=0)
    assert int((data.train(Phase()).label >= 0).sum()) == 30
    asked = replace(job, config=job.config | {"labels": {"total": 4000}})
    with pytest.raises(BadInput, match="625 of class 'calm' asked for"):
        asked.open_data(asked.create())


def array(classes, prefix="", names=None):
    """Faces of `classes`, 30 of each: parts as in FER2013's arrays, or persons of 12 faces as in CK+'s."""
    y = np.arange(30 * len(classes)) % len(classes)
    x = (30 * y[:, None, None] + np.random.default_rng(len(prefix)).integers(0, 99, (len(y), 20, 20))).astype(np.uint8)
    names = {} if names is None else {"name": np.array([f"{names}{i // 12:03d}_{i:03d}" for i in range(len(y))])}
    return {"classes": np.array(classes), f"{prefix}x": x, f"{prefix}y": y, **names}


def test_a_model_is_tested_on_another_set(tmp_path, capsys):
    """Fails if the sets' words differ, if a class that one set lacks is refused, or if it is left out in silence."""
    kinds = ["angry", "disgust", "happy", "sad"]
    np.savez(tmp_path / "fer.npz", **(array(kinds, "train_") | array(kinds, "validation_")))
    np.savez(tmp_path / "ck.npz", **array(["anger", "contempt", "happy", "sadness"], names="S"))
    out = tmp_path / "run"
    how = ["--method.leave_out", '["disgust"]', "--max-steps", "1"]
    assert main([*arguments(tmp_path / "fer.npz", *how), "--out", str(out)]) == 0
    result = api.evaluate(out, tmp_path / "ck.npz")
    assert set(result["classes"]) == {"angry", "happy", "sad"}
    assert len(result["items"]) == 18, "two of ten persons, without a quarter of their faces"
    assert result["notes"][-1] == "6 of 24 faces were left out: the model does not know contempt"
    own = api.evaluate(out, tmp_path / "fer.npz")
    assert own["notes"][-1] == "30 of 120 faces were left out: the model does not know disgust"
    np.savez(tmp_path / "other.npz", **array(["cat", "dog"], "test_"))
    with pytest.raises(BadInput, match="faces of cat, dog: the model knows angry, happy, sad"):
        api.evaluate(out, tmp_path / "other.npz")


def test_persons_in_training_are_not_tested_on(persons, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*arguments(persons), "--out", str(out)]) == 0
    with np.load(persons) as stored:
        other = {**stored, "x": 255 - stored["x"]}
    other["name"] = np.array([f"{('A', 'B', 'C', 'D', 'S000')[i // 18]}_{i:03d}" for i in range(90)])
    np.savez(tmp_path / "other.npz", **other)  # every fifth person by name is tested on: S000
    capsys.readouterr()
    assert main(["evaluate", str(out), "--data", str(tmp_path / "other.npz")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "S000" in err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--method.labels.per_class", "500"], "500 of class 'calm' asked for"),
        (["--method.labels.total", "100"], "give one of them"),
        (["--method.margin.floor", "1.5"], "margin.floor is 1.5"),
        (["--method.margin.kind", "adaptve"], "adaptive"),
        (["--method.iterations", "0"], "iterations is 0"),
        (["--method.scale", "0"], "scale is 0"),
        (["--method.dropout", "1"], "dropout is 1"),
        (["--method.leave_out", '["pink"]'], "pink"),
    ],
)
def test_bad_input_is_one_line(persons, tmp_path, capsys, extra, message):
    assert main([*arguments(persons, *extra), "--out", str(tmp_path / "none")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "none").exists()


def test_other_data_sets_are_refused():
    with pytest.raises(BadInput, match="FaceViews"):
        make().begin_epoch(0, [1, 2])
