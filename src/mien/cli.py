# SPDX-License-Identifier: Apache-2.0
"""The command `mien`: finds the verb, runs it, and turns every error into one line and an exit code.

0 done, 1 some items failed (or a fault in mien), 2 bad input, 130 interrupted. With MIEN_DEBUG=1 in the environment an
error is a traceback. No room and nothing heavy is imported here.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mien._version import __version__
from mien.catalog import VERBS, load_object
from mien.errors import MienError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (those of the process by default) and give the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return _run(words)
        except SystemExit as stop:  # argparse after --help, jsonargparse after --print_config
            return stop.code if isinstance(stop.code, int) else DONE
        except KeyboardInterrupt as stop:
            return _say(str(stop) or "interrupted", INTERRUPTED) if speaks() else INTERRUPTED
        except BrokenPipeError:  # `mien list | head`: the reader has gone, and so may we
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return DONE
        except MienError as error:
            return _say(str(error), BAD_INPUT)
        except OSError as error:  # no right to read, a full disk: the system's own words name the file
            return _say(str(error), BAD_INPUT)
        except Exception as error:  # noqa: BLE001 - the last resort: people get a line, not a traceback
            if _is_out_of_memory(error):
                return _say(f"not enough memory for this: use smaller images or batches ({error})", BAD_INPUT)
            text = f"unexpected {type(error).__name__}: {error} (a fault in mien; MIEN_DEBUG=1 shows where)"
            return _say(text, FAILED)


def speaks() -> bool:
    """Whether this process says what all that train together would say: the first of them does."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory was asked for that there is not; torch's own class for it is of GPUs only."""
    return isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "allocate memory" in str(error)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return DONE if words else BAD_INPUT
    if words[0] in ("-V", "--version"):
        print(f"mien {__version__}")
        return DONE
    verbs = {verb.name: verb for verb in VERBS}
    if words[0] not in verbs:
        raise unknown_name("verb", words[0], verbs)
    run: Callable[[list[str]], int] = load_object(verbs[words[0]].run)
    return run(words[1:])


def usage() -> str:
    """What `mien --help` prints."""
    width = max(len(verb.name) for verb in VERBS)
    lines = [
        "usage: mien VERB ...",
        "",
        "Published methods for images of people and the models behind them: train, compare, combine and use them.",
        "",
        *(f"  {verb.name:<{width}}  {verb.help}" for verb in VERBS),
        "",
        "mien VERB --help      the options of a verb",
        "mien --version        the version",
        "",
        "Exit codes: 0 done, 1 some items failed, 2 bad input, 130 interrupted.",
    ]
    return "\n".join(lines)


def _say(text: str, code: int) -> int:
    """Print an error as one line and give the exit code; with MIEN_DEBUG=1 raise the error being handled again."""
    if os.environ.get("MIEN_DEBUG") == "1" and code != INTERRUPTED:
        raise
    print(f"mien: {' '.join(text.split())}", file=sys.stderr)
    return code


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"mien: warning: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
