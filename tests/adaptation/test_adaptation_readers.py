# SPDX-License-Identifier: Apache-2.0
"""Data sets in their published layouts, from small trees that the tests write; tasks and class orders."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mien.adaptation.readers import read, recognise
from mien.adaptation.tasks import FoundedTasks, by_task, class_order, task_of, task_sizes
from mien.engine import Outcome
from mien.errors import BadInput


def picture(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 8), (shade, 0, 0)).save(path)


@pytest.fixture
def cub(tmp_path):
    """Three classes of two images each; the second of each is for testing. Class numbers are not in file order."""
    root = tmp_path / "CUB_200_2011"
    rows = [(f"{c}.bird{c}", f"{c}.bird{c}/img{i}.jpg") for c in (1, 2, 3) for i in (0, 1)]
    for _, name in rows:
        picture(root / "images" / name)
    numbered = list(enumerate(rows, start=1))
    lists = {
        "images": [f"{n} {name}" for n, (_, name) in numbered],
        "image_class_labels": [f"{n} {folder[0]}" for n, (folder, _) in numbered],
        "classes": [f"{c} {c}.bird{c}" for c in (1, 2, 3)],
        "train_test_split": [f"{n} {n % 2}" for n, _ in numbered],
    }
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root


def test_cub_with_its_own_split(cub):
    assert recognise(str(cub.parent)) == recognise(str(cub)) == "cub"
    train, test = read(str(cub.parent), "train"), read(str(cub), "test")
    assert train.classes == ("1.bird1", "2.bird2", "3.bird3")
    assert [path.name for path in train.images] == ["img0.jpg"] * 3
    assert [path.name for path in test.images] == ["img1.jpg"] * 3
    assert train.label.tolist() == test.label.tolist() == [0, 1, 2]
    assert not set(train.names) & set(test.names)


def test_a_damaged_cub_is_named(cub):
    (cub / "images" / "2.bird2" / "img1.jpg").unlink()
    assert len(read(str(cub), "train")) == 3
    with pytest.raises(BadInput, match=r"img1\.jpg is missing, though a list"):
        read(str(cub), "test")
    (cub / "image_class_labels.txt").write_text("1 1\n2 9\n")
    with pytest.raises(BadInput, match="disagree: a damaged copy"):
        read(str(cub), "train")
    (cub / "classes.txt").write_text("1\n")
    with pytest.raises(BadInput, match=r"classes\.txt, line 1"):
        read(str(cub), "train")
    (cub / "classes.txt").unlink()
    with pytest.raises(BadInput, match=r"classes\.txt is missing"):
        read(str(cub), "train")


def test_domainnet_joins_its_domains(tmp_path):
    for domain in ("clipart", "real"):
        for part in ("train", "test"):
            lines = []
            for number, name in ((4, "bee"), (2, "axe")):
                picture(tmp_path / domain / name / f"{part}.jpg")
                lines.append(f"{domain}/{name}/{part}.jpg {number}")
            (tmp_path / f"{domain}_{part}.txt").write_text("\n".join(lines))
    assert recognise(str(tmp_path)) == "domainnet"
    data = read(str(tmp_path), "train")
    assert data.classes == ("axe", "bee")
    assert data.label.tolist() == [1, 0, 1, 0]
    assert "clipart, real" in data.description
    (tmp_path / "real_train.txt").write_text("real/bee/train.jpg 2\n")
    with pytest.raises(BadInput, match="does not fit DOMAIN/CLASS/FILE"):
        read(str(tmp_path), "train")


@pytest.mark.parametrize("name", ["imagenet-r", "imagenet-a"])
def test_imagenet_variants_are_split_by_name_the_same_everywhere(name, tmp_path):
    parts = []
    for place in ("here", "there"):
        for wordnet in ("n00000001", "n00000002"):
            for i in range(10):
                picture(tmp_path / place / name / wordnet / f"{i}.jpg", i)
        source = str(tmp_path / place)
        assert recognise(source) == name
        train, test = read(source, "train"), read(source, "test")
        assert (len(train), len(test)) == (16, 4)
        assert sorted(test.label.tolist()) == [0, 0, 1, 1]
        assert not set(train.names) & set(test.names)
        parts.append([path.name for path in test.images])
    assert parts[0] == parts[1]


@pytest.mark.parametrize("kind", ["cub", "domainnet", "imagenet-r", "imagenet-a"])
def test_a_missing_data_set_says_what_to_download(kind, tmp_path):
    with pytest.raises(BadInput, match=r"here: download .* this folder"):
        read(str(tmp_path), "train", kind)


# --- tasks ----------------------------------------------------------------------------------------------------
def test_the_published_seed_gives_the_published_order():
    names = [str(i) for i in range(100)]
    order = class_order(names, 1993)
    generator = np.random.RandomState(1993)  # as published protocols: seed, then permutation
    assert order == [names[i] for i in generator.permutation(100)]
    assert order[:5] == ["68", "56", "78", "8", "23"]
    assert class_order(names, 1994) != order


def test_tasks_hold_the_images_of_their_classes():
    data = read("embedded", "train")
    sizes = task_sizes(10, [4, 3, 3])
    parts = by_task(data, sizes)
    assert [sorted(set(part.label.tolist())) for part in parts] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert sum(map(len, parts)) == len(data)
    assert task_of(sizes, range(10)).tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(("classes", "tasks", "sizes"), [(10, None, (5, 5)), (7, None, (7,)), (200, None, (20,) * 10)])
def test_how_many_tasks_without_being_told(classes, tasks, sizes):
    assert task_sizes(classes, tasks) == sizes


def test_the_foundation_comes_before_the_tasks():
    schedule, history = FoundedTasks(3, 2, 5), []
    while (phase := schedule.next_phase(history, 0)) is not None:
        history.append(Outcome(phase))
    found = [(o.phase.index, o.phase.name, o.phase.epochs, o.phase.task) for o in history]
    assert found == [(0, "foundation", 3, None), (1, "task 0", 5, 0), (2, "task 1", 5, 1)]
