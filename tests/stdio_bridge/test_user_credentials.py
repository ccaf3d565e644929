"""Users' own credentials: each process gets those of its user, and no process starts without them."""

from __future__ import annotations

import contextlib
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

from local.ports import free_port
from stdio_bridge.servers.user_credentials import REPEATS
from tests.stdio_bridge.credential_service import WAIT_SECONDS, CredentialService, credential_service
from tests.stdio_bridge.modern_client import LEGACY_SERVER, MODERN_SERVER
from tests.stdio_bridge.running import KEY, ROOT, Bridge, assertion, rpc, signed
from tests.stdio_bridge.socket_activation import server_socket
from tests.stdio_bridge.test_faults import metric
from tests.stdio_bridge.user_client import RESOURCE, Client

SERVERS = {"legacy server": LEGACY_SERVER, "modern server": MODERN_SERVER}
ERAS = ("legacy", "modern")
CHALLENGE = (
    'Bearer error="invalid_token", error_description="a credential that this server needs of you is missing: log in '
    'again", resource_metadata="https://mcp.example.com/.well-known/oauth-protected-resource/notes/mcp", scope="read"'
)


# A bridge that waits for credentials as long as a busy machine needs.
PATIENT = """
import sys
from stdio_bridge import __main__
from stdio_bridge.servers import user_credentials
user_credentials.TOTAL_SECONDS = user_credentials._ONE_SECONDS = 600.0
sys.exit(__main__.main(["--keep-alive", "600", *sys.argv[1:]]))
"""


@pytest.fixture
def service() -> Iterator[CredentialService]:
    with credential_service() as running:
        yield running


@contextlib.contextmanager
def bridge_of(
    folder: Path,
    url: str,
    *options: str,
    command: tuple[str, ...] = LEGACY_SERVER,
    in_units: bool = False,
    is_patient: bool = False,
) -> Iterator[Bridge]:
    (folder / "key").write_text(KEY)
    asked = ("--credentials-url", url, "--user-credential", "TOKEN")
    own = ("--require-identity", str(folder / "key"), *asked, "--drain-timeout", "0.1", *options)
    with contextlib.ExitStack() as stack:
        if in_units:
            path = stack.enter_context(server_socket(folder / "server", *command))
            yield stack.enter_context(Bridge(*own, "--server-socket", str(path), command=()))
        else:
            program = ("-c", PATIENT) if is_patient else ("-m", "stdio_bridge")
            yield stack.enter_context(Bridge(*own, command=command, program=program))


def begin(bridge: Bridge, era: str, user: str) -> tuple[int, dict[str, str], bytes]:
    """Send the first request of a user's client, for which a process has to start."""
    headers = {"X_Gateway_Identity": assertion(user, aud=RESOURCE, scope="read")}
    if era == "legacy":
        info = {"name": "t", "version": "1"}
        params: Any = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
        return bridge.request("POST", rpc("initialize", params), **headers)
    prefix = "io.modelcontextprotocol/"
    meta = {f"{prefix}protocolVersion": "2026-07-28", f"{prefix}clientCapabilities": {}}
    params = {"name": "token", "arguments": {}, "_meta": meta}
    headers |= {"Mcp_Method": "tools/call", "Mcp_Name": "token", "MCP_Protocol_Version": "2026-07-28"}
    return bridge.request("POST", rpc("tools/call", params), **headers)


def said(client: Client, tool: str) -> Any:
    return json.loads(client.call(tool).message["result"]["content"][0]["text"])


def tell(bridge: Bridge, user: str) -> None:
    """Tell the bridge that the credentials of a user have changed."""
    status, _, _ = bridge.request("POST", signed("revocation", {"sub": user}).encode(), path="/revocations")
    assert status == 204


@pytest.mark.parametrize(
    ("server", "isolation", "in_units"),
    [
        ("legacy server", "per-session", False),
        ("legacy server", "per-user", True),
        ("modern server", "per-session", True),
        ("modern server", "per-user", False),
    ],
)
def test_the_processes_of_two_users_have_each_its_user_s_own(
    service: CredentialService, tmp_path: Path, server: str, isolation: str, in_units: bool
) -> None:
    service.give("ann", "bob")
    options = ("--isolation", isolation)
    with bridge_of(tmp_path, service.url, *options, command=SERVERS[server], in_units=in_units) as bridge:
        clients = [Client(bridge, era, user=user) for user in ("ann", "bob") for era in ERAS]
        assert [said(client, "token") for client in clients] == [f"token-of-{client.user}" for client in clients]
        assert len({said(client, "pid") for client in clients}) == len(clients)
        # One question for each process, and none for what comes after.
        assert sorted(service.asked.queue) == ["ann", "ann", "bob", "bob"]
        assert {tuple(said(client, "core")) for client in clients} == {(1, 1)} or in_units
        processes = [*psutil.Process(bridge.process.pid).children(recursive=True), psutil.Process(bridge.process.pid)]
        assert "token-of" not in str([process.cmdline() for process in processes])
        with contextlib.suppress(psutil.AccessDenied):  # it hides its memory from all but root
            assert "token-of" not in str(psutil.Process(bridge.process.pid).environ())
        bridge.stop()
        assert not [line for line in bridge.lines if "token-of" in line]


def test_what_a_server_says_of_its_credential_is_in_no_log_and_no_text_about_its_end(
    service: CredentialService, tmp_path: Path
) -> None:
    service.give("ann")
    with bridge_of(tmp_path, service.url) as bridge:
        client = Client(bridge, "legacy", user="ann")
        text = client.call("betray").message["error"]["message"]
        assert "stderr: [redacted]" in text
        assert "stdout: [redacted]" in text
        bridge.stop()
        assert [line for line in bridge.lines if "stderr: [redacted]" in line]
        assert not [line for line in bridge.lines if "token-of" in line]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("server", SERVERS)
def test_without_its_user_s_credential_no_process_starts_and_the_client_is_sent_to_log_in(
    service: CredentialService, tmp_path: Path, server: str, era: str
) -> None:
    with bridge_of(tmp_path, service.url, command=SERVERS[server]) as bridge:
        status, headers, content = begin(bridge, era, "ann")
        assert (status, headers["www-authenticate"]) == (401, CHALLENGE)
        assert json.loads(content)["id"] == 1
        assert "mcp-session-id" not in headers
        assert metric(bridge, "mcp_bridge_spawns_total") == 0
        service.give("ann")
        assert said(Client(bridge, era, user="ann"), "token") == "token-of-ann"


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("isolation", ["per-session", "per-user"])
def test_while_the_auth_service_cannot_be_reached_clients_are_told_when_to_try_again(
    tmp_path: Path, isolation: str, era: str
) -> None:
    url = f"http://127.0.0.1:{free_port()}/credentials/notes"
    with bridge_of(tmp_path, url, "--isolation", isolation) as bridge:
        status, headers, content = begin(bridge, era, "ann")
        assert (status, headers["retry-after"]) == (503, "5")
        assert json.loads(content)["id"] == 1
        assert metric(bridge, "mcp_bridge_spawns_total") == 0
        bridge.wait_for_line("WARNING .*cannot be asked for a user's credentials: Connection refused")


@pytest.mark.parametrize("era", ERAS)
def test_an_auth_service_that_is_asked_in_vain_says_when_to_try_again(
    service: CredentialService, tmp_path: Path, era: str
) -> None:
    service.refusals["ann"] = (503, {"Retry-After": "7"})
    with bridge_of(tmp_path, service.url) as bridge:
        status, headers, _ = begin(bridge, era, "ann")
        assert (status, headers["retry-after"]) == (503, "7")
        assert metric(bridge, "mcp_bridge_spawns_total") == 0


@pytest.mark.parametrize("status", [302, 403])
def test_any_other_refusal_starts_nothing_and_is_logged(
    service: CredentialService, tmp_path: Path, status: int
) -> None:
    service.refusals["ann"] = (status, {"Location": service.url})
    with bridge_of(tmp_path, service.url) as bridge:
        assert begin(bridge, "modern", "ann")[0] == 503
        bridge.wait_for_line(f"ERROR .*refused a question for credentials: HTTP {status}")
        assert metric(bridge, "mcp_bridge_spawns_total") == 0
        assert service.asked.qsize() == 1


def test_an_answer_that_is_not_valid_starts_nothing(service: CredentialService, tmp_path: Path) -> None:
    service.give("ann", "bob")
    service.changed = {"sub": "bob"}
    with bridge_of(tmp_path, service.url) as bridge:
        status, headers, _ = begin(bridge, "modern", "ann")
        assert (status, headers["retry-after"]) == (503, "5")
        assert metric(bridge, "mcp_bridge_spawns_total") == 0
        bridge.wait_for_line("ERROR .*the auth service's answer to a question for credentials is not valid")
        bridge.stop()
        assert not [line for line in bridge.lines if "token-of" in line]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("delivered", "difference"),
    [({}, "without TOKEN"), ({"TOKEN": "token-of-ann", "NEW_TOKEN": "token-of-ann"}, "with NEW_TOKEN")],
)
def test_while_the_auth_service_has_other_settings_nothing_starts(
    service: CredentialService, tmp_path: Path, era: str, delivered: dict[str, str], difference: str
) -> None:
    service.environments["ann"] = delivered
    with bridge_of(tmp_path, service.url) as bridge:
        status, headers, content = begin(bridge, era, "ann")
        assert (status, headers["retry-after"]) == (503, "5")
        assert metric(bridge, "mcp_bridge_spawns_total") == 0
        bridge.wait_for_line(f"ERROR the auth service delivers a user's credentials {difference}: ")
        service.give("ann")
        assert said(Client(bridge, era, user="ann"), "token") == "token-of-ann"
        bridge.stop()
        assert not [line for line in [*bridge.lines, content.decode()] if "token-of" in line]


def test_a_bridge_without_users_credentials_loads_nothing_for_them() -> None:
    script = "import sys, stdio_bridge.__main__; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_the_next_address_is_asked_where_one_cannot_be_reached(service: CredentialService, tmp_path: Path) -> None:
    service.give("ann")
    url = f"http://127.0.0.1:{free_port()}/credentials/notes"
    with bridge_of(tmp_path, url, "--credentials-url", service.url) as bridge:
        assert said(Client(bridge, "modern", user="ann"), "token") == "token-of-ann"


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("isolation", ["per-session", "per-user"])
def test_a_process_that_waits_for_its_credential_while_it_is_replaced_gets_the_new_one(
    service: CredentialService, tmp_path: Path, isolation: str, era: str
) -> None:
    service.give("ann")
    service.held.add("ann")
    with bridge_of(tmp_path, service.url, "--isolation", isolation, is_patient=True) as bridge:
        with in_background(bridge, era, "ann") as answered:
            assert service.asked.get(timeout=WAIT_SECONDS) == "ann"
            service.environments["ann"] = {"TOKEN": "another"}
            tell(bridge, "ann")
            assert service.abandoned.get(timeout=WAIT_SECONDS) == "ann"
            assert service.asked.get(timeout=WAIT_SECONDS) == "ann"
            assert metric(bridge, "mcp_bridge_spawns_total") == 0
            service.held.clear()
        assert answered[0][0] == 200
        (server,) = psutil.Process(bridge.process.pid).children()
        assert server.environ()["TOKEN"] == "another"


@pytest.mark.parametrize("era", ERAS)
def test_a_client_whose_credential_is_removed_while_its_process_waits_for_it_is_sent_to_log_in(
    service: CredentialService, tmp_path: Path, era: str
) -> None:
    service.give("ann")
    service.held.add("ann")
    with bridge_of(tmp_path, service.url, is_patient=True) as bridge:
        with in_background(bridge, era, "ann") as answered:
            assert service.asked.get(timeout=WAIT_SECONDS) == "ann"
            del service.environments["ann"]
            tell(bridge, "ann")
            assert service.asked.get(timeout=WAIT_SECONDS) == "ann"
            service.held.clear()
        assert (answered[0][0], answered[0][1]["www-authenticate"]) == (401, CHALLENGE)
        assert metric(bridge, "mcp_bridge_spawns_total") == 0


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("isolation", ["per-session", "per-user"])
def test_a_credential_that_changes_too_often_while_a_process_waits_for_it_is_not_waited_for(
    service: CredentialService, tmp_path: Path, isolation: str, era: str
) -> None:
    service.give("ann")
    service.held.add("ann")
    with bridge_of(tmp_path, service.url, "--isolation", isolation, is_patient=True) as bridge:
        with in_background(bridge, era, "ann") as answered:
            for _ in range(1 + REPEATS):
                assert service.asked.get(timeout=WAIT_SECONDS) == "ann"
                tell(bridge, "ann")
                assert service.abandoned.get(timeout=WAIT_SECONDS) == "ann"
        assert answered[0][0] in (404, 503)
        assert metric(bridge, "mcp_bridge_spawns_total") == 0
        service.held.clear()
        assert said(Client(bridge, era, user="ann"), "token") == "token-of-ann"


@pytest.mark.parametrize("era", ERAS)
def test_another_user_s_process_is_neither_waited_for_nor_taken_over(
    service: CredentialService, tmp_path: Path, era: str
) -> None:
    service.give("ann", "bob")
    service.held.add("ann")
    with bridge_of(tmp_path, service.url, "--isolation", "per-user", is_patient=True) as bridge:
        with in_background(bridge, era, "ann") as of_ann:
            assert service.asked.get(timeout=WAIT_SECONDS) == "ann"
            assert said(Client(bridge, era, user="bob"), "token") == "token-of-bob"
            assert service.asked.get(timeout=WAIT_SECONDS) == "bob"
            tell(bridge, "bob")
            assert metric(bridge, "mcp_bridge_spawns_total") == 1
            service.held.clear()
        assert of_ann[0][0] == 200
        assert service.asked.empty()
        assert said(Client(bridge, era, user="ann"), "token") == "token-of-ann"


def test_a_client_that_leaves_gives_its_question_up(service: CredentialService, tmp_path: Path) -> None:
    service.give("ann")
    service.held.add("ann")
    with bridge_of(tmp_path, service.url) as bridge:
        head = f"POST /mcp HTTP/1.1\r\nHost: localhost\r\nX-Gateway-Identity: {assertion('ann')}\r\n"
        info = {"name": "t", "version": "1"}
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
        body = json.dumps(rpc("initialize", params))
        head += "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
        with socket.create_connection(("127.0.0.1", bridge.port)) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            assert service.asked.get(timeout=WAIT_SECONDS) == "ann"
        assert service.abandoned.get(timeout=WAIT_SECONDS) == "ann"
        assert metric(bridge, "mcp_bridge_spawns_total") == 0


@pytest.mark.parametrize("era", ERAS)
def test_a_bridge_that_stops_gives_its_questions_up(service: CredentialService, tmp_path: Path, era: str) -> None:
    service.give("ann")
    service.held.add("ann")
    with bridge_of(tmp_path, service.url) as bridge, in_background(bridge, era, "ann"):
        assert service.asked.get(timeout=WAIT_SECONDS) == "ann"
        assert bridge.stop() == 0
        assert service.abandoned.get(timeout=WAIT_SECONDS) == "ann"


@pytest.mark.parametrize("isolation", ["per-session", "per-user"])
def test_a_change_ends_the_processes_of_its_user_alone(
    service: CredentialService, tmp_path: Path, isolation: str
) -> None:
    service.give("ann", "bob")
    with bridge_of(tmp_path, service.url, "--isolation", isolation, "--stop-timeout", "600") as bridge:
        clients = [Client(bridge, era, user=user) for user in ("ann", "bob") for era in ERAS]
        servers = {client: psutil.Process(said(client, "pid")) for client in clients}
        service.environments["ann"] = {"TOKEN": "another"}
        tell(bridge, "ann")
        for client, server in servers.items():
            if client.user == "ann":
                server.wait(WAIT_SECONDS)
            else:
                assert said(client, "pid") == server.pid
        assert clients[0].call("token").status == 404
        assert said(clients[1], "token") == "another"
        assert said(Client(bridge, "legacy", user="ann"), "token") == "another"


def test_a_change_ends_a_process_that_reads_nothing(service: CredentialService, tmp_path: Path) -> None:
    service.give("ann")
    with bridge_of(tmp_path, service.url, "--stop-timeout", "600") as bridge:
        client = Client(bridge, "modern", user="ann")
        server = psutil.Process(said(client, "pid"))
        server.suspend()
        tell(bridge, "ann")
        server.wait(WAIT_SECONDS)


def test_a_bridge_is_ready_without_a_user_and_starts_nothing_for_that(
    service: CredentialService, tmp_path: Path
) -> None:
    with bridge_of(tmp_path, service.url) as bridge:
        assert bridge.request("GET", path="/readyz")[0] == 200
        assert metric(bridge, "mcp_bridge_spawns_total") == 0
        assert service.asked.empty()


def test_a_process_that_fails_with_its_user_s_credential_makes_no_bridge_unready(
    service: CredentialService, tmp_path: Path
) -> None:
    service.give("ann")
    with bridge_of(tmp_path, service.url, command=("false",)) as bridge:
        assert begin(bridge, "modern", "ann")[0] == 200
        assert metric(bridge, "mcp_bridge_crashes_total") > 0
        assert bridge.request("GET", path="/readyz")[0] == 200
        status = json.loads(bridge.request("GET", path="/statusz")[2])["mcp-stdio-bridge"]
        assert status == {"answered": None, "needed": None, "failed": None}


@pytest.mark.parametrize(("command", "status"), [(LEGACY_SERVER, 200), (("false",), 502)])
def test_a_survey_asks_a_process_that_has_no_credentials(
    service: CredentialService, tmp_path: Path, command: tuple[str, ...], status: int
) -> None:
    with bridge_of(tmp_path, service.url, command=command) as bridge:
        answered, _, content = bridge.request("POST", signed("survey", {}).encode(), path="/survey")
        assert answered == status, content
        assert service.asked.empty()
        assert (b"(it was started without a user's credentials)" in content) == (status == 502)


@contextlib.contextmanager
def in_background(bridge: Bridge, era: str, user: str) -> Iterator[list[tuple[int, dict[str, str], bytes]]]:
    """Send a first request, whose answer is there once this is over; none if the bridge has ended."""
    answers: list[tuple[int, dict[str, str], bytes]] = []

    def ask() -> None:
        with contextlib.suppress(OSError):
            answers.append(begin(bridge, era, user))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield answers
    finally:
        asking.join(WAIT_SECONDS)
        assert not asking.is_alive()
