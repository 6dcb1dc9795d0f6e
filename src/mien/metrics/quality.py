# SPDX-License-Identifier: Apache-2.0
"""How near a picture comes to the true one: PSNR, SSIM and F1 of edges of every picture, in colour or on luma.

>>> import torch
>>> psnr(torch.zeros(2, 3, 16, 16), torch.full((2, 3, 16, 16), 0.1))
tensor([20., 20.])
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mien.errors import BadInput
from mien.nn.edges import gradients, local_maxima

_LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)
"""Y of BT.601 in studio range, as super-resolution papers compute it: 16 to 235 for [0, 1]."""
WINDOW = 11
EDGE_KERNEL, EDGE_SIGMA, EDGE = 5, 1.0, 100.0
"""How edges are found: a blur lighter than that of losses on edges, and one threshold for all pictures."""


def luma(image: Tensor) -> Tensor:
    """Y of (B, 3, H, W) in [0, 1], (B, 1, H, W) from 16 / 255 to 235 / 255.

    One channel stays as it is, from 0 to 1: errors are then 255 / 219 as large, and PSNR is 1.3 dB lower, than they
    would be for the same picture in three equal channels.
    """
    if image.shape[1] == 1:
        return image
    weights = torch.tensor(_LUMA, dtype=image.dtype, device=image.device)
    return (image * weights[:, None, None]).sum(dim=1, keepdim=True) + 16 / 255


def without_border(image: Tensor, border: int) -> Tensor:
    """(B, C, H, W) less `border` pixels on each side; super-resolution leaves out as many as its scale."""
    if border < 0 or min(image.shape[-2:]) <= 2 * border:
        raise BadInput(f"border is {border}: the picture is {image.shape[-2]} x {image.shape[-1]}")
    return image[..., border : image.shape[-2] - border, border : image.shape[-1] - border]


def psnr(image: Tensor, truth: Tensor) -> Tensor:
    """10 log10(1 / MSE) in dB of each picture, (B,); infinite for equal ones. Pictures (B, C, H, W) in [0, 1]."""
    _same(image, truth)
    return -10 * (image - truth).square().mean(dim=(1, 2, 3)).log10()


def ssim(image: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each picture, (B,), Gaussian windows of 11 pixels, mirrored borders (torchmetrics).

    Raises:
        BadInput: A picture is smaller than the window.
    """
    _same(image, truth)
    if min(image.shape[-2:]) < WINDOW:
        raise BadInput(f"pictures are {image.shape[-2]} x {image.shape[-1]}: SSIM needs {WINDOW} x {WINDOW} or more")
    from torchmetrics.functional.image import structural_similarity_index_measure  # late: seconds to import

    found = structural_similarity_index_measure(image, truth, data_range=1.0, reduction="none")
    assert isinstance(found, Tensor)
    return found.reshape(len(image))


def _same(image: Tensor, truth: Tensor) -> None:
    if image.shape != truth.shape or image.ndim != 4:
        raise BadInput(f"pictures have shapes {tuple(image.shape)} and {tuple(truth.shape)}: equal (B, C, H, W) needed")


def edge_pixels(image: Tensor, threshold: float = EDGE) -> Tensor:
    """Which pixels lie on an edge, (B, 1, H, W) of bool; pictures (B, 3, H, W) in [0, 1], at least 4 pixels a side.

    Gaussian blur (5 x 5, sigma 1), Sobel, non-maximum suppression, and a magnitude above `threshold`, on 0 .. 255.
    """
    magnitude, gx, gy = gradients(255 * image, EDGE_KERNEL, EDGE_SIGMA)
    return local_maxima(magnitude, gx, gy) & (magnitude > threshold)


def edge_f1(image: Tensor, truth: Tensor, *, tolerance: int = 1, threshold: float = EDGE) -> Tensor:
    """F1 of the edges of each picture against the true one's, (B,) in [0, 1].

    Precision is the share of its edge pixels that have a true one within `tolerance` pixels (across or along or both),
    recall the share of true ones that have one of its own as near. Two pictures without edges agree: 1.

    Args:
        image: (B, 3, H, W) in [0, 1].
        truth: Shaped alike.
        tolerance: In pixels, >= 0.
        threshold: As in `edge_pixels`.
    """
    _same(image, truth)
    found, wanted = edge_pixels(image, threshold), edge_pixels(truth, threshold)

    def hits(edges: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        near = F.max_pool2d(others.float(), 2 * tolerance + 1, stride=1, padding=tolerance) > 0
        return (edges & near).sum(dim=(1, 2, 3)), edges.sum(dim=(1, 2, 3))

    right, made = hits(found, wanted)
    met, true = hits(wanted, found)
    precision, recall = right / made.clamp(min=1), met / true.clamp(min=1)
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return torch.where((made == 0) & (true == 0), torch.ones_like(f1), f1)
