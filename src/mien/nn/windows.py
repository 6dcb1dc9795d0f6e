# SPDX-License-Identifier: Apache-2.0
"""Attention inside windows of a map, shifted every second time, and the convolutional MLP that goes with it.

Liu and others, Swin Transformer V2, CVPR 2022: cosine attention with a learned temperature, a bias from a small network
on log-spaced offsets, residual branches normalised at their end. Maps are (B, H, W, C), of any height and width: a
window is at most as large as the map, and where windows do not fill the map it is padded with tokens that nobody sees.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

MASKED = -100.0
"""Added to the logits of tokens that share a window only because the map was rolled."""
BIAS_WIDTH = 256
TAU_FLOOR = 0.01


class ConvMLP(nn.Module):
    """Linear C -> ratio C, GELU, 3 x 3 depth-wise convolution on the map, GELU, linear back; (B, H, W, C)."""

    def __init__(self, dim: int, ratio: float = 4.0) -> None:
        super().__init__()
        hidden = round(dim * ratio)
        self.up = nn.Linear(dim, hidden)
        self.local = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """The MLP."""
        x = F.gelu(self.up(x)).permute(0, 3, 1, 2)
        return self.down(F.gelu(self.local(x)).permute(0, 2, 3, 1))


class WindowAttention(nn.Module):
    """Cosine attention inside windows: softmax_j(cos(q_i, k_j) / tau_h + B_h(i - j)) v_j.

    tau_h is learned for every head (start 1, floor 0.01). B comes from a network 2 -> 256 -> heads with ReLU on
    sign(d) log(1 + |d|) of the offsets d in tokens, so it serves windows of every size.

    Args:
        dim: Channels, a multiple of `heads`.
        heads: Heads.
        window: Side of a window in tokens; along an axis that is shorter the window is the axis.
        shift: How far windows are moved; an axis that is one window is not shifted.
    """

    def __init__(self, dim: int, heads: int, window: int, shift: int = 0) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.tau = nn.Parameter(torch.ones(heads, 1, 1))
        self.bias = nn.Sequential(nn.Linear(2, BIAS_WIDTH), nn.ReLU(), nn.Linear(BIAS_WIDTH, heads))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same."""
        batch, height, width, dim = x.shape
        rows, shift_down = self._axis(height)
        columns, shift_right = self._axis(width)
        x = F.pad(self.qkv(x), (0, 0, 0, -width % columns, 0, -height % rows))
        down, across = x.shape[1] // rows, x.shape[2] // columns
        x = x.roll((-shift_down, -shift_right), (1, 2))
        x = x.view(batch, down, rows, across, columns, 3, self.heads, -1)
        q, k, v = x.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6)  # (B, down, across, heads, tokens, channels)
        logits = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT / self.tau.clamp(min=TAU_FLOOR)
        logits = logits + self.offset_bias(rows, columns)
        mask = _mask((height, width), (rows, columns), (shift_down, shift_right))
        if mask is not None:
            logits = logits + mask.to(x.device)[:, :, None]
        x = (logits.softmax(dim=-1) @ v).view(batch, down, across, self.heads, rows, columns, -1)
        x = x.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, down * rows, across * columns, dim)
        x = x.roll((shift_down, shift_right), (1, 2))[:, :height, :width]
        return self.out(x)

    def _axis(self, length: int) -> tuple[int, int]:
        """Window and shift along an axis of `length` tokens."""
        return (self.window, self.shift) if length > self.window else (length, 0)

    def offset_bias(self, rows: int, columns: int) -> Tensor:
        """B for windows of rows x columns tokens: (heads, tokens, tokens), query first."""
        device = self.tau.device
        d = [torch.arange(1 - n, n, device=device, dtype=self.tau.dtype) for n in (rows, columns)]
        offsets = torch.stack(torch.meshgrid(*d, indexing="ij"), dim=-1)
        table = self.bias(offsets.sign() * offsets.abs().log1p())  # (2 rows - 1, 2 columns - 1, heads)
        y, x = (torch.arange(n, device=device) for n in (rows, columns))
        dy = (y[:, None] - y + rows - 1)[:, None, :, None]
        dx = (x[:, None] - x + columns - 1)[None, :, None, :]
        return table[dy, dx].permute(4, 0, 1, 2, 3).reshape(self.heads, rows * columns, rows * columns)


def _mask(size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> Tensor | None:
    """What is added to the logits: (down, across, tokens, tokens), or None where every token may see its window.

    Tokens that came round by the roll are another region, masked by -100; padding is never seen.
    """
    if not any(shift) and all(n % w == 0 for n, w in zip(size, window, strict=True)):
        return None
    regions, real = [], []
    for n, w, s in zip(size, window, shift, strict=True):
        place = torch.arange(n + -n % w).roll(-s)
        regions.append((place < s).long().view(-1, w))
        real.append((place < n).view(-1, w))
    region = _tokens(regions[0] * 2, regions[1], torch.add)
    seen = _tokens(real[0], real[1], torch.logical_and)
    mask = torch.where(region[..., :, None] == region[..., None, :], 0.0, MASKED)
    return mask.masked_fill(~seen[..., None, :], float("-inf"))


def _tokens(down: Tensor, across: Tensor, combine: Any) -> Tensor:
    """A number for every token of every window, from one of its row and one of its column: (down, across, tokens)."""
    return combine(down[:, None, :, None], across[None, :, None, :]).flatten(2)


class WindowBlock(nn.Module):
    """A Swin V2 block with a convolutional MLP: x + DropPath(LN(attention(x))), x + DropPath(LN(MLP(x)))."""

    def __init__(
        self, dim: int, heads: int, window: int, shift: int, *, ratio: float = 4.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.attention = WindowAttention(dim, heads, window, shift)
        self.mlp = ConvMLP(dim, ratio)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same."""
        x = x + self.drop_path(self.norm1(self.attention(x)))
        return x + self.drop_path(self.norm2(self.mlp(x)))
