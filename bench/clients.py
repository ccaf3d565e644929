"""Clients that cost little, so that a bridge is measured and not they: sockets and pipes without a library."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from .calls import INITIALIZED, Calls, Message, Server, initialize

ANSWER_SECONDS = 10.0


class Failed(Exception):
    """A call was not answered as it has to be; the text says how."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where an MCP endpoint is, and the headers that every request to it carries."""

    port: int
    path: str = "/mcp"
    headers: Mapping[str, str] = field(default_factory=dict)


class _Reader:
    """Puts one HTTP response together: its status, its headers, and the body as far as it is there."""

    def __init__(self) -> None:
        self._data = b""
        self._head = b""
        self._chunked = False
        self._length: int | None = None
        self.status = 0
        self.body = b""
        self.complete = False

    def feed(self, data: bytes) -> None:
        self._data += data
        if not self.status and not self._read_head():
            return
        if self._chunked:
            self._read_chunks()
        elif self._length is not None:
            self.body += self._data
            self._data = b""
            self.complete = len(self.body) >= self._length

    def _read_head(self) -> bool:
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if not end:
            return False
        self._head, self._data = head, rest
        self.status = int(head[9:12])
        length = self.header(b"content-length")
        if length:
            self._length = int(length)
        elif self.status in {202, 204}:
            self._length = 0
        else:
            self._chunked = self.header(b"transfer-encoding").lower() == b"chunked"
        return True

    def header(self, name: bytes) -> bytes:
        """Return a header's value, empty where there is none."""
        at = self._head.lower().find(b"\r\n" + name + b":")
        return self._head[at + len(name) + 3 :].partition(b"\r\n")[0].strip() if at >= 0 else b""

    def _read_chunks(self) -> None:
        while True:
            end = self._data.find(b"\r\n")
            if end < 0:
                return
            size = int(self._data[:end], 16)
            if len(self._data) < end + 2 + size + 2:
                return
            self.body += self._data[end + 2 : end + 2 + size]
            self._data = self._data[end + 2 + size + 2 :]
            if size == 0:
                self.complete = True
                return

    def message(self) -> object:
        """Return the answer: the body, or of an event stream its last event with data."""
        body = self.body
        if self.header(b"content-type").startswith(b"text/event-stream"):
            events = [line[5:] for line in body.splitlines() if line.startswith(b"data:") and len(line) > 7]
            body = events[-1] if events else b""
        try:
            message: object = json.loads(body)
        except ValueError:
            return None
        return message


class Connection:
    """One HTTP connection, which asks one thing after the other."""

    def __init__(self, site: Site, session: str | None = None) -> None:
        self._socket = socket.create_connection(("127.0.0.1", site.port), timeout=ANSWER_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = _Reader()
        self.use(site, session)

    def use(self, site: Site, session: str | None) -> None:
        """Send from now on that site's headers, and name that session."""
        self._site, self.session = site, session
        headers = {
            "Host": f"127.0.0.1:{site.port}",
            "Accept": "application/json, text/event-stream",
            "Content-Type": "application/json",
            **site.headers,
        }
        if session is not None:
            headers |= {"Mcp-Session-Id": session, "MCP-Protocol-Version": "2025-06-18"}
        lines = [f"{site.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        self._head = "\r\n".join([*lines, ""]).encode()

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def close(self) -> None:
        """Leave."""
        self._socket.close()

    def send(self, body: bytes, method: str = "POST") -> None:
        """Send one request."""
        self._reader = _Reader()
        self._socket.sendall(b"%b %bContent-Length: %d\r\n\r\n%b" % (method.encode(), self._head, len(body), body))

    def begin_stream(self, message: Message | None) -> None:
        """Send a message, or GET without one, and wait until an event stream has begun. Raises Failed."""
        self.send(json.dumps(message).encode() if message else b"", "POST" if message else "GET")
        while not (response := self.receive()).status:
            pass
        if response.status != 200 or response.complete:
            raise Failed(f"status {response.status} and no stream")

    def receive(self) -> _Reader:
        """Read once, and return the response so far. Raises Failed when it cannot be completed."""
        try:
            data = self._socket.recv(65536)
        except OSError as error:
            raise Failed("no answer in time" if isinstance(error, TimeoutError) else "connection lost") from error
        if not data:
            raise Failed("connection closed")
        self._reader.feed(data)
        return self._reader

    def ask(self, message: Message | None, method: str = "POST") -> _Reader:
        """Send a message and wait for the whole response. Raises Failed."""
        self.send(json.dumps(message).encode() if message else b"", method)
        while not (response := self.receive()).complete:
            pass
        return response

    def initialize(self) -> None:
        """Begin a session. Raises Failed."""
        response = self.ask(initialize())
        message = response.message()
        if response.status != 200 or not isinstance(message, dict) or "result" not in message:
            raise Failed(f"status {response.status} to initialize")
        self.use(self._site, response.header(b"mcp-session-id").decode() or None)


def leave(connection: Connection) -> None:
    """End the session, as far as the bridge knows how, and close the connection."""
    with contextlib.suppress(Failed, OSError):
        connection.ask(None, "DELETE")
    connection.close()


def open_session(site: Site) -> Connection:
    """Begin a session. Raises Failed or OSError."""
    connection = Connection(site)
    try:
        connection.initialize()
        connection.ask(INITIALIZED)
    except Failed:
        connection.close()
        raise
    return connection


class Caller(Protocol):
    """A client with one call open at a time."""

    def prepare(self) -> None:
        """Get ready for a run of calls."""

    def call(self) -> None:
        """Ask. Raises Failed or OSError."""

    def fileno(self) -> int:
        """For select, while a call is open."""

    def answered(self) -> bool:
        """Read once, and say whether the answer is there. Raises Failed on one that is wrong."""

    def restart(self) -> None:
        """Be able to call again after a failure."""

    def close(self) -> None:
        """Leave."""


class HttpCaller:
    """Calls through a bridge."""

    def __init__(self, site: Callable[[], Site], server: Server) -> None:
        self._site = site
        self._calls = Calls(server)
        self._connection = open_session(site())
        self._last = False

    def prepare(self) -> None:
        # A connection that idled may be closed by now, and the gateway signs anew after some seconds.
        self.restart()

    def fileno(self) -> int:
        return self._connection.fileno()

    def call(self) -> None:
        if self._last:
            self.restart()
        try:
            self._connection.send(self._calls.next())
        except OSError as error:
            raise Failed("connection lost") from error

    def answered(self) -> bool:
        response = self._connection.receive()
        if not response.complete:
            return False
        if response.status != 200:
            raise Failed(f"status {response.status}")
        if fault := self._calls.fault_of(response.message()):
            raise Failed(fault)
        self._last = response.header(b"connection").lower() == b"close"
        return True

    def restart(self) -> None:
        self._connection.close()
        self._connection = Connection(self._site(), self._connection.session)
        self._last = False

    def close(self) -> None:
        self._connection.close()


class PipeCaller:
    """Calls a server of its own over its pipes: what a bridge can at best come near to."""

    def __init__(self, server: Server) -> None:
        self._calls = Calls(server)
        self._process = subprocess.Popen(
            server.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        self._data = b""
        self._write(json.dumps(initialize()).encode())
        while not self._line():
            pass
        self._write(json.dumps(INITIALIZED).encode())

    def prepare(self) -> None:
        """There is nothing to do."""

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")

    def _line(self) -> bytes:
        data = os.read(self.fileno(), 65536)
        if not data:
            raise Failed("the server has ended")
        line, end, rest = (self._data + data).partition(b"\n")
        self._data = rest if end else line
        return line if end else b""

    def fileno(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def call(self) -> None:
        self._write(self._calls.next())

    def answered(self) -> bool:
        line = self._line()
        if line and (fault := self._calls.fault_of(json.loads(line))):
            raise Failed(fault)
        return bool(line)

    def restart(self) -> None:
        """A pipe has nothing to begin anew."""

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()
