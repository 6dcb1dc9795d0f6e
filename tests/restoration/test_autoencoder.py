# SPDX-License-Identifier: Apache-2.0
"""Where restoration happens: pixels, and latents of autoencoders as diffusers and the hub keep them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mien.engine import Settings, fit, load_weights
from mien.errors import BadInput, MissingExtra
from mien.optim.recipe import Recipe
from mien.restoration.autoencoder import Autoencoder, LatentSpace, PixelSpace
from mien.restoration.data import Crops
from mien.restoration.degradation import Degradation
from mien.restoration.tad_sr import TADSR, Distillation, ResidualShift, UNetSize

BLOCKS = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
}


def saved(folder: Path, kind: str, **changes: Any) -> str:
    """A small autoencoder with first weights, written by diffusers itself."""
    diffusers = pytest.importorskip("diffusers", reason="the extra 'diffusion' is not installed")
    torch.manual_seed(0)
    model = getattr(diffusers, kind)(**BLOCKS, **changes)
    model.save_pretrained(folder, safe_serialization=True)
    return str(folder)


@pytest.fixture(scope="module")
def vq(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("vq") / "model", "VQModel", latent_channels=3, num_vq_embeddings=32)


def in_latents(folder: str) -> TADSR:
    torch.manual_seed(0)
    return TADSR(
        scale=2,
        network=UNetSize(8, (1, 2), 1, attention=()),
        process=ResidualShift(steps=4),
        autoencoder=Autoencoder(folder),
        degradation=Degradation("bicubic"),
        crop=16,
        distillation=Distillation(score_steps=2),
        optimizer=Recipe(lr=1e-3),
        discriminator_optimizer=Recipe(lr=1e-3),
    )


def test_pixels_are_spread_to_both_sides_of_zero_and_back():
    space = Autoencoder(colours=1).build()
    assert isinstance(space, PixelSpace)
    assert space.encode(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-1, 0, 1]
    assert space.decode(torch.tensor([-1.5, 0.0, 0.5, 9.0])).tolist() == [0, 0.5, 0.75, 1]


def test_latents_of_a_vq_model_are_as_they_are(vq: str):
    """Fails when the factor that diffusers puts into every VQModel's configuration is applied to them."""
    import diffusers

    space = Autoencoder(vq).build()
    assert isinstance(space, LatentSpace)
    assert json.loads((Path(vq) / "config.json").read_text())["scaling_factor"] != 1
    assert (space.factor, space.channels, space.colours, space.gain) == (2, 3, 3, 1)
    model = diffusers.VQModel.from_pretrained(vq).eval()
    image = torch.rand(2, 3, 16, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        latent = space.encode(image)
        assert torch.equal(latent, model.encode(image * 2 - 1).latents)
        assert latent.shape == (2, 3, 8, 6)
        # Decoding goes through the code book: moving a latent by less than the way to another code changes nothing.
        decoded = space.decode(latent)
        assert torch.equal(decoded, ((model.decode(latent).sample + 1) / 2).clamp(0, 1))
        assert torch.allclose(space.decode(latent + 1e-6), decoded)
        louder = Autoencoder(vq, gain=2.0).build()
        assert torch.equal(louder.encode(image), 2 * latent)
        assert torch.allclose(louder.decode(2 * latent), decoded)
    assert 0 <= float(decoded.min()) <= float(decoded.max()) <= 1


def test_latents_of_a_kl_autoencoder_have_its_shift_and_factor(tmp_path: Path):
    diffusers = pytest.importorskip("diffusers", reason="the extra 'diffusion' is not installed")
    (tmp_path / "whole").mkdir()
    saved(tmp_path / "whole" / "vae", "AutoencoderKL", latent_channels=4, scaling_factor=0.5, shift_factor=0.25)
    space = Autoencoder(str(tmp_path / "whole"), subfolder="vae").build()
    model = diffusers.AutoencoderKL.from_pretrained(tmp_path / "whole" / "vae").eval()
    image = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        latent = space.encode(image)
        assert torch.equal(latent, (model.encode(image * 2 - 1).latent_dist.mean - 0.25) * 0.5)
        expected = ((model.decode(latent / 0.5 + 0.25).sample + 1) / 2).clamp(0, 1)
        assert torch.allclose(space.decode(latent), expected)


def test_a_model_trains_in_latents_and_leaves_the_autoencoder_as_it_was(vq: str, tmp_path: Path):
    method = in_latents(vq)
    assert method.divisor == 4
    before = {name: value.clone() for name, value in method.space.state_dict().items()}
    data = Crops([torch.rand(3, 20, 20) for _ in range(4)], 16, 2, lambda image: method.degradation.apply(image, 2))
    fit(method, data, schedule=method.stages(1, 1), settings=Settings(batch_size=2, max_steps=2))
    assert method.student is not None
    assert method.student.stem.in_channels == 3 + 3
    assert all(torch.equal(value, before[name]) for name, value in method.space.state_dict().items())
    assert not method.space.model.training
    image = torch.rand(1, 3, 5, 7)
    restored = method.eval().restore(image)
    assert restored.shape == (1, 3, 10, 14)
    folder = method.save_pretrained(tmp_path / "saved")
    other = in_latents(vq)
    load_weights(other, folder)
    assert torch.equal(other.eval().restore(image), restored)


def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtra, match=r"^autoencoder 'a/b' needs the extra 'diffusion': pip install"):
        Autoencoder("a/b").build()


def test_what_is_no_autoencoder_is_one_line(vq: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    unsafe = tmp_path / "unsafe"
    unsafe.mkdir()
    (unsafe / "config.json").write_bytes((Path(vq) / "config.json").read_bytes())
    (unsafe / "diffusion_pytorch_model.bin").write_bytes(b"pickled")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    for name, words in (
        (tmp_path / "empty", "is no folder with config.json"),
        (unsafe, r"diffusion_pytorch_model\.safetensors"),
        (other, "is a UNet2DModel: use a VQModel or an AutoencoderKL"),
        ("someone/something", "cannot be fetched, and is no folder .* with a connection$"),
        (tmp_path / "nowhere", "cannot be fetched, and is no folder"),
    ):
        with pytest.raises(BadInput, match=words) as caught:
            Autoencoder(str(name)).build()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("options", "words"), [({"colours": 2}, "colours is 2"), ({"gain": 0.0}, r"gain is 0\.0")])
def test_bad_options_are_refused(options: dict[str, Any], words: str):
    with pytest.raises(BadInput, match=words):
        Autoencoder(**options)
