# SPDX-License-Identifier: Apache-2.0
"""What happens to pictures between the scene and the file: blur, resizing, noise, JPEG, twice, and ringing at the end.

Wang and others, Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data, ICCVW 2021. Chance
comes from torch's global generator. Pictures are (C, H, W) in [0, 1], C 3 or 1.

>>> _ = torch.manual_seed(0)
>>> Degradation().apply(torch.rand(3, 64, 64), scale=4).shape
torch.Size([3, 16, 16])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.special import j1
from torch import Tensor
from torch.nn import functional as F

from mien.data.forge_ops import jpeg
from mien.errors import BadInput

Kind = Literal["bicubic", "blur-noise", "real"]
KERNEL_KINDS = ("gaussian", "generalised", "plateau")
KERNEL_SHARES = (0.70, 0.15, 0.15)
ROUND_SHARES = {"gaussian": 0.45 / 0.70, "generalised": 0.12 / 0.15, "plateau": 0.12 / 0.15}
"""Share of kernels that are the same in all directions."""
SINC_SHARE = 0.1
MODES = ("area", "bilinear", "bicubic")


@dataclass(frozen=True)
class Order:
    """Ranges of one pass of blur, resizing, noise and JPEG.

    Args:
        blur: Least and largest deviation of the blur, in pixels.
        resize: How often a picture is enlarged, shrunk, or kept.
        share: Least and largest factor of resizing.
        gaussian: Least and largest deviation of Gaussian noise, of 255.
        poisson: Least and largest strength of Poisson noise.
    """

    blur: tuple[float, float]
    resize: tuple[float, float, float]
    share: tuple[float, float]
    gaussian: tuple[float, float]
    poisson: tuple[float, float]


FIRST = Order((0.2, 3.0), (0.2, 0.7, 0.1), (0.15, 1.5), (1, 30), (0.05, 3.0))
SECOND = Order((0.2, 1.5), (0.3, 0.4, 0.3), (0.3, 1.2), (1, 25), (0.05, 2.5))


@dataclass(frozen=True)
class Degradation:
    """How training pictures are degraded. Plain data, for the command line and config.json.

    Args:
        kind: "real" is the two passes above; "blur-noise" one Gaussian blur, bicubic shrinking and Gaussian noise;
            "bicubic" shrinks only.
        second: Chance of the second pass ("real"); Real-ESRGAN's own is 1 with blur in 0.8 of them.
        jpeg: Least and largest quality ("real").
        blur: Deviation in pixels ("blur-noise").
        noise: Deviation, of 255 ("blur-noise").
    """

    kind: Kind = "real"
    second: float = 0.5
    jpeg: tuple[int, int] = (30, 95)
    blur: float = 1.2
    noise: float = 8.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "jpeg", tuple(self.jpeg))  # a list, when it comes from JSON
        if self.kind not in ("bicubic", "blur-noise", "real"):
            raise BadInput(f"degradation.kind is {self.kind!r}: use real, blur-noise or bicubic")
        if not 0 <= self.second <= 1:
            raise BadInput(f"degradation.second is {self.second}: it must lie in [0, 1]")
        if len(self.jpeg) != 2 or not 1 <= self.jpeg[0] <= self.jpeg[1] <= 100:
            raise BadInput(f"degradation.jpeg is {self.jpeg}: use two qualities, 1 to 100, the lower first")
        for name in ("blur", "noise"):
            if not getattr(self, name) >= 0:
                raise BadInput(f"degradation.{name} is {getattr(self, name)}: it must be 0 or more")

    def apply(self, image: Tensor, scale: int) -> Tensor:
        """(C, H, W) in [0, 1] to (C, H / scale, W / scale), 8-bit levels; H and W are multiples of `scale`."""
        size = (image.shape[-2] // scale, image.shape[-1] // scale)
        x = image[None]
        if self.kind == "real":
            x = self._real(x, size)
        else:
            if self.kind == "blur-noise" and self.blur:
                x = filtered(x, gaussian_kernel(_odd(4 * self.blur), self.blur, self.blur, 0.0))
            x = resized(x, size, "bicubic")
            if self.kind == "blur-noise":
                x = x + torch.randn_like(x) * (self.noise / 255)
        return (x[0].clamp(0, 1) * 255).round() / 255

    def _real(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = x.shape[-2:]
        x = self._pass(x, FIRST, (height, width))
        x = self._jpeg(x)
        if _chance(self.second):
            scale = height / size[0]
            x = self._pass(x, SECOND, (round(height / scale), round(width / scale)))
        ringing = sinc_kernel(_odd_between(7, 21), _between(math.pi / 3, math.pi)) if _chance(0.8) else None
        final = _choice(MODES)
        if _chance(0.5):
            x = resized(x, size, final)
            x = x if ringing is None else filtered(x, ringing)
            return self._jpeg(x)
        x = resized(self._jpeg(x), size, final)
        return x if ringing is None else filtered(x, ringing)

    def _pass(self, x: Tensor, order: Order, size: tuple[int, int]) -> Tensor:
        """Blur, resizing (relative to `size`) and noise."""
        x = filtered(x, random_kernel(order.blur))
        way = _weighted(order.resize)
        low, high = order.share
        factor = _between(1.0, high) if way == 0 else _between(low, 1.0) if way == 1 else 1.0
        x = resized(x, (max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)), _choice(MODES))
        grey = _chance(0.4)
        if _chance(0.5):
            return (x + _noise_like(x, grey) * (_between(*order.gaussian) / 255)).clamp(0, 1)
        return poisson_noise(x, _between(*order.poisson), grey=grey)

    def _jpeg(self, x: Tensor) -> Tensor:
        colours = x.clamp(0, 1).mul(255).round().to(torch.uint8).expand(-1, 3, -1, -1)
        quality = int(torch.randint(self.jpeg[0], self.jpeg[1] + 1, ()))
        return jpeg(colours, [quality])[:, : x.shape[1]].float() / 255


# --- kernels ----------------------------------------------------------------------------------------------------
def _grid(size: int) -> tuple[Tensor, Tensor]:
    place = torch.arange(size, dtype=torch.float64) - size // 2
    y, x = torch.meshgrid(place, place, indexing="ij")
    return x, y


def _form(size: int, sigma_x: float, sigma_y: float, turn: float) -> Tensor:
    """x^T Sigma^-1 x of every place of a kernel."""
    x, y = _grid(size)
    u, v = math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x
    return (u / sigma_x).square() + (v / sigma_y).square()


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float, turn: float, power: float = 1.0) -> Tensor:
    """exp(-1/2 (x^T Sigma^-1 x)^power), summing to 1; (size, size). `power` 1 is the Gaussian, others generalise it."""
    kernel = torch.exp(-0.5 * _form(size, sigma_x, sigma_y, turn) ** power)
    return (kernel / kernel.sum()).float()


def plateau_kernel(size: int, sigma_x: float, sigma_y: float, turn: float, power: float) -> Tensor:
    """1 / (1 + (x^T Sigma^-1 x)^power), summing to 1: a flat top with fading edges."""
    kernel = 1 / (1 + _form(size, sigma_x, sigma_y, turn) ** power)
    return (kernel / kernel.sum()).float()


def sinc_kernel(size: int, cutoff: float) -> Tensor:
    """The ideal circular low-pass up to `cutoff` (radians per pixel), cut off: cutoff J1(cutoff r) / (2 pi r)."""
    x, y = _grid(size)
    r = (x.square() + y.square()).sqrt()
    bessel = torch.from_numpy(j1((cutoff * r).numpy()))
    kernel = torch.where(r > 0, cutoff * bessel / (2 * math.pi * r.clamp(min=1)), cutoff**2 / (4 * math.pi))
    return (kernel / kernel.sum()).float()


def random_kernel(sigma: tuple[float, float]) -> Tensor:
    """A blur drawn as in Real-ESRGAN: Gaussian, generalised, plateau or sinc, of a side from 7 to 21."""
    size = _odd_between(7, 21)
    if _chance(SINC_SHARE):
        return sinc_kernel(size, _between(math.pi / (3 if size < 13 else 5), math.pi))
    kind = KERNEL_KINDS[_weighted(KERNEL_SHARES)]
    sigma_x = _between(*sigma)
    sigma_y, turn = (sigma_x, 0.0) if _chance(ROUND_SHARES[kind]) else (_between(*sigma), _between(-math.pi, math.pi))
    if kind == "gaussian":
        return gaussian_kernel(size, sigma_x, sigma_y, turn)
    most = 4.0 if kind == "generalised" else 2.0
    power = _between(0.5 if kind == "generalised" else 1.0, 1.0) if _chance(0.5) else _between(1.0, most)
    return (gaussian_kernel if kind == "generalised" else plateau_kernel)(size, sigma_x, sigma_y, turn, power)


# --- pictures ---------------------------------------------------------------------------------------------------
def filtered(x: Tensor, kernel: Tensor) -> Tensor:
    """(B, C, H, W) correlated with one kernel; edges are mirrored, or repeated where the kernel is too large."""
    reach = kernel.shape[0] // 2
    mode = "reflect" if reach < min(x.shape[-2:]) else "replicate"
    padded = F.pad(x, (reach, reach, reach, reach), mode=mode)
    channels = x.shape[1]
    return F.conv2d(padded, kernel.to(x).expand(channels, 1, -1, -1), groups=channels)


def resized(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """(B, C, H, W) at another size: "area", "bilinear" or "bicubic", the latter two without ringing of their own."""
    if tuple(x.shape[-2:]) == size:
        return x
    if mode == "area":
        return F.interpolate(x, size=size, mode="area")
    return F.interpolate(x, size=size, mode=mode, align_corners=False, antialias=True)


def poisson_noise(x: Tensor, strength: float, *, grey: bool) -> Tensor:
    """Shot noise: x + strength (P(x n) / n - x) for n levels, a power of two as large as the number of values in x."""
    x = (x.clamp(0, 1) * 255).round() / 255
    base = x.mean(dim=1, keepdim=True) if grey else x
    levels = 2.0 ** math.ceil(math.log2(max(len(torch.unique(base)), 2)))
    return (x + strength * (torch.poisson(base * levels) / levels - base)).clamp(0, 1)


def _noise_like(x: Tensor, grey: bool) -> Tensor:
    return torch.randn_like(x[:, :1] if grey else x)


# --- chance -----------------------------------------------------------------------------------------------------
def _between(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _chance(share: float) -> bool:
    return float(torch.rand(())) < share


def _choice(names: Sequence[str]) -> str:
    return names[int(torch.randint(len(names), ()))]


def _weighted(shares: Sequence[float]) -> int:
    return int(torch.multinomial(torch.tensor(shares), 1))


def _odd(length: float) -> int:
    """The smallest odd number of at least this length."""
    return math.ceil(length) // 2 * 2 + 1


def _odd_between(low: int, high: int) -> int:
    return low + 2 * int(torch.randint((high - low) // 2 + 1, ()))
