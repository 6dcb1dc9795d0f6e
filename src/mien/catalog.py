# SPDX-License-Identifier: Apache-2.0
"""The one table: which methods there are, where they live, which room serves a family, which verbs the command has.

Plain data and small functions; torch and everything else that is heavy is imported when a method is used.

Methods of other installed packages join through the entry point group `mien.methods`. Each entry point names an
`Entry` (or a tuple of them) in a module that imports nothing heavy:

    [project.entry-points."mien.methods"]
    my-method = "my_package.mien_entry:ENTRY"
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mien._entry import Entry
from mien._methods import BASELINES, METHODS, ROWS
from mien.errors import BadInput, unknown_name

if TYPE_CHECKING:
    from mien.engine.method import Method
    from mien.room import Room

__all__ = [
    "ARENAS",
    "FAMILIES",
    "IMPORTS",
    "PROOFS",
    "VERBS",
    "Entry",
    "Verb",
    "bibtex",
    "find",
    "list_methods",
    "load_object",
    "resolve",
    "room",
    "shipped",
]

SHIPPED = Path(__file__).parent / "pretrained"
"""Saved folders that come with mien, one for each method that has them; tools/shipped_weights.py makes them."""

FAMILIES: dict[str, str | None] = {
    **dict.fromkeys(ROWS),
    "forensics": "mien.forensics.room:ROOM",
    "privacy": "mien.privacy.room:ROOM",
    "supervision": "mien.supervision.room:ROOM",
    "faces": "mien.faces.room:ROOM",
    "architectures": "mien.architectures.room:ROOM",
    "robustness": "mien.robustness.room:ROOM",
    "adaptation": "mien.adaptation.room:ROOM",
    "reid": "mien.reid.room:ROOM",
    "restoration": "mien.restoration.room:ROOM",
    "synthesis": "mien.synthesis.room:ROOM",
}
"""Family -> the object that serves it, or None while all of its methods are planned."""


PROOFS: dict[str, str] = {
    "acmf": "mien.proofs.acmf:PROOF",
    "ada-cm": "mien.proofs.ada_cm:PROOF",
    "fcan-dct": "mien.proofs.fcan_dct:PROOF",
    "fairfd": "mien.proofs.fairfd:PROOF",
    "fedforgery": "mien.proofs.fedforgery:PROOF",
    "cshnet": "mien.proofs.cshnet:PROOF",
    "cshnet-edges": "mien.proofs.cshnet:EDGES",
    "gazeforensics": "mien.proofs.gazeforensics:PROOF",
    "hfc-mffd": "mien.proofs.hfc_mffd:PROOF",
    "loda": "mien.proofs.loda:PROOF",
    "mdit": "mien.proofs.mdit:PROOF",
    "mmnet": "mien.proofs.mmnet:PROOF",
    "nar-former": "mien.proofs.nar_former:PROOF",
    "nar-former-networks": "mien.proofs.nar_former_networks:PROOF",
    "ncplr": "mien.proofs.ncplr:PROOF",
    "pfr-forgery": "mien.proofs.pfr_forgery:PROOF",
    "pro-face-s": "mien.proofs.pro_face_s:PROOF",
    "saat": "mien.proofs.saat:PROOF",
    "tad-sr": "mien.proofs.tad_sr:PROOF",
}
"""Method, or a further experiment of one -> the table of its experiment, run by `mien.proofs.runner`."""

ARENAS: dict[str, str] = {"forensics": "mien.forensics.arena.run:hold"}
"""Family -> the function that sets all of its methods against each other, for `mien arena`."""

IMPORTS: dict[str, str] = {"mesonet": "mien.forensics.mesonet:import_weights"}
"""Method -> the function that makes a saved folder of a weights file its authors published, for `mien import`."""


class Verb(NamedTuple):
    """A word after `mien`.

    Args:
        name: The word.
        help: One line.
        run: "module:function"; the function takes the arguments after the word and gives the exit code.
    """

    name: str
    help: str
    run: str


VERBS: tuple[Verb, ...] = (
    Verb("list", "the methods, one per line", "mien.commands.catalog:run_list"),
    Verb("info", "one method: paper, task, options; --bibtex to cite it", "mien.commands.catalog:run_info"),
    Verb("train", "train a method on a folder, or on generated samples", "mien.commands.train:run"),
    Verb(
        "evaluate", "numbers with intervals on labelled data that the model has not seen", "mien.commands.evaluate:run"
    ),
    Verb("predict", "answers for files and folders", "mien.commands.predict:run"),
    Verb("protect", "hide faces in a photograph, for the holder of a key to reveal", "mien.commands.protect:run"),
    Verb("reveal", "give a protected photograph back", "mien.commands.reveal:run"),
    Verb("restore", "enlarge and restore a photograph of any size", "mien.commands.restore:run"),
    Verb("import", "weights that others published, as a saved folder", "mien.commands.bring:run"),
    Verb("measure", "time networks on this machine, for predictors to learn from", "mien.commands.measure:run"),
    Verb("compare", "the paired difference between two evaluated runs", "mien.commands.compare:run"),
    Verb("prove", "the experiment that tests a method's claim against its baseline", "mien.commands.prove:run"),
    Verb("audit", "fairness of a detector: accuracy by group of people, twelve figures", "mien.commands.audit:run"),
    Verb("arena", "all methods of a family under one protocol, on one page", "mien.commands.arena:run"),
    Verb("demo", "train, evaluate and write a report, in minutes", "mien.commands.demo:run"),
    Verb("doctor", "versions, devices, threads, usable extras", "mien.commands.doctor:run"),
)


class PluginWarning(UserWarning):
    """A package that registers methods cannot be used; the others can."""


def list_methods(family: str | None = None, available: bool | None = None, *, baselines: bool = False) -> list[Entry]:
    """The methods, in the catalog's order, those of other packages last.

    Args:
        family: Only this family.
        available: True for those that can be used now, False for the planned ones, None for both.
        baselines: Also the plain baselines.

    >>> [entry.name for entry in list_methods(family="architectures")]
    ['nar-former', 'nar-former-v2']
    """
    if family is not None and family not in FAMILIES:
        raise unknown_name("family", family, FAMILIES)
    rows = [*METHODS, *(BASELINES if baselines else ()), *_plugins()]
    return [row for row in rows if family in (None, row.family) and available in (None, row.available)]


def find(name: str) -> Entry:
    """The entry of a method or baseline. Raises BadInput with the nearest name when there is none.

    >>> find("acmf").family
    'forensics'
    """
    own = {entry.name: entry for entry in (*METHODS, *BASELINES)}
    if name in own:
        return own[name]
    all_names = own | {entry.name: entry for entry in _plugins()}
    if name in all_names:
        return all_names[name]
    raise unknown_name("method", name.lower() if name.lower() in all_names else name, all_names)


def resolve(name: str) -> type[Method]:
    """The class of an available method; imports its module. Raises BadInput for an unknown or planned one."""
    entry = find(name)
    if not entry.available:
        usable = ", ".join(e.name for e in list_methods(available=True, baselines=True))
        raise BadInput(f"method {name!r} is planned, not available yet: available are {usable}")
    found: type[Method] = load_object(entry.module)
    return found


def shipped(name: str) -> Path | None:
    """The saved folder with the weights that come with mien for a method; None where none do."""
    folders = {path.name: path for path in SHIPPED.iterdir()} if SHIPPED.is_dir() else {}
    return folders.get(name)


def room(name: str) -> Room:
    """The object that serves the method `name`: its family's room, or its own."""
    entry = find(name)
    address = entry.room or FAMILIES.get(entry.family)
    if address is None:
        raise BadInput(f"the family {entry.family!r} of {name!r} is planned, not available yet")
    found: Room = load_object(address)
    return found


def load_object(address: str) -> Any:
    """The object at "package.module:name". Only ever called with addresses from tables, never with a user's text."""
    module, _, name = address.partition(":")
    return getattr(import_module(module), name)


def bibtex(entry: Entry) -> str:
    """The paper as a BibTeX entry."""
    if not entry.title or not entry.authors:
        raise BadInput(f"{entry.name!r} has no paper to cite: it is a baseline")
    kind, where = _bibtex_kind(entry.venue)
    scheme, _, number = entry.paper.partition(":")
    fields = {
        "title": "{" + entry.title.replace("&", r"\&") + "}",
        "author": " and ".join(entry.authors),
        "year": str(entry.year),
        where: entry.venue.replace("&", r"\&"),
        "doi": number if scheme == "doi" else "",
        "eprint": number if scheme == "arXiv" else "",
        "archivePrefix": "arXiv" if scheme == "arXiv" else "",
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if name and value]
    key = entry.authors[0].split()[-1].lower() + str(entry.year) + entry.name.replace("-", "")
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def _bibtex_kind(venue: str) -> tuple[str, str]:
    if venue == "arXiv":
        return "misc", ""
    if venue.startswith(("IEEE Transactions", "International Journal")):
        return "article", "journal"
    return "inproceedings", "booktitle"


def _plugins() -> Iterator[Entry]:
    """Entries of other installed packages. What cannot be read is skipped with one warning."""
    from importlib.metadata import entry_points  # here: it takes longer than the rest of this file

    taken = {entry.name for entry in (*METHODS, *BASELINES)}
    for point in entry_points(group="mien.methods"):
        try:
            loaded = point.load()
            entries = loaded if isinstance(loaded, tuple) else (loaded,)
            for entry in entries:
                _check_plugin(entry, taken)
        except Exception as error:  # noqa: BLE001 - another package's code may fail in any way; it must not stop ours
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            warnings.warn(f"plug-in {point.name!r} ({point.value}) is left out: {reason}", PluginWarning, stacklevel=2)
            continue
        taken |= {entry.name for entry in entries}
        yield from entries


def _check_plugin(entry: Any, taken: set[str]) -> None:
    if not isinstance(entry, Entry):
        raise TypeError(f"it must name a mien.catalog.Entry, found {type(entry).__name__}")
    if entry.name in taken:
        raise ValueError(f"the name {entry.name!r} is taken")
    if entry.family not in FAMILIES:
        raise ValueError(f"family {entry.family!r} is not one of {', '.join(FAMILIES)}")
