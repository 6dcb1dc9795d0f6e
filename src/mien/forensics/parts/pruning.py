# SPDX-License-Identifier: Apache-2.0
"""Bias Pruning with Fair Activations: the formulas, the calibration, and pruning of any trained detector.

See `mien.forensics.fairfd` for the equations, the rules and the differences from the paper.

Example:
    >>> w = torch.tensor([[1.0, -2.0], [0.5, 4.0]])
    >>> importance(w, torch.tensor([1.0, 0.5]))
    tensor([[1., 2.],
            [1., 8.]])
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from mien.data.attributes import column_of
from mien.engine.evaluation import evaluation_loader, modes_kept
from mien.engine.seeding import kept_generators, stable_seed
from mien.errors import BadInput
from mien.forensics.detector import Detector

Pruning = Literal["bpfa", "weight", "activation", "random"]
Convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
D = TypeVar("D", bound=Detector)


# --- the formulas -------------------------------------------------------------------------------------------------
def spread(means: Mapping[str, Tensor]) -> Tensor:
    """b_c, (C,): how much the norm of each channel's mean map differs between groups.

    Args:
        means: Group -> mean_g, (C, ...).
    """
    norms = torch.stack([mean.double().flatten(1).norm(dim=1) for mean in means.values()])
    return norms.std(dim=0, correction=0)


def importance(
    weight: Tensor, b: Tensor, pruning: Pruning = "bpfa", generator: torch.Generator | None = None
) -> Tensor:
    """S, in the shape of the weights; infinity protects.

    Args:
        weight: W, (C, ...).
        b: b_c, (C,). "weight" and "random" have no use for it.
        pruning: Which score.
        generator: For "random".
    """
    if pruning == "random":
        return torch.rand(weight.shape, generator=generator, dtype=torch.float64)
    size = weight.detach().abs().double().cpu()
    if pruning == "weight":
        return size
    channel = b.double().cpu().reshape(-1, *[1] * (weight.ndim - 1))
    top = size if pruning == "bpfa" else torch.ones_like(size)
    return torch.where(channel > 0, top / channel, torch.inf).to(b.dtype)


def lowest(score: Tensor, rho: float) -> Tensor:
    """Flat indices of the int(rho numel) lowest scores; ties: lowest index first; infinite ones are never taken."""
    order = score.flatten().sort(stable=True)
    count = min(int(rho * score.numel()), int(torch.isfinite(order.values).sum()))
    return order.indices[:count]


# --- calibration --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Calibration:
    """What the convolutions of a network do on real images of every group.

    Args:
        means: Name of the convolution -> group -> mean_g, (C, ...).
        counts: Group -> images.
    """

    means: Mapping[str, Mapping[str, Tensor]]
    counts: Mapping[str, int]

    def spreads(self) -> dict[str, Tensor]:
        """The spread of every convolution."""
        return {name: spread(by_group) for name, by_group in self.means.items()}


class Means:
    """Running mean maps of the outputs of convolutions, group by group.

    Args:
        module: The network.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.means: dict[str, dict[str, Tensor]] = {}
        self.seen: dict[tuple[str, str], int] = {}
        self.counts: dict[str, int] = {}

    @contextmanager
    def watching(self, group: str, images: int) -> Iterator[None]:
        """What runs inside counts as that many images of `group`."""
        hooks = [
            child.register_forward_hook(self._hook(name, group))
            for name, child in self.module.named_modules()
            if isinstance(child, Convolution)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        self.counts[group] = self.counts.get(group, 0) + images

    def _hook(self, name: str, group: str) -> Any:
        def note(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            total = output.detach().double().sum(dim=0)
            mean = self.means.setdefault(name, {}).get(group, torch.zeros_like(total))
            if mean.shape != total.shape:
                raise BadInput(
                    f"convolution {name!r} gives maps of {tuple(total.shape)} and {tuple(mean.shape)}: calibration "
                    "needs images of one size"
                )
            before = self.seen.get((name, group), 0)
            after = self.seen[name, group] = before + len(output)
            self.means[name][group] = mean + (total - len(output) * mean) / after

        return note

    def calibration(self) -> Calibration:
        """The means; of convolutions that ran for every group."""
        complete = {name: dict(m) for name, m in self.means.items() if m.keys() == self.counts.keys()}
        return Calibration(complete, dict(self.counts))


def calibrate(detector: Detector, data: Dataset[Any], group_by: str | None, *, batch_size: int = 64) -> Calibration:
    """Mean maps of a detector's convolutions on the real images of every group.

    Args:
        detector: In whatever mode; it runs in eval mode and gets its own back.
        data: `Faces` with attributes, held out from training and test. Forged ones among them are left out, random
            windows and mirroring are switched off.
        group_by: The attribute that makes the groups; None for race, or the only one there is.
        batch_size: Images per pass.

    Raises:
        BadInput: No such attribute, or real images of fewer than two groups.
    """
    data = unaugmented(data)
    rows = real_images_by_group(data, group_by)
    means = Means(detector)
    with modes_kept(detector), torch.no_grad(), kept_generators():
        detector.eval()
        for group in sorted(rows):
            part: Dataset[Any] = Subset(data, rows[group])
            for batch in evaluation_loader(part, batch_size, device=detector.device):
                with means.watching(group, len(batch.image)):
                    detector.predict(batch)
    return means.calibration()


def _labels_and_attributes(data: Any) -> Sequence[tuple[int | None, Mapping[str, str]]]:
    """Label and attributes of every sample, without opening images where the data set knows them."""
    if isinstance(data, Subset):
        whole = _labels_and_attributes(data.dataset)
        return [whole[i] for i in data.indices]
    labels, records = getattr(data, "label", None), getattr(data, "records", None)
    if isinstance(labels, Tensor):
        known = getattr(data, "attributes", None) or [{}] * len(labels)
        return list(zip(labels.tolist(), known, strict=True))
    if records is not None:
        return [(record.label, dict(record.attributes)) for record in records]
    with kept_generators():
        samples = (data[i] for i in range(len(data)))
        return [(int(sample.label), sample.attributes) for sample in samples]


def group_values(data: Dataset[Any], group_by: str | None) -> list[str]:
    """The group of every sample. Raises BadInput where the data do not say."""
    return [known[column_of(tuple(known), group_by)] for _, known in _labels_and_attributes(data)]


def real_images_by_group(data: Dataset[Any], group_by: str | None) -> dict[str, list[int]]:
    """Indices of the real images of each group. Raises BadInput where there are fewer than two groups."""
    rows: dict[str, list[int]] = {}
    for index, (group, (label, _)) in enumerate(
        zip(group_values(data, group_by), _labels_and_attributes(data), strict=True)
    ):
        if label == 0:
            rows.setdefault(group, []).append(index)
    if len(rows) < 2:
        found = ", ".join(rows) or "none"
        raise BadInput(f"calibration needs real images of two groups or more: found {found}")
    return rows


def unaugmented(data: Any) -> Any:
    """The data set without random windows and mirroring: calibration is no place for chance."""
    if isinstance(data, Subset):
        return Subset(unaugmented(data.dataset), data.indices)
    still = copy.copy(data)
    for name in ("training", "flip", "seeded"):
        if getattr(still, name, False):
            setattr(still, name, False)
    return still


def names_groups(data: Any) -> bool:
    """Whether the data say anything about who is seen."""
    return bool(_labels_and_attributes(data)[0][1])


# --- pruning ------------------------------------------------------------------------------------------------------
def prune_(
    module: nn.Module,
    spreads: Mapping[str, Tensor],
    *,
    rho: float = 0.001,
    pruning: Pruning = "bpfa",
    seed: int = 0,
) -> dict[str, int]:
    """Set weights of a network to zero, in place, and say how many in each convolution.

    Args:
        module: The network.
        spreads: Name of a convolution -> b, (C,); convolutions that are not in it stay as they are.
        rho: Share of each convolution's weights, in [0, 1).
        pruning: Which score.
        seed: Of "random".

    Raises:
        BadInput: `rho` is out of range, `pruning` unknown, or a name is no convolution of the network.
    """
    check(rho, pruning)
    modules = dict(module.named_modules())
    zeroed = {}
    for name, b in spreads.items():
        layer = modules.get(name)
        if not isinstance(layer, Convolution) or len(layer.weight) != len(b):
            raise BadInput(f"{name!r} is no convolution of {len(b)} channels of this network: calibrate it itself")
        generator = torch.Generator().manual_seed(stable_seed(seed, "prune", name))
        indices = lowest(importance(layer.weight, b, pruning, generator), rho)
        with torch.no_grad():
            layer.weight[torch.unravel_index(indices.to(layer.weight.device), layer.weight.shape)] = 0.0
        zeroed[name] = len(indices)
    return zeroed


def check(rho: float, pruning: str) -> None:
    """Raise `BadInput` for a share or a score that there is not."""
    if not 0 <= rho < 1:
        raise BadInput(f"rho is {rho}: it must lie in [0, 1)")
    if pruning not in get_args(Pruning):
        raise BadInput(f"pruning is {pruning!r}: use {', '.join(get_args(Pruning))}")


def prune(
    detector: D,
    data: Dataset[Any],
    *,
    group_by: str | None = None,
    rho: float = 0.001,
    pruning: Pruning = "bpfa",
    seed: int = 0,
    batch_size: int = 64,
) -> tuple[D, dict[str, int]]:
    """A pruned copy of any trained detector, and how many weights became zero in each convolution.

    Args:
        detector: It stays as it is.
        data: As for `calibrate`.
        group_by: As for `calibrate`.
        rho: Share of each convolution's weights.
        pruning: "bpfa", or one of the baselines.
        seed: Of "random".
        batch_size: Images per pass.
    """
    check(rho, pruning)
    pruned = copy.deepcopy(detector)
    found = calibrate(pruned, data, group_by, batch_size=batch_size)
    return pruned, prune_(pruned, found.spreads(), rho=rho, pruning=pruning, seed=seed)
