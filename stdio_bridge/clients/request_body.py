"""The body of a POST, of either era."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from stdio_bridge.http.exchange import Request
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.errors import HttpError, bad_request
from stdio_bridge.protocol.jsonrpc import InvalidMessage, Kind, Message, RequestId


@dataclass(frozen=True, kw_only=True)
class Body:
    """Well-formed JSON-RPC messages: at least one, and more only as a batch. Its size is in bytes."""

    messages: list[Message]
    requests: list[Message]
    batch: bool
    size: int

    @property
    def request_id(self) -> RequestId | None:
        """The id for an error response that refuses the whole body."""
        return self.requests[0]["id"] if self.requests else None


def parse_body(request: Request) -> Body:
    """Read a POST. Raises HttpError: 415, 406, or 400 on what is not JSON-RPC, or a request without an id."""
    if not _is_json(request.headers.get("content-type", "")):
        raise HttpError("415 Unsupported Media Type", jsonrpc.INVALID_REQUEST, "Content-Type must be application/json")
    if not accepts(request, "application/json", "text/event-stream"):
        raise HttpError(
            "406 Not Acceptable",
            jsonrpc.INVALID_REQUEST,
            "Accept must include application/json and text/event-stream",
        )
    try:
        data = request.body()
        value = jsonrpc.parse_json(data)
        batch = isinstance(value, list)
        messages = value if batch else [value]
        if not messages:
            raise InvalidMessage(jsonrpc.INVALID_REQUEST, "an empty batch")
        requests = []
        for position, message in enumerate(messages):
            kind = jsonrpc.kind_of(message)
            messages[position] = jsonrpc.without_null_params(message)
            if kind is Kind.REQUEST:
                requests.append(messages[position])
            elif kind is Kind.NOTIFICATION and not message["method"].startswith("notifications/"):
                # A careless server would carry it out, and no rule, quota, lock or record would know of it.
                raise InvalidMessage(jsonrpc.INVALID_REQUEST, "a request must have an id")
    except InvalidMessage as error:
        raise bad_request(error.code, str(error)) from error
    return Body(messages=messages, requests=requests, batch=batch, size=len(data))


def accepts(request: Request, *media_types: str) -> bool:
    """Whether the client takes answers of all these types."""
    return _is_accepted(request.headers.get("accept", ""), media_types)


# Clients write the same two headers in every request.
@functools.lru_cache(maxsize=32)
def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


@functools.lru_cache(maxsize=32)
def _is_accepted(accept: str, media_types: tuple[str, ...]) -> bool:
    ranges = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return "*/*" in ranges or all(
        media_type in ranges or f"{media_type.partition('/')[0]}/*" in ranges for media_type in media_types
    )
