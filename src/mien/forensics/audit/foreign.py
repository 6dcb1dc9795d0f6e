# SPDX-License-Identifier: Apache-2.0
"""Classifiers from elsewhere as detectors: a torch module, or an ONNX file run by onnxruntime.

Nothing is known about them but what goes in and what comes out, so three things are said by whoever brings them: which
output means forged, whether outputs are logits or probabilities, and how pixels are scaled.

    forged   1, 0, 2 ...   outputs (B, C): the number of the class "forged"; softmax of logits
             not:0         outputs (B, C): one class is real, all others are kinds of forgery
             high, low     one output (B,) or (B, 1): a high (low) value means forged; sigmoid of logits
             auto          class 1 of several outputs, high of one

Pixels are RGB. `scale` says what the network expects: "unit" [0, 1], "symmetric" [-1, 1], "bytes" [0, 255], or
"imagenet", [0, 1] with ImageNet's mean and deviation taken out.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from mien.errors import BadInput, MissingExtra
from mien.forensics.data import Faces, Verdict
from mien.forensics.detector import Detector

Scale = Literal["unit", "symmetric", "bytes", "imagenet"]
Values = Literal["auto", "logits", "probabilities"]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MAX_FILE = 2 * 2**30
_TOLERANCE = 1e-3
HANDFUL = 8
"""Images whose outputs must all sum to 1 before they are taken for probabilities. Ours: where logits are a few units
large, those of one image in some thousands do."""


@dataclass(frozen=True)
class Reading:
    """How a foreign classifier is fed and understood.

    Args:
        forged: Which output means forged; see the module's text.
        values: Whether outputs are "logits" or "probabilities". "auto" reads an ONNX graph, whose last operation tells;
            of a torch module it takes logits.
        scale: What the network expects of pixels.
    """

    forged: str = "auto"
    values: Values = "auto"
    scale: Scale = "unit"

    def __post_init__(self) -> None:
        number = self.forged.removeprefix("not:")
        if self.forged not in ("auto", "high", "low") and not (number.isascii() and number.isdigit()):
            raise BadInput(f"forged output is {self.forged!r}: use auto, high, low, a class number, or not:NUMBER")
        if self.values not in get_args(Values):
            raise BadInput(f"output values is {self.values!r}: use {', '.join(get_args(Values))}")
        if self.scale not in get_args(Scale):
            raise BadInput(f"pixel scale is {self.scale!r}: use {', '.join(get_args(Scale))}")

    def scaled(self, image: Tensor) -> Tensor:
        """Pixels (..., 3, H, W) in [0, 1] as the network expects them."""
        if self.scale == "imagenet":
            mean, std = (image.new_tensor(part)[:, None, None] for part in IMAGENET)
            return (image - mean) / std
        return {"unit": image, "symmetric": 2 * image - 1, "bytes": 255 * image}[self.scale]

    def score(self, output: Tensor, count: int) -> Tensor:
        """Probability of forged, (B,), from outputs (B, C), (B, 1) or (B,).

        Args:
            output: What the network gives; for one image also (C,) or (), where it squeezes them.
            count: B.

        Raises:
            BadInput: The outputs have another shape, or are not what `values` or `forged` says.
        """
        output = by_image(output, count).float()
        several = output.ndim == 2 and output.shape[1] != 1
        return self._of_several(output) if several else self._of_one(output.flatten())

    def _of_one(self, output: Tensor) -> Tensor:
        if self.forged not in ("auto", "high", "low"):
            raise BadInput(f"forged output is {self.forged!r}: the network has one output, use high or low")
        if self.values == "probabilities":
            _require_unit(output)
        else:
            output = output.sigmoid()
        return 1 - output if self.forged == "low" else output

    def _of_several(self, output: Tensor) -> Tensor:
        if self.forged in ("high", "low"):
            raise BadInput(f"forged output is {self.forged!r}: the network has {output.shape[1]} outputs, give a class")
        number = 1 if self.forged == "auto" else int(self.forged.removeprefix("not:"))
        if number >= output.shape[1]:
            raise BadInput(f"forged output is {self.forged!r}: the network has outputs 0 to {output.shape[1] - 1}")
        if self.values == "probabilities":
            _require_unit(output)
        else:
            output = output.softmax(1)
        return 1 - output[:, number] if self.forged.startswith("not:") else output[:, number]


def _require_unit(output: Tensor) -> None:
    if len(output) and not bool(((output >= -_TOLERANCE) & (output <= 1 + _TOLERANCE)).all()):
        low, high = float(output.min()), float(output.max())
        raise BadInput(f"output values is 'probabilities', but they lie in [{low:.3g}, {high:.3g}]: use logits")


def by_image(output: Tensor, count: int) -> Tensor:
    """Outputs as (B, C) or (B,), B = `count`; a network that squeezes them loses that axis of a batch of one.

    Raises:
        BadInput: They have another shape.
    """
    if count == 1 and (output.ndim == 0 or (output.ndim == 1 and len(output) > 1)):
        output = output[None]
    if output.ndim not in (1, 2) or len(output) != count:
        raise BadInput(
            f"the network gives {tuple(output.shape)} for {count} images: outputs of (B, classes) or (B,) are needed"
        )
    return output


class ForeignDetector(Detector):
    """What all classifiers from elsewhere share.

    Args:
        image_size: Height and width in pixels of its input.
        reading: How it is fed and understood.
    """

    def __init__(self, *, image_size: int, reading: Reading) -> None:
        super().__init__(image_size=image_size)
        self.reading = reading
        self._summing: int | None = 0
        """Outputs so far, while each of them sums to 1; None once one does not: they are logits then, for good."""

    def verdict(self, output: Tensor, count: int) -> Verdict:
        """The answer for a batch of `count` images.

        Raises:
            BadInput: See `Reading.score`; or what should be logits are probabilities.
        """
        output = by_image(output, count)
        score = self.reading.score(output, count)
        if output.ndim == 2 and output.shape[1] > 1 and self.reading.values != "probabilities":
            self._refuse_probabilities(output.float())
        return Verdict(score.clamp(0, 1))

    def _refuse_probabilities(self, output: Tensor) -> None:
        """One image's logits may sum to 1 by chance, those of `HANDFUL` do not, in however many batches they come."""
        if self._summing is None:
            return
        sums_to_one = bool(((output.sum(1) - 1).abs() < _TOLERANCE).all() and (output >= 0).all())
        self._summing = self._summing + len(output) if sums_to_one else None
        if self._summing is not None and self._summing >= HANDFUL:
            raise BadInput("the network's outputs sum to 1, so they are probabilities: say so (output values)")


class ModuleDetector(ForeignDetector):
    """A torch module as a detector, for reports; it is not trained.

    Args:
        module: (B, 3, H, W) -> outputs. It is copied.
        image_size: Height and width in pixels of its input.
        reading: How it is fed and understood.
    """

    name = "torch-module"

    def __init__(self, module: nn.Module, *, image_size: int, reading: Reading = Reading()) -> None:
        super().__init__(image_size=image_size, reading=reading)
        self.module = copy.deepcopy(module)

    def predict(self, batch: Faces) -> Verdict:
        """A score for every image."""
        output = self.module(self.reading.scaled(batch.image))
        if not isinstance(output, Tensor):
            raise BadInput(f"the module gives a {type(output).__name__}: one tensor of outputs is needed")
        return self.verdict(output, len(batch.image))

    def config(self) -> dict[str, Any]:
        """The size alone: a module of the caller's own has no plain description."""
        return {"image_size": self.image_size}


class OnnxDetector(ForeignDetector):
    """An ONNX file as a detector, run by onnxruntime on the CPU.

    Args:
        file: The .onnx file, with one input of images: (B, 3, H, W) or (B, H, W, 3), of any float type or uint8.
        image_size: Height and width, where the graph leaves them open; None reads them from the graph.
        reading: How it is fed and understood.
        output: Name of the output that is read; None for the first.
        threads: CPU threads; None leaves the choice to onnxruntime.

    Raises:
        BadInput: The file cannot be read, or its input is no square image.
        MissingExtra: onnxruntime is not installed.
    """

    name = "onnx-file"

    def __init__(
        self,
        file: str | Path,
        *,
        image_size: int | None = None,
        reading: Reading = Reading(),
        output: str | None = None,
        threads: int | None = None,
    ) -> None:
        session = _session(Path(file), threads)
        inputs, names = session.get_inputs(), [each.name for each in session.get_outputs()]
        if len(inputs) != 1:
            raise BadInput(f"{file} has {len(inputs)} inputs: a classifier of images has one")
        if output is not None and output not in names:
            raise BadInput(f"{file} has no output {output!r}: it has {', '.join(names)}")
        channels_last, fixed, batch = _input_of(inputs[0].shape, str(file))
        if fixed is None and image_size is None:
            raise BadInput(f"{file} leaves the size of its input open: give the image size")
        if fixed is not None and image_size not in (None, fixed):
            raise BadInput(f"image size is {image_size}: the input of {file} is fixed to {fixed} pixels")
        if reading.values == "auto":
            values: Values = "probabilities" if _ends_in_probabilities(Path(file), output or names[0]) else "logits"
            reading = Reading(reading.forged, values, reading.scale)
        super().__init__(image_size=fixed or image_size or 0, reading=reading)
        self.file = Path(file)
        self._session, self._input, self._output = session, inputs[0], output or names[0]
        self._channels_last, self._batch, self._type = channels_last, batch, _numpy_type(inputs[0].type, str(file))

    def predict(self, batch: Faces) -> Verdict:
        """A score for every image."""
        image = self.reading.scaled(batch.image.float().cpu())
        if self._type == np.uint8:
            image = image.round().clamp(0, 255)
        array = image.permute(0, 2, 3, 1).numpy() if self._channels_last else image.numpy()
        array = np.ascontiguousarray(array.astype(self._type))
        step = self._batch or max(len(array), 1)
        outputs = []
        for start in range(0, len(array), step):
            part = array[start : start + step]
            filled = np.concatenate([part, np.repeat(part[-1:], step - len(part), axis=0)]) if self._batch else part
            outputs.append(by_image(self._run(filled), len(filled))[: len(part)])
        return self.verdict(torch.cat(outputs), len(array)) if outputs else Verdict(torch.zeros(0))

    def _run(self, array: Any) -> Tensor:
        try:
            (found,) = self._session.run([self._output], {self._input.name: array})
        except Exception as error:  # as when a graph says that its batch is open, but holds a fixed one
            raise BadInput(f"{self.file} cannot be run on {array.shape} ({_reason(error)})") from error
        return torch.from_numpy(np.asarray(found, dtype=np.float32))

    def config(self) -> dict[str, Any]:
        """The file's name and the size."""
        return {"file": self.file.name, "image_size": self.image_size}


def as_detector(module: nn.Module, image_size: int | None, reading: Reading) -> Detector:
    """A module as a detector. Raises BadInput without an image size, which a module does not tell."""
    if isinstance(module, Detector):
        return module
    if image_size is None:
        raise BadInput("a torch module does not say which images it takes: give image_size")
    return ModuleDetector(module, image_size=image_size, reading=reading)


def prunable(detector: Detector) -> nn.Module:
    """The module whose convolutions count as the detector's. Raises BadInput for an ONNX file."""
    if isinstance(detector, OnnxDetector):
        raise BadInput("an ONNX file cannot be pruned: give the network as a torch module or a trained detector")
    return detector.module if isinstance(detector, ModuleDetector) else detector


def _session(file: Path, threads: int | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("an ONNX file", "export") from error
    if not file.is_file():
        raise BadInput(f"{file} does not exist")
    if file.stat().st_size > MAX_FILE:
        raise BadInput(f"{file}: {file.stat().st_size:,} bytes, at most {MAX_FILE:,} are allowed")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors come as exceptions, too
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for every way to be broken
        raise BadInput(f"{file} cannot be run as an ONNX network ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def _input_of(shape: list[Any], file: str) -> tuple[bool, int | None, int | None]:
    """Whether channels come last, the side in pixels or None, the fixed size of a batch or None."""
    sizes = [value if isinstance(value, int) and value > 0 else None for value in shape]
    if len(sizes) == 4 and 3 in (sizes[1], sizes[3]):
        channels_last = sizes[1] != 3
        height, width = (sizes[1], sizes[2]) if channels_last else (sizes[2], sizes[3])
        if height == width or None in (height, width):
            return channels_last, height or width, sizes[0]
    raise BadInput(f"the input of {file} has shape {shape}: square images (B, 3, H, W) or (B, H, W, 3) are needed")


def _numpy_type(name: str, file: str) -> Any:
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
    types["tensor(uint8)"] = np.uint8  # type: ignore[assignment]
    if name not in types:
        raise BadInput(f"the input of {file} is {name}: use one of {', '.join(types)}")
    return types[name]


def _ends_in_probabilities(file: Path, output: str) -> bool:
    """Whether the operation that makes the output is a softmax or a sigmoid; reshaping ones are looked through."""
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("telling logits from probabilities in an ONNX file", "export") from error
    makers = {name: node for node in onnx.load(str(file), load_external_data=False).graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast"):
        node = makers.get(node.input[0])
    return node is not None and node.op_type in ("Softmax", "Sigmoid", "HardSigmoid")
