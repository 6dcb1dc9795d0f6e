# SPDX-License-Identifier: Apache-2.0
"""Instance-Dependent Label-Noise Learning with Manifold-Regularized Transition Matrix Estimation.

De Cheng, Tongliang Liu, Yixiong Ning, Nannan Wang, Bo Han, Gang Niu, Xinbo Gao, Masashi Sugiyama, CVPR 2022, arXiv
2206.02791. The authors call it MEIDTM.

How a label goes wrong depends on the image, and P(noisy label j | x) = sum_i T_ij(x) P(Y = i | x) has more unknowns
than equations. The method restricts T(x) by a manifold assumption alone: near images have near transition matrices,
near images with different labels have different ones.

    f(x; w) classifier,  T(x; theta) rows by the true class,  g = T(x)^T f(x)        (`mien.supervision.transition`)
    R = -(1/N) sum log g_ybar                                                         forward risk
    M = sum S^I_ij ||T_i - T_j||_F^2 - sum S^B_ij ||T_i - T_j||_F^2                   (`mien.supervision.manifold`)
    warm-up:  L = CE(f, ybar) + mean sum_k f_k log f_k                                on all images
    joint:    L = R + lambda M                                                        on confident images D
    D: in each batch of a pass, the share u of the highest max_k f_k; found anew every 10 epochs

T takes the posterior f(x) as its input, and its gradient flows through it into w. At the start T is the same for every
x, hence M and its gradients are 0, and R alone breaks the tie. An image is classified by f alone.

Differences from the paper
    * Both optimisers step on the gradient at the same weights, from one forward pass of the classifier: the second
      Step takes the posteriors that the first one saw.
    * Of each batch the least confident fifth is left out; the released code leaves out the most confident one, which is
      `Extraction("lowest")`.
    * M is the kNN form on noisy labels and features, divided by the number of edges (1 / B^2 would leave nothing of
      it). The released dense form is `Manifold(form="dense")`.
    * The pass that finds D sees images without augmentation, in batches in random order.
    * The rates of milestones count the joint stage's own steps, over D. The warm-up's rate is constant.
    * The ResNet-34's stem is the usual one for 32 x 32 pixels; the paper's is not stated.
    * The transition network's SGD has no momentum: none is stated.

Example:
    >>> method = MDIT(network=Network("tiny_cnn"), image_size=8, classes=["a", "b"])
    >>> method.transitions(torch.tensor([[1.0, 0.0]]))  # before training: near the identity
    tensor([[[0.9500, 0.0500],
             [0.0500, 0.9500]]], grad_fn=<DivBackward0>)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.classification.data import Labelled
from mien.classification.method import cross_entropy
from mien.engine import Epoch, Phase, Step
from mien.engine.method import Losses, Optimizers
from mien.errors import BadInput, unknown_name
from mien.nn.network import Network
from mien.optim.recipe import Recipe
from mien.supervision.baselines import PAPER, SGD
from mien.supervision.data import label_accuracy, truth_of
from mien.supervision.manifold import Manifold, manifold_term
from mien.supervision.method import WARM_UP, NoisyLabelClassifier
from mien.supervision.noise import Noise
from mien.supervision.transition import TransitionNetwork, forward_risk, noisy_posterior, transition_error

Keep = Literal["highest", "lowest", "all"]


@dataclass(frozen=True)
class Extraction:
    """Which images the joint stage trains on.

    Args:
        keep: "highest" confidence; "lowest", as the released code; "all".
        share: u, in (0, 1].
        every: Epochs until they are found anew.
        batch: Images that are compared with each other.

    Raises:
        BadInput: For a value outside its range.
    """

    keep: Keep = "highest"
    share: float = 0.8
    every: int = 10
    batch: int = 128

    def __post_init__(self) -> None:
        if self.keep not in ("highest", "lowest", "all"):
            raise unknown_name("extraction.keep", self.keep, ("highest", "lowest", "all"))
        if not 0 < self.share <= 1:
            raise BadInput(f"extraction.share is {self.share}: it must lie in (0, 1]")
        for name in ("every", "batch"):
            if getattr(self, name) < 1:
                raise BadInput(f"extraction.{name} is {getattr(self, name)}: it must be at least 1")

    def of(self, posterior: Tensor, generator: torch.Generator) -> Tensor:
        """Rows of the images to train on, rising, from the posteriors (N, K) of all. A batch keeps at least one."""
        if self.keep == "all":
            return torch.arange(len(posterior))
        confidence = posterior.max(dim=1).values
        kept = []
        for rows in torch.randperm(len(posterior), generator=generator).split(self.batch):
            order = confidence[rows].argsort(descending=self.keep == "highest", stable=True)
            kept.append(rows[order[: self._kept(len(rows))]])
        return torch.cat(kept).sort().values

    def count(self, size: int) -> int:
        """How many rows `of` gives of `size` images."""
        if self.keep == "all":
            return size
        return sum(self._kept(min(self.batch, size - start)) for start in range(0, size, self.batch))

    def _kept(self, size: int) -> int:
        return max(round(self.share * size), 1)


@dataclass
class Joint(Labelled):
    """A batch of the joint stage; `seen` is what the classifier's Step leaves for the transition network's."""

    seen: dict[str, Tensor] = field(default_factory=dict)


def negative_entropy(logits: Tensor) -> Tensor:
    """Mean of sum_k p_k log p_k over (B, K) logits; added to a loss it rewards high entropy. B = 0 gives a zero.

    >>> negative_entropy(torch.zeros(1, 4))  # -log 4
    tensor(-1.3863)
    """
    log_p = logits.log_softmax(dim=1)
    return (log_p.exp() * log_p).sum() / max(len(logits), 1)


class MDIT(NoisyLabelClassifier):
    """MDIT: a classifier and an instance-dependent transition matrix, learned together from noisy labels.

    Args:
        network: The classifier (paper: ResNet-34 for CIFAR-10 and SVHN, ResNet-18 for F-MNIST).
        optimizer: Of the classifier; its milestones are those of the joint stage.
        transition_optimizer: Of the transition network (paper: SGD; Adam for F-MNIST).
        image_size: Height and width in pixels of the images that it is given.
        classes: Names of the classes; None for those of the training data (in Python: CIFAR-10's).
        leave_out: Names of classes whose images are not used.
        noise: How the training labels are made wrong.
        warmup_epochs: Passes over all images before the joint stage (paper: 10, for F-MNIST 0).
        extraction: Which images the joint stage trains on.
        manifold: The manifold term.
    """

    name = "mdit"
    dynamic_buffers = ("confident",)
    confident: Tensor

    def __init__(
        self,
        *,
        network: Network = PAPER,
        optimizer: Recipe = SGD,
        transition_optimizer: Recipe = Recipe(kind="sgd", lr=0.005, momentum=0.0, weight_decay=0.0),
        image_size: int = 32,
        classes: Sequence[str] | None = None,
        leave_out: Sequence[str] = (),
        noise: Noise = Noise(),
        warmup_epochs: int = 10,
        extraction: Extraction = Extraction(),
        manifold: Manifold = Manifold(),
    ) -> None:
        super().__init__(
            network=network,
            optimizer=optimizer,
            image_size=image_size,
            classes=classes,
            leave_out=leave_out,
            noise=noise,
            warmup_epochs=warmup_epochs,
        )
        self.transition_optimizer, self.extraction, self.manifold = transition_optimizer, extraction, manifold
        self.transition = TransitionNetwork(len(self.classes))
        self.register_buffer("confident", torch.zeros(0, dtype=torch.long))

    # --- the stages -------------------------------------------------------------------------------------------
    def build_phase(self, phase: Phase) -> None:
        """The warm-up leaves the transition network alone."""
        super().build_phase(phase)
        self.transition.requires_grad_(not self.warming_up)

    def optimizers(self, phase: Phase) -> Optimizers:
        """The classifier's, and in the joint stage the transition network's."""
        classifier = self.classifier.parameters()
        if self.warming_up:
            return {"classifier": self.recipe().build(classifier, phase.total_steps)}
        transition = self.transition_optimizer.build(self.transition.parameters(), phase.total_steps)
        return {"classifier": self.recipe().build(classifier, phase.total_steps), "transition": transition}

    def samples_per_epoch(self, phase: Phase, data: Dataset[Any]) -> int | None:
        """In the joint stage the confident images alone."""
        return None if phase.name == WARM_UP else self.extraction.count(len(data))  # type: ignore[arg-type]

    def begin_epoch(self, epoch: int, data: Dataset[Any]) -> Epoch | None:
        """Find the confident images anew every `extraction.every` epochs of the joint stage."""
        if self.warming_up or self.extraction.keep == "all":
            return None
        if epoch % self.extraction.every == 0:
            posterior = self.posteriors(data, self.extraction.batch)
            self.confident = self.extraction.of(posterior, self.session.shared_generator()).to(self.device)
            self._report(data, posterior)
        return Epoch(indices=self.confident.cpu())

    def end_phase(self, phase: Phase, data: Dataset[Any]) -> None:
        """Which images were confident is not part of a trained model."""
        self.confident = self.confident[:0]

    def _report(self, data: Dataset[Any], posterior: Tensor) -> None:
        """Log how good labels and T are, where the truth is known. Training does not use it."""
        truth = truth_of(data)
        if truth is None:
            return
        rows = self.confident.cpu()
        self.log("confident_label_accuracy", label_accuracy(data.label[rows], truth.label[rows]))  # type: ignore[attr-defined]
        if truth.rows is not None:
            estimate = self.transition_rows(posterior, truth.label)
            assert estimate is not None
            self.log("transition_error", transition_error(estimate, truth.rows))

    # --- losses -----------------------------------------------------------------------------------------------
    def steps(self, batch: Labelled) -> Iterator[Step]:
        """Warm-up: one Step. Joint: the classifier, then the transition network on the same posteriors."""
        if self.warming_up:
            yield Step("classifier", self.warm_up_losses, batch)
            return
        joint = Joint(batch.image, batch.label, batch.group, batch.path)
        yield Step("classifier", self.joint_losses, joint)
        yield Step("transition", self.transition_losses, joint)

    def warm_up_losses(self, batch: Labelled) -> Losses:
        """Cross-entropy and negative entropy."""
        assert isinstance(batch.label, Tensor)
        logits = self.classifier(batch.image).float()
        return {"cross_entropy": cross_entropy(logits, batch.label), "negative_entropy": negative_entropy(logits)}

    def joint_losses(self, batch: Joint) -> Losses:
        """R + lambda M, with gradients for the classifier."""
        assert isinstance(batch.label, Tensor)
        if self.manifold.weight and self.manifold.form == "knn" and self.manifold.space == "features":
            logits, features = self.classifier.with_features(batch.image)
        else:
            logits = features = self.classifier(batch.image)
        posterior = logits.float().softmax(dim=1)
        batch.seen["posterior"] = posterior.detach()
        if self.manifold.weight:
            batch.seen["affinity"] = self.manifold.affinity(features.float(), posterior, batch.label)
        return self._objective(posterior, batch)

    def transition_losses(self, batch: Joint) -> Losses:
        """R + lambda M at the posteriors of the classifier's Step, with gradients for the transition network."""
        return self._objective(batch.seen["posterior"], batch)

    def _objective(self, posterior: Tensor, batch: Joint) -> Losses:
        assert isinstance(batch.label, Tensor)
        with torch.autocast(posterior.device.type, enabled=False):  # T differs little between images
            transition = self.transition(posterior)
            losses = {"forward": forward_risk(noisy_posterior(posterior, transition), batch.label)}
            if self.manifold.weight:
                losses["manifold"] = self.manifold.weight * manifold_term(transition, batch.seen["affinity"])
        return losses

    # --- answers ----------------------------------------------------------------------------------------------
    def transitions(self, posterior: Tensor) -> Tensor:
        """T(x), (B, K, K), of images with posteriors (B, K)."""
        return self.transition(posterior)
