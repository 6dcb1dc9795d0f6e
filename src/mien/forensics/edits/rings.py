# SPDX-License-Identifier: Apache-2.0
"""Faces edited step by step, in an order that can be read from the picture.

`mien.data.forge.edit_sequence` makes every edit on what the earlier ones left, so the order shows only where regions
overlap; hair and lips never do, and of such lists nobody could tell the order. Here every edit also leaves a mark that
ages: a ring, the 3 pixels along the outline of its region that carry diagonal stripes of +-A. Every later edit
multiplies all earlier rings by a factor, wherever they lie, as repeated re-synthesis wears away what earlier rounds
left. The fainter the ring, the earlier the edit:

    x = JPEG(clip(edited + sum_j A f^(n - j) ring_j)),   j = 1 .. n the edits in order, A = 0.12, f = 0.6

The edits themselves (`mien.data.forge.edit_region`) depend on seed and region, not on the position, and are applied in
one fixed order, so the rings are the only trace of the order. The unedited face gets the same last encoding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mien.data import forge_ops as ops
from mien.data.draws import Seeds, uniforms
from mien.data.forge import edit_sequence
from mien.data.forge_pairs import Perturbation, common_perturbation
from mien.errors import BadInput
from mien.forensics.readers.seq_deepfake import LONGEST, TOKENS

COMPONENTS = TOKENS["components"]
REGIONS = {"nose": "nose", "eye": "eyes", "eyebrow": "brows", "lip": "lips", "hair": "hair"}
"""Component -> region of `mien.data.forge_ops`."""
AMPLITUDE, FADING, BAND, PERIOD = 0.12, 0.6, 3.0, 4
"""A in [0, 1]; f; width of a ring and period of its stripes in pixels of the picture that is made."""
ENCODING = Perturbation(jpeg=(85, 95))
_CHUNK = 64


def ring_masks(height: int, width: int) -> Tensor:
    """Where the ring of every component lies in an aligned face, (5, H, W) of 0 and 1."""
    points = ops.canonical_points(1, height, width)
    half = BAND / 2
    masks = []
    for name in COMPONENTS:
        centres, radii, degrees = ops.region_ellipses(REGIONS[name], points)
        # How wide an ellipse is blurred says how far a pixel is from its edge: 1/2 on it, and the erf is invertible.
        soft = ops.soft_ellipses(height, width, centres, radii, degrees, torch.tensor([2 * half]), torch.zeros(1, 2, 3))
        distance = 2 * half * 2**0.5 * torch.erfinv((2 * (0.99 * soft + 0.005) - 1).clamp(-0.989, 0.989))
        masks.append((distance[0, 0].abs() <= half).float())
    return torch.stack(masks)


def stripes(height: int, width: int) -> Tensor:
    """Diagonal stripes of -1 and 1, (H, W), of period 4 along both axes."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.where((x + y) % PERIOD < PERIOD // 2, 1.0, -1.0)


def ring_amplitudes(sequence: Tensor) -> Tensor:
    """Amplitude of every component's ring, (N, 5): A f^(edits after it), 0 where it was not edited.

    >>> ring_amplitudes(torch.tensor([[4, 1, 0, 0, 0]]))
    tensor([[0.1200, 0.0000, 0.0000, 0.0720, 0.0000]])
    """
    length = (sequence != 0).sum(dim=1, keepdim=True)
    later = length - 1 - torch.arange(sequence.shape[1])
    strength = torch.where(sequence != 0, AMPLITUDE * FADING**later, 0.0)
    found = torch.zeros(len(sequence), LONGEST + 1).scatter_(1, sequence, strength)
    return found[:, 1:]


def edit_faces(faces: Tensor, sequences: Tensor, seeds: Seeds, encoding: Seeds) -> tuple[Tensor, Tensor]:
    """Edit faces as the sequences say.

    Args:
        faces: Aligned crops, uint8 (N, 3, H, W).
        sequences: (N, 5) of tokens 1 .. 5, each at most once, 0 after the last.
        seeds: Of the edits, one per face, (N,).
        encoding: Of the last encoding, (N,). The same ones give `encoded` originals that differ by the edits alone.

    Returns:
        The edited faces, uint8 (N, 3, H, W), and where they were edited, uint8 (N, 1, H, W), 255 = wholly.

    Raises:
        BadInput: A sequence that is none, or unequal numbers.
    """
    check_sequences(sequences)
    if not len(sequences) == len(faces) == len(seeds) == len(encoding):
        raise BadInput(f"{len(faces)} faces, {len(sequences)} sequences, {len(seeds)} seeds: give one for each")
    height, width = faces.shape[-2:]
    rings, pattern = ring_masks(height, width), stripes(height, width)
    images, masks = torch.empty_like(faces), torch.empty_like(faces[:, :1])
    for start in range(0, len(faces), _CHUNK):
        part = slice(start, start + _CHUNK)
        present = [sorted(row[row > 0].tolist()) for row in sequences[part]]  # one order for all: it leaves no trace
        regions = [[REGIONS[COMPONENTS[token - 1]] for token in row] for row in present]
        made = edit_sequence(faces[part].float() / 255, regions, seeds[part])
        strength = ring_amplitudes(sequences[part])
        field = torch.einsum("bk,khw->bhw", strength, rings)[:, None]
        mark = torch.einsum("bk,khw->bhw", (strength > 0).float(), rings).clamp(max=1)[:, None]
        images[part] = common_perturbation((made.image + field * pattern).clamp(0, 1), encoding[part], ENCODING)
        masks[part] = torch.maximum(made.mask, mark).mul(255).ceil().to(torch.uint8)
    return images, masks


def encoded(faces: Tensor, encoding: Seeds) -> Tensor:
    """Unedited faces, uint8 (N, 3, H, W), with the last encoding of edited ones."""
    parts = [slice(start, start + _CHUNK) for start in range(0, len(faces), _CHUNK)]
    made = [common_perturbation(faces[part].float() / 255, encoding[part], ENCODING) for part in parts]
    return torch.cat(made) if made else faces.clone()


def check_sequences(sequences: Tensor) -> None:
    """Raise `BadInput` for what is no batch of lists of distinct tokens 1 .. 5 with 0 after the last, (N, 5)."""
    shape = tuple(sequences.shape)
    if sequences.ndim != 2 or shape[1] != LONGEST or sequences.dtype != torch.int64:
        raise BadInput(f"sequences are {sequences.dtype} of shape {shape}: int64 of (N, {LONGEST}) is needed")
    for row in sequences.tolist():
        used = [t for t in row if t]
        if row[: len(used)] != used or len(set(used)) < len(used) or any(not 0 <= t <= LONGEST for t in row):
            raise BadInput(f"sequence {row}: tokens 1 to {LONGEST}, each at most once, then 0 are needed")


def draw_lists(seeds: Seeds, lengths: Sequence[int] | Tensor) -> Tensor:
    """Random orders of distinct tokens 1 .. 5 with these lengths, zero-padded, int64 (N, 5)."""
    order = torch.from_numpy(uniforms(seeds, "order", LONGEST)).argsort(dim=1) + 1
    keep = torch.arange(LONGEST) < torch.as_tensor(lengths)[:, None]
    return torch.where(keep, order, 0)
