# SPDX-License-Identifier: Apache-2.0
"""Multi-collaboration over spatial scales: what MMNet's decoders read, and which regions were edited at all.

Maps C_l of the scales l become tokens T_l of width d (1 x 1 convolution, plus a sine code of the place, plus a vector
e_l of the scale); T_3, the finest, is averaged over 2 x 2 first. Then

    within scale     T_l <- EncoderLayer_l(T_l)                                        own weights
    across scales    T_l <- T_l + MHA_l(LN(T_l), LN(concat of T_m, m != l)),  T_l <- T_l + FFN(LN(T_l))
    scale gate       T_l <- sig(MLP(mean T_l)) T_l                    last bias 2: a gate starts near 0.88
    memory           M = LN(concat T_l)
    presence         R = Linear(LN(MHA(q, M)))                    one learned query q; R without order

All scales read what the others were before the step. With one scale nothing is across and nothing is gated: what is
left is the encoder of SeqFakeFormer (Shao, Wu, Liu, ECCV 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS = 4
GATE_BIAS = 2.0


def place_grid(height: int, width: int) -> Tensor:
    """Centres of the cells of a map as shares of its width and height, (H W, 2), x first."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def sine_code(places: Tensor, width: int, temperature: float = 10_000.0) -> Tensor:
    """Sine code of places (N, 2) in [0, 1]: half of the `width` channels for y, half for x, (N, width).

    sin and cos of 2 pi p / temperature^(i / (width / 4)), as in DETR (Carion and others, ECCV 2020). `width` is a
    multiple of 4.
    """
    count = width // 4
    rate = temperature ** (-torch.arange(count) / count)
    angle = 2 * math.pi * places.flip(-1)[:, :, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


class CrossScale(nn.Module):
    """T <- T + MHA(LN(T), LN(others)), then T <- T + FFN(LN(T)); dropout on both additions."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.norm_others, self.norm_after = (nn.LayerNorm(width) for _ in range(3))
        self.attention = nn.MultiheadAttention(width, HEADS, dropout=dropout, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, others: Tensor) -> Tensor:
        """(B, N, d) and (B, M, d) to (B, N, d)."""
        seen = self.norm_others(others)
        tokens = tokens + self.dropout(self.attention(self.norm(tokens), seen, seen, need_weights=False)[0])
        return tokens + self.dropout(self.feed(self.norm_after(tokens)))


class ScaleGate(nn.Module):
    """sig(MLP(mean of the tokens)), one number in (0, 1) for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.Linear(width, width)
        nn.init.constant_(last.bias, GATE_BIAS)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), last)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, d) to (B, 1, d)."""
        return self.mlp(tokens.mean(dim=1, keepdim=True)).sigmoid()


class Collaboration(nn.Module):
    """Feature maps to the memory M.

    Args:
        channels: Of the maps, finest first.
        sizes: Side of each map.
        width: d, a multiple of 4 (and of the 4 heads).
        hidden: Width of the feed-forward parts.
        layers: Encoder layers within each scale.
        dropout: In [0, 1).
        pooled: Average the finest map over 2 x 2 first.
    """

    places: Tensor
    code: Tensor

    def __init__(
        self,
        channels: Sequence[int],
        sizes: Sequence[int],
        *,
        width: int,
        hidden: int,
        layers: int,
        dropout: float,
        pooled: bool,
    ) -> None:
        super().__init__()
        self.pooled = pooled
        sides = [side // 2 if self.pooled and not i else side for i, side in enumerate(sizes)]
        grids = [place_grid(side, side) for side in sides]
        self.counts = [len(grid) for grid in grids]
        self.register_buffer("places", torch.cat(grids), persistent=False)  # follows from the configuration
        self.register_buffer("code", sine_code(self.places, width), persistent=False)
        self.enter = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.scale = nn.Parameter(torch.zeros(len(channels), width))
        nn.init.normal_(self.scale, std=0.02)

        def encoder() -> nn.Module:
            layer = [
                nn.TransformerEncoderLayer(width, HEADS, hidden, dropout, batch_first=True, norm_first=True)
                for _ in range(layers)
            ]
            return nn.Sequential(*layer)

        self.within = nn.ModuleList(encoder() for _ in channels)
        several = len(channels) if len(channels) > 1 else 0
        self.across = nn.ModuleList(CrossScale(width, hidden, dropout) for _ in range(several))
        self.gates = nn.ModuleList(ScaleGate(width) for _ in range(several))
        self.norm = nn.LayerNorm(width)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_l, h_l, w_l), finest first, to M (B, N, d); row n lies at `places[n]`."""
        tokens = []
        codes = self.code.split(self.counts)
        for i, (enter, feature) in enumerate(zip(self.enter, maps, strict=True)):
            if self.pooled and not i:
                feature = F.avg_pool2d(feature, 2)  # the mean commutes with a 1 x 1 convolution, and is cheaper here
            entered = enter(feature).flatten(2).transpose(1, 2)
            tokens.append(self.within[i](entered + codes[i] + self.scale[i]))
        if len(self.across):
            before = tokens  # all scales read the values from before this step
            tokens = []
            for i, (cross, gate) in enumerate(zip(self.across, self.gates, strict=True)):
                others = torch.cat([t for m, t in enumerate(before) if m != i], dim=1)
                joined = cross(before[i], others)
                tokens.append(gate(joined) * joined)
        return self.norm(torch.cat(tokens, dim=1))


class Presence(nn.Module):
    """R: which regions were edited, without order. One learned query attends to M; LN; linear."""

    def __init__(self, width: int, regions: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.normal_(self.query, std=0.02)
        self.attention = nn.MultiheadAttention(width, HEADS, dropout=dropout, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, regions)

    def forward(self, memory: Tensor) -> Tensor:
        """M (B, N, d) to logits (B, regions)."""
        query = self.query.expand(len(memory), -1, -1)
        return self.leave(self.norm(self.attention(query, memory, memory, need_weights=False)[0][:, 0]))
