# SPDX-License-Identifier: Apache-2.0
"""Settings of the whole suite."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: two workers share two cores
os.environ["MKL_NUM_THREADS"] = "1"

HERE = Path(__file__).parent
for folder in (HERE, HERE / "engine"):  # toys.py and children.py are imported by child processes, too
    sys.path.insert(0, str(folder))
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE / "engine"), os.environ.get("PYTHONPATH", "")])
