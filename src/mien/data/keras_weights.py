# SPDX-License-Identifier: Apache-2.0
"""Weights in Keras's HDF5 files, read without running or building anything that the file describes.

A weights file is a tree: a group for each layer, and in it arrays such as kernel:0 and bias:0. Only such arrays are
read, by their path. Descriptions of models, training settings and pickled layers in attributes are never looked at.

A file is not trusted: every step of a path must be an ordinary link inside the file (no soft and no external links),
an array must lie in the file itself (no external storage, no virtual arrays), hold 16-, 32- or 64-bit floats, be
unpacked or packed by gzip (no filters from libraries), and all sizes are capped before anything is read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.data.listing import natural_key, printable
from mien.errors import BadInput, MissingExtra

MAX_FILE = 1 << 30
MAX_VALUES = 1 << 28
MAX_LAYERS = 10_000
_DEPTH = 8
_SIGNATURE = b"\x89HDF\r\n\x1a\n"

Layers = dict[str, dict[str, NDArray[np.float32]]]
"""Layer -> array ("kernel", "bias", ...) -> values. Layers without arrays are there, too."""


def read_keras_weights(file: str | os.PathLike[str]) -> Layers:
    """All weights of a Keras HDF5 file (`save_weights`, or the weights part of `model.save`).

    Args:
        file: The .h5 file.

    Returns:
        Layers by name in natural order, arrays by their last name without ":0".

    Raises:
        BadInput: The file is no such file, too large, damaged, or holds what is not read (see the module's text).
        MissingExtra: h5py is not installed.
    """
    path = Path(file)
    shown = printable(str(path))
    try:
        import h5py
    except ImportError as error:
        raise MissingExtra("a Keras weights file", "hdf5") from error
    _check_file(path, shown)
    try:
        with h5py.File(path, "r", locking=False) as opened:
            root = _step(opened, "model_weights", shown) if "model_weights" in opened else opened
            reader = _Reader(shown)
            for name in root:
                reader.layer(str(name), _step(root, name, shown))
            return {name: reader.layers[name] for name in sorted(reader.layers, key=natural_key)}
    except BadInput:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, RecursionError, MemoryError, UnicodeError) as error:
        reason = printable((str(error).splitlines() or [type(error).__name__])[0][:160])
        raise BadInput(f"{shown}: cannot be read as HDF5 ({reason})") from error


def _check_file(path: Path, shown: str) -> None:
    try:
        if not path.is_file():
            raise BadInput(f"{shown} does not exist, or is no file")
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(len(_SIGNATURE))
    except OSError as error:
        raise BadInput(f"{shown}: cannot be read ({error.strerror or error})") from error
    if size > MAX_FILE:
        raise BadInput(f"{shown}: {size:,} bytes, at most {MAX_FILE:,} are allowed")
    if start != _SIGNATURE:
        raise BadInput(f"{shown}: not an HDF5 file")


def _step(group: Any, name: str, shown: str) -> Any:
    """What lies under a name, if an ordinary link leads there."""
    import h5py

    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise BadInput(f"{shown}: {printable(str(name))} is a {type(link).__name__}: only ordinary links are followed")
    return group[name]


class _Reader:
    """Collects arrays, and counts what has been read."""

    def __init__(self, shown: str) -> None:
        self.shown = shown
        self.layers: Layers = {}
        self.values = 0
        self.groups = 0

    def layer(self, name: str, node: Any) -> None:
        self.layers[name] = {}
        self._walk(name, node, depth=0)

    def _walk(self, layer: str, node: Any, depth: int) -> None:
        import h5py

        self.groups += 1
        if self.groups > MAX_LAYERS or depth > _DEPTH:
            raise BadInput(f"{self.shown}: more than {MAX_LAYERS} groups, or more than {_DEPTH} inside each other")
        if isinstance(node, h5py.Dataset):
            raise BadInput(f"{self.shown}: {printable(layer)} is an array, not a layer with arrays in it")
        for name in node:
            child = _step(node, name, self.shown)
            if isinstance(child, h5py.Dataset):
                short = str(name).removesuffix(":0")
                if short in self.layers[layer]:
                    raise BadInput(f"{self.shown}: layer {printable(layer)} has two arrays {printable(short)}")
                self.layers[layer][short] = self._array(child, f"{layer}/{name}")
            elif isinstance(child, h5py.Group):
                self._walk(layer, child, depth + 1)
            else:
                raise BadInput(f"{self.shown}: {printable(f'{layer}/{name}')} is neither a group nor an array")

    def _array(self, data: Any, name: str) -> NDArray[np.float32]:
        where = f"{self.shown}: array {printable(name)}"
        if data.external is not None or data.is_virtual:
            raise BadInput(f"{where} lies outside the file")
        if data.dtype.kind != "f" or data.dtype.itemsize not in (2, 4, 8):
            raise BadInput(f"{where} is {data.dtype}: floats of 16, 32 or 64 bits are read")
        if data.shape is None or len(data.shape) > 5:
            raise BadInput(f"{where} has shape {data.shape}: one to five axes are read")
        self.values += int(np.prod([int(size) for size in data.shape], dtype=object))
        if self.values > MAX_VALUES:
            raise BadInput(f"{where}: more than {MAX_VALUES:,} values")
        properties = data.id.get_create_plist()
        filters = {properties.get_filter(i)[0] for i in range(properties.get_nfilters())}
        if not filters <= {1, 2, 3}:  # deflate, shuffle, checksum: those inside the library itself
            raise BadInput(f"{where} is packed by a filter that is not read")
        values = np.asarray(data[()], dtype=np.float32)
        if not np.isfinite(values).all():
            raise BadInput(f"{where} holds NaN or infinity")
        return values
