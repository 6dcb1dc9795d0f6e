# SPDX-License-Identifier: Apache-2.0
"""What a family of methods offers to the command line and to `mien.train`, `mien.evaluate`, `mien.predict`.

A family writes one object, `ROOM`, of a class derived from `Room`, and one row in `mien.catalog.FAMILIES` names it. The
general code (the verbs, the Python functions, resume, the check for test data seen in training, tables of answers) is
written once against this page and knows nothing about faces, forgeries or persons.

Nothing heavy is imported here: a family imports what it needs in its own file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mien.errors import BadInput, unknown_name

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from mien.engine.method import Method
    from mien.engine.schedule import Schedule
    from mien.engine.sources import TrainingData
    from mien.engine.strategy import Strategy

PresetName = Literal["paper", "small"]
Cropping = Literal["auto", "none"]


@dataclass(frozen=True)
class DataOptions:
    """How a folder (or `embedded`) is read. All of it is plain JSON, so that a run can be resumed from its record.

    Args:
        kind: Layout of the data, one of the room's `kinds`; "auto" looks at the folder and says what it found.
        crop: "auto" finds and aligns faces in photographs; "none" takes every image as it is.
        validation: Share of the groups (persons, videos) kept for validation, in [0, 1).
        seed: Splits and whatever else is drawn once follow from it.
        strict: Refuse data whose classes can be told apart by framing or compression alone.
    """

    kind: str = "auto"
    crop: Cropping = "auto"
    validation: float = 0.1
    seed: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        if self.crop not in ("auto", "none"):
            raise BadInput(f"crop is {self.crop!r}: use auto or none")
        if not 0 <= self.validation < 1:
            raise BadInput(f"validation is {self.validation}: it must lie in [0, 1)")


@dataclass(frozen=True)
class Using:
    """How a trained method is applied. The general code has moved the method to `device` and entered autocast already.

    Args:
        batch_size: Samples (or, for methods that predict by group, the most samples of a group) per call.
        workers: Processes that load data.
        device: Where batches go: "cpu", "cuda", "cuda:1", "mps". Never "auto": that is resolved before.
        mode: Name of the method's way of answering; None for its default. A mode that the method does not know, or
            that needs a `source` and has none, is refused with one line that names the modes that work.
        target: Name of the value that is meant, where a method or the data have several (a device's latency); None for
            the method's own.
        source: Labelled training data that a mode with test-time adaptation needs (a folder or "embedded"), or None.
        features: File of the weights of Inception, for rooms that compute a Fréchet distance with it; None for features
            that need no file.
        crop: As in `DataOptions`.
        every: Of a video file, every so manieth frame is answered for, by methods that take single images.
        pictures: Whether pictures (curves, evidence maps) are written, where there is an output folder.
        max_steps: At most so many batches (groups, for methods that predict by group); None for all. What is left out
            is said in the notes.
        seed: Whatever is drawn follows from it.
    """

    batch_size: int = 32
    workers: int = 0
    device: str = "cpu"
    mode: str | None = None
    target: str | None = None
    source: str | None = None
    features: str | None = None
    crop: Cropping = "auto"
    every: int = 5
    pictures: bool = True
    max_steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("workers", 0), ("every", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise BadInput(f"{name} is {getattr(self, name)}: it must be at least {least}")
        if self.max_steps is not None and self.max_steps < 1:
            raise BadInput(f"max_steps is {self.max_steps}: it must be at least 1")


@dataclass(frozen=True)
class Preset:
    """A named size of a method: the paper's, or one for a laptop without a GPU.

    Args:
        config: Arguments of the method's constructor that differ from its defaults, as plain JSON (a dict for a
            dataclass such as the network: {"network": {"name": "tiny"}}).
        settings: Fields of `mien.engine.Settings` that differ from the defaults: {"batch_size": 30}.
        epochs: Passes over the data when the user names none.
    """

    config: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    epochs: int = 1


@dataclass(frozen=True)
class TestData:
    """Test data and what is needed to tell whether a model has seen them.

    Args:
        dataset: Samples of the family's type, in a fixed order, without augmentation.
        manifest: As `TrainingData.manifest`: {"groups": sorted names, "files": sorted SHA-256 in hex,
            "description": one line that says which data these are}.
    """

    __test__: ClassVar[bool] = False  # not a test, whatever pytest thinks of the name

    dataset: Dataset[Any]
    manifest: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of a table of answers.

    Args:
        path: The file or folder that the answer is about, as the user named it (folders: joined with the name inside).
        values: Column name -> plain value (str, float, int, bool, None). The columns are the same in all rows.
        error: Why there is no answer (one line), or None. A row with an error has empty `values`.
    """

    path: str
    values: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Answers:
    """What `Room.predict` gives: rows that are computed as they are asked for, batch by batch. Iterate over it once.

    Args:
        total: Number of rows to come, for the progress bar.
        rows: The rows in the order of the inputs. Memory must not grow with their number.
        notes: Lines that every reader of the answers must see: that a score is not evidence, what the model cannot
            do. The general code puts the line in front that says what the model was trained on.
    """

    total: int
    rows: Iterator[Row]
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Row]:
        return self.rows

    def __len__(self) -> int:
        return self.total


class Room:
    """Base of a family's `ROOM`. Rooms hold no state: the functions below get all that they need.

    Bad input raises `mien.errors.BadInput` with one line.
    """

    family: ClassVar[str] = ""
    """The family's name, as in the catalog."""

    kinds: ClassVar[tuple[str, ...]] = ("auto",)
    """Values of `DataOptions.kind` that `open_data` and `open_test` know."""

    how_to_get: ClassVar[Mapping[str, str]] = {}
    """Kind -> what to download, and how it must lie: what is said where there are no data."""

    takes_features: ClassVar[bool] = False
    """Whether `evaluate` knows what to do with `Using.features`."""

    # --- training ---------------------------------------------------------------------------------------------
    def preset(self, name: str, preset: PresetName) -> Preset:
        """The preset of the method `name`; called before the method exists. "paper" is the default of `mien train`."""
        return Preset()

    def data_config(self, name: str, source: str, options: DataOptions) -> dict[str, Any]:
        """Arguments of the constructor that follow from the data, such as the names of the classes.

        Called before the method exists, with arguments as for `open_data`. They take the place of arguments that are
        None; what the user or a preset says stays.
        """
        return {}

    def schedule(self, method: Method, data: TrainingData, epochs: int) -> Schedule:
        """In which phases the method is trained when the user asks for `epochs`. The default is one phase.

        Args:
            method: The method that will be trained.
            data: Its training data: what `open_data` gave, or what a Python caller gave. Tasks and clients are there.
            epochs: What the user asked for: passes over the data, or what stands in their place (federated rounds).
        """
        from mien.engine.schedule import Single

        return Single(epochs)

    def strategies(self, method: Method) -> Sequence[Strategy]:
        """Strategies that belong to how `method` is trained, such as an average of its weights; by default none."""
        return ()

    def open_data(self, source: str, method: Method, options: DataOptions) -> TrainingData:
        """Training data for `method`.

        Args:
            source: A folder or file of the user's, or "embedded" for generated samples. It may not exist.
            method: The method that will be trained; tells the image size and whether clips are wanted.
            options: How to read it. `options.kind` has been checked against `kinds`.

        Returns:
            Training and validation data without common groups, and their manifest.
        """
        raise BadInput(f"the family {self.family!r} cannot be trained from the command line yet")

    # --- testing ----------------------------------------------------------------------------------------------
    def open_test(self, source: str, method: Method, options: DataOptions) -> TestData:
        """Labelled test data: everything in `source`, or for "embedded" the persons that are never trained on."""
        raise BadInput(f"the family {self.family!r} cannot be evaluated from the command line yet")

    def evaluate(self, method: Method, test: TestData, out: Path | None, using: Using) -> dict[str, Any]:
        """Numbers with intervals, and pictures.

        The general code calls this after it has made sure that the model has not seen the data, adds what was run
        (weights, data, versions, date) and writes the result as `out/evaluation.json`. A bar is the room's to show:
        `mien.progress.track`.

        Args:
            method: In eval mode, on `using.device`.
            test: What `open_test` gave, or a user's own data set with an empty manifest.
            out: An existing folder for pictures, or None: nothing is written.
            using: How to run.

        Returns:
            Plain JSON without NaN: {
                "metrics": {name: {"value": float, "low": float | None, "high": float | None}},  # 95 % by group
                "primary": name of the metric to print first and to compare runs by,
                "items": [{"id": str, "group": str, "label": int, "score": float}, ...],  # one per scored unit, or
                         [{"id": str, "group": str, "values": {metric: float}}, ...] where metrics are means of these
                "lower_is_better": [names of such metrics], where there are any
                "pictures": [file names in `out`],
                "notes": [lines for the reader: skipped files, confounded kinds, what an interval runs over]
            }
        """
        raise BadInput(f"the family {self.family!r} cannot be evaluated from the command line yet")

    def predict(self, method: Method, inputs: Sequence[Any], out: Path | None, using: Using) -> Answers:
        """Answers for files, folders and folders of frames (or, from Python, images and tensors).

        A broken file gives a row with `error`, and the others go on. Only input of which nothing can be used at all
        (a path that does not exist, an empty folder) raises `BadInput`, before the first row.

        Args:
            method: In eval mode, on `using.device`.
            inputs: Paths as str or Path, or images: PIL, uint8 arrays (H, W, 3), tensors (3, H, W) in [0, 1].
            out: An existing folder for evidence pictures, or None: nothing is written.
            using: How to run.
        """
        raise BadInput(f"the family {self.family!r} cannot predict from the command line yet")

    # --- the five-minute tour ---------------------------------------------------------------------------------
    def demo(self, data: str, out: Path, *, seed: int = 0, device: str = "cpu", max_steps: int | None = None) -> Demo:
        """Train small, test on what was not seen, and write a self-contained HTML report into `out`."""
        raise BadInput(f"the family {self.family!r} has no demo yet")

    def targets(self, method: Method) -> Sequence[str]:
        """Names of the values that a method predicts where it predicts several: `--device` may name one of them."""
        return ()

    def check_input(self, given: str | Path) -> None:
        """Raise `BadInput` for what `predict` cannot even look for: here, a path that does not exist.

        A family whose inputs may be words of another kind (an architecture written out) says so here.
        """
        if not Path(given).exists():
            raise BadInput(f"{given} does not exist")

    # --- help for the verbs -----------------------------------------------------------------------------------
    def check_kind(self, kind: str) -> None:
        """Raise `BadInput` with the nearest name when `kind` is not one of the room's."""
        if kind not in self.kinds:
            raise unknown_name("kind of data", kind, self.kinds)

    def check_source(self, source: str | Path, kind: str) -> None:
        """Raise `BadInput` for data that do not exist; says how to get those of this kind."""
        if not Path(source).exists():
            how = self.how_to_get.get(kind, "give a folder, or 'embedded' for generated samples")
            raise BadInput(f"{source} does not exist: {how}")


@dataclass(frozen=True)
class Demo:
    """What a demo hands back.

    Args:
        report: The HTML file.
        lines: What to print, in order: the figures with their intervals.
        figures: The same as plain JSON.
    """

    report: Path
    lines: tuple[str, ...] = ()
    figures: dict[str, Any] = field(default_factory=dict)
