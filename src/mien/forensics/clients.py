# SPDX-License-Identifier: Apache-2.0
"""Data of federated detectors: the private faces of each client, and test data that remember whose they are.

Where forgeries are made from people's faces, they are made client by client: a swap's donor is a person of the same
client. Validation persons are held out before anything is dealt, so that no client has seen them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from mien.data.folders import Record, require_classes
from mien.data.forge_pairs import KINDS
from mien.data.listing import natural_key
from mien.data.splits import split_by_group, split_records
from mien.engine import Method, Phase, TrainingData
from mien.errors import BadInput
from mien.federated.partition import REAL, by_kind, by_label_skew, deal, kinds_of_clients
from mien.federated.plan import Federated
from mien.forensics.data import FaceRecords, Faces, ForgedFrames
from mien.forensics.opening import (
    EMBEDDED,
    layout_of,
    open_test,
    open_training,
    read_people,
    read_records,
)
from mien.room import DataOptions, TestData

Names = list[str]


class ClientFaces(TrainingData):
    """Training data of every client; held-out data of each, or the same for all.

    Args:
        names: What the clients are called.
        train: Their own data.
        held: "client0", "client1", ... -> held-out data of a client, or "" -> of all together.
        manifest: What the clients together are trained on.
        alone: The client whose data stand for all where there are no rounds; None for all of them together.
    """

    def __init__(
        self,
        names: Sequence[str],
        train: Sequence[Dataset[Faces]],
        held: Mapping[str, Dataset[Faces]],
        manifest: dict[str, Any],
        alone: int | None = None,
    ) -> None:
        self.names, self._train, self._held, self.alone = list(names), list(train), dict(held), alone
        sizes = {name: len(part) for name, part in zip(names, train, strict=True)}  # type: ignore[arg-type]
        self._manifest = {**manifest, "clients": sizes}

    def __len__(self) -> int:
        """Number of clients."""
        return len(self._train)

    def train(self, phase: Phase) -> Dataset[Faces]:
        """The data of the phase's client; without one, of the client that trains alone or of all together."""
        client = phase.client if phase.client is not None else self.alone
        if client is not None:
            return self._train[client]
        return _Pooled(self._train)

    def validation(self, phase: Phase) -> Mapping[str, Dataset[Faces]] | Dataset[Faces] | None:
        """Held-out data by client, or one set for all; None where nothing is held out."""
        if set(self._held) == {""}:
            return self._held[""]
        return self._held or None

    def manifest(self) -> dict[str, Any]:
        """Groups and files of all clients, a description, and how many samples each client has."""
        return self._manifest


class _Pooled(ConcatDataset[Faces]):
    """All clients' data as one."""

    seeded = True


def plan_of(method: Method) -> Federated | None:
    """How a method is trained over clients; None for one that is not."""
    plan = getattr(method, "federated", None)
    return plan if isinstance(plan, Federated) else None


def clients_in(data: TrainingData) -> int:
    """How many clients training data hold. Raises BadInput for data that do not tell."""
    try:
        return len(data)  # type: ignore[arg-type]
    except TypeError:
        raise BadInput(
            f"{type(data).__name__} does not say how many clients it holds: give mien.forensics.clients.ClientFaces, "
            "or a schedule of your own"
        ) from None


def open_clients(source: str, size: int, options: DataOptions, plan: Federated) -> ClientFaces:
    """Training data of `source`, split into clients as `plan.partition` says.

    Raises:
        BadInput: The data cannot be split so.
    """
    alone = plan.alone if plan.regime == "local" else None
    if plan.partition == "folder":
        return _by_folder(source, size, options, alone)
    layout = options.kind if options.kind != "auto" or source == EMBEDDED else layout_of(source)
    if source == EMBEDDED or layout == "people":
        return _of_people(source, size, options, plan, alone)
    records = read_records(source, layout, "train")
    require_classes(records, where=source)
    manifest = FaceRecords(records, size).manifest(f"{layout} data in {Path(source).name}")
    held: list[Record] = []
    if options.validation:
        records, held = split_records(records, (1 - options.validation, options.validation), seed=options.seed)
    names, parts = _split(
        [r.kind for r in records], [int(r.label or 0) for r in records], [r.group for r in records], plan, options.seed
    )
    train = [FaceRecords([records[i] for i in part], size, crop=options.crop, flip=True) for part in parts]
    kinds = [set(_forged_kinds(records[i].kind for i in part)) for part in parts] if plan.partition == "kind" else []
    held_parts = {
        f"client{c}": [r for r in held if r.kind == REAL or r.kind in own] for c, own in enumerate(kinds)
    } or {"": held}
    validation = {
        name: FaceRecords(part, size, crop=options.crop)
        for name, part in held_parts.items()
        if len({r.label for r in part}) == 2
    }
    return ClientFaces(names, train, validation, _described(manifest, names, plan), alone)


def open_client_test(source: str, size: int, options: DataOptions, plan: Federated) -> TestData:
    """Test data; with clients by folder, every folder is opened and each sample remembers its client."""
    if plan.partition != "folder" or source == EMBEDDED:
        return open_test(source, size, options)
    opened = {path.name: open_test(str(path), size, options) for path in _folders(source)}
    manifest = _united({name: test.manifest for name, test in opened.items()}, source)
    return TestData(ClientTests({name: test.dataset for name, test in opened.items()}), manifest)


class ClientTests(ConcatDataset[Faces]):
    """The test data of several clients, one after the other.

    Args:
        parts: Name of the client -> its data, with `groups` and `units`.
    """

    seeded = False

    def __init__(self, parts: Mapping[str, Any]) -> None:
        super().__init__(list(parts.values()))
        self.clients = [name for name, part in parts.items() for _ in range(len(part))]
        self.groups = [group for part in parts.values() for group in part.groups]
        self.units = [unit for part in parts.values() for unit in part.units]


# --- a folder for each client -------------------------------------------------------------------------------
def _folders(source: str) -> list[Path]:
    path = Path(source)
    if source == EMBEDDED or not path.is_dir():
        raise BadInput(f"federated.partition is 'folder' and the data are {source}: give a folder with one per client")
    folders = sorted((child for child in path.iterdir() if child.is_dir()), key=lambda child: natural_key(child.name))
    if not folders:
        raise BadInput(f"{path}: no folder inside: with federated.partition=folder each client's data lie in its own")
    return folders


def _by_folder(source: str, size: int, options: DataOptions, alone: int | None) -> ClientFaces:
    opened = {path.name: open_training(str(path), size, options) for path in _folders(source)}
    train = [data.train(Phase()) for data in opened.values()]
    sets = {f"client{i}": data.validation(Phase()) for i, data in enumerate(opened.values())}
    held = {name: dataset for name, dataset in sets.items() if dataset is not None}
    manifest = _united({name: data.manifest() for name, data in opened.items()}, source)
    return ClientFaces(list(opened), train, held, manifest, alone)


def _united(manifests: Mapping[str, Mapping[str, Any]], source: str) -> dict[str, Any]:
    """One manifest of all clients. Raises BadInput for a file that two clients have."""
    owner: dict[str, str] = {}
    for name, manifest in manifests.items():
        for file in manifest["files"]:
            if file in owner:
                raise BadInput(f"{source}: clients {owner[file]} and {name} hold the same file ({file[:12]}...)")
            owner[file] = name
    groups = sorted({group for manifest in manifests.values() for group in manifest["groups"]})
    about = f"{len(manifests)} clients, one per folder in {Path(source).name} ({', '.join(manifests)})"
    return {"groups": groups, "files": sorted(owner), "description": about}


# --- clients made from one data set --------------------------------------------------------------------------
def _split(
    kinds: Sequence[str], labels: Sequence[int], groups: Sequence[str], plan: Federated, seed: int
) -> tuple[Names, list[list[int]]]:
    """Names of the clients and the indices of their samples."""
    if plan.partition == "kind":
        owners = kinds_of_clients(sorted(set(kinds) - {REAL}), plan.clients)
        return _kind_names(owners), by_kind(kinds, groups, plan.clients, seed=seed)
    if plan.partition == "labels":
        parts = by_label_skew(labels, plan.count, concentration=plan.concentration, seed=seed)
    else:
        parts = deal(groups, plan.count, seed=seed, shares=plan.shares)
    return [f"client {i}" for i in range(len(parts))], parts


def _kind_names(owners: Sequence[Sequence[str]]) -> Names:
    names = ["+".join(own) for own in owners]
    return [f"{name} {names[:i].count(name) + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _forged_kinds(kinds: Any) -> Names:
    return sorted(set(kinds) - {REAL})


def _of_people(source: str, size: int, options: DataOptions, plan: Federated, alone: int | None) -> ClientFaces:
    found = read_people(source, options, test=False)
    people = found.names
    rows: Sequence[int] = range(len(people))
    kept: Sequence[int] = []
    if options.validation:
        rows, kept = split_by_group(people, (1 - options.validation, options.validation), seed=options.seed)
    make = _Maker(found.faces, people, size, options.seed)
    held: dict[str, Dataset[Faces]] = {}
    train: list[Dataset[Faces]]
    if plan.partition == "labels":  # samples are dealt, not persons
        whole = make(rows, KINDS, training=True)
        names, parts = _split(whole.kinds, whole.label.tolist(), whole.groups, plan, options.seed)
        train = [Subset(whole, part) for part in parts]
    else:
        kinds = kinds_of_clients(KINDS, plan.clients) if plan.partition == "kind" else [list(KINDS)] * plan.count
        owners = deal([people[i] for i in rows], len(kinds), seed=options.seed, shares=plan.shares)
        names = _kind_names(kinds) if plan.partition == "kind" else [f"client {i}" for i in range(len(kinds))]
        train = [make([rows[i] for i in own], k, training=True) for own, k in zip(owners, kinds, strict=True)]
        if plan.partition == "kind":
            held = {f"client{c}": make(kept, own) for c, own in enumerate(kinds) if make.possible(kept, own)}
    if kept and plan.partition != "kind":
        held = {"": make(kept, KINDS)}
    return ClientFaces(names, train, held, _described(found.manifest, names, plan), alone)


class _Maker:
    """Forgeries of some of the faces. Where one person is alone there is nobody to swap with."""

    def __init__(self, faces: Tensor, people: Sequence[str], size: int, seed: int) -> None:
        self.faces, self.people, self.size, self.seed = faces, list(people), size, seed

    def possible(self, rows: Sequence[int], kinds: Sequence[str]) -> list[str]:
        """Those of the kinds that can be made."""
        people = {self.people[i] for i in rows}
        return [kind for kind in kinds if len(people) > (kind == "swap")]

    def __call__(self, rows: Sequence[int], kinds: Sequence[str], *, training: bool = False) -> ForgedFrames:
        names, own = [self.people[i] for i in rows], self.possible(rows, kinds)
        if not own:
            raise BadInput(
                f"a client has one person ({names[0]}) and swaps need two: give more people, or fewer clients "
                "(federated.clients)"
            )
        chosen = self.faces[torch.as_tensor(list(rows))]
        return ForgedFrames(chosen, names, self.size, kinds=own, seed=self.seed, training=training)


def _described(manifest: dict[str, Any], names: Names, plan: Federated) -> dict[str, Any]:
    how = {"kind": "by kind of forgery", "labels": "by skewed labels", "even": "alike"}[plan.partition]
    about = f"{manifest['description']}, split into {len(names)} clients {how} ({', '.join(names)})"
    if plan.regime == "central":
        about = f"{about}, pooled"
    return {**manifest, "description": about}
