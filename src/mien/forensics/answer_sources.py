# SPDX-License-Identifier: Apache-2.0
"""What the forensics room answers for: pictures, folders, video files; cut into batches that are loaded ahead.

A detector of images sees every image, and of a video file every n-th frame. A detector of clips takes a folder for the
frames of one video, and a single picture for a still that it sets in motion. Memory does not grow with the length of a
video: frames are decoded as they are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mien.answering import Item, Loaded, batches_of, folders_of, items_of, load_ahead, load_image
from mien.data.background import in_background
from mien.data.faces import crop as crop_face
from mien.data.images import resize_tensor
from mien.data.listing import natural_key
from mien.data.video import is_video_file, probe, read_frames
from mien.errors import BadInput, MienError
from mien.forensics.clips.stills import still_clips
from mien.forensics.clips.videos import ClipDetector, Footage, check_lengths, is_still, testing_clips
from mien.forensics.data import load_face

if TYPE_CHECKING:
    from mien.forensics.detector import Detector
    from mien.room import Using

NO_FACE = "no face found"


@dataclass(frozen=True)
class Source:
    """Something that is answered for.

    Args:
        sizes: Items in each batch to come.
        units: Folders and videos that the items of each batch belong to, "" for none.
        batches: Makes the batches.
    """

    sizes: Sequence[int]
    units: Sequence[frozenset[str]]
    batches: Callable[[], Iterable[list[Loaded]]]


@dataclass(frozen=True)
class Sources:
    """All that is answered for.

    Args:
        parts: In the order of the inputs.
        most: Batches at most, or None.
    """

    parts: Sequence[Source]
    most: int | None = None

    @property
    def items(self) -> int:
        """Items without the limit."""
        return sum(sum(part.sizes) for part in self.parts)

    @property
    def shown(self) -> int:
        """Items within the limit."""
        return sum(islice(chain.from_iterable(part.sizes for part in self.parts), self.most))

    @property
    def rows(self) -> int:
        """Rows of the answer: the items shown, and one for each of their folders and videos."""
        units = islice(chain.from_iterable(part.units for part in self.parts), self.most)
        return self.shown + len({name for some in units for name in some if name})

    def __iter__(self) -> Iterator[list[Loaded]]:
        return islice(chain.from_iterable(part.batches() for part in self.parts), self.most)


def sources_of(method: Detector, inputs: Sequence[Any], using: Using) -> Sources:
    """The sources behind files, folders, videos and images.

    Raises:
        BadInput: A folder with neither images nor video files.
    """
    if using.every < 1:
        raise BadInput(f"every is {using.every}: it must be at least 1")
    parts: list[Source] = []
    for moving, some in groupby(chain.from_iterable(map(_with_videos, inputs)), key=_is_video):
        if moving:
            parts.extend(_video(method, Path(path), using) for path in some)
        elif isinstance(method, ClipDetector):
            parts.extend(_stills_as_clips(method, list(some), using))
        else:
            parts.append(_images(method, list(some), using))
    return Sources(parts, using.max_steps)


def _is_video(given: Any) -> bool:
    return isinstance(given, (str, Path)) and is_video_file(given) and not Path(given).is_dir()


def _with_videos(given: Any) -> list[Any]:
    """A folder that holds video files stands for these, and for its images where there are any, too."""
    if not isinstance(given, (str, Path)) or not Path(given).is_dir():
        return [given]
    videos: list[Any] = sorted((p for p in Path(given).rglob("*") if is_video_file(p)), key=natural_key)
    if videos:
        try:
            return [*videos, given] if items_of([given]) else videos
        except BadInput:
            return videos
    return [given]


# --- detectors of images --------------------------------------------------------------------------------------
def _images(method: Detector, inputs: Sequence[Any], using: Using) -> Source:
    cut = folders_of if method.predicts_by_group else batches_of
    batches = cut(items_of(inputs), using.batch_size)
    load = partial(_load, size=method.image_size, crop=using.crop)
    units = [frozenset(item.unit for item in batch) for batch in batches]
    return Source([len(batch) for batch in batches], units, lambda: load_ahead(batches, load))


def _load(source: Any, size: int, crop: str) -> Tensor:
    if not isinstance(source, Path):
        return load_image(source, size)
    image = load_face(source, size, crop)
    if image is None:
        raise BadInput(NO_FACE)
    return image


def _video(method: Detector, path: Path, using: Using) -> Source:
    try:
        video = probe(path)
        whole = Footage(str(path), video)
        if isinstance(method, ClipDetector):
            return _footage(method, whole, using)
    except MienError as error:
        return _failed(str(path), str(error))
    indices = range(0, video.frames, using.every)
    if method.predicts_by_group and len(indices) > using.batch_size:
        count = using.batch_size
        chosen: Sequence[int] = [indices[i * len(indices) // count] for i in range(count)]
    else:
        chosen = indices
    size = method.image_size if using.crop == "none" else None
    unit = str(path)

    def frames() -> Iterator[Loaded]:
        for index, frame in read_frames(video, chosen, size=size):
            image = frame.float() / 255
            yield Item(f"{path}, frame {index}", None, unit), _face(image, method.image_size, using.crop)

    sizes = [min(using.batch_size, len(chosen) - i) for i in range(0, len(chosen), using.batch_size)]
    return Source(sizes, [frozenset([unit])] * len(sizes), lambda: _batched(frames, using.batch_size, unit))


def _face(image: Tensor, size: int, crop: str) -> Tensor | str:
    found = crop_face(image, crop, size=size).image
    return NO_FACE if found is None else resize_tensor(found, size)


# --- detectors of clips ---------------------------------------------------------------------------------------
def _stills_as_clips(method: ClipDetector, inputs: Sequence[Any], using: Using) -> Iterator[Source]:
    """Folders as videos; what lies in none as stills."""
    for unit, members in groupby(items_of(inputs), key=lambda item: item.unit):
        items = list(members)
        if unit and len(items) > 1:
            try:
                yield _footage(method, Footage(unit, tuple(item.source for item in items)), using)
            except MienError as error:
                yield _failed(unit, str(error))
            continue

        def moving(source: Any) -> Tensor:
            image = _load(source, method.image_size, using.crop)
            return still_clips(image[None], method.frames, method.image_size)[0]

        batches = batches_of(items, _clips_per_batch(method, using))
        units = [frozenset(item.unit for item in batch) for batch in batches]
        yield Source([len(batch) for batch in batches], units, partial(load_ahead, batches, moving))


def _footage(method: ClipDetector, video: Footage, using: Using) -> Source:
    check_lengths([video], method.sampling)
    assert not is_still(video)
    clips = testing_clips(video, method.sampling)

    def loaded() -> Iterator[Loaded]:
        for number, clip in video.clips(clips, method.image_size, using.crop):
            item = Item(_span(video.name, clips[number]), None, video.name, tuple(clips[number]))
            yield item, NO_FACE if clip is None else clip

    count = _clips_per_batch(method, using)
    sizes = [min(count, len(clips) - i) for i in range(0, len(clips), count)]
    return Source(sizes, [frozenset([video.name])] * len(sizes), lambda: _batched(loaded, count, video.name))


def _span(name: str, clip: Sequence[int]) -> str:
    return f"{name}, frames {clip[0]}-{clip[-1]}"


def _clips_per_batch(method: ClipDetector, using: Using) -> int:
    """As many clips as hold about `batch_size` frames."""
    return max(1, using.batch_size // method.frames)


# --- both -----------------------------------------------------------------------------------------------------
def _batched(items: Callable[[], Iterator[Loaded]], size: int, unit: str) -> Iterator[list[Loaded]]:
    """Items in batches, made in the background; an error ends them with a row of its own."""

    def made() -> Iterator[list[Loaded]]:
        batch: list[Loaded] = []
        try:
            for item in items():
                batch.append(item)
                if len(batch) == size:
                    yield batch
                    batch = []
        except MienError as error:
            batch.append((Item(f"{unit}, the rest", None, unit), str(error)))
        if batch:
            yield batch

    return in_background(made())


def _failed(name: str, message: str) -> Source:
    row: list[list[Loaded]] = [[(Item(name, None), message)]]
    return Source([1], [frozenset()], lambda: row)
