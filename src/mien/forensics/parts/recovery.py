# SPDX-License-Identifier: Apache-2.0
"""MMNet's recovery network and what supervises it: the face before the edits, without knowing how they were made.

A U-shaped decoder goes from C5 over C4, C3 and C2 to a stem of the image itself (two 3 x 3 convolutions of stride 1;
C2 is too coarse to paint with). A condition c, made of the list y of edits, modulates every level:

    c = mean_t SiLU(E_tok[y_t] + E_pos[t]),  0 for an empty list;    h <- (1 + gamma(c)) GN_8(h) + beta(c)
    x_rec = clip(x + m q),  m a soft mask of the edits in [0, 1], q a residual            (no clip in losses)

gamma, beta and the last layer of q start at 0, so training starts from x_rec = x. The position keeps the order of the
edits in c; without the SiLU it would not, since a mean of sums is the same for every order of the same regions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import BadInput
from mien.forensics.readers.seq_deepfake import LONGEST

Embedder = Callable[[Tensor], Tensor]
"""A fixed face embedder: (B, 3, H, W) in [0, 1] -> (B, D)."""
GROUPS = 8
EDITED = 0.05
"""Mean change over the channels, of images in [0, 1], above which a pixel counts as edited."""


@dataclass(frozen=True)
class Supervision:
    """Weights of the recovery's losses; 0 leaves a loss out.

    Args:
        pixel: L_pix, mean |x_rec - x_o|.
        mask: L_mask, cross-entropy of m against where the face was edited.
        perceptual: L_per, mean |phi_l(x_rec) - phi_l(x_o)| summed over the layers of a fixed network.
        identity: L_id, 1 - cosine of face embeddings; counts only where an embedder is given (`MMNet.use_embedder`).
        adversarial: L_adv, hinge loss against a PatchGAN.
        cycle: L_cyc, the fixed detector's loss of reading "nothing edited" off x_rec. Noise can fool it: keep it low.
    """

    pixel: float = 10.0
    mask: float = 1.0
    perceptual: float = 1.0
    identity: float = 0.5
    adversarial: float = 0.1
    cycle: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= getattr(self, field.name) < float("inf"):
                raise BadInput(f"supervision.{field.name} is {getattr(self, field.name)}: it must be 0 or more")
        if not (self.pixel or self.perceptual or self.adversarial):
            raise BadInput("supervision: pixel, perceptual or adversarial must be above 0, or nothing is recovered")


class Condition(nn.Module):
    """C of lists (B, 5): the mean over their regions of SiLU(token + position); 0 for an empty list, (B, d)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(LONGEST + 1, width), nn.Embedding(LONGEST, width)

    def forward(self, sequence: Tensor) -> Tensor:
        """The condition."""
        listed = (sequence != 0)[:, :, None]
        vectors = F.silu(self.token(sequence) + self.position.weight)
        return (vectors * listed).sum(dim=1) / listed.sum(dim=1).clamp_min(1)


class Level(nn.Module):
    """A 3 x 3 convolution, GN_8 modulated by the condition, SiLU."""

    def __init__(self, channels: int, width: int, condition: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = nn.GroupNorm(GROUPS, width, affine=False)
        self.modulation = nn.Linear(condition, 2 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, C, H, W) and (B, d) to (B, width, H, W)."""
        gamma, beta = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        return F.silu((1 + gamma) * self.norm(self.convolution(x)) + beta)


class Recovery(nn.Module):
    """Mask and residual of edited images.

    Args:
        channels: Of C2 to C5.
        width: Channels at full size, a multiple of 8; each level below has twice as many, at most eight times.
        condition: d, width of the condition.
    """

    def __init__(self, channels: Sequence[int], width: int, condition: int) -> None:
        super().__init__()
        self.condition = Condition(condition)
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU()
        )
        skips = [width, *channels[:-1]]  # finest first: the stem, C2, C3, C4
        widths = [width * min(2**i, 8) for i in range(len(skips))]
        self.enter = Level(channels[-1], widths[-1], condition)
        self.levels = nn.ModuleList(
            Level((widths[i + 1] if i + 1 < len(widths) else widths[-1]) + skips[i], widths[i], condition)
            for i in reversed(range(len(skips)))
        )
        self.leave_mask, self.leave_residual = (nn.Conv2d(width, n, 3, padding=1) for n in (1, 3))
        nn.init.zeros_(self.leave_residual.weight)
        if self.leave_residual.bias is not None:
            nn.init.zeros_(self.leave_residual.bias)

    def forward(self, image: Tensor, maps: Sequence[Tensor], sequence: Tensor) -> tuple[Tensor, Tensor]:
        """The logit of the mask, (B, 1, H, W), and the residual, (B, 3, H, W).

        Args:
            image: x, (B, 3, H, W) in [0, 1].
            maps: C2 to C5 of it.
            sequence: Lists of its edits, (B, 5).
        """
        c = self.condition(sequence)
        skips = [self.stem(2 * image - 1), *maps[:-1]]
        h = self.enter(maps[-1], c)
        for level, skip in zip(self.levels, reversed(skips), strict=True):
            h = F.interpolate(h, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            h = level(torch.cat([h, skip], dim=1), c)
        return self.leave_mask(h), self.leave_residual(h)


# --- losses ---------------------------------------------------------------------------------------------------
def edited_mask(image: Tensor, original: Tensor) -> Tensor:
    """Where two images (B, 3, H, W) in [0, 1] differ by more than 0.05 on the mean of the channels, (B, 1, H, W)."""
    return ((image - original).abs().mean(dim=1, keepdim=True) > EDITED).to(image.dtype)


def feature_distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Sum over the layers of the mean absolute difference of two images' feature maps; `wanted` is fixed."""
    return torch.stack([F.l1_loss(a, b.detach()) for a, b in zip(found, wanted, strict=True)]).sum()


def identity_distances(found: Tensor, wanted: Tensor) -> Tensor:
    """1 - cosine of each pair of embeddings (B, d), (B,); `wanted` is fixed."""
    return 1 - F.cosine_similarity(found.flatten(1), wanted.detach().flatten(1), dim=1)


def region_psnr(image: Tensor, truth: Tensor, mask: Tensor, most: float = 100.0) -> Tensor:
    """PSNR in dB, at most `most`, of the pixels where the mask (B, 1, H, W) is above 0, (B,); `most` where none is.

    Images (B, 3, H, W) in [0, 1].
    """
    inside = (mask > 0).to(image.dtype)
    count = (image.shape[1] * inside.sum(dim=(1, 2, 3))).clamp_min(1)
    error = ((image - truth).square() * inside).sum(dim=(1, 2, 3)) / count
    return (-10 * error.log10()).clamp(max=most)
