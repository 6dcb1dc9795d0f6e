# SPDX-License-Identifier: Apache-2.0
"""Towards Semi-Supervised Deep Facial Expression Recognition with An Adaptive Confidence Margin.

Hangyu Li, Nannan Wang, Xi Yang, Xiaoyu Wang, Xinbo Gao, CVPR 2022, arXiv 2203.12341.

A fixed threshold of 0.95 wastes most unlabelled faces, since classes differ in how sure a model can be of them. Here
each class has a margin of its own, and every unlabelled face has work to do: above the margin its pseudo-label teaches,
below it its two views must agree.

    p     = (softmax o(a) + softmax o(b)) / 2      two weak views a, b;   q = max p, c = argmax p      (no gradient)
    I     = {q >= T_c},  II = {q < T_c}
    L_s   = CE(o(x), y)                                         labelled faces
    L_u   = (1/B) sum over I of CE(o(s), c)                     strong view s; B counts all unlabelled faces
    L_c   = NT-Xent of the features of a and b over II          (`contrast`)
    L     = 0.5 L_s + 1.0 L_u + 0.1 L_c
    T_c   = max(0.8, 0.97 m_c / (1 + e^-epoch)),  m_c the mean confidence of labelled faces of c that are right

T, and every answer, comes from a teacher: an exponential moving average of the network, buffers included. T is 0.8 for
all classes in the first two epochs, and is at most 0.97.

Differences from the paper
    * An epoch's margins are found at the start of the next one, so those of the last epoch are not.
    * The labelled and unlabelled faces of an epoch go round without gaps; the released loaders drop incomplete rounds.
    * Posterised faces keep 4 to 8 bits, each as likely. Rotations, shears and shifts interpolate linearly.
    * The margin of the padded crop is 8 of 224 pixels at other sizes, too.
    * With several processes each makes its own L_c.
    * `scale` multiplies the logits. The paper's is 1, at which it takes thousands of steps until a face passes 0.8.

Example:
    >>> adaptive_margin(torch.tensor([0.99, 0.5]), epoch=3)
    tensor([0.9148, 0.8000])
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from mien.classification.data import Labelled
from mien.classification.method import ImageClassifier, cross_entropy
from mien.engine import Epoch, Phase
from mien.engine.evaluation import predictions
from mien.engine.method import Losses, Optimizers
from mien.errors import BadInput, unknown_name
from mien.faces.data import FaceViews, Labels, Views, WeakLabelled
from mien.faces.expression import RAFDB, Expression, unit_classifier
from mien.nn.ema import ema_update
from mien.nn.network import Classifier, Network
from mien.optim.recipe import Recipe

Kind = Literal["adaptive", "ramp", "fixed"]
Chosen = Literal["confident", "random"]

PAPER_LABELS = Labels(total="auto")


@dataclass(frozen=True)
class Margin:
    """T, the confidence from which on a pseudo-label teaches.

    Args:
        kind: "adaptive", the paper's. Two to compare it with: "ramp", the same rise for all classes, m_c = 1; "fixed",
            `floor` for ever.
        floor: Least margin and the first one, in [0, 1].
        beta: The margin is at most this share of the mean confidence, in (0, 1].
        gamma: How fast it rises, above 1.
        chosen: "random" is a control: as many faces as are confident, but any.

    Raises:
        BadInput: For a value outside its range.
    """

    kind: Kind = "adaptive"
    floor: float = 0.8
    beta: float = 0.97
    gamma: float = math.e
    chosen: Chosen = "confident"

    def __post_init__(self) -> None:
        if self.kind not in ("adaptive", "ramp", "fixed"):
            raise unknown_name("margin.kind", self.kind, ("adaptive", "ramp", "fixed"))
        if self.chosen not in ("confident", "random"):
            raise unknown_name("margin.chosen", self.chosen, ("confident", "random"))
        if not 0 <= self.floor <= 1:
            raise BadInput(f"margin.floor is {self.floor}: it must lie in [0, 1]")
        if not 0 < self.beta <= 1:
            raise BadInput(f"margin.beta is {self.beta}: it must lie in (0, 1]")
        if not 1 < self.gamma < math.inf:
            raise BadInput(f"margin.gamma is {self.gamma}: it must be above 1")


def adaptive_margin(
    confidence: Tensor, epoch: int, floor: float = 0.8, beta: float = 0.97, gamma: float = math.e
) -> Tensor:
    """T = max(floor, beta m / (1 + gamma^-epoch)), (C,).

    Args:
        confidence: m, (C,); NaN for a class none of whose faces is right, which gets the floor.
        epoch: Epochs made so far, at least 1.
        floor: Least margin.
        beta: Share of m.
        gamma: Above 1.
    """
    return (beta * confidence / (1 + gamma**-epoch)).nan_to_num(floor).clamp_min(floor)


def mean_confidence(posterior: Tensor, label: Tensor) -> Tensor:
    """m: mean of max p over the faces of each class that are classified rightly, (C,); NaN where there are none.

    >>> mean_confidence(torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4]]), torch.tensor([0, 0, 1]))
    tensor([0.8000,    nan])
    """
    top, found = posterior.max(dim=1)
    right = F.one_hot(label, posterior.shape[1]).T.to(posterior.dtype) * (found == label)
    return (right @ top) / right.sum(dim=1)


def partition(first: Tensor, second: Tensor, margin: Tensor) -> tuple[Tensor, Tensor]:
    """Which faces belong to subset I, (B,) bool, and their pseudo-labels (B,).

    Args:
        first: Logits (B, C) of one weak view.
        second: Of the other one.
        margin: T, (C,).
    """
    confidence, label = ((first.detach().softmax(1) + second.detach().softmax(1)) / 2).max(dim=1)
    return confidence >= margin[label], label


def contrast(first: Tensor, second: Tensor, temperature: float = 0.07) -> Tensor:
    """L_c: NT-Xent of unit features of two views, (N, d) each; zeros for N = 0 and N = 1, still connected.

    L = -(1/2N) sum_i log( exp(f_i f_j(i) / t) / sum_{k != i} exp(f_i f_k / t) ),  j(i) the other view of i.
    """
    count = len(first)
    feature = torch.cat([first, second])
    similar = (feature @ feature.T / temperature).float()
    own = torch.eye(2 * count, dtype=torch.bool, device=feature.device)
    partner = torch.arange(2 * count, device=feature.device).roll(count)
    return F.cross_entropy(similar.masked_fill(own, -math.inf), partner, reduction="sum") / max(2 * count, 1)


class AdaCM(ImageClassifier):
    """Ada-CM: expressions from few labelled and many unlabelled faces, with a confidence margin for each class.

    Args:
        network: The trunk (paper: ResNet-18 with weights of MS-Celeb-1M; give yours with `network.weights`).
        optimizer: How it is trained.
        image_size: Height and width in pixels of the images that it is given.
        classes: Names of the classes; None for those of the training data (in Python: RAF-DB's).
        leave_out: Names of classes whose faces are not used.
        labels: Which faces keep their label (paper: 4000 of RAF-DB's, where the data have as many).
        margin: The confidence margin.
        iterations: Updates that make an epoch.
        labelled_batch: Labelled faces in a batch.
        unlabelled_batch: Unlabelled faces in a batch.
        supervised_weight: Of L_s.
        unsupervised_weight: Of L_u.
        contrast_weight: Of L_c.
        temperature: Of L_c, above 0.
        dropout: Before the features are scaled to unit length, in [0, 1).
        scale: Of the logits, above 0.
        teacher_decay: Of the moving average, in [0, 1).
        shrink: After every update all weights are multiplied by 1 - shrink lr, 0 or more.
    """

    name = "ada-cm"
    augmentation: ClassVar[Any] = "none"  # the views are the method's own
    scope = (
        "Names the expression that a face shows, in the opinion of a model that learned most of its faces from its own "
        "guesses. What a face shows is not what a person feels; classes with few labels are read less well."
    )
    threshold: Tensor
    dropout: float
    scale: float

    def __init__(
        self,
        *,
        network: Network = Network("resnet18", normalise="backbone"),
        optimizer: Recipe = Recipe(kind="adam", lr=5e-4, weight_decay=0.0),
        image_size: int = 224,
        classes: Sequence[str] | None = None,
        leave_out: Sequence[str] = (),
        labels: Labels = PAPER_LABELS,
        margin: Margin = Margin(),
        iterations: int = 800,
        labelled_batch: int = 16,
        unlabelled_batch: int = 16,
        supervised_weight: float = 0.5,
        unsupervised_weight: float = 1.0,
        contrast_weight: float = 0.1,
        temperature: float = 0.07,
        dropout: float = 0.5,
        scale: float = 1.0,
        teacher_decay: float = 0.999,
        shrink: float = 0.02,
    ) -> None:
        if not 0 <= dropout < 1 or not 0 <= teacher_decay < 1:
            raise BadInput(f"dropout is {dropout}, teacher_decay is {teacher_decay}: both must lie in [0, 1)")
        for name, value in (("temperature", temperature), ("scale", scale)):
            if not 0 < value < math.inf:
                raise BadInput(f"{name} is {value}: it must be above 0")
        for name, value in (
            ("supervised_weight", supervised_weight),
            ("unsupervised_weight", unsupervised_weight),
            ("contrast_weight", contrast_weight),
            ("shrink", shrink),
        ):
            if not 0 <= value < math.inf:
                raise BadInput(f"{name} is {value}: it must be 0 or more")
        for name, count in (
            ("iterations", iterations),
            ("labelled_batch", labelled_batch),
            ("unlabelled_batch", unlabelled_batch),
        ):
            if count < 1:
                raise BadInput(f"{name} is {count}: it must be at least 1")
        self.dropout, self.scale = dropout, scale  # before the network is built
        names = RAFDB if classes is None else classes
        kept = [name for name in names if name not in leave_out]
        super().__init__(network=network, optimizer=optimizer, image_size=image_size, classes=kept)
        self.leave_out, self.labels, self.margin, self.iterations = tuple(leave_out), labels, margin, iterations
        self.labelled_batch, self.unlabelled_batch = labelled_batch, unlabelled_batch
        self.supervised_weight, self.unsupervised_weight = supervised_weight, unsupervised_weight
        self.contrast_weight, self.temperature = contrast_weight, temperature
        self.teacher_decay, self.shrink = teacher_decay, shrink
        self.teacher = copy.deepcopy(self.classifier).requires_grad_(False)
        self.register_buffer("threshold", torch.full((len(self.classes),), margin.floor))

    def build_network(self) -> Classifier:
        """The trunk with unit features and a linear layer."""
        return unit_classifier(self.network, len(self.classes), self.image_size, self.dropout, self.scale)

    # --- epochs -----------------------------------------------------------------------------------------------
    def batches_per_epoch(self) -> int:
        """`iterations`."""
        return self.iterations

    def begin_epoch(self, epoch: int, data: Dataset[Any]) -> Epoch | None:
        """The margins, from what the teacher makes of the labelled faces; then the batches."""
        if not isinstance(data, FaceViews):
            raise BadInput(f"{self.name} trains on mien.faces.data.FaceViews, not on {type(data).__name__}")
        if epoch:
            self.threshold.copy_(self.margins(data, epoch))
            for name, value in zip(self.classes, self.threshold.tolist(), strict=True):
                self.log(f"margin/{name}", value)
        return Epoch(order=self._order(data))

    def margins(self, data: FaceViews, epoch: int) -> Tensor:
        """T after `epoch` epochs, (C,), on the CPU."""
        how = self.margin
        if how.kind == "fixed":
            return torch.full((len(self.classes),), how.floor)
        confidence = torch.ones(len(self.classes))
        if how.kind == "adaptive":
            answers = list(predictions(self, WeakLabelled(data, epoch), 64))
            posterior = torch.cat([answer.logits.float().softmax(dim=1).cpu() for _, answer in answers])
            confidence = mean_confidence(posterior, torch.cat([batch.label.cpu() for batch, _ in answers]))
            for name, value in zip(self.classes, confidence.tolist(), strict=True):
                if math.isfinite(value):
                    self.log(f"confidence/{name}", value)
        return adaptive_margin(confidence, epoch, how.floor, how.beta, how.gamma)

    def _order(self, data: FaceViews) -> Tensor:
        """Batches (iterations, processes x both kinds): each process gets labelled faces, then unlabelled ones."""
        generator, ranks = self.session.shared_generator(), self.session.world_size
        columns = []
        for hidden, size in ((False, self.labelled_batch), (True, self.unlabelled_batch)):
            rows = torch.nonzero((data.label < 0) == hidden)[:, 0]
            drawn = rounds(rows, self.iterations * ranks * size, len(data), generator)
            columns.append(drawn.view(self.iterations, ranks, size))
        return torch.cat(columns, dim=2).flatten(1)

    # --- an update --------------------------------------------------------------------------------------------
    def optimizers(self, phase: Phase) -> Optimizers:
        """One optimiser over the network; the teacher follows."""
        optimizer = self.optimizer.build(self.classifier.parameters(), phase.total_steps)
        self.__dict__["_optimizer"] = optimizer[0]
        return {"main": optimizer}

    def losses(self, batch: Labelled) -> Losses:
        """0.5 L_s + 1.0 L_u + 0.1 L_c, from four passes: batch norm sees each kind of view alone."""
        assert isinstance(batch, Views)
        assert isinstance(batch.label, Tensor)
        assert batch.second is not None
        assert batch.strong is not None
        hidden = batch.label < 0
        with _gradients(self.contrast_weight):  # without L_c these only say what the pseudo-labels are
            logits_a, feature_a = self.classifier.with_features(batch.image[hidden])
            logits_b, feature_b = self.classifier.with_features(batch.second[hidden])
        labelled = self.classifier(batch.image[~hidden])
        with _gradients(self.unsupervised_weight):
            strong = self.classifier(batch.strong[hidden])
        chosen, pseudo = partition(logits_a.float(), logits_b.float(), self.threshold)
        if self.margin.chosen == "random":
            chosen = chosen[torch.randperm(len(chosen)).to(chosen.device)]
        self.log("subset_one", chosen.float().mean() if len(chosen) else 0.0)
        each = F.cross_entropy(strong.float(), pseudo, reduction="none")
        return {
            "supervised": self.supervised_weight * cross_entropy(labelled.float(), batch.label[~hidden]),
            "unsupervised": self.unsupervised_weight * (each * chosen).sum() / max(len(each), 1),
            "contrast": self.contrast_weight
            * contrast(feature_a[~chosen].float(), feature_b[~chosen].float(), self.temperature),
        }

    @torch.no_grad()
    def after_step(self) -> None:
        """The teacher follows; then all weights of the network shrink a little."""
        ema_update(self.teacher, self.classifier, self.teacher_decay)
        if self.shrink:
            rate = self.__dict__["_optimizer"].param_groups[0]["lr"]
            for value in self.classifier.state_dict().values():
                if value.is_floating_point():
                    value.mul_(1 - self.shrink * rate)

    # --- answers ----------------------------------------------------------------------------------------------
    def predict(self, batch: Labelled) -> Expression:
        """Logits and features of the teacher."""
        logits, feature = self.teacher.with_features(batch.image)
        return Expression(logits, feature)


def _gradients(weight: float) -> AbstractContextManager[object]:
    """Gradients for a loss that counts; batch norm learns from the pass either way."""
    return nullcontext() if weight else torch.no_grad()


def rounds(rows: Tensor, count: int, offset: int, generator: torch.Generator) -> Tensor:
    """`count` of `rows`, round after round in a new order; the n-th round's are raised by n `offset`."""
    turns = -(-count // len(rows))
    drawn = [rows[torch.randperm(len(rows), generator=generator)] + turn * offset for turn in range(turns)]
    return torch.cat(drawn)[:count]
