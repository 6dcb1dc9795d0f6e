# SPDX-License-Identifier: Apache-2.0
"""What the forensics room offers to the command line: is this face forged?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mien import catalog
from mien.engine import Method, Schedule, Stages, TrainingData
from mien.engine.loading import dataset_size
from mien.errors import BadInput
from mien.forensics.answers import answer
from mien.forensics.clients import clients_in, open_client_test, open_clients, plan_of
from mien.forensics.clips.opening import open_clips, open_test_clips
from mien.forensics.detector import Detector, names_kinds
from mien.forensics.edits.faces import open_edits, open_edits_test
from mien.forensics.opening import LAYOUTS, OpenedData, kinds_in, open_test, open_training
from mien.forensics.presets import PRESETS
from mien.forensics.readers.sets import DOWNLOAD
from mien.forensics.scoring import First, by_client, by_kind, figures, score
from mien.metrics.intervals import Interval, interval_json
from mien.room import Answers, DataOptions, Demo, Preset, PresetName, Room, Row, TestData, Using


class Forensics(Room):
    """Detectors of forged faces."""

    family = "forensics"
    kinds = LAYOUTS
    how_to_get = DOWNLOAD

    def preset(self, name: str, preset: PresetName) -> Preset:
        """The paper's size: Xception at 224 pixels. Small: a network of 41 k weights at 64 pixels."""
        if name in PRESETS:
            return PRESETS[name][preset]
        if preset == "paper":
            return Preset(settings={"batch_size": 30}, epochs=5)
        config: dict[str, Any] = {"network": {"name": "tiny_cnn_highpass"}, "image_size": 64}
        return Preset(config=config, settings={"batch_size": 32}, epochs=6)

    def schedule(self, method: Method, data: TrainingData, epochs: int) -> Schedule:
        """One phase of `epochs` passes, or the method's own stages; of a federated method, `epochs` rounds."""
        if (plan := plan_of(method)) is not None:
            return plan.schedule(epochs, clients_in(data))
        stages = _detector(method).phases(epochs, data)
        return Stages(dict(stages)) if stages else super().schedule(method, data, epochs)

    def data_config(self, name: str, source: str, options: DataOptions) -> dict[str, Any]:
        """The kinds of forgery, for methods that name them."""
        return {"kinds": kinds_in(source, options)} if names_kinds(catalog.resolve(name)) else {}

    def open_data(self, source: str, method: Method, options: DataOptions) -> TrainingData:
        """See `mien.forensics.opening`, and `mien.forensics.clients` for federated methods."""
        if (plan := plan_of(method)) is not None:
            return open_clients(source, _detector(method).image_size, options, plan)
        detector = _detector(method)
        return OPENERS[detector.sees][0](source, detector, options)

    def open_test(self, source: str, method: Method, options: DataOptions) -> TestData:
        """See `mien.forensics.opening`, and `mien.forensics.clients` for federated methods."""
        if (plan := plan_of(method)) is not None:
            return open_client_test(source, _detector(method).image_size, options, plan)
        detector = _detector(method)
        return OPENERS[detector.sees][1](source, detector, options)

    def evaluate(self, method: Method, test: TestData, out: Path | None, using: Using) -> dict[str, Any]:
        """Frame and video figures, AUC per kind of forgery, and the curves."""
        found = test.dataset
        with _answering(method, using) as detector:
            if using.max_steps is not None:
                found = First(found, using.max_steps, using.batch_size, by_unit=detector.predicts_by_group)
            scored = score(detector, found, batch_size=using.batch_size, workers=using.workers)
            further = detector.further_figures(found, batch_size=using.batch_size, seed=using.seed)
        seen, whole = dataset_size(found), dataset_size(test.dataset)
        pooling = detector.pooling
        table = figures(scored, using.seed, pooling) | dict(further)
        clients = by_client(scored, getattr(found, "clients", ()), using.seed, pooling)
        units = scored.videos(pooling) if scored.has_videos else scored
        pictures: list[str] = []
        if out is not None and using.pictures:
            from mien.report.evaluation import write_pictures

            pictures = write_pictures(out, scored.label, scored.score, detector.name)
        columns = zip(units.name, units.group, units.label.tolist(), units.score.tolist(), strict=True)
        return {
            "metrics": {name: interval_json(interval) for name, interval in table.items()},
            "primary": "video_auc" if scored.has_videos else "auc",
            "kinds": {name: interval_json(interval) for name, interval in by_kind(scored, using.seed).items()},
            **({"clients": {n: _plain(rows) for n, rows in clients.items()}} if clients else {}),
            "items": [{"id": i, "group": g, "label": y, "score": s} for i, g, y, s in columns],
            "pictures": pictures,
            "notes": [
                f"intervals: 95 % bootstrap over {len(set(scored.group))} persons or videos; accuracy at score 0.5",
                f"a unit of several images is scored by the mean {POOLED[pooling]} of its frames or clips",
                *([f"the first {seen} of {whole} samples alone"] if seen < whole else []),
                *detector.remarks,
            ],
        }

    def predict(self, method: Method, inputs: Sequence[Any], out: Path | None, using: Using) -> Answers:
        """A row per image and one per folder; see `mien.forensics.answers`."""
        with _answering(method, using, evidence=out is not None and using.pictures) as detector:
            answers = answer(detector, inputs, out, using)
        return replace(answers, rows=_rows(method, using, out, answers.rows))

    def demo(self, data: str, out: Path, *, seed: int = 0, device: str = "cpu", max_steps: int | None = None) -> Demo:
        """See `mien.forensics.demo`."""
        from mien.forensics.demo import demo

        return demo(data, out, seed=seed, device=device, max_steps=max_steps)


def _rows(method: Method, using: Using, out: Path | None, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, computed with the method set up; it gets its own mode back when they are done."""
    with _answering(method, using, evidence=out is not None and using.pictures):
        yield from rows


def _plain(table: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: interval_json(interval) for name, interval in table.items()}


def _detector(method: Method) -> Detector:
    if not isinstance(method, Detector):
        raise BadInput(
            f"{method.name!r} is no detector: the forensics room works with mien.forensics.detector.Detector"
        )
    return method


@contextmanager
def _answering(method: Method, using: Using, evidence: bool = False) -> Iterator[Detector]:
    """The method in the mode and with the source that `using` names; both come back as they were."""
    detector = _detector(method)
    if using.target is not None:
        raise BadInput(f"target is {using.target!r}: {detector.name} gives one score, leave target out")
    before = {name: detector.__dict__.get(name) for name in ("mode", "evidence", "source")}
    if using.mode is not None and using.mode not in detector.modes:
        raise BadInput(f"mode is {using.mode!r}: {detector.name} knows {' and '.join(detector.modes)}")
    if using.mode is not None and len(detector.modes) > 1:
        detector.__dict__["mode"] = using.mode
    detector.evidence = evidence
    if using.source is not None:
        options = DataOptions(crop=using.crop, validation=0.0, seed=using.seed)
        from mien.engine import Phase

        detector.use_source(open_training(using.source, detector.image_size, options).train(Phase()))
    try:
        yield detector
    finally:
        if before["mode"] is not None:
            detector.__dict__["mode"] = before["mode"]
        detector.evidence = bool(before["evidence"])
        if using.source is not None:
            detector.use_source(before["source"])


def _faces(source: str, detector: Detector, options: DataOptions) -> OpenedData:
    return open_training(source, detector.image_size, options)


def _test_faces(source: str, detector: Detector, options: DataOptions) -> TestData:
    return open_test(source, detector.image_size, options)


OPENERS: dict[str, tuple[Callable[..., TrainingData], Callable[..., TestData]]] = {
    "faces": (_faces, _test_faces),
    "clips": (open_clips, open_test_clips),
    "edits": (open_edits, open_edits_test),
}
"""`Detector.sees` -> who opens training data for it, and who test data: (source, detector, options)."""

POOLED = {"log_odds": "log odds", "mean": "score"}

ROOM = Forensics()
