# SPDX-License-Identifier: Apache-2.0
"""State on disk: a tree of dicts, lists, numbers, strings and tensors in one safetensors file.

The tensors are the file's tensors; everything else is JSON in its header. Nothing is pickled. One file means that one
rename makes a checkpoint: a killed process leaves the old one or the new one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mien.errors import BadInput, TrainingStopped
from mien.files import whole_file

FORMAT = 1


def encode(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Split a tree into JSON with place-holders and the tensors they stand for.

    Tensors that are the same memory (tied weights) are stored once. Raises TypeError for any other kind of value.
    """
    tensors: dict[str, Tensor] = {}
    seen: dict[tuple[Any, ...], str] = {}

    def visit(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            identity = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
            if value.numel() == 0 or identity not in seen:
                seen[identity] = path
                tensors[path] = value.detach().cpu().contiguous()
                return {"$tensor": path}
            return {"$tensor": seen[identity]}
        if isinstance(value, Mapping):
            plain = all(isinstance(key, str) and not key.startswith("$") for key in value)
            if plain:
                return {key: visit(item, f"{path}/{key}" if path else key) for key, item in value.items()}
            return {"$items": [[visit(k, ""), visit(v, f"{path}/{k}")] for k, v in value.items()]}
        if isinstance(value, tuple):
            return {"$tuple": [visit(item, f"{path}/{i}") for i, item in enumerate(value)]}
        if isinstance(value, list):
            return [visit(item, f"{path}/{i}") for i, item in enumerate(value)]
        if isinstance(value, np.generic):
            return value.item()
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise TypeError(f"state at {path or '/'} is a {type(value).__name__}: only tensors, numbers, strings and lists")

    tree = visit(tree, "")
    shared: dict[int, int] = {}
    for key, tensor in tensors.items():  # views of one storage (slices) cannot be stored as such
        address = tensor.untyped_storage().data_ptr()
        if tensor.numel() and address in shared:
            tensors[key] = tensor.clone()
        shared[address] = 1
    return tree, tensors


def decode(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that `encode` took apart."""
    if isinstance(tree, list):
        return [decode(item, tensors) for item in tree]
    if isinstance(tree, dict):
        if "$tensor" in tree:
            return tensors[tree["$tensor"]]
        if "$tuple" in tree:
            return tuple(decode(item, tensors) for item in tree["$tuple"])
        if "$items" in tree:
            return {decode(key, tensors): decode(item, tensors) for key, item in tree["$items"]}
        return {key: decode(item, tensors) for key, item in tree.items()}
    return tree


def save_state(path: str | Path, tree: Any, kind: str) -> None:
    """Write a tree to `path`, whole or not at all. `kind` says what it is and is checked on loading.

    Raises TrainingStopped when the disk is full or the place cannot be written; what was at `path` is still there.
    """
    plain, tensors = encode(tree)
    header = {"mien": json.dumps({"format": FORMAT, "kind": kind, "tree": plain})}
    try:
        with whole_file(path) as temporary:
            save_file(tensors, temporary, metadata=header)
    except (OSError, SafetensorError) as error:
        old = "the earlier file is intact" if Path(path).exists() else "no earlier file was there"
        raise TrainingStopped(f"cannot write {path}: {error}; {old}") from error


def load_state(path: str | Path, kind: str) -> Any:
    """Read a tree back. Raises BadInput for a file that is not there, not mien's, of another kind or newer."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path} does not exist: expected a {kind} file")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("mien", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()} if header else {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as a {kind} file: {error}") from error
    if not isinstance(header, dict) or header.get("kind") != kind:
        found = header.get("kind") if isinstance(header, dict) else "a file that mien did not write"
        raise BadInput(f"{path} is not a {kind} file: it is {found}")
    return decode(migrate(header, path)["tree"], tensors)


def migrate(header: dict[str, Any], path: Path) -> dict[str, Any]:
    """Bring an older header to the current format, one version after the other; a newer one is refused."""
    version = header.get("format")
    if not isinstance(version, int) or version < 1 or version > FORMAT:
        raise BadInput(f"{path} has format {version}: this mien reads formats 1 to {FORMAT}; update mien")
    for step in MIGRATIONS[version - 1 :]:
        header = step(header)
    return header


MIGRATIONS: list[Any] = []
"""`MIGRATIONS[i]` turns a header of format i + 1 into one of format i + 2."""


def module_state(module: torch.nn.Module) -> dict[str, Any]:
    """Parameters, persistent buffers and extra state by name."""
    return dict(module.state_dict())


def load_module_state(module: torch.nn.Module, state: Mapping[str, Any], dynamic: tuple[str, ...] = ()) -> None:
    """Load `module_state`; buffers named in `dynamic` first take the stored size.

    Raises BadInput when names or shapes do not fit.
    """
    for name in dynamic:
        if name in state:
            owner, _, leaf = name.rpartition(".")
            holder = module.get_submodule(owner)
            current = holder._buffers[leaf]
            if current is None or current.shape != state[name].shape:
                device = next((p.device for p in module.parameters()), state[name].device)
                holder._buffers[leaf] = torch.empty_like(state[name], device=device)
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise BadInput(f"the weights do not fit {type(module).__name__}: {first}") from error
