# SPDX-License-Identifier: Apache-2.0
"""A phase says how many updates it makes before it makes them: schedules of learning rates rely on it."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset

import toys
from mien.classification.data import ClassData, LabelledImages
from mien.engine import Epoch, Settings, Single, Stages, Strategy, fit
from mien.engine.loading import steps_per_epoch
from mien.forensics.data import Faces
from mien.forensics.fairfd import FairFD
from mien.forensics.hfc_mffd import HFCMFFD
from mien.forensics.parts.hfc_fusion import Fusion
from mien.forensics.parts.hfc_streams import HeadSize
from mien.nn.network import Network
from mien.optim.recipe import Recipe
from mien.supervision.data import with_noise
from mien.supervision.mdit import MDIT, Extraction
from mien.supervision.noise import Noise

COSINE = Recipe(kind="sgd", lr=0.01, schedule="cosine")


class Half(toys.Plain):
    """Trains on every other sample, with a cosine schedule."""

    def samples_per_epoch(self, phase, data):
        return (len(data) + 1) // 2

    def begin_epoch(self, epoch, data):
        return Epoch(indices=torch.arange(0, len(data), 2))


class Photographs(Dataset):
    """29 of 7 persons: one real of each three, the others by two generators."""

    seeded = False

    def __init__(self):
        self.image = torch.rand(29, 3, 24, 24, generator=torch.Generator().manual_seed(0))
        self.kind = [("real", "a", "b")[i % 3] for i in range(29)]
        self.groups = [f"person {i % 7}" for i in range(29)]

    def __len__(self):
        return 29

    def __getitem__(self, i):
        return Faces(self.image[i], int(i % 3 > 0), self.groups[i], self.kind[i])


def hierarchy(**changes):
    network, head = Network("tiny_blocks"), HeadSize(heads=4, feedforward=16, hidden=(16, 8), patch_hidden=8)
    plain = {"network": network, "dct_network": network, "image_size": 24, "patch": 12, "kinds": ("a", "b")}
    return HFCMFFD(**plain, head=head, landmarks=17, optimizer=COSINE, fusion=Fusion(lr=0.05, epochs=1), **changes)


def wrong_labels():
    images = torch.randint(0, 256, (38, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ClassData(images, torch.arange(38) % 2, ("a", "b"), tuple(map(str, range(38))), "noise")
    return LabelledImages(with_noise(data, Noise("symmetric", 0.25, 0), 8, "embedded"), 8)


def confident():
    classes = {"network": Network("tiny_blocks"), "image_size": 8, "classes": ("a", "b")}
    return MDIT(**classes, optimizer=COSINE, warmup_epochs=1, extraction=Extraction(share=0.5, batch=10))


def single(method):
    return Single(3)


def stages(method):
    return Stages(dict(method.phases(1)))


CASES = {
    "toy": (Half, toys.Points, lambda method: Single(3)),
    "fairfd": (
        lambda: FairFD(network=Network("tiny_cnn"), optimizer=COSINE, image_size=24),
        Photographs,
        lambda method: Single(2),
    ),
    "hfc-mffd": (hierarchy, Photographs, stages),
    "hfc-mffd, sampler": (lambda: hierarchy(balance="sampler"), Photographs, stages),
    "hfc-mffd, flat": (lambda: hierarchy(decision="flat", balance="sampler"), Photographs, stages),
    "mdit": (confident, wrong_labels, lambda method: method.schedule(2)),
}


class Watch(Strategy):
    """Notes the updates that each phase plans and makes, and the learning rate that is left."""

    def __init__(self, method):
        self.planned, self.made, self.rates = {}, {}, {}
        optimizers = method.optimizers

        def noted(phase):
            found = optimizers(phase)
            self.phase, self.optimizer = phase.name, next(iter(found.values()))[0]
            self.planned[phase.name], self.made[phase.name] = phase.total_steps, 0
            return found

        method.optimizers = noted

    def after_step(self, method):
        self.made[self.phase] += 1
        self.rates[self.phase] = self.optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_a_phase_makes_the_updates_that_it_was_planned_for(name, accumulate):
    """Fails if a method selects samples and says another number than it gives, or if the engine does not ask it."""
    make, data, schedule = CASES[name]
    method = make()
    watch, settings = Watch(method), Settings(batch_size=4, accumulate=accumulate, device="cpu")
    fit(method, data(), schedule=schedule(method), settings=settings, strategies=[watch])
    assert watch.planned == watch.made
    ended = {phase: rate for phase, rate in watch.rates.items() if phase != "warm-up"}  # its rate is constant
    assert ended
    assert all(rate < 1e-6 for rate in ended.values()), ended


def test_max_steps_still_ends_the_schedule():
    method = Half()
    watch, settings = Watch(method), Settings(batch_size=4, max_steps=7, device="cpu")  # of 3 epochs of 6
    fit(method, toys.Points(48), schedule=Single(3), settings=settings, strategies=[watch])
    assert watch.planned == watch.made == {"train": 7}
    assert watch.rates["train"] < 1e-6


def test_a_resumed_phase_is_planned_for_as_many_updates(tmp_path):
    class Stopped(Half):
        stop = 3

        def after_step(self):
            if self.calls == self.stop:
                raise KeyboardInterrupt

    def run(method, **options):
        watch, settings = Watch(method), Settings(batch_size=4, checkpoint_every=2, device="cpu")
        fit(method, toys.Points(48), schedule=Single(2), settings=settings, strategies=[watch], out=out, **options)
        return watch

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(Stopped())
    Stopped.stop = None
    watch = run(Stopped(), resume=True)
    assert (watch.planned["train"], watch.made["train"]) == (12, 10)
    assert watch.rates["train"] < 1e-6


def test_a_selection_is_spread_over_buckets_as_all_samples_are():
    buckets = torch.tensor([0] * 8 + [1] * 4 + [2] * 4).numpy()
    assert steps_per_epoch(16, 3, 1, 1, None, buckets) == 3 + 2 + 2
    assert steps_per_epoch(8, 3, 1, 1, None, buckets) == 2 + 1 + 1
