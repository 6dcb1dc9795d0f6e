# SPDX-License-Identifier: Apache-2.0
"""CSHNet's generator: a shell around hybrid blocks of convolution and window attention, guided by the raw input.

Names are the paper's: SEC (Swin embedded CNN), CES (CNN embedded Swin), SCB (the bottleneck of both), IGC (interactive
guided connection). See `mien.synthesis.cshnet` for the method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import BadInput
from mien.nn.patchgan import initialise
from mien.nn.windows import ConvMLP, WindowBlock

UnitName = Literal["sec", "ces", "cnn", "swin"]
Guide = Literal["a_b", "a", "b", "none"]
GuideAt = Literal["pairs", "blocks"]
PAPER_DIM = 512
"""Channels of the paper's bottleneck."""


class PoolFormer(nn.Module):
    """x + g1 (avgpool3(GN x) - GN x), then x + g2 MLP(GN x); gains g start at 1e-5. (B, C, H, W) to the same.

    GroupNorm has one group, pooling has stride 1 and does not count the border, the MLP is two 1 x 1 convolutions with
    ratio 4 and GELU.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, dim), nn.GroupNorm(1, dim)
        self.mlp = nn.Sequential(nn.Conv2d(dim, 4 * dim, 1), nn.GELU(), nn.Conv2d(4 * dim, dim, 1))
        self.gain1, self.gain2 = (nn.Parameter(torch.full((dim, 1, 1), 1e-5)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """The block."""
        y = self.norm1(x)
        x = x + self.gain1 * (F.avg_pool2d(y, 3, stride=1, padding=1, count_include_pad=False) - y)
        return x + self.gain2 * self.mlp(self.norm2(x))


class ConvUnit(nn.Module):
    """R(x) = CNN(x) + x: two groups of [1x1, 3x3, 3x3, 1x1 convolution, BN], ReLU after the first group only.

    Args:
        dim: Channels.
        width: Channels inside a group; the paper's are `dim`.
    """

    def __init__(self, dim: int, width: int | None = None) -> None:
        super().__init__()
        inner = dim if width is None else width

        def group() -> list[nn.Module]:
            sizes = ((dim, inner, 1), (inner, inner, 3), (inner, inner, 3), (inner, dim, 1))
            return [*(nn.Conv2d(a, b, k, padding=k // 2) for a, b, k in sizes), nn.BatchNorm2d(dim)]

        self.cnn = nn.Sequential(*group(), nn.ReLU(), *group())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        return self.cnn(x) + x


class SwinUnit(nn.Module):
    """W: window blocks in turn without and with a shift of half a window (the paper: two). (B, C, H, W) to the same."""

    def __init__(self, dim: int, heads: int, window: int, *, blocks: int, ratio: float, drop_path: float) -> None:
        super().__init__()
        shifts = [window // 2 * (i % 2) for i in range(blocks)]
        made = (WindowBlock(dim, heads, window, shift, ratio=ratio, drop_path=drop_path) for shift in shifts)
        self.blocks = nn.Sequential(*made)

    def forward(self, x: Tensor) -> Tensor:
        """The blocks, on tokens."""
        return self.blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


class SEC(nn.Module):
    """Swin embedded CNN: c = R(x), s = W(c), conv1x1([c, sigmoid(c) s]). CNN leads and gates the global features."""

    def __init__(self, dim: int, r: Callable[[], nn.Module], w: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.cnn, self.swin = r(), w()
        self.merge = nn.Conv2d(2 * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        c = self.cnn(x)
        s = self.swin(c)
        return self.merge(torch.cat([c, c.sigmoid() * s], dim=1))


class CES(nn.Module):
    """CNN embedded Swin: s = W(x), c = R(s), conv1x1([s, sigmoid(s) c]). Swin leads and gates the local features."""

    def __init__(self, dim: int, r: Callable[[], nn.Module], w: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.cnn, self.swin = r(), w()
        self.merge = nn.Conv2d(2 * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        s = self.swin(x)
        c = self.cnn(s)
        return self.merge(torch.cat([s, s.sigmoid() * c], dim=1))


class GuideBlock(nn.Module):
    """Attention block of the IGC: position, x + LN(self-attention(x)), position, x + LN(conv-MLP(x)).

    Position is a depth-wise 3 x 3 convolution added to its input. Attention runs over all tokens. One LayerNorm serves
    both places, as released.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.position1, self.position2 = (nn.Conv2d(dim, dim, 3, padding=1, groups=dim) for _ in range(2))
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = ConvMLP(dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        x = x + self.position1(x)
        tokens = x.flatten(2).mT
        tokens = tokens + self.norm(self.attention(tokens, tokens, tokens, need_weights=False)[0])
        x = tokens.mT.unflatten(2, x.shape[2:])
        x = x + self.position2(x)
        return x + self.norm(self.mlp(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class IGC(nn.Module):
    """Interactive guided connection: from the raw input to elementwise maps a and b, used as a h + b.

    3x3 convolution to `width`, BN, ReLU; a convolution whose kernel and stride are `stride`, BN; attention blocks; two
    1x1 convolutions.

    Args:
        dim: Channels of a and b.
        width: Channels at the input's own size.
        stride: By how much a and b are smaller than the input.
        heads: Of the attention.
        guide: Which of a and b take part; the other is 1 or 0.
        blocks: Attention blocks.
    """

    def __init__(self, dim: int, width: int, stride: int, heads: int, guide: Guide = "a_b", blocks: int = 3) -> None:
        super().__init__()
        self.low = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, dim, stride, stride),
            nn.BatchNorm2d(dim),
        )
        self.blocks = nn.Sequential(*(GuideBlock(dim, heads) for _ in range(blocks)))
        self.a = nn.Conv2d(dim, dim, 1) if "a" in guide else None
        self.b = nn.Conv2d(dim, dim, 1) if "b" in guide else None

    def forward(self, image: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """A and b, (B, dim, H / stride, W / stride) each, of images (B, 3, H, W); None for one that takes no part."""
        x = self.blocks(self.low(image))
        return self.a(x) if self.a is not None else None, self.b(x) if self.b is not None else None


def guided(h: Tensor, a: Tensor | None, b: Tensor | None) -> Tensor:
    """A h + b, elementwise; None is a = 1 or b = 0."""
    h = h if a is None else a * h
    return h if b is None else h + b


@dataclass(frozen=True)
class Architecture:
    """Size and parts of the generator. Plain data, for the command line and config.json.

    Args:
        width: Channels at full size; they double with every down-sampling (paper: 64 to 512).
        downs: Down-samplings, at least 1; sides of images are padded to multiples of 2^downs.
        units: Blocks of the bottleneck in order: sec, ces, or the parts alone, cnn (R) and swin (W).
        window: Side of the attention windows in tokens; even.
        heads: Heads of both attentions.
        drop_path: Share of samples that skip a branch of a window block in training, in [0, 1).
        guide: IGC: "a_b", only "a", only "b", or "none" for no IGC.
        guide_at: Where a and b are used: "pairs" before every second block (the paper's), or "blocks" before the first
            and after every one.
        pool_former: Whether the encoder has PoolFormer blocks.
        cnn_width: Channels inside R; None for those of the bottleneck (the paper's).
        swin_blocks: Window blocks in W (the paper's: 2).
        mlp_ratio: Width of the MLP of W over its channels (the paper's: 4).

    Raises:
        BadInput: For a value outside its range.
    """

    width: int = 64
    downs: int = 3
    units: tuple[UnitName, ...] = ("sec", "ces", "sec", "ces")
    window: int = 16
    heads: int = 16
    drop_path: float = 0.2
    guide: Guide = "a_b"
    guide_at: GuideAt = "pairs"
    pool_former: bool = True
    cnn_width: int | None = None
    swin_blocks: int = 2
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", tuple(self.units))  # a list comes from JSON
        for name in ("width", "downs", "heads", "swin_blocks"):
            if getattr(self, name) < 1:
                raise BadInput(f"architecture.{name} is {getattr(self, name)}: it must be at least 1")
        if not self.units or not set(self.units) <= {"sec", "ces", "cnn", "swin"}:
            raise BadInput(f"architecture.units are {list(self.units)}: name one or more of sec, ces, cnn, swin")
        if self.window < 2 or self.window % 2:
            raise BadInput(f"architecture.window is {self.window}: it must be even, so that half of it is the shift")
        if self.dim % self.heads:
            raise BadInput(f"architecture.heads is {self.heads}: it must divide the {self.dim} channels")
        if not 0 <= self.drop_path < 1:
            raise BadInput(f"architecture.drop_path is {self.drop_path}: it must lie in [0, 1)")
        if self.guide not in ("a_b", "a", "b", "none"):
            raise BadInput(f"architecture.guide is {self.guide!r}: use a_b, a, b or none")
        if self.guide_at not in ("pairs", "blocks"):
            raise BadInput(f"architecture.guide_at is {self.guide_at!r}: use pairs or blocks")
        if (self.cnn_width is not None and self.cnn_width < 1) or not self.mlp_ratio > 0:
            raise BadInput(f"cnn_width is {self.cnn_width}, mlp_ratio is {self.mlp_ratio}: both must be above 0")

    @property
    def dim(self) -> int:
        """Channels of the bottleneck."""
        return self.width * 2**self.downs

    def build(self) -> HybridGenerator:
        """The generator; first weights from torch's global generator."""
        return HybridGenerator(self)

    def unit(self, name: UnitName) -> nn.Module:
        """One block of the bottleneck."""
        r = partial(ConvUnit, self.dim, self.cnn_width)
        w = partial(
            SwinUnit,
            self.dim,
            self.heads,
            self.window,
            blocks=self.swin_blocks,
            ratio=self.mlp_ratio,
            drop_path=self.drop_path,
        )
        made: dict[UnitName, Callable[[], nn.Module]] = {
            "sec": partial(SEC, self.dim, r, w),
            "ces": partial(CES, self.dim, r, w),
            "cnn": r,
            "swin": w,
        }
        return made[name]()


def _down(dim: int) -> list[nn.Module]:
    return [nn.Conv2d(dim, 2 * dim, 3, stride=2, padding=1), nn.BatchNorm2d(2 * dim), nn.ReLU()]


def _up(dim: int) -> list[nn.Module]:
    up = nn.ConvTranspose2d(dim, dim // 2, 3, stride=2, padding=1, output_padding=1)  # doubles the size exactly
    return [up, nn.BatchNorm2d(dim // 2), nn.ReLU()]


class HybridGenerator(nn.Module):
    """Encoder, SCB guided by the IGC, decoder; no skips between encoder and decoder.

    Input and output (B, 3, H, W) in [-1, 1]; H and W must be multiples of `multiple`.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.multiple = 2**architecture.downs
        width, dim = architecture.width, architecture.dim
        widths = [width * 2**i for i in range(architecture.downs)]
        pool = PoolFormer if architecture.pool_former else lambda _: nn.Identity()
        stem = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), nn.BatchNorm2d(width), nn.ReLU(), pool(width)]
        self.encoder = nn.Sequential(*stem, *(layer for w in widths for layer in (*_down(w), pool(2 * w))))
        self.scb = nn.ModuleList(architecture.unit(name) for name in architecture.units)
        guide = architecture.guide
        self.igc = None if guide == "none" else IGC(dim, width, self.multiple, architecture.heads, guide)
        out = [nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh()]
        self.decoder = nn.Sequential(*(layer for w in reversed(widths) for layer in _up(2 * w)), *out)
        initialise(self)
        for unit in self.scb:  # no residual around a merge: at any width it passes the paper's share of the signal
            if isinstance(unit, (SEC, CES)):
                unit.merge.weight.data *= (PAPER_DIM / dim) ** 0.5

    def forward(self, image: Tensor) -> Tensor:
        """Translate."""
        h = self.encoder(image)
        a, b = self.igc(image) if self.igc is not None else (None, None)
        if self.architecture.guide_at == "blocks":
            h = guided(h, a, b)
            for unit in self.scb:
                h = guided(unit(h), a, b)
        else:
            for i, unit in enumerate(self.scb):
                h = unit(guided(h, a, b) if i % 2 == 0 else h)
        return self.decoder(h)
