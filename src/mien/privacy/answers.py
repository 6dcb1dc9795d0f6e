# SPDX-License-Identifier: Apache-2.0
"""Answers for files: how well each picture would be hidden and given back, with a strip of pictures to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mien.answering import Item, batches_of, items_of, load_ahead, load_image
from mien.classification.data import middle_view
from mien.data.images import save_png
from mien.privacy.data import Portrait
from mien.privacy.pro_face_s import ProFaceS
from mien.privacy.scoring import kinds_of, measure
from mien.room import Answers, Row, Using

LIMITS = (
    "this rehearses on the middle square of a picture, resized; mien protect and mien reveal work on photographs",
    "whether a face is recognised depends on who looks; a learned network is not cryptography",
)
COLUMNS = ("psnr_protected", "psnr_revealed", "psnr_revealed_8bit", "psnr_wrong", "psnr_visible")


def answer(model: ProFaceS, inputs: Sequence[Any], out: Path | None, using: Using) -> Answers:
    """See `mien.room.Room.predict`. The mode is an obfuscation."""
    kind = kinds_of(model, using.mode)[0]
    items = items_of(inputs)
    batches = batches_of(items, using.batch_size)[: using.max_steps]
    total = sum(map(len, batches))
    left_out = (f"{len(items) - total} of {len(items)} images were left out",) if total < len(items) else ()
    rows = _rows(model, batches, kind, out if using.pictures else None, using.device)
    return Answers(total, rows, (*LIMITS, *left_out))


def _rows(model: ProFaceS, batches: list[list[Item]], kind: str, out: Path | None, device: str) -> Iterator[Row]:
    first = 0
    for batch in load_ahead(batches, partial(_load, size=model.image_size)):
        images = [image for _, image in batch if isinstance(image, Tensor)]
        strips: Iterator[Tensor] = iter(())
        values: Iterator[dict[str, float]] = iter(())
        if images:
            stack = torch.stack(images).to(device)
            made, found = measure(model, Portrait(stack), kind, first)
            pictures = (stack, made.obfuscated, made.protected, made.revealed, made.wrong)
            strips, values = iter(torch.cat(pictures, dim=3).clamp(0, 1).cpu()), iter(found)
        for item, image in batch:
            if isinstance(image, str):
                yield Row(item.name, error=image)
                continue
            numbers = next(values)
            name = _picture(out, item, first, next(strips))
            first += 1
            shown = {column: round(numbers[column], 3) for column in COLUMNS}
            yield Row(item.name, {"obfuscation": kind, **shown, "picture": name})


def _load(source: Any, size: int) -> Tensor:
    return middle_view(load_image(source), size, 1.0)


def _picture(out: Path | None, item: Item, number: int, strip: Tensor) -> str | None:
    """Original, obfuscated, protected, revealed and wrongly revealed side by side."""
    if out is None:
        return None
    stem = Path(item.name).stem.replace(" ", "-") or "image"
    name = f"protection-{number:05d}-{stem}.png"
    save_png(out / name, strip)
    return name
