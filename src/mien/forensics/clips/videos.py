# SPDX-License-Identifier: Apache-2.0
"""Clips of videos: folders of frames, video files (extra `video`), and stills, all as `Faces` with (T, 3, H, W).

One augmentation is drawn for a whole clip: the same crop, flip and perturbation for every frame, since anything that is
drawn per frame is a temporal frequency of its own. Faces are cut by one box per clip for the same reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.data.faces import crop_clip
from mien.data.folders import Record, fingerprints
from mien.data.images import load_tensor, resize_tensor
from mien.data.listing import printable
from mien.data.perturb import perturb_clip
from mien.data.video import Video, is_video_file, probe, read_clips
from mien.engine import TrainingData
from mien.errors import BadInput
from mien.forensics.clips.sampling import Sampling
from mien.forensics.clips.stills import still_clips
from mien.forensics.data import Faces
from mien.forensics.detector import Detector


@dataclass(frozen=True)
class Footage:
    """What clips are taken from.

    Args:
        name: What it is called; its clips get one score together.
        source: The frames in order, or a video file that was looked through.
        label: 0 real, 1 forged, None unknown.
        group: Person or source video, never split.
        kind: "real" or the kind of forgery.
        attributes: What else is known about who is seen.
    """

    name: str
    source: tuple[Path, ...] | Video
    label: int | None = None
    group: str = ""
    kind: str = ""
    attributes: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.source.frames if isinstance(self.source, Video) else len(self.source)

    @property
    def path(self) -> Path:
        """The video file, or the folder of the frames (of a still, its file)."""
        if isinstance(self.source, Video):
            return self.source.path
        return self.source[0].parent if len(self.source) > 1 else self.source[0]

    def clips(
        self, indices: Sequence[Sequence[int]], size: int, crop: str = "none"
    ) -> Iterator[tuple[int, Tensor | None]]:
        """Clips in one pass: (number of the clip, frames (T, 3, size, size) in [0, 1]).

        A single picture becomes clips of one frame, whatever the indices; `ClipDetector` sets those in motion. With
        crop "auto" a clip of which no frame shows a face is None.

        Raises:
            BadInput: A frame cannot be read, or frames differ in size.
        """
        small = size if crop == "none" else None
        for number, frames in self._read(indices, small):
            yield number, _cropped(frames, size, crop)

    def _read(self, indices: Sequence[Sequence[int]], size: int | None) -> Iterator[tuple[int, Tensor]]:
        if isinstance(self.source, Video):
            for number, frames in read_clips(self.source, indices, size=size):
                yield number, frames.float() / 255
            return
        for number, clip in enumerate(indices):
            wanted = [0] if len(self.source) == 1 else clip
            loaded = {i: load_tensor(self.source[i], size) for i in set(wanted)}
            sizes = {tuple(frame.shape) for frame in loaded.values()}
            if len(sizes) > 1:
                raise BadInput(f"{printable(str(self.path))}: its frames differ in size: {sorted(sizes)[:2]}")
            yield number, torch.stack([loaded[i] for i in wanted])


def _cropped(frames: Tensor, size: int, crop: str) -> Tensor | None:
    """The faces of a clip; None where it shows none."""
    if crop != "none":
        found = [cut.image for cut in crop_clip(list(frames), crop, size=size) if cut.image is not None]
        if not found:
            return None
        frames = torch.stack(found)
    return resize_tensor(frames, size)


def footage(records: Sequence[Record]) -> list[Footage]:
    """Videos of records, in order of first appearance; a record without a video is a still."""
    videos: dict[str, list[Record]] = {}
    for record in records:
        videos.setdefault(record.video or str(record.path), []).append(record)
    return [_footage(name, rows) for name, rows in videos.items()]


def _footage(name: str, rows: list[Record]) -> Footage:
    first = rows[0]
    paths = tuple(record.path for record in sorted(rows, key=lambda record: record.frame))
    source = probe(paths[0]) if len(paths) == 1 and is_video_file(paths[0]) else paths
    if any(is_video_file(path) for path in paths) and not isinstance(source, Video):
        raise BadInput(f"video {printable(name)} has {len(paths)} files: one video file, or images, are one video")
    return Footage(name, source, first.label, first.group, first.kind, dict(first.attributes))


class VideoClips(Dataset[Faces]):
    """Clips of videos: in training a new clip at every look, in testing always the same ones.

    Args:
        videos: What there is. Stills among videos give clips of `sampling.frames` equal places, see `ClipDetector`.
        sampling: Which frames.
        size: Side of the frames in pixels.
        crop: "none" takes frames as they are, "auto" cuts the face out (extra `face`), one box per clip.
        training: Clips at random, mirrored at random.
        perturbed: Share of the training clips that get one kind of `mien.data.perturb` at one strength.
        share: Of the training clips that `sampling` offers, how many are looked at in a pass, in (0, 1]: of every
            1 / share of a class, in their order, one is drawn anew at every look.

    Raises:
        BadInput: A video is shorter than `sampling` allows; a share is out of range.
    """

    def __init__(
        self,
        videos: Sequence[Footage],
        sampling: Sampling,
        size: int,
        *,
        crop: str = "none",
        training: bool = False,
        perturbed: float = 0.0,
        share: float = 1.0,
    ) -> None:
        if not 0 <= perturbed <= 1 or not 0 < share <= 1:
            raise BadInput(f"perturbed is {perturbed}, share is {share}: use [0, 1] and (0, 1]")
        check_lengths(videos, sampling)
        self.videos, self.sampling, self.size, self.crop = list(videos), sampling, size, crop
        self.training, self.seeded, self.perturbed = training, training, perturbed
        self.slots: list[list[int]] = _slots(videos, sampling, share) if training else []
        self.tests = [] if training else [(i, c) for i, v in enumerate(videos) for c in testing_clips(v, sampling)]
        of = [slot[0] for slot in self.slots] if training else [i for i, _ in self.tests]
        self.groups = [self.videos[i].group for i in of]
        self.units = [self.videos[i].name for i in of]

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Faces:
        if self.training:
            slot = self.slots[index]
            video = self.videos[slot[int(torch.randint(len(slot), ()))]]
            chosen = self.sampling.training(_length(video, self.sampling))
        else:
            number, chosen = self.tests[index]
            video = self.videos[number]
        ((_, clip),) = video.clips([chosen], self.size, self.crop)
        if clip is None:
            where = printable(str(video.path)) + ("" if is_still(video) else f", frames {chosen[0]}-{chosen[-1]}")
            raise BadInput(f"{where}: no face found: leave it out, or crop faces beforehand and use --crop none")
        if len(clip) < self.sampling.frames:
            clip = still_clips(clip[:1], self.sampling.frames, self.size)[0]
        return self._sample(video, self._augmented(clip) if self.training else clip)

    def _augmented(self, clip: Tensor) -> Tensor:
        if torch.rand(()) < 0.5:
            clip = clip.flip(-1)
        if self.perturbed and torch.rand(()) < self.perturbed:
            clip = perturb_clip(clip, seed=int(torch.randint(2**31, ())), reference=224)
        return clip

    def _sample(self, video: Footage, clip: Tensor) -> Faces:
        label = -1 if video.label is None else video.label
        known: Any = video.attributes
        return Faces(clip, label, video.group, video.kind, str(video.path), None, video.name, known)

    def still(self) -> VideoClips:
        """The same videos by the clips that they are tested by: nothing is drawn. Samples have other numbers."""
        return VideoClips(self.videos, self.sampling, self.size, crop=self.crop)

    def manifest(self, description: str) -> dict[str, Any]:
        """Groups and file hashes, for the check that test data were not trained on."""
        return manifest_of(self.videos, description)


def _slots(videos: Sequence[Footage], sampling: Sampling, share: float) -> list[list[int]]:
    """For each training clip of a pass the videos that it may come from, all of one class."""
    offered = sampling.offered([_length(v, sampling) for v in videos], [int(bool(v.label)) for v in videos])
    slots: list[list[int]] = []
    for label in sorted({bool(video.label) for video in videos}):
        clips = [i for i, v in enumerate(videos) if bool(v.label) == label for _ in range(offered[i])]
        count = max(round(share * len(clips)), 1) if clips else 0
        slots += [clips[k * len(clips) // count : (k + 1) * len(clips) // count] for k in range(count)]
    return slots


def manifest_of(videos: Sequence[Footage], description: str) -> dict[str, Any]:
    """Groups and file hashes of videos."""
    paths = [p for v in videos for p in ([v.source.path] if isinstance(v.source, Video) else v.source)]
    return {
        "groups": sorted({video.group for video in videos}),
        "files": sorted(set(fingerprints(paths))),
        "description": description,
    }


def testing_clips(video: Footage, sampling: Sampling) -> list[list[int]]:
    """The clips that a video is scored by."""
    return sampling.testing(_length(video, sampling))


def check_lengths(videos: Sequence[Footage], sampling: Sampling) -> None:
    """Raise `BadInput` for the first video that is too short. Stills are none: they are set in motion."""
    for video in videos:
        if len(video) < sampling.shortest and not is_still(video):
            where = printable(str(video.path))
            raise BadInput(f"{where}: {len(video)} frames, clips need at least {sampling.shortest}: leave it out")


def is_still(video: Footage) -> bool:
    """Whether this is a single picture, not a video."""
    return not isinstance(video.source, Video) and len(video) == 1


def _length(video: Footage, sampling: Sampling) -> int:
    return sampling.frames if is_still(video) else len(video)


class ClipDetector(Detector):
    """What scores clips. A single picture is set in motion along a fixed path, so that it can be scored, too.

    Args:
        image_size: Height and width in pixels of the frames that it is given.
        sampling: How clips are taken from videos.
    """

    sees = "clips"
    pooling = "mean"

    perturbed: float = 0.0
    """Share of the training clips that are perturbed."""

    share: float = 1.0
    """Share of the training clips of videos that a pass looks at."""

    def __init__(self, *, image_size: int, sampling: Sampling) -> None:
        super().__init__(image_size=image_size)
        self.sampling, self.frames = sampling, sampling.frames

    def with_further_data(self, data: TrainingData, seed: int) -> TrainingData:
        """Training data with what a phase of this method's own needs; by default the clips alone."""
        return data

    def clip(self, image: Tensor) -> Tensor:
        """Clips (B, T, 3, H, W) as they are; pictures (B, 3, H, W) set in motion.

        Raises:
            BadInput: Clips of another number of frames.
        """
        if image.ndim == 4:
            return still_clips(image, self.frames, self.image_size)
        if image.ndim != 5 or image.shape[1] != self.frames:
            raise BadInput(
                f"clips are {tuple(image.shape)}: {self.name} needs (B, {self.frames}, 3, H, W); resample shorter ones"
            )
        return image
