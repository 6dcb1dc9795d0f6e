# SPDX-License-Identifier: Apache-2.0
"""What a method is: losses, optimisers and predictions. How it is trained is the loop's business."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from mien.engine.schedule import Phase

Losses = Mapping[str, Tensor]
"""Named scalar losses; their sum is minimised. An empty batch gives zeros that are connected to the parameters."""

Optimizers = dict[str, Optimizer | tuple[Optimizer, LRScheduler]]


@dataclass(frozen=True)
class Step:
    """One update of one optimiser.

    Args:
        optimizer: Name of the optimiser, a key of `Method.optimizers`.
        loss: The loss method, a bound method of the method being trained: `self.discriminator_losses`.
        batches: What it is called with. A plain optimiser takes one batch; an optimiser that takes closures
            (sharpness-aware, gradient-aligned) gets one closure per batch.
    """

    optimizer: str
    loss: Callable[[Any], Losses]
    batches: tuple[Any, ...]

    def __init__(self, optimizer: str, loss: Callable[[Any], Losses], *batches: Any) -> None:
        object.__setattr__(self, "optimizer", optimizer)
        object.__setattr__(self, "loss", loss)
        object.__setattr__(self, "batches", batches)


@dataclass(frozen=True)
class Epoch:
    """What `begin_epoch` may return: the data of this epoch, as tensors, so that a checkpoint can hold it.

    Args:
        fields: Fields of the sample to be replaced, name -> (N, ...) with N the size of the data set: new labels.
        indices: Which samples take part, (M,); None for all. Ignored when `order` is given.
        order: The batches themselves, (steps, batch size) of indices, for samplers such as P x K; None for shuffled
            batches of the configured size.
    """

    fields: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    indices: Tensor | None = None
    order: Tensor | None = None


class Session:
    """What the engine lends to a method while it trains: communication and logging. Outside training, one process."""

    rank: int = 0
    world_size: int = 1

    def gather(self, tensor: Tensor) -> Tensor:
        """(n, ...) of every rank, concatenated in rank order along the first axis. Carries no gradient."""
        return tensor.detach()

    def log(self, name: str, value: Tensor | float) -> None:
        """Record a number of this step; the mean over the steps of an interval is written."""

    def shared_generator(self) -> torch.Generator:
        """A CPU generator for choices that all ranks must make alike; fresh in every step, so a resume repeats it."""
        return torch.Generator().manual_seed(0)


class Method(nn.Module):
    """Base of every method.

    The constructor's keyword arguments are the configuration: each is stored under its own name and is a number, a
    string, a boolean, None, a list of these, or a dataclass of such fields. `config()` reads them back.

    A method overrides `losses` (one optimiser) or `steps` and its loss methods (several), `optimizers` and `predict`,
    and, where it needs to, the hooks below. Code between two yields of `steps` does no-grad work only.
    """

    name: ClassVar[str] = "custom"
    """The name in the catalog and on the command line."""

    scope: ClassVar[str] = "What this model was trained on and how well it does is for its author to state here."
    """What a saved model's card says of intended use and limits."""

    dynamic_buffers: ClassVar[tuple[str, ...]] = ()
    """Names of buffers whose size changes during training; loading gives them the checkpoint's size."""

    predicts_by_group: ClassVar[bool] = False
    """Whether `predict` wants all samples of one group (a video) in one batch."""

    personal: ClassVar[tuple[str, ...]] = ()
    """Patterns (fnmatch) of state keys that stay with a federated client; all others are shared."""

    session: Session = Session()

    # --- the training interface -------------------------------------------------------------------------------
    def losses(self, batch: Any) -> Losses:
        """Named losses of a batch. Override this, or `steps`."""
        raise TypeError(f"{type(self).__name__} defines neither losses() nor steps()")

    def steps(self, batch: Any) -> Iterator[Step]:
        """The updates that one batch makes, in order."""
        yield Step("main", self.losses, batch)

    def optimizers(self, phase: Phase) -> Optimizers:
        """The optimisers of a phase by name, each alone or with its learning-rate schedule (stepped per update)."""
        raise TypeError(f"{type(self).__name__} defines no optimizers()")

    def predict(self, batch: Any) -> Any:
        """The family's answer for a batch. Runs in eval mode, without gradients."""
        raise TypeError(f"{type(self).__name__} defines no predict()")

    def validate(self, data: Dataset[Any], *, batch_size: int = 64) -> dict[str, float]:
        """Numbers for early stopping and the log. The default is the mean of the losses over `data`."""
        from mien.engine.evaluation import mean_losses

        return mean_losses(self, data, batch_size)

    # --- hooks, only where needed -----------------------------------------------------------------------------
    def build_phase(self, phase: Phase) -> None:
        """Structure and `requires_grad` of a phase: cheap, no data, no chance. Replayed for past phases on loading."""

    def begin_phase(self, phase: Phase, data: Dataset[Any]) -> None:
        """Runs once when a phase really starts (statistics, teachers). Its results live in buffers or extra state."""

    def begin_epoch(self, epoch: int, data: Dataset[Any]) -> Epoch | None:
        """May relabel or select the data of the coming epoch. Runs in eval mode, without gradients."""
        return None

    def samples_per_epoch(self, phase: Phase, data: Dataset[Any]) -> int | None:
        """How many samples `begin_epoch` selects by `Epoch.indices`, where it does; None for all of `data`.

        Schedules of learning rates run over as many updates. Asked before the phase is built, and again on a resume:
        the answer depends on configuration, phase and data alone.
        """
        return None

    def batches_per_epoch(self) -> int | None:
        """How many batches `begin_epoch` gives, where it gives an order of its own; None for one pass over the data."""
        return None

    def after_step(self) -> None:
        """Runs after all updates of a batch, without gradients: memory banks, moving averages."""

    def end_phase(self, phase: Phase, data: Dataset[Any]) -> None:
        """Runs once when a phase ends (merging adapters, class statistics), before its checkpoint."""

    def stands_for(self, client: int | None) -> None:
        """Rounds: the weights just loaded are those of a client, or (None) the server's, for those who are none."""

    # --- conveniences -----------------------------------------------------------------------------------------
    def log(self, name: str, value: Tensor | float) -> None:
        """Record a number of this step under `name`; the log shows its mean over an interval."""
        self.session.log(name, value)

    def gather(self, tensor: Tensor) -> Tensor:
        """`tensor` (n, ...) of every rank in rank order, without gradient; the tensor itself in one process."""
        return self.session.gather(tensor)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        first = next(self.parameters(), None)
        return first.device if first is not None else torch.device("cpu")

    def config(self) -> dict[str, Any]:
        """The constructor's arguments as plain JSON values."""
        names = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
        return {name: _plain(getattr(self, name)) for name in names}

    def card(self) -> str:
        """The model card, Markdown: what it is, its configuration, scope and limits."""
        title = (inspect.getdoc(type(self)) or self.name).splitlines()[0]
        lines = [f"# {self.name}", "", title, "", "## Scope and limits", "", self.scope, "", "## Configuration", ""]
        return "\n".join([*lines, *(f"- `{key}`: `{value}`" for key, value in self.config().items()), ""])

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write weights (safetensors), configuration (JSON) and a model card into `folder`."""
        from mien.engine.pretrained import save_pretrained

        return save_pretrained(self, folder, phases=self.built)

    @property
    def built(self) -> tuple[Phase, ...]:
        """The phases whose structure has been built into this method."""
        return self.__dict__.get("_built", ())


def build(method: Method, phase: Phase) -> None:
    """Build a phase's structure and remember it, so that a saved method can be rebuilt."""
    phase = dataclasses.replace(phase, total_steps=0)  # structure does not depend on how long a phase is
    method.build_phase(phase)
    method.__dict__["_built"] = (*method.built, phase)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
