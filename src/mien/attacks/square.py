# SPDX-License-Identifier: Apache-2.0
"""Square attack: random search without gradients. What it finds, masked gradients cannot hide.

Every image starts from vertical stripes of +-eps. A query sets a random square window, in each channel, to +eps or -eps
from the natural image, and is kept where the margin rises. The window's area is p H W, p halved as queries are spent.

Source: Andriushchenko et al., Square Attack: a Query-efficient Black-box Adversarial Attack via Random Search, ECCV
2020 (L-inf).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import torch
from torch import Tensor

from mien.attacks.ball import check_budget, project
from mien.attacks.objectives import OBJECTIVES
from mien.attacks.probe import Model, Worst, attacking, glance, natural_images
from mien.errors import BadInput

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries of 10,000 at which p is halved; they scale with the number of queries."""


@dataclass(frozen=True)
class Square:
    """Settings of the square attack; called, it attacks (see `mien.attacks.probe.Attack`).

    Args:
        eps: L-inf budget in pixel units, in [0, 1].
        queries: Answers asked for each image at most, at least 1.
        share: p at the start, in (0, 1].
        passes: An answer is the mean over so many passes, for models that draw (EOT), at least 1.
    """

    eps: float = 8 / 255
    queries: int = 5000
    share: float = 0.8
    passes: int = 1

    def __post_init__(self) -> None:
        check_budget(self.eps, "linf")
        for name in ("queries", "passes"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not 0 < self.share <= 1:
            raise BadInput(f"share is {self.share}: it must lie in (0, 1]")

    def side(self, query: int, height: int, width: int) -> int:
        """Side of the window of a query, counted from 0, in pixels.

        >>> [Square(queries=10_000).side(q, 32, 32) for q in (0, 10, 50, 9_999)]
        [29, 20, 14, 1]
        """
        p = self.share / 2 ** bisect_right(HALVINGS, query * 10_000 // self.queries)
        return min(max(round((p * height * width) ** 0.5), 1), height, width)

    def __call__(
        self,
        model: Model,
        image: Tensor,
        label: Tensor,
        *,
        generator: torch.Generator | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """The worst images found, by their margin."""
        natural = natural_images(image, label)
        worst = Worst.before(natural)
        if not len(natural):
            return worst.image
        count, channels, height, width = natural.shape
        stripes = self._signs((count, channels, 1, width), natural, generator)
        x = start.detach() if start is not None else natural + self.eps * stripes
        x = project(x, natural, self.eps, "linf")
        rows = torch.arange(count, device=natural.device)
        with attacking(model, "eval"):
            for query in range(self.queries):
                scores, loss = glance(model, x, label[rows], OBJECTIVES["margin"], self.passes)
                worst.see(rows, x, loss, scores.argmax(dim=1) != label[rows])
                if query == self.queries - 1:
                    break
                rows = rows[~worst.fooled[rows]]
                if not len(rows):
                    break
                x = self._window(worst.image[rows], natural[rows], self.side(query, height, width), generator)
        return worst.image

    def _window(self, x: Tensor, natural: Tensor, side: int, generator: torch.Generator | None) -> Tensor:
        """`x` with one square window of every image set to +-eps from `natural`, each channel with its own sign."""
        count, channels, height, width = x.shape
        inside = []
        for axis, length in ((2, height), (3, width)):
            first = torch.randint(length - side + 1, (count, 1, 1, 1), generator=generator).to(x.device)
            place = torch.arange(length, device=x.device).view(*(length if i == axis else 1 for i in range(4)))
            inside.append((place >= first) & (place < first + side))
        signs = self._signs((count, channels, 1, 1), x, generator)
        return torch.where(inside[0] & inside[1], (natural + self.eps * signs).clamp(0, 1), x)

    @staticmethod
    def _signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
        return (torch.randint(2, shape, generator=generator) * 2 - 1).to(like)
