"""Accounts that users have connected: tokens are renewed once, by whichever worker is first, and end as they must."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import redis
import requests
import time_machine
from flask import make_response
from flask.typing import ResponseReturnValue

from auth_service.idp.connected_service import AccountRefusedError, ConnectedService
from auth_service.oauth import connections
from auth_service.oauth.connections import Connections, make_services
from auth_service.protocol.errors import ServiceUnavailable
from auth_service.settings import Credentials, Settings, SettingsError
from auth_service.storage.key_names import user_credentials_key
from auth_service.storage.locks import Locks
from auth_service.storage.user_credentials import RENEW_AHEAD_SECONDS, Secret, StoredSecret, UserCredentials
from tests.connected_service import CLIENT_ID, CLIENT_SECRET, ORIGIN, StandIn, create_app, query_of
from tests.in_process import InProcess

ALICE, BOB = "github:1", "github:2"
CALLBACK = "https://auth.example.com/connections/callback/time/DRIVE_TOKEN"


def make_settings(**changes: Any) -> Settings:
    oauth: dict[str, Any] = {
        "authorization_endpoint": f"{ORIGIN}/authorize",
        "token_endpoint": f"{ORIGIN}/token",
        "revocation_endpoint": f"{ORIGIN}/revoke",
        "client_id": CLIENT_ID,
        "scopes": ["files.read"],
    } | changes
    return Settings.model_validate(
        {
            "issuer": "https://auth.example.com",
            "identity_provider": {"type": "github", "client_id": "app"},
            "redis_url": "redis://127.0.0.1:1",
            "state_directory": "/nowhere",
            "router": {"entry_points": ["web"]},
            "resources": {
                "time": {
                    "url": "https://time.example.com/mcp",
                    "backends": ["http://127.0.0.1:9001/mcp"],
                    "user_credentials": {
                        "DRIVE_TOKEN": {"label": "Drive", "oauth": oauth},
                        "API_TOKEN": {"label": "Token"},
                    },
                }
            },
        }
    )


def make_credentials(*, secret: str | None = CLIENT_SECRET) -> Credentials:
    held = {} if secret is None else {"time.DRIVE_TOKEN": secret}
    return Credentials(client_secret="x", master_key=b"m" * 32, connections=held)


@dataclass
class World:
    """The other service, what is kept, and workers on several hosts."""

    stand_in: StandIn
    kept: UserCredentials
    make_worker: Callable[..., Connections]
    worker: Connections

    def connect(self, sub: str = ALICE, *, left: int | None = None) -> Secret:
        """Let a user connect an account, some time ago if only `left` seconds are left; return what is kept."""
        self.stand_in.account = sub
        url = self.worker.authorization_url("time", "DRIVE_TOKEN", state="state")
        code = query_of(self.stand_in.approve(url))["code"]
        secret = self.worker.redeem("time", "DRIVE_TOKEN", code=code, state="state")
        if left is not None:
            secret = dataclasses.replace(secret, expires_at=int(time.time()) + left)
        self.kept.put("time", sub, {"DRIVE_TOKEN": secret})
        return self.kept.read_all("time", sub)["DRIVE_TOKEN"].secret

    def refreshes(self) -> int:
        """Return how often a token was refreshed."""
        return sum(form.get("grant_type") == "refresh_token" for _, form in self.stand_in.requests)

    def revoked(self) -> list[str]:
        """Return the tokens that were revoked, in order."""
        self.worker.close()
        return [form["token"] for path, form in self.stand_in.requests if path == "/revoke"]


@pytest.fixture
def world(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    stand_in = StandIn(redirect_uris=[CALLBACK])
    adapter = InProcess(create_app(stand_in))
    monkeypatch.setattr(requests.Session, "get_adapter", lambda _session, url: adapter)
    credentials = make_credentials()
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:

        def keep(settings: Settings) -> UserCredentials:
            sources = {("time", "DRIVE_TOKEN"): settings.resources["time"].connections["DRIVE_TOKEN"].source}
            return UserCredentials(client, derive_key=credentials.derive_key, grant_lifetime=3600, sources=sources)

        kept = keep(make_settings())
        made: list[Connections] = []

        def make_worker(**changes: Any) -> Connections:
            settings = make_settings(**changes)
            made.append(Connections(settings, credentials, keep(settings) if changes else kept, Locks(client)))
            return made[-1]

        yield World(stand_in, kept, make_worker, make_worker())
        for worker in made:
            worker.close()


def test_a_connected_account_is_kept_for_its_user_and_server(world: World) -> None:
    secret = world.connect()
    assert world.stand_in.access_tokens[secret.value] == ALICE
    assert world.worker.read_fresh("time", ALICE) == {"DRIVE_TOKEN": secret}
    assert world.worker.read_fresh("time", BOB) == {}
    assert world.refreshes() == 0
    assert world.worker.is_connection("time", "DRIVE_TOKEN")
    assert not world.worker.is_connection("time", "API_TOKEN")


def test_a_code_is_of_no_use_with_the_state_of_another_attempt(world: World) -> None:
    url = world.worker.authorization_url("time", "DRIVE_TOKEN", state="state of the attacker")
    code = query_of(world.stand_in.approve(url))["code"]
    with pytest.raises(AccountRefusedError):
        world.worker.redeem("time", "DRIVE_TOKEN", code=code, state="state of the victim")


def test_a_token_is_renewed_before_it_ends(world: World) -> None:
    first = world.connect(left=RENEW_AHEAD_SECONDS - 1)
    found = world.worker.read_fresh("time", ALICE)["DRIVE_TOKEN"]
    assert found.value != first.value
    assert world.kept.read_all("time", ALICE)["DRIVE_TOKEN"].secret == found
    assert world.worker.read_fresh("time", ALICE)["DRIVE_TOKEN"] == found
    assert world.refreshes() == 1


def test_a_pasted_value_is_never_renewed(world: World) -> None:
    world.kept.put("time", ALICE, {"API_TOKEN": Secret(value="pasted")})
    assert world.worker.read_fresh("time", ALICE) == {"API_TOKEN": Secret(value="pasted")}


def test_workers_that_need_a_new_token_at_the_same_time_get_the_same_one(world: World) -> None:
    """A second use of the refresh token would end all tokens of the account at the other service."""
    world.connect(left=1)
    workers = [world.make_worker() for _ in range(4)]
    together = threading.Barrier(8)

    def read(number: int) -> str:
        together.wait(60)
        return workers[number % 4].read_fresh("time", ALICE)["DRIVE_TOKEN"].value

    with ThreadPoolExecutor(8) as pool:
        values = set(pool.map(read, range(8)))
    assert len(values) == 1
    assert values <= world.stand_in.access_tokens.keys(), "it is good at the other service"
    assert world.refreshes() == 1


@pytest.mark.parametrize(
    ("lifetime", "left", "is_renewed"),
    [(3600, 301, False), (3600, 300, True), (400, 101, False), (400, 100, True), (20, 6, False), (20, 5, True)],
)
def test_a_token_is_not_renewed_while_a_bridge_gives_it_to_processes(
    world: World, lifetime: int, left: int, is_renewed: bool
) -> None:
    """Some services end the former access token at once, which a running process has."""
    world.stand_in.expires_in = lifetime
    with time_machine.travel(int(time.time()), tick=False):
        first = world.connect(left=left)
        found = world.worker.read_fresh("time", ALICE)["DRIVE_TOKEN"]
    assert (found != first, world.refreshes()) == (is_renewed, int(is_renewed))


def test_starts_with_a_token_of_a_short_life_renew_it_once(world: World) -> None:
    world.stand_in.expires_in = 60
    world.connect(left=1)
    together = threading.Barrier(4)

    def read(_: int) -> str:
        together.wait(60)
        return world.worker.read_fresh("time", ALICE)["DRIVE_TOKEN"].value

    with ThreadPoolExecutor(4) as pool:
        values = set(pool.map(read, range(4)))
    assert (len(values), world.refreshes()) == (1, 1)
    assert values <= world.stand_in.access_tokens.keys()


def test_users_do_not_wait_for_each_other(world: World) -> None:
    world.connect(ALICE, left=1)
    world.connect(BOB, left=1)
    both = threading.Barrier(2)

    def answer() -> None:
        both.wait(60)

    world.stand_in.on_token = answer
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda sub: world.worker.read_fresh("time", sub), (ALICE, BOB)))
    owners = [world.stand_in.access_tokens[each["DRIVE_TOKEN"].value] for each in found]
    assert len(owners) == 2


def test_a_refresh_that_is_refused_removes_the_account(world: World) -> None:
    world.connect(left=1)
    world.stand_in.refresh_tokens.clear()
    assert world.worker.read_fresh("time", ALICE) == {}
    assert world.kept.find_missing("time", ALICE, ["DRIVE_TOKEN"]) == ["DRIVE_TOKEN"]


def test_a_token_that_nothing_renews_is_used_to_its_end_and_then_removed(world: World) -> None:
    world.stand_in.dialect = "google"
    world.stand_in.expires_in = 60
    secret = world.connect()
    assert secret.refresh_token is None
    assert world.worker.read_fresh("time", ALICE) == {"DRIVE_TOKEN": secret}
    over = Secret(value=secret.value, expires_at=int(time.time()) - 1)
    world.kept.put("time", ALICE, {"DRIVE_TOKEN": over})
    assert world.worker.read_fresh("time", ALICE) == {}
    assert world.kept.read_all("time", ALICE) == {}
    assert world.refreshes() == 0


@pytest.mark.parametrize(
    "changes",
    [{"token_endpoint": "https://other.example.com/token"}, {"client_id": "another"}],
    ids=["another service", "another application"],
)
def test_an_account_of_before_a_change_of_the_settings_is_sent_nowhere(world: World, changes: dict[str, Any]) -> None:
    world.connect(left=1)
    world.stand_in.requests.clear()
    changed = world.make_worker(**changes)
    assert changed.read_fresh("time", ALICE) == {}
    assert changed.remove("time", ALICE, ["DRIVE_TOKEN"]) == ["DRIVE_TOKEN"]
    changed.close()
    assert world.stand_in.requests == []


def test_an_account_outlives_a_change_of_what_is_asked_for(world: World) -> None:
    world.connect(left=1)
    changed = world.make_worker(scopes=["files.write"], authorization_endpoint=f"{ORIGIN}/authorize2")
    assert changed.read_fresh("time", ALICE)["DRIVE_TOKEN"].value in world.stand_in.access_tokens
    assert world.refreshes() == 1


def unavailable() -> ResponseReturnValue:
    return make_response("", 503)


def test_a_service_that_fails_for_a_while_ends_nothing(world: World) -> None:
    world.connect(left=1)
    time_ = int(time.time())
    kept = world.kept.read_all("time", ALICE)["DRIVE_TOKEN"].secret
    world.kept.put(
        "time", ALICE, {"DRIVE_TOKEN": Secret(value="x", refresh_token=kept.refresh_token, expires_at=time_ - 1)}
    )
    world.stand_in.on_token = unavailable
    with pytest.raises(ServiceUnavailable):
        world.worker.read_fresh("time", ALICE)
    world.stand_in.on_token = lambda: None
    assert "DRIVE_TOKEN" in world.worker.read_fresh("time", ALICE)


def test_a_token_that_is_still_good_is_used_while_the_service_fails(world: World) -> None:
    secret = world.connect(left=RENEW_AHEAD_SECONDS - 1)
    world.stand_in.on_token = unavailable
    assert world.worker.read_fresh("time", ALICE) == {"DRIVE_TOKEN": secret}
    assert world.refreshes() == 1


def test_an_account_that_is_removed_during_its_refresh_stays_removed(world: World) -> None:
    world.connect(left=1)
    world.stand_in.on_token = lambda: world.kept.remove("time", ALICE, ["DRIVE_TOKEN"]) and None
    assert world.worker.read_fresh("time", ALICE) == {}
    assert world.kept.read_all("time", ALICE) == {}
    assert len(world.revoked()) == 2, "what came too late is revoked"


def test_an_account_that_is_replaced_during_its_refresh_stays_replaced(world: World) -> None:
    world.connect(left=1)
    replaced = Secret(value="replaced")

    def replace() -> None:
        world.kept.put("time", ALICE, {"DRIVE_TOKEN": replaced})

    world.stand_in.on_token = replace
    assert world.worker.read_fresh("time", ALICE) == {"DRIVE_TOKEN": replaced}
    assert world.revoked() == [], "at many services that would end the other one as well"


@pytest.fixture
def fails(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let Redis fail at the next times that new tokens are stored, before or after it has stored them."""
    renew = world.kept.renew
    monkeypatch.setattr(connections, "_STORE_PAUSE_SECONDS", 0)

    def fail(times: int, *, after: bool = False) -> None:
        left = itertools.repeat(None, times)

        def attempt(resource_name: str, sub: str, variable: str, former: StoredSecret, secret: Secret) -> bool:
            is_to_fail = next(left, True) is None
            if is_to_fail and not after:
                raise ServiceUnavailable("Redis")
            is_stored = renew(resource_name, sub, variable, former, secret)
            if is_to_fail:
                raise ServiceUnavailable("Redis")
            return is_stored

        monkeypatch.setattr(world.kept, "renew", attempt)

    return fail


@pytest.mark.parametrize("after", [False, True])
def test_new_tokens_are_not_lost_while_redis_fails(world: World, fails: Callable[..., None], after: bool) -> None:
    world.connect(left=1)
    fails(3, after=after)
    found = world.worker.read_fresh("time", ALICE)["DRIVE_TOKEN"]
    assert world.kept.read_all("time", ALICE)["DRIVE_TOKEN"].secret == found
    assert world.refreshes() == 1
    assert world.revoked() == []


def test_new_tokens_are_used_once_if_redis_stores_them_too_late(
    world: World, fails: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = world.connect(left=1)
    monkeypatch.setattr(connections, "STORE_SECONDS", 0)
    fails(1)
    found = world.worker.read_fresh("time", ALICE)["DRIVE_TOKEN"]
    assert found.value in world.stand_in.access_tokens
    assert found.value != first.value
    assert world.kept.read_all("time", ALICE)["DRIVE_TOKEN"].secret == first
    assert "could not be stored" in caplog.text
    assert found.value not in caplog.text


def test_a_refusal_that_comes_too_late_removes_nothing(world: World) -> None:
    world.connect(left=1)
    world.stand_in.refresh_tokens.clear()
    replaced = Secret(value="replaced")

    def replace() -> None:
        world.kept.put("time", ALICE, {"DRIVE_TOKEN": replaced})

    world.stand_in.on_token = replace
    assert world.worker.read_fresh("time", ALICE) == {"DRIVE_TOKEN": replaced}


def test_a_removed_account_is_revoked_at_the_other_service(world: World) -> None:
    secret = world.connect()
    world.kept.put("time", ALICE, {"API_TOKEN": Secret(value="pasted")})
    assert world.worker.remove("time", ALICE, ["DRIVE_TOKEN", "API_TOKEN", "OTHER"]) == ["DRIVE_TOKEN", "API_TOKEN"]
    assert world.kept.read_all("time", ALICE) == {}
    assert world.revoked() == [secret.refresh_token, secret.value]
    assert world.stand_in.access_tokens == world.stand_in.refresh_tokens == {}
    assert world.worker.remove("time", ALICE, ["DRIVE_TOKEN"]) == []


def test_an_account_that_is_renewed_just_before_its_removal_is_revoked_as_it_is_then(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = world.connect(left=10)
    remove, renewed = world.kept.remove, []

    def renew_and_remove(*args: Any) -> dict[str, Secret | None]:
        renewed.append(world.make_worker().read_fresh("time", ALICE)["DRIVE_TOKEN"])
        return remove(*args)

    monkeypatch.setattr(world.kept, "remove", renew_and_remove)
    assert world.worker.remove("time", ALICE, ["DRIVE_TOKEN"]) == ["DRIVE_TOKEN"]
    (secret,) = renewed
    assert secret.value != former.value
    assert world.revoked() == [secret.refresh_token, secret.value]


def test_a_removal_does_not_wait_for_the_other_service(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.connect()
    reached, leave = threading.Event(), threading.Event()

    def hang(*_: object, **__: object) -> None:
        reached.set()
        leave.wait(60)
        raise ServiceUnavailable("the other service")

    monkeypatch.setattr(ConnectedService, "revoke", hang)
    monkeypatch.setattr(connections, "CLOSE_SECONDS", 0)
    assert world.worker.remove("time", ALICE, ["DRIVE_TOKEN"]) == ["DRIVE_TOKEN"]
    assert reached.wait(60)
    world.worker.close()
    leave.set()
    monkeypatch.setattr(connections, "CLOSE_SECONDS", 60)
    world.worker.close()


def test_a_failed_revocation_stops_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.connect(ALICE)
    world.connect(BOB)
    revoke = ConnectedService.revoke
    monkeypatch.setattr(ConnectedService, "revoke", lambda *_, **__: 1 / 0)
    world.worker.remove("time", ALICE, ["DRIVE_TOKEN"])
    world.worker.close()
    monkeypatch.setattr(ConnectedService, "revoke", revoke)
    world.worker.remove("time", BOB, ["DRIVE_TOKEN"])
    assert len(world.revoked()) == 2


def test_nothing_is_revoked_without_an_endpoint(world: World) -> None:
    world.connect()
    worker = world.make_worker(revocation_endpoint=None)
    assert worker.remove("time", ALICE, ["DRIVE_TOKEN"]) == ["DRIVE_TOKEN"]
    worker.close()
    assert world.revoked() == []


def test_no_token_is_in_redis_as_it_is(world: World, redis_url: str) -> None:
    secret = world.connect()
    with redis.Redis.from_url(redis_url) as client:
        stored = b"".join(client.hgetall(user_credentials_key("time", ALICE)).values())
    assert secret.refresh_token is not None
    assert secret.value.encode() not in stored
    assert secret.refresh_token.encode() not in stored


@pytest.mark.parametrize(
    ("method", "secret", "message"),
    [
        ("client_secret_basic", None, "user-credential-secret.time.DRIVE_TOKEN is missing"),
        ("client_secret_post", None, "user-credential-secret.time.DRIVE_TOKEN is missing"),
        ("none", CLIENT_SECRET, "is `none`, so the credential"),
    ],
)
def test_a_method_that_does_not_fit_the_secret_is_refused(method: str, secret: str | None, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make_services(make_settings(token_endpoint_auth_method=method), make_credentials(secret=secret))


@pytest.mark.parametrize(
    ("method", "secret"),
    [(None, None), (None, CLIENT_SECRET), ("none", None), ("client_secret_post", CLIENT_SECRET)],
)
def test_a_method_that_fits_the_secret_is_accepted(method: str | None, secret: str | None) -> None:
    made = make_services(make_settings(token_endpoint_auth_method=method), make_credentials(secret=secret))
    assert set(made) == {("time", "DRIVE_TOKEN")}
