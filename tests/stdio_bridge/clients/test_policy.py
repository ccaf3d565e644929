"""Rules for tools, prompts and resources, in front of servers and for clients of both eras, and the ways round them."""

from __future__ import annotations

import base64
import http.client
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stdio_bridge.clients.policy import Policy
from stdio_bridge.clients.quotas import Quotas
from stdio_bridge.http.identity import Identity
from stdio_bridge.protocol.policy import Rule, Rules
from tests.stdio_bridge.modern_client import Answer
from tests.stdio_bridge.running import KEY, Bridge, EventReader, rpc
from tests.stdio_bridge.user_client import Client, Said

Message = dict[str, Any]

OFFERED = {
    "tools": ["look", "create_issue", "create_admin", "drop", "wipe", "seen"],
    "prompts": ["hello", "drop"],
    "resources": ["memo://public/1", "memo://team/1", "memo://secret/1"],
    "templates": ["memo://public/{id}", "memo://team/{id}", "memo://secret/{id}", "memo://{id}"],
}
RULES = {
    "tools": {
        "default": "deny",
        "rules": {
            "look": {},
            "seen": {},
            "update": {},
            "create_*": {"scopes": ["write"]},
            "create_admin": {"scopes": ["admin", "write"]},
        },
    },
    "prompts": {"rules": {"drop": {"deny": True}}},
    "resources": {"rules": {"memo://secret/*": {"deny": True}, "memo://team/*": {"scopes": ["team"]}}},
}
NO_QUOTAS = Quotas(calls_per_minute=None, clock=lambda: 0.0)
METADATA = "https://mcp.example.com/.well-known/oauth-protected-resource/notes/mcp"


@pytest.fixture(scope="module", params=["legacy server", "modern server"])
def bridge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    folder: Path = tmp_path_factory.mktemp("rules")
    (folder / "key").write_text(KEY)
    (folder / "bridge.json").write_text(json.dumps({**RULES, "require-identity": str(folder / "key")}))
    options = ("--config", str(folder / "bridge.json"), "--isolation", "shared", "--drain-timeout", "0.1")
    server = str(Path(__file__).parents[1] / "offering_server.py")
    command = (sys.executable, server, request.param.split()[0], json.dumps(OFFERED))
    with Bridge(*options, command=command) as running:
        yield running


@pytest.fixture(params=["legacy client", "modern client"])
def era(request: pytest.FixtureRequest) -> str:
    return str(request.param.split()[0])


def assert_unknown(said: Said, text: str = "Unknown tool: ") -> None:
    assert said.status == 200
    assert said.message["error"]["code"] == -32602
    assert said.message["error"]["message"].startswith(text)
    assert "www-authenticate" not in said.headers


# Lists


@pytest.mark.parametrize(
    ("scope", "grantable", "listed"),
    [
        ("read", "", ["look", "seen"]),
        ("read", "write", ["look", "create_issue", "seen"]),
        ("read write", "", ["look", "create_issue", "seen"]),
        ("read write", "admin", ["look", "create_issue", "create_admin", "seen"]),
        ("read", "admin write", ["look", "create_issue", "create_admin", "seen"]),
    ],
)
def test_a_list_holds_what_its_user_may_use_or_be_granted_on_every_page(
    bridge: Bridge, era: str, scope: str, grantable: str, listed: list[str]
) -> None:
    client = Client(bridge, era, scope=scope, grantable=grantable)
    assert client.names("tools/list", "tools", "name") == listed


def test_every_kind_of_list_is_filtered(bridge: Bridge, era: str) -> None:
    client = Client(bridge, era)
    assert client.names("prompts/list", "prompts", "name") == ["hello"]
    assert client.names("resources/list", "resources", "uri") == ["memo://public/1"]
    templates = ["memo://public/{id}", "memo://{id}"]
    assert client.names("resources/templates/list", "resourceTemplates", "uriTemplate") == templates


def test_what_one_user_is_shown_is_not_kept_for_another(bridge: Bridge, era: str) -> None:
    writer = Client(bridge, era, user="writer", scope="read write")
    reader = Client(bridge, era, user="reader")
    for _ in range(2):
        assert "create_issue" in writer.names("tools/list", "tools", "name")
        assert "create_issue" not in reader.names("tools/list", "tools", "name")
    writer.set_scopes("read")
    assert "create_issue" not in writer.names("tools/list", "tools", "name")


def test_a_filtered_answer_may_be_kept_for_its_user_alone(bridge: Bridge) -> None:
    client = Client(bridge, "modern")
    for method in ("tools/list", "prompts/list", "resources/list", "resources/templates/list"):
        assert client.send(method).message["result"]["cacheScope"] == "private"
    read = client.send("resources/read", {"uri": "memo://public/1"}).message["result"]
    assert read["cacheScope"] == "private"


def test_the_server_still_says_that_its_lists_change(bridge: Bridge) -> None:
    found = Client(bridge, "modern").send("server/discover").message["result"]
    headers = Client(bridge, "legacy").identity("read", "")
    asked = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    _, _, content = bridge.request("POST", rpc("initialize", asked), **headers)
    for capabilities in (found["capabilities"], json.loads(content)["result"]["capabilities"]):
        assert all(capabilities[name]["listChanged"] is True for name in ("tools", "prompts", "resources"))


# Uses


def test_what_is_allowed_reaches_the_server(bridge: Bridge, era: str) -> None:
    client = Client(bridge, era, scope="read write team")
    for method, params in (
        ("tools/call", {"name": "create_issue"}),
        ("prompts/get", {"name": "hello"}),
        ("resources/read", {"uri": "memo://team/1"}),
    ):
        assert "result" in client.send(method, params).message
        last = client.reached()[-1]
        assert (last["method"], last["params"].items() >= params.items()) == (method, True)


@pytest.mark.parametrize("name", ["drop", "wipe", "no such tool", "Look", "look ", "look\0", "lo\u043ek", "", "*"])
def test_a_tool_that_no_rule_allows_does_not_exist(bridge: Bridge, era: str, name: str) -> None:
    client = Client(bridge, era, scope="read write admin", grantable="other")
    before = client.reached()
    headers = {} if name.isascii() and name.isprintable() and name == name.strip() else {"Mcp_Name": _encoded(name)}
    assert_unknown(client.send("tools/call", {"name": name}, **headers), f"Unknown tool: {name}")
    assert client.reached() == before


def _encoded(name: str) -> str:
    return f"=?base64?{base64.b64encode(name.encode()).decode()}?="


def test_a_tool_is_refused_before_it_was_listed(bridge: Bridge, era: str) -> None:
    assert_unknown(Client(bridge, era, user="new").call("drop"))


def test_other_things_that_are_denied_do_not_exist(bridge: Bridge, era: str) -> None:
    client = Client(bridge, era)
    assert_unknown(client.send("prompts/get", {"name": "drop"}), "Unknown prompt: drop")
    said = client.send("resources/read", {"uri": "memo://secret/1"})
    assert said.message["error"] == {
        "code": -32002 if era == "legacy" else -32602,
        "message": "Resource not found",
        "data": {"uri": "memo://secret/1"},
    }
    # It cannot be had at all without a scope that this user cannot be granted.
    assert client.send("resources/read", {"uri": "memo://team/1"}).message["error"]["message"] == "Resource not found"


@pytest.mark.parametrize("uri", ["MEMO://secret/1", "memo://secret/%31", "memo://public/../secret/1"])
def test_another_spelling_of_a_denied_resource_does_not_exist_either(bridge: Bridge, era: str, uri: str) -> None:
    client = Client(bridge, era)
    before = client.reached()
    assert client.send("resources/read", {"uri": uri}).message["error"]["message"] == "Resource not found"
    assert client.reached() == before


def test_a_scope_that_can_be_had_is_asked_for_with_all_others_and_the_server_is_not(bridge: Bridge, era: str) -> None:
    client = Client(bridge, era, scope="read extra", grantable="write admin team")
    before = client.reached()
    for method, params, scope in (
        ("tools/call", {"name": "create_issue"}, "extra read write"),
        ("tools/call", {"name": "create_admin"}, "admin extra read write"),
        ("resources/read", {"uri": "memo://team/1"}, "extra read team"),
    ):
        said = client.send(method, params)
        assert said.status == 403
        assert said.challenge == (
            'Bearer error="insufficient_scope", error_description="the access token lacks a scope that this needs", '
            f'resource_metadata="{METADATA}", scope="{scope}"'
        )
        assert said.message["error"]["code"] == -32000
        assert said.message["id"] == (1 if era == "legacy" else 7)
    assert client.reached() == before


def test_only_what_is_missing_of_several_scopes_must_be_grantable(bridge: Bridge, era: str) -> None:
    held_one = Client(bridge, era, scope="write", grantable="admin")
    assert 'scope="admin write"' in held_one.call("create_admin").challenge
    assert_unknown(Client(bridge, era, scope="read", grantable="admin").call("create_admin"))


def test_a_session_is_held_to_the_token_of_each_request(bridge: Bridge, era: str) -> None:
    client = Client(bridge, era, scope="read write")
    assert "result" in client.call("create_issue").message
    client.set_scopes("read", "write")
    assert client.call("create_issue").status == 403
    client.set_scopes("read")
    assert_unknown(client.call("create_issue"))
    client.set_scopes("read write")
    assert "result" in client.call("create_issue").message


def test_an_assertion_of_an_older_gateway_allows_no_more_than_its_scopes(bridge: Bridge, era: str) -> None:
    client = Client(bridge, era)
    client.set_scopes("read write", None)
    assert "result" in client.call("create_issue").message
    client.set_scopes("read", None)
    assert_unknown(client.call("create_issue"))
    client.set_scopes(None, None)
    assert_unknown(client.call("create_issue"))
    assert "result" in client.call("look").message


def test_scopes_in_plain_headers_are_not_believed(bridge: Bridge, era: str) -> None:
    client = Client(bridge, era)
    client.headers |= {"X_Scopes": "read write admin"}
    client.modern.headers |= {"X_Scopes": "read write admin"}
    assert_unknown(client.call("create_issue"))


# Ways round


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {}),
        ("tools/call", {"name": None}),
        ("tools/call", {"name": ["drop"]}),
        ("tools/call", {"name": {"drop": 1}}),
        ("tools/call", {"Name": "drop"}),
        ("prompts/get", {"name": 1}),
        ("resources/read", {"uri": ["memo://secret/1"]}),
        ("completion/complete", {}),
        ("completion/complete", {"ref": ["ref/prompt", "drop"]}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": ["drop"]}}),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": 1}}),
        ("tasks/result", {"taskId": ["task of drop"]}),
    ],
)
def test_a_name_that_is_no_string_is_refused(bridge: Bridge, era: str, method: str, params: Message) -> None:
    client = Client(bridge, era)
    before = client.reached()
    said = client.send(method, params)
    assert said.message["error"]["code"] == -32602
    assert client.reached() == before


@pytest.mark.parametrize(
    "method",
    [
        *("Tools/Call", "TOOLS/CALL", " tools/call", "tools/call ", "tools/execute", "tasks/new"),
        *("prompts/run", "resources/fetch", "resources", "completion/all"),
    ],
)
def test_a_method_that_might_name_something_and_is_not_known_is_not_passed_on(
    bridge: Bridge, era: str, method: str
) -> None:
    client = Client(bridge, era)
    before = client.reached()
    said = client.send(method, {"name": "drop", "uri": "memo://secret/1"})
    if era == "modern" and method != method.strip():
        assert said.message["error"]["code"] == -32020  # HTTP has no such header
    else:
        assert said.message["error"]["code"] == -32601
        assert said.status == (404 if era == "modern" else 200)
    assert client.reached() == before


def test_a_method_of_the_servers_own_is_passed_on(bridge: Bridge, era: str) -> None:
    client = Client(bridge, era)
    assert "result" in client.send("acme/status").message
    assert client.reached()[-1]["method"] == "acme/status"


def test_of_duplicate_members_the_one_that_is_passed_on_decides(bridge: Bridge) -> None:
    client = Client(bridge, "legacy")
    before = client.reached()
    bodies = [
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"look","name":"drop"}}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"look"},"params":{"name":"drop"}}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call","params":{"name":"drop"}}',
        '{"jsonrpc":"2.0","id":1,"method":"tools\\u002fcall","params":{"n\\u0061me":"\\u0064rop"}}',
    ]
    for body in bodies:
        assert_unknown(client.post(body.encode()), "Unknown tool: drop")
    assert client.reached() == before
    last_wins = client.post(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"drop","name":"look"}}')
    assert "result" in last_wins.message
    assert client.reached()[-1]["params"]["name"] == "look"


@pytest.mark.parametrize("header", ["look", None, "drop, look", "=?base64?bG9vaw==?="])
def test_a_header_that_names_another_tool_than_the_body_is_refused(bridge: Bridge, header: str | None) -> None:
    client = Client(bridge, "modern")
    message = client.modern.message("tools/call", {"name": "drop"})
    answer: Answer = client.modern.send(message, Mcp_Name=header)
    assert (answer.status, answer.error["code"]) == (400, -32020)
    assert_unknown(client.call("drop"))


def test_a_request_without_an_id_is_not_passed_on_as_a_notification(bridge: Bridge) -> None:
    client = Client(bridge, "legacy")
    before = client.reached()
    said = client.post({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "drop"}})
    assert (said.status, said.message["error"]["code"]) == (400, -32600)
    modern = Client(bridge, "modern").modern
    message = modern.message("tools/call", {"name": "drop"})
    del message["id"]
    assert modern.bridge.request("POST", message, **modern.headers_for(message))[0] == 400
    assert client.post({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}).status == 202
    assert [each["method"] for each in client.reached()[len(before) :]] in ([], ["notifications/roots/list_changed"])


def batch_client(bridge: Bridge, scope: str = "read", grantable: str = "") -> Client:
    client = Client(bridge, "legacy", scope=scope, grantable=grantable)
    client._session = bridge.initialize("2025-03-26", **client.identity(scope, grantable))
    client.set_scopes(scope, grantable)
    return client


def test_each_request_of_a_batch_is_decided_by_itself(bridge: Bridge) -> None:
    client = batch_client(bridge)
    before = client.reached()
    calls = [rpc("tools/call", {"name": name}, number) for number, name in enumerate(["drop", "look", "wipe"])]
    answers = {each["id"]: each for each in client.post([*calls, rpc("tools/list", {}, 9)]).messages}
    assert [answers[number].get("error", {}).get("code") for number in range(3)] == [-32602, None, -32602]
    assert [tool["name"] for tool in answers[9]["result"]["tools"]] == ["look"]
    assert [each["params"].get("name") for each in client.reached()[len(before) :]] == ["look", None]


def test_a_batch_that_needs_scopes_reaches_the_server_in_no_part(bridge: Bridge) -> None:
    client = batch_client(bridge, grantable="write team")
    before = client.reached()
    wanted = [
        rpc("tools/call", {"name": "look"}, 1),
        rpc("tools/call", {"name": "create_issue"}, 2),
        rpc("resources/read", {"uri": "memo://team/1"}, 3),
    ]
    said = client.post(wanted)
    assert said.status == 403
    assert 'scope="read team write"' in said.challenge
    assert client.reached() == before


def test_a_batch_of_denied_calls_alone_is_answered(bridge: Bridge) -> None:
    answers = batch_client(bridge).post([rpc("tools/call", {"name": "drop"}, number) for number in (1, 2)]).messages
    assert [(each["id"], each["error"]["code"]) for each in answers] == [(1, -32602), (2, -32602)]


@pytest.mark.parametrize(
    ("ref", "is_known"),
    [
        ({"type": "ref/prompt", "name": "hello"}, True),
        ({"type": "ref/prompt", "name": "drop"}, False),
        ({"type": "ref/resource", "uri": "memo://public/{id}"}, True),
        ({"type": "ref/resource", "uri": "memo://public/1"}, True),
        ({"type": "ref/resource", "uri": "memo://secret/{id}"}, False),
        ({"type": "ref/resource", "uri": "memo://secret/1"}, False),
        # It would tell which secrets there are.
        ({"type": "ref/resource", "uri": "memo://{id}"}, False),
        ({"type": "ref/resource", "uri": "memo://team/{id}"}, False),
        # Whichever of them the server looks at.
        ({"type": "ref/prompt", "name": "hello", "uri": "memo://secret/1"}, False),
        ({"type": "ref/resource", "name": "drop", "uri": "memo://public/1"}, False),
        ({"type": "REF/PROMPT", "name": "drop"}, False),
        ({"name": "drop"}, False),
    ],
)
def test_a_completion_tells_nothing_of_what_its_user_may_not_use(
    bridge: Bridge, era: str, ref: Message, is_known: bool
) -> None:
    client = Client(bridge, era)
    before = client.reached()
    said = client.send("completion/complete", {"ref": ref, "argument": {"name": "id", "value": ""}})
    assert ("result" in said.message) == is_known
    if not is_known:
        assert_unknown(said, "Unknown reference")
        assert client.reached() == before


def test_a_completion_that_needs_a_scope_asks_for_it(bridge: Bridge, era: str) -> None:
    client = Client(bridge, era, grantable="team")
    ref = {"type": "ref/resource", "uri": "memo://team/{id}"}
    said = client.send("completion/complete", {"ref": ref, "argument": {"name": "id", "value": ""}})
    assert (said.status, 'scope="read team"' in said.challenge) == (403, True)


# Subscriptions


def test_a_legacy_client_subscribes_to_what_it_may_read(bridge: Bridge) -> None:
    client = Client(bridge, "legacy", grantable="team")
    assert "result" in client.send("resources/subscribe", {"uri": "memo://public/1"}).message
    assert client.send("resources/subscribe", {"uri": "memo://secret/1"}).message["error"]["code"] == -32002
    assert client.send("resources/subscribe", {"uri": "memo://team/1"}).status == 403
    client.set_scopes("read team")
    assert "result" in client.send("resources/subscribe", {"uri": "memo://team/1"}).message
    # Who has lost a scope may still end what needed it.
    client.set_scopes("read", "team")
    assert "result" in client.send("resources/unsubscribe", {"uri": "memo://team/1"}).message
    assert client.send("resources/unsubscribe", {"uri": "memo://secret/1"}).message["error"]["code"] == -32002


def test_a_client_that_has_lost_a_scope_does_not_hear_of_what_needed_it(bridge: Bridge) -> None:
    client = Client(bridge, "legacy", scope="read team")
    for uri in ("memo://public/1", "memo://team/1"):
        client.send("resources/subscribe", {"uri": uri})
    client.set_scopes("read", "team")
    # What a legacy server says while a call runs comes with it, what a subscription at a modern one brings does not.
    with_calls = [message for _ in range(2) for message in client.call("update").messages]
    heard = [message["params"]["uri"] for message in with_calls if "uri" in message.get("params", {})]
    if not heard:
        stream = EventReader(bridge, "GET", **client.headers)
        heard = [stream.next()["params"]["uri"] for _ in range(2)]
        stream.close()
    assert heard == ["memo://public/1", "memo://public/1"]


def test_a_client_does_not_hear_of_what_is_denied_before_its_first_request(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "bridge.json").write_text(json.dumps({**RULES, "require-identity": str(tmp_path / "key")}))
    server = str(Path(__file__).parents[1] / "offering_server.py")
    command = (sys.executable, server, "legacy", json.dumps({**OFFERED, "early": True}))
    with Bridge("--config", str(tmp_path / "bridge.json"), command=command) as bridge:
        stream = EventReader(bridge, "GET", **Client(bridge, "legacy", scope="read").headers)
        heard = [stream.next() for _ in range(2)]
        stream.close()
    assert heard[0]["params"] == {"uri": "memo://public/1"}
    assert heard[1]["method"] == "notifications/tools/list_changed"


def listen(client: Client, uris: object) -> tuple[int, dict[str, str], Iterator[Message]]:
    message = client.modern.message("subscriptions/listen", {"notifications": {"resourceSubscriptions": uris}})
    headers = {name.replace("_", "-"): value for name, value in client.modern.headers_for(message).items()}
    headers |= {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", client.bridge.port, timeout=60)
    connection.request("POST", "/mcp", json.dumps(message).encode(), headers)
    response = connection.getresponse()

    def messages() -> Iterator[Message]:
        try:
            for line in response:
                if line.startswith((b"data: {", b"{")):
                    yield json.loads(line.removeprefix(b"data: "))
        finally:
            response.close()
            connection.close()

    return response.status, {name.lower(): value for name, value in response.getheaders()}, messages()


def test_a_modern_client_subscribes_to_what_it_may_read(bridge: Bridge) -> None:
    client = Client(bridge, "modern", grantable="team")
    uris = ["memo://public/1", "memo://secret/1", "MEMO://secret/1"]
    status, _, messages = listen(client, uris)
    acknowledged = next(messages)
    assert (status, acknowledged["params"]["notifications"]) == (200, {"resourceSubscriptions": ["memo://public/1"]})
    client.call("update")
    assert next(messages)["params"]["uri"] == "memo://public/1"
    messages.close()  # type: ignore[attr-defined]
    status, headers, messages = listen(client, [*uris, "memo://team/1"])
    assert (status, 'scope="read team"' in headers["www-authenticate"]) == (403, True)
    assert next(messages)["error"]["code"] == -32000
    messages.close()  # type: ignore[attr-defined]
    for malformed in ("memo://secret/1", {"memo://secret/1": True}, [["memo://secret/1"]], ["memo://public/1"] * 4097):
        status, _, messages = listen(client, malformed)
        assert next(messages)["error"]["code"] == -32602
        messages.close()  # type: ignore[attr-defined]


def test_of_a_subscription_only_what_is_known_is_passed_on(bridge: Bridge) -> None:
    client = Client(bridge, "modern")
    wanted = {"toolsListChanged": True, "taskIds": ["task of drop"], "acme/watch": ["drop"]}
    with client.modern.stream("subscriptions/listen", {"notifications": wanted}) as messages:
        acknowledged = next(messages)["params"]["notifications"]
    assert acknowledged["toolsListChanged"] is True
    assert acknowledged.get("taskIds", []) == []
    assert "acme/watch" not in acknowledged
    for malformed in ("task of drop", ["x" * (1 << 20)], [1]):
        said = client.send("subscriptions/listen", {"notifications": {"taskIds": malformed}})
        assert said.message["error"]["code"] == -32602
    assert client.send("subscriptions/listen", {}).message["error"]["code"] == -32602


@pytest.mark.parametrize("method", ["subscriptions/listen", "Subscriptions/Listen"])
def test_a_legacy_client_has_no_subscriptions_of_the_modern_era(bridge: Bridge, method: str) -> None:
    client = Client(bridge, "legacy")
    said = client.send(method, {"notifications": {"toolsListChanged": True, "acme/watch": ["drop"]}})
    assert (said.status, said.message["error"]["code"]) == (200, -32601)
    assert "acme/watch" not in json.dumps(client.reached())


# Tasks of 2025-11-25


@pytest.fixture
def task_client(bridge: Bridge) -> Client:
    client = Client(bridge, "legacy", scope="read write", grantable="admin")
    for name in ("look", "create_issue"):
        said = client.send("tools/call", {"name": name, "task": {"ttl": 60_000}})
        assert said.message["result"]["task"]["taskId"] == f"task of {name}"
    return client


def test_a_denied_tool_is_not_called_as_a_task(task_client: Client) -> None:
    assert_unknown(task_client.send("tools/call", {"name": "drop", "task": {}}))
    assert task_client.send("tools/call", {"name": "create_admin", "task": {}}).status == 403


@pytest.mark.parametrize("method", ["tasks/get", "tasks/result", "tasks/cancel"])
def test_a_task_needs_what_its_tool_needs(bridge: Bridge, task_client: Client, method: str) -> None:
    created = {"taskId": "task of create_issue"}
    assert "result" in task_client.send(method, created).message
    task_client.set_scopes("read", "write")
    assert task_client.send(method, created).status == 403
    task_client.set_scopes("read")
    assert_unknown(task_client.send(method, created), "Task not found")
    assert "result" in task_client.send(method, {"taskId": "task of look"}).message
    # Of the same process, with isolation shared, and of a tool that was never called.
    assert_unknown(Client(bridge, "legacy", user="other").send(method, {"taskId": "task of look"}), "Task not found")
    assert_unknown(task_client.send(method, {"taskId": "task of drop"}), "Task not found")


def policy_of(tools: Rules) -> Policy:
    return Policy(tools=tools, prompts=None, resources=None, quotas=NO_QUOTAS, clock=lambda: 1000.0)


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [
        ({"ttl": 60_000}, 60),
        ({"ttl": 500.0}, 0.5),
        ({"ttl": 0}, 0),
        ({"ttl": None}, 86_400),
        ({}, 86_400),
        ({"ttl": 10**400}, 86_400),
        ({"ttl": -1}, 86_400),
        ({"ttl": True}, 86_400),
        ({"ttl": "60000"}, 86_400),
        ({"ttl": float("nan")}, 86_400),
    ],
)
def test_a_task_is_remembered_for_as_long_as_it_lives_and_for_a_day_at_most(
    ttl: dict[str, object], seconds: float
) -> None:
    policy = policy_of(Rules(default=Rule(), rules={}))
    assert not policy.remembers_users(1000)
    policy.learn_task("u", {"task": {"taskId": "1", **ttl}}, [Rule()])
    policy.learn_task("u", {"resultType": "task", "taskId": "2", "ttl": 0}, [Rule()])
    assert policy.remembers_users(1000 + 0.9 * seconds) == (seconds > 0)
    assert not policy.remembers_users(1000 + seconds)
    assert policy.find_task("u", "1") == frozenset({Rule()})


def test_a_task_id_that_several_tools_share_needs_what_all_of_them_need() -> None:
    rules = {"look": Rule(), "create": Rule(scopes=frozenset({"write"}))}
    policy = policy_of(Rules(default=Rule(deny=True), rules=rules))

    def tell(tool: str) -> None:
        request = rpc("tools/call", {"name": tool})
        answer = {"jsonrpc": "2.0", "id": 1, "result": {"resultType": "task", "taskId": "1"}}
        policy.access_of(Identity(user="u", scopes=frozenset({"write"}))).answered(request, answer)

    continued = rpc("tasks/get", {"taskId": "1"})
    reader = policy.access_of(Identity(user="u"))
    tell("look")
    assert reader.check([continued]) == {}
    tell("create")
    tell("look")
    assert reader.check([continued])[0]["error"]["message"] == "Task not found"
    assert policy.access_of(Identity(user="u", scopes=frozenset({"write"}))).check([continued]) == {}


def test_the_tasks_of_one_user_are_bounded_and_are_not_those_of_another() -> None:
    policy = policy_of(Rules(default=Rule(), rules={}))
    for user, number in [("other", -1), *(("u", number) for number in range(1001))]:
        policy.learn_task(user, {"task": {"taskId": str(number)}}, [Rule()])
    assert policy.find_task("u", "0") is None
    assert policy.find_task("u", "1") == policy.find_task("u", "1000") == frozenset({Rule()})
    assert policy.find_task("other", "-1") == frozenset({Rule()})
    assert policy.find_task("u", "-1") is None


def test_a_task_with_a_long_id_is_not_kept_and_stays_hidden() -> None:
    policy = policy_of(Rules(default=Rule(), rules={}))
    access = policy.access_of(Identity(user="u"))
    for length, refused in [(256, False), (257, True)]:
        task_id = "x" * length
        policy.learn_task("u", {"task": {"taskId": task_id}}, [Rule()])
        asked = rpc("tasks/get", {"taskId": task_id})
        assert bool(access.check([asked])) == refused
        answer = {"jsonrpc": "2.0", "id": 1, "result": {"tasks": [{"taskId": task_id}]}}
        assert bool(access.answered(rpc("tasks/list", {}), answer)["result"]["tasks"]) != refused
    policy.learn_task("other", {"taskId": "x" * 257}, [Rule()])
    assert policy.known_tasks == 1


def test_the_tasks_of_all_users_are_bounded_and_the_user_with_most_loses_its_oldest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stdio_bridge.clients.policy._MAX_TASKS", 4)
    policy = policy_of(Rules(default=Rule(), rules={}))

    def known(user: str) -> list[int]:
        return [number for number in range(10) if policy.find_task(user, str(number)) is not None]

    for user, number in [("a", 0), ("many", 1), ("many", 2), ("b", 3), ("c", 4), ("c", 4), ("d", 5), ("e", 6)]:
        policy.learn_task(user, {"task": {"taskId": str(number)}}, [Rule()])
    assert policy.known_tasks == 4
    assert [known(user) for user in ("a", "many", "b", "c", "d", "e")] == [[], [], [3], [4], [5], [6]]


def test_a_list_of_tasks_has_the_user_s_own_of_allowed_tools(bridge: Bridge, task_client: Client) -> None:
    def listed(client: Client) -> list[str]:
        return [task["taskId"] for task in client.send("tasks/list").message["result"]["tasks"]]

    assert listed(task_client) == ["task of look", "task of create_issue"]
    task_client.set_scopes("read", "write")
    assert listed(task_client) == ["task of look"]
    assert listed(Client(bridge, "legacy", user="other")) == []
