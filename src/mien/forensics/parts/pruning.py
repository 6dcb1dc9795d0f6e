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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
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
    norms = torch.stack([mean.cpu().double().flatten(1).norm(dim=1) for mean in means.values()])
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
    size = weight.detach().abs().cpu().double()  # on the CPU: there are devices without float64 (MPS)
    if pruning == "weight":
        return size
    channel = b.cpu().double().reshape(-1, *[1] * (weight.ndim - 1))
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
            total = output.detach().cpu().double().sum(dim=0)
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
        BadInput: No such attribute, real images of fewer than two groups, or a group without any.
    """
    data = unaugmented(data)
    return mean_maps(detector, data, real_images(groups_and_reals(data, group_by)), batch_size=batch_size)


def mean_maps(
    detector: Detector, data: Dataset[Any], rows: Mapping[str, Sequence[int]], *, batch_size: int = 64
) -> Calibration:
    """`calibrate` on images that are known already: `rows` holds the real ones of every group."""
    means = Means(detector)
    with modes_kept(detector), torch.no_grad(), kept_generators():
        detector.eval()
        for group in sorted(rows):
            part = unaugmented(Subset(data, rows[group]))
            for batch in evaluation_loader(part, batch_size, device=detector.device):
                with means.watching(group, len(batch.image)):
                    detector.predict(batch)
    return means.calibration()


def _known(data: Any, rows: Sequence[int]) -> list[tuple[int | None, Mapping[str, str]]]:
    """Label and attributes of some samples, without opening images where the data set knows them."""
    if isinstance(data, Subset):
        return _known(data.dataset, [data.indices[i] for i in rows])
    labels, records = getattr(data, "label", None), getattr(data, "records", None)
    if isinstance(labels, Tensor):
        attributes = getattr(data, "attributes", None) or [{}] * len(labels)
        return [(int(labels[i]), attributes[i]) for i in rows]
    if records is not None:
        return [(records[i].label, dict(records[i].attributes)) for i in rows]
    with kept_generators():
        samples = (data[i] for i in rows)
        return [(int(sample.label), sample.attributes) for sample in samples]


def names_groups(data: Any) -> bool:
    """Whether the data say anything about who is seen: the first sample tells."""
    return bool(_known(data, [0])[0][1])


def groups_and_reals(data: Any, group_by: str | None) -> list[tuple[str, bool]]:
    """The group of every sample, and whether it is real. Raises BadInput where the data do not say."""
    return [(known[column_of(tuple(known), group_by)], label == 0) for label, known in _known(data, range(len(data)))]


def real_images(seen: Sequence[tuple[str, bool]], rows: Sequence[int] | None = None) -> dict[str, list[int]]:
    """Which images each group is calibrated on.

    Args:
        seen: Group of every sample, and whether it is real.
        rows: The samples that are kept apart to calibrate on; None for all.

    Raises:
        BadInput: Fewer than two groups have a real image there, or some group of `seen` has none: its activations
            would be missing in b_c, and nobody would be told.
    """
    found: dict[str, list[int]] = {}
    for row in range(len(seen)) if rows is None else rows:
        group, real = seen[row]
        if real:
            found.setdefault(group, []).append(row)
    shown = ", ".join(sorted(found)) or "none"
    if len(found) < 2:
        raise BadInput(f"calibration needs real images of two groups or more: found {shown}")
    missing = sorted({group for group, _ in seen} - found.keys())
    if missing:
        raise BadInput(
            f"no real image of {', '.join(missing)} is kept apart to calibrate on, only of {shown}: keep a larger "
            "share apart, or leave the group out of the data"
        )
    return found


def unaugmented(data: Any) -> Any:
    """The data set without random windows and mirroring: calibration is no place for chance.

    Raises:
        BadInput: A part of clips made for training; those that are tested have other numbers.
    """
    if isinstance(data, Subset):
        if getattr(data.dataset, "training", False) and hasattr(data.dataset, "still"):
            raise BadInput("a Subset of clips made for training cannot be calibrated on: make them with training=False")
        return Subset(unaugmented(data.dataset), data.indices)
    if hasattr(data, "still"):
        return data.still()
    copied = copy.copy(data)
    for name in ("training", "flip", "seeded"):
        if getattr(copied, name, False):
            setattr(copied, name, False)
    return copied


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
        BadInput: `rho` is out of range, `pruning` unknown, a name is no convolution of the network, or the weights of
            one are computed from others and do not stay zero. Layers before it are pruned by then.
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
        _zero(layer, indices, name)
        zeroed[name] = len(indices)
    return zeroed


def _zero(layer: nn.Module, indices: Tensor, name: str) -> None:
    """Set weights of a convolution to zero, through its parametrisation where it has one."""
    with torch.no_grad():
        wanted = layer.weight.clone()  # type: ignore[operator]
        wanted[torch.unravel_index(indices.to(wanted.device), wanted.shape)] = 0.0
        if isinstance(layer.weight, nn.Parameter):
            layer.weight.copy_(wanted)
        elif is_parametrized(layer, "weight"):
            with suppress(RuntimeError, ValueError):  # it has no inverse, or none for this; the weights tell
                layer.weight = wanted
        # a hundredth, since a spectral norm rescales what is left; without atol zeros are told from almost zeros
        if not torch.allclose(layer.weight, wanted, rtol=1e-2, atol=0):  # type: ignore[arg-type]
            raise BadInput(
                f"the weights of convolution {name!r} are computed from others and do not become zero: remove its "
                "parametrisation or norm first (torch.nn.utils.parametrize.remove_parametrizations)"
            )


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
