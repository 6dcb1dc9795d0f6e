# SPDX-License-Identifier: Apache-2.0
"""The room from end to end: figures under attack that can be worked out by hand; the verbs; and what they refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mien import api, catalog
from mien.attacks import PGD
from mien.classification.data import ClassData, LabelledImages, read
from mien.cli import main
from mien.engine import Phase
from mien.errors import BadInput
from mien.job import plan
from mien.nn.network import Network
from mien.optim.closures import AdversarialWeights
from mien.robustness.baselines import AdversarialTraining
from mien.robustness.room import ALIVE, ROOM, measure
from mien.robustness.saat import SAAT, SAPGD
from mien.robustness.threat import Threat
from mien.room import Using

CLASSES = ("red", "green", "blue")


class Means(nn.Module):
    """Logits that are the mean colours, ten times: a perturbation of eps narrows a lead of d by 2 eps, and no more."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(10 * torch.eye(3)[:, :, None, None])

    def forward(self, image):
        return self.conv(image).mean(dim=(2, 3))


LEADS = [-0.2, 0.03, 0.05, 0.09, 0.13, 0.2, 0.2, 0.45]
"""By how much each image's colour leads, or does not; the colours lie so that no perturbation is cut off."""

THREAT = Threat(eps=0.08, steps=20, budgets=4, suite_steps=20, queries=30)


def model(**changes):
    network = Network.of(Means(), cam_layer="conv")
    return AdversarialTraining(network=network, image_size=8, classes=CLASSES, threat=THREAT, **changes).eval()


@pytest.fixture(scope="module")
def images():
    label = torch.arange(len(LEADS)) % 3
    image = torch.full((len(LEADS), 3, 8, 8), 0.5)
    for i, lead in enumerate(LEADS):
        image[i] -= lead / 2
        image[i, label[i]] += lead
    data = ClassData(image.mul(255).round().byte(), label, CLASSES, tuple(f"image {i}" for i in range(len(LEADS))), "")
    return LabelledImages(data, 8)


def share(eps):
    """Of images that no perturbation up to eps can change."""
    return sum(lead > 2 * eps for lead in LEADS) / len(LEADS)


def test_figures_under_attack_are_those_worked_out_by_hand(images):
    using = Using(batch_size=3)
    found = measure(model(), images, using, suite=True)
    budgets = [0.02, 0.04, 0.06, 0.08]
    assert found.budgets == pytest.approx(budgets)
    accuracies = [share(0), *map(share, budgets)]
    assert accuracies == [7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8], "the case must fall at every budget"
    assert found.right.mean(axis=1) == pytest.approx(accuracies)
    values = {name: float(column.mean()) for name, column in found.values.items()}
    assert values["robust_accuracy"] == values["suite_accuracy"] == share(0.08)
    disparity = sum((share(0) - share(eps)) / eps for eps in budgets) / 4
    assert values["robustness_disparity"] == pytest.approx(disparity)
    assert values[ALIVE] == pytest.approx(disparity)
    assert sum(found.broken.values()) == 4
    assert list(found.broken) == ["apgd-ce", "apgd-margin", "square"]
    again = measure(model(), images, using, suite=True)
    assert all(np.array_equal(found.values[name], again.values[name]) for name in found.values)


def test_budgets_at_which_nothing_is_right_are_left_out_of_the_second_disparity(images):
    weak = LabelledImages(images.data.subset(range(4)), 8)
    method = model()
    found = measure(method, weak, Using(), suite=False)
    accuracies = [3 / 4, 2 / 4, 1 / 4, 0, 0]
    assert found.right.mean(axis=1) == pytest.approx(accuracies)
    assert float(found.values[ALIVE].mean()) == pytest.approx((0.25 / 0.02 + 0.5 / 0.04) / 2)
    assert "suite_accuracy" not in found.values
    test = type("Test", (), {"dataset": weak})()
    notes = " ".join(ROOM.evaluate(method, test, None, Using(mode="pgd"))["notes"])
    assert f"{ALIVE} leaves out budgets at which nothing is right: 0.06, 0.08" in notes


def test_validation_is_accuracy_under_pgd_and_leaves_the_model_as_it_was(images):
    method = model()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.train()
    found = method.validate(images, batch_size=3)
    assert found["accuracy"] == share(0)
    assert found["robust_accuracy"] == share(0.08)
    assert method.training
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert method.validate(images, batch_size=3) == found, "the same starts every time"


def test_evaluation_holds_the_figures_the_curve_and_a_picture(images, tmp_path):
    test = type("Test", (), {"dataset": images})()
    found = ROOM.evaluate(model(), test, tmp_path, Using())
    assert found["primary"] == "suite_accuracy"
    assert found["curve"]["budget"] == pytest.approx([0, 0.02, 0.04, 0.06, 0.08])
    assert found["curve"]["accuracy"] == pytest.approx([share(eps) for eps in found["curve"]["budget"]])
    metrics = {name: metric["value"] for name, metric in found["metrics"].items()}
    assert metrics["accuracy"] == share(0)
    for name in ("robust_accuracy", "suite_accuracy", "robustness_disparity"):
        mean = np.mean([item["values"][name] for item in found["items"]])
        assert metrics[name] == pytest.approx(mean)
    assert {"robustness_disparity", ALIVE, "nll"} <= set(found["lower_is_better"])
    assert Image.open(tmp_path / found["pictures"][0]).size[0] > 300
    assert "PGD-20, L-inf, eps 0.08 = 20.4/255" in " ".join(found["notes"])
    assert "no FAB; of the attacks square alone needs no gradients" in " ".join(found["notes"])
    clean = ROOM.evaluate(model(), test, tmp_path, Using(mode="clean"))
    assert clean["primary"] == "accuracy"
    assert "robust_accuracy" not in clean["metrics"]


# --- the paper's size and the small one ---------------------------------------------------------------------------
def test_the_defaults_are_the_papers():
    job = plan("saat", "embedded")
    assert (job.epochs, job.settings.batch_size, job.settings.monitor) == (200, 128, "robust_accuracy")
    assert SAPGD() == SAPGD(None, 14 / 255, 2 / 255, 3, 2 / 255, 8 / 255, True, 10, "train")
    with torch.device("meta"):
        method = SAAT()
    assert method.network.name == "preact_resnet18"
    assert sum(p.numel() for p in method.parameters()) == 11_172_170, "counted layer by layer, with the last batch norm"
    optimizer, schedule = SAAT(network=Network("tiny_blocks")).optimizers(Phase(total_steps=200))["main"]
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 5e-4)
    assert [schedule.lr_lambdas[0](step) for step in (0, 99, 100, 149, 150)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    wrapped, _ = SAAT(network=Network("tiny_blocks"), awp=0.01).optimizers(Phase(total_steps=2))["main"]
    assert isinstance(wrapped, AdversarialWeights)


# --- the verbs ----------------------------------------------------------------------------------------------------
QUICK = {"steps": 4, "budgets": 2, "suite_steps": 3, "targets": 1, "queries": 5}
FLAGS = [part for name, value in QUICK.items() for part in (f"--method.threat.{name}", str(value))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small .npz of three colours, with names."""
    root = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    parts = {}
    for part, count in (("train", 45), ("test", 12)):
        x, y = rng.integers(0, 120, (count, 12, 12, 3), dtype=np.uint8), np.arange(count) % 3
        x[np.arange(count), :, :, y] += 100
        parts |= {f"{part}_x": x, f"{part}_y": y}
    np.savez(root / "colours.npz", **parts, classes=list(CLASSES))
    return root


@pytest.fixture(scope="module", params=["saat", "adversarial-training", "trades"])
def run(folder, tmp_path_factory, request):
    out = tmp_path_factory.mktemp("run") / "run"
    arguments = [
        "train",
        request.param,
        "--data",
        str(folder),
        "--preset",
        "small",
        "--max-steps",
        "2",
        "--epochs",
        "1",
    ]
    assert main([*arguments, "--method.image_size", "16", *FLAGS, "--out", str(out)]) == 0
    return out


def test_train_evaluate_predict(run, folder, tmp_path, capsys):
    method = api.load(run)
    assert method.classes == CLASSES
    logged = (run / "metrics.jsonl").read_text()
    assert "robust_accuracy" in logged
    assert ("strengthened" in logged) == (method.name == "saat")
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", str(folder), "--out", str(tmp_path / "e")]) == 0
    result = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert result["primary"] == "suite_accuracy"
    assert result["metrics"]["suite_accuracy"]["value"] <= result["metrics"]["accuracy"]["value"]
    assert "suite_accuracy" in capsys.readouterr().out
    Image.fromarray(np.full((9, 9, 3), (200, 20, 20), dtype=np.uint8)).save(tmp_path / "red.png")
    rows = list(api.predict(run, [tmp_path / "red.png"]))
    assert rows[0].values["class"] in CLASSES
    assert main(["predict", str(run), str(tmp_path / "red.png")]) == 0


def fails(capsys, arguments, message):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert message in err


def test_bad_input_is_one_line(folder, tmp_path, capsys):
    train = ["train", "saat", "--data", str(folder), "--preset", "small", "--out", str(tmp_path / "none")]
    for extra, message in [
        (["--method.threat.eps", "8"], "threat.eps is 8.0: it must lie in (0, 1]"),
        (["--method.adversary.eps_max", "14"], "adversary.eps_max is 14.0: it must be in [0, 1]"),
        (["--method.adversary.start_eps", "0.5"], "adversary.start_eps is 0.5"),
        (["--method.adversary.mode", "best"], "best"),
        (["--method.awp", "2"], "awp is 2.0"),
        (["--method.image_size", "4"], "image_size is 4"),
        (["--kind", "cifar"], "no CIFAR here"),
    ]:
        fails(capsys, [*train, *extra], message)
    assert not (tmp_path / "none").exists()


def test_modes_that_there_are_not(images):
    test = type("Test", (), {"dataset": images})()
    with pytest.raises(BadInput, match=r"unknown mode of evaluation 'suit': did you mean 'suite'"):
        ROOM.evaluate(model(), test, None, Using(mode="suit"))
    with pytest.raises(BadInput, match="mode is 'pgd': predict answers for images as they are, mode clean"):
        ROOM.predict(model(), [], None, Using(mode="pgd"))
    with pytest.raises(BadInput, match="is no RobustClassifier"):
        ROOM.predict(plan("noisy-ce", "embedded", preset="small").create(), [], None, Using())


def test_a_killed_run_resumes_to_the_same_weights(folder, tmp_path):
    """The random starts of the attacks are drawn inside the loss, and must go on where they were."""
    job = ["train", "saat", "--data", str(folder), "--preset", "small", "--epochs", "2", "--method.image_size", "16"]
    job += ["--method.threat.steps", "4", "--batch-size", "10", "--threads", "1"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main([*job, "--checkpoint-every", "3", "--out", str(whole)]) == 0
    method = api.load(whole)
    stopped = SAAT.perturbed
    calls = []

    def failing(self, image, label):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return stopped(self, image, label)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SAAT, "perturbed", failing)
        assert main([*job, "--checkpoint-every", "3", "--out", str(cut)]) == 130
    assert main(["train", "--resume", str(cut)]) == 0
    other = api.load(cut)
    pairs = zip(method.state_dict().items(), other.state_dict().items(), strict=True)
    assert all(torch.equal(a, b) for (_, a), (_, b) in pairs)


def test_attacks_of_training_are_made_as_they_are_asked_for():
    method = AdversarialTraining(network=Network("tiny_blocks"), image_size=16, eps=0.1, attack_steps=3)
    assert method.attack == PGD(0.1, 3, None, keep="last", mode="train")
    assert len(read("embedded", "test").classes) == len(method.classes) == 10
    assert catalog.room("saat") is ROOM
