# SPDX-License-Identifier: Apache-2.0
"""From pixels to places on the head and back.

The head's outline maps to the unit disc, the disc is lifted to a half ball, and the ball is turned by yaw and pitch:
features that are drawn on the turned ball shift and foreshorten as on a head. Roll, zoom and shift act in the image.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from mien.data.draws import Floats

LANDMARKS = (
    "left_eye", "right_eye", "nose_tip", "mouth_left", "mouth_right",
    "left_eye_outer", "left_eye_inner", "right_eye_inner", "right_eye_outer",
    "left_brow_outer", "left_brow_inner", "right_brow_inner", "right_brow_outer",
    "nose_root", "nostril_left", "nostril_right", "lip_top", "lip_bottom", "chin", "forehead",
)  # fmt: skip
"""Names of the landmarks, in order; left and right are those of the image. The first five are the usual five."""

Planes = dict[str, Floats]  # factors as (N, 1, 1), ready to be combined with planes of pixels


@dataclass(frozen=True)
class Head:
    """Where each pixel lies. All planes have shape (N, H, W).

    Args:
        x: Place in the plane of the image, in head units, roll, zoom and shift undone.
        y: The same, downwards.
        qx: The head's outline as the unit disc.
        qy: The same, downwards.
        qz: Height of the half ball over the disc, 0 outside it.
        u: Place on the face in head units, pose undone.
        v: The same, downwards.
        front: Depth on the turned ball: 1 at the tip of the face, 0 at the ears, below 0 behind.
        scale: Pixels per head unit, (N, 1, 1).
    """

    x: Floats
    y: Floats
    qx: Floats
    qy: Floats
    qz: Floats
    u: Floats
    v: Floats
    front: Floats
    scale: Floats

    def rows(self, rows: slice) -> Head:
        """The same heads, seen through a strip of the image."""
        planes = {f.name: getattr(self, f.name)[:, rows] for f in fields(self) if f.name != "scale"}
        return Head(**planes, scale=self.scale)


def _profile(f: Planes, y: Floats) -> Floats:
    """Half-width of the head at height `y`, before the rounding of the disc."""
    low = np.clip(y, 0.0, 1.1)
    return f["face_width"] * (1.0 + f["jaw"] * low * low + f["cheek"] * np.maximum(1.0 - 6.0 * (low - 0.3) ** 2, 0.0))


def _turns(f: Planes) -> tuple[Floats, Floats, Floats, Floats, Floats, Floats]:
    yaw, pitch, roll = (np.radians(f[name]) for name in ("yaw", "pitch", "roll"))
    return np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)


def locate(f: Planes, size: int) -> Head:
    """Where each pixel of images of `size` x `size` pixels lies on heads with the factors `f`."""
    cy, sy, cp, sp, cr, sr = _turns(f)
    axis = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(2 / size) - 1
    dx = (axis[None, None, :] - f["shift_x"]) / f["zoom"]
    dy = (axis[None, :, None] - f["shift_y"]) / f["zoom"]
    x = cr * dx + sr * dy
    y = cr * dy - sr * dx
    x += f["asymmetry"] * y * y  # a slightly bent face
    qy = np.where(y > 0, y / f["chin"], y)
    qx = x / _profile(f, qy)
    qz = np.sqrt(np.maximum(1.0 - qx * qx - qy * qy, 0.0))
    v = qy * cp - qz * sp
    z = qy * sp + qz * cp
    u = (qx * cy - z * sy) * f["face_width"]
    front = qx * sy + z * cy
    return Head(x, y, qx, qy, qz, u, v, front, f["zoom"] * np.float32(size / 2))


def _places(f: Planes, pose_shift: Floats) -> list[tuple[Floats, Floats]]:
    """Landmarks on the face, (u, v) in the order of `LANDMARKS`; `pose_shift` moves the tip of the nose sideways."""
    ex, ey, ew, slant = f["eye_distance"], f["eye_height"], f["eye_width"], f["eye_slant"]
    inner, outer, lift = ex - ew, ex + ew, slant * ew
    by, bw, bs = ey - f["brow_gap"] - f["brow_raise"], f["brow_width"], f["brow_slope"] * f["brow_width"]
    ny, nw = f["nose_length"], f["nose_width"]
    my, mw, smile = f["mouth_y"], f["mouth_half"], f["smile"]
    zero = np.zeros_like(ex)
    return [
        (-ex, ey), (ex, ey), (pose_shift, ny - 0.05), (-mw, my - smile), (mw, my - smile),
        (-outer, ey - lift), (-inner, ey + lift), (inner, ey + lift), (outer, ey - lift),
        (-ex - bw, by - bs + f["brow_arch"]), (bw - ex, by + bs + f["brow_inner"] + f["brow_arch"]),
        (ex - bw, by + bs + f["brow_inner"] + f["brow_arch"]), (ex + bw, by - bs + f["brow_arch"]),
        (pose_shift * 0.1, ey), (0.6 * pose_shift - nw, ny), (0.6 * pose_shift + nw, ny),
        (zero, my - f["lip_upper"]), (zero, my + f["lip_lower"] + f["mouth_open"]),
        (zero, zero + 0.99), (zero, zero - 0.6),
    ]  # fmt: skip


def landmarks(f: Planes, size: int) -> Floats:
    """Landmarks in pixels (x right, y down, centre of the first pixel = 0.5), shape (N, len(LANDMARKS), 2)."""
    cy, sy, cp, sp, cr, sr = (turn[:, :, 0] for turn in _turns(f))
    flat = {name: value[:, :, 0] for name, value in f.items()}
    places = _places(flat, nose_shift(flat))
    cx = np.concatenate([u for u, _ in places], axis=1) / flat["face_width"]
    cv = np.concatenate([v for _, v in places], axis=1)
    cz = np.sqrt(np.maximum(1.0 - cx * cx - cv * cv, 0.0))
    qx, z = cx * cy + cz * sy, cz * cy - cx * sy
    qy = cv * cp + z * sp
    y = np.where(qy > 0, qy * flat["chin"], qy)
    x = qx * _profile(flat, qy) - flat["asymmetry"] * y * y
    px = (cr * x - sr * y) * flat["zoom"] + flat["shift_x"]
    py = (cr * y + sr * x) * flat["zoom"] + flat["shift_y"]
    return np.stack((px + 1, py + 1), axis=2).astype(np.float32) * np.float32(size / 2)


def nose_shift(f: Planes) -> Floats:
    """How far the tip of the nose moves sideways because it stands out from the ball."""
    return np.float32(0.16) * f["nose_height"] * np.tan(np.radians(f["yaw"]).clip(-1.0, 1.0))
