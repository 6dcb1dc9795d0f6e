# SPDX-License-Identifier: Apache-2.0
"""Spatial-Temporal Frequency Forgery Clue for Video Forgery Detection in VIS and NIR Scenario.

Wang, Peng, Liu, Wang, Gao, IEEE TCSVT 2023, arXiv 2207.01906.

A clip of T frames goes through one network, frame by frame: X in R^(T x C x h x w). Two branches read the maps. Compact
feature extraction (CFE) weighs channels by a code of their lowest spatial frequencies, and places by what it then sees:

    q_tc = sum_ij X_tcij B_uv(i, j),  B_uv orthonormal DCT-II, (u, v) the g-th lowest in zig-zag order for group g of n
    a = sig(W2 ReLU(W1 q_t)),  p_t = softmax_hw(conv1x1(a X_t)),  s_t = sum_ij p_t (a X_t),  s = fc(mean_t s_t)

Frequency temporal attention (FTA) weighs the temporal spectrum of the pooled maps, whose first row is appearance and
whose other rows carry what flickers, and keeps its energy as a second moment:

    z_t = mean_hw X_t,  F = D_T Z,  e_k = mean_c |F_kc|,  alpha = tanh(U2 ReLU(U1 log(1 + e)))
    beta = tanh(V2 ReLU(V1 mean_(k>0) |F_k|)),  F'_0 = (1 + alpha_0) F_0,  F'_k = (1 + alpha_k) F_k (1 + beta)
    Z' = D_T^T F',  m = fc([mean_t Z' ; std_t Z']),  var_t Z' = 1/T sum_(k>0) F'_k^2  (Parseval)
    L = CE(fc([s ; m]), y) + CE(fc(s), y) / 2 + CE(fc(m), y) / 2

Differences from the paper
    * The text of the paper was not to be had beyond its abstract, and there is no code: both modules, the sizes, the
      losses and the settings are inferred from the abstract.
    * The gains 1 + alpha are in (0, 2), by tanh: with a sigmoid slow motion of real faces drowns the flicker, since no
      frequency can be removed.
    * ResNet-50 starts from random weights unless `network.pretrained` asks for those of ImageNet.
    * Hidden layers have C / 16 units, at least 4. A batch of a single clip, which batch norm cannot normalise, is
      trained on with the running statistics.
    * The evidence map is mean_t p_t.

Example:
    >>> from mien.nn.network import Network
    >>> method = FCANDCT(network=Network("tiny_blocks"), image_size=48, frames=4).eval()
    >>> method.predict(Faces(torch.rand(2, 4, 3, 48, 48), torch.tensor([0, 1]))).score.shape
    torch.Size([2])
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.engine import Phase
from mien.engine.method import Losses, Optimizers
from mien.errors import BadInput
from mien.forensics.clips.sampling import UniformClips
from mien.forensics.clips.videos import ClipDetector
from mien.forensics.data import Faces, Verdict
from mien.forensics.detector import cross_entropy, forged_score
from mien.nn.dct import dct_matrix
from mien.nn.network import Network
from mien.optim.recipe import Recipe

Temporal = Literal["fta", "moments", "none"]


def zigzag(count: int, height: int, width: int) -> list[tuple[int, int]]:
    """The `count` lowest frequencies (u, v) of a height x width grid, diagonal by diagonal, every second one upwards.

    >>> zigzag(8, 7, 7)
    [(0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2)]
    """
    cells = [(u, v) for u in range(height) for v in range(width)]
    return sorted(cells, key=lambda c: (sum(c), c[0] if sum(c) % 2 else c[1]))[:count]


def spatial_basis(count: int, height: int, width: int) -> Tensor:
    """B_uv of the `count` lowest frequencies, (count, height, width), orthonormal.

    Raises:
        BadInput: The grid has fewer frequencies.
    """
    if not 1 <= count <= height * width:
        raise BadInput(f"frequencies is {count}: a map of {height} x {width} has 1 to {height * width}")
    rows, columns = dct_matrix(height), dct_matrix(width)
    return torch.stack([rows[u][:, None] * columns[v] for u, v in zigzag(count, height, width)]).float()


def compact_code(maps: Tensor, basis: Tensor) -> Tensor:
    """Q: the coefficient of each channel at the frequency of its group, (N, C, h, w) and (n, h, w) -> (N, C)."""
    grouped = maps.unflatten(1, (len(basis), -1))
    return torch.einsum("ngchw,ghw->ngc", grouped, basis.to(maps)).flatten(1)


def augmented(z: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Z': features over time with their temporal spectrum weighed.

    Args:
        z: (B, T, C).
        alpha: Of the frequencies, (B, T), in (-1, 1); 0 changes nothing.
        beta: Of the channels at frequencies above 0, (B, C).
    """
    transform = dct_matrix(z.shape[1], dtype=z.dtype, device=z.device)
    spectrum = (transform @ z) * (1 + alpha)[:, :, None]
    above = spectrum[:, 1:] * (1 + beta)[:, None]
    return transform.T @ torch.cat([spectrum[:, :1], above], dim=1)


def moments(z: Tensor) -> Tensor:
    """Mean and deviation over time, (B, T, C) -> (B, 2 C). sqrt(var + 1e-5) has a finite gradient where nothing moves.

    >>> moments(torch.tensor([[[1.0], [3.0]]]))
    tensor([[2.0000, 1.0000]])
    """
    mean = z.mean(dim=1, keepdim=True)
    return torch.cat([mean[:, 0], ((z - mean).square().mean(dim=1) + 1e-5).sqrt()], dim=1)


class Projection(nn.Module):
    """Linear, batch norm, ReLU: (B, n) -> (B, width)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(inputs, width), nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Of a batch."""
        x = self.linear(x)
        if self.training and len(x) == 1:  # no statistics of one clip
            norm = self.norm
            return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps).relu()
        return self.norm(x).relu()


class CompactFeatures(nn.Module):
    """CFE.

    Args:
        channels: C.
        size: (h, w) of the maps.
        frequencies: n, which divides C.
        reduction: C / reduction hidden units weigh the channels.
        width: Of the result.

    Raises:
        BadInput: n does not divide C or the maps have fewer frequencies.
    """

    basis: Tensor

    def __init__(self, channels: int, size: tuple[int, int], frequencies: int, reduction: int, width: int) -> None:
        super().__init__()
        if channels % frequencies:
            raise BadInput(f"frequencies is {frequencies}: it must divide the network's {channels} channels")
        self.register_buffer("basis", spatial_basis(frequencies, *size), persistent=False)
        hidden = max(channels // reduction, 4)
        self.channel = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())
        self.place = nn.Conv2d(channels, 1, 1)
        self.project = Projection(channels, width)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, T, C, h, w) -> s (B, width), and p (B, T, h, w)."""
        flat = maps.flatten(0, 1)
        weighed = flat * self.channel(compact_code(flat, self.basis))[:, :, None, None]
        places = self.place(weighed).flatten(2).softmax(dim=2)  # (B T, 1, h w)
        features = (weighed.flatten(2) * places).sum(dim=2).unflatten(0, maps.shape[:2])
        return self.project(features.mean(dim=1)), places.view(*maps.shape[:2], *maps.shape[3:])


class TemporalAttention(nn.Module):
    """FTA.

    Args:
        channels: C.
        frames: T.
        reduction: C / reduction hidden units weigh the channels.
        width: Of the result.
        attention: Whether the spectrum is weighed; without it, moments of what is there.
    """

    def __init__(self, channels: int, frames: int, reduction: int, width: int, *, attention: bool = True) -> None:
        super().__init__()
        self.attention = attention
        if attention:
            hidden = max(channels // reduction, 4)
            self.frequency = nn.Sequential(nn.Linear(frames, frames), nn.ReLU(), nn.Linear(frames, frames), nn.Tanh())
            self.channel = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Tanh())
            for name, value in self.named_parameters():
                if name.startswith(("frequency.2", "channel.2")):  # starts neutral
                    nn.init.zeros_(value)
        self.project = Projection(2 * channels, width)

    def gains(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha (B, T) and beta (B, C) of features (B, T, C). One frame has no frequency above 0: beta is 0."""
        magnitude = (dct_matrix(z.shape[1], dtype=z.dtype, device=z.device) @ z).abs()
        alpha = self.frequency(magnitude.mean(dim=2).log1p())
        beta = self.channel(magnitude[:, 1:].mean(dim=1)) if z.shape[1] > 1 else torch.zeros_like(z[:, 0])
        return alpha, beta

    def forward(self, z: Tensor) -> Tensor:
        """Features (B, T, C) -> m (B, width)."""
        return self.project(moments(augmented(z, *self.gains(z)) if self.attention else z))


class FCANDCT(ClipDetector):
    """FCAN-DCT: spatial and temporal frequency clues of face clips.

    Args:
        network: Convolutional network of the frames (paper: ResNet-50 on ImageNet weights).
        optimizer: How all is trained.
        image_size: Height and width in pixels of the frames.
        frames: T. It is built into the temporal transform; other clips must be resampled.
        clips: Most clips that a video is scored by, from as many segments.
        cfe: Whether the branch of spatial frequencies is there.
        temporal: "fta" is the branch of temporal frequencies, "moments" the same without attention, "none" leaves it
            out. Without any branch maps are averaged over places and time, which is the backbone alone.
        frequencies: n, spatial frequencies of the compact code; it divides the network's channels.
        reduction: C / reduction hidden units weigh channels.
        width: Features of a branch.
        dropout: Before the last layer, in [0, 1).
        auxiliary: Weight of the losses on each branch alone, >= 0.
        perturbed: Share of the training clips that get one perturbation, in [0, 1].
    """

    name = "fcan-dct"

    def __init__(
        self,
        *,
        network: Network = Network("resnet50", normalise="backbone"),
        optimizer: Recipe = Recipe(kind="adam", lr=1e-4, weight_decay=5e-4, schedule="cosine"),
        image_size: int = 224,
        frames: int = 8,
        clips: int = 8,
        cfe: bool = True,
        temporal: Temporal = "fta",
        frequencies: int = 16,
        reduction: int = 16,
        width: int = 256,
        dropout: float = 0.5,
        auxiliary: float = 0.5,
        perturbed: float = 0.0,
    ) -> None:
        super().__init__(image_size=image_size, sampling=UniformClips(frames, clips))
        if temporal not in ("fta", "moments", "none"):
            raise BadInput(f"temporal is {temporal!r}: use fta, moments or none")
        if reduction < 1 or width < 1:
            raise BadInput(f"reduction is {reduction}, width is {width}: both must be at least 1")
        if not 0 <= dropout < 1:
            raise BadInput(f"dropout is {dropout}: it must lie in [0, 1)")
        if not auxiliary >= 0:
            raise BadInput(f"auxiliary is {auxiliary}: it must be 0 or more")
        if not 0 <= perturbed <= 1:
            raise BadInput(f"perturbed is {perturbed}: it must lie in [0, 1]")
        self.network, self.optimizer, self.clips, self.cfe, self.temporal = network, optimizer, clips, cfe, temporal
        self.frequencies, self.reduction, self.width = frequencies, reduction, width
        self.dropout, self.auxiliary, self.perturbed = dropout, auxiliary, perturbed
        self.backbone = network.build(0, image_size)
        channels, *size = _map_size(self.backbone, image_size)
        self.spatial_branch = (
            CompactFeatures(channels, (size[0], size[1]), frequencies, reduction, width) if cfe else None
        )
        self.temporal_branch = (
            TemporalAttention(channels, frames, reduction, width, attention=temporal == "fta")
            if temporal != "none"
            else None
        )
        self.plain_branch = Projection(channels, width) if not cfe and temporal == "none" else None
        count = 1 if self.plain_branch is not None else int(cfe) + int(temporal != "none")
        self.heads = nn.ModuleList(nn.Linear(width, 2) for _ in range(count))
        self.head = nn.Linear(count * width, 2)

    def branches(self, clip: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Features (B, width) of every branch, and p (B, T, h, w), of clips (B, T, 3, H, W) in [0, 1]."""
        maps = self.backbone.feature_map(clip.flatten(0, 1)).unflatten(0, clip.shape[:2])
        found, places = [], None
        if self.spatial_branch is not None:
            compact, places = self.spatial_branch(maps)
            found.append(compact)
        pooled = maps.mean(dim=(3, 4))
        if self.temporal_branch is not None:
            found.append(self.temporal_branch(pooled))
        if self.plain_branch is not None:
            found.append(self.plain_branch(pooled.mean(dim=1)))
        return found, places

    def fused(self, features: list[Tensor]) -> Tensor:
        """Logits (B, 2): real, forged."""
        return self.head(F.dropout(torch.cat(features, dim=1), self.dropout, self.training))

    def losses(self, batch: Faces) -> Losses:
        """Cross-entropy of the fused logits, and of each branch alone."""
        assert isinstance(batch.label, Tensor)
        features, _ = self.branches(self.clip(batch.image))
        losses = {"cross_entropy": cross_entropy(self.fused(features), batch.label)}
        for number, (head, feature) in enumerate(zip(self.heads, features, strict=True)):
            if self.auxiliary:
                losses[f"branch_{number}"] = self.auxiliary * cross_entropy(head(feature), batch.label)
        return losses

    def optimizers(self, phase: Phase) -> Optimizers:
        """One optimiser over everything."""
        return {"main": self.optimizer.build(self.parameters(), phase.total_steps)}

    def predict(self, batch: Faces) -> Verdict:
        """A score for every clip; with `evidence`, the mean over time of the place weights, its largest value as 1."""
        clip = self.clip(batch.image)
        features, places = self.branches(clip)
        score = forged_score(self.fused(features).float())
        if not self.evidence or places is None:
            return Verdict(score)
        maps = places.float().mean(dim=1, keepdim=True)
        maps = F.interpolate(maps / maps.amax(dim=(2, 3), keepdim=True), clip.shape[-2:], mode="bilinear")
        return Verdict(score, maps.clamp(0, 1))

    def config(self) -> dict[str, Any]:
        """The constructor's arguments. Weights to start from are left out: what is saved has its own."""
        config = super().config()
        config["network"] |= {"pretrained": False, "weights": None}
        return config


def _map_size(backbone: nn.Module, image_size: int) -> list[int]:
    """Channels, height and width of the network's last map, found without data."""
    twin: Any = copy.deepcopy(backbone).to("meta").eval()
    with torch.no_grad():
        return list(twin.feature_map(torch.empty(1, 3, image_size, image_size, device="meta")).shape[1:])
