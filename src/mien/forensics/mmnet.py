# SPDX-License-Identifier: Apache-2.0
"""MMNet: Multi-Collaboration and Multi-Supervision Network for Sequential Deepfake Detection.

Xia, Liu, Li, Yuan, Wang, Gao, IEEE TIFS 2024, arXiv 2307.02733.

A face may be edited several times. MMNet names the edited regions in their order and gives the face before the edits
back. Features of three scales work together (`mien.forensics.parts.collaboration`), and so do three readings of them:
one says which regions were edited, two say in what order, first to last and last to first
(`mien.forensics.parts.sequence_decoder`). The recovery network (`mien.forensics.parts.recovery`) is told the list of
edits and learns from several signals, none of which knows how the edits were made.

    detect   L = CE_forward + CE_backward + 0.5 BCE(R, set of regions)
    recover  L = 10 L_pix + L_mask + L_per + 0.5 L_id + 0.1 L_adv + 0.1 L_cyc            detector fixed, in eval mode
    L_pix  = mean |x_rec - x_o|          L_mask = BCE(m, [mean_c |x - x_o| > 0.05])
    L_per  = sum_l mean |phi_l(x_rec) - phi_l(x_o)|          L_id = 1 - cos(psi(x_rec), psi(x_o))
    L_adv  = -mean D(x_rec), D hinge     L_cyc  = CE(detector(x_rec), nothing edited)

The score of a face is the probability that its list is not empty: sig of the mean over the directions of the log odds
that the first token is a region and not the end. The list itself is the likeliest of three (see `SequenceDetector`),
so it can be empty at a score above 0.5, where no single list is as likely as the empty one.

Differences from the paper
    * Only its abstract was at hand: architecture, losses and the formula of Complete Sequence Matching are inferred
      from it. The decoder is that of SeqFakeFormer (Shao, Wu, Liu, ECCV 2022), whose data and recipe it builds on.
      `scales=(5,), presence=False, backward=False` (and `encoder_layers=2` at the paper's size) is that baseline,
      but that it cannot emit start or padding either.
    * The backbone starts from random weights unless `network.pretrained` asks for those of ImageNet, from which the
      paper starts.
    * b, the weight of R, is learned from 0 and not from 1, where the order of edits was slow to come
      (`parts.sequence_decoder`). What recovery is told of a list is a mean of SiLU(token + place), since a mean of
      token + place has no order (`parts.recovery`).
    * phi is the fixed detector's backbone; `features="vgg19"`, or a file, takes VGG-19 instead. psi is optional
      (`use_embedder`). Both stages share batch size and clipping of the run's settings (paper: 32 and 16; 0.1).
    * The recovery stage takes half as many epochs as the detection stage: how many it took is not known.
    * Faces whose list nobody knows are learnt from by their label alone: cross-entropy of the score. Who has learnt
      from no others names no edits.

Example:
    >>> method = MMNet(network=Network("tiny_pyramid"), image_size=64, width=32, hidden=64, decoder_layers=1).eval()
    >>> answer = method.predict(Faces(torch.rand(2, 3, 64, 64), torch.tensor([0, 1])))
    >>> answer.score.shape, len(answer.columns["edits"])
    (torch.Size([2]), 2)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from mien.engine import Losses, Optimizers, Phase, Step, TrainingData
from mien.errors import BadInput
from mien.forensics.data import Faces, Verdict
from mien.forensics.detector import Detector
from mien.forensics.edits.faces import EditedFaces, has_originals
from mien.forensics.edits.scoring import measure
from mien.forensics.parts.recovery import (
    Embedder,
    Recovery,
    Supervision,
    edited_mask,
    feature_distance,
    identity_distances,
)
from mien.forensics.parts.sequence_decoder import Read, SequenceDetector
from mien.forensics.readers.seq_deepfake import LONGEST, TOKENS, Vocabulary
from mien.metrics.intervals import Interval
from mien.nn.empty import empty_loss
from mien.nn.network import Network
from mien.nn.patchgan import PatchGAN, hinge
from mien.nn.vgg import Vgg19
from mien.optim.recipe import Recipe

NOTHING = "none"
"""What the column of edits says of an empty list."""
VALIDATED = ("adaptive", "csm_plus", "set_f1", "recovery_psnr", "recovery_psnr_nothing")


@dataclass
class Draws:
    """What a step of the recovery computes once, for both players."""

    batch: EditedFaces
    maps: list[Tensor]


def set_loss(presence: Tensor, sequence: Tensor) -> Tensor:
    """Mean binary cross-entropy of R (B, 5) against which of 1 .. 5 the lists (B, 5) hold; 0 for B = 0."""
    there = (sequence[:, :, None] == torch.arange(1, presence.shape[1] + 1, device=sequence.device)).any(dim=1)
    entropy = F.binary_cross_entropy_with_logits(presence, there.to(presence.dtype), reduction="sum")
    return entropy / max(there.numel(), 1)


class MMNet(Detector):
    """MMNet: which regions of a face were edited, in which order, and the face before.

    Args:
        network: Backbone (paper: ResNet-50): "tiny_pyramid", or a convolutional network of timm.
        image_size: Height and width in pixels of the images that it is given.
        vocabulary: What its tokens 1 to 5 stand for: "components" (nose, eye, eyebrow, lip, hair) or "attributes"
            (bangs, eyeglasses, beard, smiling, young).
        scales: Which of the maps C3, C4, C5 are read, rising; (5,) is the baseline's.
        presence: Whether a branch says which regions were edited.
        backward: Whether the list is also read backwards.
        width: d.
        hidden: Width of the feed-forward parts.
        encoder_layers: Within each scale.
        decoder_layers: Of the decoder.
        dropout: In [0, 1).
        set_weight: Weight of the presence's loss.
        jitter: Whether brightness, contrast and saturation of training faces are changed.
        optimizer: Of the detector.
        warmup: Share of the detection stage over which the learning rate rises, in [0, 1), unless
            `optimizer.warmup_steps` says how many updates that are.
        backbone_rate: Learning rate of the backbone, times the others'.
        supervision: Weights of the recovery's losses.
        features: phi: "detector" for the fixed detector's backbone, "vgg19" (downloaded once), or a file of VGG-19.
        recovery_width: Channels of the recovery network at full size, a multiple of 8.
        discriminator: Of the adversarial loss.
        recovery_optimizer: Of the recovery network and of the discriminator.
    """

    name = "mmnet"
    sees = "edits"
    embedder: Embedder | None
    lists_taught: Tensor
    """Whether any face that it learnt from came with its list; without, it cannot name edits."""

    scope = (
        "Names the regions of a face that were edited, in their order, and paints the face before the edits, in the "
        "opinion of a model trained on particular edits. Other edits, cameras or compression may be answered at "
        "random, and a recovered face is likely, not true. Not evidence about a person or an event."
    )

    def __init__(
        self,
        *,
        network: Network = Network("resnet50"),
        image_size: int = 256,
        vocabulary: Vocabulary = "components",
        scales: tuple[int, ...] = (3, 4, 5),
        presence: bool = True,
        backward: bool = True,
        width: int = 256,
        hidden: int = 512,
        encoder_layers: int = 1,
        decoder_layers: int = 2,
        dropout: float = 0.1,
        set_weight: float = 0.5,
        jitter: bool = True,
        optimizer: Recipe = Recipe(weight_decay=1e-4, schedule="steps", milestones=(70 / 170, 120 / 170)),
        warmup: float = 20 / 170,
        backbone_rate: float = 0.1,
        supervision: Supervision = Supervision(),
        features: str = "detector",
        recovery_width: int = 32,
        discriminator: PatchGAN = PatchGAN(scales=1),
        recovery_optimizer: Recipe = Recipe(kind="adam", lr=2e-4, betas=(0.5, 0.999), weight_decay=0.0),
    ) -> None:
        super().__init__(image_size=image_size)
        if vocabulary not in TOKENS:
            raise BadInput(f"vocabulary is {vocabulary!r}: use {' or '.join(TOKENS)}")
        if not scales or not set(scales) <= {3, 4, 5} or list(scales) != sorted(set(scales)):
            raise BadInput(f"scales is {list(scales)}: use some of 3, 4, 5, rising, each once")
        if width < 4 or width % 4:
            raise BadInput(f"width is {width}: use a multiple of 4")
        self.network, self.vocabulary, self.scales = network, vocabulary, tuple(scales)
        self.presence, self.backward, self.width, self.hidden = presence, backward, width, hidden
        self.encoder_layers, self.decoder_layers, self.dropout = encoder_layers, decoder_layers, dropout
        self.set_weight, self.jitter, self.warmup, self.backbone_rate = set_weight, jitter, warmup, backbone_rate
        self.supervision, self.features, self.recovery_width = supervision, features, recovery_width
        self.optimizer, self.recovery_optimizer, self.discriminator = optimizer, recovery_optimizer, discriminator
        self._check_numbers()
        self.detector = SequenceDetector(
            network,
            image_size,
            scales=scales,
            presence=presence,
            backward=backward,
            width=width,
            hidden=hidden,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            dropout=dropout,
        )
        self.register_buffer("lists_taught", torch.tensor(False))
        self.recovery: Recovery | None = None
        self.rival: nn.Module | None = None
        self.use_embedder(None)

    def _check_numbers(self) -> None:
        for name in ("hidden", "encoder_layers", "decoder_layers"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("dropout", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}: it must lie in [0, 1)")
        for name in ("set_weight", "backbone_rate"):
            if not 0 <= getattr(self, name) < math.inf:
                raise BadInput(f"{name} is {getattr(self, name)}: it must be 0 or more, and finite")
        if self.recovery_width < 8 or self.recovery_width % 8:
            raise BadInput(f"recovery_width is {self.recovery_width}: use a multiple of 8")

    # --- phases -----------------------------------------------------------------------------------------------
    def phases(self, epochs: int, data: TrainingData) -> dict[str, int]:
        """Detection, then, where the data have originals, half as many passes for the recovery."""
        recovery = {"recover": max(epochs // 2, 1)} if has_originals(data.train(Phase())) else {}
        if recovery and self.supervision.perceptual and self.features != "detector":
            self._vgg19()  # weights that cannot be had are refused now, not after the detection stage
        return {"detect": epochs, **recovery}

    def build_phase(self, phase: Phase) -> None:
        """The recovery stage fixes the detector and brings its own networks."""
        if phase.name == "recover" and self.recovery is None:
            self.recovery = Recovery(self.detector.backbone.channels, self.recovery_width, self.width)
            if self.supervision.adversarial:
                self.rival = self.discriminator.build(3)
        self.detector.requires_grad_(self.recovery is None)
        self.train(self.training)

    def train(self, mode: bool = True) -> MMNet:
        """Train mode; a fixed detector stays in eval mode."""
        super().train(mode)
        if self.__dict__["_modules"].get("recovery") is not None:
            self.detector.eval()
        return self

    def optimizers(self, phase: Phase) -> Optimizers:
        """AdamW with a slower backbone for the detector; Adam for the recovery, and for the discriminator."""
        if self.recovery is None:
            steps = self.optimizer.warmup_steps or round(self.warmup * phase.total_steps)
            recipe = replace(self.optimizer, warmup_steps=steps)
            optimizer = recipe.optimizer(p for n, p in self.detector.named_parameters() if not n.startswith("backbone"))
            if self.backbone_rate:
                backbone = {"params": list(self.detector.backbone.parameters()), "lr": recipe.lr * self.backbone_rate}
                optimizer.add_param_group(backbone)
            return {"main": recipe.scheduled(optimizer, phase.total_steps)}
        found: Optimizers = {"main": self.recovery_optimizer.build(self.recovery.parameters(), phase.total_steps)}
        if self.rival is not None:
            found["discriminator"] = self.recovery_optimizer.build(self.rival.parameters(), phase.total_steps)
        return found

    def use_embedder(self, embedder: Embedder | None) -> None:
        """Psi, a fixed face embedder, for L_id and the figure recovery_identity; None for none. It is not saved."""
        self.__dict__["embedder"] = embedder

    def steps(self, batch: Faces) -> Iterator[Step]:
        """The detector's loss; or the discriminator's, then the recovery's."""
        sequence, original = getattr(batch, "sequence", None), getattr(batch, "original", None)
        if self.recovery is None:
            if sequence is not None:
                self.lists_taught.fill_(True)
            yield Step("main", self.losses, batch)
            return
        if sequence is None or original is None:
            raise BadInput("the recovery needs the lists of edits and the faces before: train the stage 'detect' alone")
        assert isinstance(batch, EditedFaces)
        with torch.no_grad():
            draws = Draws(batch, self.detector.backbone(batch.image))
        if self.rival is not None:
            yield Step("discriminator", self.discriminator_losses, draws)
        yield Step("main", self.recovery_losses, draws)

    # --- losses -----------------------------------------------------------------------------------------------
    def losses(self, batch: Faces) -> Losses:
        """Detection: cross-entropy of both directions and of the presence; of the label where lists are unknown."""
        read = self.detector(batch.image)
        sequence: Tensor | None = getattr(batch, "sequence", None)
        if sequence is None:
            return {"edited": self._label_loss(read, batch.label)}
        losses = self.detector.sequence_losses(read, sequence)
        if read.presence is not None:
            losses["presence"] = self.set_weight * set_loss(read.presence, sequence)
        return losses

    def _label_loss(self, read: Read, label: int | Tensor) -> Tensor:
        assert isinstance(label, Tensor)
        if bool(((label < 0) | (label > 1)).any()):
            raise BadInput(f"labels are {sorted(set(label.tolist()))}: training needs 0 (real) and 1 (forged)")
        odds = self.detector.edited_odds(read)
        return F.binary_cross_entropy_with_logits(odds, label.to(odds.dtype), reduction="sum") / max(len(odds), 1)

    def discriminator_losses(self, draws: Draws) -> Losses:
        """Hinge losses on faces before the edits and on recovered ones."""
        assert self.rival is not None
        batch = draws.batch
        assert batch.original is not None
        if not len(batch.image):
            return {"real": empty_loss(self.rival)}
        with torch.no_grad():
            made, _ = self._painted(draws)
        return {
            "real": hinge(self.rival(batch.original), real=True),
            "fake": hinge(self.rival(made), real=False),
        }

    def recovery_losses(self, draws: Draws) -> Losses:
        """The weighted losses of the recovery network."""
        assert self.recovery is not None
        image, original, weights = draws.batch.image, draws.batch.original, self.supervision
        assert original is not None
        if not len(image):
            return {"pixel": empty_loss(self.recovery)}
        made, mask = self._painted(draws)
        losses: dict[str, Tensor] = {}
        if weights.pixel:
            losses["pixel"] = weights.pixel * F.l1_loss(made, original)
        if weights.mask:
            entropy = F.binary_cross_entropy_with_logits(mask, edited_mask(image, original))
            losses["mask"] = weights.mask * entropy
        read = self.detector(made) if weights.cycle or (weights.perceptual and self.features == "detector") else None
        if weights.perceptual:
            found = read.maps if read is not None and self.features == "detector" else self._phi(made)
            with torch.no_grad():
                wanted = self._phi(original)
            losses["perceptual"] = weights.perceptual * feature_distance(found, wanted)
        embedder = self.embedder
        if weights.identity and embedder is not None:
            losses["identity"] = weights.identity * identity_distances(embedder(made), embedder(original)).mean()
        if self.rival is not None:
            scores = torch.stack([scale[-1].mean() for scale in self.rival(made)]).sum()
            losses["adversarial"] = -weights.adversarial * scores
        if weights.cycle and read is not None:
            nothing = torch.zeros(len(made), LONGEST, dtype=torch.int64, device=made.device)
            entropies = self.detector.sequence_losses(read, nothing).values()
            losses["cycle"] = weights.cycle * torch.stack(list(entropies)).sum()
        return losses

    def _painted(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """X + m q, unclipped, and the logit of m."""
        assert self.recovery is not None
        mask, residual = self.recovery(draws.batch.image, draws.maps, draws.batch.sequence)
        return draws.batch.image + mask.sigmoid() * residual, mask

    def _phi(self, image: Tensor) -> list[Tensor]:
        """Feature maps of the fixed network."""
        if self.features == "detector":
            return self.detector.backbone(image)
        return self._vgg19().to(image.device)(2 * image - 1)

    def _vgg19(self) -> Vgg19:
        if "_vgg" not in self.__dict__:
            self.__dict__["_vgg"] = Vgg19(self.features)  # not a submodule: neither trained nor saved
        return self.__dict__["_vgg"]

    # --- answers ----------------------------------------------------------------------------------------------
    def predict(self, batch: Faces) -> Verdict:
        """The probability that anything was edited, and the edits in order (None where no lists were taught); with
        `evidence` also where, and the face before.
        """
        read = self.detector(batch.image)
        sequence = self.detector.sequences(read)
        score = self.detector.edited_odds(read).float().sigmoid()
        mask = picture = None
        if self.evidence and self.recovery is not None:
            picture, mask = self.recovered(batch.image, read, sequence)
        taught = bool(self.lists_taught)
        edits = [self.named(row) if taught else None for row in sequence.tolist()]
        return Verdict(score, mask, picture, {"edits": edits})

    def named(self, sequence: Sequence[int]) -> str:
        """A list in words, the first edit first: "nose > eye > lip"; "none" where it is empty."""
        return " > ".join(TOKENS[self.vocabulary][t - 1] for t in sequence if t) or NOTHING

    def recovered(self, image: Tensor, read: Read, sequence: Tensor) -> tuple[Tensor, Tensor]:
        """The faces before the edits, (B, 3, H, W) in [0, 1], and the mask of the edits, (B, 1, H, W).

        A face whose list is empty is given back as it is, with an empty mask.

        Args:
            image: (B, 3, H, W) in [0, 1].
            read: What the detector read off them.
            sequence: Lists of edits, (B, 5).
        """
        if self.recovery is None:
            raise BadInput("this model was not trained to recover faces: train it with the faces before the edits")
        logit, residual = self.recovery(image, read.maps, sequence)
        mask = logit.float().sigmoid() * (sequence[:, 0] != 0)[:, None, None, None]
        return (image + mask * residual).clamp(0, 1), mask

    # --- figures ----------------------------------------------------------------------------------------------
    def further_figures(self, data: Dataset[Any], *, batch_size: int = 64, seed: int = 0) -> Mapping[str, Interval]:
        """Where lists are known, the figures of `mien.metrics.sequences`; where originals are, the recovery's.

        `recovery_psnr` and its like are means over edited faces, each beside that of doing nothing (`..._nothing`):
        most pixels of a face were not edited, so doing nothing scores well.
        """
        return measure(self, data, batch_size).intervals(seed)

    def validate(self, data: Dataset[Any], *, batch_size: int = 64) -> dict[str, float]:
        """What all detectors have; three figures of the lists; the PSNR of recovered faces and of doing nothing."""
        figures = measure(self, data, batch_size).figures()
        return super().validate(data, batch_size=batch_size) | {n: v for n, v in figures.items() if n in VALIDATED}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of all modules. Weights from before there was `lists_taught` are taken for those of taught lists."""
        return super().load_state_dict({"lists_taught": torch.tensor(True), **state_dict}, strict, assign)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments. Weights to start from are left out: what is saved has its own."""
        config = super().config()
        config["network"] |= {"pretrained": False, "weights": None}
        return config
