# SPDX-License-Identifier: Apache-2.0
"""Can a small network learn the forgeries, and can thumbnails not?

    python benchmarks/forgeries.py --data FOLDER     (FOLDER/person/image.jpg, aligned crops)
    python benchmarks/forgeries.py                   (procedural faces)

The network has 41 thousand weights (two 3 x 3 convolutions at each of 12, 24 and 48 channels, batch norm) and sees
64 x 64 crops at native resolution with a high-pass copy, of all kinds of forgery mixed. Test people are not in
training.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from _contract import promise, publish
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from mien.data.confound import LIMIT, confound_report
from mien.data.folders import people_folders
from mien.data.forge_pairs import ForgedFaces, PairedForgeries
from mien.data.images import open_image
from mien.data.people import render_faces, sample_people
from mien.data.splits import split_by_group

CROP = 64
REACHED = {"self-blend": 0.85, "swap": 0.92, "re-synthesis": 0.96, "region-edit": 0.69}
"""AUC that the network must reach on real faces; on procedural ones nothing is promised."""


SHARES = {"self-blend": 0.2, "swap": 0.4, "re-synthesis": 0.1, "region-edit": 0.3}
"""How often a kind is trained on: the hard ones more often. Chosen on other splits than the reported one."""
VIEWS = [(down, right) for down in (-8, 0, 8) for right in (-8, 0, 8)]
"""Where crops of a test face are moved to; its score is their mean, so that the whole face is looked at."""


class SmallNetwork(nn.Module):
    """12-24-48 channels; `high_pass` adds the image minus its 5-pixel blur, five times as strong, as extra input."""

    def __init__(self, high_pass: bool) -> None:
        super().__init__()
        self.high_pass = high_pass
        layers: list[nn.Module] = []
        before = 6 if high_pass else 3
        for channels in (12, 24, 48):
            for inside, stride in ((before, 1), (channels, 2 if channels < 48 else 1)):
                layers += [
                    nn.Conv2d(inside, channels, 3, stride=stride, padding=1, bias=False),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                ]
            before = channels
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(48, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.float() / 255 - 0.5
        if self.high_pass:
            x = torch.cat((x, 5 * (x - F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), 5, 1))), dim=1)
        return self.head(self.layers(x).mean(dim=(2, 3)))[:, 0]


def load(data: str | None, seed: int) -> tuple[Tensor, list[str], Tensor | None, str]:
    if data is not None:
        records = people_folders(data)
        faces = torch.stack([torch.from_numpy(np.array(open_image(r.path))).permute(2, 0, 1) for r in records])
        return faces, [r.group for r in records], None, f"{len(faces)} faces in {Path(data).name}"
    people = sample_people(90, seed)
    images, factors = render_faces(people, np.arange(90).repeat(20), seed, size=112, masks=False)
    faces = torch.from_numpy((images * 255).round().astype(np.uint8))
    return (
        faces,
        [f"person {i}" for i in factors.identity],
        torch.from_numpy(factors.landmarks),
        "1800 procedural faces",
    )


def crop(images: Tensor, down: int = 0, right: int = 0) -> Tensor:
    """64 x 64 from around the middle of the face: eyes to mouth of an aligned crop."""
    height, width = images.shape[-2:]
    top, left = round(0.60 * height) - CROP // 2 + down, width // 2 - CROP // 2 + right
    return images[:, :, top : top + CROP, left : left + CROP]


def moved_crops(images: Tensor, generator: torch.Generator) -> Tensor:
    """One for each image, moved by up to 8 pixels and mirrored by chance."""
    moves = torch.randint(-8, 9, (len(images), 2), generator=generator).tolist()
    flips = torch.rand(len(images), generator=generator) < 0.5
    out = torch.cat([crop(image[None], *move) for image, move in zip(images, moves, strict=True)])
    return torch.where(flips[:, None, None, None], out.flip(3), out)


def joined(drawings: list[ForgedFaces]) -> ForgedFaces:
    """Several drawings of forgeries of the same photographs as one data set; each keeps its own real copies."""
    step = 1 + max(int(part.item.max()) for part in drawings)
    return ForgedFaces(
        torch.cat([part.image for part in drawings]),
        torch.cat([torch.as_tensor(part.label) for part in drawings]),
        [kind for part in drawings for kind in part.kind],
        [group for part in drawings for group in part.group],
        torch.cat([part.mask for part in drawings]),
        [steps for part in drawings for steps in part.recipe],
        torch.cat([part.item + k * step for k, part in enumerate(drawings)]),
    )


def train(data: ForgedFaces, *, high_pass: bool, steps: int, seed: int) -> tuple[SmallNetwork, float]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = SmallNetwork(high_pass)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.15)
    real, forged = (torch.nonzero(data.label == label)[:, 0] for label in (0, 1))
    original = dict(zip(data.item[real].tolist(), real.tolist(), strict=True))
    share = torch.tensor([SHARES[data.kind[i]] for i in forged.tolist()])
    start = time.perf_counter()
    for _ in range(steps):
        # Pairs of a forgery and its photograph, cut alike: they differ in nothing but the forgery.
        fakes = forged[torch.multinomial(share, 32, replacement=True, generator=generator)]
        reals = torch.tensor([original[item] for item in data.item[fakes].tolist()])
        images = moved_crops(torch.cat((data.image[reals], data.image[fakes]), dim=1), generator)
        images = torch.cat(images.split(3, dim=1))
        loss = F.binary_cross_entropy_with_logits(network(images), torch.arange(2.0).repeat_interleave(32))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval(), time.perf_counter() - start


def test(network: SmallNetwork, data: ForgedFaces) -> dict[str, float]:
    with torch.no_grad():
        parts = data.image.split(256)
        score = torch.cat([torch.stack([network(crop(p, *view)) for view in VIEWS]).mean(0) for p in parts]).numpy()
    kind = np.asarray(data.kind)
    return {
        name: round(float(roc_auc_score(kind[use] == name, score[use])), 4)
        for name in sorted(set(data.kind) - {"real"})
        for use in [(kind == name) | (kind == "real")]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with a folder of aligned faces per person; default procedural faces")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--drawings", type=int, default=4, help="how often every training face is forged anew")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="also train without the high-pass copy")
    parser.add_argument("--no-network", action="store_true", help="thumbnails only")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    faces, people, points, what = load(options.data, options.seed)
    sides = split_by_group(people, (2 / 3, 1 / 3), seed=options.seed)
    split = np.empty(len(faces), dtype=object)
    for name, rows in zip(("train", "test"), sides, strict=True):
        split[np.asarray(rows)] = name
    start = time.perf_counter()
    pairs = PairedForgeries(faces, people, seed=options.seed, landmarks=points, splits=split.tolist())
    everything = pairs.arrays()
    seconds = time.perf_counter() - start
    held = split[everything.item.numpy()] == "test"
    train_set, test_set = (pairs.arrays(np.flatnonzero(side)) for side in (~held, held))
    again = [
        PairedForgeries(faces, people, seed=options.seed + 1000 * k, landmarks=points, splits=split.tolist())
        for k in range(1, options.drawings)
    ]
    train_set = joined([train_set, *(more.arrays(np.flatnonzero(~held)) for more in again)])
    report = confound_report(
        everything.image, everything.kind, everything.group, test_groups=sorted(set(test_set.group)), seed=options.seed
    )
    print(report.table())
    networks = {}
    for high_pass in () if options.no_network else (True, False) if options.plain else (True,):
        network, spent = train(train_set, high_pass=high_pass, steps=options.steps, seed=options.seed)
        name = "with high-pass copy" if high_pass else "without high-pass copy"
        weights = sum(p.numel() for p in network.parameters())
        networks[name] = {"weights": weights, "seconds": round(spent, 1), "auc": test(network, test_set)}
        print(name, networks[name], flush=True)
    promises = [promise(f"thumbnails, lower bound for {row.kind}", row.low, LIMIT) for row in report.kinds]
    if options.data is not None and networks:
        found = networks["with high-pass copy"]["auc"]
        promises += [promise(f"AUC of {kind}", found[kind], least, at_least=True) for kind, least in REACHED.items()]
    publish(
        "forgeries" if options.data is None else f"forgeries-{Path(options.data).name}",
        promises=promises,
        equal={"what": "nothing is compared"},
        data=what,
        people={"train": len(set(train_set.group)), "test": len(set(test_set.group))},
        samples={"train": len(train_set.image), "test": len(test_set.image)},
        generation={"samples": len(everything.image), "seconds": round(seconds, 2)},
        thumbnails=report.to_json(),
        network=networks,
        steps=options.steps,
        drawings=options.drawings,
        seed=options.seed,
        torch_threads=options.threads,
    )


if __name__ == "__main__":
    main()
