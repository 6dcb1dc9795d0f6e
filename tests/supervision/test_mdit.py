# SPDX-License-Identifier: Apache-2.0
"""MDIT: which images are confident, what the two stages learn from, the objective and both of its gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mien.classification.data import ClassData, LabelledImages
from mien.data.batch import collate
from mien.engine import Phase, Settings, Stages, fit
from mien.errors import BadInput
from mien.nn.network import Network
from mien.optim.recipe import Recipe
from mien.supervision.baselines import ForwardCorrection, NoisyCE
from mien.supervision.data import with_noise
from mien.supervision.manifold import Manifold
from mien.supervision.mdit import MDIT, Extraction, negative_entropy
from mien.supervision.noise import Noise
from mien.supervision.transition import anchor_transition

NAMES = ("a", "b", "c")
SMALL = {"network": Network("tiny_blocks"), "image_size": 8, "classes": NAMES}


def images(count=40, seed=0, noise=None):
    """Three classes of noisy grey levels, with labels of which some are wrong."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % 3
    level = 60 + 60 * label[:, None, None, None] + 30 * torch.randn(count, 3, 8, 8, generator=generator)
    data = ClassData(level.clamp(0, 255).byte(), label, NAMES, tuple(f"image {i}" for i in range(count)), "levels")
    return LabelledImages(with_noise(data, noise or Noise("symmetric", 0.25, seed), 8, "embedded"), 8)


def make(kind=MDIT, seed=0, **changes):
    torch.manual_seed(seed)
    return kind(**SMALL | changes)


def joint(method):
    """The method in its joint stage, its transition network away from its start."""
    method.build_phase(Phase(name="joint"))
    with torch.no_grad():
        weight = method.transition.linear.weight
        weight.add_(0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)))
    return method


# --- confident images -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("share", [0.25, 0.8, 1.0])
@pytest.mark.parametrize("keep", ["highest", "lowest"])
def test_each_batch_keeps_its_share(keep, share):
    posterior = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    found = Extraction(keep, share, batch=16).of(posterior, torch.Generator().manual_seed(1)).tolist()
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1)).tolist()
    expected = []
    for start in range(0, 50, 16):
        rows = sorted(order[start : start + 16], key=lambda i: float(posterior[i].max()), reverse=keep == "highest")
        expected += rows[: max(round(share * len(rows)), 1)]
    assert found == sorted(expected)


def test_all_keeps_all_and_one_image_is_always_kept():
    posterior = torch.rand(7, 3)
    assert Extraction("all").of(posterior, torch.Generator()).tolist() == list(range(7))
    assert len(Extraction(share=0.01, batch=1).of(posterior, torch.Generator())) == 7


class Watched(MDIT):
    """Notes what it is trained on."""

    def steps(self, batch):
        self.__dict__.setdefault("seen", []).append((self.warming_up, list(batch.path)))
        return super().steps(batch)


def test_the_joint_stage_trains_on_confident_images_found_anew_every_few_epochs():
    method, data = make(Watched, extraction=Extraction(share=0.5, every=2, batch=8), warmup_epochs=1), images(32)
    found = []
    extract = Watched.posteriors
    Watched.posteriors = lambda self, *a: found.append(self.training) or extract(self, *a)
    try:
        fit(method, data, schedule=method.schedule(4), settings=Settings(batch_size=8, device="cpu"))
    finally:
        Watched.posteriors = extract
    warm = [path for stage, paths in method.seen if stage for path in paths]
    assert sorted(warm) == sorted(data.groups), "the warm-up sees all images once"
    later = [paths for stage, paths in method.seen if not stage]
    epochs = [sorted(later[i] + later[i + 1]) for i in range(0, 8, 2)]
    assert all(len(epoch) == len(set(epoch)) == 16 for epoch in epochs)
    assert epochs[0] == epochs[1]
    assert epochs[2] == epochs[3]
    assert found == [False, False], "in eval mode, at epochs 0 and 2"
    assert len(method.confident) == 0, "a trained model does not hold them"


def test_the_highest_are_those_of_the_trained_network():
    method, data = make(warmup_epochs=0, extraction=Extraction(share=0.25, batch=40)), images()
    method.build_phase(Phase(name="joint"))
    epoch = method.begin_epoch(0, data)
    method.eval()
    with torch.no_grad():
        posterior = method.classifier(collate([data[i] for i in range(40)]).image).softmax(1)
    best = posterior.max(dim=1).values.topk(10).indices
    assert epoch.indices.tolist() == sorted(best.tolist())
    assert torch.equal(method.begin_epoch(1, data).indices, epoch.indices)


# --- losses -----------------------------------------------------------------------------------------------------
def test_the_warm_up_is_cross_entropy_and_negative_entropy():
    method, batch = make(), collate([images()[i] for i in range(10)])
    method.build_phase(Phase(name="warm-up"))
    method.eval()
    losses = {name: value.detach() for name, value in method.warm_up_losses(batch).items()}
    p = method.classifier(batch.image).softmax(1).detach()
    entropy = -sum(float(v) * math.log(float(v)) for v in p.flatten()) / 10
    assert float(losses["negative_entropy"]) == pytest.approx(-entropy, rel=1e-5)
    assert float(losses["cross_entropy"]) == pytest.approx(float(F.nll_loss(p.log(), batch.label)), rel=1e-5)
    (step,) = method.steps(batch)
    assert step.optimizer == "classifier"
    assert not any(q.requires_grad for q in method.transition.parameters())
    assert float(negative_entropy(torch.zeros(0, 3))) == 0.0
    assert float(negative_entropy(torch.tensor([[0.0, -math.inf]]).clamp_min(-200))) == pytest.approx(0, abs=1e-6)


def objective(method, batch):
    """R + lambda M in one expression, by pairs, with gradients for both networks."""
    logits, features = method.classifier.with_features(batch.image)
    p = logits.softmax(1)
    transition = method.transition(p)
    g = torch.einsum("ni,nij->nj", p, transition)
    risk = F.nll_loss(g.log(), batch.label)
    s = method.manifold.affinity(features.detach(), p.detach(), batch.label)
    square = ((transition[:, None] - transition[None]) ** 2).sum(dim=(2, 3))
    return risk, method.manifold.weight * (s * square).sum()


@pytest.mark.parametrize(
    "manifold",
    [Manifold(0.7, k_intra=3, k_inter=3), Manifold(0.7, space="posterior"), Manifold(0.7, form="dense"), Manifold(0.0)],
    ids=["features", "posterior", "dense", "off"],
)
def test_both_steps_have_the_gradients_of_the_joint_objective(manifold):
    """At the same weights: the transition network's Step must not see a classifier that has moved, nor move it."""
    method, batch = joint(make(manifold=manifold).eval()), collate([images()[i] for i in range(12)])
    risk, term = objective(method, batch)
    networks = {"classifier": list(method.classifier.parameters()), "transition": list(method.transition.parameters())}
    expected = {
        name: torch.autograd.grad(risk + term, parameters, retain_graph=True) for name, parameters in networks.items()
    }
    assert all(float(sum(g.abs().sum() for g in grads)) > 0 for grads in expected.values())
    for step in method.steps(batch):
        losses = step.loss(step.batches[0])
        assert float(losses["forward"]) == pytest.approx(float(risk), rel=1e-5)
        assert ("manifold" in losses) == bool(manifold.weight)
        if manifold.weight:
            assert float(losses["manifold"]) == pytest.approx(float(term), rel=1e-3, abs=1e-6)
        grads = torch.autograd.grad(sum(losses.values()), networks[step.optimizer])
        for ours, theirs in zip(grads, expected[step.optimizer], strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-6)
        if step.optimizer == "classifier":
            with torch.no_grad():
                for parameter in networks["classifier"]:
                    parameter.add_(0.1)  # as an update would


def test_the_classifiers_gradient_also_flows_through_t():
    """Fails if T saw a detached posterior."""
    method, batch = joint(make(manifold=Manifold(0.0)).eval()), collate([images()[i] for i in range(12)])
    step = next(iter(method.steps(batch)))
    ours = torch.autograd.grad(sum(step.loss(step.batches[0]).values()), list(method.classifier.parameters()))
    p = method.classifier(batch.image).softmax(1)
    g = torch.einsum("ni,nij->nj", p, method.transition(p.detach()))
    cut = torch.autograd.grad(F.nll_loss(g.log(), batch.label), list(method.classifier.parameters()))
    assert any(not torch.allclose(a, b, rtol=1e-2) for a, b in zip(ours, cut, strict=True))


def test_the_rates_of_the_joint_stage_fall_at_its_own_milestones():
    method = make(optimizer=Recipe(kind="sgd", lr=1.0, schedule="steps", milestones=(0.5,)))
    method.build_phase(Phase(name="warm-up"))
    _, schedule = method.optimizers(Phase(total_steps=10))["classifier"]
    assert [schedule.lr_lambdas[0](i) for i in range(10)] == [1.0] * 10
    method.build_phase(Phase(name="joint"))
    made = method.optimizers(Phase(total_steps=80))
    assert set(made) == {"classifier", "transition"}
    rates = [made["classifier"][1].lr_lambdas[0](i) for i in range(80)]
    assert rates == pytest.approx([1.0] * 40 + [0.1] * 40)
    assert made["transition"][0].param_groups[0]["momentum"] == 0


# --- training ---------------------------------------------------------------------------------------------------
def test_training_moves_t_and_learns_without_the_truth():
    """The same weights whatever the true labels are said to be: training never reads them."""
    weights = []
    for shift in (0, 1):
        data = images(36)
        truth = data.data.truth
        object.__setattr__(truth, "label", (truth.label + shift) % 3)
        method = make(warmup_epochs=1, extraction=Extraction(every=1))
        start = method.transition.linear.weight.detach().clone()
        fit(method, data, schedule=method.schedule(2), settings=Settings(batch_size=8, device="cpu"))
        assert not torch.equal(method.transition.linear.weight, start)
        weights.append(torch.cat([p.detach().flatten() for p in method.parameters()]))
    assert torch.equal(*weights)


def test_a_run_stopped_inside_the_joint_stage_resumes_to_the_same_bits(tmp_path):
    """Fails if D, which an epoch inside the cycle goes on with, is lost."""
    weights = []
    for name in ("whole", "broken"):
        method, data = make(Stopping, warmup_epochs=1, extraction=Extraction(share=0.5, every=3, batch=8)), images(32)
        how = {"schedule": method.schedule(4), "settings": Settings(batch_size=8, device="cpu", checkpoint_every=1)}
        if name == "broken":
            method.stop_at = 9  # 4 steps of warm-up, 2 an epoch then: in the second half of a cycle
            with pytest.raises(RuntimeError, match="stopped"):
                fit(method, data, out=tmp_path / name, **how)
            method = make(Stopping, seed=9, warmup_epochs=1, extraction=method.extraction)
            fit(method, data, out=tmp_path / name, resume=True, **how)
        else:
            fit(method, data, out=tmp_path / name, **how)
        weights.append(torch.cat([v.flatten().float() for v in method.state_dict().values()]))
    assert torch.equal(*weights)


class Stopping(MDIT):
    """Breaks off at a step."""

    stop_at = -1

    def after_step(self):
        self.stop_at -= 1
        if self.stop_at == 0:
            raise RuntimeError("stopped")


def test_forward_correction_estimates_one_matrix_when_the_joint_stage_begins():
    method, data = make(ForwardCorrection, warmup_epochs=1), images()
    assert torch.equal(method.transition, torch.eye(3))
    seen = []
    begin = ForwardCorrection.begin_phase

    def noting(self, phase, data):
        seen.append((phase.name, None if self.warming_up else anchor_transition(self.posteriors(data), 0.97)))
        begin(self, phase, data)

    ForwardCorrection.begin_phase = noting
    try:
        fit(method, data, schedule=method.schedule(1), settings=Settings(batch_size=8, device="cpu"))
    finally:
        ForwardCorrection.begin_phase = begin
    assert [name for name, _ in seen] == ["warm-up", "joint"]
    assert torch.equal(method.transition, seen[1][1])
    assert method.transitions(torch.zeros(4, 3)).shape == (4, 3, 3)
    batch = collate([data[i] for i in range(6)])
    method.eval()
    g = method.classifier(batch.image).softmax(1) @ method.transition
    assert float(method.losses(batch)["forward"]) == pytest.approx(float(F.nll_loss(g.log(), batch.label)), rel=1e-5)


def test_validation_foretells_noisy_labels():
    method, data = joint(make()).eval(), images(20)
    found = method.validate(data, batch_size=7)
    with torch.no_grad():
        p = method.classifier(collate([data[i] for i in range(20)]).image).softmax(1)
        g = torch.einsum("ni,nij->nj", p, method.transition(p))
    assert found["noisy_accuracy"] == pytest.approx(float((g.argmax(1) == data.label).double().mean()))
    assert found["loss"] == pytest.approx(float(F.nll_loss(g.log(), data.label)), rel=1e-5)


def test_schedules():
    assert make().schedule(50) == Stages({"warm-up": 10, "joint": 50})
    assert make(warmup_epochs=0).schedule(20) == Stages({"joint": 20})
    assert make(NoisyCE).schedule(3) == Stages({"joint": 3})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Extraction("most"), "extraction.keep"),
        (lambda: Extraction(share=0.0), "extraction.share is 0.0"),
        (lambda: Extraction(every=0), "extraction.every is 0"),
        (lambda: make(warmup_epochs=-1), "warmup_epochs is -1"),
        (lambda: make(leave_out=("b", "c")), "at least two"),
        (lambda: make(ForwardCorrection, warmup_epochs=0), "at least 1 is needed"),
        (lambda: make(ForwardCorrection, anchor_quantile=0.0), "anchor_quantile is 0.0"),
    ],
)
def test_bad_input_is_one_line(build, message):
    with pytest.raises(BadInput, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
