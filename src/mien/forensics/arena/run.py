# SPDX-License-Identifier: Apache-2.0
"""Runs an arena: entrants in parallel, a line for every finished cell, then JSON and page."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mien import catalog
from mien.engine.run import versions
from mien.errors import BadInput, unknown_name
from mien.files import write_json
from mien.forensics.arena.entrants import Entrant, Plan, entrants, gather, run_entrant
from mien.forensics.arena.page import page

PAGE_LIMIT = 2_000_000
"""Bytes of a page that is worth committing."""


def hold(
    *,
    data: str,
    out: Path,
    methods: str | None = None,
    outside: Sequence[str] = (),
    jobs: int = 1,
    strict: bool = False,
    **options: Any,
) -> tuple[Path, Path]:
    """What `mien arena forensics` calls: the page and its JSON.

    Args:
        data: See `Plan`.
        out: Folder of the result.
        methods: Names, "a,b"; None for all of the room.
        outside: See `Plan`.
        jobs: Entrants at a time.
        strict: See `arena`.
        options: Further fields of `Plan`.
    """
    plan = Plan(data, methods_named(methods), tuple(outside), **options)
    _, written, page = arena(plan, out, jobs=jobs, strict=strict)
    return page, written


def methods_named(names: str | None) -> tuple[str, ...]:
    """The room's detectors that can be trained, or those of a list "a,b". Raises BadInput for an unknown name."""
    ready = [e.name for e in catalog.list_methods("forensics", available=True, baselines=True) if e.training != "none"]
    if names is None:
        return tuple(ready)
    for name in names.split(","):
        if name not in ready:
            raise unknown_name("detector", name, ready)
    return tuple(names.split(","))


def arena(
    plan: Plan, out: Path, *, jobs: int = 1, strict: bool = False, say: Callable[[str], None] = print
) -> tuple[dict[str, Any], Path, Path]:
    """Run what is not there yet, and write `NAME.json` and `NAME.html` into `out`.

    Args:
        plan: What is run.
        out: Where. The pieces lie in `NAME.pieces`; those of another plan are refused.
        jobs: Entrants at a time.
        strict: Refuse data in which thumbnails betray a kind of forgery.
        say: Gets a line for every finished cell.

    Returns:
        The result, its file, and the page.

    Raises:
        BadInput: Data, methods or pieces cannot be used.
    """
    if jobs < 1 or plan.threads < 1:
        raise BadInput(f"jobs is {jobs}, threads is {plan.threads}: each must be at least 1")
    names = [Path(folder).resolve().name for folder in plan.outside]
    if len(set(names)) < len(names):
        raise BadInput(f"outside detectors are called {', '.join(names)}: give folders of different names")
    found = plan.material().checked(plan.seed, strict=strict)
    name = "arena-" + Path(plan.data).resolve().name + ("" if plan.max_steps is None else "-rehearsal")
    folder = out / f"{name}.pieces"
    _check_pieces(plan, folder)
    todo = entrants(plan)
    if jobs == 1:
        for entrant in todo:
            for line in run_entrant(plan, entrant, folder):
                say(line)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(jobs, len(todo)), mp_context=context) as pool:
            for future in as_completed([pool.submit(_run_all, plan, entrant, folder) for entrant in todo]):
                future.result()
    result = gather(plan, folder, found) | {
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    written, shown = out / f"{name}.json", out / f"{name}.html"
    write_json(written, result)
    page(result).write(shown)
    if shown.stat().st_size > PAGE_LIMIT:
        say(f"{shown} has {shown.stat().st_size / 1e6:.1f} MB: more than a page should")
    return result, written, shown


def _run_all(plan: Plan, entrant: Entrant, folder: Path) -> None:
    for line in run_entrant(plan, entrant, folder):
        print(line, flush=True)


def _check_pieces(plan: Plan, folder: Path) -> None:
    """Refuse to mix two plans. Methods may be added: that changes no cell of the others."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "of.json"
    wanted = {k: v for k, v in asdict(plan).items() if k not in ("methods", "outside", "threads", "device")}
    if path.exists() and json.loads(path.read_text()) != wanted:
        raise BadInput(f"{folder} holds pieces of another arena: remove that folder or give another --out")
    write_json(path, wanted)
