# SPDX-License-Identifier: Apache-2.0
"""What people call from Python: create, load, train, evaluate, predict. `import mien` fetches these when they are used.

The command line calls the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from mien import catalog
from mien.configure import build
from mien.engine import Method, Schedule, Settings, Strategy, TrainingData, fit
from mien.engine.ranks import choose_device, names_device
from mien.engine.run import versions
from mien.engine.seeding import kept_generators
from mien.engine.sources import as_training_data
from mien.errors import BadInput
from mien.files import write_json
from mien.job import EMBEDDED, Job, located, plan, report
from mien.room import Answers, DataOptions, PresetName, Room, Row, TestData, Using
from mien.weights import Opened, check_unseen, open_weights

__all__ = ["create", "evaluate", "load", "predict", "train"]

EVALUATION_FORMAT = 1


def create(name: str, **config: Any) -> Method:
    """A method by name, with fresh weights.

    Args:
        name: A name that `mien list` prints.
        config: Arguments of its constructor; a dict becomes the dataclass that the constructor wants.

    Raises:
        BadInput: Unknown or planned method, unknown argument (with the nearest name), wrong type.
    """
    return build(catalog.resolve(name), config, name)


def load(folder: str | Path, *, device: str = "cpu") -> Method:
    """A trained method from a run folder or a saved folder, in eval mode.

    Args:
        folder: A run folder (its best weights if a metric was monitored, else its last), what `method.save_pretrained`
            wrote, or the name of a method that comes with weights.
        device: Where to put it: auto, cpu, cuda, cuda:N or mps.
    """
    return open_weights(folder, choose_device(device)).method


def train(
    method: str | Method,
    data: str | Path | TrainingData | Dataset[Any],
    out: str | Path | None = None,
    *,
    epochs: int | None = None,
    preset: PresetName = "paper",
    config: Mapping[str, Any] | None = None,
    kind: str = "auto",
    crop: str = "auto",
    validation: float = 0.1,
    strict: bool = False,
    weights: str | Path | None = None,
    schedule: Schedule | None = None,
    strategies: Sequence[Strategy] = (),
    resume: bool = False,
    **settings: Any,
) -> Method:
    """Train a method and give it back, in eval mode, with its last weights.

    Args:
        method: A name, or a method, which is trained in place.
        data: A folder or file, "embedded" for generated samples, or a data set of the family's sample type.
        out: The run folder; None writes nothing.
        epochs: Passes over the data; None for the preset's.
        preset: Where a name is given, "paper" or "small": configuration, settings and epochs to start from.
        config: Where a name is given, arguments of the constructor that differ from the preset's.
        kind: Layout of the folder, or "auto".
        crop: "auto" finds and aligns faces, "none" takes images as they are.
        validation: Share of persons or videos to validate on.
        strict: Refuse data whose classes differ in framing or compression alone.
        weights: A folder with weights to start from, or the name of a method that comes with weights.
        schedule: Phases of your own in place of `epochs`.
        strategies: Hooks around the losses.
        resume: Continue the run in `out`.
        settings: Fields of `mien.engine.Settings`: batch_size, seed, device, max_steps, ...

    Raises:
        BadInput: Anything that cannot be used, in one line.
        TrainingStopped: A loss is not finite, or the disk is full; earlier checkpoints are intact.
    """
    folder = None if out is None else Path(out)
    options = DataOptions(kind, crop, validation, settings.get("seed", 0), strict)  # type: ignore[arg-type]
    if isinstance(method, str):
        told = data if isinstance(data, (str, Path)) else None
        wish = plan(
            method,
            told,
            preset=preset,
            config=config,
            epochs=epochs,
            options=options,
            settings=settings,
            weights=weights,
        )
        trained, how, passes = wish.create(folder if resume else None), wish.settings, wish.epochs
        weights = wish.weights
    elif config is not None or weights is not None:
        raise BadInput("config and weights belong to a method that is given by name: this one exists already")
    else:
        trained, how, passes = method, build(Settings, settings, "settings"), 1 if epochs is None else epochs
    origin, source = None, data
    if isinstance(data, (str, Path)):
        job = Job(trained.name, located(data), trained.config(), options, passes, how, located(weights))
        origin, source = job.plain(), job.open_data(trained)
    room = _room_of(trained)
    fit(
        trained,
        source,  # type: ignore[arg-type]
        schedule=schedule or room.schedule(trained, as_training_data(source), passes),  # type: ignore[arg-type]
        settings=how,
        out=folder,
        strategies=[*room.strategies(trained), *strategies],
        resume=resume,
        origin=origin if schedule is None and not strategies else None,  # only what the command line can repeat
    )
    report(folder)
    remember(trained, source)
    return trained.eval()


def _room_of(method: Method) -> Room:
    """The family's room; the plain one, of one phase, for a method of the caller's own that no catalog knows."""
    try:
        return catalog.room(method.name)
    except BadInput:
        return Room()


def remember(method: Method, data: Any) -> None:
    """Let a method that was just trained know on what, so that `evaluate` can refuse the same data."""
    if isinstance(data, TrainingData):
        method.__dict__["_trained_on"] = data.manifest()


def evaluate(
    weights: str | Path | Method,
    data: str | Path | Dataset[Any],
    out: str | Path | None = None,
    *,
    kind: str = "auto",
    crop: str = "auto",
    strict: bool = False,
    allow_same_names: bool = False,
    device: str = "auto",
    precision: str = "32",
    **using: Any,
) -> dict[str, Any]:
    """Numbers with intervals on labelled data that the model has not seen.

    Args:
        weights: A run folder, a saved folder, the name of a method that comes with weights, or a method.
        data: A folder or file, "embedded", or a data set of the family's sample type.
        out: A folder for evaluation.json and pictures; None writes nothing.
        kind: Layout of the folder, or "auto".
        crop: "auto" finds and aligns faces, "none" takes images as they are.
        strict: Refuse data whose classes differ in framing or compression alone.
        allow_same_names: Persons or videos that are called the same in training and test data are different ones.
            Files are still compared by content.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: "32", "bf16" or "fp16".
        using: Fields of `mien.room.Using`: batch_size, workers, mode, target, source, features, max_steps, seed,
            pictures.

    Returns:
        What evaluation.json holds: metrics with 95 % intervals, scored items, notes, versions.

    Raises:
        BadInput: The model was trained on some of the data, or anything else that cannot be used, in one line.
    """
    trial = open_trial(
        weights, data, kind=kind, crop=crop, strict=strict, allow_same_names=allow_same_names, device=device, **using
    )
    opened = trial.opened
    folder = _folder(out)
    with autocast(opened.device, precision), kept_generators():
        found = catalog.room(opened.method.name).evaluate(opened.method, trial.test, folder, trial.using)
    result = {
        "format": EVALUATION_FORMAT,
        "method": opened.method.name,
        "weights": str(opened.folder) if opened.folder else None,
        "data": {
            "source": trial.source,
            "description": trial.test.manifest.get("description", ""),
            "options": asdict(trial.options) if trial.options else None,
        },
        "using": {**asdict(trial.using), "precision": precision},
        **found,
        "notes": [opened.trained_on, trial.checked, *found.get("notes", ())],
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if folder is not None:
        write_json(folder / "evaluation.json", result)
    return result


@dataclass(frozen=True)
class Trial:
    """A model and test data that have been looked at together: the model has not seen them.

    Args:
        opened: The model.
        test: The data.
        using: How the model is run.
        source: Where the data came from.
        options: How they were read, or None for a data set from Python.
        checked: What was checked, in one line.
    """

    opened: Opened
    test: TestData
    using: Using
    source: str
    options: DataOptions | None
    checked: str


def open_trial(
    weights: str | Path | Method,
    data: str | Path | Dataset[Any],
    *,
    kind: str = "auto",
    crop: str = "auto",
    strict: bool = False,
    allow_same_names: bool = False,
    device: str = "auto",
    **using: Any,
) -> Trial:
    """Open what `evaluate` evaluates, with the same arguments. Raises BadInput when the model has seen the data."""
    opened = open_weights(weights, choose_device(device))
    how = _using(using, opened, crop)
    if how.features is not None and not catalog.room(opened.method.name).takes_features:
        raise BadInput(f"features is {how.features!r}: {opened.method.name!r} is not measured with such a network")
    options = None
    if isinstance(data, (str, Path)):
        room = catalog.room(opened.method.name)
        room.check_kind(kind)
        options = DataOptions(kind, crop, seed=how.seed, strict=strict)  # type: ignore[arg-type]
        source = str(data)
        if source != EMBEDDED:
            room.check_source(source, kind)
        test = room.open_test(source, opened.method, options)
    else:
        source = type(data).__name__
        groups = sorted({str(name) for name in getattr(data, "groups", ())})
        test = TestData(data, {"groups": groups, "files": [], "description": source})
    checked = check_unseen(opened.manifest, test.manifest, allow_same_names=allow_same_names, source=source)
    return Trial(opened, test, how, source, options, checked)


def predict(
    weights: str | Path | Method,
    inputs: Any,
    out: str | Path | None = None,
    *,
    crop: str = "auto",
    device: str = "auto",
    precision: str = "32",
    **using: Any,
) -> Answers:
    """Answers for files, folders of images, folders of frames, or images.

    Args:
        weights: A run folder, a saved folder, the name of a method that comes with weights, or a method.
        inputs: A path or an image (PIL; uint8 array (H, W, 3); tensor (3, H, W) in [0, 1]), or a list of them.
        out: A folder for evidence pictures; None writes nothing.
        crop: "auto" finds and aligns faces, "none" takes images as they are.
        device: auto, cpu, cuda, cuda:N or mps; or one of the targets of a predictor of latencies ("pixel3"): then
            that is the target, and mien chooses where to compute.
        precision: "32", "bf16" or "fp16".
        using: Fields of `mien.room.Using`: batch_size, workers, mode, target, source, max_steps, seed, pictures.

    Returns:
        The answers; iterate over them once: they are computed on the way. `len` is the number of rows, and `notes`
        says what a reader must know. A broken file is a row with `error`.
    """
    opened = open_weights(weights, choose_device(device if names_device(device) else "auto"))
    if not names_device(device):
        using["target"] = _target_device(device, using.get("target"), opened.method)
    how = _using(using, opened, crop)
    several = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    if not several:
        raise BadInput("nothing to predict: inputs is empty")
    room = catalog.room(opened.method.name)
    for item in several:
        if isinstance(item, (str, Path)):
            room.check_input(item)
    context = partial(autocast, opened.device, precision)
    with context():
        answers = room.predict(opened.method, several, _folder(out), how)
    return replace(answers, rows=_each_under(context, answers.rows), notes=(opened.trained_on, *answers.notes))


def _target_device(device: str, target: str | None, method: Method) -> str:
    """The target that a device's name stands for. Raises BadInput where it is none of the method's."""
    targets = catalog.room(method.name).targets(method)
    if device not in targets:
        several = f", or a target of this {method.name}: {', '.join(targets)}" if targets else ""
        raise BadInput(f"device is {device!r}: use auto, cpu, cuda, cuda:N or mps to compute on{several}")
    if target not in (None, device):
        raise BadInput(f"device is {device!r} and target is {target!r}: name one of the two")
    return device


def _each_under(context: Callable[[], AbstractContextManager[Any]], rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, each computed inside the context, which is left before the caller sees the row."""
    while True:
        with context():
            row = next(rows, None)
        if row is None:
            return
        yield row


def _using(given: Mapping[str, Any], opened: Opened, crop: str) -> Using:
    return build(Using, {**given, "device": str(opened.device), "crop": crop}, "using")


def _folder(out: str | Path | None) -> Path | None:
    if out is None:
        return None
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file: give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The context in which a model runs in "32", "bf16" or "fp16". Raises BadInput for what the device cannot do."""
    if precision == "32":
        return nullcontext()
    if precision not in ("bf16", "fp16"):
        raise BadInput(f"precision is {precision!r}: use 32, bf16 or fp16")
    if precision == "fp16" and device.type != "cuda":
        raise BadInput(f"precision is 'fp16' on {device.type}: fp16 needs a CUDA device; use bf16 or 32")
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)
