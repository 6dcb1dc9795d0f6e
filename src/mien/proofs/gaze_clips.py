# SPDX-License-Identifier: Apache-2.0
"""Faces with two drawn eyes whose irises say where they look: for the experiment of GazeForensics.

The faces are drawn as well, or they are photographs, over whose eyes others are drawn. The procedural people of
`mien.data.people` turn both eyes alike; here each iris has a place of its own. Real clips have one smooth gaze for both
eyes. In forged ones every iris also jitters by itself in every frame, and the patch around the eyes has a weak edge. A
tint may go with the label, as in training, or not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mien.data.draws import Seeds, between, item_seeds, normals, uniforms
from mien.data.forge_ops import canonical_points, to_bytes
from mien.forensics.clips.stills import smooth_path

SIZE = 48
YAW, PITCH = 30.0, 20.0
"""Degrees that the irises turn at most; they move by `TRAVEL` pixels then."""
TRAVEL = (2.4, 1.4)
JITTER = (1.2, 0.8)
"""Deviation in pixels of the irises of forged clips, across and down: about half of what a look can move them by. Of a
size that the frozen teacher finds, by a seed that is not reported; guidance was not looked at to choose it."""
EDGE, TINT = 0.025, 0.025


@dataclass(frozen=True)
class Scene:
    """What is drawn in each of N pictures.

    Args:
        person: Seed of each person, (N,).
        gaze: Yaw and pitch in degrees, (N, 2).
        jitter: Further displacement of each iris in pixels, (N, 2 eyes, 2).
        edge: Strength of the edge around the eyes, (N,).
        tint: Red against blue, (N,).
        light: Gain, (N,).
        noise: Seeds of the sensor's noise, (N,).
        face: Photographs of aligned faces to draw the eyes on, uint8 (N, 3, 48, 48); None to draw the faces, too.
    """

    person: Seeds
    gaze: Tensor
    jitter: Tensor
    edge: Tensor
    tint: Tensor
    light: Tensor
    noise: Seeds
    face: Tensor | None = None


@dataclass(frozen=True)
class Portraits:
    """Photographs of aligned faces, uint8 (N, 3, 48, 48), and whose they are."""

    faces: Tensor
    people: list[str]


def _disc(x: Tensor, y: Tensor, centre: Tensor, radii: Tensor, soft: float = 0.35) -> Tensor:
    """Soft ellipses, (N, H, W): 1 inside, 0 outside, an edge of about `soft` pixels."""
    u = (x - centre[:, 0, None, None]) / radii[:, 0, None, None]
    v = (y - centre[:, 1, None, None]) / radii[:, 1, None, None]
    distance = (1 - (u * u + v * v + 1e-6).sqrt()) * radii.min(dim=1).values[:, None, None]
    return torch.sigmoid(distance / soft)


def draw(scene: Scene) -> Tensor:
    """The pictures, uint8 (N, 3, 48, 48)."""
    count = len(scene.person)

    def value(name: str, low: float, high: float) -> Tensor:
        return torch.from_numpy(between(scene.person, name, low, high))

    def colour(name: str, low: float, high: float) -> Tensor:
        drawn = torch.from_numpy(uniforms(scene.person, name, 3))
        return (low + (high - low) * drawn)[:, :, None, None]

    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")

    def paint(on: Tensor, mask: Tensor, what: Tensor) -> Tensor:
        return torch.lerp(on, what.expand_as(on), mask[:, None])

    if scene.face is None:
        middle = torch.stack((value("x", 22.5, 25.5), value("y", 23.0, 26.0)), dim=1)
        skin = torch.tensor([0.75, 0.55, 0.45])[None, :, None, None] * value("tone", 0.5, 1.15)[:, None, None, None]
        picture = colour("background", 0.1, 0.8).expand(-1, -1, SIZE, SIZE)
        face = _disc(x, y, middle, torch.stack((value("wide", 15, 19), value("long", 20, 23)), dim=1), 0.6)
        picture = paint(picture, face, skin)
        mouth = middle + torch.tensor([0.0, 11.0])
        lips = torch.stack((value("mouth", 4, 7), value("lips", 1.0, 2.2)), dim=1)
        picture = paint(picture, _disc(x, y, mouth, lips), skin * torch.tensor([0.9, 0.5, 0.5])[None, :, None, None])
        apart, high = value("apart", 7.0, 8.5), value("high", -4.5, -2.5)
        eyes = [middle + torch.stack((sign * apart, high), dim=1) for sign in (-1.0, 1.0)]
    else:
        picture = scene.face.float() / 255
        eyes = list(canonical_points(count, SIZE, SIZE)[:, :2].unbind(dim=1))
        middle = (eyes[0] + eyes[1]) / 2 + torch.tensor([0.0, 3.5])
    open_eye = torch.stack((value("eye", 4.4, 5.2), value("lid", 2.6, 3.3)), dim=1)
    iris = colour("iris", 0.1, 0.5)
    look = scene.gaze / torch.tensor([YAW, PITCH]) * torch.tensor(TRAVEL)
    for side, eye in enumerate(eyes):
        white = _disc(x, y, eye, open_eye)
        picture = paint(picture, white, torch.full((count, 3, 1, 1), 0.93))
        ball = eye + look + scene.jitter[:, side]
        picture = paint(picture, white * _disc(x, y, ball, torch.full((count, 2), 2.3)), iris)
        picture = paint(picture, white * _disc(x, y, ball, torch.full((count, 2), 1.0)), iris * 0.1)
        if scene.face is None:
            brow = torch.stack((open_eye[:, 0], torch.full((count,), 0.9)), dim=1)
            picture = paint(picture, _disc(x, y, eye - torch.tensor([0.0, 5.0]), brow), skin * 0.3)
    patch = _disc(x, y, middle + torch.tensor([0.0, -3.5]), torch.tensor([[15.0, 7.0]]).expand(count, 2), 0.8)
    picture = picture + (scene.edge[:, None, None] * 4 * patch * (1 - patch))[:, None]
    picture = picture + scene.tint[:, None, None, None] * torch.tensor([1.0, 0.0, -1.0])[None, :, None, None]
    grain = torch.from_numpy(normals(scene.noise, "grain", (3, SIZE, SIZE)))
    return to_bytes(picture * scene.light[:, None, None, None] + 0.015 * grain)


def _people(seed: int, which: str, who: int | Portraits, count: int) -> tuple[Seeds, list[str], Tensor | None]:
    """Persons of `count` pictures or clips, drawn: their seeds and names, and their photographs."""
    generator = np.random.default_rng([seed, len(which)])
    if isinstance(who, Portraits):
        rows = generator.integers(len(who.people), size=count)
        names = [who.people[i] for i in rows]
        number = np.unique(names, return_inverse=True)[1]
        return item_seeds(seed, number, f"person {which}"), names, who.faces[torch.from_numpy(rows)]
    number = generator.integers(who, size=count)
    return item_seeds(seed, number, f"person {which}"), [f"{which} person {i}" for i in number], None


def gaze_pictures(seed: int, who: int | Portraits, count: int) -> tuple[Tensor, Tensor, list[str]]:
    """Single pictures for the gaze teacher: uint8 (count, 3, 48, 48), degrees (count, 2), and the persons.

    Args:
        seed: Of everything.
        who: How many people to draw, or photographs.
        count: Pictures.
    """
    person, names, faces = _people(seed, "teacher", who, count)
    own = item_seeds(seed, range(count), "gaze picture")
    gaze = (torch.from_numpy(uniforms(own, "gaze", 2)) * 2 - 1) * torch.tensor([YAW, PITCH])
    nothing = torch.zeros(count)
    light = 1 + 0.15 * (torch.from_numpy(uniforms(own, "light")[:, 0]) * 2 - 1)
    return draw(Scene(person, gaze, torch.zeros(count, 2, 2), nothing, nothing, light, own, faces)), gaze, names


def gaze_clips(
    seed: int, which: str, who: int | Portraits, count: int, frames: int, *, tinted: float = 0.5, jitter: bool = True
) -> tuple[Tensor, Tensor, list[str]]:
    """Clips, every second one forged.

    Args:
        seed: Of everything.
        which: Name of the part; other names have other drawn people.
        who: How many people to draw, or photographs.
        count: Clips.
        frames: Frames of each.
        tinted: How often the tint's sign goes with the label: 0.5 is independence.
        jitter: Whether irises of forged clips jitter; without it the edge alone is left.

    Returns:
        uint8 (count, frames, 3, 48, 48), labels (count,), persons.
    """
    person, names, faces = _people(seed, which, who, count)
    own = item_seeds(seed, range(count), f"clip {which}")
    label = torch.arange(count) % 2
    path = smooth_path(own, "gaze", frames, 1.0, 2) + 0.5 * (
        torch.from_numpy(uniforms(own, "rest", 2))[:, None] * 2 - 1
    )
    gaze = path.clamp(-1, 1) * torch.tensor([YAW, PITCH])
    shake = torch.from_numpy(normals(own, "jitter", (frames, 2, 2))) * torch.tensor(JITTER)
    shake = shake * (label if jitter else 0 * label)[:, None, None, None]
    agrees = torch.from_numpy(uniforms(own, "tint")[:, 0]) < tinted
    sign = torch.where(agrees == (label == 1), 1.0, -1.0)
    edge = EDGE * label * torch.where(torch.from_numpy(uniforms(own, "edge")[:, 0]) < 0.5, -1.0, 1.0)
    light = (
        1 + 0.15 * (torch.from_numpy(uniforms(own, "light")) * 2 - 1) + smooth_path(own, "drift", frames, 0.03)[..., 0]
    )

    def each(values: Tensor) -> Tensor:
        return values.repeat_interleave(frames, dim=0)

    grain = item_seeds(seed, np.arange(count * frames), f"grain {which}")
    scene = Scene(
        np.repeat(person, frames),
        gaze.flatten(0, 1),
        shake.flatten(0, 1),
        each(edge),
        each(TINT * sign),
        light.flatten(),
        grain,
        None if faces is None else each(faces),
    )
    image = torch.cat([draw(_rows(scene, slice(i, i + 512))) for i in range(0, count * frames, 512)])
    return image.unflatten(0, (count, frames)), label, names


def _rows(scene: Scene, rows: slice) -> Scene:
    known = {name: value[rows] for name, value in vars(scene).items() if value is not None}
    return Scene(**known)
