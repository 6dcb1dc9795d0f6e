# SPDX-License-Identifier: Apache-2.0
"""Every example in a docstring says what really comes out."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import mien
from mien.engine.seeding import kept_generators, seed_all

ROOT = Path(mien.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))


def module_of(path: Path) -> str:
    return ".".join(("mien", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


@pytest.mark.parametrize("module", [module_of(path) for path in FILES])
def test_examples_hold(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with kept_generators():
        seed_all(0)
        found = doctest.testmod(importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted
    assert not found.failed, "see the report above"


def test_there_are_examples():
    assert len(FILES) > 50
