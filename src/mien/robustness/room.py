# SPDX-License-Identifier: Apache-2.0
"""What the robustness room offers to the command line: which class is this, also under attack?"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mien.attacks import limits, robustness_curve, worst_case
from mien.attacks.probe import answers
from mien.classification.room import ClassificationRoom
from mien.engine import Method, evaluation_loader
from mien.engine.seeding import stable_seed
from mien.errors import BadInput, unknown_name
from mien.files import whole_file
from mien.metrics.intervals import interval_json, mean_interval
from mien.progress import track
from mien.robustness.classifier import RobustClassifier
from mien.robustness.threat import robustness_disparity
from mien.room import Answers, Preset, PresetName, TestData, Using

MODES = ("suite", "pgd", "clean")
"""How much is measured, the most first: the default is all of it."""

ALIVE = "robustness_disparity_alive"
"""RD without budgets at which no image is right; which these are differs from run to run, so runs are not compared."""


class Robustness(ClassificationRoom):
    """Classifiers under attack."""

    family = "robustness"

    def preset(self, name: str, preset: PresetName) -> Preset:
        """The paper's size: PreAct ResNet-18, 200 epochs. Small: a network of 47 k weights and short attacks."""
        if preset == "paper":
            return Preset(settings={"batch_size": 128, "monitor": "robust_accuracy"}, epochs=200)
        config: dict[str, Any] = {
            "network": {"name": "tiny_blocks", "normalise": "none"},
            "optimizer": {"kind": "adamw", "lr": 1e-2, "weight_decay": 5e-4, "schedule": "cosine"},
            "threat": {"steps": 8, "budgets": 6, "suite_steps": 20, "targets": 3, "queries": 200},
        }
        config |= {"adversary": {"warm_steps": 4, "K": 1}} if name == "saat" else {"attack_steps": 5}
        return Preset(config=config, settings={"batch_size": 32, "monitor": "robust_accuracy"}, epochs=10)

    def evaluate(self, method: Method, test: TestData, out: Path | None, using: Using) -> dict[str, Any]:
        """Accuracy without attack, under PGD, over budgets, and under the worst of several attacks.

        Modes: "suite" for all of it (the default), "pgd" without the worst case, "clean" without attack.
        """
        mode = MODES[0] if using.mode is None else using.mode
        if mode not in MODES:
            raise unknown_name("mode of evaluation", mode, MODES)
        model = _robust(method)
        found = super().evaluate(model, test, out, using)
        if mode == "clean":
            return found
        attacked = measure(model, test.dataset, using, suite=mode == "suite")
        names = [item["id"] for item in found["items"]]
        metrics = {name: mean_interval(column, names, seed=using.seed) for name, column in attacked.values.items()}
        found["metrics"] |= {name: interval_json(interval) for name, interval in metrics.items()}
        for i, item in enumerate(found["items"]):
            item["values"] |= {k: float(v[i]) for k, v in attacked.values.items() if k != ALIVE}
        found["primary"] = "suite_accuracy" if mode == "suite" else "robust_accuracy"
        found["lower_is_better"] += ["robustness_disparity", ALIVE]
        found["curve"] = {"budget": [0.0, *attacked.budgets], "accuracy": attacked.right.mean(axis=1).tolist()}
        found["notes"] += _notes(model, attacked)
        if out is not None and using.pictures:
            found["pictures"].append(_picture(out, model.name, attacked))
        return found

    def predict(self, method: Method, inputs: Any, out: Path | None, using: Using) -> Answers:
        """A row per image: the class, its probability, and the runner-up, of the image as it is."""
        if using.mode not in (None, "clean"):
            raise BadInput(f"mode is {using.mode!r}: predict answers for images as they are, mode clean")
        return super().predict(_robust(method), inputs, out, using)


@dataclass(frozen=True)
class Measured:
    """Images under attack, N of them.

    Args:
        values: Name -> a number of each image, (N,), whose mean is the metric.
        budgets: Of the curve, rising.
        right: (budgets + 1, N), which images are classified rightly, without attack first.
        broken: Attack of the suite -> images that it was the first to succeed on; empty without the suite.
    """

    values: dict[str, np.ndarray]
    budgets: list[float]
    right: np.ndarray
    broken: dict[str, int]


def measure(model: RobustClassifier, dataset: Any, using: Using, *, suite: bool) -> Measured:
    """PGD at the threat's budget, the curve, and the suite, on the first `using.max_steps` batches of a test set."""
    threat, network = model.threat, model.classifier
    sweep, attacks = threat.sweep(), threat.suite(len(model.classes)) if suite else {}
    generator = torch.Generator().manual_seed(stable_seed(using.seed, "attacks"))
    robust, rows, broken = [], [], []
    loader = evaluation_loader(dataset, using.batch_size, workers=using.workers, device=using.device)
    total = min(-(-len(dataset) // using.batch_size), using.max_steps or sys.maxsize)
    for batch in track(islice(loader, total), total, "attack"):
        image, label = batch.image, batch.label
        curve = robustness_curve(network, image, label, sweep, generator=generator)
        attacked = threat.pgd()(network, image, label, generator=generator)
        rows.append(curve.cpu())
        robust.append((curve[0] & (answers(network, attacked) == label)).cpu())
        if suite:
            broken.append(worst_case(network, image, label, attacks, generator=generator).broken_by.cpu())
    right, budgets = torch.cat(rows, dim=1), list(sweep)
    values = {
        "robust_accuracy": torch.cat(robust).double(),
        "robustness_disparity": robustness_disparity(right, budgets),
        ALIVE: robustness_disparity(right, budgets, alive=True),
    }
    by = torch.cat(broken) if suite else torch.zeros(0)
    if suite:
        values["suite_accuracy"] = (by == len(attacks)).double()
    counts = {name: int((by == i).sum()) for i, name in enumerate(attacks)}
    return Measured({name: v.numpy() for name, v in values.items()}, budgets, right.double().numpy(), counts)


def _notes(model: RobustClassifier, attacked: Measured) -> list[str]:
    threat = model.threat
    lines = [
        f"robust_accuracy: PGD-{threat.steps}, L-inf, eps {threat.eps:.4g} = {threat.eps * 255:.3g}/255",
        "robustness_disparity: mean of (A_0 - A_i) / eps_i over the budgets of the curve, whose PGD takes "
        f"{threat.steps // 4} steps more for each",
    ]
    dead = [f"{eps:.3g}" for eps, row in zip(attacked.budgets, attacked.right[1:], strict=True) if not row.any()]
    if dead:
        lines.append(f"{ALIVE} leaves out budgets at which nothing is right: {', '.join(dead)}")
    if attacked.broken:
        words = ", ".join(f"{name} broke {count}" for name, count in attacked.broken.items())
        missing = limits(threat.suite(len(model.classes)))
        lines.append(f"suite_accuracy: what no attack of the suite broke ({words} images, in this order; {missing})")
    return lines


def _robust(method: Method) -> RobustClassifier:
    if not isinstance(method, RobustClassifier):
        raise BadInput(f"{method.name!r} is no RobustClassifier: the robustness room works with those")
    return method


def _picture(out: Path, name: str, attacked: Measured) -> str:
    from mien.report.plots import png, robustness

    picture = "robustness.png"
    curve = {name: attacked.right.mean(axis=1).tolist()}
    with whole_file(out / picture) as temporary:
        temporary.write_bytes(png(robustness([0.0, *attacked.budgets], curve)))
    return picture


ROOM = Robustness()
