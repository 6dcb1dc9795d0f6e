# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mien import cli
from mien.catalog import Verb
from mien.errors import BadInput, TrainingStopped

HEAVY = ("torch", "numpy", "rich", "jsonargparse", "yaml", "lightning_fabric", "matplotlib", "PIL", "sklearn", "scipy")


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)


def run_mien(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-m", "mien", *words], capture_output=True, text=True, env=env, check=False)


@pytest.fixture
def verb(monkeypatch):
    """Makes `mien try` run a function."""

    def install(function):
        monkeypatch.setattr(cli, "VERBS", (Verb("try", "", "x:y"),))
        monkeypatch.setattr(cli, "load_object", lambda address: function)

    return install


@pytest.mark.parametrize(
    "code",
    [
        "import mien, mien.catalog, mien.cli, mien.room; mien.list_methods()",
        "from mien.cli import main; main(['--help'])",
        "from mien.cli import main; main(['list'])",
        "from mien.cli import main; main(['info', 'acmf', '--bibtex'])",
        "from mien.cli import main; main(['predict', '--help'])",
        "from mien.cli import main; main(['train'])",
    ],
)
def test_light_words_import_nothing_heavy(code):
    result = run_python(f"{code}\nimport sys\nprint([m for m in {HEAVY} if m in sys.modules])")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"


def test_photographs_need_no_torchvision():
    """It would cost every command on photographs a second or more."""
    code = "import mien.api, mien.privacy.room, mien.data.faces, sys; print('torchvision' in sys.modules)"
    result = run_python(code)
    assert result.stdout.split() == ["False"], result.stderr


def test_help_lists_every_verb(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    verbs = "list info train evaluate predict protect reveal restore measure compare prove demo doctor"
    for name in verbs.split():
        assert f"\n  {name} " in out
    assert "130 interrupted" in out


def test_nothing_at_all_is_bad_input_with_help(capsys):
    assert cli.main([]) == 2
    assert "usage: mien VERB" in capsys.readouterr().out


def test_version(capsys):
    from mien import __version__

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"mien {__version__}\n"


def test_an_unknown_verb_suggests_the_nearest(capsys):
    assert cli.main(["evalaute"]) == 2
    assert capsys.readouterr().err == "mien: unknown verb 'evalaute': did you mean 'evaluate'? (16 are known)\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BadInput("data is 'x':\n  use a folder"), 2, "mien: data is 'x': use a folder"),
        (TrainingStopped("loss 'ce' is nan"), 2, "mien: loss 'ce' is nan"),
        (OSError(28, "No space left on device", "run/x"), 2, "mien: [Errno 28] No space left on device: 'run/x'"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 120000000000 bytes."),
            2,
            "mien: not enough memory for this: use smaller images or batches (DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 120000000000 bytes.)",
        ),
        (KeyboardInterrupt(), 130, "mien: interrupted"),
        (KeyboardInterrupt("interrupted: saved"), 130, "mien: interrupted: saved"),
        (KeyError("oops"), 1, "mien: unexpected KeyError: 'oops' (a fault in mien; MIEN_DEBUG=1 shows where)"),
        (SystemExit(0), 0, ""),
    ],
)
def test_every_error_is_one_line_and_a_code(verb, capsys, monkeypatch, error, code, line):
    monkeypatch.delenv("MIEN_DEBUG", raising=False)

    def fail(words):
        raise error

    verb(fail)
    assert cli.main(["try"]) == code
    assert capsys.readouterr().err.strip() == line


def test_debug_shows_the_traceback(verb, monkeypatch):
    monkeypatch.setenv("MIEN_DEBUG", "1")

    def fail(words):
        raise BadInput("seen")

    verb(fail)
    with pytest.raises(BadInput, match="seen"):
        cli.main(["try"])


def test_warnings_are_one_line(verb, capsys):
    import warnings

    def warn(words):
        warnings.warn("be\ncareful", UserWarning, stacklevel=1)
        return 0

    verb(warn)
    before = warnings.showwarning
    assert cli.main(["try"]) == 0
    assert capsys.readouterr().err == "mien: warning: be careful\n"
    assert warnings.showwarning is before


def test_list_in_a_pipe_whose_reader_has_gone():
    # Fails with a traceback, "Exception ignored" or another code when the broken pipe is not handled.
    code = f"{sys.executable} -m mien list | true; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert result.stdout.strip() == "0"


def test_subprocess_of_every_light_verb():
    listed = run_mien("list")
    assert listed.returncode == 0
    assert len(listed.stdout.splitlines()) >= 51
    assert run_mien("info", "acmf").returncode == 0
    wrong = run_mien("info", "acfm")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.count("\n") == 1
    assert run_mien("prove", "no-such-method").returncode == 2
    assert run_mien("demo", "--data", "no/such/folder").returncode == 2
    assert run_mien("compare", "a", "b").returncode == 2


def test_of_processes_that_train_together_the_first_says_that_it_was_interrupted(verb, capsys, monkeypatch):
    def fail(words):
        raise KeyboardInterrupt("interrupted: saved")

    verb(fail)
    for rank, said in (("1", ""), ("0", "mien: interrupted: saved\n")):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert cli.main(["try"]) == 130
        assert capsys.readouterr().err == said
