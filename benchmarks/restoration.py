# SPDX-License-Identifier: Apache-2.0
"""TAD-SR: one step against its teacher's fifteen, and `mien restore` as a user runs it on photographs.

The model is the small preset (0.3 M weights, pixels, twice enlarged) after a short training on embedded pictures, with
a teacher of 15 steps as in the paper. Three things are measured:

- One step against fifteen, from the decoded photograph to the PNG file, with the same tiles.
- `mien restore` of photographs of 3 and of 12 megapixels, each in a process of its own: time, and peak memory. Flat
  means that four times the pixels take at most a quarter more memory: what grows with a photograph is its 8-bit pixels
  and one strip of the result, not what the network holds.
- How far the tiled result is from the network on the whole picture, in grey levels.

    python benchmarks/restoration.py [--threads 1 2] [--megapixels 3 12]
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _contract import REPEATS, measure, peak_memory, promise, publish
from torch.nn import functional as F

import mien
from mien.data.images import save_png
from mien.data.png_strips import PNGStrips
from mien.restoration.tad_sr import TADSR
from mien.restoration.tiles import Tiles, reach, strips, tile_count

SCALE, STEPS = 2, 15
FASTER, FLAT, MOST_MB, SEAM = 10.0, 1.25, 2048.0, 1.0
SIDE, CORE = 192, 128
"""Side of the photograph that both restore, and of the tiles' cores in its result."""
TRAINING_STEPS = 40


def photograph(height: int, width: int) -> torch.Tensor:
    """Smooth colours with grain, (3, height, width) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 9, 12, generator=generator)
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)[0]
    return (smooth + 0.05 * torch.randn(1, height, width, generator=generator)).clamp(0, 1)


def student(scratch: Path) -> TADSR:
    config = {"scale": SCALE, "process": {"steps": STEPS}}
    method = mien.train(
        "tad-sr", "embedded", scratch / "run", preset="small", config=config, epochs=1, max_steps=TRAINING_STEPS, seed=0
    )
    assert isinstance(method, TADSR)
    method.save_pretrained(scratch / "weights")
    return method.eval()


def as_bytes(picture: torch.Tensor) -> np.ndarray:
    return (picture * 255).round().byte().permute(1, 2, 0).numpy()


def restored(method: TADSR, picture: np.ndarray, tiles: Tiles) -> bytes:
    """The PNG file of a picture, as `mien restore` makes it."""
    height, width = (n * SCALE for n in picture.shape[:2])
    file = io.BytesIO()
    with PNGStrips(file, width, height) as png:
        for strip in strips(method, picture, tiles):
            png.write(strip)
    return file.getvalue()


def one_step(method: TADSR, picture: np.ndarray, tiles: Tiles) -> dict[str, Any]:
    """One step and fifteen of the same weights, in turn."""
    teacher = method.as_teacher()
    return measure(
        {
            "15 steps": lambda: restored(teacher, picture, tiles),
            "one step": lambda: restored(method, picture, tiles),
        },
        over="one step",
    )


def seams(method: TADSR, picture: np.ndarray, tiles: Tiles) -> float:
    """The largest difference in grey levels between tiles and whole."""
    tiled = np.concatenate(list(strips(method, picture, tiles))).astype(int)
    whole = method.restore(torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255)[0]
    return float(np.abs(tiled - as_bytes(whole).astype(int)).max())


def restore(scratch: Path, photo: Path, threads: int) -> dict[str, float]:
    """Seconds and peak memory in MB of `mien restore`."""
    out = photo.with_suffix(".out.png")
    arguments = ["restore", str(photo), "--weights", str(scratch / "weights"), "--out", str(out)]
    command = [sys.executable, __file__, "--child", *arguments, "--threads", str(threads), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    begun = time.perf_counter()
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - begun
    assert out.stat().st_size > 0
    out.unlink()
    return {"seconds": round(seconds, 1), "peak_memory_mb": float(found.stdout.split()[-1])}


def child(arguments: list[str]) -> None:
    from mien.cli import main as run

    code = run(arguments)
    print(peak_memory())
    raise SystemExit(code)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--megapixels", type=float, nargs="+", default=[3, 12], help="of photographs, the least first")
    options = parser.parse_args()
    timing, photographs, promises, largest = {}, {}, [], 0.0
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        torch.set_num_threads(options.threads[0])
        method = student(scratch)
        far = reach(method)
        picture = as_bytes(photograph(SIDE, SIDE))
        tiles = Tiles(CORE, far).fitted(method)
        assert tile_count(picture, SCALE, tiles) > 4
        paths = {}
        for size in options.megapixels:
            height = round((size * 1e6 * 3 / 4) ** 0.5)
            paths[f"{size:g}"] = scratch / f"{size:g}.png"
            save_png(paths[f"{size:g}"], photograph(height, height * 4 // 3))
        for threads in options.threads:
            torch.set_num_threads(threads)
            largest = max(largest, seams(method, picture, tiles))
            timing[f"{threads} threads"] = measured = one_step(method, picture, tiles)
            faster = measured["contenders"]["15 steps"]["ratio"]["median"]
            promises.append(promise(f"15 steps over one step, {threads} threads", faster, FASTER, at_least=True))
            rows = {size: restore(scratch, path, threads) for size, path in paths.items()}
            photographs[f"{threads} threads"] = rows
            peaks = [row["peak_memory_mb"] for row in rows.values()]
            print(rows, flush=True)
            what = f"{options.megapixels[-1]:g} megapixels over {options.megapixels[0]:g}, {threads} threads"
            promises.append(promise(f"restore, peak memory of {what}", peaks[-1] / peaks[0], FLAT))
            promises.append(promise(f"restore, MB at the peak, {threads} threads", max(peaks), MOST_MB))
        promises.append(promise("tiles over whole, largest difference in grey levels", largest, SEAM))
    publish(
        "restoration",
        promises=promises,
        equal={"largest difference of tiles from the whole, grey levels": largest},
        network="the small preset, pixels, x2",
        reach=far,
        tiles={"core": tiles.core, "margin": tiles.margin, "picture": f"{SIDE} x {SIDE}"},
        repeats=REPEATS,
        timing=timing,
        restore=photographs,
    )


if __name__ == "__main__":
    main()
