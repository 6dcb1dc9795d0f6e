# SPDX-License-Identifier: Apache-2.0
"""Embedded procedural people, so that everything runs with nothing downloaded: faces with every factor known.

A person's factors (shape of the head, features, hair, skin, moles) stay; a picture's factors (expression, gaze, pose,
light, clothes, background, camera) change. Three modalities: visible, near-infrared, sketch.

    >>> people = sample_people(3, seed=0)
    >>> images, factors = render_faces(people, [0, 0, 2], seed=1, yaw=0.0, expression="happiness")
    >>> images.shape, factors.landmarks.shape, factors.masks["eyes"].shape
    ((3, 3, 64, 64), (3, 20, 2), (3, 64, 64))

The same (people, index, seed of the picture) gives the same pixels however the batch is cut. These faces show that code
works and that an effect can be measured where every cause is known; they say nothing about real faces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.data.draws import Floats, Seeds, item_seeds
from mien.data.people_camera import photograph, sketch
from mien.data.people_factors import EXPRESSIONS, MODALITIES, Identities, Values, draw_identities, draw_image_factors
from mien.data.people_geometry import LANDMARKS, landmarks
from mien.data.people_palette import near_infrared, visible
from mien.data.people_render import Painter, moved
from mien.errors import BadInput, unknown_name

__all__ = [
    "EXPRESSIONS",
    "LANDMARKS",
    "MODALITIES",
    "REGIONS",
    "FaceFactors",
    "Identities",
    "render_faces",
    "sample_people",
]

REGIONS = ("eyes", "brows", "nose", "lips", "hair", "face")
"""Names of the region masks; `face` is the visible oval of the face without the hair over it."""

_CHUNK = 32  # planes of 32 faces at 64 x 64 fit the caches of a core (measured: 4 and 64 are slower)


@dataclass(frozen=True)
class FaceFactors:
    """What is in each image.

    Args:
        identity: Number of the person, shape (N,).
        expression: Index into `EXPRESSIONS`, shape (N,).
        values: Every other factor by name (`people_factors.IDENTITY` and `IMAGE`), each of shape (N,).
        landmarks: Pixels, x right and y down, shape (N, 20, 2), in the order of `LANDMARKS`; the first five are the
            eyes' centres, the tip of the nose and the corners of the mouth. They may lie outside the image.
        masks: Each of `REGIONS`, shape (N, H, W), in [0, 1]; empty if masks were not asked for.
    """

    identity: NDArray[np.int64]
    expression: NDArray[np.int64]
    values: Values
    landmarks: Floats
    masks: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.identity)


def sample_people(identities: int, seed: int) -> Identities:
    """Draw people. The first ones do not change when more are asked for.

    Raises:
        BadInput: `identities` is below 1 or `seed` is negative.
    """
    return draw_identities(identities, seed)


def render_faces(
    identities: Identities,
    index: ArrayLike,
    seed: int | Seeds,
    *,
    size: int = 64,
    modality: str = "visible",
    masks: bool = True,
    **fixed: ArrayLike,
) -> tuple[Floats, FaceFactors]:
    """Photograph people.

    Args:
        identities: Who there is.
        index: Number of the person in each image, shape (N,).
        seed: Seed of the pictures (picture i then has the seed `item_seeds(seed, i)`), or one seed per picture, (N,).
        size: Height and width in pixels, 16 to 1024.
        modality: "visible", "near-infrared" or "sketch". The same seeds give the same scene in all three.
        masks: Whether to return region masks (they take as much memory as two images each).
        **fixed: Factors that are not drawn but given, a number or one per image; `expression` takes names as well.

    Returns:
        Images, shape (N, 3, H, W) in [0, 1] (three equal channels for near-infrared and sketch), and their factors.

    Raises:
        BadInput: An unknown factor, expression or modality, a person that does not exist, a size out of range.
    """
    people = np.asarray(index, dtype=np.int64)
    if people.ndim != 1:
        raise BadInput(f"index has shape {people.shape}: give one person's number per image")
    if people.size and (people.min() < 0 or people.max() >= len(identities)):
        raise BadInput(f"index has person {people.min()} to {people.max()}: there are {len(identities)}, from 0")
    if modality not in MODALITIES:
        raise unknown_name("modality", modality, MODALITIES)
    if not 16 <= size <= 1024:
        raise BadInput(f"size is {size}: use 16 to 1024")
    seeds = (
        item_seeds(seed, np.arange(len(people)), "picture") if isinstance(seed, int) else np.asarray(seed, np.uint64)
    )
    if seeds.shape != people.shape:
        raise BadInput(f"seed has shape {seeds.shape}: give a number, or one for each of the {len(people)} images")

    expression, values = draw_image_factors(identities, people, seeds, fixed)
    images = np.empty((len(people), 3, size, size), dtype=np.float32)
    points = np.empty((len(people), len(LANDMARKS), 2), dtype=np.float32)
    regions = {name: np.empty((len(people), size, size), dtype=np.float32) for name in REGIONS} if masks else {}
    step = max(1, _CHUNK * 64 * 64 // size**2)
    for start in range(0, len(people), step):
        rows = slice(start, start + step)
        part = {name: value[rows] for name, value in values.items()}
        if modality == "near-infrared":  # the lamp stands beside the lens
            part = part | {"light_x": 0.15 * part["light_x"], "light_y": 0.15 * part["light_y"] - 0.1}
        f = moved(part, expression[rows])
        colours = (near_infrared if modality == "near-infrared" else visible)(part, seeds[rows])
        painter = Painter(f, colours, identities.seeds[people[rows]], seeds[rows], size)
        scene, painted = painter.paint()
        if modality == "sketch":
            images[rows] = sketch(scene, seeds[rows], painted["face"], painted["hair"], painter.canvas.strands)
        else:
            images[rows] = photograph(scene, f, seeds[rows], infrared=modality == "near-infrared")
        points[rows] = landmarks(f, size)
        for name, plane in regions.items():
            plane[rows] = painted[name]
    return images, FaceFactors(people, expression, values, points, regions)
