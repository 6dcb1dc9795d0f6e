# SPDX-License-Identifier: Apache-2.0
"""What a federated round adds to the local training of its clients.

ResNet-18 at 32 x 32, 20 local steps for each of 10 and of 100 clients, on one thread. In the round, the state of every
client is loaded before it trains and handed in afterwards, and all are averaged. The sum of local training is the same
steps, by the same engine, one client after another, with nothing loaded, handed in or averaged.

Times are of whole rounds, so each is long; they take turns, and the ratio is taken within a turn. Flower's average of
the same states is timed beside ours where Flower is installed.

    python benchmarks/federation.py [--clients 10 100] [--steps 20]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from _contract import measure, promise, publish
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from mien.engine import Method, PerTask, Phase, Rounds, Settings, fit
from mien.engine.clients import train_phase
from mien.engine.federation import Federation, average_states

BATCH, SIDE, CLASSES, LIMIT = 32, 32, 2, 1.05


class Resnet(Method):
    """timm's ResNet-18 with cross-entropy and the paper's SGD."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        torch.manual_seed(0)
        self.network = timm.create_model("resnet18", num_classes=CLASSES)

    def losses(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"cross_entropy": F.cross_entropy(self.network(batch[0]), batch[1])}

    def optimizers(self, phase: Phase) -> dict[str, Any]:
        return {"main": torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.5)}


def clients(count: int, steps: int) -> list[Dataset[Any]]:
    """Noise; a client's images are drawn once and shared with the others by view, so that memory does not grow."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(steps * BATCH, 3, SIDE, SIDE, generator=generator)
    return [
        TensorDataset(image, torch.randint(CLASSES, (len(image),), generator=torch.Generator().manual_seed(client)))
        for client in range(count)
    ]


def contenders(count: int, steps: int, method: Method) -> dict[str, Callable[[], Any]]:
    data, settings = clients(count, steps), Settings(batch_size=BATCH, device="cpu", max_steps=steps)

    def alone() -> None:
        for client in range(count):
            train_phase(method, data[client], Phase(index=client, round=0, client=client), settings)

    def together() -> None:
        fit(method, PerTask(data), schedule=Rounds(1, clients=count), settings=settings)

    return {"sum of local training": alone, "round": together}


def difference(steps: int) -> float:
    """Largest difference between a round and the same made of its parts by hand."""
    data, settings = clients(3, steps), Settings(batch_size=BATCH, device="cpu", max_steps=steps)
    together = Resnet()
    fit(together, PerTask(data), schedule=Rounds(1, clients=3), settings=settings)
    states = []
    for client in range(3):
        method = Resnet()
        train_phase(method, data[client], Phase(index=client, round=0, client=client), settings)
        states.append(method.state_dict())
    return max(
        float((value.double() - sum(s[name].double() for s in states) / 3).abs().max())
        for name, value in together.state_dict().items()
        if value.is_floating_point()
    )


def averaging(count: int) -> dict[str, Any]:
    """Averaging `count` states alone: ours, and Flower's where it is installed."""
    state = {name: value for name, value in Resnet().state_dict().items() if value.is_floating_point()}
    states = [{name: value + 0.01 * client for name, value in state.items()} for client in range(count)]

    def ours() -> dict[str, Any]:
        federation = Federation()
        federation.start(state)
        for client, own in enumerate(states):
            federation.receive(client, own, 100)
        federation.close_round()
        return federation.shared

    found: dict[str, Callable[[], Any]] = {"ours": ours}
    with suppress(ImportError):
        import os

        os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
        from flwr.server.strategy.aggregate import aggregate

        arrays = [([value.numpy() for value in own.values()], 100) for own in states]
        mean = average_states(states, [100.0] * count)
        assert all(
            abs(theirs - mine.numpy()).max() < 1e-5
            for theirs, mine in zip(aggregate(arrays), mean.values(), strict=True)
        )
        found["Flower"] = lambda: aggregate(arrays)
    return measure(found, over="Flower" if "Flower" in found else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 100], help="clients of a round")
    parser.add_argument("--steps", type=int, default=20, help="local steps of a client")
    given = parser.parse_args()
    torch.set_num_threads(1)
    off = difference(2)
    assert off < 1e-6, off
    timing, promises = {}, []
    for count in given.clients:
        found = measure(
            contenders(count, given.steps, Resnet()),
            over="sum of local training",
            warm_up=1 if count <= 10 else 0,  # a round of 100 is its own warm-up but for its first client
            items=count,
            memory=count <= 10,
        )
        timing[f"{count} clients"] = found
        for clock in ("ratio", "cpu_ratio"):
            value = found["contenders"]["round"][clock]["median"]
            what = "CPU" if clock.startswith("cpu") else "wall"
            promises.append(promise(f"a round of {count} clients over its local training, {what}", value, LIMIT))
    publish(
        "federation",
        promises=promises,
        equal={"largest difference of a round from its parts by hand": off},
        network="resnet18 of timm, 2 classes, 32 x 32, batch 32",
        local_steps=given.steps,
        timing=timing,
        averaging_of_10_states=averaging(10),
    )


if __name__ == "__main__":
    main()
