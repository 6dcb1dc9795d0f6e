# SPDX-License-Identifier: Apache-2.0
"""The run folder: what was run, on what, with what, and what came out.

config.json      method, its configuration, schedule, settings, and how the command line got there
versions.json    versions of mien, Python and what computes
manifest.json    groups and file hashes of the training data; evaluation refuses them
metrics.jsonl    one line per interval: step, losses, learning rates; one per validation
checkpoints/     last.safetensors: everything a resume needs
best/, model/    saved folders: the weights that validated best, and the final ones
clients/         saved folders of federated clients with weights of their own, after the last round; in best/, too,
                 those of its round
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mien._version import __version__
from mien.engine.method import Method
from mien.engine.schedule import Phase
from mien.engine.settings import Settings
from mien.errors import BadInput
from mien.files import write_json

FORMAT = 1
LAST = Path("checkpoints") / "last.safetensors"


def _is_left_over(path: Path) -> bool:
    """Whether a file is what a start that was killed leaves: it is written anew."""
    return path.name in ("manifest.json", "versions.json") or (path.name.startswith(".") and path.suffix == ".tmp")


class Run:
    """A run folder, or nothing at all (`folder` None): then nothing is written.

    Args:
        folder: Where the run lives.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._created = False
        self._metrics: Any = None
        self._board: Any = None

    @property
    def checkpoint(self) -> Path | None:
        """Where the last checkpoint is or will be."""
        return self.folder / LAST if self.folder else None

    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return self.folder is not None and (self.folder / "config.json").is_file()

    def create(self, config: dict[str, Any], manifest: dict[str, Any]) -> None:
        """Start a new run. Raises BadInput when the folder already holds one or something else."""
        if self.folder is None:
            return
        if self.folder.exists() and (not self.folder.is_dir() or not all(map(_is_left_over, self.folder.iterdir()))):
            what = "a run: resume it" if (self.folder / "config.json").exists() else "something else: choose another"
            raise BadInput(f"{self.folder} already holds {what}, or give another --out")
        self._created = True
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "manifest.json", {"format": FORMAT, **manifest})
        write_json(self.folder / "versions.json", versions())
        write_json(self.folder / "config.json", {"format": FORMAT, **config})  # last: it makes the folder a run

    def discard(self) -> None:
        """Remove the folder, if this run has made it: what was begun in vain must not be in the way of a next try."""
        self.close()
        if self.folder is not None and self._created:
            shutil.rmtree(self.folder)

    def open_metrics(self, keep: int, tensorboard: bool, step: int) -> None:
        """Append to the metrics from byte `keep` on; what a killed process wrote after its checkpoint is cut."""
        if self.folder is None:
            return
        path = self.folder / "metrics.jsonl"
        self._metrics = path.open("ab")
        self._metrics.truncate(keep)
        if tensorboard:
            self._board = _tensorboard(self.folder / "tensorboard", step)

    def write_metrics(self, line: dict[str, Any]) -> int:
        """Append one line; gives the size of the file, which the next checkpoint remembers."""
        if self._metrics is None:
            return 0
        self._metrics.write((json.dumps({**line, "time": round(time.time(), 3)}) + "\n").encode())
        self._metrics.flush()
        if self._board is not None:
            for group in ("losses", "logged", "lr", "validation"):
                for name, value in line.get(group, {}).items():
                    self._board.add_scalar(f"{group}/{name}", value, line["step"])
        return int(self._metrics.tell())

    def close(self) -> None:
        """Close the metrics."""
        for file in (self._metrics, self._board):
            if file is not None:
                file.close()
        self._metrics = self._board = None

    def read(self, name: str) -> dict[str, Any]:
        """One of the folder's JSON files. Raises BadInput when it is not a run or is from a newer mien."""
        if self.folder is None or not (self.folder / name).is_file():
            raise BadInput(f"{self.folder} is not a run folder: it has no {name}")
        try:
            value = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise BadInput(f"{self.folder / name} is not JSON: {error}") from error
        if isinstance(value, dict) and value.get("format", 1) > FORMAT:
            raise BadInput(
                f"{self.folder / name} has format {value['format']}: this mien reads up to {FORMAT}; update mien"
            )
        return dict(value)


def run_config(method: Method, schedule: Any, settings: Settings, strategies: Any, origin: Any) -> dict[str, Any]:
    """What config.json says of a run."""
    return {
        "method": method.name,
        "class": f"{type(method).__module__}:{type(method).__qualname__}",
        "method_config": method.config(),
        "schedule": {"kind": type(schedule).__name__, **asdict(schedule)},
        "settings": asdict(settings),
        "strategies": [type(strategy).__name__ for strategy in strategies],
        "origin": origin,
    }


def versions() -> dict[str, Any]:
    """Versions of mien, Python, the platform and the packages that compute."""
    found: dict[str, str | None] = {}
    for package in ("torch", "torchvision", "timm", "lightning-fabric", "numpy", "scipy", "scikit-learn", "pillow"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return {
        "mien": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "packages": found,
    }


def commit(source: Path = Path(__file__).parents[2]) -> str | None:
    """The commit of the checkout that `source` lies in, with -dirty where files of `source` differ from it.

    None where there is no checkout, as for an installed package.
    """
    found = _git(source, "rev-parse", "HEAD")
    return f"{found}-dirty" if found and _git(source, "status", "--porcelain", "--", ".") else found


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        found = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None


def phase_from(plain: dict[str, Any]) -> Phase:
    """A phase from its JSON form."""
    return Phase(**plain)


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        from mien.errors import MissingExtra

        raise MissingExtra("tensorboard=True", "tensorboard") from None
    return SummaryWriter(str(folder), purge_step=step or None)
