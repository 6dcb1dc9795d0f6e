# SPDX-License-Identifier: Apache-2.0
"""HFC-MFFD's experiment: two levels against one flat classifier of the same networks, and each stream alone.

Four generators make the same real faces anew, so there are four forged faces for each real one. All are encoded alike;
the test is on other people, clean and on copies that nobody trained on: blurred, or at a low JPEG quality. The flat
rival has as many networks of every stream, trained for as many passes (those that stand in for the second level see
real faces, too). Since four to one already answers 0.8 of level 1, area under the curve is compared.

Near-infrared is imitated: brightness alone, with another gamma and gain for every photograph, real and forged alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien.data import forge_ops as ops
from mien.data.confound import confound_report
from mien.data.draws import between, item_seeds, uniforms
from mien.data.folders import people_folders
from mien.data.splits import split_by_group
from mien.engine import Phase, Settings, Stages, evaluation_loader, fit
from mien.engine.method import build
from mien.engine.seeding import kept_generators, seed_all, stable_seed
from mien.forensics.data import Faces
from mien.forensics.hfc_mffd import HFCMFFD
from mien.forensics.opening import EMBEDDED, PEOPLE_SIZE, generated_people, load_people
from mien.forensics.parts.hfc_figures import Said, kind_figures
from mien.forensics.parts.hfc_fusion import Fusion
from mien.forensics.parts.hfc_streams import HeadSize
from mien.metrics.binary import auc
from mien.nn.network import Network
from mien.optim.recipe import Recipe
from mien.proofs.base import Proof, Seed, Values, shuffled
from mien.proofs.resynthesis import GENERATORS, encoded, few_of_each, near_infrared, regenerated

PATCH, BATCH, EPOCHS, DESCRIPTOR_EPOCHS = 48, 16, 2, 4
FACES = (14, 12)
"""Faces of each person, at most, to train and to test on."""
GENERATED = (18, 32)
"""People and faces of each, where they are generated."""
RATE = 2e-3
HEAD = HeadSize(heads=4, feedforward=64, hidden=(128, 64), patch_hidden=64, attention_dropout=0.1, dropout=0.1)
CLEAN, WORN = (75, 95), (30, 60)
"""JPEG qualities: of training and the clean test, and of the worn copies."""


class Generated(Dataset[Faces]):
    """Real faces and what the generators made of each, in memory.

    Args:
        image: uint8 (N, 3, H, W).
        kinds: "real" or the generator of each.
        groups: Whose face each is.
    """

    seeded = False

    def __init__(self, image: Tensor, kinds: list[str], groups: list[str]) -> None:
        self.image, self.kinds, self.groups = image, kinds, groups
        self.label = torch.tensor([int(kind != "real") for kind in kinds])

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> Faces:
        return Faces(self.image[index].float() / 255, int(self.label[index]), self.groups[index], self.kinds[index])


def generated(faces: Tensor, people: list[str], seed: int, *, worn: bool = False, infrared: bool = False) -> Generated:
    """The data set of faces (N, 3, H, W), uint8.

    Args:
        faces: Real faces.
        people: Whose each is.
        seed: Of masks, noise and qualities.
        worn: Whether every image is blurred, or encoded at a low quality, before the test.
        infrared: Whether brightness alone is kept, through another curve for every photograph.
    """
    real = faces.float() / 255
    if infrared:
        real = near_infrared(real, seed)
    images = []
    for generator in (None, *GENERATORS):
        made = encoded(real if generator is None else regenerated(real, generator, seed), seed, CLEAN)
        images.append(used(made, seed) if worn else made)
    kinds = [kind for kind in ("real", *GENERATORS) for _ in range(len(faces))]
    return Generated(torch.cat(images), kinds, people * (1 + len(GENERATORS)))


def used(images: Tensor, seed: int) -> Tensor:
    """uint8 images, half of them blurred, half at a low JPEG quality; which is which follows from the photograph."""
    seeds = item_seeds(seed, np.arange(len(images)), "wear")
    soft = ops.to_bytes(ops.blurred(images.float() / 255, torch.from_numpy(between(seeds, "blur", 0.5, 0.9))))
    rough = encoded(images.float() / 255, seed + 1, WORN)
    blurred = torch.from_numpy(uniforms(seeds, "which")[:, 0] < 0.5)
    return torch.where(blurred[:, None, None, None], soft, rough)


@dataclass
class Data:
    """The data of a seed."""

    faces: Tensor
    people: list[str]
    train: list[int]
    test: list[int]
    number: int

    def part(self, which: str, **options: bool) -> Generated:
        """The training or the test part, from other people."""
        rows = self.train if which == "train" else self.test
        seed = self.number + (1000 if which == "test" else 0)
        return generated(self.faces[rows], [self.people[i] for i in rows], seed, **options)


def _load(data: str) -> tuple[Tensor, list[str]]:
    """Aligned faces, (N, 3, 112, 112), and whose they are."""
    return (
        generated_people(range(GENERATED[0]), GENERATED[1]) if data == EMBEDDED else load_people(people_folders(data))
    )


def make_data(data: str, seed: int) -> Data:
    """Two thirds of the people to train on and a third to test on; another split for every seed."""
    faces, people = _load(data)
    train, test = split_by_group(people, (2 / 3, 1 / 3), seed=seed)
    return Data(faces, people, few_of_each(people, train, FACES[0]), few_of_each(people, test, FACES[1]), seed)


def about(data: str) -> str:
    """One line on the data."""
    if data == EMBEDDED:
        return f"faces made anew by four generators: {GENERATED[0]} generated people, {GENERATED[1]} faces each"
    count = len({p.group for p in people_folders(data)})
    return (
        f"real faces made anew by four generators: {count} people, at most {FACES[0]} photographs of each to train on, "
        f"{FACES[1]} to test on"
    )


def check(data: str) -> Any:
    """Whether 12-pixel thumbnails tell the kinds apart, by people."""
    faces, people = _load(data)
    rows = few_of_each(people, range(len(people)), FACES[0])
    made = generated(faces[rows], [people[i] for i in rows], 0)
    return confound_report(made.image, made.kinds, made.groups).to_json()


# --- variants ------------------------------------------------------------------------------------------------
def _method(seed: Seed, kind: type[HFCMFFD] = HFCMFFD, **config: Any) -> HFCMFFD:
    """All start from the same weights."""
    with kept_generators():
        seed_all(stable_seed(seed.number, "weights"))
        return kind(
            **{
                "network": Network("tiny_blocks_highpass"),
                "dct_network": Network("tiny_blocks"),
                "optimizer": Recipe("adam", lr=RATE, weight_decay=0.0, schedule="cosine"),
                "head_lr": 1.0,
                "image_size": PEOPLE_SIZE,
                "kinds": tuple(GENERATORS),
                "patch": PATCH,
                "head": HEAD,
                "landmarks": 17,
                "fusion": Fusion(lr=0.02, epochs=20, samples=400),
                **config,
            }
        )


def _fit(seed: Seed, method: HFCMFFD, level: int, data: Generated) -> None:
    """Train the streams of one level, each in a stage."""
    stages = {
        stage: DESCRIPTOR_EPOCHS if stage.endswith("descriptor") else EPOCHS
        for stage in method.phases(1)
        if stage.startswith(f"level {level}")
    }
    plan = Settings(BATCH, max_steps=seed.max_steps, seed=stable_seed(seed.number, level), device=seed.device)
    fit(method, data, schedule=Stages(stages), settings=plan)


def _train_data(seed: Seed, **options: bool) -> Generated:
    data: Data = seed.data
    made: Generated = seed.once(f"training data {options}", lambda: data.part("train", **options))
    return made


def _second_level(seed: Seed) -> dict[str, Tensor]:
    """The networks that tell the generators apart: the same for all hierarchical variants on the same images."""

    def train() -> dict[str, Tensor]:
        method = _method(seed)
        _fit(seed, method, 2, _train_data(seed))
        return dict(method.second.state_dict())

    state: dict[str, Tensor] = seed.once("second level", train)
    return state


def _hierarchical(seed: Seed, balance: str) -> HFCMFFD:
    """The whole method; level 2 is trained once, and the weights of the streams last."""

    def train() -> HFCMFFD:
        method = _method(seed, balance=balance)
        _fit(seed, method, 1, _train_data(seed))
        method.second.load_state_dict(_second_level(seed))
        return _finished(method, _train_data(seed))

    made: HFCMFFD = seed.once(f"hierarchical, {balance}", train)
    return made


def _finished(method: HFCMFFD, data: Generated) -> HFCMFFD:
    for stage in method.phases(1):
        build(method, Phase(name=stage))
    method.learn_fusion(data)
    return method.eval()


def hierarchical(balance: str) -> Any:
    """Two levels."""
    return lambda seed: _values(seed, _hierarchical(seed, balance))


def flat(balance: str) -> Any:
    """As many networks, all of which tell real and every generator apart."""

    def measure(seed: Seed) -> Values:
        method, data = _method(seed, decision="flat", balance=balance), _train_data(seed)
        for level in (1, 2):
            _fit(seed, method, level, data)
        return _values(seed, _finished(method, data))

    return measure


def alone(stream: str) -> Any:
    """One stream of the balanced first level."""

    def measure(seed: Seed) -> Values:
        whole = _hierarchical(seed, "weights")
        method = _method(seed, balance="weights", streams=(stream,))
        method.first.streams[stream].load_state_dict(whole.first.streams[stream].state_dict())
        method.second.load_state_dict(whole.second.state_dict())
        return _values(seed, method.eval())

    return measure


def without_attention(seed: Seed) -> Values:
    """The mean of the patches in the place of attention among them, in the first level."""
    method = _method(seed, balance="weights", attention="none")
    _fit(seed, method, 1, _train_data(seed))
    return _first_level(seed, method)


def infrared(seed: Seed) -> Values:
    """The first level, trained and tested on imitated near-infrared."""
    method = _method(seed, balance="weights", modality="infrared")
    _fit(seed, method, 1, _train_data(seed, infrared=True))
    return _first_level(seed, method, infrared=True)


def by_lot(seed: Seed) -> Values:
    """The first level, on labels drawn by lot."""
    method = _method(seed, shuffled(HFCMFFD), streams=("image",), balance="weights")
    _fit(seed, method, 1, _train_data(seed))
    return _first_level(seed, method)


METRIC = "AUC, worn copies"


def _first_level(seed: Seed, method: HFCMFFD, **options: bool) -> Values:
    """Figures of a method without a second level."""
    method.learn_fusion(_train_data(seed, **options))
    found = _values(seed, method.eval(), **options)
    return {name: value for name, value in found.items() if "class" not in name and "kind" not in name}


def _values(seed: Seed, method: HFCMFFD, **options: bool) -> Values:
    found: Values = {}
    for name in ("clean", "worn copies"):
        test = _test_data(seed, worn=name != "clean", **options)
        scores: list[float] = []
        called: list[str] = []

        def say(batch: Faces, scores: list[float] = scores, called: list[str] = called) -> Said:
            verdict = method.predict(batch)
            scores += verdict.score.tolist()
            called += verdict.columns["kind"]
            kinds = method.generator(method.seen(batch.image)).argmax(dim=1).tolist()
            return verdict.columns["kind"], [method.names[i] for i in kinds]

        with torch.no_grad():
            figures = kind_figures(evaluation_loader(test, 64, device=method.device), say, method.names, 0)
        score, label = np.array(scores), test.label.numpy()
        forged = np.array(called) != "real"  # what the method decides: for a flat one that is not a score above a half
        right = [float((forged == y)[label == y].mean()) for y in (0, 1)]
        found |= {
            f"AUC, {name}": auc(label, score),
            f"real recall, {name}": right[0],
            f"balanced accuracy, {name}": sum(right) / 2,
            f"accuracy of five classes, {name}": figures["class_accuracy"].value,
            f"accuracy of kinds, {name}": figures["kind_accuracy"].value,
        }
    return found


def _test_data(seed: Seed, **options: bool) -> Generated:
    data: Data = seed.data
    made: Generated = seed.once(f"test data {options}", lambda: data.part("test", **options))
    return made


PROOF = Proof(
    name="hfc-mffd",
    claim="Two levels of fused streams tell real faces from made ones better than one flat classifier of as many "
    "networks, on blurred and compressed copies that nobody trained on.",
    variants={
        "hierarchical, balanced": hierarchical("weights"),
        "hierarchical": hierarchical("none"),
        "flat, balanced": flat("weights"),
        "flat": flat("none"),
        "image alone": alone("image"),
        "DCT alone": alone("dct"),
        "descriptors alone": alone("descriptor"),
        "mean of patches": without_attention,
        "near-infrared": infrared,
        "shuffled labels": by_lot,
    },
    primary="hierarchical, balanced",
    baseline="flat, balanced",
    metric=METRIC,
    data=make_data,
    about=about,
    ablations={
        "hierarchical over flat, not balanced": ("hierarchical", "flat"),
        "balanced over not": ("hierarchical, balanced", "hierarchical"),
        "all streams over image": ("hierarchical, balanced", "image alone"),
        "all streams over DCT": ("hierarchical, balanced", "DCT alone"),
        "all streams over descriptors": ("hierarchical, balanced", "descriptors alone"),
        "attention over the mean of patches": ("hierarchical, balanced", "mean of patches"),
    },
    controls={"shuffled labels": (0.4, 0.6)},
    check=check,
    notes=(
        f"whole aligned faces of {PEOPLE_SIZE} pixels, patches of {PATCH}; {EPOCHS} passes, {DESCRIPTOR_EPOCHS} of the "
        f"descriptors, in batches of {BATCH}",
    ),
)
