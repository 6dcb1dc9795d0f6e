# SPDX-License-Identifier: Apache-2.0
"""NCPLR against its equations, crop by crop; what an epoch prepares; and that a killed run goes on bit by bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from mien.clustering.jaccard import TIE
from mien.clustering.recipe import Clustering
from mien.data.batch import collate
from mien.engine import Settings, Single, fit
from mien.errors import BadInput, TrainingStopped
from mien.nn.network import Network
from mien.optim.recipe import Recipe
from mien.reid.cluster_contrast import ClusterContrast, Contrast
from mien.reid.data import Augmentation, PersonImages
from mien.reid.embedder import all_features
from mien.reid.ncplr import (
    NCPLR,
    interacting,
    kl_divergence,
    neighbour_weights,
    refined_label,
    refinement_losses,
)
from mien.reid.readers import generated

SIZE = (32, 16)


def data(people=6, augment=True):
    return PersonImages(
        generated("train").subset(range(12 * people)), SIZE, Augmentation(padding=2) if augment else None
    )


def make(kind=NCPLR, **changes):
    torch.manual_seed(0)
    how = {
        "network": Network("tiny_blocks"),
        "optimizer": Recipe("adam", lr=2e-3),
        "image_size": SIZE,
        "clustering": Clustering(k1=8, k2=3, eps=0.6, min_samples=2),
        "contrast": Contrast(4, 4, 3),
    }
    if kind is NCPLR:
        how |= {"max_clusters": 40, "rho": 0.4}
    return kind(**how | changes)


def prepared(kind=NCPLR, **changes):
    """A method with an epoch's clusters, and a batch of the epoch."""
    method, images = make(kind, **changes).eval(), data()
    with torch.no_grad():
        epoch = method.begin_epoch(0, images)
    plain = images.plain()
    return method.train(), images, collate([plain[i] for i in epoch.order[0].tolist()])


def distributions(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).softmax(-1)


# --- the formulas ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("weighting", ["similar", "released", "uniform"])
def test_the_weights_are_a_softmax_over_the_neighbours(weighting):
    distance = torch.tensor([[0.0, 0.1, 0.2], [0.2, 0.0, 0.7]], dtype=torch.float64)
    present = torch.tensor([[True, True, True], [True, True, False]])
    found = neighbour_weights(distance, present, weighting, tau=0.5)
    sign = {"similar": -1, "released": 1, "uniform": 0}[weighting]
    for i in range(2):
        terms = [math.exp(sign * float(distance[i, j]) / 0.5) if present[i, j] else 0.0 for j in range(3)]
        assert found[i].tolist() == pytest.approx([t / sum(terms) for t in terms])
    if weighting == "similar":
        assert found[0, 0] > found[0, 1] > found[0, 2]


def test_divergence_and_refined_labels():
    a, b = distributions(4, 5), distributions(4, 5, seed=1)
    by_hand = [sum(float(p * math.log(p / q)) for p, q in zip(x, y, strict=True)) for x, y in zip(a, b, strict=True)]
    assert kl_divergence(a, b).tolist() == pytest.approx(by_hand)
    assert kl_divergence(a, a).abs().max() < 1e-12
    assert float(kl_divergence(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))) == math.inf
    refined = refined_label(torch.tensor([2]), a[:1], 0.1)
    assert refined[0].tolist() == pytest.approx([0.9 * float(v) + (0.1 if c == 2 else 0) for c, v in enumerate(a[0])])


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.3, 1.0])
def test_the_two_losses_are_the_refined_loss_but_for_an_entropy(alpha):
    """alpha CE + (1 - alpha) KL = -sum y~ log p - (1 - alpha) H(e), with the same gradient."""
    logits = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    label, e = torch.tensor([0, 1, 2, 3, 4, 0]), distributions(6, 5)
    ce, consistency = refinement_losses(logits, label, e)
    ours = alpha * ce + (1 - alpha) * consistency
    log_p = logits.log_softmax(1)
    refined = torch.stack([alpha * F.one_hot(y, 5) + (1 - alpha) * row for y, row in zip(label, e, strict=True)])
    merged = -(refined * log_p).sum() / 6
    entropy = -(e * e.log()).sum() / 6
    assert float(ours) == pytest.approx(float(merged - (1 - alpha) * entropy))
    assert torch.allclose(*(torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (ours, merged)))


def test_no_gradient_reaches_the_ensemble():
    e = distributions(3, 4).requires_grad_()
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    sum(refinement_losses(logits, torch.tensor([0, 1, 2]), e)).backward()
    assert e.grad is None
    assert logits.grad.abs().sum() > 0


def test_ensembles_talk_to_each_other():
    g, u, d = (distributions(3, 5, seed=i) for i in range(3))
    found = interacting([g, u, d])

    def trust(a, b):
        return math.exp(-sum(float(p * math.log(p / q)) for p, q in zip(a, b, strict=True)) / 5)

    for i in range(3):
        ku, kd = trust(g[i], u[i]), trust(g[i], d[i])
        assert torch.allclose(found[0][i], (g[i] + ku * u[i] + kd * d[i]) / (1 + ku + kd))
        for half, row in ((u, 1), (d, 2)):
            h = trust(half[i], g[i])
            assert torch.allclose(found[row][i], (half[i] + h * g[i]) / (1 + h))
    assert all(torch.allclose(part.sum(1), torch.ones(3, dtype=torch.float64)) for part in found)


# --- an epoch -------------------------------------------------------------------------------------------------------
def test_an_epoch_sets_labels_memories_classifiers_and_the_graph():
    method, images, _ = prepared()
    features = all_features(method.eval(), images)[0]
    near = method.clustering.neighbours(features)
    label = method.pseudo_label.numpy()
    assert np.array_equal(label, method.clustering.labels(near))
    assert 2 <= method.clusters < 40
    for c in range(method.clusters):
        mean = features[torch.from_numpy(label == c)].mean(0)
        assert torch.allclose(method.memories[0].centre[c], mean / mean.norm(), atol=1e-6)
    weight = method.classifiers[0].detach()
    assert torch.equal(weight[: method.clusters], method.memories[0].centre)
    assert (weight[method.clusters :] == 0).all()
    for i in range(len(images)):
        row = method.graph_index[method.graph_start[i] : method.graph_start[i + 1]].tolist()
        own = near.index[near.start[i] : near.start[i + 1]][
            near.distance[near.start[i] : near.start[i + 1]] <= 0.4 + TIE
        ]
        assert row == ([j for j in own.tolist() if label[j] >= 0] if label[i] >= 0 else [])


def graph_of(method, i):
    part = slice(int(method.graph_start[i]), int(method.graph_start[i + 1]))
    return dict(zip(method.graph_index[part].tolist(), method.graph_distance[part].tolist(), strict=True))


@pytest.mark.parametrize("parts", ["none", "up-down"])
def test_the_losses_are_the_equations_crop_by_crop(parts):
    method, _, batch = prepared(parts=parts)
    batch.index[5] = batch.index[0]  # a second copy of a crop
    batch.image[5] = batch.image[0] * 0.5
    losses = method.losses(batch)
    twin, _, _ = prepared(parts=parts)
    z = [part.double() for part in twin.encoder(batch.image)]
    index, count = batch.index.tolist(), method.clusters
    label = [int(method.pseudo_label[i]) for i in index]
    assert min(label) >= 0
    views, alphas = len(z), (0.1, 0.3, 0.3)
    p = [(part @ w[:count].double().T).softmax(1) for part, w in zip(z, twin.classifiers, strict=True)]
    ensembles = []
    for part in p:
        rows = []
        for i in index:
            near = graph_of(method, i)
            here = [(index.index(j), d) for j, d in near.items() if j in index]  # index.index: the first copy
            terms = [math.exp(-d) for _, d in here]
            rows.append(sum(t / sum(terms) * part[n] for t, (n, _) in zip(terms, here, strict=True)).detach())
        ensembles.append(torch.stack(rows))
    assert not torch.equal(ensembles[0], p[0]), "there are neighbours, so that the ensemble is more than p"
    if views == 3:
        ensembles = interacting(ensembles)
    weights = (1.0,) if views == 1 else (0.8, 0.2, 0.2)
    expected = {"contrast": 0.0, "label": 0.0, "consistency": 0.0}
    for v, weight in enumerate(weights):
        f = F.normalize(z[v], dim=1)
        scores = f @ method.memories[v].centre.double().T / 0.05
        for i, y in enumerate(label):
            expected["contrast"] -= weight * float(scores[i].log_softmax(0)[y]) / len(index)
            expected["label"] -= weight * alphas[v] * float(p[v][i, y].log()) / len(index)
            kl = float((ensembles[v][i] * (ensembles[v][i].log() - p[v][i].log())).sum())
            expected["consistency"] += weight * (1 - alphas[v]) * kl / len(index)
    assert {name: float(v.detach()) for name, v in losses.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_halves_cluster_by_mixed_distances():
    method, images, _ = prepared(parts="up-down")
    features = all_features(method.eval(), images)
    assert len(features) == 3
    mixed = method.clustering.neighbours(features, (0.6, 0.2, 0.2))
    assert np.array_equal(method.pseudo_label.numpy(), method.clustering.labels(mixed))


def test_outliers_take_no_part():
    method, _, batch = prepared()
    before = {k: float(v.detach()) for k, v in prepared()[0].losses(batch).items()}
    assert before["contrast"] > 0
    method.pseudo_label[:] = -1
    losses = method.losses(batch)
    assert [float(v.detach()) for v in losses.values()] == [0.0, 0.0, 0.0]
    sum(losses.values()).backward()


def test_alone_the_target_is_the_crops_own_prediction():
    """The control N(i) = {i}: the consistency vanishes, and with it its gradient."""
    method, _, batch = prepared(neighbourhood="self")
    losses = method.losses(batch)
    assert abs(float(losses["consistency"].detach())) < 1e-6
    weight = method.classifiers[0]
    gradient = torch.autograd.grad(losses["consistency"], weight)[0]
    assert gradient.abs().max() < 1e-6


def test_the_switches_change_what_they_name():
    _, _, batch = prepared()
    values = {}
    for name, changes in {
        "default": {},
        "released": {"weighting": "released"},
        "uniform": {"weighting": "uniform"},
        "beta": {"beta": 0.0},
        "alpha": {"alpha": 0.5},
        "tau": {"tau": 0.05},
        "rho": {"rho": 0.0},
    }.items():
        values[name] = {k: float(v.detach()) for k, v in prepared(**changes)[0].losses(batch).items()}
    default = values["default"]
    assert values["beta"]["consistency"] == 0.0
    assert values["beta"]["label"] == default["label"]
    assert values["alpha"]["label"] == pytest.approx(5 * default["label"])
    assert values["alpha"]["consistency"] == pytest.approx(default["consistency"] * 5 / 9)
    for name in ("released", "uniform", "tau", "rho"):
        assert values[name]["consistency"] != pytest.approx(default["consistency"], rel=1e-6), name
        assert values[name]["contrast"] == default["contrast"]


def test_the_memory_moves_after_the_step_by_the_features_that_were_seen():
    method, _, batch = prepared(ClusterContrast)
    before = method.memories[0].centre.clone()
    twin = prepared(ClusterContrast)[0]
    method.losses(batch)
    assert torch.equal(method.memories[0].centre, before), "the gradient is that of the old memory"
    method.after_step()
    expected = before.clone()
    for f, i in zip(F.normalize(twin.encoder(batch.image)[0], dim=1).detach(), batch.index.tolist(), strict=True):
        y = int(method.pseudo_label[i])
        expected[y] = F.normalize(0.1 * expected[y] + 0.9 * f, dim=0)
    assert torch.allclose(method.memories[0].centre, expected, atol=1e-6)
    method.after_step()
    assert torch.allclose(method.memories[0].centre, expected, atol=1e-6), "nothing is seen twice"


def test_refined_labels_of_all_crops_are_the_equation_with_whole_neighbourhoods():
    method, images, _ = prepared()
    found = method.eval().refined(images)
    plain = images.plain()
    z = method.encoder(torch.stack([plain[i].image for i in range(len(plain))]))[0]
    p = (z @ method.classifiers[0][: method.clusters].T).softmax(1).detach().double()
    for i in range(len(images)):
        y = int(method.pseudo_label[i])
        if y < 0:
            assert (found[i] == 0).all()
            continue
        near = graph_of(method, i)
        terms = {j: math.exp(-d) for j, d in near.items()}
        e = sum(t / sum(terms.values()) * p[j] for j, t in terms.items())
        expected = 0.9 * e
        expected[y] += 0.1
        assert torch.allclose(found[i].double(), expected, atol=1e-5)


# --- training -------------------------------------------------------------------------------------------------------
def test_clusters_that_vanish_stop_the_run_in_one_line(tmp_path):
    with pytest.raises(
        TrainingStopped, match=r"no clusters: all 72 crops are outliers .* raise eps or lower min_samples"
    ):
        fit(
            make(clustering=Clustering(k1=2, k2=1, eps=0.01)),
            data(),
            schedule=Single(1),
            settings=Settings(device="cpu"),
        )
    with pytest.raises(TrainingStopped, match="one cluster only: 72 of 72 crops"):
        fit(make(clustering=Clustering(k1=72, eps=0.9)), data(), schedule=Single(1), settings=Settings(device="cpu"))
    with pytest.raises(TrainingStopped, match="do not fit the classifier of 2 rows: raise max_clusters"):
        fit(make(max_clusters=2), data(), schedule=Single(1), settings=Settings(device="cpu"))


def test_a_run_that_was_interrupted_ends_with_the_bits_of_the_unbroken_one(tmp_path):
    """Stopped inside an epoch: labels, neighbours, memories, moments and the order of the batches come back."""
    settings = Settings(device="cpu", checkpoint_every=2, seed=3)

    def run(folder, method, **more):
        fit(method, data(), schedule=Single(3), settings=settings, out=folder, **more)
        return load_file(folder / "model" / "model.safetensors")

    whole = run(tmp_path / "whole", make(parts="up-down"))

    class Dies(NCPLR):
        steps_left = 5  # of nine: in the second epoch, past a checkpoint

        def after_step(self):
            super().after_step()
            self.steps_left -= 1
            if not self.steps_left:
                raise KeyboardInterrupt

    broken = make(parts="up-down")
    broken.__class__ = Dies
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", broken)
    Dies.steps_left = 10**6
    again = make(parts="up-down")
    again.__class__ = Dies
    resumed = run(tmp_path / "broken", again, resume=True)
    assert set(whole) == set(resumed)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_bad_arguments():
    for changes, message in [
        ({"rho": 1.0}, "rho is 1.0"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"part_alpha": -1.0}, "part_alpha is -1.0"),
        ({"beta": -0.1}, "beta is -0.1"),
        ({"weighting": "x"}, "weighting is 'x': use similar, released or uniform"),
        ({"tau": 0.0}, "tau is 0.0"),
        ({"neighbourhood": "x"}, "neighbourhood is 'x'"),
        ({"max_clusters": 1}, "max_clusters is 1"),
        ({"parts": "left"}, "parts is 'left'"),
        ({"image_size": (4, 4)}, r"image_size is \[4, 4\]"),
    ]:
        with pytest.raises(BadInput, match=message):
            make(**changes)
    for changes in (
        {"temperature": 0.0},
        {"momentum": 1.0},
        {"part_distance": 0.6},
        {"part_loss": 2.0},
        {"iterations": 0},
    ):
        with pytest.raises(BadInput, match=f"contrast.{next(iter(changes))} is"):
            Contrast(**changes)


def test_other_data_are_refused():
    with pytest.raises(BadInput, match=r"is no mien\.reid\.data\.PersonImages"):
        make().begin_epoch(0, [1, 2, 3])
