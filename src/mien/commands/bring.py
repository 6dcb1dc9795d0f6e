# SPDX-License-Identifier: Apache-2.0
"""`mien import NAME FILE --out DIR`: weights that others published, as a saved folder."""

from __future__ import annotations

from pathlib import Path

from mien.catalog import IMPORTS, load_object
from mien.commands._parser import Parser
from mien.errors import BadInput, unknown_name


def run(arguments: list[str]) -> int:
    """Read a published weights file and save it as a method that can be evaluated, asked and audited."""
    parser = Parser("import", "Weights that others published, as a saved folder for evaluate, predict and audit.")
    parser.add_argument("name", metavar="NAME", help=f"whose weights they are: {', '.join(IMPORTS)}")
    parser.add_argument("file", metavar="FILE", help="the published file (mesonet: Keras HDF5)")
    parser.add_argument("--out", required=True, metavar="DIR", help="the saved folder")
    given = parser.read(arguments)
    if given.name not in IMPORTS:
        raise unknown_name("published weights", given.name, IMPORTS)
    out = Path(given.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} is there already: give a new folder")
    folder = load_object(IMPORTS[given.name])(given.file, out)
    print(f"written: {folder}")
    print(f"next: mien evaluate {folder} --data DIR, or mien predict {folder} FILES...")
    return 0
