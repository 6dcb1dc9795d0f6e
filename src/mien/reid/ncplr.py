# SPDX-License-Identifier: Apache-2.0
"""Neighbour Consistency Guided Pseudo-Label Refinement for Unsupervised Person Re-Identification (NCPLR).

Cheng, Tai, Wang et al., 2022, arXiv:2211.16847; its global-local version (GL-NCPLR), IEEE TIFS 2024,
doi:10.1109/TIFS.2024.3465037.

Clusters are noisy labels, and a network learns their noise. NCPLR trains a classifier of the clusters beside Cluster
Contrast, whose target for a crop is a little of its cluster and much of what its neighbours in feature space are
predicted to be.

    p_i = softmax(z_i W^T),   W: the clusters' centres at the start of every epoch, then trained
    N(i) = {j : D_ij <= rho},   e_i = sum over j in N(i) and the batch of w_ij p_j,   w_ij = softmax_j(-D_ij / tau)
    y~_i = alpha onehot(y_i) + (1 - alpha) e_i,   e_i without gradient
    L_ref = -(1/B) sum_i y~_i log p_i  =  alpha CE(y_i, p_i) + (1 - alpha) (KL(e_i | p_i) + H(e_i))
    L = L_cc + alpha CE + beta L_ncr,   L_ncr = (1/B) sum_i KL(e_i | p_i),   beta = 1 - alpha gives L_ref's gradient

GL-NCPLR (`parts` "up-down") does this for the halves of a crop, too, each with its own W and memory; D mixes the three
distances, and the ensembles talk to each other before they become targets:

    D = (1 - 2 lambda_1) D^g + lambda_1 D^u + lambda_1 D^d
    k^u = exp(-KL(e^g | e^u) / 5):   e~^g = (e^g + k^u e^u + k^d e^d) / (1 + k^u + k^d)
    h^u = exp(-KL(e^u | e^g) / 5):   e~^u = (e^u + h^u e^g) / (1 + h^u), and the same for d
    every loss: (1 - lambda_2) whole + lambda_2 upper + lambda_2 lower,   alpha = 0.1, of the halves 0.3

Differences from the paper (of which only the abstract and the code's settings were to be had)
    * More similar neighbours weigh more (`weighting` "similar"), as the abstract says. The released code has the other
      sign ("released"); with distances up to rho = 0.2 and tau = 1 either is close to "uniform".
    * The consistency loss stands alone, so that its weight beta can be chosen; the code has the merged form. That split
      is inferred.
    * W is allocated once, since the optimiser must know it, with as many rows as the data can have clusters (the code:
      3000, whatever the data); its first C rows are used. They are overwritten at the start of every epoch, and Adam's
      moments of them are kept, as in the code: the first moment has forgotten the old cluster after some twenty steps.
    * With several processes the ensembles see the crops of all of them.
    * What the code has switched off by default is left out: a mean teacher (weights averaged at 0.999), a memory of
      hard samples, and a memory of single crops (of its DCMIP base).
    * What `mien.reid.cluster_contrast` lists.

Example:
    >>> kl_divergence(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]]))  # (log 2 + log 2/3) / 2
    tensor([0.1438])
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.clustering.jaccard import Neighbours
from mien.clustering.recipe import Clustering
from mien.errors import BadInput, TrainingStopped
from mien.nn.network import Network
from mien.optim.recipe import Recipe
from mien.reid.cluster_contrast import ADAM, RESNET, ClusterContrast, Contrast
from mien.reid.data import Augmentation, PersonImages, Size
from mien.reid.embedder import plain_batches
from mien.reid.encoder import Parts

Weighting = Literal["similar", "released", "uniform"]
SIGN: dict[Weighting, float] = {"similar": -1.0, "released": 1.0, "uniform": 0.0}
"""Of the distance in the weights of neighbours."""

GRAPH = ("graph_start", "graph_index", "graph_distance")
"""Buffers of the neighbours N, as `mien.clustering.jaccard.Neighbours`."""


def neighbour_weights(distance: Tensor, present: Tensor, weighting: Weighting = "similar", tau: float = 1.0) -> Tensor:
    """w: how much each crop's neighbours in the batch count, rows that sum to 1, (B, M).

    Args:
        distance: D_ij, (B, M); what it says of crops that are no neighbours is not read.
        present: Whether j is a neighbour of i, (B, M); at least one in each row.
        weighting: "similar" is softmax(-D / tau), "released" softmax(+D / tau), "uniform" the same for all.
        tau: Temperature, > 0.
    """
    sign = SIGN[weighting]
    logits = torch.where(present, sign * distance / tau, -torch.inf)
    return logits.softmax(dim=1)


def kl_divergence(first: Tensor, second: Tensor) -> Tensor:
    """KL(a | b) = sum_c a_c log(a_c / b_c) of distributions (B, C), (B,); infinite where b is 0 and a is not."""
    return (torch.xlogy(first, first) - torch.xlogy(first, second)).sum(dim=1)


def refined_label(label: Tensor, ensemble: Tensor, alpha: float) -> Tensor:
    """y~ = alpha onehot(y) + (1 - alpha) e, (B, C), of clusters (B,) and ensembles (B, C)."""
    return alpha * F.one_hot(label, ensemble.shape[1]) + (1 - alpha) * ensemble


def refinement_losses(logits: Tensor, label: Tensor, ensemble: Tensor) -> tuple[Tensor, Tensor]:
    """CE(y, p) and L_ncr = KL(e | p), each the mean over the batch; B = 0 gives zeros that are connected to `logits`.

    alpha CE + (1 - alpha) L_ncr is L_ref but for the entropy of e, which has no gradient.

    Args:
        logits: l, (B, C).
        label: Clusters, (B,).
        ensemble: e, (B, C); no gradient flows into it.
    """
    e, log_p = ensemble.detach(), logits.log_softmax(dim=1)
    count = max(len(label), 1)
    consistency = (torch.xlogy(e, e) - e * log_p).sum() / count
    return F.nll_loss(log_p, label, reduction="sum") / count, consistency


def interacting(ensembles: list[Tensor]) -> list[Tensor]:
    """The ensembles of whole, upper and lower half, each (B, C), after they have talked to each other."""
    whole, halves = ensembles[0], ensembles[1:]
    trust = [torch.exp(-kl_divergence(whole, half) / 5)[:, None] for half in halves]  # k
    mixed = whole + sum(k * half for k, half in zip(trust, halves, strict=True))
    result = [mixed / (1 + sum(trust))]
    for half in halves:
        h = torch.exp(-kl_divergence(half, whole) / 5)[:, None]
        result.append((half + h * whole) / (1 + h))
    return result


class NCPLR(ClusterContrast):
    """Cluster Contrast with labels that are refined by neighbours.

    Args:
        network: The backbone (paper: ResNet-50 with weights of ImageNet).
        optimizer: How it is trained.
        image_size: Height and width in pixels of the crops that it is given.
        augment: How training crops are varied.
        clustering: How crops are clustered before every epoch.
        contrast: Batches, memory and weights of the halves.
        parts: "up-down" is GL-NCPLR; "none" is NCPLR.
        rho: Distance up to which crops are neighbours, in [0, 1).
        alpha: Weight of the cluster in the refined label, in [0, 1].
        part_alpha: The same for the halves of a crop.
        beta: Weight of the consistency with the neighbours, >= 0; None for 1 - alpha, as the refined label has it. 0
            switches it off.
        weighting: How neighbours count; see `neighbour_weights`.
        tau: Temperature of the weights, > 0.
        neighbourhood: "graph" for N(i); "self" is the control with N(i) = {i}.
        max_clusters: Rows of the classifier W, the most clusters that there can be. None: one for every two training
            crops, enough unless `clustering.min_samples` is 1; where the data are not known (in Python), the released
            code's 3000.
    """

    name = "ncplr"
    dynamic_buffers: ClassVar[tuple[str, ...]] = (*ClusterContrast.dynamic_buffers, *GRAPH)
    graph_start: Tensor
    graph_index: Tensor
    graph_distance: Tensor

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
        rho: float = 0.2,
        alpha: float = 0.1,
        part_alpha: float = 0.3,
        beta: float | None = None,
        weighting: Weighting = "similar",
        tau: float = 1.0,
        neighbourhood: Literal["graph", "self"] = "graph",
        max_clusters: int | None = None,
    ) -> None:
        super().__init__(
            network=network,
            optimizer=optimizer,
            image_size=image_size,
            augment=augment,
            clustering=clustering,
            contrast=contrast,
            parts=parts,
        )
        if not 0 <= rho < 1:
            raise BadInput(f"rho is {rho}: it must lie in [0, 1)")
        for name, value in (("alpha", alpha), ("part_alpha", part_alpha)):
            if not 0 <= value <= 1:
                raise BadInput(f"{name} is {value}: it must lie in [0, 1]")
        if beta is not None and not beta >= 0:
            raise BadInput(f"beta is {beta}: it must be 0 or more, or left out")
        if weighting not in SIGN:
            raise BadInput(f"weighting is {weighting!r}: use similar, released or uniform")
        if not tau > 0:
            raise BadInput(f"tau is {tau}: it must be above 0")
        if neighbourhood not in ("graph", "self"):
            raise BadInput(f"neighbourhood is {neighbourhood!r}: use graph or self")
        if max_clusters is None:
            max_clusters = 3000
        if max_clusters < 2:
            raise BadInput(f"max_clusters is {max_clusters}: it must be at least 2")
        self.rho, self.alpha, self.part_alpha, self.beta = rho, alpha, part_alpha, beta
        self.weighting, self.tau, self.neighbourhood, self.max_clusters = weighting, tau, neighbourhood, max_clusters
        self.neighbour_radius = rho
        views, width = len(self.encoder.necks), self.encoder.dimensions
        self.classifiers = nn.ParameterList(nn.Parameter(torch.zeros(max_clusters, width)) for _ in range(views))
        for name, kind in zip(GRAPH, (torch.long, torch.long, torch.float32), strict=True):
            self.register_buffer(name, torch.zeros(0, dtype=kind))

    def clustered(self, neighbours: Neighbours) -> None:
        """Keep the graph N of the clustered crops, and set the classifiers to the centres."""
        count = self.clusters
        if count > self.max_clusters:
            raise TrainingStopped(
                f"{count} clusters do not fit the classifier of {self.max_clusters} rows: raise max_clusters (or eps, "
                "for fewer clusters)"
            )
        graph = neighbours.within(self.rho).among((self.pseudo_label >= 0).cpu().numpy())
        for name, column in zip(GRAPH, (graph.start, graph.index, graph.distance), strict=True):
            setattr(self, name, torch.from_numpy(column).to(self.device, getattr(self, name).dtype))
        self.log("neighbours", len(graph.index) / max(int((self.pseudo_label >= 0).sum()), 1))
        for weight, memory in zip(self.classifiers, self.memories, strict=True):
            weight.data[:count] = memory.centre

    def cluster_losses(self, z: list[Tensor], label: Tensor, index: Tensor) -> dict[str, Tensor]:
        """L_cc, alpha CE, and beta L_ncr."""
        losses = super().cluster_losses(z, label, index)
        count = self.clusters
        logits = [part @ weight[:count].T for part, weight in zip(z, self.classifiers, strict=True)]
        ensembles = self.ensembles([part.detach().softmax(dim=1) for part in logits], label, index)
        alphas = [self.alpha, self.part_alpha, self.part_alpha][: len(z)]
        pairs = [refinement_losses(part, label, e) for part, e in zip(logits, ensembles, strict=True)]
        betas = [1 - alpha if self.beta is None else self.beta for alpha in alphas]
        losses["label"] = self.weighted([alpha * pair[0] for alpha, pair in zip(alphas, pairs, strict=True)])
        losses["consistency"] = self.weighted([beta * pair[1] for beta, pair in zip(betas, pairs, strict=True)])
        return losses

    def ensembles(self, predictions: list[Tensor], label: Tensor, index: Tensor) -> list[Tensor]:
        """E of the whole crop and of its halves, each (B, C), after these have talked to each other.

        Args:
            predictions: p of the whole crop and of its halves, each (B, C).
            label: Clusters, (B,).
            index: Places in the data set, (B,).
        """
        if self.neighbourhood == "self":
            found = predictions
        else:
            distance, present = self.batch_graph(index, self.gather(index))
            weight = neighbour_weights(distance, present, self.weighting, self.tau)
            self.log("with_neighbours", (present.sum(dim=1) > 1).sum() / max(len(index), 1))
            found = [weight @ self.gather(part) for part in predictions]
        return interacting(found) if len(found) > 1 else found

    def refined(self, data: PersonImages) -> Tensor:
        """y~ of all crops, (N, C), as it stands: from predictions without augmentation, over whole neighbourhoods.

        Rows of outliers are 0. Of the whole crop; `data` are the crops that the last epoch clustered.
        """
        features = torch.cat([self.encoder(crops.image)[0].float() for crops in plain_batches(self, data)])
        p = (features @ self.classifiers[0][: self.clusters].T).softmax(dim=1)
        size = self.graph_start[1:] - self.graph_start[:-1]
        row = torch.repeat_interleave(size)
        weight = torch.exp(SIGN[self.weighting] * self.graph_distance / self.tau)
        total = torch.zeros(len(size), device=p.device).index_add_(0, row, weight)
        ensemble = torch.zeros_like(p).index_add_(0, row, (weight / total[row])[:, None] * p[self.graph_index])
        chosen = self.pseudo_label >= 0
        refined = torch.zeros_like(p)
        refined[chosen] = refined_label(self.pseudo_label[chosen], ensemble[chosen], self.alpha)
        return refined

    def batch_graph(self, index: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Distances (B, M) of crops (B,) to those of the whole batch (M,), and which of these are their neighbours.

        Of several copies of a crop in the batch only the first is anybody's neighbour, also of the later copies.
        """
        distance = torch.zeros(len(index), len(batch), device=index.device)
        present = torch.zeros_like(distance, dtype=torch.bool)
        size = self.graph_start[index + 1] - self.graph_start[index]
        row = torch.repeat_interleave(size)
        place = torch.arange(len(row), device=row.device) - (size.cumsum(0) - size - self.graph_start[index])[row]
        neighbour = self.graph_index[place]
        order = batch.argsort(stable=True)
        ordered = batch[order]
        column = torch.searchsorted(ordered, neighbour).clamp(max=len(batch) - 1)  # the first copy, if there is one
        here = ordered[column] == neighbour
        row, column = row[here], order[column[here]]
        distance[row, column] = self.graph_distance[place[here]]
        present[row, column] = True
        return distance, present
