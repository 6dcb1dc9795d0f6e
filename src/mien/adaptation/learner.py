# SPDX-License-Identifier: Apache-2.0
"""What class-incremental learners share: a pretrained network, a cosine head for each task, one answer for all classes.

On its own it is the control `cosine-heads`: the network stays as it is, only heads are trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import ModuleList
from torch.utils.data import Dataset

from mien.adaptation.heads import Alignment, ClassGaussians, CosineHead, align, cosface, cosines
from mien.adaptation.tasks import FOUNDATION, task_of, task_sizes
from mien.classification.data import Augmentation, Labelled
from mien.classification.method import ImageClassifier, Opinion
from mien.engine import Losses, Optimizers, Phase, Step, evaluation_loader
from mien.engine.evaluation import modes_kept
from mien.errors import BadInput
from mien.nn.network import Classifier, Network, output_size
from mien.optim.recipe import Recipe

BACKBONE = Network("vit_base_patch16_224.augreg_in21k", pretrained=True)
RECIPE = Recipe(kind="sgd", lr=0.005, weight_decay=5e-4, schedule="cosine")
"""The paper's optimiser for CIFAR-100."""

TURNS = 4
"""Orientations in which the foundation shows images: to tell them is to see more than a few classes need."""

FOUNDATION_RECIPE = Recipe(kind="adamw", lr=1e-3, weight_decay=0.05, schedule="cosine", warmup_steps=50)
"""The usual one for small transformers from scratch."""


class ContinualClassifier(ImageClassifier):
    """Cosine heads on a frozen network.

    Args:
        network: The backbone; its features are the normalised class token of a transformer (timm, no classes).
        optimizer: How each task is trained; its schedule runs over the task.
        image_size: Height and width in pixels of the images that it is given.
        classes: Names of the classes in the order in which tasks take them; None for those of the training data, in
            an order drawn from the run's seed.
        tasks: Number of tasks, or the classes of each; None for 10, or fewer so that each has four classes.
        augment: How training images are varied: "resized" cuts out 5 to 100 %, resizes and mirrors; "shift_flip",
            "shift" (never mirrored) and "none" suit small images better.
        crop: Test images are resized to image_size / crop and their middle is cut out, in (0, 1]; None resizes the
            whole image to a square.
        scale: s of the CosFace loss, > 0.
        margin: m of the CosFace loss, >= 0.
        alignment: Classifier alignment after every task but the first.
        foundation: Epochs for which the whole network is first trained, on the classes of the first task; for networks
            that start from nothing.
    """

    name = "cosine-heads"
    scope = (
        "Tells apart the classes that it was taught, task by task, and answers with one of them for every image, "
        "also for images of none. Classes of early tasks may be recognised less well than those of the last one."
    )
    accuracies: Tensor

    def __init__(
        self,
        *,
        network: Network = BACKBONE,
        optimizer: Recipe = RECIPE,
        image_size: int = 224,
        classes: Sequence[str] | None = None,
        tasks: int | Sequence[int] | None = None,
        augment: Augmentation = "resized",
        crop: float | None = 0.875,
        scale: float = 20.0,
        margin: float = 0.0,
        alignment: Alignment = Alignment(),
        foundation: int = 0,
    ) -> None:
        super().__init__(network=network, optimizer=optimizer, image_size=image_size, classes=classes)
        if not scale > 0 or margin < 0:
            raise BadInput(f"scale is {scale} and margin is {margin}: use a scale above 0 and a margin of 0 or more")
        if crop is not None and not 0 < crop <= 1:
            raise BadInput(f"crop is {crop}: it must lie in (0, 1], or be left out")
        if augment not in get_args(Augmentation):
            raise BadInput(f"augment is {augment!r}: use one of {', '.join(get_args(Augmentation))}")
        if foundation < 0:
            raise BadInput(f"foundation is {foundation}: it must be 0 or more epochs")
        self.augment, self.foundation = augment, foundation
        self.tasks, self.crop, self.scale, self.margin, self.alignment = tasks, crop, scale, margin, alignment
        self.sizes = task_sizes(len(self.classes), tasks)
        self.classifier.requires_grad_(False)
        self.features = output_size(self.classifier, image_size)
        self.heads = ModuleList()
        self.gaussians = ModuleList()
        self.base_head: CosineHead | None = None
        self.register_buffer("accuracies", torch.full((len(self.sizes), len(self.sizes)), math.nan))

    def build_network(self) -> Classifier:
        """The network without a last layer: its outputs are the features."""
        return self.network.build(0, self.image_size)

    # --- phases -----------------------------------------------------------------------------------------------
    @property
    def task(self) -> int:
        """The task that is, or was last, learned; -1 before the first."""
        return len(self.heads) - 1

    @property
    def founding(self) -> bool:
        """Whether the present phase is the foundation."""
        return self.base_head is not None

    def build_phase(self, phase: Phase) -> None:
        """The foundation thaws the network; a task freezes it and gets a new head."""
        foundation = phase.name == FOUNDATION
        self.base_head = CosineHead(self.features, TURNS * self.sizes[0]) if foundation else None
        self.classifier.requires_grad_(foundation)
        if not foundation:
            self.build_task()

    def begin_phase(self, phase: Phase, data: Dataset[Any]) -> None:
        """First weights."""
        if self.base_head is not None:
            self.base_head.start()
        else:
            self.begin_task(data)

    def end_phase(self, phase: Phase, data: Dataset[Any]) -> None:
        """What is left to do when a task is over."""
        if not self.founding:
            self.end_task(data)

    def build_task(self) -> None:
        """A new head; the old ones are frozen."""
        task = self.task + 1
        if task == len(self.sizes):
            raise BadInput(f"all {task} tasks are learned: there are no classes for another")
        self.heads.requires_grad_(False)
        self.heads.append(CosineHead(self.features, self.sizes[task]))
        if self.alignment.epochs:
            self.gaussians.append(ClassGaussians(self.features, self.sizes[task]))

    def begin_task(self, data: Dataset[Any]) -> None:
        """The first weights of the new head."""
        head = self.heads[-1]
        assert isinstance(head, CosineHead)
        head.start()

    def end_task(self, data: Dataset[Any]) -> None:
        """Classifier alignment, if it is asked for."""
        if not self.alignment.epochs:
            return
        *_, last = gaussians = [g for g in self.gaussians if isinstance(g, ClassGaussians)]
        last.fit(*self._features(data), self.alignment.ridge)
        if self.task:
            align(self.heads, gaussians, self.alignment, self.session.shared_generator())

    def _features(self, data: Dataset[Any]) -> tuple[Tensor, Tensor]:
        """Features (N, d) and labels (N,) within the task, of images without augmentation."""
        plain = data.plain() if hasattr(data, "plain") else data
        features, label = [], []
        with modes_kept(self):
            self.eval()
            for batch in evaluation_loader(plain, 64, device=self.device):
                features.append(self.classifier(batch.image).float())
                label.append(self.local(batch.label))
        return torch.cat(features), torch.cat(label)

    def train(self, mode: bool = True) -> ContinualClassifier:
        """Train mode; a frozen network stays in eval mode, so that batch statistics of old tasks are kept."""
        super().train(mode)
        if not self.founding:
            self.classifier.eval()
        return self

    # --- learning ---------------------------------------------------------------------------------------------
    def steps(self, batch: Labelled) -> Iterator[Step]:
        """One update."""
        if self.founding:
            yield Step("main", self.foundation_losses, batch)
        else:
            yield Step("main", self.losses, *self.groups(batch))

    def groups(self, batch: Labelled) -> tuple[Labelled, ...]:
        """The batches that an update in a task is made of; here the one."""
        return (batch,)

    def local(self, label: Tensor) -> Tensor:
        """Labels within the present task (in the foundation: the first). Raises BadInput for those of another one."""
        task = max(self.task, 0)
        start = sum(self.sizes[:task])
        end = start + self.sizes[task]
        if bool(((label < start) | (label >= end)).any()):
            raise BadInput(
                f"labels run from {int(label.min())} to {int(label.max())}: task {task} has the classes {start} "
                f"to {end - 1}; give the data task by task (mien.engine.PerTask)"
            )
        return label.long() - start

    def losses(self, batch: Labelled) -> Losses:
        """CosFace over the classes of the present task; the mean over the batch on all ranks."""
        assert isinstance(batch.label, Tensor)
        loss = cosface(self.heads[-1](self._seen(batch)), self.local(batch.label), self.scale, self.margin)
        count = self.gather(torch.ones_like(loss)).sum().clamp(min=1)  # ranks' shares of a group differ, one may be 0
        return {"cosface": loss.sum() * self.session.world_size / count}

    def foundation_losses(self, batch: Labelled) -> Losses:
        """Every image is turned by 0, 90, 180 or 270 degrees; its class and its orientation are to be told."""
        assert isinstance(batch.label, Tensor)
        assert self.base_head is not None
        turn = torch.randint(TURNS, (len(batch.label),)).to(batch.label.device)
        image = batch.image.clone()
        for k in range(1, TURNS):
            image[turn == k] = torch.rot90(image[turn == k], k, (2, 3))
        target = TURNS * self.local(batch.label) + turn
        cosine = self.base_head(self._seen(Labelled(image, batch.label)))
        return {"foundation": cosface(cosine, target, self.scale, 0.0).sum() / max(len(target), 1)}

    def optimizers(self, phase: Phase) -> Optimizers:
        """One optimiser over whatever is trained."""
        recipe = FOUNDATION_RECIPE if self.founding else self.optimizer
        return {"main": recipe.build(self.parameters(), phase.total_steps)}

    def _seen(self, batch: Labelled) -> Tensor:
        """The features of a batch."""
        if batch.image.shape[1:] != (3, self.image_size, self.image_size):
            raise BadInput(
                f"images are {tuple(batch.image.shape[1:])}: this {self.name} takes (3, {self.image_size}, "
                f"{self.image_size}); LabelledImages resizes"
            )
        return self.classifier(batch.image)

    def validate(self, data: Dataset[Any], *, batch_size: int = 64) -> dict[str, float]:
        """Accuracy and mean cross-entropy; of the images of one task, the accuracy is kept in `accuracies`."""
        found = super().validate(data, batch_size=batch_size)
        label = getattr(data, "label", None)
        if isinstance(label, Tensor) and len(label):
            first, last = task_of(self.sizes, [int(label.min()), int(label.max())])
            if first == last:
                self.accuracies[self.task, first] = found["accuracy"]
        return found

    def predict(self, batch: Labelled) -> Opinion:
        """Logits s cos for all classes seen so far, (B, seen); no task is told."""
        if not len(self.heads):
            raise BadInput(f"this {self.name} has learned no task yet: train it first")
        return Opinion(self.scale * cosines(self.heads, self._seen(batch)))
