# SPDX-License-Identifier: Apache-2.0
"""Faces with an expression, few of them labelled: whose faces they are, which labels are kept, and their views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.classification.data import ClassData, Labelled, LabelledImages
from mien.data.images import load_tensor
from mien.errors import BadInput
from mien.faces.views import sized, strong, weak

SPLITS: dict[int, tuple[int, int]] = {
    100: (15, 10),
    400: (60, 40),
    1000: (150, 100),
    2000: (300, 200),
    4000: (625, 250),
}
"""Labels in all -> labels of each class and of the rarest one, fear: the paper's splits of RAF-DB."""
RAREST = "fear"
PAPER_TOTAL = 4000


@dataclass(frozen=True)
class FaceData(ClassData):
    """A `ClassData` that knows whose faces these are.

    Args:
        persons: Name of the person of each face, (N,); what is not known stands for itself.
    """

    persons: tuple[str, ...] = ()

    def subset(self, rows: Sequence[int]) -> FaceData:
        """Some of the faces."""
        return FaceData(**vars(super().subset(rows)), persons=tuple(self.persons[i] for i in rows))

    def without(self, names: Sequence[str]) -> FaceData:
        """The faces of all other classes."""
        kept = super().without(names)
        whose = dict(zip(self.names, self.persons, strict=True))
        return FaceData(**vars(kept), persons=tuple(whose[name] for name in kept.names))

    def relabelled(self, classes: Sequence[str]) -> FaceData:
        """The same faces with labels into another list of classes."""
        return FaceData(**vars(super().relabelled(classes)), persons=self.persons)


def with_persons(data: ClassData, persons: Sequence[str] | None = None) -> FaceData:
    """The data with the persons' names; None for faces of unknown persons, which then stand for themselves."""
    return FaceData(**vars(data), persons=tuple(data.names if persons is None else persons))


@dataclass(frozen=True)
class Labels:
    """Which training faces keep their label, drawn at random class by class. The other labels are hidden.

    Args:
        total: One of the paper's splits of RAF-DB, 100, 400, 1000, 2000 or 4000: 625 of each class and 250 of "fear"
            for 4000. Classes by other names get the number of the others. "auto": 4000 where all classes have so many
            faces, else half of the smallest class of each; `per_class` goes before it. None: `per_class` says how many.
        per_class: Labels of each class. None, with no `total`: all labels are kept, and what has none is unlabelled.
        seed: Which ones follows from it; None for the run's seed.

    Raises:
        BadInput: For a value outside its range, or both numbers.
    """

    total: int | Literal["auto"] | None = None
    per_class: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        numbered = self.total not in (None, "auto")
        if numbered and self.total not in SPLITS:
            raise BadInput(
                f"labels.total is {self.total}: use auto or one of {', '.join(map(str, SPLITS))}, the paper's"
            )
        if numbered and self.per_class is not None:
            raise BadInput(f"labels.total is {self.total} and labels.per_class {self.per_class}: give one of them")
        if self.per_class is not None and self.per_class < 1:
            raise BadInput(f"labels.per_class is {self.per_class}: it must be at least 1")
        if self.seed is not None and self.seed < 0:
            raise BadInput(f"labels.seed is {self.seed}: it must be 0 or more")

    def seeded(self, seed: int) -> Labels:
        """The same with `seed` in the place of None."""
        return self if self.seed is not None else replace(self, seed=seed)

    def fitted(self, data: ClassData) -> Labels:
        """The same with what `data` have in the place of "auto"."""
        if self.total != "auto":
            return self
        if self.per_class is not None:
            return replace(self, total=None)
        found = torch.bincount(data.label, minlength=len(data.classes)).tolist()
        paper = replace(self, total=PAPER_TOTAL)
        enough = all(count >= wanted for count, wanted in zip(found, paper.counts(data.classes) or (), strict=True))
        return paper if enough else replace(self, total=None, per_class=max(min(found) // 2, 1))

    def counts(self, classes: Sequence[str]) -> list[int] | None:
        """How many labels each class keeps; None for all. Of "auto", ask `fitted`.

        >>> Labels(total=100).counts(["fear", "happy"])
        [10, 15]
        """
        if self.total is not None:
            assert self.total != "auto"
            others, rarest = SPLITS[self.total]
            return [rarest if name == RAREST else others for name in classes]
        return None if self.per_class is None else [self.per_class] * len(classes)

    def hidden(self, data: ClassData) -> Tensor:
        """Labels (N,) of which all but the chosen ones are -1.

        Raises:
            BadInput: A class has fewer faces than it is to keep labels.
        """
        wanted = self.fitted(data).counts(data.classes)
        label = data.label.clone()
        if wanted is not None:
            generator = torch.Generator().manual_seed(self.seed or 0)
            label.fill_(-1)
            for c, count in enumerate(wanted):
                members = torch.nonzero(data.label == c)[:, 0]
                if len(members) < count:
                    raise BadInput(
                        f"labels: {count} of class {data.classes[c]!r} asked for, there are {len(members)}: "
                        "ask for fewer (labels.per_class)"
                    )
                label[members[torch.randperm(len(members), generator=generator)[:count]]] = c
        return label


def few_labels(data: FaceData, labels: Labels, extra: Sequence[Path] = ()) -> tuple[FaceData, Tensor]:
    """Training faces and their labels (N,), -1 where hidden.

    Args:
        data: Faces with all their labels.
        labels: Which of them are kept.
        extra: Further faces, without a label; only where `data` are files, too.

    Raises:
        BadInput: There is nothing labelled or nothing unlabelled, or `extra` cannot join faces in memory.
    """
    label = labels.hidden(data)
    if extra:
        if isinstance(data.images, Tensor):
            raise BadInput(f"unlabelled/ holds {len(extra)} files: only data that are files can have such a folder")
        names = tuple(map(str, extra))
        files, none = [*data.images, *extra], torch.full((len(extra),), -1)
        about = f"{data.description}, {len(extra)} without a label"
        persons = (*data.persons, *names)
        data = FaceData(files, torch.cat([data.label, none]), data.classes, (*data.names, *names), about, persons)
        label = torch.cat([label, none])
    known = int((label >= 0).sum())
    if known in (0, len(label)):
        raise BadInput(
            f"labels: {known} of {len(label)} training faces are labelled: both labelled and unlabelled ones are "
            "needed; hide some (labels.per_class), or add a folder unlabelled/"
        )
    return replace(data, description=f"{data.description}: {known} of {len(label)} faces with their label"), label


@dataclass
class Views(Labelled):
    """A face in three views; `image` is the first weak one. Of a labelled face all three are the same.

    Args:
        second: Another weak view, like `image`.
        strong: The strong view, like `image`.
    """

    second: Tensor | None = None
    strong: Tensor | None = None


class FaceViews(Dataset[Views]):
    """Training faces in their views, drawn from torch's global generator.

    An index beyond the length is another drawing of the same face: sample N + i is face i under another seed.

    Args:
        data: The faces.
        label: Labels (N,), -1 where hidden.
        size: Side of the views in pixels.
    """

    seeded = True

    def __init__(self, data: FaceData, label: Tensor, size: int) -> None:
        self.data, self.label, self.size = data, label, size
        self.groups = list(data.persons)

    def __len__(self) -> int:
        return len(self.data)

    def plain(self) -> LabelledImages:
        """The faces as they are, with all their labels: for those who measure, not for training."""
        return LabelledImages(self.data, self.size)

    def __getitem__(self, index: int) -> Views:
        row = index % len(self.data)
        image = self._bytes(row)
        label, name, person = int(self.label[row]), self.data.names[row], self.data.persons[row]
        plain = sized(image, self.size)
        first = weak(plain)
        if label >= 0:
            return Views(first, label, person, name, first, first)
        return Views(first, label, person, name, weak(plain), weak(sized(strong(image), self.size)))

    def _bytes(self, row: int) -> Tensor:
        images = self.data.images
        return images[row] if isinstance(images, Tensor) else load_tensor(images[row]).mul(255).round().byte()


class WeakLabelled(Dataset[Labelled]):
    """The labelled faces of a data set in one weak view each, which is another one in every epoch."""

    seeded = True

    def __init__(self, views: FaceViews, epoch: int) -> None:
        self.views, self.rows = views, torch.nonzero(views.label >= 0)[:, 0]
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Labelled:
        for _ in range(self.epoch):  # chance follows from the index alone: an epoch takes a later draw
            torch.rand(1)
        found = self.views[int(self.rows[index])]
        return Labelled(found.image, found.label, found.group, found.path)
