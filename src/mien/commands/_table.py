# SPDX-License-Identifier: Apache-2.0
"""Rows of answers as CSV or JSON, written as they come, or as a table for a terminal."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from mien.data.listing import printable
from mien.files import whole_file
from mien.room import Row


class CsvTable:
    """path, the values, error: one line per row, the header from the first row with values."""

    def __init__(self, stream: TextIO) -> None:
        self._writer = csv.writer(stream, lineterminator="\n")
        self._columns: list[str] | None = None
        self._waiting: list[Row] = []

    def add(self, row: Row) -> None:
        """Write a row. Broken files that come before the first answer wait for the header."""
        if self._columns is None and not row.values:
            self._waiting.append(row)
            return
        if self._columns is None:
            self._begin(list(row.values))
        self._write(row)

    def close(self, notes: Sequence[str]) -> None:
        """Write what waited in vain. CSV has no place for notes."""
        if self._columns is None:
            self._begin([])

    def _begin(self, columns: list[str]) -> None:
        self._columns = columns
        self._writer.writerow(["path", *columns, "error"])
        for row in self._waiting:
            self._write(row)
        self._waiting = []

    def _write(self, row: Row) -> None:
        values = [row.values.get(name) for name in self._columns or ()]
        self._writer.writerow([row.path, *values, row.error or ""])


class JsonTable:
    """{"rows": [{"path": ..., "values": {...}, "error": null}, ...], "notes": [...]}, one row per line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._between = '{"rows": [\n'

    def add(self, row: Row) -> None:
        """Write a row."""
        line = json.dumps({"path": row.path, "values": row.values, "error": row.error}, allow_nan=False)
        self._stream.write(self._between + line)
        self._between = ",\n"

    def close(self, notes: Sequence[str]) -> None:
        """Write the notes."""
        start = self._between if self._between.startswith("{") else "\n"
        self._stream.write(f'{start}], "notes": {json.dumps(list(notes))}}}\n')


class TerminalTable:
    """Aligned columns with the path last, so that it is never cut or wrapped by the table. Kept until the end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Keep a row."""
        self._rows.append(row)

    def close(self, notes: Sequence[str]) -> None:
        """Print the rows that have an answer; broken files are listed elsewhere."""
        rows = [row for row in self._rows if row.error is None]
        if not rows:
            return
        columns = list(rows[0].values)
        cells = [columns, *([_text(row.values.get(name)) for name in columns] for row in rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
        for line, path in zip(cells, ["path", *(printable(row.path) for row in rows)], strict=True):
            start = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            print(f"{start}  {path}", file=self._stream)


Table = CsvTable | JsonTable | TerminalTable
FORMATS: dict[str, type[CsvTable] | type[JsonTable] | type[TerminalTable]] = {
    "table": TerminalTable,
    "csv": CsvTable,
    "json": JsonTable,
}


@contextmanager
def table_file(path: Path, kind: str) -> Iterator[Table]:
    """A table in a file that is whole or not there."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        yield FORMATS[kind](stream)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
