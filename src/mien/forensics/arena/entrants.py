# SPDX-License-Identifier: Apache-2.0
"""The arena: every detector of the room under one protocol, on the same faces, against the same forgeries.

Persons are split into those to train and those to test on. The kinds of forgery are split into two halves, and every
detector is trained twice, once on each half, so that each kind is tested both by a detector that has seen it and by
one that has not. All get the same training faces and the same number of passes over them, by their "small" presets;
what that costs is part of the result. Test faces are also perturbed in five ways at five strengths.

A (detector, half) is trained once and then tested condition by condition. Every finished cell is a file of its own, so
that a killed arena goes on where it was: `pieces_of` names them, and `gather` makes the result of them alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mien import catalog
from mien.configure import build
from mien.data.batch import collate, move
from mien.data.perturb import LEVELS
from mien.engine import Settings, fit, load_weights
from mien.engine.seeding import kept_generators, seed_all, stable_seed
from mien.errors import BadInput
from mien.files import read_json, write_json
from mien.forensics.arena.data import CLEAN, CONDITIONS, Material, Perturbed, exam, material, training
from mien.forensics.detector import Detector, names_kinds
from mien.forensics.fairfd import FairFD
from mien.forensics.scoring import Scored, score
from mien.job import merged, preset_of
from mien.metrics.binary import METRICS, members
from mien.metrics.fairness import Judged, fairness
from mien.metrics.intervals import interval_json, metric_interval
from mien.weights import check_unseen, open_weights

HALVES: tuple[tuple[str, ...], ...] = (("self-blend", "re-synthesis"), ("swap", "region-edit"))
"""Kinds of forgery that a detector is trained on, one half at a time."""
EPOCHS = 6
TIMED = 64
"""Faces that the time of an answer is measured on."""


@dataclass(frozen=True)
class Plan:
    """What is run. Plain data: it is handed to processes, and the pieces of another plan are refused.

    Args:
        data: A folder of people, a folder with labels.csv whose rows are people, or "embedded".
        methods: Detectors to train and test.
        outside: Saved folders of detectors that are tested only.
        epochs: Passes over the training faces.
        train_faces: Most faces to make training data of.
        test_faces: Most faces to make test data of.
        group_by: Column of labels.csv whose groups are compared, or None.
        seed: Splits, forgeries, first weights and order follow from it.
        max_steps: A smaller budget; the result is then a rehearsal and says so.
        threads: CPU threads of each process.
        device: Where to compute.
    """

    data: str
    methods: tuple[str, ...]
    outside: tuple[str, ...] = ()
    epochs: int = EPOCHS
    train_faces: int = 1000
    test_faces: int = 400
    group_by: str | None = None
    seed: int = 0
    max_steps: int | None = None
    threads: int = 1
    device: str = "cpu"

    def material(self) -> Material:
        """The faces, split by person."""
        return material(self.data, self.train_faces, self.test_faces, self.group_by, self.seed)


@dataclass(frozen=True)
class Entrant:
    """A detector in one half of the arena.

    Args:
        name: Of the method, or of the folder of an outside detector.
        half: Which of `HALVES` it is trained on; None for an outside detector.
    """

    name: str
    half: int | None

    @property
    def stem(self) -> str:
        """What its files begin with; of an outside detector it follows from its folder's own name."""
        name = self.name if self.half is not None else Path(self.name).resolve().name
        safe = "".join(c if c.isalnum() else "-" for c in name)
        return safe if self.half is None else f"{safe}.{self.half}"

    @property
    def seen(self) -> tuple[str, ...]:
        """Kinds of forgery that it has been trained on here."""
        return () if self.half is None else HALVES[self.half]


def entrants(plan: Plan) -> list[Entrant]:
    """All of them: each method once for each half, then the outside detectors."""
    trained = [Entrant(name, half) for name in plan.methods for half in range(len(HALVES))]
    return [*trained, *(Entrant(folder, None) for folder in plan.outside)]


def pieces_of(plan: Plan, entrant: Entrant, folder: Path) -> dict[str, Path]:
    """Files of an entrant's cells: "train", if it is trained, then one for each condition."""
    names = [*(() if entrant.half is None else ("train",)), *CONDITIONS]
    return {name: folder / f"{entrant.stem}.{name.replace(' ', '-')}.json" for name in names}


# --- one entrant ----------------------------------------------------------------------------------------------
def run_entrant(plan: Plan, entrant: Entrant, folder: Path, marked: Sequence[str] = ()) -> Iterator[str]:
    """Make what is missing of an entrant; a line for every finished cell. Groups are compared without marked kinds."""
    pieces = pieces_of(plan, entrant, folder)
    if all(path.exists() for path in pieces.values()):
        return
    torch.set_num_threads(plan.threads)
    found = plan.material()
    detector = _outside(plan, entrant, found) if entrant.half is None else _created(plan, entrant)
    if entrant.half is not None:
        saved = folder / f"{entrant.stem}.weights"
        if pieces["train"].exists():
            load_weights(detector, saved)
        else:
            yield _train(plan, entrant, detector, found, saved, pieces["train"])
    detector.to(plan.device).eval()
    clean = exam(detector, found, plan.seed)
    for condition in CONDITIONS:
        if pieces[condition].exists():
            continue
        faces = clean if condition == CLEAN else Perturbed(clean, *CONDITIONS[condition], seed=plan.seed)
        cell = _cell(score(detector, faces).videos(detector.pooling), found, plan, condition, marked)
        if condition == CLEAN:
            cell["cost"] = _running_cost(detector, clean)
        write_json(pieces[condition], cell)
        yield f"{entrant.stem}  {condition}: AUC " + ", ".join(f"{k} {v['value']:.3f}" for k, v in cell["auc"].items())


def _created(plan: Plan, entrant: Entrant) -> Detector:
    cls = catalog.resolve(entrant.name)
    room = catalog.room(entrant.name)
    preset = preset_of(entrant.name, "small")
    with kept_generators():
        seed_all(stable_seed(plan.seed, "arena", entrant.stem))
        told = {"kinds": list(entrant.seen)} if names_kinds(cls) else {}
        method = build(cls, merged(preset.config, told), entrant.name)
    if not isinstance(method, Detector):
        raise BadInput(f"{entrant.name} is no detector of the {room.family} room")
    return method


def _outside(plan: Plan, entrant: Entrant, found: Material) -> Detector:
    opened = open_weights(entrant.name, torch.device(plan.device))
    if not isinstance(opened.method, Detector):
        raise BadInput(f"{entrant.name} holds a {opened.method.name}, which is no detector of forged faces")
    check_unseen(opened.manifest, {"groups": sorted(set(found.test.people)), "files": found.manifest["files"]})
    return opened.method


def _train(plan: Plan, entrant: Entrant, detector: Detector, found: Material, saved: Path, piece: Path) -> str:
    data = training(detector, found, entrant.seen, plan.seed)
    preset = preset_of(entrant.name, "small")
    settings = Settings(
        **{**preset.settings, "seed": plan.seed, "device": plan.device, "max_steps": plan.max_steps},
    )
    begun, cpu = time.perf_counter(), time.process_time()
    schedule = catalog.room(entrant.name).schedule(detector, data, plan.epochs)
    fit(detector, data, schedule=schedule, settings=settings)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    detector.save_pretrained(saved)
    weights = sum(p.numel() for p in detector.parameters())
    pruned = {"pruned_weights": int(detector.zeroed)} if isinstance(detector, FairFD) else {}
    write_json(piece, {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "weights": weights, **pruned})
    return f"{entrant.stem}  trained on {', '.join(entrant.seen)}: {cpu:.0f} s of CPU"


def _cell(scored: Scored, found: Material, plan: Plan, condition: str, marked: Sequence[str] = ()) -> dict[str, Any]:
    """AUC of every kind against the real faces; on clean faces with intervals over persons, and by group."""
    auc = {}
    for kind, mask in members(scored.kind, "real").items():
        rows = np.flatnonzero(mask)
        label, value = scored.label[rows], scored.score[rows]
        if condition == CLEAN:
            people = [scored.group[i] for i in rows]
            auc[kind] = interval_json(metric_interval("auc", label, value, people, seed=plan.seed))
        else:
            auc[kind] = {"value": float(METRICS["auc"].value(label, value))}
    cell: dict[str, Any] = {"auc": auc}
    if condition == CLEAN and found.group_of is not None and not set(auc) <= set(marked):
        cell |= by_group(scored, found.group_of, marked)
    return cell


def by_group(scored: Scored, group_of: Mapping[str, str], marked: Sequence[str]) -> dict[str, Any]:
    """AUC of each group of people over all kinds but the marked, and the disparities of the accuracy at 0.5."""
    kept = np.array([kind not in marked for kind in scored.kind])
    label, value, kind = scored.label[kept], scored.score[kept], np.array(scored.kind)[kept]
    person = np.array(scored.group)[kept]
    of = np.array([group_of[name] for name in person.tolist()])
    table = {}
    for group in sorted(set(of.tolist())):
        rows = of == group
        auc = float(METRICS["auc"].value(label[rows], value[rows]))
        table[group] = {"people": len(set(person[rows].tolist())), "auc": auc}
    judged = Judged(value, kind, of, person)
    figures = {name: float(value) for name, value in fairness(judged.matrix()).items()}
    return {"groups": table, "fairness": figures}


def _running_cost(detector: Detector, faces: Any) -> dict[str, float]:
    """Milliseconds of an answer, in batches, loading not included."""
    batch = move(collate([faces[i] for i in range(min(TIMED, len(faces)))]), detector.device)
    with torch.no_grad():
        detector.predict(batch)
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            detector.predict(batch)
            times.append(time.perf_counter() - begun)
    return {"ms_per_item": round(1000 * float(np.median(times)) / len(batch.image), 3)}


# --- the whole ------------------------------------------------------------------------------------------------
def gather(plan: Plan, folder: Path, found: Material) -> dict[str, Any]:
    """Everything that came out, as plain JSON, from the pieces."""
    detectors: dict[str, Any] = {}
    for entrant in entrants(plan):
        pieces = {name: read_json(path) for name, path in pieces_of(plan, entrant, folder).items()}
        row = detectors.setdefault(_shown(entrant), {"outside": entrant.half is None, "runs": []})
        row["runs"].append({"trained on": list(entrant.seen), **pieces})
    return {
        "arena": "forensics",
        "protocol": {**asdict(plan), "data": Path(plan.data).name, "outside": [Path(p).name for p in plan.outside]},
        "data": found.about,
        "rehearsal": plan.max_steps is not None,
        "confound": found.confound,
        "conditions": {name: list(how) for name, how in CONDITIONS.items() if name != CLEAN},
        "strengths": list(LEVELS),
        "detectors": detectors,
    }


def _shown(entrant: Entrant) -> str:
    return entrant.name if entrant.half is not None else f"{Path(entrant.name).resolve().name} (outside)"
