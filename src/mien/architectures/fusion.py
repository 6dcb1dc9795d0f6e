# SPDX-License-Identifier: Apache-2.0
"""NAR-Former's multi-stage fusion transformer: a token sequence is compressed, stage by stage, into one vector.

    stage 0      x += MHSA(LN x); x += FFN(LN x)                   several times; the result is the memory M
    fuse unit    z = MHA(LN q, LN M, LN M);  z += FFN(LN z)        q: what the stage before gave; no residual around MHA
    cross block  x = W_o attend(Q, W_k LN z, W_v LN z);  x += FFN(LN x)     Q: learnt queries, 4, then 2, then 1

The first cross block reads M itself, each later one what its fuse unit gave. The learnt queries are split into heads as
they are, without a projection, and there is no residual around them. Nothing is masked: all sequences of a call are
equally long.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head attention with dropout on its weights.

    Args:
        width: d.
        heads: They divide d.
        dropout: Of attention weights.
        project_query: Whether the query has a projection; learnt queries have none.
    """

    def __init__(self, width: int, heads: int, dropout: float, *, project_query: bool = True) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width) if project_query else nn.Identity()
        self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(3))

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        """(B, Q, d) and (B, L, d) -> (B, Q, d)."""
        parts = (self.query(query), self.key(memory), self.value(memory))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        dropout = self.dropout if self.training else 0.0
        return self.out(F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """x + FFN(LN x): d -> 4d -> d with ReLU and dropout in between."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        return x + self.layers(self.norm(x))


class EncoderBlock(nn.Module):
    """x += MHSA(LN x); x += FFN(LN x)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.feed_forward = FeedForward(width, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, d)."""
        normed = self.norm(x)
        return self.feed_forward(x + self.attention(normed, normed))


class FuseUnit(nn.Module):
    """The queries of the stage before re-read the memory."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.memory_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.feed_forward = FeedForward(width, dropout)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        """(B, Q, d) and (B, L, d) -> (B, Q, d)."""
        return self.feed_forward(self.attention(self.norm(query), self.memory_norm(memory)))


class CrossBlock(nn.Module):
    """Learnt queries compress a sequence to `tokens` tokens."""

    def __init__(self, width: int, heads: int, dropout: float, tokens: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, tokens, width))
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout, project_query=False)
        self.feed_forward = FeedForward(width, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, d) -> (B, tokens, d)."""
        return self.feed_forward(self.attention(self.query.expand(len(x), -1, -1), self.norm(x)))


class FusionTransformer(nn.Module):
    """Stage 0 and the fusion stages.

    Args:
        width: d, of tokens and of the vector (paper: 192).
        layers: Blocks of stage 0 (paper: 6).
        heads: Heads of every attention (paper: 6).
        queries: Learnt queries of each fusion stage (paper: 4, 2, 1). None at all is a plain transformer, whose vector
            is its last token.
        dropout: Of attention weights and inside the FFN (paper: 0.1).
    """

    def __init__(self, width: int, layers: int, heads: int, queries: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*(EncoderBlock(width, heads, dropout) for _ in range(layers)))
        self.cross = nn.ModuleList(CrossBlock(width, heads, dropout, tokens) for tokens in queries)
        self.fuse = nn.ModuleList(FuseUnit(width, heads, dropout) for _ in queries[1:])
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, d) -> the architecture vector, (B, d)."""
        memory = self.encoder(tokens)
        if not self.cross:
            return self.norm(memory[:, -1])
        x = self.cross[0](memory)
        for fuse, cross in zip(self.fuse, self.cross[1:], strict=True):
            x = cross(fuse(x, memory))
        return self.norm(x[:, -1])
