"""What the bridge refuses, and how it says so."""

from __future__ import annotations

from . import jsonrpc


class UsageError(Exception):
    """The command line, a file it names or the environment is unusable; the text is one line for the operator."""


class Refusal(Exception):
    """A request is answered with an HTTP error status and a JSON-RPC error."""

    def __init__(
        self,
        status: str,
        code: int,
        text: str,
        *,
        request_id: jsonrpc.RequestId | None = None,
        data: object = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers
        self.message = jsonrpc.error(request_id, code, text, data)


def bad_request(code: int, text: str, *, request_id: jsonrpc.RequestId | None = None) -> Refusal:
    """400."""
    return Refusal("400 Bad Request", code, text, request_id=request_id)


def unavailable(text: str, *, request_id: jsonrpc.RequestId | None, retry_seconds: int) -> Refusal:
    """503: not now, but soon."""
    return Refusal(
        "503 Service Unavailable",
        jsonrpc.SERVER_ERROR,
        text,
        request_id=request_id,
        headers=(("Retry-After", str(retry_seconds)),),
    )
