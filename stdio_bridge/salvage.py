"""What a server's line means that is not the JSON-RPC that it should be. No I/O.

Nearly every line parses at once and never comes here. A form that an official client reads when it speaks to the server
directly is read here too; in any other line all that is looked for is the call that it answers, so that this call can
fail at once instead of waiting for its time-out.
"""

from __future__ import annotations

import codecs
import json
import math
import re

from . import jsonrpc
from .jsonrpc import InvalidMessage, Message

# What stands at the two ends of a line: the work is bounded however long it is.
_END_CHARACTERS = 2048
_BEGINNING_CHARACTERS = 200
_MAX_ID_DIGITS = 15
# Before the JSON there may be a part of a log line that was not ended. What is longer is no such part.
_MAX_PREFIX = 4096

_QUOTE = r"[\"']"
_ID = rf"{_QUOTE}?(?P<id>[0-9]{{1,{_MAX_ID_DIGITS}}})(?:\.0+)?{_QUOTE}?"
_VERSION_MEMBER = rf"{_QUOTE}jsonrpc{_QUOTE}\s*:\s*{_QUOTE}?2\.0{_QUOTE}?"
_ID_MEMBER = rf"{_QUOTE}id{_QUOTE}\s*:\s*{_ID}"
_OUTCOME = rf"{_QUOTE}(?:result|error){_QUOTE}\s*:"
_ID_FIRST = re.compile(
    rf"\s*\{{\s*(?:{_VERSION_MEMBER}\s*,\s*)?{_ID_MEMBER}\s*,\s*(?:{_VERSION_MEMBER}\s*,\s*)?{_OUTCOME}"
)
_OUTCOME_FIRST = re.compile(rf"\s*\{{\s*(?P<version>{_VERSION_MEMBER}\s*,\s*)?{_OUTCOME}")
# The value before it has ended: within a string the quotes would be escaped.
_ID_LAST = re.compile(
    rf"[\]}}\"'el0-9,]\s*,?\s*(?P<before>{_VERSION_MEMBER}\s*,\s*)?{_ID_MEMBER}"
    rf"(?P<after>\s*,\s*{_VERSION_MEMBER})?\s*,?\s*\}}\s*\Z"
)
_MEMBERS = frozenset({"jsonrpc", "id", "result", "error", "method"})


def _whole(digits: str) -> int | None:
    try:
        return int(digits)
    except ValueError:
        return None  # more digits than Python reads


def _finite(digits: str) -> float | None:
    number = float(digits)
    return None if math.isinf(number) else number


_decode = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite, parse_int=_whole, strict=False).decode


def read(line: bytes) -> object:
    """Read a line as the most tolerant client would. Raises InvalidMessage.

    A byte order mark is left out. Bytes that are no UTF-8 become U+FFFD, and numbers that JSON cannot say become null,
    as in the TypeScript and the Python SDK. Control characters in strings mean themselves.
    """
    return jsonrpc.parse_with(_decode, line.removeprefix(codecs.BOM_UTF8), errors="replace")


def mend(value: object) -> Message | None:
    """Return the response that a message which is none must mean; None where that is in doubt.

    The Python SDK ignores members that are null, and takes an error for what counts beside a result.
    """
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0" or value.get("method") is not None:
        return None
    mended = {name: member for name, member in value.items() if name != "method"}
    if isinstance(value.get("error"), dict):
        mended.pop("result", None)
    elif isinstance(value.get("result"), dict) and value.get("error") is None:
        mended.pop("error", None)
    else:
        return None
    try:
        jsonrpc.kind_of(mended)
    except InvalidMessage:
        return None
    return mended if mended != value else None


def find_answered_by(value: object) -> int | None:
    """Return the id of the call that a malformed message answers.

    A log line in JSON may have an `id`, too: other members than those of a response show that it is one.
    """
    if not isinstance(value, dict) or value.get("method") is not None:
        return None
    if "jsonrpc" not in value and not (value.keys() <= _MEMBERS and ("result" in value or "error" in value)):
        return None
    return jsonrpc.find_number(value.get("id"))


def find_answered(beginning: bytes, end: bytes, *, cut: bool = False) -> int | None:
    """Return the id of a response that cannot be read, where one of its ends shows it as programs write it.

    Where the line is `cut` out of a message, its end counts only if it names the version beside the id.
    """
    head = beginning[:_END_CHARACTERS].removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
    if found := _ID_FIRST.match(head):
        return int(found["id"])
    if not (first := _OUTCOME_FIRST.match(head)):
        return None
    found = _ID_LAST.search(end[-_END_CHARACTERS:].decode("utf-8", "replace"))
    if found is None:
        return None
    sure = found["before"] or found["after"] or (first["version"] and not cut)
    return int(found["id"]) if sure else None


def find_answered_behind(line: bytes) -> int | None:
    """Return the id of a sound response that stands at the end of a line, behind something else.

    That may be a log line about the answer, or one that the answer was written to because it had not been ended.
    """
    start = line.find(b'{"', 1, _MAX_PREFIX)
    if start < 0:
        return None
    try:
        message = jsonrpc.parse_json(line[start:])
        kind = jsonrpc.kind_of(message)
    except InvalidMessage:
        return None
    return jsonrpc.find_number(message.get("id")) if kind is jsonrpc.Kind.RESPONSE else None


def beginning_of(line: bytes) -> str:
    """How a line begins, for people."""
    shown = line[:_BEGINNING_CHARACTERS].decode("utf-8", "replace")
    return shown if len(line) <= _BEGINNING_CHARACTERS else f"{shown}…"
