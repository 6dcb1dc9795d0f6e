# SPDX-License-Identifier: Apache-2.0
"""The room that families of classifiers start from: splits, manifests, figures and rows against plain computations."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mien.classification.data import CIFAR10, ClassData, Labelled, LabelledImages, read
from mien.classification.method import ImageClassifier, cross_entropy
from mien.classification.room import ClassificationRoom, classifier, collect, held_out, per_image
from mien.engine import Method, Phase, Settings, Single, fit
from mien.errors import BadInput
from mien.nn.network import Network
from mien.optim.recipe import Recipe
from mien.room import DataOptions, Using

ROOM = ClassificationRoom()


class Means(nn.Module):
    """Logits of three classes that follow from the mean colours alone: what it answers can be computed by hand."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(4 * torch.eye(3)[:, :, None, None])

    def forward(self, image):
        return self.conv(image).mean(dim=(2, 3))


def model(classes=("red", "green", "blue"), size=8, **changes):
    method = ImageClassifier(network=Network.of(Means(), cam_layer="conv"), optimizer=Recipe(), image_size=size)
    method.classes = tuple(classes)
    for name, value in changes.items():
        setattr(method, name, value)
    return method.eval()


def colours(labels, seed=0):
    images = torch.randint(
        0, 256, (len(labels), 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    names = tuple(f"colour {i}" for i in range(len(labels)))
    return ClassData(images, torch.tensor(labels), ("red", "green", "blue"), names, "colours")


@pytest.fixture
def folder(tmp_path):
    for part, level in (("train", 0), ("test", 20)):
        for c, name in enumerate(("red", "green", "blue")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(10):
                pixel = np.full((6, 9, 3), level + i, dtype=np.uint8)
                pixel[..., c] = 200 + level + i
                Image.fromarray(pixel).save(tmp_path / part / name / f"{i}.png")
    return tmp_path


# --- data ---------------------------------------------------------------------------------------------------------
def test_training_and_validation_share_no_image_and_have_all_classes_alike():
    data = read("embedded", "train")
    train, held = held_out(data, 0.25, seed=3)
    assert not set(train.names) & set(held.names)
    assert sorted((*train.names, *held.names)) == sorted(data.names)
    whole, part = Counter(data.label.tolist()), Counter(held.label.tolist())
    assert all(abs(part[c] - whole[c] / 4) <= 1 for c in whole)
    assert held_out(data, 0.25, seed=4)[1].names != held.names
    assert held_out(data, 0.25, seed=3)[1].names == held.names
    assert held_out(data, 0.0, seed=3) == (data, None)


def test_opened_data_know_their_files_and_test_data_are_others(folder):
    options, method = DataOptions(validation=0.2), model()
    opened, test = ROOM.open_data(str(folder), method, options), ROOM.open_test(str(folder), method, options)
    assert (len(opened._train), len(opened._validation)) == (24, 6)
    assert opened._train.augment == "shift_flip"
    assert opened._validation.augment == test.dataset.augment == "none"
    hashes = read(str(folder), "train").hashes()
    manifest = opened.manifest()
    assert (manifest["groups"], manifest["files"]) == ([], sorted(set(hashes)))
    assert manifest["description"].startswith("3 classes in ")
    assert not set(test.manifest["files"]) & set(hashes)
    assert len(test.dataset) == 30


def test_digits_are_never_mirrored_and_a_method_may_refuse_augmentation():
    digits = tuple("0123456789")
    assert ROOM.open_data("embedded", model(digits), DataOptions())._train.augment == "shift"
    assert ROOM.open_data("embedded", model(digits, augmentation="none"), DataOptions())._train.augment == "none"


def test_labels_are_the_models_and_copies_of_test_images_are_not_trained_on(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    y = np.arange(9) % 3
    file = tmp_path / "x.npz"
    np.savez(file, train_x=x, train_y=y, test_x=x[:2], test_y=y[:2], classes=["red", "green", "blue"])
    method = model(("blue", "green", "red"))
    data = ROOM.read(str(file), method, "train", DataOptions())
    assert data.label.tolist() == [2 - y[i] for i in range(2, 9)]
    assert "without 2 copies of test images" in data.description
    assert ROOM.data_config("any", str(file), DataOptions()) == {"classes": ["red", "green", "blue"]}
    with pytest.raises(BadInput, match="unknown class 'red'"):
        ROOM.read(str(file), model(("blue", "green")), "test", DataOptions())


# --- figures ------------------------------------------------------------------------------------------------------
def by_hand(data):
    """Logits, accuracy and nll of `Means`, image by image in float64."""
    logits = 4 * data.images.double().mean(dim=(2, 3)).numpy() / 255
    right = [int(row.argmax() == label) for row, label in zip(logits, data.label.tolist(), strict=True)]
    nll = [
        float(np.log(np.exp(row).sum()) - row[label]) for row, label in zip(logits, data.label.tolist(), strict=True)
    ]
    return logits, np.array(right, dtype=float), np.array(nll)


def test_evaluation_is_the_plain_computation():
    data = colours([0, 1, 2, 2, 1, 0, 0, 0, 1, 2, 2])
    test, (_, right, nll) = LabelledImages(data, 8), by_hand(data)
    found = ROOM.evaluate(model(), type("Test", (), {"dataset": test})(), None, Using(batch_size=4))
    metrics = found["metrics"]
    assert metrics["accuracy"]["value"] == pytest.approx(right.mean())
    assert metrics["nll"]["value"] == pytest.approx(nll.mean(), rel=1e-5)
    means = {c: right[data.label.numpy() == i].mean() for i, c in enumerate(("red", "green", "blue"))}
    assert found["classes"] == pytest.approx(means)
    assert metrics["class_accuracy"]["value"] == pytest.approx(np.mean(list(means.values())))
    assert metrics["accuracy"]["low"] <= metrics["accuracy"]["value"] <= metrics["accuracy"]["high"]
    assert [item["id"] for item in found["items"]] == list(data.names)
    assert [item["values"]["accuracy"] for item in found["items"]] == right.tolist()
    assert found["primary"] == "accuracy"
    assert found["lower_is_better"] == ["nll"]
    assert 0 < right.mean() < 1, "the case must hold right and wrong answers"
    assert not any("left out" in note for note in found["notes"])
    part = ROOM.evaluate(model(), type("Test", (), {"dataset": test})(), None, Using(batch_size=4, max_steps=2))
    assert part["metrics"]["accuracy"]["value"] == pytest.approx(right[:8].mean())
    assert part["notes"][-1] == "3 of 11 images were left out"


def test_a_class_without_images_has_no_accuracy():
    test = LabelledImages(colours([0, 0, 1]), 8)
    found = ROOM.evaluate(model(), type("Test", (), {"dataset": test})(), None, Using())
    assert set(found["classes"]) == {"red", "green"}


def test_collecting_stops_where_it_is_told_and_names_what_has_no_name():
    data = colours([0, 1, 2, 2, 1])
    logits, label, names = collect(model(), LabelledImages(data, 8), Using(batch_size=2, max_steps=2))
    assert torch.allclose(logits.double(), torch.from_numpy(by_hand(data)[0][:4]), atol=1e-5)
    assert label.tolist() == [0, 1, 2, 2]
    assert names == list(data.names[:4])
    nameless = [Labelled(torch.rand(3, 8, 8), 1) for _ in range(3)]
    assert collect(model(), nameless, Using(batch_size=2))[2] == ["image 0", "image 1", "image 2"]
    with pytest.raises(BadInput, match="1 of 3 images have no class: evaluation needs labels"):
        collect(model(), [*nameless[:2], Labelled(torch.rand(3, 8, 8), -1)], Using())


def test_per_image_is_the_definition():
    logits, label = torch.tensor([[2.0, 0.0], [1.0, 3.0], [0.5, 0.0]]), np.array([0, 0, 1])
    found = per_image(logits, label)
    assert found["accuracy"].tolist() == [1, 0, 0]
    expected = [np.log(1 + np.exp(-2.0)), np.log(1 + np.exp(2.0)), np.log(1 + np.exp(0.5))]
    assert found["nll"] == pytest.approx(expected)


# --- answers ------------------------------------------------------------------------------------------------------
def test_rows_name_the_class_and_the_runner_up_and_go_past_broken_files(folder):
    good, broken = folder / "test" / "green" / "3.png", folder / "test" / "broken.png"
    broken.write_text("no picture")
    answers = ROOM.predict(model(), [good, broken, torch.rand(3, 8, 8)], None, Using(batch_size=2))
    rows = list(answers)
    assert len(answers) == 3
    assert [row.path for row in rows] == [str(good), str(broken), "image 2"]
    p = torch.tensor([23.0, 223.0, 23.0]).div(255).mul(4).softmax(0)
    assert rows[0].values["class"] == "green"
    assert rows[0].values["probability"] == pytest.approx(float(p[1]), abs=2e-6)
    assert rows[0].values["second"] in ("red", "blue")
    assert rows[0].values["second_probability"] == pytest.approx(float(p[0]), abs=2e-6)
    assert rows[1].values == {}
    assert "broken.png" in rows[1].error
    assert set(rows[2].values) == set(rows[0].values)
    assert "it may be wrong" in answers.notes[0]


def test_what_is_left_out_is_said(folder):
    answers = ROOM.predict(model(), [folder / "test" / "red"], None, Using(batch_size=4, max_steps=2))
    assert len(list(answers)) == len(answers) == 8
    assert answers.notes[-1] == "2 of 10 images were left out"


def test_a_method_with_a_crop_shows_the_middle(folder):
    wide = np.zeros((16, 32, 3), dtype=np.uint8)
    wide[:, 8:24, 0] = 255  # red in the middle square
    wide[:, :8, 1] = wide[:, 24:, 1] = 255
    whole = next(iter(ROOM.predict(model(), [wide], None, Using())))
    middle = next(iter(ROOM.predict(model(crop=0.8), [wide], None, Using())))
    assert whole.values["probability"] == pytest.approx(whole.values["second_probability"], abs=1e-3)
    assert middle.values["class"] == "red"
    assert middle.values["probability"] == pytest.approx(float(torch.tensor([4.0, 0, 0]).softmax(0)[0]), abs=1e-4)


# --- the thin class -----------------------------------------------------------------------------------------------
def test_cross_entropy_is_the_mean_and_empty_batches_stay_connected():
    logits = torch.tensor([[2.0, 0.0], [1.0, 3.0]], requires_grad=True)
    expected = (np.log(1 + np.exp(-2.0)) + np.log(1 + np.exp(2.0))) / 2
    assert float(cross_entropy(logits, torch.tensor([0, 0])).detach()) == pytest.approx(expected)
    nothing = cross_entropy(logits[:0], torch.zeros(0, dtype=torch.long))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert logits.grad.abs().sum() == 0
    for label in (-1, 2):
        with pytest.raises(BadInput, match=f"labels run from .*{label}.*there are 2 classes"):
            cross_entropy(logits, torch.tensor([0, label] if label > 0 else [label, 0]))


def test_training_fits_colours_and_validation_is_the_plain_figure():
    torch.manual_seed(0)
    names = ("red", "green", "blue")
    recipe = Recipe(kind="adamw", lr=0.05)
    method = ImageClassifier(network=Network("tiny_blocks"), optimizer=recipe, image_size=8, classes=names)
    label = torch.arange(60) % 3
    images = torch.randint(0, 80, (60, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    images[torch.arange(60), label] += 100
    data = LabelledImages(ClassData(images, label, names, tuple(map(str, range(60))), "colours"), 8)
    before = method.eval().validate(data)
    assert "main" in method.optimizers(Phase(total_steps=3))
    fit(method, data, settings=Settings(batch_size=20, device="cpu"), schedule=Single(5))
    after = method.eval().validate(data, batch_size=7)
    assert after["loss"] < before["loss"] / 2
    with torch.no_grad():
        logits = method.classifier(images.float() / 255)
    assert after["accuracy"] == pytest.approx(float((logits.argmax(1) == label).double().mean()))
    assert after["loss"] == pytest.approx(float(cross_entropy(logits, label)), rel=1e-5)


def test_a_saved_configuration_does_not_ask_for_weights_again(tmp_path):
    method = ImageClassifier(network=Network("tiny_blocks"), optimizer=Recipe(), image_size=16)
    assert method.classes == CIFAR10
    config = method.config()
    assert config["network"]["pretrained"] is False
    assert config["network"]["weights"] is None
    assert config["network"]["name"] == "tiny_blocks"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["one"]}, r"classes are \['one'\]: give at least two"),
        ({"classes": ["a", "a"]}, r"classes are \['a', 'a'\]"),
        ({"image_size": 7}, "image_size is 7"),
    ],
)
def test_bad_input_is_one_line(changes, message):
    with pytest.raises(BadInput, match=message) as caught:
        ImageClassifier(**{"network": Network("tiny_blocks"), "optimizer": Recipe(), "image_size": 16, **changes})
    assert "\n" not in str(caught.value)


def test_the_room_works_with_classifiers_only():
    class Other(Method):
        name = "other"

    with pytest.raises(BadInput, match=r"'other' is no .*ImageClassifier"):
        classifier(Other())
