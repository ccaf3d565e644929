"""Whether each server answers: a handshake as a client would make it, straight to the backend."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import requests

from auth_service.identity import BackendSigner
from auth_service.settings import Credentials, Resource, Settings
from auth_service.tokens import VerifiedClaims

TIMEOUT_SECONDS = 60
AT_ONCE = 4
"""A handshake may start a server: all at once would be a load of its own."""

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
    """How one backend of a resource answered; `problem` is None where it did as it should."""

    name: str
    endpoint: str
    seconds: float
    problem: str | None


def check_all(settings: Settings, credentials: Credentials, names: Sequence[str] = ()) -> list[Result]:
    """Open a session at every backend of these resources, or of all, and end it again."""
    chosen = {name: each for name, each in settings.resources.items() if not names or name in names}
    tasks = [(name, each, endpoint) for name, each in chosen.items() for endpoint in each.endpoints]
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        return list(pool.map(lambda task: _check(credentials, *task), tasks))


def render_metrics(results: Sequence[Result], *, now: float) -> str:
    """Return the results in Prometheus' text format, as node exporter's textfile collector reads it."""
    lines = ["# TYPE mcp_gateway_server_up gauge", "# TYPE mcp_gateway_server_handshake_seconds gauge"]
    for each in results:
        labels = f'{{server="{each.name}",endpoint="{each.endpoint}"}}'
        lines.append(f"mcp_gateway_server_up{labels} {int(each.problem is None)}")
        lines.append(f"mcp_gateway_server_handshake_seconds{labels} {each.seconds:.3f}")
    lines.append("# TYPE mcp_gateway_health_timestamp_seconds gauge")
    lines.append(f"mcp_gateway_health_timestamp_seconds {now:.0f}")
    return "\n".join(lines) + "\n"


def _check(credentials: Credentials, name: str, resource: Resource, endpoint: str) -> Result:
    started = time.monotonic()
    problem = _problem(BackendSigner(credentials.derive_key(f"identity-key:{name}")), resource, endpoint)
    return Result(name=name, endpoint=endpoint, seconds=time.monotonic() - started, problem=problem)


def _problem(signer: BackendSigner, resource: Resource, endpoint: str) -> str | None:
    def headers() -> dict[str, str]:
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
        return {**HEADERS, "X-Gateway-Identity": signer.sign_identity(claims)}

    with requests.Session() as session:
        session.trust_env = False  # a proxy would see the assertion
        try:
            answer = session.post(endpoint, json=INITIALIZE, headers=headers(), timeout=TIMEOUT_SECONDS)
            if answer.status_code != 200:
                return f"answered HTTP {answer.status_code}"
            problem = None if "result" in _message(answer) else "refused to initialize"
            if session_id := answer.headers.get("Mcp-Session-Id"):
                ending = {**headers(), "Mcp-Session-Id": session_id}
                session.delete(endpoint, headers=ending, timeout=TIMEOUT_SECONDS)
        except requests.Timeout:
            return f"did not answer within {TIMEOUT_SECONDS} s"
        except requests.ConnectionError:
            return "cannot be reached"
        except (requests.RequestException, ValueError):
            return "answered something that is not MCP"
    return problem


def _message(answer: requests.Response) -> dict[str, Any]:
    """Return the JSON-RPC message, also where it comes as the first event of a stream. Raises ValueError."""
    text = answer.text
    if answer.headers.get("Content-Type", "").startswith("text/event-stream"):
        data = [line.removeprefix("data:") for line in text.splitlines() if line.startswith("data:")]
        # An event without data may come first: it is there to be resumed from.
        text = next((each for each in data if each.strip()), "")
    match json.loads(text):
        case dict() as message:
            return message
    raise ValueError("not a JSON object")
