# SPDX-License-Identifier: Apache-2.0
"""Recipes: the optimiser that is built, and the learning rate of every update against a plain loop."""

import math

import pytest
import torch
from torch import nn

from mien.errors import BadInput
from mien.optim.recipe import Recipe


def rates(recipe: Recipe, total: int) -> list[float]:
    optimizer, scheduler = recipe.build(nn.Linear(2, 2).parameters(), total)
    seen = []
    for _ in range(total):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize(
    ("kind", "type_"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_kind_and_values_reach_the_optimizer(kind: str, type_: type) -> None:
    recipe = Recipe(kind=kind, lr=0.02, betas=(0.8, 0.95), momentum=0.7, weight_decay=0.03)  # type: ignore[arg-type]
    optimizer = recipe.optimizer(nn.Linear(2, 2).parameters())
    group = optimizer.param_groups[0]
    assert type(optimizer) is type_  # AdamW is a subclass of Adam: isinstance would not tell them apart
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.03)
    assert group["momentum"] == 0.7 if kind == "sgd" else tuple(group["betas"]) == (0.8, 0.95)


def test_constant_with_warmup() -> None:
    assert rates(Recipe(lr=1.0, warmup_steps=4), 6) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_cosine_after_warmup_ends_at_final_lr() -> None:
    seen = rates(Recipe(lr=2.0, schedule="cosine", warmup_steps=2, final_lr=0.5), 10)
    expected = [1.0, 2.0] + [0.5 + 1.5 * (1 + math.cos(math.pi * i / 8)) / 2 for i in range(8)]
    assert seen == pytest.approx(expected)
    assert Recipe(lr=2.0, schedule="cosine", final_lr=0.5).factor(99, 10) == pytest.approx(0.25)  # never past the end


def test_linear_is_constant_and_then_falls_along_a_line() -> None:
    seen = rates(Recipe(lr=2.0, schedule="linear", final_lr=0.5, decay_from=0.6, warmup_steps=2), 10)
    expected = [1.0] + [2.0] * 6 + [2.0 - 1.5 * i / 4 for i in (1, 2, 3)]
    assert seen == pytest.approx(expected)
    assert Recipe(schedule="linear").factor(10, 10) == 0.0  # a frame of 100 + 100 epochs ends at zero
    assert Recipe(schedule="linear").factor(99, 10) == 0.0  # never past the end
    assert Recipe(schedule="linear", warmup_steps=8).factor(8, 10) == 1.0  # it cannot fall during the warm-up


def test_steps_fall_at_the_milestones() -> None:
    seen = rates(Recipe(lr=1.0, schedule="steps", milestones=(0.3, 0.8), gamma=0.1), 10)
    assert seen == pytest.approx([1] * 3 + [0.1] * 5 + [0.01] * 2)


def test_frozen_parameters_are_left_out_and_all_frozen_is_refused() -> None:
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    assert Recipe().optimizer(layer.parameters()).param_groups[0]["params"] == [layer.weight]
    layer.weight.requires_grad_(False)
    with pytest.raises(BadInput, match="nothing to train"):
        Recipe().optimizer(layer.parameters())


def test_json_lists_make_the_same_recipe() -> None:
    assert Recipe(betas=[0.9, 0.95], milestones=[0.5]) == Recipe(betas=(0.9, 0.95), milestones=(0.5,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad",
    [{"kind": "adagrad"}, {"lr": 0}, {"lr": float("nan")}, {"betas": (0.9, 1.0)}, {"betas": (0.9,)}, {"momentum": 1.0},
     {"momentum": 0.0, "nesterov": True}, {"weight_decay": -1}, {"weight_decay": float("nan")}, {"schedule": "wavy"},
     {"warmup_steps": -1}, {"milestones": (0.8, 0.2)}, {"milestones": (1.0,)}, {"gamma": 0.0}, {"decay_from": 1.0}],
)  # fmt: skip
def test_values_out_of_range_are_refused_by_name(bad: dict) -> None:
    with pytest.raises(BadInput, match=next(iter(bad)) if "nesterov" not in bad else "nesterov"):
        Recipe(**bad)
