"""`mcp-gatewayctl` on many grants: commands ask Redis in batches, and by id where they are given one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.connection import AbstractConnection

from auth_service import cli
from auth_service.cli import output
from auth_service.settings import Lifetimes
from auth_service.storage.grants import Grant

USERS = 700
GRANTS = 4 * USERS
DOCUMENT_CLIENT = "https://client.example.com/metadata"
Run = Callable[..., Any]


def registered(user: int) -> str:
    return f"mcp_{user}"


def fill(client: redis.Redis) -> None:
    """Write what a long-lived gateway holds: of each user's grants one is of a client that all have."""
    now = int(time.time())
    pipeline = client.pipeline(transaction=False)
    for user in range(USERS):
        metadata = {"redirect_uris": ["http://127.0.0.1/callback"], "token_endpoint_auth_method": "none"}
        document = {
            "client_id": registered(user),
            "metadata": metadata,
            "secret_hash": None,
            "registration_token_hash": "x" * 64,
            "issued_at": now - user,
        }
        pipeline.set(f"client:{registered(user)}", json.dumps(document), ex=1000)
    for number in range(GRANTS):
        user = number % USERS
        grant = Grant(
            sid=f"grant-{number}",
            sub=f"github:{user}",
            name=f"user{user}",
            client_id=DOCUMENT_CLIENT if number < USERS else registered(user),
            client_name="Client",
            resource="https://time.example.com/mcp",
            scope="mcp",
            redirect="",
            created_at=now - number,
        )
        pipeline.set(f"grant:{grant.sid}", json.dumps(asdict(grant)), ex=1000)
        pipeline.hset(f"refresh:{grant.sid}", mapping={"current": 0})
        pipeline.expire(f"refresh:{grant.sid}", Lifetimes().refresh_token)
        for index in (f"grants-of-user:{grant.sub}", f"grants-of-client:{grant.client_id}"):
            pipeline.zadd(index, {grant.sid: now, f"ended-{number}": now})
    pipeline.execute()


@pytest.fixture
def behind_its_back(redis_url: str) -> redis.Redis:
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    fill(client)
    client.config_resetstat()
    return client


@pytest.fixture
def run(
    redis_url: str,
    behind_its_back: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a command and return what it printed, as JSON unless told otherwise."""
    settings = {
        "issuer": "https://auth.example.com",
        "identity_provider": {"type": "github", "client_id": "app"},
        "redis_url": redis_url,
        "state_directory": str(tmp_path),
        "router": {"entry_points": ["web"]},
        # No backend of the grants' resource: nothing is told to anyone.
        "resources": {"wiki": {"url": "https://wiki.example.com/mcp", "backends": ["http://127.0.0.1:1/mcp"]}},
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    (tmp_path / "client-secret").write_text("secret")
    (tmp_path / "master-key").write_text("m" * 40)
    monkeypatch.setenv("MCP_GATEWAY_SETTINGS", str(tmp_path / "settings.json"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    def run(*arguments: str, plain: bool = False) -> Any:
        capsys.readouterr()
        assert cli.main([*arguments, *([] if plain else ["--json"])]) == 0
        printed = capsys.readouterr().out
        return printed if plain else json.loads(printed)

    return run


@pytest.fixture
def round_trips(monkeypatch: pytest.MonkeyPatch, run: Run) -> list[None]:
    """One entry for each time that something was sent to Redis."""
    sent: list[None] = []
    send: Callable[..., None] = AbstractConnection.send_packed_command

    def count(*arguments: Any, **options: Any) -> None:
        sent.append(None)
        send(*arguments, **options)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", count)
    return sent


def commands(client: redis.Redis) -> set[str]:
    return {name.removeprefix("cmdstat_") for name in client.info("commandstats")}


@pytest.mark.parametrize("table", ["grants", "users", "clients"])
def test_everything_is_listed_in_batches(run: Run, round_trips: list[None], table: str) -> None:
    listed = run(table, "list")
    assert len(listed) == {"grants": GRANTS, "users": USERS, "clients": USERS + 1}[table]
    # A look at every thousandth key, and one question for each thousand of what was found.
    assert len(round_trips) < 40
    if table == "clients":
        assert {each["grants"] for each in listed[:-1]} == {3}
        assert (listed[-1]["client"], listed[-1]["kind"], listed[-1]["grants"]) == (DOCUMENT_CLIENT, "document", USERS)
    if table == "users":
        assert {(each["grants"], each["clients"]) for each in listed} == {(4, 2)}


def test_stats_are_counted_in_batches(run: Run, round_trips: list[None]) -> None:
    figures = run("stats")
    assert len(round_trips) < 40
    expected = {"registered_clients": USERS, "clients_with_grants": USERS + 1, "users": USERS, "grants": GRANTS}
    assert expected.items() <= figures.items()
    assert figures["used_today"] == GRANTS


def test_a_table_of_several_pages_has_one_heading(run: Run) -> None:
    lines = run("grants", "list", plain=True).splitlines()
    assert len(lines) == GRANTS + 1
    assert [line for line in lines if line.startswith("GRANT ")] == lines[:1]


def test_what_is_listed_is_sorted_unless_it_is_too_much(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    created = [each["created_at"] for each in run("grants", "list")]
    assert created == sorted(created)
    monkeypatch.setattr(output, "MAX_SORTED", 10)
    assert sorted(each["created_at"] for each in run("grants", "list")) == created


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (["grants", "list", "--user", "github:5"], 4),
        (["grants", "list", "--client", registered(5)], 3),
        (["grants", "list", "--user", "github:5", "--client", registered(5)], 3),
        (["grants", "list", "--user", "github:5", "--client", registered(6)], 0),
    ],
)
def test_grants_of_one_user_or_client_are_found_without_looking_at_others(
    run: Run, behind_its_back: redis.Redis, command: list[str], found: int
) -> None:
    assert len(run(*command)) == found
    assert "scan" not in commands(behind_its_back)


@pytest.mark.parametrize(
    ("command", "ended"),
    [
        (["users", "revoke", "github:5"], 4),
        (["users", "revoke", "github:123456"], 0),
        (["grants", "revoke", "grant-9"], 1),
        (["clients", "delete", registered(5)], 3),
        (["clients", "delete", DOCUMENT_CLIENT], USERS),
    ],
)
def test_what_is_named_by_its_id_is_ended_without_listing_anything(
    run: Run, behind_its_back: redis.Redis, round_trips: list[None], command: list[str], ended: int
) -> None:
    assert run(*command)["ended_grants"] == ended
    assert "scan" not in commands(behind_its_back)
    assert len(round_trips) < 30
    assert len(behind_its_back.keys("grant:*")) == len(behind_its_back.keys("refresh:*")) == GRANTS - ended


def test_a_user_is_found_by_name(run: Run, round_trips: list[None]) -> None:
    assert run("users", "revoke", "user5") == {"user": "github:5", "ended_grants": 4}
    assert len(round_trips) < 60
    assert len(run("grants", "list", "--user", "user6")) == 4
