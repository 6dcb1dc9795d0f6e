# SPDX-License-Identifier: Apache-2.0
"""The tour: a small ACMF and its baseline, trained on some forgeries, tested on others and on new people."""

from __future__ import annotations

import platform
import resource
import time
from pathlib import Path
from typing import Any

import torch

from mien.data.folders import people_folders
from mien.data.forge_pairs import KINDS
from mien.data.splits import split_by_group
from mien.engine import Settings, Single, fit
from mien.engine.seeding import seed_all, stable_seed
from mien.forensics.acmf import ACMF
from mien.forensics.data import ForgedFrames
from mien.forensics.detector import Detector
from mien.forensics.opening import EMBEDDED, EMBEDDED_FACES, EMBEDDED_PEOPLE, generated_people, load_people
from mien.forensics.plain import PlainDetector
from mien.forensics.scoring import Scored, by_kind, figures, score
from mien.metrics.intervals import Interval, interval_json, paired_difference
from mien.nn.network import Network
from mien.optim.recipe import Recipe
from mien.report.evaluation import add_curves, add_figures, add_kinds
from mien.report.grids import Example, examples
from mien.report.html import Page
from mien.room import Demo

UNSEEN = "swap"
SIZE = 64
EPOCHS = 4


def demo(data: str, out: Path, *, seed: int = 0, device: str = "cpu", max_steps: int | None = None) -> Demo:
    """Train, test, and write `report.html` into `out`. `data` is "embedded" or a folder with a folder per person."""
    begun = time.perf_counter()
    train, test, about = _data(data, seed)
    network, recipe = Network("tiny_cnn_highpass"), Recipe(lr=2e-3, betas=(0.9, 0.95), schedule="cosine")
    detectors: dict[str, Detector] = {}
    for kind in (PlainDetector, ACMF):
        seed_all(stable_seed(seed, "create"))
        method = kind(network=network, optimizer=recipe, image_size=SIZE)
        settings = Settings(batch_size=32, seed=seed, device=device, max_steps=max_steps)
        fit(method, train, schedule=Single(EPOCHS), settings=settings, out=out / "runs" / method.name)
        detectors[method.name] = method.eval()
    scores = {name: score(method, test) for name, method in detectors.items()}
    tables = {name: figures(scored, seed) for name, scored in scores.items()}
    gain = paired_difference(
        "auc", scores["acmf"].label, scores["plain"].score, scores["acmf"].score, scores["acmf"].group, seed=seed
    )
    seconds = time.perf_counter() - begun
    facts = {
        "data": about,
        "training samples": len(train),
        "test samples": len(test),
        "trained on": ", ".join(kind for kind in KINDS if kind != UNSEEN),
        "unseen kind": UNSEEN,
        "epochs": EPOCHS,
        "seed": seed,
        "seconds": round(seconds, 1),
        "peak memory (MB)": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "threads": torch.get_num_threads(),
        "machine": platform.platform(),
    }
    report = _page(facts, detectors["acmf"], test, scores, tables, gain).write(out / "report.html")
    kinds = by_kind(scores["acmf"], seed)
    lines = [
        f"{about}; trained on {facts['trained on']}, tested on unseen people and on {UNSEEN}, unseen in training",
        *(f"{name}: AUC {tables[name]['auc']}" for name in tables),
        f"acmf on the unseen kind ({UNSEEN}): AUC {kinds[UNSEEN]}",
        f"acmf minus plain: {gain}",
        f"{seconds:.0f} s",
    ]
    values: dict[str, Any] = {name: interval_json(table["auc"]) for name, table in tables.items()}
    return Demo(report, tuple(lines), {"auc": values, "difference": interval_json(gain), **facts})


def _data(data: str, seed: int) -> tuple[ForgedFrames, ForgedFrames, str]:
    if data == EMBEDDED:
        trained, tested = EMBEDDED_PEOPLE
        faces, people = generated_people(range(trained + tested), EMBEDDED_FACES)
        old = [i for i, name in enumerate(people) if name < f"generated-{trained:03d}"]
        new = sorted(set(range(len(people))) - set(old))
        about = f"generated faces: {trained} people to train, {tested} to test"
    else:
        faces, people = load_people(people_folders(data))
        old, new = split_by_group(people, (2 / 3, 1 / 3), seed=seed)
        counts = [len({people[i] for i in part}) for part in (old, new)]
        about = f"faces in {Path(data).name}: {counts[0]} people to train, {counts[1]} to test"
    seen = [kind for kind in KINDS if kind != UNSEEN]
    train = ForgedFrames(faces[old], [people[i] for i in old], SIZE, kinds=seen, seed=seed, training=True)
    test = ForgedFrames(faces[new], [people[i] for i in new], SIZE, kinds=KINDS, seed=seed + 1)
    return train, test, about


def _page(
    facts: dict[str, Any],
    acmf: Detector,
    test: ForgedFrames,
    scores: dict[str, Scored],
    tables: dict[str, dict[str, Interval]],
    gain: Interval,
) -> Page:
    page = Page("Is this face forged?", subtitle="A small ACMF and a plain detector, trained and tested by mien demo.")
    page.section("What came out")
    page.paragraph(
        f"ACMF reaches an AUC of {tables['acmf']['auc']}, the plain detector {tables['plain']['auc']}; "
        f"the difference on the same faces is {gain}. Intervals are 95 % bootstrap over people."
    )
    page.note("A score is a model's opinion about an image. It is not evidence about a person or an event.", "warning")
    add_figures(page, tables["acmf"], over="people")
    add_curves(page, scores["acmf"].label, {name: scored.score for name, scored in scores.items()})
    page.section("Kind by kind")
    page.paragraph(f"Trained on {facts['trained on']}. The kind {UNSEEN!r} was never shown in training.")
    kinds = scores["acmf"].kind
    add_kinds(page, by_kind(scores["acmf"]), counts={kind: kinds.count(kind) for kind in set(kinds)})
    page.section("Faces, masks and evidence")
    page.plot(
        lambda theme: examples(_examples(acmf, test), theme=theme),
        alt="Example faces with the mask of what was forged and the detector's evidence map",
        caption="Real and forged faces, where they were forged, and where the detector looked.",
    )
    page.section("What was run")
    page.table(("what", "value"), list(facts.items()), caption="Data, size, time, memory")
    return page


def _examples(acmf: Detector, test: ForgedFrames) -> list[Example]:
    from mien.data.batch import collate, move

    chosen = [next(i for i, kind in enumerate(test.kinds) if kind == wanted) for wanted in ("real", *KINDS)]
    batch = move(collate([test[i] for i in chosen]), acmf.device)
    acmf.evidence = True
    verdict = acmf.predict(batch)
    acmf.evidence = False
    assert verdict.evidence is not None
    columns = (batch.image.cpu(), batch.mask.cpu(), verdict.evidence.cpu(), batch.kind, verdict.score.tolist())
    return [
        Example(image, kind, f"score {value:.2f}", mask, evidence, wrong=(value >= 0.5) != (kind != "real"))
        for image, mask, evidence, kind, value in zip(*columns, strict=True)
    ]
