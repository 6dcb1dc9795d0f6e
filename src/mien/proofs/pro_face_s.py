# SPDX-License-Identifier: Apache-2.0
"""PRO-Face S's experiment: does the right key give a face back, and does nothing else?

Faces of 32 x 32 pixels are pixelated in blocks of about 8 (at test: of 8). Networks are trained on two thirds of the
persons and asked about the others. Every variant is a way to a picture of the face; all are measured by the PSNR
against the original, and by how often a matcher, who has learnt half of the originals of these very persons, names the
person in the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien.data.images import resize_tensor
from mien.data.splits import split_by_group
from mien.engine import Losses, Settings, Single, fit
from mien.engine.loading import steps_per_epoch
from mien.engine.seeding import kept_generators, seed_all, stable_seed
from mien.optim.recipe import Recipe
from mien.privacy.attack import Decoder, accepted_guesses, neighbours, revealed_by, total_variation
from mien.privacy.data import People, Portraits
from mien.privacy.identity import enrol, matched, split_for_matching, train_recogniser
from mien.privacy.keys import master_key, verifier
from mien.privacy.obfuscate import Obfuscation
from mien.privacy.opening import EMBEDDED, generated_people, read
from mien.privacy.pro_face_s import ProFaceS
from mien.privacy.scoring import SALT, TEST_COST, keys_for, psnr, rounded
from mien.proofs.base import Proof, Seed, Values

SIZE, GROWTH, STEPS, BATCH = 32, 12, 178, 8
PIXELS = Obfuscation(("pixelate",), strength=3.2)
"""Blocks of 20 at 256 pixels are 2.5 at 32; times 3.2 they are 8."""
GENERATED = (18, 40)
"""People and faces of each, where they are generated."""
TEST_FACES = 40
"""Faces of each person in the test; half are the matcher's."""
MATCHER_STEPS = 200
GUESSES, ATTACKED = 1000, 4
"""Neighbouring passphrases that are tried, and faces that are attacked."""
PASSPHRASE = b"correct horse battery staple"
METRIC = "PSNR against the original, dB"


@dataclass
class Faces:
    """The data of a seed: portraits to train on; gallery and queries (N, 3, 32, 32) in [0, 1] of other persons; and
    photographs of the same form that have nothing to do with faces.
    """

    train: Portraits
    gallery: Tensor
    known: list[int]
    queries: Tensor
    person: list[int]
    photographs: Tensor


def _of_people(data: str) -> bool:
    """Whether a folder holds a folder per person; one with loose pictures has the unseen photographs alone."""
    return data != EMBEDDED and read(data).known


def _people(data: str) -> People:
    return read(data, "people") if _of_people(data) else generated_people(range(GENERATED[0]), GENERATED[1], "")


def _photographs(data: str) -> Tensor:
    """The middle squares of the pictures of a folder; or squares of 96 pixels of the two that scikit-learn ships."""
    if data != EMBEDDED and not _of_people(data):
        found = Portraits(read(data, "photos"), SIZE)
        return torch.stack([found[i].image for i in range(len(found))])
    from sklearn.datasets import load_sample_images

    pictures = [torch.from_numpy(np.array(p)).permute(2, 0, 1).float() / 255 for p in load_sample_images().images]
    squares = [
        p[:, y : y + 96, x : x + 96]
        for p in pictures
        for y in range(0, p.shape[1] - 95, 96)
        for x in range(0, p.shape[2] - 95, 96)
    ]
    return resize_tensor(torch.stack(squares), SIZE)


def make_data(data: str, seed: int) -> Faces:
    """Two thirds of the people to train on and a third to test on; another split for every seed."""
    everybody = _people(data)
    train, test = split_by_group(everybody.people, (2 / 3, 1 / 3), seed=seed)
    seen: dict[str, int] = {}
    few = []
    for i in test:
        seen[everybody.people[i]] = seen.get(everybody.people[i], 0) + 1
        if seen[everybody.people[i]] <= TEST_FACES:
            few.append(i)
    tested = Portraits(everybody.subset(few), SIZE)
    images = torch.stack([tested[i].image for i in range(len(tested))])
    person = np.unique(np.array(tested.groups), return_inverse=True)[1].tolist()
    gallery, queries = split_for_matching(tested.groups, seed)
    return Faces(
        Portraits(everybody.subset(train), SIZE),
        images[gallery],
        [person[i] for i in gallery],
        images[queries],
        [person[i] for i in queries],
        _photographs(data),
    )


def about(data: str) -> str:
    """One line on the data."""
    if not _of_people(data):
        faces = f"generated faces: {GENERATED[0]} people, {GENERATED[1]} faces each, 32 x 32 pixels"
        return faces if data == EMBEDDED else f"{faces}; {read(data, 'photos').description} that are no faces"
    found = _people(data)
    return f"real faces: {len(set(found.people))} people, {len(found)} photographs, 32 x 32 pixels"


# --- what is trained --------------------------------------------------------------------------------------------
class Keyless(ProFaceS):
    """The same network without a key: its channels are zero, and so is what stands in for the lost branch."""

    name = "keyless-control"

    def new_bits(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """No bits."""
        return image.new_zeros(len(image), 1, *image.shape[-2:])

    def loss(self, x: Tensor, y: Tensor, protected: Tensor, right: Tensor, wrong: Tensor) -> Losses:
        """The terms that do not need a wrong key."""
        terms = super().loss(x, y, protected, right, wrong)
        return {"image": terms["image"], "recovery": terms["recovery"]}


def _fit(seed: Seed, make: Callable[[], Any]) -> Any:
    """Trained with the budget that all get; all see the same batches."""
    with kept_generators():
        seed_all(stable_seed(seed.number, "weights"))
        method = make()
        steps = seed.max_steps or STEPS
        epochs = -(-steps // steps_per_epoch(len(seed.data.train), BATCH, 1, 1))
        settings = Settings(batch_size=BATCH, clip=10.0, seed=seed.number, max_steps=steps, device=seed.device)
        fit(method, seed.data.train, schedule=Single(epochs), settings=settings)
    return method.eval()


def _flow(seed: Seed, kind: type[ProFaceS] = ProFaceS, **config: Any) -> ProFaceS:
    recipe = Recipe(kind="adam", lr=1e-3, weight_decay=1e-5)
    same: dict[str, Any] = {
        "growth": GROWTH,
        "perceptual": "none",
        "obfuscation": PIXELS,
        "image_size": SIZE,
        "optimizer": recipe,
    }
    model: ProFaceS = _fit(seed, lambda: kind(**same, **config))
    return model


def _trained(seed: Seed) -> ProFaceS:
    model: ProFaceS = seed.once("flow", lambda: _flow(seed))
    return model


# --- ways to a picture ------------------------------------------------------------------------------------------
def _values(seed: Seed, pictures: Tensor, **more: float) -> Values:
    """PSNR and matching of pictures (N, 3, 32, 32), nominally in [0, 1], of the queries."""
    data: Faces = seed.data

    def learn() -> Any:
        matcher = train_recogniser(data.gallery, data.known, seed=seed.number, steps=MATCHER_STEPS)
        return matcher, enrol(matcher, data.gallery, data.known)

    matcher, gallery = seed.once("matcher", learn)
    named = matched(matcher, gallery, rounded(pictures), data.person).mean()
    return {METRIC: float(psnr(pictures, data.queries).mean()), "matched to the owner": float(named), **more}


def _seen(seed: Seed) -> Tensor:
    """The queries as anybody sees them before anything is hidden, in [-1, 1]."""
    return PIXELS(seed.data.queries, "pixelate") * 2 - 1


def _bits(seed: Seed, passphrase: bytes = PASSPHRASE) -> Tensor:
    return keys_for(len(seed.data.queries), (SIZE, SIZE), passphrase)


def _hidden(seed: Seed, model: ProFaceS, bits: Tensor) -> Tensor:
    with torch.no_grad():
        return model.protect(_seen(seed), seed.data.queries * 2 - 1, bits)


def _found(model: ProFaceS, protected: Tensor, bits: Tensor) -> Tensor:
    with torch.no_grad():
        return (model.reveal(protected, bits) + 1) / 2


def _right(seed: Seed, model: ProFaceS, bits: Tensor | None = None) -> Values:
    bits = _bits(seed) if bits is None else bits
    protected = _hidden(seed, model, bits)
    levels = rounded((protected + 1) / 2) * 2 - 1
    return _values(
        seed,
        _found(model, protected, bits),
        **{
            "PSNR after rounding to 8 bits, dB": float(psnr(_found(model, levels, bits), seed.data.queries).mean()),
            "PSNR of protected against obfuscated, dB": float(psnr((protected + 1) / 2, (_seen(seed) + 1) / 2).mean()),
        },
    )


def _with_key(change: Callable[[Tensor], Tensor]) -> Callable[[Seed], Values]:
    def measure(seed: Seed) -> Values:
        model, bits = _trained(seed), _bits(seed)
        return _values(seed, _found(model, _hidden(seed, model, bits), change(bits)))

    return measure


def _one_bit(bits: Tensor) -> Tensor:
    turned = bits.clone()
    turned[..., SIZE // 2, SIZE // 2] *= -1
    return turned


def _half(bits: Tensor) -> Tensor:
    """Exactly half of the bits turned, chosen by lot."""
    count = bits[0].numel()
    generator = torch.Generator().manual_seed(0)
    rows = torch.argsort(torch.rand(len(bits), count, generator=generator), dim=1)[:, : count // 2]
    return (bits.flatten(1) * torch.ones(len(bits), count).scatter(1, rows, -1.0)).view_as(bits)


def _without_hidden(seed: Seed) -> Values:
    return _values(seed, _found(_trained(seed), _seen(seed), _bits(seed)))


def _decoder(seed: Seed, *, protected: bool) -> Values:
    hider = _trained(seed) if protected else None
    decoder: Decoder = _fit(seed, lambda: Decoder(PIXELS, hider))
    pictures = _seen(seed) if hider is None else _hidden(seed, hider, _bits(seed))
    with torch.no_grad():
        return _values(seed, (decoder(pictures) + 1) / 2)


def _shown(seed: Seed) -> Values:
    protected = (_hidden(seed, _trained(seed), _bits(seed)) + 1) / 2
    original = _values(seed, seed.data.queries)["matched to the owner"]
    return _values(seed, protected, **{"originals matched to their owner": original})


def _right_and_photographs(seed: Seed) -> Values:
    """The right key on faces, and on photographs that have nothing to do with them."""
    model, image = _trained(seed), seed.data.photographs
    bits = keys_for(len(image), (SIZE, SIZE), PASSPHRASE)
    with torch.no_grad():
        protected = model.protect(PIXELS(image, "pixelate") * 2 - 1, image * 2 - 1, bits)
    found = float(psnr(_found(model, protected, bits), image).mean())
    return {**_right(seed, model), "PSNR of unseen photographs, dB": found}


def _attack(seed: Seed) -> Values:
    """The best of many neighbouring passphrases, as if the attacker knew the original; and what he has instead."""
    model, queries = _trained(seed), seed.data.queries
    guesses = neighbours(PASSPHRASE, GUESSES if seed.max_steps is None else 20)
    masters = [master_key(guess, SALT, TEST_COST) for guess in guesses]
    truth = master_key(PASSPHRASE, SALT, TEST_COST)
    accepted = accepted_guesses(masters, SALT, verifier(truth, SALT))
    faces = list(range(0, len(queries), max(len(queries) // ATTACKED, 1)))[:ATTACKED]
    protected = _hidden(seed, model, _bits(seed))
    best, smoothest = [], []
    for face in faces:
        tries = revealed_by(model, protected[face : face + 1], [truth, *masters], SALT, face)
        best.append(float(psnr(tries, queries[face : face + 1].expand_as(tries))[1:].max()))
        smoothest.append(float(total_variation(tries).argmin() == 0))
    return {
        METRIC: float(np.mean(best)),
        "guesses that the verifier accepts": float(len(accepted)),
        "right key found among all by its smoothness": float(np.mean(smoothest)),
    }


RIGHT, GUESSABLE = "right key", "decoder of the obfuscated face (b)"
PROOF = Proof(
    name="pro-face-s",
    claim="The right key gives the face back better than a decoder trained to guess it from the obfuscated face.",
    variants={
        RIGHT: _right_and_photographs,
        GUESSABLE: lambda seed: _decoder(seed, protected=False),
        "same network without a key (a)": lambda seed: _right(
            seed, _flow(seed, Keyless), torch.zeros(len(seed.data.queries), 1, SIZE, SIZE)
        ),
        "right key, nothing hidden (c)": _without_hidden,
        "key with one bit turned (d)": _with_key(_one_bit),
        "key with half of its bits turned (d)": _with_key(_half),
        "best of 1,000 near passphrases": _attack,
        "decoder of the protected face, no key": lambda seed: _decoder(seed, protected=True),
        "protected face as it is": _shown,
        "right key, noise for the lost branch": lambda seed: _right(seed, _flow(seed, missing="noise")),
        "right key, trained for obfuscated recovery": lambda seed: _right(
            seed, _flow(seed, wrong_recovery="obfuscated")
        ),
    },
    primary=RIGHT,
    baseline=GUESSABLE,
    metric=METRIC,
    data=make_data,
    about=about,
    ablations={
        "right key over half of its bits turned": (RIGHT, "key with half of its bits turned (d)"),
        "right key over one bit turned": (RIGHT, "key with one bit turned (d)"),
        "right key over nothing hidden": (RIGHT, "right key, nothing hidden (c)"),
        "right key over the best of 1,000 near passphrases": (RIGHT, "best of 1,000 near passphrases"),
        "right key over a decoder of the protected face": (RIGHT, "decoder of the protected face, no key"),
        "right key over the protected face": (RIGHT, "protected face as it is"),
        "what the key costs: right key over no key": (RIGHT, "same network without a key (a)"),
        "key over noise for the lost branch": (RIGHT, "right key, noise for the lost branch"),
    },
    controls={
        "key with half of its bits turned (d)": (0.0, 15.0),
        "right key, nothing hidden (c)": (0.0, 15.0),
    },
    notes=(
        "178 steps at 1e-3, the mean absolute error in the place of LPIPS, dense blocks of width 12 in place of 32",
        "passphrases are derived with scrypt at N = 2^10, in files at 2^17: guesses cost more, bits are as random",
        "guesses are judged by their PSNR against the original, which no attacker has; smoothness is what he has",
        "a decoder of the protected face is what somebody can train who has the weights: the key does not stop him",
        "photographs: squares of the two that scikit-learn ships",
    ),
)
