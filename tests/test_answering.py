# SPDX-License-Identifier: Apache-2.0
"""From what a user names to loaded images: which items, in which order, loaded when, and what broken ones become."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mien.answering import Item, batches_of, folders_of, items_of, load_ahead, load_image
from mien.data.images import from_uint8
from mien.errors import BadInput, MienError


def picture(path, size=(6, 4), colour=(255, 0, 51)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


# --- items --------------------------------------------------------------------------------------------------------
def test_files_folders_and_images_keep_the_users_order(tmp_path):
    single = picture(tmp_path / "z.png")
    for name in ("b/10.png", "b/2.png", "a/1.png", "top.png"):
        picture(tmp_path / "folder" / name)
    (tmp_path / "folder" / "notes.txt").write_text("no picture")
    image = Image.new("RGB", (3, 3))
    found = items_of([str(single), tmp_path / "folder", image])
    inside = tmp_path / "folder"
    paths = [single, inside / "top.png", inside / "a" / "1.png", inside / "b" / "2.png", inside / "b" / "10.png"]
    assert [item.source for item in found[:-1]] == paths
    assert [item.name for item in found[:-1]] == [str(path) for path in paths]
    assert [item.unit for item in found] == ["", *(str(path.parent) for path in paths[1:]), ""]
    assert found[-1] == Item("image 2", image)


def test_a_missing_file_is_an_item_and_an_empty_folder_is_refused(tmp_path):
    """Whether a file can be opened is found out when its turn comes; a folder without images gives no turn."""
    assert items_of([tmp_path / "absent.png"])[0].name == str(tmp_path / "absent.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="empty: no images in this folder") as caught:
        items_of([tmp_path / "empty"])
    assert "\n" not in str(caught.value)
    assert items_of([]) == []


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 20), st.integers(1, 7))
def test_batches_are_the_items_in_order_and_only_the_last_is_short(count, size):
    items = [Item(str(i), i) for i in range(count)]
    batches = batches_of(items, size)
    assert [item for batch in batches for item in batch] == items
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(0 < len(batch) <= size for batch in batches)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(1, 9)), max_size=5), st.integers(1, 6))
def test_folders_are_whole_up_to_the_cap_and_then_evenly_thinned(runs, cap):
    items = [Item(f"{r}-{i}", None, unit) for r, (unit, count) in enumerate(runs) for i in range(count)]
    groups = folders_of(items, cap)
    flat = [item for group in groups for item in group]
    assert flat == [item for item in items if item in flat], "in order"
    assert all(len({item.unit for item in group}) == 1 for group in groups)
    assert all(len(group) == 1 for group in groups if not group[0].unit)
    # neighbouring runs of one folder are one run of the items
    merged = []
    for item in items:
        if item.unit and merged and merged[-1][0].unit == item.unit:
            merged[-1].append(item)
        else:
            merged.append([item])
    assert len(groups) == len(merged)
    for group, whole in zip(groups, merged, strict=True):
        if len(whole) <= cap:
            assert group == whole
            continue
        assert len(group) == cap
        at = [whole.index(item) for item in group]
        gaps = np.diff([*at, len(whole)])
        assert at[0] == 0
        assert max(gaps) - min(gaps) <= 1, "steps differ by one at most"


# --- loading ahead ------------------------------------------------------------------------------------------------
def test_images_come_in_order_and_broken_ones_as_their_message():
    def load(source):
        if source % 3 == 1:
            raise BadInput(f"{source} is broken")
        return torch.full((3, 2, 2), float(source))

    batches = batches_of([Item(str(i), i) for i in range(11)], 4)
    found = list(load_ahead(batches, load))
    assert [[item.name for item, _ in batch] for batch in found] == [[i.name for i in batch] for batch in batches]
    for batch in found:
        for item, image in batch:
            broken = item.source % 3 == 1
            assert image == f"{item.source} is broken" if broken else float(image[0, 0, 0]) == item.source
    assert list(load_ahead([], load)) == []


def test_an_error_that_is_no_message_is_raised():
    """Only what was expected becomes a row: a mistake in the code must be seen."""

    def load(source):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(load_ahead([[Item("a", 0)]], load))
    other = next(load_ahead([[Item("a", 0)]], lambda _: (_ for _ in ()).throw(MienError("one line"))))
    assert other[0][1] == "one line"


def test_at_most_two_batches_are_taken_ahead():
    """Memory does not grow with the number of images: the source is asked for a batch when one is handed out."""
    taken = []

    def source():
        for i in range(10):
            taken.append(i)
            yield [Item(str(i), i)]

    stream = load_ahead(source(), lambda i: torch.full((1,), float(i)))
    for number in range(10):
        next(stream)
        assert len(taken) <= number + 3
    assert len(taken) == 10


def test_batches_are_decoded_while_the_caller_works():
    second = threading.Event()

    def load(i):
        if i == 1:
            second.set()
        return torch.zeros(1)

    stream = load_ahead([[Item("0", 0)], [Item("1", 1)]], load)
    next(stream)
    assert second.wait(10), "the second batch must load before it is asked for"
    stream.close()


# --- one image ----------------------------------------------------------------------------------------------------
def test_an_image_is_the_same_from_a_file_an_array_pillow_and_a_tensor(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    expected = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    sources = [tmp_path / "a.png", str(tmp_path / "a.png"), array, Image.fromarray(array), expected, expected.double()]
    for source in sources:
        found = load_image(source)
        assert found.dtype == torch.float32
        assert torch.allclose(found, expected, atol=1e-7)
        assert load_image(source, 8).shape == (3, 8, 8)
        assert load_image(source, (4, 6)).shape == (3, 4, 6)
    assert torch.allclose(from_uint8(array), expected)
    grey = load_image(Image.fromarray(array[..., 0]))
    assert torch.equal(grey[0], grey[2]), "other modes of Pillow become RGB"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (torch.rand(3, 4, 4) + 1, "outside"),
        (torch.full((3, 4, 4), -0.1), "outside"),
        (torch.rand(1, 4, 4), r"Tensor of shape .*1, 4, 4.*give PIL, uint8 \(H, W, 3\) or float \(3, H, W\)"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), "give PIL"),
        (np.zeros((4, 4, 3)), r"ndarray of shape \(4, 4, 3\): give PIL"),
        (np.zeros((4, 4), dtype=np.uint8), "give PIL"),
        (7, "image is a int of shape None"),
        (None, "image is a NoneType"),
        ("absent.png", "absent.png"),
    ],
)
def test_what_is_no_image_is_one_line(source, message):
    with pytest.raises(BadInput, match=message) as caught:
        load_image(source)
    assert "\n" not in str(caught.value)


def test_a_tensor_that_is_not_finite_is_refused():
    image = torch.rand(3, 4, 4)
    image[0, 0, 0] = torch.nan
    with pytest.raises(BadInput, match="outside"):
        load_image(image)
