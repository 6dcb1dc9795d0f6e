# SPDX-License-Identifier: Apache-2.0
"""The painted face: skin that is lit as one relief, eyes and brows, lips. Numbers are head units, chosen by eye."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mien.data.draws import Floats, Seeds, uniforms
from mien.data.people_geometry import Head, Planes, nose_shift
from mien.data.people_palette import Colours
from mien.data.people_shapes import band, bump, clip01, length, over, soft


@dataclass(frozen=True)
class Canvas:
    """What every brush needs.

    Args:
        f: Factors as planes (N, 1, 1).
        colours: Colours of the parts.
        people: Seed of each image's person, shape (N,).
        head: Where each pixel lies.
        skin_texture: Noise that stays on the person's skin, (N, H, W), deviation about 1.
        strands: Noise along the hair, (N, H, W), deviation about 1.
    """

    f: Planes
    colours: Colours
    people: Seeds
    head: Head
    skin_texture: Floats
    strands: Floats

    def strip(self, top: Floats, bottom: Floats) -> tuple[slice, Canvas]:
        """Rows in which some head of the batch has a height v between `top` and `bottom`, and the canvas cut to them.

        Features whose alpha is exactly 0 elsewhere are drawn in a strip, which saves a third of the time.
        """
        near = (self.head.v > top - 0.6 / self.head.scale) & (self.head.v < bottom + 0.6 / self.head.scale)
        found = np.flatnonzero(near.any(axis=(0, 2)))
        rows = slice(found[0], found[-1] + 1) if len(found) else slice(0, 1)
        cut = self.skin_texture[:, rows], self.strands[:, rows]
        return rows, Canvas(self.f, self.colours, self.people, self.head.rows(rows), *cut)


@dataclass(frozen=True)
class _Nose:
    """The nose on the face: `side` is the distance from its ridge, `down` 0 at the root and 1 at the base."""

    side: Floats
    down: Floats
    tip: Floats


def _nose(c: Canvas) -> _Nose:
    f, head = c.f, c.head
    down = np.clip((head.v - f["eye_height"]) / (f["nose_length"] - f["eye_height"]), 0.0, 1.25)
    side = head.u - nose_shift(f) * down
    return _Nose(side, down, bump(side, head.v - f["nose_length"] + 0.06, f["nose_width"] * 0.42, 0.055))


def nose_mask(c: Canvas) -> Floats:
    """Bridge, tip and wings of the nose, (N, H, W)."""
    f, nose = c.f, _nose(c)
    across = nose.side / (f["nose_width"] * (0.45 + 0.75 * np.minimum(nose.down, 1.0)))
    long = f["nose_length"] - f["eye_height"]
    along = (c.head.v - 0.5 * (f["nose_length"] + f["eye_height"]) - 0.05) / (0.62 * long)
    return soft((1.0 - length(across, along)) * 0.15, c.head.scale)


def _relief(c: Canvas, nose: _Nose, cheeks: Floats) -> Floats:
    """Height of the face over the ball."""
    f, (u, v) = c.f, (c.head.u, c.head.v)
    au = np.abs(u)
    width = f["nose_width"] * (0.32 + 0.45 * np.minimum(nose.down, 1.0))
    bridge = (
        np.exp(-((nose.side / width) ** 2)) * clip01((1.08 - nose.down) * 7) * clip01((v - f["eye_height"] + 0.28) * 4)
    )
    wing = bump(np.abs(nose.side) - 0.72 * f["nose_width"], v - f["nose_length"] + 0.02, f["nose_width"] * 0.22, 0.035)
    sockets = bump(au - f["eye_distance"], v - f["eye_height"] + 0.03, f["eye_width"] * 0.62, 0.065)
    chin = bump(u, v - 0.86, 0.09, 0.055)
    dent = bump(u, v - f["mouth_y"] - f["lip_lower"] - f["mouth_open"] - 0.05, 0.10, 0.022)
    relief = (0.045 + 0.06 * nose.down) * f["nose_height"] * bridge + 0.05 * f["nose_height"] * nose.tip
    relief += 0.03 * wing - 0.055 * sockets + (0.03 + 0.6 * f["squint"]) * cheeks + 0.035 * chin - 0.02 * dent
    relief += np.float32(0.0016) * c.skin_texture  # pores and unevenness, for the light to play on
    return relief


def _lighting(c: Canvas, relief: Floats) -> tuple[Floats, Floats]:
    """Light on the skin (ambient and direct), and the direct part alone; 1 where a frontal light falls straight."""
    f, head = c.f, c.head
    gx, gy = np.zeros_like(relief), np.zeros_like(relief)
    gx[:, :, 1:-1] = relief[:, :, 2:] - relief[:, :, :-2]
    gy[:, 1:-1] = relief[:, 2:] - relief[:, :-2]
    half = 0.5 * head.scale
    nx, ny = 0.85 * head.qx - gx * half, 0.85 * head.qy - gy * half  # 0.85: heads are flatter than balls
    lx, ly = f["light_x"], f["light_y"]
    facing = nx * lx + ny * ly + head.qz + 0.08  # 0.08: light that wraps around
    direct = np.maximum(facing / np.sqrt(nx * nx + ny * ny + head.qz**2 + 0.02) / np.sqrt(lx * lx + ly * ly + 1.0), 0)
    return f["ambient"] * (0.88 + 0.12 * head.qz) + (1.05 - f["ambient"]) * direct, direct


def _stains(c: Canvas) -> Floats:
    """What lightens (above 0) or darkens (below 0) the skin by itself: mottling, freckles, age, moles, nostrils."""
    f, (u, v), texture = c.f, (c.head.u, c.head.v), c.skin_texture
    au = np.abs(u)
    stain = np.float32(0.018) * texture
    stain -= 0.16 * np.maximum(f["freckles"], 0) * clip01(texture - 0.9) * clip01(1.3 - 3 * np.abs(v - 0.2))
    stain -= (0.05 + 0.10 * f["age"]) * bump(au - f["eye_distance"] * 0.92, v - f["eye_height"] - 0.10, 0.06, 0.022)
    fold = au - 0.92 * f["nose_width"] - 0.35 * np.maximum(v - f["nose_length"], 0) - 0.02
    folds = band(fold, 22) * bump(fold, v - f["nose_length"] - 0.08, 0.1, 0.06)
    stain -= (0.03 + 0.14 * f["age"] + 2.2 * f["squint"]) * folds
    wrinkles = np.maximum(np.sin(v * 52 + 2 * u * u), 0) * bump(u, v + 0.42, 0.22, 0.07)
    stain -= (0.045 * np.maximum(f["age"] - 0.35, 0) + 0.6 * np.maximum(f["brow_raise"], 0)) * wrinkles
    for number in range(2):  # moles; some people have none
        x, y, width, there = uniforms(c.people, f"mole {number}", 4).T[:, :, None, None]
        reach = length(u - (x - 0.5), v - (1.15 * y - 0.4))
        stain -= 0.42 * (there < 0.5) * soft(0.014 + 0.018 * width - reach, c.head.scale)
    nostril = (np.abs(u - 0.9 * nose_shift(f)) - 0.45 * f["nose_width"]) * 0.6
    stain -= 0.5 * soft(0.021 - length(nostril, v - f["nose_length"] + 0.004), c.head.scale)
    return stain


def skin(c: Canvas) -> tuple[Floats, Floats]:
    """Skin and beard over the whole image, (N, 3, H, W), and the light that falls on it, (N, H, W)."""
    f, (u, v) = c.f, (c.head.u, c.head.v)
    au, nose = np.abs(u), _nose(c)
    cheeks = bump(au - 0.36, v - f["nose_length"] + 0.08, 0.10, 0.09)
    light, direct = _lighting(c, _relief(c, nose, cheeks))
    colour = c.colours.skin * (light * (1.0 + _stains(c)))[:, None]
    flush = (0.5 + 0.5 * f["blush"]) * cheeks + 0.5 * nose.tip
    shadow = np.clip(1.0 - light, -0.2, 0.7)
    blush = 0.10 * c.colours.blush
    for channel, redder in enumerate((0.06, -0.02, -0.05)):  # light that went through skin comes back redder
        colour[:, channel] *= 1.0 + redder * shadow - blush[:, channel] * flush
    shine = direct * direct * direct
    shine *= shine
    shine *= shine
    colour += (0.10 * shine * (0.5 + nose.tip))[:, None] * c.colours.glare

    jaw = clip01((v - f["nose_length"] - 0.02 + 0.5 * np.maximum(au - 0.4, 0)) * 9) * clip01((au + 1.3 * v - 0.72) * 5)
    jaw *= 1.0 - 0.7 * bump(u, v - f["mouth_y"] - 0.01, f["mouth_half"] * 0.5, 0.05)
    beard = np.maximum(f["beard"], 0) * jaw * clip01(0.72 + 0.3 * c.skin_texture)
    over(colour, c.colours.hair * (0.75 * light)[:, None], beard)
    return colour, light


def eyes_and_brows(whole: Canvas, image: Floats, outline: Floats, light: Floats) -> dict[str, Floats]:
    """Paint both eyes and brows at once: the plane is folded along the middle of the face. Gives their masks."""
    f, masks = whole.f, {name: np.zeros_like(outline) for name in ("eyes", "brows")}
    middle = f["eye_height"] - f["brow_gap"] - f["brow_raise"]
    rows, c = whole.strip(middle - 0.15, f["eye_height"] + 0.18)
    head, scale, image, outline, light = (
        c.head,
        c.head.scale,
        image[:, :, rows],
        outline[:, rows],
        clip01(light[:, rows]),
    )
    a = np.abs(head.u) - f["eye_distance"]  # outwards from the middle of the eye
    b = head.v - f["eye_height"] + f["eye_slant"] * a
    arc = 1.0 - (a / f["eye_width"]) ** 2
    upper = b + f["eye_opening"] * f["eye_open"] * f["blink"] * arc  # above 0: below the upper lid
    lower = (0.62 * f["eye_opening"] - f["squint"]) * arc - b
    eye = soft(np.minimum(upper, lower), scale) * outline
    white = 0.55 + 0.45 * light - 2.2 * np.maximum(0.03 - upper, 0)
    over(image, c.colours.white * white[:, None], eye)
    iris_u = head.u - np.sign(head.u) * f["eye_distance"] - 0.055 * f["gaze_x"]
    iris_v = head.v - f["eye_height"] - 0.035 * f["gaze_y"] + 0.006
    reach = length(iris_u, iris_v)
    rim = np.clip(1.15 - 0.5 * ((reach / f["iris"]) ** 2) ** 2 + 0.12 * c.strands, 0.35, 1.3)
    over(image, c.colours.iris * rim[:, None], eye * soft(f["iris"] - reach, scale))
    over(image, c.colours.pupil, eye * soft(0.42 * f["iris"] - reach, scale))
    glint = length(iris_u - 0.022 * np.sign(f["light_x"]), iris_v + 0.022)
    over(image, c.colours.glare, 0.85 * eye * soft(0.014 - glint, scale))

    lined = np.maximum(f["make_up"], 0)
    lash = clip01((0.010 + 0.012 * lined - np.abs(upper)) * scale + 0.35) * clip01(arc * 1.6 + 0.35) * (arc > -0.25)
    low_lash = 0.35 * clip01((0.008 - np.abs(lower)) * scale + 0.3) * (arc > 0)
    over(image, c.colours.lash, outline * np.maximum(lash * (0.65 + 0.35 * lined), low_lash))
    crease = band(upper + 0.045 + 0.02 * arc, 45) * clip01(arc * 2 + 0.3)
    shadow = 0.30 * f["eyelid"] * crease + 0.25 * lined * band(upper + 0.04, 20) * (arc > 0)
    image *= (1.0 - shadow * outline)[:, None]

    t = a / f["brow_width"]
    curve = middle + f["brow_arch"] * t * t - f["brow_slope"] * a + f["brow_inner"] * clip01(0.5 - 0.5 * t)
    thick = f["brow_thickness"] * np.clip(1.15 - 0.35 * t, 0, 1.4)
    brow = np.minimum(thick - np.abs(head.v - curve), f["brow_width"] - np.abs(a))
    hairs = np.clip(0.72 + 0.18 * c.skin_texture, 0.3, 1)
    over(image, c.colours.brow * (0.35 + 0.65 * light)[:, None], soft(brow, scale) * outline * hairs)
    masks["eyes"][:, rows] = soft(np.minimum(upper, lower) + 0.028, scale)  # with lids and lashes
    masks["brows"][:, rows] = soft(brow + 0.012, scale)
    return masks


def lips(whole: Canvas, image: Floats, outline: Floats, light: Floats) -> Floats:
    """Paint the mouth. Gives its mask, the open mouth included."""
    f, mask = whole.f, np.zeros_like(outline)
    rows, c = whole.strip(f["mouth_y"] - 0.22, f["mouth_y"] + 0.32)
    head, scale, image, outline, light = (
        c.head,
        c.head.scale,
        image[:, :, rows],
        outline[:, rows],
        clip01(light[:, rows]),
    )
    t = head.u / f["mouth_half"]
    arc = 1.0 - t * t
    line = head.v - f["mouth_y"] + f["smile"] * t * t  # below 0: above the line where the lips meet
    bow = 1.0 - 0.28 * bump(head.u, line, 0.035, 1.0)
    gap = f["mouth_open"] * arc
    top = line + f["lip_upper"] * np.maximum(arc, -1) * bow
    bottom = f["lip_lower"] * np.maximum(arc, -1) + gap - line
    lit = np.clip(light * (1.0 + 2.5 * np.clip(line, -0.06, 0.06)) + 0.02 * c.strands, 0, 1.2)
    colour = c.colours.lips * lit[:, None]
    gloss = 0.16 * bump(head.u, line - gap - 0.5 * f["lip_lower"], f["mouth_half"] * 0.25, 0.012)
    colour += gloss[:, None] * c.colours.glare
    over(image, colour, soft(np.minimum(top, bottom), scale) * outline * (0.75 + 0.25 * clip01(arc * 2)))
    hole = soft(np.minimum(line, gap - line), scale) * clip01(gap * 60) * outline
    over(image, c.colours.mouth, hole)
    teeth = soft(np.minimum(line, 0.62 * gap - line), scale) * clip01((0.82 - np.abs(t)) * 8)
    over(image, c.colours.white * (0.8 * light)[:, None], hole * teeth)
    seam = band(line, 55) * clip01(arc * 1.5) * (1.0 - clip01(gap * 30))
    image *= (1.0 - 0.55 * seam * outline)[:, None]
    mask[:, rows] = soft(np.minimum(top, bottom) + 0.01, scale)
    return mask
