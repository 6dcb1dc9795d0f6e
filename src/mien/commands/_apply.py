# SPDX-License-Identifier: Apache-2.0
"""Options that `evaluate` and `predict` share: which weights, how to run them."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from mien.commands._parser import COMPUTE_DEVICES, add_run_options, natural, positive

WEIGHTS = "a run folder, a saved folder, or a method that comes with weights (mien info NAME says whether)"


def add_apply_options(parser: argparse.ArgumentParser, *, out: str, device: str = COMPUTE_DEVICES) -> None:
    """How a trained method is run."""
    add_run_options(parser, out=out, device=device)
    parser.add_argument("--crop", default="auto", help="auto finds and aligns faces; none takes images as they are")
    parser.add_argument("--mode", help="the method's way of answering, where it has several")
    parser.add_argument("--target", metavar="NAME", help="which value is meant, where a method or data have several")
    parser.add_argument("--source", metavar="DIR", help="labelled training data, for a mode that adapts to the test")
    parser.add_argument("--precision", default="32", help="32, bf16 or fp16")
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="images per batch")
    parser.add_argument("--workers", type=natural, default=0, metavar="N", help="processes that load images")
    parser.add_argument("--dry-run", action="store_true", help="a couple of batches, then an estimate of the whole")


def apply_options(given: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments for `mien.evaluate` and `mien.predict`."""
    names = ("device", "precision", "crop", "mode", "target", "source", "batch_size", "workers", "max_steps", "seed")
    return {name: getattr(given, name) for name in names}


def say(notes: list[str] | tuple[str, ...]) -> None:
    """Notes for the reader, on stderr so that a table can be piped."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
