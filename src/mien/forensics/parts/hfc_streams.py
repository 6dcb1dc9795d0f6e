# SPDX-License-Identifier: Apache-2.0
"""Streams of clues of HFC-MFFD: local patches, their image and frequency domain, and descriptors at landmarks.

A stream turns images into tokens (one per patch, or per landmark), lets the tokens of one image attend to each other,
and classifies them all together. Patches are also classified one by one, in training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import BadInput
from mien.nn.dct import CoefficientStatistics, dct2
from mien.nn.descriptors import descriptors, face_points
from mien.nn.grey import grey
from mien.nn.network import Network, output_size

Attention = Literal["patches", "batch", "none"]


def patch_starts(side: int, patch: int, count: int) -> list[int]:
    """Where `count` patches along a side begin: round(k (side - patch) / (count - 1)); they may overlap.

    >>> patch_starts(224, 128, 3), patch_starts(256, 128, 3)
    ([0, 48, 96], [0, 64, 128])
    """
    return [math.floor(k * (side - patch) / (count - 1) + 0.5) for k in range(count)]


def patches(image: Tensor, patch: int, count: int) -> Tensor:
    """The patches of images (B, 3, H, W), row by row: (B, count^2, 3, patch, patch).

    count = 1 is the whole image, resized to the patch's size.

    Raises:
        BadInput: A patch that is larger than the image.
    """
    height, width = image.shape[-2:]
    if count == 1:
        return F.interpolate(image, size=(patch, patch), mode="bilinear", align_corners=False, antialias=True)[:, None]
    if patch > min(height, width):
        raise BadInput(f"patch is {patch}: images are {height} x {width}, a patch must fit into them")
    cut = [
        image[..., top : top + patch, left : left + patch]
        for top in patch_starts(height, patch, count)
        for left in patch_starts(width, patch, count)
    ]
    return torch.stack(cut, dim=1)


def levels(image: Tensor) -> Tensor:
    """Grey levels (..., H, W) in [0, 255] of images (..., 3, H, W) in [0, 1]."""
    return 255 * grey(image).squeeze(-3)


@dataclass(frozen=True)
class HeadSize:
    """The size of the heads.

    Args:
        heads: Heads of attention.
        feedforward: Width inside the encoder layer.
        hidden: Widths of the two layers before the last.
        patch_hidden: Width of the patch classifier.
        attention_dropout: Dropout of the encoder layer, in [0, 1).
        dropout: Dropout after each hidden layer, in [0, 1).

    Raises:
        BadInput: For a value outside its range.
    """

    heads: int = 8
    feedforward: int = 2048
    hidden: tuple[int, int] = (2048, 512)
    patch_hidden: int = 512
    attention_dropout: float = 0.1
    dropout: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        sizes = (self.heads, self.feedforward, self.patch_hidden, *self.hidden)
        if len(self.hidden) != 2 or min(sizes) < 1:
            raise BadInput(f"head sizes are {sizes}: each must be at least 1, and hidden two numbers")
        for name in ("attention_dropout", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise BadInput(f"head.{name} is {getattr(self, name)}: it must lie in [0, 1)")


class TokenHead(nn.Module):
    """Logits of an image from its tokens (B, T, d): one Transformer encoder layer, then three linear layers.

    Args:
        tokens: T.
        width: d, a multiple of the number of heads.
        classes: Number of classes.
        size: Widths and dropout.
        activation: Of the linear layers.
        attention: "patches": the tokens of one image attend to each other. "batch": a token attends to the tokens of
            its own place in the other images of the batch, as in the released code, where a score then depends on
            what else is in the batch. "none": no attention, the mean of the tokens is classified.
    """

    def __init__(
        self,
        tokens: int,
        width: int,
        classes: int,
        size: HeadSize,
        activation: type[nn.Module] = nn.ReLU,
        attention: Attention = "patches",
    ) -> None:
        super().__init__()
        if width % size.heads:
            raise BadInput(f"head.heads is {size.heads}: the width of the tokens, {width}, is no multiple of it")
        self.attention = attention
        self.encoder: nn.Module | None = None
        if attention != "none":
            self.encoder = nn.TransformerEncoderLayer(
                width, size.heads, size.feedforward, size.attention_dropout, batch_first=True
            )
        wide, narrow = size.hidden
        self.classifier = nn.Sequential(
            nn.Linear(width if attention == "none" else tokens * width, wide), activation(), nn.Dropout(size.dropout),
            nn.Linear(wide, narrow), activation(), nn.Dropout(size.dropout),
            nn.Linear(narrow, classes),
        )  # fmt: skip

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, classes). The order of the tokens matters: there is no other encoding of their places."""
        if self.encoder is None:
            return self.classifier(tokens.mean(dim=1))
        if self.attention == "batch":
            return self.classifier(self.encoder(tokens.transpose(0, 1)).transpose(0, 1).flatten(1))
        return self.classifier(self.encoder(tokens).flatten(1))


class PatchStream(nn.Module):
    """The image or the frequency stream.

    The image stream sees patches in [0, 1]. The frequency stream sees Z = (C - M) / sqrt(V), the orthonormal DCT C of
    the grey patch (0 to 255), standardised coefficient by coefficient over the training patches of all places.

    Args:
        network: The trunk, without its classifier.
        patch: P, side of a patch.
        count: n, patches along a side.
        classes: Number of classes.
        size: Of the heads.
        frequency: Whether it is the frequency stream; its first convolution then has one input channel and new weights.
        attention: See `TokenHead`.
    """

    def __init__(
        self,
        network: Network,
        patch: int,
        count: int,
        classes: int,
        size: HeadSize,
        *,
        frequency: bool = False,
        attention: Attention = "patches",
    ) -> None:
        super().__init__()
        self.patch, self.count = patch, count
        chosen = replace(network, normalise="none") if frequency and network.module is None else network
        self.trunk: nn.Module = chosen.build(0, patch)
        width = output_size(self.trunk, patch)
        self.statistics = CoefficientStatistics((patch, patch)) if frequency else None
        if frequency:
            self.trunk = self.trunk.body  # without the normalisation of three channels
            one_channel(self.trunk)
        self.head = TokenHead(count**2, width, classes, size, nn.ReLU, attention)
        hidden = size.patch_hidden
        self.patch_classifier = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(size.dropout),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(size.dropout),
            nn.Linear(hidden, classes),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 3, H, W) in [0, 1]."""
        return self.head(self.tokens(image))

    def both(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the images (B, classes), and of their patches (B, count^2, classes)."""
        tokens = self.tokens(image)
        return self.head(tokens), self.patch_classifier(tokens)

    def tokens(self, image: Tensor) -> Tensor:
        """Features of the patches, (B, count^2, d)."""
        cut = patches(image, self.patch, self.count)
        seen = cut.flatten(0, 1) if self.statistics is None else self.clues(cut).flatten(0, 1)[:, None]
        return self.trunk(seen).unflatten(0, cut.shape[:2])

    def clues(self, cut: Tensor) -> Tensor:
        """Z of patches (B, T, 3, P, P): (B, T, P, P)."""
        assert self.statistics is not None
        return self.statistics.standardise(dct2(levels(cut)))

    def observe(self, image: Tensor) -> None:
        """Take the DCT coefficients of the patches of images into the statistics M and V."""
        assert self.statistics is not None
        self.statistics.update(dct2(levels(patches(image, self.patch, self.count))))


class DescriptorStream(nn.Module):
    """Descriptors at landmarks, as tokens (B, L, 128) of numbers in [0, 255].

    Args:
        landmarks: L, 17 or 68: fixed places in an aligned face (`mien.nn.descriptors.face_points`).
        cell: Side of a descriptor's cell in pixels.
        classes: Number of classes.
        size: Of the head.
        attention: See `TokenHead`.
        face: Side of the aligned face over that of the images: 1 where images show whole faces, more where they show
            the middle of one. Landmarks outside the image have descriptors of zeros.
    """

    points: Tensor

    def __init__(
        self,
        landmarks: int,
        cell: float,
        classes: int,
        size: HeadSize,
        *,
        attention: Attention = "patches",
        face: float = 1.0,
    ) -> None:
        super().__init__()
        self.cell = cell
        self.register_buffer("points", 0.5 + face * (face_points(landmarks) - 0.5), persistent=False)
        self.head = TokenHead(landmarks, 128, classes, size, nn.Hardswish, attention)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 3, H, W) in [0, 1]."""
        return self.head(self.tokens(image))

    def tokens(self, image: Tensor) -> Tensor:
        """The descriptors of images."""
        sides = self.points.new_tensor([image.shape[-1], image.shape[-2]])
        places = (self.points * sides).expand(len(image), -1, -1)
        return descriptors(levels(image), places, self.cell)


def one_channel(network: nn.Module) -> None:
    """Replace the first convolution by one of the same shape for one input channel, with new weights."""
    names: Sequence[str] = [name for name, child in network.named_modules() if isinstance(child, nn.Conv2d)]
    if not names:
        raise BadInput("the frequency stream needs a network that begins with a convolution")
    first = network.get_submodule(names[0])
    assert isinstance(first, nn.Conv2d)
    new = nn.Conv2d(
        1,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    parent, _, name = names[0].rpartition(".")
    setattr(network.get_submodule(parent), name, new)
