"""The HTTP endpoints, and the checks that every request passes first."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from .clients.call_log import CallLog
from .clients.call_metrics import CallMetrics
from .clients.call_records import CallObserver, CallRecords
from .clients.call_spans import find_spans
from .clients.legacy_http import LegacyEra
from .clients.modern_http import ModernEra
from .clients.policy import find_policy
from .clients.request_body import parse_body
from .http.exchange import Request, Response
from .http.identity import IDENTITY_HEADER, Identity, Verifier
from .http.json_errors import JSON_HEADERS, reply_error
from .http.origin_check import OriginCheck
from .io.event_loop import Loop
from .io.metrics import CONTENT_TYPE, Registry
from .io.record_writer import Destination, RecordWriter
from .options import Options
from .protocol import jsonrpc
from .protocol.calls import CallOutcome
from .protocol.errors import HttpError, not_allowed, stopping
from .protocol.jsonrpc import Message
from .servers.handshake import EraCache, ServerEra
from .servers.leases import Leases
from .servers.pool import ServerPool
from .servers.readiness import Readiness
from .servers.survey import Offers, SurveyError, Surveys, report_in_steps
from .servers.suspended_calls import SuspendedCalls

if TYPE_CHECKING:
    from .servers.user_credentials import UserCredentials

log = logging.getLogger(__name__)

_TICK_SECONDS = 1.0
# Requests for these paths do not keep an idle bridge awake.
_NO_USE = frozenset({"/healthz", "/metrics", "/revocations", "/statusz"})
# How many steps of a report are done before the loop handles other events.
_STEPS_AT_ONCE = 20
# After this time the bridge exits even if a process has not ended, or a client has not read its output.
_LAST_SECONDS = 2.0


def _find_credentials(loop: Loop, options: Options, verifier: Verifier) -> UserCredentials | None:
    """Return what asks for users' credentials, where they have any."""
    if not options.credentials_urls:
        return None
    from .servers.user_credentials import UserCredentials  # noqa: PLC0415 - loads what decrypts them

    variables = frozenset(options.user_credentials)
    return UserCredentials(loop, options.credentials_urls, verifier, variables=variables, now=time.time)


class Bridge:
    """The application behind the socket. Everything happens on the loop's thread."""

    def __init__(
        self, loop: Loop, options: Options, verifier: Verifier, *, call_records: Destination | None = None
    ) -> None:
        self._loop = loop
        self._options = options
        self._verifier = verifier
        self._origin_check = OriginCheck(options)
        self._registry = Registry()
        self._requests = self._registry.counter("mcp_bridge_requests_total", "HTTP requests to the MCP endpoint")
        self._refused = self._registry.counter("mcp_bridge_refused_total", "Requests that were refused")
        self._pool = ServerPool(loop, options, self._registry, credentials=_find_credentials(loop, options, verifier))
        era_cache = EraCache(
            era=None if options.server_era == "auto" else ServerEra(options.server_era), versions=options.versions
        )
        self._suspended_calls = suspended_calls = SuspendedCalls(
            verifier.key_for("request-state"), seconds=options.input_timeout, clock=loop.clock
        )
        self._leases = Leases(self._pool, era_cache, suspended_calls)
        self._policy = policy = find_policy(options, self._registry, clock=loop.clock)
        observers: list[CallObserver] = [CallMetrics(self._registry)]
        if policy is not None and policy.quotas.running is not None:
            observers.append(policy.quotas.running)
        self._call_log = self._make_call_log(call_records)
        if self._call_log is not None:
            observers.append(self._call_log)
        self._records = CallRecords(observers, clock=time.perf_counter, time=time.time)
        self._spans = find_spans(options)
        self._legacy = LegacyEra(self._leases, self._registry, policy=policy)
        self._modern = ModernEra(self._leases, policy=policy)
        self._eras = (self._legacy, self._modern)
        self._registry.gauge(
            "mcp_bridge_parked_calls", "Calls that wait for an answer of their client", lambda: len(suspended_calls)
        )
        self._registry.gauge(
            "mcp_bridge_open_streams", "Open event streams", lambda: sum(era.streams for era in self._eras)
        )
        rules = {} if policy is None else policy.rules
        self._surveys = Surveys(loop, self._pool, options.versions, rules)
        self._rules = rules
        self._draining = False
        self._ready = Readiness(loop, self._pool)
        self._last_used = loop.clock()
        self._is_asked = False  # for anything but to take a revocation notice
        self.flushed: Callable[[], bool] = lambda: True
        self.fall_asleep: Callable[[], None] = lambda: None
        self._routes: dict[str, Callable[[Request, Response], None]] = {
            "/mcp": self._mcp,
            "/mcp/": self._mcp,
            "/revocations": self._revocation,
            "/survey": self._survey,
            "/healthz": self._health,
            "/readyz": self._readiness,
            "/statusz": self._status,
            "/metrics": self._metrics,
        }
        loop.call_later(_TICK_SECONDS, self._tick)
        loop.call_later(options.keep_alive, self._keep_alive)

    def _make_call_log(self, destination: Destination | None) -> CallLog | None:
        lost = self._registry.counter("mcp_bridge_lost_call_records_total", "Records of calls that were not written")
        unrecorded = self._registry.counter(
            "mcp_bridge_unrecorded_requests_total", "Requests without a record, as their users had too many"
        )
        if destination is None:
            return None
        return CallLog(
            RecordWriter(destination, self._loop, lost),
            self._loop,
            server=self._options.server_name,
            arguments=self._options.record_arguments,
            key=self._verifier.key_for("recorded-arguments"),
            unrecorded=unrecorded,
        )

    def __call__(self, request: Request, response: Response) -> None:
        """Answer one request."""
        if request.path not in _NO_USE:
            self._last_used = self._loop.clock()
        self._is_asked |= request.path != "/revocations"
        route = self._routes.get(request.path)
        try:
            if route is None:
                raise HttpError("404 Not Found", jsonrpc.INVALID_REQUEST, "not found: the MCP endpoint is /mcp")
            route(request, response)
        except HttpError as error:
            self._refused.add()
            reply_error(response, error)

    # The MCP endpoint

    def _mcp(self, request: Request, response: Response) -> None:
        self._requests.add()
        response.headers = self._origin_check.check(request)
        identity = self._verifier.identify(request.headers.get(IDENTITY_HEADER))
        if request.method == "POST":
            self._post(request, response, identity)
        elif (allowed := self._origin_check.preflight(request)) is not None:
            response.reply("204 No Content", allowed)
        elif self._modern.claims(request, None):
            raise not_allowed("POST")
        elif request.method == "GET":
            self._legacy.get(request, response, identity)
        elif request.method == "DELETE":
            self._legacy.delete(request, response, identity)
        else:
            raise not_allowed("GET, POST, DELETE")

    def _post(self, request: Request, response: Response, identity: Identity) -> None:
        body = parse_body(request)
        records = self._records.begin(request, body, identity)
        try:
            if self._spans is not None:
                body = self._spans.begin(request, body, records)
            # Responses and notifications still pass, as a running call may need them to finish.
            if self._draining and body.requests:
                raise stopping()
            era = self._modern if self._modern.claims(request, body) else self._legacy
            era.post(request, response, identity, body, records)
        except HttpError as error:
            error.message["id"] = body.request_id
            for record in records:
                record.refused(error)
            raise
        except Exception:
            for record in records:
                record.end(CallOutcome.ERROR, error_code=jsonrpc.INTERNAL_ERROR)
            raise

    # Requests of the gateway and of the operator

    def _revocation(self, request: Request, response: Response) -> None:
        if request.method != "POST":
            raise not_allowed("POST")
        revoked = self._verifier.parse_revocation(request.body())
        if revoked.user is not None:
            self._leases.end_at_once(revoked.user, "the user's credentials have changed")
        for era in self._eras:
            if revoked.grant is not None:
                era.end_responses(lambda identity: identity.grant == revoked.grant, "the grant was revoked")
        if not self._is_asked:
            self._last_used = -math.inf  # only the notice has started this process
        response.reply("204 No Content", [])

    def _survey(self, request: Request, response: Response) -> None:
        if request.method != "POST":
            raise not_allowed("POST")
        self._verifier.check_survey(request.body())
        if self._draining:
            raise stopping()

        def tell(result: Offers | SurveyError) -> None:
            if isinstance(result, SurveyError):
                reply_error(response, HttpError("502 Bad Gateway", jsonrpc.SERVER_ERROR, str(result)))
            else:
                write(report_in_steps(result, lock=self._options.tools_lock, rules=self._rules))

        def write(steps: Generator[None, None, Message]) -> None:
            try:
                for _ in range(_STEPS_AT_ONCE):
                    next(steps)
            except StopIteration as end:
                response.reply("200 OK", JSON_HEADERS, jsonrpc.encode(end.value))
            else:
                self._loop.call_later(0, lambda: write(steps))

        self._surveys.begin(tell)

    def _health(self, request: Request, response: Response) -> None:
        response.reply("200 OK", JSON_HEADERS, b'{"status":"ok"}')

    def _metrics(self, request: Request, response: Response) -> None:
        response.reply("200 OK", [("Content-Type", CONTENT_TYPE)], self._registry.render())

    def _readiness(self, request: Request, response: Response) -> None:
        if self._draining:
            raise stopping()
        self._ready.answer(response)

    def _status(self, request: Request, response: Response) -> None:
        response.reply("200 OK", JSON_HEADERS, self._ready.describe())

    # Time

    def _tick(self) -> None:
        self._loop.call_later(_TICK_SECONDS, self._tick)
        now, seconds = self._loop.clock(), time.time()
        self._pool.tick(now)
        self._legacy.tick(now)
        self._leases.tick(now)
        for era in self._eras:
            era.end_streams(lambda identity: identity.expires is not None and identity.expires <= seconds)
        self._sleep_if_idle(now)

    def _sleep_if_idle(self, now: float) -> None:
        options = self._options
        if not options.idle_exit or options.warm_spares or self._draining:
            return
        if self._is_in_use(now):
            self._last_used = now
        elif now - self._last_used >= options.idle_exit:
            self.fall_asleep()

    def _is_in_use(self, now: float) -> bool:
        """Whether a client could tell that this process has ended, other than by a connection that it has open."""
        return bool(
            len(self._pool)
            or self._legacy.sessions.all()
            or len(self._suspended_calls)
            or (self._policy is not None and self._policy.remembers_users(now))
        )

    def _keep_alive(self) -> None:
        self._loop.call_later(self._options.keep_alive, self._keep_alive)
        for era in self._eras:
            era.keep_alive()

    def close(self) -> None:
        """End the records of unanswered calls, and write the remaining records and spans."""
        self._records.close()
        if self._call_log is not None:
            self._call_log.close()
        if self._spans is not None:
            self._spans.close()

    def drain(self) -> None:
        """Take no new call, let running ones finish within the limit, then end every process and stop the loop."""
        if self._draining:
            return
        self._draining = True
        log.info("stopping: %d calls are running", self._pool.in_flight)
        self._leases.close()
        self._finish_by(self._loop.clock() + self._options.drain_timeout)

    def _finish_by(self, deadline: float) -> None:
        # A request may be unanswered without a call in flight, such as one that waits for its client.
        busy = self._pool.in_flight or any(era.busy for era in self._eras)
        if busy and self._loop.clock() < deadline:
            self._loop.call_later(0.05, lambda: self._finish_by(deadline))
            return
        self._pool.stop("the bridge was stopped")
        self._leave_by(self._loop.clock() + self._options.stop_timeout + _LAST_SECONDS)

    def _leave_by(self, deadline: float) -> None:
        if (len(self._pool) or not self.flushed()) and self._loop.clock() < deadline:
            self._loop.call_later(0.02, lambda: self._leave_by(deadline))
        else:
            self._loop.stop()
