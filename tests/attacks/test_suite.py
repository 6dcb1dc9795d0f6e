# SPDX-License-Identifier: Apache-2.0
"""Objectives, APGD and Square against definitions and loops; the worst case; curves over budgets."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import slow_attacks as slow
from mien.attacks import APGD, PGD, Square, limits, robustness_curve, standard_suite, worst_case
from mien.attacks.ball import drawn
from mien.attacks.objectives import OBJECTIVES
from mien.errors import BadInput

IMAGE, LABEL = slow.some_images()
EPS = (0.004, 0.008, 0.012, 0.016)


def right(model, image):
    return model(image).argmax(1) == LABEL


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_objectives_and_their_gradients_are_the_definitions(name):
    model = slow.tiny_model()
    natural = model(IMAGE.flip(0)).detach()
    target = (LABEL + 1) % 5
    against = {"kl": natural, "targeted": target, "dlr_targeted": torch.stack([LABEL, target], 1)}.get(name, LABEL)
    x = IMAGE.clone().requires_grad_()
    loss = OBJECTIVES[name](model(x), against)
    (g,) = torch.autograd.grad(loss.sum(), x)
    for i in range(len(IMAGE)):
        value, expected = slow.gradient(model, IMAGE[i], int(LABEL[i]), name, natural=natural[i], target=int(target[i]))
        assert float(loss[i].detach()) == pytest.approx(value, rel=1e-9)
        assert torch.allclose(g[i], expected, atol=1e-10)


def test_equal_logits_give_finite_losses():
    logits = torch.zeros(2, 5, requires_grad=True)
    for name in ("dlr", "margin", "ce"):
        value = OBJECTIVES[name](logits, torch.tensor([0, 3])).sum()
        assert torch.isfinite(value)
        assert torch.isfinite(torch.autograd.grad(value, logits)[0]).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["ce", "dlr", "margin"])
def test_apgd_is_the_loop(norm, loss):
    model = slow.tiny_model()
    eps = 0.02 if norm == "linf" else 0.15
    start = drawn(IMAGE, eps, norm, torch.Generator().manual_seed(3))
    found = APGD(eps, 25, norm, loss)(model, IMAGE, LABEL, start=start)
    for i in range(len(IMAGE)):
        expected = slow.apgd(model, IMAGE[i], int(LABEL[i]), start[i], eps, 25, norm, loss)
        assert torch.allclose(found[i], expected, atol=1e-9), f"image {i}"
    still = right(model, found)
    assert 0 < int(still.sum()) < int(right(model, IMAGE).sum()), "the case must hold robust and broken images"


def test_apgd_t_runs_towards_the_likeliest_wrong_classes():
    model = slow.tiny_model()
    eps, generator = 0.02, torch.Generator().manual_seed(3)
    found = APGD(eps, 12, loss="dlr_targeted", targets=2)(model, IMAGE, LABEL, generator=generator)
    generator = torch.Generator().manual_seed(3)
    starts = [drawn(IMAGE, eps, "linf", generator) for _ in range(2)]
    for i in range(len(IMAGE)):
        y, logits = int(LABEL[i]), model(IMAGE[i : i + 1])[0]
        wrong = [c for c in logits.argsort(descending=True).tolist() if c != y][:2]
        runs = [
            slow.apgd(model, IMAGE[i], y, starts[run][i], eps, 12, "linf", "dlr_targeted", target)
            for run, target in enumerate(wrong)
        ]
        broken = [x for x in runs if slow.is_fooled(model, x, y)]
        if broken:
            assert torch.allclose(found[i], broken[0], atol=1e-9), f"image {i}"
        else:
            values = [slow.gradient(model, x, y, "dlr_targeted", target=t)[0] for x, t in zip(runs, wrong, strict=True)]
            assert torch.allclose(found[i], runs[values.index(max(values))], atol=1e-9), f"image {i}"


def test_apgd_breaks_more_than_pgd_with_as_many_long_steps():
    model, broken = slow.tiny_model(), []
    for attack in (PGD, APGD):
        generator = torch.Generator().manual_seed(0)
        curves = [right(model, attack(eps, 10)(model, IMAGE, LABEL, generator=generator)) for eps in EPS]
        broken.append(sum(int((~curve).sum()) for curve in curves))
    assert broken[1] >= broken[0]


def test_square_never_lowers_the_margin_and_finds_what_it_can():
    model = slow.tiny_model()
    margins = []
    for queries in (1, 5, 25, 125):
        found = Square(0.05, queries)(model, IMAGE, LABEL, generator=torch.Generator().manual_seed(0))
        margins.append(OBJECTIVES["margin"](model(found), LABEL))
        moved = (found - IMAGE).abs()
        ends = (moved - 0.05).abs() < 1e-9
        assert bool((ends | (found == 0) | (found == 1)).all()), "every pixel is at an end of its range"
    robust = margins[-1] < 0
    assert robust.any()
    assert bool(margins[-1][robust].mean() > margins[0][robust].mean())


def test_square_asks_no_more_than_it_may_and_only_about_robust_images():
    seen = []
    model = slow.tiny_model()

    def counting(x):
        seen.append(len(x))
        return model(x)

    Square(0.3, 40)(counting, IMAGE, LABEL)
    assert len(seen) <= 40
    assert seen == sorted(seen, reverse=True)


class WrongEveryThirdTime(nn.Module):
    """Of three answers the first is wrong for every image, and the mean of the three is right."""

    def __init__(self):
        super().__init__()
        self.asked = 0

    def forward(self, x):
        self.asked += 1
        given = (LABEL[: len(x)] + (self.asked % 3 == 1)) % 5
        return 10 * nn.functional.one_hot(given, 5).to(x) + 0 * x.mean()


def test_square_judges_a_model_that_draws_by_the_mean_of_its_answers():
    for passes, asked in ((1, 1), (3, 12)):
        model = WrongEveryThirdTime()
        Square(0.1, 4, passes=passes)(model, IMAGE, LABEL)
        assert model.asked == asked, "it ends where every image is misclassified, else after four queries"


# --- the suite ------------------------------------------------------------------------------------------------
def test_the_worst_case_counts_an_image_as_robust_only_if_all_attacks_failed():
    model = slow.tiny_model()
    attacks = {"weak": PGD(0.005, 1), "apgd": APGD(0.02, 10), "square": Square(0.02, 30)}
    found = worst_case(model, IMAGE, LABEL, attacks, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    expected = torch.where(right(model, IMAGE), 3, -1)
    for number, attack in enumerate(attacks.values()):
        rows = (expected == 3).nonzero()[:, 0]
        tried = attack(model, IMAGE[rows], LABEL[rows], generator=generator)
        expected[rows[model(tried).argmax(1) != LABEL[rows]]] = number
    assert torch.equal(found.broken_by, expected)
    assert found.robust.any()
    assert (found.broken_by == 1).any()
    assert torch.equal(right(model, found.image), found.robust)


def test_robust_images_come_back_with_the_largest_margin_tried():
    model = slow.tiny_model()
    attacks = {"a": APGD(0.002, 5), "b": PGD(0.001, 1)}
    found = worst_case(model, IMAGE, LABEL, attacks, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    rows = right(model, IMAGE)
    tried = [attack(model, IMAGE[rows], LABEL[rows], generator=generator) for attack in attacks.values()]
    margins = torch.stack([OBJECTIVES["margin"](model(x), LABEL[rows]) for x in tried]).amax(0)
    assert bool(found.robust[rows].all())
    assert torch.allclose(OBJECTIVES["margin"](model(found.image[rows]), LABEL[rows]), margins)


def test_the_standard_suite_fits_the_number_of_classes_and_the_norm():
    assert list(standard_suite(0.1, 10)) == ["apgd-ce", "apgd-t", "square"]
    assert list(standard_suite(0.5, 10, norm="l2")) == ["apgd-ce", "apgd-t"]
    assert list(standard_suite(0.1, 10, passes=5)) == ["apgd-ce", "apgd-t"]
    for classes in (2, 3):
        suite = standard_suite(0.1, classes, steps=3, queries=3)
        assert list(suite) == ["apgd-ce", "apgd-margin", "square"]
        found = worst_case(slow.tiny_model(classes=classes), IMAGE, LABEL % classes, suite)
        assert found.image.shape == IMAGE.shape


def test_a_suite_says_what_it_does_not_show():
    assert "a model that masks its gradients is not found out" in limits(standard_suite(0.5, 10, norm="l2"))
    assert "a model that masks its gradients is not found out" in limits(standard_suite(0.1, 10, passes=5))
    assert "square alone needs no gradients" in limits(standard_suite(0.1, 10))


def test_masked_gradients_are_found_out_by_the_suite():
    """A model whose gradient is zero everywhere: PGD cannot move, Square does not care."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = slow.tiny_model()

        def forward(self, x):
            return self.inner((x * 50).round() / 50)

    model = Masked()
    pgd = PGD(0.1, 10, start="natural")(model, IMAGE, LABEL)
    attacks = standard_suite(0.1, 5, steps=5, queries=100)
    found = worst_case(model, IMAGE, LABEL, attacks, generator=torch.Generator().manual_seed(0))
    assert torch.equal(right(model, pgd), right(model, IMAGE))
    assert int(found.robust.sum()) < int(right(model, IMAGE).sum())


def test_a_model_that_draws_is_judged_by_the_mean_of_its_answers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.3), slow.tiny_model())

    class Always(nn.Module):
        def forward(self, x):
            model.train()  # dropout stays on
            model[1].eval()
            return model(x)

    suite = standard_suite(0.02, 5, steps=4, targets=1, passes=8)
    found = worst_case(Always(), IMAGE, LABEL, suite, passes=32)
    assert 0 < int((found.broken_by >= 0).sum()) <= len(IMAGE)


# --- curves ---------------------------------------------------------------------------------------------------
def test_curves_fall_and_warm_starts_are_not_weaker():
    model = slow.tiny_model()
    budgets = [0.005, 0.01, 0.02, 0.04, 0.08]
    attacks = {eps: PGD(eps, 4, 0.005, start="natural", drop_fooled=True) for eps in budgets}
    warm, cold = (robustness_curve(model, IMAGE, LABEL, attacks, warm_start=w) for w in (True, False))
    assert torch.equal(warm[0], right(model, IMAGE))
    assert bool((warm[:-1] | ~warm[1:]).all()), "a broken image stays broken"
    assert warm.shape == (6, len(IMAGE))
    assert bool((warm.sum(1) <= cold.sum(1)).all()), "steps add up: 4, 8, 12, ..."
    assert warm[3:].any()
    assert not warm[-1].all()


def test_the_first_budget_of_a_curve_is_the_attack_itself():
    model = slow.tiny_model()
    attack = PGD(0.02, 6, start="natural")
    curve = robustness_curve(model, IMAGE, LABEL, {0.02: attack})
    assert torch.equal(curve[1], right(model, IMAGE) & right(model, attack(model, IMAGE, LABEL)))


def test_a_curve_of_a_model_that_draws_counts_means_of_answers():
    attacks = {0.1: lambda model, image, label, **_: image}
    once, thrice = (robustness_curve(WrongEveryThirdTime(), IMAGE, LABEL, attacks, passes=passes) for passes in (1, 3))
    assert not once.any()
    assert thrice.all()


def test_budgets_must_rise():
    with pytest.raises(BadInput, match="must rise"):
        robustness_curve(slow.tiny_model(), IMAGE, LABEL, {0.2: PGD(0.2), 0.1: PGD(0.1)})
