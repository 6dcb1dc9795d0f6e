# SPDX-License-Identifier: Apache-2.0
"""Restoring pictures of any size in memory that does not grow with them: tiles in, strips out, no seams.

A tile is a core with a margin. What lies within the network's reach of a cut edge is not what the whole picture would
give, so it is thrown away; a band of `FADE` pixels around the borders of the cores is faded from tile to tile. Tiles
begin at multiples of the network's divisor, so that its windows lie as in the whole picture, and noise belongs to its
place (`Restorer.noise`). A network without statistics over the map therefore gives what the whole picture gives; for
one with group norm neighbouring tiles differ a little, and the fading hides it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from mien.data.images import from_uint8
from mien.errors import BadInput
from mien.nn.grey import grey
from mien.restoration.restorer import Restorer, pad_to

FADE = 8
"""Half the width in result pixels of the band in which neighbouring tiles are faded into each other."""
NO_REACH = -1
"""What `reach` answers for a network that looks at the whole map."""


def reach(method: Restorer, most: int = 256) -> int:
    """How far the result around a changed pixel changes by more than a thousandth of a grey level, in result pixels.

    Measured on noise, on ever larger pictures until the change ends inside. `NO_REACH` when it does not within `most`
    pixels, as with statistics over the map: no margin makes tiles of such a network equal to the whole.
    """
    side = method.divisor
    while True:
        side = min(2 * side, 2 * most)
        far = _change(method, side)
        if far < side // 2 - method.divisor // 2:
            return far
        if side == 2 * most:
            return NO_REACH


@torch.no_grad()
def _change(method: Restorer, side: int) -> int:
    """The farthest change in a result of `side` pixels when the middle pixel of the picture is inverted."""
    small = -(-side // method.scale)
    image = torch.rand((1, method.space.colours, small, small), generator=torch.Generator().manual_seed(0))
    other = image.clone()
    other[..., small // 2, small // 2] = 1 - other[..., small // 2, small // 2]
    change = (method.restore(image.to(method.device)) - method.restore(other.to(method.device))).abs().amax(dim=(0, 1))
    places = torch.nonzero(change > 1e-3 / 255)
    return int((places - small // 2 * method.scale).abs().max()) if len(places) else 0


@dataclass(frozen=True)
class Tiles:
    """How a picture is cut; lengths in result pixels.

    Args:
        core: Side of a core.
        margin: Around every core; the larger, the less tiles differ from the whole.
    """

    core: int = 512
    margin: int = 64

    def __post_init__(self) -> None:
        if self.core < 2 * FADE or self.margin < FADE:
            raise BadInput(f"tiles have core {self.core} and margin {self.margin}: use at least {2 * FADE} and {FADE}")

    def fitted(self, method: Restorer) -> Tiles:
        """The same, rounded up to what the network's windows and the scale need."""
        step = method.divisor * method.scale // math.gcd(method.divisor, method.scale)
        return Tiles(-(-self.core // step) * step, -(-self.margin // step) * step)


def fitted_tiles(method: Restorer, core: int = Tiles.core, margin: int | None = None) -> Tiles:
    """Tiles for a network; the margin, where none is given, is as wide as it looks."""
    if margin is None:
        far = reach(method)
        margin = Tiles.margin if far == NO_REACH else max(far, FADE)
    return Tiles(core, margin).fitted(method)


def tile_count(picture: np.ndarray, scale: int, tiles: Tiles) -> int:
    """How many tiles a picture (h, w, 3) is cut into."""
    return math.prod(len(_borders(n * scale, tiles.core)) - 1 for n in picture.shape[:2])


def strips(
    method: Restorer, picture: np.ndarray, tiles: Tiles, advance: Callable[[], None] = lambda: None
) -> Iterator[np.ndarray]:
    """Rows of the restored picture from top to bottom: uint8 (rows, scale w, 3), all rows together once.

    Args:
        method: In eval mode.
        picture: uint8 (h, w, 3).
        tiles: How to cut.
        advance: Called after every tile.
    """
    scale = method.scale
    height, width = picture.shape[0] * scale, picture.shape[1] * scale
    tiles = tiles.fitted(method)
    down, across = _borders(height, tiles.core), _borders(width, tiles.core)
    carried = torch.zeros(3, 0, width)
    for top, bottom in pairwise(down):
        above, below = (FADE if top else 0), (FADE if bottom < height else 0)
        rows = torch.zeros(3, bottom + below - (top - above), width)
        rows[:, : carried.shape[1]] = carried
        for left, right in pairwise(across):
            before, after = (FADE if left else 0), (FADE if right < width else 0)
            box = (top - above, left - before, bottom + below, right + after)
            tile = _tile(method, picture, box, tiles.margin)
            fade = _ramp(tile.shape[1], above, below)[:, None] * _ramp(tile.shape[2], before, after)
            rows[:, :, box[1] : box[3]] += tile * fade
            advance()
        done = rows.shape[1] - 2 * below
        carried = rows[:, done:].clone()
        yield _bytes(rows[:, :done])


def _borders(length: int, core: int) -> list[int]:
    """Where cores begin and end; a last one too short for its fading belongs to the one before."""
    starts = list(range(0, length, core))
    if len(starts) > 1 and length - starts[-1] < 2 * FADE:
        starts.pop()
    return [*starts, length]


def _tile(method: Restorer, picture: np.ndarray, box: tuple[int, int, int, int], margin: int) -> Tensor:
    """The result inside `box`, (3, rows, columns) in [0, 1], from the picture around it."""
    scale, step = method.scale, method.divisor * method.scale // math.gcd(method.divisor, method.scale)
    top, left = (max(n - margin, 0) // step * step for n in box[:2])
    limits = (picture.shape[0] * scale, picture.shape[1] * scale)
    bottom, right = (-(-min(n + margin, most) // step) * step for n, most in zip(box[2:], limits, strict=True))
    cut = picture[top // scale : bottom // scale, left // scale : right // scale]
    image = from_uint8(np.ascontiguousarray(cut))[None].to(method.device)
    if method.space.colours == 1:
        image = grey(image)
    image = pad_to(image, method.divisor, scale)
    noise = method.noise((top, left, top + image.shape[-2] * scale, left + image.shape[-1] * scale))
    with torch.no_grad():
        result = method.space.decode(method.restored(image, noise))[0].cpu()
    inside = result[:, box[0] - top : box[2] - top, box[1] - left : box[3] - left]
    return inside.expand(3, -1, -1)


def _ramp(length: int, before: int, after: int) -> Tensor:
    """1 with a linear rise over 2 `before` pixels at the start and the fall that completes it at the end."""
    weight = torch.ones(length)
    rise = (torch.arange(2 * FADE) + 0.5) / (2 * FADE)
    if before:
        weight[: 2 * FADE] = rise
    if after:
        weight[-2 * FADE :] = 1 - rise
    return weight


def _bytes(rows: Tensor) -> np.ndarray:
    return rows.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
