# SPDX-License-Identifier: Apache-2.0
"""Procedural people: the same pixels for the same seed however cut, factors that do what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F

from mien.data.blur import gaussian_blur
from mien.data.draws import item_seeds, normals, uniforms
from mien.data.people import EXPRESSIONS, LANDMARKS, MODALITIES, REGIONS, render_faces, sample_people
from mien.data.people_factors import IDENTITY, IMAGE
from mien.errors import BadInput

FRONTAL = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0, "shift_x": 0.0, "shift_y": 0.0}


@pytest.fixture(scope="module")
def people():
    return sample_people(12, seed=4)


# --- draws ---


def test_draws_belong_to_seed_item_and_name():
    """Fails if an item's numbers depend on what else is drawn, or two names, items or seeds share them."""
    seeds = item_seeds(3, range(1000), "a")
    assert np.array_equal(item_seeds(3, [17], "a"), seeds[17:18])
    assert np.array_equal(uniforms(seeds[40:41], "x", 3)[:, :2], uniforms(seeds, "x", 2)[40:41])
    drawn = [uniforms(item_seeds(s, range(1000), n), q)[:, 0] for s in (3, 4) for n in "ab" for q in "xy"]
    correlation = np.corrcoef(drawn) - np.eye(8)
    assert np.abs(correlation).max() < 0.15  # 4.7 deviations of 1 / sqrt(1000)
    assert np.abs(np.corrcoef(drawn[0][:-1], drawn[0][1:])[0, 1]) < 0.15


def test_uniforms_fill_the_unit_interval_and_normals_are_normal():
    flat = uniforms(item_seeds(0, range(20000)), "x")[:, 0]
    assert flat.min() >= 0
    assert flat.max() < 1
    assert np.abs(np.histogram(flat, 10, (0, 1))[0] - 2000).max() < 200  # 4.7 deviations of 42
    field = normals(item_seeds(0, range(3)), "n", (64, 64))
    assert np.abs(field.mean(axis=(1, 2))).max() < 0.07
    assert np.abs(field.std(axis=(1, 2)) - 1).max() < 0.05
    assert np.abs(np.corrcoef(field.reshape(3, -1)) - np.eye(3)).max() < 0.07
    assert np.abs(field).max() < 3.47
    # The shorter field is the start of the longer one, odd lengths included.
    assert np.array_equal(normals(item_seeds(0, range(3)), "n", (7,)), field.reshape(3, -1)[:, :7])


def test_negative_seeds_and_items_are_refused():
    with pytest.raises(BadInput, match="seed is -1"):
        item_seeds(-1, [0])
    with pytest.raises(BadInput, match="item -2"):
        item_seeds(0, [3, -2])


def test_blur_has_the_deviation_it_is_given():
    """The second moment of a blurred point is the square of the deviation (a little less: it is cut off)."""
    point = np.zeros((3, 1, 41, 41), dtype=np.float32)
    point[:, 0, 20, 20] = 1
    out = gaussian_blur(point, np.array([0.0, 1.5, 3.0], dtype=np.float32))[:, 0]
    assert np.array_equal(out[0], point[0, 0])
    assert np.allclose(out.sum(axis=(1, 2)), 1, atol=1e-5)
    moment = (out.sum(axis=1) * (np.arange(41) - 20.0) ** 2).sum(axis=1)
    assert np.allclose(np.sqrt(moment[1:]), [1.5, 3.0], rtol=0.08)


# --- the same pixels ---


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("size", [32, 45])  # 45: rows that do not fill whole vector registers
def test_same_seed_same_pixels_however_the_batch_is_cut(people, modality, size):
    """Fails if any number of an image depends on its neighbours, its place in the batch, or a global generator."""
    index = np.arange(70) % len(people)
    seeds = item_seeds(9, np.arange(70), "picture")
    whole, factors = render_faces(people, index, 9, size=size, modality=modality)
    torch.rand(5)  # global generators must not matter
    np.random.rand(5)
    assert np.array_equal(whole, render_faces(people, index, 9, size=size, modality=modality)[0])
    assert whole.dtype == np.float32
    assert whole.min() >= 0
    assert whole.max() <= 1
    for start, stop in ((0, 1), (1, 3), (3, 40), (40, 69), (69, 70)):
        rows = slice(start, stop)
        part, few = render_faces(people, index[rows], seeds[rows], size=size, modality=modality)
        assert np.array_equal(part, whole[rows])
        assert np.array_equal(few.landmarks, factors.landmarks[rows])
        for name in REGIONS:
            assert np.array_equal(few.masks[name], factors.masks[name][rows]), name
    bare, none = render_faces(people, index[:3], 9, size=size, modality=modality, masks=False)
    assert np.array_equal(bare, whole[:3])
    assert none.masks == {}


def test_another_seed_gives_other_people_and_other_pictures(people):
    first, _ = render_faces(people, [0, 1], 0, size=32)
    assert np.abs(first - render_faces(people, [0, 1], 1, size=32)[0]).mean() > 0.02
    others = sample_people(12, seed=5)
    assert np.abs(first - render_faces(others, [0, 1], 0, size=32)[0]).mean() > 0.02


def test_first_people_do_not_change_when_more_are_asked_for(people):
    more = sample_people(50, seed=4)
    assert np.array_equal(more.seeds[:12], people.seeds)
    for name in IDENTITY:
        assert np.array_equal(more.values[name][:12], people.values[name]), name
    few, _ = render_faces(people, [3, 7], 2, size=32)
    assert np.array_equal(few, render_faces(more, [3, 7], 2, size=32)[0])
    assert np.array_equal(few, render_faces(more.take([3, 7]), [0, 1], 2, size=32)[0])
    assert np.array_equal(few, render_faces(more.take([3, 7]), [0, 1], item_seeds(2, [0, 1], "picture"), size=32)[0])


# --- identity ---


def test_identities_are_not_readable_from_one_pixel_and_modestly_from_thumbnails():
    """Chance is 0.05. Fails if some pixel gives people away, or if a person's pictures have nothing in common."""
    count, train, test = 20, 40, 20
    index = np.arange(count).repeat(train + test)
    images, _ = render_faces(sample_people(count, 0), index, 0, masks=False)
    seen = np.tile(np.arange(train + test) < train, count)
    pixels = images.reshape(len(images), 3, -1)[:, :, ::5]  # every fifth place, its three colours
    means = np.stack([pixels[seen & (index == k)].mean(axis=0) for k in range(count)])
    gaps = np.stack([((pixels[~seen] - mean) ** 2).sum(axis=1) for mean in means])  # (people, pictures, places)
    single = (gaps.argmin(axis=0) == index[~seen][:, None]).mean(axis=0).max()
    small = F.adaptive_avg_pool2d(torch.from_numpy(images), 12).flatten(1).numpy()
    nearest = KNeighborsClassifier(1).fit(small[seen], index[seen]).score(small[~seen], index[~seen])
    print(single, nearest)
    assert single < 0.30, f"one pixel tells {single:.0%} of 20 people"
    assert 0.15 < nearest < 0.70, f"thumbnails tell {nearest:.0%} of 20 people"


# --- factors, landmarks, masks ---


def test_factors_are_reported_and_stay_in_their_ranges(people):
    index = np.arange(200) % 12
    _, factors = render_faces(people, index, 0, size=16, masks=False)
    assert np.array_equal(factors.identity, index)
    assert set(factors.values) == set(IDENTITY) | set(IMAGE)
    for name, (low, high, _) in IMAGE.items():
        assert low <= factors.values[name].min() < factors.values[name].max() <= high, name
    for name in IDENTITY:  # a person's factors stay in all pictures
        assert np.array_equal(factors.values[name], people.values[name][index]), name
    assert set(factors.expression.tolist()) == set(range(len(EXPRESSIONS)))


def test_given_factors_are_kept_and_change_nothing_else(people):
    _, free = render_faces(people, [0, 1, 2], 0, size=32)
    _, given = render_faces(people, [0, 1, 2], 0, size=32, yaw=[1.0, 2.0, 3.0], expression=["fear", "anger", "neutral"])
    assert given.values["yaw"].tolist() == [1.0, 2.0, 3.0]
    assert given.expression.tolist() == [3, 1, 0]
    assert all(np.array_equal(free.values[n], given.values[n]) for n in free.values if n != "yaw")


def test_roll_zoom_and_size_move_landmarks_as_the_plane_says(people):
    """Fails if landmarks and factors disagree: the expected points come from a rotation matrix."""
    index = [0, 1, 2, 3]
    base = {**FRONTAL, "zoom": 0.8}
    middle = np.array([32.0, 32.0])
    flat = render_faces(people, index, 0, **base)[1].landmarks - middle
    angle = np.radians(11.0)
    clockwise = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])  # y points down
    rolled = render_faces(people, index, 0, **{**base, "roll": 11.0})[1].landmarks - middle
    assert np.allclose(rolled, flat @ clockwise.T, atol=1e-3)
    small = render_faces(people, index, 0, **{**base, "zoom": 0.6})[1].landmarks - middle
    assert np.allclose(small, flat * 0.75, atol=1e-3)
    shifted = render_faces(people, index, 0, **{**base, "shift_x": 0.1, "shift_y": -0.05})[1].landmarks - middle
    assert np.allclose(shifted, flat + np.array([3.2, -1.6]), atol=1e-3)
    assert np.allclose(render_faces(people, index, 0, size=128, **base)[1].landmarks, 2 * (flat + middle), atol=1e-3)


def test_landmarks_lie_in_the_masks_they_name(people):
    """Fails if points and painted regions part ways, at any pose."""
    index = np.arange(48) % 12
    _, factors = render_faces(people, index, 5, size=96)
    at = {name: factors.landmarks[:, i] for i, name in enumerate(LANDMARKS)}
    y, x = np.mgrid[:96, :96] + 0.5

    def centre(mask):
        total = mask.sum(axis=(1, 2))
        assert (total > 3).all()
        return np.stack(((mask * x).sum(axis=(1, 2)), (mask * y).sum(axis=(1, 2))), axis=1) / total[:, None]

    def away(points, others):
        return np.linalg.norm(points - others, axis=1)

    eyes = (at["left_eye"] + at["right_eye"]) / 2
    span = away(at["left_eye"], at["right_eye"])
    near = 0.25 * np.median(span)
    assert np.median(away(centre(factors.masks["eyes"]), eyes)) < near
    lips = (at["lip_top"] + at["lip_bottom"]) / 2
    assert away(centre(factors.masks["lips"]), lips).max() < near
    nose = (at["nose_root"] + at["nose_tip"]) / 2
    assert away(centre(factors.masks["nose"]), nose).max() < 0.4 * np.median(span)
    assert (centre(factors.masks["brows"])[:, 1] < eyes[:, 1]).mean() > 0.95  # above the eyes
    for name in ("nose_tip", "left_eye", "right_eye", "lip_top"):
        column, row = np.floor(at[name]).astype(int).clip(0, 95).T
        assert (factors.masks["face"][np.arange(48), row, column] > 0.5).mean() > 0.9, name
    for name, mask in factors.masks.items():
        assert mask.min() >= 0, name
        assert mask.max() <= 1, name
    features = factors.masks["lips"] + factors.masks["eyes"]
    assert (features.max(axis=(1, 2)) > 0.5).all()
    assert (features * (1 - factors.masks["face"])).sum() < 0.1 * features.sum()  # on the face


def test_factors_do_what_they_say(people):
    """Each is measured in the pixels or points, with everything else held."""
    index = np.arange(12)

    def face(**given):
        images, factors = render_faces(people, index, 1, size=64, **{**FRONTAL, "expression": "neutral", **given})
        return images, factors

    def brightness(images, factors):
        mask = factors.masks["face"]
        return (images.mean(axis=1) * mask).sum(axis=(1, 2)) / mask.sum(axis=(1, 2))

    assert (brightness(*face(skin_tone=0.05)) > brightness(*face(skin_tone=0.95)) + 0.1).all()
    assert (brightness(*face(gain=1.2)) > brightness(*face(gain=0.75))).all()

    def corners(**given):  # corners of the mouth against the lips' middle, in pixels; below 0 is up
        points = face(**given)[1].landmarks
        return points[:, 3:5, 1].mean(axis=1) - points[:, 16:18, 1].mean(axis=1)

    assert (corners(expression="happiness", intensity=1.0) < corners(expression="sadness", intensity=1.0) - 1).all()

    def opened(**given):
        points = face(**given)[1].landmarks
        return points[:, 17, 1] - points[:, 16, 1]

    assert (opened(expression="surprise", intensity=1.0) > opened(intensity=1.0) + 1).all()
    turned, straight = face(yaw=30.0)[1].landmarks, face()[1].landmarks
    assert (turned[:, 2, 0] > straight[:, 2, 0] + 3).all()  # the nose goes to the right of the image

    def lit(**given):  # right half of the face minus its left half
        images, factors = face(ambient=0.45, **given)
        light = images.mean(axis=1) * factors.masks["face"]
        return light[:, :, 32:].sum(axis=(1, 2)) - light[:, :, :32].sum(axis=(1, 2))

    assert (lit(light_x=1.0) > lit(light_x=-1.0)).all()

    def pupils(**given):  # how far to the right the dark of the eyes lies
        images, factors = face(gaze_y=0.0, blur=0.0, noise=0.003, **given)
        dark = factors.masks["eyes"] * (1 - images.mean(axis=1))
        return (dark * np.arange(64)).sum(axis=(1, 2)) / dark.sum(axis=(1, 2))

    assert (pupils(gaze_x=1.0) > pupils(gaze_x=-1.0)).mean() > 0.9
    sharp, soft = (face(blur=b, noise=0.003)[0] for b in (0.0, 0.75))
    assert (
        np.abs(np.diff(sharp, axis=3)).mean(axis=(1, 2, 3)) > np.abs(np.diff(soft, axis=3)).mean(axis=(1, 2, 3))
    ).all()


# --- modalities ---


def test_modalities_show_one_scene_in_three_ways(people):
    index = np.arange(24) % 12
    seen = {m: render_faces(people, index, 3, modality=m) for m in MODALITIES}
    visible, factors = seen["visible"]
    assert np.abs(visible[:, 0] - visible[:, 2]).mean() > 0.03  # coloured
    for name in ("near-infrared", "sketch"):
        images, others = seen[name]
        assert np.array_equal(images[:, 0], images[:, 1])
        assert np.array_equal(images[:, 0], images[:, 2])
        assert np.array_equal(others.landmarks, factors.landmarks)
        assert all(np.array_equal(others.masks[r], factors.masks[r]) for r in REGIONS)
    assert np.median(seen["sketch"][0][:, 0, :4, :4]) > 0.9  # paper where the background was

    def skin(images):
        mask = factors.masks["face"]
        return (images.mean(axis=1) * mask).sum(axis=(1, 2)) / mask.sum(axis=(1, 2))

    # Near-infrared light sees little of the skin's tone: its spread over people shrinks.
    assert np.std(skin(seen["near-infrared"][0])) < 0.7 * np.std(skin(visible))


# --- bad input ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": [0, 12]}, "there are 12"),
        ({"index": [[0]]}, "index has shape"),
        ({"size": 8}, "size is 8"),
        ({"modality": "thermal"}, "thermal"),
        ({"expression": "joy"}, "joy"),
        ({"expression": 7}, "use 0 to 6"),
        ({"yaww": 1.0}, "yaw"),
        ({"yaw": float("nan")}, "not finite"),
        ({"yaw": [1.0, 2.0, 3.0]}, "one for each of the 2"),
        ({"seed": np.zeros(3, dtype=np.uint64)}, "seed has shape"),
    ],
)
def test_bad_input_is_named(people, change, message):
    with pytest.raises(BadInput, match=message):
        render_faces(people, **{"index": [0, 1], "seed": 0, **change})


def test_no_people_are_refused_and_no_pictures_are_fine(people):
    with pytest.raises(BadInput, match="identities is 0"):
        sample_people(0, 0)
    images, factors = render_faces(people, [], 0)
    assert images.shape == (0, 3, 64, 64)
    assert len(factors) == 0
