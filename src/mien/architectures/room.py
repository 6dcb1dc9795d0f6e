# SPDX-License-Identifier: Apache-2.0
"""What the architectures room offers to the command line: how accurate, how fast will this network be?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mien.architectures.answers import answer, is_written_out
from mien.architectures.evaluation import evaluate
from mien.architectures.opening import open_test, open_training
from mien.architectures.predictor import Predictor
from mien.architectures.readers import LAYOUTS, look
from mien.engine import EMA, Method, Strategy, TrainingData
from mien.errors import BadInput
from mien.room import Answers, DataOptions, Preset, PresetName, Room, TestData, Using


class ArchitecturesRoom(Room):
    """Predictors of an architecture's accuracy or latency."""

    family = "architectures"
    kinds = LAYOUTS

    def preset(self, name: str, preset: PresetName) -> Preset:
        """The paper's size (4.8 million weights for cells). Small: tokens of 96 numbers, three blocks.

        A preset does not know the data: 4000 passes are the paper's on NAS-Bench-201; on NAS-Bench-101 it makes 6000.
        """
        settings: dict[str, Any] = {"batch_size": 128, "monitor": "kendall_tau", "validate_every": 10}
        if preset == "paper":
            return Preset(settings=settings, epochs=4000)
        config: dict[str, Any] = {"frequencies": 16, "layers": 3, "optimizer": {"lr": 1e-3}}
        return Preset(config=config, settings=settings, epochs=150)

    def data_config(self, name: str, source: str, options: DataOptions) -> dict[str, Any]:
        """The space of the architectures and the first target."""
        space, target = look(source, options.kind)
        return {"space": space, "target": target}

    def strategies(self, method: Method) -> Sequence[Strategy]:
        """The average of the weights, where the method wants one."""
        decay = getattr(method, "average", 0.0)
        return [EMA(decay)] if decay else []

    def open_data(self, source: str, method: Method, options: DataOptions) -> TrainingData:
        """See `mien.architectures.opening`."""
        return open_training(source, _predictor(method), options)

    def open_test(self, source: str, method: Method, options: DataOptions) -> TestData:
        """See `mien.architectures.opening`."""
        return open_test(source, _predictor(method), options)

    def evaluate(self, method: Method, test: TestData, out: Path | None, using: Using) -> dict[str, Any]:
        """See `mien.architectures.evaluation`."""
        return evaluate(_predictor(method), test, out, using)

    def predict(self, method: Method, inputs: Sequence[Any], out: Path | None, using: Using) -> Answers:
        """See `mien.architectures.answers`."""
        return answer(_predictor(method), inputs, using)

    def targets(self, method: Method) -> Sequence[str]:
        """What the predictor predicts: latencies are called by their devices."""
        return _predictor(method).targets

    def check_input(self, given: str | Path) -> None:
        """An architecture string or a JSON cell is an input, and so is a path that exists."""
        if not (isinstance(given, str) and is_written_out(given)) and not Path(given).exists():
            raise BadInput(
                f"{given!s} is no file and no architecture: give an .onnx or .json file, a folder of them, "
                "or an architecture string such as '|none~0|+...'"
            )


def _predictor(method: Method) -> Predictor:
    if not isinstance(method, Predictor):
        raise BadInput(f"{method.name!r} is no mien.architectures.predictor.Predictor: this room works with those")
    return method


ROOM = ArchitecturesRoom()
