# SPDX-License-Identifier: Apache-2.0
"""Each data set in the layout in which its owners publish it, on tiny trees; and what is said otherwise."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from mien.classification.data import ClassData
from mien.errors import BadInput
from mien.faces.data import Labels, few_labels
from mien.faces.expression import RAFDB
from mien.faces.readers import AFFECTNET, CKPLUS, FER2013, generated, layout_of, read, unlabelled

WORDS = {"surprise", "fear", "disgust", "happy", "sad", "angry", "neutral"}
"""The seven classes of RAF-DB."""


def save(path, value=0, size=(12, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


@cache
def people(part):
    """The generated people."""
    return read("embedded", part)


@pytest.fixture
def rafdb(tmp_path):
    root = tmp_path / "raf" / "basic"
    lines = ["train_00001.jpg 5", "train_00002.jpg 2", "test_0001.jpg 7"]
    (root / "EmoLabel").mkdir(parents=True)
    (root / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines) + "\n")
    for line in lines:
        save(root / "Image" / "aligned" / f"{line.split('.')[0]}_aligned.jpg")
    return tmp_path / "raf"


def test_rafdb(rafdb):
    train, test = read(str(rafdb), "train"), read(str(rafdb / "basic"), "test")
    assert [train.classes[i] for i in train.label] == ["sad", "fear"]
    assert [test.classes[i] for i in test.label] == ["neutral"]
    assert [path.name for path in train.images] == ["train_00001_aligned.jpg", "train_00002_aligned.jpg"]
    assert train.persons == train.names
    (rafdb / "basic" / "Image" / "aligned" / "train_00002_aligned.jpg").unlink()
    with pytest.raises(BadInput, match="1 of 2 faces are missing"):
        read(str(rafdb), "train")
    listing = rafdb / "basic" / "EmoLabel" / "list_patition_label.txt"
    listing.write_text("train_00001.jpg 8\n")
    with pytest.raises(BadInput, match="line 1: label '8'"):
        read(str(rafdb), "train")


def test_fer2013(tmp_path):
    def row(emotion, value, usage):
        return f"{emotion},{' '.join([str(value)] * 2304)},{usage}"

    rows = [row(0, 10, "Training"), row(3, 20, "PublicTest"), row(6, 30, "PrivateTest"), row(4, 40, "Training")]
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n" + "\n".join(rows) + "\n")
    train, test = read(str(tmp_path), "train"), read(str(tmp_path / "fer2013.csv"), "test")
    assert train.classes == FER2013
    assert [FER2013[i] for i in train.label] == ["angry", "sad"]
    assert train.images.shape == (2, 3, 48, 48)
    assert train.images[1].unique().tolist() == [40]
    assert [FER2013[i] for i in test.label] == ["happy", "neutral"]
    for text, message in [
        ("emotion,pixels,Usage\n0,1 2 3,Training\n", "line 2: 3 pixels"),
        ("emotion,pixels,Usage\nx,1 2 3,Training\n", "must be numbers"),
        ("emotion,usage\n0,Training\n", "it must have emotion, pixels and Usage"),
        ("emotion,pixels,Usage\n", "no row whose Usage is Training"),
    ]:
        (tmp_path / "fer2013.csv").write_text(text)
        with pytest.raises(BadInput, match=message):
            read(str(tmp_path), "train")


def ckplus(root, persons):
    for i, person in enumerate(persons):
        for frame in range(1, 6):
            save(root / "cohn-kanade-images" / person / "001" / f"{person}_001_{frame:08d}.png", 10 * frame)
        label = root / "Emotion" / person / "001" / f"{person}_001_00000005_emotion.txt"
        label.parent.mkdir(parents=True)
        label.write_text(f"   {[1, 3, 7][i % 3]}.0000000e+00\n")
    save(root / "cohn-kanade-images" / "S999" / "002" / "S999_002_00000001.png")  # a sequence without a label


def test_ckplus_gives_the_peak_frames_and_is_cut_by_person(tmp_path):
    names = [f"S{i:03d}" for i in (5, 10, 11, 14, 22, 26)]
    ckplus(tmp_path, names)
    train, test = read(str(tmp_path), "train"), read(str(tmp_path), "test")
    assert not set(train.persons) & set(test.persons)
    assert set(test.persons) == {"S022"}
    assert len(train) == 15
    assert sorted(path.stem[-1] for path in train.images[:3]) == ["3", "4", "5"]
    assert set(train.classes) == {"angry", "disgust", "surprise"} < set(CKPLUS)
    found = {person: train.classes[label] for person, label in zip(train.persons, train.label.tolist(), strict=True)}
    assert found["S010"] == "disgust"
    (tmp_path / "Emotion" / "S005" / "001" / "S005_001_00000005_emotion.txt").write_text("joy")
    with pytest.raises(BadInput, match="no number"):
        read(str(tmp_path), "train")


def test_affectnet_leaves_out_what_is_no_expression(tmp_path):
    for part, labels in (("train_set", [0, 7, 9]), ("val_set", [3])):
        (tmp_path / part / "annotations").mkdir(parents=True)
        for i, label in enumerate(labels):
            save(tmp_path / part / "images" / f"{i}.jpg")
            np.save(tmp_path / part / "annotations" / f"{i}_exp.npy", np.array(str(label)))
    train, test = read(str(tmp_path), "train"), read(str(tmp_path), "test")
    assert [AFFECTNET[i] for i in train.label] == ["neutral", "contempt"]
    assert [AFFECTNET[i] for i in test.label] == ["surprise"]
    np.save(tmp_path / "train_set" / "annotations" / "0_exp.npy", np.array({"code": 1}), allow_pickle=True)
    with pytest.raises(BadInput, match="missing, or no number"):
        read(str(tmp_path), "train")


def test_arrays_in_one_piece_are_cut_by_person(tmp_path):
    names = np.array([f"S{i // 3:03d}_00{i % 3}" for i in range(30)])
    x = np.random.default_rng(0).integers(0, 255, (30, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "ck.npz", x=x, y=np.arange(30) % 2, name=names, classes=np.array(["a", "b"]))
    train, test = read(str(tmp_path / "ck.npz"), "train"), read(str(tmp_path), "test")
    assert set(train.persons) | set(test.persons) == {f"S{i:03d}" for i in range(10)}
    assert not set(train.persons) & set(test.persons)
    assert len(test) == 6
    assert train.description.endswith("train persons")


def test_folders_and_generated_people(tmp_path):
    for part in ("Train", "Val"):
        for name in ("Angry", "Happy"):
            save(tmp_path / part / name / "0.png", 50)
    assert read(str(tmp_path), "train").classes == ("angry", "happy")
    train, test = people("train"), people("test")
    assert not set(train.persons) & set(test.persons)
    assert torch.bincount(train.label).tolist() == [120] * 7
    assert generated("train").hashes()[:5] == train.hashes()[:5]


def test_all_readers_use_the_same_words(tmp_path):
    """Fails if a set's own word for an expression comes through: a model could not be tested on another set."""
    assert set(RAFDB) == set(FER2013) == WORDS
    assert set(CKPLUS) == set(AFFECTNET) == WORDS | {"contempt"}
    assert set(people("train").classes) == WORDS
    x, y = np.zeros((40, 8, 8), np.uint8), np.arange(40) % 4
    names = [f"S{i // 4:03d}_{i % 4}" for i in range(40)]
    np.savez(tmp_path / "ck.npz", x=x, y=y, name=names, classes=["anger", "Happiness", "sadness", "happy"])
    data = read(str(tmp_path / "ck.npz"), "test")
    assert data.classes == ("angry", "happy", "sad")
    assert data.label.tolist() == [0, 1, 2, 1] * 2, "two words for happy are one class"


def test_layouts_are_recognised_and_others_named(tmp_path, rafdb):
    assert layout_of(rafdb) == "rafdb"
    for name, path in [("ckplus", "cohn-kanade-images"), ("affectnet", "train_set")]:
        (tmp_path / name / path).mkdir(parents=True)
        assert layout_of(tmp_path / name) == name
        with pytest.raises(BadInput, match="unpack"):
            read(str(tmp_path / name), "train")
    with pytest.raises(BadInput, match="unpack RAF-DB"):
        read(str(tmp_path), "train", "rafdb")
    with pytest.raises(BadInput, match="Kaggle"):
        read(str(tmp_path), "train", "fer2013")
    with pytest.raises(BadInput, match="does not exist"):
        read(str(tmp_path / "none"), "train")


def test_a_folder_without_labels_joins_the_training_faces(tmp_path):
    for name in ("Angry", "Happy"):
        for i in range(3):
            save(tmp_path / "train" / name / f"{i}.png", 10 * i)
            save(tmp_path / "test" / name / f"{i}.png", 9)
    for i in range(4):
        save(tmp_path / "unlabelled" / f"{i}.png", i)
    data, label = few_labels(read(str(tmp_path), "train"), Labels(), unlabelled(str(tmp_path)))
    assert label.tolist() == [0, 0, 0, 1, 1, 1, -1, -1, -1, -1]
    assert len(data) == len(data.persons) == 10
    assert "6 of 10 faces" in data.description
    assert unlabelled("embedded") == []
    with pytest.raises(BadInput, match="6 of 6 training faces are labelled"):
        few_labels(read(str(tmp_path), "train"), Labels())


# --- labels -----------------------------------------------------------------------------------------------------
def test_labels_are_counted_class_by_class_and_drawn_from_the_seed():
    data = people("train")
    label = Labels(per_class=15, seed=1).hidden(data)
    kept = label >= 0
    assert torch.bincount(label[kept]).tolist() == [15] * 7
    assert torch.equal(label[kept], data.label[kept])
    assert torch.equal(label, Labels(per_class=15, seed=1).hidden(data))
    assert not torch.equal(label, Labels(per_class=15, seed=2).hidden(data))


@pytest.mark.parametrize(
    ("total", "others", "fear"), [(100, 15, 10), (400, 60, 40), (1000, 150, 100), (2000, 300, 200), (4000, 625, 250)]
)
def test_the_papers_splits(total, others, fear):
    counts = Labels(total=total).counts(RAFDB)
    assert counts == [fear if name == "fear" else others for name in RAFDB]
    assert sum(counts) == total


def test_auto_is_the_papers_split_where_the_data_have_it_and_else_half_of_the_smallest_class():
    auto = Labels(total="auto", seed=3)

    def data(*counts):
        label = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        names = tuple(map(str, range(len(label))))
        return ClassData(torch.zeros(len(label), 3, 1, 1), label, ("fear", "happy")[: len(counts)], names, "")

    assert auto.fitted(data(250, 625)) == Labels(total=4000, seed=3)
    assert auto.fitted(data(249, 9000)) == Labels(per_class=124, seed=3), "one fearful face too few"
    assert auto.fitted(data(9000, 51)) == Labels(per_class=25, seed=3)
    assert Labels(total="auto", per_class=9).fitted(data(9000, 51)) == Labels(per_class=9)
    assert Labels(total=100).fitted(data(3, 4)) == Labels(total=100), "what the user asks for is not changed"
    assert torch.bincount(auto.hidden(data(60, 51)) + 1).tolist() == [111 - 50, 25, 25]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Labels(total=50), "labels.total is 50"),
        (lambda: Labels(total=100, per_class=5), "give one of them"),
        (lambda: Labels(per_class=0), "labels.per_class is 0"),
        (lambda: Labels(per_class=5, seed=-1), "labels.seed is -1"),
        (lambda: Labels(per_class=500).hidden(people("train")), "500 of class 'neutral' asked for"),
    ],
)
def test_bad_input_is_one_line(make, message):
    with pytest.raises(BadInput, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
