# SPDX-License-Identifier: Apache-2.0
"""The pure operations that forgeries are composed of. No chance: every parameter is an argument, one value per image.

Images are float32, (B, 3, H, W) in [0, 1]; masks (B, 1, H, W) in [0, 1]; points are pixels, x right, y down, the centre
of the first pixel at 0.5. Nothing couples the images of a batch.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mien.data.blur import gaussian_blur

CANONICAL = ((38.29, 51.70), (73.53, 51.50), (56.03, 71.74), (41.55, 92.37), (70.73, 92.20))
"""Eyes, tip of the nose, corners of the mouth in an aligned crop of 112 x 112 pixels (ArcFace, Deng et al. 2019)."""

# Ellipses of the regions in units of the aligned 112-pixel crop: pivot (mean of these points), offset from it, radii.
_REGIONS: dict[str, tuple[tuple[tuple[int, ...], tuple[float, float], tuple[float, float]], ...]] = {
    "eyes": (((0,), (0.0, 0.0), (12.5, 7.5)), ((1,), (0.0, 0.0), (12.5, 7.5))),
    "brows": (((0,), (0.0, -10.5), (13.5, 5.5)), ((1,), (0.0, -10.5), (13.5, 5.5))),
    "nose": (((2,), (0.0, -5.0), (10.5, 14.5)),),
    "lips": (((3, 4), (0.0, 0.0), (19.0, 9.5)),),
    "hair": (((0, 1), (0.0, -44.0), (52.0, 19.0)),),
}
REGIONS = tuple(_REGIONS)
"""Regions that can be edited."""

FACE = ((0, 1, 3, 4), (0.0, -4.0), (35.0, 43.0))
"""The face's ellipse: pivot points, offset and radii as for the regions."""


def canonical_points(batch: int, height: int, width: int) -> Tensor:
    """Where the five points lie in an aligned crop, (B, 5, 2): for faces whose landmarks are not known."""
    scale = torch.tensor([width / 112, height / 112])
    return (torch.tensor(CANONICAL) * scale).expand(batch, 5, 2)


def _added(values: Tensor) -> Tensor:
    """Sums of the rows, (B, K) -> (B,), from left to right: torch's own order depends on the batch."""
    return sum(values.unbind(dim=1), start=torch.zeros(len(values)))


def mean_point(points: Tensor) -> Tensor:
    """The mean of points (B, K, 2), shape (B, 2)."""
    return torch.stack([_added(points[..., axis]) for axis in (0, 1)], dim=1) / points.shape[1]


def similarity(source: Tensor, target: Tensor) -> Tensor:
    """Least-squares similarity that takes points `source` to `target`, both (B, K, 2).

    Returns:
        (B, 4): a, b, tx, ty with x' = a x - b y + tx, y' = b x + a y + ty. Coinciding points give scale 1.
    """
    s_mean, t_mean = mean_point(source), mean_point(target)
    s, t = source - s_mean[:, None], target - t_mean[:, None]
    power = _added((s * s).flatten(1))
    safe = power.clamp_min(1e-6)
    a = torch.where(power > 1e-6, _added((s * t).flatten(1)) / safe, 1.0)
    b = _added(s[..., 0] * t[..., 1] - s[..., 1] * t[..., 0]) / safe
    tx = t_mean[:, 0] - a * s_mean[:, 0] + b * s_mean[:, 1]
    ty = t_mean[:, 1] - b * s_mean[:, 0] - a * s_mean[:, 1]
    return torch.stack((a, b, tx, ty), dim=1)


def inverse(transform: Tensor) -> Tensor:
    """The inverse of similarities (B, 4)."""
    a, b, tx, ty = transform.unbind(dim=1)
    power = (a * a + b * b).clamp_min(1e-9)
    ia, ib = a / power, -b / power
    return torch.stack((ia, ib, -ia * tx + ib * ty, -ib * tx - ia * ty), dim=1)


def compose(second: Tensor, first: Tensor) -> Tensor:
    """The similarity "first `first`, then `second`", all (B, 4)."""
    a, b, tx, ty = second.unbind(dim=1)
    c, d, ux, uy = first.unbind(dim=1)
    return torch.stack((a * c - b * d, b * c + a * d, a * ux - b * uy + tx, b * ux + a * uy + ty), dim=1)


def about(centre: Tensor, *, scale: Tensor, degrees: Tensor, shift: Tensor | None = None) -> Tensor:
    """Similarities (B, 4) that scale and rotate about `centre` (B, 2), then shift by `shift` (B, 2) pixels."""
    angle = degrees * (math.pi / 180)
    a, b = scale * angle.cos(), scale * angle.sin()
    x, y = centre.unbind(dim=1)
    tx, ty = x - a * x + b * y, y - b * x - a * y
    if shift is not None:
        tx, ty = tx + shift[:, 0], ty + shift[:, 1]
    return torch.stack((a, b, tx, ty), dim=1)


def pixel_grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """X and y of the pixels' centres, each (H, W)."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return x, y


def warp(images: Tensor, transform: Tensor) -> Tensor:
    """Move images by similarities (B, 4): what was at p is then at T(p). Bilinear; edges are mirrored."""
    height, width = images.shape[-2:]
    a, b, tx, ty = inverse(transform)[:, :, None, None].unbind(dim=1)
    x, y = pixel_grid(height, width)
    grid = torch.stack(((a * x - b * y + tx) * (2 / width) - 1, (b * x + a * y + ty) * (2 / height) - 1), dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def soft_ellipses(
    height: int, width: int, centre: Tensor, radii: Tensor, degrees: Tensor, sigma: Tensor, waves: Tensor
) -> Tensor:
    """Elastic soft ellipses, united.

    Args:
        height: Of the images, in pixels.
        width: Of the images, in pixels.
        centre: (B, K, 2), pixels. An ellipse with a radius of 0 is left out.
        radii: (B, K, 2), pixels.
        degrees: Rotation of all ellipses of an image, (B,).
        sigma: Softness of the edge, (B,): that of a Gaussian blur of this deviation, in pixels.
        waves: (B, 2, 3): for x and y the amplitude in pixels, cycles per image and phase of the wave that bends the
            outline.

    Returns:
        (B, 1, H, W) in [0, 1], exactly 0 away from the ellipses.
    """
    x, y = pixel_grid(height, width)
    amplitude, cycles, phase = (waves[:, :, i, None, None] for i in range(3))
    px = x + amplitude[:, 0] * torch.sin(cycles[:, 0] * (2 * math.pi / height) * y + phase[:, 0])
    py = y + amplitude[:, 1] * torch.sin(cycles[:, 1] * (2 * math.pi / width) * x + phase[:, 1])
    angle = (degrees * (math.pi / 180))[:, None, None]
    cosine, sine = angle.cos(), angle.sin()
    distance = torch.full_like(px, -1e4)
    for k in range(centre.shape[1]):
        cx, cy = centre[:, k, :, None, None].unbind(dim=1)
        rx, ry = radii[:, k, :, None, None].clamp_min(1e-3).unbind(dim=1)
        u, v = (px - cx) * cosine + (py - cy) * sine, (py - cy) * cosine - (px - cx) * sine
        u, v = u / rx, v / ry
        r = torch.sqrt(u * u + v * v)
        slope = torch.sqrt((u / rx) ** 2 + (v / ry) ** 2).clamp_min(1e-6)
        here = r * (1 - r) / slope  # signed distance to first order, positive inside
        here = torch.where(r < 0.5, torch.minimum(rx, ry) * 0.5, here)  # the first order fails at the centre
        distance = torch.maximum(distance, torch.where(rx > 0.01, here, -1e4))
    mask = 0.5 + 0.5 * torch.erf(distance / (sigma.clamp_min(0.1) * math.sqrt(2))[:, None, None])
    return ((mask - 0.005) / 0.99).clamp(0, 1)[:, None]


def nearer(mask: Tensor, centres: Tensor, k: int) -> Tensor:
    """1 where a pixel is nearer to the k-th of two centres (B, 2, 2) than to the other, else 0; the mask's shape."""
    x, y = pixel_grid(*mask.shape[-2:])
    squared = [
        ((x - c[:, 0, None, None]) ** 2 + (y - c[:, 1, None, None]) ** 2)[:, None] for c in centres.unbind(dim=1)
    ]
    return (squared[k] < squared[1 - k]).to(mask.dtype)


def region_ellipses(name: str, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A region's ellipses for five points (B, 5, 2).

    Args:
        name: One of `REGIONS`, or "face".
        points: Eyes, tip of the nose, corners of the mouth.

    Returns:
        Centres (B, K, 2), radii (B, K, 2) in pixels, and the rotation of the face in degrees (B,).
    """
    parts = (FACE,) if name == "face" else _REGIONS[name]
    a, b, _, _ = similarity(torch.tensor(CANONICAL).expand_as(points), points).unbind(dim=1)
    scale = torch.sqrt(a * a + b * b)
    centres, radii = [], []
    for pivot, (dx, dy), (rx, ry) in parts:
        base = mean_point(points[:, list(pivot)])
        centres.append(base + torch.stack((a * dx - b * dy, b * dx + a * dy), dim=1))
        radii.append(torch.stack((scale * rx, scale * ry), dim=1))
    degrees = torch.atan2(b, a) * (180 / math.pi)
    return torch.stack(centres, dim=1), torch.stack(radii, dim=1), degrees


def blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of deviation `sigma` (B,) pixels."""
    return torch.from_numpy(gaussian_blur(images.numpy(), sigma.numpy()))


def sharpness(images: Tensor, amount: Tensor) -> Tensor:
    """Blur where `amount` (B,) is below 0 (deviation -amount pixels), unsharp masking by `amount` where it is above."""
    soft = blurred(images, torch.where(amount < 0, -amount, 1.0))
    keep = amount[:, None, None, None].clamp_min(0)
    sharp = images + keep * (images - soft)
    return torch.where(amount[:, None, None, None] < 0, soft, sharp)


def moments(images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel inside the mask, each (B, 3, 1, 1)."""

    def total(plane: Tensor) -> Tensor:  # numpy adds in an order that depends on H and W alone
        return torch.from_numpy(plane.numpy().sum(axis=(2, 3), keepdims=True))

    weight = total(mask).clamp_min(1e-6)
    mean = total(images * mask) / weight
    return mean, (total((images - mean) ** 2 * mask) / weight).sqrt()


def recolour(images: Tensor, mask: Tensor, *, shift: Tensor, contrast: Tensor) -> Tensor:
    """Add `shift` (B, 3) and scale the contrast by `contrast` (B,) about the mean inside the mask."""
    mean, _ = moments(images, mask)
    return mean + contrast[:, None, None, None] * (images - mean) + shift[:, :, None, None]


def match_colour(images: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Give `images` the target's mean and deviation inside the mask, channel by channel."""
    mean, deviation = moments(images, mask)
    wanted_mean, wanted_deviation = moments(target, mask)
    gain = (wanted_deviation / deviation.clamp_min(1e-3)).clamp(0.4, 2.5)  # never blow up noise on a flat image
    return wanted_mean + gain * (images - mean)


def resampled(images: Tensor, share: Tensor, mode: str = "bilinear") -> Tensor:
    """Shrink each image to `share` (B,) of its size and enlarge it again."""
    height, width = images.shape[-2:]
    out = torch.empty_like(images)
    for i, part in enumerate(share.tolist()):
        small = (max(2, round(height * part)), max(2, round(width * part)))
        shrunk = F.interpolate(images[i : i + 1], size=small, mode=mode, align_corners=False, antialias=True)
        out[i : i + 1] = F.interpolate(shrunk, size=(height, width), mode=mode, align_corners=False)
    return out.clamp_(0, 1)


def blend(images: Tensor, edited: Tensor, mask: Tensor) -> Tensor:
    """`edited` inside the mask, `images` elsewhere: equal to `images` bit for bit where the mask is 0."""
    return (images + mask * (edited.clamp(0, 1) - images)).clamp_(0, 1)


def to_bytes(images: Tensor) -> Tensor:
    """Floats in [0, 1] to uint8, rounded."""
    return images.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def jpeg(images: Tensor, quality: list[int]) -> Tensor:
    """uint8 images (B, 3, H, W) once through JPEG (colour at half resolution, as most cameras) at these qualities."""
    pictures = images.permute(0, 2, 3, 1).contiguous().numpy()
    out = np.empty_like(pictures)
    for picture, level, row in zip(pictures, quality, out, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="JPEG", quality=level)
        row[:] = np.asarray(Image.open(buffer))
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


Decoder = Callable[[Tensor], Tensor]
"""(B, 3, H, W) in [0, 1] -> the same shape: an autoencoder, for re-synthesis."""
