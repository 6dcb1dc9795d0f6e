# SPDX-License-Identifier: Apache-2.0
"""The errors that a user may meet. The command line prints them as one line; Python callers catch them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MienError(Exception):
    """Base of mien's own errors. The message is one line: what, which value, what is allowed or what to do."""


class BadInput(MienError, ValueError):  # noqa: N818 - it names what happened, not a kind of error
    """Something the caller gave cannot be used: exit code 2 on the command line."""


class MissingExtra(BadInput):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra '{extra}': pip install 'mien[{extra}]'")


class TrainingStopped(MienError):  # noqa: N818
    """Training cannot go on (a loss is not finite, ranks disagree, the disk is full). Old checkpoints are intact."""


def unknown_name(what: str, name: str, allowed: Iterable[str]) -> BadInput:
    """The error for a name that is not in a table, with the nearest name as a suggestion.

    >>> print(unknown_name("method", "acfm", ["acmf", "saat"]))
    unknown method 'acfm': did you mean 'acmf'? (2 are known)
    """
    names = sorted(allowed)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return BadInput(f"unknown {what} {name!r}: did you mean {near[0]!r}? ({len(names)} are known)")
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return BadInput(f"unknown {what} {name!r}: use one of {shown}")
