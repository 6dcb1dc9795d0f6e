# SPDX-License-Identifier: Apache-2.0
"""Answers for files, folders and folders of frames: decoded ahead by threads, scored in batches, row by row.

A row for every image, and after the images of a folder one row for the folder: its images taken as the frames of one
video. Memory does not grow with the number of files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mien.data.batch import collate, move
from mien.data.images import from_uint8, resize_tensor, save_png
from mien.data.listing import list_images
from mien.engine import Method
from mien.errors import BadInput, MienError
from mien.forensics.data import Faces, Verdict, load_face
from mien.room import Answers, Row, Using

LIMITS = (
    "a score is a model's opinion about an image, not evidence about a person or an event",
    "images that are unlike the training data (other forgeries, cameras, compression) may be scored at random",
)
DECODERS = 4
"""Threads that decode ahead: they only have to keep up with the network, which uses the other cores."""


@dataclass(frozen=True)
class Item:
    """One image to be scored.

    Args:
        name: What its row is called.
        source: A path, or the image itself.
        unit: The folder that it is a frame of, or "".
    """

    name: str
    source: Any
    unit: str = ""


def items_of(inputs: Sequence[Any]) -> list[Item]:
    """The images behind files, folders and images. Raises BadInput for a folder without images."""
    found: list[Item] = []
    for number, given in enumerate(inputs):
        if not isinstance(given, (str, Path)):
            found.append(Item(f"image {number}", given))
            continue
        path = Path(given)
        if path.is_dir():
            images = list_images(path)
            if not images:
                raise BadInput(f"{path}: no images in this folder (JPEG, PNG, WebP, BMP or TIFF files)")
            by_folder = sorted(images, key=lambda image: str(image.parent))
            found.extend(Item(str(image), image, str(image.parent)) for image in by_folder)
        else:
            found.append(Item(str(path), path))
    return found


def answer(method: Method, inputs: Sequence[Any], out: Path | None, using: Using) -> Answers:
    """See `mien.room.Room.predict`. `method` is set up for the mode already."""
    items = items_of(inputs)
    batches = list((_groups if method.predicts_by_group else _batches)(items, using.batch_size))[: using.max_steps]
    shown = [item for batch in batches for item in batch]
    total = len(shown) + len({item.unit for item in shown if item.unit})
    left_out = (f"{len(items) - len(shown)} of {len(items)} images were left out",) if len(shown) < len(items) else ()
    return Answers(total, _rows(method, batches, out if using.pictures else None, using), (*LIMITS, *left_out))


def _rows(method: Method, batches: list[list[Item]], out: Path | None, using: Using) -> Iterator[Row]:
    size: int = method.image_size  # type: ignore[assignment]
    folder = _Folder()
    number = 0
    with ThreadPoolExecutor(DECODERS) as pool:
        for batch in _ahead(pool, batches, size, using.crop):
            scored = iter(_score(method, [image for _, image in batch if isinstance(image, Tensor)], using.device))
            for item, image in batch:
                if item.unit != folder.name:
                    yield from folder.close()
                    folder = _Folder(item.unit)
                if isinstance(image, str):
                    yield Row(item.name, error=image)
                    continue
                score, evidence = next(scored)
                folder.scores.append(score)
                picture = _picture(out, item, number, image, evidence)
                number += 1
                yield Row(item.name, _values(score, 1, picture))
    yield from folder.close()


class _Folder:
    """The scores of a folder's images."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.scores: list[float] = []

    def close(self) -> Iterator[Row]:
        """The folder's own row, if it is one."""
        if self.name and self.scores:
            yield Row(self.name, _values(video_score(np.array(self.scores)), len(self.scores), None))
        elif self.name:
            yield Row(self.name, error="none of its images could be scored")


def video_score(scores: np.ndarray) -> float:
    """One score for the frames of a video: the mean of their log odds. (n,) in [0, 1] -> a number in [0, 1]."""
    odds = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(1 / (1 + np.exp(-np.mean(np.log(odds / (1 - odds))))))


def _values(score: float, frames: int, picture: str | None) -> dict[str, Any]:
    opinion = "forged" if score >= 0.5 else "real"
    return {"score": round(score, 6), "verdict": opinion, "frames": frames, "evidence": picture}


def _batches(items: list[Item], size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _groups(items: list[Item], cap: int) -> Iterator[list[Item]]:
    """Whole folders, of more than `cap` images every n-th; a single image is a folder of its own."""
    for unit, members in groupby(items, key=lambda item: item.unit):
        rows = list(members)
        if not unit:
            yield from ([row] for row in rows)
        elif len(rows) <= cap:
            yield rows
        else:
            yield [rows[i * len(rows) // cap] for i in range(cap)]


def _ahead(
    pool: ThreadPoolExecutor, batches: Iterable[list[Item]], size: int, crop: str
) -> Iterator[list[tuple[Item, Tensor | str]]]:
    """Batches with their images, two batches ahead of the network; a broken file comes as its message."""
    waiting: deque[list[tuple[Item, Future[Tensor | str]]]] = deque()
    source = iter(batches)
    while True:
        while len(waiting) < 3 and (batch := next(source, None)) is not None:
            waiting.append([(item, pool.submit(_load, item.source, size, crop)) for item in batch])
        if not waiting:
            return
        yield [(item, future.result()) for item, future in waiting.popleft()]


def _load(source: Any, size: int, crop: str) -> Tensor | str:
    try:
        if isinstance(source, Path):
            image = load_face(source, size, crop)
            return "no face found" if image is None else image
        return resize_tensor(_as_tensor(source), size)
    except MienError as error:
        return str(error)


def _as_tensor(image: Any) -> Tensor:
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return from_uint8(image)
    if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] == 3 and image.is_floating_point():
        if bool((image < 0).any()) or bool((image > 1).any()):
            raise BadInput("the image tensor has values outside [0, 1]")
        return image.float().cpu()
    shape = getattr(image, "shape", None)
    raise BadInput(f"image is a {type(image).__name__} of shape {shape}: give PIL, uint8 (H, W, 3) or float (3, H, W)")


def _score(method: Method, images: list[Tensor], device: str) -> list[tuple[float, Tensor | None]]:
    if not images:
        return []
    batch: Any = move(collate([Faces(image, -1) for image in images]), device)
    with torch.no_grad():
        verdict: Verdict = method.predict(batch)
    scores = verdict.score.float().cpu().tolist()
    maps = [None] * len(scores) if verdict.evidence is None else list(verdict.evidence.float().cpu())
    return list(zip(scores, maps, strict=True))


def _picture(out: Path | None, item: Item, number: int, image: Tensor, evidence: Tensor | None) -> str | None:
    if out is None or evidence is None:
        return None
    stem = Path(item.name).stem.replace(" ", "-") or "image"
    name = f"evidence-{number:05d}-{stem}.png"
    save_png(out / name, torch.cat([image, overlay(image, evidence)], dim=2))
    return name


def overlay(image: Tensor, evidence: Tensor) -> Tensor:
    """The image in grey with the evidence as warmth: (3, H, W) and (1, H, W) in [0, 1] -> (3, H, W) in [0, 1]."""
    grey = image.mean(dim=0, keepdim=True).expand(3, -1, -1) * 0.6
    heat = torch.cat([evidence, evidence**2 * 0.7, torch.zeros_like(evidence)])
    return (grey * (1 - 0.6 * evidence) + 0.8 * heat).clamp(0, 1)
