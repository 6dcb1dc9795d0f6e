# SPDX-License-Identifier: Apache-2.0
"""Prediction over JPEG files against the network alone on the same batches, and its memory over many files.

The files are cut into as many slices as there are repeats, and every repeat scores a slice of its own: no file is
decoded twice by the same contender, and all of them are scored. "Alone" is the network on batches that were
decoded before the clock started. Faces are not searched for (crop "none").

    python benchmarks/predict.py [--files 200] [--photographs 40]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _contract import REPEATS, measure, peak_memory, promise, publish, spread
from PIL import Image
from torch import Tensor

from mien import api
from mien.data.images import load_tensor
from mien.engine import Method
from mien.forensics.acmf import ACMF
from mien.forensics.data import Faces
from mien.nn.network import Network

SIZE, BATCH, LIMIT = 224, 20, 1.2
MEMORY_FILES = (100, 1000, 2000)
MEMORY_GROWTH = 1.05
"""Peak over most files to peak over fewest: what the allocator and a list of file names may add."""


def picture(height: int, width: int, seed: int) -> Image.Image:
    """Smooth colours with fine grain: its JPEG takes about as many bits a pixel as a photograph's."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = generator.integers(-12, 13, (height, width, 1), dtype=np.int16)
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


def make(folder: Path, count: int, height: int, width: int, distinct: int) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{i:05d}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        if i < distinct:
            picture(height, width, i).save(path, quality=90)
        else:
            shutil.copyfile(paths[i % distinct], path)
    return paths


def slices(paths: list[Path], count: int) -> list[list[Path]]:
    return [paths[i::count] for i in range(count)]


def scores(method: Method, paths: list[Path]) -> list[float]:
    rows = api.predict(method, paths, crop="none", device="cpu", batch_size=BATCH)
    return [row.values["score"] for row in rows]


def alone(method: Method, batches: list[Tensor]) -> list[float]:
    found: list[float] = []
    with torch.no_grad():
        for images in batches:
            found += method.predict(_faces(images)).score.tolist()
    return found


def _faces(images: Tensor) -> Faces:
    unknown: list[Any] = [""] * len(images)
    return Faces(images, torch.full((len(images),), -1), unknown, unknown, unknown, None, unknown)


def next_of(parts: list[Any], run: Callable[[Any], Any]) -> Callable[[], Any]:
    """A contender that takes the next part at every call."""
    left: Iterator[Any] = iter(parts)
    return lambda: run(next(left))


def against_network(method: Method, paths: list[Path]) -> dict[str, Any]:
    parts = slices(paths, REPEATS)
    ready = [[torch.stack([load_tensor(path, SIZE) for path in batch]) for batch in _chunks(part)] for part in parts]
    scores(method, paths[:2]), alone(method, [ready[0][0][:2]])  # warm-up, with the files' pages and the network
    runs = {
        "network alone": next_of(ready, lambda batches: alone(method, batches)),
        "predict": next_of(parts, lambda part: scores(method, part)),
    }
    return measure(runs, over="network alone", warm_up=0, items=len(parts[0]), memory=False)


def _chunks(paths: list[Path]) -> list[list[Path]]:
    return [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]


def memory(scratch: Path) -> dict[str, dict[str, float]]:
    """Peak memory in MB of fresh processes that predict over more and more files with the tiny network.

    Taken in turn and several times: where memory is short the kernel takes pages of libraries away, and a single
    peak may come out too low.
    """
    method = ACMF(network=Network("tiny_cnn"), image_size=64)
    method.save_pretrained(scratch / "tiny")
    make(scratch / "many", max(MEMORY_FILES), 240, 320, 50)
    peaks: dict[int, list[float]] = {count: [] for count in MEMORY_FILES}
    for _ in range(REPEATS):
        for count in MEMORY_FILES:
            command = [sys.executable, __file__, "--child", str(scratch / "tiny"), str(scratch / "many"), str(count)]
            found = subprocess.run(command, check=True, capture_output=True, text=True)
            peaks[count].append(float(found.stdout))
    return {str(count): spread(values) for count, values in peaks.items()}


def child(weights: str, folder: str, count: str) -> None:
    paths = sorted(Path(folder).iterdir())[: int(count)]
    answered = sum(row.error is None for row in api.predict(weights, paths, crop="none", device="cpu"))
    assert answered == int(count)
    print(peak_memory())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200, help="JPEG files of 1152 x 864 (one megapixel)")
    parser.add_argument("--photographs", type=int, default=40, help="JPEG files of 4000 x 3000 (12 megapixels)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    torch.manual_seed(0)
    method = ACMF(network=Network("xception"), image_size=SIZE).eval()
    timing, promises = {}, []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        small = make(scratch / "small", options.files, 864, 1152, options.files)
        large = make(scratch / "large", options.photographs, 3000, 4000, 4)
        torch.set_num_threads(options.threads[0])
        sample = small[:4] + large[:1]
        expected = alone(method, [torch.stack([load_tensor(path, SIZE) for path in sample])])
        difference = float(np.abs(np.subtract(scores(method, sample), expected)).max())
        assert difference <= 1e-5, difference
        for threads in options.threads:
            torch.set_num_threads(threads)
            for what, paths in (("one megapixel", small), ("12 megapixels, draft mode", large)):
                measured = against_network(method, paths)
                timing[f"{what}, {threads} threads"] = measured | {"files": len(paths)}
                ratio = measured["contenders"]["predict"]["ratio"]["median"]
                if paths is small:
                    promises.append(promise(f"predict over the network alone, {threads} threads", ratio, LIMIT))
                else:
                    print(f"{what}, {threads} threads: {ratio} times the network alone")
        average = {
            "one megapixel": round(sum(p.stat().st_size for p in small) / len(small) / 1024),
            "12 megapixels": round(sum(p.stat().st_size for p in large) / len(large) / 1024),
        }
        peaks = memory(scratch)
    growth = peaks[str(MEMORY_FILES[-1])]["median"] / peaks[str(MEMORY_FILES[0])]["median"]
    promises.append(promise(f"peak memory, {MEMORY_FILES[-1]} files over {MEMORY_FILES[0]}", growth, MEMORY_GROWTH))
    publish(
        "predict",
        promises=promises,
        equal={"largest difference of scores from the network alone": difference},
        network="xception",
        image_size=SIZE,
        batch_size=BATCH,
        crop="none",
        average_file_kb=average,
        timing=timing,
        peak_memory_mb_by_files=peaks,
    )


if __name__ == "__main__":
    main()
