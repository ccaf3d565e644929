"""Client documents: what is accepted in them, for how long, and what is fetched."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, cast

import pytest
import time_machine

from auth_service.oauth.client_lookup import MAX_WAITING
from auth_service.oauth.safe_fetch import SafeFetcher
from auth_service.settings import Settings
from tests.conftest import RedisServer
from tests.internet import Answer, Internet, internet, respond, respond_json, silence

from .conftest import ISSUER, REDIRECT, OAuthTestClient, parameters_of

HOST = "client.example.com"
CLIENT = f"https://{HOST}/oauth/client.json"
PATH = "/oauth/client.json"
DOCUMENT: dict[str, Any] = {
    "client_id": CLIENT,
    "client_name": "Claude Code",
    "redirect_uris": ["http://localhost/callback", "http://127.0.0.1/callback"],
    "grant_types": ["authorization_code", "refresh_token"],
    "response_types": ["code"],
    "token_endpoint_auth_method": "none",
    "logo_uri": f"https://{HOST}/logo.png",
    "client_uri": f"https://{HOST}/",
    "scope": "something else",
}


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Internet]:
    with internet(tmp_path, HOST) as made:
        made.pages[PATH] = respond_json(DOCUMENT)
        yield made


@pytest.fixture
def fetcher(net: Internet) -> SafeFetcher:
    return net.fetcher(deadline=2)


def log_in(oauth: OAuthTestClient, client_id: str = CLIENT) -> dict[str, Any]:
    code = oauth.obtain_code(client_id)
    response = oauth.redeem(client_id, code)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.get_json()
    return body


def refresh(oauth: OAuthTestClient, issued: dict[str, Any]) -> Any:
    return oauth.token(grant_type="refresh_token", client_id=CLIENT, refresh_token=issued["refresh_token"])


def test_a_client_logs_in_and_refreshes_with_nothing_but_its_document(oauth: OAuthTestClient, net: Internet) -> None:
    page = oauth.authorize(CLIENT)  # REDIRECT has a port, the document's URI has none
    assert "Claude Code" in page.text
    assert HOST in page.text
    issued = log_in(oauth)
    assert refresh(oauth, issued).status_code == 200
    assert net.asked_for == [PATH]  # once, and neither logo nor home page


def test_a_document_that_claims_the_name_of_a_declared_client_is_refused(oauth: OAuthTestClient, net: Internet) -> None:
    oauth.reload(declared_clients={"editor": {"redirect_uris": [REDIRECT], "title": "House editor"}})
    assert "House editor" in oauth.authorize("editor").text
    net.pages[PATH] = respond_json({**DOCUMENT, "client_id": "editor"})
    page = oauth.authorize(CLIENT)
    assert page.status_code == 400
    assert "House editor" not in page.text


def test_a_redirect_uri_that_the_document_does_not_list_is_refused(oauth: OAuthTestClient) -> None:
    response = oauth.authorize(CLIENT, redirect_uri="https://evil.example/callback")
    assert response.status_code == 400
    assert response.location is None


@pytest.mark.parametrize(
    "client_id",
    [
        "http://client.example.com/oauth/client.json",
        "https://client.example.com",
        "https://client.example.com:443/oauth/client.json",
        "https://client.example.com:8443/oauth/client.json",
        "https://user@client.example.com/oauth/client.json",
        "https://user:password@client.example.com/oauth/client.json",
        "https://client.example.com/oauth/client.json#fragment",
        "https://client.example.com/oauth/client.json#",
        "https://client.example.com/./oauth/client.json",
        "https://client.example.com/x/../oauth/client.json",
        "https://client.example.com/x/%2e%2e/oauth/client.json",
        "https://client.example.com/oauth%2Fclient.json",
        "https://client.example.com/oauth\\client.json",
        "https://client.example.com/oauth/client.json ",
        "https://client.example.com/oauth/client.json\r\nX: y",
        "https://CLIENT.example.com/oauth/client.json",
        "HTTPS://client.example.com/oauth/client.json",
        "https://client.example.com./oauth/client.json",
        "https://client..example.com/oauth/client.json",
        "https://cl\u0456ent.example.com/oauth/client.json",
        "https://localhost/oauth/client.json",
        "https://127.0.0.1/oauth/client.json",
        "https://2130706433/oauth/client.json",
        "https://0x7f.0.0.1/oauth/client.json",
        "https://[::1]/oauth/client.json",
        "https://client.example.com@evil.example/oauth/client.json",
        "https:/client.example.com/oauth/client.json",
        "https:///oauth/client.json",
        "https://",
        "https://client.example.com/" + "x" * 1024,
    ],
)
def test_a_url_in_any_other_form_is_not_even_resolved(oauth: OAuthTestClient, net: Internet, client_id: str) -> None:
    response = oauth.authorize(client_id)
    assert response.status_code == 400
    assert response.location is None
    response = oauth.redeem(client_id, "code")
    assert (response.status_code, response.get_json()["error"]) == (401, "invalid_client")
    assert net.resolved == []


def changed(**changes: Any) -> Answer:
    """Return the document with some members replaced, and those left out that are None."""
    members = {name: value for name, value in (DOCUMENT | changes).items() if value is not None}
    return respond_json(members)


@pytest.mark.parametrize(
    "answer",
    [
        changed(client_id="https://client.example.com/other.json"),
        changed(client_id=CLIENT + "/"),
        changed(client_id=CLIENT.upper()),
        changed(client_id=None),
        changed(client_name=None),
        changed(client_name="  "),
        changed(client_name=["x"]),
        changed(redirect_uris=None),
        changed(redirect_uris=[]),
        changed(redirect_uris=["javascript:alert(1)"]),
        changed(redirect_uris=["http://localhost.evil.com/"]),
        changed(client_secret="s"),
        changed(client_secret_expires_at=0),
        changed(token_endpoint_auth_method="client_secret_basic"),
        changed(token_endpoint_auth_method="client_secret_post"),
        changed(token_endpoint_auth_method="client_secret_jwt"),
        changed(token_endpoint_auth_method="private_key_jwt"),
        changed(token_endpoint_auth_method="tls_client_auth"),
        changed(token_endpoint_auth_method="private_key_jwt", jwks={"keys": []}),
        changed(token_endpoint_auth_method="private_key_jwt", jwks={"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}),
        changed(token_endpoint_auth_method="private_key_jwt", jwks_uri="https://127.0.0.1/jwks"),
        changed(token_endpoint_auth_method="private_key_jwt", jwks_uri="http://client.example.com/jwks"),
        changed(token_endpoint_auth_methods_supported=["private_key_jwt"], jwks_uri="https://127.0.0.1/jwks"),
        changed(client_name="x" * 201),
        changed(grant_types=["client_credentials"]),
        respond(b"[]"),
        respond(b"nonsense"),
        respond(b"\xff"),
        respond(b"[" * 4000),
        respond(json.dumps(DOCUMENT).encode()[:-1] + b', "client_id": "https://client.example.com/twice"}'),
        respond(b"{" + b'"x": NaN}'),
        respond(b"<html>", content_type="text/html"),
        respond(b"", status="302 Found", location="https://client.example.com/elsewhere"),
    ],
)
def test_a_document_that_breaks_a_rule_is_refused_everywhere_and_forgotten(
    oauth: OAuthTestClient, net: Internet, answer: Answer
) -> None:
    net.pages[PATH] = answer
    response = oauth.authorize(CLIENT)
    assert (response.status_code, response.mimetype) == (400, "text/html")
    assert "Location" not in response.headers
    response = oauth.redeem(CLIENT, "code")
    assert (response.status_code, response.get_json()["error"]) == (401, "invalid_client")
    net.pages[PATH] = respond_json(DOCUMENT)
    assert oauth.authorize(CLIENT).status_code == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"logo_uri": "", "contacts": [], "jwks": {"keys": []}, "grant_types": []},
        {"logo_uri": "data:image/png;base64,AAAA", "client_uri": {"en": "https://client.example.com/"}},
        {"jwks": {"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}},
        {"jwks_uri": "https://127.0.0.1/jwks"},
        {"token_endpoint_auth_signing_alg": "none"},
    ],
)
def test_members_of_no_use_are_ignored(oauth: OAuthTestClient, net: Internet, changes: dict[str, Any]) -> None:
    net.pages[PATH] = changed(**changes)
    assert oauth.redeem(CLIENT, oauth.obtain_code(CLIENT)).status_code == 200
    assert set(net.asked_for) == {PATH}


@pytest.mark.parametrize(
    ("answer", "status"),
    [(respond(b"", status="503 Busy"), 503), (respond(b"", status="404 Not Found"), 401)],
)
def test_a_document_that_is_only_out_of_reach_does_not_make_a_client_forget_its_login(
    oauth: OAuthTestClient, net: Internet, answer: Answer, status: int
) -> None:
    issued = log_in(oauth)
    with time_machine.travel(time.time() + 600):
        net.pages[PATH] = answer
        assert refresh(oauth, issued).status_code == status
        assert oauth.authorize(CLIENT).status_code == 400
        net.pages[PATH] = respond_json(DOCUMENT)
        assert refresh(oauth, issued).status_code == 200


def test_a_host_with_a_private_address_is_refused_without_a_word_of_the_address(
    oauth: OAuthTestClient, net: Internet
) -> None:
    net.addresses[HOST] = ("10.11.12.13",)
    response = oauth.authorize(CLIENT)
    assert response.status_code == 400
    assert "10.11.12.13" not in response.text
    assert net.connected == []


@pytest.mark.parametrize(
    ("headers", "age", "fetches"),
    [
        ({}, 299, 1),
        ({}, 301, 2),
        ({"cache_control": "public, max-age=60"}, 59, 1),
        ({"cache_control": "public, max-age=60"}, 61, 2),
        ({"cache_control": "max-age=60", "age": "50"}, 11, 2),
        ({"cache_control": "max-age=99999999"}, 24 * 3600 - 1, 1),
        ({"cache_control": "max-age=99999999"}, 24 * 3600 + 1, 2),
        ({"cache_control": "max-age=0"}, 0, 2),
        ({"cache_control": "no-cache, max-age=60"}, 0, 2),
        ({"cache_control": "no-store, max-age=60"}, 0, 2),
        ({"cache_control": "no-store", "Cache_Control": "public, max-age=60"}, 0, 2),  # on two lines
        ({"expires": "0"}, 0, 2),
        ({"expires": "Sat, 01 Jan 2050 00:00:00 GMT"}, 3600, 1),
    ],
)
def test_a_document_is_believed_as_long_as_its_headers_say_and_a_day_at_most(
    oauth: OAuthTestClient, net: Internet, headers: dict[str, str], age: int, fetches: int
) -> None:
    net.pages[PATH] = respond_json(DOCUMENT, **headers)
    with time_machine.travel(1_900_000_000, tick=False) as clock:
        assert oauth.authorize(CLIENT).status_code == 200
        clock.shift(age)
        assert oauth.authorize(CLIENT).status_code == 200
    assert net.asked_for == [PATH] * fetches


def test_a_stale_document_with_an_etag_is_asked_about_and_not_sent_again(oauth: OAuthTestClient, net: Internet) -> None:
    net.pages[PATH] = respond_json(DOCUMENT, etag='"v1"', cache_control="max-age=60")
    with time_machine.travel(1_900_000_000, tick=False) as clock:
        oauth.authorize(CLIENT)
        clock.shift(61)
        net.pages[PATH] = respond(b"", status="304 Not Modified", content_length="", cache_control="max-age=60")
        assert oauth.authorize(CLIENT).status_code == 200
        assert b'If-None-Match: "v1"' in net.requests[1]
        assert oauth.authorize(CLIENT).status_code == 200
        clock.shift(61)
        assert oauth.authorize(CLIENT).status_code == 200
        assert b'If-None-Match: "v1"' in net.requests[2]
    assert len(net.requests) == 3


def test_a_redirect_uri_that_the_document_has_dropped_gets_no_code_any_more(
    oauth: OAuthTestClient, net: Internet
) -> None:
    net.pages[PATH] = respond_json(DOCUMENT, cache_control="no-store")
    approved = oauth.decide(oauth.authorize(CLIENT))
    callback = oauth.log_in(approved)
    net.pages[PATH] = respond_json(DOCUMENT | {"redirect_uris": ["https://client.example.com/callback"]})
    response = oauth.follow(callback)
    assert response.status_code == 400
    assert response.location is None


def test_a_code_is_void_once_its_redirect_uri_is_dropped(oauth: OAuthTestClient, net: Internet) -> None:
    net.pages[PATH] = respond_json(DOCUMENT, cache_control="no-store")
    code = oauth.obtain_code(CLIENT)
    net.pages[PATH] = respond_json(DOCUMENT | {"redirect_uris": ["https://client.example.com/callback"]})
    assert oauth.redeem(CLIENT, code).get_json()["error"] == "invalid_grant"


def test_one_address_can_make_the_service_fetch_so_often_and_no_more(oauth: OAuthTestClient, net: Internet) -> None:
    net.pages[PATH] = respond_json(DOCUMENT, cache_control="no-store")
    statuses = [oauth.authorize(CLIENT).status_code for _ in range(32)]
    assert statuses == [200] * 30 + [429] * 2
    assert len(net.requests) == 30
    refused = oauth.authorize(CLIENT)
    assert 1 <= int(refused.headers["Retry-After"]) <= 60


def test_one_target_is_asked_so_often_and_no_more_whoever_wishes(oauth: OAuthTestClient, net: Internet) -> None:
    net.pages[PATH] = respond_json(DOCUMENT, cache_control="no-store")

    def authorize(number: int) -> int:
        return oauth.browser.get(
            "/authorize",
            query_string={"client_id": CLIENT},
            headers={"X-Real-Ip": f"198.51.100.{number}"},
            base_url=ISSUER,
        ).status_code

    assert [authorize(number) for number in range(32)][-2:] == [429, 429]
    assert len(net.requests) == 30


def use_up_what_the_host_may_be_asked(oauth: OAuthTestClient) -> None:
    def ask(number: int) -> int:
        return oauth.browser.get(
            "/authorize",
            query_string={"client_id": f"https://{HOST}/nothing/{number}"},
            headers={"X-Real-Ip": f"198.51.100.{number}"},
            base_url=ISSUER,
        ).status_code

    assert [ask(number) for number in range(31)][-1] == 429


def test_no_stranger_uses_up_what_a_client_that_users_have_needs(oauth: OAuthTestClient) -> None:
    tokens = oauth.redeem(CLIENT, oauth.obtain_code(CLIENT)).get_json()
    oauth.store.documents.drop(CLIENT)
    use_up_what_the_host_may_be_asked(oauth)
    refreshed = oauth.token(grant_type="refresh_token", client_id=CLIENT, refresh_token=tokens["refresh_token"])
    assert refreshed.status_code == 200
    assert oauth.authorize(CLIENT).status_code == 200


def test_no_strangers_slow_server_holds_up_a_client_that_users_have(oauth: OAuthTestClient, net: Internet) -> None:
    tokens = oauth.redeem(CLIENT, oauth.obtain_code(CLIENT)).get_json()
    oauth.store.documents.drop(CLIENT)
    net.pages["/slow"] = silence()
    with ThreadPoolExecutor(MAX_WAITING + 4) as pool:
        slow = [pool.submit(oauth.authorize, f"https://{HOST}/slow") for _ in range(MAX_WAITING + 4)]
        assert "too many documents" in next(as_completed(slow)).result().text
        refreshed = oauth.token(grant_type="refresh_token", client_id=CLIENT, refresh_token=tokens["refresh_token"])
        assert refreshed.status_code == 200
        net.close()


def test_a_client_that_no_user_has_shares_what_its_host_may_be_asked(oauth: OAuthTestClient) -> None:
    use_up_what_the_host_may_be_asked(oauth)
    assert oauth.authorize(CLIENT).status_code == 429


def test_a_client_that_users_have_is_fetched_within_a_bound_too(
    oauth: OAuthTestClient, net: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auth_service.oauth.client_lookup.KNOWN_FETCHES_PER_MINUTE", 3)
    oauth.redeem(CLIENT, oauth.obtain_code(CLIENT))
    net.pages[PATH] = respond_json(DOCUMENT, cache_control="no-store")
    oauth.store.documents.drop(CLIENT)
    assert [oauth.authorize(CLIENT).status_code for _ in range(4)] == [200] * 3 + [429]


def test_documents_do_not_pile_up(
    oauth: OAuthTestClient, net: Internet, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auth_service.storage.documents.MAX_DOCUMENTS", 5)
    for number in range(12):
        url = f"https://{HOST}/{number}"
        net.pages[f"/{number}"] = respond_json(DOCUMENT | {"client_id": url})
        assert oauth.authorize(url).status_code == 200
    with redis_server.client() as connection:
        assert len(list(connection.scan_iter("document:*"))) == 5
        assert connection.zcard("documents") == 5
        assert all(cast("int", connection.ttl(key)) > 0 for key in connection.scan_iter())


def test_a_slow_document_holds_some_requests_and_never_all(oauth: OAuthTestClient, net: Internet) -> None:
    net.pages[PATH] = silence()
    with ThreadPoolExecutor(MAX_WAITING + 4) as pool:
        answers = [pool.submit(oauth.authorize, CLIENT) for _ in range(MAX_WAITING + 4)]
        first = next(as_completed(answers)).result()
        assert "too many documents" in first.text
        assert oauth.authorize(oauth.register()["client_id"]).status_code == 200
        net.close()
    assert {answer.result().status_code for answer in answers} <= {400, 503}


class TestConfined:
    """A gateway whose operator names the hosts that may describe clients."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return Settings.model_validate(
            {**settings.model_dump(), "client_documents": {"allowed_hosts": ["other.example.com"]}}
        )

    def test_a_host_that_is_not_named_is_not_even_resolved(self, oauth: OAuthTestClient, net: Internet) -> None:
        assert oauth.authorize(CLIENT).status_code == 400
        assert net.resolved == []


class TestDisabled:
    """A gateway that fetches nothing for strangers."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return Settings.model_validate({**settings.model_dump(), "client_documents": {"enabled": False}})

    def test_such_clients_are_unknown_and_the_metadata_says_so(self, oauth: OAuthTestClient, net: Internet) -> None:
        metadata = oauth.browser.get("/.well-known/oauth-authorization-server", base_url=ISSUER).get_json()
        assert metadata["client_id_metadata_document_supported"] is False
        assert oauth.authorize(CLIENT).status_code == 400
        assert oauth.redeem(CLIENT, "code").status_code == 401
        assert net.resolved == []


def test_declining_goes_back_to_the_client(oauth: OAuthTestClient) -> None:
    answer = parameters_of(oauth.decide(oauth.authorize(CLIENT, redirect_uri=REDIRECT), "deny"))
    assert answer["error"] == "access_denied"
