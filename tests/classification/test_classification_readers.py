# SPDX-License-Identifier: Apache-2.0
"""Layouts of labelled images: trees written byte by byte here, and what comes out of them."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from mien.classification import data as module
from mien.classification.data import CIFAR10, class_names, read
from mien.errors import BadInput

RNG = np.random.default_rng(0)


def grid(count, size=8):
    return RNG.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def bad(source, message, part="train", kind="auto"):
    with pytest.raises(BadInput, match=message) as caught:
        read(str(source), part, kind)
    assert "\n" not in str(caught.value)


# --- CIFAR, the binary version ------------------------------------------------------------------------------------
def record(pixels, *labels):
    """One row of a CIFAR file: the labels, then 1,024 bytes each of red, green and blue, row by row."""
    row = bytearray(labels)
    for channel in range(3):
        for y in range(32):
            row += bytes(int(pixels[y, x, channel]) for x in range(32))
    return bytes(row)


@pytest.fixture
def cifar10(tmp_path):
    """As the archive unpacks: five training files and a test file, here of two images each."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    pixels, label = grid(12, 32), [3, 0, 9, 1, 1, 2, 4, 8, 7, 6, 5, 3]
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for i, name in enumerate(names):
        (folder / name).write_bytes(b"".join(record(pixels[j], label[j]) for j in (2 * i, 2 * i + 1)))
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10) + "\n\n")
    return tmp_path, pixels, label


def test_cifar_10_as_published(cifar10):
    root, pixels, label = cifar10
    for source in (root, root / "cifar-10-batches-bin"):
        train, test = read(str(source), "train"), read(str(source), "test")
        assert train.images.shape == (10, 3, 32, 32)
        assert train.images.dtype == torch.uint8
        assert np.array_equal(train.images.permute(0, 2, 3, 1).numpy(), pixels[:10])
        assert np.array_equal(test.images.permute(0, 2, 3, 1).numpy(), pixels[10:])
        assert train.label.tolist() == label[:10]
        assert test.label.tolist() == label[10:]
        assert train.classes == CIFAR10
        assert not set(train.names) & set(test.names)
    assert class_names(str(root)) == CIFAR10
    (root / "cifar-10-batches-bin" / "batches.meta.txt").unlink()
    assert read(str(root), "train").classes == CIFAR10


def test_cifar_100_has_a_coarse_label_before_the_fine_one(tmp_path):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    pixels, fine = grid(4, 32), [99, 0, 42, 7]
    rows = [record(pixels[i], 19 - i, fine[i]) for i in range(4)]
    (folder / "train.bin").write_bytes(b"".join(rows[:3]))
    (folder / "test.bin").write_bytes(rows[3])
    train = read(str(tmp_path), "train")
    assert train.label.tolist() == fine[:3]
    assert np.array_equal(train.images.permute(0, 2, 3, 1).numpy(), pixels[:3])
    assert read(str(tmp_path), "test").label.tolist() == [7]
    assert len(train.classes) == 100
    (folder / "fine_label_names.txt").write_text("\n".join(f"name{i}" for i in range(100)))
    assert read(str(tmp_path), "train").classes[99] == "name99"


def test_cifar_that_cannot_be_read(cifar10, tmp_path):
    root, _, _ = cifar10
    folder = root / "cifar-10-batches-bin"
    third = (folder / "data_batch_3.bin").read_bytes()
    (folder / "data_batch_3.bin").write_bytes(third[:-1])
    bad(root, "6145 bytes are no whole number of images of 3073 bytes")
    (folder / "data_batch_3.bin").write_bytes(bytes([10]) + third[1:])
    bad(root, "label 10 is not one of the 10 classes")
    (folder / "data_batch_3.bin").unlink()
    bad(root, "no data_batch_3.bin")
    assert len(read(str(root), "test")) == 2, "the test part is whole"
    (folder / "batches.meta.txt").write_bytes(b"\xff\xfe")
    bad(root, "label 5 is not one of the 1 classes", part="test")


@pytest.mark.parametrize("files", [["data_batch_1"], ["train", "meta"]])
def test_pickled_cifar_is_refused_unread(files, tmp_path):
    for name in files:
        (tmp_path / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    bad(tmp_path, "pickled and could run code: download the binary version")


def test_a_folder_without_cifar_says_how_it_must_lie(tmp_path):
    bad(tmp_path, r"data_batch_1.bin to data_batch_5.bin.*train.bin, test.bin", kind="cifar")


# --- arrays -------------------------------------------------------------------------------------------------------
def test_arrays_with_parts_and_names(tmp_path):
    x, y = grid(10), np.arange(10) % 3
    file = tmp_path / "set.npz"
    np.savez(file, train_x=x[:7], train_y=y[:7], test_x=x[7:], test_y=y[7:].astype(np.uint8), classes=["a", "b", "c"])
    for source in (file, tmp_path):
        train, test = read(str(source), "train"), read(str(source), "test")
        assert np.array_equal(train.images.permute(0, 2, 3, 1).numpy(), x[:7])
        assert np.array_equal(test.images.permute(0, 2, 3, 1).numpy(), x[7:])
        assert train.label.tolist() == y[:7].tolist()
        assert test.label.tolist() == y[7:].tolist()
        assert train.classes == test.classes == ("a", "b", "c")
        assert not set(train.names) & set(test.names)


def test_arrays_in_one_piece_are_both_parts_and_grey_is_three_equal_channels(tmp_path):
    x = grid(4)[..., 0]
    np.savez(tmp_path / "grey.npz", x=x, y=np.array([1, 0, 1, 4]))
    train, test = read(str(tmp_path), "train"), read(str(tmp_path), "test")
    assert train.images.shape == (4, 3, 8, 8)
    assert all(np.array_equal(train.images[:, c].numpy(), x) for c in range(3))
    assert train.names == test.names
    assert train.classes == tuple(f"class {i}" for i in range(5))


def test_a_validation_part_stands_in_for_a_test_part(tmp_path):
    x, y = grid(4), np.array([0, 1, 1, 0])
    np.savez(tmp_path / "v.npz", train_x=x[:2], train_y=y[:2], val_x=x[2:], val_y=y[2:])
    assert np.array_equal(read(str(tmp_path), "test").images.permute(0, 2, 3, 1).numpy(), x[2:])


GOOD = {"x": grid(4), "y": np.array([0, 1, 1, 0])}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": GOOD["x"] / 255.0}, r"images are float64 \(4, 8, 8, 3\).*use uint8"),
        ({"x": GOOD["x"].transpose(0, 3, 1, 2)}, r"uint8 \(4, 3, 8, 8\).*use uint8 \(N, H, W, 3\)"),
        ({"x": GOOD["x"][:3]}, r"\(3, 8, 8, 3\) with labels int64 \(4,\)"),
        ({"x": GOOD["x"][:0], "y": GOOD["y"][:0]}, r"\(0, 8, 8, 3\)"),
        ({"x": GOOD["x"][:, :0]}, r"\(4, 0, 8, 3\)"),
        ({"y": GOOD["y"] + 0.5}, r"labels float64 \(4,\).*integers"),
        ({"y": np.array(list("abba"))}, "labels <U1"),
        ({"y": GOOD["y"][:, None]}, r"labels int64 \(4, 1\)"),
        ({"y": GOOD["y"] - 1}, "labels run from -1 to 0 for 1 classes"),
        ({"classes": ["only"]}, "labels run from 0 to 1 for 1 classes"),
        ({"x": np.array([{}, 1, 2, 3], dtype=object)}, "cannot be read as arrays"),
        ({"y": None}, "cannot be read as arrays .*y is not a file"),
        ({"x": None}, "has y: it must hold train_x, train_y, test_x and test_y"),
    ],
)
def test_arrays_that_are_not_as_they_must_be(changed, message, tmp_path):
    file = tmp_path / "x.npz"
    np.savez(file, **{name: value for name, value in {**GOOD, **changed}.items() if value is not None})
    bad(file, message)


def test_files_that_are_no_arrays(tmp_path, monkeypatch):
    good = tmp_path / "good.npz"
    np.savez_compressed(good, **GOOD)
    raw, file = good.read_bytes(), tmp_path / "bad.npz"
    for content in (b"", b"hello", raw[: len(raw) // 2], raw[:120] + bytes(40) + raw[160:]):
        file.write_bytes(content)
        bad(file, "cannot be read as arrays")
    with file.open("wb") as stream:
        np.save(stream, GOOD["x"])
    bad(file, "cannot be read as arrays")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", "no array")
        archive.writestr("y.npy", "no array")
    bad(file, "bad.npz")
    bad(tmp_path, "holds 2 .npz files: name one of them")
    monkeypatch.setattr(module, "MAX_ARRAY_BYTES", 700)
    assert len(raw) < 1500
    bad(good, "holds more than 700 bytes")


# --- folders ------------------------------------------------------------------------------------------------------
def fill(folder, *names, size=8):
    folder.mkdir(parents=True)
    for name in names:
        Image.fromarray(grid(1, size)[0]).save(folder / name)


def test_class_folders(tmp_path):
    fill(tmp_path / "dog", "10.png", "2.png")
    fill(tmp_path / "cat" / "inner", "1.jpg")
    fill(tmp_path / ".cache", "1.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "dog" / "notes.txt").write_text("no picture")
    found = read(str(tmp_path), "train")
    assert found.classes == ("cat", "dog")
    assert [path.name for path in found.images] == ["1.jpg", "2.png", "10.png"]
    assert found.label.tolist() == [0, 1, 1]
    assert found.names == tuple(map(str, found.images))
    assert read(str(tmp_path), "test").names == found.names, "data in one piece are both parts"
    assert "2 classes" in found.description


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "VAL"), ("train", "validation")])
def test_class_folders_inside_parts(train, test, tmp_path):
    for part, count in ((train, 2), (test, 1)):
        for name in "ab":
            fill(tmp_path / part / name, *(f"{i}.png" for i in range(count)))
    assert len(read(str(tmp_path), "train")) == 4
    assert len(read(str(tmp_path), "test")) == 2
    assert read(str(tmp_path), "test").images[0].parent == tmp_path / test / "a"


def test_a_class_may_be_called_train(tmp_path):
    """Without a test part, train is a class like any other."""
    fill(tmp_path / "train", "0.png")
    fill(tmp_path / "plane", "0.png")
    assert read(str(tmp_path), "train").classes == ("plane", "train")


def test_folders_that_cannot_be_used(tmp_path):
    bad(tmp_path, "0 folders with images: give a folder per class")
    fill(tmp_path / "one", "0.png")
    bad(tmp_path, "1 folders with images")
    file = tmp_path / "one" / "0.png"
    bad(file, "is a file: give a folder with a folder per class, or an .npz file")
    bad(file, "is a file", kind="classes")
    bad(tmp_path / "absent", "does not exist: give a folder, an .npz file, or 'embedded'")
    bad(tmp_path, "unknown layout of labelled images 'clases': did you mean 'classes'", kind="clases")


# --- embedded -----------------------------------------------------------------------------------------------------
def test_embedded_digits_are_scikit_learns_in_two_parts():
    train, test = read("embedded", "train"), read("embedded", "test")
    digits = load_digits()
    assert len(train) + len(test) == len(digits.images)
    assert len(train) == 1198
    numbers = [int(name.split()[1]) for part in (train, test) for name in part.names]
    assert sorted(numbers) == list(range(len(digits.images)))
    images, label = torch.cat([train.images, test.images]), torch.cat([train.label, test.label])
    for row in (0, 5, 1500):
        expected = np.round(digits.images[numbers[row]] * 255 / 16)
        assert all(np.array_equal(images[row, c].numpy(), expected) for c in range(3))
        assert int(label[row]) == digits.target[numbers[row]]
    assert images.max() == 255
    assert train.classes == tuple("0123456789")
    assert not set(train.hashes()) & set(test.hashes())
