# SPDX-License-Identifier: Apache-2.0
"""How every benchmark here is made, so that its figures can be compared and repeated.

Equal output is asserted before anything is timed. Every contender is warmed up, then all are run in turn, at least five
times, in an order that rotates, so that a slow minute of the machine hits all of them. Wall time and CPU time (own and
children's) are given as median and interquartile range, and ratios are taken within a turn. Peak memory comes from a
run of its own. Figures that miss their limit are published like the others.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from mien._version import __version__
from mien.files import write_json

RESULTS = Path(__file__).resolve().parents[1] / "results" / "bench"
PACKAGES = ("torch", "torchvision", "timm", "lightning-fabric", "numpy", "pillow")
REPEATS = 5


def measure(
    contenders: Mapping[str, Callable[[], Any]],
    *,
    over: str | None = None,
    repeats: int = REPEATS,
    warm_up: int = 1,
    items: int = 1,
    memory: bool = True,
) -> dict[str, Any]:
    """Time contenders in turn.

    Args:
        contenders: Name -> what to run.
        over: The contender that the others are compared with: `ratio` is another's wall time over its own.
        repeats: Turns; at least five.
        warm_up: Runs of each contender before the first turn.
        items: Steps, images or calls that one run makes; times are given for one of them.
        memory: Whether to run each once more for its peak memory.
    """
    if repeats < REPEATS:
        raise ValueError(f"repeats is {repeats}: at least {REPEATS}")
    for _ in range(warm_up):
        for run in contenders.values():
            run()
    names = list(contenders)
    load = os.getloadavg()[0]
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            begun, spent = time.perf_counter(), _cpu()
            contenders[name]()
            wall[name].append((time.perf_counter() - begun) / items * 1e3)
            cpu[name].append((_cpu() - spent) / items * 1e3)
    table: dict[str, Any] = {}
    for name in names:
        table[name] = {"wall_ms": spread(wall[name]), "cpu_ms": spread(cpu[name])}
        if memory:
            table[name]["peak_memory_added_mb"] = _peak(contenders[name])
        if over is not None and name != over:
            pairs = zip(wall[name], wall[over], strict=True)
            table[name]["ratio"] = spread([ours / theirs for ours, theirs in pairs])
            pairs = zip(cpu[name], cpu[over], strict=True)
            table[name]["cpu_ratio"] = spread([ours / max(theirs, 1e-9) for ours, theirs in pairs])
    how = {"repeats": repeats, "warm_up": warm_up, "items_per_run": items, "over": over}
    return {**how, "load_average_before": round(load, 2), "contenders": table}


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": _short(statistics.median(values)), "q1": _short(low), "q3": _short(high)}


def promise(what: str, value: float, limit: float, *, at_least: bool = False) -> dict[str, Any]:
    """A figure beside its limit, printed and kept whether it holds or not."""
    kept = value >= limit if at_least else value <= limit
    sign = ">=" if at_least else "<="
    print(f"{'kept  ' if kept else 'MISSED'} {what}: {value:.4g} (promised {sign} {limit:g})", flush=True)
    return {"what": what, "value": _short(value), "limit": limit, "at_least": at_least, "kept": kept}


def publish(name: str, *, promises: list[dict[str, Any]], equal: dict[str, Any], **figures: Any) -> None:
    """Write results/bench/NAME.json, whole: what was measured, with what, and when."""
    versions: dict[str, str | None] = {"mien": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        versions[package] = None
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    record = {
        "benchmark": name,
        "promises": promises,
        "equal_output": equal,
        **figures,
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
        },
        "threads": {key: os.environ.get(key) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")},
        "peak_memory_mb": peak_memory(),
        "versions": versions,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(RESULTS / f"{name}.json", record)
    print(f"written: results/bench/{name}.json", flush=True)


def peak_memory() -> float:
    """Most memory that this process has held, in MB.

    Linux passes a parent's peak on through `ru_maxrss`, so the kernel's own line about this process comes first.
    """
    with suppress(OSError, StopIteration):
        return _status("VmHWM")
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale, 1)


def _peak(run: Callable[[], Any]) -> float | None:
    """Memory that `run` adds at its peak to what the process holds, in MB; None where the kernel does not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak (proc(5))
        before = _status("VmRSS")
        run()
        return round(max(_status("VmHWM") - before, 0.0), 1)
    except (OSError, StopIteration):
        return None


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024, 1)


def _cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _cpu_model() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name")).split(":", 1)[1].strip()
    return platform.processor()


def _short(value: float) -> float:
    return float(f"{value:.5g}")
