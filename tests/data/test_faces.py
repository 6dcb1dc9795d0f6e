# SPDX-License-Identifier: Apache-2.0
"""Faces: found in photographs, aligned to fixed places, cropped by a stated rule."""

from __future__ import annotations

import math
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.data import detection
from mien.data.faces import (
    TEMPLATE,
    FaceFinder,
    FoundFace,
    align,
    crop,
    crop_box,
    crop_clip,
    find_faces,
    is_aligned,
    similarity,
    stabilised_box,
)
from mien.data.images import from_uint8, list_images, load_tensor, resize_tensor
from mien.errors import BadInput, MissingExtra

SIX = ((3.0, 3.0), (7.0, 3.0), (5.0, 5.0), (5.0, 8.0), (1.0, 4.0), (9.0, 4.0))


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    pytest.importorskip("ai_edge_litert", reason="needs the extra 'face'")
    return FaceFinder()


@pytest.fixture(scope="module")
def photograph() -> torch.Tensor:
    skimage = pytest.importorskip("skimage.data", reason="the test photograph comes with scikit-image")
    return from_uint8(skimage.astronaut())


# --- geometry: needs no network ----------------------------------------------------------------------------------


points = st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=3, max_size=6)


@given(points, points)
@settings(max_examples=100, deadline=None)
def test_similarity_is_the_least_squares_answer(source, target):
    n = min(len(source), len(target))
    source, target = np.array(source[:n]), np.array(target[:n])
    if np.abs(source - source.mean(0)).max() < 0.1:
        return
    # Independent: the same model as a linear system in (a, b, tx, ty), solved by numpy.
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, tx, ty = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    assert np.allclose(similarity(source, target), [[a, -b, tx], [b, a, ty]], atol=1e-6)


def test_similarity_refuses_what_has_no_answer():
    with pytest.raises(BadInput, match="same point"):
        similarity([(1, 1), (1, 1)], [(0, 0), (1, 1)])
    with pytest.raises(BadInput, match="2 and 3 points"):
        similarity([(1, 1), (2, 1)], [(0, 0), (1, 1), (2, 2)])


def bump(height: int, width: int, spots: list[tuple[float, float]], spread: float) -> torch.Tensor:
    """Gaussian spots centred at continuous coordinates (x, y); pixel i covers [i, i + 1)."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    image = torch.zeros(height, width)
    for cx, cy in spots:
        image = torch.maximum(image, torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * spread**2)))
    return image.expand(3, -1, -1).contiguous()


def centre(image: torch.Tensor) -> tuple[float, float]:
    """Centre of mass in continuous coordinates."""
    weight = image[0].clamp(min=0)
    y, x = torch.meshgrid(torch.arange(image.shape[1]) + 0.5, torch.arange(image.shape[2]) + 0.5, indexing="ij")
    return float((x * weight).sum() / weight.sum()), float((y * weight).sum() / weight.sum())


@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])  # the face is half, one and four times as large as the result
@pytest.mark.parametrize("degrees", [-35, 0, 20])
@pytest.mark.parametrize("margin", [0.0, 0.25])
def test_align_puts_every_landmark_in_its_place(scale, degrees, margin):
    # Fails when x and y are swapped, the turn has the wrong sign, or half a pixel is lost on the way.
    size = 96
    turn = math.radians(degrees)

    def place(point):  # from the template to the photograph
        x, y = (point[0] - 56) * scale, (point[1] - 56) * scale
        return (
            300 + x * math.cos(turn) - y * math.sin(turn),
            260 + x * math.sin(turn) + y * math.cos(turn),
        )

    landmarks = [place((0, 0))] * 6
    for at, point in zip((0, 1, 3), TEMPLATE, strict=True):
        landmarks[at] = place(point)
    for point in TEMPLATE:
        photo = bump(520, 600, [place(point)], spread=4 * scale)
        aligned = align(photo, tuple(landmarks), size, margin)
        expected = [(value / 112 + margin) / (1 + 2 * margin) * size for value in point]
        assert aligned.shape == (3, size, size)
        assert centre(aligned) == pytest.approx(expected, abs=0.15)


def test_align_of_an_aligned_face_changes_almost_nothing():
    rng = torch.Generator().manual_seed(0)
    image = resize_tensor(torch.rand(3, 28, 28, generator=rng), 112)
    landmarks = (*TEMPLATE[:2], (0.0, 0.0), TEMPLATE[2], (0.0, 0.0), (0.0, 0.0))
    assert (align(image, landmarks, 112) - image).abs().max() < 1e-4


def test_shrinking_is_antialiased():
    # A checkerboard of single pixels is grey from afar. Fails when the warp samples it without filtering.
    board = (torch.arange(400)[:, None] + torch.arange(400)[None]).remainder(2).float().expand(3, -1, -1)
    small = crop_box(board, (0, 0, 400, 400), size=57)
    assert (small[:, 2:-2, 2:-2] - 0.5).abs().max() < 0.05


def test_crop_box_cuts_the_square_around_the_centre():
    image = bump(60, 80, [(44.0, 21.0)], spread=1)
    assert centre(crop_box(image, (34, 11, 54, 31), size=40)) == pytest.approx((20, 20), abs=0.05)
    assert centre(crop_box(image, (34, 16, 44, 26), size=40, margin=0.5)) == pytest.approx((30, 20), abs=0.05)
    # At scale 1 on whole pixels nothing is resampled, and outside the image the border is repeated.
    noise = torch.rand(3, 30, 30, generator=torch.Generator().manual_seed(1))
    cut = crop_box(noise, (-5, 5, 15, 25), size=20)
    assert torch.allclose(cut[:, :, 5:], noise[:, 5:25, :15], atol=1e-4)
    assert torch.allclose(cut[:, :, 0], noise[:, 5:25, 0], atol=1e-4)


def test_geometry_refuses_bad_arguments():
    image = torch.zeros(3, 20, 20)
    with pytest.raises(BadInput, match="is empty"):
        crop_box(image, (5, 5, 5, 5))
    with pytest.raises(BadInput, match=r"shape \(20, 20\)"):
        crop_box(image[0], (0, 0, 9, 9))
    with pytest.raises(BadInput, match="size is 0"):
        align(image, SIX, 0)
    with pytest.raises(BadInput, match="5 landmarks: 6 are needed"):
        align(image, SIX[:5])
    with pytest.raises(BadInput, match="unknown crop 'atuo': did you mean 'auto'"):
        crop(image, "atuo")
    with pytest.raises(BadInput, match="score is 1"):
        FaceFinder(score=1)
    with pytest.raises(BadInput, match="levels is 9"):
        FaceFinder(levels=9)


def test_stabilised_box_is_the_median_and_ignores_strays():
    boxes = [(10, 10, 30, 30), None, (12, 10, 32, 30), (11, 10, 31, 34), (400, 400, 900, 900), (12, 11, 32, 31)]
    # Middles x: 20 22 21 650 22 -> 22; y: 20 20 22 650 21 -> 21; sides: 20 20 24 500 20 -> 20.
    assert stabilised_box(boxes) == (12.0, 11.0, 32.0, 31.0)
    assert stabilised_box([None, None]) is None
    assert stabilised_box([]) is None


def face(left: float, top: float, side: float, tilt: float = 0.0) -> FoundFace:
    x, y = left + side / 2, top + side / 2
    dx, dy = 20 * math.cos(math.radians(tilt)), 20 * math.sin(math.radians(tilt))
    eyes = ((x - dx, y - dy), (x + dx, y + dy))
    return FoundFace((left, top, left + side, top + side), (*eyes, *eyes, *eyes), 0.9)


@pytest.mark.parametrize(
    ("found", "height", "width", "expected"),
    [
        (face(15, 22, 80), 112, 112, True),
        (face(31, 31, 50), 112, 112, False),  # 44.6 % of the side: a portrait
        (face(30, 30, 51), 112, 112, True),
        (face(15, 22, 80, tilt=16), 112, 112, False),
        (face(15, 22, 80, tilt=-14), 112, 112, True),
        (face(40, 22, 80), 112, 112, False),  # 24 pixels from the middle, 22.4 are allowed
        (face(20, 30, 80), 141, 112, False),  # not square enough
        (face(16, 30, 80), 140, 112, True),
    ],
)
def test_the_rule_for_aligned_crops(found, height, width, expected):
    assert is_aligned(found, height, width) is expected


class Scripted:
    """A finder that answers from a list."""

    def __init__(self, *answers: list[FoundFace]) -> None:
        self.answers = list(answers)

    def __call__(self, image: torch.Tensor) -> list[FoundFace]:
        return self.answers.pop(0)


def test_mode_none_looks_for_nothing():
    image = torch.rand(3, 20, 30)
    answer = crop(image, "none", finder=Scripted())
    assert answer.status == "as is"
    assert answer.image is image
    assert answer.face is None


def test_no_face_is_an_answer():
    answer = crop(torch.zeros(3, 50, 50), finder=Scripted([]))
    assert (answer.status, answer.image, answer.face, answer.faces) == ("no face", None, None, 0)


def test_the_first_and_largest_face_is_taken():
    large, small = face(10, 10, 60), face(150, 150, 20)
    answer = crop(torch.rand(3, 300, 300), finder=Scripted([large, small]), size=32)
    assert answer.status == "cropped"
    assert answer.face is large
    assert answer.faces == 2
    assert answer.image.shape == (3, 32, 32)


def test_a_clip_is_cut_by_one_box():
    frames = [torch.rand(3, 200, 200) for _ in range(4)]
    script = [[face(50, 50, 40)], [], [face(54, 50, 40)], [face(52, 50, 44, tilt=30)]]
    answers = crop_clip(frames, finder=Scripted(*script), size=40, margin=0)
    assert [a.status for a in answers] == ["cropped"] * 4  # also the frame in which no face was found
    assert [a.faces for a in answers] == [1, 0, 1, 1]
    # Median middle (74, 70), median side 40: the box (54, 50, 94, 90) of every frame, at scale 1.
    for frame, answer in zip(frames, answers, strict=True):
        assert torch.allclose(answer.image, frame[:, 50:90, 54:94], atol=1e-4)
    assert [a.status for a in crop_clip(frames[:2], finder=Scripted([], []))] == ["no face", "no face"]
    ready = crop_clip(frames, finder=Scripted([face(30, 40, 140)], [], [face(0, 0, 40)], [face(30, 40, 140)]))
    assert [a.status for a in ready] == ["aligned already"] * 4
    assert all(a.image is f for a, f in zip(ready, frames, strict=True))
    assert crop_clip([], finder=Scripted()) == []


# --- the network -------------------------------------------------------------------------------------------------


def test_finds_the_face_of_a_real_photograph(finder, photograph):
    faces = find_faces(photograph, finder=finder)
    assert len(faces) == 1
    right_eye, left_eye, nose, mouth, right_ear, left_ear = faces[0].landmarks
    # Read off the photograph by eye, to about 3 pixels.
    assert right_eye == pytest.approx((203, 103), abs=6)
    assert left_eye == pytest.approx((248, 103), abs=6)
    assert mouth == pytest.approx((224, 150), abs=6)
    assert right_ear[0] < right_eye[0] < nose[0] < left_eye[0] < left_ear[0]
    assert faces[0].score > 0.7


def test_agrees_with_an_independent_detector(finder, photograph):
    # scikit-image carries a cascade of local binary patterns: another method, other weights, boxes alike.
    data, feature = pytest.importorskip("skimage.data"), pytest.importorskip("skimage.feature")
    cascade = feature.Cascade(data.lbp_frontal_face_cascade_filename())
    found = cascade.detect_multi_scale(data.astronaut(), 1.2, 1, min_size=(60, 60), max_size=(200, 200))
    left, top = found[0]["c"], found[0]["r"]
    box = (left, top, left + found[0]["width"], top + found[0]["height"])
    assert detection._overlap(finder(photograph)[0].box, box) > 0.5


def test_the_answer_moves_with_the_picture(finder, photograph):
    # Fails when padding or tiling is undone wrongly: a shift, a frame and half the size must show in the numbers.
    plain = np.array(finder(photograph)[0].landmarks)
    framed = torch.full((3, 700, 900), 0.4)
    framed[:, 100:612, 310:822] = photograph
    assert np.abs(np.array(finder(framed)[0].landmarks) - plain - [310, 100]).max() < 8
    half = torch.full((3, 512, 512), 0.4)
    half[:, 200:456, 30:286] = resize_tensor(photograph, 256)
    assert np.abs(np.array(finder(half)[0].landmarks) - plain / 2 - [30, 200]).max() < 5


def test_levels_find_smaller_faces(finder, photograph):
    small = torch.full((3, 1200, 1200), 0.4)
    small[:, 700:892, 200:392] = resize_tensor(photograph, 192)  # a face of 40 pixels, 3.4 % of the side
    assert FaceFinder(levels=0)(small) == []
    faces = FaceFinder(levels=2)(small)
    assert len(faces) == 1
    expected = (200 + 225 * 192 / 512, 700 + 121 * 192 / 512)
    box = faces[0].box
    assert ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) == pytest.approx(expected, abs=6)


def test_two_faces_come_largest_first(finder, photograph):
    image = torch.full((3, 512, 800), 0.4)
    image[:, :, :512] = photograph
    image[:, 100:356, 540:796] = resize_tensor(photograph, 256)
    faces = finder(image)
    assert len(faces) == 2
    assert faces[0].side > 1.5 * faces[1].side
    assert faces[1].box[0] > 540


def test_nothing_is_found_where_no_face_is(finder):
    data = pytest.importorskip("skimage.data")
    for name in ("coffee", "chelsea", "rocket"):
        assert finder(from_uint8(getattr(data, name)())) == [], name
    assert finder(torch.zeros(3, 40, 60)) == []
    assert finder(torch.rand(3, 1, 1)) == []
    assert crop(torch.full((3, 300, 200), 0.5), finder=finder).status == "no face"


def test_finder_is_deterministic_and_can_be_pickled(finder, photograph):
    first = finder(photograph)
    assert finder(photograph) == first
    assert pickle.loads(pickle.dumps(finder))(photograph) == first  # noqa: S301


def test_a_photograph_is_cropped_once(finder, photograph):
    first = crop(photograph, finder=finder, size=160)
    assert first.status == "cropped"
    assert first.image.shape == (3, 160, 160)
    again = finder(first.image)[0]
    eyes = [[(value / 112 + 0.25) / 1.5 * 160 for value in point] for point in TEMPLATE[:2]]
    assert again.landmarks[0] == pytest.approx(eyes[0], abs=5)
    assert again.landmarks[1] == pytest.approx(eyes[1], abs=5)
    # What was cropped is an aligned crop: a second run hands it through untouched.
    tight = align(photograph, first.face.landmarks, 112, 0.1)
    handed = crop(tight, finder=finder)
    assert handed.status == "aligned already"
    assert handed.image is tight


def test_bad_images_are_refused(finder):
    for image in (torch.zeros(1, 20, 20), torch.zeros(3, 0, 20), torch.zeros(3, 20, 20, dtype=torch.uint8)):
        with pytest.raises(BadInput, match=r"float of shape \(3, H, W\)"):
            finder(image)


@pytest.mark.parametrize("missing", ["interpreter", "weights"])
def test_the_missing_extra_is_named(monkeypatch, missing):
    if missing == "interpreter":
        monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    else:
        pytest.importorskip("ai_edge_litert")
        monkeypatch.setattr(detection.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'mien\[face\]'"):
        find_faces(torch.zeros(3, 32, 32))
    assert crop(torch.zeros(3, 32, 32), "none").status == "as is"  # needs no extra


def test_real_aligned_crops_are_handed_through(finder):
    folder = Path(os.environ.get("MIEN_DATA", "")) / "faces-id"
    if "MIEN_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("MIEN_DATA/faces-id is absent")
    paths = list_images(folder)[::25]
    answers = [crop(load_tensor(path), finder=finder) for path in paths]
    assert sum(a.status == "aligned already" for a in answers) >= 0.93 * len(answers)
    # On average the landmarks fall where the sets' own alignment put them.
    found = np.mean([np.array(a.face.landmarks)[[0, 1, 3]] for a in answers if a.face], axis=0)
    assert np.abs(found - np.array(TEMPLATE)).max() < 3
    # The same faces laid on a grey photograph are found where they were put, to 3 of 112 pixels.
    distances = []
    for path in paths[:12]:
        photo = torch.full((3, 400, 500), 0.5)
        photo[:, 120:232, 250:362] = load_tensor(path)
        answer = crop(photo, finder=finder, size=112, margin=0.0)
        assert answer.status == "cropped"
        distances.append(np.array(answer.face.landmarks)[[0, 1, 3]] - [250, 120] - np.array(TEMPLATE))
    assert np.median(np.hypot(*np.array(distances).reshape(-1, 2).T)) < 3
