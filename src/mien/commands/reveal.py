# SPDX-License-Identifier: Apache-2.0
"""`mien reveal FILE --key-file F --out PNG`: give a protected photograph back."""

from __future__ import annotations

import time
from pathlib import Path

from mien.commands._apply import say
from mien.commands._parser import Parser, set_threads
from mien.commands.protect import add_key_options, key_of, open_model
from mien.errors import BadInput


def run(arguments: list[str]) -> int:
    """Reveal. Other weights and, where the file has a verifier, a wrong key are refused before anything is decoded."""
    parser = Parser("reveal", "Give a protected photograph back to the holder of the key.")
    parser.add_argument("file", metavar="FILE", help="what mien protect wrote, unchanged")
    parser.add_argument("--out", required=True, metavar="PNG", help="the photograph")
    add_key_options(parser)
    given = parser.read(arguments)
    set_threads(given.threads)
    out = Path(given.out)
    if out.is_dir() or out.suffix.lower() != ".png":
        raise BadInput(f"--out: {given.out} must be the name of a file that ends in .png")
    if out.exists() and Path(given.file).exists() and out.samefile(given.file):
        raise BadInput(f"--out: {given.out} is the protected file itself: give another name")

    from mien.data.images import from_uint8, save_png
    from mien.privacy.container import read_protected
    from mien.privacy.photographs import reveal_photograph

    file = read_protected(given.file)
    passphrase = key_of(given.key_file)
    method, trained_on = open_model(given)
    begun = time.perf_counter()
    try:
        revealed = reveal_photograph(method, file, passphrase)
    except BadInput as error:
        raise BadInput(f"{given.file}: {error}") from error
    save_png(out, from_uint8(revealed.picture))
    count = len(file.header.regions)
    print(f"revealed: {count} region{'s' if count > 1 else ''}, {time.perf_counter() - begun:.1f} s")
    print(f"written: {out}")
    notes = [trained_on, "what was hidden comes back close to the original, not equal to it"]
    if revealed.checked is None:
        notes.append("the file has no verifier: whether the key was right only the picture can tell")
    if revealed.changed:
        notes.append("the file's picture was changed after it was protected: what comes back is damaged")
    say(notes)
    return 0
