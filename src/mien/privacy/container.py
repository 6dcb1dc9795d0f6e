# SPDX-License-Identifier: Apache-2.0
"""The file of a protected photograph: a PNG that every viewer shows, and that holds what `mien reveal` needs.

Chunks of our own lie behind the picture's, as PNG's third edition allows (ancillary, private, not to be copied by an
editor that changes the picture):

    miPH    the header: JSON in ASCII. Format, method, fingerprint of the weights, cost of the key, salt, verifier or
            null, size of the photograph, regions, side of the tiles, fingerprint of the pixels, whether there are miPD
    miPD    one for each tile, in order: what 8 bits could not hold. The pixels of a protected tile are v, real numbers
            that may leave [0, 255]; the picture shows q = round(v) within [0, 255], and here is (v - q) * 256, rounded,
            as int16, the low bytes of all first, compressed by zlib

The picture has even sides: where the photograph's are odd, the last row or column is shown twice, and cut off by
reveal. The format carries a number; a newer one is refused.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mien.configure import build
from mien.data.images import MAX_BYTES, MAX_PIXELS, open_image
from mien.errors import BadInput
from mien.files import whole_file
from mien.privacy.keys import SALT_BYTES, VERIFIER_BYTES, Cost

FORMAT = 1
HEADER, DEPTH = b"miPH", b"miPD"
STEPS = 256
"""Steps between two grey levels that miPD holds."""
MOST_REGIONS = 4096
TILE_SIDES = (16, 2048)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Region:
    """A rectangle in pixels; all four numbers are even.

    Args:
        top: First row.
        left: First column.
        height: Rows.
        width: Columns.
    """

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def overlaps(self, other: Region) -> bool:
        """Whether they share a pixel."""
        rows = self.top < other.top + other.height and other.top < self.top + self.height
        return rows and self.left < other.left + other.width and other.left < self.left + self.width


@dataclass(frozen=True)
class Header:
    """What a protected file says of itself; none of it is secret.

    Args:
        weights: SHA-256 of the weights that protected it, 64 hex digits.
        salt: 32 hex digits.
        size: Height and width of the photograph.
        regions: [top, left, height, width] of each protected rectangle.
        tile: Longest side of the tiles that regions are cut into.
        obfuscation: Its name.
        cost: Of the key.
        verifier: 8 hex digits, or None.
        pixels: SHA-256 of the picture as it was written.
        deep: Whether there are miPD chunks.
        method: What protected it.
    """

    weights: str
    salt: str
    size: tuple[int, int]
    regions: tuple[tuple[int, int, int, int], ...]
    tile: int
    obfuscation: str
    cost: Cost = field(default_factory=Cost)
    verifier: str | None = None
    pixels: str = ""
    deep: bool = True
    method: str = "pro-face-s"

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {"format": FORMAT, **asdict(self)}

    def tiles(self) -> list[Region]:
        """All tiles of all regions, in order."""
        return [tile for region in self.regions for tile in tiles_of(Region(*region), self.tile)]


@dataclass
class ProtectedFile:
    """A protected file that was opened.

    Args:
        header: What it says of itself.
        picture: What everybody sees, uint8 (H, W, 3) with even sides.
        depth: The compressed miPD chunks, one for each tile, or none.
        changed: Whether the picture is not the one that was written.
    """

    header: Header
    picture: Pixels
    depth: list[bytes]
    changed: bool = False

    def tile(self, number: int, region: Region) -> NDArray[np.float32]:
        """The pixels of a tile with all their depth, float32 (h, w, 3) in grey levels."""
        shown = self.picture[region.slices].astype(np.float32)
        if self.depth:
            shown += unpack_depth(self.depth[number], shown.shape).astype(np.float32) / np.float32(STEPS)
        return shown


def tiles_of(region: Region, longest: int) -> list[Region]:
    """Tiles of nearly equal, even sides of at most `longest` pixels that cover a region, row by row.

    >>> [tile.width for tile in tiles_of(Region(0, 0, 10, 600), 256)]
    [200, 200, 200]
    """
    rows, columns = _cuts(region.height, longest), _cuts(region.width, longest)
    return [
        Region(region.top + a, region.left + c, b - a, d - c) for a, b in pairwise(rows) for c, d in pairwise(columns)
    ]


def _cuts(length: int, longest: int) -> list[int]:
    count = -(-length // longest)
    return [2 * (length // 2 * i // count) for i in range(count + 1)]


def split_levels(levels: NDArray[np.float32]) -> tuple[Pixels, NDArray[np.int16]]:
    """Pixels in grey levels, any shape, as what is shown and what is left of it in steps of 1/256 level."""
    shown = np.clip(np.rint(levels), 0, 255)
    rest = np.clip(np.rint((levels - shown) * STEPS), -(2**15), 2**15 - 1)
    return shown.astype(np.uint8), rest.astype(np.int16)


def pack_depth(rest: NDArray[np.int16]) -> bytes:
    """int16 of any shape as a chunk."""
    planes = np.frombuffer(rest.astype("<i2").tobytes(), np.uint8).reshape(-1, 2).T
    return zlib.compress(planes.tobytes(), 6)


def unpack_depth(data: bytes, shape: tuple[int, ...]) -> NDArray[np.int16]:
    """What `pack_depth` was given. Raises BadInput when the chunk does not hold that many numbers."""
    count = int(np.prod(shape))
    unpacker = zlib.decompressobj()
    try:
        planes = unpacker.decompress(data, 2 * count + 1)
    except zlib.error as error:
        raise BadInput(f"a chunk of the protected file is damaged ({error})") from error
    if len(planes) != 2 * count or not unpacker.eof:
        raise BadInput(f"a chunk of the protected file does not hold the {count:,} numbers of its tile")
    pairs = np.frombuffer(planes, np.uint8).reshape(2, count).T
    return np.ascontiguousarray(pairs).view("<i2").reshape(shape).astype(np.int16)


def fingerprint_of(picture: Pixels) -> str:
    """SHA-256 of pixels, hex."""
    return hashlib.sha256(np.ascontiguousarray(picture).tobytes()).hexdigest()


def write_protected(path: str | Path, picture: Pixels, header: Header, depth: list[bytes]) -> None:
    """Write a protected file, whole or not at all. The same arguments give the same bytes.

    Args:
        path: Where to.
        picture: uint8 (H, W, 3), even sides.
        header: What it says of itself; `pixels` is filled in.
        depth: A chunk for each tile, or none.
    """
    plain = header.plain() | {"pixels": fingerprint_of(picture), "deep": bool(depth)}
    chunks = PngInfo()
    chunks.add(HEADER, json.dumps(plain, sort_keys=True).encode("ascii"), after_idat=True)
    for piece in depth:
        chunks.add(DEPTH, piece, after_idat=True)
    with whole_file(Path(path)) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", pnginfo=chunks)


def read_protected(path: str | Path) -> ProtectedFile:
    """Open a protected file.

    Raises:
        BadInput: It is missing, no PNG, damaged, not protected, of a newer format, or its header does not make sense.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    if path.stat().st_size > 4 * MAX_BYTES:
        raise BadInput(f"{path}: {path.stat().st_size:,} bytes, at most {4 * MAX_BYTES:,} are allowed")
    data = path.read_bytes()
    chunks = list(_chunks(data, str(path)))
    headers = [piece for name, piece in chunks if name == HEADER]
    if len(headers) != 1:
        raise BadInput(
            f"{path} is not a protected file: it has no header (a copy that was edited or converted has lost it)"
        )
    header = _header(headers[0], str(path))
    depth = [piece for name, piece in chunks if name == DEPTH]
    picture = np.asarray(open_image(data, max_bytes=4 * MAX_BYTES, name=str(path)))
    wanted = tuple(side + side % 2 for side in header.size)
    if picture.shape[:2] != wanted:
        raise BadInput(f"{path}: the picture is {picture.shape[:2]}, its header says {wanted}: it was resized")
    if header.deep and len(depth) != len(header.tiles()):
        raise BadInput(f"{path}: {len(depth)} tiles have their depth, the header names {len(header.tiles())}: damaged")
    changed = fingerprint_of(picture) != header.pixels
    return ProtectedFile(header, picture, depth if header.deep else [], changed)


def _chunks(data: bytes, name: str) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of each PNG chunk, checked."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise BadInput(f"{name} is not a protected file: protected files are PNG")
    at = 8
    while at < len(data):
        if at + 12 > len(data):
            raise BadInput(f"{name}: damaged or truncated")
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        check = data[at + 8 + length : at + 12 + length]
        if len(check) < 4 or struct.unpack(">I", check)[0] != zlib.crc32(kind + content):
            raise BadInput(f"{name}: damaged or truncated")
        yield kind, content
        at += 12 + length


def _header(data: bytes, name: str) -> Header:
    try:
        plain = json.loads(data.decode("ascii"))
        version = plain.pop("format")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise BadInput(f"{name}: its header cannot be read ({type(error).__name__})") from error
    if not isinstance(version, int) or not 1 <= version <= FORMAT:
        raise BadInput(f"{name} has format {version}: this mien reads up to {FORMAT}; update mien")
    header: Header = build(Header, plain, f"header of {name}")
    _check(header, name)
    return header


def _check(header: Header, name: str) -> None:
    """Refuse what no `mien protect` writes, before anything is done with it."""
    hexes = ((header.weights, 32), (header.salt, SALT_BYTES), (header.verifier or "00" * 4, VERIFIER_BYTES))
    for text, count in hexes:
        if len(text) != 2 * count or any(c not in "0123456789abcdef" for c in text):
            raise BadInput(f"{name}: its header is damaged: {text[:80]!r} should be {2 * count} hex digits")
    height, width = header.size
    if min(height, width) < 1 or height * width > MAX_PIXELS or not TILE_SIDES[0] <= header.tile <= TILE_SIDES[1]:
        raise BadInput(f"{name}: its header is damaged: size {header.size}, tile {header.tile}")
    regions = [Region(*region) for region in header.regions]
    if not regions or len(regions) > MOST_REGIONS:
        raise BadInput(f"{name}: its header is damaged: {len(regions)} regions")
    taken = np.zeros((height + height % 2, width + width % 2), bool)
    for region in regions:
        numbers = (region.top, region.left, region.height, region.width)
        inside = region.top + region.height <= taken.shape[0] and region.left + region.width <= taken.shape[1]
        if min(numbers) < 0 or any(n % 2 for n in numbers) or not region.height or not region.width or not inside:
            raise BadInput(f"{name}: its header is damaged: region {numbers}")
        if taken[region.slices].any():
            raise BadInput(f"{name}: its header is damaged: regions overlap")
        taken[region.slices] = True
