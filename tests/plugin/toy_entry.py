# SPDX-License-Identifier: Apache-2.0
"""What a package of another author says of its method; read by `mien list`, hence light."""

from mien.catalog import Entry

ENTRY = Entry(
    name="toy-points",
    title="Which side of a line",
    authors=("Ada Toy",),
    year=2026,
    venue="arXiv",
    paper="arXiv:0000.00000",
    family="forensics",
    task="Point in the plane: probability of class 1",
    training="single",
    note="",
    module="toy_room:ToyPoints",
    available=True,
    room="toy_room:ROOM",
)
