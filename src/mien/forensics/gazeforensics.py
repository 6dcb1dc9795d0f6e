# SPDX-License-Identifier: Apache-2.0
"""GazeForensics: DeepFake Detection via Gaze-guided Spatial Inconsistency Learning.

He, Peng, Liu, Wang, Gao, 2023, arXiv 2311.07075.

Eyes are hard to forge consistently. A gaze model (`mien.forensics.parts.gaze`) is trained first and then frozen; the
detector starts from its weights, and part of what it makes of every frame is held near what the gaze model makes of it.
A few further, leaky dimensions are left free, and attention across the frames of a clip looks for what does not fit.

    h_t = Linear(f(x_t)) = [u_t ; l_t],  u_t in R^512 (gaze), l_t in R^D (leaky),  g_t = features of the gaze model
    L = CE(p, y) + lambda_e MSE(u, g),   lambda_e = lambda_0 0.01^(e / epochs)
    A = MHA(Q(H), K(H), V(H)),  Q, K, V: MLPs 512+D -> 512 -> 512,  p = head([compress(A_1) ; ... ; compress(A_T)])

MSE is the mean over batch, frames and dimensions. The published loss is BCE over both outputs of a softmax, which for
two classes is CE: p_0 = 1 - p_1, so both terms are -log p_y. With the order of the clip lost to attention without
positions, only the concatenation at the end knows it.

Differences from the paper
    * Class 1 is forged here, and scores are the probability of forged.
    * The two AdamW optimisers of the paper have the same settings and schedule: they are one here.
    * A fifth of the training clips per epoch: each stretch of five clips of a class gives one, instead of a free draw.
    * The remainder of a test stride starts at 0, where the published code draws it.
    * In the published code the frozen mode's leaky branch is not described further: it is a linear layer on g_t.
    * Without a folder of Gaze360 or MPIIFaceGaze (`gaze`) the teacher learns from generated people.
    * The learning rate is that of the paper's batch of 32; it is not scaled to other batches.

Example:
    >>> from mien.nn.network import Network
    >>> method = GazeForensics(network=Network("tiny_blocks"), image_size=48, frames=4, leaky=8, width=64).eval()
    >>> method.predict(Faces(torch.rand(2, 4, 3, 48, 48), torch.tensor([0, 1]))).score.shape
    torch.Size([2])
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset

from mien.engine import Epoch, Phase, TrainingData
from mien.engine.method import Losses, Optimizers
from mien.errors import BadInput
from mien.forensics.clips.sampling import StretchedClips
from mien.forensics.clips.videos import ClipDetector
from mien.forensics.data import Faces, Verdict
from mien.forensics.detector import cross_entropy, forged_score
from mien.forensics.parts.gaze import Gaze, GazeTeacher, angular_error, gaze_loss
from mien.forensics.readers.gaze import EMBEDDED, TEACHER, WithTeacher, with_teacher
from mien.nn.network import Network
from mien.optim.recipe import Recipe

Backend = Literal["guided", "frozen"]


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between and none at the end; Kaiming-uniform weights (fan-in), biases 0."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        linear = nn.Linear(inputs, outputs)
        nn.init.kaiming_uniform_(linear.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def guidance_weight(first: float, epoch: int, epochs: int, fade: float = 0.01) -> float:
    """lambda_e: falls by the same factor after every epoch, to the share `fade` in the end.

    >>> [round(guidance_weight(4.0, e, 25), 4) for e in (0, 25)]
    [4.0, 0.04]
    """
    return first * float(fade ** (epoch / max(epochs, 1)))


def one_cycle(epoch: int, epochs: int, rise: float = 0.3, start: float = 1e-3, end: float = 1e-7) -> float:
    """Share of the highest learning rate in an epoch: a cosine from `start` up to 1, then one down to `end`.

    Stepped once per epoch: at 25 epochs the first runs at a thousandth, and the seventh and eighth are near the top.
    One epoch alone runs at the top.
    """
    if epochs == 1:
        return 1.0
    top = rise * epochs - 1
    if epoch <= top:
        return 1 + (start - 1) / 2 * (1 + math.cos(math.pi * epoch / top)) if top > 0 else 1.0
    share = (epoch - top) / max(epochs - 1 - top, 1e-9)
    return end + (1 - end) / 2 * (1 + math.cos(math.pi * min(share, 1.0)))


class FrameAttention(nn.Module):
    """Attention across the frames of a clip, and the verdict.

    Args:
        inputs: Features of a frame, 512 + D.
        width: Of queries, keys and values.
        heads: Of the attention; they divide the width.
        frames: T.
        compression: Widths of the layers that each frame goes through afterwards.
        hidden: Hidden widths of the head.
    """

    def __init__(
        self, inputs: int, width: int, heads: int, frames: int, compression: Sequence[int], hidden: Sequence[int]
    ) -> None:
        super().__init__()
        self.query, self.key, self.value = (mlp(inputs, width, width) for _ in range(3))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.compress = mlp(width, *compression)
        self.head = mlp(frames * compression[-1], *hidden, 2)

    def forward(self, h: Tensor) -> Tensor:
        """H (B, T, inputs) -> logits (B, 2): real, forged."""
        seen, _ = self.attention(self.query(h), self.key(h), self.value(h), need_weights=False)
        return self.head(self.compress(seen).flatten(1))


class GazeForensics(ClipDetector):
    """GazeForensics: a detector of face clips that a gaze model guides.

    Args:
        network: Of the gaze teacher and of the student (paper: ResNet-18).
        optimizer: Of the student; its learning rate is the highest of the one-cycle, `schedule` is not used.
        cycle_by: What the one-cycle advances with: "epoch" as in the paper, or "step", for trainings of few epochs.
        teacher_optimizer: Of the gaze teacher.
        image_size: Height and width in pixels of the frames.
        frames: T of a clip; shorter videos are refused.
        leaky: D, free dimensions beside the gaze part, >= 0.
        guidance: lambda_0, weight of the guidance in the first epoch, >= 0; 0 for none.
        fade: Share of it that is left in the end, in (0, 1].
        start_from_teacher: Whether the student starts from the teacher's weights, or from its own random ones.
        backend: "guided", or "frozen": the gaze model's features alone are used, and [leaky ; gaze] is their order.
        width: Of queries, keys and values.
        heads: Of the attention; they divide `width`.
        compression: Widths that each frame goes through after the attention.
        hidden: Hidden widths of the head.
        view: Share of the frame's side that is looked at, in (0, 1]; it is enlarged to `image_size`.
        strong: Whether the student sees a random part of each clip in training; the teacher sees the standard view.
        share: Of the training clips of videos, how many are used in an epoch, in (0, 1].
        gaze: Data of the teacher: a folder of Gaze360 or MPIIFaceGaze, or "embedded" for generated people.
        teacher_epochs: Passes over the gaze data; 0 where `network.weights` are those of a gaze model.
    """

    name = "gazeforensics"
    guidance_now: Tensor

    def __init__(
        self,
        *,
        network: Network = Network("resnet18", normalise="backbone"),
        optimizer: Recipe = Recipe(kind="adamw", lr=7e-5, weight_decay=1e-2),
        cycle_by: Literal["epoch", "step"] = "epoch",
        teacher_optimizer: Recipe = Recipe(kind="adamw", lr=1e-4, weight_decay=1e-2),
        image_size: int = 224,
        frames: int = 14,
        leaky: int = 32,
        guidance: float = 4.0,
        fade: float = 0.01,
        start_from_teacher: bool = True,
        backend: Backend = "guided",
        width: int = 512,
        heads: int = 8,
        compression: Sequence[int] = (256, 128, 32),
        hidden: Sequence[int] = (256, 128, 64),
        view: float = 177 / 224,
        strong: bool = False,
        share: float = 0.2,
        gaze: str = EMBEDDED,
        teacher_epochs: int = 25,
    ) -> None:
        super().__init__(image_size=image_size, sampling=StretchedClips(frames))
        _check(leaky=leaky, guidance=guidance, teacher_epochs=teacher_epochs)
        for name, value in (("fade", fade), ("view", view), ("share", share)):
            if not 0 < value <= 1:
                raise BadInput(f"{name} is {value}: it must lie in (0, 1]")
        if round(view * image_size) < 1:
            raise BadInput(f"view is {view}: of {image_size} pixels that leaves none")
        if cycle_by not in ("epoch", "step"):
            raise BadInput(f"cycle_by is {cycle_by!r}: use epoch or step")
        if backend not in ("guided", "frozen"):
            raise BadInput(f"backend is {backend!r}: use guided or frozen")
        if heads < 1 or width < 1 or width % heads:
            raise BadInput(f"width is {width}, heads is {heads}: the heads must divide the width")
        if not compression or min((*compression, *hidden)) < 1:
            raise BadInput(f"compression is {compression}, hidden is {hidden}: give widths of 1 or more")
        self.network, self.optimizer, self.teacher_optimizer = network, optimizer, teacher_optimizer
        self.cycle_by = cycle_by
        self.leaky, self.guidance, self.fade, self.backend = leaky, guidance, fade, backend
        self.start_from_teacher, self.width, self.heads = start_from_teacher, width, heads
        self.compression, self.hidden, self.view, self.strong = tuple(compression), tuple(hidden), view, strong
        self.share, self.gaze, self.teacher_epochs = share, gaze, teacher_epochs
        self.teacher = GazeTeacher(network, image_size)
        size = self.teacher.width
        self.trunk = network.build(0, image_size) if backend == "guided" else None
        self.gaze_layer = mlp(size, size + leaky) if backend == "guided" else (mlp(size, leaky) if leaky else None)
        self.attention = FrameAttention(size + leaky, width, heads, frames, self.compression, self.hidden)
        self.register_buffer("guidance_now", torch.tensor(float(guidance)))
        self.register_buffer("taught", torch.tensor(False))
        self._epochs = 1

    taught: Tensor

    # --- stages -----------------------------------------------------------------------------------------------
    @property
    def needs_teacher(self) -> bool:
        """Whether anything depends on the gaze model."""
        return self.backend == "frozen" or self.guidance > 0 or self.start_from_teacher

    @property
    def trains_teacher(self) -> bool:
        """Whether the gaze model has a phase of its own."""
        return self.needs_teacher and self.teacher_epochs > 0

    def phases(self, epochs: int, data: TrainingData) -> Mapping[str, int]:
        """The teacher's phase, where there are data for it, and the student's."""
        first = {TEACHER: self.teacher_epochs} if self.trains_teacher and isinstance(data, WithTeacher) else {}
        return {**first, "student": epochs}

    def with_further_data(self, data: TrainingData, seed: int) -> TrainingData:
        """The clips, and gaze for the teacher's phase where there is one."""
        return with_teacher(data, self.gaze, self.image_size, seed) if self.trains_teacher else data

    def build_phase(self, phase: Phase) -> None:
        """The teacher learns in its own phase and never again."""
        self._epochs = phase.epochs
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith("teacher.") == (phase.name == TEACHER))

    def begin_phase(self, phase: Phase, data: Dataset[Any]) -> None:
        """The student starts from the teacher's weights."""
        if phase.name == TEACHER or not self.needs_teacher:
            return
        # `network.pretrained` does not count: weights of ImageNet know nothing of gaze.
        if not bool(self.taught) and self.network.weights is None:
            raise BadInput(
                "the gaze teacher was not trained: train with stages (teacher_epochs above 0), or name the weights of "
                "a gaze model with network.weights"
            )
        if self.trunk is not None and self.start_from_teacher:
            self.trunk.load_state_dict(self.teacher.trunk.state_dict())

    def begin_epoch(self, epoch: int, data: Dataset[Any]) -> Epoch | None:
        """The guidance fades."""
        self.guidance_now.fill_(guidance_weight(self.guidance, epoch, self._epochs, self.fade))
        return None

    def end_phase(self, phase: Phase, data: Dataset[Any]) -> None:
        """Notes that the teacher has learnt."""
        if phase.name == TEACHER:
            self.taught.fill_(True)
        else:
            self.guidance_now.fill_(guidance_weight(self.guidance, phase.epochs, phase.epochs, self.fade))

    def optimizers(self, phase: Phase) -> Optimizers:
        """The teacher's, or one over the student whose learning rate changes with the epoch."""
        if phase.name == TEACHER:
            return {"main": self.teacher_optimizer.build(self.teacher.parameters(), phase.total_steps)}
        optimizer = self.optimizer.optimizer(p for n, p in self.named_parameters() if not n.startswith("teacher."))
        total, epochs = max(phase.total_steps, 1), phase.epochs

        def factor(step: int) -> float:
            if self.cycle_by == "step":
                return one_cycle(min(step, total - 1), total)
            return one_cycle(min(step * epochs // total, epochs - 1), epochs)

        return {"main": (optimizer, LambdaLR(optimizer, factor))}

    # --- what is computed -------------------------------------------------------------------------------------
    def standard_view(self, clip: Tensor) -> Tensor:
        """The middle of every frame, enlarged to the frame's size: (B, T, 3, H, W) -> the same shape."""
        side = round(self.view * self.image_size)
        if side == self.image_size:
            return clip
        top = (clip.shape[-1] - side) // 2
        middle = clip[..., top : top + side, top : top + side].flatten(0, 1)
        return F.interpolate(middle, self.image_size, mode="bilinear").unflatten(0, clip.shape[:2])

    def gaze_features(self, clip: Tensor) -> Tensor:
        """Features g (B, T, 512) of the teacher, which is always in eval mode here; without gradient."""
        self.teacher.eval()
        with torch.no_grad():
            return self.teacher.trunk(clip.flatten(0, 1)).unflatten(0, clip.shape[:2])

    def represent(self, clip: Tensor) -> tuple[Tensor, Tensor | None]:
        """H (B, T, 512 + D) of clips in the standard view, and its gaze part u; None with frozen features."""
        if self.trunk is None:
            g = self.gaze_features(clip)
            return (g if self.gaze_layer is None else torch.cat([self.gaze_layer(g), g], dim=-1)), None
        assert self.gaze_layer is not None
        h = self.gaze_layer(self.trunk(clip.flatten(0, 1))).unflatten(0, clip.shape[:2])
        return h, h[..., : self.teacher.width]

    def losses(self, batch: Faces | Gaze) -> Losses:
        """The teacher's, of a batch of gaze; of clips, cross-entropy and the guidance."""
        if isinstance(batch, Gaze):
            entropy, square = gaze_loss(self.teacher(batch.image), batch.gaze)
            return {"gaze_bins": entropy, "gaze_square": square}
        assert isinstance(batch.label, Tensor)
        clip = self.clip(batch.image)
        seen = random_part(clip, self.image_size) if self.strong and self.training else self.standard_view(clip)
        h, u = self.represent(seen)
        losses = {"cross_entropy": cross_entropy(self.attention(h), batch.label)}
        if u is not None and self.guidance > 0:
            g = self.gaze_features(self.standard_view(clip))
            losses["guidance"] = self.guidance_now * (u - g).square().sum() / max(g.numel(), 1)
        return losses

    def predict(self, batch: Faces) -> Verdict:
        """A score for every clip. The teacher is not asked, except with frozen features."""
        h, _ = self.represent(self.standard_view(self.clip(batch.image)))
        return Verdict(forged_score(self.attention(h).float()))

    def validate(self, data: Dataset[Any], *, batch_size: int = 64) -> Mapping[str, float]:  # type: ignore[override]
        """Of gaze, the error in degrees, and that of always answering the mean; of clips, as all detectors."""
        if len(data) and isinstance(data[0], Gaze):  # type: ignore[arg-type]
            return gaze_errors(self.teacher, data, batch_size)
        return super().validate(data, batch_size=batch_size)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments. Weights to start from and the folder of gaze are left out."""
        config = super().config()
        config["network"] |= {"pretrained": False, "weights": None}
        return config | {"gaze": EMBEDDED}


def gaze_errors(teacher: GazeTeacher, data: Dataset[Any], batch_size: int = 64) -> dict[str, float]:
    """Mean angle in degrees between truth and answer, and between truth and the mean of the truths."""
    from mien.engine.evaluation import evaluation_loader, modes_kept

    truth, found = [], []
    device = next(teacher.parameters()).device
    with modes_kept(teacher), torch.no_grad():
        teacher.eval()
        for batch in evaluation_loader(data, batch_size, device=device):
            truth.append(batch.gaze.cpu())
            found.append(teacher.gaze(batch.image).cpu())
    gaze, answer = torch.cat(truth), torch.cat(found)
    mean = gaze.mean(dim=0).expand_as(gaze)
    return {
        "gaze_degrees": float(angular_error(answer, gaze).mean()),
        "gaze_degrees_of_the_mean": float(angular_error(mean, gaze).mean()),
    }


def random_part(clip: Tensor, size: int, area: tuple[float, float] = (0.7, 0.9)) -> Tensor:
    """A random square part of every clip, the same for its frames, enlarged: (B, T, 3, H, W) -> (B, T, 3, size, size).

    Chance comes from torch's global generator.
    """
    count, frames = clip.shape[:2]
    side = (area[0] + (area[1] - area[0]) * torch.rand(count)).sqrt()
    middle = (torch.rand(count, 2) * 2 - 1) * (1 - side[:, None])
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = side
    matrix[:, :, 2] = middle
    matrix = matrix.repeat_interleave(frames, dim=0).to(clip)
    grid = F.affine_grid(matrix, [count * frames, 3, size, size], align_corners=False)
    return F.grid_sample(clip.flatten(0, 1), grid, padding_mode="border", align_corners=False).unflatten(
        0, (count, frames)
    )


def _check(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise BadInput(f"{name} is {value}: it must be 0 or more, and finite")
