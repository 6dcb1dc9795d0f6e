# SPDX-License-Identifier: Apache-2.0
"""What the card of the protection network says: how well pictures come back, and who sees what without the key."""

from __future__ import annotations

from pathlib import Path

import torch
from protection_pictures import HELD_OUT, Pictures, photographs, tiles
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torchvision.transforms.v2.functional import gaussian_blur

import mien
from mien.commands.evaluate import interval
from mien.engine import Settings, Single, fit
from mien.engine.seeding import kept_generators, seed_all
from mien.metrics.intervals import interval_json
from mien.privacy.attack import Decoder
from mien.privacy.data import Portraits
from mien.privacy.identity import enrol, matched, split_for_matching, train_recogniser
from mien.privacy.obfuscate import Obfuscation
from mien.privacy.opening import read
from mien.privacy.pro_face_s import ProFaceS
from mien.privacy.scoring import NEIGHBOUR, PASSPHRASE, keys_for, psnr, rounded, score

DECODER_STEPS = 400
"""Of the network that tries to read protected faces without a key."""
SHOWN = {
    "psnr_revealed": "revealed with the right key, PSNR to the original in dB",
    "psnr_revealed_8bit": "the same after rounding to 8 bits",
    "psnr_wrong": "with the key of a passphrase that differs in one letter, to the obfuscated one",
    "psnr_protected": "protected against obfuscated: how well it is hidden that something is hidden",
    "psnr_visible": "protected against original: what everybody sees",
    "matched_original": "originals matched to their owner",
    "matched_protected": "protected pictures matched to their owner",
    "matched_revealed": "revealed pictures matched to their owner",
    "matched_wrong": "pictures from a wrong key matched to their owner",
}


def protection_figures(run: Path) -> str:
    """Figures on generated people and photographs that were not trained on, and what a keyless decoder gets."""
    result = mien.evaluate(run, "embedded", device="cpu")
    model = mien.load(run)
    assert isinstance(model, ProFaceS)
    kinds = model.obfuscation.kinds
    held = score(model, tiles(photographs(HELD_OUT), model.image_size), kinds)
    rows = [f"| {text} | {interval(result['metrics'][name])} |" for name, text in SHOWN.items()]
    photographed = interval(interval_json(held.interval("psnr_revealed")))
    values, others = keyless(model), seen(model)
    rows += [f"| {text} | {value:.3f} |" for text, value in others.items()]
    return f"""## Figures

Generated faces of people who were not trained on, {model.image_size} pixels; {", ".join(kinds)} alike; 95 % intervals
over people. A small matcher that knows the people's originals says whom it sees; chance is \
{1 / len({item["group"] for item in result["items"]}):.3f}.

| what | value |
| --- | --- |
{chr(10).join(rows)}
| squares of {" and ".join(HELD_OUT)} (not trained on), revealed, PSNR in dB | {photographed} |

## What does not protect

These weights are public. Whoever has them can train a network that reads protected faces without any key, which nearly
restores who it is. Of faces that were protected under {kinds[0]}, {DECODER_STEPS} steps of a small one gave
{values["psnr"]:.1f} dB, and {values["matched"]:.0%} of its pictures were matched to their owners, against
{values["original"]:.0%} of the originals and {values["protected"]:.0%} of the protected pictures as they are. A longer
training gives more. Hide nothing with these weights from somebody who takes that trouble: train your own
(`mien train pro-face-s --data DIR`) and keep them as secret as the passphrase; and even then a learned network is not
cryptography. A protected picture, like any that is blurred, still shows colours, hair and clothes, by which a machine
may recognise a person.
"""


def seen(model: ProFaceS) -> dict[str, float]:
    """What a wrong key gives, held against the original, and how much of its fine detail is seen in which picture."""
    data = Portraits(read("embedded", test=True), model.image_size)
    image = torch.stack([data[i].image for i in range(len(data))])
    size = (model.image_size, model.image_size)
    with torch.no_grad():
        right, wrong = (keys_for(len(image), size, passphrase) for passphrase in (PASSPHRASE, NEIGHBOUR))
        made = [model.hide(image, kind, right, wrong) for kind in model.obfuscation.kinds]
    pictures = {"revealed": [m.revealed for m in made], "wrong key": [m.wrong for m in made]}
    wrongly = pictures["wrong key"]
    pictures["protected"] = [m.protected for m in made]
    average = {name: sum(detail(p, image) for p in found) / len(found) for name, found in pictures.items()}
    return {
        "wrong key, PSNR to the original in dB": sum(float(psnr(p, image).mean()) for p in wrongly) / len(made),
        **{f"fine detail, correlation with the original's: {name}": value for name, value in average.items()},
    }


def detail(image: Tensor, original: Tensor) -> float:
    """Mean correlation of what a Gaussian of 4 pixels takes away from pictures (B, 3, H, W), in grey."""
    fine = []
    for picture in (image, original):
        grey = picture.clamp(0, 1).mean(dim=1, keepdim=True)
        fine.append((grey - gaussian_blur(grey, [17, 17], [4.0, 4.0])).flatten(1))
    centred = [part - part.mean(dim=1, keepdim=True) for part in fine]
    return float(cosine_similarity(centred[0], centred[1], dim=1).mean())


def keyless(model: ProFaceS) -> dict[str, float]:
    """What somebody gets who trains a decoder of blurred, protected faces with the weights and without a key."""
    kind = model.obfuscation.kinds[0]
    with kept_generators():
        seed_all(1)
        decoder = Decoder(Obfuscation((kind,)), model)
        fit(decoder, Pictures(), schedule=Single(100), settings=Settings(batch_size=8, max_steps=DECODER_STEPS, seed=1))
    test = Portraits(read("embedded", test=True), model.image_size)
    samples = [test[i] for i in range(len(test))]
    image = torch.stack([sample.image for sample in samples])
    names = sorted(set(test.groups))
    person = [names.index(name) for name in test.groups]
    gallery, queries = split_for_matching(test.groups)
    known, asked = ([person[i] for i in rows] for rows in (gallery, queries))
    matcher = train_recogniser(image[gallery], known)
    enrolled = enrol(matcher, image[gallery], known)
    x = image[queries]
    bits = keys_for(len(x), (x.shape[-2], x.shape[-1]))
    with torch.no_grad():
        protected = model.protect(model.obfuscation(x, kind) * 2 - 1, x * 2 - 1, bits)
        guessed = (decoder.eval()(protected) + 1) / 2
    shown = {"original": x, "protected": rounded((protected + 1) / 2), "matched": rounded(guessed)}
    found = {name: float(matched(matcher, enrolled, picture, asked).mean()) for name, picture in shown.items()}
    return {**found, "psnr": float(psnr(guessed, x).mean())}
