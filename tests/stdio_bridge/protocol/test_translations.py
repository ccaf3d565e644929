"""Messages of one era as the other understands them."""

from __future__ import annotations

from typing import Any

import pytest

from stdio_bridge.protocol import subscription_filter, to_legacy, to_modern
from stdio_bridge.protocol.mcp import Versions
from stdio_bridge.protocol.request_metadata import RequestMetadata
from stdio_bridge.protocol.tool_catalog import ToolCatalog

PREFIX = "io.modelcontextprotocol/"
INFO = {"name": "s", "version": "1"}


def metadata(**members: Any) -> RequestMetadata:
    return RequestMetadata(
        **{"version": "2026-07-28", "capabilities": {}, "client_info": {}, "log_level": None, **members}
    )


def ok(**result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "result": result}


def failed(code: int, data: object = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": "m", "data": data}}


def test_a_legacy_server_gets_the_clients_capabilities_and_name_where_it_has_one() -> None:
    capabilities: dict[str, Any] = {"roots": {}, "extensions": {"e": {}}, "sampling": None, "elicitation": {"url": {}}}
    params = to_legacy.initialize_params(
        metadata(capabilities=capabilities, client_info={"name": "c", "version": "1"}), "2025-11-25"
    )
    assert params["capabilities"] == {"roots": {}, "elicitation": {"url": {}}}
    assert params["clientInfo"] == {"name": "c", "version": "1"}
    assert (
        to_legacy.initialize_params(metadata(client_info={"name": 5}), "2025-11-25")["clientInfo"]["name"]
        == "mcp-stdio-bridge"
    )


def test_extensions_cross_the_eras_only_where_they_mean_the_same_in_both() -> None:
    apps = {PREFIX + "ui": {"mimeTypes": ["text/html;profile=mcp-app"]}}
    offered = {"capabilities": {"extensions": {**apps, PREFIX + "tasks": {}, "com.example/own": {}, "e": 5}}}
    crossed = {"extensions": apps}
    assert to_legacy.initialize_params(metadata(**offered), "2025-11-25")["capabilities"] == crossed
    assert to_modern.discovery(offered, Versions())["capabilities"] == crossed
    initialize = {"id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25", **offered}}
    assert to_modern.client_meta(initialize)[PREFIX + "clientCapabilities"] == crossed
    assert to_legacy.initialize_result(initialize, offered)["capabilities"] == crossed
    for nothing in ({"capabilities": {"extensions": ["e"]}}, {"capabilities": 5}, {}):
        assert to_modern.discovery(nothing, Versions())["capabilities"] == {}


def test_a_legacy_request_has_none_of_the_new_members() -> None:
    meta = {PREFIX + "protocolVersion": "v", "progressToken": 1, "com.example/own": 2}
    params = {"name": "t", "_meta": meta, "inputResponses": {}, "requestState": "s"}
    assert to_legacy.request({"id": 1, "method": "m", "params": params})["params"] == {
        "name": "t",
        "_meta": {"progressToken": 1, "com.example/own": 2},
    }
    assert to_legacy.request({"method": "m", "params": {"_meta": {PREFIX + "logLevel": "x"}}})["params"] == {}


def test_a_legacy_result_becomes_complete_and_says_whose_it_is() -> None:
    result = to_modern.answer(ok(tools=[], _meta={"own": 1}), "tools/list", INFO)["result"]
    assert result == {
        "tools": [],
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {"own": 1, PREFIX + "serverInfo": INFO},
    }


def test_what_a_modern_server_says_of_its_result_stays() -> None:
    said = {"resultType": "complete", "ttlMs": 9, "cacheScope": "public"}
    assert to_modern.completed(said, "tools/list") == said
    assert to_modern.completed({"resultType": "input_required"}, "resources/read") == {"resultType": "input_required"}


@pytest.mark.parametrize("result", [[], "x", None, 5])
def test_a_result_that_is_no_object_is_an_error(result: object) -> None:
    answer = to_modern.answer({"jsonrpc": "2.0", "id": 1, "result": result}, "tools/call", INFO)
    assert answer["error"]["code"] == -32603


@pytest.mark.parametrize(
    ("code", "then"),
    [(-32002, -32602), (-32020, -32603), (-32021, -32603), (-32022, -32603), (-32099, -32603), (-32042, -32603),
     (-32601, -32601), (-32000, -32000), (-32019, -32019), (-32100, -32100), (5, 5)],
)  # fmt: skip
def test_a_legacy_servers_codes_never_pass_for_ones_of_the_modern_era(code: int, then: int) -> None:
    assert to_modern.answer(failed(code), "tools/call", INFO)["error"]["code"] == then


@pytest.mark.parametrize("data", [None, [], {"elicitations": 5}, {"elicitations": []}, {"elicitations": ["x"]}])
def test_links_that_are_not_told_are_no_questions(data: object) -> None:
    assert to_modern.answer(failed(-32042, data), "tools/call", INFO)["error"]["code"] == -32603


def test_a_subscription_keeps_what_the_server_offers() -> None:
    wanted = {"toolsListChanged": True, "promptsListChanged": True, "resourceSubscriptions": ["a", 5], "x": True}
    offered = {"tools": {"listChanged": True}, "prompts": {}, "resources": {"subscribe": True}}
    kept = subscription_filter.honoured(wanted, offered)
    assert kept == {"toolsListChanged": True, "resourceSubscriptions": ["a"]}
    assert subscription_filter.honoured(wanted, {}) == {}
    assert subscription_filter.honoured({"toolsListChanged": "yes"}, offered) == {}


@pytest.mark.parametrize(
    ("message", "concerned"),
    [
        ({"method": "notifications/tools/list_changed"}, True),
        ({"method": "notifications/prompts/list_changed"}, False),
        ({"method": "notifications/resources/updated", "params": {"uri": "a"}}, True),
        ({"method": "notifications/resources/updated", "params": {"uri": "b"}}, False),
        ({"method": "notifications/resources/updated"}, False),
        ({"method": "notifications/message"}, False),
    ],
)
def test_a_subscription_brings_nothing_else(message: dict[str, Any], concerned: bool) -> None:
    assert (
        subscription_filter.concerns(message, {"toolsListChanged": True, "resourceSubscriptions": ["a"]}) is concerned
    )


@pytest.mark.parametrize(
    ("level", "wanted", "reached"),
    [("error", "error", True), ("alert", "error", True), ("info", "error", False), ("info", None, False),
     ("loud", "debug", False), (None, "debug", False), ([], "debug", False)],
)  # fmt: skip
def test_log_levels_are_ordered(level: object, wanted: str | None, reached: bool) -> None:
    assert metadata(log_level=wanted).wants_log_of(level) is reached


def test_a_modern_server_gets_what_initialize_said_with_each_request() -> None:
    params = {"clientInfo": {"name": "c"}, "capabilities": {"roots": {"listChanged": True}, "tasks": {}}}
    meta = to_modern.client_meta({"method": "initialize", "params": params})
    assert meta[PREFIX + "clientInfo"] == {"name": "c"}
    assert meta[PREFIX + "clientCapabilities"] == {"roots": {"listChanged": True}}
    assert to_modern.client_meta({"method": "initialize"})[PREFIX + "clientCapabilities"] == {}


def test_a_discovery_of_nothing_still_opens_a_session() -> None:
    result = to_legacy.initialize_result({"method": "initialize"}, {})
    assert result == {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "serverInfo": {"name": "MCP server", "version": "unknown"},
    }


@pytest.mark.parametrize(
    ("answer", "response"),
    [
        ({"result": {"action": "accept"}}, {"action": "accept"}),
        ({"error": {"code": 1}}, {"action": "cancel"}),
        ({"result": "x"}, {"action": "cancel"}),
    ],
)
def test_an_elicitation_always_has_a_response(answer: dict[str, Any], response: dict[str, Any]) -> None:
    assert to_modern.input_response({"method": "elicitation/create"}, answer) == response


def test_a_failed_sampling_has_none() -> None:
    assert to_modern.input_response({"method": "sampling/createMessage"}, {"error": {}}) is None


def test_a_link_gets_the_id_that_its_revision_wants() -> None:
    asked = {"method": "elicitation/create", "params": {"mode": "url", "url": "https://x.example/"}}
    assert to_legacy.server_request("i1", asked)["params"]["elicitationId"] == "i1"


def test_a_catalog_knows_tools_until_they_change() -> None:
    catalog = ToolCatalog()
    assert catalog.find("t") is None
    catalog.learn({"tools": [{"name": "t", "inputSchema": {}}, "x", {"name": 5}, {}]})
    assert catalog.find("t") == ()
    assert catalog.find("u") is None
    catalog.complete = True
    assert catalog.find("u") == ()
    catalog.forget()
    assert catalog.find("t") is None


def annotated(name: str, parameter: str) -> dict[str, object]:
    schema = {"properties": {parameter: {"type": "string", "x-mcp-header": "Region"}}}
    return {"name": name, "inputSchema": schema}


@pytest.mark.parametrize("name", ["x" * 100_000, "\ud800"])
def test_a_catalog_knows_tools_of_any_name_by_a_digest(name: str) -> None:
    catalog = ToolCatalog()
    catalog.learn({"tools": [annotated(name, "region")]})
    found = catalog.find(name)
    assert found is not None
    assert [mirrored.path for mirrored in found] == [("region",)]
    assert catalog.find(name + "x") is None
    assert [len(key) for key in catalog._tools] == [32]


def test_a_catalog_keeps_parameters_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stdio_bridge.protocol.tool_catalog._MAX_SIZE", 1000)
    catalog = ToolCatalog()
    for _ in range(10):  # what is listed again is counted once
        catalog.learn({"tools": [annotated("kept", "x" * 700), annotated("too large", "x" * 300)]})
    kept = catalog.find("kept")
    assert kept is not None
    assert [len(mirrored.path[0]) for mirrored in kept] == [700]
    assert catalog.find("too large") is None
    catalog.complete = True
    assert catalog.find("too large") == ()
    catalog.forget()
    catalog.learn({"tools": [annotated("too large", "x" * 300)]})
    assert catalog.find("too large")


def test_a_catalog_learns_a_tool_again_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stdio_bridge.protocol.tool_catalog._MAX_TOOLS", 1)
    catalog = ToolCatalog()
    catalog.learn({"tools": [{"name": "a"}, {"name": "b"}]})
    assert (catalog.find("a"), catalog.find("b")) == ((), None)
    catalog.learn({"tools": [annotated("a", "region")]})
    assert catalog.find("a")


@pytest.mark.parametrize("result", [None, [], {}, {"tools": {}}, {"tools": None}])
def test_a_catalog_takes_any_answer(result: object) -> None:
    ToolCatalog().learn(result)
