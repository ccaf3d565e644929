"""Open responses: each ends when its user's token expires or its grant is revoked."""

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
    """Responses that are not finished, each with its verified user and what to do when its client leaves."""

    def __init__(self) -> None:
        self._held: dict[Response, _Held] = {}
        self._silent: set[Response] = set()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def streams(self) -> int:
        """How many are event streams now."""
        return sum(response.started for response in self._held)

    def seconds_left(self, now: float) -> float:
        """Seconds until the last of their tokens expires; `now` is in seconds since 1970."""
        return max((_seconds_left(held.identity, now) for held in self._held.values()), default=0.0)

    def hold(
        self,
        response: Response,
        identity: Identity,
        gone: Callable[[], None],
        begin: Callable[[], object] | None = None,
    ) -> None:
        """Remember a response; `gone` is called when its client leaves, or its identity is no longer valid.

        `begin` makes it a stream, if it can be one and is silent for too long.
        """
        self._held[response] = _Held(identity, gone, begin)
        response.on_disconnect = lambda: self._lose(response)

    def release(self, response: Response) -> None:
        """Forget a response that is finished."""
        self._held.pop(response, None)

    def _lose(self, response: Response) -> None:
        held = self._held.pop(response, None)
        if held is not None:
            held.gone()

    def end(self, ended: Callable[[Identity], bool], reason: str) -> None:
        """End every response of an identity that is no longer valid.

        One that has not begun is refused as the next request will be, so that its client logs in again.
        """
        self.sweep()
        for response, held in list(self._held.items()):
            if not ended(held.identity):
                continue
            self._lose(response)
            if response.started:
                response.finish()
            else:
                identity = held.identity
                error = challenged("invalid_token", reason, resource=identity.resource, scopes=identity.scopes)
                reply_error(response, error)

    def end_streams(self, ended: Callable[[Identity], bool]) -> None:
        """End every event stream whose token has expired.

        A call that has not become a stream goes on to its own time limit: it was allowed when it came, and its client
        could neither resume it nor know whether to call again.
        """
        self.sweep()
        for response, held in list(self._held.items()):
            if response.started and ended(held.identity):
                self._lose(response)
                response.finish()

    def sweep(self) -> None:
        """Forget responses that are finished, such as a stream that was resumed on another connection."""
        for response in [response for response in self._held if response.finished]:
            self.release(response)

    def keep_alive(self) -> None:
        """Write a comment on every open stream, and begin each response that was silent since the last call.

        A proxy may take a silent connection for dead. That loses an answer, and to a modern server it is a cancelled
        request.
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
