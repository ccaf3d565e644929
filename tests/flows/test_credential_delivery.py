"""What a bridge gets for its users, and what it does not: each rule of `POST /credentials/NAME`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import redis
import time_machine
from flask import Flask
from itsdangerous import want_bytes
from werkzeug.test import TestResponse

from auth_service.app.composition import Parts
from auth_service.backends.assertions import BackendSigner, derive_identity_key
from auth_service.backends.credential_requests import REQUEST_SALT
from auth_service.keys.access_tokens import VerifiedClaims
from auth_service.keys.serializers import make_serializer
from auth_service.ops.audit import Event
from auth_service.protocol.errors import ServiceUnavailable
from auth_service.settings import Credentials
from auth_service.storage.grants import Grant
from auth_service.storage.user_credentials import Secret
from stdio_bridge.http.identity import AssertionVerifier, Identity
from stdio_bridge.io.event_loop import Loop
from stdio_bridge.io.http_post import Answer
from stdio_bridge.protocol.errors import HttpError
from stdio_bridge.servers.user_credentials import Delivered, UserCredentials
from tests.flows.conftest import RESOURCE, AuditLog, OAuthTestClient, ToldBridges

CREDENTIALS = Credentials(client_secret="x", master_key=b"m" * 32)
KEY = derive_identity_key(CREDENTIALS, "time")
ANN, BOB = "github:1", "github:2"
BOTH = {"API_TOKEN": {"label": "Token"}, "API_USER": {"label": "User"}}


class Bridge:
    """The part of a bridge that asks."""

    def __init__(self, app: Flask, *, key: bytes = KEY, audience: str = RESOURCE, name: str = "time") -> None:
        self._client = app.test_client()
        self._path = f"/credentials/{name}"
        self._signer = BackendSigner(key)
        self._audience = audience
        self._verifier = AssertionVerifier(key, now=time.time, keep_assertions=True)
        self._loop = Loop()
        self._asks = UserCredentials(self._loop, (), self._verifier, variables=frozenset(BOTH), now=time.time)
        self.nonce = "nonce"

    def assertion(self, sub: str, sid: str, *, exp: int | None = None, audience: str | None = None) -> str:
        now = int(time.time())
        claims: dict[str, Any] = dict.fromkeys(("name", "client_id", "scope", "token_id"), "")
        return self._signer.sign_identity(
            VerifiedClaims(
                subject=sub,
                sid=sid,
                audience=audience or self._audience,
                issued_at=now,
                expires_at=now + 600 if exp is None else exp,
                **claims,
            )
        )

    def post(self, body: bytes) -> TestResponse:
        return self._client.post(self._path, data=body, headers={"Content-Type": "text/plain"})

    def request(self, sub: str, sid: str, **changes: Any) -> TestResponse:
        return self.post(self._verifier.sign_credential_request(self.assertion(sub, sid, **changes), self.nonce))

    def ask(self, sub: str, sid: str) -> Delivered | HttpError | None:
        """Return what the bridge makes of the answer."""
        response = self.request(sub, sid)
        headers = {name.lower(): value for name, value in response.headers.items()}
        answer = Answer(status=response.status_code, headers=headers, body=response.data)
        return self._asks.read(answer, Identity(user=sub), self.nonce)

    def close(self) -> None:
        self._loop.close()


@pytest.fixture
def app(oauth: OAuthTestClient) -> Flask:
    oauth.reload(resources={"time": {"user_credentials": BOTH}, "fetch": {"user_credentials": BOTH}})
    return oauth.app


@pytest.fixture
def parts(app: Flask) -> Parts:
    return cast(Parts, app.extensions["gateway"])


@pytest.fixture
def bridge(app: Flask) -> Iterator[Bridge]:
    bridge = Bridge(app)
    yield bridge
    bridge.close()


def allow(parts: Parts, sub: str, sid: str, *, resource: str = RESOURCE) -> Grant:
    """Store a grant."""
    texts: dict[str, Any] = dict.fromkeys(("name", "client_id", "client_name", "scope", "redirect"), "x")
    grant = Grant(sid=sid, sub=sub, resource=resource, created_at=int(time.time()), **texts)
    parts.store.grants.add(grant, lifetime=600)
    return grant


def provide(parts: Parts, sub: str, *, name: str = "time", expires_at: int | None = None, **values: str) -> None:
    values = values or {"API_TOKEN": f"token of {sub} at {name}", "API_USER": sub}
    secrets = {variable: Secret(value=value, expires_at=expires_at) for variable, value in values.items()}
    parts.user_credentials.put(name, sub, secrets)


def test_a_bridge_gets_the_credentials_of_the_user_that_it_asks_for(
    parts: Parts, bridge: Bridge, audit_log: AuditLog
) -> None:
    for sub, sid in ((ANN, "a"), (BOB, "b")):
        allow(parts, sub, sid)
        provide(parts, sub)
        assert bridge.ask(sub, sid) == Delivered(
            environment={"API_TOKEN": f"token of {sub} at time", "API_USER": sub}, good_for=None
        )
    assert [entry["user"] for entry in audit_log.of(Event.CREDENTIAL_DELIVERED)] == [ANN, BOB]
    assert "token of" not in str(audit_log.entries)
    used = [state.used_at for state in parts.user_credentials.find_states(ANN, ["time"])]
    assert None not in used


def test_the_answer_can_be_read_by_nobody_else_and_is_stored_nowhere(parts: Parts, bridge: Bridge) -> None:
    allow(parts, ANN, "a")
    provide(parts, ANN, API_TOKEN="0123456789abcdef", API_USER="ann")
    response = bridge.request(ANN, "a")
    assert response.headers["Cache-Control"] == "no-store"
    assert b"0123456789abcdef" not in response.data
    assert response.get_json().keys() == {"credentials"}


def test_only_what_the_settings_name_is_handed_out(parts: Parts, bridge: Bridge) -> None:
    allow(parts, ANN, "a")
    provide(parts, ANN, API_TOKEN="t", API_USER="u", FORMER="f")
    assert bridge.ask(ANN, "a") == Delivered(environment={"API_TOKEN": "t", "API_USER": "u"}, good_for=None)


def test_the_answer_says_when_the_first_of_the_credentials_ends(parts: Parts, bridge: Bridge) -> None:
    allow(parts, ANN, "a")
    now = int(time.time())
    with time_machine.travel(now, tick=False):
        provide(parts, ANN, API_TOKEN="t", expires_at=now + 4000)
        provide(parts, ANN, API_USER="u", expires_at=now + 8000)
        delivered = bridge.ask(ANN, "a")
    assert isinstance(delivered, Delivered)
    assert delivered.good_for == 3700


def test_a_missing_credential_ends_the_grant_so_that_the_user_is_asked(
    parts: Parts, bridge: Bridge, audit_log: AuditLog
) -> None:
    allow(parts, ANN, "a")
    allow(parts, ANN, "of fetch", resource="https://fetch.example.com/mcp")
    allow(parts, BOB, "b")
    provide(parts, ANN, API_TOKEN="t")
    refused = bridge.ask(ANN, "a")
    assert isinstance(refused, HttpError)
    assert refused.status == "401 Unauthorized"
    assert parts.store.grants.find("a") is None
    assert parts.store.grants.find("of fetch") is not None
    assert parts.store.grants.find("b") is not None
    (entry,) = audit_log.of(Event.CREDENTIAL_REFUSED)
    assert (entry["user"], entry["reason"]) == (ANN, "missing: API_USER")


def test_a_missing_credential_ends_the_processes_that_have_the_former_value(parts: Parts, bridge: Bridge) -> None:
    """Else a client that joins one of another client later would act with the former account of the user."""
    told = cast(ToldBridges, parts.notices).ended
    for sub, sid in ((ANN, "a1"), (ANN, "a2"), (BOB, "b")):
        allow(parts, sub, sid)
        provide(parts, sub)
    assert isinstance(bridge.ask(ANN, "a2"), Delivered)
    assert told == []
    parts.user_credentials.remove("time", ANN, ["API_TOKEN"])
    assert bridge.request(ANN, "a1").status_code == 401
    assert told == [("time", ANN)]
    assert isinstance(bridge.ask(BOB, "b"), Delivered)
    assert told == [("time", ANN)]


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda bridge: bridge.request(ANN, "unknown"), id="a grant that has ended"),
        pytest.param(lambda bridge: bridge.request(ANN, "b"), id="another user's grant"),
        pytest.param(lambda bridge: bridge.request(ANN, "of fetch"), id="a grant of another server"),
        pytest.param(lambda bridge: bridge.request(ANN, "a", exp=int(time.time()) - 11), id="a token that has ended"),
    ],
)
def test_without_a_live_grant_of_this_user_at_this_server_there_is_nothing(
    parts: Parts, bridge: Bridge, ask: Callable[[Bridge], TestResponse]
) -> None:
    allow(parts, ANN, "a")
    allow(parts, BOB, "b")
    allow(parts, ANN, "of fetch", resource="https://fetch.example.com/mcp")
    provide(parts, ANN)
    response = ask(bridge)
    assert (response.status_code, response.get_json()) == (401, {"error": "invalid_token"})
    assert {sid for sid in ("a", "b", "of fetch") if parts.store.grants.find(sid)} == {"a", "b", "of fetch"}


def signed(content: object, *, key: bytes = KEY, salt: str = REQUEST_SALT, ago: float = 0) -> bytes:
    with time_machine.travel(time.time() - ago, tick=False):
        text = make_serializer(key, salt=salt).dumps(content)
    return want_bytes(text)


def old(bridge: Bridge, ago: float) -> str:
    with time_machine.travel(time.time() - ago, tick=False):
        return bridge.assertion(ANN, "a", exp=int(time.time() + ago + 600))


FETCH_KEY = derive_identity_key(CREDENTIALS, "fetch")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(lambda _: b"", id="nothing"),
        pytest.param(lambda _: b"\xff\xfe", id="no text"),
        pytest.param(lambda bridge: bridge.assertion(ANN, "a").encode(), id="an assertion alone"),
        pytest.param(lambda bridge: question(bridge, key=FETCH_KEY), id="signed with another server's key"),
        pytest.param(lambda bridge: question(bridge, salt="mcp-oauth-gateway.survey"), id="signed for a survey"),
        pytest.param(lambda bridge: question(bridge, ago=61), id="too old"),
        pytest.param(lambda bridge: question(bridge, ago=-11), id="of the future"),
        pytest.param(lambda bridge: question(bridge, nonce=""), id="an empty nonce"),
        pytest.param(lambda bridge: question(bridge, nonce="n" * 201), id="a long nonce"),
        pytest.param(lambda bridge: question(bridge, nonce=7), id="a nonce that is no text"),
        pytest.param(lambda bridge: question(bridge, assertion=None), id="no assertion"),
        pytest.param(lambda bridge: question(bridge, assertion="rubbish"), id="a forged assertion"),
        pytest.param(lambda bridge: question(bridge, assertion=old(bridge, 301)), id="an old assertion"),
        pytest.param(
            lambda bridge: question(bridge, assertion=bridge.assertion(ANN, "a", audience="https://fetch.example.com/mcp")),
            id="an assertion for another server",
        ),
        pytest.param(lambda bridge: question(bridge, assertion=bridge.assertion("", "a")), id="an assertion of nobody"),
        pytest.param(lambda _: signed(["assertion", "nonce"]), id="not an object"),
    ],
)  # fmt: skip
def test_what_the_server_s_bridge_has_not_signed_now_is_refused(
    parts: Parts, bridge: Bridge, body: Callable[[Bridge], bytes], audit_log: AuditLog
) -> None:
    allow(parts, ANN, "a")
    provide(parts, ANN)
    response = bridge.post(body(bridge))
    assert response.status_code == 403
    assert len(audit_log.of(Event.CREDENTIAL_REFUSED)) == 1
    assert audit_log.of(Event.CREDENTIAL_DELIVERED) == []


def question(bridge: Bridge, *, key: bytes = KEY, salt: str = REQUEST_SALT, ago: float = 0, **changes: Any) -> bytes:
    usual = {"assertion": bridge.assertion(ANN, "a"), "nonce": "n"}
    return signed({**usual, **changes}, key=key, salt=salt, ago=ago)


def test_one_server_cannot_ask_for_what_a_user_has_given_to_another(app: Flask, parts: Parts, bridge: Bridge) -> None:
    allow(parts, ANN, "a")
    allow(parts, ANN, "of fetch", resource="https://fetch.example.com/mcp")
    provide(parts, ANN, name="time")
    other = Bridge(app, key=FETCH_KEY, audience="https://fetch.example.com/mcp", name="time")
    assert other.request(ANN, "of fetch").status_code == 403
    assert other.request(ANN, "a").status_code == 403
    other.close()
    own = Bridge(app, key=FETCH_KEY, audience="https://fetch.example.com/mcp", name="fetch")
    assert own.request(ANN, "of fetch").status_code == 401
    own.close()
    assert isinstance(bridge.ask(ANN, "a"), Delivered)


@pytest.mark.parametrize("name", ["unknown", "time"])
def test_a_server_without_credentials_of_users_is_not_found(oauth: OAuthTestClient, name: str) -> None:
    bridge = Bridge(oauth.app, name=name)
    assert bridge.request(ANN, "a").status_code == 404
    bridge.close()


def test_an_account_that_cannot_be_renewed_now_is_a_503(
    parts: Parts, bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(resource_name: str, sub: str) -> object:
        raise ServiceUnavailable("the other service", retry_after=9)

    allow(parts, ANN, "a")
    monkeypatch.setattr(parts.connections, "read_fresh", fail)
    response = bridge.request(ANN, "a")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "9")
    refused = bridge.ask(ANN, "a")
    assert isinstance(refused, HttpError)
    assert dict(refused.headers) == {"Retry-After": "9"}
    assert parts.store.grants.find("a") is not None


def test_a_grant_that_ends_while_its_credentials_are_read_gets_none(
    parts: Parts, bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = parts.connections.read_fresh

    def end_meanwhile(resource_name: str, sub: str) -> dict[str, Secret]:
        found = read(resource_name, sub)
        parts.revocation.revoke_access(sub, by="user")
        return found

    allow(parts, ANN, "a")
    provide(parts, ANN)
    monkeypatch.setattr(parts.connections, "read_fresh", end_meanwhile)
    assert bridge.request(ANN, "a").status_code == 401


def test_a_record_that_was_copied_from_another_user_is_not_handed_out(
    parts: Parts, bridge: Bridge, redis_url: str
) -> None:
    allow(parts, ANN, "a")
    provide(parts, BOB)
    with redis.Redis.from_url(redis_url, decode_responses=True) as connection:
        (key,) = connection.keys("user-credentials:time:*")
        connection.copy(key, key.replace(BOB, ANN))
    assert bridge.request(ANN, "a").status_code == 401


def test_the_user_s_last_grant_of_a_server_ends_the_processes_there(parts: Parts) -> None:
    del parts.revocation  # that of the tests tells nobody
    told = cast(ToldBridges, parts.notices).ended
    for sub, sid in ((ANN, "a1"), (ANN, "a2"), (BOB, "b")):
        allow(parts, sub, sid)
    parts.revocation.revoke_grant("a1", by="user", reason="x")
    assert told == []
    parts.revocation.revoke_grants(["a2", "b"], by="user", reason="x")
    assert told == [("time", ANN), ("time", BOB)]


def test_what_is_replaced_or_removed_ends_the_processes_that_have_it(parts: Parts, bridge: Bridge) -> None:
    told = cast(ToldBridges, parts.notices).ended
    allow(parts, ANN, "a")
    provide(parts, ANN)
    parts.credential_changes.put("time", ANN, "ann", {"API_TOKEN": Secret(value="another")})
    assert told == [("time", ANN)]
    delivered = bridge.ask(ANN, "a")
    assert isinstance(delivered, Delivered)
    assert delivered.environment["API_TOKEN"] == "another"
    parts.credential_changes.remove("time", ANN, ["API_TOKEN"], by="user")
    assert told == [("time", ANN)] * 2
    assert bridge.request(ANN, "a").status_code == 401
