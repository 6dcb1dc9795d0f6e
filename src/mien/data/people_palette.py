# SPDX-License-Identifier: Apache-2.0
"""Colours of procedural people, in visible light and in the near infrared. All values are sRGB-like, in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mien.data.draws import Floats, Seeds, uniforms
from mien.data.people_factors import Values

# From light to dark, read off the published swatches of the Monk skin tone scale and smoothed (7 of its 10 steps).
_SKIN = np.array(
    [
        [0.95, 0.82, 0.75], [0.91, 0.75, 0.65], [0.84, 0.66, 0.53], [0.73, 0.54, 0.41],
        [0.58, 0.41, 0.30], [0.44, 0.30, 0.22], [0.31, 0.21, 0.16],
    ],
    dtype=np.float32,
)  # fmt: skip
_HAIR = np.array(
    [[0.86, 0.72, 0.48], [0.66, 0.49, 0.30], [0.42, 0.28, 0.17], [0.23, 0.15, 0.10], [0.09, 0.07, 0.07]], np.float32
)
_IRIS = np.array(
    [[0.20, 0.11, 0.06], [0.36, 0.22, 0.11], [0.36, 0.38, 0.22], [0.33, 0.47, 0.58], [0.45, 0.58, 0.68]], np.float32
)


@dataclass(frozen=True)
class Colours:
    """Colour of each part, all (N, 3, 1, 1); `blush` says how much each channel loses where blood shines through."""

    skin: Floats
    hair: Floats
    brow: Floats
    lips: Floats
    iris: Floats
    white: Floats
    pupil: Floats
    lash: Floats
    mouth: Floats
    clothes: Floats
    background: Floats
    glare: Floats
    blush: Floats


def _ramp(table: Floats, position: Floats) -> Floats:
    """Colours (N, 3) along a table of anchors, position in [0, 1]."""
    place = np.clip(position, 0, 1) * np.float32(len(table) - 1)
    low = np.minimum(place.astype(np.int64), len(table) - 2)
    share = (place - low)[:, None]
    return table[low] * (1 - share) + table[low + 1] * share


def visible(values: Values, images: Seeds) -> Colours:
    """Colours in visible light."""
    column = {name: value[:, None] for name, value in values.items()}
    skin = _ramp(_SKIN, values["skin_tone"]) * (1 + 0.05 * column["undertone"] * np.array([0.4, 0.1, -1.0], np.float32))
    hair = _ramp(_HAIR, values["hair_dark"])
    red = np.maximum(column["hair_red"] - 0.55, 0) * np.clip(1.6 - 2 * column["hair_dark"], 0, 1)
    hair = hair + red * (np.array([0.62, 0.28, 0.12], np.float32) - hair)
    grey = np.clip(3.3 * (column["age"] - 0.72), 0, 0.9)
    hair = hair + grey * (np.float32(0.68) - hair)
    lips = skin * np.array([0.86, 0.62, 0.62], np.float32) + np.array([0.03, 0.0, 0.01], np.float32)
    made_up = np.maximum(column["make_up"], 0)
    lips = lips + 0.55 * made_up * (np.array([0.70, 0.14, 0.20], np.float32) * (0.6 + 0.4 * skin[:, :1]) - lips)
    clothes, background = (_surface(images, name) for name in ("clothes colour", "background colour"))
    return _colours(
        skin=skin, hair=hair, brow=hair * 0.72, lips=lips, iris=_ramp(_IRIS, values["iris_colour"]),
        white=[0.93, 0.91, 0.89], pupil=[0.03, 0.03, 0.03], lash=0.25 * hair + 0.03, mouth=[0.22, 0.07, 0.07],
        clothes=clothes, background=background, glare=[1.0, 1.0, 1.0], blush=[-0.4, 1.0, 0.8],
    )  # fmt: skip


def near_infrared(values: Values, images: Seeds) -> Colours:
    """Colours under a lamp of about 850 nm: melanin hardly absorbs, so skins are alike; rooms are dark."""
    skin = 0.78 - 0.13 * values["skin_tone"][:, None]
    hair = 0.50 - 0.26 * values["hair_dark"][:, None] + 0.2 * (values["age"][:, None] > 0.85)
    iris = 0.32 + 0.25 * values["iris_colour"][:, None]
    cloth, room = uniforms(images, "near-infrared", 2).T[:, :, None]
    return _colours(
        skin=skin, hair=hair, brow=hair * 0.8, lips=skin * 0.90, iris=iris, white=[0.74], pupil=[0.12], lash=[0.12],
        mouth=[0.16], clothes=0.2 + 0.55 * cloth, background=0.08 + 0.22 * room, glare=[1.0], blush=[0.0],
    )  # fmt: skip


def _surface(images: Seeds, name: str) -> Floats:
    """Any colour, more often pale than loud."""
    grey, *hue = uniforms(images, name, 5).T
    loud = 0.4 * hue[3] * hue[3] * hue[3]
    return np.clip((0.10 + 0.8 * grey)[:, None] + loud[:, None] * (np.stack(hue[:3], axis=1) - 0.5) * 2, 0.02, 0.98)


def _colours(**parts: Floats | list[float]) -> Colours:
    def plane(part: Floats | list[float]) -> Floats:
        colour = np.atleast_2d(np.asarray(part, dtype=np.float32))
        return np.broadcast_to(colour, (len(colour), 3))[:, :, None, None]

    return Colours(**{name: plane(part) for name, part in parts.items()})
