# SPDX-License-Identifier: Apache-2.0
"""docs/add-a-method.md is run as it stands: its files become an installed package, and its lines use it.

Of docs/guide.md the Python is run, and every option of its command lines is one that there is.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

import mien
from mien import catalog
from mien.cli import main
from mien.engine import Settings, fit
from mien.errors import BadInput

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PAGE = (ROOT / "docs" / "add-a-method.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python file=(\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
LINES = re.findall(r"```python run\n(.*?)```", PAGE, re.DOTALL)
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")


class Numbers(Dataset):
    seeded = False

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.tensor([float(index)])


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The page's files, installed with the entry point that the page shows."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    folder = tmp_path / "focal-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: focal\n")
    (point,) = re.findall(r'\[project\.entry-points\."mien\.methods"\]\n(\S+) = "(\S+)"', PAGE)
    (folder / "entry_points.txt").write_text(f"[mien.methods]\n{point[0]} = {point[1]}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def test_the_page_has_its_files():
    """Fails when a fence is renamed and the tests below would silently run nothing."""
    assert set(FILES) == {"focal.py", "two_players.py", "focal_entry.py"}
    assert len(LINES) == 1


def test_the_formula_of_the_example(package):
    """Fails when the example's loss is not the equation above it, computed by hand, or its doctest does not hold."""
    focal = importlib.import_module("focal")
    logits, label = torch.tensor([[0.3, -1.0], [2.0, 0.5]], dtype=torch.float64), torch.tensor([0, 1])
    chance = [math.exp(0.3) / (math.exp(0.3) + math.exp(-1.0)), math.exp(0.5) / (math.exp(2.0) + math.exp(0.5))]
    expected = sum(-((1 - p) ** 1.5) * math.log(p) for p in chance) / 2
    assert float(focal.focal_loss(logits, label, 1.5)) == pytest.approx(expected, rel=1e-12)
    found = doctest.testmod(focal)
    assert (found.attempted, found.failed) == (1, 0)


def test_the_method_trains_evaluates_and_is_listed(package, capsys):
    """Fails when a package that follows the page does not get a method that works."""
    assert catalog.find("focal").available
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(LINES[0], {})
    assert printed.getvalue().startswith("1.0 ['")
    capsys.readouterr()
    assert main(["list", "--available"]) == 0
    assert "focal\tavailable\tforensics\t" in capsys.readouterr().out
    with pytest.raises(BadInput, match="gamma is -1"):
        mien.create("focal", gamma=-1.0)


def test_the_command_line_knows_its_options(package, capsys):
    """Fails when the argument of the example's constructor does not become an option with its help."""
    with contextlib.suppress(SystemExit):
        main(["train", "focal", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--method.gamma" in text
    assert "0 is cross-entropy" in text


def test_two_optimisers_both_move(package):
    """Fails when one of the two Steps of the second example changes nothing."""
    torch.manual_seed(0)
    method = importlib.import_module("two_players").TwoPlayers()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    fit(method, Numbers(), settings=Settings(batch_size=4, device="cpu"))
    assert all(not torch.equal(value, before[name]) for name, value in method.state_dict().items())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    """Fails when a file that a page links to is renamed."""
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", ["architecture.md", "add-a-method.md"])
def test_paths_named_in_the_docs_exist(name):
    """Fails when a page names a module or file of the package that is not there; capitals are place-holders."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    paths = re.findall(r"`((?:src|tests|tools|docs)/[\w./-]+)`", text)
    assert paths
    for path in paths:
        assert re.search(r"[A-Z]{4}", path) or (ROOT / path).exists(), path
    for module in set(re.findall(r"`(mien(?:\.[A-Za-z_]\w*)+)`", text)):
        _resolve(module)


def _resolve(dotted):
    head, *rest = dotted.split(".")
    found = importlib.import_module(head)
    for part in rest:
        path = f"{found.__name__}.{part}" if hasattr(found, "__path__") else ""
        with contextlib.suppress(ImportError):
            if path:
                found = importlib.import_module(path)
                continue
        assert hasattr(found, part), dotted
        found = getattr(found, part)


def test_the_guide_names_every_layout_of_every_family():
    """Fails when a room reads a layout that the guide does not name, or the guide names one that it does not read."""
    rows = GUIDE.partition("<!-- layouts -->")[2].partition("<!-- /layouts -->")[0].strip().splitlines()[2:]
    told: dict[str, set[str]] = {}
    families: list[str] = []
    for row in rows:
        family, kinds = (re.findall(r"`([^`]+)`", cell) for cell in row.split("|")[1:3])
        families = family or families
        for name in families:
            told.setdefault(name, set()).update(kinds)
    known = {entry.family: set(catalog.room(entry.name).kinds) for entry in catalog.list_methods(available=True)}
    assert told == {family: kinds - {"auto", "embedded"} for family, kinds in known.items()}


def test_the_guide_names_verbs_that_there_are():
    verbs = set(re.findall(r"\bmien ([a-z]+) ", GUIDE)) - {"info", "list"}
    assert verbs <= {verb.name for verb in catalog.VERBS}, verbs
    assert {"train", "evaluate", "predict"} <= verbs


def test_the_python_of_the_guide_runs():
    (lines,) = re.findall(r"```python run\n(.*?)```", GUIDE, re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(lines, {})
    assert "square" in printed.getvalue()


def test_the_options_of_the_guides_commands_are_there(capsys):
    """Fails when an option of a command line in the guide is renamed, or a method has no such argument."""

    def options(text):
        return {word.replace("-", "_") for word in re.findall(r"--([a-z][\w.-]*)", text)}

    wanted: dict[tuple[str, ...], set[str]] = {}
    for line in re.findall(r"^mien (.+)", GUIDE.replace("\\\n", " "), re.MULTILINE):
        verb, method, *_ = line.split()
        parser = (verb, method) if verb == "train" else (verb,)
        wanted.setdefault(parser, set()).update(options(line.partition("#")[0]))
    assert {"saat", "loda", "cshnet", "ncplr", "fedforgery", "predict"} <= {parser[-1] for parser in wanted}
    for parser, named in wanted.items():
        with contextlib.suppress(SystemExit):
            main([*parser, "--help"])
        known = options(capsys.readouterr().out)
        assert named <= known, (parser, named - known)
