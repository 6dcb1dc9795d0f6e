# SPDX-License-Identifier: Apache-2.0
"""The U-shaped network of image diffusion: residual blocks that know the time, window attention, skips.

Ronneberger and others, U-Net, MICCAI 2015; Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, NeurIPS
2021 (scale and shift by the time); windows as in `mien.nn.windows`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import BadInput
from mien.nn.windows import WindowBlock


def sinusoid(t: Tensor, width: int, longest: float = 10_000.0) -> Tensor:
    """Cosines, then sines, of times (B,) at width / 2 frequencies from 1 down to 1 / `longest`: (B, width).

    >>> sinusoid(torch.tensor([0.0]), 4)
    tensor([[1., 1., 0., 0.]])
    """
    half = width // 2
    frequency = torch.exp(-math.log(longest) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with 32 groups, or the most that divide the channels."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


class PixelNorm(nn.Module):
    """Normalises the channels at every pixel by itself, so that an answer does not depend on how large a picture is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias).movedim(-1, 1)


Norm = Callable[[int], nn.Module]
NORMS: dict[str, Norm] = {"group": group_norm, "pixel": PixelNorm}


def zeroed(module: nn.Module) -> nn.Module:
    """`module` with all parameters 0."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class ResidualBlock(nn.Module):
    """x + conv(SiLU(N(conv(SiLU(N(x)))) (1 + scale(t)) + shift(t))), N a norm; the last convolution starts at 0."""

    def __init__(self, channels: int, width: int, time: int, norm: Norm = group_norm) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(channels), nn.Conv2d(channels, width, 3, padding=1)
        self.time = nn.Linear(time, 2 * width)
        self.norm2, self.conv2 = norm(width), zeroed(nn.Conv2d(width, width, 3, padding=1))
        self.skip = nn.Identity() if channels == width else nn.Conv2d(channels, width, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, channels, H, W) and the time's embedding (B, time) to (B, width, H, W)."""
        scale, shift = self.time(F.silu(time))[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(h))


class WindowStage(nn.Module):
    """x + out(blocks(in(x))): window attention at a width of its own, windows shifted in every second block."""

    def __init__(self, channels: int, width: int, heads: int, window: int, depth: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(channels, width, 1), nn.Conv2d(width, channels, 1)
        self.blocks = nn.ModuleList(
            WindowBlock(width, heads, window, window // 2 if i % 2 else 0) for i in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to the same."""
        h = self.enter(x).permute(0, 2, 3, 1)
        for block in self.blocks:
            h = block(h)
        return x + self.leave(h.permute(0, 3, 1, 2))


class Block(nn.Module):
    """A residual block, and window attention where the level has it."""

    def __init__(self, channels: int, width: int, size: UNetSize, attention: nn.Module | None) -> None:
        super().__init__()
        self.residual = ResidualBlock(channels, width, size.time, NORMS[size.norm])
        self.attention = attention if attention is not None else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, width, H, W)."""
        return self.attention(self.residual(x, time))


@dataclass(frozen=True)
class UNetSize:
    """Size of a `UNet`. Plain data, for the command line and config.json. The defaults are ResShift's.

    Args:
        base: Channels of the first level.
        multipliers: Channels of each level over `base`; every level halves the map.
        blocks: Blocks of each level.
        attention: Levels with window attention, from 0.
        window: Side of a window.
        width: Channels inside window attention, a multiple of 32.
        depth: Attention blocks in a stage.
        norm: "group" (32 groups, over the whole map) or "pixel" (the channels at every pixel: tiles of a picture then
            give what the whole picture gives).
        shortcut: Add the input's channels to the answer, each with a factor that depends on the time. Not of the paper:
            norms take away how large the input was, which small networks are slow to learn again.

    >>> sum(p.numel() for p in UNetSize(16, (1, 2), 1, attention=(1,), width=32).build(2, 1).parameters()) < 4e5
    True
    """

    base: int = 160
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (0, 1, 2, 3)
    window: int = 8
    width: int = 192
    depth: int = 2
    norm: Literal["group", "pixel"] = "group"
    shortcut: bool = False

    def __post_init__(self) -> None:
        for name in ("multipliers", "attention"):  # lists, when they come from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("base", "blocks", "window", "depth"):
            if getattr(self, name) < 1:
                raise BadInput(f"unet.{name} is {getattr(self, name)}: it must be at least 1")
        if self.base % 2:
            raise BadInput(f"unet.base is {self.base}: it must be even")
        if not self.multipliers or min(self.multipliers) < 1:
            raise BadInput(f"unet.multipliers is {self.multipliers}: use one number or more, each at least 1")
        if not set(self.attention) <= set(range(len(self.multipliers))):
            raise BadInput(f"unet.attention is {self.attention}: the levels are 0 to {len(self.multipliers) - 1}")
        if self.norm not in NORMS:
            raise BadInput(f"unet.norm is {self.norm!r}: use group or pixel")
        if self.width < 32 or self.width % 32:
            raise BadInput(f"unet.width is {self.width}: use a multiple of 32, the channels of a head")

    @property
    def divisor(self) -> int:
        """Height and width of the maps must be multiples of this."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def time(self) -> int:
        """Width of the time's embedding."""
        return 4 * self.base

    @property
    def feature_widths(self) -> tuple[int, ...]:
        """Channels of `UNet.features`: after every halving, after the last encoder block, in the middle."""
        widths = [self.base * m for m in self.multipliers]
        return (*widths[:-1], widths[-1], widths[-1])

    def build(self, channels: int, out: int) -> UNet:
        """The network; new weights from torch's global generator."""
        return UNet(channels, out, self)


class UNet(nn.Module):
    """(B, channels, H, W) and times (B,) to (B, out, H, W); H and W multiples of `size.divisor`."""

    def __init__(self, channels: int, out: int, size: UNetSize) -> None:
        super().__init__()
        self.size = size
        widths = [size.base * m for m in size.multipliers]
        self.time = nn.Sequential(nn.Linear(size.base, size.time), nn.SiLU(), nn.Linear(size.time, size.time))
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.encoder, self.halvings = nn.ModuleList(), nn.ModuleList()
        skips, width = [widths[0]], widths[0]
        for level, wider in enumerate(widths):
            blocks = nn.ModuleList()
            for _ in range(size.blocks):
                blocks.append(Block(width, wider, size, self._attention(level, wider)))
                width = wider
                skips.append(width)
            self.encoder.append(blocks)
            if level < len(widths) - 1:
                self.halvings.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
        last = len(widths) - 1
        self.middle = nn.ModuleList(
            [Block(width, width, size, self._attention(last, width)), Block(width, width, size, None)]
        )
        self.decoder, self.doublings = nn.ModuleList(), nn.ModuleList()
        for level in range(last, -1, -1):
            blocks = nn.ModuleList()
            for _ in range(size.blocks + 1):
                blocks.append(Block(width + skips.pop(), widths[level], size, self._attention(level, widths[level])))
                width = widths[level]
            self.decoder.append(blocks)
            if level:
                self.doublings.append(nn.Conv2d(width, width, 3, padding=1))
        self.out = nn.Sequential(NORMS[size.norm](width), nn.SiLU(), nn.Conv2d(width, out, 3, padding=1))
        self.shortcut = zeroed(nn.Linear(size.time, channels * out)) if size.shortcut else None

    def _attention(self, level: int, channels: int) -> nn.Module | None:
        size = self.size
        if level not in size.attention:
            return None
        return WindowStage(channels, size.width, size.width // 32, size.window, size.depth)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The network's answer."""
        time, skips, _ = self._encoded(x, t)
        h = self._middle(skips[-1], time)
        for i, blocks in enumerate(self.decoder):
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                h = block(torch.cat([h, skips.pop()], dim=1), time)
            if i < len(self.doublings):
                h = self.doublings[i](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        if self.shortcut is None:
            return self.out(h)
        factors = self.shortcut(F.silu(time)).unflatten(1, (-1, x.shape[1]))
        return self.out(h) + torch.einsum("boc,bchw->bohw", factors, x)

    def features(self, x: Tensor, t: Tensor) -> list[Tensor]:
        """The maps after every halving, after the last encoder block and in the middle: `size.feature_widths`."""
        time, skips, halved = self._encoded(x, t)
        return [*halved, skips[-1], self._middle(skips[-1], time)]

    def _encoded(self, x: Tensor, t: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The time's embedding, all skips, and those of them that were just halved."""
        if x.shape[-2] % self.size.divisor or x.shape[-1] % self.size.divisor:
            raise BadInput(
                f"the map is {x.shape[-2]} x {x.shape[-1]}: height and width must be multiples of {self.size.divisor}"
            )
        time = self.time(sinusoid(t, self.size.base).to(x.dtype))
        h = self.stem(x)
        skips, halved = [h], []
        for level, blocks in enumerate(self.encoder):
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                h = block(h, time)
                skips.append(h)
            if level < len(self.halvings):
                h = self.halvings[level](h)
                skips.append(h)
                halved.append(h)
        return time, skips, halved

    def _middle(self, h: Tensor, time: Tensor) -> Tensor:
        for block in self.middle:
            h = block(h, time)
        return h
