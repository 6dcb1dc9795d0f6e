# SPDX-License-Identifier: Apache-2.0
"""A Flower server or client in a process of its own: `flower_process.py server|client ADDRESS OUT [NUMBER [ROUND]]`.

A client that is given a round dies in it. Whoever opens a URL is recorded: that would be telemetry.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.utils.data import Dataset

from mien.engine import PerTask, Phase, Rounds, Settings
from mien.federated.plan import Federated
from mien.forensics.data import Faces
from mien.forensics.fedforgery import FedForgery
from mien.nn.network import Network
from mien.optim.recipe import Recipe

SCHEDULE = Rounds(2, clients=2, epochs=1)
SETTINGS = Settings(batch_size=8, device="cpu")


class Noise(Dataset):
    seeded = False

    def __init__(self, client, size=24):
        generator = torch.Generator().manual_seed(client)
        self.image = torch.rand(size, 3, 16, 16, generator=generator)

    def __len__(self):
        return len(self.image)

    def __getitem__(self, i):
        return Faces(self.image[i], i % 2, f"p{i}", "real" if i % 2 == 0 else "noise")


def make(norms="statistics"):
    torch.manual_seed(0)
    return FedForgery(
        network=Network("tiny_cnn"),
        optimizer=Recipe("sgd", lr=0.05, momentum=0.5, weight_decay=0.0),
        image_size=16,
        width=8,
        codes=8,
        federated=Federated(norms=norms),
    )


def data():
    return PerTask([Noise(0), Noise(1, 40)])


def main(role, address, out, number=None, dies_in=None):
    from mien.federated.flower import join, serve

    torch.set_num_threads(1)
    opened, method = [], make()
    urllib.request.urlopen = lambda request, *_, **__: opened.append(str(request))
    if role == "server":
        history = serve(method, SCHEDULE, address=address, wait=120.0)
        found = {"history": [asdict(outcome) for outcome in history]}
    else:
        client = int(number)

        def begin(phase, _):
            if phase.round == (None if dies_in is None else int(dies_in)):
                os._exit(9)

        method.begin_phase = begin
        own = data().train(Phase(client=client))
        rounds = join(method, own, client=client, settings=SETTINGS, held=Noise(7), address=address, wait=120.0)
        found = {"rounds": rounds}
    out = Path(out)
    save_file({k: v.contiguous() for k, v in method.state_dict().items()}, out.with_suffix(".safetensors"))
    out.write_text(json.dumps({**found, "opened": opened}))


if __name__ == "__main__":
    main(*sys.argv[1:])
