# SPDX-License-Identifier: Apache-2.0
"""Views: shapes, ranges, what each operation does, and that chance is the global generator's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from mien.faces import views
from mien.faces.views import CHANGES, GREY, RANGES, affine, cut_out, sized, strong, weak


def picture(size=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.arange(size).float() * 200 / size
    return (ramp + 40 * torch.rand(3, size, size, generator=generator)).byte()


def pil(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def back(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_the_fourteen_operations_keep_shape_and_type_at_both_ends_of_their_range():
    assert len(RANGES) == 14
    assert set(RANGES) == set(CHANGES)
    for name, (low, high) in RANGES.items():
        for strength in (low, high - 1e-6):
            changed = CHANGES[name](picture(), strength)
            assert changed.dtype == torch.uint8
            assert changed.shape == (3, 24, 24), name


@pytest.mark.parametrize(
    ("name", "strength", "theirs", "levels"),
    [
        ("auto contrast", 0, ImageOps.autocontrast, 1),
        ("equalise", 0, ImageOps.equalize, 1),
        ("identity", 0, lambda i: i, 0),
        ("posterise", 4.9, lambda i: ImageOps.posterize(i, 4), 0),
        ("solarise", 100, lambda i: ImageOps.solarize(i, 100), 0),
        ("solarise", 256, lambda i: i, 0),
        ("brightness", 0.3, lambda i: ImageEnhance.Brightness(i).enhance(0.3), 1),
        ("colour", 0.3, lambda i: ImageEnhance.Color(i).enhance(0.3), 1),
        ("contrast", 0.3, lambda i: ImageEnhance.Contrast(i).enhance(0.3), 1),
        ("sharpness", 0.3, lambda i: ImageEnhance.Sharpness(i).enhance(0.3), 1),
    ],
)
def test_colours_change_as_in_pillow(name, strength, theirs, levels):
    image = picture()
    found = CHANGES[name](image, strength).int()
    assert int((found - back(theirs(pil(image))).int()).abs().max()) <= levels


def test_shapes_move_where_they_should():
    dot = torch.zeros(3, 21, 21, dtype=torch.uint8)
    dot[:, 10, 5] = 255

    def place(image):
        return np.argwhere(image[0].numpy() == image[0].max().item())[0].tolist()

    assert place(affine(dot, shift=(2 / 21, 0.0))) == [10, 7]
    assert place(affine(dot, shift=(0.0, -3 / 21))) == [7, 5]
    assert place(CHANGES["translate x"](dot, -2 / 21)) == [10, 3]
    assert abs(place(affine(dot, angle=90.0))[1] - 10) <= 1
    high = torch.zeros(3, 21, 21, dtype=torch.uint8)
    high[:, 0, 10] = 255  # 10 rows above the middle: a slope of 0.3 moves it by 3 columns
    assert abs(place(CHANGES["shear x"](high, 0.3))[1] - 10) == 3
    assert place(CHANGES["shear x"](high, 0.3))[0] == 0
    side = high.transpose(1, 2).contiguous()
    assert abs(place(CHANGES["shear y"](side, 0.3))[0] - 10) == 3


def test_the_grey_square_is_no_larger_than_asked_for():
    image = torch.full((3, 40, 40), 7, dtype=torch.uint8)
    sizes = []
    for seed in range(60):
        torch.manual_seed(seed)
        mask = (cut_out(image, 0.5) == torch.tensor(GREY, dtype=torch.uint8)[:, None, None]).all(dim=0)
        rows, columns = mask.any(dim=1).sum(), mask.any(dim=0).sum()
        assert int(mask.sum()) == int(rows * columns), "a rectangle"
        sizes.append((int(rows), int(columns)))
    assert max(max(size) for size in sizes) == 20
    assert min(min(size) for size in sizes) < 20, "cut off where its centre is near the edge"
    assert torch.equal(cut_out(image, 0.0), image)


def test_weak_views_are_crops_and_mirrors():
    image = picture(32)
    plain = image.float() / 255
    kinds = set()
    for seed in range(40):
        torch.manual_seed(seed)
        view = weak(sized(image, 32))
        assert view.shape == (3, 32, 32)
        assert view.dtype == torch.float32
        if torch.equal(view, plain):
            kinds.add("plain")
        elif torch.equal(view, plain.flip(2)):
            kinds.add("mirror")
        else:
            inner = [torch.nn.functional.pad(f, (1, 1, 1, 1)) for f in (plain, plain.flip(2))]
            shifts = [(y, x) for y in range(3) for x in range(3)]
            assert any(torch.equal(view, f[:, y : y + 32, x : x + 32]) for f in inner for y, x in shifts)
            kinds.add("crop")
    assert kinds == {"plain", "mirror", "crop"}
    assert weak(sized(image, 16)).shape == (3, 16, 16)


def test_a_strong_view_goes_through_three_operations_under_the_global_seed(monkeypatch):
    used = []
    for name in CHANGES:
        monkeypatch.setitem(
            views.CHANGES, name, lambda image, strength, name=name: used.append((name, strength)) or image
        )
    torch.manual_seed(3)
    strong(picture())
    first = list(used)
    assert len(first) == 3
    for name, strength in first:
        low, high = RANGES[name]
        assert low <= strength <= high
    used.clear()
    torch.manual_seed(3)
    strong(picture())
    assert used == first
