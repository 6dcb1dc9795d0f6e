# SPDX-License-Identifier: Apache-2.0
"""Pictures of 256 colours: charts need a third of the space, and even areas keep their colour to the bit.

Pillow's own quantisation shifts even areas by a few levels, so that a chart's paper is no longer that of its page.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.distance import cdist


def of_few_colours(pixels: NDArray[np.uint8]) -> Image.Image:
    """The picture (H, W, 3) with its 256 most frequent colours; the others become the nearest of them.

    >>> of_few_colours(np.array([[[9, 0, 0], [0, 200, 0]]], np.uint8)).convert("RGB").getpixel((1, 0))
    (0, 200, 0)
    """
    packed = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    colours, place, count = np.unique(packed, return_inverse=True, return_counts=True)
    found = np.stack([colours >> 16 & 255, colours >> 8 & 255, colours & 255], axis=1)
    kept = found[np.argsort(-count, kind="stable")[:256]]
    nearest = cdist(found, kept, "sqeuclidean").argmin(axis=1).astype(np.uint8)
    image = Image.fromarray(nearest[place].reshape(packed.shape))
    image.putpalette(kept.astype(np.uint8).tobytes())
    return image
