"""Complete ASGI responses, most of which are made in advance."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

_SERVER_ERROR: Final = -32000
"""The implementation-defined code that MCP's own SDKs use if no other fits."""
_NO_BODY: Final[Message] = {"type": "http.response.body"}


@dataclass(frozen=True, slots=True)
class Response:
    """The two messages of a response that is sent at once."""

    start: Message
    body: Message = field(default_factory=lambda: _NO_BODY)

    async def send(self, send: Send) -> None:
        """Send both messages."""
        await send(self.start)
        await send(self.body)


def empty_response(status: int, headers: Iterable[Header]) -> Response:
    """Make a response without a body."""
    return Response(_start(status, [*headers, (b"content-length", b"0")]))


def json_response(status: int, body: bytes, headers: Iterable[Header] = ()) -> Response:
    """Make a JSON response that must not be stored."""
    return plain_response(status, b"application/json", body, headers)


def json_rpc_response(status: int, text: str, headers: Iterable[Header] = ()) -> Response:
    """Make the refusal of an MCP endpoint: a JSON-RPC error without an id, whose message names the status."""
    return json_response(status, json_rpc_error(status, text), headers)


def json_rpc_error(status: int, text: str) -> bytes:
    """Return the body of such a refusal."""
    error = {"code": _SERVER_ERROR, "message": f"{status} {HTTPStatus(status).phrase}: {text}"}
    return json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()


def plain_response(status: int, content_type: bytes, body: bytes, headers: Iterable[Header] = ()) -> Response:
    """Make a response of another type that must not be stored."""
    described = [
        (b"content-type", content_type),
        (b"cache-control", b"no-store"),
        (b"content-length", str(len(body)).encode()),
    ]
    return Response(_start(status, [*headers, *described]), {"type": "http.response.body", "body": body})


def _start(status: int, headers: list[Header]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}
