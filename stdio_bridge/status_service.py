"""`mcp-bridge-status`: answers for the bridges of one host, and wakes none that is asleep.

A bridge that has exited because nobody used it would be started by any connection, a scrape of its metrics included.
This asks systemd first. Of a bridge that sleeps it knows the metrics that it has seen last, and their counters go on
from there when the bridge runs again. It is started by its socket, and exits itself when nobody asks.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

STATUS_OF_SLEEPER = json.dumps(
    {"mcp-stdio-bridge": {"answered": None, "needed": None, "failed": None, "asleep": True}}
).encode()
METRICS = "text/plain; version=0.0.4; charset=utf-8"
_JSON = "application/json"
_LISTEN_FD = 3
_IDLE_SECONDS = 600
_REQUEST_SECONDS = 10.0
# Fewer than the unit may have tasks (modules/config/status.nix). What connects beyond waits in the socket.
_MAX_CONNECTIONS = 64
_BRIDGE_SECONDS = 8.0
_SYSTEMD_SECONDS = 5.0
# How long an answer of systemd is believed. A bridge that falls asleep in this time may be woken by a question.
_BELIEF_SECONDS = 1.0
_MAX_BYTES = 16 << 20
_ADDED = frozenset({"counter", "histogram"})
# Hidden tools stay hidden while the bridge is asleep. All other gauges count what runs in it.
_KEPT_GAUGES = frozenset({"mcp_bridge_hidden_tools"})


class State(Enum):
    """What systemd says of a bridge."""

    ASLEEP = "asleep"
    """It does not run, and its socket waits for the next request."""
    STARTED = "started"
    """It runs, or systemd tries to start it."""


@dataclass(frozen=True)
class Bridge:
    """The units of one bridge, and its address."""

    service: str
    socket: str
    address: tuple[str, int]


class Unavailable(Exception):
    """There is no answer; the text says why."""


@dataclass
class Metric:
    """One metric of a page: its description, its kind, and the value of each sample by name and labels."""

    head: list[str] = field(default_factory=list)
    kind: str = ""
    samples: dict[str, float] = field(default_factory=dict)


def parse_page(text: str) -> dict[str, Metric]:
    """Read a page in Prometheus' text format, as bridges write it. Raises ValueError.

    A sample without a description of its name before it makes a metric of unknown kind.
    """
    metrics: dict[str, Metric] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            _, word, name, rest = (*line.split(" ", 3), "")[:4]
            metric = metrics.setdefault(name, Metric())
            metric.head.append(line)
            if word == "TYPE":
                metric.kind = rest
        elif line and not line.startswith("#"):
            sample, _, value = line.rpartition(" ")
            if not name or not sample.startswith(name):
                name = sample.partition("{")[0]
            metrics.setdefault(name, Metric()).samples[sample] = float(value)
    return metrics


class Counters:
    """The metrics of one bridge, whose counters go on over its restarts."""

    def __init__(self) -> None:
        self._invocation = ""
        self._is_ahead = False
        self._before: dict[str, dict[str, float]] = {}
        self._latest: dict[str, Metric] = {}

    def update(self, text: str, invocation: str) -> None:
        """Take a page of the bridge that runs as this invocation of its unit. Raises ValueError."""
        page = parse_page(text)
        is_same, has_fallen = invocation == self._invocation, self._has_fallen(page)
        if has_fallen or not (is_same or self._is_ahead):
            for name, metric in self._latest.items():
                if metric.kind in _ADDED:
                    before = self._before.setdefault(name, {})
                    for sample, value in metric.samples.items():
                        before[sample] = before.get(sample, 0.0) + value
        # The next process may have answered, which systemd had not started yet when it was asked.
        self._is_ahead = is_same and (has_fallen or self._is_ahead)
        self._invocation, self._latest = invocation, page

    def _has_fallen(self, page: Mapping[str, Metric]) -> bool:
        return any(
            page[name].samples.get(sample, 0.0) < value
            for name, metric in self._latest.items()
            if metric.kind in _ADDED and name in page
            for sample, value in metric.samples.items()
        )

    def render(self, *, asleep: bool) -> bytes:
        """Write the page as it was seen last, but with the gauges of what runs at 0 while the bridge is asleep."""
        lines = []
        for name, metric in self._latest.items():
            before = self._before.get(name, {})
            is_zero = asleep and metric.kind == "gauge" and name not in _KEPT_GAUGES
            lines += metric.head
            for sample in {**metric.samples, **before}:
                value = 0.0 if is_zero else metric.samples.get(sample, 0.0) + before.get(sample, 0.0)
                lines.append(f"{sample} {value:.15g}")
        lines += [
            "# HELP mcp_bridge_asleep Whether the bridge has exited because nobody uses it",
            "# TYPE mcp_bridge_asleep gauge",
            f"mcp_bridge_asleep {int(asleep)}",
        ]
        return "".join(f"{line}\n" for line in lines).encode()


class Host:
    """The bridges of this host, by the names of their units."""

    def __init__(
        self, bridges: Mapping[str, Bridge], ask_systemd: Callable[[list[str]], str], clock: Callable[[], float]
    ) -> None:
        self.bridges = bridges
        self._ask_systemd = ask_systemd
        self._clock = clock
        self._lock = threading.Lock()
        self._asked_at = -float("inf")
        self._units: dict[str, Mapping[str, str]] = {}
        self._counters = {name: Counters() for name in bridges}
        self._locks = {name: threading.Lock() for name in bridges}

    def status(self, name: str) -> bytes:
        """Return a bridge's status. Raises Unavailable."""
        state, _ = self.find(name)
        return STATUS_OF_SLEEPER if state is State.ASLEEP else _ask(self.bridges[name], "/statusz")

    def metrics(self, name: str) -> bytes:
        """Return a bridge's metrics. Raises Unavailable."""
        with self._locks[name]:
            counters = self._counters[name]
            state, invocation = self.find(name)
            if state is not State.ASLEEP:
                try:
                    counters.update(_ask(self.bridges[name], "/metrics").decode(), invocation)
                except ValueError as error:
                    raise Unavailable("the bridge answered something else than metrics") from error
            return counters.render(asleep=state is State.ASLEEP)

    def find(self, name: str) -> tuple[State, str]:
        """Return whether a bridge sleeps, and the invocation of its unit. Raises Unavailable."""
        bridge = self.bridges[name]
        with self._lock:
            if self._clock() - self._asked_at >= _BELIEF_SECONDS:
                self._units = _parse_units(
                    self._ask_systemd([unit for each in self.bridges.values() for unit in (each.service, each.socket)])
                )
                self._asked_at = self._clock()
            service, listener = self._units.get(bridge.service, {}), self._units.get(bridge.socket, {})
        active, invocation = service.get("ActiveState", ""), service.get("InvocationID", "")
        if active != "inactive":
            return State.STARTED, invocation
        if listener.get("ActiveState") != "active":
            raise Unavailable("the bridge does not run, and its socket does not listen")
        return State.ASLEEP, invocation


def _parse_units(shown: str) -> dict[str, Mapping[str, str]]:
    """Read what `systemctl show` writes: a block of properties for each unit."""
    blocks = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in shown.split("\n\n")]
    return {block["Id"]: block for block in blocks if "Id" in block}


def ask_systemd(units: list[str]) -> str:
    """Return the states of units. Raises Unavailable."""
    command = ["systemctl", "show", "--property=Id,ActiveState,InvocationID", "--", *units]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SYSTEMD_SECONDS, check=True)  # noqa: S603 - the names are the configuration's
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable("systemd does not answer") from error
    return done.stdout


def _ask(bridge: Bridge, path: str) -> bytes:
    connection = http.client.HTTPConnection(*bridge.address, timeout=_BRIDGE_SECONDS)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        body = answer.read(_MAX_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable("the bridge does not answer") from error
    finally:
        connection.close()
    if answer.status != HTTPStatus.OK:
        raise Unavailable(f"the bridge answered HTTP {answer.status}")
    return body


class Server(ThreadingHTTPServer):
    """Serves a socket that is handed over, until nobody has asked for some time.

    A client has `request_seconds` to send its request, and as long to read the answer, however slow it is.
    """

    daemon_threads = False

    def __init__(
        self,
        listener: socket.socket,
        host: Host,
        *,
        request_seconds: float = _REQUEST_SECONDS,
        max_connections: int = _MAX_CONNECTIONS,
    ) -> None:
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.host = host
        self.request_seconds = request_seconds
        self._room = threading.Semaphore(max_connections)

    def serve(self, idle_seconds: float) -> None:
        """Answer questions; return once none has come for so long. What comes later waits for the next process."""
        waiting = select.poll()
        waiting.register(self.socket.fileno(), select.POLLIN)
        while waiting.poll(idle_seconds * 1000):
            self.handle_request()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a client in a thread, once there is room for it."""
        self._room.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a client, and make room for the next one."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report an error, unless it is that the client has left."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Received(io.RawIOBase):
    """What a client sends until a deadline. Each read has only the time that is left, or a slow client had no end."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._until = time.monotonic() + seconds

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what there is. Raises TimeoutError after the deadline."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class Handler(BaseHTTPRequestHandler):
    """Answers `/UNIT/statusz` and `/UNIT/metrics`."""

    server: Server

    def setup(self) -> None:
        """Prepare to read a request."""
        super().setup()
        self.rfile = io.BufferedReader(_Received(self.connection, self.server.request_seconds))

    def do_GET(self) -> None:
        """Answer for one bridge."""
        host = self.server.host
        _, name, page, *rest = (*self.path.split("/"), "", "")[:4]
        try:
            if name not in host.bridges or any(rest):
                self._reply(HTTPStatus.NOT_FOUND, "text/plain", b"not found: /UNIT/statusz or /UNIT/metrics\n")
            elif page == "statusz":
                self._reply(HTTPStatus.OK, _JSON, host.status(name))
            elif page == "metrics":
                self._reply(HTTPStatus.OK, METRICS, host.metrics(name))
            else:
                self._reply(HTTPStatus.NOT_FOUND, "text/plain", b"not found: /UNIT/statusz or /UNIT/metrics\n")
        except Unavailable as error:
            self._reply(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"{error}\n".encode())

    def _reply(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.connection.settimeout(self.server.request_seconds)
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Log nothing: it is asked all the time."""


def read_bridges(path: Path) -> dict[str, Bridge]:
    """Read the configuration: an object of `url` and `socket` by the name of each bridge's service."""
    bridges = {}
    for name, members in json.loads(path.read_text()).items():
        url = urlsplit(members["url"])
        bridges[name] = Bridge(f"{name}.service", members["socket"], (url.hostname or "", url.port or 80))
    return bridges


def main() -> int:
    """Serve the socket that systemd hands over. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="mcp-bridge-status", description="Answer for the bridges of this host, without waking those that sleep."
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the bridges of this host, as JSON")
    arguments = parser.parse_args()
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        parser.error("systemd hands over no socket")
    host = Host(read_bridges(arguments.config), ask_systemd, time.monotonic)
    Server(socket.socket(fileno=_LISTEN_FD), host).serve(_IDLE_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
