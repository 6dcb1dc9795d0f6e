# SPDX-License-Identifier: Apache-2.0
"""What a procedural person looks like: the tables of factors, and how they are drawn.

Lengths are in head units: half the height of the head is 1, its centre is (0, 0), x points right, y points down.
The ranges are ours: chosen so that contact sheets look like people and neighbouring values can be told apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.data.draws import Floats, Seeds, bell, between, item_seeds, uniforms
from mien.errors import BadInput, unknown_name

EXPRESSIONS = ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise")
"""Names of the values of the factor `expression`, in order."""

MODALITIES = ("visible", "near-infrared", "sketch")

Spread = Literal["uniform", "bell"]
Ranges = dict[str, tuple[float, float, Spread]]

IDENTITY: Ranges = {
    "face_width": (0.64, 0.82, "bell"),  # half-width of the skull
    "jaw": (-0.16, 0.14, "uniform"),  # how much wider (or narrower) the jaw is than an ellipse
    "cheek": (-0.02, 0.07, "uniform"),
    "chin": (0.98, 1.12, "bell"),  # length of the lower face
    "asymmetry": (-0.05, 0.05, "bell"),
    "eye_distance": (0.28, 0.355, "uniform"),  # half the distance between the eyes' centres
    "eye_height": (-0.08, 0.04, "uniform"),
    "eye_width": (0.125, 0.175, "uniform"),
    "eye_opening": (0.058, 0.095, "uniform"),
    "eye_slant": (-0.12, 0.22, "bell"),
    "eyelid": (0.0, 1.0, "uniform"),  # strength of the crease above the eye
    "iris": (0.070, 0.086, "uniform"),
    "brow_gap": (0.165, 0.235, "uniform"),
    "brow_width": (0.15, 0.21, "uniform"),
    "brow_thickness": (0.014, 0.042, "uniform"),
    "brow_arch": (0.00, 0.07, "uniform"),
    "brow_slope": (-0.10, 0.20, "bell"),
    "nose_length": (0.33, 0.47, "uniform"),
    "nose_width": (0.09, 0.18, "uniform"),
    "nose_height": (0.5, 1.1, "uniform"),
    "mouth_gap": (0.19, 0.28, "uniform"),  # from the base of the nose to the mouth
    "mouth_width": (0.17, 0.25, "uniform"),
    "lip_upper": (0.032, 0.066, "uniform"),
    "lip_lower": (0.044, 0.090, "uniform"),
    "ear": (0.07, 0.13, "uniform"),
    "skin_tone": (0.0, 1.0, "uniform"),  # 0 lightest, 1 darkest
    "undertone": (-1.0, 1.0, "bell"),  # cool to warm
    "blush": (0.0, 1.0, "uniform"),
    "age": (0.0, 1.0, "uniform"),
    "freckles": (-1.2, 1.0, "uniform"),  # none below 0
    "beard": (-1.6, 1.0, "uniform"),  # none below 0
    "make_up": (-0.8, 1.0, "uniform"),  # none below 0
    "hair_dark": (0.0, 1.0, "uniform"),
    "hair_red": (-1.6, 1.0, "uniform"),  # red above 0.55
    "iris_colour": (0.0, 1.0, "uniform"),
    "hair_line": (-0.80, -0.52, "uniform"),
    "hair_part": (-0.45, 0.45, "uniform"),
    "hair_fringe": (-0.5, 0.30, "uniform"),  # how far hair falls into the forehead; none below 0
    "hair_volume": (0.05, 0.24, "uniform"),
    "hair_length": (-0.5, 1.5, "uniform"),  # where it ends: -0.5 cropped, 0.6 at the chin, 1.5 on the shoulders
    "hair_curl": (0.0, 1.0, "uniform"),
    "neck": (0.36, 0.50, "uniform"),
}
"""Factors of an identity: name -> lowest value, highest value, spread."""

IMAGE: Ranges = {
    "intensity": (0.55, 1.0, "uniform"),  # of the expression
    "blink": (0.8, 1.05, "uniform"),  # how far the eyes are open
    "gaze_x": (-1.0, 1.0, "bell"),  # -1 far left, 1 far right, in the image
    "gaze_y": (-0.7, 0.7, "bell"),
    "yaw": (-38.0, 38.0, "bell"),  # degrees; positive looks to the right of the image
    "pitch": (-20.0, 20.0, "bell"),  # positive looks down
    "roll": (-14.0, 14.0, "bell"),  # positive is clockwise
    "zoom": (0.76, 0.90, "bell"),  # head's half-height over the image's half-height
    "shift_x": (-0.10, 0.10, "bell"),  # centre of the head, in half images
    "shift_y": (-0.06, 0.10, "bell"),
    "hair_ruffle": (-0.05, 0.05, "bell"),  # the day's change of hair line and volume
    "clothes": (0.0, 1.0, "uniform"),  # cut of the collar
    "clothes_pattern": (-0.5, 1.0, "uniform"),  # contrast of the stripes; none below 0
    "light_x": (-1.0, 1.0, "uniform"),  # where the light stands: left to right
    "light_y": (-0.9, 0.3, "uniform"),  # above to below
    "ambient": (0.42, 0.82, "uniform"),  # share of light that comes from everywhere
    "gain": (0.65, 1.25, "uniform"),
    "contrast": (0.85, 1.15, "uniform"),
    "warmth": (-1.0, 1.0, "uniform"),  # colour of the light and the camera: blue to orange
    "tint": (-1.0, 1.0, "uniform"),  # green to magenta
    "blur": (0.0, 0.75, "uniform"),  # standard deviation in pixels of a 64-pixel image
    "noise": (0.003, 0.018, "uniform"),  # standard deviation of the sensor's noise
    "vignette": (0.0, 0.35, "uniform"),
}
"""Factors of one picture: name -> lowest value, highest value, spread."""

Values = dict[str, Floats]


@dataclass(frozen=True)
class Identities:
    """Procedural people.

    Args:
        seeds: Seed of each person's fine details (moles, skin and hair texture), shape (K,).
        values: Each factor of `IDENTITY`, shape (K,).
    """

    seeds: Seeds
    values: Values

    def __len__(self) -> int:
        return len(self.seeds)

    def take(self, index: ArrayLike) -> Identities:
        """The people with these numbers, for instance one side of a split."""
        rows = np.asarray(index)
        return Identities(self.seeds[rows], {name: value[rows] for name, value in self.values.items()})


def _draw(seeds: Seeds, ranges: Ranges) -> Values:
    return {
        name: (bell if spread == "bell" else between)(seeds, name, low, high)
        for name, (low, high, spread) in ranges.items()
    }


def draw_identities(count: int, seed: int) -> Identities:
    """`count` people; person i is the same for every `count` above i."""
    if count < 1:
        raise BadInput(f"identities is {count}: at least 1 is needed")
    seeds = item_seeds(seed, np.arange(count), "identity")
    values = _draw(seeds, IDENTITY)
    # Fair hair, freckles and light eyes are rarer on darker skin, though not absent.
    tone = values["skin_tone"]
    values["hair_dark"] = values["hair_dark"] ** (1.15 - tone).clip(0.15, 1.0)
    values["freckles"] = values["freckles"] - 0.5 * tone
    values["iris_colour"] = values["iris_colour"] * (1.1 - tone).clip(0.1, 1.0)
    return Identities(seeds, values)


def draw_image_factors(
    people: Identities, index: NDArray[np.int64], seeds: Seeds, fixed: Mapping[str, ArrayLike]
) -> tuple[NDArray[np.int64], Values]:
    """The expression, and every other factor of the images, those of the identity included.

    Args:
        people: Who there is.
        index: Who is in each image, shape (N,).
        seeds: Seed of each image, shape (N,).
        fixed: Factors with given values, each a number or an array of shape (N,); `expression` takes names as well.

    Raises:
        BadInput: A name that is no factor, a value that is not finite, or a wrong shape.
    """
    expression = (uniforms(seeds, "expression")[:, 0] * len(EXPRESSIONS)).astype(np.int64)
    values = {name: value[index] for name, value in people.values.items()} | _draw(seeds, IMAGE)
    for name, given in fixed.items():
        if name == "expression":
            expression = _expressions(given, len(index))
            continue
        if name not in values:
            raise unknown_name("factor", name, [*values, "expression"])
        values[name] = _spread(name, np.asarray(given, dtype=np.float32), len(index))
        if not np.isfinite(values[name]).all():
            raise BadInput(f"factor {name} has a value that is not finite")
    return expression, values


def _expressions(given: ArrayLike, count: int) -> NDArray[np.int64]:
    names = np.asarray(given)
    if names.dtype.kind in "UO":
        for name in np.unique(names):
            if name not in EXPRESSIONS:
                raise unknown_name("expression", str(name), EXPRESSIONS)
        names = np.vectorize(EXPRESSIONS.index)(names)
    if names.size and (names.min() < 0 or names.max() >= len(EXPRESSIONS)):
        raise BadInput(f"expression is {names.min()} to {names.max()}: use 0 to {len(EXPRESSIONS) - 1}, or names")
    return _spread("expression", names.astype(np.int64), count)


def _spread(name: str, value: NDArray, count: int) -> NDArray:
    if value.shape not in ((), (1,), (count,)):
        raise BadInput(f"factor {name} has shape {value.shape}: give a number, or one for each of the {count} images")
    return np.broadcast_to(value, (count,)).copy()
