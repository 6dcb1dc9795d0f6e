# SPDX-License-Identifier: Apache-2.0
"""ForgeryNIR on tiny trees: labels, kinds, splits that keep what belongs together, and one set at a time."""

from __future__ import annotations

from collections import Counter

import pytest

from mien.data.splits import shared_groups
from mien.errors import BadInput
from mien.forensics.opening import kinds_in, layout_of
from mien.forensics.readers.forgery_nir import FORGED, REAL, forgery_nir
from mien.room import DataOptions


def tree(root, images=40):
    """A set: real files are named as in CASIA, two of each subject, CycleGAN's as the real ones they come from."""
    for kind in (REAL, *FORGED):
        (root / kind).mkdir(parents=True)
        for i in range(images):
            name = f"s1_NIR_{10000 + i // 2}_{i % 2:03d}" if kind in (REAL, "cyclegan") else f"seed{i:04d}"
            (root / kind / f"{name}.png").write_bytes(b"")
    return root


def test_a_set_is_split_by_subject_seven_one_two(tmp_path):
    root = tree(tmp_path / "ForgeryNIR-std", 400)
    parts = {split: forgery_nir(root, split) for split in ("train", "val", "test")}
    assert sum(map(len, parts.values())) == len(forgery_nir(root, "all")) == 5 * 400
    shares = [len(part) / 2000 for part in parts.values()]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.06)
    for split, records in parts.items():
        assert {(r.label, r.kind) for r in records} == {(0, "real"), *((1, kind) for kind in FORGED)}, split
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not shared_groups(parts[one], parts[other])
    both = Counter(r.kind for r in parts["test"] if r.group == parts["test"][0].group)
    assert both == {"real": 2, "cyclegan": 2}, "a face and what was made from it"
    assert [r.path for r in parts["train"]] == [r.path for r in forgery_nir(root, "train")]


def test_unpacked_splits_are_taken_as_they_are(tmp_path):
    for part, images in (("train", 6), ("test", 2)):
        tree(tmp_path / "ForgeryNIR-mix" / part, images)
    root = tmp_path / "ForgeryNIR-mix"
    assert len(forgery_nir(root, "train")) == 30
    assert len(forgery_nir(root, "test")) == 10
    assert layout_of(str(root)) == "forgerynir"
    assert kinds_in(str(root), DataOptions()) == sorted(FORGED)
    with pytest.raises(BadInput, match=r"no folder .*val"):
        forgery_nir(root, "val")


def test_the_hard_set_is_for_test_only(tmp_path):
    root = tree(tmp_path / "ForgeryNIR+", 3)
    assert len(forgery_nir(root, "test")) == 15
    with pytest.raises(BadInput, match="has no split 'train'"):
        forgery_nir(root, "train")


def test_what_is_missing_or_ambiguous_is_said(tmp_path):
    tree(tmp_path / "two" / "ForgeryNIR-std", 2)
    tree(tmp_path / "two" / "ForgeryNIR-rand", 2)
    assert layout_of(str(tmp_path / "two")) == "forgerynir"
    with pytest.raises(BadInput, match=r"holds ForgeryNIR-rand, ForgeryNIR-std: name one"):
        forgery_nir(tmp_path / "two")
    with pytest.raises(BadInput, match="no folder"):
        forgery_nir(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="split"):
        forgery_nir(tmp_path / "two", "dev")
    (tmp_path / "half" / REAL).mkdir(parents=True)
    with pytest.raises(BadInput, match=r"no folder .*cyclegan.*; ask its authors"):
        forgery_nir(tmp_path / "half")
    for kind in FORGED:
        (tmp_path / "half" / kind).mkdir()
    with pytest.raises(BadInput, match="no images"):
        forgery_nir(tmp_path / "half")
