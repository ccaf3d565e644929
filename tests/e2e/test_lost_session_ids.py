"""Clients that lose their session's id, and change their address, behind the real router with several replicas."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import requests

from auth_service.protocol.parameters import MAX_BYTES_KEPT
from local.ports import free_port
from tests.e2e.flow import SourceAddress
from tests.e2e.router import TOO_LARGE, Router
from tests.stdio_bridge.running import KEY, assertion

PROJECT = Path(__file__).parents[2]
ECHO = PROJECT / "tests/stdio_bridge/echo_server.py"
ADDRESSES = tuple(f"127.0.0.{last}" for last in range(2, 34))
NAMES = ("a", "b", "c")
WAIT_SECONDS = 60
CLIENT = {"name": "test", "version": "1"}
INITIALIZE = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": CLIENT}


def wait_until_serving(url: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            assert requests.get(url, timeout=WAIT_SECONDS).status_code == 200
        except requests.ConnectionError:
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.05)
        else:
            return


class Site:
    """Three replicas behind the router. Who asks is whom a test says."""

    def __init__(self, folder: Path) -> None:
        self.grant = ""
        key = folder / "key"
        key.write_text(KEY)
        self._replicas: list[subprocess.Popen[bytes]] = []
        urls = {}
        for name in NAMES:
            address = f"127.0.0.1:{free_port()}"
            options = ("--listen", address, "--replica", name, "--require-identity", str(key))
            command = (sys.executable, "-m", "stdio_bridge", *options, "--", sys.executable, str(ECHO))
            self._replicas.append(subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.DEVNULL))
            urls[name] = f"http://{address}/mcp"
        for url in urls.values():
            wait_until_serving(urljoin(url, "/healthz"))
        self._router = Router(
            folder,
            {"replicas": urls},
            identity=lambda: {"X-Gateway-Identity": assertion("github:1", self.grant)},
        )
        self._router.wait_until(lambda: self.post("initialize", INITIALIZE).status_code == 200)

    def post(
        self, method: str, params: dict[str, Any] | None = None, *, address: str = "127.0.0.1", **headers: str
    ) -> requests.Response:
        common = {"Host": "localhost", "Accept": "application/json, text/event-stream"}
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}
        with requests.Session() as client:
            client.mount("http://", SourceAddress(address))
            url = f"http://127.0.0.1:{self._router.port}/mcp"
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            return client.post(url, json=message, headers={**common, **given}, timeout=WAIT_SECONDS)

    def listen(self, *, address: str) -> requests.Response:
        headers = {"Host": "localhost", "Accept": "text/event-stream"}
        client = requests.Session()
        client.mount("http://", SourceAddress(address))
        url = f"http://127.0.0.1:{self._router.port}/mcp"
        return client.get(url, headers=headers, timeout=WAIT_SECONDS, stream=True)

    def pid(self, *, address: str, **headers: str) -> str:
        answer = self.post("tools/call", {"name": "pid", "arguments": {}}, address=address, **headers)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["result"]["content"])

    def close(self) -> None:
        self._router.stop()
        for replica in self._replicas:
            replica.terminate()
            replica.wait(WAIT_SECONDS)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    running = Site(tmp_path_factory.mktemp("site"))
    yield running
    running.close()


def test_a_request_without_a_session_id_reaches_the_replica_that_has_its_grants_session_from_any_address(
    site: Site,
) -> None:
    replicas: set[str] = set()
    for number, address in enumerate(ADDRESSES):
        # The router chooses by the address. A few of them may all lead to two of the replicas.
        if number >= 6 and replicas == set(NAMES):
            break
        site.grant = f"grant-{number}"
        session = site.post("initialize", INITIALIZE, address=address).headers["Mcp-Session-Id"]
        replicas.add(session[0])
        pid = site.pid(address=address, Mcp_Session_Id=session)
        assert {site.pid(address=other) for other in ADDRESSES[::3]} == {pid}
    assert replicas == set(NAMES)


def test_a_large_request_without_a_session_id_reaches_it_too(site: Site) -> None:
    site.grant = "writes much"
    session = site.post("initialize", INITIALIZE, address=ADDRESSES[0]).headers["Mcp-Session-Id"]
    large = {"name": "echo", "arguments": {"text": "x" * 300_000}}
    expected = site.post("tools/call", large, address=ADDRESSES[0], Mcp_Session_Id=session)
    assert expected.status_code == 200
    for address in ADDRESSES[:6]:
        assert site.post("tools/call", large, address=address).content == expected.content


def test_one_that_is_too_large_to_be_kept_is_refused_where_it_names_no_session(site: Site) -> None:
    site.grant = "writes too much"
    session = site.post("initialize", INITIALIZE, address=ADDRESSES[0]).headers["Mcp-Session-Id"]
    large = {"name": "echo", "arguments": {"text": "x" * MAX_BYTES_KEPT}}
    refused = site.post("tools/call", large, address=ADDRESSES[0])
    assert (refused.status_code, refused.text) == (413, TOO_LARGE)
    assert site.post("tools/call", large, address=ADDRESSES[0], Mcp_Session_Id=session).status_code == 200


def test_a_stream_without_a_session_id_begins_at_once(site: Site) -> None:
    site.grant = "listens"
    site.post("initialize", INITIALIZE, address=ADDRESSES[0])
    for address in ADDRESSES[:8]:
        with site.listen(address=address) as stream:
            assert next(stream.iter_lines()) == b": open"


def test_without_a_session_of_the_grant_at_any_replica_the_client_is_told_to_initialize(site: Site) -> None:
    site.grant = "a grant without a session"
    answer = site.post("ping")
    assert answer.status_code == 421
    assert answer.json()["error"]["message"] == "Mcp-Session-Id is missing: initialize first"


def test_a_modern_request_is_answered_by_the_first_replica_that_gets_it(site: Site) -> None:
    site.grant = "modern"
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    headers = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "server/discover"}
    answer = site.post("server/discover", {"_meta": meta}, **headers)
    assert answer.json()["result"]["supportedVersions"]
