# SPDX-License-Identifier: Apache-2.0
"""Labels made wrong on purpose. Every generator gives the noisy labels and the true transition rows.

The row of an image is the distribution of its noisy label given its true one, (K,). It is the row of the true class in
the image's transition matrix T(x), T_ij(x) = P(noisy label j | true label i, x).

    symmetric     exactly round(rate N) labels are changed, each to another class, all alike
    asymmetric    of the n images of a class exactly round(rate n) are changed to one other class
    instance      q_i ~ N(rate, 0.1^2) truncated to (0, 1),  W ~ N(0, 1)^(d x K) once,  s_i = x_i W with s_i,y = -inf
                  row_i = q_i softmax(s_i), with 1 - q_i at the true class y; the noisy label is drawn from the row

Pixels x are raw, 0 to 255, so that the softmax is nearly an argmax: similar images go wrong in the same way. For
`instance` the share of wrong labels is the rate in expectation only, a little above it where the normal is cut at 0
(0.129 at a rate of 0.1); a rate of 0 changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from mien.errors import BadInput, unknown_name

Kind = Literal["none", "given", "symmetric", "asymmetric", "instance"]
KINDS: tuple[Kind, ...] = ("none", "given", "symmetric", "asymmetric", "instance")
SPREAD = 0.1
"""Standard deviation of the flip rates of single images."""

NoisyLabels = tuple[Tensor, Tensor]
"""Noisy labels (N,) and true transition rows (N, K)."""


@dataclass(frozen=True)
class Noise:
    """How the training labels are made wrong. The default leaves them as they are: real ones may be wrong already.

    Args:
        kind: "none"; "given" takes wrong labels from `file`; "symmetric", "asymmetric" or "instance" make them.
        rate: Share of labels to be made wrong, in [0, 1).
        seed: What is drawn follows from it; None for the run's seed.
        flips: Of "asymmetric": which class becomes which, such as "cat:dog"; classes not named stay right. None makes
            every class the next one.
        file: Of "given": .csv or .npz, beside the data or an absolute path; `mien.supervision.data.given_labels` says
            what is in it.

    Raises:
        BadInput: For a value outside its range, or one that the kind has no use for.
    """

    kind: Kind = "none"
    rate: float = 0.0
    seed: int | None = None
    flips: tuple[str, ...] | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("kind of noise", self.kind, KINDS)
        check_rate(self.rate)
        if self.rate and not self.synthetic:
            raise BadInput(
                f"noise.rate is {self.rate} and noise.kind {self.kind!r}: use symmetric, asymmetric, instance"
            )
        if (self.file is not None) != (self.kind == "given"):
            raise BadInput(
                f"noise.file is {self.file!r} and noise.kind {self.kind!r}: given needs a file, others do not"
            )
        if self.flips is not None and self.kind != "asymmetric":
            raise BadInput(f"noise.flips is {list(self.flips)}, noise.kind {self.kind!r}: flips are for asymmetric")
        if self.seed is not None and self.seed < 0:
            raise BadInput(f"noise.seed is {self.seed}: it must be 0 or more")

    @property
    def synthetic(self) -> bool:
        """Whether labels are made wrong here, so that the truth is known."""
        return self.kind in ("symmetric", "asymmetric", "instance")

    def seeded(self, seed: int) -> Noise:
        """The same with `seed` in the place of None."""
        return self if self.seed is not None else replace(self, seed=seed)

    def make(self, label: Tensor, classes: Sequence[str], pixels: Iterable[Tensor]) -> NoisyLabels:
        """Noisy labels and true rows for labels (N,); `pixels` as for `instance_dependent`, asked for only there."""
        if not self.rate:
            return label.clone(), one_hot(label, len(classes))
        generator = torch.Generator().manual_seed(self.seed or 0)
        if self.kind == "symmetric":
            return symmetric(label, len(classes), self.rate, generator)
        if self.kind == "asymmetric":
            return asymmetric(label, flip_targets(self.flips, classes), self.rate, generator)
        return instance_dependent(pixels, label, len(classes), self.rate, generator)


def check_rate(rate: float) -> None:
    """Raise BadInput for a noise rate outside [0, 1)."""
    if not 0 <= rate < 1:
        raise BadInput(f"noise.rate is {rate}: it must lie in [0, 1)")


def one_hot(label: Tensor, classes: int) -> Tensor:
    """(N,) -> (N, classes), float32."""
    return torch.nn.functional.one_hot(label, classes).float()


def symmetric(label: Tensor, classes: int, rate: float, generator: torch.Generator) -> NoisyLabels:
    """Exactly round(rate N) labels, drawn without replacement, become one of the other classes, all alike.

    >>> noisy, rows = symmetric(torch.zeros(10, dtype=torch.long), 3, 0.4, torch.Generator().manual_seed(0))
    >>> int((noisy != 0).sum()), rows[0]
    (4, tensor([0.6000, 0.2000, 0.2000]))
    """
    check_rate(rate)
    noisy, chosen = label.clone(), _chosen(len(label), rate, generator)
    noisy[chosen] = (label[chosen] + torch.randint(1, classes, (len(chosen),), generator=generator)) % classes
    right = one_hot(label, classes)
    return noisy, (1 - rate) * right + rate / (classes - 1) * (1 - right)


def asymmetric(label: Tensor, target: Tensor, rate: float, generator: torch.Generator) -> NoisyLabels:
    """Of the n images of class c exactly round(rate n), drawn without replacement, become class target[c].

    Args:
        label: True classes, (N,).
        target: What each class becomes, (K,); a class that becomes itself stays right.
        rate: In [0, 1).
        generator: On the CPU.
    """
    check_rate(rate)
    noisy = label.clone()
    for c, becomes in enumerate(target.tolist()):
        members = torch.nonzero(label == c)[:, 0]
        noisy[members[_chosen(len(members), rate, generator)]] = becomes
    classes = len(target)
    return noisy, (1 - rate) * one_hot(label, classes) + rate * one_hot(target[label], classes)


def _chosen(count: int, rate: float, generator: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=generator)[: round(rate * count)]


def flip_targets(flips: Sequence[str] | None, classes: Sequence[str]) -> Tensor:
    """What each class becomes, (K,): the next one, or as `flips` ("cat:dog") say.

    >>> flip_targets(["cat:dog", "dog:cat"], ["bird", "cat", "dog"])
    tensor([0, 2, 1])
    """
    names = list(classes)
    if flips is None:
        return (torch.arange(len(names)) + 1) % len(names)
    target = torch.arange(len(names))
    for flip in flips:
        first, colon, second = flip.partition(":")
        if not colon:
            raise BadInput(f"noise.flips has {flip!r}: write FROM:TO, such as cat:dog")
        for name in (first, second):
            if name not in names:
                raise unknown_name("class in noise.flips", name, names)
        if target[names.index(first)] != names.index(first):
            raise BadInput(f"noise.flips turns {first!r} into two classes: name it once")
        target[names.index(first)] = names.index(second)
    return target


def instance_dependent(
    pixels: Iterable[Tensor], label: Tensor, classes: int, rate: float, generator: torch.Generator
) -> NoisyLabels:
    """Noise that depends on the image; the equations are at the top of the file.

    Args:
        pixels: x, chunks (n, d) of raw pixel values in [0, 255], N rows in all, in the order of `label`.
        label: y, true classes, (N,).
        classes: K.
        rate: Mean of the flip rates before truncation, in (0, 1).
        generator: On the CPU. W is drawn first, so it follows from the seed, d and K alone: test images that are given
            the same seed have the same W.
    """
    check_rate(rate)
    weight: Tensor | None = None
    parts: list[Tensor] = []
    for chunk in pixels:
        if weight is None:
            weight = torch.randn(chunk.shape[1], classes, generator=generator)
        parts.append(chunk @ weight)
    score = torch.cat([*parts, torch.zeros(0, classes)]).double()
    score = score.scatter(1, label[:, None], -math.inf)
    q = flip_rates(len(label), rate, generator)[:, None]
    rows = (q * score.softmax(dim=1)).scatter(1, label[:, None], 1 - q)
    noisy = torch.multinomial(rows, 1, generator=generator)[:, 0] if len(rows) else label.clone()
    return noisy, rows.float()


def flip_rates(count: int, rate: float, generator: torch.Generator) -> Tensor:
    """Rates q ~ N(rate, 0.1^2) truncated to (0, 1), (count,) in float64, by inverse distribution function."""
    low, high = (torch.special.ndtr(torch.tensor((end - rate) / SPREAD, dtype=torch.float64)) for end in (0.0, 1.0))
    share = torch.rand(count, generator=generator, dtype=torch.float64)
    return (rate + SPREAD * torch.special.ndtri(low + share * (high - low))).clamp(1e-12, 1 - 1e-12)
