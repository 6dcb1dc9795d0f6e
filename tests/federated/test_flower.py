# SPDX-License-Identifier: Apache-2.0
"""A real Flower server and two client processes on loopback, against the run in one process."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mien.engine import fit
from mien.engine.federation import is_personal
from mien.errors import BadInput, MissingExtra
from mien.federated import flower

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import flower_process as process  # noqa: E402

needs_flower = pytest.mark.skipif(
    importlib.util.find_spec("flwr") is None, reason="flwr is not installed: pip install 'mien[federated]'"
)


def run(tmp_path, dies_in=None):
    """Server and clients to their end: what the server and the first client wrote, and the exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    script = [sys.executable, str(HERE / "flower_process.py")]
    commands = {
        "client0": [*script, "client", address, str(tmp_path / "client0"), "0"],
        "client1": [
            *script,
            "client",
            address,
            str(tmp_path / "client1"),
            "1",
            *([] if dies_in is None else [dies_in]),
        ],
        "server": [*script, "server", address, str(tmp_path / "server")],
    }
    running = {}
    for name, command in commands.items():
        time.sleep(2.0 if name == "server" else 0.0)  # clients that are there first must wait for it
        running[name] = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        errors = {name: child.communicate(timeout=240)[1] for name, child in running.items()}
    finally:
        for child in running.values():
            child.kill()
    return {name: child.returncode for name, child in running.items()}, errors


def together(broken_round=None):
    """The same in one process."""
    method = process.make()

    def begin(phase, _):
        if phase.client == 1 and phase.round == broken_round:
            raise RuntimeError("dead")

    method.begin_phase = begin
    fit(method, process.data(), schedule=process.SCHEDULE, settings=process.SETTINGS)
    return method


def largest_difference(folder, method):
    state, personal = load_file(folder / "server.safetensors"), method.personal
    own = method.state_dict()
    shared = [name for name in own if not is_personal(name, personal)]
    assert len(shared) > 20
    assert len(shared) < len(own)
    return max(float((state[name].double() - own[name].double()).abs().max()) for name in shared)


@needs_flower
def test_two_client_processes_give_the_weights_of_one_process_and_nothing_is_reported(tmp_path):
    codes, errors = run(tmp_path)
    assert set(codes.values()) == {0}, errors
    assert largest_difference(tmp_path, together()) < 1e-5
    said = {name: json.loads((tmp_path / name).read_text()) for name in codes}
    assert [said[name]["opened"] for name in codes] == [[], [], []], "telemetry"
    assert [said[f"client{c}"]["rounds"] for c in (0, 1)] == [2, 2]
    last = said["server"]["history"][-1]
    assert last["samples"] == 40
    assert {"auc", "client0/auc", "client1/auc"} <= set(last["metrics"])
    assert last["metrics"]["auc"] == pytest.approx(
        (last["metrics"]["client0/auc"] + last["metrics"]["client1/auc"]) / 2
    )


@needs_flower
def test_a_client_that_is_killed_in_mid_round_is_left_out_and_the_server_says_so(tmp_path):
    codes, errors = run(tmp_path, dies_in="1")
    assert codes == {"server": 0, "client0": 0, "client1": 9}, errors
    assert "client 1 is left out of round 1: it did not answer" in errors["server"]
    assert largest_difference(tmp_path, together(broken_round=1)) < 1e-5
    history = json.loads((tmp_path / "server").read_text())["history"]
    assert [bool(outcome["failure"]) for outcome in history] == [False, False, False, True]


def test_addresses_of_other_hosts_need_tls():
    for address in ("127.0.0.1:1", "localhost:80", "[::1]:9"):
        flower._check_address(address, encrypted=False)
    flower._check_address("192.0.2.7:8080", encrypted=True)
    for address, message in [
        ("192.0.2.7:8080", "without TLS"),
        ("0.0.0.0:1", "without TLS"),
        ("here", "host and port"),
    ]:
        with pytest.raises(BadInput, match=message):
            flower._check_address(address, encrypted=False)


def test_a_client_waits_for_a_server_that_comes_late_and_no_longer_than_it_is_told():
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{late.getsockname()[1]}"
        with pytest.raises(BadInput, match=rf"nothing answers at {address} after 0.5 s"):
            flower._wait_for(address, 0.5)
        threading.Timer(1.0, late.listen).start()
        started = time.monotonic()
        flower._wait_for(address, 60.0)
        assert 0.9 < time.monotonic() - started < 30.0


@needs_flower
def test_a_client_says_so_where_nobody_listens():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(BadInput, match=f"nothing answers at {address} after 0 s"):
            flower.join(
                process.make(), process.Noise(0), client=0, settings=process.SETTINGS, address=address, wait=0.0
            )


def test_without_flower_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "flwr", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mien\[federated\]'"):
        flower.serve(process.make(), process.SCHEDULE)


def test_telemetry_that_is_on_already_is_refused(monkeypatch):
    from types import ModuleType

    for name in ("flwr", "flwr.client", "flwr.common", "flwr.server", "flwr.supercore.telemetry"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setenv(flower.TELEMETRY, "1")
    sys.modules["flwr.supercore.telemetry"].FLWR_TELEMETRY_ENABLED = "1"
    with pytest.raises(BadInput, match="telemetry on"):
        flower._flower()
