# SPDX-License-Identifier: Apache-2.0
"""SA-PGD against Algorithm 1 image by image, its limits, weight perturbation, and what training learns from."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import slow_attacks as slow
from mien.attacks import PGD
from mien.classification.data import Labelled
from mien.engine import Phase, Settings, Step, fit
from mien.engine.ranks import Ranks
from mien.engine.update import Updater
from mien.errors import BadInput
from mien.nn.network import Network
from mien.optim.closures import AdversarialWeights
from mien.optim.recipe import Recipe
from mien.robustness.baselines import AdversarialTraining, Trades
from mien.robustness.classifier import Attacked
from mien.robustness.saat import SAAT, SAPGD, sa_pgd
from mien.robustness.threat import Threat, robustness_disparity

IMAGE, LABEL = slow.some_images()
IMAGE = 0.3 + 0.4 * IMAGE  # so that no perturbation up to 0.3 is cut off by [0, 1]
MODEL = slow.tiny_model()
FINE = {"tau": 0.02, "alpha": 0.015, "mode": "eval"}
DOWN = {"start_eps": 0.0, "warm_start": False, **FINE}


def losses(image):
    return F.cross_entropy(MODEL(image), LABEL, reduction="none").detach()


def generator(seed=4):
    return torch.Generator().manual_seed(seed)


def pgd_start(eps, steps=10):
    return PGD(eps, steps, 0.015, keep="last")(MODEL, IMAGE, LABEL, generator=generator())


RHOS = [1.0, 1.5, 1.6, 1.75]
"""The model's losses run from 1.39 to 1.73, after the start of `up` from 1.47 to 1.82: none to all images move."""


@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize("eps_max", [0.03, 0.05, 0.1])
def test_down_is_algorithm_1_image_by_image(rho, eps_max):
    found = sa_pgd(MODEL, IMAGE, LABEL, SAPGD(rho=rho, eps_max=eps_max, **DOWN))
    for i in range(len(IMAGE)):
        x, used = slow.sa_pgd(MODEL, IMAGE[i], int(LABEL[i]), rho, eps_max, 0.02, 3, 0.015)
        assert torch.allclose(found.image[i], x, atol=1e-12), f"image {i}"
        assert float(found.budget[i]) == pytest.approx(used)
        assert bool(found.moved[i]) == (used > 0)


@pytest.mark.parametrize("rho", RHOS)
def test_up_is_algorithm_1_from_pgd(rho):
    how = SAPGD(rho=rho, eps_max=0.09, start_eps=0.04, **FINE)
    found = sa_pgd(MODEL, IMAGE, LABEL, how, generator=generator())
    start = pgd_start(0.04)
    for i in range(len(IMAGE)):
        x, used = slow.sa_pgd(MODEL, IMAGE[i], int(LABEL[i]), rho, 0.09, 0.02, 3, 0.015, start[i], 0.04)
        assert torch.allclose(found.image[i], x, atol=1e-12), f"image {i}"
        assert float(found.budget[i]) == pytest.approx(used)
        assert bool(found.moved[i]) == (used > 0.04)
    assert found.moved.any() or rho < 1.47
    assert not found.moved.all()


def test_the_limits_of_rho():
    """rho <= 0: nothing moves. rho infinite: everything moves all the way."""
    for rho in (0.0, -1.0):
        assert torch.equal(sa_pgd(MODEL, IMAGE, LABEL, SAPGD(rho=rho, eps_max=0.1, **DOWN)).image, IMAGE)
        how = SAPGD(rho=rho, eps_max=0.09, start_eps=0.04, **FINE)
        found = sa_pgd(MODEL, IMAGE, LABEL, how, generator=generator())
        assert torch.equal(found.image, pgd_start(0.04)), "up with rho <= 0 is PGD"
        assert not found.moved.any()
        assert torch.allclose(found.budget, torch.tensor(0.04, dtype=torch.float64))


@pytest.mark.parametrize("warm", [False, True])
def test_an_infinite_rho_is_the_run_with_all_images_always_active(warm):
    how = SAPGD(rho=math.inf, eps_max=0.09, start_eps=0.04 if warm else 0.0, warm_start=warm, **FINE)
    found = sa_pgd(MODEL, IMAGE, LABEL, how, generator=generator())
    x = pgd_start(0.04) if warm else IMAGE.clone()
    for eps in [0.06, 0.08, 0.09] if warm else [0.02, 0.04, 0.06, 0.08, 0.09]:
        for _ in range(3):
            x.requires_grad_()
            (g,) = torch.autograd.grad(F.cross_entropy(MODEL(x), LABEL), x)
            x = (IMAGE + (x.detach() + 0.015 * g.sign() - IMAGE).clamp(-eps, eps)).clamp(0, 1)
    assert torch.allclose(found.image, x, atol=1e-12)
    assert torch.allclose((found.image - IMAGE).abs().flatten(1).amax(1), torch.tensor(0.09, dtype=torch.float64))
    assert found.moved.all()
    assert float(found.budget.min()) == 0.09


def test_a_larger_rho_never_moves_fewer_images():
    before = torch.zeros(len(IMAGE), dtype=torch.bool)
    for rho in (0.0, 1.4, 1.5, 1.6, 1.7, math.inf):
        moved = sa_pgd(MODEL, IMAGE, LABEL, SAPGD(rho=rho, eps_max=0.1, **DOWN)).moved
        assert bool((moved | ~before).all())
        before = moved
    assert before.all()


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("rho", RHOS)
def test_every_image_reaches_rho_or_has_used_up_eps_max(rho, warm):
    how = SAPGD(rho=rho, eps_max=0.07, start_eps=0.04 if warm else 0.0, warm_start=warm, **FINE)
    found = sa_pgd(MODEL, IMAGE, LABEL, how, generator=generator())
    reached = losses(found.image) >= rho - 1e-12
    assert bool((reached | (found.budget == 0.07)).all())
    delta = (found.image - IMAGE).abs().flatten(1).amax(1)
    assert bool((delta <= found.budget + 1e-12).all())
    assert float(found.image.min()) >= 0
    assert float(found.image.max()) <= 1


def test_pixels_stay_in_0_to_1():
    image = IMAGE.round()
    found = sa_pgd(MODEL, image, LABEL, SAPGD(rho=math.inf, eps_max=0.2, **DOWN))
    assert float(found.image.min()) >= 0
    assert float(found.image.max()) <= 1


def test_in_train_mode_the_whole_batch_gives_the_statistics_and_images_may_come_back():
    how = SAPGD(rho=1.58, eps_max=0.1, **{**DOWN, "mode": "train"})
    found = sa_pgd(MODEL, IMAGE, LABEL, how)
    twin = copy.deepcopy(MODEL).train()
    x, budget = IMAGE.clone(), torch.zeros(len(IMAGE), dtype=torch.float64)
    left, came_back = torch.zeros(len(IMAGE), dtype=torch.bool), False
    for eps in (0.02, 0.04, 0.06, 0.08, 0.1):
        for _ in range(3):
            x.requires_grad_()
            loss = F.cross_entropy(twin(x), LABEL, reduction="none")
            (g,) = torch.autograd.grad(loss.sum(), x)
            active = loss < 1.58
            came_back |= bool((active & left).any())
            left |= ~active
            stepped = (IMAGE + (x.detach() + 0.015 * g.sign() - IMAGE).clamp(-eps, eps)).clamp(0, 1)
            x = torch.where(active[:, None, None, None], stepped, x.detach())
            budget[active] = eps
    assert torch.allclose(found.image, x)
    assert torch.allclose(found.budget, budget)
    assert came_back, "the case must hold an image that falls below rho again"
    eval_mode = sa_pgd(MODEL, IMAGE, LABEL, SAPGD(rho=1.58, eps_max=0.1, **DOWN))
    assert not torch.allclose(found.image, eval_mode.image)


def test_in_eval_mode_images_that_reached_rho_cost_nothing_more():
    sizes = []

    def counting(x):
        sizes.append(len(x))
        return MODEL(x)

    sa_pgd(counting, IMAGE, LABEL, SAPGD(rho=1.6, eps_max=0.1, **DOWN))
    assert sizes[0] == len(IMAGE)
    assert sizes[-1] < len(IMAGE)
    assert sizes == sorted(sizes, reverse=True)


def test_the_last_increment_is_cut_and_rho_follows_the_number_of_classes():
    budgets = SAPGD(eps_max=9 / 255).budgets()
    assert budgets == [pytest.approx(9 / 255)]
    assert [round(255 * b) for b in SAPGD.up().budgets()] == [10, 12, 14]
    assert [round(255 * b) for b in SAPGD.down().budgets()] == [2, 4, 6, 8]
    assert SAPGD(start_eps=0.02, eps_max=0.02).budgets() == []
    assert SAPGD().level(10) == pytest.approx(1.7)
    assert SAPGD().level(100) == pytest.approx(3.4)
    assert SAPGD(rho=1.5).level(100) == 1.5


# --- training -------------------------------------------------------------------------------------------------
def small(kind, **changes):
    torch.manual_seed(0)
    size = {"network": Network("tiny_blocks"), "image_size": 16, "optimizer": Recipe(kind="sgd", lr=0.05)}
    return kind(**{**size, **changes})


def batch_of(count=6):
    image = torch.rand(count, 3, 16, 16, generator=generator())
    return Labelled(image, torch.arange(count) % 10)


def test_training_learns_from_the_adversarial_images_and_logs_their_strength():
    method, batch, seen = small(SAAT), batch_of(), []
    method.session = type("Log", (), {"log": lambda _, name, value: seen.append((name, float(value)))})()
    torch.manual_seed(3)
    loss = float(method.losses(batch)["cross_entropy"].detach())
    torch.manual_seed(3)
    found = sa_pgd(method.classifier, batch.image, batch.label, method.adversary)
    assert loss == pytest.approx(float(F.cross_entropy(method.classifier(found.image), batch.label).detach()))
    assert dict(seen)["budget"] == pytest.approx(float(found.budget.mean()))
    assert dict(seen)["strengthened"] == pytest.approx(float(found.moved.float().mean()))


def test_adversarial_training_is_saat_without_strengthening():
    batch = batch_of()
    at, saat = small(AdversarialTraining), small(SAAT, adversary=SAPGD(rho=0.0))
    values = []
    for method in (at, saat):
        torch.manual_seed(3)
        values.append(float(method.losses(batch)["cross_entropy"].detach()))
    assert values[0] == values[1]


def test_trades_is_its_equation():
    method, batch = small(Trades, beta=4.0).double(), batch_of()
    batch.image = batch.image.double()
    torch.manual_seed(3)
    attacked = method.perturbed(batch.image, batch.label)  # first: the loss moves the statistics that it is made with
    torch.manual_seed(3)
    losses = method.losses(batch)
    network = method.classifier
    natural, answer = network(batch.image), network(attacked)
    p, q = natural.softmax(1).detach(), answer.softmax(1).detach()
    kl = sum(float(p[i, j] * (p[i, j] / q[i, j]).log()) for i in range(len(p)) for j in range(10)) / len(p)
    cross_entropy = float(F.cross_entropy(natural, batch.label).detach())
    assert float(losses["cross_entropy"].detach()) == pytest.approx(cross_entropy)
    assert float(losses["divergence"].detach()) == pytest.approx(4.0 * kl, rel=1e-9)
    network.eval()
    moved = F.kl_div(network(attacked).log_softmax(1), network(batch.image).softmax(1), reduction="batchmean")
    assert float(moved.detach()) > 0
    assert float((attacked - batch.image).abs().max()) <= 8 / 255 + 1e-6


def test_the_attack_leaves_running_statistics_to_the_loss():
    method, twin = small(AdversarialTraining), small(AdversarialTraining)
    batch = batch_of()
    torch.manual_seed(3)
    method.losses(batch)
    torch.manual_seed(3)
    twin.classifier(twin.perturbed(batch.image, batch.label))
    counts = [b for name, b in method.named_buffers() if name.endswith("num_batches_tracked")]
    assert all(int(count) == 1 for count in counts)
    assert all(torch.equal(a, b) for a, b in zip(method.buffers(), twin.buffers(), strict=True))


# --- adversarial weight perturbation ---------------------------------------------------------------------------
def test_awp_is_the_rule_with_a_proxy_layer_by_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(7, 4, dtype=torch.float64), torch.arange(7) % 3
    proxy, twin = copy.deepcopy(model), copy.deepcopy(model)
    ascent = torch.optim.SGD(proxy.parameters(), lr=0.01)
    ascent.zero_grad()
    (-F.cross_entropy(proxy(x), y)).backward()
    ascent.step()
    with torch.no_grad():
        for w, moved in zip(twin.parameters(), proxy.parameters(), strict=True):
            d = moved - w
            if w.ndim > 1:
                w.add_(0.05 * w.norm() * d / (d.norm() + 1e-20))
    F.cross_entropy(twin(x), y).backward()
    expected = [w - 0.1 * t.grad for w, t in zip(model.parameters(), twin.parameters(), strict=True)]

    optimizer = AdversarialWeights(torch.optim.SGD(model.parameters(), lr=0.1), gamma=0.05)

    def closure():
        with torch.enable_grad():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
        return loss.detach()

    first = float(F.cross_entropy(model(x), y).detach())
    assert float(optimizer.step([closure])) == pytest.approx(first)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(model.parameters(), expected, strict=True))
    with pytest.raises(BadInput, match="one batch"):
        optimizer.step([closure, closure])
    with pytest.raises(BadInput, match="gamma is -1"):
        AdversarialWeights(torch.optim.SGD(model.parameters(), lr=0.1), gamma=-1)


def test_both_passes_of_awp_see_the_same_adversarial_images(monkeypatch):
    method = small(SAAT, awp=0.01)
    made, seen = [], []
    perturbed = type(method).perturbed
    monkeypatch.setattr(type(method), "perturbed", lambda self, *a: made.append(perturbed(self, *a)) or made[-1])
    method.classifier.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    updater = Updater(method, method.optimizers(Phase(total_steps=3)), Ranks(torch.device("cpu")))
    (step,) = method.steps(batch_of())
    assert isinstance(step, Step)
    assert isinstance(step.batches[0], Attacked)
    updater.update([step])
    assert len(made) == 1
    assert torch.equal(seen[-1], made[0])
    assert torch.equal(seen[-2], made[0])


def test_awp_trains_through_the_engine_and_differs_from_none():
    weights = []
    for awp in (0.0, 0.01):
        method = small(SAAT, awp=awp, adversary=SAPGD(warm_steps=1, K=1, mode="eval"))
        data = [Labelled(i, int(y)) for i, y in zip(*(vars(batch_of(12))[k] for k in ("image", "label")), strict=True)]
        fit(method, data, settings=Settings(batch_size=6, device="cpu"))
        weights.append(torch.cat([p.detach().flatten() for p in method.parameters()]))
        assert torch.isfinite(weights[-1]).all()
    assert not torch.equal(*weights)


# --- robustness disparity ---------------------------------------------------------------------------------------
def test_robustness_disparity_is_the_formula():
    right = torch.rand(4, 50, generator=generator()) > torch.tensor([0.1, 0.4, 0.7, 1.0])[:, None]
    budgets = [0.1, 0.2, 0.4]
    accuracy = [float(row.double().mean()) for row in right]
    expected = sum((accuracy[0] - a) / e for a, e in zip(accuracy[1:], budgets, strict=True)) / 3
    assert float(robustness_disparity(right, budgets).mean()) == pytest.approx(expected)
    alive = sum((accuracy[0] - a) / e for a, e in zip(accuracy[1:3], budgets[:2], strict=True)) / 2
    assert float(robustness_disparity(right, budgets, alive=True).mean()) == pytest.approx(alive)
    dead = torch.tensor([[True, True], [False, False]])
    assert robustness_disparity(dead, [0.1], alive=True).tolist() == [0.0, 0.0]
    with pytest.raises(BadInput, match="budgets are"):
        robustness_disparity(right, [0.1, 0.2])


def test_the_threat_is_the_papers_protocol():
    threat = Threat()
    assert (threat.pgd().eps, threat.pgd().steps) == (8 / 255, 20)
    sweep = threat.sweep()
    assert [round(255 * eps) for eps in sweep] == list(range(2, 21, 2))
    assert {a.steps for a in sweep.values()} == {5}, "warm starts add them up: 5 at 2/255, 20 at 8/255, 50 at 20/255"
    assert all(a.step == pytest.approx(2 / 255) for a in sweep.values())
    assert max(Threat(eps=0.6).sweep()) <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SAPGD(eps_max=14), "eps_max is 14"),
        (lambda: SAPGD(start_eps=0.2), "start_eps is 0.2"),
        (lambda: SAPGD(tau=0), "tau is 0"),
        (lambda: SAPGD(alpha=-1), "alpha is -1"),
        (lambda: SAPGD(K=0), "K is 0"),
        (lambda: SAPGD(warm_steps=0), "warm_steps is 0"),
        (lambda: SAPGD(rho=math.nan), "rho is not a number"),
        (lambda: SAPGD(mode="x"), "mode is 'x'"),
        (lambda: Threat(eps=8), r"threat.eps is 8"),
        (lambda: Threat(eps=0), r"threat.eps is 0"),
        (lambda: Threat(steps=3), "threat.steps is 3"),
        (lambda: Threat(queries=0), "threat.queries is 0"),
        (lambda: small(SAAT, awp=1.0), "awp is 1.0"),
        (lambda: small(Trades, beta=-1.0), "beta is -1.0"),
        (lambda: small(AdversarialTraining, eps=8), "eps is 8"),
        (lambda: small(SAAT).losses(Labelled(torch.rand(1, 3, 16, 16), torch.tensor([10]))), "labels run from 10"),
    ],
)
def test_bad_input_is_one_line(make, message):
    with pytest.raises(BadInput, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
