"""Revisions of MCP that an operator chooses: those that clients are offered, and the one that a server is asked for."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from stdio_bridge.options import Options, parse_options
from stdio_bridge.protocol.errors import UsageError
from stdio_bridge.protocol.mcp import ALL_VERSIONS, LEGACY_VERSIONS, Versions
from tests.stdio_bridge.modern_client import LEGACY_SERVER, MODERN_SERVER, VERSION, ModernClient
from tests.stdio_bridge.running import ECHO, Bridge, rpc

OLD = ("--protocol-version", "2025-03-26", "--protocol-version", "2025-06-18")
MODERN_ONLY = ("--protocol-version", VERSION)


@contextlib.contextmanager
def serving(*options: str, command: tuple[str, ...] = LEGACY_SERVER) -> Iterator[Bridge]:
    with Bridge("--no-identity", "--drain-timeout", "0.1", *options, command=command) as bridge:
        yield bridge


def initialize(bridge: Bridge, version: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    status, headers, content = bridge.request("POST", rpc("initialize", params))
    return status, headers, json.loads(content)


def asked_of_server(bridge: Bridge, session: str) -> str:
    """What the server was initialized with, by its own account."""
    message = rpc("tools/call", {"name": "initialize", "arguments": {}})
    content = bridge.request("POST", message, Mcp_Session_Id=session)[2]
    told: str = json.loads(json.loads(content)["result"]["content"][0]["text"])["protocolVersion"]
    return told


def parse(*options: str) -> Options:
    return parse_options(["--listen", "127.0.0.1:0", "--no-identity", *options, "--", *ECHO], os.environ)


def test_every_revision_is_offered_unless_some_are_named() -> None:
    assert parse().versions == Versions(offered=ALL_VERSIONS, server=None)
    assert parse(*OLD).versions.offered == ("2025-06-18", "2025-03-26")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--protocol-version", "2025-01-01"), "2025-01-01"),
        (("--server-protocol-version", "latest"), "latest"),
        (("--server-protocol-version", VERSION), "--server-era modern"),
        (("--server-protocol-version", "2025-06-18", "--server-era", "modern"), "is not initialized"),
    ],
)
def test_a_revision_that_makes_no_sense_is_refused_with_its_option(options: tuple[str, ...], word: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(*options)
    assert options[0] in str(refused.value)
    assert word in str(refused.value)


@pytest.mark.parametrize(
    ("asked", "answered", "told"),
    [
        ("2025-06-18", "2025-06-18", "2025-06-18"),
        ("2025-03-26", "2025-06-18", "2025-03-26"),
        ("2025-06-18", "2025-03-26", "2025-03-26"),
        ("2025-11-25", "2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25", "2025-06-18"),
        ("2024-11-05", "2024-11-05", "2025-06-18"),
        ("2025-06-18", "2024-11-05", "2025-06-18"),
        (None, "unheard of", "2025-06-18"),
    ],
)
def test_a_client_is_told_the_older_of_its_own_and_the_servers_revision_among_those_offered(
    asked: object, answered: str, told: str
) -> None:
    assert parse(*OLD).versions.to_client(asked, answered) == told


@pytest.mark.parametrize(
    ("asked", "told"), [("2025-06-18", "2025-06-18"), ("2025-03-26", "2025-03-26"), ("2025-11-25", "2025-06-18")]
)
@pytest.mark.parametrize("command", [LEGACY_SERVER, MODERN_SERVER], ids=["legacy", "modern"])
@pytest.mark.parametrize("isolation", ["per-session", "shared"])
def test_a_legacy_client_gets_what_it_asks_for_or_the_latest_that_is_offered(
    command: tuple[str, ...], isolation: str, asked: str, told: str
) -> None:
    with serving(*OLD, "--isolation", isolation, command=command) as bridge:
        status, _, answer = initialize(bridge, asked)
        assert (status, answer["result"]["protocolVersion"]) == (200, told)


def test_the_server_is_asked_for_what_its_client_is_offered_or_what_the_operator_says() -> None:
    with serving(*OLD) as bridge:
        assert asked_of_server(bridge, initialize(bridge, "2025-11-25")[1]["mcp-session-id"]) == "2025-06-18"
    with serving("--server-protocol-version", "2024-11-05") as bridge:
        _, headers, answer = initialize(bridge, "2025-11-25")
        assert answer["result"]["protocolVersion"] == "2024-11-05"
        assert asked_of_server(bridge, headers["mcp-session-id"]) == "2024-11-05"
        assert ModernClient(bridge).call("initialize").said["protocolVersion"] == "2024-11-05"
        assert bridge.request("GET", path="/readyz")[0] == 200


@pytest.mark.parametrize(("asked", "status"), [("2025-03-26", 200), ("2025-06-18", 400)])
def test_a_session_behaves_as_its_revision_says(asked: str, status: int) -> None:
    with serving(*OLD) as bridge:
        session = initialize(bridge, asked)[1]["mcp-session-id"]
        batch = [rpc("ping", {}, 1), rpc("ping", {}, 2)]
        assert bridge.request("POST", batch, Mcp_Session_Id=session)[0] == status


def test_a_legacy_revision_outside_is_refused_and_told_what_there_is() -> None:
    with serving(*OLD) as bridge:
        session = initialize(bridge, "2025-06-18")[1]["mcp-session-id"]

        def ping(version: str) -> tuple[int, bytes]:
            headers = {"Mcp_Session_Id": session, "MCP_Protocol_Version": version}
            status, _, content = bridge.request("POST", rpc("ping", {}), **headers)
            return status, content

        assert ping("2025-06-18")[0] == 200
        status, content = ping("2025-11-25")
        assert status == 400
        error = json.loads(content)["error"]
        assert error["code"] == -32600
        assert "supported: 2025-03-26, 2025-06-18" in error["message"]


@pytest.mark.parametrize("command", [LEGACY_SERVER, MODERN_SERVER], ids=["legacy", "modern"])
def test_a_modern_client_outside_is_refused_and_told_what_there_is(command: tuple[str, ...]) -> None:
    with serving(*OLD, command=command) as bridge:
        for method in ("server/discover", "tools/list"):
            answer = ModernClient(bridge).request(method)
            assert (answer.status, answer.error["code"]) == (400, -32022)
            assert answer.error["data"] == {"supported": ["2025-06-18", "2025-03-26"], "requested": VERSION}


@pytest.mark.parametrize("command", [LEGACY_SERVER, MODERN_SERVER], ids=["legacy", "modern"])
def test_discovery_names_the_revisions_that_are_offered(command: tuple[str, ...]) -> None:
    with serving(*MODERN_ONLY, "--protocol-version", "2025-06-18", command=command) as bridge:
        assert ModernClient(bridge).request("server/discover").result["supportedVersions"] == [VERSION, "2025-06-18"]


def test_a_legacy_client_is_refused_where_the_modern_revision_alone_is_offered() -> None:
    with serving(*MODERN_ONLY) as bridge:
        status, _, answer = initialize(bridge, "2025-11-25")
        assert (status, answer["id"], answer["error"]["code"]) == (400, 1, -32022)
        assert answer["error"]["data"] == {"supported": [VERSION], "requested": "2025-11-25"}
        for method in ("GET", "DELETE"):
            status, headers, _ = bridge.request(method)
            assert (status, headers["allow"]) == (405, "POST")
        assert ModernClient(bridge).call("pid").result
        assert bridge.request("GET", path="/readyz")[0] == 200


def test_with_every_revision_offered_nothing_is_changed_on_the_way() -> None:
    versions = Versions()
    for version in LEGACY_VERSIONS:
        assert versions.to_server(version) == versions.to_client(version, version) == version
