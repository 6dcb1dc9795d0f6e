# SPDX-License-Identifier: Apache-2.0
"""The parser of the light verbs: argparse without abbreviations, one line per error, the nearest name suggested."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from mien.errors import BadInput


class Parser(argparse.ArgumentParser):
    """argparse whose errors are `BadInput`: `mien.cli` prints them as one line and exits with 2.

    In names of options dashes and underscores are the same: `--max_steps` is `--max-steps`.

    Args:
        verb: The word after `mien`.
        description: What the help says first.
    """

    def __init__(self, verb: str, description: str, **more: Any) -> None:
        super().__init__(
            prog=f"mien {verb}",
            description=description,
            allow_abbrev=False,
            formatter_class=_Help,
            **more,
        )

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The parsed arguments. Raises BadInput for anything that is not an option or value of this verb."""
        known, extra = self.parse_known_args(same_dashes(arguments, "-"))
        if extra:
            raise unknown_argument(self.prog, extra[0], self._option_string_actions)
        return known

    def error(self, message: str) -> NoReturn:
        """Called by argparse for a missing or wrong value."""
        raise BadInput(f"{message} (see {self.prog} --help)")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def unknown_argument(prog: str, argument: str, options: Iterable[str]) -> BadInput:
    """The error for an argument that the verb does not have.

    >>> print(unknown_argument("mien list", "--famly", ["--family"]))
    unknown option '--famly': did you mean '--family'? (see mien list --help)
    """
    if not argument.startswith("-"):
        return BadInput(f"unexpected argument {argument!r} (see {prog} --help)")
    name = argument.split("=", 1)[0]
    near = difflib.get_close_matches(name, list(options), n=1, cutoff=0.5)
    hint = f": did you mean {near[0]!r}?" if near else ""
    return BadInput(f"unknown option {name!r}{hint} (see {prog} --help)")


def same_dashes(arguments: Sequence[str], dash: str) -> list[str]:
    """The arguments with dashes and underscores inside the names of options written as `dash`; values stay.

    >>> same_dashes(["--max_steps", "a_b", "--out=a_b", "--", "--a_b"], "-")
    ['--max-steps', 'a_b', '--out=a_b', '--', '--a_b']
    """
    result: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return [*result, *arguments[position:]]
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            argument = "--" + name.replace("_", dash).replace("-", dash) + equals + value
        result.append(argument)
    return result


COMPUTE_DEVICES = "auto, cpu, cuda, cuda:N or mps"


def add_run_options(parser: argparse.ArgumentParser, *, out: str, device: str = COMPUTE_DEVICES) -> None:
    """The options that every verb which computes has. `out` says what is written there."""
    group = parser.add_argument_group("where and how to run")
    group.add_argument("--out", metavar="DIR", help=out)
    group.add_argument("--device", default="auto", help=device)
    group.add_argument("--threads", type=positive, metavar="N", help="CPU threads (as torch chooses)")
    group.add_argument("--seed", type=natural, default=0, help="whatever is drawn follows from it")
    group.add_argument("--max-steps", type=positive, metavar="N", help="at most so many batches")


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """An integer of at least 0, for argparse."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return value


def set_threads(count: int | None) -> None:
    """Let torch use so many threads."""
    if count is not None:
        import torch

        torch.set_num_threads(count)
