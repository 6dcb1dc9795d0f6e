# SPDX-License-Identifier: Apache-2.0
"""Tiles, degradations, readers and the restoration verb."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mien import catalog
from mien.cli import main
from mien.data.images import save_png
from mien.engine import Phase
from mien.engine.method import build
from mien.errors import BadInput
from mien.metrics.quality import luma, psnr, ssim
from mien.nn.grey import grey
from mien.restoration import degradation as degrading
from mien.restoration import tiles
from mien.restoration.data import Crops, Picture, Whole
from mien.restoration.degradation import Degradation
from mien.restoration.readers import embedded, layout_of, read
from mien.restoration.restorer import pad_to
from mien.restoration.tad_sr import TADSR, Distillation, UNetSize
from mien.restoration.tiles import Tiles, reach, strips
from mien.room import DataOptions


def model(norm: str = "pixel", scale: int = 2) -> TADSR:
    torch.manual_seed(0)
    size = UNetSize(8, (1, 2), 1, attention=(1,), window=4, width=32, depth=2, norm=norm)  # type: ignore[arg-type]
    method = TADSR(scale=scale, network=size, crop=32, distillation=Distillation(gan_weight=0))
    for parameter in method.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    build(method, Phase(name="student"))
    return method.eval()


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def whole(method: TADSR, image: np.ndarray) -> np.ndarray:
    result = method.restore(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0]
    return (result * 255).round().byte().permute(1, 2, 0).numpy()


# --- tiles ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("height", "width"), [(61, 90), (32, 32), (5, 140), (97, 33)])
def test_tiles_equal_the_whole_within_a_grey_level(height: int, width: int):
    """Fails when a tile's windows or noise lie elsewhere than in the whole, or when a cut edge is kept."""
    method, image = model(), picture(height, width)
    tiled = np.concatenate(list(strips(method, image, Tiles(48, reach(method) + 8))))
    expected = whole(method, image)
    assert tiled.shape == expected.shape == (2 * height, 2 * width, 3)
    assert np.abs(tiled.astype(int) - expected).max() <= 1


def test_seams_of_a_network_with_map_wide_statistics_are_faded():
    """With group norm tiles differ from each other; the step across a border is no larger than elsewhere."""
    method = model("group")
    image = np.full((64, 64, 3), 128, np.uint8)
    image[:, 32:] += 40
    tiled = np.concatenate(list(strips(method, image, Tiles(64, 16)))).astype(int)
    hard = np.abs(np.diff(tiled, axis=1)).mean(axis=(0, 2))
    border, elsewhere = hard[63], np.delete(hard, np.r_[56:72])
    assert border <= 2 * np.percentile(elsewhere, 99) + 1


@pytest.mark.parametrize("place", [(48, 48), (45, 46), (52, 52)])
def test_reach_is_what_a_pixel_moves(place: tuple[int, int]):
    """Elsewhere in a window and on other noise the influence fades alike, not to the same pixel: a factor of ten."""
    method = model()
    far = reach(method)
    assert 8 < far < 128
    image = picture(96, 96)
    other = image.copy()
    other[place] = 255 - other[place]
    pair = [torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255 for x in (image, other)]
    change = 255 * (method.restore(pair[0]) - method.restore(pair[1])).abs().amax(dim=(0, 1))
    side = torch.arange(192)
    distance = torch.maximum((side - 2 * place[0]).abs()[:, None], (side - 2 * place[1]).abs()[None])
    assert change[distance > far].max() < 1e-2
    assert change[distance > far // 2].max() > 1e-3


def test_noise_belongs_to_its_place():
    method = model()
    large, part = method.noise((0, 0, 200, 160)), method.noise((70, 60, 150, 160))
    assert torch.equal(large[..., 70:150, 60:160], part)
    assert large.std() == pytest.approx(1, abs=0.02)
    assert not torch.equal(large, method.noise((0, 0, 200, 160), seed=1))


def test_padding_mirrors_small_pictures_as_often_as_needed():
    image = torch.arange(6.0).reshape(1, 1, 2, 3)
    padded = pad_to(image, 16, 2)
    assert padded.shape == (1, 1, 8, 8)
    assert padded[0, 0, 0].tolist() == [0, 1, 2, 2, 1, 0, 0, 1]
    assert pad_to(torch.rand(1, 3, 8, 16), 16, 2).shape == (1, 3, 8, 16)


@pytest.mark.parametrize(("core", "margin"), [(8, 64), (64, 2)])
def test_tiles_too_small_are_refused(core: int, margin: int):
    with pytest.raises(BadInput, match="tiles have core"):
        Tiles(core, margin)


# --- degradation ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["real", "blur-noise", "bicubic"])
def test_degraded_pictures_have_the_size_the_range_and_their_seed(kind: str):
    image = torch.rand(3, 64, 48, generator=torch.Generator().manual_seed(0))
    how = Degradation(kind)  # type: ignore[arg-type]

    def made(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return how.apply(image, 4)

    out = [made(seed) for seed in (0, 0, 1)]
    assert out[0].shape == (3, 16, 12)
    assert 0 <= float(out[0].min()) <= float(out[0].max()) <= 1
    assert torch.equal(out[0] * 255, (out[0] * 255).round())
    assert torch.equal(out[0], out[1])
    assert torch.equal(out[0], out[2]) is (kind == "bicubic")


def test_kernels_keep_brightness_and_have_their_moments():
    """Variances against the definition; a sinc has the cut-off's value in the middle before it is scaled."""
    kernel = degrading.gaussian_kernel(41, 3.0, 1.5, 0.0).double()
    place = torch.arange(41.0, dtype=torch.float64) - 20
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-6)
    assert float((kernel.sum(0) * place**2).sum()) == pytest.approx(9.0, rel=2e-3)
    assert float((kernel.sum(1) * place**2).sum()) == pytest.approx(2.25, rel=2e-3)
    turned = degrading.gaussian_kernel(41, 3.0, 1.5, math.pi / 2).double()
    assert torch.allclose(turned, kernel.T, atol=1e-9)
    for cutoff in (math.pi / 3, 2.0):
        sinc = degrading.sinc_kernel(61, cutoff).double()
        spectrum = torch.fft.fft2(torch.fft.ifftshift(sinc)).real
        frequency = torch.fft.fftfreq(61, dtype=torch.float64) * 2 * math.pi
        radius = (frequency[:, None] ** 2 + frequency**2).sqrt()
        assert spectrum[radius < 0.8 * cutoff].min() > 0.8
        assert spectrum[radius > 1.2 * cutoff].abs().max() < 0.2
    assert float(degrading.plateau_kernel(21, 2.0, 1.0, 0.3, 1.5).sum()) == pytest.approx(1, abs=1e-5)


def test_shot_noise_has_the_variance_of_its_levels():
    """With 2 grey values n is 2: Var = strength^2 x / n before clamping."""
    torch.manual_seed(0)
    x = torch.full((1, 1, 400, 400), 0.5)
    noisy = degrading.poisson_noise(x, 0.2, grey=True) - (x * 255).round() / 255
    assert float(noisy.std()) == pytest.approx(0.2 * math.sqrt(0.5 / 2), rel=0.02)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "x"}, "degradation.kind is 'x'"),
        ({"second": 2.0}, "degradation.second is 2.0"),
        ({"jpeg": (90, 10)}, "degradation.jpeg"),
        ({"noise": -1.0}, "degradation.noise"),
    ],
)
def test_bad_degradations_are_refused(options: dict[str, object], words: str):
    with pytest.raises(BadInput, match=words):
        Degradation(**options)  # type: ignore[arg-type]


# --- data -----------------------------------------------------------------------------------------------------------
def write(path: Path, height: int = 48, width: int = 56, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(path, torch.from_numpy(picture(height, width, seed)).permute(2, 0, 1) / 255)
    return path


def test_published_layouts_are_recognised_and_read(tmp_path: Path):
    for i in range(3):
        write(tmp_path / "div" / "DIV2K_train_HR" / f"000{i}.png", seed=i)
        write(tmp_path / "div" / "DIV2K_train_LR_bicubic" / "X4" / f"000{i}x4.png", 12, 14, seed=i)
        write(tmp_path / "div" / "DIV2K_valid_HR" / f"080{i}.png", seed=i + 9)
        write(tmp_path / "pairs" / "hr" / f"p{i}.png")
        write(tmp_path / "pairs" / "lr" / f"p{i}.png", 24, 28)
        for camera in ("Canon", "Nikon"):
            write(tmp_path / "real" / camera / "Train" / "2" / f"{camera}_00{i}_HR.png")
            write(tmp_path / "real" / camera / "Train" / "2" / f"{camera}_00{i}_LR2.png", 24, 28)
    found = read(str(tmp_path / "div"), "train", "auto", 4)
    assert [(p.path.stem, p.degraded.stem) for p in found if p.degraded] == [(f"000{i}", f"000{i}x4") for i in range(3)]
    assert [p.degraded for p in read(str(tmp_path / "div"), "test", "auto", 4)] == [None] * 3
    assert len(read(str(tmp_path / "real"), "train", "auto", 2)) == 6
    assert len(read(str(tmp_path / "pairs"), "train", "auto", 2)) == 3
    assert {layout_of(tmp_path / name) for name in ("div", "real", "pairs")} == {"div2k", "realsr", "pairs"}
    (tmp_path / "pairs" / "lr" / "p1.png").unlink()
    with pytest.raises(BadInput, match=r"p1\.png has no partner"):
        read(str(tmp_path / "pairs"), "train", "auto", 2)
    (tmp_path / "real" / "Canon" / "Train" / "2" / "Canon_001_LR2.png").unlink()
    with pytest.raises(BadInput, match="Canon_001: only one of"):
        read(str(tmp_path / "real"), "train", "auto", 2)
    with pytest.raises(BadInput, match="is missing: unpack"):
        read(str(tmp_path / "real"), "test", "auto", 2)


@pytest.mark.parametrize(("height", "width"), [(48, 56), (51, 58)])
def test_realsr_version_3_is_shrunk_again(tmp_path: Path, height: int, width: int):
    """Its camera pictures have the size of the others; Pillow's bicubic gives what is expected."""
    for camera in ("Canon", "Nikon"):
        write(tmp_path / camera / "Test" / "4" / "a_HR.png", height, width)
        write(tmp_path / camera / "Test" / "4" / "a_LR4.png", height, width, seed=1)
    method = model(scale=4)
    test = catalog.room("tad-sr").open_test(str(tmp_path), method, DataOptions())
    assert "the camera's of each pair shrunk by 4" in test.manifest["description"]
    sample = test.dataset[0]
    assert sample.degraded.shape == (3, 12, 14)
    assert sample.image.shape == (3, 48, 56)
    camera_picture = Image.fromarray(picture(height, width, 1)[:48, :56])
    expected = np.asarray(camera_picture.resize((14, 12), Image.Resampling.BICUBIC)).astype(float)
    assert np.abs(255 * sample.degraded.permute(1, 2, 0).numpy() - expected).max() <= 1
    for camera in ("Canon", "Nikon"):
        write(tmp_path / camera / "Test" / "4" / "a_LR4.png", height // 4, width // 4, seed=1)
    as_it_is = catalog.room("tad-sr").open_test(str(tmp_path), method, DataOptions())
    assert "shrunk" not in as_it_is.manifest["description"]
    assert (as_it_is.dataset[0].degraded * 255).round().byte()[:, 0, 0].tolist() == picture(12, 14, 1)[0, 0].tolist()


def test_crops_of_a_pair_show_the_same_place(tmp_path: Path):
    image = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))
    small = nn.functional.avg_pool2d(image[None], 2)[0]
    save_png(tmp_path / "a.png", image)
    save_png(tmp_path / "b.png", small)
    crops = Crops([Picture(tmp_path / "a.png", tmp_path / "b.png")], 16, 2, lambda x: pytest.fail("degraded anew"))
    for seed in range(12):
        torch.manual_seed(seed)
        sample = crops[0]
        assert sample.image.shape == (3, 16, 16)
        assert (nn.functional.avg_pool2d(sample.image[None], 2)[0] - sample.degraded).abs().max() < 2 / 255
    with pytest.raises(BadInput, match="crops of 64 need"):
        Crops([Picture(tmp_path / "a.png")], 64, 2, lambda x: x)[0]
    with pytest.raises(BadInput, match="1 / 4 of"):
        Crops([Picture(tmp_path / "a.png", tmp_path / "b.png")], 16, 4, lambda x: x)[0]


def test_whole_pictures_are_degraded_the_same_every_time():
    how = Degradation("blur-noise")
    data = Whole([torch.rand(3, 50, 70)], 4, lambda image: how.apply(image, 4), colours=1, most=40)
    torch.manual_seed(1)
    first = data[0]
    torch.manual_seed(2)
    assert torch.equal(first.degraded, data[0].degraded)
    assert first.image.shape == (1, 40, 40)
    assert torch.equal(grey(first.image), first.image)


def test_embedded_training_and_test_pictures_differ():
    one, other = embedded("train"), embedded("test")
    assert all(not torch.equal(a, b) for a in one for b in other if a.shape == b.shape)


# --- figures --------------------------------------------------------------------------------------------------------
def test_psnr_and_ssim_by_hand():
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    other = (image + torch.tensor([0.01, 0.1])[:, None, None, None]).clamp(0, 1)
    by_hand = [-10 * math.log10(float(((a - b) ** 2).mean())) for a, b in zip(image, other, strict=True)]
    assert psnr(image, other).tolist() == pytest.approx(by_hand, abs=1e-4)
    assert ssim(image, image).tolist() == pytest.approx([1, 1])
    assert luma(torch.ones(1, 3, 1, 1)).item() == pytest.approx(235 / 255)
    assert luma(torch.zeros(1, 3, 1, 1)).item() == pytest.approx(16 / 255)
    with pytest.raises(BadInput, match="SSIM needs"):
        ssim(image[..., :8, :8], image[..., :8, :8])


# --- the verb -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "saved"
    model().save_pretrained(folder)
    return str(folder)


def test_restore_writes_a_png_of_scale_times_the_size(saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    photo = write(tmp_path / "photo.png", 40, 30)
    assert main(["restore", str(photo), "--weights", saved, "--tile", "48"]) == 0
    out = tmp_path / "photo-x2.png"
    assert f"written: {out}" in capsys.readouterr().out
    with Image.open(out) as image:
        assert image.size == (60, 80)
        found = np.asarray(image)
    assert np.abs(found.astype(int) - whole(model(), picture(40, 30))).max() <= 1
    assert main(["restore", str(photo), "--weights", saved, "--dry-run"]) == 0
    assert "would restore: 60 x 80" in capsys.readouterr().out


def test_predict_gives_a_row_and_a_picture_and_goes_past_broken_files(saved: str, tmp_path: Path):
    photo = write(tmp_path / "photo.png", 20, 20)
    (tmp_path / "broken.png").write_text("no image")
    out = tmp_path / "out"
    assert (
        main(["predict", saved, str(photo), str(tmp_path / "broken.png"), "--out", str(out), "--format", "json"]) == 1
    )
    rows = json.loads((out / "predictions.json").read_text())["rows"]
    assert rows[0]["values"]["height"] == 40
    assert (out / rows[0]["values"]["picture"]).is_file()


def test_predict_cuts_a_picture_as_restore_does(saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Fails where one of the two takes another margin: 8 pixels are too few, so that the results show which."""
    monkeypatch.setattr(tiles, "reach", lambda method: 8)
    photo, out = write(tmp_path / "photo.png", 20, 300), tmp_path / "out"
    assert main(["restore", str(photo), "--weights", saved]) == 0
    assert main(["predict", saved, str(photo), "--out", str(out)]) == 0
    with Image.open(tmp_path / "photo-x2.png") as one, Image.open(next(out.glob("restored-*.png"))) as other:
        found = [np.asarray(image) for image in (one, other)]
    assert np.array_equal(*found)
    assert not np.array_equal(found[0], whole(model(), picture(20, 300)))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--scale", "4"], "--scale is 4"),
        (["--out", "x.jpg"], "must be a file that ends in .png"),
        (["--tile", "4"], "tiles have core 4"),
        (["--margin", "4"], "margin 4"),
    ],
)
def test_bad_wishes_are_one_line(
    saved: str, tmp_path: Path, more: list[str], words: str, capsys: pytest.CaptureFixture[str]
):
    photo = write(tmp_path / "photo.png")
    assert main(["restore", str(photo), "--weights", saved, *more]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert main(["restore", str(photo)]) == 2
    assert "--weights is missing" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["photo.png"]
