"""The errors of the bridge: for operators at its start, and for clients over HTTP."""

from __future__ import annotations

from . import jsonrpc

# When a client should try again, if nothing tells when that will help.
RETRY_SECONDS = 5


class UsageError(Exception):
    """The command line, a file it names or the environment is unusable; the text is one line for the operator."""


class HttpError(Exception):
    """A request is answered with an HTTP error status and a JSON-RPC error; its id is set where it is known."""

    def __init__(
        self,
        status: str,
        code: int,
        text: str,
        *,
        data: object = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers
        self.message = jsonrpc.error(None, code, text, data)


def bad_request(code: int, text: str, data: object = None) -> HttpError:
    """400."""
    return HttpError("400 Bad Request", code, text, data=data)


def not_allowed(methods: str) -> HttpError:
    """405, with the methods that are allowed."""
    return HttpError(
        "405 Method Not Allowed", jsonrpc.INVALID_REQUEST, f"only {methods}", headers=(("Allow", methods),)
    )


def unavailable(text: str, *, retry_seconds: int = RETRY_SECONDS) -> HttpError:
    """503: not now, but soon."""
    return HttpError(
        "503 Service Unavailable", jsonrpc.SERVER_ERROR, text, headers=(("Retry-After", str(retry_seconds)),)
    )


def stopping() -> HttpError:
    """503: the bridge takes no new calls any more."""
    return unavailable("the bridge is stopping")
