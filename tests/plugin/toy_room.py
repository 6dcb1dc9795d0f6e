# SPDX-License-Identifier: Apache-2.0
"""The smallest family: points in the plane, in files of one line "x,y,label,group". Serves the tests of the verbs."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.utils.data import Dataset

from mien.engine import Method, TrainingData
from mien.errors import BadInput
from mien.metrics.intervals import metric_interval
from mien.room import Answers, Demo, Preset, Room, Row, TestData


@dataclass
class Point:
    x: Tensor
    label: int | Tensor
    group: str | list[str]
    path: str | list[str]


@dataclass(frozen=True)
class Layer:
    """The layer.

    Args:
        width: Its width.
        kind: Its kind.
    """

    width: int = 4
    kind: Literal["tanh", "relu"] = "tanh"


class ToyPoints(Method):
    """A two-layer network.

    Args:
        layer: The hidden layer.
        rate: Learning rate.
        delay: Seconds that a step takes longer.
        names: Not used; a list on the command line.
    """

    name = "toy-points"

    def __init__(
        self, *, layer: Layer = Layer(), rate: float = 0.5, delay: float = 0.0, names: list[str] | None = None
    ) -> None:
        super().__init__()
        self.layer, self.rate, self.delay, self.names = layer, rate, delay, names
        self.network = nn.Sequential(nn.Linear(2, layer.width), nn.Tanh(), nn.Linear(layer.width, 1))

    def losses(self, batch):
        time.sleep(self.delay)
        return {"bce": F.binary_cross_entropy_with_logits(self.network(batch.x)[:, 0], batch.label.float())}

    def optimizers(self, phase):
        return {"main": SGD(self.parameters(), self.rate)}

    def predict(self, batch):
        return self.network(batch.x)[:, 0].sigmoid()


class Points(Dataset):
    seeded = False

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.groups = [read(path).group for path in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Point:
        return read(self.paths[index])


def read(path: Path) -> Point:
    try:
        x, y, label, group = path.read_text().strip().split(",")
        return Point(torch.tensor([float(x), float(y)]), int(label), group, str(path))
    except ValueError:
        raise BadInput(f"{path} is not a point") from None


def files(folder: str) -> list[Path]:
    found = sorted(Path(folder).glob("*.pt.csv"))
    if not found:
        raise BadInput(f"{folder} holds no points")
    return found


def manifest(paths: list[Path], what: str) -> dict:
    hashes = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    return {"groups": sorted({read(path).group for path in paths}), "files": hashes, "description": what}


class ToyData(TrainingData):
    def __init__(self, folder: str) -> None:
        self.paths, self.folder = files(folder), folder

    def train(self, phase):
        return Points(self.paths)

    def manifest(self):
        return manifest(self.paths, f"{len(self.paths)} points in {Path(self.folder).name}")


class ToyRoom(Room):
    family = "forensics"
    kinds = ("auto", "points")

    def preset(self, name, preset):
        if preset == "small":
            return Preset(config={"layer": {"width": 2}}, settings={"batch_size": 5}, epochs=1)
        return Preset(settings={"batch_size": 10}, epochs=2)

    def open_data(self, source, method, options):
        return ToyData(source)

    def open_test(self, source, method, options):
        paths = files(source)
        return TestData(Points(paths), manifest(paths, "test points"))

    def evaluate(self, method, test, out, using):
        from mien.engine import predictions

        items = []
        for batch, score in predictions(method, test.dataset, using.batch_size):
            for path, group, label, value in zip(
                batch.path, batch.group, batch.label.tolist(), score.tolist(), strict=True
            ):
                items.append({"id": Path(path).name, "group": group, "label": label, "score": value})
        columns = [[item[key] for item in items] for key in ("label", "score", "group")]
        return {
            "metrics": {"auc": metric_interval("auc", *columns, draws=100).to_json()},
            "primary": "auc",
            "items": items,
            "pictures": [],
            "notes": ["intervals run over groups"],
        }

    def predict(self, method, inputs, out, using):
        paths = [p for item in inputs for p in (files(item) if Path(item).is_dir() else [Path(item)])]
        return Answers(len(paths), self._rows(method, paths, using.device), ("Points only.",))

    def _rows(self, method, paths, device):
        for path in paths:
            try:
                point = read(path)
            except BadInput as error:
                yield Row(str(path), error=str(error))
                continue
            with torch.no_grad():
                point.x = point.x[None].to(device)
                yield Row(str(path), {"score": float(method.predict(point)), "bf16": torch.is_autocast_enabled("cpu")})

    def demo(self, data, out, *, seed=0, device="cpu", max_steps=None):
        (out / "report.html").write_text("<p>toy</p>")
        return Demo(out / "report.html", (f"auc 1.000 on {data}",), {"auc": 1.0})


ROOM = ToyRoom()
