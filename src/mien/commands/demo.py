# SPDX-License-Identifier: Apache-2.0
"""`mien demo`: train small, evaluate on what was not seen, write one HTML report."""

from __future__ import annotations

from pathlib import Path

from mien.catalog import FAMILIES, load_object
from mien.commands._parser import Parser, add_run_options, set_threads
from mien.errors import BadInput, unknown_name


def run(arguments: list[str]) -> int:
    """Run a family's demo."""
    ready = [family for family, address in FAMILIES.items() if address is not None]
    parser = Parser("demo", "Train small, evaluate on what was not seen, and write one HTML report, in minutes.")
    parser.add_argument("--data", default="embedded", metavar="DIR", help="faces of your own (a folder per person)")
    parser.add_argument("--family", default="forensics", help=", ".join(ready))
    add_run_options(parser, out="the report and everything it was made from")
    parser.set_defaults(out="demo")
    given = parser.read(arguments)
    if given.family not in FAMILIES:
        raise unknown_name("family", given.family, FAMILIES)
    address = FAMILIES[given.family]
    if address is None:
        raise BadInput(f"family {given.family!r} is planned, not available yet: there are demos of {', '.join(ready)}")
    if given.data != "embedded" and not Path(given.data).exists():
        raise BadInput(f"--data: {given.data} does not exist: give a folder, or 'embedded'")
    set_threads(given.threads)

    from mien.engine.ranks import choose_device

    device = str(choose_device(given.device))
    out = Path(given.out)
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out: {out} is a file: give a folder")
    out.mkdir(parents=True, exist_ok=True)
    found = load_object(address).demo(given.data, out, seed=given.seed, device=device, max_steps=given.max_steps)
    for line in found.lines:
        print(line)
    print(f"report: {found.report}")
    return 0
