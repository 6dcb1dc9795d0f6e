# SPDX-License-Identifier: Apache-2.0
"""PGD and FGSM against loops over images; budgets; what an attack must leave alone."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import slow_attacks as slow
from mien.attacks import APGD, PGD, Square, fgsm
from mien.attacks.ball import drawn, project
from mien.attacks.probe import Worst
from mien.errors import BadInput

IMAGE, LABEL = slow.some_images()


def starts(eps, norm, seed=3):
    return drawn(IMAGE, eps, norm, torch.Generator().manual_seed(seed))


def target_of(label):
    return (label + 2) % 5


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("keep", ["last", "worst"])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr", "kl", "targeted"])
def test_pgd_is_the_loop(norm, keep, loss):
    model = slow.tiny_model()
    eps, step = (0.1, 0.03) if norm == "linf" else (0.8, 0.25)
    start = starts(eps, norm)
    against = target_of(LABEL) if loss == "targeted" else None
    attack = PGD(eps, 6, step, norm, loss, keep=keep)
    found = attack(model, IMAGE, LABEL, start=start, against=against)
    for i in range(len(IMAGE)):
        more = {"target": int(target_of(LABEL[i]))} if loss == "targeted" else {}
        if loss == "kl":
            more = {"natural": model(IMAGE[i : i + 1])[0].detach()}
        expected = slow.pgd(model, IMAGE[i], int(LABEL[i]), start[i], eps, 6, step, norm, loss, keep, **more)
        assert torch.allclose(found[i], expected, atol=1e-10), f"image {i}"


def test_dropping_fooled_images_gives_the_first_fooled_iterate_and_the_same_accuracy():
    model = slow.tiny_model()
    right = model(IMAGE).argmax(1) == LABEL
    assert 0 < int(right.sum()) < len(IMAGE), "the case must hold both kinds"
    plain, dropping = (PGD(0.03, 12, 0.01, drop_fooled=d)(model, IMAGE, LABEL, start=IMAGE) for d in (False, True))
    answers = [model(x).argmax(1) == LABEL for x in (plain, dropping)]
    assert torch.equal(*answers)
    assert 0 < int(answers[0].sum()) < int(right.sum())
    assert torch.equal(dropping[~right], IMAGE[~right]), "an image that is wrong already is not moved"
    assert torch.equal(dropping[answers[0]], plain[answers[0]]), "robust images are attacked to the end"


def test_dropping_asks_the_model_for_less():
    sizes = []

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = slow.tiny_model()

        def forward(self, x):
            sizes.append(len(x))
            return self.inner(x)

    PGD(0.3, 10, drop_fooled=True)(Counting(), IMAGE, LABEL)
    assert sizes[0] == len(IMAGE)
    assert sizes[-1] < len(IMAGE)
    assert sizes == sorted(sizes, reverse=True)


def test_more_restarts_are_never_weaker():
    model = slow.tiny_model()
    losses = []
    for restarts in (1, 4):
        found = PGD(0.05, 3, restarts=restarts)(model, IMAGE, LABEL, generator=torch.Generator().manual_seed(0))
        logits = model(found)
        losses.append((logits.argmax(1) != LABEL, F.cross_entropy(logits, LABEL, reduction="none")))
    (fooled1, loss1), (fooled4, loss4) = losses
    assert bool((fooled4 | ~fooled1).all())
    same = fooled1 == fooled4
    assert bool((loss4[same] >= loss1[same] - 1e-12).all())
    assert bool((loss4 > loss1 + 1e-9).any()), "restarts must be able to matter here"


def test_fgsm_is_one_signed_step():
    model = slow.tiny_model()
    x = IMAGE.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(x), LABEL), x)  # the mean loss: its sign is the same
    assert torch.allclose(fgsm(model, IMAGE, LABEL, 0.07), (IMAGE + 0.07 * g.sign()).clamp(0, 1))
    assert torch.equal(fgsm(model, IMAGE, LABEL, 0.0), IMAGE)


def test_targeted_reaches_its_class_and_needs_it():
    model, goal = slow.tiny_model(), target_of(LABEL)
    found = PGD(0.5, 40, 0.05, loss="targeted", keep="last")(model, IMAGE, LABEL, against=goal)
    assert float((model(found).argmax(1) == goal).double().mean()) > 0.8
    with pytest.raises(BadInput, match="against"):
        PGD(loss="targeted")(model, IMAGE, LABEL)


def test_an_objective_of_ones_own_is_followed():
    model = slow.tiny_model()
    found = PGD(0.2, 10, keep="last")(model, IMAGE, LABEL, objective=lambda z, y: z[:, 0])
    assert bool((model(found)[:, 0] > model(IMAGE)[:, 0]).all())


def test_passes_average_over_a_model_that_draws():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.asked = slow.tiny_model(), 0

        def forward(self, x):
            self.asked += 1
            return self.inner(x) + 30 * (self.asked % 3 - 1) * x.mean(dim=(1, 2, 3))[:, None] * torch.arange(5)

    # over three passes the addition cancels, so that the mean gradient is that of the model within
    noisy, start = Noisy(), starts(0.1, "linf")
    found = PGD(0.1, 1, 0.03, keep="last", passes=3, loss="targeted")(
        noisy, IMAGE, LABEL, start=start, against=LABEL, objective=lambda z, y: z[:, 1]
    )
    plain = PGD(0.1, 1, 0.03, keep="last")(slow.tiny_model(), IMAGE, LABEL, start=start, objective=lambda z, y: z[:, 1])
    assert noisy.asked == 3
    assert torch.allclose(found, plain)


def test_kl_is_measured_from_the_mean_answer_of_a_model_that_draws():
    class Alternating(nn.Module):
        def __init__(self):
            super().__init__()
            self.models, self.asked = nn.ModuleList(slow.tiny_model(seed) for seed in (0, 1)), 0

        def forward(self, x):
            self.asked += 1
            return self.models[self.asked % 2](x)

    attack = PGD(0.1, 3, 0.03, loss="kl", keep="last", passes=2)
    first, second = (slow.tiny_model(seed)(IMAGE).softmax(1) for seed in (1, 0))
    start = starts(0.1, "linf")
    found, mean, one = (
        attack(Alternating(), IMAGE, LABEL, start=start, against=against)
        for against in (None, ((first + second) / 2).log(), first.log())
    )
    assert torch.equal(found, mean)
    assert not torch.equal(found, one)


# --- budgets --------------------------------------------------------------------------------------------------
ATTACKS = [
    lambda eps, norm: PGD(eps, 3, norm=norm),
    lambda eps, norm: PGD(eps, 2, step=2.0, norm=norm, start="normal", keep="last"),
    lambda eps, norm: APGD(eps, 4, norm=norm),
    lambda eps, norm: APGD(eps, 3, norm=norm, loss="dlr_targeted", targets=2),
    lambda eps, norm: Square(eps if norm == "linf" else min(eps, 1.0), 4),
]


@settings(max_examples=40, deadline=None)
@given(
    eps=st.floats(0, 1),
    norm=st.sampled_from(["linf", "l2"]),
    which=st.integers(0, len(ATTACKS) - 1),
    seed=st.integers(0, 10_000),
    black=st.booleans(),
)
def test_what_comes_out_is_an_image_within_the_budget(eps, norm, which, seed, black):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, 2, 6, 6, generator=generator)
    if black:
        image = image.round()  # all values at an end of [0, 1]
    label = torch.randint(5, (3,), generator=generator)
    attack = ATTACKS[which](eps, norm)
    found = attack(slow.tiny_model().float(), image, label, generator=generator)
    assert found.shape == image.shape
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    measured = "linf" if isinstance(attack, Square) else norm
    delta = (found - image).flatten(1)
    size = delta.abs().amax(1) if measured == "linf" else delta.norm(dim=1)
    assert float(size.max()) <= attack.eps + 1e-6


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 2), st.integers(0, 10_000))
def test_projections_are_the_nearest_points_of_the_l2_ball_and_idempotent(eps, seed):
    generator = torch.Generator().manual_seed(seed)
    natural = torch.rand(2, 1, 3, 3, generator=generator, dtype=torch.float64)
    image = natural + torch.randn(2, 1, 3, 3, generator=generator, dtype=torch.float64)
    for norm in ("linf", "l2"):
        once = project(image, natural, eps, norm)
        assert torch.allclose(project(once, natural, eps, norm), once, atol=1e-12)
        for i in range(2):
            assert torch.allclose(once[i], slow.into_ball(image[i], natural[i], eps, norm), atol=1e-12)


# --- what it leaves alone -------------------------------------------------------------------------------------
def test_the_model_is_left_as_it_was():
    model = slow.tiny_model()
    model.train()
    model[2].eval()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    image = IMAGE.clone()
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    for attack in (PGD(steps=2), PGD(steps=2, mode="train"), APGD(steps=3), Square(queries=3)):
        with torch.no_grad():
            attack(model, image, LABEL)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert all(bool((p.grad == 7).all()) and p.requires_grad for p in model.parameters())
    assert model[1].track_running_stats
    assert torch.equal(image, IMAGE)


def test_a_model_in_train_mode_is_attacked_in_the_mode_that_was_asked_for():
    model = slow.tiny_model()
    start = starts(0.1, "linf")
    expected = PGD(0.1, 4)(model, IMAGE, LABEL, start=start)
    assert torch.equal(PGD(0.1, 4)(model.train(), IMAGE, LABEL, start=start), expected)
    assert model.training
    by_batch = PGD(0.1, 4, mode="train", keep="last")(model, IMAGE, LABEL, start=start)
    assert torch.equal(PGD(0.1, 4, mode="train", keep="last")(model.eval(), IMAGE, LABEL, start=start), by_batch)
    x = start.clone()
    twin = copy.deepcopy(model).train()  # the same by hand: gradients of the batch's loss, normalised by the batch
    for _ in range(4):
        x.requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(twin(x), LABEL), x)
        x = project(x.detach() + 0.025 * g.sign(), IMAGE, 0.1, "linf")
    assert torch.allclose(by_batch, x)


def test_modes_come_back_after_an_error():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(2)

        def forward(self, x):
            raise RuntimeError("no")

    model = Broken()
    with pytest.raises(RuntimeError, match="no"):
        PGD(mode="train")(model.eval(), IMAGE, LABEL)
    assert not model.training
    assert model.norm.track_running_stats


def test_draws_follow_from_the_generator_alone():
    model = slow.tiny_model()
    for attack in (PGD(0.1, 2), APGD(0.1, 2), Square(0.1, 5), PGD(0.1, 2, start="normal", norm="l2")):
        found = []
        for noise in (0, 1):
            torch.manual_seed(noise)
            found.append(attack(model, IMAGE, LABEL, generator=torch.Generator().manual_seed(5)))
        assert torch.equal(*found), attack
        other = attack(model, IMAGE, LABEL, generator=torch.Generator().manual_seed(6))
        assert not torch.equal(found[0], other), attack


def test_an_empty_batch_and_functions_that_are_no_modules():
    model = slow.tiny_model()
    for attack in (PGD(), APGD(), Square()):
        assert attack(model, IMAGE[:0], LABEL[:0]).shape == (0, 2, 6, 6)
    start = starts(0.1, "linf")
    assert torch.equal(
        PGD(0.1, 2)(lambda x: model(x), IMAGE, LABEL, start=start), PGD(0.1, 2)(model, IMAGE, LABEL, start=start)
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PGD(eps=8), r"eps is 8: it must be in \[0, 1\].*8/255"),
        (lambda: PGD(eps=-0.1), "eps is -0.1"),
        (lambda: PGD(eps=float("nan")), "eps is nan"),
        (lambda: APGD(eps=1.5), "eps is 1.5"),
        (lambda: APGD(eps=-1, norm="l2"), "eps is -1: it must be 0 or more"),
        (lambda: Square(eps=2), "eps is 2"),
        (lambda: PGD(norm="l1"), "norm is 'l1'"),
        (lambda: PGD(loss="cw"), "unknown loss of an attack 'cw'"),
        (lambda: PGD(steps=0), "steps is 0"),
        (lambda: PGD(step=0.0), "step is 0.0"),
        (lambda: PGD(keep="first"), "keep is 'first'"),
        (lambda: PGD(keep="last", restarts=2), "restarts is 2"),
        (lambda: PGD(drop_fooled=True, mode="train"), "mode 'eval'"),
        (lambda: APGD(loss="kl"), "loss is 'kl'"),
        (lambda: APGD(targets=0), "targets is 0"),
        (lambda: Square(queries=0), "queries is 0"),
        (lambda: Square(passes=0), "passes is 0"),
        (lambda: Square(share=0), "share is 0"),
        (lambda: PGD(mode="x")(slow.tiny_model(), IMAGE, LABEL), "mode is 'x'"),
        (lambda: PGD()(slow.tiny_model(), IMAGE * 255, LABEL), r"outside \[0, 1\]"),
        (lambda: PGD()(slow.tiny_model(), IMAGE * float("nan"), LABEL), r"outside \[0, 1\]"),
        (lambda: PGD()(slow.tiny_model(), (IMAGE * 255).byte(), LABEL), "uint8"),
        (lambda: PGD()(slow.tiny_model(), IMAGE, LABEL[:3]), "labels"),
        (lambda: APGD(loss="dlr_targeted")(slow.tiny_model(classes=3), IMAGE, LABEL % 3), "at least 4 classes"),
        (lambda: APGD(loss="dlr")(slow.tiny_model(classes=2), IMAGE, LABEL % 2), "at least 3 classes"),
    ],
)
def test_bad_input_is_one_line(make, message):
    with pytest.raises(BadInput, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_worst_of_each_row_is_kept_whatever_the_order_of_rows():
    worst, seen = Worst.before(torch.zeros(4, 3, 2, 2)), torch.rand(2, 3, 2, 2)
    worst.see(torch.tensor([3, 1]), seen, torch.tensor([1.0, 2.0]), torch.tensor([False, True]))
    assert torch.equal(worst.image[[3, 1]], seen)
    assert not worst.image[[0, 2]].any()
    worst.see(torch.tensor([1, 3]), 0 * seen, torch.tensor([9.0, 0.5]), torch.tensor([False, False]))
    assert torch.equal(worst.image[[3, 1]], seen), "neither a larger loss that does not fool, nor a smaller one"
    assert worst.loss[[3, 1]].tolist() == [1.0, 2.0]
