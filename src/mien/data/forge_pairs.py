# SPDX-License-Identifier: Apache-2.0
"""Data sets of real faces and their forgeries, made so that nothing but the forgery tells them apart.

Every real face gives one fake of each kind, so both classes hold the same photographs; every sample, real or forged,
then goes through the same last encoding; a swap's donor is another person of the same split who looks the same way.

    >>> import torch
    >>> from mien.data.people import render_faces, sample_people
    >>> faces, factors = render_faces(sample_people(4, seed=0), [0, 0, 1, 1, 2, 2, 3, 3], seed=0)
    >>> pairs = PairedForgeries(torch.from_numpy(faces * 255).byte(), [f"person {i}" for i in factors.identity])
    >>> len(pairs), pairs[0].kind, pairs[2].kind, pairs[2].group
    (40, 'real', 'swap', 'person 0')
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from mien.data import forge_ops as ops
from mien.data.draws import Seeds, between, item_seeds, uniforms
from mien.data.forge import ALONE, Forgery, Step, resynthesise, swap
from mien.data.forge_ops import Decoder
from mien.data.images import open_image
from mien.errors import BadInput, unknown_name

KINDS = ("self-blend", "swap", "re-synthesis", "region-edit")
"""The kinds that are made by default."""

_ALL_KINDS = (*KINDS, "edit-sequence")

_CHUNK = 32


@dataclass(frozen=True)
class Perturbation:
    """The last encoding, drawn from the same ranges for real and forged faces.

    Args:
        jpeg: Lowest and highest JPEG quality, or None for no JPEG.
        resize: Lowest and highest share to which an image is shrunk, then enlarged again; None for no resizing.
        colour: Largest relative change of each channel.
    """

    jpeg: tuple[int, int] | None = (75, 95)
    resize: tuple[float, float] | None = None
    colour: float = 0.0

    def __post_init__(self) -> None:
        if self.jpeg is not None and not 1 <= self.jpeg[0] <= self.jpeg[1] <= 100:
            raise BadInput(f"jpeg is {self.jpeg}: use two qualities, 1 to 100, the lower first")
        if self.resize is not None and not 0.1 <= self.resize[0] <= self.resize[1] <= 1:
            raise BadInput(f"resize is {self.resize}: use two shares, 0.1 to 1, the smaller first")
        if not 0 <= self.colour < 1:
            raise BadInput(f"colour is {self.colour}: use 0 to below 1")


def common_perturbation(images: Tensor, seeds: Seeds, perturbation: Perturbation) -> Tensor:
    """Colour, resizing, JPEG: what both classes go through at the end.

    Args:
        images: (B, 3, H, W) in [0, 1].
        seeds: One per image, (B,). A forged image and its original get the same seed.
        perturbation: Ranges.

    Returns:
        uint8 images of the same shape.
    """
    if perturbation.colour:
        gains = 1 + perturbation.colour * (2 * uniforms(seeds, "encoding colour", 3) - 1)
        images = images * torch.from_numpy(gains)[:, :, None, None]
    if perturbation.resize is not None:
        images = ops.resampled(images, torch.from_numpy(between(seeds, "encoding size", *perturbation.resize)))
    out = ops.to_bytes(images.clone())
    if perturbation.jpeg is not None:
        low, high = perturbation.jpeg
        quality = low + (uniforms(seeds, "encoding quality")[:, 0] * (high - low + 1)).astype(int)
        out = ops.jpeg(out, quality.tolist())
    return out


@dataclass
class ForgedFaces:
    """A sample, or a batch of them.

    Args:
        image: uint8, (3, H, W) or (B, 3, H, W).
        label: 0 real, 1 forged.
        kind: "real" or the kind of forgery.
        group: Identity of the photograph (of a swap: of the one into whom the donor's face was put).
        mask: uint8, (1, H, W) or (B, 1, H, W): where it was forged, 255 = wholly; 0 where the face is as it was.
        recipe: What was done, in order; empty for real faces.
        item: Number of the face among those given.
    """

    image: Tensor
    label: int | Tensor
    kind: str | list[str]
    group: str | list[str]
    mask: Tensor
    recipe: list[Step] | list[list[Step]]
    item: int | Tensor


class PairedForgeries(Dataset[ForgedFaces]):
    """Real faces and their forgeries, made when asked for, the same for the same (faces, seed, index).

    Sample i belongs to face i // (real_copies + len(kinds)): first its real copies, then one forgery of each kind.

    Args:
        faces: All faces, uint8 (N, 3, H, W), or image files of one size. Aligned crops, unless landmarks are given.
        identities: Whose face each is.
        kinds: Kinds of forgery, of "self-blend", "swap", "re-synthesis", "region-edit", "edit-sequence".
        seed: Of everything that is drawn.
        landmarks: Eyes, tip of the nose and corners of the mouth in pixels, (N, 5 or more, 2), the five first.
        splits: Name of the split of each face: donors come from the same one. Default: all are one split.
        perturbation: The last encoding of real and forged alike.
        real_copies: How often each real face appears, each time with another encoding; `len(kinds)` balances classes.
        donors: Among how many nearest faces (in pose and light) a swap's donor is drawn.
        autoencoder: For "re-synthesis"; default shrinking and enlarging.

    Raises:
        BadInput: Lengths or sizes differ, a kind is unknown, or a split has one identity only and "swap" is asked for.
    """

    seeded = False  # all chance follows from `seed`

    def __init__(
        self,
        faces: Tensor | Sequence[str | Path],
        identities: Sequence[str],
        *,
        kinds: Sequence[str] = KINDS,
        seed: int = 0,
        landmarks: Tensor | None = None,
        splits: Sequence[str] | None = None,
        perturbation: Perturbation | None = None,
        real_copies: int = 1,
        donors: int = 5,
        autoencoder: Decoder | None = None,
    ) -> None:
        count = len(faces)
        if isinstance(faces, Tensor) and (faces.dtype != torch.uint8 or faces.ndim != 4 or faces.shape[1] != 3):
            raise BadInput(f"faces are {faces.dtype} of shape {tuple(faces.shape)}: uint8 of (N, 3, H, W) is needed")
        if count == 0 or len(identities) != count or (splits is not None and len(splits) != count):
            raise BadInput(
                f"{count} faces, {len(identities)} identities: at least one face, and one name each, is needed"
            )
        if landmarks is not None and (landmarks.shape[0] != count or landmarks.shape[1] < 5 or landmarks.shape[2] != 2):
            raise BadInput(f"landmarks have shape {tuple(landmarks.shape)}: ({count}, 5 or more, 2) is needed")
        for kind in kinds:
            if kind not in _ALL_KINDS:
                raise unknown_name("kind of forgery", kind, _ALL_KINDS)
        if real_copies < 0 or donors < 1 or real_copies + len(kinds) == 0:
            raise BadInput(f"real_copies is {real_copies}, donors is {donors}: use 0 or more, and 1 or more")
        self.faces = faces if isinstance(faces, Tensor) else [str(path) for path in faces]
        self.identities, self.kinds, self.seed = list(identities), tuple(kinds), seed
        self.landmarks = None if landmarks is None else landmarks[:, :5].float()
        self.splits = list(splits) if splits is not None else [""] * count
        self.perturbation, self.real_copies = perturbation or Perturbation(), real_copies
        self.autoencoder = autoencoder
        self.size = self._load([0], check=False).shape[-2:]
        self.donors = self._choose_donors(donors) if "swap" in self.kinds else np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.faces) * (self.real_copies + len(self.kinds))

    def __getitem__(self, index: int) -> ForgedFaces:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[ForgedFaces]:
        """Several samples at once, which is faster; each is the same as alone."""
        batch = self.arrays(indices)
        return [
            ForgedFaces(
                batch.image[i], int(batch.label[i]), batch.kind[i], batch.group[i],  # type: ignore[index]
                batch.mask[i], batch.recipe[i], int(batch.item[i]),  # type: ignore[arg-type, index]
            )
            for i in range(len(indices))
        ]  # fmt: skip

    def arrays(self, indices: Sequence[int] | None = None) -> ForgedFaces:
        """Samples as one batch, by default all of them (an image and its mask take 4 H W bytes)."""
        wanted = np.arange(len(self)) if indices is None else np.asarray(indices, dtype=np.int64)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(f"sample {wanted.min()} to {wanted.max()} of {len(self)}")
        items, slots = np.divmod(wanted, self.real_copies + len(self.kinds))
        height, width = self.size
        image = torch.empty((len(wanted), 3, height, width), dtype=torch.uint8)
        mask = torch.zeros((len(wanted), 1, height, width), dtype=torch.uint8)
        recipe: list[list[Step]] = [[] for _ in wanted]
        for slot in np.unique(slots):
            rows = np.flatnonzero(slots == slot)
            for start in range(0, len(rows), _CHUNK):
                part = rows[start : start + _CHUNK]
                forged = self._forge(items[part], int(slot) - self.real_copies)
                # A forgery and the real copy of the same number share their encoding, quality and all.
                copy = slot if slot < self.real_copies else (slot - self.real_copies) % max(self.real_copies, 1)
                seeds = item_seeds(self.seed, items[part], f"encoding {copy}")
                image[part] = common_perturbation(forged.image, seeds, self.perturbation)
                mask[part] = forged.mask.mul(255).ceil_().to(torch.uint8)
                for row, steps in zip(part, forged.steps, strict=True):
                    recipe[row] = steps
        kinds = ["real" if s < self.real_copies else self.kinds[s - self.real_copies] for s in slots]
        label = torch.from_numpy((slots >= self.real_copies).astype(np.int64))
        groups = [self.identities[i] for i in items]
        return ForgedFaces(image, label, kinds, groups, mask, recipe, torch.from_numpy(items))

    def _forge(self, items: NDArray[np.int64], kind: int) -> Forgery:
        """Forgeries of these faces before the last encoding; a negative kind gives the faces as they are."""
        images = self._load(items).float() / 255
        if kind < 0:
            return Forgery(images, torch.zeros_like(images[:, :1]), [[] for _ in items])
        name = self.kinds[kind]
        seeds = item_seeds(self.seed, items, name)
        points = None if self.landmarks is None else self.landmarks[items]
        if name == "swap":
            donors = self.donors[items]
            donor_points = None if self.landmarks is None else self.landmarks[donors]
            names = [self.identities[i] for i in donors]
            return swap(images, self._load(donors).float() / 255, seeds, points, donor_points, names)
        if name == "re-synthesis":
            return resynthesise(images, seeds, points, self.autoencoder)
        return ALONE[name](images, seeds, points)

    def _load(self, items: Sequence[int] | NDArray[np.int64], *, check: bool = True) -> Tensor:
        if isinstance(self.faces, Tensor):
            return self.faces[torch.as_tensor(items)]
        loaded = [torch.from_numpy(np.array(open_image(self.faces[i]))).permute(2, 0, 1) for i in items]
        for i, face in zip(items, loaded, strict=True):
            if check and face.shape[-2:] != self.size:
                size, wanted = tuple(face.shape[-2:]), tuple(self.size)
                raise BadInput(f"{self.faces[i]}: {size} pixels, the first face has {wanted}: align the faces first")
        return torch.stack(loaded)

    def _choose_donors(self, count: int) -> NDArray[np.int64]:
        """For each face another identity's face of the same split, drawn among the nearest in pose and light."""
        looks = torch.cat(
            [self._looks(range(a, min(a + 256, len(self.faces)))) for a in range(0, len(self.faces), 256)]
        )
        names, splits = np.asarray(self.identities), np.asarray(self.splits)
        choice = uniforms(item_seeds(self.seed, np.arange(len(names)), "swap"), "donor")[:, 0]
        donors = np.empty(len(names), dtype=np.int64)
        for split in np.unique(splits):
            rows = np.flatnonzero(splits == split)
            if len(np.unique(names[rows])) < 2:
                where = f"split {str(split)!r}" if split else "the data"
                raise BadInput(f"{where} has one identity only: swaps need two or more, or leave out 'swap'")
            for start in range(0, len(rows), 512):
                part = rows[start : start + 512]
                far = torch.cdist(looks[part], looks[rows]).numpy()
                far[names[part][:, None] == names[rows][None]] = np.inf
                nearest = np.argsort(far, axis=1, kind="stable")[:, :count]
                usable = np.isfinite(np.take_along_axis(far, nearest, axis=1)).sum(axis=1)
                donors[part] = rows[nearest[np.arange(len(part)), (choice[part] * usable).astype(np.int64)]]
        return donors

    def _looks(self, items: range) -> Tensor:
        """What a donor must share: layout and direction of light (a coarse view of the face without its mean and
        contrast, which are matched anyway), and where the landmarks lie.
        """
        faces = self._load(list(items)).float() / 255
        height, width = self.size
        if self.landmarks is None:  # the middle of an aligned crop
            top, left = round(0.23 * height), round(0.18 * width)
            faces = faces[:, :, top : height - top // 10, left : width - left]
        coarse = F.adaptive_avg_pool2d(faces, 12).flatten(2)
        coarse = (coarse - coarse.mean(dim=2, keepdim=True)).flatten(1)
        looks = coarse / coarse.norm(dim=1, keepdim=True).clamp_min(1e-6)
        if self.landmarks is None:
            return looks
        points = self.landmarks[list(items)]
        points = points - points.mean(dim=1, keepdim=True)
        return torch.cat(
            (looks, points.flatten(1) / points.flatten(1).norm(dim=1, keepdim=True).clamp_min(1e-6)), dim=1
        )
