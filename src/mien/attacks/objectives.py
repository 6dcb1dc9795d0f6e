# SPDX-License-Identifier: Apache-2.0
"""What an attack makes larger: one number per image, from the logits and what they are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mien.errors import BadInput

Objective = Callable[[Tensor, Tensor], Tensor]
"""(logits of B images, what they are compared with, first axis B) -> (B,), which the attack makes larger."""

ObjectiveName = Literal["ce", "margin", "dlr", "dlr_targeted", "kl", "targeted"]

SCALE_FLOOR = 1e-12
"""Keeps the scale of the DLR losses above zero where the largest logits are equal."""


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy in nats, (B, C) and (B,) -> (B,)."""
    return F.cross_entropy(logits, label, reduction="none")


def margin(logits: Tensor, label: Tensor) -> Tensor:
    """max_{j != y} z_j - z_y, (B, C) and (B,) -> (B,): above zero where the class is wrong.

    Source: Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks, S&P 2017.

    >>> margin(torch.tensor([[2.0, 5.0, 1.0]]), torch.tensor([0]))
    tensor([3.])
    """
    own = label[:, None]
    others = logits.scatter(1, own, -torch.inf).amax(dim=1)
    return others - logits.gather(1, own)[:, 0]


def dlr(logits: Tensor, label: Tensor) -> Tensor:
    """-(z_y - max_{j != y} z_j) / (z_(1) - z_(3)), z_(i) the i-th largest logit: the margin without a scale.

    Source: Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
    Attacks, ICML 2020, eq. 6. Needs three classes.
    """
    ranked = _ranked(logits, 3, "dlr")
    return margin(logits, label) / (ranked[:, 0] - ranked[:, 2]).clamp_min(SCALE_FLOOR)


def dlr_targeted(logits: Tensor, pair: Tensor) -> Tensor:
    """-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2): as `dlr`, towards the class t. Needs four classes.

    Args:
        logits: (B, C).
        pair: (B, 2), label and target class.
    """
    ranked = _ranked(logits, 4, "dlr_targeted")
    own, target = (logits.gather(1, pair[:, i : i + 1])[:, 0] for i in (0, 1))
    return (target - own) / (ranked[:, 0] - (ranked[:, 2] + ranked[:, 3]) / 2).clamp_min(SCALE_FLOOR)


def kl(logits: Tensor, natural: Tensor) -> Tensor:
    """KL(softmax(natural) || softmax(logits)), (B, C) each -> (B,): how far an answer is from that without attack."""
    p = natural.log_softmax(dim=1)
    return (p.exp() * (p - logits.log_softmax(dim=1))).sum(dim=1)


def targeted(logits: Tensor, target: Tensor) -> Tensor:
    """-CE(logits, target), (B, C) and (B,) -> (B,): larger when the answer is closer to the class `target`."""
    return -cross_entropy(logits, target)


OBJECTIVES: dict[ObjectiveName, Objective] = {
    "ce": cross_entropy,
    "margin": margin,
    "dlr": dlr,
    "dlr_targeted": dlr_targeted,
    "kl": kl,
    "targeted": targeted,
}


def _ranked(logits: Tensor, count: int, name: str) -> Tensor:
    if logits.shape[1] < count:
        raise BadInput(f"loss {name!r} needs at least {count} classes, here are {logits.shape[1]}: use margin or ce")
    return logits.topk(count, dim=1).values
