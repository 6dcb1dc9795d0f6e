# SPDX-License-Identifier: Apache-2.0
"""Training of translators: what each player's loss is, what is kept, what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mien.engine import Settings, Single, fit
from mien.errors import BadInput
from mien.nn.patchgan import PatchGAN
from mien.synthesis.aepl import adaptive_edge_loss
from mien.synthesis.cshnet import CSHNet
from mien.synthesis.data import Pairs, Translation
from mien.synthesis.hybrid import Architecture
from mien.synthesis.pix2pix import Pix2Pix, UNet, UNetSize
from mien.synthesis.polygons import polygon_pairs
from mien.synthesis.translator import ADAM, Translator, Weights, mirrored_to

TINY = Architecture(width=4, downs=2, window=4, heads=2, units=("sec", "ces"), drop_path=0.0)
NO_VGG = Weights(gan=1.0, feature=10.0, edge=1.0)


def method(seed: int = 0, **options: Any) -> CSHNet:
    torch.manual_seed(seed)
    options = {"weights": NO_VGG, "discriminator": PatchGAN(2, 4, 2), "image_size": 32, **options}
    return CSHNet(architecture=TINY, **options)


def batch(size: int = 2, seed: int = 0) -> Translation:
    generator = torch.Generator().manual_seed(seed)
    return Translation(*(torch.rand(size, 3, 32, 32, generator=generator) for _ in range(2)))


def test_the_generators_losses_are_the_papers_weighted_sum():
    model, data = method(weights=Weights(gan=0.5, feature=10, edge=2, l1=3)).eval(), batch()
    found = {name: float(value.detach()) for name, value in model.generator_losses(data).items()}
    assert model.rival is not None
    with torch.no_grad():
        made = model.generator(2 * data.input - 1)
        real = 2 * data.image - 1
        scores = model.rival(torch.cat([2 * data.input - 1, made], 1))
        wanted = model.rival(torch.cat([2 * data.input - 1, real], 1))
        # 10 x 4 / (layers + 1) / scales of pix2pixHD, here of 2 layers and 2 scales.
        matching = sum(
            10 * 4 / 3 / 2 * float((a - b).abs().mean())
            for one, other in zip(scores, wanted, strict=True)
            for a, b in zip(one[:-1], other[:-1], strict=True)
        )
        expected = {
            "gan": 0.5 * sum(float(((1 - scale[-1]) ** 2).mean()) for scale in scores),
            "feature_matching": matching,
            "edge": 2 * float(adaptive_edge_loss((made + 1) / 2, data.image)),
            "l1": 3 * float((made - real).abs().mean()),
        }
    assert found == pytest.approx(expected, rel=1e-5)
    assert data.made is not None
    assert torch.allclose(data.made, made, atol=1e-6)


def test_the_discriminators_loss_is_half_of_real_and_made():
    model, data = method().eval(), batch()
    losses = {name: float(value.detach()) for name, value in model.discriminator_losses(data).items()}
    assert model.rival is not None
    with torch.no_grad():
        given = 2 * data.input - 1
        real = model.rival(torch.cat([given, 2 * data.image - 1], 1))
        made = model.rival(torch.cat([given, model.generator(given)], 1))
    assert losses == pytest.approx(
        {
            "real": 0.5 * sum(float(((1 - scale[-1]) ** 2).mean()) for scale in real),
            "made": 0.5 * sum(float((scale[-1] ** 2).mean()) for scale in made),
        },
        rel=1e-5,
    )


def test_each_player_moves_only_itself():
    model, data = method(), batch()
    for step in model.steps(data):
        model.zero_grad()
        sum(step.loss(data).values()).backward()  # type: ignore[union-attr]
        assert model.rival is not None
        own, other = (model.generator, model.rival) if step.optimizer == "generator" else (model.rival, model.generator)
        assert all(p.grad is not None for p in own.parameters())
        if step.optimizer == "discriminator":
            assert all(p.grad is None for p in other.parameters())


def test_the_discriminator_sees_what_was_made_before_the_generators_update():
    """As in pix2pixHD; and the generator runs once for both."""
    model, data = method(weights=Weights(gan=1, feature=10)), batch()
    calls = []
    model.generator.register_forward_hook(lambda *_: calls.append(1))
    steps = model.steps(data)
    next(steps).loss(data)
    before = data.made
    next(steps).loss(data)
    assert len(calls) == 1
    assert data.made is before


def test_without_adversarial_weights_there_is_no_discriminator():
    model = method(weights=Weights(l1=1))
    assert model.rival is None
    assert [step.optimizer for step in model.steps(batch())] == ["generator"]
    assert set(model.generator_losses(batch())) == {"l1"}


def test_the_pool_is_kept_in_checkpoints(tmp_path: Path):
    """Broken off after three of six steps and resumed, the weights and the pool are those of the unbroken run."""
    data = Pairs(polygon_pairs(range(6)), 32, flip=True, shift=2)
    settings = {"batch_size": 2, "device": "cpu", "checkpoint_every": 1}

    def run(out: Path, steps: int, resume: bool = False) -> CSHNet:
        model = method(pool=3)
        fit(model, data, schedule=Single(2), settings=Settings(**settings, max_steps=steps), out=out, resume=resume)
        return model

    whole = run(tmp_path / "whole", 6)
    broken = method(pool=3)
    cut = Interrupted(Settings(**settings), broken, data, tmp_path / "broken", after=3)
    with pytest.raises(RuntimeError, match="cut"):
        cut.run()
    resumed = run(tmp_path / "broken", 6, resume=True)
    for (name, one), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert whole.pool_of_fakes is not None
    assert len(whole.pool_of_fakes.images) == 3


class Interrupted:
    """A run that breaks off after some updates."""

    def __init__(self, settings: Settings, model: CSHNet, data: Pairs, out: Path, after: int) -> None:
        self.settings, self.model, self.data, self.out, self.left = settings, model, data, out, after

    def run(self) -> None:
        step = self.model.steps

        def steps(given: Translation) -> Any:
            if not self.left:
                raise RuntimeError("cut")
            self.left -= 1
            return step(given)

        self.model.steps = steps  # type: ignore[method-assign]
        settings = dataclasses.replace(self.settings, max_steps=6)
        fit(self.model, self.data, schedule=Single(2), settings=settings, out=self.out)


def test_training_brings_the_picture_nearer():
    data = Pairs(polygon_pairs(range(4)), 32)
    model = method(weights=Weights(l1=1), optimizer=dataclasses.replace(ADAM, lr=3e-3))
    before = model.validate(data)
    fit(model, data, schedule=Single(50), settings=Settings(batch_size=4, device="cpu"))
    after = model.validate(data)
    assert after["l1"] < 0.75 * before["l1"]
    assert after["psnr"] > before["psnr"] + 1.5
    assert after["loss"] == after["l1"]


# --- any size -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 50), (32, 32), (33, 47), (5, 2)])
def test_any_picture_gives_one_of_its_size(height: int, width: int):
    for model in (method(), Pix2Pix(unet=UNetSize(4, 3), discriminator=PatchGAN(1, 4, 2), image_size=32)):
        made = model.eval().translate(torch.rand(2, 3, height, width)).detach()
        assert made.shape == (2, 3, height, width)
        assert 0 <= float(made.min()) <= float(made.max()) <= 1


def test_mirroring_changes_nothing_where_sizes_fit():
    image = torch.rand(1, 3, 8, 12)
    assert mirrored_to(image, 4) is image
    longer = mirrored_to(image, 16)
    assert longer.shape == (1, 3, 16, 16)
    assert torch.equal(longer[..., :8, :12], image)
    assert torch.equal(longer[..., 8:, :12], image.flip(2))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 3, 0, 8)])
def test_other_shapes_are_refused(shape: tuple[int, ...]):
    with pytest.raises(BadInput, match=r"\(B, 3, H, W\) is needed"):
        method().translate(torch.zeros(shape))


# --- U-Net ----------------------------------------------------------------------------------------------------------
def test_the_unet_of_the_paper():
    """Its weights counted from the paper's list of layers; dropout in three of them."""
    with torch.device("meta"):
        net = UNet(UNetSize())
    widths = [64, 128, 256, 512, 512, 512, 512, 512]
    expected = 0
    for i, width in enumerate(widths):
        expected += (widths[i - 1] if i else 3) * width * 16 + width + (2 * width if 0 < i < 7 else 0)
        joined, out = width * (1 if i == 7 else 2), widths[i - 1] if i else 3
        expected += joined * out * 16 + out + (2 * out if i else 0)
    assert sum(p.numel() for p in net.parameters()) == expected
    assert sum(isinstance(m, torch.nn.Dropout) for m in net.modules()) == 3
    assert net(torch.empty(1, 3, 256, 256, device="meta")).shape == (1, 3, 256, 256)


# --- what is refused, what is said -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 30}, "image_size is 30: use a multiple of 4, 16 or more"),
        ({"image_size": 8}, "image_size is 8"),
        ({"pool": -1}, "pool is -1"),
        ({"shift": 32}, "shift is 32: it must be less than image_size, 32"),
        ({"input": "a", "target": "a"}, "input and target are both 'a'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], words: str):
    with pytest.raises(BadInput, match=words):
        method(**options)


def test_bad_weights_are_refused():
    with pytest.raises(BadInput, match=r"weights\.edge is -1"):
        Weights(edge=-1)
    with pytest.raises(BadInput, match=r"weights\.gan is nan"):
        Weights(gan=float("nan"))
    with pytest.raises(BadInput, match="weights are all 0"):
        Weights()


def test_vgg_is_asked_for_before_training_and_is_not_saved(tmp_path: Path):
    model = method(weights=Weights(perceptual=1), vgg=str(tmp_path / "missing.pth"))
    with pytest.raises(BadInput, match=r"missing\.pth does not exist"):
        fit(model, Pairs(polygon_pairs(range(2)), 32), settings=Settings(batch_size=2, device="cpu"))
    saved = model.save_pretrained(tmp_path / "saved")
    assert not [name for name in load_file(saved / "model.safetensors") if "eatures" in name]
    assert isinstance(model, Translator)
