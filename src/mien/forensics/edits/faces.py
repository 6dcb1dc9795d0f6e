# SPDX-License-Identifier: Apache-2.0
"""Faces edited step by step: what detectors see that name the edits, and where such faces come from.

Made from people's faces (`EditedFrames`, see `mien.forensics.edits.rings` for what makes the order decidable), or read
from Seq-DeepFake (`EditRecords`). Other labelled data have no lists of edits; their images are plain `Faces`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.data.draws import item_seeds
from mien.data.folders import Record, fingerprints
from mien.data.images import load_tensor, resize_tensor
from mien.data.splits import split_by_group
from mien.errors import BadInput
from mien.forensics.data import Faces
from mien.forensics.edits.rings import draw_lists, edit_faces, encoded
from mien.forensics.opening import EMBEDDED, OpenedData, faces_to_forge, layout_in, open_test, open_training
from mien.forensics.people import People
from mien.forensics.readers.seq_deepfake import LONGEST, Edits, seq_deepfake_edits
from mien.nn.grey import grey
from mien.room import DataOptions, TestData

if TYPE_CHECKING:
    from mien.forensics.mmnet import MMNet

COPIES = 2
"""Edited faces made from each face."""
BRIGHTNESS, CONTRAST, SATURATION = (0.5, 1.3), (0.8, 1.5), (0.2, 1.5)
"""Ranges of the factors of the colour jitter."""


@dataclass
class EditedFaces(Faces):
    """A face with the edits that were made.

    Args:
        sequence: Tokens 1 .. 5 in the order of the edits, 0 after the last, (5,) or (B, 5), int64; None if unknown.
        original: The face before the edits, shaped like `image`; None if nobody has it.
    """

    sequence: Tensor | None = None
    original: Tensor | None = None


def jitter(image: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
    """Brightness, contrast and saturation of both pictures (3, H, W) changed alike, drawn from torch's generator."""
    bounds = torch.tensor([BRIGHTNESS, CONTRAST, SATURATION])
    brightness, contrast, saturation = (bounds[:, 0] + torch.rand(3) * (bounds[:, 1] - bounds[:, 0])).unbind()
    mean = grey(brightness * original).mean()

    def changed(picture: Tensor) -> Tensor:
        picture = (contrast * brightness * picture + (1 - contrast) * mean).clamp(0, 1)
        return (saturation * picture + (1 - saturation) * grey(picture)).clamp(0, 1)

    return changed(image), changed(original)


class _Edited(Dataset[Faces]):
    """What the two sources share: mirroring and jitter in training."""

    seeded = False
    training = False
    colour = False

    def _seen(self, sample: EditedFaces) -> EditedFaces:
        """The sample as it is, or in training mirrored half of the time and with its colours changed."""
        if not self.training:
            return sample
        image, original, mask = sample.image, sample.original, sample.mask
        if torch.rand(()) < 0.5:
            image, original, mask = image.flip(-1), _mirrored(original), _mirrored(mask)
        if self.colour:
            image, changed = jitter(image, image if original is None else original)
            original = None if original is None else changed
        return replace(sample, image=image, original=original, mask=mask)


def _mirrored(picture: Tensor | None) -> Tensor | None:
    return None if picture is None else picture.flip(-1)


class EditedFrames(_Edited):
    """Faces edited step by step, made once and held in memory. Every length from 0 to 5 is equally frequent.

    Args:
        people: Aligned faces and whose they are.
        size: Side of the samples; faces are resized before they are edited.
        copies: Samples made from each face, 1 to 6; their lists have different lengths.
        seed: Of lists, edits and encodings.
        training: Mirror half of the samples.
        colour: In training also change colours.
    """

    def __init__(
        self,
        people: People,
        size: int,
        *,
        copies: int = COPIES,
        seed: int = 0,
        training: bool = False,
        colour: bool = False,
    ) -> None:
        if not 1 <= copies <= LONGEST + 1:
            raise BadInput(f"copies is {copies}: use 1 to {LONGEST + 1}")
        faces = people.faces
        if faces.shape[-2:] != (size, size):
            resized = [resize_tensor(face.float() / 255, size).mul(255).round().byte() for face in faces]
            faces = torch.stack(resized)
        face = np.repeat(np.arange(len(faces)), copies)
        copy = np.tile(np.arange(copies), len(faces))
        seeds = item_seeds(seed, face * (LONGEST + 1) + copy, "edits")
        encoding = item_seeds(seed, np.arange(len(faces)), "encoding")
        lengths = (face + copy * ((LONGEST + 1) // copies)) % (LONGEST + 1)
        self.sequence = draw_lists(seeds, torch.from_numpy(lengths))
        self.image, self.mask = edit_faces(faces[face], self.sequence, seeds, encoding[face])
        self.original = encoded(faces, encoding)
        self.face = face.tolist()
        self.groups = [people.names[i] for i in self.face]
        self.attributes = people.attributes
        self.training, self.colour, self.seeded = training, colour, training

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> Faces:
        sequence, face = self.sequence[index], self.face[index]
        image, original = self.image[index].float() / 255, self.original[face].float() / 255
        count = int((sequence > 0).sum())
        known = dict(self.attributes[face]) if self.attributes else {}
        sample = EditedFaces(
            image,
            int(count > 0),
            self.groups[index],
            kind_of(count),
            mask=self.mask[index].float() / 255,
            attributes=known,
            sequence=sequence,
            original=original,
        )
        return self._seen(sample)


def kind_of(edits: int) -> str:
    """What a face with so many edits is called in tables of kinds: real, 1 edit, 2 edits, ..."""
    return "real" if not edits else f"{edits} edit{'s' if edits > 1 else ''}"


class EditRecords(_Edited):
    """Edited faces on disk. Pictures are taken as they are: an edited face must lie on its original.

    Args:
        edits: What to read. Originals are given where all have one.
        size: Side of the samples.
        training: Mirror half of the samples.
        colour: In training also change colours.
    """

    def __init__(self, edits: Sequence[Edits], size: int, *, training: bool = False, colour: bool = False) -> None:
        self.edits, self.size = list(edits), size
        self.training, self.colour, self.seeded = training, colour, training
        self.groups = [edit.record.group for edit in self.edits]
        self.originals = all(edit.original is not None for edit in self.edits)

    def __len__(self) -> int:
        return len(self.edits)

    def __getitem__(self, index: int) -> Faces:
        edit = self.edits[index]
        record, original = edit.record, edit.original if self.originals else None
        sample = EditedFaces(
            load_tensor(record.path, self.size),
            int(record.label or 0),
            record.group,
            record.kind,
            str(record.path),
            sequence=torch.tensor(edit.sequence),
            original=None if original is None else load_tensor(original, self.size),
        )
        return self._seen(sample)


def has_originals(data: Dataset[Any]) -> bool:
    """Whether the samples of a data set come with the faces before the edits."""
    return isinstance(data, EditedFrames) or bool(getattr(data, "originals", False))


# --- from a folder of a user's --------------------------------------------------------------------------------
def open_edits(source: str, detector: MMNet, options: DataOptions) -> OpenedData:
    """Training and validation data. Without lists of edits, real and forged images as all detectors get them.

    Faces without labels are edited, be they people's folders or a table. Validation data of one class are left out.
    """
    size, colour = detector.image_size, detector.jitter
    if _is_seq_deepfake(source, options):
        train = seq_deepfake_edits(source, "train", part=detector.vocabulary)
        held = seq_deepfake_edits(source, "val", part=detector.vocabulary) if options.validation else []
        validation = EditRecords(held, size) if len({edit.record.label for edit in held}) == 2 else None
        manifest = _manifest([edit.record for edit in (*train, *held)], source, "train and val")
        return OpenedData(EditRecords(train, size, training=True, colour=colour), validation, manifest)
    people, held_people = _people(source, detector, options, test=False), None
    if people is None:
        return open_training(source, size, options)
    manifest = people.manifest
    if options.validation:
        shares = (1 - options.validation, options.validation)
        kept, rest = split_by_group(people.names, shares, seed=options.seed)
        people, held_people = people.part(kept), people.part(rest)
    frames = EditedFrames(people, size, seed=options.seed, training=True, colour=colour)
    validation_frames = None if held_people is None else EditedFrames(held_people, size, seed=options.seed)
    return OpenedData(frames, validation_frames, manifest)


def open_edits_test(source: str, detector: MMNet, options: DataOptions) -> TestData:
    """Test data: everything in `source`, of Seq-DeepFake its test split, for "embedded" the people never trained on."""
    size = detector.image_size
    if _is_seq_deepfake(source, options):
        found = seq_deepfake_edits(source, "test", part=detector.vocabulary)
        return TestData(EditRecords(found, size), _manifest([edit.record for edit in found], source, "test"))
    people = _people(source, detector, options, test=True)
    if people is None:
        return open_test(source, size, options)
    return TestData(EditedFrames(people, size, seed=options.seed), people.manifest)


def _is_seq_deepfake(source: str, options: DataOptions) -> bool:
    return source != EMBEDDED and layout_in(source, options) == "seq-deepfake"


def _people(source: str, detector: MMNet, options: DataOptions, *, test: bool) -> People | None:
    """The faces that are edited; None where the data say themselves what is forged."""
    people = faces_to_forge(source, options, test=test)
    if people is None:
        return None
    if detector.vocabulary != "components":
        raise BadInput(
            f"vocabulary is {detector.vocabulary!r} and {source} holds faces without edits: the edits that are made "
            "from faces are those of components; attributes need Seq-DeepFake"
        )
    about = people.manifest["description"].replace("forgeries made from", "faces edited step by step, made from")
    return replace(people, manifest={**people.manifest, "description": about})


def _manifest(records: Sequence[Record], source: str, split: str) -> dict[str, Any]:
    return {
        "groups": sorted({record.group for record in records}),
        "files": sorted(set(fingerprints([record.path for record in records]))),
        "description": f"Seq-DeepFake in {Path(source).name}, {split}",
    }
