# SPDX-License-Identifier: Apache-2.0
"""What happens to pictures on their way through the world, at five strengths: to train against, and to test under.

| kind | what | strengths 1 to 5 |
| --- | --- | --- |
| blocks | grey blocks of 8 x 8 pixels at random places | 16, 32, 48, 64, 80 blocks |
| noise | white Gaussian noise, each colour for itself | deviation 0.03, 0.045, 0.055, 0.063, 0.071 of the range |
| contrast | distance from the mean grey, times a factor | 0.85, 0.725, 0.6, 0.475, 0.35 |
| blur | Gaussian blur by a kernel of k pixels | k = 7, 9, 13, 17, 21; deviation 0.15 k + 0.35 |
| jpeg | once through JPEG | quality 70, 50, 30, 20, 15 |
| resize | shrunk and enlarged again | to 0.8, 0.65, 0.5, 0.4, 0.3 of height and width |

The first five are those of the DeepfakeNIR videos (arXiv 2207.01906), whose strengths are not published: these are
ours, blocks being mid-grey. Block and kernel sizes are pixels; for smaller pictures `reference` keeps the share.

Example:
    >>> import torch
    >>> perturb(torch.tensor([0.0, 1.0]).expand(1, 3, 2, 2), "contrast", 5)[0, 0, 0]
    tensor([0.3250, 0.6750])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mien.data import forge_ops as ops
from mien.data.draws import Seeds, item_seeds, normals, uniforms
from mien.errors import BadInput, unknown_name

STRENGTHS: dict[str, tuple[float, ...]] = {
    "blocks": (16, 32, 48, 64, 80),
    "noise": (0.03, 0.045, 0.055, 0.063, 0.071),
    "contrast": (0.85, 0.725, 0.6, 0.475, 0.35),
    "blur": (7, 9, 13, 17, 21),
    "jpeg": (70, 50, 30, 20, 15),
    "resize": (0.8, 0.65, 0.5, 0.4, 0.3),
}
"""Kind -> the value of each strength, weak to strong."""

LEVELS = (1, 2, 3, 4, 5)
DEEPFAKE_NIR = ("blocks", "noise", "contrast", "blur", "jpeg")
"""The kinds of the perturbed half of DeepfakeNIR."""

BLOCK = 8
LUMA = (0.2989, 0.587, 0.114)


def perturb(
    images: Tensor, kind: str, level: int, *, seed: int = 0, items: Sequence[int] | None = None, reference: int = 0
) -> Tensor:
    """The images after one kind of perturbation at one strength.

    Args:
        images: (B, 3, H, W), uint8 or float32 in [0, 1]; any B, also 0.
        kind: One of `STRENGTHS`.
        level: 1 (weak) to 5 (strong).
        seed: Of what is drawn, 0 or more.
        items: A number for each image, by default its position. What is drawn (places of blocks, noise) follows from
            seed and number alone: frames that share a number get the same noise, and a batch may be cut anywhere.
        reference: Height in pixels that the sizes of blocks and blur belong to; they are scaled by H / reference.
            0 takes them as they are.

    Returns:
        The same shape and type, clamped to the range; uint8 is rounded.

    Raises:
        BadInput: An unknown kind or level, images of another shape or type, numbers that do not match the images.
    """
    if kind not in STRENGTHS:
        raise unknown_name("kind of perturbation", kind, STRENGTHS)
    if level not in LEVELS:
        raise BadInput(f"level is {level!r}: strengths run from 1 to 5")
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype not in (torch.uint8, torch.float32):
        raise BadInput(f"images are {images.dtype} of shape {tuple(images.shape)}: uint8 or float32 of (B, 3, H, W)")
    if reference < 0:
        raise BadInput(f"reference is {reference}: give a height in pixels, or 0")
    if items is not None and len(items) != len(images):
        raise BadInput(f"{len(items)} numbers for {len(images)} images: give one for each")
    if not len(images):
        return images.clone()
    seeds = item_seeds(seed, list(range(len(images)) if items is None else items), "perturb")
    scale = images.shape[-2] / reference if reference else 1.0
    whole = images.dtype == torch.uint8
    x = images.float() / 255 if whole else images
    x = _APPLY[kind](x, STRENGTHS[kind][level - 1], seeds, scale).clamp(0, 1)
    return ops.to_bytes(x) if whole else x


def draw(seed: int, items: Sequence[int], kinds: Sequence[str] = DEEPFAKE_NIR) -> list[tuple[str, int]]:
    """A kind and a strength for each item, all equally likely.

    >>> len(set(draw(0, range(500)))), draw(0, [7]) == draw(0, range(8))[7:]
    (25, True)
    """
    for kind in kinds:
        if kind not in STRENGTHS:
            raise unknown_name("kind of perturbation", kind, STRENGTHS)
    if not kinds:
        raise BadInput("kinds is empty: name at least one kind of perturbation")
    chosen = uniforms(item_seeds(seed, list(items), "perturbation"), "kind and level", 2)
    return [(kinds[int(a * len(kinds))], LEVELS[int(b * len(LEVELS))]) for a, b in chosen.tolist()]


def perturb_clip(
    clip: Tensor, *, seed: int = 0, item: int = 0, kinds: Sequence[str] = DEEPFAKE_NIR, reference: int = 0
) -> Tensor:
    """One kind at one strength for all frames of a clip (T, 3, H, W), the same places and noise in each frame.

    What changed from frame to frame would itself be a temporal frequency.
    """
    ((kind, level),) = draw(seed, [item], kinds)
    return perturb(clip, kind, level, seed=seed, items=[item] * len(clip), reference=reference)


def _blocks(x: Tensor, count: float, seeds: Seeds, scale: float) -> Tensor:
    height, width = x.shape[-2:]
    side = min(max(1, round(BLOCK * scale)), height, width)
    places = torch.from_numpy(uniforms(seeds, "blocks", 2 * int(count))).view(len(x), -1, 2)
    top, left = (places * torch.tensor([height - side + 1, width - side + 1])).long().unbind(dim=2)
    rows, columns = torch.arange(height), torch.arange(width)
    down = (rows >= top[..., None]) & (rows < top[..., None] + side)  # (B, count, H)
    across = (columns >= left[..., None]) & (columns < left[..., None] + side)  # (B, count, W)
    covered = torch.einsum("bnh,bnw->bhw", down.float(), across.float()) > 0
    return torch.where(covered[:, None].to(x.device), 128 / 255, x)


def _noise(x: Tensor, deviation: float, seeds: Seeds, scale: float) -> Tensor:
    return x + deviation * torch.from_numpy(normals(seeds, "noise", tuple(x.shape[1:]))).to(x.device)


def _contrast(x: Tensor, factor: float, seeds: Seeds, scale: float) -> Tensor:
    luma = (x * x.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
    return torch.lerp(luma.mean(dim=(2, 3), keepdim=True), x, factor)


def _blur(x: Tensor, kernel: float, seeds: Seeds, scale: float) -> Tensor:
    sigma, reach = (0.15 * kernel + 0.35) * scale, max(1, round((kernel - 1) / 2 * scale))
    weight = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device) / sigma) ** 2)
    weight = (weight / weight.sum()).to(x.dtype)
    planes = F.pad(x.flatten(0, 1)[:, None], (reach, reach, reach, reach), mode="replicate")
    planes = F.conv2d(F.conv2d(planes, weight.view(1, 1, -1, 1)), weight.view(1, 1, 1, -1))
    return planes[:, 0].unflatten(0, x.shape[:2])


def _jpeg(x: Tensor, quality: float, seeds: Seeds, scale: float) -> Tensor:
    return (ops.jpeg(ops.to_bytes(x.cpu()), [int(quality)] * len(x)).float() / 255).to(x.device)


def _resize(x: Tensor, share: float, seeds: Seeds, scale: float) -> Tensor:
    return ops.resampled(x, torch.from_numpy(np.full(len(x), share)))


_APPLY: dict[str, Callable[[Tensor, float, Seeds, float], Tensor]] = {
    "blocks": _blocks,
    "noise": _noise,
    "contrast": _contrast,
    "blur": _blur,
    "jpeg": _jpeg,
    "resize": _resize,
}
