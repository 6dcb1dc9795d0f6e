# SPDX-License-Identifier: Apache-2.0
"""`mien measure`: which networks, how they are timed, and that a killed measurement goes on."""

from __future__ import annotations

import builtins
import json

import numpy as np
import pytest
import torch

from mien.architectures import measuring
from mien.architectures.families import FAMILIES, SIDES
from mien.architectures.measuring import MAX_RUNS, MIN_RUNS, Latency, Plan, measure, summary, timed
from mien.architectures.readers import read
from mien.cli import main
from mien.errors import BadInput

SMALL = ("vgg", "mixer")


class Clock:
    """Time that passes only in `run`: by the given seconds, the last one again and again."""

    def __init__(self, *seconds):
        self.seconds, self.now, self.runs = list(seconds), 0.0, 0

    def __call__(self):
        return self.now

    def run(self):
        self.now += self.seconds[min(self.runs, len(self.seconds) - 1)]
        self.runs += 1


def test_a_timing_is_the_median_after_the_warm_up():
    clock = Clock(9.0, 9.0, 0.05)
    found = timed(clock.run, clock)
    assert found.median == pytest.approx(50.0)
    assert found.fastest == pytest.approx(50.0)
    assert found.runs == MIN_RUNS, "ten runs of 50 ms last longer than 0.4 s already"
    fast = Clock(0.001)
    assert timed(fast.run, fast).runs == MAX_RUNS
    middle = Clock(0.01)
    assert 40 <= timed(middle.run, middle).runs <= 41


def test_a_disturbed_timing_is_repeated_and_the_tightest_kept():
    noisy = [0.05, 0.2] * 5
    clock = Clock(0.05, 0.05, *noisy, *([0.05] * 9 + [0.06]))
    found = timed(clock.run, clock)
    assert clock.runs == 2 + 10 + 10
    assert found.median == pytest.approx(50.0)
    assert found.spread < 0.01
    always = Clock(0.05, 0.05, *noisy * 3, 0.05)
    assert timed(always.run, always).spread > 0.5
    assert always.runs == 2 + 3 * MIN_RUNS, "three times and no more"


def test_quartiles_are_numpys():
    times = [0.1, 0.101, 0.102, 0.1, 0.1005, 0.1, 0.103, 0.1, 0.1, 0.102]  # steady enough to be kept
    clock = Clock(0.1, 0.1, *times)
    found = timed(clock.run, clock)
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75]) * 1e3
    assert (found.q1, found.median, found.q3) == pytest.approx((low, middle, high))


def test_networks_follow_from_the_seed_alone_and_families_take_turns():
    plan, longer = Plan(), Plan()
    assert [plan.network(i)[1] for i in range(10)] == list(FAMILIES)
    assert plan.network(13)[0] == "regnet-001"
    assert plan.network(37)[2].settings == longer.network(37)[2].settings
    drawn = {json.dumps([plan.network(10 * i)[2].settings, plan.network(10 * i)[2].side]) for i in range(30)}
    assert len(drawn) > 25
    assert Plan(seed=1).network(0)[2].settings != plan.network(0)[2].settings


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_builds_networks_of_varied_size_that_run(family):
    sizes = set()
    for seed in range(3):
        drawn = FAMILIES[family](np.random.default_rng(seed))
        assert drawn.side in SIDES
        json.dumps(drawn.settings)
        torch.manual_seed(0)
        model = drawn.build().eval()
        with torch.no_grad():
            assert model(torch.rand(1, 3, drawn.side, drawn.side)).shape == (1, 1000)
        sizes.add((sum(p.numel() for p in model.parameters()), drawn.side))
    assert len(sizes) > 1


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    monkeypatch.setattr(measuring, "SECONDS", 0.0)
    return tmp_path / "measured"


def test_measured_networks_are_read_back_and_a_killed_measurement_goes_on(folder, monkeypatch):
    plan = Plan(families=SMALL)
    assert measure(folder, 1, plan) == {}
    first = {file.name: file.read_bytes() for file in (folder / "networks").iterdir()}
    assert sorted(first) == ["vgg-000.json"]
    record = json.loads(first["vgg-000.json"])
    latency = Latency(**record["latency_ms"])
    assert latency.fastest <= latency.q1 <= latency.median <= latency.q3
    assert latency.runs >= MIN_RUNS
    table = read(str(folder))
    assert (table.graphs.space, list(table.families)) == ("onnx", ["vgg"])
    assert table.values["latency"].tolist() == [latency.median]

    def killed(drawn, plan):
        raise KeyboardInterrupt

    real = measuring.measure_network
    monkeypatch.setattr(measuring, "measure_network", killed)
    with pytest.raises(KeyboardInterrupt):
        measure(folder, 2, plan)
    monkeypatch.setattr(measuring, "measure_network", real)
    assert measure(folder, 2, plan) == {}
    after = {file.name: file.read_bytes() for file in (folder / "networks").iterdir()}
    assert {name: after[name] for name in first} == first, "what was timed is not timed again"
    assert set(after) - set(first) == {"mixer-000.json"}
    assert [line.split()[:2] for line in summary(folder)] == [["mixer", "1"], ["vgg", "1"]]


def test_another_plan_is_refused_and_a_failing_network_is_listed(folder, monkeypatch, capsys):
    def fails(drawn, plan):
        raise RuntimeError("no such\noperator")

    monkeypatch.setattr(measuring, "measure_network", fails)
    assert main(["measure", "--out", str(folder), "--count", "1", "--families", "vgg"]) == 1
    assert "failed: vgg-000: no such operator" in capsys.readouterr().err
    assert json.loads((folder / "measured.json").read_text())["failed"] == {"vgg-000": "no such operator"}
    with pytest.raises(BadInput, match=r"was measured with plan .* give another --out"):
        measure(folder, 1, Plan(seed=5, families=("vgg",)))
    assert not (folder / "networks").exists()


def test_a_dry_run_writes_nothing(folder, capsys, monkeypatch):
    monkeypatch.setattr(measuring, "measure_network", lambda drawn, plan: {"latency_ms": vars(Latency(4, 3, 5, 2, 9))})
    assert main(["measure", "--out", str(folder), "--count", "40", "--families", "vgg", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "vgg-000  4.00 ms, spread 50.0%" in printed
    assert "40 networks will take about" in printed
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--families", "resnet,vitt"], "did you mean 'vit'"),
        (["--families", "vgg,vgg"], "at most once"),
        (["--count", "0"], "'0' is not a whole number of at least 1"),
        (["--seed", "-1"], "--seed: '-1' is not a whole number of at least 0"),
        (["--provider", "CPUExecutionProvide"], "did you mean 'CPUExecutionProvider'"),
    ],
)
def test_bad_input(folder, arguments, said, capsys):
    assert main(["measure", "--out", str(folder), *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not folder.exists()


def test_a_folder_of_something_else_is_left_alone(folder, capsys):
    folder.mkdir()
    (folder / "thesis.txt").write_text("important")
    assert main(["measure", "--out", str(folder)]) == 2
    assert "holds no measurement" in capsys.readouterr().err
    assert [file.name for file in folder.iterdir()] == ["thesis.txt"]


def test_without_the_extra_one_line_names_it(tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def blocked(name, *rest, **more):
        if name.split(".")[0] == "onnxruntime":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", blocked)
    assert main(["measure", "--out", str(tmp_path / "m")]) == 2
    assert capsys.readouterr().err.strip().endswith("pip install 'mien[export]'")
    assert not (tmp_path / "m").exists()
