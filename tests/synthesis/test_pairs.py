# SPDX-License-Identifier: Apache-2.0
"""Readers of pairs in every layout, what is refused, and what samples look like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mien.errors import BadInput
from mien.synthesis.data import Pair, Pairs, load_pair
from mien.synthesis.polygons import PAPER, SIZE, polygon_pairs, scene, vertices
from mien.synthesis.readers import Found, layout_of, read, side_names


def write(path: Path, value: int = 0, height: int = 24, width: int = 24) -> Path:
    """A picture of one grey level, which says which one it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)
    return path


def levels(found: Found) -> list[tuple[int, int]]:
    return [tuple(int((255 * side).round().mean()) for side in load_pair(pair, 8)) for pair in found.pairs]  # type: ignore[misc]


# --- layouts --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layout", ["{side}", "{part}/{side}", "{part}_{side}", "{side}/{part}"])
def test_a_folder_for_each_side(tmp_path: Path, layout: str):
    """Natural order, suffixes that differ, and only the pairs of the part that is asked for."""
    for part, base in (("train", 10), ("test", 60)):
        for number in (1, 2, 10):
            for side, more, suffix in (("sketch", 0, "png"), ("photo", 100, "jpg")):
                where = tmp_path / layout.format(side=side, part=part)
                if "{part}" in layout or part == "train":
                    write(where / f"{number}.{suffix}", base + number + more)
    assert layout_of(tmp_path) == "folders"
    found = read(str(tmp_path), "train")
    assert found.sides == ("sketch", "photo")
    assert levels(found) == [(11, 111), (12, 112), (20, 120)]
    test = read(str(tmp_path), "test")
    assert levels(test) == ([(61, 161), (62, 162), (70, 170)] if "{part}" in layout else levels(found))
    assert levels(read(str(tmp_path), "train", sides=("photo", "sketch"))) == [(111, 11), (112, 12), (120, 20)]


def test_persons_in_folders_are_groups(tmp_path: Path):
    for side in ("A", "B"):
        for name in ("ann/1", "ann/2", "bob/1"):
            write(tmp_path / side / f"{name}.png")
    assert [pair.group for pair in read(str(tmp_path), "train").pairs] == ["ann", "ann", "bob"]


def test_side_by_side(tmp_path: Path):
    for part in ("train", "val"):
        picture = np.zeros((8, 32, 3), np.uint8)
        picture[:, :16], picture[:, 16:] = 30, 200
        (tmp_path / part).mkdir()
        Image.fromarray(picture).save(tmp_path / part / "1.png")
    assert layout_of(tmp_path) == "side-by-side"
    assert levels(read(str(tmp_path), "train")) == [(30, 200)]
    assert levels(read(str(tmp_path), "test", sides=("right", None))) == [(200, 30)]
    write(tmp_path / "train" / "2.png", width=33)
    with pytest.raises(BadInput, match="33 x 24 pixels: two halves side by side need an even width"):
        levels(read(str(tmp_path), "train"))


def test_sen12(tmp_path: Path):
    for scene_number, patch in ((0, 30), (0, 4), (7, 1)):
        for side, value in (("s1", patch), ("s2", 100 + patch)):
            name = f"ROIs1158_spring_{side}_{scene_number}_p{patch}.png"
            write(tmp_path / "ROIs1158_spring" / f"{side}_{scene_number}" / name, value)
    assert layout_of(tmp_path) == "sen12"
    found = read(str(tmp_path), "train")
    assert levels(found) == [(4, 104), (30, 130), (1, 101)]
    assert [pair.group for pair in found.pairs] == ["ROIs1158_spring scene 0"] * 2 + ["ROIs1158_spring scene 7"]
    (tmp_path / "ROIs1158_spring" / "s2_7" / "ROIs1158_spring_s2_7_p1.png").unlink()
    with pytest.raises(BadInput, match=r"s1_7_p1\.png has no partner"):
        read(str(tmp_path), "train")


def images(*values: int, colour: bool = True) -> np.ndarray:
    plane = np.array(values, np.uint8)[:, None, None]
    return (
        np.broadcast_to(plane[..., None], (len(values), 9, 7, 3))
        if colour
        else np.broadcast_to(plane, (len(values), 9, 7))
    )


def test_arrays(tmp_path: Path):
    np.savez(
        tmp_path / "a.npz", sketch=images(1, 2, colour=False), photo=images(101, 102), name=np.array(["ann", "bob"])
    )
    np.savez(tmp_path / "b.npz", sketch=images(3), photo=images(103), other=np.arange(5))
    np.savez(tmp_path / "more.npz", sketch=images(9, 9))
    found = read(str(tmp_path), "test")
    assert levels(found) == [(1, 101), (2, 102), (3, 103)]
    assert [pair.group for pair in found.pairs] == ["ann", "bob", "0"]
    assert "1 files with one side only are left out" in found.about
    assert levels(read(str(tmp_path / "b.npz"), "train")) == [(3, 103)]
    assert side_names(str(tmp_path)) == ("sketch", "photo")


# --- what is refused ------------------------------------------------------------------------------------------------
def refused(path: Path, words: str, part: str = "train", **how: object) -> None:
    with pytest.raises(BadInput, match=words) as error:
        _ = [load_pair(pair, 16) for pair in read(str(path), part, **how).pairs]  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_missing_halves_and_unclear_sides(tmp_path: Path):
    for side in ("sketch", "photo"):
        for number in range(3):
            write(tmp_path / "d" / side / f"{number}.png")
    (tmp_path / "d" / "photo" / "1.png").unlink()
    refused(tmp_path / "d", r"sketch/1\.png has no partner of the same name in .*photo$")
    (tmp_path / "d" / "sketch" / "2.png").unlink()
    refused(tmp_path / "d", r"has no partner .* \(2 files have none\)")
    write(tmp_path / "e" / "x" / "1.png")
    write(tmp_path / "e" / "y" / "1.png")
    refused(tmp_path / "e", "which side is translated into which.*--method.input and --method.target.*: x, y")
    assert read(str(tmp_path / "e"), "train", sides=("y", None)).sides == ("y", "x")
    refused(tmp_path / "e", "has no side 'z': there are x, y", sides=("z", "x"))
    refused(tmp_path / "none", "does not exist")
    write(tmp_path / "f" / "train" / "A" / "1.png")
    write(tmp_path / "f" / "train" / "B" / "1.png")
    refused(tmp_path / "f", "has no test part: put its pairs into folders named test or val", part="test")
    (tmp_path / "g").mkdir()
    refused(tmp_path / "g", "no pairs of images here, train part: give files that hold both halves")
    refused(tmp_path / "g", "no folders of two sides here: give a folder for each side", kind="folders")
    refused(tmp_path / "g", r"no pairs of images here, test part: download SEN1-2, .* s1_1/", "test", kind="sen12")
    refused(tmp_path / "g", "unknown kind of data 'sidebyside': did you mean 'side-by-side'", kind="sidebyside")
    write(tmp_path / "h.png")
    refused(tmp_path / "h.png", "h.png is a file: give a folder of pairs, or an .npz file")


def test_halves_of_different_fields_and_broken_files(tmp_path: Path):
    write(tmp_path / "a" / "A" / "1.png", height=20, width=40)
    write(tmp_path / "a" / "B" / "1.png", height=40, width=40)
    refused(tmp_path / "a", r"the input is 40 x 20 pixels and its target 40 x 40: both must show the same field")
    write(tmp_path / "a" / "B" / "1.png", height=41, width=81)  # twice as large but for rounding
    assert len(levels(read(str(tmp_path / "a"), "train"))) == 1
    (tmp_path / "a" / "B" / "1.png").write_bytes(b"no picture")
    refused(tmp_path / "a", "not an image")
    write(tmp_path / "a" / "A" / "1.jpg")
    refused(tmp_path / "a", "have the same name but for the suffix")


def test_bad_arrays(tmp_path: Path):
    np.savez(tmp_path / "a.npz", sketch=images(1, 2), photo=images(3))
    refused(tmp_path / "a.npz", "2 of sketch, 1 of photo: a pair lacks a half")
    np.savez(tmp_path / "b.npz", sketch=images(1), name=np.array(["x"]))
    refused(tmp_path / "b.npz", "a pair needs two arrays of images in one .npz file; found sketch")
    np.savez(tmp_path / "c.npz", sketch=images(1), photo=images(1).astype(np.float32))
    refused(tmp_path / "c.npz", "found sketch")
    (tmp_path / "d.npz").write_bytes(b"PK no archive")
    refused(tmp_path / "d.npz", "cannot be read as arrays")
    np.savez(tmp_path / "e.npz", sketch=np.array([{}]), photo=images(1))
    refused(tmp_path / "e.npz", "cannot be read as arrays")


# --- samples --------------------------------------------------------------------------------------------------------
def test_both_halves_are_mirrored_and_moved_alike():
    picture = torch.randint(0, 256, (3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = Pairs([Pair(picture, 255 - picture, "x", "x")], 12, flip=True, shift=3)
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        sample = data[0]
        assert sample.input.shape == (3, 12, 12)
        assert torch.allclose(sample.image, 1 - sample.input)
        seen.add(sample.input.numpy().tobytes())
    assert len(seen) > 20
    plain = Pairs(data.pairs, 12)
    assert data.seeded
    assert not plain.seeded
    assert torch.equal(plain[0].input, picture.float() / 255)


def test_moved_samples_are_cuts_of_the_padded_picture():
    picture = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    padded = np.pad(picture.numpy(), ((0, 0), (2, 2), (2, 2)), mode="edge") / np.float32(255)
    cuts = {padded[:, i : i + 8, j : j + 8].tobytes(): (i, j) for i in range(5) for j in range(5)}
    data = Pairs([Pair(picture, picture, "x", "x")], 8, shift=2)
    torch.manual_seed(0)
    assert {cuts[data[0].input.numpy().tobytes()] for _ in range(300)} == {(i, j) for i in range(5) for j in range(5)}


# --- polygons -------------------------------------------------------------------------------------------------------
def test_scenes_follow_from_their_number_and_training_and_test_differ():
    one, again, other = scene(3), scene(3), scene(4)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[1], other[1])
    numbers = [{pair.group for pair in read("embedded", part).pairs} for part in ("train", "test")]  # type: ignore[arg-type]
    assert len(numbers[0]) == 256
    assert not numbers[0] & numbers[1]
    (there,), (back,) = polygon_pairs([3]), polygon_pairs([3], backwards=True)
    assert torch.equal(there.input, back.target)  # type: ignore[arg-type]
    assert there.input.shape == (3, SIZE, SIZE)


def test_corners_lie_on_their_circle():
    centre = np.array([20.0, 30.0])
    for shape, corners in enumerate((3, 4, 10, 12)):
        points = vertices(shape, centre, 10.0, 0.3)
        assert points.shape == (corners, 2)
        assert np.linalg.norm(points - centre, axis=1).max() == pytest.approx(10, abs=0.05)
        assert np.allclose(points.mean(axis=0), centre)


def test_grey_levels_say_nothing_about_the_class():
    """Fails when a level belongs to a shape: the mean colour of pixels of either level must then differ."""
    poor, rich = zip(*(scene(i) for i in range(150)), strict=True)
    grey, colour = np.stack(poor)[..., 0] / 255, np.stack(rich) / 255
    inside = np.abs(colour - np.array(PAPER)).max(axis=-1) > 0.1
    dark, light = (colour[inside & part].mean(axis=0) for part in (grey < 0.57, grey > 0.57))
    assert np.abs(dark - light).max() < 0.06
    assert colour[inside].std(axis=0).min() > 0.15  # classes themselves do differ
