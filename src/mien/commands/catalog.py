# SPDX-License-Identifier: Apache-2.0
"""`mien list` and `mien info`: what the catalog says."""

from __future__ import annotations

import shutil
import sys
import textwrap

from mien.catalog import FAMILIES, Entry, bibtex, find, list_methods, shipped
from mien.commands._parser import Parser
from mien.errors import unknown_name


def run_list(arguments: list[str]) -> int:
    """`mien list [--family F] [--available]`."""
    parser = Parser("list", "The methods: name, status, family, task.")
    parser.add_argument("--family", metavar="FAMILY", help=", ".join(FAMILIES))
    parser.add_argument("--available", action="store_true", help="only those that can be used now")
    given = parser.read(arguments)
    if given.family is not None and given.family not in FAMILIES:
        raise unknown_name("family", given.family, FAMILIES)
    rows = list_methods(given.family, True if given.available else None, baselines=True)
    if sys.stdout.isatty():
        _print_columns(rows)
    else:
        for entry in rows:
            print(entry.name, entry.status, entry.family, entry.task, sep="\t")
    return 0


def _print_columns(rows: list[Entry]) -> None:
    columns = [[entry.name, entry.status, entry.family] for entry in rows]
    widths = [max((len(row[i]) for row in columns), default=0) for i in range(3)]
    room = max(shutil.get_terminal_size().columns - sum(widths) - 6, 30)
    for entry, row in zip(rows, columns, strict=True):
        start = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        print(f"{start}  {textwrap.shorten(entry.task, room, placeholder=' ...')}")


def run_info(arguments: list[str]) -> int:
    """`mien info NAME [--bibtex]`."""
    parser = Parser("info", "One method: its paper, task and state.")
    parser.add_argument("name", metavar="NAME", help="a name that mien list prints")
    parser.add_argument("--bibtex", action="store_true", help="print a BibTeX entry and nothing else")
    given = parser.read(arguments)
    entry = find(given.name)
    if given.bibtex:
        print(bibtex(entry))
        return 0
    for name, value in _facts(entry).items():
        if value:
            print(f"{name + ':':<12}{value}")
    return 0


def _facts(entry: Entry) -> dict[str, str]:
    training = {"single": "one phase", "none": "none"}.get(entry.training, entry.training)
    return {
        "name": entry.name,
        "title": entry.title,
        "authors": ", ".join(entry.authors),
        "venue": f"{entry.venue} {entry.year}" if entry.venue else "",
        "paper": entry.paper,
        "family": entry.family,
        "task": entry.task,
        "training": f"{training}; {entry.note}" if entry.note else training,
        "status": entry.status,
        "weights": "come with mien" if shipped(entry.name) else "",
        "module": entry.module.replace(":", ".") if entry.available else "",
        "options": f"mien train {entry.name} --help" if entry.available else "",
    }
