# SPDX-License-Identifier: Apache-2.0
"""DeepfakeNIR: folders named by donor and target, sides without a common subject, and video files of one's own."""

from __future__ import annotations

import pytest

from mien.data.splits import require_disjoint
from mien.errors import BadInput
from mien.forensics.opening import layout_of, read_records
from mien.forensics.readers.deepfake_nir import deepfake_nir, deepfake_nir_perturbed
from mien.forensics.readers.sets import READERS, celeb_df, recognise
from mien.forensics.readers.video_files import video_files


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


@pytest.fixture
def tree(tmp_path):
    """Subjects 3, 14 and 38 (train), 45 and 55 (test); 38_45 mixes the sides."""
    for group, name in (
        ("group1", "sub3"),
        ("group2", "sub14"),
        ("group2", "sub3_14"),
        ("group5", "sub38_45"),
        ("group5", "sub45"),
        ("group6", "sub45_55"),
    ):
        touch(tmp_path / "clean" / group / name / "pose1.mp4")
        touch(tmp_path / "clean" / group / name / "pose2.mp4")
        touch(tmp_path / "perturbed" / group / name / "pose1.mp4")
    for i in range(3):
        touch(tmp_path / "clean" / "group4" / "sub38" / "pose1" / f"{i}.png")
    return tmp_path


def test_labels_groups_and_sides(tree):
    train, test = deepfake_nir(tree, "train"), deepfake_nir(tree, "test")
    lines = {(r.path.relative_to(tree / "clean").parts[1], r.label, r.group, r.kind) for r in train}
    assert lines == {
        ("sub3", 0, "deepfake-nir/sub3", "real"),
        ("sub14", 0, "deepfake-nir/sub14", "real"),
        ("sub3_14", 1, "deepfake-nir/sub14", "DeepFaceLab"),
        ("sub38", 0, "deepfake-nir/sub38", "real"),
    }
    assert {r.path.parts[-2] for r in test} == {"sub45", "sub45_55"}  # 38_45 shows a donor of the other side
    require_disjoint(train, test, ("train", "test"))
    assert {r.path.parts[-2] for r in deepfake_nir(tree, "all")} >= {"sub38_45"}
    assert [r.frame for r in train if "sub38" in r.group] == [0, 1, 2]
    assert len({r.video for r in train}) == 7


def test_clips_lie_at_any_depth_below_their_subject(tmp_path):
    touch(tmp_path / "sub1" / "a.mp4")
    touch(tmp_path / "sub1" / "expression" / "b.mp4")
    touch(tmp_path / "sub1_11" / "c.mp4")
    touch(tmp_path / "sub1_11" / "posture" / "left" / "d.mp4")
    for name in ("e/0.png", "e/1.png", "f/0.png"):
        touch(tmp_path / "sub1_11" / "occlusion" / name)
    touch(tmp_path / "sub1" / "perturbed" / "g.mp4")
    (tmp_path / "sub1" / "expression" / "again").symlink_to(tmp_path / "sub1")  # must not go round
    found = {(r.video.removeprefix("deepfake-nir/"), r.frame, r.label, r.group) for r in deepfake_nir(tmp_path)}
    assert found == {
        ("sub1/a.mp4", 0, 0, "deepfake-nir/sub1"),
        ("sub1/expression/b.mp4", 0, 0, "deepfake-nir/sub1"),
        ("sub1_11/c.mp4", 0, 1, "deepfake-nir/sub11"),
        ("sub1_11/posture/left/d.mp4", 0, 1, "deepfake-nir/sub11"),
        ("sub1_11/occlusion/e", 0, 1, "deepfake-nir/sub11"),
        ("sub1_11/occlusion/e", 1, 1, "deepfake-nir/sub11"),
        ("sub1_11/occlusion/f", 0, 1, "deepfake-nir/sub11"),
    }
    assert [r.path.name for r in deepfake_nir_perturbed(tmp_path)] == ["g.mp4"]


def test_images_beside_videos_and_folders_are_a_clip_of_their_own(tmp_path):
    for name in ("sub2/0.png", "sub2/1.png", "sub2/a.mp4", "sub2/b/0.png"):
        touch(tmp_path / name)
    found = [(r.video.removeprefix("deepfake-nir/"), r.path.name) for r in deepfake_nir(tmp_path)]
    assert found == [("sub2", "0.png"), ("sub2", "1.png"), ("sub2/a.mp4", "a.mp4"), ("sub2/b", "0.png")]


def test_a_folder_without_images_and_videos_is_named(tree):
    touch(tree / "clean" / "group1" / "sub3" / "posture" / "notes.txt")
    with pytest.raises(BadInput, match=r"^DeepfakeNIR: .*sub3/posture holds neither images nor videos: [^\n]*$"):
        deepfake_nir(tree)
    assert deepfake_nir(tree, "test"), "what is not asked for is not looked into"


def test_perturbed_twins_are_apart(tree):
    records = deepfake_nir_perturbed(tree, "train")
    assert {r.path.relative_to(tree).parts[0] for r in records} == {"perturbed"}
    assert len(records) == 3


def test_it_is_recognised(tree):
    assert recognise(tree) == "deepfake-nir"
    assert layout_of(str(tree)) == "deepfake-nir"
    assert READERS["deepfake-nir"] is deepfake_nir


def test_what_is_missing_is_said(tree, tmp_path_factory):
    with pytest.raises(BadInput, match="DeepfakeNIR: no clips of split train"):
        deepfake_nir(tmp_path_factory.mktemp("none"))
    with pytest.raises(BadInput, match="split"):
        deepfake_nir(tree, "validation")


def test_detectors_of_images_are_told_to_extract_frames(tree):
    with pytest.raises(BadInput, match="is a video file: extract its frames"):
        read_records(str(tree), "deepfake-nir", "train")
    assert read_records(str(tree), "deepfake-nir", "train", files=True)


def test_video_files_in_class_folders(tmp_path):
    for name in ("real/a.mp4", "real/ann/b.mkv", "fake/a.mp4", "swap/ann/10.mp4", "swap/ann/2.mp4"):
        touch(tmp_path / name)
    records = video_files(tmp_path)
    assert layout_of(str(tmp_path)) == "video-files"
    found = [(r.path.relative_to(tmp_path).as_posix(), r.label, r.group, r.kind) for r in records]
    assert found == [
        ("fake/a.mp4", 1, "a", "fake"),
        ("real/a.mp4", 0, "a", "real"),
        ("real/ann/b.mkv", 0, "ann", "real"),
        ("swap/ann/2.mp4", 1, "ann", "swap"),
        ("swap/ann/10.mp4", 1, "ann", "swap"),
    ]
    touch(tmp_path / "stray.mp4")
    with pytest.raises(BadInput, match="lies in no class folder"):
        video_files(tmp_path)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(BadInput, match="no video files"):
        video_files(tmp_path / "nothing")


def test_celeb_df_as_published_holds_video_files(tmp_path):
    for name in ("Celeb-real/id0_0000", "Celeb-real/id1_0000", "YouTube-real/00001", "Celeb-synthesis/id0_id1_0000"):
        touch(tmp_path / f"{name}.mp4")
    (tmp_path / "List_of_testing_videos.txt").write_text("1 Celeb-real/id1_0000.mp4\n")
    with pytest.raises(BadInput, match="holds videos but no frames"):
        celeb_df(tmp_path)
    records = celeb_df(tmp_path, "train", files=True)
    assert [(r.path.name, r.label) for r in records] == [
        ("id0_0000.mp4", 0),
        ("00001.mp4", 0),
        ("id0_id1_0000.mp4", 1),
    ]
