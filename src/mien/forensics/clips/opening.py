# SPDX-License-Identifier: Apache-2.0
"""Training and test data of detectors of clips: videos as they lie, or clips made from people's pictures."""

from __future__ import annotations

from pathlib import Path

from mien.data.folders import require_classes
from mien.data.splits import split_by_group, split_records
from mien.engine import TrainingData
from mien.errors import BadInput
from mien.forensics.clips.stills import CLIP_KINDS, StillClips
from mien.forensics.clips.videos import ClipDetector, Footage, VideoClips, footage, manifest_of
from mien.forensics.detector import Detector
from mien.forensics.opening import OpenedData, faces_to_forge, layout_in, read_records
from mien.forensics.people import People
from mien.room import DataOptions, TestData


def open_clips(source: str, detector: Detector, options: DataOptions) -> TrainingData:
    """Training and validation data. See `mien.room.Room.open_data`."""
    method = _clip_detector(detector)
    return method.with_further_data(_clips(source, method, options), options.seed)


def _clips(source: str, method: ClipDetector, options: DataOptions) -> OpenedData:
    people = faces_to_forge(source, options, test=False)
    if people is not None:
        return _filmed(people, method, options)
    layout = layout_in(source, options)
    records = read_records(source, layout, "train", files=True)
    require_classes(records, where=source)
    train, held = records, []
    if options.validation:
        train, held = split_records(records, (1 - options.validation, options.validation), seed=options.seed)
    dataset = _videos(method, footage(train), options, training=True)
    kept = footage(held) if len({record.label for record in held}) == 2 else []
    validation = _videos(method, kept, options) if kept else None
    return OpenedData(dataset, validation, manifest_of([*dataset.videos, *footage(held)], _about(source, layout)))


def open_test_clips(source: str, detector: Detector, options: DataOptions) -> TestData:
    """All clips of all videos; for "embedded" those of people who are never trained on."""
    method = _clip_detector(detector)
    people = faces_to_forge(source, options, test=True)
    if people is not None:
        return TestData(film(people, method, seed=options.seed), people.manifest)
    layout = layout_in(source, options)
    records = read_records(source, layout, "test", files=True)
    require_classes(records, where=source)
    dataset = _videos(method, footage(records), options)
    return TestData(dataset, dataset.manifest(_about(source, layout)))


def film(
    people: People,
    detector: Detector,
    *,
    kinds: tuple[str, ...] = CLIP_KINDS,
    seed: int = 0,
    training: bool = False,
    per_unit: int = 12,
) -> StillClips:
    """Clips of people's faces and of the forgeries made from them. With one person, without swaps."""
    if len(set(people.names)) < 2:
        kinds = tuple(kind for kind in kinds if kind != "swap")
    return StillClips(
        people.faces,
        people.names,
        detector.image_size,
        detector.frames,
        kinds=kinds,
        seed=seed,
        training=training,
        per_unit=per_unit,
        attributes=people.attributes,
    )


def _filmed(people: People, detector: ClipDetector, options: DataOptions) -> OpenedData:
    train, validation = list(range(len(people.names))), None
    if options.validation:
        shares = (1 - options.validation, options.validation)
        train, held = split_by_group(people.names, shares, seed=options.seed)
        validation = film(people.part(held), detector, seed=options.seed)
    return OpenedData(film(people.part(train), detector, seed=options.seed, training=True), validation, people.manifest)


def _videos(method: ClipDetector, videos: list[Footage], options: DataOptions, *, training: bool = False) -> VideoClips:
    return VideoClips(
        videos,
        method.sampling,
        method.image_size,
        crop=options.crop,
        training=training,
        perturbed=method.perturbed if training else 0.0,
        share=method.share if training else 1.0,
    )


def _about(source: str, layout: str) -> str:
    return f"clips of {layout} data in {Path(source).name}"


def _clip_detector(detector: Detector) -> ClipDetector:
    if not isinstance(detector, ClipDetector):
        raise BadInput(f"{detector.name!r} sees clips but is no mien.forensics.clips.videos.ClipDetector")
    return detector
