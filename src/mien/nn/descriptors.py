# SPDX-License-Identifier: Apache-2.0
"""Descriptors of the neighbourhood of given points: histograms of gradient orientations in a grid of cells.

The upright form of SIFT (Lowe, IJCV 2004) at points that somebody else has found, such as the landmarks of a face. For
a pixel at (u, v) from the point, in units of a cell, with gradient of magnitude m and orientation t,

    weight = exp(-(u^2 + v^2) / (G^2 / 2)),   G = cells per side (4),   t in 8 bins over the full circle

and weight * m is shared linearly among the two nearest rows, columns and orientations of cells. The G x G x 8 numbers
are scaled to unit length, cut at 0.2, scaled again, and multiplied by 512, at most 255. A flat neighbourhood gives
zeros. Cells of 1.5 pixels are those of a point of size 1 in the usual library. Nothing is differentiated.

>>> image = torch.linspace(0, 1, 16).expand(1, 16, 16)  # brighter to the right: one orientation
>>> d = descriptors(image, torch.tensor([[[8.0, 8.0]]])).view(4, 4, 8)
>>> bool((d[..., 0] > 0).all()), float(d[..., 1:].max())
(True, 0.0)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mien.errors import BadInput

CELLS, ORIENTATIONS = 4, 8
CUT, SCALE, LARGEST = 0.2, 512.0, 255.0
EPSILON = 1e-7
"""Shorter histograms are flat neighbourhoods."""


@torch.no_grad()
def descriptors(image: Tensor, points: Tensor, cell: float = 1.5) -> Tensor:
    """A descriptor for each point of each image.

    Args:
        image: Grey, (B, H, W), H and W at least 3. The descriptor does not change with brightness or contrast.
        points: x and y in pixels, (B, L, 2); rounded to the nearest pixel. Pixels at the border of the image, and
            beyond it, have no gradient and count nothing.
        cell: Side of a cell in pixels, above 0.

    Returns:
        (B, L, 128) in [0, 255]: by row of cells, column, and orientation counter-clockwise from "brighter to the
        right".

    Raises:
        BadInput: Shapes that do not fit, or a cell that is not above 0.
    """
    if image.ndim != 3 or min(image.shape[-2:]) < 3:
        raise BadInput(f"image has shape {tuple(image.shape)}: grey images (B, H, W) of 3 pixels or more are needed")
    if points.ndim != 3 or points.shape[0] != len(image) or points.shape[2] != 2:
        raise BadInput(f"points have shape {tuple(points.shape)}: ({len(image)}, L, 2) is needed")
    if not cell > 0:
        raise BadInput(f"cell is {cell}: it must be above 0 pixels")
    height, width = image.shape[-2:]
    image = image.float()
    right, up = torch.zeros_like(image), torch.zeros_like(image)
    right[:, 1:-1, 1:-1] = image[:, 1:-1, 2:] - image[:, 1:-1, :-2]
    up[:, 1:-1, 1:-1] = image[:, :-2, 1:-1] - image[:, 2:, 1:-1]

    offset, share = _spread(cell, image)
    x = points[..., 0].round().long()[..., None] + offset[:, 0]
    y = points[..., 1].round().long()[..., None] + offset[:, 1]  # (B, L, P)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    flat = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).flatten(1)
    dx, dy = (g.flatten(1).gather(1, flat).view(x.shape) * inside for g in (right, up))

    bins = torch.remainder(torch.atan2(dy, dx), 2 * math.pi) * (ORIENTATIONS / (2 * math.pi))
    distance = (bins[..., None] - torch.arange(ORIENTATIONS, device=image.device)).abs()
    nearness = (1 - torch.minimum(distance, ORIENTATIONS - distance)).clamp_min(0)  # two bins share a pixel
    strength = torch.hypot(dx, dy)[..., None] * nearness
    histogram = torch.einsum("blpo,pc->blco", strength, share).flatten(2)
    return _scaled(histogram)


def _spread(cell: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets of the pixels that count (P, 2), x and y, and the share of each in each cell (P, cells x cells)."""
    reach = math.ceil(cell * (CELLS + 1) / 2)
    steps = torch.arange(-reach, reach + 1, device=like.device)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    u, v = x.flatten().to(like.dtype) / cell, y.flatten().to(like.dtype) / cell
    centres = torch.arange(CELLS, device=like.device, dtype=like.dtype) - (CELLS - 1) / 2
    across = (1 - (u[:, None] - centres).abs()).clamp_min(0)
    down = (1 - (v[:, None] - centres).abs()).clamp_min(0)
    gauss = torch.exp(-(u.square() + v.square()) / (CELLS**2 / 2))
    share = torch.einsum("p,pr,pc->prc", gauss, down, across).flatten(1)
    used = share.sum(dim=1) > 0
    return torch.stack([x.flatten(), y.flatten()], dim=1)[used], share[used]


def _scaled(histogram: Tensor) -> Tensor:
    length = histogram.norm(dim=-1, keepdim=True)
    cut = (histogram / length.clamp_min(EPSILON)).clamp_max(CUT)
    unit = cut / cut.norm(dim=-1, keepdim=True).clamp_min(EPSILON)
    return torch.where(length > EPSILON, (SCALE * unit).clamp_max(LARGEST), 0.0)


def face_points(count: int) -> Tensor:
    """Fixed places of landmarks in an aligned face crop, as shares of its width and height, (count, 2), x and y.

    68 follows the usual scheme (17 along the jaw, 10 on the brows, 9 on the nose, 12 around the eyes, 20 around the
    mouth); 17 is a sparse one. They lie on curves through the places of eyes, nose and mouth of the aligned crops
    here, and stand in for landmarks that nobody has found.

    Raises:
        BadInput: For another count.
    """
    if count not in (17, 68):
        raise BadInput(f"count is {count}: there are templates of 17 and 68 points")
    left, right, nose, mouth = (0.342, 0.462), (0.657, 0.460), (0.500, 0.640), (0.501, 0.824)
    jaw = _arc((0.5, 0.45), (0.40, 0.52), -math.pi, 0.0, 17)
    brows = [*_arc((left[0], 0.44), (0.12, 0.09), 0.9 * math.pi, 0.1 * math.pi, 5)]
    brows += _arc((right[0], 0.44), (0.12, 0.09), 0.9 * math.pi, 0.1 * math.pi, 5)
    bridge = [(0.5, 0.46 + i * (nose[1] - 0.46) / 3) for i in range(4)]
    nostrils = [(0.5 + 0.08 * i / 2, nose[1] + 0.045 - 0.01 * abs(i)) for i in range(-2, 3)]
    eyes = [point for centre in (left, right) for point in _arc(centre, (0.07, 0.028), math.pi, -2 / 3 * math.pi, 6)]
    outer = _arc(mouth, (0.13, 0.065), math.pi, -5 / 6 * math.pi, 12)
    inner = _arc(mouth, (0.09, 0.025), math.pi, -3 / 4 * math.pi, 8)
    whole = [*jaw, *brows, *bridge, *nostrils, *eyes, *outer, *inner]
    if count == 17:
        whole = [whole[i] for i in (8, 17, 21, 22, 26, 27, 31, 33, 35, 36, 39, 42, 45, 48, 51, 54, 57)]
    return torch.tensor(whole)


def _arc(
    centre: tuple[float, float], radii: tuple[float, float], start: float, end: float, count: int
) -> list[tuple[float, float]]:
    """Points of an ellipse from angle `start` to `end`, counter-clockwise being positive: pi is left, pi / 2 is up."""
    angles = [start + (end - start) * i / (count - 1) for i in range(count)]
    return [(centre[0] + radii[0] * math.cos(a), centre[1] - radii[1] * math.sin(a)) for a in angles]
