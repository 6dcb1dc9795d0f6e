# SPDX-License-Identifier: Apache-2.0
"""Ten families of timm's networks, with depth, width and input drawn at random: what `mien measure` times.

A family is a function of a generator: it draws one network's settings and says how to build it. Networks take one
square RGB image; their weights are random, since a runtime's time does not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

SIDES = (96, 128, 160, 192, 224)
"""Sides of the input image in pixels."""


@dataclass(frozen=True)
class Drawn:
    """A network that has been drawn but not built.

    Args:
        side: Height and width of the input in pixels.
        settings: What was drawn, plain JSON.
        build: Makes the network, with random weights.
    """

    side: int
    settings: dict[str, Any]
    build: Callable[[], nn.Module]


def resnet(rng: np.random.Generator) -> Drawn:
    """ResNet: basic blocks or bottlenecks, 1 to 3 in each of four stages."""
    name = _one(rng, ("resnet18", "resnet50"))
    width = _one(rng, (16, 24, 32, 48, 64) if name == "resnet18" else (16, 24, 32, 40))
    return _named(rng, name, layers=_each(rng, 1, 3, 4), channels=_doubling(width, 4))


def vgg(rng: np.random.Generator) -> Drawn:
    """VGG with batch norm or without: 1 or 2 convolutions in each of five stages, a narrow head."""
    width = _one(rng, (16, 24, 32, 48))
    plan: list[int | str] = []
    for stage, count in enumerate(_each(rng, 1, 2, 5)):
        plan += [width * min(2**stage, 8)] * count + ["M"] * (stage < 4)
    side = _one(rng, SIDES[1:])  # the head's window is 7 x 7
    norm = bool(rng.integers(2))

    def build() -> nn.Module:
        from timm.models.vgg import VGG

        return VGG(plan, mlp_ratio=0.125, norm_layer=nn.BatchNorm2d if norm else None)

    return Drawn(side, {"class": "VGG", "cfg": plan, "batch_norm": norm, "mlp_ratio": 0.125}, build)


def densenet(rng: np.random.Generator) -> Drawn:
    """DenseNet: 2 to 6 layers in each of four blocks."""
    return _named(rng, "densenet121", growth_rate=_one(rng, (8, 12, 16, 24, 32)), block_config=_each(rng, 2, 6, 4))


def regnet(rng: np.random.Generator) -> Drawn:
    """RegNet X and Y at three widths each, with some repeated blocks left out."""
    names = [f"regnet{kind}_{width}" for kind in "xy" for width in ("002", "004", "006")]
    return _shortened(rng, names, lambda model: [model.s1, model.s2, model.s3, model.s4])


def mobilenetv2(rng: np.random.Generator) -> Drawn:
    """MobileNetV2 at seven widths, with some repeated blocks left out."""
    return _shortened(rng, [f"mobilenetv2_{width}" for width in ("035", "050", "075", "100", "110d", "120d", "140")])


def mobilenetv3(rng: np.random.Generator) -> Drawn:
    """MobileNetV3, small and large, with some repeated blocks left out."""
    sizes = ("small_050", "small_075", "small_100", "large_075", "large_100")
    return _shortened(rng, [f"mobilenetv3_{size}" for size in sizes])


def efficientnet(rng: np.random.Generator) -> Drawn:
    """EfficientNet and its light form, with some repeated blocks left out."""
    return _shortened(rng, ("efficientnet_b0", "efficientnet_b1", "efficientnet_lite0", "efficientnet_lite1"))


def convnext(rng: np.random.Generator) -> Drawn:
    """ConvNeXt: 1 to 3 blocks in each of four stages."""
    width = _one(rng, (16, 24, 32, 40, 48))
    return _named(rng, "convnext_atto", depths=_each(rng, 1, 3, 4), dims=_doubling(width, 4))


def vit(rng: np.random.Generator) -> Drawn:
    """Vision transformer: 2 to 8 blocks."""
    return _patches(
        rng,
        "vit_tiny_patch16_224",
        depth=int(rng.integers(2, 9)),
        num_heads=_one(rng, (2, 4)),
        embed_dim=_one(rng, (96, 128, 192, 256)),
    )


def mixer(rng: np.random.Generator) -> Drawn:
    """MLP-Mixer: 2 to 8 blocks."""
    settings = {
        "num_blocks": int(rng.integers(2, 9)),
        "embed_dim": _one(rng, (96, 128, 192, 256, 384)),
        "patch_size": _one(rng, (16, 32)),
    }
    side = _one(rng, SIDES)

    def build() -> nn.Module:
        from timm.models.mlp_mixer import MlpMixer

        return MlpMixer(img_size=side, **settings)

    return Drawn(side, {"class": "MlpMixer", **settings}, build)


FAMILIES: dict[str, Callable[[np.random.Generator], Drawn]] = {
    "resnet": resnet,
    "vgg": vgg,
    "densenet": densenet,
    "regnet": regnet,
    "mobilenetv2": mobilenetv2,
    "mobilenetv3": mobilenetv3,
    "efficientnet": efficientnet,
    "convnext": convnext,
    "vit": vit,
    "mixer": mixer,
}
"""Name of a family -> how one of its networks is drawn."""


# --- parts ----------------------------------------------------------------------------------------------------
def _one(rng: np.random.Generator, values: Sequence[Any]) -> Any:
    return values[int(rng.integers(len(values)))]


def _each(rng: np.random.Generator, low: int, high: int, count: int) -> list[int]:
    return rng.integers(low, high + 1, count).tolist()


def _doubling(width: int, stages: int) -> list[int]:
    return [width * 2**stage for stage in range(stages)]


def _named(rng: np.random.Generator, name: str, **settings: Any) -> Drawn:
    """A network that timm builds by name with settings of its own."""

    def build() -> nn.Module:
        import timm

        return timm.create_model(name, **settings)

    return Drawn(_one(rng, SIDES), {"name": name, **settings}, build)


def _patches(rng: np.random.Generator, name: str, **settings: Any) -> Drawn:
    side = _one(rng, SIDES)
    patch = _one(rng, (16, 32))

    def build() -> nn.Module:
        import timm

        return timm.create_model(name, img_size=side, patch_size=patch, **settings)

    return Drawn(side, {"name": name, "patch_size": patch, **settings}, build)


def _shortened(
    rng: np.random.Generator, names: Sequence[str], stages: Callable[[Any], Any] = lambda model: model.blocks
) -> Drawn:
    """A network of timm's whose stages keep their first block and a share of the blocks after it.

    Those after the first keep width and size, so that any of them can be left out.
    """
    name, shares = _one(rng, names), [round(float(share), 2) for share in rng.random(8)]

    def build() -> nn.Module:
        import timm

        model = timm.create_model(name)
        for stage, share in zip(stages(model), shares, strict=False):  # MobileNets have fewer than eight
            blocks = [block for block, _ in stage.named_children()]
            for block in blocks[1 + round(share * (len(blocks) - 1)) :]:
                delattr(stage, block)
        return model

    return Drawn(_one(rng, SIDES), {"name": name, "shares_of_repeated_blocks": shares}, build)
