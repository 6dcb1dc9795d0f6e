# SPDX-License-Identifier: Apache-2.0
"""`mien protect PHOTO --key-file F --out FILE`: hide the faces of a photograph in itself."""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mien.commands._parser import Parser, natural, positive, set_threads
from mien.errors import BadInput

if TYPE_CHECKING:
    from mien.privacy.photographs import Wish
    from mien.privacy.pro_face_s import ProFaceS

KINDS = ("blur", "median", "pixelate", "sticker", "mask")
LEAST_QUALITY = 20.0
"""dB below which a reader is told that the original hardly comes back."""


def run(arguments: list[str]) -> int:
    """Protect, and say how well the photograph will come back."""
    parser = Parser("protect", "Hide faces in an obfuscated photograph, from which the key alone gives them back.")
    parser.add_argument("photo", metavar="PHOTO", help="JPEG, PNG, WebP, BMP or TIFF; its metadata are left behind")
    parser.add_argument("--out", required=True, metavar="FILE", help="the protected photograph, a PNG that anyone sees")
    parser.add_argument(
        "--obfuscation", choices=KINDS, help="what others see (default: the first the model was trained on)"
    )
    parser.add_argument(
        "--strength", type=float, metavar="X", help="times the paper's strength, at most 4 (as trained)"
    )
    parser.add_argument("--whole", action="store_true", help="the whole photograph, not faces")
    parser.add_argument(
        "--tile", type=positive, default=256, metavar="N", help="longest side of a tile in pixels, even"
    )
    parser.add_argument("--bits", type=int, choices=(8, 16), default=16, help="8: a smaller file, revealed less well")
    parser.add_argument(
        "--no-verifier", action="store_true", help="the file does not tell a wrong key from the right one"
    )
    parser.add_argument("--no-check", action="store_true", help="do not measure how well the photograph comes back")
    parser.add_argument(
        "--salt", metavar="HEX", help="32 hex digits, to get the same file again; never for two photographs"
    )
    parser.add_argument(
        "--cost", type=int, default=17, metavar="N", help="logarithm of scrypt's N: each step doubles it"
    )
    parser.add_argument("--seed", type=natural, default=0, help="which sticker")
    parser.add_argument("--dry-run", action="store_true", help="what would be protected, and how long it would take")
    add_key_options(parser)
    given = parser.read(arguments)
    set_threads(given.threads)
    out = _free(given.out, given.photo)

    import numpy as np

    from mien.data.images import open_image
    from mien.privacy.container import write_protected
    from mien.privacy.keys import Cost, check_salt, master_key, new_salt
    from mien.privacy.obfuscate import STICKERS
    from mien.privacy.photographs import Wish, find_regions, protect_with, region_psnr, reveal_with

    passphrase = key_of(given.key_file)
    wish = Wish(
        obfuscation=given.obfuscation,
        strength=given.strength,
        whole=given.whole,
        tile=given.tile,
        deep=given.bits == 16,
        verify=not given.no_verifier,
        salt=None if given.salt is None else check_salt(_hex(given.salt)),
        cost=Cost(given.cost),
        sticker=STICKERS + given.seed,
    )
    picture = np.asarray(open_image(given.photo))
    method, trained_on = open_model(given)
    try:
        regions = find_regions(picture, wish)
    except BadInput as error:
        raise BadInput(f"{given.photo}: {error}") from error
    pixels = sum(region.height * region.width for region in regions)
    what = f"{len(regions)} region{'s' if len(regions) > 1 else ''}, {pixels:,} pixels"
    if given.dry_run:
        from mien.rehearsal import duration

        print(f"would protect: {what}\ntime: {duration(_estimate(method, wish, pixels))} for the network")
        return 0
    begun = time.perf_counter()
    salt = wish.salt or new_salt()
    master = master_key(passphrase, salt, wish.cost)
    file = protect_with(method, picture, regions, master, salt, wish)
    seconds = time.perf_counter() - begun
    quality = None
    if not given.no_check:
        quality = region_psnr(picture, reveal_with(method, file, master), regions)
    write_protected(out, file.picture, file.header, file.depth)
    tiles = len(file.header.tiles())
    print(f"protected: {what}, {tiles} tile{'s' if tiles > 1 else ''}, {seconds:.1f} s")
    if quality is not None:
        shown = "equal to the original" if math.isinf(quality) else f"like the original to {quality:.1f} dB PSNR"
        rest = "" if given.whole else "; outside the regions it is unchanged"
        print(f"with the key it comes back {shown}{rest}")
    print(f"written: {out}")
    own = given.weights is not None and Path(given.weights).exists()
    _notes(method, file.header.obfuscation, quality, trained_on, own=own)
    return 0


def add_key_options(parser: Parser) -> None:
    """What `protect` and `reveal` both need: weights, key, device, threads."""
    parser.add_argument(
        "--weights", metavar="RUN", help="a run folder or saved folder of pro-face-s (default: those that mien brings)"
    )
    parser.add_argument(
        "--key-file", required=True, metavar="F", help="its bytes, less a newline at the end, are the key"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (as torch chooses)")


def open_model(given: argparse.Namespace) -> tuple[ProFaceS, str]:
    """The model of --weights, and the line that says what it was trained on."""
    from mien.catalog import SHIPPED
    from mien.engine.ranks import choose_device
    from mien.privacy.pro_face_s import ProFaceS
    from mien.weights import open_weights

    opened = open_weights(given.weights or SHIPPED / ProFaceS.name, choose_device(given.device))
    if not isinstance(opened.method, ProFaceS):
        raise BadInput(f"{given.weights} holds weights of {opened.method.name!r}: this verb works with pro-face-s")
    return opened.method, opened.trained_on


def key_of(path: str) -> bytes:
    """The passphrase; a short one draws a warning."""
    from mien.privacy.keys import SHORT, read_passphrase

    passphrase = read_passphrase(path)
    if len(passphrase) < SHORT:
        print(
            f"mien: warning: the passphrase in {path} has {len(passphrase)} bytes: whoever has the file can guess a "
            f"short one; use {SHORT} or more",
            file=sys.stderr,
        )
    return passphrase


def _free(out: str, photo: str) -> Path:
    path = Path(out)
    if path.is_dir():
        raise BadInput(f"--out: {out} is a folder: give a file")
    if path.suffix.lower() != ".png":
        raise BadInput(f"--out: {out} must end in .png: protected photographs are PNG files")
    if path.exists() and Path(photo).exists() and path.samefile(photo):
        raise BadInput(f"--out: {out} is the photograph itself: give another name")
    return path


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise BadInput(f"--salt is {text!r}: give 32 hex digits") from None


def _estimate(method: ProFaceS, wish: Wish, pixels: int) -> float:
    """Seconds of the network for so many pixels, from one tile after another that warms up."""
    import torch

    from mien.privacy.keys import random_bits

    face = torch.zeros(1, 3, wish.tile, wish.tile, device=method.device)
    bits = random_bits(1, (wish.tile, wish.tile)).to(method.device)
    with torch.no_grad():
        method.protect(face, face, bits)
        begun = time.perf_counter()
        method.protect(face, face, bits).cpu()
    return (time.perf_counter() - begun) * pixels / wish.tile**2


def _notes(method: ProFaceS, kind: str, quality: float | None, trained_on: str, *, own: bool) -> None:
    from mien.commands._apply import say

    notes = [trained_on]
    if kind not in method.obfuscation.kinds:
        notes.append(f"this model was not trained for {kind}: {', '.join(method.obfuscation.kinds)}")
    if quality is not None and quality < LEAST_QUALITY:
        notes.append(f"{quality:.1f} dB is little: train longer or on pictures like this one, and keep the original")
    notes.append("keep the file as it is: resizing, JPEG or an editor destroy what it holds")
    if own:
        notes.append("keep the weights secret, too: who has them can train a network that reads faces without a key")
    else:
        notes.append(
            "everybody has the weights that mien brings, and can train a network that reads what they hide without a "
            "key: where that matters, train weights of your own (mien train pro-face-s) and keep them secret"
        )
    notes.append("a learned network is not cryptography; whether others recognise the faces depends on who looks")
    say(notes)
