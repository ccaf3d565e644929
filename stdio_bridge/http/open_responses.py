"""The open responses, which end when their user's token expires or their grant is revoked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.challenges import challenged
from stdio_bridge.protocol.errors import HttpError
from stdio_bridge.protocol.framing import SSE_COMMENT

from .exchange import Headers, Response
from .identity import Identity
from .json_errors import reply_error

SSE_HEADERS: Headers = [
    ("Content-Type", "text/event-stream"),
    ("Cache-Control", "no-cache, no-transform"),
    ("X-Accel-Buffering", "no"),
]


@dataclass(frozen=True, slots=True)
class _Held:
    identity: Identity
    gone: Callable[[], None]
    begin: Callable[[], object] | None


class OpenResponses:
    """The responses that are not finished, each with its verified user and a callback for when its client leaves."""

    def __init__(self) -> None:
        self._held: dict[Response, _Held] = {}
        self._silent: set[Response] = set()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def streams(self) -> int:
        """How many are event streams."""
        return sum(response.started for response in self._held)

    def seconds_left(self, now: float) -> float:
        """Seconds until the last of their tokens has expired; `now` is in seconds since 1970."""
        return max((_seconds_left(held.identity, now) for held in self._held.values()), default=0.0)

    def hold(
        self,
        response: Response,
        identity: Identity,
        gone: Callable[[], None],
        begin: Callable[[], object] | None = None,
    ) -> None:
        """Keep a response; `gone` is called when its client leaves, or when its identity is no longer valid.

        `begin` turns it into a stream; it is called if nothing has been sent for too long.
        """
        self._held[response] = _Held(identity, gone, begin)
        response.on_disconnect = lambda: self._lose(response)

    def release(self, response: Response) -> None:
        """Remove a response that is finished."""
        self._held.pop(response, None)

    def _lose(self, response: Response) -> None:
        held = self._held.pop(response, None)
        if held is not None:
            held.gone()

    def end(self, is_invalid: Callable[[Identity], bool], reason: str) -> None:
        """End every response of an identity that is no longer valid.

        A response that has not begun is refused like the client's next request, so that the client logs in again.
        """
        self.sweep()
        for response, held in list(self._held.items()):
            if not is_invalid(held.identity):
                continue
            self._lose(response)
            if response.started:
                response.finish()
            else:
                identity = held.identity
                error = challenged("invalid_token", reason, resource=identity.resource, scopes=identity.scopes)
                reply_error(response, error)

    def end_streams(self, is_expired: Callable[[Identity], bool]) -> None:
        """End every event stream whose token has expired.

        A call that is not a stream continues until its own time-out: it was allowed when it came, and its client could
        neither resume it nor know whether to repeat it.
        """
        self.sweep()
        for response, held in list(self._held.items()):
            if response.started and is_expired(held.identity):
                self._lose(response)
                response.finish()

    def sweep(self) -> None:
        """Remove responses that are finished, such as a stream that was resumed on another connection."""
        for response in [response for response in self._held if response.finished]:
            self.release(response)

    def keep_alive(self) -> None:
        """Write a comment on every open stream, and begin each response on which nothing was sent since the last call.

        A proxy may close a silent connection. Then the client loses the answer, and a modern server takes the request
        for cancelled.
        """
        self.sweep()
        silent = {response for response in self._held if not response.started}
        for response in silent & self._silent:
            if (begin := self._held[response].begin) is not None:
                begin()
        self._silent = silent
        for response in self._held:
            if response.started:
                response.write(SSE_COMMENT)

    def finish(self) -> None:
        """End them all; a response that has not started becomes an error."""
        for response in list(self._held):
            if response.started:
                response.finish()
            else:
                reply_error(response, HttpError("404 Not Found", jsonrpc.SERVER_ERROR, "the session was ended"))
        self._held.clear()


def _seconds_left(identity: Identity, now: float) -> float:
    return math.inf if identity.expires is None else identity.expires - now
