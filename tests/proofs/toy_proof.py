# SPDX-License-Identifier: Apache-2.0
"""A proof that takes no time: logistic noise around known means. Child processes import it by name."""

from __future__ import annotations

import os
import random
from pathlib import Path

from mien.proofs.base import Proof, Seed


def _noisy(mean: float, name: str):
    def measure(seed: Seed):
        limit = os.environ.get("TOY_PROOF_DIES_AT")
        if limit is not None and f"{name}/{seed.number}" == limit:
            os._exit(9)
        with Path(os.environ["TOY_PROOF_LOG"]).open("a") as log:
            log.write(f"{name}/{seed.number}\n")
        shared = seed.once("shared", lambda: random.Random(seed.number).gauss(0, 0.1))
        return {"score": mean + shared + random.Random(f"{name}{seed.number}").gauss(0, 0.01), "other": mean}

    return measure


PROOF = Proof(
    name="toy",
    claim="0.7 is more than 0.5.",
    variants={name: _noisy(mean, name) for name, mean in (("base", 0.5), ("ours", 0.7), ("chance", 0.5))},
    primary="ours",
    baseline="base",
    metric="score",
    data=lambda data, seed: None,
    about=lambda data: "no data",
    ablations={"chance over base": ("chance", "base")},
    controls={"chance": (0.3, 0.7)},
)
