# SPDX-License-Identifier: Apache-2.0
"""Forgeries made from any faces, real crops or procedural ones, so that both classes share source and framing.

The kinds
    * self-blend: the face, slightly moved, recoloured, blurred or sharpened, blended over itself;
    * swap: another person's face, warped to the landmarks and matched in colour, blended in;
    * re-synthesis: the face shrunk and enlarged (or sent through an autoencoder), inside a mask;
    * region-edit: one of eyes, brows, nose, lips, hair scaled, rotated and recoloured;
    * edit-sequence: one to five region edits, one after another, whose order is kept;
    * flicker, for clips: a face region whose colour, place and sharpness jump from frame to frame.

Rules against shortcuts: parameters have mean zero (or one), so that no brightness, colour or size betrays a forgery;
nothing is resized before the artefact is made; images change inside the mask only. `forge_pairs` adds the common last
encoding. Without landmarks the layout of an aligned crop is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mien.data import forge_ops as ops
from mien.data.draws import Seeds, between, item_seeds, uniforms
from mien.data.forge_ops import REGIONS, Decoder
from mien.errors import BadInput, unknown_name

Step = dict[str, Any]


@dataclass(frozen=True)
class Forgery:
    """Forged images.

    Args:
        image: (B, 3, H, W) in [0, 1].
        mask: Where they were forged, (B, 1, H, W) in [0, 1]; the image is unchanged where it is 0.
        steps: What was done to each, in order, as plain numbers and strings.
    """

    image: Tensor
    mask: Tensor
    steps: list[list[Step]]


def _t(values: Any) -> Tensor:
    return torch.from_numpy(values)


def _vector(seeds: Seeds, name: str, reach: float, count: int) -> Tensor:
    """(B, count) uniform in [-reach, reach)."""
    return _t((uniforms(seeds, name, count) * 2 - 1) * reach)


def _sign(seeds: Seeds, name: str) -> Tensor:
    return torch.where(_t(uniforms(seeds, name)[:, 0]) < 0.5, -1.0, 1.0)


def _log(seeds: Seeds, name: str, low: float, high: float) -> Tensor:
    """(B,) log-uniform in [low, high)."""
    return _t(between(seeds, name, math.log(low), math.log(high))).exp()


def _points(images: Tensor, points: Tensor | None) -> Tensor:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise BadInput(f"images are {images.dtype} of shape {tuple(images.shape)}: float of (B, 3, H, W) is needed")
    batch, _, height, width = images.shape
    if points is None:
        return ops.canonical_points(batch, height, width)
    if points.shape != (batch, 5, 2):
        raise BadInput(f"landmarks have shape {tuple(points.shape)}: five points each are needed, ({batch}, 5, 2)")
    return points.float()


def _mask(images: Tensor, seeds: Seeds, points: Tensor, region: str, softness: tuple[float, float]) -> Tensor:
    """An elastic soft mask over a region, its size and place varied a little."""
    height, width = images.shape[-2:]
    unit = width / 112
    centre, radii, degrees = ops.region_ellipses(region, points)
    centre = centre + unit * _vector(seeds, "mask shift", 2.5 if region == "face" else 1.0, 2)[:, None]
    radii = radii * torch.exp(_vector(seeds, "mask size", 0.16 if region == "face" else 0.1, 2))[:, None]
    waves = torch.stack(
        (
            _vector(seeds, "wave amplitude", 3.0 if region == "face" else 1.2, 2) * unit,
            _t(1.0 + 2.0 * uniforms(seeds, "wave cycles", 2)),
            _vector(seeds, "wave phase", math.pi, 2),
        ),
        dim=2,
    )
    sigma = _t(between(seeds, "mask softness", *softness)) * unit
    turn = degrees + _vector(seeds, "mask turn", 6.0, 1)[:, 0]
    return ops.soft_ellipses(height, width, centre, radii, turn, sigma, waves)


def face_mask(
    images: Tensor, seeds: Seeds, points: Tensor | None = None, *, softness: tuple[float, float] = (1.0, 4.0)
) -> Tensor:
    """The soft mask over the face that forgeries are made in, (B, 1, H, W) in [0, 1], for forgeries of one's own.

    Args:
        images: (B, 3, H, W) in [0, 1]; only their size counts.
        seeds: One per image, (B,).
        points: Eyes, tip of the nose, corners of the mouth in pixels, (B, 5, 2).
        softness: Range of the deviation of the edge's blur, pixels of a crop of 112.
    """
    return _mask(images, seeds, _points(images, points), "face", softness)


def _steps(op: str, **parameters: Tensor | list[str]) -> list[list[Step]]:
    """One step per image, with its parameters rounded for reading."""
    columns = {
        name: v if isinstance(v, list) else v.double().round(decimals=4).tolist() for name, v in parameters.items()
    }
    count = len(next(iter(columns.values())))
    return [[{"op": op} | {name: column[i] for name, column in columns.items()}] for i in range(count)]


def self_blend(images: Tensor, seeds: Seeds, points: Tensor | None = None) -> Forgery:
    """Blend the face, slightly changed, over itself (after Shiohara and Yamasaki, CVPR 2022).

    Args:
        images: (B, 3, H, W) in [0, 1].
        seeds: One per image, (B,).
        points: Eyes, tip of the nose, corners of the mouth in pixels, (B, 5, 2).
    """
    points = _points(images, points)
    unit = images.shape[-1] / 112
    mask = _mask(images, seeds, points, "face", (1.0, 4.0))
    shift, contrast = _vector(seeds, "colour", 0.06, 3), _log(seeds, "contrast", 0.88, 1 / 0.88)
    amount = _sign(seeds, "blur or sharpen") * _t(between(seeds, "amount", 0.35, 0.9))
    move = unit * _vector(seeds, "move", 2.0, 2)
    scale, degrees = _log(seeds, "scale", 0.97, 1 / 0.97), _vector(seeds, "degrees", 2.0, 1)[:, 0]
    ratio = _t(between(seeds, "ratio", 0.5, 1.0))
    source = ops.recolour(images, mask, shift=shift, contrast=contrast)
    source = ops.sharpness(source, torch.where(amount < 0, amount * unit, amount))
    source = ops.warp(source, ops.about(ops.mean_point(points), scale=scale, degrees=degrees, shift=move))
    mask = mask * ratio[:, None, None, None]
    steps = _steps(
        "self-blend",
        colour=shift,
        contrast=contrast,
        sharpness=amount,
        move=move,
        scale=scale,
        degrees=degrees,
        ratio=ratio,
    )
    return Forgery(ops.blend(images, source, mask), mask, steps)


def swap(
    images: Tensor,
    donors: Tensor,
    seeds: Seeds,
    points: Tensor | None = None,
    donor_points: Tensor | None = None,
    names: Sequence[str] | None = None,
) -> Forgery:
    """Put the donors' faces into the images.

    Args:
        images: (B, 3, H, W) in [0, 1].
        donors: Faces of other people, the same shape. Alike in pose and brightness, or the layout betrays the swap.
        seeds: One per image, (B,).
        points: Eyes, tip of the nose, corners of the mouth in pixels, (B, 5, 2).
        donor_points: The same of the donors.
        names: Who the donors are, for the record.
    """
    points, donor_points = _points(images, points), _points(donors, donor_points)
    unit = images.shape[-1] / 112
    mask = _mask(images, seeds, points, "face", (0.8, 2.8))
    move, scale = unit * _vector(seeds, "move", 1.0, 2), _log(seeds, "scale", 0.97, 1 / 0.97)
    degrees = _vector(seeds, "degrees", 1.5, 1)[:, 0]
    jitter = ops.about(ops.mean_point(points), scale=scale, degrees=degrees, shift=move)
    source = ops.warp(donors, ops.compose(jitter, ops.similarity(donor_points, points)))
    source = ops.match_colour(source, images, mask)
    ratio = _t(between(seeds, "ratio", 0.9, 1.0))
    mask = mask * ratio[:, None, None, None]
    steps = _steps(
        "swap", donor=list(names or [""] * len(images)), move=move, scale=scale, degrees=degrees, ratio=ratio
    )
    return Forgery(ops.blend(images, source, mask), mask, steps)


def resynthesise(
    images: Tensor, seeds: Seeds, points: Tensor | None = None, autoencoder: Decoder | None = None
) -> Forgery:
    """Replace the face by a copy that was made anew from less: shrunk to 1/2 to 5/7 and enlarged, or `autoencoder`'s.

    Args:
        images: (B, 3, H, W) in [0, 1].
        seeds: One per image, (B,).
        points: Eyes, tip of the nose, corners of the mouth in pixels, (B, 5, 2).
        autoencoder: Gives images of the same shape, for instance of `forge_autoencoder.train_autoencoder`.
    """
    points = _points(images, points)
    mask = _mask(images, seeds, points, "face", (1.0, 4.0))
    ratio = _t(between(seeds, "ratio", 0.85, 1.0))
    if autoencoder is None:
        share = _t(between(seeds, "share", 56 / 112, 80 / 112))
        copy = ops.resampled(images, share)
        steps = _steps("re-synthesis", by=["resampling"] * len(images), share=share, ratio=ratio)
    else:
        with torch.no_grad():
            copy = autoencoder(images)
        steps = _steps("re-synthesis", by=["autoencoder"] * len(images), ratio=ratio)
    mask = mask * ratio[:, None, None, None]
    return Forgery(ops.blend(images, copy, mask), mask, steps)


def edit_region(images: Tensor, region: str, seeds: Seeds, points: Tensor | None = None) -> Forgery:
    """Scale, rotate and recolour one region.

    Args:
        images: (B, 3, H, W) in [0, 1].
        region: One of `REGIONS`, the same for all.
        seeds: One per image, (B,).
        points: Eyes, tip of the nose, corners of the mouth in pixels, (B, 5, 2).
    """
    if region not in REGIONS:
        raise unknown_name("region", region, REGIONS)
    points = _points(images, points)
    mask = _mask(images, seeds, points, region, (0.8, 1.8))
    # Mild edits teach a small network nothing: the size changes by at least a fifth, the angle by 5 degrees.
    scale = torch.exp(_sign(seeds, "larger") * _t(between(seeds, "scale", math.log(1.2), math.log(4 / 3))))
    degrees = _sign(seeds, "turned") * _t(between(seeds, "degrees", 5.0, 9.0))
    shift = _vector(seeds, "colour", 0.04, 3)
    shift = shift + 0.03 * shift.sign()
    source = ops.recolour(images, mask, shift=shift, contrast=torch.ones(len(images)))
    centres, _, _ = ops.region_ellipses(region, points)
    edited = images
    for k in range(centres.shape[1]):  # each eye turns about itself, the second one the other way
        moved = ops.warp(source, ops.about(centres[:, k], scale=scale, degrees=degrees if k == 0 else -degrees))
        # Beyond the middle between the two, the other one's change holds.
        half = torch.ones_like(mask) if centres.shape[1] == 1 else ops.nearer(mask, centres, k)
        edited = edited + half * (moved - edited)
    steps = _steps("edit", region=[region] * len(images), scale=scale, degrees=degrees, colour=shift)
    return Forgery(ops.blend(images, edited, mask), mask, steps)


def edit_sequence(
    images: Tensor, sequences: Sequence[Sequence[str]], seeds: Seeds, points: Tensor | None = None
) -> Forgery:
    """Edit regions one after another; a later edit works on what the earlier ones left.

    Args:
        images: (B, 3, H, W) in [0, 1].
        sequences: For each image the regions in the order of editing, possibly none; each at most once.
        seeds: One per image, (B,). An edit's parameters depend on the seed and the region, not on the position, so
            two orders of the same regions differ by the order alone.
        points: Eyes, tip of the nose, corners of the mouth in pixels, (B, 5, 2).
    """
    points = _points(images, points)
    if len(sequences) != len(images):
        raise BadInput(f"{len(sequences)} sequences for {len(images)} images: give one for each")
    for sequence in sequences:
        if len(set(sequence)) < len(sequence):
            raise BadInput(f"sequence {list(sequence)} has a region twice: each may be edited once")
        for region in sequence:
            if region not in REGIONS:
                raise unknown_name("region", region, REGIONS)
    image, mask = images.clone(), torch.zeros_like(images[:, :1])
    steps: list[list[Step]] = [[] for _ in sequences]
    for position in range(max(map(len, sequences), default=0)):
        for region in REGIONS:
            rows = [i for i, s in enumerate(sequences) if len(s) > position and s[position] == region]
            if not rows:
                continue
            edit = edit_region(image[rows], region, item_seeds(0, seeds[rows], f"edit {region}"), points[rows])
            image[rows] = edit.image
            mask[rows] = torch.maximum(mask[rows], edit.mask)
            for row, step in zip(rows, edit.steps, strict=True):
                steps[row].extend(step)
    return Forgery(image, mask, steps)


def draw_sequences(seeds: Seeds, shortest: int, longest: int, regions: Sequence[str] = REGIONS) -> list[list[str]]:
    """Random orders of distinct regions, the lengths uniform from `shortest` to `longest`."""
    if not 0 <= shortest <= longest <= len(regions):
        raise BadInput(f"lengths are {shortest} to {longest}: use 0 to {len(regions)}, the number of regions")
    length = shortest + (uniforms(seeds, "length")[:, 0] * (longest - shortest + 1)).astype(int)
    order = uniforms(seeds, "order", len(regions)).argsort(axis=1)
    return [[regions[k] for k in row[:count]] for row, count in zip(order, length, strict=True)]


def region_edit(images: Tensor, seeds: Seeds, points: Tensor | None = None) -> Forgery:
    """Edit one region, drawn among eyes, brows, nose and lips (hair is cut off in most aligned crops)."""
    return edit_sequence(images, draw_sequences(seeds, 1, 1, REGIONS[:4]), seeds, points)


def random_sequence(images: Tensor, seeds: Seeds, points: Tensor | None = None) -> Forgery:
    """Edit one to five regions in a random order."""
    return edit_sequence(images, draw_sequences(seeds, 1, len(REGIONS)), seeds, points)


def flicker(clip: Tensor, seed: int, points: Tensor | None = None) -> Forgery:
    """A face that jumps from frame to frame in colour, place and sharpness; its mean over the clip stays.

    Args:
        clip: Frames of one face, (T, 3, H, W) in [0, 1].
        seed: Seed of the clip.
        points: Eyes, tip of the nose, corners of the mouth in pixels, (T, 5, 2).

    Returns:
        The frames, one mask for each, and for each frame what was done to it.
    """
    points = _points(clip, points)
    frames = len(clip)
    unit = clip.shape[-1] / 112
    seeds = item_seeds(seed, range(frames), "flicker")
    same = item_seeds(seed, [0] * frames, "flicker mask")  # the mask's shape stays, its place follows the points
    mask = _mask(clip, same, points, "face", (1.5, 4.0))

    def jumps(name: str, reach: float, count: int) -> Tensor:
        drawn = _vector(seeds, name, reach, count)
        return drawn - drawn.mean(dim=0)

    shift, contrast = jumps("colour", 0.045, 3), jumps("contrast", 0.10, 1)[:, 0].exp()
    move, amount = unit * jumps("move", 1.2, 2), jumps("sharpness", 0.7, 1)[:, 0]
    source = ops.recolour(clip, mask, shift=shift, contrast=contrast)
    source = ops.sharpness(source, torch.where(amount < 0, amount * unit, amount))
    still = torch.ones(frames)
    source = ops.warp(source, ops.about(ops.mean_point(points), scale=still, degrees=0 * still, shift=move))
    steps = _steps("flicker", colour=shift, contrast=contrast, move=move, sharpness=amount)
    return Forgery(ops.blend(clip, source, mask), mask, steps)


ALONE: dict[str, Callable[[Tensor, Seeds, Tensor | None], Forgery]] = {
    "self-blend": self_blend,
    "re-synthesis": resynthesise,
    "region-edit": region_edit,
    "edit-sequence": random_sequence,
}
"""Kinds that need nothing but the face itself; "swap" needs a donor as well, "flicker" a clip."""
