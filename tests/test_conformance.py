# SPDX-License-Identifier: Apache-2.0
"""Every available method of the catalog keeps the same promises; a new one is swept without touching this file."""

from __future__ import annotations

import copy
import dataclasses
import json
from functools import cache

import pytest
import torch
from torch import Tensor

from mien import api, catalog
from mien.commands._schema import parse, training_parser
from mien.data.batch import collate, move
from mien.engine import Settings, Step, fit, load_weights
from mien.job import plan, preset_of

NAMES = [entry.name for entry in catalog.list_methods(available=True, baselines=True)]


def make(name, seed=0):
    """The small method, as `mien train --preset small --data embedded` makes it."""
    return plan(name, "embedded", preset="small", settings={"seed": seed}).create()


@cache
def training_data(name):
    job = plan(name, "embedded", preset="small")
    return job.open_data(make(name))


def trained(name, steps=1):
    """The method after `steps` steps of every phase of its own schedule of one epoch."""
    method, data = make(name), training_data(name)
    schedule = catalog.room(name).schedule(method, data, 1)
    fit(method, data, schedule=schedule, settings=Settings(batch_size=8, max_steps=steps, device="cpu"))
    return method


@cache
def _once(name):
    return trained(name)


def ready(name):
    """A method that has made one step: its structure and whatever an epoch begins with are there."""
    return copy.deepcopy(_once(name)).train()


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    """The method's name and a few samples of generated data."""
    data = training_data(request.param).train(last_phase(request.param))
    torch.manual_seed(0)
    step = max(len(data) // 8, 1)
    return request.param, [data[i] for i in range(0, 8 * step, step)][:8]


def last_phase(name):
    return _once(name).built[-1]


def total(method, batch) -> Tensor:
    """The sum of the losses of all Steps of a batch."""
    steps = list(method.steps(batch))
    assert all(isinstance(step, Step) for step in steps)
    return sum(value for step in steps for b in step.batches for value in step.loss(b).values())


def empty(batch):
    """The batch with its first axis cut to nothing."""
    cut = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return type(batch)(**{k: v[:0] if isinstance(v, (Tensor, list)) else v for k, v in cut.items()})


def test_losses_are_named_finite_and_reach_parameters(case):
    name, samples = case
    method = ready(name)
    loss = total(method, collate(samples))
    loss.backward()
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    assert torch.isfinite(loss)
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)
    assert any(g.abs().sum() > 0 for g in gradients)


def test_the_same_seed_gives_the_same_loss(case):
    name, samples = case
    values = []
    for _ in range(2):
        method = ready(name)
        torch.manual_seed(3)
        values.append(float(total(method, collate(samples)).detach()))
    assert values[0] == values[1]


def test_degenerate_batches(case):
    """An empty batch gives a zero that is still connected; one sample and one class give finite numbers."""
    name, samples = case
    method = ready(name)
    nothing = total(method, empty(collate(samples)))
    assert float(nothing.detach()) == 0.0
    nothing.backward()
    method.eval()  # batch norm cannot normalise a single value per channel in train mode
    assert torch.isfinite(total(method, collate(samples[:1])))
    if hasattr(samples[0], "label"):
        label = samples[0].label
        assert torch.isfinite(total(method, collate([s for s in samples if s.label == label])))


def test_predictions_are_the_same_after_saving_and_loading(case, tmp_path):
    name, samples = case
    method = ready(name).eval()
    folder = method.save_pretrained(tmp_path / "saved")
    other = make(name, seed=99)
    load_weights(other, folder)
    batch = collate(samples)
    with torch.no_grad():
        before, after = method.predict(batch), other.eval().predict(batch)
    for field in dataclasses.fields(before):
        a, b = getattr(before, field.name), getattr(after, field.name)
        assert (a is None) == (b is None)
        same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        assert same, f"{field.name} differs after loading"
    record = json.loads((folder / "config.json").read_text())
    assert record["method"] == name
    assert "limits" in (folder / "README.md").read_text().lower()


@pytest.mark.parametrize("name", NAMES)
def test_the_command_line_and_python_make_the_same_method(name):
    values = parse(training_parser(name, preset_of(name, "small"), "small"), ["--data", "embedded"])
    told = plan(name, "embedded", preset="small", config=values["method"]).create()
    assert told.config() == make(name).config()


def test_configuration_rebuilds_the_method(case):
    name, _ = case
    method = make(name)
    plain = json.loads(json.dumps(method.config()))
    again = api.create(name, **plain)
    assert again.config() == method.config()
    assert [p.shape for p in again.parameters()] == [p.shape for p in method.parameters()]


def test_training_moves_the_weights_and_is_deterministic(case):
    name, _ = case
    before = [p.detach().clone() for p in make(name).parameters()]
    states = [[p.detach().clone() for p in trained(name, steps=2).parameters()] for _ in range(2)]
    assert len(states[0]) != len(before) or any(not torch.equal(a, b) for a, b in zip(before, states[0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_moving_a_batch_keeps_its_type(case):
    _, samples = case
    batch = collate(samples)
    moved = move(batch, torch.device("meta"))
    assert type(moved) is type(batch)
    tensors = [value for f in dataclasses.fields(moved) if isinstance(value := getattr(moved, f.name), Tensor)]
    assert tensors
    assert all(tensor.device.type == "meta" for tensor in tensors)
