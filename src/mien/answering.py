# SPDX-License-Identifier: Apache-2.0
"""From what a user names (files, folders, images) to loaded images: what every room's `predict` begins with.

Files are decoded ahead by threads while the network works, and memory does not grow with their number. A broken file
comes as its message, so that the others go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from mien.data.images import from_uint8, load_tensor, resize_tensor
from mien.data.listing import list_images
from mien.errors import BadInput, MienError

DECODERS = 4
"""Threads that decode ahead: they only have to keep up with the network, which uses the other cores."""

Loaded = tuple["Item", Tensor | str]
"""An item with its image (3, H, W) in [0, 1], or with the reason why there is none."""


@dataclass(frozen=True)
class Item:
    """One image to be answered for.

    Args:
        name: What its row is called.
        source: A path, or the image itself.
        unit: The folder that it is a frame of, or "".
        frames: Of a clip, which frames of the unit it holds.
    """

    name: str
    source: Any
    unit: str = ""
    frames: tuple[int, ...] = ()


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


def batches_of(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Batches in order, of at most `size` items."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def folders_of(items: Sequence[Item], cap: int) -> list[list[Item]]:
    """Whole folders, of more than `cap` images every n-th; a single image is a folder of its own."""
    result: list[list[Item]] = []
    for unit, members in groupby(items, key=lambda item: item.unit):
        rows = list(members)
        if not unit:
            result.extend([row] for row in rows)
        elif len(rows) <= cap:
            result.append(rows)
        else:
            result.append([rows[i * len(rows) // cap] for i in range(cap)])
    return result


def load_ahead(batches: Iterable[list[Item]], load: Callable[[Any], Tensor]) -> Iterator[list[Loaded]]:
    """Batches with their images, two batches ahead of whoever takes them.

    Args:
        batches: What to load, in order.
        load: From an item's source to its image; whatever `MienError` it raises becomes the item's message.
    """

    def attempt(source: Any) -> Tensor | str:
        try:
            return load(source)
        except MienError as error:
            return str(error)

    waiting: deque[list[tuple[Item, Future[Tensor | str]]]] = deque()
    source = iter(batches)
    with ThreadPoolExecutor(DECODERS) as pool:
        while True:
            while len(waiting) < 3 and (batch := next(source, None)) is not None:
                waiting.append([(item, pool.submit(attempt, item.source)) for item in batch])
            if not waiting:
                return
            yield [(item, future.result()) for item, future in waiting.popleft()]


def load_image(source: Any, size: int | tuple[int, int] | None = None) -> Tensor:
    """An image as (3, H, W) in [0, 1], resized to `size` (a number for a square, or (height, width)) where given.

    Args:
        source: A path, a PIL image, a uint8 array (H, W, 3), or a floating-point tensor (3, H, W) in [0, 1].
        size: Of the result in pixels; None keeps the image's own.

    Raises:
        BadInput: A file that cannot be opened, or a value of another kind.
    """
    if isinstance(source, (str, Path)):
        return load_tensor(source, size)
    image = _as_tensor(source)
    return image if size is None else resize_tensor(image, size)


def _as_tensor(image: Any) -> Tensor:
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return from_uint8(image)
    if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] == 3 and image.is_floating_point():
        if not bool(((image >= 0) & (image <= 1)).all()):  # so that NaN is refused, too
            raise BadInput("the image tensor has values outside [0, 1]")
        return image.float().cpu()
    shape = getattr(image, "shape", None)
    raise BadInput(f"image is a {type(image).__name__} of shape {shape}: give PIL, uint8 (H, W, 3) or float (3, H, W)")
