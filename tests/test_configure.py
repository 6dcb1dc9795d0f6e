# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import collections
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.configure import build, describe, fit_type
from mien.errors import BadInput


@dataclass(frozen=True)
class Inner:
    name: str = "tiny"
    depth: int = 3


@dataclass(frozen=True)
class Outer:
    rate: float = 0.1
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    kind: Literal["a", "bb"] = "a"
    sizes: list[int] | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    many: tuple[int, ...] = ()
    on: bool = False
    anything: Any = None


class Needs:
    def __init__(self, *, must: int) -> None:
        self.must = must


def test_values_become_what_the_constructor_wants():
    found = build(
        Outer,
        {
            "rate": 1,
            "inner": {"depth": 5},
            "maybe": {"name": "x"},
            "kind": "bb",
            "sizes": [1, 2],
            "pair": [1, 2],
            "many": [4],
            "anything": {"a": 1},
        },
        "outer",
    )
    assert found == Outer(1.0, Inner("tiny", 5), Inner("x"), "bb", [1, 2], (1.0, 2.0), (4,), False, {"a": 1})
    assert isinstance(found.rate, float)


def test_an_instance_is_taken_as_it_is():
    inner = Inner("mine")
    assert build(Outer, {"inner": inner}, "outer").inner is inner


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rat": 1}, "unknown option of outer: 'rat': did you mean 'rate'?"),
        ({"inner": {"dept": 1}}, "unknown option of outer.inner: 'dept': did you mean 'depth'?"),
        ({"maybe": {"dept": 1}}, "unknown option of outer.maybe: 'dept': did you mean 'depth'?"),
        ({"maybe": {"depth": "x"}}, "outer.maybe.depth is 'x': it must be int"),
        ({"rate": "high"}, "outer.rate is 'high': it must be float"),
        ({"rate": True}, "outer.rate is True: it must be float"),
        ({"rate": None}, "outer.rate is None: it must be float"),
        ({"kind": "b"}, "unknown value of outer.kind: 'b': did you mean 'bb'?"),
        ({"kind": 3}, "outer.kind is 3: it must be one of 'a', 'bb'"),
        ({"inner": {"depth": True}}, "outer.inner.depth is True: it must be int"),
        ({"inner": "tiny"}, "outer.inner is 'tiny': it must be Inner"),
        ({"sizes": [1, "2"]}, "outer.sizes is"),
        ({"sizes": "12"}, "outer.sizes is '12': it must be list[int] or None"),
        ({"pair": [1]}, "outer.pair is [1]: it must be tuple[float, float]"),
        ({"many": [1.5]}, "outer.many[0] is 1.5: it must be int"),
        ({"on": 1}, "outer.on is 1: it must be bool"),
        ({"inner": {"class_path": "os.system"}}, "unknown option of outer.inner: 'class_path'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(config, message):
    with pytest.raises(BadInput) as caught:
        build(Outer, config, "outer")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_argument_is_named():
    with pytest.raises(BadInput, match="needs needs 'must': it has no default"):
        build(Needs, {}, "needs")
    assert build(Needs, {"must": 3}, "needs").must == 3


def test_an_integer_stays_an_integer_where_both_are_allowed():
    assert isinstance(fit_type(1, int | float, "x"), int)
    assert isinstance(fit_type(1, float | None, "x"), float)


def test_types_in_words():
    assert describe(Literal["a", 1]) == "one of 'a', 1"
    assert describe(None) == "None"
    assert describe(collections.OrderedDict) == "OrderedDict"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["rate", "inner", "maybe", "kind", "sizes", "pair", "many", "on", "x"])


@given(st.dictionaries(FIELDS, JSON, max_size=4))
def test_any_json_gives_an_object_or_one_line(config):
    # Fails when some JSON value ends in another exception, or slips through with a wrong type.
    try:
        found = build(Outer, config, "outer")
    except BadInput:
        return
    assert isinstance(found.rate, float)
    assert isinstance(found.inner, Inner)
    assert found.maybe is None or isinstance(found.maybe, Inner)
    assert found.kind in ("a", "bb")
    assert isinstance(found.on, bool)
    assert all(type(size) is int for size in (*(found.sizes or []), *found.many))
