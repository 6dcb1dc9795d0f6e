# SPDX-License-Identifier: Apache-2.0
"""Splits that keep groups whole: no person and no video is in two of them.

Groups are ordered by a hash of (seed, group) and cut by the fractions. The order depends on nothing else, so the same
seed gives the same split on every machine and for every order of the input. When groups are added or removed the rest
keeps its order: only groups next to a cut can change sides, as many as the sizes of the splits demand. (Assigning
each group by its hash alone would move none, but miss the fractions widely with few groups.)

Example:
    >>> split_by_group(["ann", "bob", "ann", "cleo", "dan"], [0.5, 0.5], seed=1)
    ([1, 4], [0, 2, 3])
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Iterable, Sequence

from mien.data.folders import Record
from mien.errors import BadInput


def split_by_group(
    groups: Sequence[str], fractions: Sequence[float], *, seed: int, labels: Sequence[Hashable] | None = None
) -> tuple[list[int], ...]:
    """Indices of the samples of each split.

    Args:
        groups: Group of each sample, length N.
        fractions: Share of the groups (not of the samples) for each split; positive, their sum is 1.
        seed: Another seed gives another split.
        labels: Label of each sample, length N. Groups with the same labels form a stratum, and each stratum is cut by
            the fractions as far as whole groups allow; rounding is carried from stratum to stratum, so the sizes of the
            splits over all groups are those of an unstratified cut, within one group.

    Returns:
        One ascending list of indices for each fraction; together they are 0..N-1, and none is empty.

    Raises:
        BadInput: Bad fractions, lengths that differ, or fewer groups than splits.
    """
    if len(fractions) < 1 or any(not f > 0 for f in fractions) or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        raise BadInput(f"fractions are {list(fractions)}: they must be positive and sum to 1")
    if labels is not None and len(labels) != len(groups):
        raise BadInput(f"{len(labels)} labels for {len(groups)} samples")
    found: dict[str, set[Hashable]] = {}
    for index, group in enumerate(groups):
        found.setdefault(group, set()).add(labels[index] if labels is not None else None)
    if len(found) < len(fractions):
        raise BadInput(
            f"{len(found)} groups (persons or videos) cannot fill {len(fractions)} splits: "
            "each split needs at least one whole group"
        )
    strata: dict[tuple[str, ...], list[str]] = {}
    for group in found:
        strata.setdefault(tuple(sorted(map(repr, found[group]))), []).append(group)
    ordered = [sorted(strata[key], key=lambda group: _order(seed, group)) for key in sorted(strata)]
    side = _assign(ordered, fractions)
    return tuple([i for i, group in enumerate(groups) if side[group] == part] for part in range(len(fractions)))


def _order(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}:{group}".encode("utf-8", "surrogateescape")).digest()


def _assign(strata: Sequence[Sequence[str]], fractions: Sequence[float]) -> dict[str, int]:
    """Split of each group: strata are laid end to end, each is cut at the running totals of the fractions."""
    side: dict[str, int] = {}
    done = 0
    counts = [0] * len(fractions)
    for stratum in strata:
        done += len(stratum)
        # The largest remaining debt to a fraction is paid first; debts include what earlier strata were rounded by.
        due = [fraction * done - count for fraction, count in zip(fractions, counts, strict=True)]
        sizes = [max(0, math.floor(d + 1e-9)) for d in due]
        while sum(sizes) > len(stratum):
            sizes[max(range(len(sizes)), key=lambda part: sizes[part] - due[part])] -= 1
        while sum(sizes) < len(stratum):
            sizes[max(range(len(sizes)), key=lambda part: due[part] - sizes[part])] += 1
        start = 0
        for part, size in enumerate(sizes):
            side.update(dict.fromkeys(stratum[start : start + size], part))
            start += size
            counts[part] += size
    for part in range(len(fractions)):  # a fraction below one group still gets one
        if counts[part] == 0:
            richest = max(range(len(counts)), key=lambda p: counts[p])
            given = [group for stratum in strata for group in stratum if side[group] == richest][-1]
            side[given] = part
            counts[richest] -= 1
            counts[part] += 1
    return side


def split_records(records: Sequence[Record], fractions: Sequence[float], *, seed: int) -> tuple[list[Record], ...]:
    """`split_by_group` for records, stratified by label: one list of records for each fraction, in their old order."""
    parts = split_by_group(
        [record.group for record in records], fractions, seed=seed, labels=[record.label for record in records]
    )
    return tuple([records[i] for i in part] for part in parts)


def shared_groups(first: Iterable[Record], second: Iterable[Record]) -> list[str]:
    """Groups that occur in both, sorted; empty when nothing leaks."""
    return sorted({record.group for record in first} & {record.group for record in second})


def require_disjoint(first: Iterable[Record], second: Iterable[Record], names: tuple[str, str]) -> None:
    """Check that two sets of records share no group.

    Raises:
        BadInput: Names the two sets and up to three of the groups.
    """
    shared = shared_groups(first, second)
    if shared:
        more = ", ..." if len(shared) > 3 else ""
        raise BadInput(
            f"{names[0]} and {names[1]} share {len(shared)} groups (persons or videos): {', '.join(shared[:3])}{more}"
        )
