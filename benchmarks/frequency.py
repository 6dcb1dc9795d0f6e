# SPDX-License-Identifier: Apache-2.0
"""Masking high frequencies of 32 x 3 x 224 x 224 against the bare Fourier transform and its inverse.

The bare pairs, `ifft2(fft2(x))` and `irfft2(rfft2(x))`, do no masking at all: they are what the usual recipe cannot be
faster than.

    python benchmarks/frequency.py
"""

from __future__ import annotations

import torch
from _contract import measure, promise, publish
from torch import Tensor

from mien.forensics.acmf import draw_mask, masked_frequency
from mien.nn.frequency import high_part

SHAPE, HALF_BOX, LIMIT = (32, 3, 224, 224), 5, 1.3


def definition(image: Tensor, half_box: int) -> Tensor:
    """Shift, zero the centred block, shift back: the recipe, in the type of `image`."""
    height, width = image.shape[-2:]
    spectrum = torch.fft.fftshift(torch.fft.fft2(image), dim=(-2, -1))
    rows, columns = height // 2, width // 2
    spectrum[..., rows - half_box : rows + half_box, columns - half_box : columns + half_box] = 0
    return torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(-2, -1)))


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(*SHAPE, generator=generator)
    mask = draw_mask(*SHAPE[-2:], 0.5, generator)

    exact = definition(image[:4].double(), HALF_BOX)
    equal = {
        "absolute": float((high_part(image[:4], HALF_BOX) - exact.real.abs()).abs().max()),
        "modulus": float((high_part(image[:4], HALF_BOX, "modulus") - exact.abs()).abs().max()),
        "masked": float(
            (masked_frequency(image[:4], mask, HALF_BOX) - (image[:4] - (1 - mask) * exact.real.abs())).abs().max()
        ),
    }
    assert max(equal.values()) < 1e-5, equal

    results, promises = {}, []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        contenders = {
            "fft2 and ifft2, bare": lambda: torch.fft.ifft2(torch.fft.fft2(image)),
            "rfft2 and irfft2, bare": lambda: torch.fft.irfft2(torch.fft.rfft2(image), s=SHAPE[-2:]),
            "recipe with fftshift": lambda: definition(image, HALF_BOX).real.abs(),
            "high_part absolute": lambda: high_part(image, HALF_BOX),
            "high_part modulus": lambda: high_part(image, HALF_BOX, "modulus"),
            "masked_frequency": lambda: masked_frequency(image, mask, HALF_BOX),
        }
        by_pair = {
            pair: measure(contenders, over=pair, repeats=9, warm_up=2, memory=pair.startswith("rfft2"))
            for pair in ("fft2 and ifft2, bare", "rfft2 and irfft2, bare")
        }
        results[f"{threads} threads"] = by_pair
        for pair, timing in by_pair.items():
            for name in ("high_part absolute", "high_part modulus", "masked_frequency"):
                ratio = timing["contenders"][name]["ratio"]["median"]
                promises.append(promise(f"{name} over {pair}, {threads} threads", ratio, LIMIT))
    publish(
        "frequency",
        promises=promises,
        equal={"largest difference from the definition in float64": equal},
        shape=list(SHAPE),
        half_box=HALF_BOX,
        timing=results,
    )


if __name__ == "__main__":
    main()
