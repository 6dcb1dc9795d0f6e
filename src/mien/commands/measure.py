# SPDX-License-Identifier: Apache-2.0
"""`mien measure`: a set of networks with their latency on this machine, for predictors to learn from."""

from __future__ import annotations

import sys
from pathlib import Path

from mien.commands._parser import Parser, natural, positive

SIZE = "--method.frequencies 4 --method.static log --method.dropout 0 --batch-size 16 --epochs 60"
"""A size of NAR-Former that learns some hundred networks in minutes on a CPU."""


def run(arguments: list[str]) -> int:
    """Measure, or go on measuring; 1 when some networks could not be timed, which are listed at the end."""
    parser = Parser("measure", "Time networks of ten families on this machine: what `mien train nar-former` learns.")
    parser.add_argument("--out", required=True, metavar="DIR", help="measured.json and networks/NAME.json go here")
    parser.add_argument("--count", type=positive, default=300, metavar="N", help="how many networks")
    parser.add_argument("--families", metavar="A,B", help="only these families (all ten)")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="CPU threads of the runtime")
    parser.add_argument("--provider", default="CPUExecutionProvider", help="execution provider of onnxruntime")
    parser.add_argument("--seed", type=natural, default=0, help="the networks follow from it")
    parser.add_argument("--dry-run", action="store_true", help="time one network of each family, and estimate the rest")
    given = parser.read(arguments)

    from mien.architectures.measuring import FAMILIES, Plan, measure, rehearse, summary

    families = tuple(FAMILIES) if given.families is None else tuple(given.families.split(","))
    plan = Plan(given.seed, given.threads, given.provider, families)
    if given.dry_run:
        print("\n".join(rehearse(plan, given.count)))
        return 0
    out = Path(given.out)
    failed = measure(out, given.count, plan)
    print("\n".join(summary(out)))
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    print(f"written: {out}")
    print(f"next: mien train nar-former --data {out} --preset small {SIZE}")
    return 1 if failed else 0
