# SPDX-License-Identifier: Apache-2.0
"""What a proof is: a claim, its baseline and variants as a small table, and how one seed of it is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mien.errors import BadInput
from mien.files import whole_file

if TYPE_CHECKING:
    from torch import Tensor

    from mien.engine import Method

M = TypeVar("M", bound="Method")

Values = dict[str, float]
"""Metric name -> value; one variant may report several, the proof's own metric among them."""


@dataclass
class Seed:
    """One seed of a proof.

    Args:
        number: The seed.
        data: What `Proof.data` made for it.
        max_steps: A smaller budget of a rehearsal, whose numbers mean nothing; None for the proof's own.
        device: Where to compute.
        kept: Results that variants share within the seed, such as a network that several of them start from.
        folder: Where `tensors` are kept between processes; None keeps them in memory alone.
    """

    number: int
    data: Any
    max_steps: int | None = None
    device: str = "cpu"
    kept: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """The result called `name`, made the first time it is asked for. It must depend on the seed alone."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def tensors(self, name: str, make: Callable[[], dict[str, Tensor]], *, anew: bool = False) -> dict[str, Tensor]:
        """Tensors called `name`, made once for all processes: neither a resumed run nor the cost of a variant that
        finds them makes them again. They must depend on the seed alone.

        Args:
            name: Part of a file name.
            make: Makes them.
            anew: Make them even if another process has: for the variant whose cost they are.
        """
        path = None if self.folder is None else self.folder / f"{name}-{self.number}.safetensors"

        def read_or_make() -> dict[str, Tensor]:
            from safetensors.torch import load_file, save_file

            if path is not None and path.exists() and not anew:
                return load_file(path)
            made = {key: value.detach().cpu().contiguous() for key, value in make().items()}
            if path is not None:
                with whole_file(path) as temporary:
                    save_file(made, temporary)
            return made

        found: dict[str, Tensor] = self.once(f"tensors of {name}", read_or_make)
        return found


@dataclass(frozen=True)
class Proof:
    """An experiment that can come out either way.

    Args:
        name: Of the method, as in the catalog.
        claim: One sentence, named beforehand.
        variants: Name -> function of a seed that gives metric values. Every one gets the same budget.
        primary: The variant that the claim is about.
        baseline: The variant that it must beat.
        metric: The metric of the claim, one of those that the variants report.
        data: (folder or "embedded", seed) -> the data of a seed.
        about: (folder or "embedded") -> one line on the data.
        higher_is_better: The sense of the metric.
        ablations: Further comparisons, name -> (variant, its own baseline); Holm-corrected together.
        controls: Variants that must NOT succeed (shuffled labels), name -> (low, high) that the mean must lie in; in
            the place of high, the name of a variant stands for its mean.
        check: Optional (folder or "embedded") -> JSON on the data themselves (confounds), made once.
        seeds: How many, by default.
        notes: Lines for the reader of the result: what was tried, what it does not show.
    """

    name: str
    claim: str
    variants: Mapping[str, Callable[[Seed], Values]]
    primary: str
    baseline: str
    metric: str
    data: Callable[[str, int], Any]
    about: Callable[[str], str]
    higher_is_better: bool = True
    ablations: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    controls: Mapping[str, tuple[float, float | str]] = field(default_factory=dict)
    check: Callable[[str], Any] | None = None
    seeds: int = 5
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        named = [self.primary, self.baseline, *self.controls, *(v for pair in self.ablations.values() for v in pair)]
        named += [high for _, high in self.controls.values() if isinstance(high, str)]
        for name in named:
            if name not in self.variants:
                raise BadInput(f"proof {self.name!r} names the variant {name!r}: there are {', '.join(self.variants)}")


def shuffled(kind: type[M]) -> type[M]:
    """The control that must fail: `kind` trained on labels that are drawn by lot within every batch."""
    import torch

    class Shuffled(kind):  # type: ignore[valid-type, misc]
        name = "shuffled-control"

        def losses(self, batch: Any) -> Any:
            """As always, against shuffled labels."""
            batch.label = batch.label[torch.randperm(len(batch.label))]
            return super().losses(batch)

    return Shuffled
