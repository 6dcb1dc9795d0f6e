# SPDX-License-Identifier: Apache-2.0
"""Batched DCT features against transforms patch by patch, gradients included.

32 patches of 3 x 128 x 128, in two cases: the features of HFC-MFFD's frequency stream (grey, transform, every
coefficient standardised), and the transform alone, of every channel. The gradient of a random weighting is carried back
to the pixels. The rivals are scipy's: patch by patch inside autograd, as one would put it into a network, in the type
in which the usual recipe has it (float64) and in float32; of the transform, also the bare calls without autograd, and
one call for all.

    python benchmarks/dct.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.fft
import torch
from _contract import measure, promise, publish
from torch import Tensor

from mien.forensics.parts.hfc_streams import levels
from mien.nn.dct import CoefficientStatistics, dct2

SHAPE, LIMIT, TOLERANCE = (32, 3, 128, 128), 3.0, 1e-4


def _workers(patch: Tensor) -> int:
    """As many threads as the others have, for many patches; sharing a single patch among threads would cost time."""
    return torch.get_num_threads() if patch.ndim > 2 else 1


class ScipyDCT(torch.autograd.Function):
    """One patch (H, W), or several (..., H, W) at once, through scipy; the adjoint is the inverse."""

    @staticmethod
    def forward(ctx: Any, patch: Tensor, dtype: Any) -> Tensor:
        ctx.dtype = dtype
        found = scipy.fft.dctn(
            patch.numpy().astype(dtype, copy=False), axes=(-2, -1), norm="ortho", workers=_workers(patch)
        )
        return torch.from_numpy(found).to(patch.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        given = gradient.numpy().astype(ctx.dtype, copy=False)
        found = scipy.fft.idctn(given, axes=(-2, -1), norm="ortho", workers=_workers(gradient))
        return torch.from_numpy(found).to(gradient.dtype), None


def batched(image: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients and the gradient of (coefficients x weight).sum() in the pixels."""
    image = image.detach().requires_grad_()
    found = dct2(image)
    found.backward(weight)
    assert image.grad is not None
    return found.detach(), image.grad


def by_patch(image: Tensor, weight: Tensor, dtype: Any) -> tuple[Tensor, Tensor]:
    """The same, every patch by itself."""
    image = image.detach().requires_grad_()
    patches = image.flatten(0, 1)
    found = torch.stack([ScipyDCT.apply(patch, dtype) for patch in patches]).view(image.shape)
    found.backward(weight)
    assert image.grad is not None
    return found.detach(), image.grad


def at_once(image: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The same in one call of scipy for all patches, float32."""
    image = image.detach().requires_grad_()
    found = ScipyDCT.apply(image, np.float32)
    found.backward(weight)
    assert image.grad is not None
    return found.detach(), image.grad


def bare(image: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Transforms and their inverses patch by patch in float32: no autograd, no tensors."""
    flat, given = image.reshape(-1, *image.shape[-2:]), weight.reshape(-1, *image.shape[-2:])
    found, gradient = np.empty_like(flat), np.empty_like(flat)
    for i in range(len(flat)):
        found[i] = scipy.fft.dctn(flat[i], norm="ortho")
        gradient[i] = scipy.fft.idctn(given[i], norm="ortho")
    return found.reshape(image.shape), gradient.reshape(image.shape)


def features(image: Tensor, weight: Tensor, statistics: CoefficientStatistics) -> tuple[Tensor, Tensor]:
    """Standardised coefficients (B, P, P) and the gradient of (coefficients x weight).sum() in the pixels."""
    image = image.detach().requires_grad_()
    found = statistics.standardise(dct2(levels(image)))
    found.backward(weight)
    assert image.grad is not None
    return found.detach(), image.grad


def features_by_patch(
    image: Tensor, weight: Tensor, mean: Tensor, deviation: Tensor, dtype: Any
) -> tuple[Tensor, Tensor]:
    """The same, every patch by itself."""
    image = image.detach().requires_grad_()
    greys = (255 * (0.299 * red + 0.587 * green + 0.114 * blue) for red, green, blue in image)
    found = torch.stack([(ScipyDCT.apply(grey, dtype) - mean) / deviation for grey in greys])
    found.backward(weight)
    assert image.grad is not None
    return found.detach(), image.grad


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    image, weight = torch.rand(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)
    statistics = CoefficientStatistics(SHAPE[2:])
    statistics.update(dct2(levels(torch.rand(SHAPE, generator=generator))))
    mean, deviation, first = statistics.mean.float(), statistics.deviation().float(), weight[:, 0].contiguous()
    plain = image.numpy(), weight.numpy()
    cases: dict[str, dict[str, Callable[[], Any]]] = {
        "features": {
            "mien": lambda: features(image, first, statistics),
            "scipy by patch, float64": lambda: features_by_patch(image, first, mean, deviation, np.float64),
            "scipy by patch, float32": lambda: features_by_patch(image, first, mean, deviation, np.float32),
        },
        "transform alone": {
            "mien": lambda: batched(image, weight),
            "scipy by patch, float64": lambda: by_patch(image, weight, np.float64),
            "scipy by patch, float32": lambda: by_patch(image, weight, np.float32),
            "scipy by patch, float32, no autograd": lambda: bare(*plain),
            "scipy at once, float32": lambda: at_once(image, weight),
        },
    }
    exact = {
        "features": features_by_patch(image.double(), first, mean, deviation, np.float64),
        "transform alone": (
            scipy.fft.dctn(plain[0].astype(np.float64), axes=(-2, -1), norm="ortho"),
            scipy.fft.idctn(plain[1].astype(np.float64), axes=(-2, -1), norm="ortho"),
        ),
    }
    equal = {
        f"{case}, {name}": max(
            float(np.abs(np.asarray(found) - np.asarray(wanted)).max())
            for found, wanted in zip(run(), exact[case], strict=True)
        )
        for case, contenders in cases.items()
        for name, run in contenders.items()
    }
    assert max(equal.values()) < TOLERANCE, equal

    results, promises = {}, []
    for case, contenders in cases.items():
        for threads in (1, 2):
            torch.set_num_threads(threads)
            timing = measure(contenders, over="mien", repeats=25, warm_up=3)
            results[f"{case}, {threads} threads"] = timing
            for name in ("scipy by patch, float64", "scipy by patch, float32"):
                ratio = timing["contenders"][name]["ratio"]["median"]
                promises.append(promise(f"{case}: {name}, over mien, {threads} threads", ratio, LIMIT, at_least=True))
    publish(
        "dct",
        promises=promises,
        equal={"largest difference from scipy in float64, coefficients and gradients": equal},
        shape=list(SHAPE),
        timing=results,
    )


if __name__ == "__main__":
    main()
