# SPDX-License-Identifier: Apache-2.0
"""Readers of public sets on tiny trees in the published layouts: labels, kinds, splits, and no leak between them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from mien.data.folders import Record
from mien.data.splits import require_disjoint, shared_groups, split_records
from mien.errors import BadInput
from mien.forensics.readers.sets import (
    FACEFORENSICS_KINDS,
    READERS,
    celeb_df,
    deepfake_detection,
    dfdc_preview,
    faceforensics,
    recognise,
    wild_deepfake,
)


def frames(folder: Path, count: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i}.png").write_bytes(b"")


def videos(records: list[Record]) -> list[tuple]:
    """One line per video, in order: its name without the set's, label, group without the set's, kind, frames."""
    count = Counter(record.video for record in records)
    lines = {r.video: (r.label, r.group.split("/", 1)[1], r.kind) for r in records}
    return [(video.split("/", 1)[1], *lines[video], count[video]) for video in lines]


# --- FaceForensics++ ---------------------------------------------------------------------------------------------

SPLITS = {"train": [["000", "003"], ["010", "005"]], "val": [["020", "021"]], "test": [["030", "031"]]}


def faceforensics_tree(root: Path, inner: str = "frames", splits: str = "") -> Path:
    for name, pairs in SPLITS.items():
        (root / splits).mkdir(parents=True, exist_ok=True)
        (root / splits / f"{name}.json").write_text(json.dumps(pairs))
        for a, b in pairs:
            for number in (a, b):
                frames(root / "original_sequences" / "youtube" / "c23" / inner / number, 3)
            for kind in FACEFORENSICS_KINDS:
                for video in (f"{a}_{b}", f"{b}_{a}"):
                    frames(root / "manipulated_sequences" / kind / "c23" / inner / video)
    return root


@pytest.mark.parametrize("inner", ["frames", "images", "faces", ""])
@pytest.mark.parametrize("splits", ["", "splits", "dataset/splits"])
def test_faceforensics(tmp_path, inner, splits):
    root = faceforensics_tree(tmp_path, inner, splits)
    assert videos(faceforensics(root, "train", kinds=["Deepfakes"])) == [
        ("youtube/c23/000", 0, "000-003", "real", 3),
        ("youtube/c23/003", 0, "000-003", "real", 3),
        ("youtube/c23/005", 0, "005-010", "real", 3),
        ("youtube/c23/010", 0, "005-010", "real", 3),
        ("Deepfakes/c23/000_003", 1, "000-003", "Deepfakes", 2),
        ("Deepfakes/c23/003_000", 1, "000-003", "Deepfakes", 2),
        ("Deepfakes/c23/005_010", 1, "005-010", "Deepfakes", 2),
        ("Deepfakes/c23/010_005", 1, "005-010", "Deepfakes", 2),
    ]
    test = faceforensics(root, "test")
    assert {r.kind for r in test} == {"real", "Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"}
    assert {r.group for r in test} == {"faceforensics/030-031"}
    assert {r.kind for r in faceforensics(root, "val", kinds=["FaceShifter"])} == {"real", "FaceShifter"}
    assert len(faceforensics(root, "all", kinds=[])) == 8 * 3


def test_faceforensics_splits_do_not_leak(tmp_path):
    root = faceforensics_tree(tmp_path)
    parts = {name: faceforensics(root, name) for name in SPLITS}
    for one in parts:
        for other in parts:
            if one != other:
                require_disjoint(parts[one], parts[other], (one, other))
                # Independent of the groups: no number of a video occurs on both sides.
                assert not numbers(parts[one]) & numbers(parts[other])
    # Further splits of train keep originals with what was made from them.
    for seed in range(5):
        first, second = split_records(parts["train"], (0.5, 0.5), seed=seed)
        assert first
        assert not numbers(first) & numbers(second)


def numbers(records: list[Record]) -> set[str]:
    return {number for record in records for number in record.path.parent.name.split("_")}


def test_faceforensics_errors(tmp_path):
    with pytest.raises(BadInput, match=r"no folder .*missing; ask its authors .* TU Munich"):
        faceforensics(tmp_path / "missing")
    with pytest.raises(BadInput, match=r"no train.json in .*splits.*train.json, val.json and test.json"):
        faceforensics(tmp_path)
    root = faceforensics_tree(tmp_path)
    with pytest.raises(BadInput, match="unknown split 'tset': did you mean 'test'"):
        faceforensics(root, "tset")
    with pytest.raises(BadInput, match="did you mean 'Deepfakes'"):
        faceforensics(root, kinds=["DeepFake"])
    with pytest.raises(BadInput, match="unknown compression 'c24'"):
        faceforensics(root, compression="c24")
    with pytest.raises(BadInput, match=r"no folder .*c40; ask its authors"):
        faceforensics(root, compression="c40")
    frames(root / "original_sequences" / "youtube" / "c23" / "faces" / "000")
    with pytest.raises(BadInput, match="holds frames and faces: say which with frames="):
        faceforensics(root)
    with pytest.raises(BadInput, match=r"no folder .*faces"):
        faceforensics(root, frames="faces")
    assert len(faceforensics(root, frames="frames", kinds=["FaceSwap"])) == 4 * 3 + 4 * 2
    (root / "train.json").write_text('{"000": "003"}')
    with pytest.raises(BadInput, match="must be a list of pairs"):
        faceforensics(root)
    (root / "train.json").write_text("000 003")
    with pytest.raises(BadInput, match=r"train.json is not JSON"):
        faceforensics(root)


def test_missing_videos_are_not_skipped_silently(tmp_path):
    root = faceforensics_tree(tmp_path)
    for file in (root / "manipulated_sequences" / "Deepfakes" / "c23" / "frames" / "003_000").iterdir():
        file.unlink()
    with pytest.raises(BadInput, match=r"1 of 8 videos have no frames \(first: Deepfakes/c23/003_000\)"):
        faceforensics(root, kinds=["Deepfakes"])
    assert len(videos(faceforensics(root, kinds=["Deepfakes"], partial=True))) == 7


def test_videos_that_were_not_extracted(tmp_path):
    faceforensics_tree(tmp_path)
    raw = tmp_path / "original_sequences" / "youtube" / "c40" / "videos"
    raw.mkdir(parents=True)
    (raw / "000.mp4").write_bytes(b"")
    with pytest.raises(BadInput, match=r"holds videos but no frames; .* extract the frames"):
        faceforensics(tmp_path, compression="c40")


# --- DeepFakeDetection -------------------------------------------------------------------------------------------


def test_deepfake_detection(tmp_path):
    frames(tmp_path / "original_sequences" / "actors" / "c23" / "frames" / "01__walk")
    frames(tmp_path / "manipulated_sequences" / "DeepFakeDetection" / "c23" / "frames" / "01_02__walk__ABC", 3)
    frames(tmp_path / "manipulated_sequences" / "DeepFakeDetection" / "c23" / "frames" / "02_01__talk__XYZ")
    assert videos(deepfake_detection(tmp_path)) == [
        ("actors/c23/01__walk", 0, "01", "real", 2),
        ("DeepFakeDetection/c23/01_02__walk__ABC", 1, "01", "DeepFakeDetection", 3),
        ("DeepFakeDetection/c23/02_01__talk__XYZ", 1, "02", "DeepFakeDetection", 2),
    ]
    with pytest.raises(BadInput, match=r"split 'train' does not exist; .* for test only"):
        deepfake_detection(tmp_path, "train")
    frames(tmp_path / "original_sequences" / "actors" / "c23" / "frames" / "nobody")
    with pytest.raises(BadInput, match="nobody does not begin with the number of an actor"):
        deepfake_detection(tmp_path)
    with pytest.raises(BadInput, match="it comes with FaceForensics"):
        deepfake_detection(tmp_path / "missing")


# --- Celeb-DF v2 -------------------------------------------------------------------------------------------------

CELEB_LIST = """1 YouTube-real/00170.mp4
1 Celeb-real/id1_0007.mp4
0 Celeb-synthesis/id1_id0_0007.mp4
"""


def celeb_tree(root: Path, inner: str = "frames", youtube: str = "YouTube-real") -> Path:
    for video in ("id0_0000", "id1_0007", "id1_0008"):
        frames(root / "Celeb-real" / inner / video)
    for video in ("00169", "00170"):
        frames(root / youtube / inner / video)
    for video in ("id0_id1_0000", "id1_id0_0007", "id1_id2_0007", "id1_id0_0008"):
        frames(root / "Celeb-synthesis" / inner / video, 1)
    (root / "List_of_testing_videos.txt").write_text(CELEB_LIST)
    return root


@pytest.mark.parametrize(("inner", "youtube"), [("frames", "YouTube-real"), ("", "YouTube-real"), ("", "Youtube-real")])
def test_celeb_df(tmp_path, inner, youtube):
    root = celeb_tree(tmp_path, inner, youtube)
    # Fails when the list's 1 (real) is read as our 1 (forged).
    assert videos(celeb_df(root, "test")) == [
        ("Celeb-real/id1_0007", 0, "id1_0007", "real", 2),
        ("YouTube-real/00170", 0, "youtube/00170", "real", 2),
        ("Celeb-synthesis/id1_id0_0007", 1, "id1_0007", "Celeb-synthesis", 1),
    ]
    # id1_id2_0007 is not listed, but it is made from a test video: it is in neither split.
    assert videos(celeb_df(root, "train")) == [
        ("Celeb-real/id0_0000", 0, "id0_0000", "real", 2),
        ("Celeb-real/id1_0008", 0, "id1_0008", "real", 2),
        ("YouTube-real/00169", 0, "youtube/00169", "real", 2),
        ("Celeb-synthesis/id0_id1_0000", 1, "id0_0000", "Celeb-synthesis", 1),
        ("Celeb-synthesis/id1_id0_0008", 1, "id1_0008", "Celeb-synthesis", 1),
    ]
    assert shared_groups(celeb_df(root, "train"), celeb_df(root, "test")) == []
    assert len(videos(celeb_df(root, "all"))) == 9


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 Celeb-real/id0_0000.mp4", "line 2 of .* gives 0 to Celeb-real, but 1 means real"),
        ("1 Celeb-synthesis/id0_id1_0000.mp4", "gives 1 to Celeb-synthesis"),
        ("1 Elsewhere/id0_0000.mp4", "line 2 .* expected '1 Celeb-real/NAME.mp4'"),
        ("Celeb-real/id0_0000.mp4", "expected '1 Celeb-real/NAME.mp4'"),
        ("1 Celeb-real/somebody.mp4", "Celeb-real/somebody is not named like id0_0000"),
        ("1 Celeb-real/id9_0000.mp4", r"1 of 4 videos have no frames \(first: Celeb-real/id9_0000\)"),
    ],
)
def test_celeb_df_list_errors(tmp_path, line, message):
    root = celeb_tree(tmp_path)
    lines = CELEB_LIST.splitlines()
    (root / "List_of_testing_videos.txt").write_text("\n".join([lines[0], line, *lines[1:]]))
    with pytest.raises(BadInput, match=message):
        celeb_df(root, "test")


def test_celeb_df_missing(tmp_path):
    with pytest.raises(BadInput, match=r"no file .*List_of_testing_videos.txt; ask its authors .* Albany"):
        celeb_df(tmp_path)
    celeb_tree(tmp_path)
    (tmp_path / "List_of_testing_videos.txt").write_text("\n")
    with pytest.raises(BadInput, match="lists no videos"):
        celeb_df(tmp_path)


# --- DFDC preview ------------------------------------------------------------------------------------------------


def dfdc_tree(root: Path, nested: bool = True) -> Path:
    table = {
        "original_videos/1000/1000_A/1000_A_001.mp4": {"label": "real", "set": "train"},
        "original_videos/2000/2000_A/2000_A_001.mp4": {"label": "real", "set": "train", "augmentations": []},
        "original_videos/3000/3000_A/3000_A_001.mp4": {"label": "real", "set": "train"},
        "method_A/1000/1000_A/2000_1000_A_001.mp4": {"label": "fake", "set": "train"},
        "method_B/3000/3000_A/4000_3000_A_001.mp4": {"label": "fake", "set": "train"},
        "original_videos/4000/4000_A/4000_A_001.mp4": {"label": "real", "set": "test", "augmentations": ["fps_15"]},
        "original_videos/5000/5000_A/5000_A_001.mp4": {"label": "real", "set": "test", "augmentations": []},
        "method_A/4000/4000_A/5000_4000_A_001.mp4": {"label": "fake", "set": "test", "augmentations": ["quality_20"]},
    }
    root.mkdir(exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(table))
    for video in table:
        part, name = Path(video).parts[0], Path(video).stem
        frames(root / Path(video).with_suffix("") if nested else root / part / "frames" / name)
    return root


@pytest.mark.parametrize("nested", [True, False])
def test_dfdc_preview(tmp_path, nested):
    root = dfdc_tree(tmp_path, nested)
    train, test = dfdc_preview(root, "train"), dfdc_preview(root, "test")
    # 1000 and 2000 are linked by a swap. 4000 is a test actor and gave a face to 3000's forgery in train: that one is
    # left out, while 3000's own video stays.
    assert videos(train) == [
        ("method_A/1000/1000_A/2000_1000_A_001", 1, "1000", "method_A", 2),
        ("original_videos/1000/1000_A/1000_A_001", 0, "1000", "real", 2),
        ("original_videos/2000/2000_A/2000_A_001", 0, "1000", "real", 2),
        ("original_videos/3000/3000_A/3000_A_001", 0, "3000", "real", 2),
    ]
    assert videos(test) == [
        ("method_A/4000/4000_A/5000_4000_A_001", 1, "4000", "method_A", 2),
        ("original_videos/4000/4000_A/4000_A_001", 0, "4000", "real", 2),
        ("original_videos/5000/5000_A/5000_A_001", 0, "4000", "real", 2),
    ]
    require_disjoint(train, test, ("train", "test"))
    # Over everything 3000, 4000 and 5000 hang together.
    assert {r.group for r in dfdc_preview(root, "all")} == {"dfdc-preview/1000", "dfdc-preview/3000"}


def test_dfdc_preview_augmentations(tmp_path):
    root = dfdc_tree(tmp_path)
    assert [r.path.parent.name for r in dfdc_preview(root, "test", augmented=False)[::2]] == ["5000_A_001"]
    assert len(videos(dfdc_preview(root, "test", augmented=True))) == 2
    # The groups are those of the whole split: 5000 stays with 4000.
    assert {r.group for r in dfdc_preview(root, "test", augmented=False)} == {"dfdc-preview/4000"}


def test_dfdc_preview_uses_the_table_s_own_identities(tmp_path):
    root = dfdc_tree(tmp_path)
    table = json.loads((root / "dataset.json").read_text())
    table["original_videos/3000/3000_A/3000_A_001.mp4"]["target_id"] = 1000
    (root / "dataset.json").write_text(json.dumps(table))
    assert {r.group for r in dfdc_preview(root, "train")} == {"dfdc-preview/1000"}


def test_dfdc_preview_errors(tmp_path):
    with pytest.raises(BadInput, match=r"no file .*dataset.json; download it from Meta AI"):
        dfdc_preview(tmp_path)
    root = dfdc_tree(tmp_path)
    table = json.loads((root / "dataset.json").read_text())
    for video, entry in [
        ("../../etc/passwd.mp4", {"label": "real", "set": "train"}),
        ("/etc/passwd.mp4", {"label": "real", "set": "train"}),
        ("", {"label": "real", "set": "train"}),
        ("method_A/x.mp4", {"label": "maybe", "set": "train"}),
        ("method_A/x.mp4", {"label": "fake"}),
        ("method_A/x.mp4", ["fake", "train"]),
    ]:
        (root / "dataset.json").write_text(json.dumps({**table, video: entry}))
        with pytest.raises(BadInput, match=r"of dataset.json needs label real or fake"):
            dfdc_preview(root)
    (root / "dataset.json").write_text(
        json.dumps({**table, "method_A/9000/9000_A/1000_9000_A_001.mp4": {"label": "fake", "set": "train"}})
    )
    with pytest.raises(BadInput, match=r"1 of 5 videos have no frames \(first: method_A/9000"):
        dfdc_preview(root)
    assert len(videos(dfdc_preview(root, partial=True))) == 4
    (root / "dataset.json").write_text("[]")
    with pytest.raises(BadInput, match="must map videos"):
        dfdc_preview(root)


# --- WildDeepfake ------------------------------------------------------------------------------------------------


def wild_tree(root: Path, inner: bool = True) -> Path:
    for kind in ("real", "fake"):
        for part in ("train", "test"):
            for video, sequence in (("1", "103"), ("1", "9"), ("12", "4")):
                folder = root / f"{kind}_{part}" / video
                frames(folder / kind / sequence if inner else folder / sequence, 12)
    return root


@pytest.mark.parametrize("inner", [True, False])
def test_wild_deepfake(tmp_path, inner):
    records = wild_deepfake(wild_tree(tmp_path, inner), "test")
    assert videos(records) == [
        ("real_test/1/9", 0, "real_test/1", "real", 12),
        ("real_test/1/103", 0, "real_test/1", "real", 12),
        ("real_test/12/4", 0, "real_test/12", "real", 12),
        ("fake_test/1/9", 1, "fake_test/1", "fake", 12),
        ("fake_test/1/103", 1, "fake_test/1", "fake", 12),
        ("fake_test/12/4", 1, "fake_test/12", "fake", 12),
    ]
    # Frames are numbered without leading zeros: 2 comes before 10.
    assert [r.path.name for r in records[:12]] == [f"{i}.png" for i in range(12)]
    assert [r.frame for r in records[:12]] == list(range(12))
    assert shared_groups(records, wild_deepfake(tmp_path, "train")) == []
    assert len(wild_deepfake(tmp_path, "all")) == 2 * len(records)


def test_wild_deepfake_errors(tmp_path):
    with pytest.raises(BadInput, match=r"no folder .*real_train; ask its authors .* Fudan"):
        wild_deepfake(tmp_path)
    wild_tree(tmp_path / "a")
    (tmp_path / "b" / "real_train").mkdir(parents=True)
    with pytest.raises(BadInput, match="real_train holds no images"):
        wild_deepfake(tmp_path / "b")
    (tmp_path / "b" / "real_train" / "1.tar.gz").write_bytes(b"")
    with pytest.raises(BadInput, match="holds only packed archives"):
        wild_deepfake(tmp_path / "b")
    (tmp_path / "a" / "real_train" / "stray.png").write_bytes(b"")
    with pytest.raises(BadInput, match=r"stray.png lies in no video's folder"):
        wild_deepfake(tmp_path / "a")


# --- all ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_missing_folder_says_what_to_do_in_one_line(name, tmp_path):
    with pytest.raises(BadInput) as caught:
        READERS[name](tmp_path / "missing")
    text = str(caught.value)
    assert "\n" not in text
    assert "missing" in text
    assert "/*." in text  # how it must lie
    assert "ask" in text or "download" in text  # whom to ask
    assert "http" not in text


def test_recognise(tmp_path):
    faceforensics_tree(tmp_path / "a")
    celeb_tree(tmp_path / "b")
    dfdc_tree(tmp_path / "c")
    wild_tree(tmp_path / "d")
    frames(tmp_path / "e" / "original_sequences" / "actors" / "c23" / "frames" / "01__walk")
    frames(tmp_path / "f" / "real")
    names = [recognise(tmp_path / folder) for folder in "abcdef"]
    assert names == ["faceforensics", "celeb-df", "dfdc-preview", "wilddeepfake", "deepfake-detection", None]
    elsewhere = {"forgerynir", "deepfake-nir", "deepfake-nir-perturbed", "seq-deepfake", "fairfd"}  # tests of their own
    assert set(names[:-1]) == set(READERS) - elsewhere
