# SPDX-License-Identifier: Apache-2.0
"""From a painted scene to a picture: the colour of the light, lens and sensor; or a pencil."""

from __future__ import annotations

import numpy as np

from mien.data.blur import gaussian_blur
from mien.data.draws import Floats, Seeds, normals
from mien.data.people_geometry import Planes


def _sensor_noise(seeds: Seeds, size: int) -> Floats:
    """Noise of deviation 1, (N, 3, H, W): partly shared by the three channels, as after demosaicing."""
    shared, colour = np.split(normals(seeds, "sensor", (2, size, size)), 2, axis=1)
    shared_part, colour = np.float32(0.8) * shared, np.float32(0.6) * colour
    return np.concatenate((shared_part + colour, shared, shared_part - colour), axis=1)


def photograph(scene: Floats, f: Planes, images: Seeds, *, infrared: bool = False) -> Floats:
    """A photograph of the scene.

    Args:
        scene: What was painted, (N, 3, H, W), about 0 to 1.
        f: Factors as planes (N, 1, 1): gain, vignette, warmth, tint, blur, contrast, noise.
        images: Seed of each image, shape (N,).
        infrared: One channel (three equal ones), and no colour of light.

    Returns:
        (N, 3, H, W) in [0, 1].
    """
    size = scene.shape[-1]
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    gain = f["gain"] * (1.0 - 0.5 * f["vignette"] * (axis[None, :, None] ** 2 + axis[None, None, :] ** 2))
    noise = _sensor_noise(images, size)
    image = scene * gain[:, None]
    if infrared:
        image, noise = image[:, 1:2], noise[:, 1:2]
    else:
        red = 1 + 0.14 * f["warmth"] + 0.05 * f["tint"]
        blue = 1 - 0.16 * f["warmth"] + 0.05 * f["tint"]
        image *= np.stack((red, 1 - 0.06 * f["tint"], blue), axis=1)
    image = gaussian_blur(image, f["blur"][:, 0, 0] * np.float32(size / 64))
    image -= 0.5
    image *= f["contrast"][:, None]
    image += 0.5
    image += f["noise"][:, None] * noise
    return np.repeat(np.clip(image, 0.0, 1.0, out=image), 3 if infrared else 1, axis=1)


def sketch(scene: Floats, images: Seeds, face: Floats, hair: Floats, strands: Floats) -> Floats:
    """A pencil drawing of the person without the background: lines, hatched shadows, paper.

    Args:
        scene: What was painted, (N, 3, H, W), about 0 to 1.
        images: Seed of each image, shape (N,).
        face: Mask of the face, (N, H, W) in [0, 1].
        hair: Mask of the hair, (N, H, W) in [0, 1].
        strands: Noise that bends the hatching, (N, H, W).

    Returns:
        (N, 3, H, W) in [0, 1], three equal channels.
    """
    size = scene.shape[-1]
    unit = np.float32(size / 64)

    def softened(plane: Floats, sigma: float) -> Floats:
        return gaussian_blur(plane, np.full(len(plane), sigma * unit, dtype=np.float32))

    person = np.clip(face + hair, 0.0, 1.0)[:, None]
    luma = (scene[:, 0] + scene[:, 1] + scene[:, 2])[:, None] * np.float32(1 / 3)
    grey = 1.0 + person * (np.clip(luma, 0.02, 1.0) - 1.0)
    lines = np.clip((grey + 0.05) / (softened(grey, 2.2) + 0.05), 0.0, 1.0) ** 2  # dark where darker than around
    edge = softened(face[:, None], 0.6)
    lines *= 1.0 - 2.4 * edge * (1.0 - edge)  # the outline of the face
    ramp = np.arange(size, dtype=np.float32) / unit
    hatching = 0.5 + 0.5 * np.sin(1.9 * (ramp[:, None] + ramp[None, :]) + 0.8 * strands)[:, None]
    shadow = np.clip(0.75 - grey, 0.0, 0.6) * person
    paper = np.float32(0.96) + np.float32(0.015) * normals(images, "paper", (1, size, size))
    return np.repeat(np.clip(paper * lines * (1.0 - 0.75 * shadow * (0.55 + 0.45 * hatching)), 0.0, 1.0), 3, axis=1)
