# SPDX-License-Identifier: Apache-2.0
"""Is a face still matched to its owner? Any face embedding can be asked; a small one is trained where none is given.

A matcher knows every person from some photographs (the gallery) and is shown others (queries). It is right when the
nearest gallery photograph, by the cosine of the embeddings, is the same person's: rank-1 identification. What it says
of a protected photograph is its own opinion; a better matcher may recognise more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mien.data.images import resize_tensor
from mien.engine.seeding import kept_generators, seed_all, stable_seed
from mien.errors import BadInput
from mien.metrics.binary import auc
from mien.metrics.retrieval import feature_retrieval
from mien.nn.tiny import TinyBlocks

STEPS, BATCH, RATE, SIDE = 400, 32, 3e-3, 32
"""Of the matcher that is trained here, in ten seconds. Of six persons with 48 gallery photographs each it named 74 % of
the others rightly at a side of 32 pixels, 65 % at 64 (its few steps are not enough there); chance is 17 %."""


class FaceEmbedder(Protocol):
    """Anything that turns faces into vectors: a network, a function around another library."""

    def __call__(self, image: Tensor, /) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, D), any length; only directions count."""


@dataclass(frozen=True)
class Gallery:
    """Persons as a matcher knows them.

    Args:
        feature: L2-normalised, (G, D).
        person: Number of the person in each, (G,).
    """

    feature: NDArray[np.float32]
    person: NDArray[np.int64]


def features(embedder: FaceEmbedder, images: Tensor, batch: int = 128) -> NDArray[np.float32]:
    """L2-normalised embeddings of images (N, 3, H, W) in [0, 1]: (N, D)."""
    with torch.no_grad():
        parts = [F.normalize(embedder(part).float().flatten(1), dim=1).cpu() for part in images.split(batch)]
    return torch.cat(parts).numpy()


def enrol(embedder: FaceEmbedder, images: Tensor, person: Sequence[int]) -> Gallery:
    """The gallery of images (G, 3, H, W) in [0, 1] of the persons (G,)."""
    return Gallery(features(embedder, images), np.asarray(person, np.int64))


def matched(embedder: FaceEmbedder, gallery: Gallery, images: Tensor, person: Sequence[int]) -> NDArray[np.float64]:
    """Whether each image is matched to its own person, (N,) of 0 and 1.

    Args:
        embedder: As for the gallery.
        gallery: Photographs of every person, none of which is a query.
        images: (N, 3, H, W) in [0, 1].
        person: Who they are, (N,).

    Raises:
        BadInput: A person who is not in the gallery.
    """
    who = np.asarray(person, np.int64)
    if missing := sorted(set(who.tolist()) - set(gallery.person.tolist())):
        raise BadInput(f"person {missing[0]} is not in the gallery: every query needs a photograph there")
    apart = np.zeros(len(who), np.int64), np.ones(len(gallery.person), np.int64)  # one camera each: none is left out
    found = feature_retrieval(features(embedder, images), gallery.feature, who, gallery.person, *apart)
    return (found.first == 0).astype(np.float64)


def verification_auc(embedder: FaceEmbedder, gallery: Gallery, images: Tensor, person: Sequence[int]) -> float:
    """How well the cosine to a gallery photograph tells same from other persons: 0.5 is chance, 1 perfect."""
    cosine = features(embedder, images) @ gallery.feature.T
    same = np.asarray(person, np.int64)[:, None] == gallery.person[None]
    return auc(same.ravel().astype(np.int64), cosine.ravel())


def split_for_matching(people: Sequence[str], seed: int = 0) -> tuple[list[int], list[int]]:
    """Half of every person's pictures for the gallery, the others as queries; persons with one picture are left out."""
    rows: dict[str, list[int]] = {}
    for i, name in enumerate(people):
        rows.setdefault(name, []).append(i)
    gallery: list[int] = []
    queries: list[int] = []
    for name in sorted(rows):
        own = np.array(rows[name])
        np.random.default_rng(stable_seed(seed, "gallery", name)).shuffle(own)
        half = (len(own) + 1) // 2
        if len(own) > 1:
            gallery += own[:half].tolist()
            queries += own[half:].tolist()
    return sorted(gallery), sorted(queries)


class Recogniser(nn.Module):
    """A small face embedding (47 k weights) of pictures of 32 pixels: the features below a classifier of persons.

    Args:
        people: Number of persons that it is trained on.
    """

    def __init__(self, people: int) -> None:
        super().__init__()
        self.network = TinyBlocks(people)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 64)."""
        return self.network.forward_features(_small(image) * 2 - 1).mean(dim=(2, 3))

    def logits(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, people)."""
        return self.network(_small(image) * 2 - 1)


def _small(image: Tensor) -> Tensor:
    return resize_tensor(image, SIDE)


def train_recogniser(images: Tensor, person: Sequence[int], *, seed: int = 0, steps: int = STEPS) -> Recogniser:
    """A recogniser of the persons in images (N, 3, H, W) in [0, 1], on their device, in eval mode.

    Mirrored and shifted by up to a sixteenth; cross-entropy, AdamW, a cosine schedule. The same arguments give the same
    weights, and the global generators are left as they were.

    Raises:
        BadInput: Fewer than two persons.
    """
    label = torch.as_tensor(np.unique(np.asarray(person), return_inverse=True)[1], device=images.device)
    count = int(label.max()) + 1 if len(label) else 0
    if count < 2:
        raise BadInput(f"{count} persons: a matcher needs at least two")
    with kept_generators(), torch.enable_grad():
        seed_all(stable_seed(seed, "recogniser"))
        model = Recogniser(count).to(images.device).train()
        optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        images = _small(images)
        reach = SIDE // 16
        for _ in range(steps):
            rows = torch.randint(len(images), (BATCH,))
            shift = torch.randint(-reach, reach + 1, (2,)).tolist()
            view = images[rows].roll(shift, dims=(-2, -1))
            view = view.flip(-1) if float(torch.rand(())) < 0.5 else view
            loss = F.cross_entropy(model.logits(view), label[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()
