# SPDX-License-Identifier: Apache-2.0
"""What all methods here share: an encoder whose normalised output finds the same person in other crops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Subset

from mien.engine import Method, Phase
from mien.engine.evaluation import evaluation_loader, predictions
from mien.engine.method import Optimizers
from mien.errors import BadInput
from mien.metrics.retrieval import Retrieval, feature_retrieval
from mien.nn.network import Network
from mien.optim.recipe import Recipe
from mien.reid.data import Augmentation, Crops, Embedding, PersonImages, Size
from mien.reid.encoder import Encoder, Parts


class Embedder(Method):
    """A network whose output is compared by cosine.

    Args:
        network: The backbone.
        optimizer: How it is trained.
        image_size: Height and width in pixels of the crops that it is given.
        augment: How training crops are varied.
        parts: Whether the halves of a crop are embedded beside the whole while training; see `Encoder`.
    """

    scope = (
        "Ranks pictures of persons (or vehicles) by how much they look alike to a model trained on particular cameras. "
        "Similar clothes look alike, other cameras or seasons may be ranked at random. A similarity is not evidence "
        "that two pictures show the same person."
    )

    def __init__(
        self, *, network: Network, optimizer: Recipe, image_size: Size, augment: Augmentation, parts: Parts
    ) -> None:
        super().__init__()
        size = tuple(image_size)
        if len(size) != 2 or min(size) < 8:
            raise BadInput(f"image_size is {list(size)}: give height and width, each at least 8 pixels")
        if parts not in ("none", "up-down"):
            raise BadInput(f"parts is {parts!r}: use none or up-down")
        self.network, self.optimizer, self.image_size, self.augment = network, optimizer, size, augment
        self.parts = parts
        self.encoder = Encoder(network, size, parts)

    def optimizers(self, phase: Phase) -> Optimizers:
        """One optimiser over everything that is trained."""
        return {"main": self.optimizer.build(self.parameters(), phase.total_steps)}

    def predict(self, batch: Crops) -> Embedding:
        """The normalised feature of the whole crop."""
        return Embedding(F.normalize(self.encoder(batch.image)[0].float(), dim=1))

    def validate(self, data: Dataset[Any], *, batch_size: int = 64) -> dict[str, float]:
        """mAP, rank-1, rank-5, rank-10 and mINP across cameras."""
        features = embedded(self, data, batch_size)
        return searched(person_images(data), features).means()

    def config(self) -> dict[str, Any]:
        """The constructor's arguments. Weights to start from are left out: what is saved has its own."""
        config = super().config()
        config["network"] |= {"pretrained": False, "weights": None}
        return config


def person_images(data: Any) -> PersonImages:
    """The data, if they are crops with persons, cameras and roles."""
    if not isinstance(data, PersonImages):
        raise BadInput(f"{type(data).__name__} is no mien.reid.data.PersonImages: re-identification works with those")
    return data


def embedded(method: Embedder, data: Dataset[Any], batch_size: int, *, workers: int = 0) -> np.ndarray:
    """The features of all crops, (N, D)."""
    parts = [answer.feature.cpu() for _, answer in predictions(method, data, batch_size, workers=workers)]
    return torch.cat(parts).numpy()


def searched(data: PersonImages, features: np.ndarray) -> Retrieval:
    """What the queries find in the gallery, by the features of the first of the crops or of all, (n, D)."""
    count = len(features)
    query, gallery = (np.flatnonzero(role[:count]) for role in (data.query, data.gallery))
    identity, camera = data.identity, data.camera
    return feature_retrieval(
        features[query], features[gallery], identity[query], identity[gallery], camera[query], camera[gallery]
    )


def all_features(method: Embedder, data: PersonImages, batch_size: int = 128) -> list[Tensor]:
    """Normalised features of all crops without augmentation, (N, D), of the whole crop and of each part.

    Every process encodes its share of the crops, and all get all of them.
    """
    session = method.session
    share = np.array_split(np.arange(len(data)), session.world_size)[session.rank]
    batches = plain_batches(method, data, batch_size, share.tolist())
    with torch.no_grad():
        parts = zip(*(method.encoder(batch.image) for batch in batches), strict=True)
        return [method.gather(F.normalize(torch.cat(part).float(), dim=1)) for part in parts]


def plain_batches(
    method: Embedder, data: PersonImages, batch_size: int = 128, rows: Sequence[int] | None = None
) -> Iterator[Crops]:
    """Crops without augmentation, on the method's device, in order; all, or those of `rows`."""
    chosen = data.plain() if rows is None else Subset(data.plain(), rows)
    return evaluation_loader(chosen, batch_size, device=method.device)
