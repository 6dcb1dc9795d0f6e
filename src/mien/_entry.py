# SPDX-License-Identifier: Apache-2.0
"""One row of the catalog. Plain data: nothing is imported that costs time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal[
    "forensics",
    "privacy",
    "faces",
    "reid",
    "synthesis",
    "restoration",
    "robustness",
    "supervision",
    "adaptation",
    "architectures",
]

Training = Literal["single", "stages", "tasks", "rounds", "none"]


@dataclass(frozen=True)
class Entry:
    """A method: what it is called, where its paper is, what it does and where it lives.

    Args:
        name: Name on the command line and in `mien.create`.
        title: Title of the paper.
        authors: In the paper's order; "others" at the end where only the first ones are certain.
        year: Of the venue, or of the preprint where there is no venue.
        venue: Journal or conference, or "arXiv".
        paper: "arXiv:..." or "doi:...".
        family: The room it belongs to.
        task: One line: what goes in, what comes out.
        training: The engine's schedule: "single" (one phase), "stages", "tasks" (one after the other), "rounds"
            (federated), or "none" (it works on networks that are trained already).
        note: What else is special about its training, or "".
        module: "package.module:Class" of an available method, "package.module" where a planned one will live.
        available: Whether it can be used now.
        baseline: Whether it is a plain reference to compare with, not one of the published methods.
        room: "package.module:ROOM" of what serves it, for a method of another package with data of its own kind; ""
            for the family's room.
    """

    name: str
    title: str
    authors: tuple[str, ...]
    year: int
    venue: str
    paper: str
    family: Family
    task: str
    training: Training
    note: str
    module: str
    available: bool = False
    baseline: bool = False
    room: str = ""

    @property
    def status(self) -> str:
        """What `mien list` says of it: "baseline", "available" or "planned"."""
        return "baseline" if self.baseline else "available" if self.available else "planned"
