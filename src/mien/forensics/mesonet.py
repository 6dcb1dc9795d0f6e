# SPDX-License-Identifier: Apache-2.0
"""MesoNet: a Compact Facial Video Forgery Detection Network.

Afchar, Nozick, Yamagishi, Echizen, IEEE WIFS 2018, arXiv 1809.00888. A baseline from elsewhere: two networks of 28
thousand weights that look at textures of middle size, published with weights for two kinds of forgery.

    Meso-4              4 x (convolution, ReLU, batch norm, max pooling): channels 8, 8, 16, 16, kernels 3, 5, 5, 5,
                        pooling 2, 2, 2, 4; 27,977 weights
    MesoInception-4     the first two convolutions are inception modules: 1 x 1, 1 x 1 then 3 x 3, and the same with
                        dilations 2 and 3, side by side, channels (1, 4, 4, 2) and (2, 4, 4, 2); 28,615 weights
    both                dropout 0.5, dense 16, leaky ReLU 0.1, dropout 0.5, dense 1, sigmoid; images of 256 x 256

The single output is the probability of REAL, as in the published weights, whose classes are ordered alphabetically.
Here it becomes the two logits (z, 0), so that softmax gives sigmoid(z) to real and the rest to forged.

`load_keras` reads the published HDF5 files, and `import_weights` makes a saved folder of one. What the files say is
checked: names, order and shapes of all arrays. What they cannot say is assumed, from the paper and the library that
wrote them: ReLU before batch norm, epsilon 1e-3, pixels in [0, 1] as RGB, the order and dilations of the inception
modules, the meaning of the output. Files without a layer of leaky ReLU (the Meso-4 ones) are read as having one, too,
since it has no weights and the files cannot tell.

Differences from the paper
    * Pixels may have another size than 256; the dense layer then has other weights.
    * Trained here it uses cross-entropy (the paper minimises the squared error), and running statistics follow ten
      times as fast, since trainings here are shorter.

Example:
    >>> sum(p.numel() for p in Meso4(256).parameters()), sum(p.numel() for p in MesoInception4(256).parameters())
    (27977, 28615)
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mien.data.keras_weights import Layers, read_keras_weights
from mien.engine import Method
from mien.errors import BadInput
from mien.files import write_json
from mien.forensics.detector import NetworkDetector
from mien.nn.network import Network
from mien.optim.recipe import Recipe

Variant = Literal["meso4", "mesoinception4"]
PUBLISHED_SIZE = 256
_POOLS = 2 * 2 * 2 * 4


class Inception(nn.Module):
    """Four branches side by side: 1 x 1, and 1 x 1 then 3 x 3 with dilation 1, 2 and 3. ReLU after each convolution.

    Args:
        channels: Of the input.
        widths: Channels of the four branches.
    """

    def __init__(self, channels: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        first, *others = widths
        self.point = nn.Conv2d(channels, first, 1)
        self.reduce = nn.ModuleList([nn.Conv2d(channels, width, 1) for width in others])
        self.wide = nn.ModuleList(
            [nn.Conv2d(width, width, 3, padding=d, dilation=d) for d, width in enumerate(others, start=1)]
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, sum of the widths, H, W)."""
        branches = [F.relu(self.point(x))]
        for reduce, wide in zip(self.reduce, self.wide, strict=True):
            branches.append(F.relu(wide(F.relu(reduce(x)))))
        return torch.cat(branches, dim=1)

    def in_order(self) -> list[nn.Conv2d]:
        """The convolutions in the order in which they were made, which is that of the numbers in their names."""
        found: list[Any] = [self.point]
        for reduce, wide in zip(self.reduce, self.wide, strict=True):
            found += [reduce, wide]
        return found


class _Meso(nn.Module):
    """What both networks share. `blocks` are convolutional; (B, 3, S, S) in [0, 1] -> (B, 2) logits (z, 0)."""

    def __init__(self, image_size: int, blocks: list[nn.Module], widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        if image_size % _POOLS:
            raise BadInput(f"image_size is {image_size}: MesoNet needs a multiple of {_POOLS} pixels")
        self.blocks = nn.ModuleList(blocks)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width, eps=1e-3) for width in widths])
        self.side = image_size // _POOLS
        self.hidden = nn.Linear(widths[-1] * self.side**2, 16)
        self.out = nn.Linear(16, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of real and forged."""
        x = image
        for block, norm, pool in zip(self.blocks, self.norms, (2, 2, 2, 4), strict=True):
            x = F.max_pool2d(norm(F.relu(block(x))), pool)  # after an inception module ReLU changes nothing
        x = F.dropout(x.flatten(1), 0.5, self.training)
        x = F.dropout(F.leaky_relu(self.hidden(x), 0.1), 0.5, self.training)
        z = self.out(x)
        return torch.cat([z, torch.zeros_like(z)], dim=1)

    def convolutions(self) -> list[nn.Conv2d]:
        """All convolutions, in the order in which they were made."""
        found: list[Any] = []
        for block in self.blocks:
            found += block.in_order() if isinstance(block, Inception) else [block]
        return found


class Meso4(_Meso):
    """Meso-4.

    Args:
        image_size: Height and width in pixels, a multiple of 32.
    """

    def __init__(self, image_size: int = PUBLISHED_SIZE) -> None:
        blocks: list[nn.Module] = [
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 5, padding=2),
            nn.Conv2d(8, 16, 5, padding=2),
            nn.Conv2d(16, 16, 5, padding=2),
        ]
        super().__init__(image_size, blocks, (8, 8, 16, 16))


class MesoInception4(_Meso):
    """MesoInception-4.

    Args:
        image_size: Height and width in pixels, a multiple of 32.
    """

    def __init__(self, image_size: int = PUBLISHED_SIZE) -> None:
        blocks: list[nn.Module] = [
            Inception(3, (1, 4, 4, 2)),
            Inception(11, (2, 4, 4, 2)),
            nn.Conv2d(12, 16, 5, padding=2),
            nn.Conv2d(16, 16, 5, padding=2),
        ]
        super().__init__(image_size, blocks, (11, 12, 16, 16))


NETWORKS: dict[str, type[Meso4] | type[MesoInception4]] = {"meso4": Meso4, "mesoinception4": MesoInception4}


class MesoNet(NetworkDetector):
    """MesoNet, trained with cross-entropy or with the published weights.

    Args:
        variant: "meso4" or "mesoinception4".
        optimizer: How it is trained; the default is the paper's Adam, at its first learning rate.
        image_size: Height and width in pixels, a multiple of 32; the published weights are for 256.
    """

    name = "mesonet"

    def __init__(
        self,
        *,
        variant: Variant = "meso4",
        optimizer: Recipe = Recipe(kind="adam", weight_decay=0.0),
        image_size: int = PUBLISHED_SIZE,
    ) -> None:
        if variant not in NETWORKS:
            raise BadInput(f"variant is {variant!r}: use {' or '.join(NETWORKS)}")
        network = Network.of(NETWORKS[variant](image_size), cam_layer="blocks.3")
        super().__init__(network=network, optimizer=optimizer, image_size=image_size, score="softmax")
        self.variant = variant

    def config(self) -> dict[str, Any]:
        """The constructor's arguments; the network follows from them."""
        return Method.config(self)


def load_keras(file: str | Path) -> MesoNet:
    """MesoNet with the weights of a published HDF5 file, of either network.

    Raises:
        BadInput: The file is not safe to read, or its arrays are not those of Meso-4 or MesoInception-4.
        MissingExtra: h5py is not installed.
    """
    layers = read_keras_weights(file)
    convolutions, norms, dense = (_numbered(layers, kind) for kind in ("conv2d", "batch_normalization", "dense"))
    found = (len(convolutions), len(norms), len(dense))
    counts = {(4, 4, 2): "meso4", (16, 4, 2): "mesoinception4"}
    if found not in counts:
        raise BadInput(
            f"{file}: {found[0]} convolutions, {found[1]} norms and {found[2]} dense layers; Meso-4 has 4, 4, 2 and "
            "MesoInception-4 has 16, 4, 2"
        )
    method = MesoNet(variant=counts[found])  # type: ignore[arg-type]
    body: Any = method.classifier.body
    parts = [*zip(convolutions, body.convolutions(), strict=True), *zip(norms, body.norms, strict=True)]
    parts += zip(dense, (body.hidden, body.out), strict=True)
    for (name, arrays), module in parts:
        _fill(module, arrays, f"{file}: layer {name}", body)
    return method.eval()


def import_weights(file: str | Path, out: str | Path) -> Path:
    """A saved folder from a published HDF5 file, for `mien evaluate`, `predict` and `audit`.

    Args:
        file: The .h5 file.
        out: The folder; it must be new, or hold a saved method.
    """
    method = load_keras(file)
    folder = method.save_pretrained(out)
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    about = f"what the publishers of {Path(file).name} (SHA-256 {digest[:12]}...) trained it on, not recorded here"
    write_json(folder / "manifest.json", {"format": 1, "groups": [], "files": [], "description": about})
    return folder


def _numbered(layers: Layers, kind: str) -> list[tuple[str, dict[str, NDArray[np.float32]]]]:
    """The layers of a kind in the order of their numbers, which is that in which they were made."""
    found = []
    for name, arrays in layers.items():
        match = re.fullmatch(rf"{kind}(?:_(\d+))?", name)
        if match:
            found.append((int(match.group(1) or 0), name, arrays))
    return [(name, arrays) for _, name, arrays in sorted(found, key=lambda row: row[0])]


def _fill(module: nn.Module, arrays: dict[str, NDArray[np.float32]], where: str, body: _Meso) -> None:
    """Put arrays into a module, after a check that they are all there, no others, and of the right shapes."""
    if isinstance(module, nn.Conv2d):
        targets = {"kernel": (module.weight, (3, 2, 0, 1)), "bias": (module.bias, (0,))}
    elif isinstance(module, nn.BatchNorm2d):
        names = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
        targets = {theirs: (getattr(module, ours), (0,)) for theirs, ours in names.items()}
    else:
        assert isinstance(module, nn.Linear)
        targets = {"kernel": (module.weight, (1, 0)), "bias": (module.bias, (0,))}
    if set(arrays) != set(targets):
        raise BadInput(f"{where} holds {', '.join(sorted(arrays)) or 'nothing'}: {', '.join(targets)} are needed")
    with torch.no_grad():
        for name, (target, axes) in targets.items():
            values = arrays[name]
            assert target is not None
            if module is body.hidden and name == "kernel" and values.shape == (target.shape[1], target.shape[0]):
                # There the map is flattened with its channels last, here with its channels first.
                values = values.reshape(body.side, body.side, -1, 16).transpose(2, 0, 1, 3).reshape(values.shape)
            moved = values.transpose(axes) if values.ndim == len(axes) else values
            if moved.shape != tuple(target.shape):
                raise BadInput(f"{where}, {name}: shape {values.shape} does not fit {tuple(target.shape)}")
            if name == "moving_variance" and (values < 0).any():
                raise BadInput(f"{where}, {name}: a variance is below 0")
            target.copy_(torch.from_numpy(np.ascontiguousarray(moved)))
