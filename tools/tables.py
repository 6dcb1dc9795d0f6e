# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of README.md and docs/figures.md: methods from the catalog, the others from results.

`.venv/bin/python tools/tables.py` writes them. With `--check` it writes nothing, and exits with 1 when a table is not
what the catalog and the results say.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from mien.catalog import Entry, list_methods
from mien.data.forge_pairs import KINDS
from mien.errors import BadInput
from mien.files import write_text
from mien.forensics.arena.data import CLEAN
from mien.forensics.arena.page import SEEN, UNSEEN, marked, mean_auc

ROOT = Path(__file__).resolve().parent.parent


def project_entries() -> list[Entry]:
    """Methods and baselines of this project. Those of other installed packages have no place in its README."""
    return [entry for entry in list_methods(baselines=True) if entry.module.startswith("mien.")]


def paper_link(paper: str) -> str:
    """A catalog's paper id as a Markdown link; a dash where there is no paper.

    >>> paper_link("arXiv:2307.11438")
    '[arXiv:2307.11438](https://arxiv.org/abs/2307.11438)'
    """
    scheme, _, number = paper.partition(":")
    if scheme == "arXiv":
        return f"[{paper}](https://arxiv.org/abs/{number})"
    if scheme == "doi":
        return f"[{paper}](https://doi.org/{number})"
    return paper or "-"


def method_table(entries: Iterable[Entry]) -> str:
    """A row for each method, in the catalog's order."""
    rows = []
    for entry in entries:
        state = f"**{entry.status}**" if entry.status == "available" else entry.status
        rows.append((f"`{entry.name}`", entry.family, entry.task, paper_link(entry.paper), state))
    return _table(("method", "family", "what goes in, what comes out", "paper", "state"), rows)


def proof_table(results: Iterable[Mapping[str, Any]]) -> str:
    """A row for each result of `mien prove`, as it came out."""
    rows = []
    for result in results:
        low, high = result["interval"]
        values = [_signed(value) for value in (result["difference"], low, high)]
        difference = f"{result['metric']} {values[0]} [{values[1]}, {values[2]}], {len(result['seeds'])} seeds"
        told = [kind["kind"] for kind in (result.get("data_check") or {}).get("kinds", ()) if kind["confounded"]]
        data = result["data"] + (f"; 12-pixel thumbnails tell {', '.join(told)} apart" if told else "")
        rows.append((f"`{result['name']}`", data, result["claim"], difference, f"**{result['verdict']}**"))
    return _table(("method", "data", "claim", "difference (95 %)", "verdict"), rows)


def figure_table(results: Iterable[Mapping[str, Any]]) -> str:
    """A row for each promised figure of `make bench`, kept or missed."""
    rows = []
    for result in results:
        for promise in result["promises"]:
            sign = "at least" if promise["at_least"] else "at most"
            kept = "kept" if promise["kept"] else "**missed**"
            row = (f"`{result['benchmark']}`", promise["what"], f"{promise['value']:.4g}")
            rows.append((*row, f"{sign} {promise['limit']:g}", kept, result["date"][:10]))
    return _table(("benchmark", "what", "measured", "promised", "", "date"), rows)


def arena_table(results: Iterable[Mapping[str, Any]]) -> str:
    """A row for each detector of each committed run of `mien arena`, in its order."""
    rows = []
    for result in results:
        kinds = [kind for kind in KINDS if kind not in marked(result)]
        for name, detector in result["detectors"].items():
            state = UNSEEN if detector["outside"] else SEEN
            perturbed = [mean_auc(detector, kinds, condition, state) for condition in result["conditions"]]
            aucs = [mean_auc(detector, kinds, CLEAN, state) for state in (SEEN, UNSEEN)]
            training = [run["train"]["cpu_seconds"] for run in detector["runs"] if "train" in run]
            answer = [run[CLEAN]["cost"]["ms_per_item"] for run in detector["runs"]]
            figures = [f"{value:.3f}" if math.isfinite(value) else "-" for value in (*aucs, fmean(perturbed))]
            costs = (f"{fmean(training):.0f}" if training else "-", f"{fmean(answer):.2f}")
            rows.append((result["protocol"]["data"], f"`{name}`", *figures, *costs))
    aucs_of = ("AUC, kinds seen", "AUC, kinds unseen", "AUC, perturbed")
    return _table(("data", "detector", *aucs_of, "training, CPU s", "answer, ms"), rows)


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The results in `folder`, by file name; rehearsals, whose numbers mean nothing, are left out."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return [result for result in found if result.get("verdict") != "rehearsal" and not result.get("rehearsal")]


def _signed(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.3f}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *(tuple(cell.replace("|", r"\|") for cell in row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def with_table(text: str, name: str, table: str) -> str:
    """`text` with `table` between the markers <!-- name --> and <!-- /name -->.

    Raises BadInput unless each marker is there once, in this order.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise BadInput(f"the text must hold {start} and after it {end}, each once: the table goes between them")
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n{table}\n{end}{after}"


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Write or check the tables under `root`; gives the exit code."""
    parser = argparse.ArgumentParser(description="tables from catalog and results", allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a table is out of date")
    given = parser.parse_args(arguments)
    tables = {
        "README.md": {
            "methods": method_table(project_entries()),
            "proofs": proof_table(read_results(root / "results" / "proofs")),
        },
        "docs/figures.md": {
            "figures": figure_table(read_results(root / "results" / "bench")),
            "arena": arena_table(read_results(root / "results" / "arena")),
        },
    }
    stale = 0
    for name, parts in tables.items():
        old = new = (root / name).read_text(encoding="utf-8")
        for marker, table in parts.items():
            new = with_table(new, marker, table)
        if new != old:
            stale = 1
            if given.check:
                print(f"{name} is not what catalog and results say: run python tools/tables.py", file=sys.stderr)
            else:
                write_text(root / name, new)
    return stale if given.check else 0


if __name__ == "__main__":
    sys.exit(main())
