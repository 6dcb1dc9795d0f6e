# SPDX-License-Identifier: Apache-2.0
"""Image classifiers by name: timm's, our own tiny ones, or a user's module; with one place for input normalisation.

>>> Network("tiny_cnn").build(num_classes=2, image_size=64).cam_layer_name
'features.17'
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mien.errors import BadInput, unknown_name
from mien.nn.preact import PREACT
from mien.nn.resnet32 import RESNET32
from mien.nn.tiny import TINY

Normalisation = Literal["none", "backbone"]

ALIASES = {"xception": "legacy_xception"}
"""Names of papers -> names of timm. legacy_xception is the layout of the pretrainedmodels package."""

OWN = {**TINY, **PREACT, **RESNET32}
"""Networks of the house: name -> constructor, called with the number of classes and the side of the images."""

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
        return self.body(self._normalised(image))

    def feature_map(self, image: Tensor) -> Tensor:
        """What the network pools: the feature map (B, C, h, w) of images (B, 3, H, W) in [0, 1].

        Raises:
            BadInput: When the network has none: transformers, and networks without `forward_features`.
        """
        features = getattr(self.body, "forward_features", None)
        found = features(self._normalised(image)) if features is not None else None
        if not isinstance(found, Tensor) or found.ndim != 4:
            raise BadInput(f"{type(self.body).__name__} gives no feature map (B, C, h, w): use a convolutional network")
        return found

    def _normalised(self, image: Tensor) -> Tensor:
        return image if self.mean is None else (image - self.mean) / self.std

    def with_features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, num_classes), and the features (B, D) that the last linear layer makes them from.

        Raises:
            BadInput: When the network has no linear layer.
        """
        linear = [module for module in self.body.modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise BadInput("the network has no linear layer: what its features are is not known")
        seen: list[Tensor] = []
        handle = linear[-1].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        try:
            logits = self(image)
        finally:
            handle.remove()
        return logits, seen[-1].flatten(1)


@dataclass(frozen=True)
class Network:
    """Which network, with which weights to start from. Plain data, for the command line and config.json.

    Args:
        name: A name of timm (`timm.list_models()`), "xception" (timm's legacy_xception), "tiny_cnn",
            "tiny_cnn_highpass", "tiny_blocks", "tiny_blocks_highpass" or "tiny_vit"; for 32 x 32 pixels
            "preact_resnet18", "wrn_34_10" (also wrn_34_1, 3, 5, 7) or "cifar_resnet34" (also 18, 50).
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
        """The network with `num_classes` outputs for square images of `image_size` pixels; 0 for features (B, d).

        New weights are drawn from torch's global generator.

        Raises:
            BadInput: For an unknown name, weights that cannot be had or do not fit, or an unknown `cam_layer`.
        """
        name = ALIASES.get(self.name, self.name)
        mean = std = None
        if self.module is not None:
            body = copy.deepcopy(self.module)
        elif name in OWN:
            body = OWN[name](num_classes, image_size)
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
            raise unknown_name("network", self.name, [*ALIASES, *OWN, *timm.list_models()])
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


def output_size(module: nn.Module, image_size: int) -> int:
    """Width d of the output (B, d) of a network for square images, found by a dry run of a copy without data.

    Raises:
        BadInput: The network gives something else, or cannot be run without data.
    """
    twin = copy.deepcopy(module).to("meta").eval()
    try:
        with torch.no_grad():
            output = twin(torch.empty(1, 3, image_size, image_size, device="meta"))
    except _DRY_RUN_ERRORS as error:
        raise _not_runnable(image_size, error) from error
    if not isinstance(output, Tensor) or output.ndim != 2:
        raise BadInput(f"the network gives {getattr(output, 'shape', type(output))}: features (B, d) are needed")
    return int(output.shape[1])


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
    except _DRY_RUN_ERRORS as error:
        raise _not_runnable(image_size, error) from error
    wide = [name for name, is_map in order if is_map]
    if not wide:
        raise BadInput("the network has no convolution with a feature map: name a layer with cam_layer")
    return wide[-1]


_DRY_RUN_ERRORS = (RuntimeError, NotImplementedError, AssertionError, ValueError)


def _not_runnable(image_size: int, error: Exception) -> BadInput:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return BadInput(f"the network cannot be run on {image_size} x {image_size} images ({reason})")


def read_state(path: Path, what: str) -> dict[str, Tensor]:
    """The tensors of a weights file by name: safetensors, or .pth, .pt, .bin read without unpickling code.

    Args:
        path: The file.
        what: What errors call it, for instance the option that named it.

    Raises:
        BadInput: The file is missing, of another kind, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise BadInput(f"{what}: {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in (".pth", ".pt", ".bin"):
            state = torch.load(path, map_location="cpu", weights_only=True)
            return dict(state.get("state_dict", state))
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, AttributeError, _unpickling_error()) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise BadInput(f"{what}: {path} cannot be read as weights ({reason})") from error
    raise BadInput(f"{what}: {path} has the suffix {path.suffix!r}: use .safetensors, .pth, .pt or .bin")


def _load(body: nn.Module, path: Path, name: str) -> None:
    """Weights of a file into `body`; a last layer of another size is left as it is, one that is not there left out."""
    state = read_state(path, "network.weights")
    head = getattr(body, "pretrained_cfg", {}).get("classifier") or ("fc", "head")
    heads = (head,) if isinstance(head, str) else tuple(head)
    own = body.state_dict()
    for key in [k for k in state if k.startswith(tuple(f"{h}." for h in heads))]:
        if key not in own:
            del state[key]  # a network for features alone
        elif state[key].shape != own[key].shape:
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
