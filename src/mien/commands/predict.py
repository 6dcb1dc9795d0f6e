# SPDX-License-Identifier: Apache-2.0
"""`mien predict WEIGHTS FILES...`: answers for files, folders and frame folders, as a table, CSV or JSON."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from mien.commands._apply import WEIGHTS, add_apply_options, apply_options, say
from mien.commands._parser import COMPUTE_DEVICES, Parser, positive, set_threads
from mien.commands._table import FORMATS, Table, table_file
from mien.progress import Progress
from mien.room import Answers, Row


def run(arguments: list[str]) -> int:
    """Predict; 1 when some files could not be read, which are listed at the end."""
    parser = Parser("predict", "Answers for image files, folders of images and folders of frames.")
    parser.add_argument("weights", metavar="WEIGHTS", help=WEIGHTS)
    parser.add_argument("inputs", metavar="FILES", nargs="+", help="image files, folders, folders of frames")
    parser.add_argument("--format", choices=tuple(FORMATS), help="default: table on a terminal, else csv")
    parser.add_argument("--every", type=positive, default=5, metavar="N", help="of a video file, every N-th frame")
    parser.add_argument("--no-pictures", action="store_true", help="no evidence pictures in --out")
    add_apply_options(
        parser,
        out="predictions.csv (or .json) and evidence pictures",
        device=f"{COMPUTE_DEVICES}; or a device whose latency a predictor predicts, which is then the target",
    )
    given = parser.read(arguments)
    set_threads(given.threads)

    from mien.api import predict
    from mien.engine.ranks import choose_device, names_device

    out = None if given.out is None or given.dry_run else Path(given.out)
    options = apply_options(given)
    answers = predict(given.weights, given.inputs, out, pictures=not given.no_pictures, every=given.every, **options)
    if given.dry_run:
        from mien.rehearsal import rehearse_rows

        computes_on = given.device if names_device(given.device) else "auto"
        print("\n".join(rehearse_rows(answers, given.batch_size, choose_device(computes_on))))
        return 0
    terminal = sys.stdout.isatty()
    kind = given.format or ("table" if terminal else "csv")
    failed = _write(answers, kind, out, terminal)
    say(answers.notes)
    for row in failed:
        error = str(row.error).removeprefix(f"{row.path}: ")  # what the opener says begins with the path
        print(f"failed: {row.path}: {error}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {answers.total} failed", file=sys.stderr)
    return 1 if failed else 0


def _write(answers: Answers, kind: str, out: Path | None, terminal: bool) -> list[Row]:
    """Write every row to stdout, to a file in `out`, or both; give the rows without an answer."""
    failed: list[Row] = []
    file = None if out is None else out / ("predictions.json" if kind == "json" else "predictions.csv")
    with ExitStack() as stack:
        tables: list[Table] = []
        if file is not None:
            tables.append(stack.enter_context(table_file(file, "json" if kind == "json" else "csv")))
        if file is None or (terminal and kind == "table"):
            tables.append(FORMATS[kind](sys.stdout))
        with Progress(answers.total, "predict") as progress:
            for row in answers:
                for table in tables:
                    table.add(row)
                if row.error is not None:
                    failed.append(row)
                progress.advance()
        for table in tables:
            table.close(answers.notes)
    if file is not None:
        print(f"written: {file}")
    return failed
