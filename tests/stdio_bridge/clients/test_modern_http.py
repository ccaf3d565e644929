"""What every modern client may rely on, whatever era the server is of."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.stdio_bridge.modern_client import LEGACY_SERVER, MODERN_SERVER, PREFIX, VERSION, ModernClient
from tests.stdio_bridge.running import Bridge, rpc
from tests.stdio_bridge.test_faults import eventually


@pytest.fixture(scope="module", params=["legacy", "modern"])
def bridge(request: pytest.FixtureRequest) -> Iterator[Bridge]:
    command = LEGACY_SERVER if request.param == "legacy" else MODERN_SERVER
    with Bridge("--no-identity", command=command) as running:
        yield running


@pytest.fixture
def client(bridge: Bridge) -> ModernClient:
    return ModernClient(bridge)


def encoded(text: str) -> str:
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


def test_discovery_names_the_server_its_versions_and_how_long_that_holds(client: ModernClient) -> None:
    found = client.request("server/discover").result
    assert found["supportedVersions"] == [VERSION, "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"]
    assert found["capabilities"]["tools"] == {"listChanged": True}
    assert found["_meta"][PREFIX + "serverInfo"] == {"name": "era", "version": "7"}
    assert found["resultType"] == "complete"
    assert found["ttlMs"] >= 0
    assert found["cacheScope"] in {"public", "private"}


def test_a_list_says_how_long_it_may_be_kept_and_a_call_does_not(client: ModernClient) -> None:
    assert client.request("tools/list").result.keys() >= {"resultType", "ttlMs", "cacheScope"}
    called = client.call("pid").result
    assert called["resultType"] == "complete"
    assert called.keys().isdisjoint({"ttlMs", "cacheScope"})


def test_the_answer_has_the_id_of_the_request(client: ModernClient) -> None:
    for request_id in ("text", 0, -5, 2**60):
        message = {**client.message("tools/list"), "id": request_id}
        assert client.send(message).last["id"] == request_id


def test_calls_of_one_user_reach_the_same_process(client: ModernClient) -> None:
    assert client.call("pid").said == client.call("pid").said


def test_a_session_id_is_ignored_and_none_is_given(client: ModernClient) -> None:
    answer = client.call("pid", Mcp_Session_Id="anything")
    assert answer.status == 200
    assert "mcp-session-id" not in answer.headers


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_there_is_nothing_but_post(bridge: Bridge, method: str) -> None:
    status, headers, _ = bridge.request(method, MCP_Protocol_Version=VERSION)
    assert (status, headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("changed", "missing"),
    [
        ({"MCP_Protocol_Version": None}, "MCP-Protocol-Version"),
        ({"MCP_Protocol_Version": "2025-11-25"}, "MCP-Protocol-Version"),
        ({"MCP_Protocol_Version": f"{VERSION}, {VERSION}"}, "MCP-Protocol-Version"),
        ({"Mcp_Method": None}, "Mcp-Method"),
        ({"Mcp_Method": "tools/list"}, "Mcp-Method"),
        ({"Mcp_Method": "Tools/Call"}, "Mcp-Method"),
        ({"Mcp_Name": None}, "Mcp-Name"),
        ({"Mcp_Name": "another"}, "Mcp-Name"),
        ({"Mcp_Name": encoded("another")}, "Mcp-Name"),
        ({"Mcp_Name": "=?base64?cGlk!?="}, "Mcp-Name"),
        ({"Mcp_Name": "=?BASE64?cGlk?="}, "Mcp-Name"),
    ],
)
def test_a_header_that_does_not_equal_the_body_is_refused(
    client: ModernClient, changed: dict[str, Any], missing: str
) -> None:
    answer = client.call("pid", **changed)
    assert (answer.status, answer.error["code"]) == (400, -32020)
    assert missing in answer.error["message"]
    assert answer.last["id"] == 7


@pytest.mark.parametrize("name", [encoded("pid"), "pid"])
def test_a_name_may_come_in_the_base64_form(client: ModernClient, name: str) -> None:
    assert client.call("pid", Mcp_Name=name).status == 200


def test_a_name_that_no_header_can_hold_comes_in_the_base64_form(client: ModernClient) -> None:
    assert client.call("héllo\n", Mcp_Name=encoded("héllo\n")).said == "ok"


@pytest.mark.parametrize(
    "headers",
    [
        {"Mcp_Param_Region": "eu"},
        {"Mcp_Param_Region": encoded("eu")},
        {"mcp_param_REGION": "eu"},
        {"Mcp_Param_Region": "eu", "Mcp_Param_Other": "not of this tool"},
    ],
)
def test_a_mirrored_parameter_equals_its_header(client: ModernClient, headers: dict[str, Any]) -> None:
    assert (
        client.call("mirrored", {"region": "eu"}, **{k.replace("mcp", "Mcp"): v for k, v in headers.items()}).status
        == 200
    )


@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        ({"region": "eu"}, {}),
        ({"region": "eu"}, {"Mcp_Param_Region": "us"}),
        ({"region": "eu"}, {"Mcp_Param_Region": "=?base64?ZX?="}),
        ({}, {"Mcp_Param_Region": "eu"}),
        ({"region": None}, {"Mcp_Param_Region": "null"}),
    ],
)
def test_a_mirrored_parameter_that_differs_is_refused(
    client: ModernClient, arguments: dict[str, Any], headers: dict[str, Any]
) -> None:
    answer = client.call("mirrored", arguments, **headers)
    assert (answer.status, answer.error["code"]) == (400, -32020)


@pytest.mark.parametrize(
    "meta",
    [
        {PREFIX + "protocolVersion": None},
        {PREFIX + "protocolVersion": 20260728},
        {PREFIX + "clientCapabilities": None},
        {PREFIX + "clientCapabilities": []},
        {PREFIX + "logLevel": "loud"},
    ],
)
def test_metadata_that_is_missing_or_malformed_is_refused(client: ModernClient, meta: dict[str, Any]) -> None:
    answer = client.request("tools/list", meta=meta)
    assert (answer.status, answer.error["code"]) == (400, -32602)


def test_a_client_need_not_say_its_name_and_may(client: ModernClient) -> None:
    assert client.request("tools/list").status == 200
    assert client.request("tools/list", meta={PREFIX + "clientInfo": {"name": "c", "version": "1"}}).status == 200


@pytest.mark.parametrize("version", ["2027-01-01", "2025-11-25", "v9"])
def test_a_version_that_is_not_served_is_told_with_those_that_are(client: ModernClient, version: str) -> None:
    answer = client.request("tools/list", meta={PREFIX + "protocolVersion": version}, MCP_Protocol_Version=version)
    assert (answer.status, answer.error["code"]) == (400, -32022)
    assert answer.error["data"]["requested"] == version
    assert VERSION in answer.error["data"]["supported"]


@pytest.mark.parametrize(
    "method",
    ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "no/such"],
)
def test_a_method_that_is_unknown_or_was_taken_away_is_404(client: ModernClient, method: str) -> None:
    answer = client.request(method)
    assert (answer.status, answer.error["code"], answer.last["id"]) == (404, -32601, 7)


def test_a_notification_is_accepted_without_a_body(client: ModernClient) -> None:
    message = client.message("notifications/cancelled", {"requestId": 7})
    del message["id"]
    answer = client.send(message)
    assert (answer.status, answer.messages) == (202, [])


@pytest.mark.parametrize("wrong", ["batch", "response"])
def test_only_one_request_or_notification_comes_in_a_body(client: ModernClient, wrong: str) -> None:
    body: Any = [client.message("tools/list")] if wrong == "batch" else {"jsonrpc": "2.0", "id": 1, "result": {}}
    answer = client.send(body)
    assert (answer.status, answer.error["code"]) == (400, -32600)


def test_progress_makes_the_answer_a_stream_and_names_the_clients_token(client: ModernClient) -> None:
    answer = client.call("progress", meta={"progressToken": "mine"})
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.messages[0]["params"]["progressToken"] == "mine"
    assert answer.last["id"] == 7
    assert answer.said == "done"


@pytest.mark.parametrize(
    ("level", "heard"), [(None, []), ("debug", ["debug", "warning"]), ("info", ["warning"]), ("alert", [])]
)
def test_a_log_message_comes_if_its_level_was_asked_for(
    client: ModernClient, level: str | None, heard: list[str]
) -> None:
    answer = client.call("log", meta={} if level is None else {PREFIX + "logLevel": level})
    assert [message["params"]["level"] for message in answer.messages[:-1]] == heard


def test_a_subscription_is_acknowledged_first_and_brings_what_was_asked_for(client: ModernClient) -> None:
    wanted = {"toolsListChanged": True, "promptsListChanged": False, "resourceSubscriptions": ["file:///a"]}
    with client.stream("subscriptions/listen", {"notifications": wanted}) as messages:
        acknowledged = next(messages)
        assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
        assert acknowledged["params"]["notifications"]["toolsListChanged"] is True
        client.call("change")
        brought = [next(messages), next(messages)]
    assert {message["method"] for message in brought} == {
        "notifications/tools/list_changed",
        "notifications/resources/updated",
    }
    assert {message["params"]["_meta"][PREFIX + "subscriptionId"] for message in (acknowledged, *brought)} == {7}


def test_two_subscriptions_with_one_id_each_bring_their_own(client: ModernClient) -> None:
    one = {"notifications": {"resourceSubscriptions": ["file:///one"]}}
    two = {"notifications": {"resourceSubscriptions": ["file:///two"]}}
    with client.stream("subscriptions/listen", one) as first, client.stream("subscriptions/listen", two) as second:
        next(first), next(second)
        client.call("change")
        assert next(first)["params"]["uri"] == "file:///one"
        assert next(second)["params"]["uri"] == "file:///two"


def test_a_client_that_disconnects_cancels_its_request(client: ModernClient) -> None:
    before = client.call("seen").said.count("notifications/cancelled")
    message = client.message("tools/call", {"name": "hang"})
    headers = {name.replace("_", "-"): value for name, value in client.headers_for(message).items()}
    headers |= {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", client.bridge.port, timeout=60)
    connection.request("POST", "/mcp", json.dumps(message).encode(), headers)
    client.call("pid")
    connection.close()
    eventually(lambda: client.call("seen").said.count("notifications/cancelled") > before)


def test_both_eras_are_served_at_the_same_time(bridge: Bridge, client: ModernClient) -> None:
    session = bridge.initialize("2025-11-25")
    assert client.call("pid").status == 200
    assert bridge.call(session, "pid")[0] == 200
    status, _, content = bridge.request("POST", rpc("tools/list", {}), Mcp_Session_Id=session)
    assert status == 200
    assert "resultType" not in json.loads(content)["result"]


@pytest.mark.parametrize("version", ["2023-01-01", "v9", "2025-11-25 "])
def test_a_legacy_request_never_gets_a_code_of_the_modern_era(bridge: Bridge, version: str) -> None:
    _, _, content = bridge.request("POST", rpc("tools/list", {}), MCP_Protocol_Version=version)
    assert json.loads(content)["error"]["code"] == -32600


def test_a_crash_fails_the_call_and_the_next_gets_a_new_process(client: ModernClient) -> None:
    before = client.call("pid").said
    assert "exited with status 4" in client.call("die").error["message"]
    assert client.call("pid").said != before
