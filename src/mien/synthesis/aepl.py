# SPDX-License-Identifier: Apache-2.0
"""AEPL, the adaptive edge perception loss of CSHNet, in a form that has a gradient.

    mag = |Sobel(blur(grey x))|, 0 .. 255         T_L = argmax_T [H(mag_real <= T) + H(mag_real > T)]
    K(x) = [largest across the edge] [mag >= T_L]  E(x) = min(mag, 255) K, where mag > 180: 255
    L = 0.01 mean (E(real) - E(fake))^2,           K of the fake = K(real) or K(fake)

T_L is found for every image, and the fake is cut at the real one's. With K(fake) alone an edge that the fake lacks
would have no gradient and could not be learned.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mien.nn.edges import gradients, local_maxima

KERNEL, SIGMA = 9, 1.7
BINS = 256
HIGH = 180.0
"""Edges above it are as strong as can be."""
MOST, REDUCTION = 90, 2.5
"""A low threshold above `MOST` is divided by `REDUCTION`."""
FACTOR = 0.01


def entropy_threshold(histogram: Tensor) -> Tensor:
    """The T that maximises H(values <= T) + H(values > T), entropies in bits of the two parts, each normalised.

    Only a T that leaves both parts non-empty counts; the smallest of equals is taken, and 0 if there is none.

    Args:
        histogram: Counts of the values 0 .. n - 1, (B, n).

    Returns:
        T, (B,), integers.

    >>> entropy_threshold(torch.bincount(torch.tensor([40, 41, 200, 201]), minlength=256)[None])
    tensor([41])
    """
    counts = histogram.double()
    total = counts.sum(dim=1, keepdim=True)
    p = counts / total.clamp(min=1)
    low, surprise = p.cumsum(dim=1), torch.special.entr(p).cumsum(dim=1)  # entr is -p ln p
    high, rest = 1 - low, surprise[:, -1:] - surprise
    # -sum (p / P) ln (p / P) = ln P + (-sum p ln p) / P
    objective = low.log() + surprise / low + high.log() + rest / high
    below = counts.cumsum(dim=1)
    allowed = (below > 0) & (below < total)
    objective = objective.masked_fill(~allowed, float("-inf"))
    best = objective.amax(dim=1, keepdim=True)
    equal = allowed & (objective >= best - 1e-9)  # equal up to rounding
    return equal.int().argmax(dim=1)  # the first of them


@torch.no_grad()
def low_threshold(edges: Tensor) -> Tensor:
    """T_L of edge maps (B, 1, H, W) in 0 .. 255, (B,): the entropy threshold of the whole numbers, halved if high."""
    values = edges.flatten(1).long().clamp(0, BINS - 1)
    rows = torch.arange(len(values), device=values.device)[:, None]
    counts = torch.bincount((values + BINS * rows).flatten(), minlength=BINS * len(values))
    threshold = entropy_threshold(counts.view(-1, BINS))
    return torch.where(threshold > MOST, (threshold / REDUCTION).floor().long(), threshold)


def edge_map(magnitude: Tensor, keep: Tensor) -> Tensor:
    """E: the magnitude where `keep` is true, above 180 raised and cut to 255. Its gradient there is 1, elsewhere 0."""
    with torch.no_grad():
        saturated = torch.where(magnitude > HIGH, 255.0 - magnitude, 0.0)  # added without gradient: straight-through
    return (magnitude + saturated) * keep


def adaptive_edge_loss(fake: Tensor, real: Tensor) -> Tensor:
    """L_AEP of generated images and the real ones, a scalar; the gradient flows into `fake` only.

    As the paper has it edges are measured on 0 .. 255: one missed strong edge pixel counts 650 before averaging.

    Args:
        fake: (B, 3, H, W) in [0, 1]; H and W at least 5.
        real: Shaped alike.
    """
    with torch.no_grad():
        real_edges, gx, gy = gradients(255 * real, KERNEL, SIGMA)
        maxima = local_maxima(real_edges.clamp(max=255), gx, gy)
        low = low_threshold(real_edges.clamp(max=255) * maxima).view(-1, 1, 1, 1)
        keep = maxima & (real_edges >= low)
        wanted = edge_map(real_edges, keep)
    edges, gx, gy = gradients(255 * fake, KERNEL, SIGMA)
    keep_fake = local_maxima(edges.clamp(max=255), gx, gy) & (edges >= low)
    return FACTOR * (edge_map(edges, keep | keep_fake) - wanted).square().mean()
