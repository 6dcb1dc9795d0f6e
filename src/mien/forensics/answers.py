# SPDX-License-Identifier: Apache-2.0
"""Answers for files, folders and folders of frames: scored in batches, row by row.

A row for every image, and after the images of a folder one row for the folder: its images taken as the frames of one
video.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from mien.answering import Item, batches_of, folders_of, items_of, load_ahead, load_image
from mien.data.batch import collate, move
from mien.data.images import save_png
from mien.errors import BadInput
from mien.forensics.data import Faces, Verdict, load_face
from mien.room import Answers, Row, Using

if TYPE_CHECKING:
    from mien.forensics.detector import Detector

Pooling = Literal["log_odds", "mean"]

LIMITS = (
    "a score is a model's opinion about an image, not evidence about a person or an event",
    "images that are unlike the training data (other forgeries, cameras, compression) may be scored at random",
)


def answer(method: Detector, inputs: Sequence[Any], out: Path | None, using: Using) -> Answers:
    """See `mien.room.Room.predict`. `method` is set up for the mode already."""
    items = items_of(inputs)
    cut = folders_of if method.predicts_by_group else batches_of
    batches = cut(items, using.batch_size)[: using.max_steps]
    shown = [item for batch in batches for item in batch]
    total = len(shown) + len({item.unit for item in shown if item.unit})
    left_out = (f"{len(items) - len(shown)} of {len(items)} images were left out",) if len(shown) < len(items) else ()
    return Answers(total, _rows(method, batches, out if using.pictures else None, using), (*LIMITS, *left_out))


def _rows(method: Detector, batches: list[list[Item]], out: Path | None, using: Using) -> Iterator[Row]:
    size = method.image_size
    folder = _Folder(method.pooling)
    number = 0
    for batch in load_ahead(batches, partial(_load, size=size, crop=using.crop)):
        scored = iter(_score(method, [image for _, image in batch if isinstance(image, Tensor)], using.device))
        for item, image in batch:
            if item.unit != folder.name:
                yield from folder.close()
                folder = _Folder(method.pooling, item.unit)
            if isinstance(image, str):
                yield Row(item.name, error=image)
                continue
            answer = next(scored)
            folder.scores.append(answer.score)
            folder.columns = tuple(answer.columns)
            picture = _picture(out, item, number, image, answer)
            number += 1
            yield Row(item.name, _values(answer.score, 1, picture, answer.columns))
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

    def __init__(self, pooling: Pooling, name: str = "") -> None:
        self.pooling, self.name = pooling, name
        self.scores: list[float] = []
        self.columns: Sequence[str] = ()

    def close(self) -> Iterator[Row]:
        """The folder's own row, if it is one."""
        if self.name and self.scores:
            score = video_score(np.array(self.scores), self.pooling)
            yield Row(self.name, _values(score, len(self.scores), None, dict.fromkeys(self.columns)))
        elif self.name:
            yield Row(self.name, error="none of its images could be scored")


def video_score(scores: np.ndarray, pooling: Pooling = "log_odds") -> float:
    """One score for the frames or clips of a video: (n,) in [0, 1] -> a number in [0, 1].

    "log_odds" is the mean of their log odds, "mean" the mean of the scores themselves.
    """
    if pooling == "mean":
        return float(scores.mean())
    odds = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(1 / (1 + np.exp(-np.mean(np.log(odds / (1 - odds))))))


def _values(score: float, frames: int, picture: str | None, columns: Mapping[str, Any]) -> dict[str, Any]:
    opinion = "forged" if score >= 0.5 else "real"
    return {"score": round(score, 6), "verdict": opinion, **columns, "frames": frames, "evidence": picture}


@dataclass(frozen=True)
class _Answer:
    """What a `Verdict` says about one input."""

    score: float
    evidence: Tensor | None
    picture: Tensor | None
    columns: dict[str, Any]


def _score(method: Detector, images: list[Tensor], device: str) -> list[_Answer]:
    if not images:
        return []
    batch: Any = move(collate([Faces(image, -1) for image in images]), device)
    with torch.no_grad():
        verdict: Verdict = method.predict(batch)
    maps, pictures = (
        [None] * len(images) if x is None else list(x.float().cpu()) for x in (verdict.evidence, verdict.picture)
    )
    columns = [{name: values[i] for name, values in verdict.columns.items()} for i in range(len(images))]
    scores = verdict.score.float().cpu().tolist()
    return [_Answer(*parts) for parts in zip(scores, maps, pictures, columns, strict=True)]


def _picture(out: Path | None, item: Item, number: int, image: Tensor, answer: _Answer) -> str | None:
    """Write the input, where its score comes from, and what else the method shows, side by side."""
    if out is None or (answer.evidence is None and answer.picture is None):
        return None
    stem = Path(item.name).stem.replace(" ", "-") or "image"
    name = f"evidence-{number:05d}-{stem}.png"
    shown = [image] if answer.evidence is None else [image, overlay(image, answer.evidence)]
    save_png(out / name, torch.cat(shown if answer.picture is None else [*shown, answer.picture], dim=2))
    return name


def overlay(image: Tensor, evidence: Tensor) -> Tensor:
    """The image in grey with the evidence as warmth: (3, H, W) and (1, H, W) in [0, 1] -> (3, H, W) in [0, 1]."""
    grey = image.mean(dim=0, keepdim=True).expand(3, -1, -1) * 0.6
    heat = torch.cat([evidence, evidence**2 * 0.7, torch.zeros_like(evidence)])
    return (grey * (1 - 0.6 * evidence) + 0.8 * heat).clamp(0, 1)
