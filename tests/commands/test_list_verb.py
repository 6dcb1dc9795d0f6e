# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import sys

from mien._methods import BASELINES
from mien.cli import main


def test_not_a_terminal_one_method_per_line_name_first_tab_separated(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 50 + len(BASELINES)
    rows = [line.split("\t") for line in lines]
    assert all(len(row) == 4 for row in rows)
    assert rows[0][:3] == ["hfc-mffd", "available", "forensics"]
    assert {row[1] for row in rows} == {"available", "planned", "baseline"}


def test_list_filters(capsys):
    assert main(["list", "--family", "forensics", "--available"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert {"acmf", "plain"} <= {row[0] for row in rows}
    assert {(row[1], row[2]) for row in rows} == {("available", "forensics"), ("baseline", "forensics")}


def test_list_on_a_terminal_fits_its_width(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((90, 24)))
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 50 + len(BASELINES)
    assert max(map(len, lines)) <= 90
    assert not any("\t" in line for line in lines)


def test_bad_options(capsys):
    assert main(["list", "--famly", "reid"]) == 2
    assert "did you mean '--family'" in capsys.readouterr().err
    assert main(["list", "--family", "cooking"]) == 2
    assert capsys.readouterr().err.startswith("mien: unknown family 'cooking'")


def test_info_says_what_the_catalog_knows(capsys):
    assert main(["info", "dit-sr"]) == 0
    out = capsys.readouterr().out
    assert "arXiv:2409.19589" in out
    assert "planned" in out
    assert "mien train" not in out
    assert main(["info", "acmf"]) == 0
    assert "mien train acmf --help" in capsys.readouterr().out


def test_info_bibtex_is_all_there_is(capsys):
    assert main(["info", "acmf", "--bibtex"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("@article{liu2024acmf,")
    assert out.rstrip().endswith("}")
    assert main(["info", "plain", "--bibtex"]) == 2
