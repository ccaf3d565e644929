"""JSON-RPC 2.0 messages as MCP uses them: reading, telling kinds apart, making answers."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Callable
from typing import Any, NoReturn

Message = dict[str, Any]
# A number with a point, `1.0`, is an integer of JSON too; it is given back as it came.
RequestId = str | int | float

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
# The implementation-defined code that MCP's own SDKs use where no other fits (2026-07-28, "Error Codes").
SERVER_ERROR = -32000


class Kind(enum.Enum):
    """What a message is."""

    REQUEST = enum.auto()
    NOTIFICATION = enum.auto()
    RESPONSE = enum.auto()


class InvalidMessage(ValueError):
    """Not a JSON-RPC message. `code` is PARSE_ERROR or INVALID_REQUEST."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} is more than can be passed on")
    return number


# How deeply arrays and objects may be nested. Python's own limit depends on the depth of its call stack: it could read
# an answer and then fail to write it, and the client would wait for ever.
_MAX_DEPTH = 500
_MAX_DIGITS = 15
# How many arrays and objects a message may hold, and how many members and elements: to read and write more would keep
# the loop, and with it every other client, for seconds.
_MAX_CONTAINERS = 100_000
_MAX_PARTS = 500_000
_decode = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite).decode
# The bridge has read or built every message that it writes, so none contains itself.
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


def parse_json(data: bytes) -> Any:
    """Read strict JSON in UTF-8, which `encode` can write again. Raises InvalidMessage(PARSE_ERROR)."""
    return parse_with(_decode, data, errors="strict")


def parse_with(decode: Callable[[str], Any], data: bytes, *, errors: str) -> Any:
    """Read JSON by that decoder, within the bounds of what can be passed on. Raises InvalidMessage(PARSE_ERROR)."""
    if has_too_many_parts(data):
        raise InvalidMessage(PARSE_ERROR, f"more than {_MAX_CONTAINERS} arrays and objects, or {_MAX_PARTS} values")
    try:
        value = decode(data.decode("utf-8", errors))
    except json.JSONDecodeError as error:
        raise InvalidMessage(PARSE_ERROR, f"not valid JSON: {error.msg} at character {error.pos + 1}") from error
    except (ValueError, RecursionError) as error:
        text = "nested too deeply" if isinstance(error, RecursionError) else "not valid JSON in UTF-8"
        raise InvalidMessage(PARSE_ERROR, text) from error
    if (
        len(data) > 2 * _MAX_DEPTH
        and data.count(b"[") + data.count(b"{") > _MAX_DEPTH
        and _is_deeper(value, _MAX_DEPTH)
    ):
        raise InvalidMessage(PARSE_ERROR, "nested too deeply")
    return value


def has_too_many_parts(data: bytes) -> bool:
    """Whether JSON has more arrays, objects or values than the bridge passes on.

    It searches the bytes and parses nothing, so it is fast. For bytes that are not JSON, the result means nothing.
    """
    if len(data) <= _MAX_CONTAINERS:
        return False
    containers = data.count(b"[") + data.count(b"{")
    if containers <= _MAX_CONTAINERS and containers + data.count(b",") <= _MAX_PARTS:
        return False
    # Some may stand in strings, whose ends are the quotes that nothing escapes.
    data = data.replace(rb"\\", b"").replace(rb"\"", b"")
    if data.count(b'"') > 4 * _MAX_PARTS:  # a member has two strings
        return True
    outside = b"".join(data.split(b'"')[::2])
    containers = outside.count(b"[") + outside.count(b"{")
    return containers > _MAX_CONTAINERS or containers + outside.count(b",") > _MAX_PARTS


def _is_deeper(value: object, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def encode(value: object) -> bytes:
    """Write compact JSON, ASCII only, so never with a line break. Raises ValueError on what JSON cannot say."""
    return _encode(value).encode("ascii")


def kind_of(message: object) -> Kind:
    """Tell what a parsed value is. Raises InvalidMessage(INVALID_REQUEST)."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise InvalidMessage(INVALID_REQUEST, 'not a JSON-RPC 2.0 message (an object with "jsonrpc": "2.0")')
    if "method" in message:
        if has_outcome(message):
            raise InvalidMessage(INVALID_REQUEST, "a message with a method has neither a result nor an error")
        if not isinstance(message["method"], str):
            raise InvalidMessage(INVALID_REQUEST, "method must be a string")
        if not isinstance(message.get("params"), dict | None):
            raise InvalidMessage(INVALID_REQUEST, "params must be an object")
        if "id" not in message:
            return Kind.NOTIFICATION
        if not is_request_id(message["id"]):
            raise InvalidMessage(INVALID_REQUEST, "id must be a string or an integer")
        return Kind.REQUEST
    if ("result" in message) == ("error" in message):
        raise InvalidMessage(INVALID_REQUEST, "neither a request, a notification nor a response")
    if "error" in message and not isinstance(message["error"], dict):
        raise InvalidMessage(INVALID_REQUEST, "error must be an object")
    # An error about a request that could not be read has no id, or null.
    if not is_request_id(message.get("id")) and not ("error" in message and message.get("id") is None):
        raise InvalidMessage(INVALID_REQUEST, "id must be a string or an integer")
    return Kind.RESPONSE


def has_outcome(message: Message) -> bool:
    """Whether a message has a result or an error. Some programs write null for a member that they leave out."""
    return message.get("result") is not None or message.get("error") is not None


def is_request_id(value: object) -> bool:
    """MCP: an id is a string or an integer, never null."""
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))


def find_number(value: object) -> int | None:
    """Return the number that was sent as an id or a token, and has come back as a number or as a string."""
    if isinstance(value, int):
        return None if isinstance(value, bool) else value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and len(value) <= _MAX_DIGITS and value.isascii() and value.strip().isdecimal():
        return int(value)
    return None


def without_null_params(message: Message) -> Message:
    """Leave out `params` where it is null: some clients and servers write null for a member that they do not use."""
    if "params" in message and message["params"] is None:
        return {name: value for name, value in message.items() if name != "params"}
    return message


def params_of(message: Message) -> Message:
    """Return the params object, empty where there is none."""
    params = message.get("params")
    return params if isinstance(params, dict) else {}


def meta_of(message: Message) -> Message:
    """Return `params._meta`, empty where there is none."""
    meta = params_of(message).get("_meta")
    return meta if isinstance(meta, dict) else {}


def with_meta(message: Message, **values: object) -> Message:
    """Return a copy whose `params._meta` has these members too."""
    params = params_of(message)
    return {**message, "params": {**params, "_meta": {**meta_of(message), **values}}}


def error(request_id: RequestId | None, code: int, text: str, data: object = None) -> Message:
    """Make an error response."""
    body: Message = {"code": code, "message": text}
    if data is not None:
        body["data"] = data
    return {"jsonrpc": "2.0", "id": request_id, "error": body}


def result(request_id: RequestId, value: Message) -> Message:
    """Make a success response."""
    return {"jsonrpc": "2.0", "id": request_id, "result": value}


def notification(method: str, params: Message) -> Message:
    """Make a notification."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


def sound_error(error: Message) -> Message:
    """Return an error object with an integer as its code and a string as its message, which JSON-RPC requires."""
    code, text = error.get("code"), error.get("message")
    if isinstance(code, float) and code.is_integer():
        code = int(code)
        error = {**error, "code": code}
    if type(code) is int and isinstance(text, str):  # True is an instance of int, too
        return error
    code = code if type(code) is int else INTERNAL_ERROR
    return {**error, "code": code, "message": text if isinstance(text, str) else "the MCP server does not say why"}
