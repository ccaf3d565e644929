"""Bytes and messages: lines on the pipes, events on the streams. No I/O."""

from __future__ import annotations

from collections.abc import Iterator

# How much is kept of the beginning and of the end of a line that is skipped.
_END_BYTES = 200


class LineSplitter:
    """Cuts a stream of bytes into lines, and bounds the memory that an unfinished line takes.

    A line longer than `limit` bytes is skipped as a whole. `skipped` counts these lines, and `take_skipped` returns the
    beginning and the end of each.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._skipping = False
        self.skipped = 0
        self._skipped: list[tuple[bytes, bytes]] = []
        self._head = self._tail = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield each line that `data` completes, without its line break, leaving out empty ones."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            line = self._finish(end)
            if line:
                yield line
        if rest:
            self._keep(rest)

    def flush(self) -> bytes:
        """Return the rest of the stream after the last line break. Call it at the end of the stream."""
        return self._finish(b"")

    def take_skipped(self) -> list[tuple[bytes, bytes]]:
        """Return the beginning and the end of each line that was skipped since this was last asked."""
        skipped, self._skipped = self._skipped, []
        return skipped

    def _keep(self, part: bytes) -> None:
        if self._skipping:
            self._tail = (self._tail + part[-_END_BYTES:])[-_END_BYTES:]
            return
        self._size += len(part)
        if self._size > self._limit:
            self._skipping = True
            self._parts.append(part)
            self._head = b"".join(self._parts)[:_END_BYTES]
            self._tail = part[-_END_BYTES:]
            self._parts.clear()
        else:
            self._parts.append(part)

    def _finish(self, end: bytes) -> bytes:
        self._keep(end)
        line = b"".join(self._parts)
        if self._skipping:
            self.skipped += 1
            self._skipped.append((self._head, self._tail))
        self._parts.clear()
        self._size = 0
        self._skipping = False
        return line.rstrip(b"\r")


SSE_COMMENT = b": keep-alive\n\n"
SSE_OPEN = b": open\n\n"
SSE_RETRY = b"retry: 1000\n\n"


def sse_event(data: bytes, event_id: str | None = None) -> bytes:
    """Frame one event. `data` must have no line break, which `jsonrpc.encode` guarantees."""
    if event_id is None:
        return b"event: message\ndata: " + data + b"\n\n"
    return b"event: message\nid: " + event_id.encode("ascii") + b"\ndata: " + data + b"\n\n"


def sse_priming_event(event_id: str) -> bytes:
    """An event with an id and no data, from which a client can resume (2025-11-25, "Sending Messages")."""
    return b"id: " + event_id.encode("ascii") + b"\ndata: \n\n"
