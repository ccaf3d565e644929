"""Traces of a bridge: its spans as a collector gets them, what its server is told of them, and that nothing waits."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from stdio_bridge.io.otlp import Tracer
from tests.otlp import SOON, Collector, Span
from tests.stdio_bridge.modern_client import LEGACY_SERVER, MODERN_SERVER, VERSION, ModernClient
from tests.stdio_bridge.running import ECHO, SCRIPTED, Bridge, EventReader, rpc
from tests.stdio_bridge.test_faults import eventually

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = f"00-{TRACE}-{SPAN}-01"
CLIENTS_TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENTS_OWN = f"00-{CLIENTS_TRACE}-b7ad6b7169203331-01"
SECRET = "arguments-are-nobodys-business"
BOTH_SERVERS = pytest.mark.parametrize("server", [LEGACY_SERVER, MODERN_SERVER], ids=["legacy", "modern"])


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    for name, value in SOON.items():
        monkeypatch.setenv(name, value)
    with Collector() as collector:
        yield collector


def traced(collector: Collector, *options: str, command: tuple[str, ...] = LEGACY_SERVER) -> Bridge:
    named = ("--tracing-endpoint", collector.url, "--tracing-service-name", "mcp-bridge-test")
    return Bridge("--no-identity", *named, *options, command=command)


class LegacyClient:
    """A session, whose calls may carry headers and `_meta`."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self.session = bridge.initialize("2025-11-25")

    def post(self, body: object, **headers: str) -> Any:
        own = {"Mcp_Session_Id": self.session, "MCP_Protocol_Version": "2025-11-25"}
        _, _, content = self._bridge.request("POST", body, **own, **headers)
        return json.loads(content)

    def params_at_server(self, meta: dict[str, Any] | None = None, **headers: str) -> Any:
        """Return the params of a call as they have reached the server."""
        params = {"name": "params", "arguments": {"secret": SECRET}, **({} if meta is None else {"_meta": meta})}
        return json.loads(self.post(rpc("tools/call", params), **headers)["result"]["content"][0]["text"])


class StandAloneClient:
    """A modern client, with the same calls."""

    def __init__(self, bridge: Bridge) -> None:
        self._client = ModernClient(bridge)

    def params_at_server(self, meta: dict[str, Any] | None = None, **headers: str) -> Any:
        return self._client.call("params", {"secret": SECRET}, meta, **headers).said


BOTH_CLIENTS = pytest.mark.parametrize("client", [LegacyClient, StandAloneClient], ids=["sessions", "calls"])
Client = type[LegacyClient] | type[StandAloneClient]


def context_of(span: Span) -> str:
    return f"00-{span.trace_id}-{span.span_id}-01"


def threads_of(bridge: Bridge) -> int:
    return psutil.Process(bridge.process.pid).num_threads()


# Contexts


@BOTH_SERVERS
@BOTH_CLIENTS
def test_a_call_is_a_span_within_the_gateways_and_the_server_is_told_of_it(
    collector: Collector, server: tuple[str, ...], client: Client
) -> None:
    with traced(collector, command=server) as bridge:
        params = client(bridge).params_at_server(Traceparent=CALLER, Tracestate="vendor=1")
        span = collector.wait_for_span("tools/call params")
        assert (span.service, span.trace_id, span.parent_id) == ("mcp-bridge-test", TRACE, SPAN)
        assert params["_meta"]["traceparent"] == context_of(span)
        assert params["_meta"]["tracestate"] == "vendor=1"
        assert params["arguments"] == {"secret": SECRET}
        assert span.links == ()


@BOTH_SERVERS
@BOTH_CLIENTS
def test_the_client_s_own_context_reaches_the_server_and_is_a_link(
    collector: Collector, server: tuple[str, ...], client: Client
) -> None:
    own = {"traceparent": CLIENTS_OWN, "tracestate": "client=2", "baggage": "a=b"}
    with traced(collector, command=server) as bridge:
        params = client(bridge).params_at_server(own, Traceparent=CALLER, Tracestate="vendor=1")
        assert {name: value for name, value in params["_meta"].items() if "/" not in name} == own
        span = collector.wait_for_span("tools/call params")
        assert (span.trace_id, span.parent_id) == (TRACE, SPAN), "the gateway's trace is not the client's to choose"
        assert span.links == ((CLIENTS_TRACE, "b7ad6b7169203331"),)


@BOTH_CLIENTS
def test_without_a_header_the_client_s_own_context_is_the_parent(collector: Collector, client: Client) -> None:
    with traced(collector) as bridge:
        client(bridge).params_at_server({"traceparent": CLIENTS_OWN})
        span = collector.wait_for_span("tools/call params")
        assert (span.trace_id, span.parent_id, span.links) == (CLIENTS_TRACE, "b7ad6b7169203331", ())


@BOTH_CLIENTS
@pytest.mark.parametrize("malformed", ["junk", f"{CALLER}-more", CALLER.upper(), f"{CALLER}, {CALLER}"])
def test_a_malformed_context_is_as_good_as_none(collector: Collector, client: Client, malformed: str) -> None:
    with traced(collector) as bridge:
        meta = {"traceparent": malformed, "tracestate": "client=2"}
        params = client(bridge).params_at_server(meta, Traceparent=malformed, Tracestate="vendor=1")
        span = collector.wait_for_span("tools/call params")
        assert (span.parent_id, span.links) == ("", ())
        assert params["_meta"]["traceparent"] == context_of(span)
        assert "tracestate" not in params["_meta"]


@pytest.mark.parametrize("state", ["no member", "UPPER=1", "a=1,,", "a=" + "x" * 600, "ä=1"])
def test_a_malformed_tracestate_is_left_out_and_the_trace_is_kept(collector: Collector, state: str) -> None:
    with traced(collector) as bridge:
        client = StandAloneClient(bridge)
        params = client.params_at_server(Traceparent=CALLER, Tracestate=state)
        assert "tracestate" not in params["_meta"]
        assert params["_meta"]["traceparent"].startswith(f"00-{TRACE}-")


@pytest.mark.parametrize("params", [5, [], {"name": "x", "_meta": 5}], ids=repr)
def test_invalid_params_reach_the_server_as_they_are(collector: Collector, params: object) -> None:
    with traced(collector, command=ECHO) as bridge:
        client = LegacyClient(bridge)
        answers = [
            client.post({"jsonrpc": "2.0", "id": 1, "method": "other", "params": params}, **headers)
            for headers in ({}, {"Traceparent": CALLER})
        ]
        assert answers[0] == answers[1]


def test_a_span_ends_with_its_answer_and_each_request_of_a_batch_has_one(collector: Collector) -> None:
    with traced(collector) as bridge:
        session = bridge.initialize("2025-03-26")
        batch = [rpc("tools/call", {"name": name}, number) for number, name in enumerate(("params", "reserved"))]
        own = {"Mcp_Session_Id": session, "MCP_Protocol_Version": "2025-03-26", "Traceparent": CALLER}
        bridge.request("POST", batch, **own)
        done = collector.wait_for_span("tools/call params", jsonrpc__request__id="0")
        failed = collector.wait_for_span("tools/call reserved", jsonrpc__request__id="1")
        assert done.span_id != failed.span_id
        assert (done.parent_id, failed.parent_id) == (SPAN, SPAN)
        assert (done.is_error, failed.is_error) == (False, True)


def test_a_retry_with_input_is_a_span_of_its_own(collector: Collector) -> None:
    with traced(collector) as bridge:
        client = ModernClient(bridge, {"elicitation": {}})
        first = client.call("ask", Traceparent=CALLER).result
        answers = {key: {"action": "accept", "content": {}} for key in first["inputRequests"]}
        again = {"inputResponses": answers, "requestState": first["requestState"]}
        retried = client.call("ask", Traceparent=CLIENTS_OWN, **again)
        assert retried.said == [{"action": "accept", "content": {}}]
        spans = collector.wait_for(lambda spans: sum(span.name == "tools/call ask" for span in spans) == 2)
        assert {span.trace_id for span in spans if span.name == "tools/call ask"} == {TRACE, CLIENTS_TRACE}


# Attributes


def test_the_attributes_are_those_of_the_conventions_for_mcp(collector: Collector) -> None:
    with traced(collector) as bridge:
        client = LegacyClient(bridge)
        client.params_at_server(Traceparent=CALLER)
        span = collector.wait_for_span("tools/call params")
        assert (span.kind, span.is_error, span.status_text) == (2, False, ""), "SPAN_KIND_SERVER"
        assert span.attributes == {
            "mcp.method.name": "tools/call",
            "mcp.protocol.version": "2025-11-25",
            "mcp.session.id": client.session,
            "gen_ai.tool.name": "params",
            "gen_ai.operation.name": "execute_tool",
            "jsonrpc.request.id": "1",
            "network.transport": "tcp",
            "network.protocol.name": "http",
            "mcp_gateway.outcome": "ok",
        }
        initialize = collector.wait_for_span("initialize")
        assert "mcp.session.id" not in initialize.attributes


def test_a_stand_alone_request_has_its_version_and_no_session(collector: Collector) -> None:
    with traced(collector) as bridge:
        client = ModernClient(bridge)
        client.request("prompts/get", {"name": "greeting"}, meta={})
        span = collector.wait_for_span("prompts/get greeting")
        assert span.attributes["mcp.protocol.version"] == VERSION
        assert span.attributes["gen_ai.prompt.name"] == "greeting"
        assert not {"mcp.session.id", "gen_ai.operation.name", "gen_ai.tool.name"} & span.attributes.keys()
        client.request("resources/read", {"uri": f"file:///notes?query={SECRET}#part"})
        assert collector.wait_for_span("resources/read").attributes["mcp.resource.uri"] == "file:///notes"


def test_an_error_is_its_code_and_never_its_text(collector: Collector) -> None:
    with traced(collector) as bridge:
        client = LegacyClient(bridge)
        client.post(rpc("tools/call", {"name": "reserved"}))
        span = collector.wait_for_span("tools/call reserved")
        assert (span.is_error, span.status_text) == (True, "")
        assert (span.attributes["error.type"], span.attributes["rpc.response.status_code"]) == ("-32020", "-32020")
        assert b"a code of the server's own" not in span.raw


def test_an_error_of_a_tool_is_a_tool_error(collector: Collector) -> None:
    with traced(collector, command=SCRIPTED) as bridge:
        session = bridge.initialize()
        failed = {"say": {"jsonrpc": "2.0", "id": 2, "result": {"content": [], "isError": True}}}
        steps = {"name": "run", "arguments": {"steps": [failed]}}
        bridge.request("POST", rpc("tools/call", steps), Mcp_Session_Id=session)
        span = collector.wait_for_span("tools/call run")
        assert (span.is_error, span.attributes["error.type"]) == (True, "tool_error")
        assert "rpc.response.status_code" not in span.attributes


def test_a_server_that_ends_and_a_client_that_leaves_are_told_apart(collector: Collector) -> None:
    with traced(collector) as bridge:
        client = LegacyClient(bridge)
        client.post(rpc("tools/call", {"name": "die"}))
        died = collector.wait_for_span("tools/call die")
        assert (died.attributes["mcp_gateway.outcome"], died.is_error) == ("server_exit", True)
        modern = ModernClient(bridge)
        message = modern.message("tools/call", {"name": "hang"})
        headers = {name.replace("_", "-"): value for name, value in modern.headers_for(message).items()}
        data = json.dumps(message).encode()
        lines = [
            "POST /mcp HTTP/1.1",
            "Host: localhost",
            "Accept: application/json, text/event-stream",
            "Content-Type: application/json",
            f"Content-Length: {len(data)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        with socket.create_connection(("127.0.0.1", bridge.port)) as connection:
            connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
            eventually(lambda: len(bridge.children()) == 1)
        left = collector.wait_for_span("tools/call hang")
        assert left.attributes["mcp_gateway.outcome"] == left.attributes["error.type"] == "client_gone"


@pytest.mark.parametrize("name", ["with space", "a\nb", "ä", "x" * 129, "", "<script>"])
def test_a_name_that_no_tool_can_have_is_in_no_span_s_name(collector: Collector, name: str) -> None:
    with traced(collector) as bridge:
        LegacyClient(bridge).post(rpc("tools/call", {"name": name}))
        assert collector.wait_for_span("tools/call").attributes["gen_ai.tool.name"] == name


def test_what_clients_make_up_is_bounded(collector: Collector) -> None:
    with traced(collector) as bridge:
        client = LegacyClient(bridge)
        client.post({"jsonrpc": "2.0", "id": "i" * 10_000, "method": "m" * 10_000, "params": {}})
        client.post(rpc("tools/call", {"name": "n" * 10_000}))
        client.post(rpc("resources/read", {"uri": "u" * 10_000}))
        span = collector.wait_for_span("_OTHER")
        assert span.attributes["mcp.method.name"] == "_OTHER"
        assert span.attributes["jsonrpc.request.id"] == "i" * 256
        assert collector.wait_for_span("tools/call").attributes["gen_ai.tool.name"] == "n" * 256
        assert collector.wait_for_span("resources/read").attributes["mcp.resource.uri"] == "u" * 256


def test_nothing_of_arguments_results_and_users_is_sent(collector: Collector) -> None:
    with traced(collector) as bridge:
        LegacyClient(bridge).params_at_server({"note": SECRET}, Traceparent=CALLER)
        StandAloneClient(bridge).params_at_server({"note": SECRET}, Traceparent=CALLER)
        spans = collector.wait_for(lambda spans: sum(span.name == "tools/call params" for span in spans) == 2)
        assert not [span for span in spans if SECRET.encode() in span.raw]


def test_the_record_of_a_call_names_the_trace_that_it_has(collector: Collector, tmp_path: Path) -> None:
    records = tmp_path / "records"
    with traced(collector, "--call-records", str(records)) as bridge:
        client = LegacyClient(bridge)
        client.params_at_server(Traceparent=CALLER)
        client.post(rpc("tools/call", {"name": "ok"}))
        begun = collector.wait_for_span("tools/call ok")
        assert bridge.stop() == 0
    found = {each.get("tool"): each["trace_id"] for each in map(json.loads, records.read_text().splitlines())}
    assert found["params"] == TRACE
    assert found["ok"] == begun.trace_id, "a trace that the bridge has begun"


def test_a_subscription_which_may_last_for_days_has_no_span(collector: Collector) -> None:
    with traced(collector) as bridge:
        client = ModernClient(bridge)
        with client.stream("subscriptions/listen", {"notifications": {"toolsListChanged": True}}) as messages:
            assert next(messages)["method"] == "notifications/subscriptions/acknowledged"
        client.call("params")
        collector.wait_for_span("tools/call params")
        assert not [span for span in collector.spans if span.name.startswith("subscriptions/")]


# Sampling


def test_at_a_ratio_of_0_nothing_is_sent_and_the_server_is_told_that_nothing_is_traced(collector: Collector) -> None:
    with traced(collector, "--tracing-sample-ratio", "0") as bridge:
        client = LegacyClient(bridge)
        assert client.params_at_server(Traceparent=CALLER)["_meta"] == {"traceparent": f"00-{TRACE}-{SPAN}-00"}
        assert "_meta" not in client.params_at_server()
        assert bridge.stop() == 0
    assert collector.requests == 0


def test_what_the_gateway_does_not_trace_is_not_traced(collector: Collector) -> None:
    with traced(collector) as bridge:
        client = LegacyClient(bridge)
        params = client.params_at_server(Traceparent=f"00-{TRACE}-{SPAN}-00")
        assert params["_meta"] == {"traceparent": f"00-{TRACE}-{SPAN}-00"}
        client.post(rpc("tools/call", {"name": "ok"}))
        collector.wait_for_span("tools/call ok")
        assert "tools/call params" not in {span.name for span in collector.spans}


# Collectors that take nothing


def test_a_collector_that_is_down_is_one_line_and_delays_nothing(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, port = collector.url, int(collector.url.split(":")[2].partition("/")[0])
    collector.stop()
    with Bridge("--no-identity", "--tracing-endpoint", url, command=LEGACY_SERVER) as bridge:
        client = LegacyClient(bridge)
        bridge.wait_for_line(f"the collector {url} takes no traces: ")
        for _ in range(100):
            client.params_at_server()
        with Collector(port=port) as back:
            client.params_at_server()
            back.wait_for_span("tools/call params")
            bridge.wait_for_line("takes traces again")
        assert bridge.stop() == 0
        assert sum("takes no traces" in line for line in bridge.lines) == 1


@pytest.mark.parametrize("answer", [0, 500, 404], ids=["hangs", "fails", "knows nothing of traces"])
def test_a_collector_that_takes_nothing_delays_neither_calls_nor_the_end(collector: Collector, answer: int) -> None:
    collector.answer = answer
    with traced(collector) as bridge:
        client = LegacyClient(bridge)
        collector.wait_for_requests(1)
        for _ in range(100):
            client.params_at_server()
        bridge.wait_for_line("takes no traces: ")
        client.params_at_server()
        assert bridge.stop() == 0
        assert sum("takes no traces" in line for line in bridge.lines) == 1
        assert not [line for line in bridge.lines if "Traceback" in line]


def test_spans_that_are_not_taken_are_dropped_beyond_a_bound(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "20")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "5")
    collector.answer = 0
    with traced(collector) as bridge:
        client = LegacyClient(bridge)
        collector.wait_for_requests(1)
        for number in range(100):
            client.post(rpc("tools/call", {"name": f"tool-{number}"}))
        collector.answer = 200
        collector.release()
        collector.wait_for_span("tools/call tool-99")
        assert "tools/call tool-50" not in {span.name for span in collector.spans}
        assert len(collector.spans) <= 25


def test_the_last_spans_are_sent_at_the_end(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    with traced(collector) as bridge:
        client = LegacyClient(bridge)
        hanging = EventReader(bridge, "POST", rpc("tools/call", {"name": "log"}), Mcp_Session_Id=client.session)
        hanging.rest()
        assert collector.requests == 0
        assert bridge.stop() == 0
    assert {span.name for span in collector.spans} == {"initialize", "tools/call log"}


def test_a_bridge_has_one_thread_more_and_another_at_its_end_as_its_unit_allows(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def counted(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", counted)
    tracer = Tracer(collector.url, "mcp-bridge-test")
    assert len(started) == 1
    tracer.close()
    assert len(started) == 2  # with the main thread, LimitNPROC= of modules/config/bridges.nix
    for thread in started:
        thread.join()


# Without a collector


def test_without_a_collector_contexts_pass_through_and_no_sdk_is_loaded(collector: Collector) -> None:
    def libraries(bridge: Bridge) -> str:
        return Path(f"/proc/{bridge.process.pid}/maps").read_text()

    with Bridge("--no-identity", command=LEGACY_SERVER) as plain, traced(collector) as other:
        assert "_meta" not in LegacyClient(plain).params_at_server(Traceparent=CALLER)
        own = {"traceparent": CLIENTS_OWN}
        assert LegacyClient(plain).params_at_server(own, Traceparent=CALLER)["_meta"] == own
        LegacyClient(other).params_at_server()
        assert "google/_upb" not in libraries(plain)
        assert "google/_upb" in libraries(other), "the check would notice it"
        assert (threads_of(plain), threads_of(other)) == (1, 2)


def test_without_a_collector_the_sdk_is_not_imported() -> None:
    script = "import sys, stdio_bridge.__main__; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
