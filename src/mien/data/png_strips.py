# SPDX-License-Identifier: Apache-2.0
"""A PNG file written from top to bottom, for pictures too large to hold. Pillow writes whole pictures only.

The format is that of the PNG specification (W3C, third edition): 8-bit RGB, every row filtered by "up".
"""

from __future__ import annotations

import struct
import zlib
from types import TracebackType
from typing import BinaryIO

import numpy as np

from mien.errors import BadInput

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB, _UP = 2, 2


class PNGStrips:
    """Takes strips of rows and writes them at once.

    Args:
        file: Open for writing bytes, such as what `mien.files.whole_file` gives.
        width: Of the picture in pixels.
        height: Of the picture in pixels.
        level: Of zlib, 0 to 9.

    >>> import io
    >>> with PNGStrips(io.BytesIO(), 4, 2) as png:
    ...     png.write(np.zeros((2, 4, 3), np.uint8))
    """

    def __init__(self, file: BinaryIO, width: int, height: int, level: int = 4) -> None:
        if not (0 < width < 2**31 and 0 < height < 2**31):
            raise BadInput(f"a picture of {height} x {width} pixels cannot be a PNG file")
        self.file, self.width, self.height, self.rows = file, width, height, 0
        self._packer = zlib.compressobj(level)
        self._above = np.zeros((1, width * 3), np.uint8)
        file.write(_SIGNATURE)
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _RGB, 0, 0, 0))

    def write(self, rows: np.ndarray) -> None:
        """The next rows, uint8 (n, width, 3)."""
        if rows.dtype != np.uint8 or rows.ndim != 3 or rows.shape[1:] != (self.width, 3):
            raise ValueError(f"rows are {rows.dtype} {rows.shape}: uint8 (n, {self.width}, 3) is needed")
        flat = rows.reshape(len(rows), -1)
        filtered = np.empty((len(rows), 1 + flat.shape[1]), np.uint8)
        filtered[:, 0] = _UP
        np.subtract(flat, np.concatenate([self._above, flat[:-1]]), out=filtered[:, 1:])
        self._above = flat[-1:].copy()
        self.rows += len(rows)
        self._data(self._packer.compress(filtered.data))

    def __enter__(self) -> PNGStrips:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        if self.rows != self.height:
            raise ValueError(f"{self.rows} of {self.height} rows were written")
        self._data(self._packer.flush())
        self._chunk(b"IEND", b"")

    def _data(self, packed: bytes) -> None:
        if packed:
            self._chunk(b"IDAT", packed)

    def _chunk(self, name: bytes, content: bytes) -> None:
        self.file.write(struct.pack(">I", len(content)) + name + content)
        self.file.write(struct.pack(">I", zlib.crc32(name + content)))
