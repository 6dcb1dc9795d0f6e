# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are images, and in which order. Nothing is opened here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mien.errors import BadInput

SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff"})


def printable(text: str) -> str:
    """A file name or a decoder's message as one line: quoted where it holds line breaks or control characters."""
    return text if text.isprintable() else repr(text)


def is_image_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name says that it is an image (for listing; opening looks at the content). Hidden files do not.

    >>> is_image_file("a/face.JPG"), is_image_file("notes.txt"), is_image_file("._face.jpg")
    (True, False, False)
    """
    path = Path(path)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def natural_key(path: str | os.PathLike[str]) -> tuple[tuple[int, int, str], ...]:
    """Sorting key with numbers by value, so that frames named 1, 2, 10 keep their order in time.

    >>> sorted(["10.png", "2.png", "1.png"], key=natural_key)
    ['1.png', '2.png', '10.png']
    """
    text = os.fspath(path)
    parts = re.split(r"([0-9]+)", text)  # text and numbers in turn
    key = [(1, int(part), "") if i % 2 else (0, 0, part) for i, part in enumerate(parts) if part]
    return (*key, (-1, 0, text))  # the text itself last, so that "01" and "1" never tie


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """All image files in a folder and below it, in natural order. Hidden folders are left out, links are followed.

    Raises:
        BadInput: The folder is missing, is a file, or cannot be read. An empty folder gives an empty list.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"{printable(str(folder))}: {'a file, not a folder' if folder.exists() else 'no such folder'}")
    return sorted(_walk(folder, frozenset()), key=natural_key)


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    try:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:  # a link to a folder above would never end
            return
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError as error:
        raise BadInput(f"{printable(str(folder))}: cannot be read ({error.strerror or error})") from error
    for entry in found:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), above | {here})
        elif is_image_file(entry.name):
            yield Path(entry.path)
