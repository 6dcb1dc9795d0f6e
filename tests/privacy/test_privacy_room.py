# SPDX-License-Identifier: Apache-2.0
"""The room from end to end, small: obfuscations, matching, and the verbs train, evaluate, predict, protect, reveal."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mien import api
from mien.cli import main
from mien.commands import protect as protect_verb
from mien.data.faces import FaceFinder
from mien.errors import BadInput
from mien.privacy.identity import (
    enrol,
    matched,
    split_for_matching,
    train_recogniser,
    verification_auc,
)
from mien.privacy.obfuscate import KINDS, Obfuscation, draw_stickers, obfuscate
from mien.privacy.opening import generated_people, open_training, read
from mien.room import DataOptions


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Four generated people as a folder of people."""
    folder = tmp_path_factory.mktemp("people")
    found = generated_people(range(40, 44), 5, "")
    for i, (face, name) in enumerate(zip(found.images, found.people, strict=True)):
        (folder / name).mkdir(exist_ok=True)
        Image.fromarray(face.permute(1, 2, 0).numpy()).save(folder / name / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def run(people, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    arguments = ["train", "pro-face-s", "--data", str(people), "--preset", "small", "--max-steps", "2"]
    sizes = ["--method.image_size", "32", "--method.growth", "4", "--batch-size", "4", "--validation", "0.25"]
    assert main([*arguments, *sizes, "--out", str(out)]) == 0
    return out


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (61, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    (tmp_path / "key").write_text("correct horse battery staple\n")
    return tmp_path / "photo.png"


# --- obfuscations -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", list(KINDS))
def test_obfuscations_keep_shape_and_range_and_take_detail_away(kind):
    image = torch.rand(2, 3, 32, 48)
    made = obfuscate(image, kind)
    assert made.shape == image.shape
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    assert made.diff(dim=-1).abs().mean() < 0.7 * image.diff(dim=-1).abs().mean()
    assert torch.equal(made, obfuscate(image, kind))
    assert obfuscate(image[:0], kind).shape == (0, 3, 32, 48)


def test_the_verb_knows_the_same_obfuscations():
    assert tuple(KINDS) == protect_verb.KINDS


def test_pixelation_has_as_many_cells_as_the_card_says():
    image = torch.rand(1, 3, 256, 256)
    for amount, block in ((-1.0, 14), (0.0, 20), (1.0, 26)):
        made = obfuscate(image, "pixelate", amount)[0, 0]
        rows = 1 + int((made[1:] != made[:-1]).any(dim=1).sum())
        assert rows == 256 // block
    assert torch.equal(obfuscate(image, "pixelate", 0.0), obfuscate(image, "pixelate", 0.1))  # blocks are even


def test_blur_has_the_cards_width():
    """The blur of a bright line spreads with sigma 15 (less what a kernel of 61 pixels cuts off)."""
    image = torch.zeros(1, 3, 256, 256)
    image[..., 128] = 1
    row = obfuscate(image, "blur")[0, 0, 128].double()
    place = torch.arange(256) - 128.0
    kernel = torch.exp(-0.5 * (torch.arange(-30, 31) / 15.0) ** 2).double()
    expected = float((kernel * torch.arange(-30, 31) ** 2).sum() / kernel.sum()) ** 0.5
    assert float((row * place**2).sum() / row.sum()) ** 0.5 == pytest.approx(expected, rel=1e-3)


def test_median_is_a_median():
    image = (torch.rand(1, 3, 32, 32) * 255).round() / 255
    made = obfuscate(image, "median", strength=1.0)  # kernel 23 * 32 / 256, made odd: 3
    assert float(made[0, 1, 10, 20]) == pytest.approx(float(image[0, 1, 9:12, 19:22].median()), abs=1e-6)


def test_strengths_grow_with_the_picture():
    """A large picture loses what the same picture at 256 pixels loses."""
    small = torch.rand(1, 3, 16, 16)
    images = [torch.nn.functional.interpolate(small, size=side, mode="bilinear") for side in (256, 512)]
    for kind in ("blur", "pixelate", "mask"):
        first, second = (obfuscate(image, kind) for image in images)
        shrunk = torch.nn.functional.interpolate(second, size=256, mode="area")
        assert (first - shrunk).abs().mean() < 0.02, kind


def test_stickers_are_drawn_by_number_and_those_of_tests_are_kept_apart():
    first, again, other = draw_stickers([3, 3, 1003], 24)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first[3, 12, 12] == 1
    assert first[3, 0, 0] == 0
    image = torch.rand(1, 3, 24, 24)
    assert torch.equal(obfuscate(image, "sticker"), obfuscate(image, "sticker", stickers=[1000]))
    corner = obfuscate(image, "sticker")[..., 0, 0]
    assert torch.allclose(corner, image[..., 0, 0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: obfuscate(torch.rand(1, 3, 16, 16), "blurr"), "did you mean 'blur'"),
        (lambda: obfuscate(torch.rand(1, 3, 4, 16), "blur"), "at least 8 x 8"),
        (lambda: obfuscate(torch.rand(1, 3, 16, 16), "blur", 2.0), "amount is 2"),
        (lambda: Obfuscation(()), "empty"),
        (lambda: Obfuscation(strength=5), "strength is 5"),
    ],
)
def test_bad_obfuscations_are_one_line(call, words):
    with pytest.raises(BadInput, match=words):
        call()


# --- matching -----------------------------------------------------------------------------------------------------
def flat(image):
    """An embedding that sees the mean colour alone."""
    return image.mean(dim=(2, 3))


def test_matching_is_rank_one_by_cosine():
    colour = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0.9, 0.1, 0], [0.2, 0.8, 0], [0.9, 0.2, 0]])
    images = colour[:, :, None, None].expand(-1, -1, 8, 8)
    gallery = enrol(flat, images[:2], [0, 1])
    assert matched(flat, gallery, images[2:], [0, 1, 1]).tolist() == [1.0, 1.0, 0.0]
    assert verification_auc(flat, gallery, images[2:4], [0, 1]) == 1.0
    with pytest.raises(BadInput, match="person 2"):
        matched(flat, gallery, images[2:3], [2])


def test_gallery_and_queries_share_no_picture_and_hold_every_person():
    people = ["a"] * 5 + ["b"] * 4 + ["alone"]
    gallery, queries = split_for_matching(people, 3)
    assert not set(gallery) & set(queries)
    assert sorted(gallery + queries) == list(range(9))
    assert {people[i] for i in gallery} == {people[i] for i in queries} == {"a", "b"}
    assert split_for_matching(people, 3) == (gallery, queries)


def test_the_recogniser_learns_and_leaves_the_generators_alone():
    people = generated_people(range(3), 8, "")
    images = people.images.float() / 255
    who = np.unique(people.people, return_inverse=True)[1]
    before = torch.get_rng_state()
    network = train_recogniser(images, who, steps=40)
    assert torch.equal(before, torch.get_rng_state())
    gallery = enrol(network, images[::2], who[::2])
    assert matched(network, gallery, images[1::2], who[1::2]).mean() > 0.6  # chance is a third
    with pytest.raises(BadInput, match="at least two"):
        train_recogniser(images[:8], who[:8])


# --- data and verbs -----------------------------------------------------------------------------------------------
def test_training_and_validation_share_no_person_and_photographs_stand_for_themselves(people, tmp_path):
    data = open_training(str(people), 32, DataOptions(validation=0.25))
    train, held = set(data.train(None).groups), set(data.validation(None).groups)
    assert len(train) == 3
    assert len(held) == 1
    assert not train & held
    assert len(data.manifest()["files"]) == 20
    loose = read(str(next(people.iterdir())))
    assert not loose.known
    assert loose.manifest()["groups"] == []
    with pytest.raises(BadInput, match="no images"):
        read(str(tmp_path))
    with pytest.raises(BadInput, match="does not exist"):
        read(str(tmp_path / "nowhere"))


def test_evaluate_reports_every_figure_of_the_card(run, tmp_path):
    result = api.evaluate(run, "embedded", tmp_path / "out", mode="pixelate", max_steps=2, batch_size=24)
    names = {"psnr_protected", "psnr_revealed", "psnr_revealed_8bit", "psnr_wrong", "psnr_one_bit", "psnr_visible"}
    assert names | {"matched_original", "matched_protected", "matched_revealed"} <= set(result["metrics"])
    assert result["kinds"].keys() == {"pixelate"}
    values = result["items"][0]["values"]
    mean = np.mean([item["values"]["psnr_visible"] for item in result["items"]])
    assert result["metrics"]["psnr_visible"]["value"] == pytest.approx(mean)
    assert all(np.isfinite(v) for v in values.values())
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert written["metrics"] == result["metrics"]
    assert Image.open(tmp_path / "out" / "pixelate.png").size[1] == 5 * 32
    with pytest.raises(BadInput, match="did you mean 'blur'"):
        api.evaluate(run, "embedded", mode="blurr", max_steps=1)


def test_evaluating_on_the_training_people_is_refused(run, people, capsys):
    assert main(["evaluate", str(run), "--data", str(people)]) == 2
    assert "was trained on" in capsys.readouterr().err


def test_predict_rehearses_files_and_names_broken_ones(run, photo, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no")
    out = tmp_path / "answers"
    assert main(["predict", str(run), str(photo), str(tmp_path / "broken.png"), "--out", str(out)]) == 1
    rows = (out / "predictions.csv").read_text().splitlines()
    assert rows[0].startswith("path,obfuscation,psnr_protected,psnr_revealed")
    assert len(rows) == 3
    assert Image.open(next(out.glob("protection-*.png"))).size == (5 * 32, 32)
    assert "broken.png" in capsys.readouterr().err


def protect(run, photo, *more, key="key"):
    folder = photo.parent
    files = ["--weights", str(run), "--key-file", str(folder / key), "--out", str(folder / "hidden.png")]
    return main(["protect", str(photo), *files, "--cost", "10", *more])


def reveal(run, photo, key="key"):
    folder = photo.parent
    files = ["--weights", str(run), "--key-file", str(folder / key), "--out", str(folder / "back.png")]
    return main(["reveal", str(folder / "hidden.png"), *files])


def test_protect_and_reveal_whole_photographs_and_say_what_happened(run, photo, capsys):
    salt = ["--salt", "00" * 16]
    assert protect(run, photo, "--whole", "--tile", "32", *salt) == 0
    first = (photo.parent / "hidden.png").read_bytes()
    said = capsys.readouterr()
    assert "1 region, 4,960 pixels, 6 tiles" in said.out
    assert "dB PSNR" in said.out
    assert "trained on" in said.err
    assert reveal(run, photo) == 0
    assert Image.open(photo.parent / "back.png").size == (80, 61)
    assert protect(run, photo, "--whole", "--tile", "32", "--no-check", *salt) == 0
    assert (photo.parent / "hidden.png").read_bytes() == first
    assert protect(run, photo, "--whole") == 0
    assert (photo.parent / "hidden.png").read_bytes() != first  # a salt of its own


def test_a_wrong_key_writes_nothing_and_without_a_verifier_cannot_be_told(run, photo, capsys):
    (photo.parent / "other").write_text("x")
    assert protect(run, photo, "--whole") == 0
    assert reveal(run, photo, key="other") == 2
    said = capsys.readouterr().err
    assert "wrong key" in said
    assert "1 bytes" in said  # short, and warned of
    assert not (photo.parent / "back.png").exists()
    assert protect(run, photo, "--whole", "--no-verifier", "--bits", "8") == 0
    assert reveal(run, photo, key="other") == 0
    assert "no verifier" in capsys.readouterr().err


def test_other_weights_are_refused_in_one_line(run, photo, tmp_path, capsys):
    assert protect(run, photo, "--whole") == 0
    method = api.create("pro-face-s", **api.load(run).config())
    saved = method.save_pretrained(tmp_path / "others")
    capsys.readouterr()
    assert reveal(saved, photo) == 2
    said = capsys.readouterr().err
    assert "did not protect" in said
    assert said.count("\n") == 1


def test_faces_are_found_and_only_they_are_changed(run, photo, monkeypatch):
    class One:
        box = (20.0, 16.0, 40.0, 36.0)

    monkeypatch.setattr(FaceFinder, "__call__", lambda self, image: [One()])
    assert protect(run, photo) == 0
    before, after = (np.asarray(Image.open(photo.parent / name)) for name in ("photo.png", "hidden.png"))
    changed = (before != after[:61]).any(axis=2)
    assert changed[16:36, 20:40].mean() > 0.9
    changed[6:46, 10:50] = False
    assert not changed.any()
    monkeypatch.setattr(FaceFinder, "__call__", lambda self, image: [])
    assert protect(run, photo) == 2


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--out", "x.jpg"], "must end in .png"),
        (["--salt", "12"], "must have 16"),
        (["--salt", "zz"], "hex digits"),
        (["--tile", "31"], "tile is 31"),
        (["--strength", "9"], "strength is 9"),
        (["--cost", "40"], "log2_n is 40"),
        (["--seed", "-1"], "--seed: '-1' is not a whole number of at least 0"),
        (["--obfuscation", "swap"], "invalid choice"),
        (["--key-file", "nowhere"], "no such file"),
        (["--weights", "nowhere"], "does not exist"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(run, photo, more, words, capsys):
    assert protect(run, photo, "--whole", *more) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (photo.parent / "hidden.png").exists()


def test_weights_of_ones_own_are_to_be_kept_secret(run, photo, capsys):
    assert protect(run, photo, "--whole") == 0
    assert "keep the weights secret, too" in capsys.readouterr().err


def test_a_rehearsal_says_how_long_and_writes_nothing(run, photo, capsys):
    assert protect(run, photo, "--whole", "--dry-run") == 0
    assert "would protect: 1 region" in capsys.readouterr().out
    assert not (photo.parent / "hidden.png").exists()
