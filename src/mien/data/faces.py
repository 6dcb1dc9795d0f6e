# SPDX-License-Identifier: Apache-2.0
"""Faces in whole photographs: found, aligned, cropped. The one place where this is done.

Finding is the work of `mien.data.detection` and needs the extra `face`; aligning and cropping at known places does not.
Coordinates are pixels of the image that was given, x to the right and y down; pixel i covers [i, i + 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mien.data.detection import LANDMARKS, Box, FaceFinder, FoundFace, Points, check_image, find_faces
from mien.data.images import resize_tensor
from mien.errors import BadInput, unknown_name

__all__ = [
    "Crop",
    "FaceFinder",
    "FoundFace",
    "align",
    "crop",
    "crop_box",
    "crop_clip",
    "find_faces",
    "is_aligned",
    "similarity",
    "stabilised_box",
    "warp",
]

# Where eyes and mouth lie in an aligned 112 x 112 face as recognition sets publish it (ArcFace, Deng et al. 2019, with
# the middle of the mouth's corners). The nose tip is left out: this detector sees it about 4 pixels lower.
TEMPLATE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.1396, 92.2848))
TEMPLATE_LANDMARKS = (0, 1, 3)


def similarity(source: Sequence[Sequence[float]], target: Sequence[Sequence[float]]) -> np.ndarray:
    """The rotation, scale and shift that takes `source` nearest to `target` in the least-squares sense.

    With points as complex numbers z and w, the map z -> a z + b has the closed solution
    a = sum conj(z - mean z) (w - mean w) / sum |z - mean z|^2,  b = mean w - a mean z
    (the plane's case of Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
    1991; a mirror image cannot come out).

    Args:
        source: N points (x, y), N >= 2, not all the same.
        target: N points (x, y).

    Returns:
        Matrix (2, 3), float64: target = M @ (x, y, 1).

    Raises:
        BadInput: Fewer than two points, different numbers, or all points the same.
    """
    z, w = (np.asarray(points, np.float64) @ np.array([1, 1j]) for points in (source, target))
    if len(z) != len(w) or len(z) < 2:
        raise BadInput(f"{len(z)} and {len(w)} points: two lists of the same length, at least 2, are needed")
    centred = z - z.mean()
    power = float((np.abs(centred) ** 2).sum())
    if power == 0:
        raise BadInput("all landmarks are the same point")
    a = (centred.conj() * (w - w.mean())).sum() / power
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def warp(image: Tensor, matrix: np.ndarray, size: int) -> Tensor:
    """Draw the image through a similarity transform onto a square.

    Where the transform shrinks, the image is first resized with antialiasing, so that fine texture does not alias into
    something that looks like a trace of forgery. What lies outside the image repeats its border.

    Args:
        image: (3, H, W) in [0, 1].
        matrix: (2, 3), pixels of `image` to pixels of the result.
        size: Side of the result.

    Returns:
        (3, size, size) in [0, 1].
    """
    scale = math.hypot(matrix[0, 0], matrix[1, 0])
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    corners = inverse @ np.array([[0, size, 0, size], [0, 0, size, size], [1, 1, 1, 1]])
    height, width = image.shape[-2:]
    # Only the part that is drawn, and a rim for the filters.
    rim = 4 + 4 / scale
    left, top = (int(np.clip(math.floor(corners[i].min() - rim), 0, n - 1)) for i, n in ((0, width), (1, height)))
    right = int(np.clip(math.ceil(corners[0].max() + rim), left + 1, width))
    bottom = int(np.clip(math.ceil(corners[1].max() + rim), top + 1, height))
    part = image[:, top:bottom, left:right].float()
    if scale < 1:
        part = resize_tensor(part, (max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale))))
    across, down = part.shape[-1] / (right - left), part.shape[-2] / (bottom - top)
    # grid_sample wants, for each pixel of the result, its place in the part in units of [-1, 1].
    to_part = np.array([[across, 0, -left * across], [0, down, -top * down]])
    to_unit = np.array([[2 / part.shape[-1], 0, -1], [0, 2 / part.shape[-2], -1]])
    from_unit = np.array([[size / 2, 0, size / 2], [0, size / 2, size / 2], [0, 0, 1]])
    chain = to_unit @ np.vstack([to_part @ inverse @ from_unit, [0, 0, 1]])
    grid = F.affine_grid(torch.from_numpy(chain).to(part)[None], [1, 3, size, size], align_corners=False)
    drawn = F.grid_sample(part[None], grid, mode="bicubic", padding_mode="border", align_corners=False)
    return drawn[0].clamp(0, 1)


def _check_crop(size: int, margin: float) -> None:
    if size < 1 or not -0.4 < margin < 4:
        raise BadInput(f"size is {size}, margin is {margin}: size must be at least 1, margin between -0.4 and 4")


def align(image: Tensor, landmarks: Points, size: int = 224, margin: float = 0.0) -> Tensor:
    """The face upright, eyes and mouth at fixed places.

    Args:
        image: (3, H, W) in [0, 1].
        landmarks: As of a `FoundFace`.
        size: Side of the result; 112 with no margin is the framing of face recognition sets.
        margin: What to show more on each side, as a share of that framing's side (0.25 shows 1.5 times as much).

    Returns:
        (3, size, size) in [0, 1].

    Raises:
        BadInput: Wrong shapes, or landmarks that coincide.
    """
    check_image(image)
    _check_crop(size, margin)
    if len(landmarks) != len(LANDMARKS):
        raise BadInput(f"{len(landmarks)} landmarks: {len(LANDMARKS)} are needed ({', '.join(LANDMARKS)})")
    target = [[(value / 112 + margin) / (1 + 2 * margin) * size for value in point] for point in TEMPLATE]
    return warp(image, similarity([landmarks[i] for i in TEMPLATE_LANDMARKS], target), size)


def crop_box(image: Tensor, box: Box, size: int = 224, margin: float = 0.0) -> Tensor:
    """The square around a box's centre, not turned: (3, size, size) in [0, 1].

    Args:
        image: (3, H, W) in [0, 1].
        box: (left, top, right, bottom); its longer side counts.
        size: Side of the result.
        margin: What to show more on each side, as a share of the box's side.

    Raises:
        BadInput: Wrong shapes, or an empty box.
    """
    check_image(image)
    _check_crop(size, margin)
    side = max(box[2] - box[0], box[3] - box[1]) * (1 + 2 * margin)
    if not side > 0:
        raise BadInput(f"box {box} is empty")
    scale = size / side
    x, y = (box[0] + box[2]) / 2 - side / 2, (box[1] + box[3]) / 2 - side / 2
    return warp(image, np.array([[scale, 0, -x * scale], [0, scale, -y * scale]]), size)


def stabilised_box(boxes: Sequence[Box | None]) -> Box | None:
    """One square box for a clip: medians of the centres and of the sides; None where no frame has a box.

    Frames cropped by their own boxes would jitter, and the jitter would be a trace in time of its own.
    """
    found = np.array([box for box in boxes if box is not None], np.float64)
    if not len(found):
        return None
    x, y = np.median((found[:, :2] + found[:, 2:]) / 2, axis=0).tolist()
    half = float(np.median((found[:, 2:] - found[:, :2]).max(axis=1))) / 2
    return (x - half, y - half, x + half, y + half)


@dataclass(frozen=True)
class Crop:
    """What became of one image.

    Args:
        status: "as is" (cropping is off), "aligned already", "cropped" or "no face".
        image: (3, size, size) if cropped, the image itself if not, None with "no face".
        face: The face that was taken, the largest; None if none was looked for or found.
        faces: How many were found.
    """

    status: Literal["as is", "aligned already", "cropped", "no face"]
    image: Tensor | None
    face: FoundFace | None = None
    faces: int = 0


def is_aligned(face: FoundFace, height: int, width: int) -> bool:
    """Whether an image of this size is a face crop already rather than a photograph with a face in it.

    The rule: the image is nearly square (longer side at most 1.25 times the shorter), the face's box takes at least
    45 % of the longer side, its middle is within 20 % of the image's side from the middle, and the eyes are level
    within 15 degrees. Aligned crops of the common sets fulfil it (boxes of 68-92 %); portraits with shoulders do not.
    """
    longer, shorter = max(height, width), min(height, width)
    x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
    (right_x, right_y), (left_x, left_y) = face.landmarks[:2]
    return (
        longer <= 1.25 * shorter
        and face.side >= 0.45 * longer
        and max(abs(x - width / 2), abs(y - height / 2)) <= 0.2 * longer
        and abs(math.degrees(math.atan2(left_y - right_y, left_x - right_x))) <= 15
    )


def _check_mode(mode: str) -> None:
    if mode not in ("auto", "none"):
        raise unknown_name("crop", mode, ("auto", "none"))


def crop(
    image: Tensor, mode: str = "auto", *, finder: FaceFinder | None = None, size: int = 224, margin: float = 0.25
) -> Crop:
    """The face of an image, ready for a method that takes aligned faces.

    Args:
        image: (3, H, W) in [0, 1].
        mode: "none" hands the image through. "auto" finds the largest face and aligns it; an image that is an aligned
            crop already (`is_aligned`) is handed through unchanged, since a second resampling would blur its traces.
        finder: Hand the same one in for many images.
        size: Side of the aligned face; what is handed through keeps its size.
        margin: As in `align`.

    Raises:
        MissingExtra: With "auto", without the extra `face`.
        BadInput: Another mode, wrong shapes.
    """
    return crop_clip([image], mode, finder=finder, size=size, margin=margin)[0]


def crop_clip(
    frames: Sequence[Tensor],
    mode: str = "auto",
    *,
    finder: FaceFinder | None = None,
    size: int = 224,
    margin: float = 0.25,
) -> list[Crop]:
    """`crop` for the frames of one clip, all of one size: every frame is cut by the same box, none is turned.

    The box is the median over the frames in which a face was found, so a frame without one is cropped too. If the
    faces of at least half of those frames are aligned already, all frames are handed through. A clip of one frame is a
    photograph, and its face is turned upright.
    """
    _check_mode(mode)
    _check_crop(size, margin)
    for frame in frames:
        check_image(frame)
    if mode == "none":
        return [Crop("as is", frame) for frame in frames]
    finder = finder or FaceFinder()
    found = [finder(frame) for frame in frames]
    largest = [faces[0] if faces else None for faces in found]
    ready = [is_aligned(face, *frames[i].shape[-2:]) for i, face in enumerate(largest) if face is not None]
    box = stabilised_box([face.box if face else None for face in largest])
    crops: list[Crop] = []
    for frame, face, faces in zip(frames, largest, found, strict=True):
        if box is None:
            crops.append(Crop("no face", None))
        elif 2 * sum(ready) >= len(ready):
            crops.append(Crop("aligned already", frame, face, len(faces)))
        elif len(frames) == 1 and face is not None:
            crops.append(Crop("cropped", align(frame, face.landmarks, size, margin), face, len(faces)))
        else:
            crops.append(Crop("cropped", crop_box(frame, box, size, margin), face, len(faces)))
    return crops
