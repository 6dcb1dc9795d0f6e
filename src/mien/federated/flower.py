# SPDX-License-Identifier: Apache-2.0
"""Federated rounds over a network with Flower: the server and the clients that `Rounds` plays in one process.

    machine of the server    history = serve(method, Rounds(20, clients=2), address="127.0.0.1:8080")
    machine of a client      join(method, my_faces, client=0, settings=Settings(batch_size=20), address=...)

All make `method` from the same configuration, and from the same seed where parts of it stay with the client. The server
says which phase of the run comes next, so that a client draws the batches that it would draw in one process: the
weights are the same. A client that fails or disappears is left out of its round and recorded.

Flower's connection-based server and client are used, which need nothing but a port; its newer deployment runtime
installs applications on the machines that it runs on. Flower reports every start to its makers unless it is told not
to: here it is told. Needs the extra `federated`.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch.utils.data import Dataset

from mien.engine import Method, Outcome, Phase, Rounds, Settings
from mien.errors import BadInput, MissingExtra
from mien.federated.roles import Host, Member, load

ADDRESS = "127.0.0.1:8080"
TELEMETRY = "FLWR_TELEMETRY_ENABLED"
Certificates = tuple[bytes, bytes, bytes]
"""PEM: of the authority, of the server, and the server's key."""


def serve(
    method: Method,
    schedule: Rounds,
    *,
    address: str = ADDRESS,
    seed: int = 0,
    wait: float = 600.0,
    round_timeout: float | None = None,
    certificates: Certificates | None = None,
) -> list[Outcome]:
    """Run the rounds, and leave the average of the clients' weights in `method`.

    Args:
        method: With the first weights; in place.
        schedule: The rounds.
        address: Host and port to listen on.
        seed: Of the run, the same as the clients' `Settings.seed`.
        wait: Seconds to wait for all clients before the first round; then those that are there must do.
        round_timeout: Seconds after which a round goes on without the clients that have not answered; None for never.
        certificates: For TLS. Other hosts than this one are refused without.

    Returns:
        What became of every client in every round, as a run in one process remembers it.

    Raises:
        MissingExtra: Flower is not installed.
        BadInput: An address without TLS, two clients of one number, or weights that cannot travel.
        TrainingStopped: No client finished a round.
    """
    flower = _flower()
    _check_address(address, certificates is not None)
    server = Host(method, schedule, seed)
    with _quiet():
        flower.server.start_server(
            server_address=address,
            config=flower.server.ServerConfig(num_rounds=schedule.count, round_timeout=round_timeout),
            strategy=_strategy(flower, server, wait),
            certificates=certificates,
        )
    if server.error is not None:
        raise server.error
    load(method, server.federation.common())
    method.stands_for(None)
    return server.history


def join(
    method: Method,
    data: Dataset[Any],
    *,
    client: int,
    settings: Settings,
    held: Dataset[Any] | None = None,
    address: str = ADDRESS,
    wait: float = 600.0,
    certificate: bytes | None = None,
) -> int:
    """Take part as a client until the server is done; `method` then holds the shared weights and its personal ones.

    Args:
        method: Made as the server's; in place.
        data: What this client alone holds.
        client: Its number, from 0, below the schedule's `clients`.
        settings: How it trains; `seed` is the run's.
        held: Held-out data, whose validation metrics are sent after every round; None sends none.
        address: Of the server.
        wait: Seconds to keep trying to reach it.
        certificate: PEM of the authority that signed the server's certificate, for TLS.

    Returns:
        In how many rounds it trained.

    Raises:
        MissingExtra: Flower is not installed.
        BadInput: A negative number, an address without TLS, or a server that cannot be reached.
    """
    flower = _flower()
    _check_address(address, certificate is not None)
    if client < 0:
        raise BadInput(f"client is {client}: it must be 0 or more")
    member = Member(method, data, client, settings, held)
    _wait_for(address, wait)
    try:
        with _quiet():
            flower.client.start_client(
                server_address=address,
                client=_client(flower, member),
                root_certificates=certificate,
                insecure=certificate is None,
            )
    except _connection_error() as error:
        raise BadInput(f"the server at {address} went away: {_first_line(error)}") from error
    return member.rounds


# --- Flower's side --------------------------------------------------------------------------------------------
def _strategy(flower: Any, server: Host, wait: float) -> Any:
    common = flower.common
    numbers: dict[str, int] = {}  # Flower's name of a connection -> number of the client

    class Strategy(flower.server.strategy.Strategy):
        phases: Sequence[Phase] = ()
        why: Mapping[int, str] = {}
        waited = False

        def initialize_parameters(self, client_manager: Any) -> Any:
            return common.ndarrays_to_parameters(server.shared())

        def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> list[Any]:
            self.phases, self.why = server.phases(), {}
            if not self.phases:
                return []
            if not self.waited:
                client_manager.wait_for(server.schedule.clients, wait)
                self.waited = True
            try:
                present = self._present(client_manager)
            except BadInput as error:
                server.error = error
                return []
            absent = [int(phase.client or 0) for phase in self.phases if phase.client not in present]
            self.why = dict.fromkeys(absent, "it is not connected")
            if not any(phase.client in present for phase in self.phases):
                server.close(self.phases, {}, self.why)
                return []
            return [
                (present[phase.client], common.FitIns(parameters, _told(phase)))
                for phase in self.phases
                if phase.client in present
            ]

        def _present(self, client_manager: Any) -> dict[int | None, Any]:
            found: dict[int | None, Any] = {}
            for name, proxy in sorted(client_manager.all().items()):
                if name not in numbers:
                    asked = proxy.get_properties(common.GetPropertiesIns({}), wait, None)
                    numbers[name] = int(asked.properties["client"])
                number = numbers[name]
                if number in found or number >= server.schedule.clients:
                    last = server.schedule.clients - 1
                    raise BadInput(f"client {number} joined twice, or is not one of 0 to {last}: give each its number")
                found[number] = proxy
            return found

        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> tuple[Any, dict[str, Any]]:
            came = {
                int(answer.metrics["client"]): (common.parameters_to_ndarrays(answer.parameters), answer.num_examples)
                for _, answer in results
            }
            refused = [failure for failure in failures if isinstance(failure, tuple)]
            why = {numbers[proxy.cid]: answer.status.message for proxy, answer in refused}
            server.close(self.phases, came, {**self.why, **why})
            return common.ndarrays_to_parameters(server.shared()), {}

        def configure_evaluate(self, server_round: int, parameters: Any, client_manager: Any) -> list[Any]:
            if not self.phases or server.error is not None:
                return []
            present = list(client_manager.all().values())
            return [(proxy, common.EvaluateIns(parameters, {})) for proxy in present]

        def aggregate_evaluate(self, server_round: int, results: Any, failures: Any) -> tuple[None, dict[str, Any]]:
            found = {int(answer.metrics.pop("client")): dict(answer.metrics) for _, answer in results}
            server.note_metrics(found)
            return None, {}

        def evaluate(self, server_round: int, parameters: Any) -> None:
            return None

    return Strategy()


def _told(phase: Phase) -> dict[str, Any]:
    return {"index": phase.index, "round": phase.round, "client": phase.client, "epochs": phase.epochs}


def _client(flower: Any, member: Member) -> Any:
    common = flower.common
    fine = common.Status(common.Code.OK, "")

    class Client(flower.client.Client):
        def get_properties(self, ins: Any) -> Any:
            return common.GetPropertiesRes(fine, {"client": member.client})

        def fit(self, ins: Any) -> Any:
            told = dict(ins.config)
            phase = Phase(name=f"round {told['round']}, client {told['client']}", **told)
            try:
                arrays, samples = member.train(common.parameters_to_ndarrays(ins.parameters), phase)
            except Exception as error:  # noqa: BLE001 - whatever stops a client must not stop the round; the server is told
                reason = common.Status(common.Code.FIT_NOT_IMPLEMENTED, f"{type(error).__name__}: {error}")
                return common.FitRes(reason, ins.parameters, 0, {"client": member.client})
            return common.FitRes(fine, common.ndarrays_to_parameters(arrays), samples, {"client": member.client})

        def evaluate(self, ins: Any) -> Any:
            found = member.validate(common.parameters_to_ndarrays(ins.parameters))
            return common.EvaluateRes(fine, 0.0, 1, {"client": member.client, **found})

    return Client()


def _flower() -> Any:
    """The package, with its telemetry off. Raises BadInput where it was imported before with telemetry on."""
    os.environ[TELEMETRY] = "0"
    try:
        import flwr
        import flwr.client
        import flwr.common
        import flwr.server
    except ImportError:
        raise MissingExtra("clients on other machines", "federated") from None
    parts = [module for name, module in list(sys.modules.items()) if name.split(".")[0] == "flwr"]
    if any(getattr(module, TELEMETRY, "0") != "0" for module in parts):
        raise BadInput(f"flwr was imported with its telemetry on: set {TELEMETRY}=0 before it is imported")
    return flwr


def _check_address(address: str, encrypted: bool) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise BadInput(f"address is {address!r}: give host and port, for instance {ADDRESS}")
    try:
        here = host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        here = False
    if not here and not encrypted:
        raise BadInput(f"address is {address!r}, another host, without TLS: give certificates, weights must not leak")


def _wait_for(address: str, seconds: float) -> None:
    """Until something listens there: Flower's own client gives up at the first refusal, whatever it is told."""
    host, _, port = address.rpartition(":")
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
        except OSError as error:
            if time.monotonic() >= end:
                raise BadInput(f"nothing answers at {address} after {seconds:g} s: {error.strerror or error}") from None
            time.sleep(0.2)
        else:
            return


@contextmanager
def _quiet() -> Iterator[None]:
    """Flower's log without its notices, and the handlers of signals that it replaces put back."""
    log = logging.getLogger("flwr")
    level = log.level
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _connection_error() -> type[Exception]:
    import grpc

    error: type[Exception] = grpc.RpcError
    return error


def _first_line(error: Exception) -> str:
    details = getattr(error, "details", None)
    text = str(details() if callable(details) else error) or type(error).__name__
    return text.splitlines()[0][:200]
