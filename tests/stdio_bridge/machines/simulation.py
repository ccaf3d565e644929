"""A whole bridge in this process, in simulated time, between simulated clients and simulated processes of a server.

Clients call the application as the HTTP server does. Processes are at the other end of real pipes. Nothing in between
is replaced, so that a state machine over this holds whatever the bridge is made of.
"""

from __future__ import annotations

import array
import fcntl
import gc
import itertools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import termios
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast
from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from stdio_bridge.app import Bridge
from stdio_bridge.http.exchange import Headers, Request, Response
from stdio_bridge.http.identity import Identity, Revoked
from stdio_bridge.io.event_loop import Loop
from stdio_bridge.options import parse_options
from tests.stdio_bridge.modern_client import NAMED_BY, PREFIX, VERSION

Message = dict[str, Any]

IDLE_SECONDS = 600.0
CALL_SECONDS = 30.0
CALL_SECONDS_IN_ALL = 70.0
INPUT_SECONDS = 45.0
DRAIN_SECONDS = 20.0
STOP_SECONDS = 3.0
_OPTIONS = (
    *("--listen", "127.0.0.1:0", "--no-identity", "--keep-alive", "25"),
    *("--idle-timeout", f"{IDLE_SECONDS}", "--input-timeout", f"{INPUT_SECONDS}"),
    *("--call-timeout", f"{CALL_SECONDS}", "--call-timeout-total", f"{CALL_SECONDS_IN_ALL}"),
    *("--starts-at-once", "1000"),
    *("--drain-timeout", f"{DRAIN_SECONDS}", "--stop-timeout", f"{STOP_SECONDS}"),
)
# What ends much, so that it must not happen all the time.
RARELY = st.integers(0, 3).map(lambda number: number == 0)
# Beyond every number that a process of this machine can have.
_FIRST_PID = 1 << 30
# What a server says holds marks: whose call it is about, and whose process says it.
_MARKS = re.compile(r"<(call|user|session) ([^<>]*)>")


class NamedUser:
    """Takes the assertion's text for the user's name."""

    def identify(self, assertion: str | None) -> Identity:
        return Identity(user=assertion or "", grant=f"grant of {assertion}")

    def parse_revocation(self, body: bytes) -> Revoked:
        return Revoked(grant=body.decode())

    def check_survey(self, body: bytes) -> None:
        """Believe every request."""

    def sign_credential_request(self, assertion: str, nonce: str) -> bytes:
        return f"{assertion} {nonce}".encode()

    def key_for(self, purpose: str) -> bytes:
        return purpose.encode().ljust(32)


@dataclass(eq=False)
class Answer:
    """What a client gets for one request, as `Response` promises it; the bridge may say nothing after the end."""

    user: str
    request_id: object = None
    headers: Headers = field(default_factory=list)
    on_disconnect: Callable[[], None] | None = None
    started: bool = False
    finished: bool = False
    gone: bool = False
    status: int = 0
    sent_headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    _read: int = 0
    _messages: list[Message] = field(default_factory=list)

    def reply(self, status: str, headers: Headers, body: bytes = b"") -> None:
        if self._is_open(begun=False):
            self.started = self.finished = True
            self._begin(status, headers)
            self.data = body
            if body and self.sent_headers["Content-Type"] == "application/json":
                self._messages = [json.loads(body)]

    def start(self, headers: Headers, data: bytes) -> None:
        if self._is_open(begun=False):
            self.started = True
            self._begin("200 OK", headers)
            self.data = data

    def write(self, data: bytes) -> None:
        if self._is_open(begun=True):
            self.data += data

    def finish(self) -> None:
        self.finished = True

    def leave(self) -> None:
        """Disconnect."""
        if not self.finished:
            self.finished = self.gone = True
            if self.on_disconnect is not None:
                self.on_disconnect()

    @property
    def messages(self) -> list[Message]:
        """What has come, but for comments and events without data."""
        if self.sent_headers.get("Content-Type") == "text/event-stream":
            end = self.data.rfind(b"\n\n") + 2
            for event in self.data[self._read : max(self._read, end)].split(b"\n\n"):
                for line in event.split(b"\n"):
                    if line.startswith(b"data: {"):
                        self._messages.append(json.loads(line[6:]))
            self._read = max(self._read, end)
        return self._messages

    @property
    def events(self) -> dict[str, bytes]:
        """The events of a stream that have an id, in their order."""
        events = {}
        for event in self.data.split(b"\n\n"):
            ids = [line[4:].decode() for line in event.split(b"\n") if line.startswith(b"id: ")]
            if ids:
                assert ids[-1] not in events, "an event comes once on a response"
                events[ids[-1]] = event
        return events

    @property
    def outcomes(self) -> list[Message]:
        """Responses, of which there is to be one."""
        return [message for message in self.messages if "method" not in message]

    @property
    def outcome(self) -> Message | None:
        return self.outcomes[0] if self.outcomes else None

    @property
    def questions(self) -> list[Message]:
        """What the server asked for in a legacy session."""
        return [message for message in self.messages if "method" in message and "id" in message]

    def marks(self, kind: str) -> set[str]:
        return {name for found, name in _MARKS.findall(self.data.decode()) if found == kind}

    def _is_open(self, *, begun: bool) -> bool:
        if self.gone:
            return False
        assert not self.finished, "nothing is sent after the end of a response"
        assert self.started is begun
        return True

    def _begin(self, status: str, headers: Headers) -> None:
        self.status = int(status.partition(" ")[0])
        self.sent_headers = dict([*headers, *self.headers])


@dataclass(eq=False)
class Incoming:
    """A request as its client sends it."""

    method: str
    path: str
    content: bytes
    headers: dict[str, str]

    def body(self) -> bytes:
        return self.content


class Process:
    """One process of the server: the other end of its pipes. It reads at once and writes what a test says."""

    numbers = itertools.count(_FIRST_PID)

    def __init__(self, simulation: Simulation, **pipes: object) -> None:
        assert (pipes["stdin"], pipes["stdout"], pipes["stderr"]) == (subprocess.PIPE,) * 3
        self.pid = next(self.numbers)
        self.started_for = simulation.serving
        self._simulation = simulation
        self._input, to_bridge = os.pipe()
        self.stdin = open(to_bridge, "wb", buffering=0)  # noqa: SIM115, PTH123 - the bridge closes it
        from_bridge, self._output = os.pipe()
        self.stdout = open(from_bridge, "rb", buffering=0)  # noqa: SIM115, PTH123 - as above
        from_bridge, self._errors = os.pipe()
        self.stderr = open(from_bridge, "rb", buffering=0)  # noqa: SIM115, PTH123 - as above
        self.watched, self._exit = os.pipe()
        for descriptor in (self._input, self._output):
            os.set_blocking(descriptor, False)
        self._unread = b""
        self.received: list[Message] = []
        self.status: int | None = None
        self.told_to_end = False
        self._closed = False

    @property
    def alive(self) -> bool:
        return self.status is None

    def say(self, message: object) -> None:
        self.write(json.dumps(message).encode() + b"\n")

    def write(self, data: bytes) -> None:
        """Write to stdout; the bridge reads when the loop turns."""
        while data and self.alive:
            try:
                data = data[os.write(self._output, data) :]
            except BlockingIOError:
                self._simulation.loop.turn()

    def read(self) -> Iterator[Message]:
        """Yield what the bridge has written since the last time."""
        while self.alive and not self.told_to_end:
            try:
                data = os.read(self._input, 1 << 16)
            except BlockingIOError:
                break
            self._unread += data
            self.told_to_end = not data
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            message = json.loads(line)
            self.received.append(message)
            yield message

    def die(self, status: int) -> None:
        if self.alive:
            self.status = status
            self._close(self._input, self._output, self._errors)
            os.write(self._exit, b"x")

    def wait(self) -> int:
        assert self.status is not None, "a process is reaped once it has ended"
        return self.status

    @property
    def unread_by_bridge(self) -> bool:
        if not self.alive or self.stdout.closed:
            return False
        size = array.array("i", [0])
        fcntl.ioctl(self.stdout.fileno(), termios.FIONREAD, size)
        return bool(size[0])

    def signal(self, number: signal.Signals) -> None:
        if number is signal.SIGKILL:
            self.die(-number)

    def close(self) -> None:
        if self.alive:
            self._close(self._input, self._output, self._errors)
        self._close(self._exit)

    def _close(self, *descriptors: int) -> None:
        for descriptor in descriptors:
            os.close(descriptor)


class SimulatedLoop(Loop):
    """A loop that never waits: what is there is handled, and time passes when the test says so."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.stopped_by_bridge = False
        super().stop()  # a turn of a loop that stops handles what is there and waits for nothing

    def stop(self) -> None:
        self.stopped_by_bridge = True


class _Failures(logging.Handler):
    """Keeps each exception that the bridge caught and logged: none is expected."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.caught: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None and record.exc_info[1] is not None:
            self.caught.append(record.exc_info[1])


class Simulation:
    """The bridge, its time, and what is around it. `react` is told of each message that a process gets."""

    def __init__(self, *options: str, react: Callable[[Process, Message], None]) -> None:
        gc.freeze()  # what is left at the end is looked for among what comes from now on
        self.now = 1000.0
        self.loop = SimulatedLoop(lambda: self.now)
        self.processes: list[Process] = []
        self.serving: str | None = None
        self._react = react
        self._failures = _Failures()
        logging.getLogger("stdio_bridge").addHandler(self._failures)
        self._patches: list[Any] = [
            mock.patch("subprocess.Popen", self._spawn),
            mock.patch("os.pidfd_open", self._watch),
            mock.patch("os.killpg", self._kill),
        ]
        for patch in self._patches:
            patch.start()
        arguments = [*_OPTIONS, *options, "--", sys.executable]
        self.bridge = Bridge(self.loop, parse_options(arguments, {}), NamedUser())
        self._answers: list[weakref.ref[Answer]] = []

    # What stands in for the operating system

    def _spawn(self, command: object, **options: object) -> Process:
        self.processes.append(Process(self, **options))
        return self.processes[-1]

    def _watch(self, pid: int) -> int:
        return self._process(pid).watched

    def _kill(self, pid: int, number: signal.Signals) -> None:
        self._process(pid).signal(number)

    def _process(self, pid: int) -> Process:
        return next(process for process in self.processes if process.pid == pid)

    # What clients do

    def send(self, user: str, message: object = None, method: str = "POST", **headers: str) -> Answer:
        """Send a request to the MCP endpoint."""
        common = {
            "Host": "localhost",
            "Accept": "application/json, text/event-stream",
            "Content_Type": "application/json",
            "X_Gateway_Identity": user,
        }
        sent = {name.replace("_", "-").lower(): value for name, value in (common | headers).items()}
        return self._send(user, "/mcp", json.dumps(message).encode(), method, sent)

    def send_modern(
        self, user: str, request_id: object, method: str, params: Message, capabilities: Message, **meta: object
    ) -> Answer:
        """Send a request of 2026-07-28, which stands alone. `meta` has the names without their prefix."""
        own = {"protocolVersion": VERSION, "clientCapabilities": capabilities}
        prefixed = {PREFIX + name: value for name, value in {**own, **meta}.items() if name != "progressToken"}
        token = {"progressToken": meta["progressToken"]} if "progressToken" in meta else {}
        message = {
            "jsonrpc": "2.0",
            "id": request_id,
            "method": method,
            "params": {**params, "_meta": {**prefixed, **token}},
        }
        headers = {"Mcp_Method": method, "MCP_Protocol_Version": VERSION}
        if method in NAMED_BY:
            headers["Mcp_Name"] = params[NAMED_BY[method]]
        return self.send(user, message, **headers)

    def _send(self, user: str, path: str, content: bytes, method: str, headers: dict[str, str]) -> Answer:
        body = json.loads(content) if path == "/mcp" else None
        answer = Answer(user, body.get("id") if isinstance(body, dict) else None)
        self._answers.append(weakref.ref(answer))
        self.serving = user
        self.bridge(cast(Request, Incoming(method, path, content, headers)), cast(Response, answer))
        self.serving = None
        self.pump()
        return answer

    def revoke(self, user: str) -> None:
        """Revoke the user's grant, as the gateway does."""
        self._send("", "/revocations", f"grant of {user}".encode(), "POST", {})
        self.pump()

    def metric(self, name: str) -> float:
        page = self._send("", "/metrics", b"", "GET", {})
        return float(re.findall(rf"^{name} (\S+)$", page.data.decode(), re.MULTILINE)[0])

    # Time

    def pump(self) -> None:
        """Let processes read what they were sent. They answer what a machine wants answered at once."""
        for process in list(self.processes):
            for message in process.read():
                self._react(process, message)

    def turn(self) -> None:
        self.loop.turn()
        self.pump()

    def settle(self) -> None:
        """Let everything that was said arrive."""
        quiet = 0
        while quiet < 3:
            before = self._activity()
            self.turn()
            quiet = quiet + 1 if self._activity() == before else 0

    def _activity(self) -> object:
        unread = [process.unread_by_bridge for process in self.processes]
        return unread, [len(process.received) for process in self.processes]

    def wait(self, seconds: float) -> None:
        """Let time pass, and everything happen that is due."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 1)
            self.turn()
        self.settle()

    # The end

    def drain(self, *, busy: bool) -> None:
        """Stop the bridge as a signal does; processes end when they are told to. Without calls that is soon over."""
        self.bridge.drain()
        for _ in range(int(DRAIN_SECONDS + STOP_SECONDS) + 5 if busy else 3):
            self.wait(1)
            for process in self.processes:
                if process.told_to_end:
                    process.die(0)
        assert self.loop.stopped_by_bridge

    def die_all(self) -> None:
        """End every process, and each that is started because of that."""
        while any(process.alive for process in self.processes):
            for process in self.processes:
                process.die(1)
            self.settle()

    def wait_for_idle_end(self) -> None:
        """Let so much time pass that every process that nobody uses is told to end, and ends."""
        self.now += IDLE_SECONDS
        self.wait(3)
        self.now += IDLE_SECONDS + 1
        self.wait(3)
        for process in self.processes:
            assert process.told_to_end or not process.alive, "a process that nobody uses ends"
            process.die(0)
        self.settle()

    def check(self) -> None:
        """Raise what the bridge caught, if it had to."""
        for caught in self._failures.caught:
            raise AssertionError("the bridge caught an exception") from caught

    def check_nothing_is_left(self) -> None:
        """When all is over, nothing is kept of it."""
        for name in ("calls_in_flight", "parked_calls", "open_streams", "sessions", "processes"):
            assert self.metric(f"mcp_bridge_{name}") == 0, name

    def count_kept_answers(self) -> int:
        """How many responses something still refers to. The test itself must have forgotten them."""
        gc.collect()
        return sum(reference() is not None for reference in self._answers)

    def close(self) -> None:
        for process in self.processes:
            process.die(0)
        self.loop.turn()
        for process in self.processes:
            process.close()
        self.loop.close()
        for patch in self._patches:
            patch.stop()
        logging.getLogger("stdio_bridge").removeHandler(self._failures)
        gc.unfreeze()


class SimulationMachine(RuleBasedStateMachine):
    """A state machine around a simulation, which its first rule makes."""

    simulation: Simulation

    def teardown(self) -> None:
        if not hasattr(self, "simulation"):
            return
        try:
            self.end()
        finally:
            self.simulation.close()

    def end(self) -> None:
        """Bring everything to its end, and check that nothing is left."""
        raise NotImplementedError
