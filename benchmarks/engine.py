# SPDX-License-Identifier: Apache-2.0
"""What the training engine adds to a loop written by hand in PyTorch.

The promise is for steps of about half a millisecond: one thread, one process, 32-bit, no strategy. The other settings
are published without a promise. Everything is counted: the engine's start, its shuffling and its log.

    python benchmarks/engine.py [--steps 1500]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch
from _contract import measure, promise, publish
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from mien.engine import Method, Phase, Settings, Step, fit

BATCH, INPUTS, CLASSES, LIMIT = 32, 64, 10, 1.10
Batch = list[Tensor]


def network(width: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(INPUTS, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


class One(Method):
    """One network, one optimiser."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.networks = nn.ModuleList([network(width)])
        self.seen: list[Batch] | None = None

    def optimizers(self, phase: Phase) -> dict[str, Any]:
        return {str(i): torch.optim.SGD(n.parameters(), lr=0.01, momentum=0.9) for i, n in enumerate(self.networks)}

    def steps(self, batch: Batch) -> Iterator[Step]:
        if self.seen is not None:
            self.seen.append(batch)
        yield Step("0", self.first, batch)

    def first(self, batch: Batch) -> dict[str, Tensor]:
        return {"cross_entropy": F.cross_entropy(self.networks[0](batch[0]), batch[1])}


class Two(One):
    """Two networks, each with its own optimiser, updated in turn on every batch."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.networks.append(network(width))

    def steps(self, batch: Batch) -> Iterator[Step]:
        yield from super().steps(batch)
        yield Step("1", self.second, batch)

    def second(self, batch: Batch) -> dict[str, Tensor]:
        return {"cross_entropy": F.cross_entropy(self.networks[1](batch[0]), batch[1])}


def by_hand(count: int, width: int, batches: Any, clip: float | None) -> list[nn.Module]:
    networks = [network(width) for _ in range(count)]
    optimizers = [torch.optim.SGD(n.parameters(), lr=0.01, momentum=0.9) for n in networks]
    for x, y in batches:
        for n, optimizer in zip(networks, optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(n(x), y).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(n.parameters(), clip)
            optimizer.step()
    return networks


def contenders(kind: type[One], width: int, data: TensorDataset, clip: float | None) -> dict[str, Callable[[], Any]]:
    count = len(kind(width).networks)
    x, y = data.tensors

    def engine() -> One:
        method = kind(width)
        fit(method, data, settings=Settings(batch_size=BATCH, device="cpu", clip=clip))
        return method

    def hand() -> list[nn.Module]:
        return by_hand(count, width, DataLoader(data, batch_size=BATCH, shuffle=True), clip)

    def indexed() -> list[nn.Module]:
        order = torch.randperm(len(data)).split(BATCH)
        return by_hand(count, width, ((x[rows], y[rows]) for rows in order), clip)

    return {"hand, DataLoader": hand, "hand, indexed tensors": indexed, "engine": engine}


def difference(kind: type[One], width: int, data: TensorDataset, clip: float | None) -> float:
    """Largest difference of the final weights when the loop by hand gets the batches that the engine drew."""
    method = kind(width)
    method.seen = []
    fit(method, data, settings=Settings(batch_size=BATCH, device="cpu", clip=clip))
    assert len(method.seen) == len(data) // BATCH
    twins = by_hand(len(method.networks), width, method.seen, clip)
    pairs = zip(method.networks.parameters(), nn.ModuleList(twins).parameters(), strict=True)
    return max(float((ours - theirs).detach().abs().max()) for ours, theirs in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="steps of a run")
    steps = parser.parse_args().steps
    generator = torch.Generator().manual_seed(0)
    rows = steps * BATCH
    data = TensorDataset(
        torch.randn(rows, INPUTS, generator=generator), torch.randint(CLASSES, (rows,), generator=generator)
    )
    short = TensorDataset(*(tensor[: 40 * BATCH] for tensor in data.tensors))
    settings: dict[str, tuple[type[One], int, float | None, int]] = {
        "half a millisecond": (One, 150, None, 1),
        "as fast as a step can be": (One, 8, None, 1),
        "two optimisers": (Two, 150, None, 1),
        "gradient clipping": (One, 150, 1.0, 1),
        "two threads": (One, 150, None, 2),
    }
    equal, timing, promises = {}, {}, []
    for name, (kind, width, clip, threads) in settings.items():
        torch.set_num_threads(threads)
        equal[name] = difference(kind, width, short, clip)
        assert equal[name] <= 1e-6, (name, equal[name])
        runs = contenders(kind, width, data, clip)
        timing[name] = measure(runs, over="hand, DataLoader", repeats=9, items=steps, memory=name.startswith("half"))
        timing[name] |= {"width": width, "clip": clip, "torch_threads": threads}
        table = timing[name]["contenders"]
        own, ratio = table["hand, DataLoader"]["wall_ms"]["median"], table["engine"]["ratio"]
        print(f"{name}: by hand {own:.3f} ms a step, engine x {ratio['median']} ({ratio['q1']} to {ratio['q3']})")
        if name == "half a millisecond":
            promises.append(promise(f"engine over a hand-written loop at {own:.2f} ms a step", ratio["median"], LIMIT))
    publish(
        "engine",
        promises=promises,
        equal={"largest difference of final weights on the same 40 batches": equal},
        batch_size=BATCH,
        timing=timing,
    )


if __name__ == "__main__":
    main()
