# SPDX-License-Identifier: Apache-2.0
"""Clips from video files against decoding alone, memory over the length of a video, and prediction against real time.

"Decoding alone" is PyAV with two threads: every frame is decoded, none is converted or kept. The clips are what a
detector is given: chosen frames, upright RGB, resized to 224 pixels, stacked. Twice: 8 clips of 8 frames, as FCAN-DCT
scores a video, and all frames of the video as clips of 8. Prediction is `mien.predict` of a ResNet-18 on every fifth
frame of a video of 224 x 224 pixels, file in, rows out.

    python benchmarks/video.py [--frames 1000] [--repeats 5]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from _contract import REPEATS, measure, peak_memory, promise, publish, spread

from mien import api
from mien.data.video import probe, read_clips, read_frames
from mien.forensics.acmf import ACMF
from mien.forensics.clips.sampling import UniformClips
from mien.nn.network import Network

SIZE, RATE, EVERY, THREADS = 224, 25, 5, 2
HEIGHT, WIDTH = 480, 640
MEMORY_LENGTHS = (250, 1000, 2000)
MEMORY_GROWTH = 1.05


def make(path: Path, frames: int, height: int, width: int, seed: int = 0) -> Path:
    """H.264 as phones write it: B-frames, a key frame every two seconds; a moving picture with fine grain."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (height // 16 + 4, width // 16 + 40, 3), dtype=np.uint8)
    scene = np.kron(coarse, np.ones((16, 16, 1), dtype=np.uint8)).astype(np.int16)
    grain = generator.integers(-10, 11, (4, height, width, 1), dtype=np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "bf": "2", "g": str(2 * RATE)}
        for i in range(frames):
            x, y = abs((3 * i) % 600 - 300) * 2, abs(i % 60 - 30)
            picture = scene[y : y + height, x : x + width] + grain[i % 4]
            frame = av.VideoFrame.from_ndarray(np.clip(picture, 0, 255).astype(np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def decoded(path: Path) -> Iterator[Any]:
    """Every frame, by the library alone."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type, stream.codec_context.thread_count = "AUTO", THREADS
        yield from container.decode(stream)


def alone(path: Path) -> int:
    return sum(1 for _ in decoded(path))


def plans(frames: int) -> dict[str, list[list[int]]]:
    return {
        "8 clips of 8 frames": UniformClips(8, 8).testing(frames),
        "all frames, as clips of 8": [list(range(i, i + 8)) for i in range(0, frames - 7, 8)],
    }


def clips(path: Path, plan: list[list[int]]) -> int:
    return sum(len(clip) for _, clip in read_clips(probe(path), plan, size=SIZE, threads=THREADS))


def difference(path: Path, plan: list[list[int]]) -> int:
    """Largest difference of the clips' pixels from those of frames decoded and converted one by one."""
    wanted = {i for clip in plan for i in clip}
    pixels = {}
    for i, frame in enumerate(decoded(path)):
        if i in wanted:
            picture = frame.reformat(width=SIZE, height=SIZE, format="rgb24", interpolation="BILINEAR")
            pixels[i] = torch.from_numpy(picture.to_ndarray()).permute(2, 0, 1)
    worst = 0
    for number, clip in read_clips(path, plan, size=SIZE, threads=THREADS):
        expected = torch.stack([pixels[i] for i in plan[number]])
        worst = max(worst, int((clip.int() - expected.int()).abs().max()))
    return worst


def memory(scratch: Path) -> dict[str, dict[str, float]]:
    """Peak memory in MB of fresh processes that take all clips of longer and longer videos, and drop them."""
    peaks: dict[int, list[float]] = {length: [] for length in MEMORY_LENGTHS}
    for length in MEMORY_LENGTHS:
        make(scratch / f"{length}.mp4", length, HEIGHT, WIDTH)
    for _ in range(REPEATS):
        for length in MEMORY_LENGTHS:
            command = [sys.executable, __file__, "--child", str(scratch / f"{length}.mp4")]
            found = subprocess.run(command, check=True, capture_output=True, text=True)
            peaks[length].append(float(found.stdout))
    return {str(length): spread(values) for length, values in peaks.items()}


def child(path: str) -> None:
    video = probe(path)
    assert clips(Path(path), plans(video.frames)["all frames, as clips of 8"]) >= video.frames - 7
    print(peak_memory())


def predicting(scratch: Path, frames: int, repeats: int) -> tuple[dict[str, Any], float]:
    """Times of predicting on a video, and the largest difference of scores from the frames given one by one."""
    path = make(scratch / "small.mp4", frames, SIZE, SIZE)
    torch.manual_seed(0)
    method = ACMF(network=Network("resnet18"), image_size=SIZE).eval()
    options: dict[str, Any] = {"crop": "none", "device": "cpu", "every": EVERY}
    found = [row.values["score"] for row in api.predict(method, path, **options)]
    images = [frame.float() / 255 for _, frame in read_frames(path, range(0, frames, EVERY))]
    single = [row.values["score"] for row in api.predict(method, images, crop="none", device="cpu")]
    worst = float(np.abs(np.subtract(found[:-1], single)).max())
    assert worst <= 1e-5, worst
    runs = {"predict on a file": lambda: list(api.predict(method, path, **options))}
    return measure(runs, repeats=repeats, items=frames), worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    frames = options.frames
    promises = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        path = make(scratch / "large.mp4", frames, HEIGHT, WIDTH)
        equal = {what: difference(path, plan) for what, plan in plans(frames).items()}
        assert set(equal.values()) == {0}, equal
        runs: dict[str, Any] = {"decoding alone": lambda: alone(path)}
        for what, plan in plans(frames).items():
            runs[what] = lambda plan=plan: clips(path, plan)
        timing = measure(runs, over="decoding alone", repeats=options.repeats, items=frames)
        for what in plans(frames):
            ratio = timing["contenders"][what]["ratio"]["median"]
            promises.append(promise(f"{what}, time over decoding alone with {THREADS} threads", ratio, 1.0))
        predicted, worst = predicting(scratch, min(frames, 500), options.repeats)
        per_frame = predicted["contenders"]["predict on a file"]["wall_ms"]["median"]
        times = 1000 / RATE / per_frame
        promises.append(promise("prediction, times real time at 25 frames a second", times, 1.0, at_least=True))
        peaks = memory(scratch)
    growth = peaks[str(MEMORY_LENGTHS[-1])]["median"] / peaks[str(MEMORY_LENGTHS[0])]["median"]
    what = f"peak memory, {MEMORY_LENGTHS[-1]} frames over {MEMORY_LENGTHS[0]}"
    promises.append(promise(what, growth, MEMORY_GROWTH))
    publish(
        "video",
        promises=promises,
        equal={
            "largest difference of clips from frames decoded one by one (levels)": equal,
            "largest difference of scores from frames given one by one": worst,
        },
        frames=frames,
        picture=[HEIGHT, WIDTH],
        size=SIZE,
        every=EVERY,
        network="resnet18",
        decoder_threads=THREADS,
        av=av.__version__,
        timing=timing,
        prediction=predicted,
        peak_memory_mb_by_frames=peaks,
    )


if __name__ == "__main__":
    main()
