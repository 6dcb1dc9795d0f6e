# SPDX-License-Identifier: Apache-2.0
"""Tables of who is seen, and images that lie in zip archives."""

from __future__ import annotations

import hashlib
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from mien.data.attributes import attribute_names, attribute_table, column_of, is_attribute_table
from mien.data.folders import fingerprints
from mien.data.images import load_tensor, open_image
from mien.data.zipped import inside_zip, members, read_member
from mien.errors import BadInput


def jpeg(shade):
    stream = io.BytesIO()
    Image.new("RGB", (12, 10), (shade, shade, shade)).save(stream, "PNG")
    return stream.getvalue()


def table(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.csv").write_text(text)
    return folder


def test_images_beside_the_table_in_images_and_in_a_zip_give_the_same_records(tmp_path):
    text = "file,age,race\n10.png,30,1\n2.png,4,0\n"
    a, b, c = (table(tmp_path / name, text) for name in "abc")
    (b / "images").mkdir()
    with zipfile.ZipFile(c / "pictures.zip", "w") as archive:
        for name, shade in (("10.png", 10), ("2.png", 2)):
            (a / name).write_bytes(jpeg(shade))
            (b / "images" / name).write_bytes(jpeg(shade))
            archive.writestr(f"deep/er/{name}", jpeg(shade))
    found = [attribute_table(folder) for folder in (a, b, c)]
    for records in found:
        assert [record.path.name for record in records] == ["2.png", "10.png"]
        assert [dict(record.attributes) for record in records] == [
            {"age": "4", "race": "0"},
            {"age": "30", "race": "1"},
        ]
        assert [record.label for record in records] == [None, None]
        np.testing.assert_allclose(load_tensor(records[1].path).numpy(), 10 / 255)
        assert fingerprints([records[0].path]) == [hashlib.sha256(jpeg(2)).hexdigest()], "as if it were unpacked"
    assert found[0][0].group == "a/2.png"
    assert attribute_names(found[2]) == ("age", "race")


def test_labels_persons_kinds_and_videos_are_taken_from_their_columns(tmp_path):
    text = "path,label,person,kind,video,frame,race\na.png,real,p1,,v,3,x\nb.png,fake,p1,swap,,,x\nc.png,,p2,,,,y\n"
    folder = table(tmp_path, text)
    for name in "abc":
        (folder / f"{name}.png").write_bytes(jpeg(9))
    a, b, c = attribute_table(folder)
    assert (a.label, a.group, a.kind, a.video, a.frame) == (0, "p1", "real", "v", 3)
    assert (b.label, b.group, b.kind) == (1, "p1", "swap")
    assert (c.label, c.group, c.kind) == (None, "p2", "")
    assert attribute_names([a, b, c]) == ("race",)


def test_a_word_for_real_images_is_the_kind_real(tmp_path):
    folder = table(tmp_path, "path,label,kind,race\na.png,0,Pristine,x\n")
    (folder / "a.png").write_bytes(jpeg(9))
    assert attribute_table(folder)[0].kind == "real", "else it is counted as a kind of forgery"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,race\na.png,1\n", "must name one column of images"),
        ("file,path,race\na.png,a.png,1\n", "must name one column of images"),
        ("file,race,race\na.png,1,1\n", "no column twice"),
        ("file,label\na.png,real\n", "no column of attributes"),
        ("file,race\n", "holds no images"),
        ("file,race\na.png\n", "row 2: 1 cells under 2 columns"),
        ("file,race\n../a.png,1\n", "must lie inside"),
        ("file,race\n/etc/passwd,1\n", "must lie inside"),
        ("file,race\nmissing.png,1\n", "row 2: no image missing.png beside the table or in images/"),
        ("file,race\na.png,1\na.png,2\n", "named in several rows"),
        ("file,race,label\na.png,1,perhaps\n", "label 'perhaps'"),
        ("file,race,frame\na.png,1,x\n", "frame 'x'"),
        ("file,race,label,kind\na.png,1,1,real\n", "row 2: a.png has label 1 and kind 'real'"),
        ("file,race,label,kind\na.png,1,fake,Original\n", "row 2: a.png has label 1 and kind 'real'"),
        ("file,race,label,kind\na.png,1,real,swap\n", "row 2: a.png has label 0 and kind 'swap'"),
    ],
)
def test_bad_tables_are_one_line(tmp_path, text, message):
    folder = table(tmp_path, text)
    (folder / "a.png").write_bytes(jpeg(1))
    with pytest.raises(BadInput, match=message) as caught:
        attribute_table(folder)
    assert "\n" not in str(caught.value)


def test_which_tables_say_who_is_seen(tmp_path):
    assert is_attribute_table(table(tmp_path / "a", "file,race\n"))
    assert is_attribute_table(table(tmp_path / "b", "path,label,race\n"))
    assert is_attribute_table(table(tmp_path / "b", "path,label,race\n") / "labels.csv")
    assert not is_attribute_table(table(tmp_path / "c", "path,label,group\n"))
    assert not is_attribute_table(table(tmp_path / "d", "a,b\n"))
    assert not is_attribute_table(tmp_path / "nowhere")


def test_the_column_of_groups():
    assert column_of(("age", "gender", "race"), None) == "race"
    assert column_of(("age",), None) == "age"
    assert column_of(("age", "race"), "age") == "age"
    with pytest.raises(BadInput, match="did you mean 'race'"):
        column_of(("age", "race"), "rac")
    with pytest.raises(BadInput, match="which column makes the groups"):
        column_of(("age", "gender"), None)
    with pytest.raises(BadInput, match="no column 'race'"):
        column_of((), "race")


def test_archives_are_not_trusted(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", jpeg(1))
        archive.writestr("bomb.png", bytes(1_000_000))
    assert inside_zip(path / "a" / "1.png") == (path, "a/1.png")
    assert inside_zip(path) is None
    assert members(path) == ("a/1.png", "bomb.png")
    assert open_image(path / "a" / "1.png").size == (12, 10)
    with pytest.raises(BadInput, match="1,000,000 bytes, at most 999 are allowed"):
        read_member(path, "bomb.png", 999)
    with pytest.raises(BadInput, match="no such file"):
        open_image(path / "a" / "2.png")
    data = bytearray(path.read_bytes())
    data[45] ^= 0xFF
    (tmp_path / "broken.zip").write_bytes(bytes(data))
    with pytest.raises(BadInput, match="cannot be read"):
        read_member(tmp_path / "broken.zip", "a/1.png", 10_000)
    (tmp_path / "none.zip").write_bytes(b"no archive")
    with pytest.raises(BadInput, match="zip archive"):
        members(tmp_path / "none.zip")


def test_an_archive_that_changes_is_read_anew(tmp_path):
    path = tmp_path / "x.zip"
    for shade in (1, 200):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.png", jpeg(shade) + b" " * shade)
        assert read_member(path, "a.png", 10_000) == jpeg(shade) + b" " * shade
