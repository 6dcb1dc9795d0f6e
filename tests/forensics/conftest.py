# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from mien.data.forge_pairs import PairedForgeries
from mien.forensics import data as frames
from mien.forensics.clips import stills


@pytest.fixture
def made_forgeries(monkeypatch):
    """The `PairedForgeries` that frames and clips make in a test, in their order."""
    made = []

    class Recorded(PairedForgeries):
        def __init__(self, *given, **options):
            super().__init__(*given, **options)
            made.append(self)

    for module in (frames, stills):
        monkeypatch.setattr(module, "PairedForgeries", Recorded)
    return made
