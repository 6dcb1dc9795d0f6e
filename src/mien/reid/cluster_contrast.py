# SPDX-License-Identifier: Apache-2.0
"""Cluster Contrast for Unsupervised Person Re-Identification (Dai and others, ACCV 2022, arXiv:2103.11568): the base
pipeline of this room's unsupervised methods, and the baseline that they must beat.

Before every epoch all crops are embedded, their k-reciprocal Jaccard distances clustered by DBSCAN, and outliers left
out for the epoch. Then the network is trained to tell the clusters apart by a memory of their centres:

    L_cc = CE(f M^T / 0.05, y),   M_y <- normalised (0.1 M_y + 0.9 f) for every sample after the update

Differences from the paper
    * The learning rate falls at 0.4 and 0.8 of all updates: of 50 epochs, every 20.
    * A random rectangle is filled with the mean colour of ImageNet before normalisation, which the network does itself.
    * A batch holds 16 different clusters wherever there are as many (P x K in `mien.reid.clusters`).
    * Weights of ImageNet are asked for, not fetched unasked: --method.network.pretrained true.
    * eps is 0.5, as in the runs that NCPLR's authors compare with; the paper has 0.6.

Example:
    >>> from mien.nn.network import Network
    >>> method = ClusterContrast(network=Network("tiny_blocks"), image_size=(64, 32))
    >>> method.predict(Crops(torch.rand(2, 3, 64, 32))).feature.shape
    torch.Size([2, 64])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from mien.clustering.jaccard import Neighbours
from mien.clustering.recipe import Clustering
from mien.engine import Epoch
from mien.engine.method import Losses
from mien.errors import BadInput, TrainingStopped
from mien.nn.network import Network
from mien.optim.recipe import Recipe
from mien.reid.clusters import ClusterMemory, camera_aware_batches, centres
from mien.reid.data import Augmentation, Crops, PersonImages, Size
from mien.reid.embedder import Embedder, all_features, person_images
from mien.reid.encoder import Parts

RESNET = Network("resnet50", normalise="backbone")
ADAM = Recipe("adam", lr=3.5e-4, weight_decay=5e-4, schedule="steps", milestones=(0.4, 0.8))


@dataclass(frozen=True)
class Contrast:
    """How a network is trained on clusters.

    Args:
        clusters_per_batch: P, clusters in a batch; fewer where there are fewer.
        crops_per_cluster: K, crops of each.
        iterations: Batches in an epoch.
        temperature: Of the cosines to the centres, > 0.
        momentum: Share of a centre that stays when a sample moves it, in [0, 1).
        part_distance: lambda_1, weight of each half's distance; the whole has 1 - 2 lambda_1. In [0, 0.5].
        part_loss: lambda_2, weight of each half's losses; the whole has 1 - lambda_2. In [0, 1].

    Raises:
        BadInput: For a value outside its range.
    """

    clusters_per_batch: int = 16
    crops_per_cluster: int = 16
    iterations: int = 200
    temperature: float = 0.05
    momentum: float = 0.1
    part_distance: float = 0.2
    part_loss: float = 0.2

    def __post_init__(self) -> None:
        for name in ("clusters_per_batch", "crops_per_cluster", "iterations"):
            if getattr(self, name) < 1:
                raise BadInput(f"contrast.{name} is {getattr(self, name)}: it must be at least 1")
        if not self.temperature > 0:
            raise BadInput(f"contrast.temperature is {self.temperature}: it must be above 0")
        if not 0 <= self.momentum < 1:
            raise BadInput(f"contrast.momentum is {self.momentum}: it must lie in [0, 1)")
        if not 0 <= self.part_distance <= 0.5:
            raise BadInput(f"contrast.part_distance is {self.part_distance}: it must lie in [0, 0.5]")
        if not 0 <= self.part_loss <= 1:
            raise BadInput(f"contrast.part_loss is {self.part_loss}: it must lie in [0, 1]")


class ClusterContrast(Embedder):
    """Cluster Contrast: clusters are told apart by a memory of their centres.

    Args:
        network: The backbone (paper: ResNet-50 with weights of ImageNet).
        optimizer: How it is trained.
        image_size: Height and width in pixels of the crops that it is given (Cluster Contrast: 256 x 128).
        augment: How training crops are varied.
        clustering: How crops are clustered before every epoch.
        contrast: Batches, memory and weights of the halves.
        parts: "up-down" embeds, clusters and trains the halves of a crop beside the whole; "none" does not.
    """

    name = "cluster-contrast"
    dynamic_buffers: ClassVar[tuple[str, ...]] = ("pseudo_label", *(f"memories.{i}.centre" for i in range(3)))
    neighbour_radius: float = 0.0
    """Distance up to which a method wants to know each crop's neighbours."""
    pseudo_label: Tensor

    def __init__(
        self,
        *,
        network: Network = RESNET,
        optimizer: Recipe = ADAM,
        image_size: Size = (320, 128),
        augment: Augmentation = Augmentation(),
        clustering: Clustering = Clustering(),
        contrast: Contrast = Contrast(),
        parts: Parts = "none",
    ) -> None:
        super().__init__(network=network, optimizer=optimizer, image_size=image_size, augment=augment, parts=parts)
        self.clustering, self.contrast = clustering, contrast
        views = len(self.encoder.necks)
        self.memories = nn.ModuleList(ClusterMemory(contrast.temperature, contrast.momentum) for _ in range(views))
        self.register_buffer("pseudo_label", torch.zeros(0, dtype=torch.long))
        self._seen: list[tuple[list[Tensor], Tensor]] = []

    # --- before an epoch ------------------------------------------------------------------------------------------
    def batches_per_epoch(self) -> int:
        """`contrast.iterations`."""
        return self.contrast.iterations

    def begin_epoch(self, epoch: int, data: Dataset[Any]) -> Epoch:
        """Embed and cluster all crops, fill the memories, and draw the batches."""
        images = person_images(data)
        features = all_features(self, images)
        c = self.contrast
        weights = (1 - 2 * c.part_distance, c.part_distance, c.part_distance) if len(features) > 1 else (1.0,)
        neighbours = self.clustering.neighbours(features, weights, radius=self.neighbour_radius)
        label = self.cluster_labels(neighbours, images)
        self._require_clusters(label)
        self.pseudo_label = torch.from_numpy(label).to(self.device)
        for memory, feature in zip(self.memories, features, strict=True):
            memory.centre = centres(feature, self.pseudo_label)
        self.log("clusters", float(label.max() + 1))
        self.log("clustered", float((label >= 0).mean()))
        self.clustered(neighbours)
        order = camera_aware_batches(
            label,
            images.camera,
            clusters=c.clusters_per_batch,
            crops=c.crops_per_cluster,
            batches=c.iterations,
            rng=np.random.default_rng(int(torch.randint(2**62, ()))),
        )
        return Epoch(order=torch.from_numpy(order))

    def cluster_labels(self, neighbours: Neighbours, images: PersonImages) -> NDArray[np.int64]:
        """Cluster of each crop, (N,), from 0; -1 for outliers. DBSCAN's; identities are not looked at."""
        return self.clustering.labels(neighbours)

    def clustered(self, neighbours: Neighbours) -> None:
        """What else a method prepares once pseudo-labels and memories stand.

        Args:
            neighbours: Of all crops, within `neighbour_radius` at least.
        """

    def _require_clusters(self, label: NDArray[np.int64]) -> None:
        """Without two clusters there is nothing to tell apart, and an epoch without data has no end."""
        c = self.clustering
        if label.max() < 0:
            raise TrainingStopped(
                f"no clusters: all {len(label)} crops are outliers with clustering.eps {c.eps}, min_samples "
                f"{c.min_samples}, k1 {c.k1}: raise eps or lower min_samples"
            )
        if label.max() == 0:
            raise TrainingStopped(
                f"one cluster only: {int((label == 0).sum())} of {len(label)} crops share it with clustering.eps "
                f"{c.eps}, k1 {c.k1}: lower eps or k1"
            )

    # --- a batch --------------------------------------------------------------------------------------------------
    def losses(self, batch: Crops) -> Losses:
        """Losses over the crops that are in a cluster."""
        assert isinstance(batch.index, Tensor)
        label = self.pseudo_label[batch.index]
        kept = label >= 0
        z = [part[kept].float() for part in self.encoder(batch.image)]
        return self.cluster_losses(z, label[kept], batch.index[kept])

    def cluster_losses(self, z: list[Tensor], label: Tensor, index: Tensor) -> dict[str, Tensor]:
        """L_cc.

        Args:
            z: Outputs of the necks, each (B, D).
            label: Clusters, (B,).
            index: Places in the data set, (B,).
        """
        features = [F.normalize(part, dim=1) for part in z]
        self._seen.append(([feature.detach() for feature in features], label))
        return {"contrast": self.weighted([m(f, label) for m, f in zip(self.memories, features, strict=True)])}

    def weighted(self, losses: Sequence[Tensor]) -> Tensor:
        """(1 - lambda_2) whole + lambda_2 upper + lambda_2 lower; the loss itself where there are no parts."""
        if len(losses) == 1:
            return losses[0]
        share = self.contrast.part_loss
        return (1 - share) * losses[0] + share * (losses[1] + losses[2])

    @property
    def clusters(self) -> int:
        """How many clusters the memories hold."""
        return len(self._memories()[0].centre)

    def _memories(self) -> list[ClusterMemory]:
        return [memory for memory in self.memories if isinstance(memory, ClusterMemory)]

    def after_step(self) -> None:
        """Move the centres by the crops of all processes, in rank order."""
        for features, label in self._seen:
            everyone = self.gather(label)
            for memory, feature in zip(self._memories(), features, strict=True):
                memory.update(self.gather(feature), everyone)
        self._seen.clear()
