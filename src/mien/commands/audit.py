# SPDX-License-Identifier: Apache-2.0
"""`mien audit WEIGHTS --data DIR --group-by race`: does a detector treat groups of people alike?"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from mien.commands._apply import say
from mien.commands._parser import Parser, add_run_options, natural, positive, set_threads

PRUNINGS = ("bpfa", "weight", "activation", "random")


def run(arguments: list[str]) -> int:
    """Audit, print the figures, and write the page."""
    parser = Parser("audit", "Fairness of a detector: accuracy by group and kind of forgery, and twelve figures of it.")
    parser.add_argument(
        "weights", metavar="WEIGHTS", help="a run folder, a saved folder, an .onnx file, or MesoNet's .h5 weights"
    )
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="faces with a labels.csv, a FairFD folder, or 'embedded'"
    )
    parser.add_argument("--group-by", metavar="COLUMN", help="what makes the groups (default: race, or the only one)")
    parser.add_argument("--kind", default="auto", help="layout of the data")
    parser.add_argument("--crop", default="none", help="none takes images as they are; auto finds and aligns faces")
    parser.add_argument(
        "--per-group", type=positive, default=200, metavar="N", help="faces of a group that forgeries are made from"
    )
    parser.add_argument("--threshold", type=float, default=0.5, metavar="X", help="score from which on it says forged")
    parser.add_argument("--small", type=natural, default=30, metavar="N", help="cells with fewer images are flagged")
    parser.add_argument(
        "--allow-same-names", action="store_true", help="persons who are called as in training are different ones"
    )
    parser.add_argument("--batch-size", type=positive, default=64, metavar="N", help="images per batch")
    parser.add_argument("--workers", type=natural, default=0, metavar="N", help="processes that load images")
    add_run_options(parser, out="audit.json and report.html (default: WEIGHTS/audit, or NAME-audit beside a file)")
    _foreign_options(parser)
    _pruning_options(parser)
    given = parser.read(arguments)
    set_threads(given.threads)

    from mien.forensics.audit.run import audit

    out = Path(given.out) if given.out is not None else default_out(given.weights)
    names = (
        "group_by kind crop per_group threshold small allow_same_names batch_size workers device max_steps seed "
        "image_size forged_output output_values pixels output rho pruning calibration"
    )
    options: dict[str, Any] = {name: getattr(given, name) for name in names.split()}
    result = audit(given.weights, given.data, out, prune_to=given.prune, **options)
    print("\n".join(summary(result)))
    say(result["notes"])
    if given.prune is not None:
        print(f"written: {given.prune}")
    print(f"written: {out / 'report.html'}")
    return 0


def _foreign_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("an ONNX file")
    group.add_argument("--image-size", type=positive, metavar="N", help="side of its input, where that is open")
    group.add_argument(
        "--forged-output",
        default="auto",
        metavar="WHICH",
        help="a class, not:CLASS; of one output high or low",
    )
    group.add_argument("--output-values", default="auto", help="logits or probabilities (auto: as the graph ends)")
    group.add_argument("--pixels", default="unit", help="unit [0, 1], symmetric [-1, 1], bytes [0, 255] or imagenet")
    group.add_argument("--output", metavar="NAME", help="which output, where it has several (the first)")


def _pruning_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pruning by fair activations")
    group.add_argument("--prune", metavar="DIR", help="save a pruned detector here, and report before and after")
    group.add_argument("--rho", type=float, default=0.001, metavar="X", help="share of each convolution's weights")
    group.add_argument("--pruning", choices=PRUNINGS, default="bpfa", help="which weights go")
    group.add_argument(
        "--calibration", type=float, default=0.3, metavar="X", help="share of the persons kept apart to calibrate on"
    )


def default_out(weights: str) -> Path:
    """Where the report goes: into the run's folder, or beside a file.

    >>> default_out("models/net.onnx").as_posix()
    'models/net-audit'
    """
    path = Path(weights)
    if path.is_dir():
        return path / "audit"
    name = re.sub(r"\W+", "-", path.stem).strip("-") or "weights"
    return path.parent / f"{name}-audit"


def summary(result: dict[str, Any]) -> list[str]:
    """What the terminal shows: the matrix, the figures, the flags."""
    width = max(len(name) for name in (*result["kinds"], "kind"))
    columns = [max(len(name), 5) for name in result["groups"]]
    head = " ".join(f"{name:>{w}}" for name, w in zip(result["groups"], columns, strict=True))
    lines = [f"accuracy by {result['group_by']}", f"{'kind':<{width}} {head}"]
    for kind, row in zip(result["kinds"], result["matrix"], strict=True):
        cells = " ".join(f"{value:>{w}.3f}" for value, w in zip(row, columns, strict=True))
        flag = "  below one half" if kind in result["weak_rows"] else ""
        lines.append(f"{kind:<{width}} {cells}{flag}")
    lines += ["", *figures(result["fairness"]), ""]
    lines += [f"{name:<14} {_interval(result[key])}" for name, key in _BESIDE]
    if "pruned" in result:
        done = result["pruned"]
        lines += ["", f"pruned: {sum(done['zeroed'].values())} weights, {done['pruning']}, rho {done['rho']:g}"]
        lines += [*figures(done["fairness"])]
        lines += [f"{name:<14} {_interval(done[key])}" for name, key in _BESIDE]
    return lines


FORMS = ("DPD", "DEOdds", "DEO", "STD")


def figures(fairness: dict[str, Any]) -> list[str]:
    """The twelve figures as lines: naive, AA and UR side by side."""
    lines = [f"{'':<8} {'naive':<23} {'AA':<23} UR"]
    for form in FORMS:
        cells = [_interval(fairness[prefix + form]) for prefix in ("", "AA", "UR")]
        lines.append(f"{form:<8} {cells[0]:<23} {cells[1]:<23} {cells[2]}")
    return lines


_BESIDE = (("AUC", "auc"), ("accuracy", "accuracy"), ("mean accuracy", "mean_accuracy"))


def _interval(metric: dict[str, Any]) -> str:
    from mien.commands.evaluate import interval

    return interval(metric)
