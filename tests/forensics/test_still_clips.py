# SPDX-License-Identifier: Apache-2.0
"""Clips from stills: one warp per frame, smooth motion, alike for a face and its forgeries; flicker alone changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.data.draws import item_seeds
from mien.errors import BadInput
from mien.forensics.clips.stills import CLIP_KINDS, SHIFT, StillClips, camera, moved, smooth_path, still_clips
from mien.forensics.opening import generated_people


@pytest.fixture(scope="module")
def clips():
    faces, people = generated_people(range(3), 4)
    return StillClips(faces, people, 64, 6, seed=5)


def test_moving_by_whole_pixels_is_cutting_out():
    image = torch.rand(2, 3, 20, 24)
    shift = torch.tensor([[2.0, -3.0], [0.0, 0.0]])
    found = moved(image, shift, 8)
    torch.testing.assert_close(found[0], image[0, :, 6 - 3 : 14 - 3, 8 + 2 : 16 + 2])
    torch.testing.assert_close(found[1], image[1, :, 6:14, 8:16])


def test_half_a_pixel_is_the_mean_of_two():
    image = torch.rand(1, 3, 12, 12)
    found = moved(image, torch.tensor([[0.5, 0.0]]), 6)
    torch.testing.assert_close(found[0], (image[0, :, 3:9, 3:9] + image[0, :, 3:9, 4:10]) / 2)


def test_smaller_pictures_are_enlarged():
    ramp = torch.linspace(0, 1, 8).expand(1, 3, 8, 8)
    found = moved(ramp, torch.zeros(1, 2), 16)
    assert found.shape == (1, 3, 16, 16)
    assert bool((found[0, 0, 0].diff() >= 0).all())


def test_paths_are_smooth_and_bounded():
    path = smooth_path(item_seeds(1, range(200), "x"), "motion", 64, 2.0, 2)
    assert path.shape == (200, 64, 2)
    assert float(path.abs().max()) <= 2
    # Two waves of at most 0.9 cycles in a clip: no step is larger than their greatest slope.
    assert float(path.diff(dim=1).abs().max()) <= 2 * 2 * np.pi * 0.9 / 64
    assert float(path.std(dim=1).mean()) > 0.1


def test_stills_of_a_batch_are_moved_alike_and_repeatably():
    images = torch.rand(3, 3, 40, 40)
    found = still_clips(images, 5, 32)
    assert found.shape == (3, 5, 3, 32, 32)
    assert torch.equal(found[1:2], still_clips(images[1:2], 5, 32))
    assert not torch.equal(found[0, 0], found[0, 1])
    assert still_clips(images[:0], 5, 32).shape == (0, 5, 3, 32, 32)


def test_the_camera_follows_from_its_seed():
    scene = torch.rand(1, 3, 60, 60).expand(6, -1, -1, -1)
    first = camera(scene, 3, 48)
    assert torch.equal(first, camera(scene, 3, 48))
    assert not torch.equal(first, camera(scene, 4, 48))
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1


def test_what_is_in_the_set(clips):
    assert len(clips) == 12 * (1 + len(CLIP_KINDS))
    for kind in ("real", *CLIP_KINDS):
        assert clips.kinds.count(kind) == 12
    sample = clips[0]
    assert sample.image.shape == (6, 3, 64, 64)
    assert (sample.label, sample.kind, sample.mask) == (0, "real", None)
    by_unit = {}
    for unit, kind, group in zip(clips.units, clips.kinds, clips.groups, strict=True):
        by_unit.setdefault(unit, set()).add((kind, group))
    assert all(len(members) == 1 for members in by_unit.values())


def test_a_forgery_is_filmed_like_its_original(clips):
    """Outside the face nothing differs, so motion, light and noise are the same."""
    for index, kind in enumerate(clips.kinds):
        if kind == "real":
            continue
        real = next(i for i in range(len(clips)) if clips.kinds[i] == "real" and clips.items[i] == clips.items[index])
        difference = (clips[index].image - clips[real].image).abs().amax(dim=(0, 1))
        assert float(difference.max()) > 0.01
        if kind == "region-edit":
            assert float((difference < 1e-6).float().mean()) > 0.2


def test_flicker_changes_from_frame_to_frame_and_the_rest_do_not(clips):
    """The energy between frames, with the motion taken out by comparing with the original."""
    energy = {}
    for index, kind in enumerate(clips.kinds):
        if kind == "real":
            continue
        real = next(i for i in range(len(clips)) if clips.kinds[i] == "real" and clips.items[i] == clips.items[index])
        added = clips[index].image - clips[real].image
        energy.setdefault(kind, []).append(float(added.mean(dim=(1, 2, 3)).diff().abs().mean()))
    mean = {kind: np.mean(values) for kind, values in energy.items()}
    assert mean["flicker"] > 4 * max(value for kind, value in mean.items() if kind != "flicker")


def test_training_films_anew_and_testing_does_not(clips):
    faces, people = generated_people(range(2), 2)
    training = StillClips(faces, people, 64, 4, training=True, kinds=("swap",))
    torch.manual_seed(0)
    first = training[0].image
    assert not torch.equal(first, training[0].image)
    torch.manual_seed(0)
    assert torch.equal(first, training[0].image)
    assert torch.equal(clips[3].image, clips[3].image)
    assert float(SHIFT) > 0


def test_bad_input():
    with pytest.raises(BadInput, match="at least 1"):
        StillClips(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), ["a", "b"], 32, 0)
