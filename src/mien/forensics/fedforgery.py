# SPDX-License-Identifier: Apache-2.0
"""FedForgery: Generalized Face Forgery Detection with Residual Federated Learning.

Liu, Dang, Peng, Zheng, Li, Wang, Gao, IEEE TIFS 2023, arXiv 2210.09563.

Holders of forged faces cannot pool them, and each sees forgeries of its own kind. One detector is trained by federated
averaging, and its input is a residual: an autoencoder G explains away what does not matter for the decision, and what
it leaves over is classified. The residual is claimed to carry over to kinds that no client has seen.

    r = x - G(x),   x normalised by ImageNet's mean and deviation
    L = a_rec MSE(G(x), x) + a_ce CE(C(r), y) + a_vq L_vq(W; sg[z_e]) + a_com MSE(z_e, sg[W_i*])
    L_vq = 1/2 sum_i ||W_i - mean of the z_e(p) with i*(p) = i||^2                    (`mien.forensics.parts.residual`)
    round t: every client k starts from theta, makes E local epochs of SGD and returns theta_k;
             theta <- sum_k (n_k / n) theta_k over the whole state: weights, batch norm, codebook

The gradient of CE flows into G through the minus sign: what G explains is hidden from C, and a_ce / a_rec sets how much
is left. Only weights travel; no images, no features.

Differences from the paper
    * The network of the released code, which is vector-quantised, is the default; the Gaussian form of the same idea is
      `extractor="gaussian"`. Weights of the terms are inferred: 1 and 0.2 are those of the work it builds on.
    * L_vq is the form that works with plain SGD: a code moves by its learning rate times the way to the mean of its
      vectors (see `codebook_loss`).
    * Class 1 is forged, as everywhere here; the released test script has it the other way round.
    * The classifier starts from scratch unless `network.pretrained` or `network.weights` says otherwise.
    * Clients are made from one data set by `federated.partition`, which is inferred; the average weighs clients by
      their samples, unless `federated.weighting` is "uniform".
    * Early stopping watches the validation AUC; what the paper watches is not documented.
    * `extractor="high_pass"` (x minus a 5 x 5 mean) and "none" (the image itself: plain federated averaging) are the
      controls. They have nothing to weigh against, so their cross-entropy has weight 1.

Example:
    >>> from mien.nn.network import Network
    >>> method = FedForgery(network=Network("tiny_cnn"), image_size=48, width=16, codes=32)
    >>> method.residual(torch.rand(2, 3, 48, 48)).shape
    torch.Size([2, 3, 48, 48])
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mien.engine import Phase, evaluation_loader
from mien.engine.evaluation import modes_kept
from mien.engine.method import Losses, Optimizers
from mien.errors import BadInput
from mien.federated.plan import Federated
from mien.forensics.data import Faces, Verdict
from mien.forensics.detector import NetworkDetector, ScoreForm, cross_entropy, forged_score
from mien.forensics.parts.residual import Explained, GaussianAutoencoder, VQAutoencoder, local_mean, mean_square
from mien.nn.gradcam import gradcam
from mien.nn.network import Network
from mien.optim.recipe import Recipe

Extractor = Literal["vq", "gaussian", "high_pass", "none"]
LEARNED = ("vq", "gaussian")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet."""
VALIDATED = ("auc", "balanced_accuracy")
CURRICULUM = (10.0, 5.0, 1.0)
"""Factors of the reconstruction in the three thirds of training."""


class FedForgery(NetworkDetector):
    """FedForgery: a detector of residuals, trained by federated averaging.

    Args:
        network: The classifier C (paper: ResNet-50; its input is normalised already, so its own normalisation is off).
        optimizer: Of autoencoder and classifier together. Every client starts it anew in every round.
        image_size: Height and width in pixels of the images that it is given; a multiple of 4 where G is learned.
        extractor: What G is: "vq" (the paper's), "gaussian", "high_pass" (fixed), "none" (G = 0).
        width: d, channels of the autoencoder.
        codes: k, size of the codebook.
        latent: Size of the Gaussian latent.
        reconstruction: a_rec.
        classification: a_ce.
        codebook: a_vq.
        commitment: a_com.
        kl: Weight of the KL divergence of the Gaussian form.
        curriculum: Number of rounds (or epochs, where there are no rounds) over which a_rec falls from 10 times to 5
            times to its value; None for no such schedule.
        federated: Clients and rounds.
        score: How two logits become one score.
    """

    name = "fedforgery"
    position: Tensor

    def __init__(
        self,
        *,
        network: Network = Network("resnet50"),
        optimizer: Recipe = Recipe("sgd", lr=0.01, momentum=0.5, weight_decay=0.0),
        image_size: int = 296,
        extractor: Extractor = "vq",
        width: int = 64,
        codes: int = 128,
        latent: int = 2048,
        reconstruction: float = 1.0,
        classification: float = 0.2,
        codebook: float = 1.0,
        commitment: float = 0.25,
        kl: float = 0.2,
        curriculum: int | None = None,
        federated: Federated = Federated(),
        score: ScoreForm = "softmax",
    ) -> None:
        if network.normalise != "none":
            raise BadInput(f"network.normalise is {network.normalise!r}: fedforgery normalises images itself: use none")
        super().__init__(network=network, optimizer=optimizer, image_size=image_size, score=score)
        if extractor not in (*LEARNED, "high_pass", "none"):
            raise BadInput(f"extractor is {extractor!r}: use vq, gaussian, high_pass or none")
        if extractor in LEARNED and image_size % 4:
            raise BadInput(f"image_size is {image_size}: a multiple of 4 is needed, or G(x) does not lie on x")
        for name, value in (("width", width), ("codes", codes), ("latent", latent), ("curriculum", curriculum)):
            if value is not None and value < 1:
                raise BadInput(f"{name} is {value}: it must be at least 1")
        self.extractor, self.width, self.codes, self.latent, self.curriculum = (
            extractor,
            width,
            codes,
            latent,
            curriculum,
        )
        self.reconstruction, self.classification = reconstruction, classification
        self.codebook, self.commitment, self.kl, self.federated = codebook, commitment, kl, federated
        for name in ("reconstruction", "classification", "codebook", "commitment", "kl"):
            if not 0 <= getattr(self, name) < math.inf:
                raise BadInput(f"{name} is {getattr(self, name)}: it must be 0 or more, and finite")
        self.autoencoder: nn.Module | None = None
        if extractor == "vq":
            self.autoencoder = VQAutoencoder(width, codes)
        elif extractor == "gaussian":
            self.autoencoder = GaussianAutoencoder(width, latent, image_size)
        self.register_buffer("mean", torch.tensor(MEAN).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(-1, 1, 1), persistent=False)
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))  # the round or epoch, for the curriculum

    mean: Tensor
    std: Tensor

    # --- the residual -----------------------------------------------------------------------------------------
    def normalised(self, image: Tensor) -> Tensor:
        """X: images (B, 3, H, W) in [0, 1] with ImageNet's mean taken off, over its deviation."""
        return (image - self.mean) / self.std

    def explain(self, x: Tensor) -> Explained:
        """G(x) of normalised images (B, 3, H, W), with the autoencoder's own terms."""
        if self.autoencoder is not None:
            explained: Explained = self.autoencoder(x)
            return explained
        return Explained(local_mean(x) if self.extractor == "high_pass" else torch.zeros_like(x))

    def residual(self, image: Tensor) -> Tensor:
        """R = x - G(x) of images (B, 3, H, W) in [0, 1]: what the classifier sees."""
        x = self.normalised(image)
        return x - self.explain(x).image

    # --- training ---------------------------------------------------------------------------------------------
    def losses(self, batch: Faces) -> Losses:
        """The terms of L, weighted."""
        assert isinstance(batch.label, Tensor)
        x = self.normalised(batch.image)
        explained = self.explain(x)
        entropy = cross_entropy(self.classifier(x - explained.image), batch.label)
        if self.autoencoder is None:
            return {"cross_entropy": entropy}
        weights = {"codebook": self.codebook, "commitment": self.commitment, "kl": self.kl}
        if explained.code is not None and len(x):
            self.log("codes", float(len(explained.code.unique())))
        return {
            "cross_entropy": self.classification * entropy,
            "reconstruction": self.reconstruction_weight * mean_square(explained.image, x),
            **{name: weights[name] * value for name, value in explained.losses.items()},
        }

    @property
    def reconstruction_weight(self) -> float:
        """a_rec, with the curriculum's factor."""
        if self.curriculum is None:
            return self.reconstruction
        return self.reconstruction * CURRICULUM[min(3 * int(self.position) // self.curriculum, 2)]

    @property
    def personal(self) -> tuple[str, ...]:  # type: ignore[override]
        """What stays with a client: batch normalisation, where `federated.norms` says so."""
        return self.federated.personal(self)

    def build_phase(self, phase: Phase) -> None:
        """Remember the round, which `begin_epoch` notes for the curriculum."""
        self.__dict__["round"] = phase.round

    def begin_epoch(self, epoch: int, data: Dataset[Any]) -> None:
        """Note how far training is: the round, or the epoch where there are no rounds."""
        rounds: int | None = self.__dict__.get("round")
        self.position.fill_(epoch if rounds is None else rounds)

    def optimizers(self, phase: Phase) -> Optimizers:
        """One optimiser over the autoencoder and the classifier."""
        return {"main": self.optimizer.build(self.parameters(), phase.total_steps)}

    # --- answers ----------------------------------------------------------------------------------------------
    def predict(self, batch: Faces) -> Verdict:
        """A score for every image; with `evidence`, the Grad-CAM map of the classifier on the residual."""
        residual = self.residual(batch.image)
        if not self.evidence:
            return Verdict(forged_score(self.classifier(residual).float(), self.score))
        maps, logits = gradcam(self.classifier, self.classifier.cam_layer, residual)
        return Verdict(forged_score(logits.float(), self.score), maps[:, None])

    def validate(self, data: Dataset[Any], *, batch_size: int = 64) -> dict[str, float]:
        """AUC and balanced accuracy; where G is learned, its mean squared error and the number of codes in use.

        Few, since there are as many for every client. A codebook that collapses gives a constant G and the plain
        detector back.
        """
        found = super().validate(data, batch_size=batch_size)
        kept = {name: value for name, value in found.items() if name.removeprefix("video_") in VALIDATED}
        return kept | self.explanation(data, batch_size=batch_size)

    @torch.no_grad()
    def explanation(self, data: Dataset[Any], *, batch_size: int = 64) -> dict[str, float]:
        """Mean squared error of G on `data`, of normalised pixels, and how many codes it uses; {} without a G."""
        if self.autoencoder is None:
            return {}
        total, count, used = 0.0, 0, torch.zeros(self.codes, dtype=torch.bool, device=self.device)
        with modes_kept(self):
            self.eval()
            for batch in evaluation_loader(data, batch_size, device=self.device):
                x = self.normalised(batch.image)
                explained = self.explain(x)
                total += float((explained.image - x).square().sum())
                count += x.numel()
                if explained.code is not None:
                    used[explained.code.flatten()] = True
        found = {"reconstruction_mse": total / max(count, 1)}
        return found | ({"codes_in_use": float(used.sum())} if self.extractor == "vq" else {})
