# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from mien.commands._parser import Parser, add_run_options, positive, same_dashes
from mien.errors import BadInput


@pytest.fixture
def parser():
    parser = Parser("try", "A trial.")
    parser.add_argument("file", nargs="?")
    parser.add_argument("--kind", choices=("a", "b"))
    add_run_options(parser, out="what comes out")
    return parser


def test_dashes_and_underscores_are_the_same(parser):
    assert parser.read(["--max_steps", "3"]).max_steps == 3
    assert parser.read(["--max-steps=3"]).max_steps == 3
    assert parser.read(["--out", "a_b-c"]).out == "a_b-c"
    assert parser.read(["--out=--a_b"]).out == "--a_b"
    assert same_dashes(["--a-b_c=d-e_f", "x-y"], "_") == ["--a_b_c=d-e_f", "x-y"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--devise", "cpu"], "unknown option '--devise': did you mean '--device'? (see mien try --help)"),
        (["--dev", "cpu"], "unknown option '--dev'"),
        (["a", "b"], "unexpected argument 'b' (see mien try --help)"),
        (["--max-steps", "0"], "argument --max-steps: '0' is not a whole number of at least 1"),
        (["--max-steps", "1.5"], "'1.5' is not a whole number"),
        (["--max-steps"], "expected one argument"),
        (["--kind", "c"], "invalid choice: 'c'"),
        (["--seed", "x"], "'x' is not a whole number of at least 0"),
    ],
)
def test_errors_are_bad_input_with_one_line(parser, words, message):
    with pytest.raises(BadInput) as caught:
        parser.read(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_abbreviations_are_not_accepted(parser):
    with pytest.raises(BadInput, match="unknown option '--thread'"):
        parser.read(["--thread", "2"])


def test_help_does_not_show_empty_defaults(parser):
    text = parser.format_help()
    assert "None" not in text
    assert "default: auto" in text


def test_positive():
    assert positive("7") == 7
