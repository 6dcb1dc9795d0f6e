# SPDX-License-Identifier: Apache-2.0
"""`mien.audit`: does a detector treat groups of people alike?

    found = mien.audit("runs/plain-001", "faces/", "audit", group_by="race")
    found["fairness"]["URDPD"]["value"]

The detector may be a trained one of this room, or any image classifier as a torch module or an ONNX file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Subset

from mien.data.listing import printable
from mien.engine import Method
from mien.engine.ranks import choose_device
from mien.engine.run import versions
from mien.engine.seeding import kept_generators
from mien.errors import BadInput
from mien.files import write_json
from mien.forensics.audit.foreign import OnnxDetector, Reading, as_detector, prunable
from mien.forensics.audit.groups import Grouped, open_grouped
from mien.forensics.detector import Detector
from mien.forensics.parts.pruning import Pruning, check, prune
from mien.forensics.scoring import Scored, score
from mien.metrics.fairness import REAL, SMALL, Fairness, Judged, assess
from mien.report.fairness import add_fairness, add_pruned
from mien.report.html import Page
from mien.room import DataOptions
from mien.weights import check_unseen, open_weights

FORMAT = 1
EMBEDDED = "embedded"


@dataclass(frozen=True)
class Subject:
    """What is audited.

    Args:
        detector: In eval mode, on its device.
        named: What it is called.
        trained_on: One line on what it was trained on.
        manifest: Of its training, or None.
    """

    detector: Detector
    named: str
    trained_on: str
    manifest: Any


def audit(
    weights: str | Path | nn.Module,
    data: str | Path,
    out: str | Path | None = None,
    *,
    group_by: str | None = None,
    kind: str = "auto",
    crop: str = "none",
    per_group: int = 200,
    threshold: float = 0.5,
    small: int = SMALL,
    allow_same_names: bool = False,
    image_size: int | None = None,
    forged_output: str = "auto",
    output_values: str = "auto",
    pixels: str = "unit",
    output: str | None = None,
    prune_to: str | Path | None = None,
    rho: float = 0.001,
    pruning: Pruning = "bpfa",
    calibration: float = 0.3,
    device: str = "auto",
    batch_size: int = 64,
    workers: int = 0,
    max_steps: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The fairness report of a detector on real and forged faces of people of whom a group is known.

    Args:
        weights: A run folder, a saved folder, the name of a method that comes with weights, an ONNX file; or from
            Python a method or any torch module (B, 3, H, W) -> outputs.
        data: A folder with labels.csv (columns file or path, the group, and maybe label and kind; without labels
            forgeries are made from the faces), a FairFD folder, or "embedded" for generated people by skin tone.
        out: A folder for audit.json and report.html; None writes nothing.
        group_by: The column that makes the groups; None for race, or the only one.
        kind: Layout of the data, or "auto".
        crop: "none" takes images as they are, "auto" finds and aligns faces.
        per_group: Where forgeries are made: most faces of a group.
        threshold: Score from which on an image is called forged, in (0, 1).
        small: Images that a cell needs in order not to be flagged.
        allow_same_names: Persons who are called as in training are different ones.
        image_size: Of a torch module, or of an ONNX file whose input is open.
        forged_output: Of a torch module or an ONNX file: which output means forged; see `mien.forensics.audit.foreign`.
        output_values: Of those: "logits", "probabilities", or "auto".
        pixels: Of those: "unit" [0, 1], "symmetric" [-1, 1], "bytes" [0, 255] or "imagenet".
        output: Of an ONNX file with several outputs: the name of the one to read.
        prune_to: Prune the detector with persons kept apart, report before and after on the others, and save the
            pruned one in this folder.
        rho: Share of each convolution's weights that is pruned.
        pruning: "bpfa", "weight", "activation" or "random".
        calibration: Share of the persons of each group who are kept apart for it.
        device: auto, cpu, cuda, cuda:N or mps.
        batch_size: Images per pass.
        workers: Processes that load images.
        max_steps: At most so many passes; a trial, since some cells may then be empty.
        seed: Whatever is drawn follows from it.

    Returns:
        What audit.json holds: the matrix, twelve figures with 95 % intervals, AUC and accuracy, flags, notes.

    Raises:
        BadInput: The detector has seen the data, or anything else that cannot be used, in one line.
    """
    if not 0 < threshold < 1:
        raise BadInput(f"threshold is {threshold}: it must lie in (0, 1)")
    if per_group < 4 or batch_size < 1 or small < 0:
        raise BadInput(f"per_group is {per_group}, batch_size is {batch_size}, small is {small}: use 4, 1, 0 or more")
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        raise BadInput(f"{out} is a file: give a folder")
    check(rho, pruning)
    reading = Reading(forged_output, output_values, pixels)  # type: ignore[arg-type]
    subject = _subject(weights, device, image_size, reading, output)
    detector = subject.detector
    if prune_to is not None:
        _check_prunable(detector, Path(prune_to))
    options = DataOptions(kind, crop, seed=seed)  # type: ignore[arg-type]
    source = _existing(data)
    share = calibration if prune_to is not None else 0.0
    grouped = open_grouped(source, detector, options, group_by=group_by, per_group=per_group, calibration=share)
    checked = check_unseen(subject.manifest, grouped.manifest, allow_same_names=allow_same_names, source=source)
    if max_steps is not None:
        grouped = _thinned(grouped, detector, max_steps * batch_size)
    with kept_generators():
        scored = score(detector, grouped.data, batch_size=batch_size, workers=workers)
        judged = judge(scored, grouped, threshold)
        before = assess(judged, small=small, seed=seed)
        pruned = None
        if prune_to is not None:
            pruned = _pruned(subject, grouped, Path(prune_to), rho, pruning, threshold, small, seed, batch_size)
    notes = [
        subject.trained_on,
        checked,
        *grouped.notes,
        f"intervals: 95 % bootstrap over {len(set(scored.group))} persons or photographs; accuracy at {threshold:g}",
        "a detector that always gives the same answer has disparities of 0: read AUC and accuracy first",
    ]
    result: dict[str, Any] = {
        "format": FORMAT,
        "method": detector.name,
        "weights": subject.named,
        "data": {"source": source, "description": grouped.manifest.get("description", "")},
        "group_by": grouped.column,
        **before.to_json(),
        "notes": notes,
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if pruned is not None:
        after, zeroed = pruned
        settings = {"rho": rho, "pruning": pruning, "calibration": calibration}
        result["pruned"] = {**settings, "saved": str(prune_to), "zeroed": zeroed, **after.to_json()}
    if out is not None:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "audit.json", result)
        _page(result, before, pruned).write(folder / "report.html")
    return result


def judge(scored: Scored, grouped: Grouped, threshold: float) -> Judged:
    """What a detector said, with the group of everybody.

    Args:
        scored: Scores, in which attributes name the group, or else the persons do.
        grouped: The data.
        threshold: Score from which on an image is called forged.

    Raises:
        BadInput: A label contradicts its kind.
    """
    for name, label, kind in zip(scored.name, scored.label.tolist(), scored.kind, strict=True):
        if kind and (kind == REAL) != (label == 0):
            raise BadInput(
                f"{printable(name)} has label {label} and kind {kind!r}: real images have label 0 and kind real or "
                "none, forged ones label 1 and another kind or none"
            )
    known = bool(scored.attributes) and all(grouped.column in row for row in scored.attributes)
    groups = (
        [row[grouped.column] for row in scored.attributes] if known else [grouped.group_of[n] for n in scored.group]
    )
    kinds = [
        REAL if label == 0 else kind or "forged" for label, kind in zip(scored.label.tolist(), scored.kind, strict=True)
    ]
    return Judged(scored.score, np.asarray(kinds), np.asarray(groups), np.asarray(scored.group), threshold)


def _subject(
    weights: str | Path | nn.Module, device: str, image_size: int | None, reading: Reading, output: str | None
) -> Subject:
    place = choose_device(device)
    if isinstance(weights, nn.Module) and not isinstance(weights, Method):
        detector = as_detector(weights, image_size, reading).to(place).eval()
        return _unknown(detector, type(weights).__name__)
    if isinstance(weights, (str, Path)) and Path(weights).suffix.lower() == ".onnx":
        foreign = OnnxDetector(weights, image_size=image_size, reading=reading, output=output)
        return _unknown(foreign.eval(), str(weights))
    if isinstance(weights, (str, Path)) and Path(weights).suffix.lower() in (".h5", ".hdf5"):
        from mien.forensics.mesonet import load_keras

        return _unknown(load_keras(weights).to(place).eval(), str(weights))
    opened = open_weights(weights, place)
    if not isinstance(opened.method, Detector):
        raise BadInput(f"{opened.method.name!r} is no detector of forged faces: an audit is of those")
    if image_size not in (None, opened.method.image_size):
        raise BadInput(f"image size is {image_size}: this {opened.method.name} takes {opened.method.image_size} pixels")
    named = str(opened.folder) if opened.folder is not None else opened.method.name
    return Subject(opened.method, named, opened.trained_on, opened.manifest)


def _thinned(grouped: Grouped, detector: Detector, most: int) -> Grouped:
    """At most so many samples, from all over the data: every kind and group keeps its share."""
    count = len(grouped.data)  # type: ignore[arg-type]
    if count <= most or detector.predicts_by_group:
        return grouped
    rows = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most].sort().values.tolist()
    note = f"a trial: {most} of {count} images"
    return replace(grouped, data=Subset(grouped.data, rows), notes=(*grouped.notes, note))


def _unknown(detector: Detector, named: str) -> Subject:
    line = f"What {Path(named).name} was trained on is not known here. A score is not evidence."
    return Subject(detector, named, line, None)


def _existing(data: str | Path) -> str:
    if str(data) != EMBEDDED and not Path(data).exists():
        raise BadInput(f"{data} does not exist: give a folder with labels.csv, or {EMBEDDED!r}")
    return str(data)


def _check_prunable(detector: Detector, folder: Path) -> None:
    prunable(detector)
    if detector.name in ("torch-module", "onnx-file"):
        raise BadInput("a network from elsewhere cannot be saved here: prune it in Python, mien.forensics.fairfd.prune")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} is there already: name a new folder for the pruned detector")


def _pruned(
    subject: Subject,
    grouped: Grouped,
    folder: Path,
    rho: float,
    pruning: Pruning,
    threshold: float,
    small: int,
    seed: int,
    batch_size: int,
) -> tuple[Fairness, dict[str, int]]:
    """The pruned detector's report on the same images; it is saved with all that it has seen."""
    if grouped.calibration is None:
        raise BadInput("no person could be kept apart to calibrate on: raise the share to calibrate on, or give more")
    found, zeroed = prune(
        subject.detector,
        grouped.calibration,
        group_by=grouped.column,
        rho=rho,
        pruning=pruning,
        seed=seed,
        batch_size=batch_size,
    )
    with torch.no_grad():
        scored = score(found, grouped.data, batch_size=batch_size)
    found.save_pretrained(folder)
    seen, own = subject.manifest or {}, grouped.calibration_manifest or {}
    write_json(
        folder / "manifest.json",
        {
            "format": FORMAT,
            **{name: sorted({*(seen.get(name) or ()), *(own.get(name) or ())}) for name in ("groups", "files")},
            "description": f"{seen.get('description') or 'data that are not recorded'}; pruned after calibration on "
            f"persons of: {own.get('description', '')}",
        },
    )
    return assess(judge(scored, grouped, threshold), small=small, seed=seed), zeroed


def _page(result: dict[str, Any], before: Fairness, pruned: tuple[Fairness, dict[str, int]] | None) -> Page:
    name = Path(result["weights"]).name
    page = Page(
        f"Fairness audit: {name}",
        subtitle=f"{result['method']} · {result['data']['description']} · by {result['group_by']} · {result['date']}",
    )
    add_fairness(page, before, column=result["group_by"], over=f"{sum(before.units.values())} persons")
    if pruned is not None:
        done = result["pruned"]
        add_pruned(page, before, *pruned, f"{done['pruning']}, {100 * done['rho']:g} % of each convolution")
    page.section("What was run")
    for note in result["notes"]:
        page.paragraph(note[0].upper() + note[1:] + ("" if note.endswith(".") else "."))
    rows = [("weights", name), ("data", result["data"]["description"]), ("group", result["group_by"])]
    page.table(["what", "value"], [*rows, ("mien", str(result["versions"].get("mien", "")))], caption="Settings")
    return page
