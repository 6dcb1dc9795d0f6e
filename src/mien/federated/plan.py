# SPDX-License-Identifier: Apache-2.0
"""How a method is trained over clients, as plain data: who holds what, how many train, what is averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from mien.engine import Rounds, Schedule, Single
from mien.errors import BadInput

Partition = Literal["kind", "folder", "labels", "even"]
Regime = Literal["fedavg", "local", "central"]
Norms = Literal["average", "statistics", "local"]


@dataclass(frozen=True)
class Federated:
    """Clients and rounds.

    Args:
        regime: "fedavg" averages the clients' weights after every round; "local" trains client `alone` on its own data
            only; "central" pools all data. All three make the same number of passes over the data.
        partition: "kind" gives each client one kind of forgery and persons of its own; "folder" takes every folder in
            the data as a client; "labels" skews the shares of real and forged; "even" deals persons, all kinds alike.
        clients: How many; None for one per kind or folder, else 10. Folders are as many as there are.
        shares: With "even", the part of the data that each client holds; None for equal parts.
        concentration: With "labels", of the Dirichlet distribution, above 0; small values are skewed.
        fraction: Share of the clients that train in a round, in (0, 1].
        local_epochs: Passes of a client over its own data in a round.
        patience: Rounds without a better validation AUC after which training ends; None for never.
        weighting: Whether a client counts by its number of samples in the average, or like every other.
        norms: Batch normalisation: "average" averages all of it, as the paper does; "statistics" leaves running means
            and variances with the client; "local" leaves its affine weights there, too (FedBN, Li et al., 2021).
        alone: With "local", the client that trains, from 0.

    Raises:
        BadInput: For a value outside its range.
    """

    regime: Regime = "fedavg"
    partition: Partition = "kind"
    clients: int | None = None
    shares: tuple[float, ...] | None = None
    concentration: float = 0.5
    fraction: float = 1.0
    local_epochs: int = 10
    patience: int | None = 10
    weighting: Literal["samples", "uniform"] = "samples"
    norms: Norms = "average"
    alone: int = 0

    def __post_init__(self) -> None:
        if self.shares is not None:
            object.__setattr__(self, "shares", tuple(self.shares))  # a list where it comes from JSON
        for name, allowed in (
            ("regime", ("fedavg", "local", "central")),
            ("partition", ("kind", "folder", "labels", "even")),
            ("weighting", ("samples", "uniform")),
            ("norms", ("average", "statistics", "local")),
        ):
            if getattr(self, name) not in allowed:
                raise BadInput(f"federated.{name} is {getattr(self, name)!r}: use {', '.join(allowed)}")
        if self.clients is not None and self.clients < 1:
            raise BadInput(f"federated.clients is {self.clients}: it must be at least 1, or left out")
        if self.clients is not None and self.partition == "folder":
            raise BadInput("federated.clients is set and partition is 'folder': folders are as many as there are")
        if self.shares is not None and self.partition != "even":
            raise BadInput(f"federated.shares is set and partition is {self.partition!r}: only 'even' takes shares")
        if not 0 < self.fraction <= 1:
            raise BadInput(f"federated.fraction is {self.fraction}: it must lie in (0, 1]")
        if not self.concentration > 0:
            raise BadInput(f"federated.concentration is {self.concentration}: it must be above 0")
        if self.local_epochs < 1 or (self.patience is not None and self.patience < 1):
            raise BadInput(
                f"federated.local_epochs is {self.local_epochs} and patience {self.patience}: both must be at least 1"
            )
        if self.alone < 0:
            raise BadInput(f"federated.alone is {self.alone}: it must be 0 or more")

    @property
    def count(self) -> int:
        """How many clients, where neither kinds nor folders say so. The paper's number is 10."""
        if self.clients is not None:
            return self.clients
        return len(self.shares) if self.shares is not None else 10

    def schedule(self, rounds: int, clients: int) -> Schedule:
        """The phases of `rounds` rounds with `clients` clients; of the other regimes, as many passes over the data.

        Raises:
            BadInput: `alone` is no client.
        """
        if self.regime == "local" and self.alone >= clients:
            raise BadInput(f"federated.alone is {self.alone}: the clients are numbered 0 to {clients - 1}")
        if self.regime != "fedavg":
            return Single(rounds * self.local_epochs)
        return Rounds(
            rounds,
            clients,
            fraction=self.fraction,
            epochs=self.local_epochs,
            patience=self.patience,
            metric="auc",
            higher_is_better=True,
            weighting=self.weighting,
        )

    def personal(self, module: nn.Module) -> tuple[str, ...]:
        """Names of the state of `module` that stays with a client, by the batch-norm policy."""
        return () if self.norms == "average" else norm_names(module, statistics_only=self.norms == "statistics")


def norm_names(module: nn.Module, *, statistics_only: bool = False) -> tuple[str, ...]:
    """State names of all batch normalisations in `module`: running statistics, and affine weights unless left out.

    >>> norm_names(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), statistics_only=True)
    ('1.running_mean', '1.running_var', '1.num_batches_tracked')
    """
    names = []
    for prefix, child in module.named_modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            own = [name for name, _ in child.named_parameters(recurse=False)] if not statistics_only else []
            own += [name for name, _ in child.named_buffers(recurse=False)]
            names += [f"{prefix}.{name}" if prefix else name for name in own]
    return tuple(names)
