# SPDX-License-Identifier: Apache-2.0
"""Answers for files, folders of frames and video files: scored in batches, row by row.

A row for every image, frame or clip, and after those of a folder or video file one row for it: its images taken as the
frames of one video.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mien.answering import Item, Loaded
from mien.data.batch import collate, move
from mien.data.images import save_png
from mien.forensics.answer_sources import sources_of
from mien.forensics.clips.pooling import Pooling, video_score
from mien.forensics.data import Faces, Verdict
from mien.room import Answers, Row, Using

if TYPE_CHECKING:
    from mien.forensics.detector import Detector

LIMITS = (
    "a score is a model's opinion about an image, not evidence about a person or an event",
    "images that are unlike the training data (other forgeries, cameras, compression) may be scored at random",
)


def answer(method: Detector, inputs: Sequence[Any], out: Path | None, using: Using) -> Answers:
    """See `mien.room.Room.predict`. `method` is set up for the mode already."""
    sources = sources_of(method, inputs, using)
    missing = sources.items - sources.shown
    what = "clips" if method.frames else "images"
    left_out = (f"{missing} of {sources.items} {what} were left out",) if missing else ()
    for old in [] if out is None else out.glob("evidence-[0-9][0-9][0-9][0-9][0-9]-*.png"):
        old.unlink()  # of an earlier prediction, whose table is replaced, too
    rows = _rows(method, sources, out if using.pictures else None, using)
    return Answers(sources.rows, rows, (*LIMITS, *left_out))


def _rows(method: Detector, batches: Iterable[list[Loaded]], out: Path | None, using: Using) -> Iterator[Row]:
    folder = _Folder(method.pooling)
    number = 0
    for batch in batches:
        scored = iter(_score(method, [image for _, image in batch if isinstance(image, Tensor)], using.device))
        for item, image in batch:
            if item.unit != folder.name:
                yield from folder.close()
                folder = _Folder(method.pooling, item.unit)
            if isinstance(image, str):
                yield Row(item.name, error=image)
                continue
            answer = next(scored)
            folder.add(item, answer)
            picture = _picture(out, item, number, image, answer)
            number += 1
            yield Row(item.name, _values(answer.score, len(set(item.frames)) or 1, picture, answer.columns))
    yield from folder.close()


class _Folder:
    """The scores of a folder's images, or of a video's frames or clips; clips may share frames."""

    def __init__(self, pooling: Pooling, name: str = "") -> None:
        self.pooling, self.name = pooling, name
        self.scores: list[float] = []
        self.frames: set[int] = set()
        self.columns: Sequence[str] = ()

    def add(self, item: Item, answer: _Answer) -> None:
        """One image, frame or clip more."""
        self.frames.update(item.frames or [len(self.scores)])
        self.scores.append(answer.score)
        self.columns = tuple(answer.columns)

    def close(self) -> Iterator[Row]:
        """The folder's own row, if it is one."""
        if self.name and self.scores:
            score = video_score(np.array(self.scores), self.pooling)
            yield Row(self.name, _values(score, len(self.frames), None, dict.fromkeys(self.columns)))
        elif self.name:
            yield Row(self.name, error="none of its images could be scored")


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
    image = image if image.ndim == 3 else image[len(image) // 2]  # of a clip the middle frame
    stem = "-".join(Path(item.name).stem.split()) or "image"
    name = f"evidence-{number:05d}-{stem}.png"
    shown = [image] if answer.evidence is None else [image, overlay(image, answer.evidence)]
    save_png(out / name, torch.cat(shown if answer.picture is None else [*shown, answer.picture], dim=2))
    return name


def overlay(image: Tensor, evidence: Tensor) -> Tensor:
    """The image in grey with the evidence as warmth: (3, H, W) and (1, H, W) in [0, 1] -> (3, H, W) in [0, 1]."""
    grey = image.mean(dim=0, keepdim=True).expand(3, -1, -1) * 0.6
    heat = torch.cat([evidence, evidence**2 * 0.7, torch.zeros_like(evidence)])
    return (grey * (1 - 0.6 * evidence) + 0.8 * heat).clamp(0, 1)
