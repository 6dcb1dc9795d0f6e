# SPDX-License-Identifier: Apache-2.0
"""mien: fifty published methods for images of people and the models behind them, under one roof.

>>> import mien
>>> [entry.name for entry in mien.list_methods(family="privacy", available=True)]
['pro-face-s']

`create`, `load`, `train`, `evaluate`, `predict` and `audit` import what they need when they are first used; importing
mien itself takes a few milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mien._version import __version__
from mien.catalog import find, list_methods

if TYPE_CHECKING:
    from mien.api import create, evaluate, load, predict, train
    from mien.forensics.audit.run import audit

__all__ = ["__version__", "audit", "create", "evaluate", "find", "list_methods", "load", "predict", "train"]

_LAZY = dict.fromkeys(("create", "evaluate", "load", "predict", "train"), "mien.api")
_LAZY["audit"] = "mien.forensics.audit.run"


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'mien' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
