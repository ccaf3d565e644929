"""HTTP of the legacy era: POST, GET and DELETE on a session (2024-11-05 to 2025-11-25)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from stdio_bridge.http.exchange import Request, Response
from stdio_bridge.http.identity import Identity
from stdio_bridge.io.metrics import Registry
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import CallOutcome
from stdio_bridge.protocol.errors import HttpError, bad_request, not_allowed
from stdio_bridge.protocol.jsonrpc import Kind, Message
from stdio_bridge.protocol.mcp import LISTEN, fold_method
from stdio_bridge.protocol.request_metadata import unsupported
from stdio_bridge.servers.leases import Leases

from .answers import InitializeAnswer, replies_to
from .call_records import CallRecord
from .policy import Policy
from .request_body import Body, accepts
from .sessions import Session, Sessions

_BATCH_VERSION = "2025-03-26"


class LegacyEra:
    """Serves clients that open a session with `initialize`."""

    def __init__(self, leases: Leases, registry: Registry, *, policy: Policy | None = None) -> None:
        self._versions = leases.pool.options.versions
        self._policy = policy
        self.sessions = Sessions(leases, registry)

    def post(
        self, request: Request, response: Response, identity: Identity, body: Body, records: Sequence[CallRecord]
    ) -> None:
        """Take messages for a session, or open one; each request has a record. Raises HttpError."""
        if not self._versions.legacy:
            asked = (jsonrpc.params_of(message).get("protocolVersion") for message in body.requests)
            raise unsupported(next(asked, None) or request.headers.get("mcp-protocol-version"), self._versions)
        self._check_version(request)
        if any(message["method"] == "initialize" for message in body.requests):
            if body.batch:
                raise bad_request(jsonrpc.INVALID_REQUEST, "initialize must not be part of a batch")
            self._initialize(body.messages[0], response, identity, records[0])
            return
        session = self._find_session(request, identity)
        if body.batch and session.version != _BATCH_VERSION:
            raise bad_request(jsonrpc.INVALID_REQUEST, "batches are part of MCP 2025-03-26 only")
        refusals = _admit(session, body)
        # The replies must exist before a request is sent, as a server may answer at once.
        replies = iter(replies_to(session, response, identity, records, batch=body.batch))
        for position, message in enumerate(body.messages):
            kind = jsonrpc.kind_of(message)
            if kind is Kind.REQUEST:
                reply = next(replies)
                if position in refusals:
                    reply.finish(refusals[position], CallOutcome.DENIED)
                elif fold_method(message["method"]) == LISTEN:
                    # This method is modern only. A modern server would accept it, past the rules.
                    text = "Method not found"
                    reply.finish(jsonrpc.error(message["id"], jsonrpc.METHOD_NOT_FOUND, text), CallOutcome.ERROR)
                else:
                    session.request(message, reply)
            elif kind is Kind.NOTIFICATION:
                session.lease.notify(session, message)
            else:
                session.lease.backend.respond(session, message)
        if not records:
            response.reply("202 Accepted", [])

    def _initialize(self, message: Message, response: Response, identity: Identity, record: CallRecord) -> None:
        session = self.sessions.open(identity, message)
        self._note_access(session, identity)
        session.lease.initialize(session, message, InitializeAnswer(session, response, identity, record))

    def get(self, request: Request, response: Response, identity: Identity) -> None:
        """Open a session's stream, or resume one. Raises HttpError."""
        if not accepts(request, "text/event-stream"):
            raise HttpError("406 Not Acceptable", jsonrpc.INVALID_REQUEST, "Accept must include text/event-stream")
        self._check_version(request)
        session = self._find_session(request, identity)
        session.open_stream(response, identity, request.headers.get("last-event-id"))

    def delete(self, request: Request, response: Response, identity: Identity) -> None:
        """End a session. Raises HttpError."""
        self._check_version(request)
        self.sessions.find(request.headers.get("mcp-session-id"), identity).stop("the client ended the session")
        response.reply("204 No Content", [])

    @property
    def streams(self) -> int:
        """How many event streams are open."""
        return sum(session.open.streams for session in self.sessions.all())

    @property
    def busy(self) -> bool:
        """Whether a request is unanswered, including those that wait for their client's input."""
        return any(session.busy for session in self.sessions.all())

    def end_responses(self, is_invalid: Callable[[Identity], bool], reason: str) -> None:
        """End every open response of an identity that is no longer valid."""
        self.sessions.end_responses(is_invalid, reason)

    def end_streams(self, is_expired: Callable[[Identity], bool]) -> None:
        """End every event stream whose token has expired."""
        self.sessions.end_streams(is_expired)

    def tick(self, now: float) -> None:
        """End the sessions that have been idle for too long."""
        self.sessions.tick(now)

    def keep_alive(self) -> None:
        """Write a comment on every open stream."""
        for session in self.sessions.all():
            session.open.keep_alive()

    def _find_session(self, request: Request, identity: Identity) -> Session:
        session = self.sessions.find(request.headers.get("mcp-session-id"), identity)
        self._note_access(session, identity)
        return session

    def _note_access(self, session: Session, identity: Identity) -> None:
        if self._policy is not None:
            session.access = self._policy.access_of(identity)

    def _check_version(self, request: Request) -> None:
        # Not -32022 if legacy clients are served: a dual-era client would take it for a modern server's answer, and not
        # fall back.
        version = request.headers.get("mcp-protocol-version")
        if not self._versions.legacy:
            raise not_allowed("POST")
        if version is not None and version not in self._versions.legacy:
            offered = ", ".join(self._versions.legacy)
            raise bad_request(jsonrpc.INVALID_REQUEST, f"unsupported MCP-Protocol-Version; supported: {offered}")


def _admit(session: Session, body: Body) -> Mapping[int, Message]:
    """Return the answers to the messages that must not reach the server, by position. Raises HttpError."""
    access = session.access
    refusals = access.check(body.messages) if access is not None else {}
    session.lease.check_room(len(body.requests))
    if access is not None:
        access.admit(body.messages, refusals)
    return refusals
