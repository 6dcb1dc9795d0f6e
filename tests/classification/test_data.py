# SPDX-License-Identifier: Apache-2.0
"""Labelled images as samples: labels that follow their images, what augmentation may do, crops of the middle."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional

from mien.classification.data import ClassData, LabelledImages, middle_view, without_copies
from mien.errors import BadInput

GENERATOR = torch.Generator().manual_seed(0)


def some(labels, classes="abcd", size=8):
    images = torch.randint(0, 256, (len(labels), 3, size, size), dtype=torch.uint8, generator=GENERATOR)
    names = tuple(f"image {i}" for i in range(len(labels)))
    return ClassData(images, torch.tensor(labels, dtype=torch.long), tuple(classes), names, "made here")


def by_name(data):
    """Name -> (class, pixels): what must survive every change of order and numbering."""
    rows = zip(data.names, data.label.tolist(), data.images, strict=True)
    return {name: (data.classes[label], image.numpy().tobytes()) for name, label, image in rows}


# --- subsets and classes ------------------------------------------------------------------------------------------
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_leaving_classes_out_keeps_the_class_of_every_other_image(drawn):
    labels = drawn.draw(st.lists(st.integers(0, 3), min_size=1, max_size=12))
    dropped = drawn.draw(st.lists(st.sampled_from("abcd"), unique=True, max_size=3))
    data = some(labels)
    left = data.without(dropped)
    assert by_name(left) == {name: row for name, row in by_name(data).items() if row[0] not in dropped}
    assert left.classes == tuple(c for c in "abcd" if c not in dropped)
    back = left.relabelled("dcbax")
    assert by_name(back) == by_name(left)
    assert back.classes == tuple("dcbax")


def test_a_subset_takes_rows_in_their_order():
    data = some([0, 1, 2, 3])
    part = data.subset([2, 0])
    assert part.names == ("image 2", "image 0")
    assert part.label.tolist() == [2, 0]
    assert torch.equal(part.images, data.images[[2, 0]])
    assert len(data.subset([])) == 0


def test_classes_that_are_not_there():
    data = some([0, 1])
    with pytest.raises(BadInput, match="unknown class 'aa'"):
        data.without(["aa"])
    with pytest.raises(BadInput, match="unknown class 'd'"):
        data.relabelled("abc")


def test_hashes_are_of_pixels_or_of_files(tmp_path):
    data = some([0, 1, 0])
    assert data.hashes() == [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in data.images]
    files = []
    for i in range(2):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(np.full((4, 4, 3), i, dtype=np.uint8)).save(files[-1])
    on_disk = ClassData(files, torch.tensor([0, 1]), ("a", "b"), ("0", "1"), "files")
    assert on_disk.hashes() == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert on_disk.subset([1]).images == [files[1]]


def test_copies_of_test_images_are_left_out_and_counted():
    train, test = some([0, 1, 2, 3, 0]), some([1, 2])
    test.images[0], test.images[1] = train.images[3], train.images[1]
    test = ClassData(test.images, test.label, test.classes, ("t0", "t1"), "test")
    kept = without_copies(train, lambda: test)
    assert kept.names == ("image 0", "image 2", "image 4")
    assert kept.label.tolist() == [0, 2, 0]
    assert kept.description == "made here without 2 copies of test images"
    assert without_copies(train, lambda: some([1])) is train, "other images: nothing to leave out"
    assert without_copies(train, lambda: train) is train, "data in one piece are both parts"

    def none():
        raise BadInput("no test part")

    assert without_copies(train, none) is train


# --- samples ------------------------------------------------------------------------------------------------------
def test_a_sample_without_augmentation_is_the_image_itself():
    data = some([2, 0])
    sample = LabelledImages(data, 8)[1]
    assert torch.equal(sample.image, data.images[1].float() / 255)
    assert (sample.label, sample.group, sample.path) == (0, "image 1", "image 1")
    assert not LabelledImages(data, 8).seeded
    assert LabelledImages(data, 16)[0].image.shape == (3, 16, 16)


def test_files_are_opened_and_resized(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(np.full((10, 20, 3), (255, 0, 51), dtype=np.uint8)).save(file)
    data = ClassData([file], torch.tensor([1]), ("a", "b"), (str(file),), "a file")
    sample = LabelledImages(data, 8)[0]
    assert torch.allclose(sample.image, torch.tensor([1.0, 0.0, 0.2])[:, None, None].expand(3, 8, 8), atol=1e-6)
    assert sample.label == 1


def shifted(image, pad):
    """All crops of the image with `pad` black pixels around it."""
    size = image.shape[-1]
    wide = torch.zeros(3, size + 2 * pad, size + 2 * pad)
    wide[:, pad : pad + size, pad : pad + size] = image
    return [wide[:, y : y + size, x : x + size] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]


@pytest.mark.parametrize("augment", ["shift", "shift_flip"])
def test_shifts_are_crops_of_the_padded_image_and_only_flips_are_mirrored(augment):
    data = some([0], size=16)
    image = data.images[0].float() / 255
    samples = LabelledImages(data, 16, augment)
    assert samples.seeded
    upright, mirrored = (shifted(view, 2) for view in (image, image.flip(-1)))
    torch.manual_seed(0)
    seen, flips = set(), 0
    for _ in range(80):
        found = samples[0].image
        at = [i for i, view in enumerate(upright) if torch.equal(found, view)]
        if not at:
            at = [i for i, view in enumerate(mirrored) if torch.equal(found, view)]
            flips += 1
        assert len(at) == 1
        seen.add(at[0])
    assert len(seen) > 15, "all directions are drawn from"
    assert (20 < flips < 60) if augment == "shift_flip" else flips == 0
    torch.manual_seed(5)
    first = samples[0].image
    torch.manual_seed(5)
    assert torch.equal(samples[0].image, first)
    assert torch.equal(samples.plain()[0].image, image)


def test_resized_cuts_out_of_the_whole_image():
    """A ramp stays a ramp when it is cut and enlarged; what is cut out is of the full resolution."""
    ramp = torch.arange(64, dtype=torch.uint8).mul(4).expand(3, 64, 64)[None].contiguous()
    data = ClassData(ramp, torch.tensor([0]), ("a", "b"), ("ramp",), "ramp")
    torch.manual_seed(0)
    samples = LabelledImages(data, 16, "resized", crop=0.875)
    spans, falling = [], 0
    for _ in range(40):
        row = samples[0].image[0, 0]
        step = row.diff()
        assert bool((step >= -1e-6).all()) or bool((step <= 1e-6).all())
        falling += bool(step.sum() < 0)
        spans.append(float(row.max() - row.min()))
    assert samples[0].image.shape == (3, 16, 16)
    assert 8 < falling < 32
    assert min(spans) < 0.4 < 0.8 < max(spans)
    assert samples.plain()[0].image.shape == (3, 16, 16)


@pytest.mark.parametrize(("height", "width"), [(30, 47), (61, 33), (40, 40)])
def test_the_middle_view_is_that_of_torchvision(height, width):
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    resized = functional.resize(image, [32], antialias=True)
    assert torch.equal(middle_view(image, 28, 0.875), functional.center_crop(resized, [28, 28]))


def test_the_middle_view_is_the_middle_square_of_the_resized_image():
    image = torch.zeros(3, 40, 80)
    image[:, :, 20:60] = 1  # the middle square
    assert torch.allclose(middle_view(image, 16, 1.0)[:, :, 1:-1], torch.ones(3, 16, 14), atol=1e-6)
    inner = middle_view(image, 14, 0.7)  # resized to 20 pixels, the middle 14 of them
    assert torch.allclose(inner, torch.ones(3, 14, 14), atol=1e-6)
    ramp = torch.arange(28.0).expand(3, 28, 28).contiguous() / 28
    assert torch.allclose(middle_view(ramp, 14, 0.5), ramp[:, 7:21, 7:21], atol=1e-6)
    assert LabelledImages(some([0]), 8, crop=0.875)[0].image.shape == (3, 8, 8)


def test_an_unknown_augmentation_is_one_line():
    with pytest.raises(BadInput, match="augment is 'flip': use none, shift, shift_flip or resized"):
        LabelledImages(some([0]), 8, "flip")
