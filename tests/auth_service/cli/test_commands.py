"""`mcp-auth-service` and `mcp-gatewayctl` as an operator starts them."""

from __future__ import annotations

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from auth_service import cli
from auth_service.__main__ import main
from auth_service.backends.assertions import derive_identity_key
from auth_service.settings import Credentials
from local.ports import free_port
from tests.auth_service.test_settings import MINIMAL, write_credentials
from tests.conftest import RedisServer

START_SECONDS = 60


def settings_file(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({**copy.deepcopy(MINIMAL), "state_directory": str(tmp_path / "state"), **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"isuer": "x"}, "isuer: Extra inputs are not permitted"),
        ({"issuer": "http://mcp.example.com"}, "issuer: must be https"),
        ({"workers": "many"}, "workers: "),
    ],
)
def test_unusable_settings_are_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    path = settings_file(tmp_path, **changes)
    assert main(["--settings", str(path), "--credentials", str(write_credentials(tmp_path))]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_settings_are_checked_without_secrets_or_a_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "--settings", str(settings_file(tmp_path))]) == 0
    assert main(["--check", "--settings", str(settings_file(tmp_path, isuer="x"))]) == 2
    assert "isuer: Extra inputs are not permitted" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_a_missing_secret_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = settings_file(tmp_path)
    (write_credentials(tmp_path) / "client-secret").unlink()
    assert main(["--settings", str(path), "--credentials", str(tmp_path)]) == 2
    assert "client-secret: the credential cannot be read: No such file" in capsys.readouterr().err


def test_missing_credentials_say_where_they_belong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert main(["--settings", str(settings_file(tmp_path))]) == 2
    assert "--credentials DIRECTORY" in capsys.readouterr().err


def test_a_taken_port_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        path = settings_file(tmp_path, listen=listen)
        assert main(["--settings", str(path), "--credentials", str(write_credentials(tmp_path))]) == 2
    assert f"listen: {listen}: Address already in use" in capsys.readouterr().err


def test_a_bridges_key_is_the_one_that_the_service_signs_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "master-key"
    key.write_text("k" * 32)
    assert cli.main(["keys", "identity", "time", "--master-key", str(key)]) == 0
    credentials = Credentials(client_secret="", master_key=b"k" * 32)
    assert capsys.readouterr().out.encode() == derive_identity_key(credentials, "time") + b"\n"


@pytest.mark.parametrize("name", ["Time", "a/b", "", "-a"])
def test_a_name_that_is_none_gets_no_key(tmp_path: Path, name: str) -> None:
    key = tmp_path / "master-key"
    key.write_text("k" * 32)
    assert cli.main(["keys", "identity", "--master-key", str(key), "--", name]) == 2


def test_settings_can_be_checked_before_they_are_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check-settings", str(settings_file(tmp_path))]) == 0
    assert "1 servers behind https://mcp.example.com" in capsys.readouterr().out
    assert cli.main(["check-settings", str(settings_file(tmp_path, isuer=1))]) == 2


class Service:
    """The service as its own process, reporting readiness to a socket of ours."""

    def __init__(self, tmp_path: Path, redis_url: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"
        self.notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notifications.bind(str(tmp_path / "notify.sock"))
        self.notifications.settimeout(START_SECONDS)
        path = settings_file(tmp_path, listen=self.address, internal_url=self.url, redis_url=redis_url)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "auth_service", "--settings", str(path)),
                *("--credentials", str(write_credentials(tmp_path))),
            ],
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify.sock")},
        )

    def wait_until_ready(self) -> None:
        assert self.notifications.recv(100) == b"READY=1"

    def get(self, path: str, **headers: str) -> requests.Response:
        return requests.get(self.url + path, headers=headers, timeout=60)

    def wait_for(self, path: str, status: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.get(path).status_code != status:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(START_SECONDS) == 0
        self.notifications.close()


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def service(tmp_path: Path, own_redis: RedisServer) -> Iterator[Service]:
    running = Service(tmp_path, own_redis.url)
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


def test_readiness_is_true_and_returns_after_redis_does(service: Service, own_redis: RedisServer) -> None:
    assert service.get("/readyz").status_code == 200
    own_redis.stop()
    service.wait_for("/readyz", 503)
    assert service.get("/healthz").status_code == 200
    assert service.get("/verify/time").status_code == 401, "without a token nothing depends on Redis"
    own_redis.start()
    service.wait_for("/readyz", 200)


def test_the_routes_and_the_documents_are_served(service: Service) -> None:
    assert service.get("/routes").json()["http"]["routers"]
    assert service.get("/.well-known/oauth-authorization-server").json()["issuer"] == "https://mcp.example.com"
    assert service.get("/verify/unknown").status_code == 404


def test_a_header_cannot_shift_the_path(service: Service) -> None:
    shifted = service.get("/.well-known/oauth-authorization-server", SCRIPT_NAME="/.well-known")
    assert shifted.status_code == 200


def test_a_reload_reads_the_settings_again_and_keeps_serving(service: Service, tmp_path: Path) -> None:
    resources = {
        **MINIMAL["resources"],
        "wiki": {"url": "https://wiki.example.com/mcp", "backends": ["http://127.0.0.1:1/mcp"]},
    }
    document = json.loads((tmp_path / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps({**document, "resources": resources}))
    service.process.send_signal(signal.SIGHUP)
    service.wait_for("/verify/wiki", 401)
    assert service.get("/verify/time").status_code == 401


def test_a_reload_of_a_broken_file_keeps_the_last_good_settings(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    good = path.read_text()
    path.write_text("{")
    service.process.send_signal(signal.SIGHUP)
    # Gunicorn handles signals in order: once a later reload shows, the broken one is over.
    resource = {"url": "https://wiki.example.com/mcp", "backends": ["http://127.0.0.1:1/mcp"]}
    time.sleep(1)
    assert service.process.poll() is None
    assert service.get("/verify/time").status_code == 401
    document = json.loads(good)
    path.write_text(json.dumps({**document, "resources": {**document["resources"], "wiki": resource}}))
    service.process.send_signal(signal.SIGHUP)
    service.wait_for("/verify/wiki", 401)


def test_a_query_that_is_not_ascii_is_malformed(service: Service) -> None:
    host, _, port = service.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"GET /authorize?client_id=\xff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert connection.makefile("rb").readline().split()[1] == b"400"


def test_the_committed_schema_is_that_of_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["settings-schema"]) == 0
    committed = Path(__file__).parents[3] / "docs/settings.schema.json"
    assert committed.read_text() == capsys.readouterr().out, (
        "mend it with: python -m auth_service.cli settings-schema > docs/settings.schema.json"
    )
