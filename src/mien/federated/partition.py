# SPDX-License-Identifier: Apache-2.0
"""Which samples a client holds: splits of one data set into the private data of several clients.

Pure functions from what is known of the samples to one ascending list of indices for each client. The same arguments
give the same split on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from mien.errors import BadInput

Parts = list[list[int]]
"""The indices of each client's samples."""

REAL = "real"
"""The kind of samples that are no forgeries: every client has some."""

_TRIES = 200


def deal(groups: Sequence[str], clients: int, *, seed: int, shares: Sequence[float] | None = None) -> Parts:
    """Deal whole groups (persons, videos) to the clients, so that the samples are spread as `shares` says.

    Args:
        groups: Group of each sample, (N,).
        clients: How many clients, at least 1 and at most as many as there are groups.
        seed: Which group goes to whom follows from it.
        shares: What part of the samples each client shall hold, positive; None for equal parts.

    Raises:
        BadInput: More clients than groups, or shares that do not fit.

    >>> deal(["ann", "bob", "ann", "cleo"], 2, seed=0)
    [[0, 2], [1, 3]]
    """
    wanted = _shares(clients, shares)
    members = _members(groups)
    if len(members) < clients:
        raise BadInput(f"{len(members)} groups (persons or videos) cannot be dealt to {clients} clients: use fewer")
    # large groups first, each to the client that lacks most; equal ones in an order drawn by the seed
    order = sorted(members, key=lambda group: (-len(members[group]), _order(seed, group)))
    parts: Parts = [[] for _ in range(clients)]
    for left, group in zip(range(len(order), 0, -1), order, strict=True):
        empty = [c for c in range(clients) if not parts[c]]
        choice = empty if len(empty) >= left else range(clients)  # nobody may go without
        client = min(choice, key=lambda c: (len(parts[c]) / wanted[c], c))
        parts[client] += members[group]
    return [sorted(part) for part in parts]


def by_label_skew(labels: Sequence[int], clients: int, *, concentration: float, seed: int) -> Parts:
    """Spread the samples of each label over the clients by shares drawn from a Dirichlet distribution.

    Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
    2019. Samples are dealt, not groups: a person may occur at several clients.

    Args:
        labels: Label of each sample, (N,).
        clients: How many clients, at least 1.
        concentration: Above 0; small values give most of a label to few clients, large ones spread it evenly.
        seed: Of the draw.

    Raises:
        BadInput: A value outside its range, or so few samples that some client stays empty.
    """
    if not concentration > 0:
        raise BadInput(f"concentration is {concentration}: it must be above 0")
    _shares(clients, None)
    label, rng = np.asarray(labels), np.random.default_rng(seed)
    for _ in range(_TRIES):
        parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
        for value in np.unique(label):
            rows = rng.permutation(np.flatnonzero(label == value))
            cuts = np.round(np.cumsum(rng.dirichlet([concentration] * clients))[:-1] * len(rows)).astype(int)
            for part, piece in zip(parts, np.split(rows, cuts), strict=True):
                part.append(piece)
        found = [sorted(np.concatenate(part).tolist()) for part in parts]
        if all(found):
            return found
    raise BadInput(
        f"{len(label)} samples, skewed with concentration {concentration}, leave some of {clients} clients without "
        "any: use fewer clients or a larger concentration"
    )


def kinds_of_clients(kinds: Sequence[str], clients: int | None = None) -> list[list[str]]:
    """Which kinds of forgery each client sees: one each, or as evenly as the numbers allow.

    >>> kinds_of_clients(["blend", "swap"]), kinds_of_clients(["blend", "swap"], 3), kinds_of_clients(["a", "b"], 1)
    ([['blend'], ['swap']], [['blend'], ['swap'], ['blend']], [['a', 'b']])
    """
    count = len(kinds) if clients is None else clients
    if not kinds:
        raise BadInput("the data hold no forgery: a partition by kind needs some")
    _shares(count, None)
    if count >= len(kinds):
        return [[kinds[client % len(kinds)]] for client in range(count)]
    return [list(kinds[client::count]) for client in range(count)]


def by_kind(kinds: Sequence[str], groups: Sequence[str], clients: int | None = None, *, seed: int) -> Parts:
    """Give each client forgeries of its own kind and real samples, no group to two clients.

    What a group has of other kinds is left out: another client cannot know a person that it does not hold.

    Args:
        kinds: Kind of each sample, "real" or a kind of forgery, (N,).
        groups: Group of each sample, (N,).
        clients: How many; None for one per kind.
        seed: Which group goes to whom follows from it.

    Raises:
        BadInput: No forgery, or a client that would hold no real or no forged sample.
    """
    seen = kinds_of_clients(sorted(set(kinds) - {REAL}), clients)
    members = _members(groups)
    parts: Parts = [[] for _ in seen]
    real, forged = [0] * len(seen), [0] * len(seen)
    options = {
        group: [c for c, own in enumerate(seen) if {kinds[i] for i in rows} & set(own)]
        for group, rows in members.items()
    }
    # groups that few clients can use come first; real ones alone, which all can use, last
    order = sorted(members, key=lambda g: (len(options[g]) or len(seen) + 1, _order(seed, g)))
    for group in order:
        lacking = real if any(kinds[i] == REAL for i in members[group]) else forged
        client = min(options[group] or range(len(seen)), key=lambda c: (lacking[c], real[c] + forged[c], c))
        kept = [i for i in members[group] if kinds[i] == REAL or kinds[i] in seen[client]]
        count = sum(kinds[i] == REAL for i in kept)
        parts[client] += kept
        real[client] += count
        forged[client] += len(kept) - count
    for client, own in enumerate(seen):
        if not real[client] or not forged[client]:
            what = "real" if not real[client] else "forged"
            raise BadInput(f"client {client} ({', '.join(own)}) would hold no {what} sample: use fewer clients")
    return [sorted(part) for part in parts]


def _members(groups: Sequence[str]) -> dict[str, list[int]]:
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    return members


def _order(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}:{group}".encode("utf-8", "surrogateescape")).digest()


def _shares(clients: int, shares: Sequence[float] | None) -> list[float]:
    if clients < 1:
        raise BadInput(f"clients is {clients}: it must be at least 1")
    if shares is None:
        return [1.0] * clients
    if len(shares) != clients or not all(share > 0 for share in shares):
        raise BadInput(f"shares are {list(shares)}: one above 0 is needed for each of {clients} clients")
    return list(shares)
