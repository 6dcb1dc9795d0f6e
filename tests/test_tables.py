# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from mien.catalog import BASELINES, find
from mien.errors import BadInput

ROOT = Path(__file__).parent.parent
RESULT = {
    "name": "acmf",
    "claim": "a claim",
    "verdict": "fails",
    "metric": "auc",
    "data": "some data",
    "difference": -0.0456,
    "interval": [-0.0661, None],
    "seeds": [0, 1, 2],
}


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "tools" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(tmp_path):
    """A project of its own without tables."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "figures.md").write_text(
        "<!-- figures -->\n<!-- /figures -->\n<!-- arena -->\n<!-- /arena -->\n"
    )
    (tmp_path / "README.md").write_text("<!-- methods -->\n<!-- /methods -->\n<!-- proofs -->\n<!-- /proofs -->\n")
    return tmp_path


def rows(text, name):
    """A table of the README, read without the code that wrote it."""
    lines = text.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0].strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_readme_is_what_catalog_and_results_say(tables):
    """Fails when a method or a committed proof changes and nobody ran tools/tables.py."""
    assert tables.main(["--check"]) == 0


def test_every_row_agrees_with_the_catalog():
    """Fails when a row is lost, doubled or filled from the wrong field."""
    found = rows((ROOT / "README.md").read_text(encoding="utf-8"), "methods")
    assert len({row[0] for row in found}) == len(found) == 50 + len(BASELINES)
    assert found[0][0] == "`hfc-mffd`"
    for name, family, task, paper, state in found:
        entry = find(name.strip("`"))
        assert (family, task, state.strip("*")) == (entry.family, entry.task, entry.status)
        number = entry.paper.removeprefix("arXiv:")
        assert paper == (f"[arXiv:{number}](https://arxiv.org/abs/{number})" if number else "-")


def test_what_is_stale_is_noticed_and_the_rest_of_the_file_is_kept(tables, root):
    """Fails when --check cannot fail, or when writing touches a line outside the markers."""
    file = root / "README.md"
    planned = tables.method_table([replace(find("acmf"), available=False)])
    text = "above\n<!-- methods -->\n<!-- /methods -->\nmiddle\n<!-- proofs -->\n<!-- /proofs -->\nbelow\n"
    stale = tables.with_table(text, "methods", planned)
    file.write_text(stale)
    assert tables.main(["--check"], root) == 1
    assert file.read_text() == stale
    assert tables.main([], root) == 0
    assert tables.main(["--check"], root) == 0
    text = file.read_text()
    assert text.startswith("above\n<!-- methods -->\n| method |")
    assert "|\n<!-- /methods -->\nmiddle\n<!-- proofs -->\n| method |" in text
    assert text.endswith("|\n<!-- /proofs -->\nbelow\n")


def test_a_proof_is_shown_as_it_came_out_and_a_rehearsal_is_not(tables, root):
    """Fails when a proof that fails is left out, a rehearsal gets in, or a new result goes unnoticed."""
    file, results = root / "README.md", root / "results" / "proofs"
    results.mkdir(parents=True)
    tables.main([], root)
    assert rows(file.read_text(), "proofs") == []
    (results / "acmf.json").write_text(json.dumps(RESULT))
    (results / "acmf-rehearsal.json").write_text(json.dumps({**RESULT, "verdict": "rehearsal"}))
    assert tables.main(["--check"], root) == 1
    tables.main([], root)
    expected = ["`acmf`", "some data", "a claim", "auc -0.046 [-0.066, unknown], 3 seeds", "**fails**"]
    assert rows(file.read_text(), "proofs") == [expected]


def test_a_missed_figure_is_shown_like_a_kept_one(tables, root):
    """Fails when a benchmark that missed its limit is left out or called kept."""
    folder = root / "results" / "bench"
    folder.mkdir(parents=True)
    promise = {"what": "ours over theirs", "value": 1.2345, "limit": 1.1, "at_least": False, "kept": False}
    result = {"benchmark": "loop", "promises": [promise, promise | {"kept": True, "limit": 1.3}], "date": "2026-01-02T"}
    (folder / "loop.json").write_text(json.dumps(result))
    assert tables.main(["--check"], root) == 1
    tables.main([], root)
    found = rows((root / "docs" / "figures.md").read_text(), "figures")
    assert found[0] == ["`loop`", "ours over theirs", "1.234", "at most 1.1", "**missed**", "2026-01-02"]
    assert found[1][3:5] == ["at most 1.3", "kept"]


def test_the_arena_s_means_are_of_kinds_that_thumbnails_do_not_betray(tables, root):
    """Fails when seen and unseen are mixed up, a marked kind counts, or a rehearsal gets in."""

    def cell(auc):
        return {"auc": {kind: {"value": value} for kind, value in auc.items()}, "cost": {"ms_per_item": 2.5}}

    clean, blurred = cell({"swap": 0.9, "self-blend": 0.7}), cell({"swap": 0.8, "self-blend": 0.5})
    runs = [
        {"trained on": [kind], "train": {"cpu_seconds": seconds}, "clean": clean, "blur 1": blurred}
        for kind, seconds in (("self-blend", 10.0), ("swap", 20.0))
    ]
    outside = {"outside": True, "runs": [{"trained on": [], "clean": clean, "blur 1": blurred}]}
    result = {
        "protocol": {"data": "faces"},
        "conditions": {"blur 1": ["blur", 1]},
        "confound": {"marked": []},
        "detectors": {"ours": {"outside": False, "runs": runs}, "theirs (outside)": outside},
        "rehearsal": False,
    }
    folder = root / "results" / "arena"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text(json.dumps(result))
    (folder / "b.json").write_text(json.dumps(result | {"rehearsal": True}))
    marked = result | {"confound": {"marked": ["swap"]}, "detectors": {"theirs (outside)": outside}}
    (folder / "c.json").write_text(json.dumps(marked))
    tables.main([], root)
    assert rows((root / "docs" / "figures.md").read_text(), "arena") == [
        ["faces", "`ours`", "0.800", "0.800", "0.650", "15", "2.50"],
        ["faces", "`theirs (outside)`", "-", "0.800", "0.650", "-", "2.50"],
        ["faces", "`theirs (outside)`", "-", "0.700", "0.500", "-", "2.50"],
    ]


def test_a_bar_in_a_cell_does_not_open_a_column(tables):
    line = tables.method_table([replace(find("acmf"), task="a | b")]).splitlines()[-1]
    assert r"a \| b" in line


@pytest.mark.parametrize("text", ["", "<!-- x -->", "<!-- /x --> <!-- x -->", "<!-- x -->" * 2 + "<!-- /x -->"])
def test_missing_or_doubled_markers_are_refused(tables, text):
    with pytest.raises(BadInput, match="each once"):
        tables.with_table(text, "x", "")
