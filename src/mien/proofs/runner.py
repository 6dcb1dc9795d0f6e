# SPDX-License-Identifier: Apache-2.0
"""Runs a proof: seed by seed, resumable, in parallel over seeds; then says what came out.

Every finished (seed, variant) is a file of its own, so a killed run goes on where it was. The first seed is run
serially, in a fresh process for each variant, and gives the cost as well. The verdict is computed from the paired 95 %
t interval alone.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mien.catalog import load_object
from mien.engine.run import commit, versions
from mien.errors import BadInput, TrainingStopped
from mien.files import read_json, whole_file, write_json
from mien.job import EMBEDDED
from mien.metrics.intervals import Interval, holm, paired_t, verdict
from mien.progress import Progress
from mien.proofs.base import Proof, Seed, Values
from mien.report.plots import png
from mien.report.rows import seeds as seed_picture
from mien.workers import workers


@dataclass(frozen=True)
class Plan:
    """How a proof is run. Plain data: it is handed to the processes of the seeds.

    Args:
        proof: Where the proof is, "module:name".
        data: A folder, or "embedded" for generated data.
        pieces: Folder of what is done.
        threads: CPU threads of each seed; a fixed number gives the same bits.
        max_steps: A smaller budget; the result is then a rehearsal and says so.
        device: Where to compute.
    """

    proof: str
    data: str
    pieces: Path
    threads: int = 1
    max_steps: int | None = None
    device: str = "cpu"

    def seed(self, number: int) -> Seed:
        """Seed `number` with its data."""
        proof: Proof = load_object(self.proof)
        return Seed(number, proof.data(self.data, number), self.max_steps, self.device, folder=self.pieces)


def prove(
    proof: str,
    *,
    data: str = EMBEDDED,
    seeds: int | None = None,
    jobs: int = 1,
    threads: int = 1,
    max_steps: int | None = None,
    device: str = "cpu",
    out: Path = Path("results/proofs"),
) -> tuple[dict[str, Any], Path]:
    """Run what is not yet there, and gather everything into one result, which is also written.

    Args:
        proof: Where the proof is, "module:name".
        data: A folder, or "embedded" for generated data.
        seeds: How many seeds, from 0; None for the proof's own number.
        jobs: Seeds at a time.
        threads: CPU threads of each seed.
        max_steps: A smaller budget; the result is then a rehearsal and says so.
        device: Where to compute.
        out: Folder of the result; the pieces lie in `NAME.pieces` in it.

    Returns:
        The result, and the file that holds it.
    """
    chosen: Proof = load_object(proof)
    count = chosen.seeds if seeds is None else seeds
    if count < 1 or jobs < 1 or threads < 1:
        raise BadInput(f"seeds is {count}, jobs is {jobs}, threads is {threads}: each must be at least 1")
    where = Path(data).resolve()
    name = chosen.name if data == EMBEDDED else f"{chosen.name}-{where.stem if where.is_file() else where.name}"
    name = name if max_steps is None else f"{name}-rehearsal"
    plan = Plan(proof, data, out / f"{name}.pieces", threads, max_steps, device)
    _check_pieces(plan, chosen)
    costs = _run_first(plan, chosen)
    todo = [seed for seed in range(count) if any(not _piece(plan, v, seed).exists() for v in chosen.variants)]
    _run_seeds(plan, todo, jobs, chosen.name)
    values = {variant: {str(s): _read(plan, variant, s) for s in range(count)} for variant in chosen.variants}
    result = gather(chosen, values, costs, data, max_steps)
    path = out / f"{name}.json"
    write_json(path, result)
    with whole_file(path.with_suffix(".png")) as temporary:
        temporary.write_bytes(png(seed_picture(result["variants"], x=chosen.metric, proposed=chosen.primary)))
    return result, path


def _check_pieces(plan: Plan, proof: Proof) -> None:
    """Refuse to mix the pieces of two experiments."""
    plan.pieces.mkdir(parents=True, exist_ok=True)
    path = plan.pieces / "of.json"
    wanted = {"data": proof.about(plan.data), "max_steps": plan.max_steps, "variants": list(proof.variants)}
    if path.exists() and read_json(path) != wanted:
        raise BadInput(f"{plan.pieces} holds pieces of another experiment: remove that folder or give another --out")
    write_json(path, wanted)


def _piece(plan: Plan, variant: str, seed: int) -> Path:
    safe = "".join(c if c.isalnum() else "_" for c in variant)
    return plan.pieces / f"{safe}-{seed}.json"


def _read(plan: Plan, variant: str, seed: int) -> Values:
    return dict(read_json(_piece(plan, variant, seed))["values"])


def _cost_of(plan: Plan, variant: str) -> Path:
    return _piece(plan, f"cost of {variant}", 0)


def _run_first(plan: Plan, proof: Proof) -> dict[str, dict[str, float]]:
    """Every variant alone on seed 0, where it has not been yet; its cost."""
    todo = [variant for variant in proof.variants if not _cost_of(plan, variant).exists()]
    if todo:
        with Progress(len(todo), f"proof {proof.name}, seed 0") as progress:
            for variant in todo:
                with workers(1) as fresh:
                    try:
                        fresh.submit(run_alone, plan, variant).result()
                    except BrokenProcessPool as error:
                        raise TrainingStopped(
                            f"variant {variant!r} of proof {proof.name!r}: its process died"
                        ) from error
                progress.advance()
    return {variant: dict(read_json(_cost_of(plan, variant))) for variant in proof.variants}


def run_alone(plan: Plan, variant: str) -> None:
    """A variant on seed 0 in a process of its own: what it gives, and what it takes apart from making the data."""
    with _threads(plan.threads):
        prepared = plan.seed(0)
        begun = time.perf_counter()
        _measure(plan, prepared, variant)
        seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    write_json(_cost_of(plan, variant), {"seconds": round(seconds, 2), "peak_mb": round(peak, 1)})


def _run_seeds(plan: Plan, todo: list[int], jobs: int, name: str) -> None:
    if not todo:
        return
    with Progress(len(todo), f"proof {name}, seeds") as progress:
        if jobs == 1:
            for seed in todo:
                run_seed(plan, seed)
                progress.advance()
            return
        with workers(min(jobs, len(todo))) as pool:
            for future in as_completed([pool.submit(run_seed, plan, seed) for seed in todo]):
                future.result()
                progress.advance()


def run_seed(plan: Plan, seed: int) -> None:
    """All variants of a seed that are not there yet, each written as soon as it is done."""
    proof: Proof = load_object(plan.proof)
    with _threads(plan.threads):
        prepared = plan.seed(seed)
        for variant in proof.variants:
            if not _piece(plan, variant, seed).exists():
                _measure(plan, prepared, variant)


def _measure(plan: Plan, seed: Seed, variant: str) -> None:
    """What a variant gives on a seed, written."""
    proof: Proof = load_object(plan.proof)
    values = {key: float(value) for key, value in proof.variants[variant](seed).items()}
    if proof.metric not in values or not all(math.isfinite(value) for value in values.values()):
        raise BadInput(f"variant {variant!r} of proof {proof.name!r} gave {values}: {proof.metric} is missing or NaN")
    write_json(_piece(plan, variant, seed.number), {"variant": variant, "seed": seed.number, "values": values})


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def gather(
    proof: Proof,
    values: Mapping[str, Mapping[str, Values]],
    costs: Mapping[str, Mapping[str, float]],
    data: str,
    max_steps: int | None,
) -> dict[str, Any]:
    """The result of a proof from its pieces: intervals, verdict, ablations, controls."""
    main = {name: {seed: v[proof.metric] for seed, v in by_seed.items()} for name, by_seed in values.items()}
    difference = _paired(main[proof.primary], main[proof.baseline])
    rows = {name: _paired(main[one], main[other]) for name, (one, other) in proof.ablations.items()}
    corrected = holm({name: row.p for name, row in rows.items() if row.p is not None})
    metrics = sorted({key for by_seed in values.values() for v in by_seed.values() for key in v} - {proof.metric})
    means = {name: sum(by_seed.values()) / len(by_seed) for name, by_seed in main.items()}
    controls = {
        name: _control(means[name], low, means[high] if isinstance(high, str) else high)
        for name, (low, high) in proof.controls.items()
    }
    return {
        "name": proof.name,
        "claim": proof.claim,
        "verdict": "rehearsal" if max_steps is not None else verdict(difference, proof.higher_is_better),
        "metric": proof.metric,
        "higher_is_better": proof.higher_is_better,
        "data": proof.about(data),
        "seeds": sorted(int(seed) for seed in main[proof.primary]),
        "variants": main,
        "primary": proof.primary,
        "baseline": proof.baseline,
        "difference": _number(difference.value),
        "interval": [_number(difference.low), _number(difference.high)],
        "ablations": {
            name: {
                "of": list(proof.ablations[name]),
                "difference": _number(row.value),
                "interval": [_number(row.low), _number(row.high)],
                "p_holm": corrected.get(name),
            }
            for name, row in rows.items()
        },
        "controls": controls,
        "secondary": {
            key: {name: {s: v[key] for s, v in by_seed.items() if key in v} for name, by_seed in values.items()}
            for key in metrics
        },
        "data_check": proof.check(data) if proof.check is not None and max_steps is None else None,
        "cost": {name: dict(cost) for name, cost in costs.items()},
        "notes": list(proof.notes),
        "versions": versions(),
        "commit": commit(),
        "command": f"mien prove {proof.name}" + ("" if data == EMBEDDED else f" --data {Path(data).resolve().name}"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _paired(first: Mapping[str, float], second: Mapping[str, float]) -> Interval:
    return paired_t([first[seed] - second[seed] for seed in first])


def _control(mean: float, low: float, high: float) -> dict[str, Any]:
    return {"mean": mean, "must_lie_in": [low, high], "passed": low <= mean <= high}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
