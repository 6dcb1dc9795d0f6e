# SPDX-License-Identifier: Apache-2.0
"""A training run as plain data: what was asked for. It is kept in the run folder, so that the run can be resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, overload

from mien import catalog
from mien.configure import build
from mien.engine import Method, Schedule, Settings, TrainingData, fit, load_weights
from mien.engine.run import LAST
from mien.engine.seeding import kept_generators, seed_all, stable_seed
from mien.errors import BadInput
from mien.room import DataOptions, PresetName

FORMAT = 1
EMBEDDED = "embedded"


@dataclass(frozen=True)
class Job:
    """One `mien train`.

    Args:
        method: Name of the method.
        data: Absolute path of the data, or "embedded".
        config: Arguments of the method's constructor, plain JSON.
        options: How the data are read.
        epochs: Passes over the data.
        settings: How the run is made.
        weights: A folder with weights to start from, or None.
        threads: CPU threads; None leaves the choice to torch. Bit-equal resume needs the same number.
    """

    method: str
    data: str
    config: dict[str, Any] = field(default_factory=dict)
    options: DataOptions = field(default_factory=DataOptions)
    epochs: int = 1
    settings: Settings = field(default_factory=Settings)
    weights: str | None = None
    threads: int | None = None

    def plain(self) -> dict[str, Any]:
        """The job as JSON."""
        return {"format": FORMAT, "verb": "train", **asdict(self)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Job:
        """The job that `plain` gave. Raises BadInput for a newer format or a value that does not fit."""
        values = dict(plain)
        version = values.pop("format", None)
        if not isinstance(version, int) or version > FORMAT:
            raise BadInput(f"the run's origin has format {version}: this mien reads up to {FORMAT}; update mien")
        values.pop("verb", None)
        return build(cls, values, "origin")

    # --- what it stands for -----------------------------------------------------------------------------------
    def create(self, out: Path | None = None) -> Method:
        """The method, with first weights that follow from the seed, or from `weights`.

        Args:
            out: The run folder: where it holds a checkpoint, that has the weights, and `weights` is not read.
        """
        with kept_generators():
            seed_all(stable_seed(self.settings.seed, "create"))
            method = build(catalog.resolve(self.method), self.config, self.method)
        if self.weights is not None and not (out is not None and (out / LAST).exists()):
            load_weights(method, self.weights)
        return method

    def open_data(self, method: Method) -> TrainingData:
        """The data for `method`."""
        room = catalog.room(self.method)
        room.check_kind(self.options.kind)
        if self.data != EMBEDDED:
            room.check_source(self.data, self.options.kind)
        return room.open_data(self.data, method, self.options)

    def schedule(self, method: Method, data: TrainingData) -> Schedule:
        """The phases."""
        return catalog.room(self.method).schedule(method, data, self.epochs)

    def run(self, out: Path | None, *, resume: bool = False) -> tuple[Method, TrainingData]:
        """Train. See `mien.engine.fit` for what is raised."""
        method = self.create(out if resume else None)
        data = self.open_data(method)
        fit(
            method,
            data,
            schedule=self.schedule(method, data),
            settings=self.settings,
            out=out,
            strategies=catalog.room(self.method).strategies(method),
            resume=resume,
            origin=self.plain(),
        )
        report(out)
        return method, data


def plan(
    method: str,
    data: str | Path | None = EMBEDDED,
    *,
    preset: PresetName = "paper",
    config: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    options: DataOptions | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    threads: int | None = None,
) -> Job:
    """A job from a preset and what differs from it.

    Args:
        method: Name of the method.
        data: Path, "embedded", or None where the data are no folder: then nothing is taken from them.
        preset: "paper" or "small".
        config: Arguments of the constructor that differ from the preset's.
        epochs: Passes; None for the preset's.
        options: How the data are read.
        settings: Fields of `Settings` that differ from the preset's.
        weights: A folder with weights to start from, or the name of a method that comes with weights.
        threads: CPU threads.
    """
    chosen = preset_of(method, preset)
    epochs = chosen.epochs if epochs is None else epochs
    if epochs < 1:
        raise BadInput(f"epochs is {epochs}: it must be at least 1")
    options = options or DataOptions()
    chosen_config = merged(chosen.config, config or {})
    if weights is not None and not Path(weights).exists():
        weights = catalog.shipped(str(weights)) or weights
    return Job(
        method=method,
        data=EMBEDDED if data is None else located(data),
        config=chosen_config if data is None else _completed(method, located(data), options, chosen_config),
        options=options,
        epochs=epochs,
        settings=build(Settings, {**chosen.settings, **(settings or {})}, "settings"),
        weights=located(weights),
        threads=threads,
    )


def _completed(method: str, data: str, options: DataOptions, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with what follows from the data in the places of None."""
    room = catalog.room(method)
    room.check_kind(options.kind)
    found = room.data_config(method, data, options) if data == EMBEDDED or Path(data).exists() else {}
    return config | {name: value for name, value in found.items() if config.get(name) is None}


@overload
def located(path: str | Path) -> str: ...
@overload
def located(path: None) -> None: ...
def located(path: str | Path | None) -> str | None:
    """The absolute path, so that a run can be resumed from anywhere; "embedded" and None stay."""
    return path if path is None or path == EMBEDDED else str(Path(path).resolve())


def preset_of(method: str, preset: str) -> Any:
    """The preset of a method. Raises BadInput for an unknown or planned method and for an unknown preset."""
    if preset not in ("paper", "small"):
        raise BadInput(f"preset is {preset!r}: use paper or small")
    catalog.resolve(method)
    return catalog.room(method).preset(method, preset)  # type: ignore[arg-type]


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`; dicts inside are merged, too.

    >>> merged({"network": {"name": "tiny", "stem": 3}}, {"network": {"stem": 4}, "r": 1})
    {'network': {'name': 'tiny', 'stem': 4}, 'r': 1}
    """
    result = dict(base)
    for name, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = merged(result[name], value) if both else value
    return result


def read_job(run: Path) -> Job:
    """The job of a run folder. Raises BadInput when it is none, or was started with data from Python."""
    path = run / "config.json"
    if not path.is_file():
        raise BadInput(f"{run} is not a run folder: it has no config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        origin = config["origin"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} is not the record of a run: {type(error).__name__} {error}") from error
    if not isinstance(origin, dict):
        raise BadInput(f"{run} was started from Python with data of its own: resume it there, mien.train(resume=True)")
    return Job.from_plain(origin)


def report(out: Path | None) -> None:
    """The run folder's page, where there is a run folder."""
    if out is not None:
        from mien.report.run import run_report  # matplotlib: only when something is written

        run_report(out)


def next_run_folder(method: str, parent: str | Path = "runs") -> Path:
    """The first free name: runs/acmf-001, runs/acmf-002, ..."""
    taken = {path.name for path in Path(parent).glob(f"{method}-*")}
    number = next(n for n in range(1, len(taken) + 2) if f"{method}-{n:03d}" not in taken)
    return Path(parent) / f"{method}-{number:03d}"


def resumed(job: Job, device: str | None, threads: int | None, monitor: str | None) -> Job:
    """The job with what may change when a run is resumed: device, threads, and the metric that picks the best."""
    changes: dict[str, Any] = {"device": device, "monitor": monitor}
    settings = replace(job.settings, **{name: value for name, value in changes.items() if value is not None})
    return replace(job, settings=settings, threads=job.threads if threads is None else threads)
