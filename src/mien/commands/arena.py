# SPDX-License-Identifier: Apache-2.0
"""`mien arena FAMILY --data DIR`: all methods of a family under one protocol, on one page."""

from __future__ import annotations

from pathlib import Path

from mien.catalog import ARENAS, FAMILIES, load_object
from mien.commands._parser import Parser, natural, positive
from mien.errors import BadInput, unknown_name

OUTSIDE = "a saved folder of a detector to test beside them, not trained here; may be repeated"


def run(arguments: list[str]) -> int:
    """Train and test every method that is not done yet, then write the page."""
    parser = Parser("arena", "Train and test all detectors of a family under one protocol, and write one page.")
    parser.add_argument("family", metavar="FAMILY", help="forensics")
    parser.add_argument("--data", default="embedded", metavar="DIR", help="a folder per person, or one with labels.csv")
    parser.add_argument("--methods", metavar="A,B", help="only these (default: all that the family has)")
    parser.add_argument("--with", dest="outside", action="append", default=[], metavar="DIR", help=OUTSIDE)
    parser.add_argument("--group-by", metavar="COLUMN", help="compare the groups of a column of labels.csv")
    parser.add_argument("--epochs", type=positive, default=6, metavar="N", help="passes over the training faces")
    parser.add_argument("--train-faces", type=positive, default=1000, metavar="N", help="most faces to train on")
    parser.add_argument("--test-faces", type=positive, default=400, metavar="N", help="most faces to test on")
    parser.add_argument("--strict", action="store_true", help="refuse forgeries that thumbnails betray")
    parser.add_argument("--seed", type=natural, default=0, help="everything that is drawn follows from it")
    parser.add_argument("--max-steps", type=positive, metavar="N", help="a smaller budget, to try it out")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="methods at the same time")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="CPU threads of each")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--out", default="results/arena", metavar="DIR", help="the page, its JSON and the pieces")
    given = parser.read(arguments)
    if given.family not in FAMILIES:
        raise unknown_name("family", given.family, FAMILIES)
    if given.data != "embedded" and not Path(given.data).exists():
        raise BadInput(f"--data: {given.data} does not exist: give a folder, or 'embedded'")
    for folder in given.outside:
        if not Path(folder).is_dir():
            raise BadInput(f"--with: {folder} is no folder: give one that holds a saved detector")
    if given.family not in ARENAS:
        raise BadInput(f"family {given.family!r} has no arena: there are arenas of {', '.join(ARENAS)}")

    from mien.engine.ranks import choose_device

    options = {k: v for k, v in vars(given).items() if k not in ("family", "out", "device")}
    device = str(choose_device(given.device))
    written = load_object(ARENAS[given.family])(out=Path(given.out), device=device, **options)
    for path in written:
        print(f"written: {path}")
    return 0
