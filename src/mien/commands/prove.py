# SPDX-License-Identifier: Apache-2.0
"""`mien prove NAME`: the experiment that tests a method's claim against its baseline."""

from __future__ import annotations

from pathlib import Path

from mien.catalog import PROOFS, find
from mien.commands._parser import Parser, positive
from mien.errors import BadInput


def run(arguments: list[str]) -> int:
    """Run the proof of a method, or continue it: seeds that are done are not repeated."""
    parser = Parser("prove", "Test a method's claim against its baseline: paired seeds, equal budgets, an interval.")
    parser.add_argument("name", metavar="NAME", help=f"a method that has a proof: {', '.join(PROOFS)}")
    parser.add_argument("--data", default="embedded", metavar="DIR", help="real data, or 'embedded'")
    parser.add_argument("--seeds", type=positive, metavar="N", help="paired seeds (default: the proof's own)")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="seeds at the same time")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="CPU threads of each seed")
    parser.add_argument("--max-steps", type=positive, metavar="N", help="a smaller budget, to try it out")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--out", default="results/proofs", metavar="DIR", help="NAME.json and NAME.png go here")
    given = parser.read(arguments)
    if given.name not in PROOFS:  # a second experiment of a method has a name of its own, which no method has
        entry = find(given.name)
        state = "is planned, not available yet" if not entry.available else "has no proof yet"
        raise BadInput(f"method {entry.name!r} {state}: there are proofs of {', '.join(PROOFS)}")
    if given.data != "embedded" and not Path(given.data).exists():
        raise BadInput(f"--data: {given.data} does not exist: give a folder, or 'embedded'")

    from mien.engine.ranks import choose_device
    from mien.proofs.runner import prove

    result, path = prove(
        PROOFS[given.name],
        data=given.data,
        seeds=given.seeds,
        jobs=given.jobs,
        threads=given.threads,
        max_steps=given.max_steps,
        device=str(choose_device(given.device)),
        out=Path(given.out),
    )
    low, high = result["interval"]
    print(f"claim: {result['claim']}")
    print(f"verdict: {result['verdict']}")
    print(
        f"difference in {result['metric']}: [{_signed(low)}, {_signed(high)}] over {len(result['seeds'])} paired seeds"
    )
    print(f"written: {path}")
    return 0


def _signed(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.3f}"
