# SPDX-License-Identifier: Apache-2.0
"""Attention Consistency Refined Masked Frequency Forgery Representation for Generalizing Face Forgery Detection.

Liu, Chen, Peng, Wang, Hu, Gao, IEEE TIFS 2024, arXiv 2307.11438.

High-frequency artefacts separate real from forged well on forgeries seen in training and badly on others. Stage 1
trains the detector while it discards high-frequency content at random pixels (MFR); stage 2 adapts it to each test
video, without labels, so that its attention agrees with its attention on source data (FAC).

    h = |high-pass of x|,  l = x - h,  x' = h M + l = x - (1 - M) h,   M in {0, 1}^(H x W), P(M = 1) = 1 - r      (MFR)
    stage 1:  L = CE(f(x'), y)
    stage 2:  L = |CE(f(MFR(x_s)), y_s) - b| + b + MSE(mean_i cam(f, x_i), mean_j cam(f_0, x_s,j)),  b = 0.04     (FAC)

M is one mask for all images and channels of a batch: pixels of the high-pass image are discarded, not frequencies. The
box of low frequencies is 2d x 2d, d = 5 at 224 pixels (`mien.nn.frequency`), cam is Grad-CAM without ReLU
(`mien.nn.gradcam`). f starts from the stage-1 network f_0 for each video, makes two steps, and its mean logits score
the video, p_forged = sig(z_1) / (sig(z_0) + sig(z_1)). FAC is test-time training: it sees the test video and needs
labelled source data, and is to be compared with plain detectors under that label.

Differences from the paper
    * Stage 1 uses the mask function with cross-entropy alone and stage 2's optimiser (inferred: no script of it).
    * The moments of AdamW start anew for every video, so that a video's score does not depend on which came before.
      The released code keeps them: `FAC(moments="kept")`.
    * Source batches are drawn from (seed, video, step), for the same reason; class 1 is forged, and scores are
      p_forged.
    * For images of another height d is scaled to the same share of the spectrum.
    * The maps of the frozen f_0 are made before the adaptation starts, while the weights still are f_0's.
    * Mode "plain" scores frames; their video score is the mean of the frames' log odds, which for the two-sigmoid form
      differs slightly from the score of the mean logits. Mode "fac" scores the mean logits, as the paper does.

Example:
    >>> from mien.nn.network import Network
    >>> method = ACMF(network=Network("tiny_cnn"), image_size=64, mask_ratio=0.5)
    >>> method.predict(Faces(torch.rand(2, 3, 64, 64), torch.tensor([0, 1]))).score.shape
    torch.Size([2])
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from mien.data.batch import collate, move
from mien.engine import Step
from mien.engine.adaptation import adapted
from mien.engine.method import Losses
from mien.engine.seeding import stable_seed
from mien.errors import BadInput
from mien.forensics.data import Faces, Verdict
from mien.forensics.detector import NetworkDetector, ScoreForm, cross_entropy, forged_score
from mien.nn.frequency import HighPass, high_part, scaled_half_box
from mien.nn.gradcam import gradcam
from mien.nn.network import Network
from mien.optim.recipe import Recipe

Mode = Literal["plain", "fac"]


def masked_frequency(image: Tensor, mask: Tensor, half_box: int, variant: HighPass = "absolute") -> Tensor:
    """X' = x - (1 - M) h, the masked frequency representation. M = 1 everywhere gives x bit for bit.

    Args:
        image: x, (..., H, W), values in [0, 1].
        mask: M, (H, W), 0 where high frequencies are discarded and 1 elsewhere.
        half_box: d, half the width of the box of low frequencies.
        variant: h is the absolute value of the real part, or the complex modulus; both were published.
    """
    return image - (1 - mask) * high_part(image, half_box, variant)


def draw_mask(height: int, width: int, ratio: float, generator: torch.Generator | None = None) -> Tensor:
    """M, (H, W) of 0 and 1 on the CPU; each pixel is 0 with probability `ratio` in [0, 1].

    Without a generator it is drawn from torch's global one, which the engine seeds in training.
    """
    return (torch.rand(height, width, generator=generator) >= ratio).float()


@dataclass(frozen=True)
class FAC:
    """Settings of the adaptation to a test video.

    Args:
        steps: Updates per video.
        batch: Labelled source images per update.
        flood: b, the level that the cross-entropy is kept at; None for the cross-entropy itself.
        masked: Whether the source images of the cross-entropy are masked.
        attention_weight: Weight of the attention term; 0 is the control, the same steps without it.
        scale: Factor of the whole loss.
        source_maps: "per_step" takes a_s from each step's source batch; "once" from one batch, for all videos.
        moments: "per_video" starts AdamW's moments anew for each video; "kept" carries them on, as the released code.
        seed: Source batches and masks follow from it and the video's name.

    Raises:
        BadInput: For a value outside its range.
    """

    steps: int = 2
    batch: int = 30
    flood: float | None = 0.04
    masked: bool = True
    attention_weight: float = 1.0
    scale: float = 1.0
    source_maps: Literal["per_step", "once"] = "per_step"
    moments: Literal["per_video", "kept"] = "per_video"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise BadInput(f"fac.{name} is {getattr(self, name)}: it must be at least 1")
        if self.source_maps not in ("per_step", "once"):
            raise BadInput(f"fac.source_maps is {self.source_maps!r}: use per_step or once")
        if self.moments not in ("per_video", "kept"):
            raise BadInput(f"fac.moments is {self.moments!r}: use per_video or kept")
        for name in ("attention_weight", "scale", "flood"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise BadInput(f"fac.{name} is {value}: it must be 0 or more")

    @classmethod
    def notebook(cls) -> FAC:
        """The variant of the released notebook: no mask, no flooding, 0.1 (L_ce + L_fac), one step, a_s once."""
        return cls(steps=1, flood=None, masked=False, scale=0.1, source_maps="once")


@dataclass
class Adaptation:
    """What one update sees: source images, frames of the video, a_s (H, W), and the mask of the source images."""

    source: Faces
    frames: Tensor
    source_map: Tensor
    mask: Tensor


class ACMF(NetworkDetector):
    """ACMF: masked frequency training, attention consistency at test time.

    Args:
        network: The classifier (paper: Xception, 20,811,050 parameters, Grad-CAM at 1536 x 7 x 7).
        optimizer: Of both stages. Stage 2 takes its optimiser and leaves its schedule out.
        image_size: Height and width in pixels of the images that it is given.
        mask_ratio: r, the share of pixels whose high frequencies are discarded, in [0, 1]; 1 is low-pass training.
        half_box: d; None for 5 at 224 pixels and as large a share of the spectrum at other sizes.
        high_pass: Which published form of h.
        mode: How it answers: "plain" scores images as they are, "fac" adapts to each video and needs `use_source`.
        fac: Settings of the adaptation.
        score: How two logits become one score.
    """

    name = "acmf"
    modes = ("plain", "fac")
    source: Dataset[Any] | None
    _moments: dict[str, object] | None
    _fixed_map: Tensor | None

    def __init__(
        self,
        *,
        network: Network = Network(),
        optimizer: Recipe = Recipe(betas=(0.9, 0.95)),
        image_size: int = 224,
        mask_ratio: float = 0.1,
        half_box: int | None = None,
        high_pass: HighPass = "absolute",
        mode: Mode = "plain",
        fac: FAC = FAC(),
        score: ScoreForm = "two_sigmoid",
    ) -> None:
        super().__init__(network=network, optimizer=optimizer, image_size=image_size, score=score)
        if not 0 <= mask_ratio <= 1:
            raise BadInput(f"mask_ratio is {mask_ratio}: it must lie in [0, 1]")
        if half_box is not None and half_box < 1:
            raise BadInput(f"half_box is {half_box}: it must be at least 1, or left out")
        if high_pass not in ("absolute", "modulus"):
            raise BadInput(f"high_pass is {high_pass!r}: use absolute or modulus")
        if mode not in ("plain", "fac"):
            raise BadInput(f"mode is {mode!r}: use plain or fac")
        self.mask_ratio, self.half_box, self.high_pass, self.mode, self.fac = mask_ratio, half_box, high_pass, mode, fac
        self.use_source(None)

    # --- stage 1 ----------------------------------------------------------------------------------------------
    def mask(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A mask M for images (B, 3, H, W), on their device."""
        return draw_mask(image.shape[-2], image.shape[-1], self.mask_ratio, generator).to(image.device)

    def masked(self, image: Tensor, mask: Tensor) -> Tensor:
        """MFR of images (B, 3, H, W) in [0, 1]."""
        half_box = self.half_box if self.half_box is not None else scaled_half_box(image.shape[-2])
        return masked_frequency(image, mask, half_box, self.high_pass)

    def losses(self, batch: Faces) -> Losses:
        """Cross-entropy on masked images; one mask for the batch."""
        assert isinstance(batch.label, Tensor)
        image = self.masked(batch.image, self.mask(batch.image)) if self.mask_ratio else batch.image
        return {"cross_entropy": cross_entropy(self.classifier(image), batch.label)}

    # --- stage 2 ----------------------------------------------------------------------------------------------
    @property
    def predicts_by_group(self) -> bool:  # type: ignore[override]
        """Whether `predict` takes a whole video: in mode "fac"."""
        return self.mode == "fac"

    def use_source(self, source: Dataset[Any] | None) -> None:
        """Labelled data (`Faces`) that mode "fac" draws source batches from; None takes them away."""
        self.__dict__["source"] = source
        self.__dict__["_moments"] = None
        self.__dict__["_fixed_map"] = None

    def predict(self, batch: Faces) -> Verdict:
        """Mode "plain": a score for each image. Mode "fac": the batch is one video, all its frames get its score."""
        return super().predict(batch) if self.mode == "plain" else self._adapted_verdict(batch)

    def adaptation_losses(self, batch: Adaptation) -> Losses:
        """|CE - b| + b and the attention term.

        The cross-entropy comes first, in train mode: its pass updates the batch statistics that the maps, in eval
        mode, then use.
        """
        assert isinstance(batch.source.label, Tensor)
        fac = self.fac
        self.classifier.train()
        image = self.masked(batch.source.image, batch.mask) if fac.masked else batch.source.image
        loss = cross_entropy(self.classifier(image), batch.source.label)
        if fac.flood is not None:
            loss = (loss - fac.flood).abs() + fac.flood
        losses = {"cross_entropy": fac.scale * loss}
        if fac.attention_weight:
            maps, _ = gradcam(self.classifier, self.classifier.cam_layer, batch.frames, differentiable=True)
            consistency = F.mse_loss(maps.mean(dim=0), batch.source_map)
            losses["attention"] = fac.scale * fac.attention_weight * consistency
        return losses

    def _adapted_verdict(self, batch: Faces) -> Verdict:
        source: Any = self.source
        if source is None or not len(source):
            raise BadInput("mode 'fac' needs labelled data (--source DIR, or use_source): mode 'plain' works without")
        if not len(batch.image):
            return super().predict(batch)
        plan = self._plan(batch)  # with the weights of f_0
        with ExitStack() as stack:
            weights = self.classifier.parameters
            run = stack.enter_context(adapted(self, lambda: {"main": self.optimizer.optimizer(weights())}))
            if self._moments is not None:
                run.load_optimizer_state(self._moments)
            for part in plan:
                run.update(Step("main", self.adaptation_losses, part))
            if self.fac.moments == "kept":
                self.__dict__["_moments"] = run.optimizer_state()
            self.eval()
            with torch.no_grad():
                maps = None
                if self.evidence:
                    maps, logits = gradcam(self.classifier, self.classifier.cam_layer, batch.image)
                else:
                    logits = self.classifier(batch.image)
        score = forged_score(logits.float().mean(dim=0), self.score).expand(len(logits))
        return Verdict(score, None if maps is None else maps[:, None])

    def _plan(self, batch: Faces) -> list[Adaptation]:
        """The source batch, mask and a_s of every step; drawn from the seed and the video alone."""
        video = _name(batch)
        parts = []
        for step in range(self.fac.steps):
            generator = torch.Generator().manual_seed(stable_seed(self.fac.seed, "fac", video, step))
            source = self._draw(generator)
            mask = self.mask(source.image, generator)
            parts.append(Adaptation(source, batch.image, self._source_map(source), mask))
        return parts

    def _draw(self, generator: torch.Generator) -> Faces:
        source: Any = self.source
        chosen = torch.randperm(len(source), generator=generator)[: self.fac.batch].tolist()
        return move(collate([source[i] for i in chosen]), self.device)

    def _source_map(self, source: Faces) -> Tensor:
        """a_s: the mean map of the unmasked source images, by the network as it is now."""
        if not self.fac.attention_weight:
            return source.image.new_zeros(source.image.shape[-2:])  # unused
        if self.fac.source_maps == "once":
            fixed_map = self._fixed_map
            if fixed_map is None:
                fixed = self._draw(torch.Generator().manual_seed(stable_seed(self.fac.seed, "fac source map")))
                fixed_map = self.__dict__["_fixed_map"] = self._mean_map(fixed)
            return fixed_map
        return self._mean_map(source)

    def _mean_map(self, source: Faces) -> Tensor:
        maps, _ = gradcam(self.classifier, self.classifier.cam_layer, source.image)
        return maps.mean(dim=0)


def _name(batch: Faces) -> str:
    """What a video is called in seeds: its unit; for frames without one, their content, so that order plays no part."""
    unit = batch.unit[0] if isinstance(batch.unit, list) and batch.unit else ""
    return unit or hashlib.sha256(batch.image.detach().cpu().float().numpy().tobytes()).hexdigest()
