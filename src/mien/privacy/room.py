# SPDX-License-Identifier: Apache-2.0
"""What the privacy room offers to the command line: hide who it is, and give it back to the holder of the key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mien.data.images import save_png
from mien.engine import Method, TrainingData
from mien.errors import BadInput
from mien.privacy.answers import answer
from mien.privacy.opening import LAYOUTS, open_test, open_training
from mien.privacy.pro_face_s import ProFaceS
from mien.privacy.scoring import NOISE, Scored, kinds_of, result, score
from mien.room import Answers, DataOptions, Preset, PresetName, Room, TestData, Using

SMALL: dict[str, Any] = {
    "growth": 16,
    "perceptual": "none",
    "image_size": 64,
    "optimizer": {"kind": "adam", "lr": 2e-3, "weight_decay": 1e-5, "schedule": "cosine"},
}
"""A quarter of the arithmetic at 64 pixels, and rates for minutes: the paper's 1e-5 is for long training."""


class PrivacyRoom(Room):
    """Protection of faces."""

    family = "privacy"
    kinds = LAYOUTS

    def preset(self, name: str, preset: PresetName) -> Preset:
        """The paper's: 256 pixels, batches of 6, 50 epochs, LPIPS. Small: minutes on a laptop, without LPIPS."""
        if preset == "paper":
            return Preset(settings={"batch_size": 6}, epochs=50)
        return Preset(config=SMALL, settings={"batch_size": 8, "clip": 10.0}, epochs=8)

    def open_data(self, source: str, method: Method, options: DataOptions) -> TrainingData:
        """See `mien.privacy.opening`. What training needs besides data is asked for first."""
        model = _model(method)
        model.check_trainable()
        return open_training(source, model.image_size, options)

    def open_test(self, source: str, method: Method, options: DataOptions) -> TestData:
        """See `mien.privacy.opening`."""
        return open_test(source, _model(method).image_size, options)

    def evaluate(self, method: Method, test: TestData, out: Path | None, using: Using) -> dict[str, Any]:
        """See `mien.privacy.scoring`. The mode is one obfuscation; by default all that were trained."""
        model = _model(method)
        data: Any = test.dataset
        scored = score(
            model,
            data,
            kinds_of(model, using.mode),
            batch_size=using.batch_size,
            workers=using.workers,
            max_batches=using.max_steps,
            seed=using.seed,
        )
        pictures = _pictures(out, scored) if out is not None and using.pictures else []
        return {**result(model, scored, using.seed), "pictures": pictures, "notes": _notes(model, scored)}

    def predict(self, method: Method, inputs: Sequence[Any], out: Path | None, using: Using) -> Answers:
        """A row per picture; see `mien.privacy.answers`."""
        return answer(_model(method), inputs, out, using)


def _notes(model: ProFaceS, scored: Scored) -> list[str]:
    lines = [
        f"intervals: 95 % bootstrap over {len(set(scored.groups))} persons, or pictures where nobody is known",
        "psnr in dB of clipped pictures, at most 100; a wrong key is that of a passphrase that differs in one letter",
        f"psnr_revealed_noise: with Gaussian noise of deviation {NOISE} (range [-1, 1]) on the protected picture",
    ]
    if model.wrong_recovery == "obfuscated":
        lines.append(
            "psnr_wrong and ssim_wrong are against the obfuscated picture, which a wrong key shall find: higher"
        )
    if "matched_original" in scored.metrics():
        lines.append(
            "matched_*: a small matcher, trained on half of the originals of these very persons, names the others; "
            f"chance is {1 / len(set(scored.groups)):.3f}. A stronger matcher may recognise more"
        )
    return lines


def _pictures(out: Path, scored: Scored) -> list[str]:
    """For each obfuscation, from top to bottom: originals, obfuscated, protected, revealed, wrong key."""
    names = []
    for kind, (image, made) in scored.shown.items():
        rows = [image, *(p[: len(image)].cpu() for p in (made.obfuscated, made.protected, made.revealed, made.wrong))]
        save_png(out / f"{kind}.png", torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1).clamp(0, 1))
        names.append(f"{kind}.png")
    return names


def _model(method: Method) -> ProFaceS:
    if not isinstance(method, ProFaceS):
        raise BadInput(f"{method.name!r} is no mien.privacy.pro_face_s.ProFaceS: this room works with those")
    return method


ROOM = PrivacyRoom()
