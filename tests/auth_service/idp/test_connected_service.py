"""Services at which users connect their accounts: what they answer, and what of it is believed and logged."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from flask import Response, make_response, redirect
from flask.typing import ResponseReturnValue

from auth_service.__main__ import GRACEFUL_SECONDS
from auth_service.idp import connected_service, http
from auth_service.idp.connected_service import AccountRefusedError, ConnectedService, Tokens
from auth_service.protocol.errors import ServiceUnavailable
from auth_service.settings import Connection
from tests.connected_service import CLIENT_ID, CLIENT_SECRET, ORIGIN, StandIn, create_app, query_of
from tests.in_process import InProcess

from .test_http import HEAD, Answer, Peer, drip

CALLBACK = "https://auth.example.com/connections/callback/time/DRIVE_TOKEN"
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
NOW = 1_800_000_000


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn(redirect_uris=[CALLBACK])
    adapter = InProcess(create_app(made))
    monkeypatch.setattr(requests.Session, "get_adapter", lambda _session, url: adapter)
    monkeypatch.setattr(time, "time", lambda: float(NOW))
    return made


def make_service(
    *, secret: str | None = CLIENT_SECRET, shared_limit: threading.BoundedSemaphore | None = None, **settings: Any
) -> ConnectedService:
    whole: dict[str, Any] = {
        "authorization_endpoint": f"{ORIGIN}/authorize",
        "token_endpoint": f"{ORIGIN}/token",
        "revocation_endpoint": f"{ORIGIN}/revoke",
        "client_id": CLIENT_ID,
        "scopes": ("files.read", "files.write"),
    } | settings
    return ConnectedService(
        Connection.model_validate(whole),
        name="resources.time.user_credentials.DRIVE_TOKEN.oauth",
        client_secret=secret,
        callback_url=CALLBACK,
        shared_limit=shared_limit or threading.BoundedSemaphore(connected_service.MAX_CONCURRENT),
    )


def obtain_code(stand_in: StandIn, service: ConnectedService) -> str:
    return query_of(stand_in.approve(service.authorization_url(state="s", code_challenge=CHALLENGE)))["code"]


def obtain_tokens(stand_in: StandIn, service: ConnectedService) -> Tokens:
    return service.redeem(code=obtain_code(stand_in, service), code_verifier=VERIFIER)


def test_a_browser_is_sent_away_with_pkce_and_what_the_operator_adds() -> None:
    service = make_service(authorization_parameters={"access_type": "offline"})
    url = service.authorization_url(state="s t", code_challenge=CHALLENGE)
    assert url.startswith(f"{ORIGIN}/authorize?")
    assert query_of(url) == {
        "access_type": "offline",
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": CALLBACK,
        "state": "s t",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        "scope": "files.read files.write",
    }


def test_no_scope_is_asked_for_if_there_is_none() -> None:
    assert "scope" not in query_of(make_service(scopes=()).authorization_url(state="s", code_challenge=CHALLENGE))


@pytest.mark.parametrize(
    ("dialect", "has_refresh_token", "ends"),
    [("standard", True, True), ("github", False, False), ("google", False, True), ("slack", True, True)],
)
def test_a_code_becomes_tokens_at_each_kind_of_service(
    stand_in: StandIn, dialect: str, has_refresh_token: bool, ends: bool
) -> None:
    stand_in.dialect = dialect
    tokens = obtain_tokens(stand_in, make_service())
    assert tokens.access_token in stand_in.access_tokens
    assert (tokens.refresh_token in stand_in.refresh_tokens) == has_refresh_token
    assert tokens.lifetime == (3600 if ends else None)
    assert tokens.access_token not in repr(tokens)


def test_google_gives_a_refresh_token_only_where_the_operator_asks_for_one(stand_in: StandIn) -> None:
    stand_in.dialect = "google"
    service = make_service(authorization_parameters={"access_type": "offline", "prompt": "consent"})
    first = obtain_tokens(stand_in, service)
    assert first.refresh_token is not None
    assert service.refresh(first.refresh_token).refresh_token == first.refresh_token, "it was not replaced"


def test_a_refresh_token_is_replaced_and_refused_when_it_is_used_again(stand_in: StandIn) -> None:
    service = make_service()
    first = obtain_tokens(stand_in, service)
    assert first.refresh_token is not None
    second = service.refresh(first.refresh_token)
    assert second.refresh_token not in {None, first.refresh_token}
    assert second.access_token != first.access_token
    with pytest.raises(AccountRefusedError):
        service.refresh(first.refresh_token)


@pytest.mark.parametrize("dialect", ["standard", "github", "google", "slack"])
@pytest.mark.parametrize("what", ["code", "verifier", "refresh token"])
def test_a_refusal_ends_the_connection_and_is_quoted_nowhere(
    stand_in: StandIn, dialect: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in.dialect = dialect
    service = make_service()
    calls = {
        "code": lambda: service.redeem(code="secret-code", code_verifier=VERIFIER),
        "verifier": lambda: service.redeem(code=obtain_code(stand_in, service), code_verifier="secret" * 10),
        "refresh token": lambda: service.refresh("secret-refresh-token"),
    }
    with caplog.at_level(logging.DEBUG), pytest.raises(AccountRefusedError) as refused:
        calls[what]()
    assert "secret" not in str(refused.value) + caplog.text


@pytest.mark.parametrize("dialect", ["standard", "github", "slack"])
def test_a_wrong_client_secret_ends_nothing_and_is_told_to_the_operator(
    stand_in: StandIn, dialect: str, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in.dialect = dialect
    with pytest.raises(ServiceUnavailable):
        make_service(secret="wrong-secret").refresh("secret-refresh-token")
    assert (
        "resources.time.user_credentials.DRIVE_TOKEN.oauth: the token endpoint answered with the error" in caplog.text
    )
    assert "(one that is not known here)" not in caplog.text
    assert "secret-refresh-token" not in caplog.text
    assert "wrong-secret" not in caplog.text


@pytest.mark.parametrize(
    ("method", "secret"),
    [
        (None, CLIENT_SECRET),
        ("client_secret_basic", CLIENT_SECRET),
        ("client_secret_post", CLIENT_SECRET),
        (None, None),
    ],
)
def test_this_service_authenticates_as_the_settings_say(
    stand_in: StandIn, method: str | None, secret: str | None
) -> None:
    stand_in.auth_method = "none" if secret is None else method or "client_secret_basic"
    service = make_service(secret=secret, token_endpoint_auth_method=method)
    tokens = obtain_tokens(stand_in, service)
    service.revoke(tokens.access_token, is_refresh_token=False)
    assert tokens.access_token not in stand_in.access_tokens
    other = {"client_secret_basic": "client_secret_post", "client_secret_post": "none", "none": "client_secret_basic"}
    stand_in.auth_method = other[stand_in.auth_method]
    with pytest.raises(ServiceUnavailable):
        obtain_tokens(stand_in, service)


ODD_LIFETIMES: list[object] = [
    *(0, -1, None, "", "never", True, [], {}),
    *(10**300, "1e400", "nan", float("nan"), float("inf")),
]


def answer_json(document: object, status: int = 200) -> Response:
    return make_response(json.dumps(document), status, {"Content-Type": "application/json"})


@pytest.mark.parametrize(
    ("document", "tokens"),
    [
        ({"access_token": "a"}, Tokens(access_token="a")),
        ({"access_token": "a", "expires_in": "60"}, Tokens(access_token="a", lifetime=60)),
        ({"access_token": "a", "expires_in": 59.9}, Tokens(access_token="a", lifetime=59)),
        *(({"access_token": "a", "expires_in": odd}, Tokens(access_token="a")) for odd in ODD_LIFETIMES),
        ({"access_token": "a" * 6000}, Tokens(access_token="a" * 6000)),
        ({"access_token": "a", "refresh_token": None}, Tokens(access_token="a")),
        ({"access_token": "a", "refresh_token": ""}, Tokens(access_token="a")),
        ({"access_token": "a", "token_type": "bot", "error": None}, Tokens(access_token="a")),
        ({"access_token": "a", "error": ""}, Tokens(access_token="a")),
        ({"access_token": "a", "error": False}, Tokens(access_token="a")),
        (
            {"ok": True, "authed_user": {"access_token": "u", "refresh_token": "r", "expires_in": 5}},
            Tokens(access_token="u", refresh_token="r", lifetime=5),
        ),
        ({"access_token": "bot", "authed_user": {"access_token": "u"}}, Tokens(access_token="bot")),
    ],
)
def test_answers_that_differ_from_the_specification_are_read(
    stand_in: StandIn, document: object, tokens: Tokens
) -> None:
    stand_in.on_token = lambda: answer_json(document)
    assert make_service().redeem(code="c", code_verifier=VERIFIER) == tokens


def test_an_answer_may_be_a_form(stand_in: StandIn) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    stand_in.on_token = lambda: make_response("access_token=a%2Fb&scope=&token_type=bearer&expires_in=60", 200, form)
    assert make_service().redeem(code="c", code_verifier=VERIFIER) == Tokens(access_token="a/b", lifetime=60)


@pytest.mark.parametrize(
    "answer",
    [
        lambda: answer_json({}),
        lambda: answer_json([]),
        lambda: answer_json({"access_token": ""}),
        lambda: answer_json({"access_token": "a\nb: secret"}),
        lambda: answer_json({"access_token": "a\x00b"}),
        lambda: answer_json({"access_token": "a b"}),
        lambda: answer_json({"access_token": "ä"}),
        lambda: answer_json({"access_token": ["secret"]}),
        lambda: answer_json({"access_token": "s" * (connected_service.MAX_TOKEN_BYTES + 1)}),
        lambda: answer_json({"ok": False}),
        lambda: answer_json({"error": "secret-token"}),
        lambda: answer_json({"error": {"code": "secret-token"}}, 400),
        lambda: answer_json({"access_token": "secret", "error": "server_error"}),
        lambda: answer_json({"access_token": "secret"}, 400),
        lambda: answer_json({"error": "invalid_grant"}, 500),
        lambda: answer_json({"error": "invalid_grant"}, 429),
        lambda: answer_json({"access_token": "secret"}, 302),
        lambda: make_response("<h1>secret</h1>", 200),
        lambda: make_response("[" * 100_000, 200),
        lambda: make_response(json.dumps({"access_token": "a", "padding": "x" * (1 << 20)}), 200),
        lambda: make_response("a=1&" * 200, 200, {"Content-Type": "application/x-www-form-urlencoded"}),
        lambda: make_response("", 204),
    ],
)
def test_an_unusable_answer_is_temporary_and_quoted_nowhere(
    stand_in: StandIn, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in.on_token = answer
    with caplog.at_level(logging.DEBUG), pytest.raises(ServiceUnavailable) as raised:
        make_service().refresh("r")
    assert "secret" not in str(raised.value) + caplog.text


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(stand_in: StandIn, status: int) -> None:
    """It could lead the client secret and the code to another host."""

    def answer() -> ResponseReturnValue:
        return redirect("https://elsewhere.example/token", code=status)

    stand_in.on_token = answer
    with pytest.raises(ServiceUnavailable):
        make_service().redeem(code="c", code_verifier=VERIFIER)
    assert len(stand_in.requests) == 1


@pytest.mark.parametrize(
    ("configured", "sent", "is_accepted"),
    [
        (None, None, True),
        (None, ORIGIN, True),
        (None, f"{ORIGIN}/tenant/v2.0", True),
        (None, "https://evil.example", False),
        (None, f"{ORIGIN}.evil.example", False),
        (None, f"{ORIGIN}:8443", False),
        (None, "http://drive.example.com", False),
        (None, "https://[", False),
        (None, f"{ORIGIN}:x", False),
        (None, "", False),
        ("https://login.example.com", "https://login.example.com", True),
        ("https://login.example.com", "https://login.example.com/", False),
        ("https://login.example.com", ORIGIN, False),
        ("https://login.example.com", None, True),
    ],
)
def test_an_answer_names_its_issuer(configured: str | None, sent: str | None, is_accepted: bool) -> None:
    assert make_service(issuer=configured).is_issuer(sent) is is_accepted


def test_a_revocation_that_fails_is_said_to_have_failed(stand_in: StandIn) -> None:
    with pytest.raises(ServiceUnavailable):
        make_service(secret="wrong").revoke("t", is_refresh_token=True)
    assert not make_service(revocation_endpoint=None).can_revoke
    make_service(revocation_endpoint=None).revoke("t", is_refresh_token=True)
    assert [path for path, _ in stand_in.requests] == ["/revoke"]


def test_the_threads_that_wait_for_one_service_and_for_all_are_limited() -> None:
    shared_limit = threading.BoundedSemaphore(connected_service.MAX_CONCURRENT)
    services = [make_service(shared_limit=shared_limit) for _ in range(3)]
    held = [each.waiting() for each in services[:2] for _ in range(connected_service.MAX_CONCURRENT_OF_ONE)]
    entered = threading.Barrier(len(held) + 1)
    leave = threading.Event()

    def wait(counted: contextlib.AbstractContextManager[None]) -> None:
        with counted:
            entered.wait(60)
            leave.wait(60)

    threads = [threading.Thread(target=wait, args=(each,)) for each in held]
    for thread in threads:
        thread.start()
    entered.wait(60)
    for each in services:
        with pytest.raises(ServiceUnavailable), each.waiting():
            pass
    leave.set()
    for thread in threads:
        thread.join(60)
    for each in services:
        with each.waiting(), each.waiting():
            pass


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


@pytest.mark.parametrize(
    "answer",
    [
        lambda connection: connection.recv(1),
        drip(HEAD + b"Content-Length: 5000\r\n\r\n", b" "),
        drip(HEAD + b"\r\n", b" "),
    ],
    ids=["never", "dripping", "without an end"],
)
def test_a_service_that_does_not_finish_its_answer_is_given_up(
    peer: Peer, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a limit this test would not end."""
    monkeypatch.setattr(connected_service, "CALL_SECONDS", 0.3)
    peer.answer = answer
    service = make_service(token_endpoint=f"{peer.url}token", revocation_endpoint=f"{peer.url}revoke")
    with pytest.raises(ServiceUnavailable):
        service.redeem(code="c", code_verifier=VERIFIER)
    with pytest.raises(ServiceUnavailable):
        service.revoke("t", is_refresh_token=True)
    with service.waiting():  # its place is free again
        pass


class _NotingLimits(InProcess):
    """Answers, and keeps how long each request was to wait: to connect, and at each read."""

    def __init__(self, stand_in: StandIn) -> None:
        super().__init__(create_app(stand_in))
        self.limits: list[object] = []

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        self.limits.append(kwargs["timeout"])
        return super().send(request, *args, **kwargs)


def test_an_answer_that_comes_late_is_waited_for_as_it_may_replace_a_refresh_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in = StandIn(redirect_uris=[CALLBACK])
    adapter = _NotingLimits(stand_in)
    monkeypatch.setattr(requests.Session, "get_adapter", lambda _session, url: adapter)
    service = make_service()
    tokens = obtain_tokens(stand_in, service)
    service.refresh(str(tokens.refresh_token))
    with http.Session() as session:
        http.call(session, "POST", f"{ORIGIN}/token", provider="an identity provider")
    whole = (http.CONNECT_SECONDS, connected_service.CALL_SECONDS)
    assert adapter.limits == [whole, whole, (http.CONNECT_SECONDS, http.READ_SECONDS)]
    assert GRACEFUL_SECONDS > connected_service.CALL_SECONDS > http.READ_SECONDS
