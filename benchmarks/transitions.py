# SPDX-License-Identifier: Apache-2.0
"""Estimating the transition matrices of 50,000 images in 10 classes, with no N x N matrix anywhere.

What MDIT does beside its classifier, from posteriors and features that are given: find the confident images, make one
pass of updates of the transition network on R + lambda M, read off the row of every image, and, for the reader, M over
the whole data set. The dense way keeps one N x N affinity of all images, as the graph Laplacian is usually written; it
is run as far as it fits, and must give the same M.

    python benchmarks/transitions.py [--sizes 2000 4000 50000]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from _contract import measure, peak_memory, promise, publish
from torch import Tensor

from mien.supervision.manifold import Manifold, manifold_term
from mien.supervision.mdit import Extraction
from mien.supervision.noise import instance_dependent
from mien.supervision.transition import (
    TransitionNetwork,
    forward_risk,
    noisy_posterior,
    rows_of,
    transition_error,
)

SIZES = (2000, 4000, 50_000)
DENSE_UP_TO = 4000
"""Beyond, the dense way's N x N matrices, of which it holds several at a time, would not fit under the limit."""
CLASSES, DIMENSIONS, BATCH, LARGEST, MOST_MEMORY_MB = 10, 64, 128, 50_000, 1024.0
WHOLE = "the whole estimate"
TERM = Manifold(sigma=8.0)
"""A width at which the nearest of these random features have affinities of about 0.2."""


class World:
    """Images as a trained classifier sees them: a centre for each class, noisy labels, posteriors between the two."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.truth = torch.randint(0, CLASSES, (count,), generator=generator)
        centre = 2 * torch.randn(CLASSES, DIMENSIONS, generator=generator)
        self.features = centre[self.truth] + torch.randn(count, DIMENSIONS, generator=generator)
        self.posterior = (-torch.cdist(self.features, centre) / 2).softmax(dim=1)
        pixels = (64 + 32 * self.features).split(1024)
        self.label, self.rows = instance_dependent(pixels, self.truth, CLASSES, 0.3, generator)


def updated(world: World, batches: int | None = None) -> TransitionNetwork:
    """The transition network after a pass of updates over the confident images."""
    network = TransitionNetwork(CLASSES)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(1)
    chosen = Extraction().of(world.posterior, generator)
    chosen = chosen[torch.randperm(len(chosen), generator=generator)]
    for rows in chosen.split(BATCH)[:batches]:
        p, label = world.posterior[rows], world.label[rows]
        transition = network(p)
        affinity = TERM.affinity(world.features[rows], p, label)
        loss = forward_risk(noisy_posterior(p, transition), label)
        optimizer.zero_grad()
        (loss + TERM.weight * manifold_term(transition, affinity)).backward()
        optimizer.step()
    return network


@torch.no_grad()
def true_rows(network: TransitionNetwork, world: World) -> Tensor:
    """The estimated rows of the true classes, (N, K); 1024 matrices at a time."""
    pairs = zip(world.posterior.split(1024), world.truth.split(1024), strict=True)
    return torch.cat([rows_of(network(p), y) for p, y in pairs])


@torch.no_grad()
def smoothness(network: TransitionNetwork, world: World) -> float:
    """M over all images, edge by edge; in float64, since the trace form of the dense way needs it."""
    return TERM.over(network(world.posterior).double(), world.features, world.posterior, world.label)


@torch.no_grad()
def dense_smoothness(network: TransitionNetwork, world: World) -> float:
    """M over all images, as the definition reads: all distances, a mask, one N x N affinity, its trace form."""
    return float(manifold_term(network(world.posterior).double(), dense_affinity(world).double()))


def dense_affinity(world: World) -> Tensor:
    """The signed, averaged, symmetric S of all images, (N, N)."""
    count, z = len(world.label), world.features
    square = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    near = square.clone().fill_diagonal_(torch.inf).topk(TERM.k_intra, dim=1, largest=False).indices
    mask = torch.zeros(count, count, dtype=torch.bool).scatter_(1, near, True)
    sign = torch.where(world.label[:, None] == world.label, 1.0, -1.0)  # k is the same in both graphs
    signed = mask * sign * (-square / TERM.sigma**2).exp() / (count * TERM.k_intra)
    return (signed + signed.T) / 2


def everything(world: World) -> float:
    """The whole estimate: what the figures are about."""
    network = updated(world)
    true_rows(network, world)
    return smoothness(network, world)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    sizes = parser.parse_args().sizes
    torch.set_num_threads(1)

    world = World(min(*sizes, DENSE_UP_TO))
    network = updated(world)
    ours, theirs = smoothness(network, world), dense_smoothness(network, world)
    affinity = TERM.affinity(world.features, world.posterior, world.label)
    equal = {
        "M, edge by edge against dense, relative": abs(ours - theirs) / abs(theirs),
        "affinity of all images as one batch, relative": float(
            (affinity - dense_affinity(world)).abs().max() / affinity.abs().max()
        ),
    }
    assert max(equal.values()) < 1e-4, equal

    results: dict[str, Any] = {}
    promises = []
    for count in sizes:
        world = World(count)
        network = updated(world)
        contenders: dict[str, Callable[[], Any]] = {WHOLE: partial(everything, world)}
        if count <= DENSE_UP_TO:
            contenders |= {
                "its updates": partial(updated, world),
                "its rows of all images": partial(true_rows, network, world),
                "its M of all images": partial(smoothness, network, world),
                "M of all images, dense N x N": partial(dense_smoothness, network, world),
            }
        timing = measure(contenders, over=WHOLE)
        identity = torch.nn.functional.one_hot(world.truth, CLASSES).float()
        results[str(count)] = {
            **timing,
            "one N x N matrix, MB": round(4 * count**2 / 2**20, 1),
            "error of T": transition_error(true_rows(network, world), world.rows),
            "error of the identity": transition_error(identity, world.rows),
        }
        peak = timing["contenders"][WHOLE]["peak_memory_added_mb"]
        if count == LARGEST and peak is not None:
            promises.append(promise(f"memory added, {count} images, MB", peak, MOST_MEMORY_MB))
            promises.append(promise(f"memory of the process, {count} images, MB", peak_memory(), MOST_MEMORY_MB))
        for name, row in timing["contenders"].items():
            print(f"{count} images: {name}: {row['wall_ms']['median']:.0f} ms, {row['peak_memory_added_mb']} MB")
    publish("transitions", promises=promises, equal=equal, classes=CLASSES, batch=BATCH, sizes=results)


if __name__ == "__main__":
    main()
