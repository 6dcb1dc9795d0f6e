# SPDX-License-Identifier: Apache-2.0
"""`mien protect` and `mien reveal` as a user runs them: a photograph of 1920 x 1080 with faces, and whole photographs.

The photograph is made: faces (of a folder, or generated ones) pasted onto a smooth background, so that the protected
regions have at most 512 x 512 pixels in all. The network has the paper's size; its weights are first ones with a little
noise, since time does not depend on what they have learnt. Every run is a process of its own: starting Python, finding
faces, deriving the key, the network and the files are all in it. Whole photographs are cut into tiles: time, and what
peak memory grows by for each pixel more.

    python benchmarks/protect.py [--data PEOPLE] [--threads 2] [--repeats 5]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _contract import REPEATS, measure, peak_memory, promise, publish
from torch.nn import functional as F

from mien.data.folders import people_folders
from mien.data.images import load_tensor, open_image, save_png
from mien.data.people import render_faces, sample_people
from mien.privacy.container import read_protected
from mien.privacy.photographs import Wish, find_regions
from mien.privacy.pro_face_s import ProFaceS

SIZE, FACE, PLACES = (1080, 1920), 160, ((140, 250), (460, 860), (700, 1500))
LIMIT, MOST = 5.0, 512 * 512
SALT = "000102030405060708090a0b0c0d0e0f"
WHOLE = (540, 1080, 1620)
"""Heights of the whole photographs, 16 : 9."""
BYTES = 48
"""Most that peak memory may grow for one more pixel: 8-bit copies of the picture and its depth. Without tiles the
network alone would hold some 300 bytes a pixel."""


def photograph(path: Path, data: str | None) -> None:
    coarse = torch.rand(1, 3, 6, 10, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    picture = F.interpolate(coarse, size=SIZE, mode="bicubic", align_corners=False)[0].clamp(0, 1)
    for face, (top, left) in zip(faces(data), PLACES, strict=True):
        picture[:, top : top + FACE, left : left + FACE] = face
    save_png(path, picture)


def faces(data: str | None) -> list[torch.Tensor]:
    if data is None:
        images, _ = render_faces(sample_people(3, seed=0), [0, 1, 2], seed=1, size=FACE, masks=False)
        return list(torch.from_numpy(images))
    records = people_folders(data)
    first = {record.group: record for record in reversed(records)}
    return [load_tensor(record.path, FACE) for record in list(first.values())[: len(PLACES)]]


def weights(folder: Path) -> None:
    torch.manual_seed(0)
    model = ProFaceS(perceptual="none")
    for parameter in model.parameters():
        parameter.data += torch.randn(parameter.shape) * 0.003
    model.save_pretrained(folder)


def command(scratch: Path, verb: str, photo: str, out: str, threads: int, *more: str) -> list[str]:
    files = [str(scratch / photo), "--out", str(scratch / out)]
    common = ["--weights", str(scratch / "weights"), "--key-file", str(scratch / "key"), "--threads", str(threads)]
    return [verb, *files, *common, "--device", "cpu", *more]


def run(arguments: list[str], threads: int, *, watched: bool = False) -> str:
    """Run a verb in a process of its own; `watched` prints its peak memory last."""
    start = [sys.executable, "-m", "mien"] if not watched else [sys.executable, __file__, "--child"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    return subprocess.run([*start, *arguments], check=True, capture_output=True, text=True, env=environment).stdout


def child(arguments: list[str]) -> None:
    from mien.cli import main as mien

    code = mien(arguments)
    print(peak_memory())
    raise SystemExit(code)


def with_faces(scratch: Path, threads: int, repeats: int) -> tuple[dict[str, Any], dict[str, Any]]:
    protect = command(scratch, "protect", "photo.png", "hidden.png", threads, "--salt", SALT)
    reveal = command(scratch, "reveal", "hidden.png", "back.png", threads)
    run(protect, threads)
    first = (scratch / "hidden.png").read_bytes()
    run(protect, threads)
    same = (scratch / "hidden.png").read_bytes() == first
    run(reveal, threads)
    original, back = (np.asarray(open_image(scratch / name)) for name in ("photo.png", "back.png"))
    outside = np.ones(SIZE, bool)
    for top, left, height, width in read_protected(scratch / "hidden.png").header.regions:
        outside[top : top + height, left : left + width] = False
    equal = {"bytes with the same key and salt": same, "pixels outside": bool((original == back)[outside].all())}
    assert all(equal.values()), equal
    timing = measure(
        {
            "protect, reveal measured": lambda: run(protect, threads),
            "protect": lambda: run([*protect, "--no-check"], threads),
            "reveal": lambda: run(reveal, threads),
        },
        repeats=repeats,
        memory=False,
    )
    return timing, equal


def whole(scratch: Path, heights: list[int], threads: int, repeats: int) -> dict[str, Any]:
    """Seconds and peak memory of whole photographs of growing size."""
    original = load_tensor(scratch / "photo.png")
    table = {}
    for size in [(height, height * 16 // 9) for height in heights]:
        save_png(scratch / "whole.png", F.interpolate(original[None], size=size, mode="bilinear")[0])
        protect = command(scratch, "protect", "whole.png", "w.png", threads, "--whole", "--no-check")
        reveal = command(scratch, "reveal", "w.png", "b.png", threads)
        both = {"protect": protect, "reveal": reveal}
        peaks = {verb: float(run(c, threads, watched=True).split()[-1]) for verb, c in both.items()}  # warms up, too
        timing = measure(
            {"protect": lambda c=protect: run(c, threads), "reveal": lambda c=reveal: run(c, threads)},
            repeats=repeats,
            warm_up=0,
            memory=False,
        )
        table[f"{size[1]} x {size[0]}"] = {**timing, "peak_memory_mb": peaks}
        print(size, {verb: timing["contenders"][verb]["wall_ms"]["median"] for verb in peaks}, peaks, flush=True)
    return table


def bytes_a_pixel(table: dict[str, Any], heights: list[int], verb: str) -> float:
    """What peak memory grows by from the smallest whole photograph to the largest, for each pixel more."""
    peaks = [row["peak_memory_mb"][verb] for row in table.values()]
    pixels = [height * (height * 16 // 9) for height in heights]
    return (peaks[-1] - peaks[0]) * 2**20 / (pixels[-1] - pixels[0])


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a folder of people whose faces are pasted; generated ones otherwise")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument(
        "--heights", type=int, nargs="+", default=list(WHOLE), help="of whole photographs, at least two"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "key").write_text("correct horse battery staple\n")
        weights(scratch / "weights")
        photograph(scratch / "photo.png", options.data)
        found = find_regions(np.asarray(open_image(scratch / "photo.png")), Wish())
        pixels = sum(region.height * region.width for region in found)
        assert 0 < pixels <= MOST, pixels
        timing, equal = with_faces(scratch, options.threads, options.repeats)
        table = whole(scratch, options.heights, options.threads, options.repeats)
    promises = [
        promise(f"{verb}, seconds", timing["contenders"][verb]["wall_ms"]["median"] / 1e3, LIMIT)
        for verb in timing["contenders"]
    ]
    for verb in ("protect", "reveal"):
        promises.append(
            promise(
                f"{verb} of whole photographs, bytes of memory a pixel",
                bytes_a_pixel(table, options.heights, verb),
                BYTES,
            )
        )
    publish(
        "protect",
        promises=promises,
        equal=equal,
        photograph="1920 x 1080, " + ("real faces" if options.data else "generated faces"),
        regions=len(found),
        pixels=pixels,
        threads_used=options.threads,
        faces=timing,
        whole=table,
    )


if __name__ == "__main__":
    main()
