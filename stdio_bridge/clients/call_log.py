"""Records of calls as JSON: one line for each, in ASCII, of a few KiB at most (docs/calls.md).

Names that clients, servers and identity providers choose are truncated and escaped, so that no name can end the line,
hide in it, or reorder it on a terminal. A record has arguments only if the operator asks for them, and never results.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import time

from stdio_bridge.io.event_loop import Loop
from stdio_bridge.io.metrics import Counter
from stdio_bridge.io.record_writer import RecordWriter
from stdio_bridge.options import RecordedArguments
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.mcp import fold_method
from stdio_bridge.protocol.resource_uris import without_query
from stdio_bridge.protocol.trace_context import find_trace_context

from .call_records import CallEnd, CallRecord
from .record_allowances import RecordAllowances

# Records of calls that end at about the same time are written together, which takes half the time.
_DELAY_SECONDS = 0.05
_MAX_DELAYED = 64
_MAX_CHARACTERS = 300
# The longest text with its escapes.
_MAX_ESCAPED = 900
_LONGEST_ESCAPE = len(r"\ud83d\ude00")
# Bytes of JSON, and of its beginning where it is longer.
_MAX_ARGUMENTS = 4096
_MAX_BEGINNING = 1024
_REMEMBERED = 1024
# The member of the record for the name in a request, by method.
_NAMES = {"tools/call": "tool", "prompts/get": "prompt"}
_encode = json.JSONEncoder(ensure_ascii=True).encode


class CallLog:
    """Writes the record of each call soon after it has ended."""

    def __init__(
        self,
        writer: RecordWriter,
        loop: Loop,
        *,
        server: str,
        arguments: RecordedArguments = RecordedArguments.NONE,
        key: bytes,
        unrecorded: Counter,
    ) -> None:
        """`server` is the server's name; `key` is the key for digests of arguments.

        `unrecorded` counts the records that are not written, because their user has caused too many.
        """
        self._writer = writer
        self._loop = loop
        self._server = server
        self._arguments = arguments
        self._key = key
        self._allowances = RecordAllowances(loop, unrecorded)
        self._ended: list[tuple[CallRecord, str]] = []
        self._heads: dict[tuple[str | None, ...], str] = {}
        self._second = -1
        self._date = ""

    def begin(self, record: CallRecord, message: Message) -> CallEnd:
        """Return the function to call at the end of the call."""
        if self._arguments is RecordedArguments.NONE:
            return self._end
        arguments = jsonrpc.params_of(message).get("arguments")
        return functools.partial(self._end, arguments=self._render(arguments) if isinstance(arguments, dict) else "")

    def _render(self, arguments: Message) -> str:
        if self._arguments is RecordedArguments.DIGEST:
            canonical = json.dumps(arguments, sort_keys=True, separators=(",", ":")).encode("ascii")
            return f',"arguments_digest":"{hmac.digest(self._key, canonical, hashlib.sha256).hex()}"'
        text = jsonrpc.encode(arguments).decode("ascii")
        if len(text) <= _MAX_ARGUMENTS:
            return f',"arguments":{_without_delete(text)}'
        beginning = _without_delete(_encode(text[:_MAX_BEGINNING]))
        return f',"arguments_bytes":{len(text)},"arguments_begin":{beginning}'

    def _end(self, record: CallRecord, arguments: str = "") -> None:
        if not self._allowances.admit(record):
            return
        if not self._ended:
            self._loop.call_later(_DELAY_SECONDS, self._write)
        self._ended.append((record, arguments))
        if len(self._ended) >= _MAX_DELAYED:
            self._write()

    def _write(self) -> None:
        ended, self._ended = self._ended, []
        self._writer.write([self._line(record, arguments) for record, arguments in ended])

    def _line(self, record: CallRecord, arguments: str) -> bytes:
        identity, method, name = record.identity, record.method, record.name
        key = identity.user, identity.grant, identity.client, identity.login, method, name
        head = self._heads.get(key) or self._make_head(key)
        seconds = record.began_at + record.seconds
        second = int(seconds)
        if second != self._second:
            self._second, self._date = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        code = "" if record.error_code is None else f',"error_code":{record.error_code}'
        trace = "" if record.traceparent is None else _trace(record.traceparent)
        return (
            f'{{"time":"{self._date}.{int((seconds - second) * 1000):03}Z",{head},'
            f'"outcome":"{record.outcome}"{code},"milliseconds":{record.seconds * 1000:.3f},'
            f'"bytes_in":{record.bytes_in},"bytes_out":{record.bytes_out}{trace}{arguments}}}\n'
        ).encode("ascii")

    def _make_head(self, key: tuple[str | None, ...]) -> str:
        """Return the members that many lines have in common."""
        user, grant, client, login, method, name = key
        named = _named(str(method), name)
        values = {"server": self._server, "user": user, "login": login, "client": client, "grant": grant, **named}
        head = ",".join(f'"{member}":{_quoted(value)}' for member, value in values.items() if value)
        # Not with a long name, which would stay in memory in its full length.
        if sum(map(len, filter(None, key))) <= 4 * _MAX_CHARACTERS:
            if len(self._heads) >= _REMEMBERED:
                self._heads.clear()
            self._heads[key] = head
        return head

    def close(self) -> None:
        """Write the records that wait, and log how many were left out."""
        self._allowances.report()
        self._write()
        self._writer.close()


def _named(method: str, name: str | None) -> dict[str, str | None]:
    if name is None:
        return {"method": method}
    if (member := _NAMES.get(fold_method(method))) is not None:
        return {"method": method, member: name}
    return {"method": method, "uri": without_query(name)}


def _trace(traceparent: str) -> str:
    found = find_trace_context(traceparent[:_MAX_CHARACTERS])
    return "" if found is None else f',"trace_id":"{found.trace_id}"'


def _quoted(text: str) -> str:
    """Return the beginning of a text as a JSON string of printable ASCII."""
    quoted = _without_delete(_encode(text[:_MAX_CHARACTERS]))
    if len(quoted) > _MAX_ESCAPED:
        quoted = _without_delete(_encode(text[: _MAX_ESCAPED // _LONGEST_ESCAPE]))
    return quoted


def _without_delete(text: str) -> str:
    """Escape the one control character that JSON leaves as it is."""
    return text.replace("\x7f", r"\u007f")
