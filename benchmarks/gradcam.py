# SPDX-License-Identifier: Apache-2.0
"""Grad-CAM of a batch against two loops over its images.

(a) backpropagates each image's logit through the whole network, parameters included: what `backward()` with hooks
does. (b) runs each image alone and asks for the gradient at the layer only, so that nothing below it is computed twice.

    python benchmarks/gradcam.py [--size 112]
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import torch
from _contract import measure, promise, publish
from torch import Tensor, nn
from torch.nn import functional as F

from mien.nn.gradcam import gradcam
from mien.nn.network import Classifier, Network

IMAGES, LOOP_LIMIT, LAYER_LIMIT, TOLERANCE = 32, 2.5, 1.0, 1e-5


def calibrated(size: int) -> Classifier:
    """Xception with random weights; one batch sets the batch statistics, so that activations keep their scale."""
    torch.manual_seed(0)
    network = Network("xception").build(2, size)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.rand(8, 3, size, size))
    return network.eval()


def stretched(activations: Tensor, gradient: Tensor, size: int) -> Tensor:
    cam = (gradient.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1, keepdim=True)
    cam = F.interpolate(cam, (size, size), mode="bilinear", align_corners=True)[:, 0]
    return (cam - cam.min()) / (cam.max() - cam.min())


def whole_network(network: Classifier, images: Tensor) -> Tensor:
    maps = []
    for image in images.split(1):
        kept: list[Tensor] = []
        handle = network.cam_layer.register_forward_hook(lambda m, i, out, kept=kept: kept.append(out))
        logits = network(image)
        handle.remove()
        kept[0].retain_grad()
        network.zero_grad()
        logits.max().backward()
        assert kept[0].grad is not None
        maps.append(stretched(kept[0].detach(), kept[0].grad, images.shape[-1]))
    return torch.cat(maps)


def to_the_layer(network: Classifier, images: Tensor) -> Tensor:
    maps = []
    for image in images.split(1):
        kept: list[Tensor] = []

        def cut(m: nn.Module, i: object, out: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(out.detach().requires_grad_())
            torch.set_grad_enabled(True)
            return kept[0].clone()

        handle = network.cam_layer.register_forward_hook(cut)
        with torch.no_grad():
            logits = network(image)
        handle.remove()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(logits.max(), kept[0])
        maps.append(stretched(kept[0].detach(), gradient, images.shape[-1]))
    return torch.cat(maps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=112, help="side of the images in pixels")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    network = calibrated(options.size)
    images = torch.rand(IMAGES, 3, options.size, options.size, generator=torch.Generator().manual_seed(1))
    runs: dict[str, Callable[[], Tensor]] = {
        "batched": lambda: gradcam(network, network.cam_layer, images)[0],
        "(a) loop through the whole network": lambda: whole_network(network, images),
        "(b) loop to the layer": lambda: to_the_layer(network, images),
    }
    torch.set_num_threads(options.threads[0])
    maps = {name: run() for name, run in runs.items()}  # also the warm-up
    equal = {name: float((found - maps["batched"]).abs().max()) for name, found in maps.items()}
    assert max(equal.values()) <= TOLERANCE, equal
    double, few = copy.deepcopy(network).double(), images[:4].double()
    exact = gradcam(double, double.cam_layer, few)[0]
    in_float64 = max(float((loop(double, few) - exact).abs().max()) for loop in (whole_network, to_the_layer))
    assert in_float64 <= 1e-10, in_float64
    assert float(maps["batched"].std()) > 0.01, "flat maps prove nothing"

    timing, promises = {}, []
    for threads in options.threads:
        torch.set_num_threads(threads)
        first = threads == options.threads[0]
        timing[f"{threads} threads"] = measured = measure(
            runs, over="batched", items=IMAGES, warm_up=0 if first else 1, memory=first
        )
        table = measured["contenders"]
        for name, limit in (("(a) loop through the whole network", LOOP_LIMIT), ("(b) loop to the layer", LAYER_LIMIT)):
            ratio = table[name]["ratio"]["median"]
            promises.append(promise(f"{name} over batched, {threads} threads", ratio, limit, at_least=True))
    publish(
        "gradcam",
        promises=promises,
        equal={"largest difference from the batched maps": equal, "in float64, four images": in_float64},
        network="xception, conv3",
        image_size=options.size,
        images=IMAGES,
        timing=timing,
    )


if __name__ == "__main__":
    main()
