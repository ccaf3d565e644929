"""`mcp-gatewayctl` on a running service."""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest
import redis
import requests
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from auth_service import cli
from auth_service.cli import operator
from auth_service.ops import audit
from auth_service.settings import Credentials, Settings
from auth_service.storage.grants import Grant, new_sid
from auth_service.storage.store import Store
from auth_service.storage.user_credentials import Secret, UserCredentials
from tests.auth_service.backends.test_revocation_notices import Server as RevocationListener
from tests.auth_service.test_settings import MINIMAL
from tests.browser import Browser
from tests.e2e.flow import log_in, refresh

from .conftest import Service, eventually, sid_of

DOCUMENT = Path(__file__).parents[2] / "docs/gatewayctl.md"
Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def audit_log() -> Iterator[list[dict[str, str]]]:
    """What the commands write to the audit log."""
    entries: list[dict[str, str]] = []
    handler = logging.Handler()
    handler.emit = lambda record: entries.append(json.loads(str(record.msg)))  # type: ignore[method-assign]
    audit.log.addHandler(handler)
    audit.log.setLevel(logging.INFO)
    yield entries
    audit.log.removeHandler(handler)
    audit.log.setLevel(logging.NOTSET)


@pytest.fixture
def run(service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on the service and return what it printed, as JSON unless told otherwise."""
    folder = service.log.parent
    monkeypatch.setenv("MCP_GATEWAY_SETTINGS", str(folder / "settings.json"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))

    def run(*arguments: str, status: int = 0, plain: bool = False) -> Any:
        capsys.readouterr()
        assert cli.main([*arguments, *([] if plain else ["--json"])]) == status
        printed = capsys.readouterr()
        if status:
            return printed.err
        return printed.out if plain else json.loads(printed.out)

    return run


@pytest.fixture(autouse=True)
def clean(behind_its_back: redis.Redis) -> None:
    for pattern in ("grant:*", "client:*", "grants-of-*", "refresh:*", "user-credentials:*"):
        for key in behind_its_back.scan_iter(match=pattern):
            behind_its_back.delete(key)


def test_clients_are_listed_shown_and_deleted_with_all_that_they_hold(
    service: Service, run: Run, audit_log: list[dict[str, str]]
) -> None:
    tokens = service.log_in()
    (listed,) = run("clients", "list")
    assert (listed["client"], listed["kind"], listed["grants"]) == (tokens.client_id, "registered", 1)
    assert run("clients", "show", tokens.client_id) == listed
    connection = service.connect(service.workers()[-1])
    assert connection.verify(tokens.access_token) == 200
    assert run("clients", "delete", tokens.client_id) == {"client": tokens.client_id, "ended_grants": 1}
    assert connection.verify(tokens.access_token) == 401
    connection.close()
    assert [(entry["event"], entry["by"]) for entry in audit_log] == [
        ("client.deleted", "operator"),
        ("grant.revoked", "operator"),
    ]
    assert refresh(service.issuer, tokens).status_code == 401, "the client is told to register again"
    assert "no such client" in run("clients", "show", tokens.client_id, status=1)
    assert "no such client" in run("clients", "delete", "mcp_nobody", status=1)


def add_grant(connection: redis.Redis, *, sub: str, name: str, client_id: str, client_name: str = "x") -> None:
    path = connection.connection_pool.connection_kwargs["path"]
    store = Store(Settings.model_validate(MINIMAL | {"redis_url": f"unix://{path}"}))
    grant = Grant(
        sid=new_sid(),
        sub=sub,
        name=name,
        client_id=client_id,
        client_name=client_name,
        resource="r",
        scope="mcp",
        redirect="",
        created_at=1,
    )
    store.grants.add(grant, lifetime=100)
    store.close()


@pytest.fixture
def declaring(service: Service, tmp_path: Path) -> str:
    """Settings that declare two clients."""
    document = json.loads((service.log.parent / "settings.json").read_text())
    document["declared_clients"] = {
        "nightly": {"secret": True, "servers": ["time"]},
        "editor": {"redirect_uris": ["http://127.0.0.1/callback"], "title": "House editor"},
    }
    path = tmp_path / "declaring.json"
    path.write_text(json.dumps(document))
    return f"--settings={path}"


def test_declared_clients_are_listed_also_without_grants(
    run: Run, declaring: str, behind_its_back: redis.Redis
) -> None:
    add_grant(behind_its_back, sub="client:nightly", name="nightly", client_id="nightly")
    add_grant(behind_its_back, sub="headless:ci", name="ci", client_id="mcp-gatewayctl")
    add_grant(behind_its_back, sub="workload:ci:repo:a/b", name="workload:ci:repo:a/b", client_id="workload:ci")
    listed = {each["client"]: each for each in run("clients", "list", declaring)}
    members = ("name", "kind", "authentication", "redirect_uris", "grants")
    assert {client: tuple(each[member] for member in members) for client, each in listed.items()} == {
        "nightly": ("nightly", "declared", "client_secret_basic", [], 1),
        "editor": ("House editor", "declared", "none", ["http://127.0.0.1/callback"], 0),
        "mcp-gatewayctl": ("x", "headless", None, [], 1),
        "workload:ci": ("x", "workload", None, [], 1),
    }
    for client, each in listed.items():
        assert run("clients", "show", client, declaring) == each


def test_a_declared_client_is_not_deleted_by_command(run: Run, declaring: str, behind_its_back: redis.Redis) -> None:
    add_grant(behind_its_back, sub="client:nightly", name="nightly", client_id="nightly")
    assert "take it out of declaredClients" in run("clients", "delete", "nightly", declaring, status=1)
    assert len(run("grants", "list", "--client", "nightly")) == 1
    assert run("clients", "delete", "nightly") == {"client": "nightly", "ended_grants": 1}, "no longer declared"


@pytest.fixture
def creating(service: Service, tmp_path: Path) -> Iterator[str]:
    """Settings with a client, and no created ones afterwards."""
    document = json.loads((service.log.parent / "settings.json").read_text())
    document["declared_clients"] = {"portal": {"redirect_uris": ["http://127.0.0.1/callback"]}}
    path = tmp_path / "creating.json"
    path.write_text(json.dumps(document))
    yield f"--settings={path}"
    with redis.Redis.from_url(document["redis_url"]) as store:
        store.delete("created-clients")


def test_a_created_client_gets_a_token_by_the_secret_that_is_shown_once(
    service: Service, run: Run, creating: str
) -> None:
    created = run("clients", "create", "nightly", "--server", "time", "--lifetime", "10m", "--title", "Job", creating)
    assert created.keys() == {"client", "secret"}
    form = {"grant_type": "client_credentials", "client_id": "nightly", "client_secret": created["secret"]}
    answer = service.post("/token", form).json()
    assert answer["expires_in"] == 600
    shown = run("clients", "show", "nightly", creating)
    members = ("client", "name", "kind", "authentication", "grants", "expires_at")
    assert tuple(shown[each] for each in members) == ("nightly", "Job", "created", "client_secret_basic", 1, None)
    assert shown in run("clients", "list", creating)
    assert created["secret"] not in json.dumps(run("clients", "list", creating))
    assert "this client exists already" in run("clients", "create", "nightly", "--server", "time", status=1)
    assert service.post("/token", form).status_code == 200, "its secret is the first one"
    assert run("clients", "delete", "nightly") == {"client": "nightly", "ended_grants": 1}
    assert service.post("/token", form).status_code == 401
    assert "no such client" in run("clients", "delete", "nightly", status=1)


def test_a_created_client_whose_name_is_declared_later_is_listed_and_can_be_deleted(run: Run, creating: str) -> None:
    path = Path(creating.removeprefix("--settings="))
    document = json.loads(path.read_text())
    document["declared_clients"]["nightly"] = {"redirect_uris": ["http://127.0.0.1/callback"]}
    declaring = path.with_name("declaring.json")
    declaring.write_text(json.dumps(document))
    both = f"--settings={declaring}"
    run("clients", "create", "nightly", "--server", "time", creating)

    def kinds(settings: str) -> set[str]:
        return {each["kind"] for each in run("clients", "list", settings) if each["client"] == "nightly"}

    assert (kinds(creating), kinds(both)) == ({"created"}, {"declared", "shadowed"})
    assert run("clients", "delete", "nightly", both) == {"client": "nightly", "ended_grants": 0}
    assert (kinds(creating), kinds(both)) == (set(), {"declared"})
    assert "the settings declare this client" in run("clients", "delete", "nightly", both, status=1)


def test_a_client_is_created_with_a_key_and_then_has_no_secret(run: Run, creating: str, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "key.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    given = ("--server", "time", "--public-key", str(tmp_path / "key.pem"))
    assert run("clients", "create", "nightly", *given, creating) == {"client": "nightly", "secret": None}
    assert run("clients", "show", "nightly", creating)["authentication"] == "private_key_jwt"


@pytest.mark.parametrize(
    ("arguments", "text", "status"),
    [
        (("nightly",), "give either --server, for a client without a user, or --redirect-uri", 2),
        (("nightly", "--server", "other"), "no server has that name", 2),
        (("nightly", "--server", "time", "--scope", "other"), "--scope: none of its servers has the scope other", 2),
        (("nightly", "--redirect-uri", "https://a.example/", "--scope", "mcp"), "--scope goes with --server", 2),
        (("nightly", "--server", "time", "--lifetime", "2d"), "lifetime", 2),
        (("nightly", "--server", "time", "--redirect-uri", "https://a.example/"), "give either --server", 2),
        (("nightly", "--redirect-uri", "http://evil.example/callback"), "--redirect-uri: ", 2),
        (("Nightly", "--server", "time"), "Nightly: is no client id: use lower-case letters, digits", 2),
        (("mcp_x", "--server", "time"), "mcp_x: is no client id", 2),
        (("https://a.example/x", "--server", "time"), "https://a.example/x", 2),
        (("workload:ci", "--server", "time"), "workload:ci", 2),
        (("time", "--server", "time"), "time: has the name of a server", 2),
        (("portal", "--server", "time"), "this client exists already", 1),
        (
            ("nightly", "--server", "time", "--public-key", "/etc/hostname"),
            "--public-key: must be a public key in PEM",
            2,
        ),
    ],
)
def test_a_client_that_could_not_be_declared_is_not_created(
    run: Run, creating: str, arguments: tuple[str, ...], text: str, status: int
) -> None:
    refused = run("clients", "create", *arguments, creating, status=status)
    assert text in refused
    assert "declared_clients" not in refused
    assert "created" not in {each["kind"] for each in run("clients", "list", creating)}


def test_grants_are_listed_filtered_shown_and_revoked(service: Service, run: Run) -> None:
    tokens, others = service.log_in(), service.log_in()
    first, second = run("grants", "list")
    assert {first["grant"], second["grant"]} == {sid_of(tokens.access_token), sid_of(others.access_token)}
    assert (first["user"], first["name"], first["server"]) == ("github:583231", "octocat", "time")
    assert len(run("grants", "list", "--user", "octocat", "--server", "time")) == 2
    assert run("grants", "list", "--user", "hubot") == []
    (own,) = run("grants", "list", "--client", tokens.client_id)
    assert run("grants", "show", own["grant"]) == own
    run("grants", "revoke", own["grant"])
    connection = service.connect(service.workers()[-1])
    assert [connection.verify(each.access_token) for each in (tokens, others)] == [401, 200]
    connection.close()
    assert "no such grant" in run("grants", "revoke", own["grant"], status=1)
    assert "known servers: time" in run("grants", "list", "--server", "nothing", status=2)


def test_a_user_loses_everything_at_once_on_every_worker(service: Service, run: Run) -> None:
    tokens = [service.log_in() for _ in range(2)]
    (user,) = run("users", "list")
    assert (user["user"], user["grants"], user["servers"]) == ("github:583231", 2, ["time"])
    connections = service.connect_to_all()
    assert all(connection.verify(each.access_token) == 200 for connection in connections for each in tokens)
    assert run("users", "revoke", "octocat") == {"user": "github:583231", "ended_grants": 2}
    assert all(connection.verify(each.access_token) == 401 for connection in connections for each in tokens)
    for connection in connections:
        connection.close()
    assert run("users", "list") == []
    assert "name the user by id" in run("users", "revoke", "octocat", status=1)
    assert run("users", "revoke", "github:583231")["ended_grants"] == 0


def test_the_id_of_a_machine_is_no_login_name(run: Run, behind_its_back: redis.Redis) -> None:
    add_grant(behind_its_back, sub="client:nightly", name="nightly", client_id="nightly")
    add_grant(behind_its_back, sub="oidc:1", name="client:nightly", client_id="c")
    assert run("users", "revoke", "client:nightly") == {"user": "client:nightly", "ended_grants": 1}
    assert [each["user"] for each in run("grants", "list")] == ["oidc:1"]


def test_a_name_can_be_given_to_whoever_comes_next(service: Service, run: Run, audit_log: list[dict[str, str]]) -> None:
    service.log_in()
    assert run("users", "pins") == [{"name": "octocat", "user": "github:583231"}]
    assert run("users", "unpin", "OctoCat") == {"name": "octocat", "user": "github:583231"}
    assert [(entry["event"], entry["name"], entry["by"]) for entry in audit_log] == [
        ("name.unpinned", "octocat", "operator")
    ]
    assert run("users", "pins") == []
    assert "no user has logged in" in run("users", "unpin", "octocat", status=1)
    service.log_in()
    assert run("users", "pins") == [{"name": "octocat", "user": "github:583231"}]


def test_a_user_whose_access_is_ended_is_signed_out(service: Service, run: Run) -> None:
    browser = Browser()
    log_in(service.issuer, service.resource, browser=browser)
    account = partial(browser.session.get, f"{service.issuer}/account", timeout=60)
    assert "octocat" in account().text
    run("users", "revoke", "github:583231")
    assert "octocat" not in account().text


def test_bridges_have_been_told_of_a_revocation_when_the_command_returns(
    service: Service, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = RevocationListener()
    settings = json.loads((service.log.parent / "settings.json").read_text())
    settings["resources"]["time"]["backends"] = [f"{bridge.origin}/mcp"]
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    monkeypatch.setenv("MCP_GATEWAY_SETTINGS", str(tmp_path / "settings.json"))
    sid = sid_of(service.log_in().access_token)
    run("grants", "revoke", sid)
    bridge.stop()
    assert bridge.told.qsize() == 1


def test_an_id_may_begin_with_a_hyphen(run: Run, behind_its_back: redis.Redis) -> None:
    sid = "-hMqkhDMYVLnxx5uieA2nPWo"
    grant: dict[str, Any] = {"sid": sid, "sub": "headless:x", "name": "x", "client_id": "c", "client_name": "C"}
    grant |= {"resource": "r", "scope": "mcp", "redirect": "", "created_at": 1}
    behind_its_back.set(f"grant:{sid}", json.dumps(grant), ex=60)
    assert run("grants", "show", sid)["grant"] == sid
    assert run("grants", "revoke", sid)["ended_grants"] == 1
    assert "no such key" in run("keys", "retire", sid, status=1)
    run("grants", "show", "--unknown", status=2)


def test_a_headless_token_passes_is_a_grant_and_can_be_revoked(
    service: Service, run: Run, audit_log: list[dict[str, str]]
) -> None:
    issued = run("token", "issue", "--user", "headless:ci", "--server", "time", "--lifetime", "400d", "--label", "CI")
    claims = jwt.decode(issued["access_token"], options={"verify_signature": False})
    assert (claims["sub"], claims["aud"], claims["exp"] - claims["iat"]) == (
        "headless:ci",
        service.resource,
        400 * 86400,
    )
    connection = service.connect(service.workers()[0])
    assert connection.verify(issued["access_token"]) == 200
    service.log_in()  # which tidies the indices
    assert [(each["client_name"], each["last_used"]) for each in run("grants", "list", "--user", "headless:ci")] == [
        ("CI", None)
    ]
    assert run("keys", "list")[0]["needed_until"] >= issued["expires_at"]
    assert audit_log[-1]["event"] == "token.issued"
    assert "access_token" not in json.dumps(audit_log)
    assert issued["access_token"] not in json.dumps(audit_log)
    run("users", "revoke", "headless:ci")
    assert connection.verify(issued["access_token"]) == 401
    connection.close()


@pytest.fixture
def asking(service: Service, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The commands, with settings in which the server asks its users for a credential."""
    document = json.loads((service.log.parent / "settings.json").read_text())
    document["resources"]["time"]["user_credentials"] = {"TIME_TOKEN": {"label": "Token"}}
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(document))
    monkeypatch.setenv("MCP_GATEWAY_SETTINGS", str(path))
    return run


@pytest.mark.parametrize("user", ["headless:ci", "client:nightly", "workload:ci:repo", "oidc:https://x#7"])
def test_no_token_is_issued_to_a_user_who_cannot_give_what_the_server_asks_for(
    asking: Run, service: Service, user: str
) -> None:
    told = asking("token", "issue", "--user", user, "--server", "time", status=2)
    assert all(text in told for text in (user, "TIME_TOKEN", f"{service.issuer}/account", "userCredentials"))
    assert asking("grants", "list") == []


def test_no_client_without_a_user_is_created_for_a_server_that_asks_users_for_something(asking: Run) -> None:
    told = asking("clients", "create", "nightly", "--server", "time", status=2)
    assert "nightly: cannot use time, which needs TIME_TOKEN of each user" in told
    assert "offer the server once more without userCredentials" in told
    assert "user_credentials" not in told
    assert "declared_clients" not in told
    assert "nightly" not in {each["client"] for each in asking("clients", "list")}


def test_a_client_with_users_is_created_though_a_server_asks_them_for_something(asking: Run) -> None:
    given = ("--redirect-uri", "https://portal.example/callback")
    assert asking("clients", "create", "portal", *given)["secret"]
    assert asking("clients", "delete", "portal") == {"client": "portal", "ended_grants": 0}


def test_a_token_is_issued_to_a_user_who_can_give_the_credential(asking: Run) -> None:
    assert asking("token", "issue", "--user", "github:583231", "--server", "time")["access_token"]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--user", "nobody", "--server", "time"],
        ["--user", "headless:ci", "--server", "nothing"],
        ["--user", "headless:ci", "--server", "time", "--scope", "admin"],
        ["--user", "headless:ci", "--server", "time", "--lifetime", "0"],
        ["--user", "headless:ci", "--server", "time", "--lifetime", "1y"],
    ],
)
def test_a_headless_token_for_nothing_that_there_is_is_refused(run: Run, wrong: list[str]) -> None:
    run("token", "issue", *wrong, status=2)
    assert run("grants", "list") == []


def test_keys_are_listed_rotated_and_retired(service: Service, run: Run) -> None:
    states = [each["state"] for each in run("keys", "list")]
    assert states[0] == "signing"
    added = run("keys", "rotate", "--in", "3000")
    assert added["state"] == "next"
    jwks = f"{service.issuer}/jwks"
    eventually(lambda: added["key"] in requests.get(jwks, timeout=60).text)
    signing = run("keys", "list")[0]["key"]
    assert "--force" in run("keys", "retire", signing, status=1)
    run("keys", "retire", added["key"])
    assert added["key"] not in {each["key"] for each in run("keys", "list")}
    eventually(lambda: added["key"] not in requests.get(jwks, timeout=60).text)
    assert "no such key" in run("keys", "retire", "unknown", status=1)


def test_stats_count_what_there_is(service: Service, run: Run) -> None:
    service.log_in()
    figures = run("stats")
    assert figures["redis_bytes"] > 0
    assert {**figures, "redis_bytes": 0} == {
        "registered_clients": 1,
        "clients_with_grants": 1,
        "users": 1,
        "grants": 1,
        "grants_per_server": {"time": 1},
        "used_today": 1,
        "redis_bytes": 0,
    }


def test_what_a_client_calls_itself_moves_no_terminal(run: Run, behind_its_back: redis.Redis) -> None:
    hostile = "\x1b[2Jx\n\u202e\x9b"
    add_grant(behind_its_back, sub="headless:x", name=hostile, client_id="c", client_name=hostile)
    for table in ("grants", "clients", "users"):
        printed = run(table, "list", plain=True)
        assert "[2Jx" in printed
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", printed)


def test_tables_are_for_people(service: Service, run: Run) -> None:
    service.log_in()
    heading, row = run("grants", "list", plain=True).splitlines()
    assert heading.split()[:3] == ["GRANT", "USER", "CLIENT"]
    assert "octocat" in row
    assert run("grants", "list", "--user", "nobody", plain=True) == "none\n"


def keep_credentials(
    connection: redis.Redis, sub: str, *variables: str, server: str = "time", name: str | None = None
) -> UserCredentials:
    keys = Credentials(client_secret="", master_key=b"m" * 40)
    kept = UserCredentials(connection, derive_key=keys.derive_key, grant_lifetime=100, sources={})
    secrets = {variable: Secret(value="a-value-that-is-never-shown") for variable in variables}
    kept.put(server, sub, secrets, name=name)
    return kept


def test_credentials_are_listed_without_their_values(service: Service, run: Run, behind_its_back: redis.Redis) -> None:
    service.log_in()
    keep_credentials(behind_its_back, "github:583231", "A_TOKEN", "B_TOKEN").note_use(
        "time", "github:583231", ["A_TOKEN"]
    )
    keep_credentials(behind_its_back, "github:7", "A_TOKEN", server="gone")
    listed = run("credentials", "list")
    assert {(each["user"], each["server"], each["credential"]) for each in listed} == {
        ("github:583231", "time", "A_TOKEN"),
        ("github:583231", "time", "B_TOKEN"),
        ("github:7", "gone", "A_TOKEN"),
    }
    assert all(each["set_at"] for each in listed)
    assert [each["credential"] for each in listed if each["last_used"]] == ["A_TOKEN"]
    # What an earlier version has stored has no name, so it is that of the user's grants.
    assert {(each["user"], each["name"]) for each in listed} == {("github:583231", "octocat"), ("github:7", None)}
    for of_octocat in (("--user", "octocat"), ("--user", "github:583231"), ("--server", "time")):
        assert len(run("credentials", "list", *of_octocat)) == 2
    table = run("credentials", "list", plain=True)
    assert "A_TOKEN" in table
    assert "never-shown" not in table + json.dumps(listed)


def test_credentials_are_removed_with_the_grants_that_need_them(
    service: Service, run: Run, behind_its_back: redis.Redis, audit_log: list[dict[str, str]]
) -> None:
    tokens = service.log_in()
    kept = keep_credentials(behind_its_back, "github:583231", "A_TOKEN", "B_TOKEN", "C_TOKEN")
    keep_credentials(behind_its_back, "github:7", "A_TOKEN")
    assert run("credentials", "remove", "octocat", "time", "B_TOKEN") == {
        "user": "github:583231",
        "server": "time",
        "credentials": ["B_TOKEN"],
        "ended_grants": 1,
    }
    assert set(kept.read_all("time", "github:583231")) == {"A_TOKEN", "C_TOKEN"}
    assert refresh(service.issuer, tokens).json()["error"] == "invalid_grant"
    assert [(entry["event"], entry["by"]) for entry in audit_log] == [
        ("credential.removed", "operator"),
        ("grant.revoked", "operator"),
    ]
    removed = run("credentials", "remove", "github:583231", "time")
    assert (removed["credentials"], removed["ended_grants"]) == (["A_TOKEN", "C_TOKEN"], 0)
    assert set(kept.read_all("time", "github:7")) == {"A_TOKEN"}


def test_a_user_whose_access_is_ended_loses_all_credentials(
    service: Service, run: Run, behind_its_back: redis.Redis, audit_log: list[dict[str, str]]
) -> None:
    service.log_in()
    keep_credentials(behind_its_back, "github:583231", "A_TOKEN", "B_TOKEN")
    keep_credentials(behind_its_back, "github:583231", "A_TOKEN", server="gone")
    keep_credentials(behind_its_back, "github:7", "A_TOKEN")
    assert run("users", "revoke", "octocat") == {"user": "github:583231", "ended_grants": 1}
    assert [each["user"] for each in run("credentials", "list")] == ["github:7"]
    assert [entry["event"] for entry in audit_log].count("credential.removed") == 3


def test_a_user_who_has_credentials_and_no_grant_is_found_by_name(run: Run, behind_its_back: redis.Redis) -> None:
    keep_credentials(behind_its_back, "github:480938", "A_TOKEN", "B_TOKEN", name="hubot")
    keep_credentials(behind_its_back, "github:7", "A_TOKEN", name="seven")
    assert [each["name"] for each in run("credentials", "list", "--user", "hubot")] == ["hubot", "hubot"]
    assert "hubot" in run("credentials", "list", plain=True)
    assert run("credentials", "remove", "hubot", "time", "A_TOKEN")["user"] == "github:480938"
    assert run("users", "revoke", "hubot") == {"user": "github:480938", "ended_grants": 0}
    told = run("credentials", "remove", "hubot", "time", status=1)
    assert "hubot: no user with that login name has a grant or a credential: name the user by id, such as " in told
    assert "github:583231" in told
    assert [each["user"] for each in run("credentials", "list")] == ["github:7"]
    keep_credentials(behind_its_back, "github:8", "A_TOKEN", name="seven")
    told = run("credentials", "remove", "seven", "time", status=2)
    assert "several users have that login name: github:7, github:8" in told
    assert len(run("credentials", "list")) == 2


def test_credentials_of_a_server_that_is_gone_can_be_removed(run: Run, behind_its_back: redis.Redis) -> None:
    keep_credentials(behind_its_back, "github:7", "A_TOKEN", server="gone")
    assert run("credentials", "remove", "github:7", "gone")["credentials"] == ["A_TOKEN"]
    assert run("credentials", "list") == []


@pytest.mark.parametrize(
    "wrong", [["github:7", "time", "B_TOKEN"], ["github:7", "wiki"], ["github:8", "time"], ["nobody", "time"]]
)
def test_credentials_that_are_not_there_are_not_removed(
    run: Run, behind_its_back: redis.Redis, audit_log: list[dict[str, str]], wrong: list[str]
) -> None:
    keep_credentials(behind_its_back, "github:7", "A_TOKEN")
    assert wrong[0] in run("credentials", "remove", *wrong, status=1)
    assert len(run("credentials", "list")) == 1
    assert audit_log == []


def test_every_member_of_the_output_for_programs_is_documented(
    service: Service, run: Run, behind_its_back: redis.Redis
) -> None:
    service.log_in()
    keep_credentials(behind_its_back, "github:583231", "A_TOKEN")
    documented = set(re.findall(r"`([a-z_]+)`", DOCUMENT.read_text()))
    commands = [["clients", "list"], ["grants", "list"], ["users", "list"], ["keys", "list"]]
    printed = [run(*command)[0] for command in commands]
    printed.append(run("credentials", "list")[0])
    printed.append(run("credentials", "remove", "octocat", "time"))
    printed.append(run("stats"))
    printed.append(run("token", "issue", "--user", "headless:ci", "--server", "time"))
    for record in printed:
        assert record.keys() <= documented


def test_help_says_what_there_is(run: Run) -> None:
    text = run("--help", plain=True)
    for command in (
        "clients",
        "grants",
        "users",
        "credentials",
        "keys",
        "token",
        "doctor",
        "stats",
        "health",
        "check-settings",
    ):
        assert f"  {command} " in text


def test_what_cannot_be_read_is_one_clear_line(
    service: Service, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = run("grants", "list", "--settings", str(tmp_path / "none.json"), status=2)
    assert missing == (
        f"mcp-gatewayctl: {tmp_path / 'none.json'}: cannot be read: No such file or directory: name the gateway's "
        "settings.json with --settings FILE, and the directory of its credentials with --credentials DIR\n"
    )
    unreadable = run("keys", "list", "--settings", str(tmp_path), status=2)
    assert "cannot be read: Is a directory\n" in unreadable
    missing = run("keys", "list", "--credentials", str(tmp_path), status=2)
    assert "the credential cannot be read" in missing
    assert missing.endswith("name the directory of the credentials with --credentials DIR\n")
    assert missing.count("\n") == 1
    document = json.loads((service.log.parent / "settings.json").read_text())
    elsewhere = tmp_path / "settings.json"
    elsewhere.write_text(json.dumps({**document, "redis_url": f"unix://{tmp_path}/none.sock"}))
    assert "Redis is unavailable: see that it runs" in run("grants", "list", "--settings", str(elsewhere), status=1)


def test_the_doctor_says_what_to_do_where_no_router_leads_to_the_servers(
    service: Service, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", "--json"]) == 1
    found = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert found["redis"]["status"] == "warning", "it keeps nothing on disk"
    assert [found[check]["status"] for check in ("service", "router", "signing keys")] == ["ok"] * 3
    for check in ("challenge time", "bridge time", "request time", "internal endpoints"):
        assert found[check]["status"] == "problem"
        assert found[check]["advice"]
    assert run("grants", "list") == [], "the grant that it tried with is gone"
    assert "→" in capsys_plain(capsys)


def capsys_plain(capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["doctor"]) == 1
    return capsys.readouterr().out


def test_what_is_changed_is_told_to_the_journal(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audit_log: list[dict[str, str]]
) -> None:
    own = audit.log.handlers[:]
    monkeypatch.setattr(audit.log, "handlers", [])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "log"))
        monkeypatch.setattr(operator, "SYSLOG", tmp_path / "log")
        run("users", "revoke", "headless:nobody")
        message = journal.recv(10_000).decode()
    for handler in audit.log.handlers:
        handler.close()
    monkeypatch.setattr(audit.log, "handlers", own)
    ident, _, entry = message.partition(": ")
    assert ident.endswith("mcp-gatewayctl")
    assert json.loads(entry.rstrip("\0"))["event"] == "session.ended"
