# SPDX-License-Identifier: Apache-2.0
"""The orthonormal discrete cosine transform in one or two axes, with gradients, and statistics of coefficients.

    C = D x D^T,   D[k, m] = s_k cos(pi (2m+1) k / (2n)),   s_0 = sqrt(1/n), s_k = sqrt(2/n) for k > 0        (DCT-II)

D is orthonormal, so the inverse is D^T C D, the gradient of a transform is the inverse of what comes, and a transform
along one axis (time, rows, columns) is D x alone. Whole batches go through one call: on the CPU scipy's fast transform,
elsewhere, and where a graph is recorded, products with D, which accelerators are made for.

>>> round(float(dct2(torch.full((4, 4), 96.0))[0, 0]), 3)  # a constant has its first coefficient alone, value times n
384.0
"""

from __future__ import annotations

import math
from typing import Any

import scipy.fft
import torch
from torch import Tensor, nn

from mien.errors import BadInput


def dct_matrix(n: int, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
    """D, (n, n): row k is the k-th cosine. Computed in float64 and then rounded.

    Args:
        n: Length of the axis, at least 1.
        dtype: Floating-point type of the result.
        device: Where it is wanted.

    Raises:
        BadInput: For n below 1.
    """
    if n < 1:
        raise BadInput(f"n is {n}: it must be at least 1")
    k = torch.arange(n, dtype=torch.float64, device="cpu")
    # k (2m+1) modulo 4n keeps the angle small, and so the cosine exact to the last bits
    angle = torch.remainder(k[:, None] * (2 * k + 1), 4 * n) * (math.pi / (2 * n))
    matrix = angle.cos() * math.sqrt(2 / n)
    matrix[0] = math.sqrt(1 / n)
    return matrix.to(dtype=dtype, device=device)


def dct(x: Tensor, dim: int = -1) -> Tensor:
    """The coefficients along one axis; shape and type of `x`, which is floating point (half is computed in float32)."""
    return _transform(x, (dim,), inverse=False)


def idct(x: Tensor, dim: int = -1) -> Tensor:
    """The inverse of `dct`."""
    return _transform(x, (dim,), inverse=True)


def dct2(x: Tensor) -> Tensor:
    """C of images (..., H, W): coefficient [u, v] counts half waves down u times and across v times."""
    return _transform(x, (-2, -1), inverse=False)


def idct2(x: Tensor) -> Tensor:
    """The images (..., H, W) of coefficients: the inverse of `dct2`."""
    return _transform(x, (-2, -1), inverse=True)


def _transform(x: Tensor, dims: tuple[int, ...], *, inverse: bool) -> Tensor:
    if x.ndim < len(dims) or not x.is_floating_point():
        raise BadInput(f"x is {x.dtype} of shape {tuple(x.shape)}: a transform takes floating-point numbers with axes")
    for dim in dims:
        if not -x.ndim <= dim < x.ndim:
            raise BadInput(f"dim is {dim}: for {x.ndim} axes use {-x.ndim} to {x.ndim - 1}")
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    recorded = torch.jit.is_tracing() or torch.compiler.is_compiling()
    if x.device.type == "cpu" and x.numel() and not recorded:
        result: Tensor = _Fast.apply(wide, dims, inverse)
        return result.to(x.dtype)
    with torch.autocast("cpu" if x.device.type == "meta" else x.device.type, enabled=False):
        for dim in dims:
            wide = along(wide, dim, inverse=inverse)
    return wide.to(x.dtype)


def along(x: Tensor, dim: int, *, inverse: bool = False) -> Tensor:
    """The transform along one axis as a product with D (or D^T), float32 or float64, on any device."""
    matrix = dct_matrix(x.shape[dim], dtype=x.dtype, device=x.device) if x.shape[dim] else x.new_zeros(0, 0)
    matrix = matrix.T if inverse else matrix
    if dim % x.ndim == x.ndim - 2:
        return matrix @ x
    return (x.movedim(dim, -1) @ matrix.T).movedim(-1, dim)


SERIAL = 2**17
"""Arrays of fewer numbers are not shared among threads."""


class _Fast(torch.autograd.Function):
    """scipy's transform along axes; backwards, the inverse, which can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dims: tuple[int, ...], inverse: bool) -> Tensor:
        ctx.dims, ctx.inverse = dims, inverse
        transform = scipy.fft.idctn if inverse else scipy.fft.dctn
        workers = torch.get_num_threads() if x.numel() >= SERIAL else 1
        return torch.from_numpy(transform(x.detach().numpy(), axes=dims, norm="ortho", workers=workers))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Fast.apply(gradient, ctx.dims, not ctx.inverse), None, None


class CoefficientStatistics(nn.Module):
    """Mean and variance of every coefficient over all arrays that were shown, one pass, in float64 buffers.

    Batches are merged by Welford's update: with n arrays seen and m new ones, d the difference of their means,
    mean += d m / (n + m) and M2 += M2_new + d^2 n m / (n + m); the variance is M2 / (n + m) (population).

    Args:
        shape: Of one array, for instance (P, P).
        floor: Least standard deviation that `standardise` divides by, > 0: constant coefficients occur in small sets.

    Raises:
        BadInput: For a floor that is not above 0.
    """

    count: Tensor
    mean: Tensor
    m2: Tensor

    def __init__(self, shape: tuple[int, ...], floor: float = 1e-6) -> None:
        super().__init__()
        if not floor > 0:
            raise BadInput(f"floor is {floor}: it must be above 0")
        self.shape, self.floor = tuple(shape), floor
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("m2", torch.zeros(self.shape, dtype=torch.float64))

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """Take (..., *shape); every leading index is one array. No array, no change."""
        if tuple(values.shape[values.ndim - len(self.shape) :]) != self.shape:
            raise BadInput(f"values are {tuple(values.shape)}: their last axes must be {self.shape}")
        rows = values.detach().reshape(-1, *self.shape).to(self.mean)
        new = len(rows)
        if not new:
            return
        old = int(self.count)
        mean = rows.mean(dim=0)
        difference = mean - self.mean
        self.m2 += (rows - mean).square().sum(dim=0) + difference.square() * (old * new / (old + new))
        self.mean += difference * (new / (old + new))
        self.count += new

    def deviation(self) -> Tensor:
        """The standard deviation, floored, float64 of `shape`; ones before the first update."""
        if not int(self.count):
            return torch.ones_like(self.m2)
        return (self.m2 / self.count).sqrt().clamp_min(self.floor)

    def standardise(self, values: Tensor) -> Tensor:
        """(values - mean) / deviation of (..., *shape), in the type of `values`. Before the first update: `values`."""
        return (values - self.mean.to(values)) / self.deviation().to(values)
