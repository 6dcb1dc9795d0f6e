# SPDX-License-Identifier: Apache-2.0
"""Thinking Racial Bias in Fair Forgery Detection: Models, Datasets and Evaluations.

Liu, Wang, Peng, Wang, Hu, Gao, AAAI 2025, arXiv 2407.14367.

The paper's measures are in `mien.metrics.fairness`, the reader of its test set in `mien.forensics.readers.fairfd`;
`mien audit` uses both.
This file is Bias Pruning with Fair Activations (BPFA): a weight that is small and feeds a channel whose activation
differs between groups is cheap to lose and costly to keep. For every convolution l with weights W of output channels c,
and REAL images of every group g, in eval mode:

    mean_g[c]  = mean over images of the convolution's own output, before norm and activation, (h, w)
    n_{g,c}    = || mean_g[c] ||_F,    b_c = population std over groups of n_{g,c}
    S[c, ...]  = |W[c, ...]| / b_c

and in every convolution on its own the int(rho numel(W)) weights with the lowest score become 0, rho = 0.001. Biases,
norms and linear heads stay, and nothing is trained afterwards. Baselines: "weight", S = |W|; "activation", S = 1 / b_c;
and "random", the control that the paper lacks.

Rules: ties go to the lowest flat index. A channel with b_c = 0 is protected: S = infinity, also where W = 0; a layer in
which all are protected is left alone. There is no epsilon. Layers are matched by the names of modules. Calibrate on
held-out images, never on those that are tested on.

`prune` works on any trained network. The method `fairfd` trains a network with cross-entropy while it keeps a share of
the persons of every group out, and when training ends it calibrates on their real faces and prunes once.

Differences from the paper
    * Detectors come trained there, and are calibrated on the real images of the test set; here on persons kept out of
      training and test.
    * Activations are matched by name. The paper's notebook stores them in the order in which layers run and reads them
      in the order in which they are declared.
    * Protected weights are never pruned, also where fewer others are left than rho asks for.
    * A convolution that runs several times in a pass counts each time as a further image; one that does not run is left
      alone. Convolutions of one and three dimensions are treated alike, transposed ones are left alone.
    * The groups need not be races: any attribute that the data name. Without one nothing is pruned. A group without a
      real image to calibrate on is refused: b_c is taken over all groups or not at all.
    * Pruning ends the training. With `monitor`, what is kept as the best may be from before it, where that validated
      better.

Example:
    >>> from mien.nn.network import Network
    >>> FairFD(network=Network("tiny_cnn"), image_size=64).rho
    0.001
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.data.splits import split_by_group
from mien.engine import Epoch, Phase
from mien.errors import BadInput
from mien.forensics.detector import NetworkDetector, ScoreForm
from mien.forensics.parts.pruning import (
    Pruning,
    check,
    groups_and_reals,
    mean_maps,
    names_groups,
    prune,
    prune_,
    real_images,
)
from mien.metrics.intervals import Interval
from mien.nn.network import Network
from mien.optim.recipe import Recipe

__all__ = ["FairFD", "prune"]


class FairFD(NetworkDetector):
    """FairFD: a detector trained with cross-entropy, then pruned by fair activations.

    Args:
        network: The classifier.
        optimizer: How it is trained.
        image_size: Height and width in pixels of the images that it is given.
        score: How two logits become one score.
        rho: Share of each convolution's weights that is pruned, in [0, 1).
        pruning: "bpfa", or a baseline: "weight", "activation", "random".
        group_by: The attribute that makes the groups; None for race, or the only one that the data have.
        calibration: Share of the persons who are kept out of training to calibrate on, in (0, 1).
        seed: Who they are follows from it, and what "random" prunes.
    """

    name = "fairfd"

    def __init__(
        self,
        *,
        network: Network = Network(),
        optimizer: Recipe = Recipe(betas=(0.9, 0.95)),
        image_size: int = 224,
        score: ScoreForm = "softmax",
        rho: float = 0.001,
        pruning: Pruning = "bpfa",
        group_by: str | None = None,
        calibration: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__(network=network, optimizer=optimizer, image_size=image_size, score=score)
        check(rho, pruning)
        if not 0 < calibration < 1:
            raise BadInput(f"calibration is {calibration}: it must lie in (0, 1)")
        self.rho, self.pruning, self.group_by = rho, pruning, group_by
        self.calibration, self.seed = calibration, seed
        self._divided: tuple[Dataset[Any], tuple[list[int], dict[str, list[int]]]] | None = None
        self.register_buffer("zeroed", torch.tensor(0))
        """How many weights were pruned; 0 before the end of training."""

    zeroed: Tensor

    def begin_phase(self, phase: Phase, data: Dataset[Any]) -> None:
        """Refuse data that could not be calibrated on at the end, before anything is trained."""
        self.parts(data)

    def samples_per_epoch(self, phase: Phase, data: Dataset[Any]) -> int:
        """Those of the persons who are not kept out."""
        self._divided = None  # asked first in every phase: what an interrupted one left may be of data that changed
        return len(self.parts(data)[0])

    def begin_epoch(self, epoch: int, data: Dataset[Any]) -> Epoch | None:
        """Train on the persons who are not kept out."""
        train, _ = self.parts(data)
        return Epoch(indices=torch.tensor(train))

    def end_phase(self, phase: Phase, data: Dataset[Any]) -> None:
        """Calibrate on the real faces of the persons who were kept out, and prune once."""
        _, held = self.parts(data)
        self._divided = None
        if held:
            spreads = mean_maps(self, data, held).spreads()
            self.zeroed.fill_(sum(prune_(self, spreads, rho=self.rho, pruning=self.pruning, seed=self.seed).values()))

    def further_figures(self, data: Dataset[Any], *, batch_size: int = 64, seed: int = 0) -> Mapping[str, Interval]:
        """How many weights were pruned; 0 where the training data said nothing about who is seen."""
        count = float(self.zeroed)
        return {"pruned_weights": Interval(count, count, count)}

    def card(self) -> str:
        """The model card, with what was pruned."""
        count = int(self.zeroed)
        line = f"{count} weights were pruned." if count else "Nothing was pruned: the data named no groups, or not yet."
        return f"{super().card()}\n{line}\n"

    def parts(self, data: Dataset[Any]) -> tuple[list[int], dict[str, list[int]]]:
        """Samples to train on, and of the other persons the real ones of each group; {} where data name no groups.

        They are kept for the phase, since to find them in a data set of the caller's own every sample is read. A run
        that is resumed in the middle of a phase finds them anew.

        Raises:
            BadInput: All data are of one person, or some group has no real image among the persons kept out.
        """
        if self._divided is None or self._divided[0] is not data:
            self._divided = data, self._divide(data)
        return self._divided[1]

    def _divide(self, data: Dataset[Any]) -> tuple[list[int], dict[str, list[int]]]:
        persons = getattr(data, "groups", None)
        if persons is None:  # a data set of the caller's own: each sample is a person
            persons = [str(i) for i in range(len(data))]  # type: ignore[arg-type]
        if len(set(persons)) < 2:
            raise BadInput("all training data are of one person: some persons must be kept out to calibrate on")
        shares = (1 - self.calibration, self.calibration)
        if not names_groups(data):
            return split_by_group(persons, shares, seed=self.seed)[0], {}
        seen = groups_and_reals(data, self.group_by)
        held: set[str] = set()
        for group in {group for group, _ in seen}:  # each on its own: of a small one somebody is kept out, too
            rows = [i for i, (of, _) in enumerate(seen) if of == group]
            names, reals = [persons[i] for i in rows], [seen[i][1] for i in rows]
            if len(set(names)) > 1:
                held.update(names[i] for i in split_by_group(names, shares, seed=self.seed, labels=reals)[1])
        train = [i for i, name in enumerate(persons) if name not in held]
        return train, real_images(seen, [i for i, name in enumerate(persons) if name in held])
