# SPDX-License-Identifier: Apache-2.0
"""Which frames make a clip: against the definitions written out, for every length; chance stays in its bounds."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.errors import BadInput
from mien.forensics.clips.sampling import StretchedClips, UniformClips, _levelled

T = 14


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 400), frames=st.integers(1, 16), clips=st.integers(1, 9))
def test_uniform_clips_cover_the_video_without_overlap(length, frames, clips):
    found = UniformClips(frames, clips).testing(length)
    assert 1 <= len(found) <= clips
    assert all(len(clip) == frames and clip == sorted(clip) and clip[0] >= 0 and clip[-1] < length for clip in found)
    assert found[0][0] == 0
    if length >= frames:
        assert all(a[-1] < b[0] for a, b in pairwise(found))
        assert all(len(set(clip)) == frames for clip in found)
    drawn = UniformClips(frames, clips).training(length)
    assert len(drawn) == frames
    assert 0 <= drawn[0] <= drawn[-1] < length
    steps = {b - a for a, b in pairwise(drawn)}
    assert not steps or max(steps) - min(steps) <= 1


def test_a_short_video_repeats_frames_and_is_never_padded():
    assert UniformClips(8, 8).testing(3) == [[0, 0, 0, 1, 1, 1, 2, 2]]


def test_stretched_training_follows_the_definition(monkeypatch):
    draws = []

    def randint(high, size):
        draws.append(high)
        return torch.tensor(high - 1)  # the largest that may be drawn

    monkeypatch.setattr("mien.forensics.clips.sampling.torch.randint", randint)
    assert StretchedClips().training(14) == list(range(14))
    assert draws == []  # both ranges are empty
    clip = StretchedClips().training(40)
    assert draws == [26, 1]  # r in [0, 26); then o in [0, 40 - 14 - 25)
    assert clip == [math.floor(j * (14 + 25) / 14) for j in range(14)]
    assert clip[-1] <= 40 - 2


@settings(max_examples=80, deadline=None)
@given(length=st.integers(14, 900), seed=st.integers(0, 100))
def test_stretched_training_stays_inside(length, seed):
    torch.manual_seed(seed)
    clip = StretchedClips().training(length)
    assert len(set(clip)) == T
    assert clip[-1] <= max(length - 2, 13)


def plain_strides(length):
    """The rule as it is written: strides downwards, few more clips are skipped, short strides are not begun."""
    n, clips, used = length // T, [], None
    for s in reversed(range(1, n + 1)):
        if s <= 3 and n > 1 and len(clips) >= 5:
            return clips
        n_s = length // (T * s)
        if used is None or n_s > used + 2:
            clips.extend([(T * i + k) * s for k in range(T)] for i in range(n_s))
            used = n_s
    return clips


@settings(max_examples=80, deadline=None)
@given(length=st.integers(14, 3000))
def test_stretched_tests_follow_the_rule(length):
    found = StretchedClips().testing(length)
    assert found == plain_strides(length)
    assert all(clip[-1] < length for clip in found)


def test_longest_videos_give_up_clips_first():
    lengths, labels = [14 * 2, 14 * 9, 14 * 5, 14 * 4], [0, 0, 0, 1]
    kept = StretchedClips().offered(lengths, labels)  # 2, 9 and 5 real clips, 4 forged ones
    assert sorted(kept[:3]) == [1, 1, 2]
    assert kept[3] == 4
    lengths[3] = 14 * 12
    assert StretchedClips().offered(lengths, labels) == [2, 5, 5, 12]
    assert StretchedClips().offered([28, 70], [0, 0]) == [2, 5]
    assert UniformClips().offered([5, 9], [0, 1]) == [1, 1]


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(0, 30), min_size=1, max_size=8), share=st.floats(0, 1))
def test_levelling_one_at_a_time(counts, share):
    surplus = int(share * sum(counts))
    slow = list(counts)
    for _ in range(surplus):
        slow[max(range(len(slow)), key=slow.__getitem__)] -= 1
    fast = _levelled(counts, surplus)
    assert sorted(fast) == sorted(slow)
    assert all(kept <= count for kept, count in zip(fast, counts, strict=True))


def test_bad_input():
    with pytest.raises(BadInput, match="at least 1"):
        UniformClips(0)
    with pytest.raises(BadInput, match="at least 1"):
        StretchedClips(0)
