"""Error responses: an HTTP status, and a JSON-RPC error as the body."""

from __future__ import annotations

from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.errors import HttpError, unavailable
from stdio_bridge.protocol.jsonrpc import RequestId

from .exchange import Headers, Response

JSON_HEADERS: Headers = [("Content-Type", "application/json")]


def reply_error(response: Response, error: HttpError, request_id: RequestId | None = None) -> None:
    """Answer a request with an error, whose JSON-RPC id is `request_id` if that is given."""
    headers, body = _render(error, request_id)
    response.reply(error.status, headers, body)


def render_error(status: str, text: str) -> tuple[Headers, bytes]:
    """Return headers and body for a request that the HTTP server answers itself, without the application."""
    if status.startswith("503 "):
        return _render(unavailable(text))
    code = jsonrpc.INTERNAL_ERROR if status.startswith("500 ") else jsonrpc.INVALID_REQUEST
    return _render(HttpError(status, code, text))


def _render(error: HttpError, request_id: RequestId | None = None) -> tuple[Headers, bytes]:
    message = error.message if request_id is None else {**error.message, "id": request_id}
    return [*JSON_HEADERS, *error.headers], jsonrpc.encode(message)
