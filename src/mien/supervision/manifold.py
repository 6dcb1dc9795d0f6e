# SPDX-License-Identifier: Apache-2.0
"""Near images have near transition matrices, and near images with different labels have different ones.

    S^I_ij = exp(-||z_i - z_j||^2 / sigma^2)  if j is one of the k1 nearest of i and their labels agree, else 0
    S^B_ij = the same for the k2 nearest whose labels differ
    M = sum_ij S^I_ij ||T_i - T_j||_F^2 - sum_ij S^B_ij ||T_i - T_j||_F^2

With both graphs in one signed matrix S, symmetrised, this is 2 tr(tau^T L tau), L = diag(S 1) - S, tau the flattened
T_i: B^2 K^2 operations, no B x B x K^2 differences. A kNN graph is directed; without (S + S^T) / 2 the identity fails.

Affinities are constants: no gradient flows through them. B is a batch; nothing here is as large as the data squared.
"""

from __future__ import annotations

import math
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
            signed = self._graph(z, label, self.k_intra, agree=True)
            if self.graphs == "both":
                signed = signed - self._graph(z, label, self.k_inter, agree=False)
        if self.edges == "random":
            order = torch.randperm(size).to(signed.device)
            signed = signed[order][:, order]
        return (signed + signed.T) / 2

    def _graph(self, z: Tensor, label: Tensor, k: int, agree: bool) -> Tensor:
        size = len(label)
        edges = size * min(k, max(size - 1, 1)) if self.average == "edges" else size**2
        return neighbour_affinity(z, label, k, self.sigma, agree=agree, search=self.search) / max(edges, 1)


def neighbour_affinity(
    z: Tensor, label: Tensor, k: int, sigma: float, *, agree: bool, search: Search = "batch"
) -> Tensor:
    """S^I (`agree`) or S^B (not), (B, B), not averaged and not symmetrised; row i holds the neighbours of i.

    Args:
        z: (B, D).
        label: (B,).
        k: Neighbours, i itself excluded; where there are fewer, all of them.
        sigma: Width.
        agree: Whether an edge needs equal labels, or different ones.
        search: As in `Manifold`.
    """
    size = len(z)
    square = _squared_distance(z)
    right = (label[:, None] == label[None, :]) == agree
    right.fill_diagonal_(False)
    away = square.masked_fill(torch.eye(size, dtype=torch.bool, device=z.device), math.inf)
    if search == "label":
        away = away.masked_fill(~right, math.inf)
    nearest = away.topk(min(k, max(size - 1, 0)), dim=1, largest=False).indices
    chosen = torch.zeros_like(right).scatter_(1, nearest, True) & right
    return (-square / sigma**2).exp() * chosen


def dense_affinity(posterior: Tensor, sigma: float) -> Tensor:
    """The released code's signed weights of all pairs, (B, B), not averaged."""
    square = _squared_distance(posterior)
    predicted = posterior.argmax(dim=1)
    sign = 2.0 * (predicted[:, None] == predicted[None, :]).float() - 1
    return sign * (-square / (2 * sigma**2)).exp()


def _squared_distance(z: Tensor) -> Tensor:
    """||z_i - z_j||^2 of (B, D) by differences; by inner products, small distances would drown in rounding."""
    return torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist") ** 2


def manifold_term(transition: Tensor, affinity: Tensor) -> Tensor:
    """M = sum_ij S_ij ||T_i - T_j||_F^2 = 2 tr(tau^T L tau), for matrices (B, K, K) and a SYMMETRIC S (B, B)."""
    tau = transition.flatten(1)
    tau = tau - tau[:1].detach()  # L 1 = 0: it changes nothing but the rounding, which equal T_i then have none of
    laplacian = affinity.sum(dim=1)[:, None] * tau - affinity @ tau  # L tau; L itself is not needed
    return 2 * (tau * laplacian).sum()
