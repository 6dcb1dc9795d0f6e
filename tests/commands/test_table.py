# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import io
import json

import pytest

from mien.commands._table import FORMATS, table_file
from mien.room import Row

ROWS = [
    Row("first, broken.png", error="not an image"),
    Row('a "b", c.png', {"score": 0.123456789, "faces": 1, "verdict": "real"}),
    Row("long/" * 60 + "x.png", {"score": None, "faces": 0, "verdict": "no face found"}),
    Row("bad.png", error="truncated"),
]


def written(kind: str, rows: list[Row], notes: tuple[str, ...] = ("careful",)) -> str:
    stream = io.StringIO()
    table = FORMATS[kind](stream)
    for row in rows:
        table.add(row)
    table.close(notes)
    return stream.getvalue()


def test_csv_reads_back_with_broken_files_first():
    lines = list(csv.DictReader(io.StringIO(written("csv", ROWS))))
    assert [line["path"] for line in lines] == [row.path for row in ROWS]
    assert float(lines[1]["score"]) == 0.123456789
    assert lines[2] == {"path": ROWS[2].path, "score": "", "faces": "0", "verdict": "no face found", "error": ""}
    assert [line["error"] for line in lines] == ["not an image", "", "", "truncated"]


def test_csv_of_broken_files_only():
    lines = list(csv.DictReader(io.StringIO(written("csv", [ROWS[0], ROWS[3]]))))
    assert [line["error"] for line in lines] == ["not an image", "truncated"]


def test_json_reads_back():
    found = json.loads(written("json", ROWS))
    assert found["notes"] == ["careful"]
    assert [(row["path"], row["values"], row["error"]) for row in found["rows"]] == [
        (row.path, row.values, row.error) for row in ROWS
    ]
    assert json.loads(written("json", [])) == {"rows": [], "notes": ["careful"]}


def test_a_terminal_table_never_breaks_a_path():
    lines = written("table", ROWS).splitlines()
    assert lines[0].split() == ["score", "faces", "verdict", "path"]
    assert lines[1].endswith('a "b", c.png')
    assert lines[1].startswith("0.123  1      real")
    assert lines[2].endswith(ROWS[2].path)
    assert len(lines) == 3
    assert written("table", [ROWS[0]]) == ""


def test_rows_are_written_as_they_come():
    # Fails when CSV or JSON keep the rows: memory would grow with their number.
    for kind in ("csv", "json"):
        stream = io.StringIO()
        table = FORMATS[kind](stream)
        table.add(ROWS[1])
        assert "0.123456789" in stream.getvalue()


def test_a_table_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "out" / "t.csv"

    def break_off() -> None:
        with table_file(path, "csv") as table:
            table.add(ROWS[1])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert list(tmp_path.rglob("*.*")) == []
    with table_file(path, "csv") as table:
        table.add(ROWS[1])
        table.close(())
    assert path.read_text().startswith("path,score,faces,verdict,error\n")
