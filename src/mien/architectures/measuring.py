# SPDX-License-Identifier: Apache-2.0
"""What networks take on this machine: sampled from ten families, exported to ONNX, timed with onnxruntime.

    DIR/measured.json          how it was measured, and which networks failed
    DIR/networks/NAME.json     one network: its graph, its family, how it was drawn, its latency with the spread

A network's file appears when its timing is done, so a killed measurement goes on where it was. Network i is the same
for the same seed, however many are asked for, and families take turns, so that every beginning is balanced.

A timing is the median of at least `MIN_RUNS` runs that last `SECONDS` together. Where the quartiles lie further apart
than a tenth of the median, somebody else was using the machine: it is repeated, and the tightest of three is kept.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mien.architectures.families import FAMILIES, Drawn
from mien.architectures.networks import export_onnx, graph_of
from mien.architectures.readers import network_json
from mien.engine.seeding import kept_generators, seed_all, stable_seed
from mien.errors import BadInput, MienError, MissingExtra, unknown_name
from mien.files import write_json
from mien.progress import Progress

FORMAT = 1
MIN_RUNS, MAX_RUNS, SECONDS = 10, 300, 0.4
STEADY = 0.1
"""Distance of the quartiles over the median that counts as undisturbed."""
BURSTS = 3
"""Most repetitions of a disturbed timing."""
PROVIDER = "CPUExecutionProvider"


@dataclass(frozen=True)
class Plan:
    """How networks are measured; measurements of different plans cannot be mixed.

    Args:
        seed: Networks follow from it.
        threads: Of the runtime, >= 1.
        provider: Execution provider of onnxruntime.
        families: Which families take turns, keys of `mien.architectures.families.FAMILIES`.
    """

    seed: int = 0
    threads: int = 1
    provider: str = PROVIDER
    families: tuple[str, ...] = tuple(FAMILIES)

    def __post_init__(self) -> None:
        object.__setattr__(self, "families", tuple(self.families))
        for name in self.families:
            if name not in FAMILIES:
                raise unknown_name("family of networks", name, FAMILIES)
        if not self.families or len(set(self.families)) < len(self.families):
            raise BadInput(f"families is {', '.join(self.families) or 'empty'}: name each at most once, at least one")
        if self.threads < 1:
            raise BadInput(f"threads is {self.threads}: it must be at least 1")

    def network(self, number: int) -> tuple[str, str, Drawn]:
        """Name, family and settings of network `number`."""
        family = self.families[number % len(self.families)]
        turn = number // len(self.families)
        rng = np.random.default_rng(stable_seed(self.seed, f"{family} {turn}"))
        return f"{family}-{turn:03d}", family, FAMILIES[family](rng)


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run.

    Args:
        median: Of all runs.
        q1: Lower quartile.
        q3: Upper quartile.
        fastest: The shortest run.
        runs: How many.
    """

    median: float
    q1: float
    q3: float
    fastest: float
    runs: int

    @property
    def spread(self) -> float:
        """Distance of the quartiles over the median."""
        return (self.q3 - self.q1) / self.median


def timed(run: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> Latency:
    """How long `run` takes, after two runs that are not counted."""
    for _ in range(2):
        run()
    found = [_burst(run, clock)]
    while found[-1].spread > STEADY and len(found) < BURSTS:
        found.append(_burst(run, clock))
    return min(found, key=lambda latency: latency.spread)


def _burst(run: Callable[[], Any], clock: Callable[[], float]) -> Latency:
    times: list[float] = []
    while len(times) < MIN_RUNS or (len(times) < MAX_RUNS and sum(times) < SECONDS):
        begun = clock()
        run()
        times.append(clock() - begun)
    low, middle, high = (float(value) * 1e3 for value in np.quantile(times, [0.25, 0.5, 0.75]))
    return Latency(middle, low, high, min(times) * 1e3, len(times))


def session(file: Path, plan: Plan) -> tuple[Any, dict[str, np.ndarray]]:
    """A session of onnxruntime for a file with one input of fixed size, and a random input for it."""
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = plan.threads
    options.inter_op_num_threads = 1
    made = onnxruntime.InferenceSession(str(file), options, providers=[plan.provider])
    (given,) = made.get_inputs()
    return made, {given.name: np.random.default_rng(0).random(given.shape, dtype=np.float32)}


def measure_network(drawn: Drawn, plan: Plan) -> dict[str, Any]:
    """Build, export and time one network: graph, settings and latency as plain JSON."""
    with kept_generators(), tempfile.TemporaryDirectory() as folder:
        seed_all(stable_seed(plan.seed, "weights"))
        model = drawn.build().eval()
        program = export_onnx(model, (torch.rand(1, 3, drawn.side, drawn.side),))
        file = Path(folder) / "network.onnx"
        program.save(str(file))
        made, given = session(file, plan)
        latency = timed(lambda: made.run(None, given))
        return {
            "model": {**drawn.settings, "side": drawn.side},
            "graph": network_json(graph_of(program.model_proto)),
            "latency_ms": asdict(latency),
        }


def measure(out: Path, count: int, plan: Plan) -> dict[str, str]:
    """Measure networks 0 to `count` - 1, apart from those that `out` holds already.

    Args:
        out: Folder of the measurement; it is made, or goes on if it was made with the same plan.
        count: How many networks, >= 1.
        plan: How they are measured.

    Returns:
        Name -> reason of the networks that could not be built, exported or run; they are tried again next time.

    Raises:
        BadInput: `out` holds another measurement, or onnxruntime does not have the provider.
        MissingExtra: onnx, onnxscript or onnxruntime is not installed.
    """
    if count < 1:
        raise BadInput(f"count is {count}: it must be at least 1")
    _check_provider(plan)
    record = _record(plan)
    check(out, record)
    write_json(out / "measured.json", record)
    networks = [plan.network(number) for number in range(count)]
    todo = [network for network in networks if not _file(out, network[0]).exists()]
    failed: dict[str, str] = {}
    with Progress(count, "measure networks", done=count - len(todo)) as progress:
        for name, family, drawn in todo:
            try:
                found = measure_network(drawn, plan)
            except Exception as error:
                if not isinstance(error, (MienError, RuntimeError, ValueError)) and not _of_runtime(error):
                    raise
                failed[name] = " ".join(str(error).split())[:200] or type(error).__name__
            else:
                write_json(_file(out, name), {"format": FORMAT, "name": name, "family": family, **found})
            progress.advance()
    write_json(out / "measured.json", record | {"failed": failed})
    return failed


def rehearse(plan: Plan, count: int) -> list[str]:
    """Measure the first network of each family, keep nothing, and say what `count` networks will take."""
    _check_provider(plan)
    lines, spent = [], []
    for number in range(min(count, len(plan.families))):
        begun = time.perf_counter()
        name, _, drawn = plan.network(number)
        latency = Latency(**measure_network(drawn, plan)["latency_ms"])
        spent.append(time.perf_counter() - begun)
        lines.append(f"{name}  {latency.median:.2f} ms, spread {latency.spread:.1%}, took {spent[-1]:.1f} s")
    minutes = sum(spent) / len(spent) * count / 60
    return [*lines, f"{count} networks will take about {minutes:.0f} minutes; nothing was written"]


def summary(out: Path) -> list[str]:
    """One line per family: networks, range of latencies, median spread of the timings."""
    by_family: dict[str, list[Latency]] = {}
    for file in sorted((out / "networks").glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        by_family.setdefault(record["family"], []).append(Latency(**record["latency_ms"]))
    width = max(map(len, by_family), default=0)
    return [
        f"{family:<{width}}  {len(found):4d} networks  {min(x.median for x in found):8.2f} to "
        f"{max(x.median for x in found):8.2f} ms  spread {float(np.median([x.spread for x in found])):.1%}"
        for family, found in by_family.items()
    ]


def runtime() -> Any:
    """The module onnxruntime. Raises MissingExtra when it, or what exports to it, is not installed."""
    try:
        import onnx  # noqa: F401 - wanted later: said before anything is built
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtra("timing networks", "export") from error
    return onnxruntime


def _check_provider(plan: Plan) -> None:
    available = runtime().get_available_providers()
    if plan.provider not in available:
        raise unknown_name("provider of this onnxruntime", plan.provider, available)


def check(out: Path, record: dict[str, Any]) -> None:
    """Raise BadInput when `out` holds something else than this measurement."""
    path = out / "measured.json"
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise BadInput(f"--out: {out} exists and holds no measurement: give a new or an empty folder")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path} cannot be read ({error}): give another --out") from error
    for key in ("format", "plan", "machine", "versions"):
        if not isinstance(before, dict) or before.get(key) != record[key]:
            old = before.get(key) if isinstance(before, dict) else before
            raise BadInput(f"{out} was measured with {key} {old}, now it is {record[key]}: give another --out")


def _of_runtime(error: Exception) -> bool:
    return type(error).__module__.startswith("onnxruntime")


def _file(out: Path, name: str) -> Path:
    return out / "networks" / f"{name}.json"


def _record(plan: Plan) -> dict[str, Any]:
    packages = ("torch", "timm", "onnx", "onnxscript", "onnxruntime")
    return {
        "format": FORMAT,
        "plan": {**asdict(plan), "families": list(plan.families)},
        "machine": {"system": f"{platform.system()} {platform.machine()}", "cpu": _cpu(), "cores": os.cpu_count()},
        "versions": {name: metadata.version(name) for name in packages},
        "failed": {},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
