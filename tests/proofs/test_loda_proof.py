# SPDX-License-Identifier: Apache-2.0
"""What LoDA's experiment is given: classes of its foundation, of its tasks, and images that nothing is trained on."""

from __future__ import annotations

import pytest
from PIL import Image

from mien.errors import BadInput
from mien.proofs import loda


@pytest.mark.parametrize("seed", [0, 1])
def test_foundation_and_tasks_share_no_class_and_training_and_test_no_image(seed):
    data = loda.make_data("embedded", seed)
    assert data.tasks == 2
    assert len(data.foundation.classes) == 2
    assert len(data.train.classes) == 8
    assert not set(data.foundation.classes) & set(data.train.classes)
    assert data.test.classes == data.train.classes
    assert sorted(set(data.train.label.tolist())) == sorted(set(data.test.label.tolist())) == list(range(8))
    assert not set(data.train.hashes()) & set(data.test.hashes())


def test_another_seed_is_another_order():
    assert loda.make_data("embedded", 0).train.classes != loda.make_data("embedded", 1).train.classes


def test_a_folder_per_class_without_a_test_part_is_divided(tmp_path):
    for c in range(10):
        (tmp_path / f"class{c}").mkdir()
        for i in range(5):
            Image.new("RGB", (9, 9), (20 * c, 40 * i, 0)).save(tmp_path / f"class{c}" / f"{i}.png")
    data = loda.make_data(str(tmp_path), 0)
    assert (len(data.train), len(data.test), len(data.foundation)) == (32, 8, 8)
    assert not set(data.train.names) & set(data.test.names)
    assert "2 other classes" in loda.about(str(tmp_path))


def test_too_few_classes_are_refused():
    with pytest.raises(BadInput, match="9 classes: 10 or more are needed"):
        loda._tasks(9)
    assert [loda._tasks(n) for n in (10, 13, 14, 18, 200)] == [2, 2, 3, 3, 3]
