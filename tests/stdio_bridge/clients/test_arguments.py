"""Schemas for arguments, in front of servers and for clients of both eras, and the ways round them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stdio_bridge.modern_client import ALL, MODERN_SERVER, ModernClient
from tests.stdio_bridge.running import KEY, Bridge, rpc
from tests.stdio_bridge.user_client import Client, Said

Message = dict[str, Any]

OFFERED = {"tools": ["make", "pay", "seen"], "prompts": ["hello"]}
SCHEMA = {
    "type": "object",
    "required": ["path"],
    "additionalProperties": False,
    "properties": {"path": {"type": "string", "pattern": "^/srv/"}, "count": {"type": "integer", "maximum": 10}},
}
SECRET = "s3cr3t-value"
RULES = {
    "tools": {
        "rules": {
            "*": {"arguments": {"properties": {"count": {"type": "integer"}}}},
            "make": {"arguments": SCHEMA, "scopes": ["write"]},
            "ma*": {"arguments": False},
            "ask*": {"arguments": {"properties": {"to": {"const": "me"}}}},
        }
    },
    "prompts": {"rules": {"hello": {"arguments": SCHEMA}}},
}


@pytest.fixture(scope="module", params=["legacy server", "modern server"])
def bridge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    folder: Path = tmp_path_factory.mktemp("arguments")
    (folder / "key").write_text(KEY)
    (folder / "bridge.json").write_text(json.dumps({**RULES, "require-identity": str(folder / "key")}))
    options = ("--config", str(folder / "bridge.json"), "--isolation", "shared", "--drain-timeout", "0.1")
    server = str(Path(__file__).parents[1] / "offering_server.py")
    with Bridge(
        *options,
        "--log-level",
        "debug",
        command=(sys.executable, server, request.param.split()[0], json.dumps(OFFERED)),
    ) as running:
        yield running


@pytest.fixture(params=["legacy client", "modern client"])
def client(bridge: Bridge, request: pytest.FixtureRequest) -> Client:
    return Client(bridge, str(request.param.split()[0]), scope="read write")


def use(client: Client, arguments: object, method: str = "tools/call", name: str = "make", **more: object) -> Said:
    return client.send(method, {"name": name, "arguments": arguments, **more})


def assert_refused(said: Said, fault: str) -> None:
    assert said.status == 200
    assert said.message["error"]["code"] == -32602
    assert said.message["error"]["message"].startswith(f"Invalid arguments: {fault}")


@pytest.mark.parametrize(("method", "name"), [("tools/call", "make"), ("prompts/get", "hello")])
def test_arguments_that_keep_to_the_schema_reach_the_server_as_they_are(client: Client, method: str, name: str) -> None:
    for arguments in ({"path": "/srv/a"}, {"path": "/srv/a", "count": 1.0}, {"count": -5, "path": "/srv/ä"}):
        assert "result" in use(client, arguments, method, name).message
        assert client.reached()[-1]["params"]["arguments"] == arguments


@pytest.mark.parametrize(("method", "name"), [("tools/call", "make"), ("prompts/get", "hello")])
@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"path": SECRET}, 'arguments.path: the value does not match "^/srv/"'),
        ({"path": "/srv/a", "count": 11}, "arguments.count: the value is greater than the maximum of 10"),
        ({"path": "/srv/a", "count": 10**18}, "arguments.count: the value is greater than the maximum of 10"),
        ({"path": "/srv/a", "count": 10**20}, "arguments: a number does not fit into 64 bits"),
        ({"path": "/srv/a", "count": "1"}, 'arguments.count: the value is not of type "integer"'),
        ({"path": "/srv/a", "PATH": "/etc"}, "arguments: Additional properties are not allowed ('PATH' was"),
        ({"arguments": {"path": "/srv/a"}}, "arguments"),
        ({}, 'arguments: "path" is a required property'),
        (None, 'arguments: "path" is a required property'),
        ([], "arguments: must be an object"),
        ([{"path": "/srv/a"}], "arguments: must be an object"),
        ('{"path": "/srv/a"}', "arguments: must be an object"),
        (0, "arguments: must be an object"),
    ],
)
def test_arguments_that_break_the_schema_do_not_reach_the_server(
    client: Client, method: str, name: str, arguments: object, fault: str
) -> None:
    before = client.reached()
    assert_refused(use(client, arguments, method, name), fault)
    assert client.reached() == before


def test_missing_arguments_are_none(client: Client) -> None:
    assert_refused(client.send("tools/call", {"name": "make"}), 'arguments: "path" is a required property')
    assert "result" in client.send("tools/call", {"name": "pay"}).message


def test_no_value_of_an_argument_is_told_or_logged(bridge: Bridge, client: Client) -> None:
    for arguments in (
        {"path": SECRET},
        {"path": "/srv/a", "count": SECRET},
        {"path": [SECRET]},
        {"path": {"x": SECRET}},
    ):
        assert SECRET not in json.dumps(use(client, arguments).messages)
    assert not any(SECRET in line for line in bridge._lines)


def test_the_rule_that_decides_about_a_name_has_the_schema(client: Client) -> None:
    # `ma*` has one that no arguments keep to, and does not decide about `make`.
    assert_refused(use(client, {}, name="max"), "arguments: ")
    assert_refused(use(client, {"count": "1"}, name="pay"), "arguments.count: ")
    assert "result" in use(client, {"path": "anything"}, name="pay").message


def test_a_scope_that_is_missing_is_said_first_and_so_is_that_a_tool_does_not_exist(client: Client) -> None:
    client.set_scopes("read", "write")
    assert use(client, {"path": SECRET}).status == 403
    client.set_scopes("read")
    assert use(client, {"path": SECRET}).message["error"]["message"] == "Unknown tool: make"


# Ways round


@pytest.mark.parametrize(
    "more",
    [
        {"Arguments": {"path": "/srv/a"}},
        {"args": {"path": "/srv/a"}},
        {"input": {"path": "/srv/a"}},
        {"params": {"arguments": {"path": "/srv/a"}}},
        {"task": {"arguments": {"path": "/srv/a"}}},
    ],
)
def test_arguments_elsewhere_are_no_arguments(client: Client, more: Message) -> None:
    before = client.reached()
    assert_refused(use(client, {"path": SECRET}, **more), "arguments.path: ")
    assert_refused(client.send("tools/call", {"name": "make", **more}), 'arguments: "path" is')
    assert client.reached() == before


def test_arguments_of_a_task_are_checked(client: Client) -> None:
    assert_refused(use(client, {"path": SECRET}, task={"ttl": 1000}), "arguments.path: ")
    assert "error" not in use(client, {"path": "/srv/a"}, task={"ttl": 1000}).message


def test_of_duplicate_members_the_one_that_is_passed_on_is_checked(bridge: Bridge) -> None:
    client = Client(bridge, "legacy", scope="write")
    before = client.reached()
    good, bad = '{"path":"/srv/a"}', '{"path":"/etc"}'
    head = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"make",'
    for rest in (
        f'"arguments":{good},"arguments":{bad}}}}}',
        '"arguments":{"path":"/srv/a","path":"/etc"}}}',
        '"arguments":{"path":"/srv/a","p\\u0061th":"/etc"}}}',
        f'"arguments":{good}}},"params":{{"name":"make","arguments":{bad}}}}}',
        f'"arguments":{good},"\\u0061rguments":{bad}}}}}',
    ):
        assert_refused(client.post((head + rest).encode()), "arguments.path: ")
    assert client.reached() == before
    passed = client.post((head + f'"arguments":{bad},"arguments":{good}}}}}').encode())
    assert "result" in passed.message
    assert client.reached()[-1]["params"]["arguments"] == {"path": "/srv/a"}


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1e99999", "NaN", "Infinity"])
def test_a_number_that_cannot_be_passed_on_is_refused_whole(bridge: Bridge, number: str) -> None:
    client = Client(bridge, "legacy", scope="write")
    before = client.reached()
    body = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay","arguments":{"count":%s}}}'
    assert client.post((body % number).encode()).status == 400
    assert client.reached() == before


def test_numbers_are_compared_by_their_value_however_they_are_written(bridge: Bridge) -> None:
    client = Client(bridge, "legacy", scope="write")
    arguments = '{"path":"/srv/a","count":%s}'
    body = f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"make","arguments":{arguments}}}}}'
    for number in ("10", "10.0", "1e1", "100e-1", "-0", "-1e30"):
        assert "result" in client.post((body % number).encode()).message, number
    for number in ("11", "11.0", "1.1e1", "1e30", "10.5", "0.5", "1e308", "10.000001"):
        assert_refused(client.post((body % number).encode()), "arguments.count: ")


def test_arguments_too_deep_to_be_checked_are_refused_and_the_bridge_goes_on(client: Client) -> None:
    deep: Any = SECRET
    for _ in range(400):
        deep = {"x": deep}
    before = client.reached()
    assert "error" in use(client, {"path": deep}).message
    assert "error" in use(client, {"path": "/srv/\ud800"}).message
    assert client.reached() == before


def test_each_request_of_a_batch_is_checked_by_itself(bridge: Bridge) -> None:
    client = Client(bridge, "legacy", scope="write")
    client.headers["Mcp_Session_Id"] = bridge.initialize("2025-03-26", **client.identity("write", ""))
    before = len(client.reached())
    paths = ["/etc/a", "/srv/a", "/etc/b"]
    calls = [
        rpc("tools/call", {"name": "make", "arguments": {"path": path}}, number) for number, path in enumerate(paths)
    ]
    answers = {each["id"]: each for each in client.post(calls).messages}
    assert [answers[number].get("error", {}).get("code") for number in range(3)] == [-32602, None, -32602]
    assert [each["params"]["arguments"] for each in client.reached()[before:] if each["method"] == "tools/call"] == [
        {"path": "/srv/a"}
    ]


def test_only_the_first_refusals_of_a_batch_are_explained(bridge: Bridge) -> None:
    client = Client(bridge, "legacy", scope="write")
    client.headers["Mcp_Session_Id"] = bridge.initialize("2025-03-26", **client.identity("write", ""))
    calls = [rpc("tools/call", {"name": "make", "arguments": {"path": 1}}, number) for number in range(12)]
    answers = {each["id"]: each["error"] for each in client.post(calls).messages}
    assert {error["code"] for error in answers.values()} == {-32602}
    explained = 'Invalid arguments: arguments.path: the value is not of type "string"'
    refused = "Invalid arguments: arguments: the schema of the rule for this call does not allow them"
    assert [answers[number]["message"] for number in range(12)] == [explained] * 10 + [refused] * 2


@pytest.fixture(params=["legacy server", "modern server"])
def asking(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ModernClient]:
    (tmp_path / "bridge.json").write_text(json.dumps(RULES))
    server = (*MODERN_SERVER[:-1], request.param.split()[0])
    with Bridge("--config", str(tmp_path / "bridge.json"), "--no-identity", command=server) as bridge:
        yield ModernClient(bridge, ALL)


def test_a_retry_with_other_arguments_is_checked_anew(asking: ModernClient) -> None:
    asked = asking.request("tools/call", {"name": "ask", "arguments": {"to": "me"}}).result
    assert asked["resultType"] == "input_required"
    given = {key: {"action": "accept", "content": {}} for key in asked["inputRequests"]}
    retry = {"name": "ask", "requestState": asked["requestState"], "inputResponses": given}
    refused = asking.request("tools/call", {**retry, "arguments": {"to": "you"}}).error
    assert refused == {"code": -32602, "message": 'Invalid arguments: arguments.to: "me" was expected'}
    assert asking.request("tools/call", {**retry, "arguments": {"to": "me"}}).result["resultType"] == "complete"
