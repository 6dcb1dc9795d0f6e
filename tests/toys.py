# SPDX-License-Identifier: Apache-2.0
"""One small method per shape of training, about 30 lines each: they prove the engine, not themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import Dataset

from mien.engine import EMA, Epoch, Method, PerTask, Rounds, Settings, Single, Stages, Step, Tasks
from mien.optim.closures import GradientAligned, SharpnessAware


@dataclass
class Point:
    x: Tensor
    y: Tensor | int


class Points(Dataset):
    """Two Gaussian classes in 6 dimensions; `noise` draws chance per sample, from the global generator."""

    def __init__(self, size: int = 48, seed: int = 0, noise: float = 0.0, classes: tuple[int, ...] = (0, 1)) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.y = torch.tensor(classes)[torch.arange(size) % len(classes)]
        centres = torch.randn(8, 6, generator=torch.Generator().manual_seed(99))
        self.x = torch.randn(size, 6, generator=generator) + centres[self.y]
        self.noise = noise
        self.seeded = noise > 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Point:
        noise = self.noise * torch.randn(6) if self.seeded else 0.0  # without a seed of its own a sample draws nothing
        return Point(self.x[index] + noise, int(self.y[index]))


def network(outputs: int = 2, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(7)
    middle: list[nn.Module] = [nn.BatchNorm1d(8)] if norm else []
    return nn.Sequential(nn.Linear(6, 8), *middle, nn.Tanh(), nn.Linear(8, outputs))


class Plain(Method):
    """One optimiser; dropout draws from the global generator."""

    name = "toy-plain"

    def __init__(self, dropout: float = 0.0, norm: bool = False, nan_at: int = -1) -> None:
        super().__init__()
        self.dropout, self.norm, self.nan_at = dropout, norm, nan_at
        self.network = network(norm=norm)
        self.calls = 0

    def losses(self, batch):
        self.calls += 1
        logits = self.network(F.dropout(batch.x, self.dropout, self.training))
        scale = float("nan") if self.calls == self.nan_at else 1.0
        return {"ce": F.cross_entropy(logits, batch.y) * scale, "l2": 0.01 * self.network[0].weight.square().sum()}

    def optimizers(self, phase):
        optimizer = Adam(self.parameters(), lr=0.01)
        return {"main": (optimizer, CosineAnnealingLR(optimizer, phase.total_steps))}

    def predict(self, batch):
        return self.network(batch.x).softmax(dim=1)


class Two(Method):
    """Two optimisers against each other, the second on detached output of the first."""

    name = "toy-two"

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.critic = network(6), network(1)

    def steps(self, batch):
        yield Step("critic", self.critic_losses, batch)
        yield Step("generator", self.generator_losses, batch)

    def critic_losses(self, batch):
        return {
            "critic": F.softplus(-self.critic(batch.x)).mean()
            + F.softplus(self.critic(self.generator(batch.x).detach())).mean()
        }

    def generator_losses(self, batch):
        fake = self.generator(batch.x)
        return {"fool": F.softplus(-self.critic(fake)).mean(), "near": F.mse_loss(fake, batch.x)}

    def optimizers(self, phase):
        return {
            "generator": Adam(self.generator.parameters(), 0.01),
            "critic": SGD(self.critic.parameters(), 0.05, 0.9),
        }


class Relabelled(Method):
    """New labels before every epoch from the present network, with a memory bank, a selection and its own order."""

    name = "toy-relabelled"
    dynamic_buffers: ClassVar = ("bank",)

    def __init__(self, own_order: bool = True) -> None:
        super().__init__()
        self.own_order = own_order
        self.network = network()
        self.register_buffer("bank", torch.zeros(0, 6))
        self._seen = None

    def begin_epoch(self, epoch, data):
        scores = self.network(data.x)[:, 0]
        labels = (scores > scores.median()).long()
        chosen = torch.randperm(len(data))[: 40 - epoch]  # draws from the global generator
        self.bank = torch.zeros(2 + epoch, 6)
        order = chosen[:36].reshape(-1, 4) if self.own_order else None
        return Epoch(fields={"y": labels}, indices=chosen, order=order)

    def losses(self, batch):
        self._seen = batch.x
        pull = (self.network[0](batch.x) * self.network[0](self.bank).mean(0)).mean()
        return {"ce": F.cross_entropy(self.network(batch.x), batch.y), "pull": 0.1 * pull}

    def after_step(self):
        seen = self.gather(self._seen)
        self.bank = torch.cat([self.bank, seen])[-len(self.bank) :]

    def optimizers(self, phase):
        return {"main": SGD(self.parameters(), lr=0.05, momentum=0.9)}


class Growing(Method):
    """A head per task; old heads are frozen, and statistics of the task are kept in a buffer."""

    name = "toy-growing"

    def __init__(self) -> None:
        super().__init__()
        self.body = network(5)
        self.heads = nn.ModuleList()
        self.register_buffer("mean", torch.zeros(6))

    def build_phase(self, phase):
        for head in self.heads:
            head.requires_grad_(False)
        self.heads.append(nn.Linear(5, 2))

    def begin_phase(self, phase, data):
        self.mean += data.x.mean(0)
        self.session.log("mean", self.mean.mean())
        nn.init.normal_(self.heads[-1].weight)

    def losses(self, batch):
        return {"ce": F.cross_entropy(self.heads[-1](self.body(batch.x - self.mean)), batch.y % 2)}

    def end_phase(self, phase, data):
        self.heads[-1].weight.mul_(0.5)

    def optimizers(self, phase):
        return {"main": SGD([p for p in self.parameters() if p.requires_grad], lr=0.05, momentum=0.9)}


class Client(Plain):
    """A federated client: the last layer stays with it. A client whose data are marked broken throws."""

    name = "toy-client"
    personal: ClassVar = ("network.2.*",)

    def optimizers(self, phase):
        return {"main": SGD(self.parameters(), lr=0.05, momentum=0.9)}


class Sharp(Plain):
    """Sharpness-aware steps."""

    name = "toy-sharp"

    def optimizers(self, phase):
        return {"main": SharpnessAware(SGD(self.parameters(), lr=0.05, momentum=0.9), rho=0.1)}


class Aligned(Plain):
    """Two groups of samples by class; the loss of a group is a mean over the group on all ranks."""

    name = "toy-aligned"

    def steps(self, batch):
        order = torch.randperm(2, generator=self.session.shared_generator())
        groups = [Point(batch.x[batch.y == c], batch.y[batch.y == c]) for c in order]
        yield Step("main", self.losses, *groups)

    def losses(self, batch):
        count = self.gather(torch.ones(len(batch.y))).sum() / self.session.world_size  # shares of a group differ
        return {"ce": F.cross_entropy(self.network(batch.x), batch.y, reduction="sum") / count.clamp(min=1)}

    def optimizers(self, phase):
        return {"main": GradientAligned(SGD(self.parameters(), lr=0.05), rho_max=0.3, seed=3)}


class Bank(Method):
    """A loss against a memory bank that every rank fills with the features of all."""

    name = "toy-bank"

    def __init__(self) -> None:
        super().__init__()
        self.network = network(4)
        self.register_buffer("memory", torch.eye(2, 4))
        self._stash: list = []

    def losses(self, batch):
        features = F.normalize(self.network(batch.x), dim=1)
        self._stash = [features.detach(), batch.y]
        return {"contrast": F.cross_entropy(features @ self.memory.T / 0.5, batch.y)}

    def after_step(self):
        for feature, label in zip(*(self.gather(t) for t in self._stash), strict=True):
            self.memory[label] = F.normalize(0.8 * self.memory[label] + 0.2 * feature, dim=0)

    def optimizers(self, phase):
        return {"main": SGD(self.parameters(), lr=0.1)}


@dataclass
class Case:
    """What to train, on what, how."""

    method: Method
    data: object
    schedule: object
    settings: dict
    strategies: tuple = ()


def case(name: str) -> Case:
    """The toys by name, made anew."""
    tasks = PerTask([Points(24, seed=t) for t in range(3)], [Points(12, seed=9 + t) for t in range(3)])
    return {
        "plain": lambda: Case(Plain(dropout=0.3), Points(noise=0.5), Single(3), {"batch_size": 4}, (EMA(0.9),)),
        "norm": lambda: Case(Plain(norm=True), Points(), Single(2), {"batch_size": 4}),
        "two": lambda: Case(Two(), Points(noise=0.2), Stages({"first": 1, "second": 2}), {"batch_size": 4}),
        "relabelled": lambda: Case(Relabelled(), Points(), Single(4), {"batch_size": 4}),
        "tasks": lambda: Case(Growing(), tasks, Tasks(3, 2), {"batch_size": 4}),
        "rounds": lambda: Case(Client(dropout=0.2), tasks, Rounds(3, clients=3, fraction=0.7), {"batch_size": 4}),
        "sharp": lambda: Case(Sharp(), Points(), Single(2), {"batch_size": 4}),
        "aligned": lambda: Case(Aligned(), Points(), Single(2), {"batch_size": 4}),
        "bank": lambda: Case(Bank(), Points(), Single(2), {"batch_size": 4}),
        "accumulate": lambda: Case(Plain(), Points(), Single(2), {"batch_size": 2, "accumulate": 3}),
    }[name]()


def settings(chosen: Case, **changes) -> Settings:
    return Settings(**{"device": "cpu", "log_every": 5, **chosen.settings, **changes})
