# SPDX-License-Identifier: Apache-2.0
"""Answers for files, folders and folders of frames: scored in batches, row by row.

A row for every image, and after the images of a folder one row for the folder: its images taken as the frames of one
video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien.answering import Item, batches_of, folders_of, items_of, load_ahead, load_image
from mien.data.batch import collate, move
from mien.data.images import save_png
from mien.engine import Method
from mien.errors import BadInput
from mien.forensics.data import Faces, Verdict, load_face
from mien.room import Answers, Row, Using

LIMITS = (
    "a score is a model's opinion about an image, not evidence about a person or an event",
    "images that are unlike the training data (other forgeries, cameras, compression) may be scored at random",
)


def answer(method: Method, inputs: Sequence[Any], out: Path | None, using: Using) -> Answers:
    """See `mien.room.Room.predict`. `method` is set up for the mode already."""
    items = items_of(inputs)
    cut = folders_of if method.predicts_by_group else batches_of
    batches = cut(items, using.batch_size)[: using.max_steps]
    shown = [item for batch in batches for item in batch]
    total = len(shown) + len({item.unit for item in shown if item.unit})
    left_out = (f"{len(items) - len(shown)} of {len(items)} images were left out",) if len(shown) < len(items) else ()
    return Answers(total, _rows(method, batches, out if using.pictures else None, using), (*LIMITS, *left_out))


def _rows(method: Method, batches: list[list[Item]], out: Path | None, using: Using) -> Iterator[Row]:
    size: int = method.image_size  # type: ignore[assignment]
    folder = _Folder()
    number = 0
    for batch in load_ahead(batches, partial(_load, size=size, crop=using.crop)):
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


def _load(source: Any, size: int, crop: str) -> Tensor:
    if not isinstance(source, Path):
        return load_image(source, size)
    image = load_face(source, size, crop)
    if image is None:
        raise BadInput("no face found")
    return image


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
