# SPDX-License-Identifier: Apache-2.0
"""What all detectors share: two logits (real, forged) become a score, a Grad-CAM map and validation metrics."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from mien.engine import Method, Phase, TrainingData
from mien.engine.method import Losses, Optimizers
from mien.errors import BadInput
from mien.forensics.clips.pooling import Pooling
from mien.forensics.data import Faces, Verdict
from mien.metrics.intervals import Interval
from mien.nn.gradcam import gradcam
from mien.nn.network import Network
from mien.optim.recipe import Recipe

ScoreForm = Literal["two_sigmoid", "softmax"]


def forged_score(logits: Tensor, form: ScoreForm = "softmax") -> Tensor:
    """Probability of forged from logits (..., 2) in the order real, forged; result (...), in [0, 1].

    "softmax" is sig(z1 - z0). "two_sigmoid" is sig(z1) / (sig(z0) + sig(z1)), as ACMF scores: for a fixed z1 monotone
    in z0, but it orders images a little differently.

    >>> import torch
    >>> forged_score(torch.tensor([[0.0, 0.0], [-1.0, 1.0]]), "two_sigmoid")
    tensor([0.5000, 0.7311])
    """
    if form == "softmax":
        return (logits[..., 1] - logits[..., 0]).sigmoid()
    # sig(z1) / (sig(z0) + sig(z1)) = sig(log sig(z1) - log sig(z0)), which has no 0 / 0
    return (F.logsigmoid(logits[..., 1]) - F.logsigmoid(logits[..., 0])).sigmoid()


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy of (B, 2) logits; B = 0 gives a zero that is connected to `logits`.

    Raises:
        BadInput: For a label that is neither 0 nor 1: such an image cannot be trained on.
    """
    if bool(((label < 0) | (label > 1)).any()):
        raise BadInput(f"labels are {sorted(set(label.tolist()))}: training needs 0 (real) and 1 (forged)")
    return F.cross_entropy(logits, label.long(), reduction="sum") / max(len(label), 1)


class Detector(Method):
    """What scores faces. Its `predict` takes a batch of `Faces` and gives a `Verdict`; all else is the room's.

    Args:
        image_size: Height and width in pixels of the images that it is given.
    """

    scope = (
        "Scores how likely a face image is forged, in the opinion of a model trained on particular forgeries. "
        "Forgeries, cameras or compression unlike the training data may be scored at random. A score is not evidence "
        "about a person or an event."
    )

    frames: int = 0
    """Frames of the clips that it is given: images are then (B, frames, 3, H, W). 0: single images, (B, 3, H, W)."""

    sees: ClassVar[Literal["faces", "clips", "edits"]] = "faces"
    """Which data it is trained and tested on: images, clips, or faces edited step by step."""

    modes: ClassVar[tuple[str, ...]] = ("plain",)
    """Ways of answering that a user may name; `mode` is set to the one that was named."""

    pooling: Pooling = "log_odds"
    """How the scores of a video's frames or clips become one; see `mien.forensics.answers.video_score`."""

    def __init__(self, *, image_size: int) -> None:
        super().__init__()
        if image_size < 8:
            raise BadInput(f"image_size is {image_size}: it must be at least 8 pixels")
        self.image_size = image_size
        self.evidence = False
        """Whether `predict` also shows where a score comes from; whoever shows pictures switches it on."""

    def further_figures(self, data: Dataset[Any], *, batch_size: int = 64, seed: int = 0) -> Mapping[str, Interval]:
        """Figures of this method alone, beside those that all detectors have; by default none."""
        return {}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is to be said beside its figures; by default nothing."""
        return ()

    def phases(self, epochs: int, data: TrainingData) -> Mapping[str, int]:
        """Stages in which it is trained on `data` and their epochs, when `epochs` are asked for; none: in one."""
        return {}

    def use_source(self, source: Dataset[Any] | None) -> None:
        """Labelled data for ways of answering that adapt at test time; other detectors have no use for them."""

    def validate(self, data: Dataset[Any], *, batch_size: int = 64) -> dict[str, float]:
        """AUC, average precision, equal error rate and accuracy of frames, and of videos where there are any."""
        from mien.forensics.scoring import METRICS, score
        from mien.metrics.binary import METRICS as BINARY

        frames = score(self, data, batch_size=batch_size)
        if len(set(frames.label.tolist())) < 2:
            raise BadInput("the validation data hold one class only: give real and forged images, or no validation")
        result = {name: float(BINARY[name].value(frames.label, frames.score)) for name in METRICS}
        if frames.has_videos:
            videos = frames.videos(self.pooling)
            result |= {f"video_{name}": float(BINARY[name].value(videos.label, videos.score)) for name in METRICS}
        return result


def names_kinds(cls: type[Method]) -> bool:
    """Whether a detector tells kinds of forgery apart, and so must know their names (`kinds`) when it is made."""
    return "kinds" in inspect.signature(cls).parameters


class NetworkDetector(Detector):
    """A network with two outputs (real, forged) that scores face images.

    Args:
        network: The classifier.
        optimizer: How it is trained.
        image_size: Height and width in pixels of the images that it is given.
        score: How two logits become one score.
    """

    def __init__(self, *, network: Network, optimizer: Recipe, image_size: int, score: ScoreForm) -> None:
        super().__init__(image_size=image_size)
        if score not in ("two_sigmoid", "softmax"):
            raise BadInput(f"score is {score!r}: use two_sigmoid or softmax")
        self.network, self.optimizer, self.score = network, optimizer, score
        self.classifier = network.build(2, image_size)

    def optimizers(self, phase: Phase) -> Optimizers:
        """One optimiser over the classifier."""
        return {"main": self.optimizer.build(self.classifier.parameters(), phase.total_steps)}

    def losses(self, batch: Faces) -> Losses:
        """Cross-entropy."""
        assert isinstance(batch.label, Tensor)
        return {"cross_entropy": cross_entropy(self.classifier(batch.image), batch.label)}

    def predict(self, batch: Faces) -> Verdict:
        """A score for every image, each on its own; with `evidence`, the Grad-CAM map of the predicted class."""
        if not self.evidence:
            return Verdict(forged_score(self.classifier(batch.image).float(), self.score))
        maps, logits = gradcam(self.classifier, self.classifier.cam_layer, batch.image)
        return Verdict(forged_score(logits.float(), self.score), maps[:, None])

    def config(self) -> dict[str, Any]:
        """The constructor's arguments. Weights to start from are left out: what is saved has its own."""
        config = super().config()
        config["network"] |= {"pretrained": False, "weights": None}
        return config
