# SPDX-License-Identifier: Apache-2.0
"""WEIGHTS as a user gives them: a folder, a method's name, or a method; and what they were trained on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mien import catalog
from mien.configure import build
from mien.data.folders import fingerprints
from mien.engine import Method, load_weights, saved_folder
from mien.engine.pretrained import read_config
from mien.errors import BadInput


@dataclass(frozen=True)
class Opened:
    """A method that can answer.

    Args:
        method: In eval mode, on `device`.
        device: Where it is.
        folder: Where it came from, as the user gave it (a folder, or a method's name), or None.
        manifest: What it was trained on, or None when that is not recorded.
    """

    method: Method
    device: torch.device
    folder: Path | None
    manifest: Mapping[str, Any] | None

    @property
    def trained_on(self) -> str:
        """The line that stands above every verdict."""
        if self.manifest is None:
            return f"What this {self.method.name} was trained on is not recorded. A score is not evidence."
        what = self.manifest.get("description") or "data without a description"
        return f"This {self.method.name} was trained on: {what}. A score is not evidence."


def open_weights(weights: str | Path | Method, device: torch.device) -> Opened:
    """The method that `weights` stands for. Raises BadInput when there is nothing to load.

    Args:
        weights: A run folder, a saved folder, the name of a method that comes with weights, or a method. A folder
            that exists is taken before a method of the same name.
        device: Where to put it.
    """
    if isinstance(weights, Method):
        return Opened(weights.to(device).eval(), device, None, weights.__dict__.get("_trained_on"))
    folder = Path(weights) if Path(weights).exists() else catalog.shipped(str(weights))
    if folder is None:
        raise _missing(str(weights))
    saved = saved_folder(folder)
    record = read_config(saved)
    if not isinstance(record.get("method"), str) or not isinstance(record.get("config"), dict):
        raise BadInput(f"{saved / 'config.json'} is not the record of a saved method: it names no method")
    cls = catalog.resolve(record["method"])
    method = build(cls, without_downloads(record["config"]), record["method"])
    load_weights(method, saved)
    return Opened(method.to(device).eval(), device, Path(weights), _manifest(folder, saved))


def without_downloads(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without first weights from elsewhere: all weights come from the saved file.

    >>> without_downloads({"network": {"name": "xception", "pretrained": True, "weights": "x.pth"}})
    {'network': {'name': 'xception', 'pretrained': False, 'weights': None}}
    """
    plain = {name: without_downloads(value) if isinstance(value, Mapping) else value for name, value in config.items()}
    if "pretrained" in plain:
        plain["pretrained"] = False
        if "weights" in plain:
            plain["weights"] = None
    return plain


def check_unseen(
    trained: Mapping[str, Any] | None,
    test: Mapping[str, Any],
    *,
    allow_same_names: bool = False,
    source: str | Path | None = None,
) -> str:
    """Raise BadInput when test data occur in what a model was trained on; else say what was checked.

    Args:
        trained: The run's manifest, or None when there is none.
        test: The manifest of the test data.
        allow_same_names: Whether groups of the same name are different persons or videos.
        source: Where the test data lie, to name a file that was trained on.
    """
    if trained is None:
        return "Whether the model has seen these data could not be checked: it has no training manifest."
    files = _common(trained, test, "files")
    if files:
        raise BadInput(
            f"the model was trained on {len(files)} of {len(test['files'])} test files: leave them out, or evaluate on "
            f"files it has not seen (the first {_named(files, source)})"
        )
    groups = _common(trained, test, "groups")
    if groups and not allow_same_names:
        shown = ", ".join(groups[:3]) + (", ..." if len(groups) > 3 else "")
        raise BadInput(
            f"the model was trained on {len(groups)} of {len(test['groups'])} test groups ({shown}): evaluate on "
            "persons or videos it has not seen, or add --allow-same-names if they only share their names"
        )
    if groups:
        return f"{len(groups)} groups have the same names in training and test data; the user said they are different."
    return "No group and no file of these data is in the training manifest."


def _named(files: Sequence[str], source: str | Path | None) -> str:
    """Which file it is, for the reader of an error."""
    if source is not None and Path(source).is_dir():
        for path in sorted(path for path in Path(source).rglob("*") if path.is_file() and os.access(path, os.R_OK)):
            if fingerprints([path])[0] in files:
                return f"is {path}"
    return f"has SHA-256 {files[0][:12]}..."


def _common(trained: Mapping[str, Any], test: Mapping[str, Any], what: str) -> list[str]:
    return sorted(set(trained.get(what) or ()) & set(test.get(what) or ()))


def _manifest(folder: Path, saved: Path) -> dict[str, Any] | None:
    """The manifest beside the weights: in the run folder, or above its `best`, `model` or a client's folder."""
    places = [folder, saved] + ([saved.parent] if saved.name in ("best", "model") else [])
    if saved.parent.name == "clients":
        above = saved.parent.parent
        places += [above, above.parent] if above.name == "best" else [above]
    for place in places:
        path = place / "manifest.json"
        if path.is_file():
            try:
                manifest = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise BadInput(f"{path} is not JSON: {error}") from error
            if not isinstance(manifest, dict):
                raise BadInput(f"{path} is not a manifest: it holds a {type(manifest).__name__}")
            return manifest
    return None


def _missing(name: str) -> BadInput:
    try:
        entry = catalog.find(name)
    except BadInput:
        return BadInput(f"{name} does not exist: give a run folder or a saved folder")
    if not entry.available:
        return BadInput(f"method {name!r} is planned, not available yet")
    return BadInput(
        f"{name!r} comes without trained weights: train it first (mien train {name} --data DIR), "
        "then give the run folder"
    )
