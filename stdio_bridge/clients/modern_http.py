"""HTTP of the modern era: requests that stand alone, each a POST (2026-07-28)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from stdio_bridge.http.exchange import Request, Response
from stdio_bridge.http.identity import Identity
from stdio_bridge.http.open_responses import OpenResponses
from stdio_bridge.protocol import jsonrpc, to_modern
from stdio_bridge.protocol.calls import CallOutcome
from stdio_bridge.protocol.errors import HttpError, bad_request
from stdio_bridge.protocol.jsonrpc import Kind, Message
from stdio_bridge.protocol.mcp import PROTOCOL_VERSION, REMOVED
from stdio_bridge.protocol.request_metadata import check_version, is_modern, parse_metadata
from stdio_bridge.servers.leases import Leases

from .call_records import CallRecord
from .modern_call import ModernCall
from .policy import Policy
from .request_body import Body


class ModernEra:
    """Serves clients whose requests each hold all of their metadata. The bridge keeps nothing between two requests."""

    def __init__(self, leases: Leases, *, policy: Policy | None = None) -> None:
        self._leases = leases
        self._policy = policy
        self._versions = leases.pool.options.versions
        self._open = OpenResponses()

    def claims(self, request: Request, body: Body | None) -> bool:
        """Whether a request is of this era."""
        return is_modern(request.headers.get("mcp-protocol-version"), body.messages if body is not None else ())

    def post(
        self, request: Request, response: Response, identity: Identity, body: Body, records: Sequence[CallRecord]
    ) -> None:
        """Take one message, with its record if it is a request. Raises HttpError."""
        (message, *more) = body.messages
        kind = jsonrpc.kind_of(message)
        if more or body.batch or kind is Kind.RESPONSE:
            raise bad_request(jsonrpc.INVALID_REQUEST, "the body must be one request or notification")
        if kind is Kind.NOTIFICATION:
            self._check_notification(request, message)
            # No notification is defined for clients over HTTP: they cancel by closing the response.
            response.reply("202 Accepted", [])
            return
        metadata = parse_metadata(message, request.headers, self._versions)
        if message["method"] in REMOVED:
            text = f"2026-07-28 has no method {message['method']}"
            raise HttpError("404 Not Found", jsonrpc.METHOD_NOT_FOUND, text)
        access = None if self._policy is None else self._policy.access_of(identity)
        refusals: Mapping[int, Message] = {}
        if access is not None:
            refusals = access.check([message])
            if not refusals:
                access.admit([message])
                message = access.narrowed(message)
        modern_call = ModernCall(
            request,
            response,
            identity=identity,
            access=access,
            message=message,
            metadata=metadata,
            record=records[0],
            held_by=self._open,
        )
        if refusals:
            modern_call.finish(to_modern.answer(refusals[0], modern_call.method, None), CallOutcome.DENIED)
            return
        try:
            self._leases.serve(modern_call)
        except HttpError as error:
            modern_call.refuse(error)

    @property
    def streams(self) -> int:
        """How many event streams are open."""
        return self._open.streams

    @property
    def busy(self) -> bool:
        """Whether a request is unanswered, including those that wait for the handshake with their server."""
        return bool(self._open)

    def end_responses(self, is_invalid: Callable[[Identity], bool], reason: str) -> None:
        """End every open response of an identity that is no longer valid, which cancels its request."""
        self._open.end(is_invalid, reason)

    def end_streams(self, is_expired: Callable[[Identity], bool]) -> None:
        """End every event stream whose token has expired."""
        self._open.end_streams(is_expired)

    def keep_alive(self) -> None:
        """Write a comment on every open stream, and begin those that were silent since the last call."""
        self._open.keep_alive()

    def _check_notification(self, request: Request, message: Message) -> None:
        version = jsonrpc.meta_of(message).get(PROTOCOL_VERSION, request.headers.get("mcp-protocol-version"))
        if not isinstance(version, str):
            raise bad_request(jsonrpc.INVALID_PARAMS, f"{PROTOCOL_VERSION} must be a string")
        check_version(version, self._versions)
