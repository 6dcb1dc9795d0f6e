# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace

import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from mien.cli import main
from mien.commands._schema import parse, training_parser
from mien.errors import BadInput
from mien.job import preset_of, read_job, resumed
from toy_world import PLUGIN, write_points


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    return str(write_points(tmp_path_factory.mktemp("train") / "points", seed=1))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(PLUGIN))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MIEN_DEBUG", raising=False)
    return tmp_path


def weights(run) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def test_train_writes_a_run_that_says_how_it_was_made(points, here, capsys):
    words = ["train", "toy-points", "--data", points, "--method.layer.width", "3", "--max_steps", "4", "--threads", "1"]
    assert main(words) == 0
    run = here / "runs" / "toy-points-001"
    assert f"run folder: {run.relative_to(here)}" in capsys.readouterr().out
    config = json.loads((run / "config.json").read_text())
    assert config["method_config"]["layer"] == {"width": 3, "kind": "tanh"}
    origin = config["origin"]
    assert (origin["verb"], origin["method"], origin["data"]) == ("train", "toy-points", points)
    assert origin["settings"]["max_steps"] == 4
    assert origin["settings"]["batch_size"] == 10  # the paper preset's
    assert origin["epochs"] == 2
    assert origin["threads"] == 1
    assert main([*words, "--epochs", "1"]) == 0
    assert (here / "runs" / "toy-points-002").is_dir()


def test_preset_config_and_options_win_in_that_order(points, here):
    # preset small: width 2, batch 5, 1 epoch; the file sets width 6 and batch 7; the option sets batch 8.
    (here / "c.yaml").write_text("preset: small\nmethod:\n  layer:\n    width: 6\nbatch_size: 7\n")
    words = ["train", "toy-points", "--config", "c.yaml", "--data", points, "--batch-size", "8", "--out", "run"]
    assert main(words) == 0
    origin = json.loads((here / "run" / "config.json").read_text())["origin"]
    assert origin["config"]["layer"]["width"] == 6
    assert origin["settings"]["batch_size"] == 8
    assert origin["epochs"] == 1


def test_print_config_is_a_complete_config(points, here, capsys):
    assert main(["train", "toy-points", "--data", points, "--preset=small", "--print_config"]) == 0
    text = capsys.readouterr().out
    values = yaml.safe_load(text)
    assert (values["name"], values["preset"]) == ("toy-points", "small")
    assert values["method"]["layer"]["width"] == 2
    (here / "c.yaml").write_text(text)
    assert main(["train", "--config", "c.yaml", "--max_steps", "1", "--out", "run"]) == 0
    origin = json.loads((here / "run" / "config.json").read_text())["origin"]
    assert origin["config"]["layer"]["width"] == 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "name the method"),
        (["toy-pionts"], "unknown method 'toy-pionts': did you mean 'toy-points'?"),
        (["dit-sr"], "method 'dit-sr' is planned, not available yet"),
        (["toy-points"], "--data is missing: give a folder, or 'embedded'"),
        (["toy-points", "--data", "no/where"], "no/where does not exist"),
        (["toy-points", "--data", "."], "holds no points"),
        (["toy-points", "--data", "x", "--kind", "point"], "unknown kind of data 'point': did you mean 'points'?"),
        (["toy-points", "--method.rat", "1"], "unknown option '--method.rat': did you mean '--method.rate'?"),
        (["toy-points", "--method.layer.widht", "1"], "did you mean '--method.layer.width'?"),
        (["toy-points", "--epoch", "1"], "unknown option '--epoch': did you mean '--epochs'?"),
        (["toy-points", "--method.rate", "high"], "method.rate is 'high': it must be float"),
        (["toy-points", "--method.rate", ".inf"], "method.rate is inf: it must be a finite number"),
        (
            ["ncplr", "--method.optimizer.betas", "[.nan, 0.9]"],
            "method.optimizer.betas is (nan, 0.9): it must be a finite",
        ),
        (
            ["toy-points", "--method.layer.kind", "relo"],
            "method.layer.kind is 'relo': it must be one of 'tanh', 'relu'",
        ),
        (["toy-points", "--method.names", "3"], "method.names is '3': it must be list[str] or null"),
        (["toy-points", "--precision", "16"], "precision is '16': it must be one of '32', 'bf16', 'fp16'"),
        (["toy-points", "--batch-size", "0", "--data", "."], "batch_size is 0: it must be at least 1"),
        (["toy-points", "--epochs", "0", "--data", "."], "epochs is 0: it must be at least 1"),
        (["toy-points", "--preset", "huge", "--data", "."], "preset is 'huge': use paper or small"),
        (["toy-points", "--device", "tpu", "--data", "POINTS"], "device is 'tpu': use auto, cpu, cuda"),
        (["toy-points", "--devices", "2", "--data", "POINTS"], "--out is missing: several processes"),
        (["toy-points", "--weights", "no/where", "--data", "POINTS"], "no/where"),
        (["toy-points", "--config", "no.yaml"], "--config: no.yaml cannot be read"),
        (["toy-points", "extra"], "unexpected argument 'extra'"),
        (["toy-points", "--method", '{"class_path": "os.system"}'], "class_path"),
        (["toy-points", "--method.layer", '{"class_path": "os.system"}'], "import paths are not accepted"),
        (["--resume", "no/where"], "no/where does not exist"),
        (["--resume", "."], "is not a run folder"),
        (
            ["--resume", ".", "--epochs", "3"],
            "--resume takes method, data and settings from the run: leave out '--epochs'",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(points, here, capsys, words, line):
    before = sorted(here.rglob("*"))
    words = [points if word == "POINTS" else word for word in words]
    arguments = ["train", *words]
    code = main(arguments)
    err = capsys.readouterr().err
    if not words:
        assert code == 2
        return
    assert code == 2, err
    assert err.startswith("mien: ")
    assert err.count("\n") == 1
    assert line in err
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("method:\n  rat: 1\n", "unknown key 'method.rat' in the configuration: did you mean 'method.rate'?"),
        ("epoch: 3\n", "unknown key 'epoch' in the configuration: did you mean 'epochs'?"),
        ("name: acmf\n", "c.yaml is for 'acmf', not for 'toy-points'"),
        ("method:\n  rate: [1]\n", "method.rate is '[1]': it must be float"),
        ("method:\n  layer:\n    class_path: os.system\n", "import paths are not accepted"),
        ("[1, 2", "c.yaml is not YAML or JSON"),
        ("just words", "c.yaml holds no options"),
        ("", "c.yaml holds no options"),
        ("strict: 'no'", "strict is 'no': it must be true or false"),
        ("method: !!python/object/apply:os.system ['touch hacked']\n", "c.yaml is not YAML or JSON"),
        ("\x00", "c.yaml is not YAML or JSON"),
    ],
)
def test_a_bad_configuration_is_one_line(points, here, capsys, text, line):
    (here / "c.yaml").write_text(text)
    assert main(["train", "toy-points", "--data", points, "--config", "c.yaml"]) == 2
    err = capsys.readouterr().err
    assert line in err
    assert err.count("\n") == 1
    assert not (here / "hacked").exists()


def test_the_name_may_be_in_the_configuration_only(points, here):
    (here / "c.json").write_text(json.dumps({"name": "toy-points", "data": points, "max_steps": 1, "out": "run"}))
    assert main(["train", "--config", "c.json"]) == 0
    assert (here / "run" / "model").is_dir()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["epochs", "batch_size", "precision", "device", "data", "preset", "kind", "x", "strict"])
METHOD_KEYS = st.sampled_from(["layer", "rate", "names", "class_path", "init_args", "x"])


@example({"strict": {"": None}}, {})
@given(st.dictionaries(KEYS, VALUES, max_size=3), st.dictionaries(METHOD_KEYS, VALUES, max_size=3) | VALUES)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_configuration_is_read_or_refused_in_one_line(here, options, method):
    # Fails when some YAML ends in another exception than BadInput, or in a message of several lines.
    (here / "fuzz.yaml").write_text(yaml.safe_dump({**options, "method": method}))
    parser = training_parser("toy-points", preset_of("toy-points", "paper"), "paper")
    try:
        values = parse(parser, ["--config", str(here / "fuzz.yaml")])
    except BadInput as error:
        text = str(error)
        assert "\n" not in text
    else:
        assert isinstance(values["epochs"], int)
        assert isinstance(values["method"]["rate"], float)


def _interrupt_once_there_is(path):
    """Ctrl-C as soon as training runs, however slow the machine is."""
    give_up = time.monotonic() + 60
    while not path.exists() and time.monotonic() < give_up:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


# --- resume ----------------------------------------------------------------------------------------------------
def test_ctrl_c_saves_and_resume_gives_the_same_weights(points, here, capsys):
    words = ["train", "toy-points", "--data", points, "--epochs", "6", "--threads", "1", "--seed", "3"]
    words += ["--checkpoint-every", "2"]
    assert main([*words, "--out", "whole"]) == 0
    slow = [*words, "--method.delay", "0.05"]
    assert main([*slow, "--out", "slow-whole"]) == 0
    timer = threading.Thread(target=_interrupt_once_there_is, args=(here / "cut" / "checkpoints" / "last.safetensors",))
    timer.start()
    code = main([*slow, "--out", "cut"])
    timer.join()
    assert code == 130
    assert "mien train --resume cut" in capsys.readouterr().err
    assert not (here / "cut" / "model").exists()
    assert main(["train", "--resume", "cut"]) == 0
    expected, found = weights(here / "slow-whole"), weights(here / "cut")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert all(torch.equal(value, found[name]) for name, value in weights(here / "whole").items())


def test_what_fails_before_the_first_step_leaves_no_run(points, here, monkeypatch, capsys):
    def no_memory(*_):
        raise RuntimeError("can't allocate memory")

    words = ["train", "toy-points", "--data", points, "--max-steps", "2", "--out", "run"]
    with monkeypatch.context() as broken:
        broken.setattr("mien.engine.loop._Loop._update", no_memory)
        assert main(words) == 2
    assert list(here.iterdir()) == []
    assert "not enough memory" in capsys.readouterr().err
    assert main(words) == 0
    before = weights(here / "run")
    assert main(words) == 2, "a run that is there is not overwritten"
    assert torch.equal(weights(here / "run")["network.0.weight"], before["network.0.weight"])


def test_a_resume_may_pick_the_best_by_another_metric(points, here):
    assert main(["train", "toy-points", "--data", points, "--max-steps", "2", "--monitor", "foo", "--out", "run"]) == 0
    job = read_job(here / "run")
    assert resumed(job, None, None, "auc").settings == replace(job.settings, monitor="auc")
    assert resumed(job, "cpu", 3, None) == replace(job, settings=replace(job.settings, device="cpu"), threads=3)
    assert main(["train", "--resume", "run", "--monitor", "auc"]) == 0


def test_resume_of_a_finished_run_changes_nothing(points, here):
    assert main(["train", "toy-points", "--data", points, "--max-steps", "3", "--out", "run"]) == 0
    before = weights(here / "run")
    assert main(["train", "--resume", "run", "--threads", "1", "--device", "cpu"]) == 0
    assert all(torch.equal(before[name], value) for name, value in weights(here / "run").items())


def test_resume_works_from_another_folder_and_after_a_start_without_checkpoint(points, here, monkeypatch, capsys):
    relative = os.path.relpath(points, here)
    assert main(["train", "toy-points", "--data", relative, "--max-steps", "3", "--out", "run", "--threads", "1"]) == 0
    before = weights(here / "run")
    (here / "run" / "checkpoints" / "last.safetensors").unlink()
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(["train", "--resume", str(here / "run")]) == 0
    assert "starts at its beginning" in capsys.readouterr().out
    assert all(torch.equal(before[name], value) for name, value in weights(here / "run").items())


def test_a_run_from_python_data_cannot_be_resumed_here(here, capsys):
    run = here / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"format": 1, "origin": None}))
    assert main(["train", "--resume", "run"]) == 2
    assert "was started from Python" in capsys.readouterr().err
    (run / "config.json").write_text(json.dumps({"format": 1, "origin": {"format": 99, "method": "toy-points"}}))
    assert main(["train", "--resume", "run"]) == 2
    assert "has format 99: this mien reads up to 1; update mien" in capsys.readouterr().err
    (run / "config.json").write_text("{")
    assert main(["train", "--resume", "run"]) == 2
    assert "is not the record of a run" in capsys.readouterr().err


# --- the rest ---------------------------------------------------------------------------------------------------
def test_weights_are_the_start_of_fine_tuning(points, here):
    base = ["train", "toy-points", "--data", points, "--max-steps", "2", "--threads", "1"]
    assert main([*base, "--out", "first"]) == 0
    # With a learning rate of 0 the weights that come out are those that went in.
    assert main([*base, "--method.rate", "0", "--seed", "9", "--weights", "first", "--out", "second"]) == 0
    first, second = weights(here / "first"), weights(here / "second")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert main([*base, "--method.layer.width", "9", "--weights", "first", "--out", "third"]) == 2


def test_the_seed_decides_the_first_weights(points, here):
    for out, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        words = ["train", "toy-points", "--data", points, "--max-steps", "1", "--method.rate", "0", "--seed", seed]
        assert main([*words, "--out", out]) == 0
    a, b, c = (weights(here / name)["network.0.weight"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_dry_run_estimates_and_writes_nothing(points, here, capsys):
    words = ["train", "toy-points", "--data", points, "--dry-run", "--method.delay", "0.02", "--epochs", "50"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "samples: 24"
    assert lines[1] == "steps: 150 in 1 phase"  # 3 batches of 10, 10, 4, fifty times
    seconds = float(lines[2].split("(")[1].split()[0])
    assert 0.02 <= seconds < 0.2
    assert lines[3].startswith("peak memory: ")
    assert list(here.iterdir()) == []


def test_help_of_a_method_shows_its_options(capsys):
    assert main(["train", "toy-points", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--method.layer.width" in out
    assert "Its width." in out
    assert main(["train", "--help"]) == 0
    assert "mien train --resume RUN" in capsys.readouterr().out
