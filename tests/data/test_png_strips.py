# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mien.data.png_strips import PNGStrips


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_pillow_reads_what_was_written_in_any_strips(height: int, width: int, strip: int, seed: int):
    """Fails when a filter, a checksum or a chunk is wrong, or when strips do not fit together."""
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    with PNGStrips(file, width, height) as png:
        for start in range(0, height, strip):
            png.write(picture[start : start + strip])
    file.seek(0)
    with Image.open(file) as image:
        image.load()
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), picture)


def test_missing_rows_and_wrong_rows_are_errors():
    with pytest.raises(ValueError, match="1 of 2 rows"), PNGStrips(io.BytesIO(), 3, 2) as png:
        png.write(np.zeros((1, 3, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"), PNGStrips(io.BytesIO(), 3, 2) as png:
        png.write(np.zeros((1, 4, 3), np.uint8))
