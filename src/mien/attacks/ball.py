# SPDX-License-Identifier: Apache-2.0
"""Balls of perturbations: projection, direction of steepest ascent, points drawn from them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mien.errors import BadInput

Norm = Literal["linf", "l2"]


def check_budget(eps: float, norm: Norm, name: str = "eps") -> None:
    """Raise BadInput for a budget that images in [0, 1] cannot have."""
    if norm not in ("linf", "l2"):
        raise BadInput(f"norm is {norm!r}: use linf or l2")
    if not (0 <= eps <= 1 if norm == "linf" else 0 <= eps < torch.inf):
        allowed = "in [0, 1], since images are: 8 levels of 255 are 8/255" if norm == "linf" else "0 or more"
        raise BadInput(f"{name} is {eps}: it must be {allowed}")


def project(image: Tensor, natural: Tensor, eps: float, norm: Norm) -> Tensor:
    """The nearest images to (B, C, H, W) that lie in [0, 1] and within `eps` of `natural`.

    For the L2 ball this is the ball's projection followed by the cube's, which stays in the ball, since `natural` is
    in the cube.

    Args:
        image: (B, C, H, W).
        natural: (B, C, H, W) in [0, 1].
        eps: Radius.
        norm: "linf" or "l2", over the values of an image.
    """
    delta = image - natural
    delta = delta.clamp_(-eps, eps) if norm == "linf" else delta * (eps / _length(delta)).clamp(max=1)
    return delta.add_(natural).clamp_(0, 1)


def ascent(gradient: Tensor, norm: Norm) -> Tensor:
    """Direction of steepest ascent of length 1: the sign, or the gradient over its length, image by image."""
    return gradient.sign() if norm == "linf" else gradient / _length(gradient)


def drawn(natural: Tensor, eps: float, norm: Norm, generator: torch.Generator | None = None) -> Tensor:
    """Images drawn uniformly from the ball around `natural`, clipped to [0, 1]. Drawn on the CPU, on any device.

    Args:
        natural: (B, C, H, W) in [0, 1].
        eps: Radius.
        norm: "linf" or "l2".
        generator: Of the draws; torch's global one by default.
    """
    if norm == "linf":
        delta = torch.rand(natural.shape, generator=generator, dtype=natural.dtype) * 2 - 1
    else:
        delta = torch.randn(natural.shape, generator=generator, dtype=natural.dtype)
        size = natural[0].numel() if len(natural) else 1
        radius = torch.rand(len(natural), generator=generator, dtype=natural.dtype) ** (1 / size)
        delta = delta / _length(delta) * radius.view(-1, *[1] * (natural.ndim - 1))
    return project(natural + eps * delta.to(natural.device), natural, eps, norm)


def _length(values: Tensor) -> Tensor:
    """L2 norm of each image, (B, 1, 1, 1), never quite zero."""
    flat = values.flatten(1).norm(dim=1).clamp_min(torch.finfo(values.dtype).tiny)
    return flat.view(-1, *[1] * (values.ndim - 1))
