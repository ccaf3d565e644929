"""The answers to a session's POSTs: to one request, to a batch of them, and to `initialize`."""

from __future__ import annotations

from collections.abc import Sequence

from stdio_bridge.http.exchange import Headers, Response
from stdio_bridge.http.identity import Identity
from stdio_bridge.http.json_errors import JSON_HEADERS, reply_error
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import CallOutcome
from stdio_bridge.protocol.errors import HttpError
from stdio_bridge.protocol.event_stream import EventStream
from stdio_bridge.protocol.jsonrpc import Message, RequestId
from stdio_bridge.servers.backend import Reply

from .call_records import CallRecord
from .sessions import SESSION_HEADER, Session


class _Response:
    """The response to one POST that holds requests: JSON if there is nothing else to say, an event stream otherwise."""

    def __init__(self, session: Session, response: Response, identity: Identity) -> None:
        self._session = session
        self._response = response
        self._identity = identity
        self._stream: EventStream | None = None
        self._headers: Headers = []
        # "Disconnection SHOULD NOT be interpreted as the client cancelling its request."
        session.open.hold(response, identity, self._gone, self._begin)

    def _gone(self) -> None:
        # A disconnect cancels no request.
        if self._stream is None:
            for reply in self._replies():
                self._session.lease.backend.lose(self._session, reply)

    def _replies(self) -> Sequence[Reply]:
        raise NotImplementedError

    def _begin(self) -> EventStream:
        if self._stream is None:
            self._stream = self._session.begin_stream(self._response, self._identity, self._headers)
        return self._stream

    def send(self, message: Message) -> None:
        """Send a message before the answer, which makes the response a stream."""
        if not self.is_lost:
            self._session.deliver(self._begin(), message)
        elif message["method"] != "notifications/progress":
            # The client can still get it on its GET stream. Progress is useless to a client that has left its request.
            self._session.receive(message)

    @property
    def is_lost(self) -> bool:
        """Whether the client left before the response became a stream, so that it cannot resume it."""
        return self._stream is None and self._response.finished

    def _end(self, stream: EventStream) -> None:
        self._session.end_stream(stream)
        self._session.open.release(self._response)


class Answer(_Response):
    """The answer to the one request of a POST."""

    def __init__(self, session: Session, response: Response, identity: Identity, record: CallRecord) -> None:
        self._record = record
        super().__init__(session, response, identity)

    def _replies(self) -> Sequence[Reply]:
        return [self]

    def finish(self, message: Message, outcome: CallOutcome | None = None) -> None:
        """Answer. `outcome` is set if the bridge has made the answer itself."""
        if self.is_lost:
            self._record.answered(message, outcome or CallOutcome.CLIENT_GONE, bytes_out=0)
            return
        data = jsonrpc.encode(message)
        if self._stream is not None:
            self._session.deliver(self._stream, message, data)
            self._end(self._stream)
        else:
            self._session.open.release(self._response)
            self._response.reply("200 OK", [*JSON_HEADERS, *self._headers], data)
        self._record.answered(message, outcome, bytes_out=len(data))


class _Batch(_Response):
    """The answers to the requests of a batch: an event stream."""

    def __init__(self, session: Session, response: Response, identity: Identity, records: Sequence[CallRecord]) -> None:
        self.unanswered = dict.fromkeys(_BatchReply(self, record) for record in records)
        super().__init__(session, response, identity)

    def _replies(self) -> Sequence[Reply]:
        return list(self.unanswered)

    def answer(self, reply: _BatchReply, message: Message) -> int:
        """Answer one of the requests. Returns the number of bytes of JSON that the client gets."""
        del self.unanswered[reply]
        if self.is_lost:
            return 0
        data = jsonrpc.encode(message)
        stream = self._begin()
        self._session.deliver(stream, message, data)
        if not self.unanswered:
            self._end(stream)
        return len(data)


class _BatchReply:
    """The reply to one request of a batch."""

    def __init__(self, batch: _Batch, record: CallRecord) -> None:
        self._batch = batch
        self._record = record

    def send(self, message: Message) -> None:
        """Send a message before the answer."""
        self._batch.send(message)

    def finish(self, message: Message, outcome: CallOutcome | None = None) -> None:
        """Answer."""
        if self._batch.is_lost:
            outcome = outcome or CallOutcome.CLIENT_GONE
        bytes_out = self._batch.answer(self, message)
        self._record.answered(message, outcome, bytes_out=bytes_out)


def replies_to(
    session: Session, response: Response, identity: Identity, records: Sequence[CallRecord], *, batch: bool
) -> Sequence[Reply]:
    """Return the reply to each request of a POST, in their order."""
    if not records:
        return ()
    if batch:
        return list(_Batch(session, response, identity, records).unanswered)
    return [Answer(session, response, identity, records[0])]


class InitializeAnswer(Answer):
    """The answer to `initialize`: a success opens the session."""

    def __init__(self, session: Session, response: Response, identity: Identity, record: CallRecord) -> None:
        super().__init__(session, response, identity, record)
        self._headers = [(SESSION_HEADER, session.id)]

    def _gone(self) -> None:
        self._record.left(is_connected=not self._response.finished)
        # A session that has not begun cannot be resumed.
        self._session.stop("the client left before the session began")

    def _begin(self) -> EventStream:
        stream = super()._begin()
        self._session.open.hold(self._response, self._identity, self._gone)
        return stream

    def finish(self, message: Message, outcome: CallOutcome | None = None) -> None:
        """Answer, and end the session if the server refused."""
        self._session.version = _negotiated_version(message)
        if self._session.version is None:
            self._headers = []
        super().finish(message, outcome)
        if self._session.version is None:
            self._session.stop("it refused to initialize")

    def refuse(self, request_id: RequestId, error: HttpError) -> None:
        """Answer with an HTTP error, or with its JSON-RPC error alone once the response is a stream."""
        self._record.refused(error)
        if self._stream is None and not self.is_lost:
            self._session.open.release(self._response)
            reply_error(self._response, error, request_id)
            self._session.stop("it was not started")
        else:
            self.finish({**error.message, "id": request_id})


def _negotiated_version(answer: Message) -> str | None:
    result = answer.get("result")
    version = result.get("protocolVersion") if isinstance(result, dict) else None
    return version if isinstance(version, str) else None
