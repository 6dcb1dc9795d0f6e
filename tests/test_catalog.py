# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import sys
import warnings

import pytest

from mien import catalog
from mien._methods import ROWS
from mien.catalog import FAMILIES, VERBS, bibtex, find, list_methods, load_object, resolve, room
from mien.errors import BadInput
from mien.forensics.readers.sets import READERS
from toy_world import PLUGIN

# The design's page, written out by hand: fails when a method is lost, renamed or moved to another family.
EXPECTED = {
    "forensics": "hfc-mffd fedforgery mmnet fcan-dct gazeforensics acmf fairfd pfr-forgery",
    "privacy": "diff-privacy pro-face-s dbaf adv-diffusion",
    "faces": "ada-cm ke-fer transfa",
    "reid": "ncplr mult salcr hil made sketch-bio",
    "synthesis": "spmt matebit stya2k ds-font gpd cshnet catversion foodfusion meanflow-distill video-retalking",
    "restoration": "tad-sr dit-sr carl-dehaze weather-kr pfad",
    "robustness": "miat saat ancra dfm dlsr",
    "supervision": "mdit recon bi-scc",
    "adaptation": "loda mamba-cl stpr gcscoop",
    "architectures": "nar-former nar-former-v2",
}


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes an installed package whose entry point is the given code; gives back nothing."""

    def install(module: str, code: str, point: str) -> None:
        folder = tmp_path / module
        (folder / f"{module}-1.0.dist-info").mkdir(parents=True)
        (folder / f"{module}.py").write_text(code)
        (folder / f"{module}-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\n")
        points = f"[mien.methods]\n{module} = {point}\n"
        (folder / f"{module}-1.0.dist-info" / "entry_points.txt").write_text(points)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install


def test_the_fifty_methods_are_there_in_their_families():
    assert sum(len(names.split()) for names in EXPECTED.values()) == 50
    for family, names in EXPECTED.items():
        assert [entry.name for entry in list_methods(family)] == names.split()
    assert set(FAMILIES) == set(EXPECTED)
    assert len(list_methods()) == 50


def test_every_entry_is_complete():
    for entry in list_methods():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry.name)
        assert re.fullmatch(r"arXiv:\d{4}\.\d{5}", entry.paper), entry
        assert 2022 <= entry.year <= 2026
        # A paper cannot appear at a venue before its preprint was numbered.
        assert entry.year >= 2000 + int(entry.paper[6:8]) or entry.venue != "arXiv"
        assert len(entry.authors) >= 4
        assert all(author == author.strip() and author for author in entry.authors)
        assert entry.training in ("single", "stages", "tasks", "rounds", "none")
        assert entry.task
        assert "\n" not in entry.task
        assert "\t" not in entry.task
        assert len(entry.task) <= 110
        assert entry.module.split(":")[0] == f"mien.{entry.family}.{entry.name.replace('-', '_')}"
    papers = [entry.paper for entry in list_methods()]
    assert len(set(papers)) == 50


def test_available_means_that_it_can_be_imported():
    for entry in list_methods(available=True, baselines=True):
        cls = resolve(entry.name)
        assert cls.name == entry.name
        assert room(entry.name).family == entry.family


def test_rooms_say_how_to_get_data_that_do_not_exist(tmp_path):
    """Fails when a room says it of a kind that it does not have, or a published set that it reads is forgotten."""
    rooms = {entry.family: room(entry.name) for entry in list_methods(available=True)}
    for found in rooms.values():
        assert set(found.how_to_get) <= set(found.kinds)
        for kind in found.kinds:
            with pytest.raises(BadInput, match=r"absent does not exist: \w+") as error:
                found.check_source(tmp_path / "absent", kind)
            assert "\n" not in str(error.value)
            assert str(error.value).endswith(
                found.how_to_get.get(kind, "give a folder, or 'embedded' for generated samples")
            )
        found.check_source(tmp_path, "auto")
    published = {
        "reid": "market1501 dukemtmc-reid personx msmt17 veri776",
        "faces": "rafdb fer2013 ckplus affectnet",
        "restoration": "div2k realsr",
        "synthesis": "sen12",
        "forensics": " ".join(READERS),
        "robustness": "cifar",
        "supervision": "cifar",
        "adaptation": "cifar cub domainnet imagenet-r imagenet-a",
    }
    for family, kinds in published.items():
        assert set(kinds.split()) <= set(rooms[family].how_to_get), family


def test_baselines_are_counted_only_when_asked_for():
    names = [entry.name for entry in list_methods(available=True)]
    assert "acmf" in names
    assert "plain" not in names
    assert "plain" in [entry.name for entry in list_methods(available=True, baselines=True)]
    assert "plain" not in {entry.name for entry in list_methods()}
    assert find("plain").baseline
    assert find("plain").status == "baseline"
    assert find("acmf").status == "available"
    assert find("catversion").status == "planned"


@pytest.mark.parametrize(("name", "suggestion"), [("acfm", "acmf"), ("ACMF", "acmf"), ("nar-fomer", "nar-former")])
def test_an_unknown_name_suggests_the_nearest(name, suggestion):
    with pytest.raises(BadInput, match=f"did you mean '{suggestion}'"):
        find(name)


def test_an_unknown_family_suggests_the_nearest():
    with pytest.raises(BadInput, match="unknown family 'forensic': did you mean 'forensics'"):
        list_methods("forensic")


def test_a_planned_method_says_so_and_names_what_there_is(monkeypatch):
    with pytest.raises(BadInput, match=r"'dit-sr' is planned, not available yet: available are "):
        resolve("dit-sr")
    monkeypatch.setitem(FAMILIES, "synthesis", None)
    with pytest.raises(BadInput, match="family 'synthesis' of 'catversion' is planned"):
        room("catversion")


def test_bibtex_of_a_journal_a_conference_and_a_preprint():
    # Written by hand from the papers' pages.
    assert bibtex(find("acmf")) == (
        "@article{liu2024acmf,\n"
        "  title = {{Attention Consistency Refined Masked Frequency Forgery Representation for Generalizing Face "
        "Forgery Detection}},\n"
        "  author = {Decheng Liu and Tao Chen and Chunlei Peng and Nannan Wang and Ruimin Hu and Xinbo Gao},\n"
        "  year = {2024},\n"
        "  journal = {IEEE Transactions on Information Forensics and Security},\n"
        "  eprint = {2307.11438},\n"
        "  archivePrefix = {arXiv},\n"
        "}"
    )
    assert bibtex(find("stya2k")).startswith("@inproceedings{zhu2023stya2k,")
    assert "booktitle = {IEEE/CVF International Conference on Computer Vision}" in bibtex(find("stya2k"))
    assert bibtex(find("ncplr")).startswith("@misc{cheng2022ncplr,")
    assert "author = {De Cheng and Haichun Tai and Nannan Wang and others}" in bibtex(find("ncplr"))
    assert r"Scaling \& Enhancing" in bibtex(find("meanflow-distill"))


def test_bibtex_is_balanced_and_keys_are_unique():
    keys = set()
    for entry in list_methods():
        text = bibtex(entry)
        assert text.count("{") == text.count("}")
        keys.add(text.split("{")[1].split(",")[0])
    assert len(keys) == 50


def test_a_baseline_has_no_paper():
    with pytest.raises(BadInput, match="'plain' has no paper"):
        bibtex(find("plain"))


def test_every_verb_names_a_function():
    for verb in VERBS:
        assert callable(load_object(verb.run)), verb.name
        assert len(verb.help) < 80
    names = (
        "list, info, train, evaluate, predict, protect, reveal, restore, import, measure, compare, prove, audit, "
        "arena, demo, doctor"
    )
    assert ", ".join(verb.name for verb in VERBS) == names


def test_rows_are_data_only():
    assert all(isinstance(value, (str, int)) for rows in ROWS.values() for row in rows for value in row)


# --- methods of other packages ---------------------------------------------------------------------------------
def test_methods_of_other_packages_join(monkeypatch):
    monkeypatch.syspath_prepend(str(PLUGIN))
    assert find("toy-points").task.startswith("Point in the plane")
    assert list_methods("forensics")[-1].name == "toy-points"
    assert len(list_methods()) == 51
    assert resolve("toy-points").__name__ == "ToyPoints"
    assert type(room("toy-points")).__name__ == "ToyRoom"


def test_several_entries_from_one_entry_point(plugin):
    entry = "from dataclasses import replace\nfrom mien.catalog import find\n"
    entry += "A = (replace(find('acmf'), name='mine-a'), replace(find('acmf'), name='mine-b'))\n"
    plugin("twofold", entry, "twofold:A")
    assert [e.name for e in list_methods()][-2:] == ["mine-a", "mine-b"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('no\\nluck')", "RuntimeError: no luck"),
        ("ENTRY = 3", "TypeError: it must name a mien.catalog.Entry, found int"),
        ("import nothing_like_this", "ModuleNotFoundError"),
        ("from mien.catalog import find\nENTRY = find('acmf')", "ValueError: the name 'acmf' is taken"),
        (
            "from dataclasses import replace\nfrom mien.catalog import find\n"
            "ENTRY = replace(find('acmf'), name='mine', family='cooking')",
            "ValueError: family 'cooking'",
        ),
    ],
)
def test_a_broken_plugin_is_one_warning_and_the_others_stay(plugin, code, reason, monkeypatch):
    plugin("broken_one", code, "broken_one:ENTRY")
    monkeypatch.syspath_prepend(str(PLUGIN))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = [entry.name for entry in list_methods()]
    assert len(names) == 51
    assert names[-1] == "toy-points"
    texts = [str(w.message) for w in caught if issubclass(w.category, catalog.PluginWarning)]
    assert len(texts) == 1
    assert texts[0].startswith("plug-in 'broken_one' (broken_one:ENTRY) is left out: ")
    assert reason in texts[0]
    assert "\n" not in texts[0]


def test_a_broken_plugin_is_not_even_read_when_the_name_is_ours(plugin):
    plugin("broken_two", "raise RuntimeError", "broken_two:ENTRY")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find("acmf").name == "acmf"
