# SPDX-License-Identifier: Apache-2.0
"""What the synthesis room offers to the command line: pictures made from pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from mien.answering import Item, batches_of, items_of, load_ahead, load_image
from mien.data.folders import fingerprints
from mien.data.images import resize_tensor, save_png
from mien.data.splits import split_by_group
from mien.engine import Fixed, Method, TrainingData
from mien.errors import BadInput, unknown_name
from mien.job import merged
from mien.room import Answers, DataOptions, Preset, PresetName, Room, Row, TestData, Using
from mien.synthesis import scoring
from mien.synthesis.data import Pair, Pairs
from mien.synthesis.readers import DOWNLOAD, EMBEDDED, READERS, Found, Part, read, side_names
from mien.synthesis.translator import Translator

MODES = ("resize", "whole")
"""How a picture of another size is translated: stretched to the training size and back, or as it is."""
MOST_PIXELS = 1 << 20
"""Of a picture in mode "whole": attention over all positions grows with the square of their number."""
LIMITS = ("what the input does not show is guessed: a face made from a sketch is nobody's photograph",)

SMALL: dict[str, Any] = {
    "weights": {"gan": 0.2, "perceptual": 0.0, "l1": 10.0},
    "discriminator": {"scales": 2, "width": 16, "layers": 2},
    "optimizer": {"lr": 1e-3},
    "image_size": 64,
    "shift": 4,
}
SMALL_OF: dict[str, dict[str, Any]] = {
    "cshnet": {
        "architecture": {"width": 16, "downs": 2, "window": 8, "heads": 4},
        "weights": {"feature": 2.0, "edge": 0.01},
    },
    "pix2pix": {"unet": {"width": 24, "downs": 4, "dropout": 0.0}},
}


class OpenedPairs(Fixed):
    """Training and validation pairs, with the manifest of what is seen."""

    def __init__(self, train: Pairs, validation: Pairs | None, found: dict[str, Any]) -> None:
        super().__init__(train, validation)
        self._found = found

    def manifest(self) -> dict[str, Any]:
        """Hashes of all pictures, and whom they show."""
        return self._found


class Synthesis(Room):
    """Paired pictures; L1, PSNR, SSIM, F1 of edges and the Fréchet distance."""

    family = "synthesis"
    kinds: ClassVar[tuple[str, ...]] = ("auto", *READERS)
    how_to_get: ClassVar[Mapping[str, str]] = DOWNLOAD
    takes_features = True

    def preset(self, name: str, preset: PresetName) -> Preset:
        """The paper's; or a generator of a million weights for pictures of 64 pixels, for a laptop."""
        if preset == "paper":
            return Preset({}, {"batch_size": 1}, epochs=200)
        return Preset(merged(SMALL, SMALL_OF.get(name, {})), {"batch_size": 8}, epochs=30)

    # --- data -------------------------------------------------------------------------------------------------
    def data_config(self, name: str, source: str, options: DataOptions) -> dict[str, Any]:
        """Which side is translated into which, where the data say so themselves."""
        try:
            first, second = side_names(source, options.kind)
        except BadInput:  # said when the data are opened, with the sides that the user named
            return {}
        return {"input": first, "target": second}

    def open_data(self, source: str, method: Method, options: DataOptions) -> TrainingData:
        """Training pairs, and pairs of other groups to validate on."""
        model = translator(method)
        model.prepare()  # what cannot be had is said before anything is written
        found = read(source, "train", options.kind, (model.input, model.target))
        pairs, held = found.pairs, []
        groups = [pair.group for pair in pairs]
        if options.validation and len(set(groups)) > 1:
            rows, rest = split_by_group(groups, (1 - options.validation, options.validation), seed=options.seed)
            pairs, held = [found.pairs[i] for i in rows], [found.pairs[i] for i in rest]
        moved = source != EMBEDDED  # of generated scenes there are enough, and a texture that is moved is another one
        train = Pairs(pairs, model.image_size, flip=model.flip and moved, shift=model.shift if moved else 0)
        manifest = _manifest(source, "train", found)
        return OpenedPairs(train, Pairs(held, model.image_size) if held else None, manifest)

    def open_test(self, source: str, method: Method, options: DataOptions) -> TestData:
        """The pairs of the test part; of data in one piece all."""
        model = translator(method)
        found = read(source, "test", options.kind, (model.input, model.target))
        return TestData(Pairs(found.pairs, model.image_size), _manifest(source, "test", found))

    # --- answers ----------------------------------------------------------------------------------------------
    def evaluate(self, method: Method, test: TestData, out: Path | None, using: Using) -> dict[str, Any]:
        """L1, PSNR, SSIM, F1 of edges and the Fréchet distance, beside those of the input itself."""
        return scoring.evaluate(translator(method), test, out, using)

    def predict(self, method: Method, inputs: Sequence[Any], out: Path | None, using: Using) -> Answers:
        """A row for each picture: its size; the result as a PNG file in `out`."""
        model = translator(method)
        mode = using.mode or MODES[0]
        if mode not in MODES:
            raise unknown_name("mode", mode, MODES)
        if using.source is not None or using.target is not None:
            raise BadInput(f"{model.name!r} takes no --source and no --target")
        items = items_of(inputs)[: using.max_steps]
        return Answers(len(items), _rows(model, items, mode, out if using.pictures else None, using.device), LIMITS)


def translator(method: Method) -> Translator:
    """The method, if it translates pictures."""
    if not isinstance(method, Translator):
        raise BadInput(f"{method.name!r} is no Translator: the synthesis room works with those")
    return method


def translated(model: Translator, image: Tensor, mode: str = "resize") -> Tensor:
    """One picture (3, H, W) in [0, 1] translated, of its own size.

    Args:
        model: The method, in eval mode.
        image: The picture.
        mode: "resize" stretches it to the training size and the result back; "whole" translates it as it is.

    Raises:
        BadInput: Mode "whole" and more than a million pixels.
    """
    height, width = image.shape[-2:]
    if mode == "whole" and height * width > MOST_PIXELS:
        raise BadInput(f"{width} x {height} pixels: mode 'whole' takes {MOST_PIXELS:,}; use mode 'resize'")
    given = (image if mode == "whole" else resize_tensor(image, model.image_size)).to(model.device)
    with torch.no_grad():
        made = model.translate(given[None])[0]
    return resize_tensor(made, (height, width)).clamp(0, 1)


def _rows(model: Translator, items: list[Item], mode: str, out: Path | None, device: str) -> Iterator[Row]:
    for number, ((item, image),) in enumerate(load_ahead(batches_of(items, 1), load_image)):
        if isinstance(image, str):
            yield Row(item.name, error=image)
            continue
        try:
            made = translated(model, image, mode)
        except BadInput as error:
            yield Row(item.name, error=str(error))
            continue
        name = None
        if out is not None:
            name = f"translated-{number:05d}-{Path(item.name).stem}.png"
            save_png(out / name, made.cpu())
        yield Row(item.name, {"height": made.shape[-2], "width": made.shape[-1], "mode": mode, "picture": name})


def _manifest(source: str, part: Part, found: Found) -> dict[str, Any]:
    """What is seen. A group whose name is a bare number says nothing about who it is and is left out."""
    if source == EMBEDDED:
        return {"groups": [f"embedded {part}"], "files": [], "description": found.about}
    groups = sorted({pair.group for pair in found.pairs if not pair.group.isdigit()})
    return {"groups": groups, "files": sorted(set(_hashes(found.pairs))), "description": found.about}


def _hashes(pairs: Sequence[Pair]) -> list[str]:
    """SHA-256 of every file, or of the pixels where pictures are arrays."""
    sides = [side for pair in pairs for side in (pair.input, pair.target) if side is not None]
    files = fingerprints([side for side in sides if isinstance(side, Path)])
    pixels = [side.contiguous().numpy().tobytes() for side in sides if isinstance(side, Tensor)]
    return files + [hashlib.sha256(pixel).hexdigest() for pixel in pixels]


ROOM = Synthesis()
