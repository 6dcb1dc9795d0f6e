# SPDX-License-Identifier: Apache-2.0
"""Near images have near transition matrices, and near images with different labels have different ones.

    S^I_ij = exp(-||z_i - z_j||^2 / sigma^2)  if j is one of the k1 nearest of i and their labels agree, else 0
    S^B_ij = the same for the k2 nearest whose labels differ
    M = sum_ij S^I_ij ||T_i - T_j||_F^2 - sum_ij S^B_ij ||T_i - T_j||_F^2

With both graphs in one signed matrix S, symmetrised, this is 2 tr(tau^T L tau), L = diag(S 1) - S, tau the flattened
T_i: B^2 K^2 operations, no B x B x K^2 differences. A kNN graph is directed; without (S + S^T) / 2 the identity fails.

Affinities are constants: no gradient flows through them. B is a batch; nothing here is as large as the data squared,
also where M is wanted of a whole data set (`Manifold.over`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mien.errors import BadInput, unknown_name

Form = Literal["knn", "dense"]
Graphs = Literal["both", "intra"]
Space = Literal["features", "posterior"]
Search = Literal["batch", "label"]
Average = Literal["edges", "pairs"]
Edges = Literal["nearest", "random"]

ROWS = 256
"""Rows of a graph whose distances to all others are in memory at a time."""


@dataclass(frozen=True)
class Manifold:
    """The manifold term.

    Args:
        weight: lambda, 0 or more; 0 leaves the term out.
        form: "knn", the paper's; "dense", the released code's: every pair of the batch, + where the PREDICTED classes
            agree and - where not, weight exp(-||p_i - p_j||^2 / (2 sigma^2)), averaged over B^2 pairs. It knows no
            other option below than `graphs`, `sigma` and `edges`.
        graphs: "both" is M_I - M_B, "intra" M_I alone.
        space: z: the classifier's "features" (what its last linear layer sees) or its "posterior".
        k_intra: k1, at least 1.
        k_inter: k2, at least 1.
        sigma: Width of the affinities, above 0.
        search: "batch": the k nearest of all, of which those with the right labels count; "label": the k nearest among
            those with the right labels, as in marginal Fisher analysis.
        average: "edges" divides each graph by its B k edges, "pairs" by B^2: then few edges weigh little.
        edges: "nearest"; "random" is a control: the same graph and weights laid over the batch in random order.

    Raises:
        BadInput: For a value outside its range.
    """

    weight: float = 0.3
    form: Form = "knn"
    graphs: Graphs = "both"
    space: Space = "features"
    k_intra: int = 7
    k_inter: int = 7
    sigma: float = 1.1
    search: Search = "batch"
    average: Average = "edges"
    edges: Edges = "nearest"

    def __post_init__(self) -> None:
        allowed = {
            "form": ("knn", "dense"),
            "graphs": ("both", "intra"),
            "space": ("features", "posterior"),
            "search": ("batch", "label"),
            "average": ("edges", "pairs"),
            "edges": ("nearest", "random"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise unknown_name(f"manifold.{name}", getattr(self, name), values)
        for name in ("k_intra", "k_inter"):
            if getattr(self, name) < 1:
                raise BadInput(f"manifold.{name} is {getattr(self, name)}: it must be at least 1")
        if not 0 <= self.weight < math.inf:
            raise BadInput(f"manifold.weight is {self.weight}: it must be 0 or more")
        if not 0 < self.sigma < math.inf:
            raise BadInput(f"manifold.sigma is {self.sigma}: it must be above 0")

    @torch.no_grad()
    def affinity(self, features: Tensor, posterior: Tensor, label: Tensor) -> Tensor:
        """The signed, averaged, symmetric S, (B, B), from features (B, D), posteriors (B, K) and noisy labels (B,)."""
        size = len(label)
        if self.form == "dense":
            signed = dense_affinity(posterior, self.sigma) / max(size**2, 1)
            signed = signed if self.graphs == "both" else signed.clamp_min(0)
        else:
            z = features if self.space == "features" else posterior
            intra, inter = neighbour_graphs(z, label, self.k_intra, self.k_inter, self.sigma, self.search)
            signed = self._signed(intra, inter, size)
        if self.edges == "random":
            order = torch.randperm(size).to(signed.device)
            signed = signed[order][:, order]
        return (signed + signed.T) / 2

    def _signed(self, intra: Tensor, inter: Tensor, size: int) -> Tensor:
        """Averaged weights of M_I - M_B, or of M_I, from those of S^I and S^B of `size` images."""
        first, second = (
            max(size * min(k, max(size - 1, 1)) if self.average == "edges" else size**2, 1)
            for k in (self.k_intra, self.k_inter)
        )
        return intra / first - inter / second if self.graphs == "both" else intra / first

    @torch.no_grad()
    def over(self, transition: Tensor, features: Tensor, posterior: Tensor, label: Tensor) -> float:
        """M of a whole data set, edge by edge: memory grows like N (k + K^2), not like N^2. Its time does.

        Args:
            transition: T(x) of all images, (N, K, K).
            features: (N, D).
            posterior: (N, K).
            label: Noisy labels, (N,).

        Raises:
            BadInput: The form is "dense", which has N^2 edges.
        """
        if self.form == "dense":
            raise BadInput("manifold.form is 'dense', which has an edge for every pair: use knn for a whole data set")
        z = features if self.space == "features" else posterior
        tau = transition.flatten(1)
        if self.edges == "random":
            tau = tau[torch.randperm(len(tau)).to(tau.device)]
        total = 0.0
        for own, near, intra, inter in neighbour_edges(z, label, self.k_intra, self.k_inter, self.sigma, self.search):
            square = (tau[own, None] - tau[near]).square().sum(dim=2)
            total += float((self._signed(intra, inter, len(label)) * square).sum(dtype=torch.float64))
        return total


def neighbour_edges(
    z: Tensor, label: Tensor, k_intra: int, k_inter: int, sigma: float, search: Search = "batch"
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The edges of S^I and S^B, not averaged and not symmetrised, some rows of the graphs at a time.

    Args:
        z: (N, D).
        label: (N,).
        k_intra: Neighbours in S^I, the image itself excluded; where there are fewer, all of them.
        k_inter: The same in S^B.
        sigma: Width.
        search: As in `Manifold`.

    Yields:
        Rows i (n,), their neighbours j (n, m), S^I_ij and S^B_ij (n, m): 0 where the pair is not in that graph. With
        search "label" a j may stand twice in a row, once for each graph.
    """
    first, second = (min(k, max(len(z) - 1, 0)) for k in (k_intra, k_inter))
    for own in torch.arange(len(z), device=z.device).split(ROWS):
        away = _squared_distance(z[own], z).scatter(1, own[:, None], math.inf)
        same = label[own, None] == label
        if search == "batch":
            square, near = away.topk(max(first, second), dim=1, largest=False)
            agree, rank = same.gather(1, near), torch.arange(near.shape[1], device=z.device)
            intra, inter = agree & (rank < first), ~agree & (rank < second)
        else:
            found = [
                away.masked_fill(~right, math.inf).topk(k, dim=1, largest=False)
                for right, k in ((same, first), (~same, second))
            ]
            square, near = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
            intra = (torch.arange(near.shape[1], device=z.device) < first).expand_as(near)
            inter = ~intra
        weight = (-square / sigma**2).exp()  # 0 at the infinite distance of those with the wrong labels
        yield own, near, weight * intra, weight * inter


def neighbour_graphs(
    z: Tensor, label: Tensor, k_intra: int, k_inter: int, sigma: float, search: Search = "batch"
) -> tuple[Tensor, Tensor]:
    """S^I and S^B of a batch, (B, B) each; row i holds the neighbours of i. Arguments: `neighbour_edges`."""
    graphs = z.new_zeros(2, len(z), len(z))
    for own, near, *weights in neighbour_edges(z, label, k_intra, k_inter, sigma, search):
        for graph, weight in zip(graphs, weights, strict=True):
            graph[own] = graph[own].scatter_add(1, near, weight)
    return graphs[0], graphs[1]


def dense_affinity(posterior: Tensor, sigma: float) -> Tensor:
    """The released code's signed weights of all pairs, (B, B), not averaged."""
    square = _squared_distance(posterior, posterior)
    predicted = posterior.argmax(dim=1)
    sign = 2.0 * (predicted[:, None] == predicted[None, :]).float() - 1
    return sign * (-square / (2 * sigma**2)).exp()


def _squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """||a_i - b_j||^2 of (n, D) and (m, D), by differences: in inner products small distances drown in rounding."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist") ** 2


def manifold_term(transition: Tensor, affinity: Tensor) -> Tensor:
    """M = sum_ij S_ij ||T_i - T_j||_F^2 = 2 tr(tau^T L tau), for matrices (B, K, K) and a SYMMETRIC S (B, B)."""
    tau = transition.flatten(1)
    tau = tau - tau[:1].detach()  # L 1 = 0: it changes nothing but the rounding, which equal T_i then have none of
    laplacian = affinity.sum(dim=1)[:, None] * tau - affinity @ tau  # L tau; L itself is not needed
    return 2 * (tau * laplacian).sum()
