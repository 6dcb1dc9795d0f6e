# SPDX-License-Identifier: Apache-2.0
"""Image classifiers by name: timm's, our own tiny ones, or a user's module; with one place for input normalisation.

>>> Network("tiny_cnn").build(num_classes=2, image_size=64).cam_layer_name
'features.16'
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mien.errors import BadInput, unknown_name
from mien.nn.tiny import TINY

Normalisation = Literal["none", "backbone"]

ALIASES = {"xception": "legacy_xception"}
"""Names of papers -> names of timm. legacy_xception is the layout of the pretrainedmodels package."""

CAM_LAYERS = {"legacy_xception": "conv3"}
"""Layers whose activations papers use for Grad-CAM; for other networks the last feature map is found by a dry run.

conv3 is Xception's last but one separable convolution, 1024 -> 1536 channels, its output taken before batch norm.
"""


class Classifier(nn.Module):
    """A network that takes images in [0, 1] and gives logits, and knows its layer for Grad-CAM.

    Args:
        body: The network; (B, 3, H, W), normalised -> (B, num_classes).
        cam_layer: Name of the submodule of `body` whose output is the feature map of Grad-CAM.
        mean: Subtracted from each channel; None for no normalisation.
        std: Each channel is divided by it.
    """

    def __init__(
        self,
        body: nn.Module,
        cam_layer: str,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.cam_layer_name = cam_layer
        for name, values in (("mean", mean), ("std", std)):
            shaped = None if values is None else torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, shaped, persistent=False)  # follows from the configuration

    mean: Tensor | None
    std: Tensor

    @property
    def cam_layer(self) -> nn.Module:
        """The submodule whose output Grad-CAM weighs."""
        return self.body.get_submodule(self.cam_layer_name)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, 3, H, W) in [0, 1]."""
        if self.mean is not None:
            image = (image - self.mean) / self.std
        return self.body(image)


@dataclass(frozen=True)
class Network:
    """Which network, with which weights to start from. Plain data, for the command line and config.json.

    Args:
        name: A name of timm (`timm.list_models()`), "xception" (timm's legacy_xception), "tiny_cnn" or
            "tiny_cnn_highpass".
        pretrained: Start from the weights that timm knows for this name; they are downloaded.
        weights: Start from a file instead: safetensors, or .pth read without unpickling code. The last layer is left
            out where its number of classes differs.
        normalise: "none" gives the network values in [0, 1], as they are; "backbone" applies the mean and standard
            deviation that its published weights expect.
        cam_layer: Submodule whose output is the feature map of Grad-CAM; None for the layer of the paper or else the
            output of the last convolution over more than one position.

    Raises:
        BadInput: For an unknown name or option.
    """

    name: str = "xception"
    pretrained: bool = False
    weights: str | None = None
    normalise: Normalisation = "none"
    cam_layer: str | None = None
    module: nn.Module | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.normalise not in ("none", "backbone"):
            raise BadInput(f"normalise is {self.normalise!r}: use none or backbone")
        if self.pretrained and self.weights is not None:
            raise BadInput(f"pretrained and weights ({self.weights}) are both given: use one of them")

    @classmethod
    def of(cls, module: nn.Module, *, cam_layer: str | None = None) -> Network:
        """A network of your own: (B, 3, H, W) in [0, 1] -> logits. Each `build` takes a copy of it.

        What is made with it cannot be loaded by name alone; make the method again with `Network.of` and load weights.
        """
        network = cls(name="own", cam_layer=cam_layer)
        object.__setattr__(network, "module", module)
        return network

    def build(self, num_classes: int, image_size: int = 224) -> Classifier:
        """The network with `num_classes` outputs for square images of `image_size` pixels.

        New weights are drawn from torch's global generator.

        Raises:
            BadInput: For an unknown name, weights that cannot be had or do not fit, or an unknown `cam_layer`.
        """
        name = ALIASES.get(self.name, self.name)
        mean = std = None
        if self.module is not None:
            body = copy.deepcopy(self.module)
        elif name in TINY:
            body = TINY[name](num_classes)
            if self.pretrained:
                raise BadInput(f"network {self.name!r} has no pretrained weights: leave pretrained out")
        else:
            body = self._from_timm(name, num_classes, image_size)
        if self.weights is not None:
            _load(body, Path(self.weights), self.name)
        if self.normalise == "backbone":
            known = getattr(body, "pretrained_cfg", None)
            if not known:
                raise BadInput(f"network {self.name!r} has no published mean and std: use normalise=none")
            mean, std = tuple(known["mean"]), tuple(known["std"])
        layer = self.cam_layer if self.cam_layer is not None else CAM_LAYERS.get(name)
        if layer is None:
            layer = last_feature_map(body, image_size)
        elif layer not in (modules := dict(body.named_modules())) or not layer:
            raise unknown_name(f"cam_layer of {self.name!r}", layer, filter(None, modules))
        return Classifier(body, layer, mean, std)

    def _from_timm(self, name: str, num_classes: int, image_size: int) -> nn.Module:
        import timm

        if not timm.is_model(name):
            if self.name == "own":
                raise BadInput(
                    "the network is one of your own: make the method with Network.of(module), then load weights"
                )
            raise unknown_name("network", self.name, [*ALIASES, *TINY, *timm.list_models()])
        known = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
        options: dict[str, Any] = {}
        if known is not None and known.fixed_input_size and known.input_size[-1] != image_size:
            options["img_size"] = image_size
        if not self.pretrained:
            return timm.create_model(name, num_classes=num_classes, **options)
        try:
            return timm.create_model(name, pretrained=True, num_classes=num_classes, **options)
        except (OSError, RuntimeError, ValueError) as error:  # no connection, no such file, a broken download
            where = (known.hf_hub_id or known.url) if known is not None else None
            what = f"fetch {where} on a machine with a connection" if where else "timm knows no weights for it"
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
            raise BadInput(
                f"the pretrained weights of {self.name!r} could not be had ({reason}): {what} and name the file "
                "with network.weights instead of network.pretrained"
            ) from error


def last_feature_map(module: nn.Module, image_size: int) -> str:
    """Name of the convolution that runs last among those with more than one output position.

    Found by a dry run of a copy without data ("meta" device).

    Raises:
        BadInput: When there is none, or the module cannot be run without data.
    """
    twin = copy.deepcopy(module).to("meta").eval()
    order: list[tuple[str, bool]] = []

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            order.append((name, output.shape[-2:].numel() > 1))

        return hook

    for name, child in twin.named_modules():
        if isinstance(child, nn.Conv2d):
            child.register_forward_hook(note(name))
    try:
        with torch.no_grad():
            twin(torch.empty(1, 3, image_size, image_size, device="meta"))
    except (RuntimeError, NotImplementedError, AssertionError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise BadInput(f"the network cannot be run on {image_size} x {image_size} images ({reason})") from error
    wide = [name for name, is_map in order if is_map]
    if not wide:
        raise BadInput("the network has no convolution with a feature map: name a layer with cam_layer")
    return wide[-1]


def _load(body: nn.Module, path: Path, name: str) -> None:
    """Weights of a file into `body`; a last layer of another size is left as it is."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise BadInput(f"network.weights: {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        elif path.suffix in (".pth", ".pt", ".bin"):
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
        else:
            raise BadInput(
                f"network.weights: {path} has the suffix {path.suffix!r}: use .safetensors, .pth, .pt or .bin"
            )
    except BadInput:
        raise
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, AttributeError, _unpickling_error()) as error:
        raise BadInput(
            f"network.weights: {path} cannot be read as weights ({str(error).splitlines()[0][:120]})"
        ) from error
    head = getattr(body, "pretrained_cfg", {}).get("classifier") or "fc"
    heads = (head,) if isinstance(head, str) else tuple(head)
    own = body.state_dict()
    for key in [k for k in state if k.startswith(tuple(f"{h}." for h in heads)) and k in own]:
        if state[key].shape != own[key].shape:
            state[key] = own[key]
    try:
        body.load_state_dict(state)
    except RuntimeError as error:
        raise BadInput(
            f"network.weights: {path} does not fit {name!r}: {' '.join(str(error).split())[:200]}"
        ) from error


def _unpickling_error() -> type[Exception]:
    from pickle import UnpicklingError

    return UnpicklingError
