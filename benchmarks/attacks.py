# SPDX-License-Identifier: Apache-2.0
"""PGD-50 against a plain loop that keeps the worst iterate, from the same start.

A robust accuracy asks only which images can be misclassified, so `PGD(drop_fooled=True)` lets an image go as soon as it
is; the plain loop carries all images to the end. The networks learn scikit-learn's digits at 64 x 64 pixels, in the end
against short attacks, as networks do whose robust accuracy is asked for. Then a budget is searched for at which half of
the images are robust, and one at which all are, where nothing can be saved.

    python benchmarks/attacks.py [--threads 1 2]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from _contract import measure, promise, publish
from torch import Tensor
from torch.nn import functional as F

from mien.attacks import PGD
from mien.attacks.ball import drawn
from mien.attacks.probe import answers
from mien.classification.data import read
from mien.data.images import resize_tensor
from mien.nn.network import Classifier, Network

IMAGES, SIZE, STEPS, EPS = 32, 64, 50, 0.1
REPEATS = 9
"""Where nothing can be dropped the contenders do nearly the same work, which five turns cannot tell apart."""
NETWORKS = ("tiny_cnn", "tiny_vit")
HALF_LIMIT, ALL_LIMIT, TOLERANCE = 1.5, 1.0, 1e-10
LEAST_ACCURACY = 0.8
"""Of a network on the test images: one that always says the same cannot be fooled, and would measure nothing."""


def digits(part: str) -> tuple[Tensor, Tensor]:
    found = read("embedded", part)  # type: ignore[arg-type]
    assert isinstance(found.images, Tensor)
    return resize_tensor(found.images.float() / 255, SIZE).clamp(0, 1), found.label


def trained(name: str, steps: int) -> Classifier:
    torch.manual_seed(0)
    network = Network(name).build(10, SIZE).train()
    image, label = digits("train")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        rows = torch.randint(len(label), (32,), generator=generator)
        eps = EPS * max(step / steps - 0.6, 0) / 0.4  # against the whole budget a transformer would learn nothing
        attacked = image[rows]
        if eps:
            attack = PGD(eps, 2, 0.8 * eps, keep="last", mode="train")
            attacked = attack(network, attacked, label[rows], generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(network(attacked), label[rows]).backward()
        optimizer.step()
    return network.eval()


def plain(network: Classifier, image: Tensor, label: Tensor, start: Tensor, eps: float) -> Tensor:
    """All images for all steps; of each the worst iterate: misclassified first, then by the loss."""
    x, worst = start, start
    worst_loss = torch.full_like(label, -torch.inf, dtype=image.dtype)
    worst_fooled = torch.zeros_like(label, dtype=torch.bool)
    for step in range(STEPS + 1):
        x = x.detach().requires_grad_(step < STEPS)
        logits = network(x)
        loss = F.cross_entropy(logits, label, reduction="none")
        with torch.no_grad():
            fooled = logits.argmax(dim=1) != label
            worse = (fooled & ~worst_fooled) | ((fooled == worst_fooled) & (loss > worst_loss))
            worst = torch.where(worse[:, None, None, None], x, worst)
            worst_loss, worst_fooled = torch.where(worse, loss, worst_loss), torch.where(worse, fooled, worst_fooled)
        if step < STEPS:
            (gradient,) = torch.autograd.grad(loss.sum(), x)
            with torch.no_grad():
                x = x + eps / 4 * gradient.sign()
                x = (image + (x - image).clamp_(-eps, eps)).clamp_(0, 1)
    return worst.detach()


def started(image: Tensor, eps: float) -> Tensor:
    return drawn(image, eps, "linf", torch.Generator().manual_seed(1))


def dropping(network: Classifier, image: Tensor, label: Tensor, start: Tensor, eps: float) -> Tensor:
    return PGD(eps, STEPS, drop_fooled=True)(network, image, label, start=start)


def whole(network: Classifier, image: Tensor, label: Tensor, start: Tensor, eps: float) -> Tensor:
    return PGD(eps, STEPS)(network, image, label, start=start)


def robust(network: Classifier, image: Tensor, label: Tensor, eps: float) -> Tensor:
    return answers(network, dropping(network, image, label, started(image, eps), eps)) == label


def budget(network: Classifier, image: Tensor, label: Tensor, share: float) -> float:
    """A budget at which about `share` of the images are robust, by bisection; for 1, the half of the largest such."""
    low, high = 0.0, 0.5
    for _ in range(9):
        middle = (low + high) / 2
        if float(robust(network, image, label, middle).double().mean()) >= share:
            low = middle
        else:
            high = middle
    return low / 2 if share == 1 else low


def equal_output(network: Classifier, image: Tensor, label: Tensor, eps: float) -> dict[str, float]:
    """Who is fooled by each, and how far the images that all keep are apart, in float64."""
    network, image = network.double(), image.double()
    start = started(image, eps)
    reference = plain(network, image, label, start, eps)
    kept = whole(network, image, label, start, eps)
    right = {
        name: answers(network, found) == label
        for name, found in {
            "plain": reference,
            "whole": kept,
            "dropping": dropping(network, image, label, start, eps),
        }.items()
    }
    network.float()
    assert torch.equal(right["plain"], right["dropping"]), "dropping fooled images changed who is fooled"
    assert torch.equal(right["plain"], right["whole"])
    difference = float((reference - kept).abs().max())
    assert difference <= TOLERANCE, difference
    return {"robust accuracy of each": float(right["plain"].double().mean()), "largest difference": difference}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--train-steps", type=int, default=1000, help="of each network, before it is attacked")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads[0])
    tested, labels = digits("test")
    equal, timing, promises, networks = {}, {}, [], {}
    for name in options.networks:
        network = trained(name, options.train_steps)
        right = answers(network, tested) == labels
        accuracy = float(right.double().mean())
        assert accuracy >= LEAST_ACCURACY, f"{name} is right on {accuracy:.2f} of the test images: train longer"
        right = right.nonzero()[:IMAGES, 0]
        image, label = tested[right], labels[right]
        for case, share, limit in (("half robust", 0.5, HALF_LIMIT), ("all robust", 1.0, ALL_LIMIT)):
            eps = budget(network, image, label, share)
            where = f"{name}, {case}"
            equal[where] = equal_output(network, image, label, eps) | {"eps": eps}
            start = started(image, eps)
            runs: dict[str, Callable[[], Tensor]] = {
                "fooled images dropped": partial(dropping, network, image, label, start, eps),
                "plain loop": partial(plain, network, image, label, start, eps),
            }
            shares = {run: float((answers(network, go()) == label).double().mean()) for run, go in runs.items()}
            assert len(set(shares.values())) == 1, f"{where}: robust accuracies {shares}"
            equal[where]["robust accuracy, 32 bit"] = shares["plain loop"]
            for threads in options.threads:
                torch.set_num_threads(threads)
                first = threads == options.threads[0]
                found = measure(runs, over="fooled images dropped", repeats=REPEATS, items=STEPS, memory=first)
                timing[f"{where}, {threads} threads"] = found
                ratio = found["contenders"]["plain loop"]["ratio"]["median"]
                what = f"plain loop over dropping, {where}, {threads} threads"
                promises.append(promise(what, ratio, limit, at_least=True))
            torch.set_num_threads(options.threads[0])
        networks[name] = sum(p.numel() for p in network.parameters())
    publish(
        "attacks",
        promises=promises,
        equal=equal,
        attack=f"PGD-{STEPS}, L-inf, steps of eps / 4",
        images=[IMAGES, 3, SIZE, SIZE],
        weights=networks,
        trained_on=f"scikit-learn's digits at 64 x 64 pixels; in the last two fifths against PGD-2 at up to {EPS}",
        timing=timing,
    )


if __name__ == "__main__":
    main()
