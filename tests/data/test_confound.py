# SPDX-License-Identifier: Apache-2.0
"""The confound check finds planted confounds, leaves clean forgeries alone, and never scores people it trained on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mien.data.confound import _interval, _scores, _splits, confound_report, thumbnails
from mien.data.forge_pairs import KINDS, PairedForgeries
from mien.data.people import render_faces, sample_people
from mien.errors import BadInput


@pytest.fixture(scope="module")
def faces():
    images, factors = render_faces(sample_people(24, 0), np.arange(240) % 24, 0, size=64, masks=False)
    points = torch.from_numpy(factors.landmarks[:, :5].copy())
    return torch.from_numpy((images * 255).round()).byte(), [f"p{i}" for i in factors.identity], points


def test_clean_procedural_forgeries_are_not_marked(faces):
    """Fails if the generator leaks through layout, brightness or encoding into 12 pixels."""
    images, names, points = faces
    data = PairedForgeries(images, names, landmarks=points, seed=0).arrays()
    report = confound_report(data.image, data.kind, data.group, resamples=300, folds=3)
    assert [row.kind for row in report.kinds] == sorted(KINDS)
    assert report.confounded == []
    report.require_clean()
    for row in report.kinds:
        assert (row.real, row.forged, row.people) == (240, 240, 24)
        assert row.low <= row.auc <= row.high
        assert row.boosted_low <= row.boosted_auc <= row.boosted_high
        assert row.auc < 0.62, row.kind
    assert "cross-validation over people, 3 folds" in report.scored
    assert json.loads(json.dumps(report.to_json()))["limit"] == 0.6


def test_a_planted_brightness_confound_is_found_and_refused(faces):
    """Brighter by 12 %, beside a clean kind: only the bright one is marked, and `require_clean` names it."""
    images, names, _ = faces
    bright = (images.float() * 1.12 + 12).clamp(0, 255).byte()
    # "other": other pictures of the same people, which hold no cue.
    other, _ = render_faces(sample_people(24, 0), np.arange(240) % 24, 1, size=64, masks=False)
    everything = torch.cat((images, bright, torch.from_numpy((other * 255).round()).byte()))
    kinds = ["real"] * 240 + ["bright"] * 240 + ["other"] * 240
    report = confound_report(everything, kinds, names * 3, resamples=300, folds=3)
    assert report.confounded == ["bright"]
    assert "confounded" in report.table().splitlines()[1]
    assert report.table().splitlines()[2].endswith("ok")
    with pytest.raises(BadInput, match="bright") as error:
        report.require_clean()
    assert "other" not in str(error.value)
    assert "\n" not in str(error.value)


def test_people_are_never_in_training_and_scoring():
    """Each person is wholly real or wholly forged, and known by a pattern: memory of people would give AUC 1."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(40, 3, 12, 12, generator=generator)
    index = torch.arange(40).repeat_interleave(10)
    images = (patterns[index] + 0.02 * torch.randn(400, 3, 12, 12, generator=generator)).clamp(0, 1)
    kinds = ["real" if i % 2 else "forged" for i in index.tolist()]
    groups = [f"p{i}" for i in index.tolist()]
    row = confound_report(images, kinds, groups, resamples=300).kinds[0]
    assert 0.2 < row.auc < 0.8
    assert 0.2 < row.boosted_auc < 0.8
    assert not row.confounded
    # The interval is over the 40 people, not over 400 pictures: half-width about 1.96 * 0.5 / sqrt(40) * 1.15 = 0.18.
    assert 0.2 < row.high - row.low < 0.6
    leaking = confound_report(images, kinds, [str(i) for i in range(400)], resamples=50).kinds[0]
    assert leaking.auc > 0.95  # the same pictures, called 400 people: what the grouping prevents


def test_splits_hold_no_person_twice():
    group = np.array([f"p{i % 9}" for i in range(90)])
    label = np.arange(90) // 9 % 2
    splits = _splits(group, label, None, 5, "kind")
    assert len(splits) == 5
    assert sorted(np.concatenate([test for _, test in splits]).tolist()) == list(range(90))
    assert all(not set(group[train]) & set(group[test]) for train, test in splits)
    held = np.isin(group, ["p0", "p4"])
    ((train, test),) = _splits(group, label, held, 5, "kind")
    assert set(group[test]) == {"p0", "p4"}
    assert set(group[train]) == {f"p{i}" for i in range(9)} - {"p0", "p4"}


def test_only_held_out_people_are_scored(faces):
    images, names, _ = faces
    dark = (images.float() * 0.8).byte()
    report = confound_report(
        torch.cat((images, dark)),
        ["real"] * 240 + ["dark"] * 240,
        names * 2,
        test_groups=["p1", "p2", "p3"],
        resamples=50,
    )
    assert report.scored == "held-out people"
    assert report.kinds[0].people == 3


def test_the_interval_is_that_of_resampled_people():
    """Against the same resamples made by repeating pictures and scikit-learn's AUC, ties included."""
    rng = np.random.default_rng(1)
    people = np.array([f"p{i % 7}" for i in range(84)])
    label = np.arange(84) // 7 % 2
    score = np.round(rng.normal(size=84) + 0.5 * label, 1)
    low, high = _interval(label, score, people, 200, seed=3)
    draws = np.random.default_rng(3)
    names = np.unique(people)
    values = []
    for _ in range(200):
        rows = np.concatenate([np.flatnonzero(people == names[k]) for k in draws.integers(7, size=7)])
        values.append(roc_auc_score(label[rows], score[rows]))
    assert np.allclose([low, high], np.quantile(values, [0.025, 0.975]))


def test_scores_are_ranks_within_folds():
    """Fails if folds with other offsets are mixed raw: every fold's scores lie evenly in (0, 1)."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 4)).astype(np.float32)
    label = (np.arange(60) % 2).astype(np.int64)
    splits = _splits(np.array([f"p{i // 6}" for i in range(60)]), label, None, 5, "kind")
    score = _scores(features, label, splits, False, 0)
    for _, test in splits:
        assert np.allclose(np.sort(score[test]), (np.arange(len(test)) + 0.5) / len(test))


def test_thumbnails_are_area_means():
    images = torch.randint(0, 256, (3, 3, 48, 48), generator=torch.Generator().manual_seed(0)).byte()
    expected = images.float().reshape(3, 3, 12, 4, 12, 4).mean(dim=(3, 5)).flatten(1) / 255
    assert np.allclose(thumbnails(images), expected, atol=1e-6)
    assert np.allclose(thumbnails(images.float() / 255), expected, atol=1e-6)
    assert thumbnails(images[:0]).shape == (0, 432)


def test_the_same_data_give_the_same_report(faces):
    images, names, _ = faces
    arguments = (torch.cat((images, images.flip(3))), ["real"] * 240 + ["flipped"] * 240, names * 2)
    first, second = (confound_report(*arguments, resamples=50, folds=2) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("kinds", "groups", "message"),
    [
        (["real"] * 4, list("aabb"), "real and forged"),
        (["x"] * 4, list("aabb"), "real and forged"),
        (["real", "x"] * 2, list("aab"), "one of each"),
        (["real", "x"] * 2, list("aaaa"), "1 identity"),
        (["real", "real", "x", "x"], list("aabb"), "one class only"),
    ],
)
def test_data_that_cannot_be_checked_are_refused(kinds, groups, message):
    with pytest.raises(BadInput, match=message):
        confound_report(torch.rand(4, 3, 12, 12), kinds, groups)
