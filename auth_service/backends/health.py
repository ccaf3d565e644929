"""Check whether each server answers, by the first requests of a client, sent directly to the backend."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from auth_service.idp.http import Session
from auth_service.keys.access_tokens import VerifiedClaims
from auth_service.settings import Resource, Settings

from .assertions import BackendSigner
from .bridge_status import find_status

TIMEOUT_SECONDS = 60
"""For all requests to one backend, which may have to start its server."""
RUN_SECONDS = 240
"""After this time no other backend is asked, so that silent servers do not hold up the results of others."""
AT_ONCE = 4
"""A check may start a server, and all at once would be too much load."""
MAX_BYTES = 1 << 20

_SUBJECT = "gateway:health"
HEADERS: Final = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
INITIALIZE: Final = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "mcp-gatewayctl", "version": "1"},
    },
}
"""The first request of an MCP client to a server, which the doctor makes too."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result for one backend of a resource; `problem` is None if it answers.

    `answered_ago` is how many seconds ago it last answered, if its bridge said so and it was not asked itself.
    """

    name: str
    endpoint: str
    seconds: float
    problem: str | None
    answered_ago: float | None = None
    asleep: bool = False
    """Whether its bridge has exited because nobody uses it, and was not woken."""


def check_each(settings: Settings, keys: Mapping[str, bytes], *, max_age: float | None = None) -> Iterator[Result]:
    """Open and end a session at every backend of the resources with these identity keys.

    Where users have credentials, only the bridge is asked whether it answers.

    With `max_age` a bridge is asked first, and one that is asleep is left alone. What a bridge reports about its server
    is enough if it is not older than these seconds, so that the check does not start unused servers. Each result is
    yielded when it is there.
    """
    until = time.monotonic() + RUN_SECONDS
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        pending = [
            pool.submit(
                _check, BackendSigner(key), name, settings.resources[name], endpoint, until=until, max_age=max_age
            )
            for name, key in keys.items()
            for endpoint in settings.resources[name].endpoints
        ]
        for done in as_completed(pending):
            yield done.result()


def render_metrics(results: Sequence[Result], *, now: float) -> str:
    """Return the results in Prometheus' text format, as node exporter's textfile collector reads it."""
    lines = [f"# TYPE mcp_gateway_server_{name} gauge" for name in ("up", "asleep", "handshake_seconds")]
    for each in results:
        labels = f'{{server="{each.name}",endpoint="{each.endpoint}"}}'
        lines.append(f"mcp_gateway_server_up{labels} {int(each.problem is None)}")
        lines.append(f"mcp_gateway_server_asleep{labels} {int(each.asleep)}")
        if each.answered_ago is None and not each.asleep:
            lines.append(f"mcp_gateway_server_handshake_seconds{labels} {each.seconds:.3f}")
    lines.append("# TYPE mcp_gateway_health_timestamp_seconds gauge")
    lines.append(f"mcp_gateway_health_timestamp_seconds {now:.0f}")
    return "\n".join(lines) + "\n"


def _check(
    signer: BackendSigner, name: str, resource: Resource, endpoint: str, *, until: float, max_age: float | None
) -> Result:
    started = time.monotonic()
    problem: str | None = None
    answered_ago: float | None = None
    asleep = False
    if started >= until:
        problem = f"was not checked: the others took more than {RUN_SECONDS} s"
    else:
        try:
            with Session(seconds=TIMEOUT_SECONDS) as session:
                session.trust_env = False  # a proxy would see the assertion
                if resource.backend_credential or resource.backend_tls is not None:
                    # What it takes to be let in is for Traefik and the auth service alone.
                    _connect(endpoint)
                    return Result(name=name, endpoint=endpoint, seconds=time.monotonic() - started, problem=None)
                is_asked_first = max_age is not None or bool(resource.user_credentials)
                status = find_status(session, resource, endpoint, timeout=TIMEOUT_SECONDS) if is_asked_first else None
                asleep = status is not None and status.asleep
                if resource.user_credentials:
                    # No process starts without a user, and how it ends says more of the user's credentials.
                    problem = "cannot be reached" if status is None else None
                elif max_age is not None and status is not None and status.says_enough(max_age):
                    problem, answered_ago = status.problem, status.answered
                else:
                    _shake_hands(session, lambda: _headers(signer, resource), endpoint)
        except _Failure as failure:
            problem = str(failure)
    return Result(
        name=name,
        endpoint=endpoint,
        seconds=time.monotonic() - started,
        problem=problem,
        answered_ago=answered_ago if problem is None and not asleep else None,
        asleep=asleep,
    )


def _headers(signer: BackendSigner, resource: Resource) -> dict[str, str]:
    now = int(time.time())
    claims = VerifiedClaims(
        subject=_SUBJECT,
        name="health",
        client_id="mcp-gatewayctl",
        scope=" ".join(resource.scopes),
        audience=resource.url,
        sid="health",
        token_id="",
        issued_at=now,
        expires_at=now + 2 * TIMEOUT_SECONDS,
    )
    return {**HEADERS, "Accept-Encoding": "identity", "X-Gateway-Identity": signer.sign_identity(claims)}


def _shake_hands(session: Session, make_headers: Callable[[], dict[str, str]], endpoint: str) -> None:
    """Open a session and end it. Raises _Failure."""
    try:
        # A redirect is not followed: it would take the assertion to an address of the server's choice.
        with session.post(
            endpoint,
            json=INITIALIZE,
            headers=make_headers(),
            timeout=TIMEOUT_SECONDS,
            allow_redirects=False,
            stream=True,
        ) as answer:
            body = answer.raw.read(MAX_BYTES + 1, decode_content=False) if answer.status_code == HTTPStatus.OK else b""
        if session.is_over:
            raise _Failure(_TOO_LATE)
        if answer.status_code != HTTPStatus.OK:
            raise _Failure(f"answered HTTP {answer.status_code}")
        if len(body) > MAX_BYTES:
            raise _Failure(f"answered with more than {MAX_BYTES} bytes")
        message = _message(answer.headers, body)
        if session_id := answer.headers.get("Mcp-Session-Id"):
            ending = {**make_headers(), "Mcp-Session-Id": session_id}
            session.delete(
                endpoint, headers=ending, timeout=TIMEOUT_SECONDS, allow_redirects=False, stream=True
            ).close()
    except (requests.RequestException, HTTPError, OSError, ValueError, RecursionError) as error:
        if session.is_over or isinstance(error, requests.Timeout | ReadTimeoutError):
            raise _Failure(_TOO_LATE) from error
        if isinstance(error, requests.ConnectionError):
            raise _Failure("cannot be reached") from error
        raise _Failure("answered something that is not MCP") from error
    if "result" not in message:
        raise _Failure("refused to initialize")


def _connect(endpoint: str) -> None:
    """Connect, and ask nothing. Raises _Failure."""
    url = urlsplit(endpoint)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname or "", port), timeout=TIMEOUT_SECONDS).close()
    except OSError as error:
        raise _Failure("cannot be reached") from error


class _Failure(Exception):
    """A backend failed; the text is for the operator."""


_TOO_LATE: Final = f"did not answer within {TIMEOUT_SECONDS} s"


def _message(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """Return the JSON-RPC message, also from the first event of a stream. Raises ValueError."""
    text = body.decode()
    if headers.get("Content-Type", "").startswith("text/event-stream"):
        data = [line.removeprefix("data:") for line in text.splitlines() if line.startswith("data:")]
        # An event without data may come first, from which a client can resume.
        text = next((each for each in data if each.strip()), "")
    match json.loads(text):
        case dict() as message:
            return message
    raise ValueError("not a JSON object")
