# SPDX-License-Identifier: Apache-2.0
"""Runs an arena: entrants in parallel, a line for every finished cell, then JSON and page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mien import catalog
from mien.data.folders import fingerprints
from mien.engine import saved_folder
from mien.engine.run import commit, versions
from mien.errors import BadInput, unknown_name
from mien.files import read_json, write_json
from mien.forensics.arena.entrants import Entrant, Plan, entrants, gather, pieces_of, run_entrant
from mien.forensics.arena.page import page
from mien.workers import workers

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
    stems = [entrant.stem for entrant in entrants(plan) if entrant.half is None]
    if len(set(stems)) < len(stems):
        names = ", ".join(Path(folder).resolve().name for folder in plan.outside)
        raise BadInput(f"outside detectors are called {names}: give folders of different names")
    begun = datetime.now(UTC)
    found = plan.material().checked(plan.seed, strict=strict)
    marked = list((found.confound or {}).get("marked", ()))
    name = "arena-" + Path(plan.data).resolve().name + ("" if plan.max_steps is None else "-rehearsal")
    folder = out / f"{name}.pieces"
    _check_pieces(plan, folder, marked)
    todo = entrants(plan)
    cells = [path for entrant in todo for path in pieces_of(plan, entrant, folder).values()]
    missing = sum(not path.exists() for path in cells)
    try:
        if jobs == 1:
            for entrant in todo:
                for line in run_entrant(plan, entrant, folder, marked):
                    say(line)
        else:
            with workers(min(jobs, len(todo))) as pool:
                for future in as_completed([pool.submit(_run_all, plan, entrant, folder, marked) for entrant in todo]):
                    future.result()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted: the same command goes on with what is missing") from None
    ended = datetime.now(UTC)
    result = gather(plan, folder, found) | {
        "versions": versions(),
        "commit": commit(),
        "command": command(plan, jobs, strict),
        "date": ended.isoformat(timespec="seconds"),
        "took": {  # a killed arena that goes on makes only what was missing
            "start": begun.isoformat(timespec="seconds"),
            "end": ended.isoformat(timespec="seconds"),
            "seconds": round((ended - begun).total_seconds(), 1),
            "jobs": jobs,
            "cells_made": missing,
            "cells": len(cells),
        },
    }
    written, shown = out / f"{name}.json", out / f"{name}.html"
    write_json(written, result)
    page(result).write(shown)
    if shown.stat().st_size > PAGE_LIMIT:
        say(f"{shown} has {shown.stat().st_size / 1e6:.1f} MB: more than a page should")
    return result, written, shown


def command(plan: Plan, jobs: int = 1, strict: bool = False) -> str:
    """What was called, with what differs from the defaults, and without the places of folders.

    >>> command(Plan("photos/faces", ("plain",), seed=3), jobs=2)
    'mien arena forensics --data faces --methods plain --seed 3 --jobs 2'
    """
    words = ["mien arena forensics", f"--data {Path(plan.data).resolve().name}"]
    if plan.methods != methods_named(None):
        words.append(f"--methods {','.join(plan.methods)}")
    words += [f"--with {Path(folder).resolve().name}" for folder in plan.outside]
    for field in fields(plan):
        value = getattr(plan, field.name)
        if field.name not in ("data", "methods", "outside") and value != field.default:
            words.append(f"--{field.name.replace('_', '-')} {value}")
    words += [f"--jobs {jobs}"] * (jobs > 1) + ["--strict"] * strict
    return " ".join(words)


def _run_all(plan: Plan, entrant: Entrant, folder: Path, marked: Sequence[str]) -> None:
    for line in run_entrant(plan, entrant, folder, marked):
        print(line, flush=True)


def _check_pieces(plan: Plan, folder: Path, marked: Sequence[str]) -> None:
    """Refuse to mix two plans. Detectors may be added: that changes no cell of the others."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "of.json"
    wanted = {k: v for k, v in asdict(plan).items() if k not in ("methods", "outside", "threads", "device")}
    if plan.group_by is not None:
        wanted["marked"] = list(marked)  # cells compare groups without them
    found = read_json(path) if path.exists() else {}
    weights = found.pop("outside", {})
    if found and found != wanted:
        raise BadInput(f"{folder} holds pieces of another arena: remove that folder or give another --out")
    for entrant in entrants(plan):
        if entrant.half is not None:
            continue
        own, begun = _fingerprint(entrant.name), any(p.exists() for p in pieces_of(plan, entrant, folder).values())
        if begun and weights.get(entrant.stem) != own:
            raise BadInput(
                f"{folder} holds pieces of {Path(entrant.name).resolve().name} with other weights: remove "
                f"{entrant.stem}.* there or give another --out"
            )
        weights[entrant.stem] = own
    write_json(path, wanted | {"outside": weights})


def _fingerprint(folder: str) -> list[str]:
    """Of the files of an outside detector."""
    saved = saved_folder(Path(folder))
    return fingerprints(sorted(path for path in saved.iterdir() if path.is_file()))
