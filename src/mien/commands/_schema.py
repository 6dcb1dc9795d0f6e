# SPDX-License-Identifier: Apache-2.0
"""The options of `mien train`, made from the signatures of the method and of the settings, and their errors in words.

Only values are accepted, never import paths: jsonargparse would otherwise import `os.system` for an argument that may
be a callable.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from jsonargparse import ActionConfigFile, ArgumentParser, set_parsing_settings

from mien import catalog
from mien.commands._parser import same_dashes, unknown_argument
from mien.engine.settings import Settings
from mien.errors import BadInput
from mien.room import Preset

PROG = "mien train"


def training_parser(name: str, preset: Preset, preset_name: str) -> ArgumentParser:
    """The parser for training the method `name`, with a preset's values as defaults."""
    cls = catalog.resolve(name)
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=sorted(_import_path(kind) for kind in _option_classes(cls)) or None,
        instantiate_subclass_spec_in_any=False,
    )
    parser = ArgumentParser(prog=f"{PROG} {name}", allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML or JSON file with any of these options")
    parser.add_argument("--name", type=str, default=name, help="the method, in a file for --config")
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=str, help="a folder or file, or 'embedded' for generated samples")
    data.add_argument("--kind", type=str, default="auto", help=", ".join(catalog.room(name).kinds))
    data.add_argument("--crop", type=str, default="auto", help="auto finds and aligns faces; none takes images as is")
    data.add_argument("--validation", type=float, default=0.1, help="share of persons or videos to validate on")
    data.add_argument("--strict", action="store_true", help="refuse data whose classes differ in framing alone")
    run = parser.add_argument_group("run")
    run.add_argument("--preset", type=str, default=preset_name, help="paper or small: what the defaults here are")
    run.add_argument("--epochs", type=int, default=preset.epochs, help="passes over the data")
    run.add_argument("--out", type=str | None, default=None, help="run folder (default: runs/NAME-001, -002, ...)")
    run.add_argument("--weights", type=str | None, default=None, help="run or saved folder, or a name, to start from")
    run.add_argument("--threads", type=int | None, default=None, help="CPU threads (default: as torch chooses)")
    run.add_argument("--dry_run", action="store_true", help="two batches, then an estimate of time and memory")
    parser.add_class_arguments(Settings, None)
    parser.add_class_arguments(cls, "method", fail_untyped=False)
    parser.set_defaults(dict(_defaults(parser, "", {**preset.settings, "method": preset.config})))
    return parser


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> dict[str, Any]:
    """The options as plain values. Raises BadInput, in one line, for whatever jsonargparse cannot take."""
    try:
        values = dict(parser.parse_args(same_dashes(arguments, "_")).as_dict())
    except Exception as error:
        raise BadInput(explain(parser, str(error) or type(error).__name__)) from error
    _check_values(parser, "", values)
    return values


def _check_values(parser: ArgumentParser, prefix: str, values: Mapping[str, Any]) -> None:
    """Refuse what jsonargparse lets through.

    That is a null where the option has a value by default, a plain value where a group of options belongs, anything at
    all for a switch, and a number that is none.
    """
    dests = {action.dest for action in parser._actions}
    for name, value in values.items():
        key = prefix + name
        group = any(dest.startswith(f"{key}.") for dest in dests)
        if group and isinstance(value, Mapping):
            _check_values(parser, f"{key}.", value)
            continue
        if not group and key not in dests:
            raise BadInput(f"unknown key {key!r} in the configuration")
        default = None if group else parser.get_default(key)
        if value is None and (group or default is not None):
            raise BadInput(f"{key} is null: leave it out or give a value")
        if group:
            raise BadInput(f"{key} is {value!r}: it must be a mapping of options")
        if isinstance(default, bool) and not isinstance(value, bool):
            raise BadInput(f"{key} is {value!r}: it must be true or false")
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise BadInput(f"{key} is {value}: it must be a finite number")


def _defaults(parser: ArgumentParser, prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted key -> value for the parser; a dict goes down as far as the parser has keys of its own."""
    known = {action.dest for action in parser._actions}
    for name, value in values.items():
        key = prefix + name
        if isinstance(value, Mapping) and any(dest.startswith(key + ".") for dest in known):
            yield from _defaults(parser, key + ".", value)
        elif key in known:
            yield key, value
        else:
            raise BadInput(f"the preset sets {key!r}, which is not an option")


def _option_classes(cls: type) -> set[type]:
    """The dataclasses in a constructor's signature: options such as the network, not things to import."""
    hints = get_type_hints(cls if is_dataclass(cls) else cls.__init__)  # type: ignore[misc]
    hints = {name: hint for name, hint in hints.items() if name in inspect.signature(cls).parameters}
    found: set[type] = set()
    for hint in hints.values():
        for kind in (hint, *get_args(hint)):
            if isinstance(kind, type) and is_dataclass(kind):
                found |= {kind} | _option_classes(kind)
    return found


def _import_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


# --- errors in words ------------------------------------------------------------------------------------------
def explain(parser: ArgumentParser, message: str) -> str:
    """The message of jsonargparse as one line: the option, the value seen, what is allowed or the nearest name."""
    options = [text for action in parser._actions for text in action.option_strings]
    if found := re.match(r"unrecognized arguments: (\S+)", message):
        return str(unknown_argument(parser.prog, found[1], options))
    if found := re.match(r"Group '(.+)' does not accept option '(.+)'", message):
        return _unknown_key(f"{found[1]}.{found[2]}", options)
    if found := re.match(r"Option '(.+)' is not accepted", message):
        return _unknown_key(found[1], options)
    if found := re.match(r'Parser key "config": File does not exist: (.+)', message):
        return f"--config: {found[1].strip(chr(39))} does not exist"
    if "is not allowed, denied by" in message and not message.startswith("Parser key"):
        return "import paths are not accepted here, only names and values"
    if message.startswith("Problems parsing config"):
        return f"--config: not YAML or JSON: {_flat(message.partition(':')[2])}"
    if found := re.match(r'Parser key "([^"]+)":\s*(.*)', message, re.DOTALL):
        return f"{found[1]}{_value_error(found[2])}"
    return f"{_flat(message)} (see {parser.prog} --help)"


def _value_error(text: str) -> str:
    value = re.search(r"(?:Got value|Given value): (.*)$", text, re.DOTALL)
    seen = f" is {_flat(value[1])!r}" if value else ""
    if "is not allowed, denied by" in text:
        return f"{seen}: import paths are not accepted here, only names and values"
    if subtypes := re.search(r"Subtypes: \[(.*)\]", text):
        return f"{seen}: it must be {' or '.join(_words(kind) for kind in subtypes[1].split(', '))}"
    if expected := re.match(r"Expected an? (.*?)\. Got value", text, re.DOTALL):
        return f"{seen}: it must be {_words(expected[1])}"
    return f": {_flat(text)}"


def _words(kind: str) -> str:
    """A type as jsonargparse prints it, in words: "<class 'float'>" is "float"."""
    kind = re.sub(r"<class '([^']+)'>", lambda found: found[1].rpartition(".")[2], kind)
    kind = re.sub(r"^typing\.Literal\[(.*)\]$", r"one of \1", kind)
    return kind.replace("typing.", "").replace("NoneType", "null")


def _unknown_key(key: str, options: Iterable[str]) -> str:
    keys = [option.removeprefix("--") for option in options if option.startswith("--")]
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    return f"unknown key {key!r} in the configuration" + (f": did you mean {near[0]!r}?" if near else "")


def _flat(text: str) -> str:
    return " ".join(text.split())


def read_config_file(path: str) -> dict[str, Any]:
    """A YAML or JSON file as a dict; only to learn the method's name and preset before the parser exists."""
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--config: {path} cannot be read: {_flat(str(error))}") from error
    except yaml.YAMLError as error:
        raise BadInput(f"--config: {path} is not YAML or JSON: {_flat(str(error))}") from error
    if not isinstance(values, dict):
        raise BadInput(f"--config: {path} holds no options: it must be a mapping such as 'epochs: 3'")
    return values
