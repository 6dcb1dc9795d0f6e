# SPDX-License-Identifier: Apache-2.0
"""Clips made from single pictures: smooth sub-pixel motion, slow light, sensor noise.

Every frame is one warp of the picture, so that real and forged frames were resampled equally often and nothing but the
forgery tells them apart. Forgeries are made before the motion; "flicker" (`mien.data.forge.flicker`) is the one that
changes from frame to frame, so that single frames say little about it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from mien.data.draws import Seeds, between, item_seeds, normals, uniforms
from mien.data.forge import flicker
from mien.data.forge_pairs import KINDS, PairedForgeries, Perturbation
from mien.errors import BadInput
from mien.forensics.data import Faces, units_of

FLICKER = "flicker"
CLIP_KINDS = (*KINDS, FLICKER)
"""Kinds of forgery of clips that are made from stills."""

SHIFT, LIGHT, NOISE = 1.5, 0.03, (0.004, 0.012)
"""Reach of the motion in pixels, of the light as a share, and range of the noise's deviation. Chosen by eye to look
like a hand-held camera at 8 frames; the fastest wave makes 0.9 cycles in a clip.
"""


def smooth_path(seeds: Seeds, name: str, frames: int, reach: float, count: int = 1) -> Tensor:
    """Paths of `count` values over time, two slow waves each: (N, frames, count), within [-reach, reach]."""
    drawn = torch.from_numpy(uniforms(seeds, name, 6 * count)).view(len(seeds), 1, count, 2, 3)
    time = torch.arange(frames).view(1, frames, 1, 1) / max(frames, 1)
    amplitude, cycles, phase = (drawn + 0.0).unbind(dim=-1)
    waves = 0.5 * reach * amplitude * torch.sin(2 * math.pi * ((0.2 + 0.7 * cycles) * time + phase))
    return waves.sum(dim=-1)


def moved(images: Tensor, shift: Tensor, size: int) -> Tensor:
    """Squares of `size` pixels from the middle of images, each looked at from a place of its own; one bilinear warp.

    Args:
        images: (N, 3, H, W). Where the shorter side is at least `size` pixels nothing is scaled; smaller images are
            enlarged in the same warp.
        shift: Of the square's middle in pixels of the result, x and y, (N, 2).
        size: Side of the result.
    """
    height, width = images.shape[-2:]
    scale = min(1.0, min(height, width) / size)
    place = (torch.arange(size, device=images.device) + 0.5 - size / 2) * scale
    shift = shift.to(images.device) * scale
    x = (place[None] + shift[:, :1]) * (2 / width)
    y = (place[None] + shift[:, 1:]) * (2 / height)
    grid = torch.stack((x[:, None].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)), dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def still_clips(images: Tensor, frames: int, size: int) -> Tensor:
    """Clips of single pictures, all moved along the same fixed path: (B, 3, H, W) -> (B, frames, 3, size, size).

    The path ends where a frame has a place of its own; there is no noise, so that a picture's answer is repeatable.
    """
    path = smooth_path(item_seeds(0, [0], "still"), "motion", frames, SHIFT, 2)[0]
    clips = moved(images.repeat_interleave(frames, dim=0), path.repeat(len(images), 1), size)
    return clips.unflatten(0, (len(images), frames))


def camera(
    frames: Tensor,
    seed: int,
    size: int,
    middle: tuple[float, float] = (0.0, 0.0),
    *,
    reach: float = SHIFT,
    light: float = LIGHT,
) -> Tensor:
    """Film frames of a still scene: motion, light and noise that follow from the seed alone.

    Args:
        frames: (T, 3, H, W) in [0, 1], not moved yet.
        seed: Of the clip.
        size: Side of the result.
        middle: Where the camera looks, pixels from the middle of the frames.
        reach: Of the motion, in pixels.
        light: Reach of the light's drift, as a share.

    Returns:
        (T, 3, size, size) in [0, 1].
    """
    seeds = item_seeds(seed, [0], "camera")
    shift = smooth_path(seeds, "motion", len(frames), reach, 2)[0] + torch.tensor(middle)
    gain = 1 + smooth_path(seeds, "light", len(frames), light)[0]
    clip = moved(frames, shift, size) * gain[:, :, None, None]
    deviation = float(between(seeds, "noise", *NOISE)[0])
    return (clip + deviation * torch.from_numpy(normals(seeds, "grain", tuple(clip.shape)))[0]).clamp_(0, 1)


class StillClips(Dataset[Faces]):
    """Clips of real faces and of the forgeries made from them, filmed when asked for.

    A unit is what one person's faces of one kind make up, as in `mien.forensics.data.ForgedFrames`.

    Args:
        faces: uint8 (N, 3, H, W).
        people: Whose face each is.
        size: Side of the frames. Where the faces are larger, a window is filmed and nothing is scaled.
        frames: Frames of a clip.
        kinds: Of `CLIP_KINDS`.
        seed: Of the forgeries, and in testing of the motion; a face and its forgeries are then filmed alike.
        training: New motion, light and noise, random windows and mirroring at every look; else always the same.
        per_unit: Clips per unit.
        attributes: What is known about who is seen in each face.
        donors: Name of the set from which each face's donors for a swap come; by default all faces are one set.
    """

    def __init__(
        self,
        faces: Tensor,
        people: Sequence[str],
        size: int,
        frames: int,
        *,
        kinds: Sequence[str] = CLIP_KINDS,
        seed: int = 0,
        training: bool = False,
        per_unit: int = 12,
        attributes: Sequence[Mapping[str, str]] = (),
        donors: Sequence[str] | None = None,
    ) -> None:
        if frames < 1 or size < 1:
            raise BadInput(f"frames is {frames}, size is {size}: both must be at least 1")
        still = [kind for kind in kinds if kind != FLICKER]
        pairs = PairedForgeries(
            faces, people, kinds=still, seed=seed, splits=donors, perturbation=Perturbation(jpeg=None)
        )
        made = pairs.arrays()
        assert isinstance(made.item, Tensor)
        self.image, self.size, self.frames, self.seed = made.image, size, frames, seed
        self.training, self.seeded = training, training
        rows, names = list(range(len(made.image))), list(made.kind)
        reals = [row for row, kind in enumerate(names) if kind == "real"]
        self.rows = [*rows, *(reals if FLICKER in kinds else [])]
        self.kinds = [*names, *[FLICKER] * (len(self.rows) - len(rows))]
        self.items = [int(made.item[row]) for row in self.rows]
        self.groups = [made.group[row] for row in self.rows]
        self.label = torch.tensor([int(kind != "real") for kind in self.kinds])
        self.units = units_of(self.groups, self.kinds, per_unit)
        self.attributes = [attributes[i] for i in self.items] if len(attributes) else []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Faces:
        item, kind = self.items[index], self.kinds[index]
        scene = (self.image[self.rows[index]].float() / 255).expand(self.frames, -1, -1, -1)
        if kind == FLICKER:
            scene = flicker(scene, int(item_seeds(self.seed, [item], FLICKER)[0] >> np.uint64(33))).image
        seed, middle = int(item_seeds(self.seed, [item], "film")[0] >> np.uint64(33)), (0.0, 0.0)
        if self.training:
            seed = int(torch.randint(2**31, ()))
            spare = [max(side - self.size, 0) for side in (scene.shape[-1], scene.shape[-2])]
            x, y = ((torch.rand(2) - 0.5) * torch.tensor(spare)).tolist()
            middle = (x, y)
        clip = camera(scene, seed, self.size, middle)
        if self.training and torch.rand(()) < 0.5:
            clip = clip.flip(-1)
        known: Any = self.attributes[index] if self.attributes else {}
        label = int(self.label[index])
        return Faces(clip, label, self.groups[index], kind, "", None, self.units[index], known)
