# SPDX-License-Identifier: Apache-2.0
"""How long a user waits for `mien --help`, `mien list` and `import mien`, warm, beside Python's own start.

python benchmarks/startup.py
"""

from __future__ import annotations

import subprocess
import sys

from _contract import measure, promise, publish

LIMIT_MS = 300.0
COMMANDS = {
    "python, nothing": ["-c", "pass"],
    "import mien": ["-c", "import mien"],
    "mien --help": ["-m", "mien", "--help"],
    "mien list": ["-m", "mien", "list"],
}
HEAVY = ("torch", "numpy", "rich", "jsonargparse", "PIL")


def start(arguments: list[str]) -> str:
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout


def loaded(arguments: list[str]) -> list[str]:
    """Heavy packages that a command imports."""
    verb = f"import sys; sys.argv = ['mien', *{arguments[2:]!r}]; import mien.cli as c; c.main()"
    body = "import mien" if arguments[0] == "-c" else verb
    code = f"try:\n    exec({body!r})\nexcept SystemExit:\n    pass\nimport sys\n"
    code += f"print('loaded:', *[name for name in {HEAVY!r} if name in sys.modules])"
    return start(["-c", code]).splitlines()[-1].split()[1:]


def main() -> None:
    assert start(COMMANDS["mien --help"]).startswith("usage: mien VERB")
    assert "acmf" in start(COMMANDS["mien list"])
    heavy = {name: loaded(arguments) for name, arguments in COMMANDS.items() if name != "python, nothing"}
    assert not any(heavy.values()), heavy
    contenders = {name: (lambda arguments=arguments: start(arguments)) for name, arguments in COMMANDS.items()}
    timing = measure(contenders, over="python, nothing", repeats=15, warm_up=2, memory=False)
    promises = [
        promise(f"{name}, ms warm", timing["contenders"][name]["wall_ms"]["median"], LIMIT_MS)
        for name in COMMANDS
        if name != "python, nothing"
    ]
    publish("startup", promises=promises, equal={"heavy packages imported": heavy}, timing=timing)


if __name__ == "__main__":
    main()
