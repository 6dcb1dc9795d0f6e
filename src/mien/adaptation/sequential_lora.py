# SPDX-License-Identifier: Apache-2.0
"""Sequential LoRA: every task trains new low-rank adapters, which are merged into the network when it is over.

The baseline of continual learning with LoRA: nothing protects old tasks. What methods change is which directions A
a branch may learn in, how it is trained, and what of it is merged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn
from torch.utils.data import Dataset

from mien.adaptation.heads import Alignment
from mien.adaptation.learner import BACKBONE, RECIPE, ContinualClassifier
from mien.adaptation.memory import InputMemory
from mien.classification.data import Augmentation
from mien.engine import Phase
from mien.errors import BadInput
from mien.nn.lora import LoRALinear, adapt, linear_layers, restore
from mien.nn.network import Network
from mien.optim.recipe import Recipe

LAYERS = ("*.attn.qkv",)
"""The fused query, key and value layer of every attention block of timm's transformers."""


class SequentialLoRA(ContinualClassifier):
    """Cosine heads on a network with an adapter for each task, merged one after the other.

    Args:
        network: The backbone; its features are the normalised class token of a transformer (timm, no classes).
        optimizer: How each task is trained; its schedule runs over the task.
        image_size: Height and width in pixels of the images that it is given.
        classes: Names of the classes in the order in which tasks take them; None for those of the training data, in
            an order drawn from the run's seed.
        tasks: Number of tasks, or the classes of each; None for 10, or fewer so that each has four classes.
        augment: How training images are varied: "resized" cuts out 5 to 100 %, resizes and mirrors; "shift_flip",
            "shift" (never mirrored) and "none" suit small images better.
        crop: Test images are resized to image_size / crop and their middle is cut out, in (0, 1]; None resizes the
            whole image to a square.
        scale: s of the CosFace loss, > 0.
        margin: m of the CosFace loss, >= 0.
        alignment: Classifier alignment after every task but the first.
        foundation: Epochs for which the whole network is first trained, on the classes of the first task; for networks
            that start from nothing.
        layers: Patterns of the names of the linear layers that are adapted.
        rank: r, rows of A.
    """

    name = "sequential-lora"
    remembers: ClassVar[bool] = False
    """Whether second moments of the inputs of old tasks are kept."""

    def __init__(
        self,
        *,
        network: Network = BACKBONE,
        optimizer: Recipe = RECIPE,
        image_size: int = 224,
        classes: Sequence[str] | None = None,
        tasks: int | Sequence[int] | None = None,
        augment: Augmentation = "resized",
        crop: float | None = 0.875,
        scale: float = 20.0,
        margin: float = 0.0,
        alignment: Alignment = Alignment(),
        foundation: int = 0,
        layers: Sequence[str] = LAYERS,
        rank: int = 32,
    ) -> None:
        super().__init__(
            network=network,
            optimizer=optimizer,
            image_size=image_size,
            classes=classes,
            tasks=tasks,
            augment=augment,
            crop=crop,
            scale=scale,
            margin=margin,
            alignment=alignment,
            foundation=foundation,
        )
        self.layers, self.rank = tuple(layers), rank
        chosen = linear_layers(self.classifier.body, self.layers)
        self.widths = {name: layer.in_features for name, layer in chosen.items()}
        self.memory = InputMemory(self.widths if self.remembers else {})
        if not 1 <= rank <= min(self.widths.values()):
            raise BadInput(f"rank is {rank}: it must lie between 1 and the layers' {min(self.widths.values())} inputs")

    # --- what methods change ----------------------------------------------------------------------------------
    def branches(self) -> dict[str, float]:
        """The branches of the present task, with their factors g."""
        return {"main": 1.0}

    def trains_down(self) -> bool:
        """Whether the present task trains A, not only B."""
        return True

    def start_branches(self, data: Dataset[Any]) -> None:
        """First values of every A; all B are zero. Here those of plain LoRA, rows of squared norm 1/3 on average."""
        for layer in self.adapters().values():
            nn.init.kaiming_uniform_(layer.branch("main").A, a=math.sqrt(5))

    # --- phases -----------------------------------------------------------------------------------------------
    def adapters(self) -> dict[str, LoRALinear]:
        """The adapted layers by name; none when no task is being learned."""
        return {n: layer for n, layer in self.classifier.body.named_modules() if isinstance(layer, LoRALinear)}

    def build_phase(self, phase: Phase) -> None:
        """A replay of past phases does not end them: their adapters are taken out."""
        restore(self.classifier.body)
        super().build_phase(phase)

    def build_task(self) -> None:
        """A new head, and new adapters."""
        super().build_task()
        for layer in adapt(self.classifier.body, self.widths, self.branches(), self.rank).values():
            for name in layer.branches:
                layer.branch(name).A.requires_grad_(self.trains_down())

    def begin_task(self, data: Dataset[Any]) -> None:
        """First weights of the head and the adapters."""
        super().begin_task(data)
        self.start_branches(data)

    def end_task(self, data: Dataset[Any]) -> None:
        """The adapters go into the weights; nothing of them remains."""
        for layer in self.adapters().values():
            layer.merge()
        restore(self.classifier.body)
        super().end_task(data)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Loading builds the phases anew, with adapters; a state without any is that of a task that has ended."""
        if not any(".branches." in key for key in state_dict):
            restore(self.classifier.body)
        super()._load_from_state_dict(state_dict, prefix, *rest)
