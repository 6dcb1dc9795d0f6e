# SPDX-License-Identifier: Apache-2.0
"""`mien train METHOD --data DIR`: options come from the method's own signature; `--resume RUN` continues a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mien.commands._parser import Parser, positive, same_dashes, set_threads
from mien.errors import BadInput

HELP = """usage: mien train METHOD --data DIR [options]
       mien train --config FILE
       mien train --resume RUN [--device D] [--threads N] [--monitor METRIC]

Train a method on a folder of yours, or on generated samples with --data embedded. The run folder holds the
configuration, metrics, checkpoints and weights.

  mien train METHOD --help           every option of a method with its default
  mien train METHOD --print_config   the same as a file for --config
"""


def run(arguments: list[str]) -> int:
    """Train, rehearse or resume."""
    words = same_dashes(arguments, "-")
    if any(word.split("=")[0] == "--resume" for word in words):
        return _resume(words)
    name, options, preset = _name_and_preset(arguments)
    if name is None:
        if not arguments or {"-h", "--help"} & set(arguments):
            print(HELP, end="")
            return 0 if arguments else 2
        raise BadInput("name the method: mien train METHOD --data DIR (mien list --available shows which there are)")
    values = _values(name, options, preset)
    if not values["data"]:
        raise BadInput("--data is missing: give a folder, or 'embedded' for generated samples")
    set_threads(values["threads"])
    return _train(name, values)


def _name_and_preset(arguments: Sequence[str]) -> tuple[str | None, list[str], str]:
    """The method's name, the arguments without it, and the preset: the parser is made from them."""
    options = list(arguments)
    name = options.pop(0) if options and not options[0].startswith("-") else None
    path = _peek(options, "--config")
    config: dict[str, Any] = {}
    if path is not None:
        from mien.commands._schema import read_config_file

        config = read_config_file(path)
    told = config.get("name")
    if name is not None and told is not None and told != name:
        raise BadInput(f"--config: {path} is for {told!r}, not for {name!r}")
    name = name if name is not None else told
    if name is not None and not isinstance(name, str):
        raise BadInput(f"--config: name is {name!r}: it must be the name of a method")
    preset = _peek(options, "--preset") or config.get("preset") or "paper"
    return name, options, str(preset)


def _peek(options: Sequence[str], option: str) -> str | None:
    """The last value of an option, before there is a parser."""
    value = None
    for position, word in enumerate(options):
        if word.startswith(option + "="):
            value = word.partition("=")[2]
        elif word == option and position + 1 < len(options):
            value = options[position + 1]
    return value


def _values(name: str, options: list[str], preset: str) -> dict[str, Any]:
    from mien.commands._schema import parse, training_parser
    from mien.job import preset_of

    return parse(training_parser(name, preset_of(name, preset), preset), options)


def _train(name: str, values: dict[str, Any]) -> int:
    from dataclasses import fields

    from mien.engine.settings import Settings
    from mien.job import next_run_folder, plan
    from mien.room import DataOptions

    settings = {field.name: values[field.name] for field in fields(Settings)}
    job = plan(
        name,
        values["data"],
        preset=values["preset"],
        config=values["method"],
        epochs=values["epochs"],
        options=DataOptions(values["kind"], values["crop"], values["validation"], values["seed"], values["strict"]),
        settings=settings,
        weights=values["weights"],
        threads=values["threads"],
    )
    if values["dry_run"]:
        from mien.rehearsal import rehearse

        print("\n".join(rehearse(job).lines()))
        return 0
    if values["out"] is None and job.settings.devices * job.settings.nodes > 1:
        raise BadInput("--out is missing: several processes must agree on the run folder")
    out = Path(values["out"]) if values["out"] is not None else next_run_folder(name)
    job.run(out)
    _say(out)
    return 0


def _resume(words: list[str]) -> int:
    from mien.engine.run import LAST
    from mien.job import read_job, resumed

    parser = Parser("train --resume", "Continue a run from its last checkpoint; method, data and settings are its own.")
    parser.add_argument("--resume", metavar="RUN", required=True, help="the run folder")
    parser.add_argument("--device", help="another device than the run began on")
    parser.add_argument("--threads", type=positive, metavar="N", help="other CPU threads than the run began with")
    parser.add_argument(
        "--monitor", metavar="METRIC", help="another metric to pick the best by than the run began with"
    )
    given, extra = parser.parse_known_args(words)
    if extra:
        raise BadInput(f"--resume takes method, data and settings from the run: leave out {extra[0]!r}")
    out = Path(given.resume)
    if not out.is_dir():
        raise BadInput(f"{out} does not exist: --resume wants a run folder")
    job = resumed(read_job(out), given.device, given.threads, given.monitor)
    set_threads(job.threads)
    if not (out / LAST).exists():
        print(f"{out} has no checkpoint yet: the run starts at its beginning")
    job.run(out, resume=True)
    _say(out)
    return 0


def _say(out: Path) -> None:
    from mien.cli import speaks

    if not speaks():
        return
    print(f"run folder: {out}")
    print(f"next: mien evaluate {out} --data DIR, or mien predict {out} FILES...")
