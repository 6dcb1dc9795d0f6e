# SPDX-License-Identifier: Apache-2.0
"""How well pictures are hidden and given back: PSNR and SSIM of every picture, and whether faces are still matched.

    psnr_protected      the protected picture against the obfuscated one: can it be told that something is hidden?
    psnr_revealed       what the right key gives against the original; psnr_revealed_8bit after rounding to 8 bits,
                        psnr_revealed_noise with Gaussian noise of deviation 0.01 (of [-1, 1]) on the protected picture
    psnr_wrong          what the key of a neighbouring passphrase gives, against the original (mode random) or against
                        the obfuscated picture (mode obfuscated)
    psnr_one_bit        what the right key with one bit turned gives, against the original
    psnr_from_obfuscated  what the right key finds in the obfuscated picture, in which nothing is hidden
    psnr_visible        the protected picture against the original: what everybody has
    matched_*           rank-1 identification among the persons of the test: originals, protected, revealed, wrong key

All pictures are clipped to [0, 1] before they are compared. The reference code stretches the wrong-key pictures of a
batch to the full range first; here they are compared as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from mien.engine import evaluation_loader
from mien.errors import BadInput, unknown_name
from mien.metrics import quality
from mien.metrics.intervals import Interval, interval_json, mean_interval
from mien.privacy.data import Portrait, Portraits, Protection
from mien.privacy.identity import enrol, matched, split_for_matching, train_recogniser
from mien.privacy.keys import Cost, key_bits, master_key
from mien.privacy.obfuscate import KINDS
from mien.privacy.pro_face_s import ProFaceS
from mien.progress import Progress

PASSPHRASE, NEIGHBOUR = b"correct horse battery", b"correct horse batterz"
SALT = bytes(16)
TEST_COST = Cost(log2_n=10)
"""What a guess costs says nothing about a picture; one derivation serves all pictures of a test."""
NOISE = 0.01
HIGHEST = 100.0
"""dB; 8-bit pictures that differ have less, and an infinite figure has no mean."""
LOWER_IS_BETTER = ("psnr_one_bit", "psnr_from_obfuscated", "psnr_visible", "matched_protected", "matched_wrong")


@dataclass
class Scored:
    """Numbers of every picture under every obfuscation.

    Args:
        names: What the items are called, "picture [blur]".
        groups: Who they are.
        kinds: The obfuscation of each.
        values: Metric -> item -> value; identity metrics are there for queries only.
        shown: A few pictures of each kind for a report: original, and `Protection`.
    """

    names: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    values: list[dict[str, float]] = field(default_factory=list)
    shown: dict[str, tuple[Tensor, Protection]] = field(default_factory=dict)

    def interval(self, metric: str, kind: str | None = None, seed: int = 0) -> Interval:
        """The mean over pictures, its interval over persons."""
        rows = [i for i, v in enumerate(self.values) if metric in v and kind in (None, self.kinds[i])]
        return mean_interval([self.values[i][metric] for i in rows], [self.groups[i] for i in rows], seed=seed)

    def metrics(self) -> list[str]:
        """All metrics, in the order in which they were measured."""
        return list(dict.fromkeys(name for value in self.values for name in value))


def keys_for(count: int, size: tuple[int, int], passphrase: bytes = PASSPHRASE, first: int = 0) -> Tensor:
    """Keys (count, 1, H, W) as a file with that many regions would have, numbered from `first`."""
    master = master_key(passphrase, SALT, TEST_COST)
    return torch.cat([key_bits(master, SALT, size, place=first + i) for i in range(count)])


def lower_is_better(model: ProFaceS) -> tuple[str, ...]:
    """Metrics of what others see: the less, the better. A wrong key shall miss the original, or find the obfuscated."""
    wrong = ("psnr_wrong", "ssim_wrong") if model.wrong_recovery == "random" else ()
    return (*wrong, *LOWER_IS_BETTER)


def kinds_of(model: ProFaceS, mode: str | None) -> tuple[str, ...]:
    """Which obfuscations are measured: the one that is named, or all that were trained."""
    if mode is not None and mode not in KINDS:
        raise unknown_name("mode (an obfuscation)", mode, KINDS)
    return (mode,) if mode is not None else tuple(dict.fromkeys(model.obfuscation.kinds))


def score(
    model: ProFaceS,
    data: Portraits,
    kinds: tuple[str, ...],
    *,
    batch_size: int = 32,
    workers: int = 0,
    max_batches: int | None = None,
    seed: int = 0,
) -> Scored:
    """Measure all pictures, or those of the first batches, under each obfuscation.

    Where persons are known, a small matcher learns half of each person's pictures and is asked about the others.
    """
    total = -(-len(data) // batch_size)
    total = total if max_batches is None else min(total, max_batches)
    batches = list(islice(evaluation_loader(data, batch_size, workers=workers, device=model.device), total))
    images = [batch.image for batch in batches]
    people = [name for batch in batches for name in batch.group]
    matcher = _Matcher(torch.cat(images), people, seed) if getattr(data.data, "known", True) else None
    scored = Scored()
    with Progress(total * len(kinds), "evaluate") as progress:
        for kind in kinds:
            first = 0
            for batch in batches:
                answer, values = measure(model, batch, kind, first)
                rows = list(range(first, first + len(batch.image)))
                if matcher is not None:
                    _add(values, matcher.about(answer, batch.image, rows))
                scored.shown.setdefault(kind, (batch.image[:6].cpu(), answer))
                scored.names += [
                    f"{name or f'image {row}'} [{kind}]" for name, row in zip(batch.path, rows, strict=True)
                ]
                scored.groups += [name or f"image {row}" for name, row in zip(batch.group, rows, strict=True)]
                scored.kinds += [kind] * len(rows)
                scored.values += values
                first += len(rows)
                progress.advance()
    return scored


def measure(model: ProFaceS, batch: Portrait, kind: str, first: int = 0) -> tuple[Protection, list[dict[str, float]]]:
    """Hide a batch and measure every picture; `first` is the number of its first picture, which the keys depend on."""
    image = batch.image
    size = (image.shape[-2], image.shape[-1])
    right, wrong = (keys_for(len(image), size, p, first).to(image.device) for p in (PASSPHRASE, NEIGHBOUR))
    one_bit = right.clone()
    one_bit[..., size[0] // 2, size[1] // 2] *= -1
    with torch.no_grad():
        answer = model.hide(image, kind, right, wrong)
        again = {
            "psnr_revealed_8bit": (rounded(answer.protected), right),
            "psnr_revealed_noise": (answer.protected + _noise(answer.protected) / 2, right),
            "psnr_one_bit": (answer.protected, one_bit),
            "psnr_from_obfuscated": (answer.obfuscated, right),
        }
        others = {name: (model.reveal(seen * 2 - 1, key) + 1) / 2 for name, (seen, key) in again.items()}
    target = image if model.wrong_recovery == "random" else answer.obfuscated
    columns = {
        "psnr_protected": psnr(answer.protected, answer.obfuscated),
        "ssim_protected": ssim(answer.protected, answer.obfuscated),
        "psnr_revealed": psnr(answer.revealed, image),
        "ssim_revealed": ssim(answer.revealed, image),
        "psnr_wrong": psnr(answer.wrong, target),
        "ssim_wrong": ssim(answer.wrong, target),
        "psnr_visible": psnr(answer.protected, image),
        **{name: psnr(found, image) for name, found in others.items()},
    }
    table = {name: column.cpu().tolist() for name, column in columns.items()}
    return answer, [{name: column[i] for name, column in table.items()} for i in range(len(image))]


def psnr(image: Tensor, target: Tensor) -> Tensor:
    """PSNR in dB of pictures as they are shown, clipped to [0, 1], (B,); at most 100, also for equal ones."""
    return quality.psnr(image.clamp(0, 1), target.clamp(0, 1)).clamp(max=HIGHEST)


def ssim(image: Tensor, target: Tensor) -> Tensor:
    """SSIM of pictures as they are shown, clipped to [0, 1], (B,)."""
    return quality.ssim(image.clamp(0, 1), target.clamp(0, 1))


def rounded(image: Tensor) -> Tensor:
    """The image as an 8-bit file holds it, still in [0, 1]."""
    return (image.clamp(0, 1) * 255).round() / 255


def _noise(image: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(image.shape, generator=generator).to(image.device) * NOISE


class _Matcher:
    """Who is who among the test's persons, learnt from half of their pictures."""

    def __init__(self, images: Tensor, people: list[str], seed: int) -> None:
        gallery, queries = split_for_matching(people, seed)
        names = {name: i for i, name in enumerate(sorted(set(people)))}
        self.person = [names[name] for name in people]
        self.queries = set(queries)
        self.ready = len({self.person[i] for i in gallery}) > 1
        if self.ready:
            known = [self.person[i] for i in gallery]
            self.network = train_recogniser(images[gallery], known, seed=seed)
            self.gallery = enrol(self.network, images[gallery], known)

    def about(self, answer: Protection, image: Tensor, rows: list[int]) -> Iterator[tuple[int, dict[str, float]]]:
        """Place in the batch -> whether it is matched, for the queries among the pictures `rows`."""
        asked = [i for i, row in enumerate(rows) if row in self.queries] if self.ready else []
        if not asked:
            return
        who = [self.person[rows[i]] for i in asked]
        seen = {"original": image, "protected": answer.protected, "revealed": answer.revealed, "wrong": answer.wrong}
        found = {
            f"matched_{name}": matched(self.network, self.gallery, rounded(picture[asked]), who)
            for name, picture in seen.items()
        }
        for place, i in enumerate(asked):
            yield i, {name: float(column[place]) for name, column in found.items()}


def _add(values: list[dict[str, float]], found: Iterator[tuple[int, dict[str, float]]]) -> None:
    for i, more in found:
        values[i] |= more


def result(model: ProFaceS, scored: Scored, seed: int) -> dict[str, Any]:
    """What `Room.evaluate` reports, apart from pictures and notes."""
    if not scored.values:
        raise BadInput("there are no pictures to evaluate")
    names = scored.metrics()
    table = {name: interval_json(scored.interval(name, seed=seed)) for name in names}
    by_kind = {
        kind: {name: interval_json(scored.interval(name, kind, seed)) for name in names}
        for kind in dict.fromkeys(scored.kinds)
    }
    columns = zip(scored.names, scored.groups, scored.values, strict=True)
    return {
        "metrics": table,
        "primary": "psnr_revealed",
        "lower_is_better": [name for name in lower_is_better(model) if name in names],
        "kinds": by_kind,
        "items": [{"id": i, "group": g, "values": v} for i, g, v in columns],
    }
