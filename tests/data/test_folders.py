# SPDX-License-Identifier: Apache-2.0
"""Folders and tables as records, the frames that are taken, and the data set made of them."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch

from mien.data.batch import collate
from mien.data.folders import (
    ImageRecords,
    Record,
    class_folders,
    fingerprints,
    labels_csv,
    people_folders,
    require_classes,
    take_frames,
    video_folders,
)
from mien.data.images import save_png
from mien.errors import BadInput


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"never opened here")
    return root


def brief(records: list[Record], root: Path) -> list[tuple]:
    return [(str(r.path.relative_to(root)), r.label, r.group, r.kind, r.frame, r.video) for r in records]


def test_class_folders_flat_and_nested(tmp_path):
    tree(tmp_path, "fake/7.png", "real/10.png", "real/2.png", "deepfakes/id1/a.jpg", "real/id1/s/b.jpg", "real/x.txt")
    # Fails when 10 sorts before 2, when "fake" becomes 0 for the alphabet's sake, or when a group holds its class.
    assert brief(class_folders(tmp_path), tmp_path) == [
        ("deepfakes/id1/a.jpg", 1, "id1", "deepfakes", 0, ""),
        ("fake/7.png", 1, "7", "fake", 0, ""),
        ("real/2.png", 0, "2", "real", 0, ""),
        ("real/10.png", 0, "10", "real", 0, ""),
        ("real/id1/s/b.jpg", 0, "id1/s", "real", 0, ""),
    ]


def test_class_folders_with_any_names(tmp_path):
    tree(tmp_path, "sad/1.png", "happy/1.png", "angry/1.png")
    assert {r.kind: r.label for r in class_folders(tmp_path)} == {"angry": 0, "happy": 1, "sad": 2}
    named = class_folders(tmp_path, classes=["happy", "sad", "angry", "calm"])
    assert {r.kind: r.label for r in named} == {"happy": 0, "sad": 1, "angry": 2}
    with pytest.raises(BadInput, match=r"unknown class folder in .* 'angry'"):
        class_folders(tmp_path, classes=["happy", "sad"])


def test_original_counts_as_real(tmp_path):
    tree(tmp_path, "Original/1.png", "swap/1.png")
    assert [(r.label, r.kind) for r in class_folders(tmp_path)] == [(0, "real"), (1, "swap")]


def test_folder_errors(tmp_path):
    for reader in (class_folders, video_folders, people_folders):
        with pytest.raises(BadInput, match="missing: no such folder"):
            reader(tmp_path / "missing")
        with pytest.raises(BadInput, match="no images in this folder"):
            reader(tmp_path)
    tree(tmp_path, "real/1.png", "stray.png")
    with pytest.raises(BadInput, match=r"stray.png: lies in no class folder"):
        class_folders(tmp_path)
    with pytest.raises(BadInput, match=r"stray.png: lies in no person's folder"):
        people_folders(tmp_path)


def test_video_folders(tmp_path):
    tree(tmp_path / "a", "real/v2/1.png", "real/v2/10.png", "real/v2/9.png", "swap/batch/v2/1.png")
    assert brief(video_folders(tmp_path / "a"), tmp_path / "a") == [
        ("real/v2/1.png", 0, "real/v2", "real", 0, "real/v2"),
        ("real/v2/9.png", 0, "real/v2", "real", 1, "real/v2"),
        ("real/v2/10.png", 0, "real/v2", "real", 2, "real/v2"),
        ("swap/batch/v2/1.png", 1, "swap/batch/v2", "swap", 0, "swap/batch/v2"),
    ]
    tree(tmp_path / "b", "v1/1.png", "v2/1.png", "v2/2.png")
    assert [(r.label, r.video, r.frame) for r in video_folders(tmp_path / "b")] == [
        (None, "v1", 0),
        (None, "v2", 0),
        (None, "v2", 1),
    ]
    assert {r.video for r in video_folders(tmp_path / "b" / "v2")} == {"v2"}  # a folder of frames is one video


def test_video_folders_refuse_doubtful_layouts(tmp_path):
    tree(tmp_path / "a", "real/1.png", "fake/1.png")
    with pytest.raises(BadInput, match=r"directly in class folders \(fake, real\)"):
        video_folders(tmp_path / "a")
    tree(tmp_path / "b", "real/v/1.png", "fake/1.png")
    with pytest.raises(BadInput, match="some frames lie in CLASS/VIDEO/ and some do not"):
        video_folders(tmp_path / "b")


def test_people_folders(tmp_path):
    tree(tmp_path, "bob/1.jpg", "ann/2020/3.jpg", "ann/1.jpg")
    assert [(r.group, r.label, r.path.name) for r in people_folders(tmp_path)] == [
        ("ann", None, "1.jpg"),
        ("ann", None, "3.jpg"),
        ("bob", None, "1.jpg"),
    ]


def table(root: Path, text: str, encoding: str = "utf-8") -> Path:
    file = root / "labels.csv"
    file.write_text(text, encoding=encoding)
    return file


def test_labels_csv(tmp_path):
    tree(tmp_path, "a/2.png", "a/10.png", "b.png", "..odd.png")
    rows = ["label,path,group,kind,frame", "real,a/10.png,ann,real,4", "1,a/../b.png,,swap,", "", ",a/2.png,ann,,"]
    text = "\n".join([*rows, "Fake,..odd.png,,,"])
    expected = [
        ("..odd.png", 1, "..odd.png", "", 0, ""),
        ("a/2.png", None, "ann", "", 0, ""),
        ("a/10.png", 0, "ann", "real", 4, ""),
        ("b.png", 1, "b.png", "swap", 0, ""),
    ]
    assert brief(labels_csv(table(tmp_path, text)), tmp_path) == expected
    assert brief(labels_csv(table(tmp_path, text, "utf-8-sig")), tmp_path) == expected  # as spreadsheets save it
    by_video = labels_csv(table(tmp_path, "path,label,video\nb.png,0,clip\n"))
    assert (by_video[0].group, by_video[0].video) == ("clip", "clip")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line must name the column 'path'"),
        ("path,kind\na.png,x\n", "must name the column 'label'"),
        ("path,label,label\na.png,1,1\n", "must name the column 'label' once"),
        ("path,label,gruop\na.png,1,x\n", "did you mean 'group'"),
        ("path,label\n", "the table holds no images"),
        ("path,label\na.png,1\nb.png,0\n", "row 3: no such file"),
        ("path,label\na.png,yes\n", "row 2: label 'yes' must be a number"),
        ("path,label\na.png,-1\n", "row 2: label '-1'"),
        ("path,label,frame\na.png,1,first\n", "row 2: frame 'first'"),
        ("path,label\na.png\n", "row 2: 1 cells under 2 columns"),
        ("path,label\na.png,1\nx/../a.png,0\n", "row 3: .*a.png came in row 2 already"),
        ("path,label\n../secret.png,1\n", "row 2: path '../secret.png' must lie inside the table's folder"),
        ("path,label\nx/../../secret.png,1\n", "must lie inside the table's folder"),
        ("path,label\n/etc/secret.png,1\n", "must lie inside the table's folder"),
        ("path,label\n,1\n", "must lie inside the table's folder"),
        ("path,label\n.,1\n", "no such file"),
    ],
)
def test_labels_csv_errors(tmp_path, text, message):
    tree(tmp_path / "in", "a.png")
    tree(tmp_path, "secret.png")
    with pytest.raises(BadInput, match=message) as caught:
        labels_csv(table(tmp_path / "in", text))
    assert "labels.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_csv_that_is_no_table(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        labels_csv(tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_bytes(b"path,label\n\xff\xfe\x00,1\n")
    with pytest.raises(BadInput, match="cannot be read as a UTF-8 table"):
        labels_csv(tmp_path / "labels.csv")


def video(name: str, frames: int) -> list[Record]:
    return [Record(Path(f"{name}/{i}.png"), 1, name, "swap", i, name) for i in range(frames)]


def test_take_frames():
    still = Record(Path("still.png"), 0, "still")
    records = [still, *reversed(video("long", 9)), *video("short", 3)]
    taken = take_frames(records, 3, 2)
    assert [(r.video, r.frame) for r in taken] == [
        ("", 0),
        ("long", 0),
        ("long", 2),
        ("long", 4),
        ("short", 0),
        ("short", 2),
    ]
    assert [(r.video, r.frame) for r in take_frames(records, 3, 2, drop_short=True)] == [
        ("", 0),
        ("long", 0),
        ("long", 2),
        ("long", 4),
    ]
    # 9 frames at stride 4 are 0, 4, 8: exactly three, so the video is long enough. 8 frames would not be.
    assert len(take_frames(video("v", 9), 3, 4, drop_short=True)) == 3
    with pytest.raises(BadInput, match="no video has 3 frames at stride 4"):
        take_frames(video("v", 8), 3, 4, drop_short=True)
    with pytest.raises(BadInput, match="n = 0"):
        take_frames(records, 0)


def test_require_classes():
    real = Record(Path("a"), 0, "a")
    forged = Record(Path("b"), 1, "b")
    require_classes([real, forged])
    with pytest.raises(BadInput, match=r"my data: no image of label 1 \(forged\); found 2 of label 0 \(real\)"):
        require_classes([real, real], where="my data")
    with pytest.raises(BadInput, match=r"no image of label 0 \(real\) and 1 \(forged\); found 1 of label unknown"):
        require_classes([Record(Path("c"), None, "c")])


def test_fingerprints(tmp_path):
    contents = [bytes([i]) * (i * 1000) for i in range(20)]
    paths = []
    for i, content in enumerate(contents):
        paths.append(tmp_path / f"{i}.bin")
        paths[-1].write_bytes(content)
    assert fingerprints(paths) == [hashlib.sha256(content).hexdigest() for content in contents]
    with pytest.raises(BadInput, match=r"gone.bin: cannot be read"):
        fingerprints([*paths, tmp_path / "gone.bin"])


def negative(image):
    return 1 - image


def test_image_records(tmp_path):
    save_png(tmp_path / "real" / "1.png", torch.full((3, 6, 8), 1.0))
    save_png(tmp_path / "fake" / "2.png", torch.full((3, 5, 5), 0.2))
    data = pickle.loads(pickle.dumps(ImageRecords(class_folders(tmp_path), size=(4, 6), transform=negative)))  # noqa: S301
    assert len(data) == 2
    images, records = collate([data[0], data[1]])
    assert images.shape == (2, 3, 4, 6)
    assert torch.allclose(images[:, 0, 0, 0], torch.tensor([0.8, 0.0]))
    assert records.label.tolist() == [1, 0]
    assert records.group == ["2", "1"]
    assert ImageRecords(class_folders(tmp_path))[1][0].shape == (3, 6, 8)
    with pytest.raises(BadInput, match="no such file"):
        ImageRecords([Record(tmp_path / "gone.png", 0, "g")])[0]
