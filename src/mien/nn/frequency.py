# SPDX-License-Identifier: Apache-2.0
"""Low-pass boxes and high-pass parts of images, without a Fourier transform of the whole image.

The reference is the usual recipe: `fftshift(fft2(x))`, zero the centred block of rows `cy-d .. cy+d-1` and columns
`cx-d .. cx+d-1` (cy = H // 2, cx = W // 2), `ifft2(ifftshift(.))`. The block holds the frequencies -d .. d-1 of each
axis: an even number, so that the frequency -d has no partner +d and the result is complex.

The block is small, so the low part is found directly. Along one axis of n pixels the projection on the frequencies
-d .. d-1 is the matrix P - iQ with

    P[m, j] = 1/n (1 + 2 sum_{0<k<d} cos(w k (m-j)) + cos(w d (m-j))),   Q[m, j] = 1/n sin(w d (m-j)),   w = 2 pi / n

and both are products of the same 2d+1 real columns, cos(w k m) for k = 0..d and sin(w k m) for k = 1..d. For an image x

    low  = (P_r - iQ_r) x (P_c - iQ_c)^T,   Re low = P_r x P_c^T - Q_r x Q_c^T,   Im low = -(P_r x Q_c^T + Q_r x P_c^T)
    high = x - low

which costs two thin matrix products per image instead of a transform and its inverse, and is exact.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from mien.errors import BadInput

HighPass = Literal["absolute", "modulus"]


def scaled_half_box(height: int, half_box: int = 5, reference: int = 224) -> int:
    """The half width d of a box that covers the same share of the spectrum at another height; at least 1.

    >>> scaled_half_box(224), scaled_half_box(64), scaled_half_box(448)
    (5, 1, 10)
    """
    return max(1, round(half_box * height / reference))


def _axis(length: int, half_box: int, like: Tensor) -> tuple[Tensor, Tensor, float]:
    """Columns (n, 2d+1), the weights (2d+1,) with P = B diag(w) B^T, and q with Q = q (s c^T - c s^T).

    c and s are the columns of the unpaired frequency d: numbers d and 2d. Made in float64: d multiples of w matter.
    """
    d = half_box
    pixel = torch.arange(length, dtype=torch.float64, device="cpu")
    k = torch.arange(d + 1, dtype=torch.float64)
    angle = (pixel[:, None] * k * (2 * math.pi / length)) % (2 * math.pi)
    columns = torch.cat([angle.cos(), angle[:, 1:].sin()], dim=1)
    weights = torch.full((2 * d + 1,), 2.0 / length, dtype=torch.float64)
    weights[0] = 1.0 / length
    weights[d] = weights[2 * d] = 1.0 / length
    return columns.to(like), weights.to(like), 1.0 / length


def _unpaired(core: Tensor, half_box: int, factor: float, dim: int) -> Tensor:
    """Q in the coordinates of the columns, applied along `dim`: row d takes -row 2d, row 2d takes row d."""
    d = half_box
    result = torch.zeros_like(core)
    result.select(dim, 2 * d).copy_(core.select(dim, d) * factor)
    result.select(dim, d).copy_(core.select(dim, 2 * d) * -factor)
    return result


def _check(image: Tensor, half_box: int) -> None:
    if image.ndim < 2 or not image.is_floating_point():
        raise BadInput(f"image is {image.dtype} of shape {tuple(image.shape)}: use a floating-point (..., H, W)")
    height, width = image.shape[-2:]
    if not 1 <= half_box <= min(height, width) // 2:
        raise BadInput(f"half_box is {half_box}: for {height} x {width} pixels use 1 to {min(height, width) // 2}")


def low_part(image: Tensor, half_box: int, *, imaginary: bool = False) -> tuple[Tensor, Tensor | None]:
    """The part of `image` in the 2d x 2d box of lowest frequencies; complex, since the box is even.

    Args:
        image: (..., H, W), any range. Half precision is computed in float32.
        half_box: d, from 1 to half of the shorter side.
        imaginary: Whether the imaginary part is wanted.

    Returns:
        The real part and the imaginary part (or None), both shaped like `image`, in float32 or float64.

    Raises:
        BadInput: For a box that does not fit, or an image that is not floating point.
    """
    _check(image, half_box)
    wide = image if image.dtype in (torch.float32, torch.float64) else image.float()
    with torch.autocast(image.device.type, enabled=False):
        rows, row_weights, row_factor = _axis(image.shape[-2], half_box, wide)
        columns, column_weights, column_factor = _axis(image.shape[-1], half_box, wide)
        core = rows.mT @ (wide @ columns)  # (..., 2d+1, 2d+1)
        row_paired = core * row_weights[:, None]
        row_unpaired = _unpaired(core, half_box, row_factor, -2)
        real = row_paired * column_weights - _unpaired(row_unpaired, half_box, column_factor, -1)
        low = (rows @ real) @ columns.mT
        if not imaginary:
            return low, None
        rest = -(_unpaired(row_paired, half_box, column_factor, -1) + row_unpaired * column_weights)
        return low, (rows @ rest) @ columns.mT


class _Modulus(torch.autograd.Function):
    """sqrt(real^2 + imaginary^2) with the gradient 0 at 0, in one buffer; a complex tensor's abs takes far longer."""

    @staticmethod
    def forward(ctx: Any, real: Tensor, imaginary: Tensor) -> Tensor:
        result = real.square().addcmul_(imaginary, imaginary).sqrt_()
        ctx.save_for_backward(real, imaginary, result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        real, imaginary, result = ctx.saved_tensors
        scaled = gradient / result.masked_fill(result == 0, 1.0)
        return scaled * real, scaled * imaginary


def high_part(image: Tensor, half_box: int, variant: HighPass = "absolute") -> Tensor:
    """The magnitude of what is left of `image` without the box of lowest frequencies.

    Args:
        image: (..., H, W), any range; usually [0, 1].
        half_box: d, from 1 to half of the shorter side.
        variant: "absolute" is |Re high|, "modulus" is |high|; the two differ since the box is even.

    Returns:
        Shaped like `image` and of its type, >= 0.

    Raises:
        BadInput: For an unknown variant, a box that does not fit, or an image that is not floating point.
    """
    if variant == "absolute":
        low, _ = low_part(image, half_box)
        return (image - low).abs().to(image.dtype)
    if variant == "modulus":
        low, imaginary = low_part(image, half_box, imaginary=True)
        assert imaginary is not None
        modulus: Tensor = _Modulus.apply(image - low, imaginary)
        return modulus.to(image.dtype)
    raise BadInput(f"variant is {variant!r}: use absolute or modulus")
