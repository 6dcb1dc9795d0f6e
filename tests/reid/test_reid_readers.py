# SPDX-License-Identifier: Apache-2.0
"""Data sets in the layouts of their owners, on trees of tiny images that the tests write."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mien.errors import BadInput
from mien.reid.opening import held_out
from mien.reid.readers import generated, read, split_persons


def write(root, names):
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((12, 6, 3), 10 + number, np.uint8)).save(path)
    return root


def crops(data):
    """(person, camera, query, gallery) of every crop, sorted."""
    roles = zip(data.people, data.camera.tolist(), data.query.tolist(), data.gallery.tolist(), strict=True)
    return sorted(roles)


MARKET = [
    "bounding_box_train/0002_c1s1_000451_03.jpg",
    "bounding_box_train/0002_c3s1_000551_01.jpg",
    "bounding_box_train/0007_c2s3_000451_03.jpg",
    "bounding_box_test/-1_c1s1_000401_03.jpg",
    "bounding_box_test/0000_c1s1_000151_01.jpg",
    "bounding_box_test/0001_c2s1_000151_01.jpg",
    "bounding_box_test/Thumbs.db.txt",
    "query/0001_c1s1_001051_00.jpg",
]


def test_market1501(tmp_path):
    write(tmp_path, [name for name in MARKET if name.endswith("jpg")])
    (tmp_path / "bounding_box_test/Thumbs.db.txt").write_text("no image")
    train, test = (read(str(tmp_path), part) for part in ("train", "test"))
    assert crops(train) == [
        ("market1501/0002", 1, False, True),
        ("market1501/0002", 3, False, True),
        ("market1501/0007", 2, False, True),
    ]
    assert crops(test) == [
        ("market1501/0000", 1, False, True),  # a distractor stays in the gallery; junk (-1) does not
        ("market1501/0001", 1, True, False),
        ("market1501/0001", 2, False, True),
    ]
    assert "market1501" in train.description
    manifest = train.manifest()
    assert manifest["groups"] == ["market1501/0002", "market1501/0007"]
    assert len(manifest["files"]) == 3


def test_dukemtmc_reid(tmp_path):
    names = ["bounding_box_train/0001_c2_f0046182.jpg", "bounding_box_train/0005_c8_f0056182.jpg"]
    names += [
        "query/0003_c1_f0044158.jpg",
        "bounding_box_test/0003_c5_f0044158.jpg",
        "bounding_box_test/0004_c5_f01.jpg",
    ]
    write(tmp_path, names)
    assert crops(read(str(tmp_path), "train")) == [
        ("dukemtmc-reid/0001", 2, False, True),
        ("dukemtmc-reid/0005", 8, False, True),
    ]
    assert [row[1:3] for row in crops(read(str(tmp_path), "test", "dukemtmc-reid"))] == [
        (1, True),
        (5, False),
        (5, False),
    ]


def test_personx_one_scene_and_several(tmp_path):
    one = ["bounding_box_train/0001_c1_1.jpg", "bounding_box_train/0002_c2_1.jpg", "query/0003_c1_2.jpg"]
    one += ["bounding_box_test/0003_c3_2.jpg", "bounding_box_test/0004_c3_2.jpg"]
    write(tmp_path / "1", one)
    assert crops(read(str(tmp_path / "1"), "train"))[0] == ("personx/0001", 1, False, True)
    write(tmp_path / "2", one)
    train = crops(read(str(tmp_path), "train"))
    assert [row[:2] for row in train] == [
        ("personx/1/0001", 1),
        ("personx/1/0002", 2),
        ("personx/2/0001", 1001),  # another scene's cameras and persons are others
        ("personx/2/0002", 1002),
    ]


def test_veri776(tmp_path):
    names = ["image_train/0001_c001_00016450_0.jpg", "image_train/0003_c012_00016450_0.jpg"]
    names += ["image_query/0002_c002_00030600_0.jpg", "image_test/0002_c003_00030640_0.jpg"]
    write(tmp_path, [*names, "image_test/0009_c003_00030640_1.jpg"])
    assert crops(read(str(tmp_path), "train")) == [("veri776/0001", 1, False, True), ("veri776/0003", 12, False, True)]
    assert crops(read(str(tmp_path), "test"))[0] == ("veri776/0002", 2, True, False)


@pytest.mark.parametrize("folders", [("train", "test"), ("mask_train_v2", "mask_test_v2")])
def test_msmt17(tmp_path, folders):
    train, test = folders
    files = {
        "list_train.txt": [(train, "0000/0000_000_01_0303morning_0015_0.jpg", 0)],
        "list_val.txt": [(train, "0001/0001_000_05_0303morning_0015_0.jpg", 1)],
        "list_query.txt": [(test, "0000/0000_000_02_0303morning_0015_0.jpg", 0)],
        "list_gallery.txt": [
            (test, "0000/0000_001_14_0303morning_0015_0.jpg", 0),
            (test, "0001/0001_001_14_0303morning_0015_0.jpg", 1),
        ],
    }
    for table, rows in files.items():
        write(tmp_path, [f"{folder}/{name}" for folder, name, _ in rows])
        (tmp_path / table).write_text("".join(f"{name} {person}\n" for _, name, person in rows))
    assert crops(read(str(tmp_path), "train")) == [
        ("msmt17/train-0", 1, False, True),
        ("msmt17/train-1", 5, False, True),
    ]
    assert crops(read(str(tmp_path), "test")) == [
        ("msmt17/test-0", 2, True, False),
        ("msmt17/test-0", 14, False, True),
        ("msmt17/test-1", 14, False, True),
    ]
    (tmp_path / "list_gallery.txt").write_text("0000/nothing_001_14_x.jpg 0\n")
    with pytest.raises(BadInput, match=r"list_gallery.txt, line 1: .* does not exist"):
        read(str(tmp_path), "test")
    (tmp_path / "list_gallery.txt").write_text("../../etc/a_b_14_x.jpg 0\n")
    with pytest.raises(BadInput, match=r"line 1: .* is not FILE PERSON"):
        read(str(tmp_path), "test")


PERSONS = [
    f"{person}/{camera:02d}_{angle}.png" for person in ("009", "050", "x") for camera in (1, 2) for angle in (1, 2)
]


def test_a_folder_for_each_person(tmp_path):
    write(tmp_path, PERSONS)
    for part in ("train", "test"):
        data = read(str(tmp_path), part)
        assert len(data) == 12
        assert data.query.all()
        assert data.gallery.all()
        assert set(zip(data.people, data.camera.tolist(), strict=True)) == {
            (person, camera) for person in ("009", "050", "x") for camera in (1, 2)
        }


def test_persons_inside_train_and_test(tmp_path):
    write(tmp_path / "train", PERSONS)
    write(tmp_path / "val", ["070/01_1.png", "070/02_1.png", "071/01_1.png", "071/02_1.png"])
    assert sorted(set(read(str(tmp_path), "train").people)) == ["009", "050", "x"]
    assert sorted(set(read(str(tmp_path), "test").people)) == ["070", "071"]


def test_a_lone_folder_named_train_is_just_where_the_persons_lie(tmp_path):
    write(tmp_path / "train", PERSONS)
    assert len(set(read(str(tmp_path), "test").people)) == 3


def test_cameras_by_market_names_or_unknown(tmp_path):
    market = write(tmp_path / "a", ["p/0001_c1s1_1.jpg", "p/0001_c4s1_1.jpg", "q/0002_c4s1_1.jpg"])
    assert sorted(read(str(market), "train").camera.tolist()) == [1, 4, 4]
    unknown = read(str(write(tmp_path / "b", ["p/one.jpg", "p/two.jpg", "q/one.jpg"])), "test")
    assert len(set(unknown.camera.tolist())) == 3, "each crop counts as a camera"
    assert "cameras unknown" in unknown.description


def test_persons_are_split_whole_and_differently_for_each_seed(tmp_path):
    write(tmp_path, [f"{person:03d}/{c:02d}_1.png" for person in range(12) for c in (1, 2)])
    whole = read(str(tmp_path), "train")
    sides = {seed: split_persons(whole, seed=seed) for seed in (0, 1)}
    for parts in sides.values():
        train, test = (set(parts[part].people) for part in ("train", "test"))
        assert (len(train), len(test)) == (8, 4)
        assert not train & test
    assert set(sides[0]["test"].people) != set(sides[1]["test"].people)
    assert set(read(str(tmp_path), "test", "person-split").people) == set(sides[0]["test"].people)


def test_crops_without_names_train_but_do_not_test(tmp_path):
    write(tmp_path, ["a/1.png", "b/2.png", "3.png"])
    data = read(str(tmp_path), "train", "unlabelled")
    assert len(data) == 3
    assert len(set(data.people)) == 3
    with pytest.raises(BadInput, match="no persons are known"):
        read(str(tmp_path), "test", "unlabelled")
    with pytest.raises(BadInput, match="--validation 0"):
        held_out(data, 0.5, 0)


def test_validation_holds_out_persons_that_can_be_searched_for(tmp_path):
    names = [f"{person:02d}/{c:02d}_1.png" for person in range(6) for c in (1, 2)]
    names += [f"{person:02d}/01_{angle}.png" for person in range(6, 20) for angle in (1, 2)]
    data = read(str(write(tmp_path, names)), "train")
    for seed in range(5):
        train, held = held_out(data, 0.2, seed)
        assert not set(train.people) & set(held.people)
        assert len(set(held.people)) == 4
        assert any(int(person) < 6 for person in held.people)
        assert held.query.all()
        assert held.gallery.all()
    assert held_out(data, 0.0, 0) == (data, None)


def test_generated_people_are_others_in_the_test():
    train, test = generated("train"), generated("test")
    assert (len(set(train.people)), len(set(test.people))) == (40, 20)
    assert not set(train.people) & set(test.people)
    assert len(set(test.camera.tolist())) == 4
    assert not set(generated("test", seed=1).people) & set(test.people)


def test_missing_data_say_what_to_download(tmp_path):
    with pytest.raises(BadInput, match=r"nowhere does not exist: give a folder"):
        read(str(tmp_path / "nowhere"), "train")
    for kind, message in [
        ("market1501", "no folder bounding_box_train: unpack Market-1501-v15.09.15.zip"),
        ("dukemtmc-reid", "no folder bounding_box_train: unpack DukeMTMC-reID.zip"),
        ("veri776", r"no folder image_train: unpack VeRi.zip"),
        ("msmt17", "no folder train or mask_train_v2: unpack MSMT17"),
        ("personx", "hold no images: unpack PersonX"),
        ("person-folders", "no images: give a folder for each person"),
        ("unlabelled", "no images"),
    ]:
        with pytest.raises(BadInput, match=message):
            read(str(tmp_path), "train", kind)
    write(tmp_path / "market", MARKET[:2])
    (tmp_path / "market/query").mkdir()
    with pytest.raises(BadInput, match="no folder bounding_box_test: unpack Market"):
        read(str(tmp_path / "market"), "test", "market1501")


def test_names_that_do_not_fit(tmp_path):
    write(
        tmp_path / "a", ["bounding_box_train/holiday.jpg", "query/0001_c1s1_1.jpg", "bounding_box_test/0001_c2s1_1.jpg"]
    )
    with pytest.raises(BadInput, match=r"holiday\.jpg: its name does not begin with PERSON_cCAMERA"):
        read(str(tmp_path / "a"), "train", "market1501")
    write(tmp_path / "b", ["0001/01_1.png", "stray.png"])
    with pytest.raises(BadInput, match=r"stray\.png: lies in no person's folder"):
        read(str(tmp_path / "b"), "train")
    write(tmp_path / "c", ["0001/01_1.png", "0001/02_1.png"])
    with pytest.raises(BadInput, match="2 crops of 1 person: give at least two persons"):
        read(str(tmp_path / "c"), "train")
