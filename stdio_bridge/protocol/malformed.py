"""Reads lines of a server that are not valid JSON-RPC. No I/O.

Nearly every line parses at once and never comes here. This module reads every form that an official client would accept
from the server directly. In any other line it looks only for the id of the call that the line answers, so that this
call fails at once and not at its time-out.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from . import jsonrpc
from .jsonrpc import InvalidMessage, Message

# How much of each end of a line is searched, so that a long line takes no more time than a short one.
_END_CHARACTERS = 2048
_BEGINNING_CHARACTERS = 200
_MAX_ID_DIGITS = 15
# A log line without a line break may stand in front of the JSON. Longer text is not taken for one.
_MAX_PREFIX = 4096
# How many objects of one line are read: each may be as long as the line.
_MAX_OBJECTS = 4

_QUOTE = r"[\"']"
_ID = rf"{_QUOTE}?(?P<id>[0-9]{{1,{_MAX_ID_DIGITS}}})(?:\.0+)?{_QUOTE}?"
_VERSION_MEMBER = rf"{_QUOTE}jsonrpc{_QUOTE}\s*:\s*{_QUOTE}?2\.0{_QUOTE}?"
_ID_MEMBER = rf"{_QUOTE}id{_QUOTE}\s*:\s*{_ID}"
_OUTCOME = rf"{_QUOTE}(?:result|error){_QUOTE}\s*:"
_ID_FIRST = re.compile(
    rf"\s*\{{\s*(?:{_VERSION_MEMBER}\s*,\s*)?{_ID_MEMBER}\s*,\s*(?:{_VERSION_MEMBER}\s*,\s*)?{_OUTCOME}"
)
# As `console.log` prints an object. Only at the beginning of a line: elsewhere it may be text in a string.
_ID_FIRST_UNQUOTED = re.compile(
    rf"\s*\{{\s*(?:jsonrpc: {_QUOTE}2\.0{_QUOTE}, )?id: {_ID}, (?:jsonrpc: {_QUOTE}2\.0{_QUOTE}, )?(?:result|error):"
)
_OUTCOME_FIRST = re.compile(rf"\s*\{{\s*(?P<version>{_VERSION_MEMBER}\s*,\s*)?{_OUTCOME}")
# The value before it has ended: within a string the quotes would be escaped.
_ID_LAST = re.compile(
    rf"[\]}}\"'el0-9,]\s*,?\s*(?P<before>{_VERSION_MEMBER}\s*,\s*)?{_ID_MEMBER}"
    rf"(?P<after>\s*,\s*{_VERSION_MEMBER})?\s*,?\s*\}}\s*\Z"
)
_OBJECT = re.compile(r'\{\s*"')
_BETWEEN_MESSAGES = re.compile(r"[\s\[\],;]*")
_MEMBERS = frozenset({"jsonrpc", "id", "result", "error", "method"})


def _whole(digits: str) -> int | None:
    try:
        return int(digits)
    except ValueError:
        return None  # more digits than Python reads


def _finite(digits: str) -> float | None:
    number = float(digits)
    return None if math.isinf(number) else number


_decoder = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite, parse_int=_whole, strict=False)


def read(line: bytes) -> object:
    """Read a line as the most tolerant client would. Raises InvalidMessage.

    A byte order mark is left out. Bytes that are no UTF-8 become U+FFFD, and numbers that JSON cannot say become null,
    as in the TypeScript and the Python SDK. Control characters in strings mean themselves.
    """
    return jsonrpc.parse_with(_decoder.decode, line.removeprefix(codecs.BOM_UTF8), errors="replace")


def mend(value: object) -> Message | None:
    """Return the response that an invalid message must stand for; None where that is in doubt.

    The Python SDK ignores members that are null, and uses the error of a message that has both an error and a result.
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

    A log line in JSON may have an `id`, too, but also members that no response has.
    """
    if not isinstance(value, dict):
        return None
    if value.get("method") is not None and not jsonrpc.has_outcome(value):
        return None
    if "jsonrpc" not in value and not (value.keys() <= _MEMBERS and ("result" in value or "error" in value)):
        return None
    return jsonrpc.find_number(value.get("id"))


def find_answered(beginning: bytes, end: bytes, *, cut: bool = False) -> int | None:
    """Return the id of a response that cannot be read, where its beginning or its end has it in a usual form.

    If `cut`, the two are parts of a longer line; then the end counts only if it has the version beside the id.
    """
    head = beginning[:_END_CHARACTERS].removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
    if found := _ID_FIRST.match(head) or _ID_FIRST_UNQUOTED.match(head):
        return int(found["id"])
    if not (first := _OUTCOME_FIRST.match(head)):
        return None
    found = _ID_LAST.search(end[-_END_CHARACTERS:].decode("utf-8", "replace"))
    if found is None:
        return None
    sure = found["before"] or found["after"] or (first["version"] and not cut)
    return int(found["id"]) if sure else None


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The calls that a line with several JSON values answers."""

    at_once: frozenset[int] = frozenset()
    behind: frozenset[int] = frozenset()


def find_answered_among(line: bytes) -> Answered:
    """Return the calls that the JSON values of a line answer, where the line has other text or other values as well.

    Messages at its beginning, written without line breaks or in a broken array, are answers for certain (`at_once`). A
    valid response behind something else, at the end of the line (`behind`), may also be a log line about an answer.
    """
    if jsonrpc.has_too_many_parts(line):
        return Answered()
    text = line.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
    answered: set[int] = set()
    position = _end_of_match(_BETWEEN_MESSAGES, text, 0)
    while (found := _read_object(text, position)) is not None:
        message, end = found
        if "jsonrpc" not in message:
            break
        if (number := find_answered_by(message)) is not None:
            answered.add(number)
        position = _end_of_match(_BETWEEN_MESSAGES, text, end)
    return Answered(at_once=frozenset(answered), behind=frozenset(_find_behind(text, position)) - answered)


def _find_behind(text: str, position: int) -> Iterator[int]:
    for _ in range(_MAX_OBJECTS):
        start = _OBJECT.search(text, position, position + _MAX_PREFIX)
        if start is None:
            return
        position = start.start()
        found = _read_object(text, position)
        if found is None:
            position += 1
            continue
        message, position = found
        if _end_of_match(_BETWEEN_MESSAGES, text, position) == len(text) and _is_response(message):
            number = jsonrpc.find_number(message.get("id"))
            if number is not None:
                yield number


def _read_object(text: str, position: int) -> tuple[Message, int] | None:
    if not text.startswith("{", position):
        return None
    try:
        value, end = _decoder.raw_decode(text, position)
    except (ValueError, RecursionError):
        return None
    return value, end


def _is_response(message: Message) -> bool:
    try:
        return jsonrpc.kind_of(message) is jsonrpc.Kind.RESPONSE
    except InvalidMessage:
        return False


def _end_of_match(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    return position if found is None else found.end()


def beginning_of(line: bytes) -> str:
    """Return the beginning of a line, for people to read."""
    shown = line[:_BEGINNING_CHARACTERS].decode("utf-8", "replace")
    return shown if len(line) <= _BEGINNING_CHARACTERS else f"{shown}…"
