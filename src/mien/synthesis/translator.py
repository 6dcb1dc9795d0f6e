# SPDX-License-Identifier: Apache-2.0
"""The class of methods that translate a picture into another: a generator, trained on pairs, with or without rivals.

    L_G = gan L_GAN + feature L_FM + perceptual L_VGG + edge L_AEP + l1 |G(x) - y|         L_D: least squares

L_GAN and L_FM come from a PatchGAN on (input, picture), L_VGG from a fixed VGG-19 and L_AEP from
`mien.synthesis.aepl`. A term of weight 0 is not computed; without L_GAN and L_FM there is no discriminator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from mien.engine import Losses, Method, Optimizers, Phase, Step
from mien.errors import BadInput
from mien.metrics.quality import psnr, ssim
from mien.nn.empty import empty_loss
from mien.nn.patchgan import FakePool, Features, PatchGAN, feature_matching, initialise, least_squares
from mien.nn.vgg import Vgg19, perceptual_loss
from mien.optim.recipe import Recipe
from mien.synthesis.aepl import adaptive_edge_loss
from mien.synthesis.data import Translation

ADAM = Recipe(kind="adam", lr=2e-4, betas=(0.5, 0.999), weight_decay=0.0, schedule="linear")
"""Constant, then linearly down over the second half of the training: 100 + 100 epochs of pix2pixHD."""

SMALLEST = 16
"""Pixels a side below which training pictures are refused: the SSIM of validation needs 11."""


@dataclass(frozen=True)
class Weights:
    """Weights of the generator's losses; 0 leaves a loss out. What is not named is 0.

    Args:
        gan: Least-squares GAN loss.
        feature: Feature matching.
        perceptual: VGG-19 loss; its ImageNet weights are needed in training.
        edge: Adaptive edge perception loss, on a scale of 0 .. 255 squared: one missed strong edge pixel is 650 before
            averaging, so beside L1 alone about 0.01 is much.
        l1: Mean absolute difference of pictures in [-1, 1].
    """

    gan: float = 0.0
    feature: float = 0.0
    perceptual: float = 0.0
    edge: float = 0.0
    l1: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= getattr(self, field.name) < float("inf"):
                raise BadInput(f"weights.{field.name} is {getattr(self, field.name)}: it must be 0 or more")
        if not any(getattr(self, field.name) for field in fields(self)):
            raise BadInput("weights are all 0: there is nothing to train")

    @property
    def rivals(self) -> bool:
        """Whether there is a discriminator."""
        return self.gan > 0 or self.feature > 0


@dataclass
class Translated:
    """An answer: pictures (B, 3, H, W) in [0, 1]."""

    image: Tensor


class Translator(Method):
    """Base of the methods that translate pictures.

    Args:
        generator: (B, 3, H, W) to the same, in [-1, 1].
        multiple: Height and width that the generator takes are multiples of it.
        weights: Of the losses.
        discriminator: The PatchGAN.
        pool: Earlier results that the discriminator is shown again, at most so many; 0 for none.
        vgg: VGG-19's weights: "vgg19" to download them once, or a file.
        optimizer: Of the generator.
        discriminator_optimizer: Of the discriminator.
        image_size: Height and width of training pictures in pixels, a multiple of `multiple`, at least 16.
        flip: Whether half of the training pairs are mirrored from left to right.
        shift: Training pairs are moved by up to so many pixels each way.
        input: Name of the side that is translated; None until the data say so.
        target: Name of the side that it becomes; None until the data say so.
    """

    scope = (
        "Translates pictures of the kind that it was trained on. What the input does not show is guessed: a face made "
        "from a sketch is nobody's photograph. Not for evidence, identification or measurement."
    )
    dynamic_buffers = ("pool_of_fakes.images",)

    def __init__(
        self,
        generator: nn.Module,
        multiple: int,
        *,
        weights: Weights,
        discriminator: PatchGAN,
        pool: int,
        vgg: str,
        optimizer: Recipe,
        discriminator_optimizer: Recipe,
        image_size: int,
        flip: bool,
        shift: int,
        input: str | None,
        target: str | None,
    ) -> None:
        super().__init__()
        if image_size < SMALLEST or image_size % multiple:
            raise BadInput(f"image_size is {image_size}: use a multiple of {multiple}, {SMALLEST} or more")
        for name, value in (("pool", pool), ("shift", shift)):
            if value < 0:
                raise BadInput(f"{name} is {value}: it must be 0 or more")
        if shift >= image_size:
            raise BadInput(f"shift is {shift}: it must be less than image_size, {image_size}")
        if input is not None and input == target:
            raise BadInput(f"input and target are both {input!r}: they must be two sides of the data")
        self.weights, self.discriminator, self.pool, self.vgg = weights, discriminator, pool, vgg
        self.optimizer, self.discriminator_optimizer = optimizer, discriminator_optimizer
        self.image_size, self.flip, self.shift, self.input, self.target = image_size, flip, shift, input, target
        self.generator, self.multiple = generator, multiple
        self.rival: nn.Module | None = None
        self.pool_of_fakes: FakePool | None = None
        if weights.rivals:
            self.rival = discriminator.build(6)
            initialise(self.rival)
            self.pool_of_fakes = FakePool(pool)

    # --- training ---------------------------------------------------------------------------------------------
    def prepare(self) -> None:
        """Fetch what training needs besides the data. Raises BadInput when it cannot be had."""
        if self.weights.perceptual and "_features" not in self.__dict__:
            self.__dict__["_features"] = Vgg19(self.vgg)  # not a submodule: neither trained nor saved

    def optimizers(self, phase: Phase) -> Optimizers:
        """One for each player."""
        self.prepare()
        found: Optimizers = {"generator": self.optimizer.build(self.generator.parameters(), phase.total_steps)}
        if self.rival is not None:
            parameters = self.rival.parameters()
            found["discriminator"] = self.discriminator_optimizer.build(parameters, phase.total_steps)
        return found

    def steps(self, batch: Translation) -> Iterator[Step]:
        """The generator's update; then the discriminator's, on the pictures from before it."""
        yield Step("generator", self.generator_losses, batch)
        if self.rival is not None:
            yield Step("discriminator", self.discriminator_losses, batch)

    def generator_losses(self, batch: Translation) -> Losses:
        """The weighted losses of the generator; its pictures are kept in the batch for the discriminator."""
        if not len(batch.input):
            return {"l1": empty_loss(self.generator)}
        made, real, weights = self.generated(batch.input), signed(batch.image), self.weights
        losses: dict[str, Tensor] = {}
        if self.rival is not None:
            batch.made = made.detach()
            scores = self._judged(batch.input, made)
            if weights.gan:
                losses["gan"] = weights.gan * least_squares(scores, real=True)
            if weights.feature:
                with torch.no_grad():
                    wanted = self._judged(batch.input, real)
                losses["feature_matching"] = weights.feature * feature_matching(scores, wanted)
        if weights.perceptual:
            self.prepare()
            network = self.__dict__["_features"] = self.__dict__["_features"].to(made.device)
            losses["perceptual"] = weights.perceptual * perceptual_loss(network, made, real)
        if weights.edge:
            losses["edge"] = weights.edge * adaptive_edge_loss(unsigned(made), batch.image)
        if weights.l1:
            losses["l1"] = weights.l1 * F.l1_loss(made, real)
        return losses

    def discriminator_losses(self, batch: Translation) -> Losses:
        """Half the least-squares loss on real pictures and on what was made, some of it earlier (the pool)."""
        assert self.rival is not None
        assert self.pool_of_fakes is not None
        if not len(batch.input):
            return {"real": empty_loss(self.rival)}
        with torch.no_grad():
            made = batch.made if batch.made is not None else self.generated(batch.input)
            fakes = self.pool_of_fakes.exchange(torch.cat([signed(batch.input), made], dim=1))
        real = self._judged(batch.input, signed(batch.image))
        return {
            "real": 0.5 * least_squares(real, real=True),
            "made": 0.5 * least_squares(self.rival(fakes), real=False),
        }

    def _judged(self, given: Tensor, picture: Tensor) -> Features:
        assert self.rival is not None
        features: Features = self.rival(torch.cat([signed(given), picture], dim=1))
        return features

    def generated(self, given: Tensor) -> Tensor:
        """The generator's picture in [-1, 1] for inputs (B, 3, H, W) in [0, 1] whose sides it takes."""
        made: Tensor = self.generator(signed(given))
        return made

    # --- translating ------------------------------------------------------------------------------------------
    def translate(self, image: Tensor) -> Tensor:
        """Translated pictures: (B, 3, H, W) in [0, 1] of any size to the same.

        Sides that are no multiple of `multiple` are mirrored on, and cut off afterwards.
        """
        if image.ndim != 4 or image.shape[1] != 3 or not image.shape[-1] * image.shape[-2]:
            raise BadInput(f"images have shape {tuple(image.shape)}: (B, 3, H, W) is needed")
        height, width = image.shape[-2:]
        made = self.generated(mirrored_to(image, self.multiple))
        return unsigned(made)[..., :height, :width].clamp(0, 1)

    def predict(self, batch: Translation) -> Translated:
        """Translated inputs."""
        return Translated(self.translate(batch.input))

    def validate(self, data: Dataset[Any], *, batch_size: int = 64) -> dict[str, float]:
        """Mean absolute difference ("l1" and "loss"), PSNR in dB and SSIM, over the pairs."""
        from mien.engine.evaluation import predictions

        found: dict[str, list[Tensor]] = {"l1": [], "psnr": [], "ssim": []}
        for batch, answer in predictions(self, data, min(batch_size, 16)):
            found["l1"].append((answer.image - batch.image).abs().mean(dim=(1, 2, 3)))
            found["psnr"].append(psnr(answer.image, batch.image).clamp(max=99))
            found["ssim"].append(ssim(answer.image, batch.image))
        means = {name: float(torch.cat(values).mean()) for name, values in found.items() if values}
        return means | {"loss": means["l1"]} if means else {}


def signed(image: Tensor) -> Tensor:
    """[0, 1] to [-1, 1]."""
    return 2 * image - 1


def unsigned(image: Tensor) -> Tensor:
    """[-1, 1] to [0, 1]."""
    return (image + 1) / 2


def mirrored_to(image: Tensor, multiple: int) -> Tensor:
    """The image with its right and lower edges mirrored on until its sides are multiples of `multiple` and at least 4.

    >>> mirrored_to(torch.arange(3.0).reshape(1, 1, 1, 3), 4)[0, 0, 0]
    tensor([0., 1., 2., 2.])
    """
    places = []
    for length in image.shape[-2:]:
        wanted = -(-max(length, 4) // multiple) * multiple
        place = torch.arange(wanted, device=image.device) % (2 * length)
        places.append(torch.minimum(place, 2 * length - 1 - place))
    rows, columns = places
    same = (len(rows), len(columns)) == tuple(image.shape[-2:])
    return image if same else image[..., rows, :][..., columns]
