# SPDX-License-Identifier: Apache-2.0
"""Hierarchical Forgery Classifier On Multi-modality Face Forgery Clues (HFC-MFFD).

Liu, Zheng, Peng, Wang, Wang, Gao, IEEE Transactions on Multimedia 2023, arXiv 2212.14629.

A face, visible or near-infrared, is judged in two levels: real or forged, and only if forged, by which generator. Each
level listens to several streams of clues, trained one by one: local patches as images, the same patches as DCT
coefficients, and descriptors at landmarks; in each, the patches (landmarks) of one image attend to each other.

    one stream of patches:  L = a CE_patch + (1 - a) CE_image,  a = 0.6; every patch inherits the image's label
    fusion of a level:      S = sum_k exp(w_k) s_k / sum_k exp(w_k),  s_k the logits of stream k
    decision:               real if argmax S_b = 0, otherwise generator argmax S_g

S_b fuses all three streams, S_g image and descriptor. Networks of the second level see forged faces only, so what they
would say about a real one is never asked. w is learned last, on the training scores of the frozen streams.

Differences from the paper
    * Networks start from random weights unless `network.pretrained` and `dct_network.pretrained` ask for those of
      ImageNet, from which the paper starts.
    * Attention runs over the patches of an image. The released code attends across the batch, so that a score depends
      on which other images are in it: `attention="batch"`.
    * There is no landmark model here: landmarks are fixed places in an aligned face, 68 or 17.
    * Patches are spread evenly, n by n, for any size of image; for the paper's two sizes they are the paper's.
    * One batch size serves all streams (paper: 32 images for patches, 128 for descriptors).
    * Training faces are mirrored at random, and cut at random places where forgeries are made from people's faces that
      are larger than `image_size` (paper: no augmentation). Landmarks lie beside their places then, unless `face` says
      how much larger.
    * `balance` counters the imbalance of level 1 (four forged to one real face), which the hierarchy by itself does
      not: a flat classifier asks whether real beats each single generator, level 1 whether it beats their sum.
    * `decision="flat"` is the rival of the same size: all networks of both levels answer real or which generator.
    * Evidence is the mean probability of forged that the patch classifiers give to what covers a pixel.

Example:
    >>> from mien.nn.network import Network
    >>> head = HeadSize(heads=4, feedforward=64, hidden=(64, 32), patch_hidden=32)
    >>> tiny = Network("tiny_blocks")
    >>> method = HFCMFFD(network=tiny, dct_network=tiny, image_size=32, patch=16, head=head, landmarks=17).eval()
    >>> verdict = method.predict(Faces(torch.rand(2, 3, 32, 32), torch.tensor([0, 1])))
    >>> verdict.score.shape, len(verdict.columns["kind"])
    (torch.Size([2]), 2)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, Subset

from mien.engine import Phase, evaluation_loader
from mien.engine.evaluation import modes_kept
from mien.engine.method import Epoch, Losses, Optimizers
from mien.errors import BadInput, unknown_name
from mien.forensics.data import Faces, Verdict
from mien.forensics.detector import Detector
from mien.forensics.labels import labels_of
from mien.forensics.parts.hfc_figures import kind_figures, patch_map
from mien.forensics.parts.hfc_fusion import Fusion, Level, decide, fused, learn_weights
from mien.forensics.parts.hfc_streams import Attention, DescriptorStream, HeadSize, PatchStream
from mien.forensics.readers.forgery_nir import FORGED
from mien.metrics.intervals import Interval
from mien.nn.empty import empty_loss
from mien.nn.grey import grey
from mien.nn.network import Network
from mien.optim.recipe import Recipe

STREAMS = ("image", "dct", "descriptor")
DESCRIPTOR_PASSES = 15 / 8
"""Passes of the descriptor stream for one of the others (paper: 15 and 8)."""
Decision = Literal["hierarchical", "flat"]
Balance = Literal["none", "weights", "sampler"]
Modality = Literal["visible", "infrared"]
CHOICES = {
    "attention": ("patches", "batch", "none"),
    "decision": ("hierarchical", "flat"),
    "balance": ("none", "weights", "sampler"),
    "modality": ("visible", "infrared"),
}


class HFCMFFD(Detector):
    """HFC-MFFD: local clues of three domains, judged in two levels.

    Args:
        network: The trunk of the image stream (paper: ResNet-50 with ImageNet's weights).
        dct_network: The trunk of the frequency stream (paper: the same).
        optimizer: Of trunks, patch classifiers and the descriptor stream.
        head_lr: Learning rate of the heads with attention on patches, as a share of the optimiser's.
        image_size: Height and width in pixels of the images that it is given.
        kinds: The kinds of forgery that level 2 tells apart; None for ForgeryNIR's four. From the command line they
            are those of the training data.
        patch: P, side of a patch.
        patch_grid: n, patches along a side; 1 is the whole image, resized to P.
        streams: Of level 1: any of "image", "dct", "descriptor".
        kind_streams: Of level 2.
        head: Widths and dropout of the heads.
        patch_weight: a, the share of the patches in the loss of a stream, in [0, 1].
        landmarks: L, 68 or 17.
        cell: Side in pixels of the cells of a descriptor.
        face: Side of the aligned face over that of the images, at least 1: 1 for whole faces, 1.75 for the middle 64 of
            112 pixels. It says where the landmarks are.
        attention: "patches" (the paper's), "batch" (the released code's), "none" (the mean of the patches).
        decision: "hierarchical", or "flat": all networks tell real and all kinds apart at once.
        balance: "weights" gives real and forged faces the same weight in level 1, "sampler" shows as many of both.
        fusion: How the streams are weighed.
        modality: "infrared" takes the brightness of an image alone, so that colour plays no part.
    """

    name = "hfc-mffd"
    class_weight: Tensor
    finished: Tensor

    def __init__(
        self,
        *,
        network: Network = Network("resnet50"),
        dct_network: Network = Network("resnet50"),
        optimizer: Recipe = Recipe("adam", lr=1e-4, weight_decay=0.0),
        head_lr: float = 0.1,
        image_size: int = 256,
        kinds: tuple[str, ...] | None = None,
        patch: int = 128,
        patch_grid: int = 3,
        streams: tuple[str, ...] = STREAMS,
        kind_streams: tuple[str, ...] = ("image", "descriptor"),
        head: HeadSize = HeadSize(),
        patch_weight: float = 0.6,
        landmarks: int = 68,
        cell: float = 1.5,
        face: float = 1.0,
        attention: Attention = "patches",
        decision: Decision = "hierarchical",
        balance: Balance = "none",
        fusion: Fusion = Fusion(),
        modality: Modality = "visible",
    ) -> None:
        super().__init__(image_size=image_size)
        self.network, self.dct_network, self.optimizer = network, dct_network, optimizer
        self.head_lr, self.kinds = head_lr, kinds
        self.patch, self.patch_grid, self.streams, self.kind_streams = patch, patch_grid, streams, kind_streams
        self.head, self.patch_weight = head, patch_weight
        self.landmarks, self.cell, self.face = landmarks, cell, face
        self.attention, self.decision, self.balance = attention, decision, balance
        self.fusion, self.modality = fusion, modality
        _check(self)
        every = 1 + len(self.names)
        classes = (2, len(self.names)) if decision == "hierarchical" else (every, every)
        second = kind_streams if min(classes) > 1 else ()  # a single kind needs no level of its own
        self.first = Level({name: self._stream(name, classes[0]) for name in streams})
        self.second = Level({name: self._stream(name, classes[1]) for name in second})
        self.register_buffer("class_weight", torch.ones(classes[0]))
        self.register_buffer("finished", torch.tensor(False))

    def _stream(self, stream: str, classes: int) -> nn.Module:
        if stream == "descriptor":
            places = (self.landmarks, self.cell)
            return DescriptorStream(*places, classes, self.head, attention=self.attention, face=self.face)
        frequency = stream == "dct"
        size = (self.patch, self.patch_grid, classes, self.head)
        trunk = self.dct_network if frequency else self.network
        return PatchStream(trunk, *size, frequency=frequency, attention=self.attention)

    @property
    def names(self) -> tuple[str, ...]:
        """The kinds of forgery, in the order of level 2's classes."""
        return tuple(self.kinds) if self.kinds is not None else FORGED

    # --- stages ---------------------------------------------------------------------------------------------------
    def phases(self, epochs: int, data: Any = None) -> dict[str, int]:
        """Stages of training and their epochs: the streams of level 1, then those of level 2."""
        more = max(1, round(epochs * DESCRIPTOR_PASSES))
        return {stage: more if name == "descriptor" else epochs for stage, (_, name) in self._stages().items()}

    def _stages(self) -> dict[str, tuple[Level, str]]:
        levels = (("level 1", self.first), ("level 2", self.second))
        return {f"{number}, {name}": (level, name) for number, level in levels for name in level.names()}

    def active(self) -> dict[str, tuple[Level, str]]:
        """The streams that are being trained: one in a stage of its own; in another phase, and afterwards, all."""
        stages, phase = self._stages(), self.built[-1].name if self.built else ""
        return {phase: stages[phase]} if phase in stages and not self.finished else stages

    def in_use(self, level: Level) -> list[str]:
        """Streams of a level whose training has begun; all of them where training never was in stages."""
        stages, built = self._stages(), {phase.name for phase in self.built}
        if not built & set(stages):
            return level.names()
        found = [name for stage, (at, name) in stages.items() if at is level and stage in built]
        return found or (level.names() if level is self.first else [])

    def optimizers(self, phase: Phase) -> Optimizers:
        """One optimiser over the streams of the phase; heads on patches have a rate of their own."""
        modules = [level.streams[name] for level, name in self.active().values()]
        heads = [p for module in modules if isinstance(module, PatchStream) for p in module.head.parameters()]
        slow = set(map(id, heads))
        optimizer = self.optimizer.optimizer(p for m in modules for p in m.parameters() if id(p) not in slow)
        if heads:
            optimizer.add_param_group({"params": heads, "lr": self.optimizer.lr * self.head_lr})
        return {"main": self.optimizer.scheduled(optimizer, phase.total_steps)}

    def build_phase(self, phase: Phase) -> None:
        """Training goes on."""
        self.finished.fill_(False)

    def begin_phase(self, phase: Phase, data: Dataset[Any]) -> None:
        """Statistics of the DCT coefficients over the training patches, and the weights of the classes."""
        streams = [level.streams[name] for level, name in self.active().values()]
        new = [s for s in streams if isinstance(s, PatchStream) and s.statistics is not None and not s.statistics.count]
        if new:
            for batch in evaluation_loader(data, 64, device=self.device):
                for stream in new:
                    stream.observe(self.seen(batch.image))
        if self.balance == "weights":
            label = labels_of(data)
            real, forged = int((label == 0).sum()), int((label == 1).sum())
            if not real or not forged:
                raise BadInput(f"the training data hold {real} real and {forged} forged faces: both are needed")
            self.class_weight[0] = forged / real

    def _sees_forged_only(self, trained: Mapping[str, tuple[Level, str]]) -> bool:
        return self.decision == "hierarchical" and all(level is self.second for level, _ in trained.values())

    def samples_per_epoch(self, phase: Phase, data: Dataset[Any]) -> int | None:
        """As many as `begin_epoch` selects in the phase."""
        stages, size = self._stages(), len(data)  # type: ignore[arg-type]
        if self._sees_forged_only({phase.name: stages[phase.name]} if phase.name in stages else stages):
            return int((labels_of(data) == 1).sum())
        return size + size % 2 if self.balance == "sampler" else None

    def begin_epoch(self, epoch: int, data: Dataset[Any]) -> Epoch | None:
        """Level 2 sees forged faces only; with the sampler level 1 sees as many real as forged ones."""
        if self._sees_forged_only(self.active()):
            forged = torch.nonzero(labels_of(data) == 1)[:, 0]
            if not len(forged):
                raise BadInput("the training data hold no forged faces: level 2 cannot be trained")
            return Epoch(indices=forged)
        if self.balance != "sampler":
            return None
        label = labels_of(data)
        half = (len(label) + 1) // 2
        return Epoch(indices=torch.cat([_drawn(torch.nonzero(label == value)[:, 0], half) for value in (0, 1)]))

    def end_phase(self, phase: Phase, data: Dataset[Any]) -> None:
        """After the last stage: the weights of the streams, from the training scores of the frozen networks."""
        if list(self._stages())[-1] in self.active():
            if self.fusion.kind == "learned":
                self.learn_fusion(data)
            self.finished.fill_(True)

    # --- losses ---------------------------------------------------------------------------------------------------
    def losses(self, batch: Faces) -> Losses:
        """The loss of each stream that is being trained."""
        found: dict[str, Tensor] = {}
        for stage, (level, name) in self.active().items():
            found |= self._losses(stage, level, level.streams[name], batch)
        return found

    def _losses(self, stage: str, level: Level, stream: nn.Module, batch: Faces) -> dict[str, Tensor]:
        rows, target = self.targets(level, batch)
        if not len(rows):
            terms = (stage, f"{stage}, patches") if isinstance(stream, PatchStream) else (stage,)
            return {term: empty_loss(stream) for term in terms}
        image, weight = self.seen(batch.image[rows]), self._class_weight(level)
        if not isinstance(stream, PatchStream):
            return {stage: F.cross_entropy(stream(image), target, weight)}
        whole, parts = stream.both(image)
        of_patches = F.cross_entropy(parts.flatten(0, 1), target.repeat_interleave(parts.shape[1]), weight)
        a = self.patch_weight
        return {stage: (1 - a) * F.cross_entropy(whole, target, weight), f"{stage}, patches": a * of_patches}

    def _class_weight(self, level: Level) -> Tensor | None:
        return self.class_weight if self.balance == "weights" and self._tells_real(level) else None

    def _tells_real(self, level: Level) -> bool:
        return level is self.first or self.decision == "flat"

    def targets(self, level: Level, batch: Faces) -> tuple[Tensor, Tensor]:
        """Which images of a batch a level learns from, and their classes.

        Raises:
            BadInput: A label that is neither 0 nor 1, or a forged face of a kind that the method does not know.
        """
        label = torch.as_tensor(batch.label, device=batch.image.device).long()
        if bool(((label < 0) | (label > 1)).any()):
            raise BadInput(f"labels are {sorted(set(label.tolist()))}: training needs 0 (real) and 1 (forged)")
        rows = torch.arange(len(label), device=label.device)
        if level is self.first and self.decision == "hierarchical":
            return rows, label
        kinds = [0 if y == 0 else self._number(k) for k, y in zip(batch.kind, label.tolist(), strict=True)]
        kind = torch.tensor(kinds, dtype=torch.long, device=label.device)
        return (rows, label * (1 + kind)) if self.decision == "flat" else (rows[label == 1], kind[label == 1])

    def _number(self, kind: str) -> int:
        if kind not in self.names:
            raise unknown_name("kind of forgery", kind, self.names)
        return self.names.index(kind)

    @torch.no_grad()
    def learn_fusion(self, data: Dataset[Any]) -> None:
        """Learn w of both levels on `data`, level 2 on its forged faces; all at once where the decision is flat."""
        most, size = self.fusion.samples, len(data)  # type: ignore[arg-type]
        if most is not None and most < size:
            data = Subset(data, np.linspace(0, size - 1, most).round().astype(int).tolist())
        together = [[level for level in (self.first, self.second) if level.names()]]
        groups = together if self.decision == "flat" else [[level] for level in together[0]]
        scores: list[list[Tensor]] = [[] for _ in groups]
        targets: list[list[Tensor]] = [[] for _ in groups]
        with modes_kept(self):
            self.eval()
            for batch in evaluation_loader(data, 64, device=self.device):
                for group, found, classes in zip(groups, scores, targets, strict=True):
                    rows, target = self.targets(group[0], batch)
                    image = self.seen(batch.image[rows])
                    if len(rows):
                        found.append(torch.cat([level.scores(image, level.names()) for level in group]))
                        classes.append(target)
        for group, found, classes in zip(groups, scores, targets, strict=True):
            if found:
                args = (torch.cat(found, dim=1), torch.cat(classes), self.fusion, self._class_weight(group[0]))
                learned = learn_weights(*args).split([len(level.names()) for level in group])
                for level, weights in zip(group, learned, strict=True):
                    level.weights.copy_(weights)

    # --- answers --------------------------------------------------------------------------------------------------
    def seen(self, image: Tensor) -> Tensor:
        """What the streams see of images (B, 3, H, W): the images, or their brightness in three equal channels."""
        return image if self.modality == "visible" else grey(image).expand(-1, 3, -1, -1)

    def fused(self, image: Tensor, *levels: Level) -> Tensor:
        """S of levels, (B, C), of images as `seen` gives them."""
        used = [(level, self.in_use(level)) for level in levels]
        scores = torch.cat([level.scores(image, names) for level, names in used if names])
        if self.fusion.kind == "sum":
            return scores.sum(dim=0)
        return fused(scores, torch.cat([level.weights_of(names) for level, names in used]))

    def predict(self, batch: Faces) -> Verdict:
        """The probability of forged, and the kind: "real", or which kind of those that were learned."""
        image = self.seen(batch.image)
        if self.decision == "flat":
            both = self.fused(image, self.first, self.second)
            score, answer = 1 - both.softmax(1)[:, 0], both.argmax(dim=1)
        else:
            first = self.fused(image, self.first)
            score = first.softmax(1)[:, 1]
            answer = decide(first, self.generator(image[first.argmax(dim=1) == 1]))
        kinds = ["real" if y == 0 else self.names[y - 1] for y in answer.tolist()]
        return Verdict(score, self.patch_evidence(image) if self.evidence else None, columns={"kind": kinds})

    def generator(self, image: Tensor) -> Tensor:
        """S_g of images as `seen` gives them, all taken for forged: (B, number of kinds)."""
        if self.decision == "flat":
            return self.fused(image, self.first, self.second)[:, 1:]
        if not len(image) or not self.in_use(self.second):
            return image.new_zeros(len(image), len(self.names))
        return self.fused(image, self.second)

    def patch_evidence(self, image: Tensor) -> Tensor | None:
        """(B, 1, H, W) in [0, 1]: what the patch classifiers of level 1 say, where patches overlap on average."""
        streams = [self.first.streams[name] for name in self.in_use(self.first)]
        said = [1 - s.both(image)[1].float().softmax(-1)[..., 0] for s in streams if isinstance(s, PatchStream)]
        if not said or self.patch_grid == 1:
            return None
        return patch_map(torch.stack(said).mean(dim=0), image.shape[-2], image.shape[-1], self.patch, self.patch_grid)

    def further_figures(self, data: Dataset[Any], *, batch_size: int = 64, seed: int = 0) -> Mapping[str, Interval]:
        """Real recall, and how well classes and kinds are named; see `kind_figures`."""

        def say(batch: Faces) -> tuple[Sequence[str], Sequence[str]]:
            second = self.generator(self.seen(batch.image)).argmax(dim=1).tolist()
            return self.predict(batch).columns["kind"], [self.names[i] for i in second]

        with modes_kept(self), torch.no_grad():
            self.eval()
            return kind_figures(evaluation_loader(data, batch_size, device=self.device), say, self.names, seed)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments. Weights to start from are left out: what is saved has its own."""
        config = super().config()
        for name in ("network", "dct_network"):
            config[name] |= {"pretrained": False, "weights": None}
        return config


def _drawn(rows: Tensor, count: int) -> Tensor:
    """`count` of the rows, each as often as the others or once more; which those are is drawn."""
    if not len(rows):
        raise BadInput("the training data hold one class only: balance=sampler needs real and forged faces")
    whole, rest = divmod(count, len(rows))
    return torch.cat([rows.repeat(whole), rows[torch.randperm(len(rows))[:rest]]])


def _check(method: HFCMFFD) -> None:
    """Raise BadInput for an argument outside its range."""
    for name, allowed in CHOICES.items():
        if getattr(method, name) not in allowed:
            raise BadInput(f"{name} is {getattr(method, name)!r}: use {', '.join(allowed)}")
    if not 0 <= method.patch_weight <= 1 or not method.head_lr > 0:
        raise BadInput(
            f"patch_weight is {method.patch_weight}, head_lr {method.head_lr}: use [0, 1], and a number above 0"
        )
    if method.patch_grid < 1 or method.patch < 8:
        raise BadInput(f"patch_grid is {method.patch_grid}, patch {method.patch}: at least 1, and at least 8 pixels")
    if method.patch_grid > 1 and method.patch > method.image_size:
        raise BadInput(f"patch is {method.patch}: it must fit into images of {method.image_size} pixels")
    if not 0 < method.cell < math.inf or not 1 <= method.face < math.inf:
        raise BadInput(f"cell is {method.cell}, face {method.face}: a number of pixels above 0, and at least 1")
    for name, chosen in (("streams", method.streams), ("kind_streams", method.kind_streams)):
        for stream in chosen:
            if stream not in STREAMS:
                raise unknown_name(f"stream in {name}", stream, STREAMS)
        if not chosen or len(set(chosen)) < len(chosen):
            raise BadInput(f"{name} is {list(chosen)}: name at least one of {', '.join(STREAMS)}, each once")
    kinds = method.names
    if not kinds or "real" in kinds or len(set(kinds)) < len(kinds):
        raise BadInput(f"kinds is {list(kinds)}: name at least one kind of forgery, each once, and not 'real'")
