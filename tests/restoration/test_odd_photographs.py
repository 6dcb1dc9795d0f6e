# SPDX-License-Identifier: Apache-2.0
"""`mien restore` on what photographs may be: tiny, grey, with alpha, of 16 bits, broken, far from a tile's size."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mien import api
from mien.cli import main
from mien.engine import Phase
from mien.engine.method import build
from mien.restoration.restorer import Restorer
from mien.restoration.room import restorer
from mien.restoration.tad_sr import TADSR, Distillation, ResidualShift, UNetSize
from mien.restoration.tiles import NO_REACH, reach

SCALE = 2


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    size = UNetSize(8, (1, 2), 1, attention=(1,), window=4, width=32, depth=2, norm="pixel")
    method = TADSR(scale=SCALE, network=size, crop=32, distillation=Distillation(gan_weight=0))
    for parameter in method.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    build(method, Phase(name="student"))
    folder = tmp_path_factory.mktemp("model") / "saved"
    method.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def method(saved: str) -> Restorer:
    return restorer(api.load(saved))


def levels(*shape: int, most: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most, shape)


def on_white(rgba: np.ndarray) -> np.ndarray:
    """The definition of compositing: c a + 255 (1 - a)."""
    alpha = rgba[..., 3:] / 255
    return np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def rgb_picture(height: int, width: int) -> tuple[Image.Image, np.ndarray]:
    pixels = levels(height, width, 3).astype(np.uint8)
    return Image.fromarray(pixels), pixels


def alpha_picture() -> tuple[Image.Image, np.ndarray]:
    pixels = levels(20, 26, 4).astype(np.uint8)
    return Image.fromarray(pixels, "RGBA"), on_white(pixels)


def grey_picture() -> tuple[Image.Image, np.ndarray]:
    pixels = levels(21, 18).astype(np.uint8)
    return Image.fromarray(pixels), three(pixels)


def deep_picture() -> tuple[Image.Image, np.ndarray]:
    """16 bits: the nearest of 256 levels is v / 257."""
    pixels = levels(21, 18, most=65536).astype(np.uint16)
    return Image.fromarray(pixels), three(np.rint(pixels / 257))


PHOTOGRAPHS: dict[str, Callable[[], tuple[Image.Image, np.ndarray]]] = {
    "smaller than a tile": lambda: rgb_picture(9, 14),
    "one pixel": lambda: rgb_picture(1, 1),
    "one row": lambda: rgb_picture(1, 90),
    "one column": lambda: rgb_picture(70, 1),
    "alpha": alpha_picture,
    "16 bits": deep_picture,
    "grey": grey_picture,
}


@pytest.mark.parametrize("kind", PHOTOGRAPHS)
def test_any_photograph_is_restored_as_the_picture_it_shows(
    kind: str, saved: str, method: Restorer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Against the network on the whole picture, which is read by its definition here."""
    image, shown = PHOTOGRAPHS[kind]()
    photo, out = tmp_path / "photo.png", tmp_path / "out.png"
    image.save(photo)
    assert main(["restore", str(photo), "--weights", saved, "--out", str(out), "--tile", "64"]) == 0
    with Image.open(out) as written:
        assert written.mode == "RGB"
        assert written.size == (SCALE * image.width, SCALE * image.height)
        found = np.asarray(written).astype(int)
    whole = method.restore(torch.from_numpy(shown).permute(2, 0, 1)[None].float() / 255)[0]
    # Two levels: one for tiles, one for compositing that rounds elsewhere.
    assert np.abs(found - (whole * 255).round().permute(1, 2, 0).numpy()).max() <= 2
    assert f"restored: {SCALE * image.width} x {SCALE * image.height} pixels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file|does not exist"),
        (b"", "the file is empty"),
        (b"no picture at all", "photo.png"),
        ("cut", "truncated|damaged|incomplete"),
    ],
)
def test_a_photograph_that_cannot_be_read_is_one_line_and_writes_nothing(
    content: bytes | str | None, words: str, saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    photo = tmp_path / "photo.png"
    if content == "cut":
        rgb_picture(64, 64)[0].save(photo)
        photo.write_bytes(photo.read_bytes()[:2000])
    elif isinstance(content, bytes):
        photo.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    assert main(["restore", str(photo), "--weights", saved]) == 2
    error = capsys.readouterr().err
    assert re.search(words, error), error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_restoration_that_breaks_off_leaves_no_file(saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    photo = tmp_path / "photo.png"
    rgb_picture(20, 60)[0].save(photo)
    made = []

    def broken(self: TADSR, degraded: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        made.append(1)
        if len(made) > 1:
            raise KeyboardInterrupt
        return self.space.encode(self.enlarged(degraded))

    monkeypatch.setattr(TADSR, "restored", broken)
    arguments = ["restore", str(photo), "--weights", saved, "--tile", "64", "--margin", "16"]
    assert main(arguments) == 130
    assert len(made) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_progress_tells_the_time_that_is_left(
    saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("mien.progress.PLAIN_INTERVAL", 0.0)
    photo = tmp_path / "photo.png"
    rgb_picture(20, 60)[0].save(photo)
    assert main(["restore", str(photo), "--weights", saved, "--tile", "64"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("restore: ")]
    assert re.fullmatch(r"restore: 1/2, \d+ s left", lines[0])
    assert lines[-1] == "restore: 2/2"


def test_statistics_over_the_map_have_no_reach(method: Restorer):
    """Such a network gets the tiles' own margin, in place of one as wide as its pictures."""
    torch.manual_seed(0)
    size = UNetSize(8, (1, 2), 1, attention=(), norm="group")
    everywhere = TADSR(scale=SCALE, network=size, process=ResidualShift(steps=3), crop=32).eval()
    for parameter in everywhere.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    assert reach(everywhere, most=64) == NO_REACH
    assert 8 < reach(method) < 128
