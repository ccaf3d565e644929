"""One trace from the real Traefik through the check of the token and the bridge to the server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import requests

from local.options import UsageError, parse_options
from tests.e2e.conftest import PROJECT, RunningStack
from tests.e2e.flow import MCP_HEADERS, Tokens, initialize, log_in
from tests.otlp import SOON, Collector, Span
from tests.peers import oldest_traefik
from tests.stdio_bridge.modern_client import PREFIX, VERSION
from tests.stdio_bridge.running import rpc

SERVER = PROJECT / "tests/stdio_bridge/era_server.py"
CLIENTS_TRACE, CLIENTS_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "arguments-are-nobodys-business"


class TracedStack:
    """A stack that sends traces to a collector, and a user who is logged in to its two servers."""

    def __init__(self, folder: Path, collector: Collector, *arguments: str) -> None:
        self.collector = collector
        servers = [
            argument
            for era in ("legacy", "modern")
            for argument in ("--server", f"{era}={sys.executable} {SERVER} {era}")
        ]
        self.running = RunningStack(folder, "--tracing-endpoint", collector.url, *servers, *arguments)
        self.tokens: dict[str, Tokens] = {}

    def log_in(self) -> None:
        self.running.wait_until_healthy()
        for server in ("legacy", "modern"):
            self.tokens[server] = log_in(self.running.issuer, self.running.resource(server))

    def post(self, server: str, body: object, **headers: str) -> requests.Response:
        authorization = {"Authorization": f"Bearer {self.tokens[server].access_token}"}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return requests.post(
            self.running.resource(server), json=body, headers={**MCP_HEADERS, **authorization, **named}, timeout=60
        )

    def meta_at_server(self, server: str, era: str, meta: dict[str, Any] | None = None, **headers: str) -> Any:
        """Call a tool as a client of that era. Returns the `_meta` that has reached the server."""
        params: dict[str, Any] = {"name": "params", "arguments": {"secret": SECRET}}
        if era == "modern":
            own = {PREFIX + "protocolVersion": VERSION, PREFIX + "clientCapabilities": {}, **(meta or {})}
            headers |= {"MCP_Protocol_Version": VERSION, "Mcp_Method": "tools/call", "Mcp_Name": "params"}
            answer = self.post(server, rpc("tools/call", {**params, "_meta": own}), **headers)
        else:
            session = initialize(self.running.resource(server), self.tokens[server].access_token)
            headers["Mcp_Session_Id"] = session.headers["Mcp-Session-Id"]
            answer = self.post(
                server, rpc("tools/call", params if meta is None else {**params, "_meta": meta}), **headers
            )
        text = answer.text.partition("data: {")
        message = json.loads(text[0] if not text[1] else "{" + text[2].splitlines()[0])
        return json.loads(message["result"]["content"][0]["text"]).get("_meta", {})

    def trace_of(self, traceparent: str) -> dict[str, Span]:
        """Return the spans of a trace by service and name, once those of all parts are there."""
        _, trace_id, _, _ = traceparent.split("-")

        def in_trace(spans: list[Span]) -> dict[str, Span]:
            return {f"{span.service} {span.name}": span for span in spans if span.trace_id == trace_id}

        # Traefik sends its own last, with the end of the response.
        def is_whole(spans: list[Span]) -> bool:
            return {"traefik POST", "mcp-auth-service", "mcp-bridge"} <= {
                name if name == "traefik POST" else name.split(" ")[0].removesuffix("-legacy").removesuffix("-modern")
                for name in in_trace(spans)
            }

        return in_trace(self.collector.wait_for(is_whole))


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[TracedStack]:
    """Yield a stack that is healthy, and stop it."""
    with pytest.MonkeyPatch.context() as monkeypatch, Collector() as collector:
        for name, value in SOON.items():
            monkeypatch.setenv(name, value)
        stack = TracedStack(folder, collector, *arguments)
        try:
            stack.log_in()
            yield stack
        finally:
            stack.running.stop()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TracedStack]:
    with started(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


def check_whole(trace: dict[str, Span], server: str, traceparent: str) -> Span:
    """Check that each part's span is within that of the part which asked it. Returns Traefik's first span."""
    first = trace["traefik POST"]
    assert trace["traefik AuthRequest"].parent_id == first.span_id
    assert trace[f"mcp-auth-service GET /verify/{server}"].parent_id == trace["traefik AuthRequest"].span_id
    assert trace["traefik ReverseProxy"].parent_id == first.span_id
    call = trace[f"mcp-bridge-{server} tools/call params"]
    assert call.parent_id == trace["traefik ReverseProxy"].span_id
    assert traceparent == f"00-{call.trace_id}-{call.span_id}-01", "the server is told of the bridge's span"
    return first


BOTH_SERVERS = pytest.mark.parametrize("server", ["legacy", "modern"])
BOTH_ERAS = pytest.mark.parametrize("era", ["legacy", "modern"])


@BOTH_SERVERS
@BOTH_ERAS
def test_a_call_is_one_trace_from_the_router_to_the_server(stack: TracedStack, server: str, era: str) -> None:
    meta = stack.meta_at_server(server, era)
    first = check_whole(stack.trace_of(meta["traceparent"]), server, meta["traceparent"])
    assert first.parent_id == "", "the gateway began the trace"


@BOTH_ERAS
def test_the_trace_of_a_client_goes_on_in_the_gateway(stack: TracedStack, era: str) -> None:
    own = f"00-{CLIENTS_TRACE[:-1]}{'a' if era == 'legacy' else 'b'}-{CLIENTS_SPAN}-01"
    meta = stack.meta_at_server("legacy", era, Traceparent=own, Tracestate="vendor=1")
    assert meta["traceparent"].split("-")[1] == own.split("-")[1]
    assert meta["tracestate"] == "vendor=1"
    first = check_whole(stack.trace_of(meta["traceparent"]), "legacy", meta["traceparent"])
    assert first.parent_id == CLIENTS_SPAN


@BOTH_ERAS
def test_a_context_in_the_request_stays_and_is_linked_to_the_trace_of_the_gateway(stack: TracedStack, era: str) -> None:
    client_span = f"{era.encode().hex()[:12]}aaaa"
    own = {"traceparent": f"00-{CLIENTS_TRACE}-{client_span}-01"}
    meta = stack.meta_at_server("legacy", era, own)
    assert meta["traceparent"] == own["traceparent"]

    def linked(spans: list[Span]) -> list[Span]:
        return [span for span in spans if span.links == ((CLIENTS_TRACE, client_span),)]

    (call,) = linked(stack.collector.wait_for(lambda spans: bool(linked(spans))))
    assert call.trace_id != CLIENTS_TRACE
    trace = stack.trace_of(f"00-{call.trace_id}-{call.span_id}-01")
    assert call.parent_id == trace["traefik ReverseProxy"].span_id


def test_a_malformed_context_begins_a_new_trace(stack: TracedStack) -> None:
    meta = stack.meta_at_server("legacy", "modern", {"traceparent": "junk"}, Traceparent="junk")
    assert check_whole(stack.trace_of(meta["traceparent"]), "legacy", meta["traceparent"]).parent_id == ""


def test_a_refused_request_ends_at_the_check_of_the_token(stack: TracedStack) -> None:
    own = f"00-{CLIENTS_TRACE[:-1]}d-{CLIENTS_SPAN}-01"
    answer = requests.post(
        stack.running.resource("legacy"),
        json=rpc("tools/list", {}),
        headers={**MCP_HEADERS, "Authorization": "Bearer x.y.z", "Traceparent": own},
        timeout=60,
    )
    assert answer.status_code == 401
    trace_id = own.split("-")[1]
    spans = stack.collector.wait_for(
        lambda spans: {"traefik", "mcp-auth-service"} <= {span.service for span in spans if span.trace_id == trace_id}
    )
    assert {span.service for span in spans if span.trace_id == trace_id} == {"traefik", "mcp-auth-service"}


def test_no_part_sends_a_token_a_code_an_argument_or_a_user(stack: TracedStack) -> None:
    meta = stack.meta_at_server("legacy", "legacy")
    stack.trace_of(meta["traceparent"])
    # The pages of the logins are in it, too.
    assert any(span.attributes.get("url.path") == "/callback" for span in stack.collector.spans)
    for span in stack.collector.spans:
        for tokens in stack.tokens.values():
            assert tokens.access_token.encode() not in span.raw
            assert tokens.refresh_token.encode() not in span.raw
        assert SECRET.encode() not in span.raw
        assert b"octocat" not in span.raw
        for name in ("url.full", "url.query"):
            query = parse_qs(str(span.attributes.get(name, "")).rpartition("?")[2])
            assert {value for values in query.values() for value in values} <= {"REDACTED"}, span


def test_at_a_ratio_of_0_only_what_clients_trace_is_traced_and_by_the_router_alone(tmp_path: Path) -> None:
    with started(tmp_path, "--tracing-sample-ratio", "0") as stack:
        own = f"00-{CLIENTS_TRACE}-{CLIENTS_SPAN}-01"
        assert stack.meta_at_server("legacy", "modern")["traceparent"].endswith("-00")
        assert stack.meta_at_server("legacy", "modern", Traceparent=own)["traceparent"].endswith("-00")
        stack.running.stop()  # each part sends its last spans
        assert {(span.service, span.trace_id) for span in stack.collector.spans} == {("traefik", CLIENTS_TRACE)}


def test_the_oldest_traefik_traces_in_the_same_way(tmp_path: Path) -> None:
    with started(tmp_path, "--traefik", oldest_traefik()) as stack:
        meta = stack.meta_at_server("modern", "legacy")
        check_whole(stack.trace_of(meta["traceparent"]), "modern", meta["traceparent"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--tracing-sample-ratio", "0.5"], "--tracing-sample-ratio goes with --tracing-endpoint"),
        (["--tracing-endpoint", "127.0.0.1:4318"], "--tracing-endpoint: must be an absolute http"),
        (["--tracing-endpoint", "http://127.0.0.1:4318"], "--tracing-endpoint: must have a path"),
        (
            ["--tracing-endpoint", "http://127.0.0.1:4318/v1/traces", "--tracing-sample-ratio", "2"],
            "--tracing-sample-ratio: ",
        ),
    ],
)
def test_a_mistake_about_traces_is_named(arguments: list[str], complaint: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_options(arguments)
    assert complaint in str(error.value)
