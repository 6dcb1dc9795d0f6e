# SPDX-License-Identifier: Apache-2.0
"""How a procedural person is painted: background, hair behind the head, clothes, face, hair over the face."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mien.data.draws import Floats, Seeds, normals, uniforms
from mien.data.people_face import Canvas, eyes_and_brows, lips, nose_mask, skin
from mien.data.people_factors import Values
from mien.data.people_geometry import Planes, locate
from mien.data.people_palette import Colours
from mien.data.people_shapes import clip01, length, over, sampled, soft, upsampled

# How each expression moves the face at full intensity, in head units; chosen by eye after the usual descriptions
# (Ekman and Friesen 1978): corners of the mouth up, mouth open, mouth wider, brows up, inner brows down, eyes open
# (a factor), cheeks and lower lids up.
_MOVES = ("smile", "mouth_open", "widen", "brow_raise", "brow_inner", "eye_open", "squint")
_EXPRESSION_MOVES = np.array(
    [
        [0.008, 0.000, 0.000, 0.000, 0.000, 1.00, 0.000],  # neutral
        [-0.020, 0.000, -0.01, -0.045, 0.060, 0.95, 0.010],  # anger
        [-0.025, 0.030, -0.02, -0.030, 0.030, 0.65, 0.020],  # disgust
        [-0.010, 0.060, 0.030, 0.055, -0.035, 1.35, 0.000],  # fear
        [0.075, 0.060, 0.060, 0.010, 0.000, 0.85, 0.022],  # happiness
        [-0.040, 0.000, -0.01, 0.010, -0.050, 0.78, 0.000],  # sadness
        [0.000, 0.130, -0.05, 0.085, -0.010, 1.45, 0.000],  # surprise
    ],
    dtype=np.float32,
)


def moved(values: Values, expression: NDArray[np.int64]) -> Planes:
    """The factors as planes (N, 1, 1), with what the expression does to the face."""
    neutral = _EXPRESSION_MOVES[0]
    moves = neutral + values["intensity"][:, None] * (_EXPRESSION_MOVES[expression] - neutral)
    everything = values | dict(zip(_MOVES, moves.T, strict=True))
    everything["mouth_y"] = values["nose_length"] + values["mouth_gap"]
    everything["mouth_half"] = values["mouth_width"] + everything["widen"]
    return {name: value[:, None, None] for name, value in everything.items()}


class Painter:
    """Paints one batch.

    Args:
        f: Factors as planes (`moved`).
        colours: What has which colour.
        people: Seed of each image's person, shape (N,): fine details that stay with the person.
        images: Seed of each image, shape (N,): what changes from picture to picture.
        size: Height and width in pixels.
    """

    def __init__(self, f: Planes, colours: Colours, people: Seeds, images: Seeds, size: int) -> None:
        head = locate(f, size)
        texture = normals(people, "texture", (64, 64))
        # Strands run from the parting outwards: fine across, long along.
        across, along = head.x - 0.5 * f["hair_part"], head.y + 1.2
        strands = sampled(texture, across / (0.7 + 0.5 * np.abs(along)) * 1.3, 0.22 * length(across, along))
        on_skin = sampled(texture, head.u * 0.9, head.v * 0.8)
        self.canvas = Canvas(f, colours, people, head, on_skin, strands)
        self.images, self.size = images, size

    def paint(self) -> tuple[Floats, dict[str, Floats]]:
        """The scene without the camera's faults, (N, 3, H, W), about 0 to 1, and region masks (N, H, W) in [0, 1]."""
        c = self.canvas
        image = self._background()
        hair = self._behind(image)
        outline = soft((1.0 - length(c.head.qx, c.head.qy)) * 0.75, c.head.scale)
        colour, light = skin(c)
        over(image, colour, outline)
        masks = eyes_and_brows(c, image, outline, light)
        masks["lips"] = lips(c, image, outline, light)
        masks["nose"] = nose_mask(c)
        front = self._front_hair(image, outline, light)
        uncovered = outline * (1.0 - front)
        masks = {name: mask * uncovered for name, mask in masks.items()}
        return image, masks | {"face": uncovered, "hair": clip01(hair * (1.0 - outline) + front)}

    def _background(self) -> Floats:
        noise = normals(self.images, "background", (75 + 256,))
        grey, red, blue = np.split(noise[:, :75].reshape(-1, 3, 5, 5), 3, axis=1)
        coarse = 0.12 * grey + 0.05 * np.concatenate((red, np.zeros_like(red), blue), axis=1)
        image = upsampled(coarse, self.size) + self.canvas.colours.background
        image += np.float32(0.025) * upsampled(noise[:, 75:].reshape(-1, 1, 16, 16), self.size)
        axis = (np.arange(self.size, dtype=np.float32) / self.size)[None, None, :]
        for bar in ("bar a", "bar b"):  # door frames and shelves
            place, width, strength, kind = uniforms(self.images, bar, 4).T[:, :, None, None]
            alpha = clip01(8 * (0.22 * width - np.abs(axis - place)) + 0.5) * (strength - 0.5) * 0.5
            image += np.where(kind < 0.6, alpha, alpha.transpose(0, 2, 1))[:, None]
        return np.clip(image, 0.0, 1.0, out=image)

    def _behind(self, image: Floats) -> Floats:
        """Hair behind the head, clothes, neck and ears. Gives the hair's mask."""
        c = self.canvas
        f, head, scale = c.f, c.head, c.head.scale
        taper = np.sqrt(clip01((f["hair_length"] - head.y) * 1.6))  # short hair lies close at its ends
        volume = (f["hair_volume"] + f["hair_ruffle"]) * taper
        wave = f["hair_curl"] * np.float32(0.05) * c.strands
        drop = np.where(head.y < 0, head.y, head.y * 0.35)
        radius = length(head.x / (f["face_width"] + volume), drop / (1.0 + volume))
        hair = soft((1.0 + wave - radius) * 0.6, scale) * soft((f["hair_length"] - head.y + wave) * 0.6, scale)
        over(image, c.colours.hair * (0.62 + 0.16 * c.strands)[:, None], hair)

        clothes = soft(head.y - 1.28 * f["chin"] - 0.30 * head.x * head.x + 0.10, scale)
        neck = soft(f["neck"] + 0.18 * clip01(head.y - 1.0) - np.abs(head.x), scale) * clip01((head.y - 0.3) * 4)
        stripes = np.sin(head.x * 14 + 3 * head.y) * np.maximum(f["clothes_pattern"], 0.0)
        folds = 0.85 + 0.10 * stripes + 0.07 * c.strands + 0.12 * f["light_x"] * head.x
        over(image, c.colours.clothes * folds[:, None], clothes)
        collar = soft((0.52 * f["clothes"] + 1.18) * f["chin"] - head.y - 0.8 * np.abs(head.x), scale)
        under_chin = np.clip(0.54 + 0.9 * (head.y - f["chin"]), 0.45, 0.9) - 0.10 * f["light_x"] * head.x
        over(image, c.colours.skin * under_chin[:, None], neck * np.maximum(collar, 1.0 - clothes))

        turn, nod = np.radians(f["yaw"]), np.radians(f["pitch"])
        for side in (-1.0, 1.0):
            x = head.x - side * (f["face_width"] * np.cos(turn) + 0.35 * f["ear"])
            reach = length(x / f["ear"], (head.y - 0.08 - 0.5 * np.sin(nod)) / 0.19)
            inner = 0.72 + 0.22 * np.clip(reach, 0.4, 1.0) + 0.10 * side * f["light_x"]
            over(image, c.colours.skin * inner[:, None], soft((1.0 - reach) * 0.12, scale))
        return hair

    def _front_hair(self, image: Floats, outline: Floats, light: Floats) -> Floats:
        """Hair that lies on the head: crown, fringe and temples. Gives its alpha."""
        c = self.canvas
        f, head, scale = c.f, c.head, c.head.scale
        from_part = np.abs(head.u - f["hair_part"])
        line = f["hair_line"] + f["hair_ruffle"] + np.maximum(f["hair_fringe"], 0) * clip01(1.1 - 1.2 * from_part)
        line = line + 0.42 * head.u * head.u + np.float32(0.03) * (c.strands + f["hair_curl"] * np.sin(9 * head.u))
        crown = soft((line - 0.10 * clip01(1.0 - 9 * from_part) - head.v) * 0.8, scale)
        temples = soft((0.30 + 0.25 * np.clip(f["hair_length"], 0, 0.5) - head.front) * 0.5, scale)
        temples *= soft(np.clip(f["hair_length"] + 0.35, 0.0, 0.7) - 0.1 - head.v, scale)
        front = np.maximum(crown, temples) * outline
        shade = np.clip(0.25 + 0.72 * light + 0.20 * c.strands, 0.2, 1.35)
        over(image, c.colours.hair * shade[:, None], front)
        return front
