"""Redis without room on its disk, or with less on it than it has acknowledged: a grant that has ended stays ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from auth_service import cli
from auth_service.storage.denials import Denials
from tests.disk import Disk, small_disk
from tests.e2e.flow import Tokens, refresh

from .conftest import WAIT_SECONDS, Connection, Place, Service, eventually, sid_of

Run = Callable[..., tuple[Any, str]]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def place(tmp_path: Path, disk: Disk) -> Iterator[Place]:
    """A place whose Redis keeps its data on the small disk."""
    with Place(tmp_path, data=disk.path) as place:
        yield place


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on the first host; return what it printed for programs, and for people."""
    monkeypatch.setenv("MCP_GATEWAY_SETTINGS", str(tmp_path / "settings.json"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    def run(*arguments: str, status: int = 0) -> tuple[Any, str]:
        capsys.readouterr()
        assert cli.main([*arguments, "--json"]) == status
        printed = capsys.readouterr()
        return json.loads(printed.out), printed.err

    return run


def fill(place: Place, disk: Disk) -> None:
    """Fill Redis' disk, and wait until Redis has noticed."""
    disk.fill()

    def is_refused() -> bool:
        with place.redis.client() as client:
            try:
                client.set("ballast", "x" * 10_000)
            except redis.ResponseError as error:
                return "MISCONF" in str(error)
        return False

    eventually(is_refused)


def start_other_host(place: Place, first: Service) -> Service:
    """Start another host of the same gateway."""
    resources = {"time": {"url": first.resource, "backends": ["http://127.0.0.1:1/mcp"]}}
    return place.start(host="other", workers=2, issuer=first.issuer, resources=resources)


def statuses(connections: list[Connection], token: str) -> list[int]:
    return [connection.verify(token) for connection in connections]


def test_someone_can_be_put_out_while_redis_takes_no_writes(place: Place, disk: Disk, run: Run, tmp_path: Path) -> None:
    first = place.start(workers=2)
    lost, stolen, good = first.log_in(), first.log_in(), first.log_in()
    other = start_other_host(place, first)
    connections = [*first.connect_to_all(), *other.connect_to_all()]
    passed, refused = [200] * len(connections), [401] * len(connections)
    fill(place, disk)
    for tokens in (lost, stolen, good):
        assert statuses(connections, tokens.access_token) == passed
    assert [connection.get("/readyz") for connection in connections] == passed, "requests need no writes"
    assert refresh(first.issuer, good).status_code == 503

    ended, told = run("grants", "revoke", sid_of(lost.access_token))
    assert ended["ended_grants"] == 1
    assert "takes no writes" in told
    assert statuses(connections, lost.access_token) == refused
    form = {"token": stolen.refresh_token, "client_id": stolen.client_id}
    assert first.post("/revoke", form).status_code == 200
    assert statuses(connections, stolen.access_token) == refused
    assert statuses(connections, good.access_token) == passed
    found, _ = run("doctor", status=1)
    assert (found[0]["check"], found[0]["status"]) == ("redis", "problem")
    assert "MISCONF" in found[0]["text"]
    for connection in connections:
        connection.close()

    settings = settings_of(first)
    for service in (first, other):
        service.stop()
    restarted = [place.start(host=host, workers=2, **settings) for host in (".", "other")]
    connections = [connection for service in restarted for connection in service.connect_to_all()]
    for tokens in (lost, stolen):
        assert statuses(connections, tokens.access_token) == refused, "restarts change nothing"
    assert statuses(connections, good.access_token) == passed
    for connection in connections:
        connection.close()

    disk.free()
    service = restarted[0]
    with place.redis.client() as client:
        for tokens in (lost, stolen):
            sid = sid_of(tokens.access_token)
            eventually(lambda sid=sid: not client.exists(f"grant:{sid}", f"refresh:{sid}"))  # type: ignore[misc]
    eventually(lambda: service.post("/token", refresh_form(good)).status_code == 200)
    assert service.post("/token", refresh_form(lost)).json()["error"] == "invalid_grant"
    for host in (".", "other"):
        eventually(lambda host=host: list(denied(tmp_path / host)) == [])  # type: ignore[misc]


def test_ending_a_user_says_what_redis_could_not_forget(place: Place, disk: Disk, run: Run) -> None:
    service = place.start(workers=2)
    tokens = service.log_in()
    connections = service.connect_to_all()
    assert statuses(connections, tokens.access_token) == [200, 200]
    fill(place, disk)
    ended, told = run("users", "revoke", "octocat", status=1)
    assert ended == {"user": "github:583231", "ended_grants": 1}
    assert statuses(connections, tokens.access_token) == [401, 401]
    assert "Run this again" in told
    ended, told = run("clients", "delete", tokens.client_id, status=1)
    assert "Run this again" in told
    disk.free()
    eventually(lambda: cli.main(["users", "revoke", "github:583231"]) == 0)
    for connection in connections:
        connection.close()


def test_what_a_power_cut_takes_from_redis_stays_ended(place: Place, disk: Disk, run: Run, tmp_path: Path) -> None:
    first = place.start(workers=2)
    ended, good = first.log_in(), first.log_in()
    other = start_other_host(place, first)
    connections = [*first.connect_to_all(), *other.connect_to_all()]
    assert statuses(connections, ended.access_token) == [200] * len(connections)
    with place.redis.client() as client:
        eventually(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0)
    kept = {path: path.read_bytes() for path in disk.path.rglob("*") if path.is_file()}
    run("grants", "revoke", sid_of(ended.access_token))
    # The disk as it was before: what Redis had not synchronized is gone.
    place.redis.kill()
    for path, content in kept.items():
        path.write_bytes(content)
    place.redis.start()
    with place.redis.client() as client:
        statuses_seen: set[int] = set()

        def has_ended() -> bool:
            statuses_seen.update(statuses(connections, ended.access_token))
            return not client.exists(f"grant:{sid_of(ended.access_token)}")

        assert client.exists(f"grant:{sid_of(good.access_token)}")
        eventually(has_ended)
    assert 200 not in statuses_seen
    eventually(lambda: statuses(connections, good.access_token) == [200] * len(connections))
    assert statuses(connections, ended.access_token) == [401] * len(connections)
    for connection in connections:
        connection.close()


def refresh_form(tokens: Tokens) -> dict[str, str]:
    return {"grant_type": "refresh_token", "refresh_token": tokens.refresh_token, "client_id": tokens.client_id}


def denied(host: Path) -> Denials:
    denials = Denials(host / "state")
    denials.refresh()
    return denials


def settings_of(service: Service) -> dict[str, Any]:
    document = json.loads((service.log.parent / "settings.json").read_text())
    return {name: document[name] for name in ("issuer", "resources")}


def test_metrics_say_whether_redis_takes_writes(place: Place, disk: Disk) -> None:
    def metric(name: str) -> str:
        page = requests.get(f"http://127.0.0.1:{service.port}/metrics", timeout=WAIT_SECONDS).text
        return next(line.split()[1] for line in page.splitlines() if line.startswith(f"mcp_gateway_{name}{{"))

    service = place.start(workers=1)
    eventually(lambda: metric("redis_writable") == "1.0")
    fill(place, disk)
    eventually(lambda: metric("redis_writable") == "0.0")
    assert metric("redis_up") == "1.0"
    disk.free()
    eventually(lambda: metric("redis_writable") == "1.0")
