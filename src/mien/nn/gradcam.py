# SPDX-License-Identifier: Apache-2.0
"""Grad-CAM for whole batches, without ReLU, and differentiable in the activations.

For image x, logits f(x), class c and the activations A(x), (K, h, w), of one layer:

    G = d f_c / d A,   w_k = mean_ij G_kij (constant),   cam = sum_k w_k A_k
    resize bilinearly to the image with aligned corners, then (cam - min) / (max - min) per image; flat maps give 0

In eval mode the images of a batch do not depend on each other, so the gradient of the summed class logits holds every
image's own gradient: one backward pass for the batch, and only from the logits down to the layer. No gradient of a
parameter is computed, and none is stored.

Selvaraju et al., "Grad-CAM", ICCV 2017. Without its ReLU, and with gradients through A, the minimum and the maximum,
as ACMF uses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import BadInput


def normalise_maps(maps: Tensor) -> Tensor:
    """Each map of (B, H, W) stretched to [0, 1]; one whose values are all equal, up to rounding, becomes 0.

    Gradients flow through the values, the minimum and the maximum.
    """
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    span = high - low
    # interpolating a constant map leaves rounding errors: a few units in the last place are not a pattern
    flat = span <= 8 * torch.finfo(maps.dtype).eps * torch.maximum(low.abs(), high.abs())
    return torch.where(flat, 0.0, (maps - low) / torch.where(flat, 1.0, span))


def gradcam(
    network: nn.Module,
    layer: nn.Module,
    image: Tensor,
    *,
    classes: Tensor | None = None,
    differentiable: bool = False,
) -> tuple[Tensor, Tensor]:
    """Class activation maps of a batch.

    The network runs in eval mode and gets its modes back. `.grad` of parameters is not touched. Works under `no_grad`.

    Args:
        network: (B, 3, H, W) -> logits (B, C). Images must not influence each other in eval mode.
        layer: Submodule that runs once in a forward pass and gives (B, K, h, w).
        image: (B, 3, H, W), in the range that the network takes.
        classes: Class of each image, (B,) integers; None for the predicted one.
        differentiable: Whether a loss of the maps can train the network: gradients flow through the activations
            (not through w).

    Returns:
        Maps (B, H, W) in [0, 1], and the logits (B, C), detached.

    Raises:
        BadInput: When the layer does not run exactly once, or gives no maps.
    """
    held: list[tuple[Tensor, Tensor]] = []

    def cut(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise BadInput(
                f"the layer {type(layer).__name__} gives no feature maps (B, K, h, w): name another cam_layer"
            )
        leaf = output.detach().requires_grad_()
        held.append((output, leaf))
        torch.set_grad_enabled(True)  # from here on to the logits; the mode outside comes back below
        return leaf.clone()  # the next module may work in place

    if not len(image):
        with torch.no_grad(), _evaluating(network):
            return image.new_zeros(0, *image.shape[-2:]), network(image)
    handle = layer.register_forward_hook(cut)
    try:
        with _evaluating(network), torch.set_grad_enabled(differentiable):
            logits = network(image)
    finally:
        handle.remove()
    if len(held) != 1:
        raise BadInput(f"the layer {type(layer).__name__} ran {len(held)} times: cam_layer must run exactly once")
    activations, leaf = held[0]
    chosen = logits.argmax(dim=1) if classes is None else classes
    with torch.enable_grad():
        score = logits.gather(1, chosen[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, leaf)
    with torch.set_grad_enabled(differentiable):
        weights = gradient.mean(dim=(2, 3)).to(activations.dtype)
        cam = torch.einsum("bk,bkhw->bhw", weights, activations)
        cam = cam if cam.dtype == torch.float64 else cam.float()
        cam = F.interpolate(cam[:, None], image.shape[-2:], mode="bilinear", align_corners=True)[:, 0]
        return normalise_maps(cam), logits.detach()


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode for all submodules; each gets its own mode back."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
