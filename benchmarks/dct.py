# SPDX-License-Identifier: Apache-2.0
"""Batched DCT features against transforms patch by patch, gradients included.

32 x 3 x 128 x 128, every channel transformed, and the gradient of a random weighting of the coefficients carried back
to the pixels. The rivals are scipy's: patch by patch inside autograd, as one would put it into a network, in the type
in which the usual recipe has it (float64) and in float32; the bare calls without autograd; and one call for all.

    python benchmarks/dct.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.fft
import torch
from _contract import measure, promise, publish
from torch import Tensor

from mien.nn.dct import dct2

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


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    image, weight = torch.rand(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)
    plain = image.numpy(), weight.numpy()
    exact = scipy.fft.dctn(plain[0].astype(np.float64), axes=(-2, -1), norm="ortho")
    adjoint = scipy.fft.idctn(plain[1].astype(np.float64), axes=(-2, -1), norm="ortho")
    contenders = {
        "mien.nn.dct.dct2": lambda: batched(image, weight),
        "scipy by patch, float64": lambda: by_patch(image, weight, np.float64),
        "scipy by patch, float32": lambda: by_patch(image, weight, np.float32),
        "scipy by patch, float32, no autograd": lambda: bare(*plain),
        "scipy at once, float32": lambda: at_once(image, weight),
    }
    equal = {}
    for name, run in contenders.items():
        found, gradient = (np.asarray(x) for x in run())
        equal[name] = max(float(np.abs(found - exact).max()), float(np.abs(gradient - adjoint).max()))
    assert max(equal.values()) < TOLERANCE, equal

    results, promises = {}, []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        timing = measure(contenders, over="mien.nn.dct.dct2", repeats=9, warm_up=2)
        results[f"{threads} threads"] = timing
        for name in ("scipy by patch, float64", "scipy by patch, float32"):
            ratio = timing["contenders"][name]["ratio"]["median"]
            promises.append(promise(f"{name}, over dct2, {threads} threads", ratio, LIMIT, at_least=True))
    publish(
        "dct",
        promises=promises,
        equal={"largest difference from scipy in float64, coefficients and gradients": equal},
        shape=list(SHAPE),
        timing=results,
    )


if __name__ == "__main__":
    main()
