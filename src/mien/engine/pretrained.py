# SPDX-License-Identifier: Apache-2.0
"""Saved methods: a folder with model.safetensors, config.json and a model card. Nothing in it can run code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mien._version import __version__
from mien.engine.method import Method, build
from mien.engine.run import phase_from
from mien.engine.schedule import Phase
from mien.engine.state import load_module_state, load_state, module_state, save_state
from mien.errors import BadInput
from mien.files import whole_folder, write_json, write_text

FORMAT = 1
WEIGHTS = "weights"


def save_pretrained(
    method: Method, folder: str | Path, *, phases: Sequence[Phase] = (), card: str | None = None
) -> Path:
    """Write weights, configuration and model card; a folder that is there is replaced when it is a saved method.

    Args:
        method: The method.
        folder: Where; made if it is not there.
        phases: The phases that built its structure, replayed on loading (grown heads, adapters).
        card: Markdown of the model card; by default the method's own.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / "config.json").exists():
        raise BadInput(f"{folder} holds something else than a saved method: choose another folder")
    with whole_folder(folder) as temporary:
        save_state(temporary / "model.safetensors", module_state(method), WEIGHTS)
        config = {
            "format": FORMAT,
            "mien": __version__,
            "method": method.name,
            "config": method.config(),
            "phases": [asdict(phase) for phase in phases],
        }
        write_json(temporary / "config.json", config)
        write_text(temporary / "README.md", card if card is not None else method.card())
    return folder


def saved_folder(path: str | Path) -> Path:
    """The folder with the weights: `path` itself, or a run's best or final model. Raises BadInput without one."""
    path = Path(path)
    if not path.is_dir():
        raise BadInput(f"{path} does not exist: give a run folder or a saved folder")
    for candidate in (path, path / "best", path / "model"):
        if (candidate / "model.safetensors").is_file():
            return candidate
    if (path / "checkpoints").is_dir():
        raise BadInput(f"{path} is an unfinished run without weights to use: finish it with mien train --resume {path}")
    raise BadInput(f"{path} is neither a run folder nor a saved folder: it has no model.safetensors")


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a saved folder. Raises BadInput for a broken or newer one."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder / 'config.json'} cannot be read: {error}") from error
    version = config.get("format") if isinstance(config, dict) else None
    if not isinstance(version, int) or version > FORMAT:
        raise BadInput(f"{folder / 'config.json'} has format {version}: this mien reads up to {FORMAT}; update mien")
    return dict(config)


def load_weights(method: Method, path: str | Path, *, phases: Sequence[Phase] = ()) -> None:
    """Load saved weights into a method of the same kind and configuration."""
    path = Path(path)
    if path.is_dir():
        path = saved_folder(path)
        config = read_config(path)
        if config["method"] != method.name:
            raise BadInput(f"{path} holds weights of {config['method']!r}: they cannot be loaded into {method.name!r}")
        phases = [phase_from(plain) for plain in config["phases"]]
        path = path / "model.safetensors"
    for phase in phases:
        build(method, phase)
    try:
        state = load_state(path, WEIGHTS)
    except SafetensorError as error:
        raise BadInput(f"{path} is not a safetensors file: {error}") from error
    load_module_state(method, state, method.dynamic_buffers)
