# SPDX-License-Identifier: Apache-2.0
"""A training step of LoRA on ViT-tiny: adapters of mien against peft's, with the same weights on the same images.

Promised: at most 1.1 times the time of peft (0.21.2, in the environment for development only), for one branch whose A
and B are trained, as in a first task, and for two branches whose B are trained, as in later ones. Outputs and all
gradients are asserted equal first. With one thread and with two.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib import metadata

import peft
import timm
import torch
from _contract import measure, promise, publish
from torch import Tensor, nn
from torch.nn import functional as F

from mien.nn.lora import adapt, linear_layers

RANK, BATCH, CLASSES, SIZE, LIMIT = 32, 8, 10, 224, 1.1
LAYERS = "*.attn.qkv"
CASES = {
    "one branch, A and B": ({"general": 0.25}, True),
    "two branches, B": ({"general": 0.25, "isolated": 0.5}, False),
}


class Task(nn.Module):
    """A network with adapters and a linear head for the classes of a task."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, CLASSES, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image))


def ours(
    base: nn.Module, branches: dict[str, float]
) -> tuple[nn.Module, Callable[[str, str], dict[str, nn.Parameter]]]:
    body = copy.deepcopy(base).requires_grad_(False)
    layers = adapt(body, linear_layers(body, [LAYERS]), branches, RANK)
    return body, lambda name, which: {n: getattr(layer.branch(name), which) for n, layer in layers.items()}


def theirs(
    base: nn.Module, branches: dict[str, float]
) -> tuple[nn.Module, Callable[[str, str], dict[str, nn.Parameter]]]:
    def config(scale: float) -> peft.LoraConfig:
        return peft.LoraConfig(r=RANK, lora_alpha=scale * RANK, target_modules=["qkv"], lora_dropout=0.0, bias="none")

    names = list(branches)
    body = peft.get_peft_model(copy.deepcopy(base), config(branches[names[0]]), adapter_name=names[0])
    for name in names[1:]:
        body.add_adapter(name, config(branches[name]))
    body.base_model.set_adapter(names)
    layers = {n: layer for n, layer in body.base_model.model.named_modules() if hasattr(layer, "lora_A")}
    return body, lambda name, which: {n: getattr(layer, f"lora_{which}")[name].weight for n, layer in layers.items()}


def prepare(branches: dict[str, float], train_down: bool) -> dict[str, tuple[Task, dict[str, nn.Parameter]]]:
    """Both networks with the same weights, and the weights of the adapters by the same names."""
    torch.manual_seed(0)
    base = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0).eval()
    start = Task(base, base.num_features).head.state_dict()
    made = {}
    for library, build in (("mien", ours), ("peft", theirs)):
        body, of = build(base, branches)
        weights: dict[str, nn.Parameter] = {}
        generator = torch.Generator().manual_seed(1)
        for name in branches:
            for which in ("A", "B"):
                found = of(name, which)
                for layer in sorted(found):
                    parameter = found[layer]
                    with torch.no_grad():
                        parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
                    parameter.requires_grad_(which == "B" or train_down)
                    weights[f"{layer} {name} {which}"] = parameter
        task = Task(body, base.num_features)
        task.head.load_state_dict(start)
        made[library] = (task, weights)
    return made


def trained(task: Task) -> list[nn.Parameter]:
    return [parameter for parameter in task.parameters() if parameter.requires_grad]


def largest_difference(
    made: dict[str, tuple[Task, dict[str, nn.Parameter]]], image: Tensor, label: Tensor
) -> dict[str, float]:
    """Of outputs and gradients, the latter relative to the largest gradient of their tensor."""
    outputs, gradients = [], []
    for task, weights in made.values():
        output = task(image)
        F.cross_entropy(output, label).backward()
        outputs.append(output.detach())
        gradients.append({name: w.grad.clone() for name, w in weights.items() if w.requires_grad})
        task.zero_grad(set_to_none=True)
    assert gradients[0].keys() == gradients[1].keys()
    assert gradients[0]
    counts = [sum(p.numel() for p in trained(task)) for task, _ in made.values()]
    assert counts[0] == counts[1], counts
    relative = [float((g - gradients[1][n]).abs().max() / gradients[1][n].abs().max()) for n, g in gradients[0].items()]
    return {"outputs": float((outputs[0] - outputs[1]).abs().max()), "gradients": max(relative)}


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(BATCH, 3, SIZE, SIZE, generator=generator)
    label = torch.randint(CLASSES, (BATCH,), generator=generator)
    equal, results, promises = {}, {}, []
    for case, (branches, train_down) in CASES.items():
        made = prepare(branches, train_down)
        equal[case] = largest_difference(made, image, label)
        assert max(equal[case].values()) < 1e-4, equal
        results[case] = {}
        for threads in (1, 2):
            torch.set_num_threads(threads)

            def step(task: Task, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
                def run() -> None:
                    optimizer.zero_grad(set_to_none=True)
                    F.cross_entropy(task(image), label).backward()
                    optimizer.step()

                return run

            contenders = {
                library: step(task, torch.optim.SGD(trained(task), 1e-4, momentum=0.9))
                for library, (task, _) in made.items()
            }
            timing = measure(contenders, over="peft", repeats=11, warm_up=2)
            results[case][f"{threads} threads"] = timing
            ratio = timing["contenders"]["mien"]["ratio"]["median"]
            promises.append(promise(f"LoRA step of mien over peft, {case}, {threads} threads", ratio, LIMIT))
    publish(
        "lora",
        promises=promises,
        equal={"largest difference between the two": equal},
        network="vit_tiny_patch16_224, random weights, qkv of all 12 blocks",
        rank=RANK,
        batch=BATCH,
        peft=metadata.version("peft"),
        timing=results,
    )


if __name__ == "__main__":
    main()
