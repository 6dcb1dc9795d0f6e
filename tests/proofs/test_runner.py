# SPDX-License-Identifier: Apache-2.0
"""The proof harness: what it computes, that it resumes, and that parallel seeds equal serial ones."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_proof
from scipy import stats

from mien.engine.run import commit
from mien.errors import BadInput, TrainingStopped
from mien.proofs.base import Seed
from mien.proofs.runner import gather, prove

FIELDS = (
    "name claim verdict metric higher_is_better data seeds variants baseline interval cost versions commit command date"
)


@pytest.fixture(autouse=True)
def log(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_PROOF_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("PYTHONPATH", ":".join([str(Path(__file__).parent), *filter(None, sys.path)]))
    return tmp_path / "log"


def test_the_result_has_the_fields_and_the_paired_t_interval(tmp_path):
    result, path = prove("toy_proof:PROOF", seeds=5, out=tmp_path)
    assert set(FIELDS.split()) <= set(result)
    assert json.loads(path.read_text()) == result
    assert path.with_suffix(".png").stat().st_size > 1000
    ours, base = (np.array([result["variants"][v][str(s)] for s in range(5)]) for v in ("ours", "base"))
    expected = stats.ttest_rel(ours, base).confidence_interval(0.95)
    assert result["interval"] == pytest.approx([expected.low, expected.high])
    assert result["verdict"] == "holds"
    assert result["controls"]["chance"]["passed"]
    assert set(result["cost"]) == {"base", "ours", "chance"}


def test_the_verdict_follows_from_the_numbers_alone():
    def values(ours, base):
        made = {v: {str(i): {"score": x} for i, x in enumerate(c)} for v, c in (("ours", ours), ("base", base))}
        return {**made, "chance": {str(i): {"score": 0.9} for i in range(3)}}

    def verdict(ours, base, **changes):
        return gather(replace(toy_proof.PROOF, **changes), values(ours, base), {}, "embedded", None)

    better, worse = [0.9, 0.91, 0.92], [0.5, 0.52, 0.51]
    assert verdict(better, worse)["verdict"] == "holds"
    assert verdict(worse, better)["verdict"] == "fails"
    assert verdict(worse, better, higher_is_better=False)["verdict"] == "holds"
    assert verdict([0.9, 0.1, 0.5], [0.5, 0.5, 0.45])["verdict"] == "inconclusive"
    assert not verdict(better, worse)["controls"]["chance"]["passed"]
    below_ours = verdict(better, worse, controls={"chance": (0.0, "ours")})["controls"]["chance"]
    assert below_ours["must_lie_in"] == pytest.approx([0.0, 0.91])
    assert below_ours["passed"]
    assert not verdict(better, worse, controls={"chance": (0.0, "base")})["controls"]["chance"]["passed"]
    rehearsal = gather(toy_proof.PROOF, values(better, worse), {}, "embedded", 10)
    assert rehearsal["verdict"] == "rehearsal"


def _prove(out, **options):
    prove("toy_proof:PROOF", out=Path(out), **options)


def test_a_killed_proof_goes_on_and_repeats_nothing(tmp_path, monkeypatch, log):
    monkeypatch.setenv("TOY_PROOF_DIES_AT", "ours/2")
    child = multiprocessing.get_context("spawn").Process(target=_prove, args=(tmp_path,), kwargs={"seeds": 4})
    child.start()
    child.join(300)
    assert child.exitcode == 9
    done = log.read_text().split()
    monkeypatch.delenv("TOY_PROOF_DIES_AT")
    log.write_text("")
    result, _ = prove("toy_proof:PROOF", seeds=4, out=tmp_path)
    assert done[-1] == "base/2"
    assert set(done).isdisjoint(log.read_text().split())
    whole, _ = prove("toy_proof:PROOF", seeds=4, out=tmp_path / "whole")
    assert result["variants"] == whole["variants"]


def test_a_first_seed_whose_process_dies_is_named_and_goes_on_later(tmp_path, monkeypatch, log):
    monkeypatch.setenv("TOY_PROOF_DIES_AT", "ours/0")
    with pytest.raises(TrainingStopped, match="'ours' of proof 'toy'"):
        prove("toy_proof:PROOF", seeds=1, out=tmp_path)
    monkeypatch.delenv("TOY_PROOF_DIES_AT")
    result, _ = prove("toy_proof:PROOF", seeds=1, out=tmp_path)
    assert set(result["cost"]) == {"base", "ours", "chance"}
    assert log.read_text().split() == ["base/0", "ours/0", "chance/0"]


def test_parallel_seeds_equal_serial_ones(tmp_path):
    serial, _ = prove("toy_proof:PROOF", seeds=3, out=tmp_path / "a")
    parallel, _ = prove("toy_proof:PROOF", seeds=3, jobs=2, out=tmp_path / "b")
    assert serial["variants"] == parallel["variants"]


def test_pieces_of_another_experiment_are_not_mixed_in(tmp_path, monkeypatch):
    prove("toy_proof:PROOF", seeds=1, out=tmp_path)
    monkeypatch.setattr(toy_proof, "PROOF", replace(toy_proof.PROOF, about=lambda data: "other data"))
    with pytest.raises(BadInput, match="another experiment"):
        prove("toy_proof:PROOF", seeds=1, out=tmp_path)


def test_bad_arguments(tmp_path):
    with pytest.raises(BadInput, match="seeds is 0"):
        prove("toy_proof:PROOF", seeds=0, out=tmp_path)
    with pytest.raises(BadInput, match="names the variant 'nope'"):
        replace(toy_proof.PROOF, baseline="nope")
    with pytest.raises(BadInput, match="names the variant 'nope'"):
        replace(toy_proof.PROOF, controls={"chance": (0.0, "nope")})


def test_a_result_says_when_the_sources_are_not_those_of_the_commit(tmp_path):
    def git(*arguments):
        who = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    source = tmp_path / "src"
    source.mkdir()
    assert commit(source) is None, "no checkout"
    git("init")
    (source / "a.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "one")
    head = git("rev-parse", "HEAD")
    (tmp_path / "result.json").write_text("{}")
    assert commit(source) == head, "results beside the sources do not count"
    (source / "a.py").write_text("2")
    assert commit(source) == f"{head}-dirty"
    git("checkout", "src")
    assert commit(source) == head
    (source / "b.py").write_text("1")
    assert commit(source) == f"{head}-dirty", "a new file"


def test_what_variants_share_is_made_once():
    seed, made = Seed(0, None), []
    for _ in range(3):
        seed.once("x", lambda: made.append(1))
    assert made == [1]


def test_tensors_that_variants_share_are_made_once_for_all_processes(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": torch.full((2, 3), float(len(made)))}

    def ask(number=0, folder=tmp_path, anew=False):
        """In another process, as it were: nothing is in memory."""
        return Seed(number, None, folder=folder).tensors("x", make, anew=anew)["x"]

    assert all(torch.equal(ask(), torch.ones(2, 3)) for _ in range(2))
    assert float(ask(number=1).mean()) == 2
    assert float(ask(folder=None).mean()) == 3
    assert float(ask(anew=True).mean()) == float(ask().mean()) == 4
    seed = Seed(2, None)
    assert seed.tensors("x", make) is seed.tensors("x", make)
    assert len(made) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x-0.safetensors", "x-1.safetensors"]
