# SPDX-License-Identifier: Apache-2.0
"""Frames of video files, decoded as they are asked for (extra `video`, which brings PyAV).

A file is first looked through without decoding: how many frames there are and when each is shown. Whoever wants a few
frames then gets exactly these, in order, for less than the price of all: groups of pictures in which nothing is wanted
never reach the decoder, and pictures that no other picture refers to are skipped inside the others. A group needs at
most the one before, so that several threads decode one each. Little is kept: memory does not grow with the length.

What comes in is not trusted: the container is one of a short list, by the file's suffix, no other file or address is
opened on a file's behalf, pixels are capped, and whatever a decoder does with a damaged file becomes one `BadInput`.

Example (not run here, it needs a file):
    video = probe("talk.mp4")
    for index, frame in read_frames(video, range(0, video.frames, 25), size=224):
        ...  # frame is uint8 (3, 224, 224)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mien.data.background import Background
from mien.data.images import MAX_PIXELS
from mien.data.listing import printable
from mien.errors import BadInput, MissingExtra

FORMATS = {".mp4": "mov", ".m4v": "mov", ".mov": "mov", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi"}
"""Suffix -> the only container that a file of this name may be."""

THREADS = 2
"""That decode."""
AHEAD = 2**25
"""Bytes of resized frames that each of them may be ahead, where the caller is slower."""


def is_video_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name says that it is a video. Hidden files do not.

    >>> is_video_file("a/talk.MP4"), is_video_file("a/.talk.mp4"), is_video_file("face.jpg")
    (True, False, False)
    """
    path = Path(path)
    return path.suffix.lower() in FORMATS and not path.name.startswith(".")


@dataclass(frozen=True)
class Video:
    """A video file that was looked through.

    Args:
        path: The file.
        frames: How many frames are shown, at least 1.
        rate: Frames per second; 0 where the file does not say.
        shown: When each frame is shown, in order, (frames,); None where the file does not say.
        packets: The same in the order of the file, for every packet; None likewise.
        group: Group of pictures of every packet, rising from 0; None likewise.
    """

    path: Path
    frames: int
    rate: float
    shown: NDArray[np.int64] | None
    packets: NDArray[np.int64] | None
    group: NDArray[np.int64] | None


def probe(path: str | os.PathLike[str]) -> Video:
    """Look a video file through, without decoding it.

    Raises:
        MissingExtra: PyAV is not installed.
        BadInput: The file is missing, empty, damaged, of another kind, or has no video in it.
    """
    path = Path(path)
    name = printable(str(path))
    times: list[int] = []
    keys: list[bool] = []
    timed = True
    with _opened(path) as (container, stream), _one_line(name):
        for packet in container.demux(stream):
            if not packet.size or packet.is_discard:  # the end; or cut off by an edit of the file
                continue
            if packet.is_corrupt:
                raise BadInput(f"{name}: truncated or damaged video (after {len(times)} frames)")
            timed = timed and packet.pts is not None
            times.append(packet.pts if packet.pts is not None else len(times))
            keys.append(packet.is_keyframe)
        rate = float(stream.average_rate or 0)
    if not times:
        raise BadInput(f"{name}: the video has no frames")
    packets = np.array(times, dtype=np.int64)
    shown = np.sort(packets)
    if not timed or bool((np.diff(shown) == 0).any()):  # old AVI files: counted while decoding
        return Video(path, len(times), rate, None, None, None)
    return Video(path, len(times), rate, shown, packets, np.maximum(np.cumsum(keys) - 1, 0))


def read_frames(
    video: Video | str | os.PathLike[str],
    indices: Sequence[int] | None = None,
    *,
    size: int | None = None,
    threads: int = THREADS,
) -> Iterator[tuple[int, Tensor]]:
    """Frames one after the other, upright RGB.

    Args:
        video: What `probe` gave, or a file.
        indices: Which frames, counted from 0 in the order of showing, rising. None for all.
        size: Side of the square that they are resized to (bilinear, antialiased; stretched); None for their own size.
        threads: That decode.

    Returns:
        (index, frame), uint8 (3, H, W), in order.

    Raises:
        BadInput: Indices out of range or not rising; the file is damaged or has changed.
    """
    video = video if isinstance(video, Video) else probe(video)
    wanted = range(video.frames) if indices is None else indices
    _check_indices(wanted, video)
    if size is not None and size < 1:
        raise BadInput(f"size is {size}: it must be at least 1 pixel")
    lanes = _lanes(video, wanted, threads)
    return _decoded(video, wanted, size, threads) if lanes is None else _side_by_side(video, wanted, size, lanes)


def _lanes(video: Video, wanted: Sequence[int], threads: int) -> NDArray[np.int64] | None:
    """Which thread decodes each wanted frame: groups of pictures in turn. None where there are not enough of them."""
    if video.packets is None or video.group is None or threads < 2:
        return None
    group = video.group[np.argsort(video.packets)][np.asarray(wanted, dtype=np.int64)]
    rank = np.unique(group, return_inverse=True)[1]
    return rank % threads if len(rank) and rank.max() >= threads - 1 else None


def _side_by_side(
    video: Video, wanted: Sequence[int], size: int | None, lanes: NDArray[np.int64]
) -> Iterator[tuple[int, Tensor]]:
    """The frames, each thread with a decoder of its own."""
    indices = np.asarray(wanted)
    ahead = 4 if size is None else max(AHEAD // (3 * size * size), 4)
    with ExitStack() as stack:
        made = []
        for lane in range(int(lanes.max()) + 1):
            own = _decoded(video, indices[lanes == lane].tolist(), size, 1)
            made.append(stack.enter_context(closing(Background(own, ahead))))
        for lane in lanes:
            yield next(made[lane])


def _decoded(video: Video, wanted: Sequence[int], size: int | None, threads: int) -> Iterator[tuple[int, Tensor]]:
    name = printable(str(video.path))
    following = iter(wanted)
    index = next(following, None)
    if index is None:
        return
    count = 0
    converter = _av().video.reformatter.VideoReformatter()  # one for all: to begin anew costs as much as to convert
    with _opened(video.path) as (container, stream), _one_line(name):
        for frame in _frames(container, stream, video, wanted, threads):
            here = count == index if video.shown is None else frame.pts == video.shown[index]
            count += 1
            if not here:
                continue
            if frame.is_corrupt:
                raise BadInput(f"{name}: damaged video (frame {index})")
            yield index, _upright(frame, size, converter)
            index = next(following, None)
            if index is None:
                return
    raise BadInput(f"{name}: damaged video (frame {index} of {video.frames} cannot be decoded)")


def _frames(container: Any, stream: Any, video: Video, wanted: Sequence[int], threads: int) -> Iterator[Any]:
    """Decoded frames in the order of showing: those that are wanted, and those that were needed for them."""
    context = stream.codec_context
    context.thread_type, context.thread_count = "AUTO", threads
    if video.shown is None or video.packets is None or video.group is None or len(wanted) == video.frames:
        yield from container.decode(stream)
        return
    times = video.shown[np.asarray(wanted)]
    needed = np.isin(video.packets, times)
    groups = _groups(video, needed)
    number, jumped = 0, False
    for packet in container.demux(stream):
        if not packet.size or packet.is_discard:
            continue
        if number >= len(needed):
            raise BadInput(f"{printable(str(video.path))}: the video has changed while it was read")
        row, number = number, number + 1
        if not groups[video.group[row]]:
            if not jumped:
                yield from context.decode(None)
                context.flush_buffers()
            jumped = True
            continue
        jumped = False
        context.skip_frame = "DEFAULT" if needed[row] else "NONREF"
        yield from context.decode(packet)
    if not jumped:
        yield from context.decode(None)


def _groups(video: Video, needed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which groups of pictures must be decoded: those with a wanted frame, and the one before where a wanted frame is
    shown before its group's first picture (it may refer to both).
    """
    assert video.group is not None and video.packets is not None  # noqa: PT018
    first = np.unique(video.group, return_index=True)[1]
    result = np.zeros(len(first), dtype=bool)
    rows = np.flatnonzero(needed)
    result[video.group[rows]] = True
    leading = rows[video.packets[rows] < video.packets[first[video.group[rows]]]]
    result[np.maximum(video.group[leading] - 1, 0)] = True
    return result


def read_clips(
    video: Video | str | os.PathLike[str],
    clips: Sequence[Sequence[int]],
    *,
    size: int | None = None,
    threads: int = THREADS,
) -> Iterator[tuple[int, Tensor]]:
    """Clips of a video in one pass, each given as soon as its last frame is there.

    Args:
        video: As `read_frames`.
        clips: The frames of each clip, rising or repeated. Clips may overlap; what is held at a time is the clips that
            have begun and are not finished.
        size: As `read_frames`.
        threads: As `read_frames`.

    Returns:
        (number of the clip, frames), uint8 (T, 3, H, W); by their last frame, clips with the same one in their order.
    """
    video = video if isinstance(video, Video) else probe(video)
    takers: dict[int, list[int]] = {}
    for number, clip in enumerate(clips):
        if not len(clip):
            raise BadInput(f"clip {number} has no frames")
        for index in set(clip):
            takers.setdefault(int(index), []).append(number)
    held: dict[int, dict[int, Tensor]] = {}
    for index, frame in read_frames(video, sorted(takers), size=size, threads=threads):
        for number in takers.pop(index):
            held.setdefault(number, {})[index] = frame
            if len(held[number]) == len(set(clips[number])):
                parts = held.pop(number)
                yield number, torch.stack([parts[i] for i in clips[number]])


def _check_indices(indices: Sequence[int], video: Video) -> None:
    if not len(indices):
        return
    listed = np.asarray([indices[0], indices[-1]] if isinstance(indices, range) else indices)
    if (np.diff(listed) <= 0).any() and len(indices) > 1:
        raise BadInput("the indices of frames must rise")
    if listed[0] < 0 or listed[-1] >= video.frames:
        outside = listed[0] if listed[0] < 0 else listed[-1]
        raise BadInput(f"{printable(str(video.path))}: frame {outside} of {video.frames}: counted from 0")


class _opened:  # noqa: N801 - a context manager, used like a function
    """An open container and its first video stream."""

    def __init__(self, path: Path) -> None:
        av = _av()
        name = printable(str(path))
        suffix = path.suffix.lower()
        if suffix not in FORMATS:
            raise BadInput(f"{name}: not a video file of a known kind ({', '.join(FORMATS)})")
        if not path.is_file():
            raise BadInput(f"{name}: {'not a regular file' if path.exists() else 'no such file'}")
        if not path.stat().st_size:
            raise BadInput(f"{name}: the file is empty")
        with _one_line(name):
            options = {"protocol_whitelist": "file"}
            # titles and such are not read, so they may be in any encoding
            self.container = av.open(str(path), format=FORMATS[suffix], options=options, metadata_errors="replace")
        streams = self.container.streams.video
        if not streams:
            self.container.close()
            raise BadInput(f"{name}: there is no video in this file")
        self.stream = streams[0]
        width, height = self.stream.codec_context.width, self.stream.codec_context.height
        if not 0 < width * height <= MAX_PIXELS:
            self.container.close()
            raise BadInput(f"{name}: {width} x {height} pixels, 1 to {MAX_PIXELS:,} are allowed")

    def __enter__(self) -> tuple[Any, Any]:
        return self.container, self.stream

    def __exit__(self, *_: object) -> None:
        self.container.close()


class _one_line:  # noqa: N801
    """Whatever the decoder raises, as one `BadInput`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, _av().error.FFmpegError):
            reason = printable((getattr(error, "strerror", None) or str(error)).splitlines()[0])
            raise BadInput(f"{self.name}: damaged, or not a video ({reason})") from error


def _upright(frame: Any, size: int | None, converter: Any) -> Tensor:
    """A decoded frame as uint8 (3, H, W), turned as the file says."""
    width, height = (size, size) if size is not None else (frame.width, frame.height)
    picture = converter.reformat(frame, width, height, "rgb24", interpolation="BILINEAR").to_ndarray()
    turns = round(frame.rotation / 90) % 4
    if turns:
        picture = np.ascontiguousarray(np.rot90(picture, turns))
    return torch.from_numpy(picture).permute(2, 0, 1)


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise MissingExtra("reading video files", "video") from error
    return av
