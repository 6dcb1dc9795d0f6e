# SPDX-License-Identifier: Apache-2.0
"""Faces edited step by step: that their order can be read, that nothing else betrays it, and Seq-DeepFake's reader."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from mien.data.draws import item_seeds
from mien.data.forge import edit_sequence
from mien.engine import Phase
from mien.errors import BadInput
from mien.forensics.data import Faces
from mien.forensics.edits.faces import EditedFaces, EditedFrames, has_originals, jitter, open_edits, open_edits_test
from mien.forensics.edits.rings import (
    AMPLITUDE,
    COMPONENTS,
    draw_lists,
    edit_faces,
    encoded,
    ring_amplitudes,
    ring_masks,
    stripes,
)
from mien.forensics.opening import generated_people
from mien.forensics.people import People
from mien.forensics.readers.seq_deepfake import seq_deepfake, seq_deepfake_edits
from mien.forensics.readers.sets import READERS, recognise
from mien.room import DataOptions

SIZE = 96


@pytest.fixture(scope="module")
def faces():
    images, names = generated_people(range(4), 12, size=SIZE)
    return People(images, names, [], {})


# --- rings ----------------------------------------------------------------------------------------------------
def test_every_later_edit_fades_all_earlier_rings():
    got = ring_amplitudes(torch.tensor([[4, 1, 5, 0, 0], [2, 0, 0, 0, 0], [0, 0, 0, 0, 0], [5, 4, 3, 2, 1]]))
    a = 0.12
    expected = [
        [a * 0.6, 0, 0, a * 0.6 * 0.6, a],
        [0, a, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [a, a * 0.6, a * 0.6**2, a * 0.6**3, a * 0.6**4],
    ]
    assert torch.allclose(got, torch.tensor(expected))


def test_rings_are_bands_of_three_pixels_along_the_regions():
    rings = ring_masks(112, 112)
    assert rings.shape == (5, 112, 112)
    nose, lip = rings[0], rings[3]
    # The nose: an ellipse about (56.03, 66.74) with radii 10.5 and 14.5, pixel centres at halves.
    row = nose[66].nonzero().flatten().tolist()
    assert row == [44, 45, 46, 65, 66, 67]
    column = lip[:, 55].nonzero().flatten().tolist()
    assert len(column) == 6, "three pixels at the upper edge, three at the lower"
    assert not bool((rings[4] * rings[3]).any()), "hair and lips never meet"


def test_stripes_have_period_four_and_mean_zero():
    pattern = stripes(16, 16)
    assert torch.equal(pattern, pattern.roll(4, 0))
    assert torch.equal(pattern.roll(1, 0), pattern.roll(1, 1)), "diagonal"
    assert float(pattern.sum()) == 0
    assert not torch.equal(pattern, pattern.roll(2, 0))


def high_pass(x):
    """The image less its mean over 4 x 4 pixels."""
    return x - F.avg_pool2d(F.pad(x[:, None], (2, 1, 2, 1), mode="reflect"), 4, 1)[:, 0]


def test_the_order_can_be_read_from_the_rings_alone(faces):
    """Least squares of all five amplitudes at the known places, sorted, gives the order of nearly every list."""
    count = len(faces.names)
    seeds = item_seeds(3, np.arange(count), "edits")
    lists = draw_lists(seeds, 2 + torch.arange(count) % 4)
    images, _ = edit_faces(faces.faces, lists, seeds, seeds)
    rings, pattern = ring_masks(SIZE, SIZE), stripes(SIZE, SIZE)
    where = rings.sum(dim=0) > 0
    basis = high_pass(rings * pattern)[:, where].T
    seen = high_pass(images.float().mean(dim=1) / 255)[:, where].T
    amplitude = torch.linalg.lstsq(basis, seen).solution.T
    right = 0
    for row, found in zip(lists.tolist(), amplitude.tolist(), strict=True):
        edited = [token for token in row if token]
        right += sorted(edited, key=lambda token: found[token - 1]) == edited
    assert right / count >= 0.95


def test_edits_without_rings_do_not_tell_the_order_of_distant_regions(faces):
    """Why the rings are there: of hair and lips, the two orders give the same picture."""
    image, seeds = faces.faces[:4].float() / 255, item_seeds(0, np.arange(4))
    one, other = (edit_sequence(image, [order] * 4, seeds).image for order in (("hair", "lips"), ("lips", "hair")))
    assert torch.equal(one, other)
    a, b = (
        edit_faces(faces.faces[:4], torch.tensor([o] * 4), seeds, seeds)[0] for o in ([5, 4, 0, 0, 0], [4, 5, 0, 0, 0])
    )
    assert not torch.equal(a, b)


def test_two_orders_differ_by_the_rings_alone(faces, monkeypatch):
    monkeypatch.setattr("mien.forensics.edits.rings.AMPLITUDE", 0.0)
    seeds = item_seeds(0, np.arange(6))
    orders = torch.tensor([[*order, 0, 0] for order in permutations((2, 3, 1))])
    images, masks = edit_faces(faces.faces[:1].expand(6, -1, -1, -1), orders, seeds[:1].repeat(6), seeds[:1].repeat(6))
    assert all(torch.equal(images[0], image) for image in images)
    assert all(torch.equal(masks[0], mask) for mask in masks)


def test_an_unedited_face_is_encoded_like_its_original(faces):
    seeds = item_seeds(0, np.arange(5))
    images, masks = edit_faces(faces.faces[:5], torch.zeros(5, 5, dtype=torch.int64), seeds, seeds)
    assert torch.equal(images, encoded(faces.faces[:5], seeds))
    assert int(masks.max()) == 0
    assert not torch.equal(images, faces.faces[:5]), "JPEG"


def test_lists_are_distinct_tokens_of_the_wanted_length():
    lists = draw_lists(item_seeds(0, np.arange(3000)), torch.arange(3000) % 6)
    for i, row in enumerate(lists[:60].tolist()):
        used = [t for t in row if t]
        assert len(used) == len(set(used)) == i % 6
        assert row[: len(used)] == used
    first = Counter(lists[lists[:, 0] > 0, 0].tolist())
    assert min(first.values()) > 0.85 * 2500 / 5, first


@pytest.mark.parametrize("row", [[1, 1, 0, 0, 0], [0, 1, 0, 0, 0], [6, 0, 0, 0, 0], [-1, 0, 0, 0, 0]])
def test_what_is_no_list_is_refused(faces, row):
    seeds = item_seeds(0, [0])
    with pytest.raises(BadInput, match="each at most once"):
        edit_faces(faces.faces[:1], torch.tensor([row]), seeds, seeds)


# --- samples --------------------------------------------------------------------------------------------------
def test_every_length_is_equally_frequent_and_samples_say_what_was_done(faces):
    data = EditedFrames(faces.part(range(8)), 64, copies=6)
    assert Counter((data.sequence > 0).sum(dim=1).tolist()) == dict.fromkeys(range(6), 8)
    two = EditedFrames(faces.part(range(12)), 64)
    assert Counter((two.sequence > 0).sum(dim=1).tolist()) == dict.fromkeys(range(6), 4)
    for index in range(6):
        sample = data[index]
        assert isinstance(sample, EditedFaces)
        edits = int((sample.sequence > 0).sum())
        assert sample.label == int(edits > 0)
        assert sample.kind == ("real" if not edits else "1 edit" if edits == 1 else f"{edits} edits")
        assert sample.group == faces.names[0]
        assert sample.image.shape == sample.original.shape == (3, 64, 64)
        changed = (sample.image - sample.original).abs().amax(dim=0) > 0.1
        assert bool(sample.mask[0][changed].gt(0).float().mean() > 0.97) if edits else not bool(changed.any())
    assert has_originals(data)


def test_the_same_seed_gives_the_same_faces(faces):
    few = faces.part(range(4))
    one, again, other = (EditedFrames(few, 64, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.image, again.image)
    assert not torch.equal(one.sequence, other.sequence)


def test_training_mirrors_face_and_original_together_and_changes_colours_alike(faces):
    data = EditedFrames(faces.part(range(2)), 64, copies=6, training=True, colour=True)
    plain = EditedFrames(faces.part(range(2)), 64, copies=6)
    assert data.seeded
    real = next(i for i in range(6) if data[i].label == 0)
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        sample = data[real]
        assert torch.equal(sample.image, sample.original), "what was not edited stays equal"
        before = plain[real].image
        mirrored = [
            float(torch.corrcoef(torch.stack([sample.image.flatten(), x.flatten()]))[0, 1])
            for x in (before, before.flip(-1))
        ]
        seen.add(mirrored[0] > mirrored[1])
    assert seen == {True, False}
    data.colour = False
    for seed in range(6):
        torch.manual_seed(seed)
        sample, before = data[real + 1], plain[real + 1]
        way = (lambda x: x) if torch.equal(sample.image, before.image) else (lambda x: x.flip(-1))
        for name in ("image", "original", "mask"):
            assert torch.equal(getattr(sample, name), way(getattr(before, name)))


def test_the_colour_jitter_in_plain_steps():
    grey = lambda x: 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]  # noqa: E731
    pictures = [0.3 + 0.2 * torch.rand(3, 6, 6), 0.3 + 0.2 * torch.rand(3, 6, 6)]
    for seed in range(20):
        torch.manual_seed(seed)
        found = jitter(*pictures)
        torch.manual_seed(seed)
        brightness, contrast, saturation = (
            low + (high - low) * float(u)
            for u, (low, high) in zip(torch.rand(3), ((0.5, 1.3), (0.8, 1.5), (0.2, 1.5)), strict=True)
        )
        mean = float(grey(brightness * pictures[1]).mean())  # of the original, for both
        for picture, got in zip(pictures, found, strict=True):
            x = (mean + contrast * (brightness * picture - mean)).clamp(0, 1)
            x = (grey(x) + saturation * (x - grey(x))).clamp(0, 1)
            assert torch.allclose(got, x, atol=1e-5)


def test_bad_numbers_of_copies_are_refused(faces):
    with pytest.raises(BadInput, match="copies is 7"):
        EditedFrames(faces, 64, copies=7)


# --- Seq-DeepFake ---------------------------------------------------------------------------------------------
def picture(path, colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (colour, 40, 80)).save(path)


ROWS = {
    "Nose-Lip/7.png": [1, 4, 0, 0, 0],
    "original/7.png": [0] * 5,
    "Hair/8.png": [5, 0, 0, 0, 0],
    "original/8.png": [0] * 5,
}


def tree(root, *, originals=True, header=False, cells=False, prefix="", part="facial_components"):
    for split in ("train", "val", "test"):
        base = root / part
        rows = {name: value for name, value in ROWS.items() if originals or not name.startswith("original")}
        for i, name in enumerate(rows):
            picture(base / "images" / split / name, 20 * i + len(split))
        lines = ["image,label"] if header else []
        for name, value in rows.items():
            shown = ",".join(map(str, value)) if cells else f'"{value}"'
            lines.append(f"{prefix.format(split=split)}{name},{shown}")
        (base / "annotations").mkdir(parents=True, exist_ok=True)
        (base / "annotations" / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize(
    ("header", "cells", "prefix"),
    [
        (False, False, ""),
        (True, False, "{split}/"),
        (True, True, "images/{split}/"),
        (False, True, "facial_components/images/{split}/"),
    ],
)
def test_seq_deepfake_in_the_ways_it_may_lie(tmp_path, header, cells, prefix):
    root = tree(tmp_path, header=header, cells=cells, prefix=prefix)
    assert recognise(root) == "seq-deepfake"
    found = {f"{e.record.path.parent.name}/{e.record.path.name}": e for e in seq_deepfake_edits(root, "val")}
    assert set(found) == set(ROWS)
    edited = found["Nose-Lip/7.png"]
    assert edited.sequence == (1, 4, 0, 0, 0)
    assert (edited.record.label, edited.record.kind) == (1, "nose-lip")
    assert edited.original == tmp_path / "facial_components/images/val/original/7.png"
    real = found["original/8.png"]
    assert (real.record.label, real.record.kind, real.original) == (0, "real", real.record.path)
    assert real.record.group == found["Hair/8.png"].record.group != edited.record.group


def test_other_detectors_read_it_as_real_and_forged(tmp_path):
    tree(tmp_path)
    tree(tmp_path, part="facial_attributes")
    records = READERS["seq-deepfake"](tmp_path, "test")
    assert Counter(record.label for record in records) == {0: 4, 1: 4}
    assert {r.kind for r in seq_deepfake(tmp_path, "test", part="attributes")} == {"bangs-smiling", "young", "real"}
    assert len(seq_deepfake_edits(tmp_path, "all")) == 12


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('Nose-Lip/7.png,"[1, 4, 0]"', "5 numbers from 0 to 5"),
        ('Nose-Lip/7.png,"[0, 4, 0, 0, 0]"', "zeros at the end"),
        ('Nose-Lip/7.png,"[6, 0, 0, 0, 0]"', "5 numbers from 0 to 5"),
        ('../7.png,"[1, 0, 0, 0, 0]"', "must lie inside"),
        ("nothing at all", "names no image"),
        ('Nose-Lip/9.png,"[1, 0, 0, 0, 0]"', "1 of 2 listed images are missing"),
    ],
)
def test_lists_that_cannot_be_read_are_refused_with_their_line(tmp_path, line, message):
    tree(tmp_path)
    file = tmp_path / "facial_components/annotations/train.csv"
    file.write_text(f'original/7.png,"[0, 0, 0, 0, 0]"\n{line}\n')
    with pytest.raises(BadInput, match=message):
        seq_deepfake_edits(tmp_path, "train")


def test_what_is_missing_is_named_with_how_it_must_lie(tmp_path):
    for build, message in (
        (lambda: None, "neither facial_components"),
        (lambda: (tmp_path / "facial_components").mkdir(), "no file .*train.csv"),
    ):
        build()
        with pytest.raises(BadInput, match=rf"{message}.*ask its authors.*images/train/original"):
            seq_deepfake(tmp_path)
    with pytest.raises(BadInput, match="split"):
        seq_deepfake(tmp_path, "dev", part="components")
    with pytest.raises(BadInput, match=r"no folder .*facial_attributes"):
        seq_deepfake_edits(tmp_path, part="attributes")
    tree(tmp_path)
    (tmp_path / "facial_components/images/train/Hair/8.png").unlink()
    assert len(seq_deepfake_edits(tmp_path, partial=True)) == 3


# --- opening --------------------------------------------------------------------------------------------------
def asks(**changes):
    return SimpleNamespace(**{"image_size": 64, "vocabulary": "components", "jitter": False, **changes})


def test_seq_deepfake_is_opened_by_its_own_splits(tmp_path):
    data = open_edits(str(tree(tmp_path)), asks(), DataOptions())
    sample = data.train(Phase())[0]
    assert isinstance(sample, EditedFaces)
    assert sample.original.shape == (3, 64, 64)
    assert has_originals(data.train(Phase()))
    assert len(data.validation(Phase())) == 4
    assert len(data.manifest()["files"]) == 8, "train and val are seen, test is not"
    assert not set(open_edits_test(str(tmp_path), asks(), DataOptions()).manifest["files"]) & set(
        data.manifest()["files"]
    )


def test_without_originals_there_is_nothing_to_recover(tmp_path):
    data = open_edits(str(tree(tmp_path, originals=False)), asks(), DataOptions()).train(Phase())
    assert data[0].original is None
    assert not has_originals(data)


def test_people_of_training_and_validation_differ(faces, tmp_path):
    for i in range(0, 48, 4):
        (tmp_path / faces.names[i]).mkdir(exist_ok=True)
        Image.fromarray(faces.faces[i].permute(1, 2, 0).numpy()).save(tmp_path / faces.names[i] / f"{i}.png")
    data = open_edits(str(tmp_path), asks(), DataOptions(validation=0.3))
    train, held = data.train(Phase()), data.validation(Phase())
    assert not set(train.groups) & set(held.groups)
    assert "edited step by step" in data.manifest()["description"]
    assert len(train) + len(held) == 24
    assert train.training
    assert not held.training
    with pytest.raises(BadInput, match="attributes need Seq-DeepFake"):
        open_edits(str(tmp_path), asks(vocabulary="attributes"), DataOptions())


def table(root, faces, count=12):
    for i in range(count):
        Image.fromarray(faces.faces[i].permute(1, 2, 0).numpy()).save(root / f"{i}.png")
    rows = [f"{i}.png,{20 + i},{'ab'[i % 2]}" for i in range(count)]
    (root / "labels.csv").write_text("\n".join(["file,age,race", *rows]) + "\n")
    return str(root)


def test_the_faces_of_a_table_without_labels_are_edited(faces, tmp_path):
    source = table(tmp_path, faces)
    data = open_edits(source, asks(), DataOptions(validation=0.25))
    train, held = data.train(Phase()), data.validation(Phase())
    assert isinstance(train, EditedFrames)
    assert has_originals(train)
    assert (len(train), len(held)) == (18, 6)
    assert not set(train.groups) & set(held.groups)
    sample = train[0]
    assert set(sample.attributes) == {"age", "race"}
    assert "faces edited step by step, made from 12 faces" in data.manifest()["description"]
    test = open_edits_test(source, asks(), DataOptions())
    assert isinstance(test.dataset, EditedFrames)
    assert len(test.manifest["files"]) == 12
    with pytest.raises(BadInput, match="attributes need Seq-DeepFake"):
        open_edits(source, asks(vocabulary="attributes"), DataOptions())


def test_validation_lists_of_one_class_are_left_out(tmp_path):
    """As of other labelled data: there is no AUC to validate by."""
    source = str(tree(tmp_path))
    lists = tmp_path / "facial_components" / "annotations" / "val.csv"
    for kept in ("original", "Hair", "Nose-Lip"):
        rows = [f'{name},"{value}"' for name, value in ROWS.items() if name.startswith(kept)]
        lists.write_text("\n".join(rows) + "\n")
        assert open_edits(source, asks(), DataOptions()).validation(Phase()) is None
    lists.write_text("\n".join(f'{name},"{value}"' for name, value in ROWS.items()) + "\n")
    assert len(open_edits(source, asks(), DataOptions()).validation(Phase())) == 4


def test_labelled_images_without_lists_are_plain_faces(tmp_path):
    for name in ("real", "fake"):
        for i in range(3):
            picture(tmp_path / name / f"{i}.png", 50 * i)
    options = DataOptions(crop="none", validation=0.0)
    sample = open_edits(str(tmp_path), asks(), options).train(Phase())[0]
    assert type(sample) is Faces
    assert type(open_edits_test(str(tmp_path), asks(), options).dataset[0]) is Faces


def test_the_constants_are_the_documented_ones():
    assert COMPONENTS == ("nose", "eye", "eyebrow", "lip", "hair")
    assert AMPLITUDE == 0.12
