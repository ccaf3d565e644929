"""The least that an ASGI application can answer: the ceiling of whatever runs on the same Gunicorn worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

_START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}
_BODY = {"type": "http.response.body"}


async def application(
    scope: MutableMapping[str, Any],
    _receive: Callable[[], Awaitable[Any]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """Answer 200 with an empty body."""
    if scope["type"] == "http":
        await send(_START)
        await send(_BODY)
