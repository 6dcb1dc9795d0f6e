# SPDX-License-Identifier: Apache-2.0
"""What the restoration room offers to the command line: pictures in, what they were before out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mien.answering import Item, batches_of, items_of, load_ahead, load_image
from mien.data.folders import fingerprints
from mien.data.images import save_png, to_uint8
from mien.data.splits import split_by_group
from mien.engine import EMA, Fixed, Method, Schedule, Strategy, TrainingData
from mien.errors import BadInput
from mien.metrics.intervals import interval_json, mean_interval
from mien.metrics.quality import luma, psnr, ssim, without_border
from mien.progress import track
from mien.restoration.data import Crops, Degraded, Picture, Whole
from mien.restoration.degradation import Degradation
from mien.restoration.readers import DOWNLOAD, EMBEDDED, HAS_PARTS, READERS, Part, embedded, layout_of, read
from mien.restoration.restorer import Restorer
from mien.restoration.tad_sr import TADSR
from mien.restoration.tiles import Tiles, fitted_tiles, strips
from mien.room import Answers, DataOptions, Preset, PresetName, Room, Row, TestData, Using

LIMITS = (
    "a restored picture is likely, not true: what was lost is guessed, and faces, letters and numbers may be others",
)
CROPS_OF_EACH = 16
TEST_SIDE = 192
"""Test pictures are the middle, at most so many pixels high and wide: quick enough for a CPU."""


class OpenedPictures(Fixed):
    """Training and validation pictures, with the manifest of what is seen."""

    def __init__(self, train: Crops, validation: Whole | None, found: dict[str, Any]) -> None:
        super().__init__(train, validation)
        self._found = found

    def manifest(self) -> dict[str, Any]:
        """Hashes of all pictures."""
        return self._found


class Restoration(Room):
    """Pictures degraded here, or pairs; PSNR and SSIM on luma, or on grey, without the border."""

    family = "restoration"
    kinds: ClassVar[tuple[str, ...]] = ("auto", *READERS)
    how_to_get: ClassVar[Mapping[str, str]] = DOWNLOAD

    def preset(self, name: str, preset: PresetName) -> Preset:
        """The paper's, in pixels as its latents are not shipped; or a network of 0.3 M weights, for a laptop."""
        if preset == "paper":
            return Preset({"crop": 64}, {"batch_size": 64}, epochs=50)  # pixels where the paper has 64 x 64 latents
        network = {"base": 16, "multipliers": [1, 2], "blocks": 1, "attention": [1], "width": 32, "norm": "pixel"}
        recipe = {"lr": 1e-3, "weight_decay": 0.0, "warmup_steps": 50}
        return Preset(
            {
                "network": network,
                "crop": 32,
                "process": {"steps": 8},
                "distillation": {"score_steps": 2},
                "optimizer": recipe,
                "discriminator_optimizer": {"lr": 2e-4, "weight_decay": 0.0},
                "ema": 0.99,
            },
            {"batch_size": 16},
            epochs=12,
        )

    def schedule(self, method: Method, data: TrainingData, epochs: int) -> Schedule:
        """`epochs` passes for the teacher, a third of them, at least one, for the student, whose steps cost more."""
        assert isinstance(method, TADSR)
        return method.stages(epochs, max(epochs // 3, 1))

    def strategies(self, method: Method) -> Sequence[Strategy]:
        """The average of the weights."""
        assert isinstance(method, TADSR)
        return (EMA(method.ema),)

    # --- data -------------------------------------------------------------------------------------------------
    def open_data(self, source: str, method: Method, options: DataOptions) -> TrainingData:
        """Crops of the training pictures; whole pictures to validate on."""
        model = restorer(method)
        pictures, found = _pictures(source, "train", model, options)
        held: list[Picture | Tensor] = []
        if options.validation and len(pictures) > 1:
            names = [str(i) for i in range(len(pictures))]
            share = (1 - options.validation, options.validation)
            rows, rest = split_by_group(names, share, seed=options.seed)
            held = [pictures[i] for i in rest]
            pictures = [pictures[i] for i in rows]
        degrade = partial(_degrade, model.degradation, model.scale)
        colours = model.space.colours
        crops = Crops(pictures, model.crop, model.scale, degrade, colours=colours, repeats=CROPS_OF_EACH)
        whole = Whole(held, model.scale, degrade, colours=colours, most=model.crop) if held else None
        return OpenedPictures(crops, whole, found)

    def open_test(self, source: str, method: Method, options: DataOptions) -> TestData:
        """The middle of every test picture, degraded as in training unless it has a partner."""
        model = restorer(method)
        pictures, found = _pictures(source, "test", model, options)
        degrade = partial(_degrade, model.degradation, model.scale)
        whole = Whole(pictures, model.scale, degrade, colours=model.space.colours, most=TEST_SIDE, seed=options.seed)
        return TestData(whole, found)

    # --- answers ----------------------------------------------------------------------------------------------
    def evaluate(self, method: Method, test: TestData, out: Path | None, using: Using) -> dict[str, Any]:
        """PSNR and SSIM of the result and of bicubic enlargement, and how they differ."""
        model = restorer(method)
        total: int = len(test.dataset)  # type: ignore[arg-type]
        count = min(using.max_steps or total, total)
        values: dict[str, list[float]] = {name: [] for name in ("psnr", "ssim", "psnr_bicubic", "ssim_bicubic")}
        names: list[str] = []
        shown: list[Tensor] = []
        for index in track(range(count), count, "evaluate"):
            sample: Degraded = test.dataset[index]
            small = sample.degraded[None].to(using.device)
            results = {"": model.restore(small), "_bicubic": model.enlarged(small).clamp(0, 1)}
            truth = sample.image[None].to(using.device)
            for suffix, result in results.items():
                for name, number in quality(result, truth, border=model.scale).items():
                    values[name + suffix].append(number)
            names.append(f"{index}: {sample.name}")
            if len(shown) < 6:
                shown.append(torch.cat([results["_bicubic"][0], results[""][0], truth[0]], dim=2).cpu())
        columns = {name: np.asarray(column) for name, column in values.items()}
        columns["psnr_gain"] = columns["psnr"] - columns["psnr_bicubic"]
        table = {name: mean_interval(column, names, seed=using.seed) for name, column in columns.items()}
        pictures = []
        if out is not None and using.pictures:
            for i, image in enumerate(shown):
                pictures.append(f"example-{i}.png")
                save_png(out / pictures[-1], image.expand(3, -1, -1))
        seen = "grey levels" if model.space.colours == 1 else "luma of BT.601"
        return {
            "metrics": {name: interval_json(interval) for name, interval in table.items()},
            "primary": "psnr",
            "items": [
                {"id": name, "group": name, "values": {key: float(column[i]) for key, column in columns.items()}}
                for i, name in enumerate(names)
            ],
            "pictures": pictures,
            "notes": [
                f"intervals: 95 % bootstrap over {count} pictures; {seen}, {model.scale} border pixels off",
                *([f"examples: bicubic, {model.name}, truth"] if pictures else []),
                *([f"{total - count} pictures were left out"] if count < total else []),
            ],
        }

    def predict(self, method: Method, inputs: Sequence[Any], out: Path | None, using: Using) -> Answers:
        """A row per picture: its size before and after; the result as a PNG file in `out`."""
        model = restorer(method)
        items = items_of(inputs)[: using.max_steps]
        return Answers(len(items), _rows(model, items, out if using.pictures else None), LIMITS)


def _rows(model: Restorer, items: list[Item], out: Path | None) -> Iterator[Row]:
    tiles: Tiles | None = None
    for number, ((item, image),) in enumerate(load_ahead(batches_of(items, 1), load_image)):
        if isinstance(image, str):
            yield Row(item.name, error=image)
            continue
        height, width = image.shape[-2:]
        name = None
        if out is not None:
            name = f"restored-{number:05d}-{Path(item.name).stem}.png"
            tiles = tiles or fitted_tiles(model)
            result = np.concatenate(list(strips(model, to_uint8(image), tiles)))
            save_png(out / name, torch.from_numpy(result).permute(2, 0, 1).float() / 255)
        size = {"height": height * model.scale, "width": width * model.scale}
        yield Row(item.name, {"from_height": height, "from_width": width, **size, "picture": name})


def quality(result: Tensor, truth: Tensor, border: int) -> dict[str, float]:
    """PSNR in dB and SSIM of luma (`mien.metrics.quality.luma`), the border left out; images (1, C, H, W) in [0, 1]."""
    a, b = (without_border(luma(x), border) for x in (result, truth))
    return {"psnr": float(psnr(a, b)), "ssim": float(ssim(a, b))}


def restorer(method: Method) -> Restorer:
    """The method, if it restores pictures."""
    if not isinstance(method, Restorer):
        raise BadInput(f"{method.name!r} is no Restorer: the restoration room works with those")
    return method


def _degrade(how: Degradation, scale: int, image: Tensor) -> Tensor:
    return how.apply(image, scale)


def _pictures(
    source: str, part: Part, model: Restorer, options: DataOptions
) -> tuple[list[Picture | Tensor], dict[str, Any]]:
    """Pictures and their manifest."""
    if source == EMBEDDED:
        about = f"embedded pictures, {part}: a photograph that ships with scikit-learn, and generated faces"
        return list(embedded(part)), {"groups": [f"embedded {part}"], "files": [], "description": about}
    kind = layout_of(Path(source)) if options.kind == "auto" else options.kind
    found = read(source, part, kind, model.scale)
    about = f"{len(found)} pictures in {Path(source).name}" + (f", {part}" if kind in HAS_PARTS else "")
    if any(picture.enlarged for picture in found):
        about += f", the camera's of each pair shrunk by {model.scale} from the size of the other"
    files = sorted(set(fingerprints([picture.path for picture in found])))
    return list(found), {"groups": [], "files": files, "description": about}


ROOM = Restoration()
