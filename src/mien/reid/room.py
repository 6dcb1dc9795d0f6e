# SPDX-License-Identifier: Apache-2.0
"""What the re-identification room offers to the command line: is it the same person?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mien.engine import Method, TrainingData
from mien.errors import BadInput
from mien.reid.answers import answer
from mien.reid.embedder import Embedder
from mien.reid.opening import crops_in, open_test, open_training
from mien.reid.readers import DOWNLOAD, LAYOUTS
from mien.reid.scoring import evaluate
from mien.room import Answers, DataOptions, Preset, PresetName, Room, TestData, Using

SMALL: dict[str, Any] = {
    "network": {"name": "tiny_blocks", "normalise": "none"},
    "optimizer": {"lr": 2e-3, "weight_decay": 5e-4},
    "image_size": [64, 32],
    "augment": {"padding": 4},
    "clustering": {"k1": 12, "k2": 3},
    "contrast": {"clusters_per_batch": 8, "crops_per_cluster": 8, "iterations": 40},
}
"""A network of 47 k weights at 64 x 32 pixels, for some hundred crops with a dozen or so of each person."""


class ReidRoom(Room):
    """Embeddings of persons."""

    family = "reid"
    kinds = LAYOUTS
    how_to_get = DOWNLOAD

    def preset(self, name: str, preset: PresetName) -> Preset:
        """The paper's: ResNet-50 at 320 x 128 pixels, 50 epochs of 200 batches. Small: minutes on a laptop."""
        if preset == "paper":
            return Preset(settings={"batch_size": 256, "validate_every": 10}, epochs=50)
        return Preset(config=SMALL, settings={"batch_size": 64, "validate_every": 5}, epochs=15)

    def data_config(self, name: str, source: str, options: DataOptions) -> dict[str, Any]:
        """Room for the clusters that the crops can have: one for every two.

        That is enough for `min_samples` m from 2 on: a cluster has two cores, or one core with m - 1 crops at its
        border, each of which m - 2 clusters share at most (with more neighbours it were a core itself).
        """
        return {"max_clusters": max(crops_in(source, options) // 2, 2)} if name == "ncplr" else {}

    def open_data(self, source: str, method: Method, options: DataOptions) -> TrainingData:
        """See `mien.reid.opening`."""
        return open_training(source, _embedder(method), options)

    def open_test(self, source: str, method: Method, options: DataOptions) -> TestData:
        """See `mien.reid.opening`."""
        return open_test(source, _embedder(method), options)

    def evaluate(self, method: Method, test: TestData, out: Path | None, using: Using) -> dict[str, Any]:
        """See `mien.reid.scoring`."""
        return evaluate(_embedder(method), test, out, using)

    def predict(self, method: Method, inputs: Sequence[Any], out: Path | None, using: Using) -> Answers:
        """See `mien.reid.answers`."""
        return answer(_embedder(method), inputs, out, using)


def _embedder(method: Method) -> Embedder:
    if not isinstance(method, Embedder):
        raise BadInput(f"{method.name!r} is no mien.reid.embedder.Embedder: this room works with those")
    return method


ROOM = ReidRoom()
