"""A user allows exactly what the page showed: no change between the page and the token takes effect."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from werkzeug.test import TestResponse

from auth_service.oauth.client_authentication import JWT_BEARER
from auth_service.oauth.safe_fetch import SafeFetcher
from auth_service.ops.audit import Event
from auth_service.protocol import clients
from local import github
from tests.browser import Form
from tests.internet import Internet, internet, respond_json

from .conftest import FETCH, ISSUER, RESOURCE, AuditLog, OAuthTestClient, authorization_query, parameters_of

SHOWN = "https://claude.ai/api/mcp/auth_callback"
HOSTILE = "https://evil.example/callback"
HOST = "client.example.com"
PATH = "/oauth/client.json"
DOCUMENT_CLIENT = f"https://{HOST}{PATH}"
KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]


def jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    return {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "1"}


def assertion(client_id: str, key: ec.EllipticCurvePrivateKey, jti: str) -> dict[str, str]:
    """Return the parameters by which a client proves itself with a key."""
    claims = {"iss": client_id, "sub": client_id, "aud": ISSUER, "exp": int(time.time()) + 60, "jti": jti}
    proof = jwt.encode(claims, key, algorithm="ES256", headers={"kid": "1"})
    return {"client_assertion_type": JWT_BEARER, "client_assertion": proof}


class Client:
    """A client that says something else of itself whenever it likes."""

    def __init__(self, oauth: OAuthTestClient, metadata: dict[str, Any]) -> None:
        self.oauth = oauth
        self.registered = oauth.register(**metadata)
        self.id = str(self.registered["client_id"])

    def change(self, **changes: Any) -> None:
        """Say something else."""
        self.oauth.change_registration(self.registered, **changes)

    def delete(self) -> None:
        """Be gone."""
        self.oauth.delete_registration(self.registered)


class DocumentClient(Client):
    """One whose metadata document is never cached."""

    def __init__(self, oauth: OAuthTestClient, metadata: dict[str, Any], net: Internet) -> None:
        self.oauth, self.net, self.id = oauth, net, DOCUMENT_CLIENT
        self.document = {"client_id": DOCUMENT_CLIENT, "client_name": "Inspector", **metadata}
        self.change()

    def change(self, **changes: Any) -> None:
        """Say something else."""
        self.document |= changes
        members = {name: value for name, value in self.document.items() if value is not None}
        self.net.pages[PATH] = respond_json(members, cache_control="no-store")

    def delete(self) -> None:
        """Be gone."""
        del self.net.pages[PATH]


MakeClient = Callable[..., Client]


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Internet]:
    with internet(tmp_path, HOST) as made:
        yield made


@pytest.fixture
def fetcher(net: Internet) -> SafeFetcher:
    return net.fetcher(deadline=2)


@pytest.fixture(params=["registered", "document"])
def make_client(request: pytest.FixtureRequest, oauth: OAuthTestClient, net: Internet) -> MakeClient:
    """Clients of either kind."""

    def make(**changes: Any) -> Client:
        metadata = {"redirect_uris": [SHOWN], **changes}
        return Client(oauth, metadata) if request.param == "registered" else DocumentClient(oauth, metadata, net)

    return make


def open_page(oauth: OAuthTestClient, client: Client, **changes: str | None) -> TestResponse:
    """Open the consent page of a request that leaves the redirect URI to be known."""
    page = oauth.authorize(client.id, **({"redirect_uri": None} | changes))
    assert page.status_code == 200, page.text
    return page


def submit(oauth: OAuthTestClient, page: TestResponse, decision: str = "approve") -> TestResponse:
    """Send a page's form, whatever the page's status."""
    return oauth.browser.post("/consent", data=Form(page.text).fields | {"decision": decision}, base_url=ISSUER)


def retry_page(oauth: OAuthTestClient, page: TestResponse) -> TestResponse:
    oauth.stand_in.faults["/user"] = github.Fault(503)
    answer = oauth.follow(oauth.log_in(submit(oauth, page)))
    oauth.stand_in.faults.clear()
    assert "does not answer" in answer.text
    return answer


def not_allowed_page(oauth: OAuthTestClient, page: TestResponse) -> TestResponse:
    answer = oauth.follow(oauth.log_in(submit(oauth, page), "stranger"))
    assert answer.status_code == 403
    return answer


PAGES: dict[str, Callable[[OAuthTestClient, TestResponse], TestResponse]] = {
    "consent": lambda _, page: page,
    "retry": retry_page,
    "not-allowed": not_allowed_page,
}
CHANGES: dict[str, Callable[[Client], None]] = {
    "another redirect URI": lambda client: client.change(redirect_uris=[HOSTILE]),
    "one more redirect URI": lambda client: client.change(redirect_uris=[SHOWN, HOSTILE]),
    "another name": lambda client: client.change(client_name="Claude"),
    "another home page": lambda client: client.change(client_uri="https://evil.example/"),
    "gone": lambda client: client.delete(),
}


def assert_nothing_was_approved(oauth: OAuthTestClient, answer: TestResponse) -> None:
    """Check that the browser goes nowhere, and that the client holds nothing."""
    assert answer.location is None
    assert answer.status_code in {200, 400}
    assert oauth.store.grants.count() == 0


@pytest.mark.parametrize("decision", ["approve", "deny"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_a_client_that_changes_under_an_open_page_gets_no_answer_by_it(
    oauth: OAuthTestClient,
    make_client: MakeClient,
    page: Callable[[OAuthTestClient, TestResponse], TestResponse],
    change: Callable[[Client], None],
    decision: str,
) -> None:
    client = make_client()
    shown = page(oauth, open_page(oauth, client))
    change(client)
    assert_nothing_was_approved(oauth, submit(oauth, shown, decision))


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_a_client_that_stays_the_same_gets_its_code_from_every_page(
    oauth: OAuthTestClient, make_client: MakeClient, page: Callable[[OAuthTestClient, TestResponse], TestResponse]
) -> None:
    client = make_client()
    answer = oauth.follow(oauth.log_in(submit(oauth, page(oauth, open_page(oauth, client)))))
    assert answer.location.startswith(f"{SHOWN}?")
    code = parameters_of(answer)["code"]
    assert oauth.redeem(client.id, code, redirect_uri=SHOWN).status_code == 200


def test_a_user_who_decides_again_sees_and_allows_the_present_request(
    oauth: OAuthTestClient, audit_log: AuditLog
) -> None:
    client = Client(oauth, {"redirect_uris": [SHOWN]})
    page = open_page(oauth, client)
    client.change(client_name="Another name", redirect_uris=[SHOWN, HOSTILE])
    again = submit(oauth, page)
    assert "Another name" in again.text
    assert "Something has changed" in again.text
    assert "claude.ai" in again.text, "the address is the one that the first page showed"
    assert "evil" not in again.text
    (refused,) = audit_log.of(Event.CONSENT_REFUSED)
    assert refused["client"] == client.id
    assert oauth.follow(oauth.log_in(submit(oauth, again))).location.startswith(f"{SHOWN}?")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("moment", ["at the provider", "while the provider answers"])
def test_a_client_that_changes_during_the_login_gets_no_code(
    oauth: OAuthTestClient,
    make_client: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    change: Callable[[Client], None],
) -> None:
    client = make_client()
    callback = oauth.log_in(submit(oauth, open_page(oauth, client)))
    if moment == "at the provider":
        change(client)
    else:
        provider = oauth.app.extensions["gateway"].provider
        finish_login = provider.finish_login

        def finish_slowly(**parameters: str) -> Any:
            login = finish_login(**parameters)
            change(client)
            return login

        monkeypatch.setattr(provider, "finish_login", finish_slowly)
    assert_nothing_was_approved(oauth, oauth.follow(callback))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_client_that_changes_before_it_redeems_the_code_gets_no_token(
    oauth: OAuthTestClient, make_client: MakeClient, change: Callable[[Client], None]
) -> None:
    client = make_client()
    code = oauth.obtain_code(client.id, redirect_uri=None)
    change(client)
    assert oauth.redeem(client.id, code, redirect_uri=SHOWN).get_json()["error"] in {"invalid_grant", "invalid_client"}


def test_a_client_whose_keys_change_before_it_redeems_the_code_gets_no_token(make_client: MakeClient) -> None:
    client = make_client(token_endpoint_auth_method="private_key_jwt", jwks={"keys": [jwk(KEYS[0])]})
    code = client.oauth.obtain_code(client.id, redirect_uri=None)
    client.change(jwks={"keys": [jwk(KEYS[1])]})
    for number, key in enumerate(KEYS):
        answer = client.oauth.redeem(client.id, code, redirect_uri=SHOWN, **assertion(client.id, key, str(number)))
        assert answer.get_json()["error"] in {"invalid_grant", "invalid_client"}
    client.change(jwks={"keys": [jwk(KEYS[0])]})
    proof = assertion(client.id, KEYS[0], "as approved")
    assert client.oauth.redeem(client.id, code, redirect_uri=SHOWN, **proof).status_code == 200


def test_a_client_without_a_redirect_uri_in_its_request_gets_the_answer_where_the_page_said(
    oauth: OAuthTestClient,
) -> None:
    client = Client(oauth, {"redirect_uris": [SHOWN]})
    page = open_page(oauth, client)
    assert "claude.ai" in page.text
    declined = submit(oauth, page, "deny")
    assert declined.location.startswith(f"{SHOWN}?")
    assert parameters_of(declined)["error"] == "access_denied"


# How the client authenticates


def test_a_client_that_had_to_authenticate_when_it_was_allowed_has_to_until_the_grant_ends(
    oauth: OAuthTestClient, net: Internet
) -> None:
    by_key = {"token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": [jwk(KEYS[0])]}}
    client = DocumentClient(
        oauth, {"redirect_uris": [SHOWN], "grant_types": list(clients.GRANT_TYPES_SUPPORTED), **by_key}, net
    )
    code = oauth.obtain_code(client.id, redirect_uri=None)
    client.change(token_endpoint_auth_methods_supported=["none", "private_key_jwt"])
    assert oauth.redeem(client.id, code, redirect_uri=SHOWN).get_json()["error"] == "invalid_grant"
    client.change(token_endpoint_auth_methods_supported=None)
    proof = assertion(client.id, KEYS[0], "1")
    issued = oauth.redeem(client.id, code, redirect_uri=SHOWN, **proof).get_json()
    client.change(token_endpoint_auth_methods_supported=["none", "private_key_jwt"])
    refresh = {"grant_type": "refresh_token", "client_id": client.id, "refresh_token": issued["refresh_token"]}
    assert oauth.token(**refresh).get_json()["error"] == "invalid_grant"
    assert oauth.token(**refresh, **assertion(client.id, KEYS[0], "2")).status_code == 200


def test_a_client_without_authentication_may_begin_to_authenticate_while_a_grant_is_live(
    oauth: OAuthTestClient, net: Internet
) -> None:
    client = DocumentClient(oauth, {"redirect_uris": [SHOWN], "grant_types": list(clients.GRANT_TYPES_SUPPORTED)}, net)
    issued = oauth.redeem(client.id, oauth.obtain_code(client.id, redirect_uri=None), redirect_uri=SHOWN).get_json()
    client.change(token_endpoint_auth_method="private_key_jwt", jwks={"keys": [jwk(KEYS[0])]})
    refresh = {"grant_type": "refresh_token", "client_id": client.id, "refresh_token": issued["refresh_token"]}
    assert oauth.token(**refresh).get_json()["error"] == "invalid_client"
    assert oauth.token(**refresh, **assertion(client.id, KEYS[0], "1")).status_code == 200


def test_a_key_that_a_client_has_replaced_proves_nothing_any_more(oauth: OAuthTestClient) -> None:
    client = Client(
        oauth,
        {
            "redirect_uris": [SHOWN],
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks": {"keys": [jwk(KEYS[0])]},
        },
    )
    issued = oauth.redeem(
        client.id,
        oauth.obtain_code(client.id, redirect_uri=None),
        redirect_uri=SHOWN,
        **assertion(client.id, KEYS[0], "1"),
    ).get_json()
    client.change(jwks={"keys": [jwk(KEYS[1])]})
    refresh = {"grant_type": "refresh_token", "client_id": client.id, "refresh_token": issued["refresh_token"]}
    assert oauth.token(**refresh, **assertion(client.id, KEYS[0], "2")).get_json()["error"] == "invalid_client"
    assert oauth.token(**refresh, **assertion(client.id, KEYS[1], "3")).status_code == 200


# Who is signed in


def sign_in(oauth: OAuthTestClient, login: str) -> None:
    """Sign in, in place of the user who is signed in."""
    oauth.browser.delete_cookie("__Host-mcp-gateway-session", domain="auth.example.com")
    oauth.obtain_code(oauth.register()["client_id"], login=login)


@pytest.fixture
def two_users(oauth: OAuthTestClient) -> OAuthTestClient:
    oauth.reload(allowed={"users": ["octocat", "hubot"]})
    return oauth


def test_a_page_that_names_a_user_is_for_that_user_alone(two_users: OAuthTestClient) -> None:
    oauth = two_users
    sign_in(oauth, "octocat")
    client = Client(oauth, {"redirect_uris": [SHOWN]})
    page = open_page(oauth, client)
    assert "octocat" in page.text
    sign_in(oauth, "hubot")
    again = submit(oauth, page)
    assert again.location is None
    assert "Something has changed" in again.text
    assert "hubot" in again.text
    assert "code" in parameters_of(oauth.follow(oauth.log_in(submit(oauth, again), "hubot")))


def test_a_page_that_names_a_user_gets_no_code_by_another_ones_login(two_users: OAuthTestClient) -> None:
    oauth = two_users
    sign_in(oauth, "octocat")
    client = Client(oauth, {"redirect_uris": [SHOWN]})
    asked = oauth.follow(oauth.log_in(submit(oauth, open_page(oauth, client)), "hubot"))
    assert asked.location is None
    assert "You are now signed in as <bdi>hubot</bdi>" in asked.text
    assert not oauth.store.grants.find_of_user("github:480938", client_id=client.id)
    still = oauth.follow(oauth.log_in(submit(oauth, asked), "octocat"))
    assert still.location is None, "that page was for hubot"
    assert "code" in parameters_of(oauth.follow(oauth.log_in(submit(oauth, still), "octocat")))


def test_a_page_that_names_nobody_is_good_after_a_login_in_another_tab(oauth: OAuthTestClient) -> None:
    client = Client(oauth, {"redirect_uris": [SHOWN]})
    page = open_page(oauth, client)
    sign_in(oauth, "octocat")
    assert "code" in parameters_of(oauth.follow(oauth.log_in(submit(oauth, page))))


def test_a_page_that_names_a_user_who_has_signed_out_is_still_for_that_user(two_users: OAuthTestClient) -> None:
    oauth = two_users
    sign_in(oauth, "octocat")
    page = open_page(oauth, Client(oauth, {"redirect_uris": [SHOWN]}))
    oauth.store.sessions.end_all("github:583231")
    assert oauth.follow(oauth.log_in(submit(oauth, page), "hubot")).location is None
    assert "code" in parameters_of(oauth.follow(oauth.log_in(submit(oauth, page))))


def test_a_page_that_names_another_user_can_be_declined(two_users: OAuthTestClient) -> None:
    oauth = two_users
    sign_in(oauth, "octocat")
    page = open_page(oauth, Client(oauth, {"redirect_uris": [SHOWN]}))
    sign_in(oauth, "hubot")
    assert parameters_of(submit(oauth, page, "deny"))["error"] == "access_denied"


# What the operator changes, and loads by SIGHUP

RELOADS: dict[str, dict[str, Any]] = {
    "the server's name": {"title": "Production"},
    "what a scope means": {"scopes": {"mcp": {"description": "Delete everything"}}},
    "whether a scope is needed": {"scopes": {"mcp": {"description": "Use this server's tools", "required": False}}},
    "the server's address": {"url": "https://time.example.com/other"},
}


@pytest.mark.parametrize("change", RELOADS.values(), ids=RELOADS)
@pytest.mark.parametrize("moment", ["on the page", "at the provider"])
def test_a_server_that_changes_before_the_code_is_issued_is_shown_again(
    oauth: OAuthTestClient, moment: str, change: dict[str, Any]
) -> None:
    oauth.reload(resources={"time": {"scopes": {"mcp": {"description": "Use this server's tools"}}}})
    client = Client(oauth, {"redirect_uris": [SHOWN]})
    page = open_page(oauth, client)
    if moment == "on the page":
        oauth.reload(resources={"time": change})
        answer = submit(oauth, page)
    else:
        callback = oauth.log_in(submit(oauth, page))
        oauth.reload(resources={"time": change})
        answer = oauth.follow(callback)
    if "url" in change:
        # Nothing stands at the address that was shown, and so the client is told.
        assert parameters_of(answer)["error"] == "invalid_target"
    else:
        assert_nothing_was_approved(oauth, answer)


SCOPE_CHANGES: dict[str, dict[str, Any]] = {
    "one more": {"new": {"description": "Delete everything"}},
    "others in their place": {"new": {"description": "Delete everything"}, "mcp": None},
}


@pytest.mark.parametrize("change", SCOPE_CHANGES.values(), ids=SCOPE_CHANGES)
@pytest.mark.parametrize("moment", ["on the page", "at the provider"])
@pytest.mark.parametrize("scope", [None, "openid offline_access"])
def test_a_request_without_scopes_is_shown_again_with_those_that_the_server_has_by_now(
    oauth: OAuthTestClient, scope: str | None, moment: str, change: dict[str, Any]
) -> None:
    oauth.reload(resources={"time": {"scopes": {"mcp": {"description": "Use this server's tools"}}}})
    client = Client(oauth, {"redirect_uris": [SHOWN]})
    answer = open_page(oauth, client, scope=scope)
    if moment == "at the provider":
        callback = oauth.log_in(submit(oauth, answer))
        oauth.reload(resources={"time": {"scopes": change}})
        answer = oauth.follow(callback)
    else:
        oauth.reload(resources={"time": {"scopes": change}})
        answer = submit(oauth, answer)
    assert_nothing_was_approved(oauth, answer)
    assert "Something has changed" in answer.text
    assert "Delete everything" in answer.text
    code = parameters_of(oauth.follow(oauth.log_in(submit(oauth, answer))))["code"]
    assert "new" in oauth.redeem(client.id, code, redirect_uri=SHOWN).get_json()["scope"].split()


def test_a_request_for_a_scope_that_is_gone_is_refused(oauth: OAuthTestClient) -> None:
    oauth.reload(resources={"time": {"scopes": {"mcp": {"description": "Use this server's tools"}}}})
    client = Client(oauth, {"redirect_uris": [SHOWN]})
    page = open_page(oauth, client, scope="mcp")
    oauth.reload(resources={"time": {"scopes": SCOPE_CHANGES["others in their place"]}})
    refused = parameters_of(submit(oauth, page))
    assert (refused["error"], "new" in refused["error_description"]) == ("invalid_scope", True)
    assert oauth.store.grants.count() == 0


def test_a_request_for_one_scope_is_good_after_the_server_has_got_another(oauth: OAuthTestClient) -> None:
    oauth.reload(resources={"time": {"scopes": {"mcp": {"description": "Use this server's tools"}}}})
    client = Client(oauth, {"redirect_uris": [SHOWN]})
    page = open_page(oauth, client, scope="mcp")
    oauth.reload(resources={"time": {"scopes": SCOPE_CHANGES["one more"]}})
    code = parameters_of(oauth.follow(oauth.log_in(submit(oauth, page))))["code"]
    assert oauth.redeem(client.id, code, redirect_uri=SHOWN).get_json()["scope"] == "mcp"


def test_the_server_of_a_request_that_names_none_is_the_one_that_was_shown(oauth: OAuthTestClient) -> None:
    oauth.reload(default_resource="time")
    client = Client(oauth, {"redirect_uris": [SHOWN]})
    page = open_page(oauth, client, resource=None)
    assert RESOURCE in page.text
    oauth.reload(default_resource="fetch")
    code = parameters_of(oauth.follow(oauth.log_in(submit(oauth, page))))["code"]
    issued = oauth.redeem(client.id, code, redirect_uri=SHOWN).get_json()
    assert jwt.decode(issued["access_token"], options={"verify_signature": False})["aud"] == RESOURCE


def test_a_remembered_consent_is_not_good_for_what_has_another_meaning_by_now(oauth: OAuthTestClient) -> None:
    client = Client(oauth, {"redirect_uris": [SHOWN]})
    direct = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}
    query = {"query_string": authorization_query(client.id, redirect_uri=SHOWN), "headers": direct, "base_url": ISSUER}
    oauth.obtain_code(client.id, redirect_uri=SHOWN)
    assert oauth.browser.get("/authorize", **query).status_code == 303
    oauth.reload(resources={"time": {"scopes": {"mcp": {"description": "Delete everything"}}}})
    assert "Delete everything" in oauth.browser.get("/authorize", **query).text


# Users, scopes and servers that the operator removes


def log_in(oauth: OAuthTestClient, client_id: str) -> dict[str, Any]:
    body: dict[str, Any] = oauth.redeem(client_id, oauth.obtain_code(client_id)).get_json()
    return body


REMOVALS: dict[str, dict[str, Any]] = {
    "the user from the list": {"allowed": {"users": ["hubot"]}},
    "everyone from the server's own list": {"resources": {"time": {"allowed": {"users": []}}}},
    "the server": {"resources": {"time": None}},
    "the scope": {"resources": {"time": {"scopes": {"other": {"description": "Something else"}, "mcp": None}}}},
}


@pytest.mark.parametrize("removal", REMOVALS.values(), ids=REMOVALS)
def test_a_removed_user_server_or_scope_yields_no_token_for_a_code(
    oauth: OAuthTestClient, removal: dict[str, Any]
) -> None:
    client_id = oauth.register()["client_id"]
    oauth.reload(resources={"time": {"scopes": {"mcp": {"description": "Use this server's tools"}}}})
    code = oauth.obtain_code(client_id)
    oauth.reload(**removal)
    assert oauth.redeem(client_id, code).get_json()["error"] == "invalid_grant"


@pytest.mark.parametrize("removal", REMOVALS.values(), ids=REMOVALS)
def test_a_removed_user_server_or_scope_yields_no_token_for_a_refresh(
    oauth: OAuthTestClient, removal: dict[str, Any]
) -> None:
    client_id = oauth.register()["client_id"]
    oauth.reload(resources={"time": {"scopes": {"mcp": {"description": "Use this server's tools"}}}})
    issued = log_in(oauth, client_id)
    oauth.reload(**removal)
    refreshed = oauth.token(grant_type="refresh_token", client_id=client_id, refresh_token=issued["refresh_token"])
    assert refreshed.get_json()["error"] == "invalid_grant"


def test_a_member_of_an_organization_redeems_without_asking_the_provider_again(oauth: OAuthTestClient) -> None:
    oauth.reload(allowed={"users": [], "organizations": ["acme"]})
    client_id = oauth.register()["client_id"]
    code = oauth.obtain_code(client_id, login="hubot")
    oauth.stand_in.faults["/user"] = github.Fault(503)
    assert oauth.redeem(client_id, code).status_code == 200


def test_a_scope_that_is_removed_leaves_the_next_token(oauth: OAuthTestClient) -> None:
    scopes = {"mcp": {"description": "Read"}, "set": {"description": "Set", "required": False}}
    oauth.reload(resources={"time": {"scopes": scopes}})
    client_id = oauth.register()["client_id"]
    code = oauth.obtain_code(client_id, scope="mcp set")
    oauth.reload(resources={"time": {"scopes": {"set": None}}})
    issued = oauth.redeem(client_id, code).get_json()
    assert issued["scope"] == "mcp"
    oauth.reload(resources={"time": {"scopes": {"set": scopes["set"]}}})
    refresh = {"grant_type": "refresh_token", "client_id": client_id, "refresh_token": issued["refresh_token"]}
    assert oauth.token(**refresh).get_json()["scope"] == "mcp set"


def test_a_server_that_only_gets_another_name_keeps_its_tokens(oauth: OAuthTestClient) -> None:
    client_id = oauth.register()["client_id"]
    code = oauth.obtain_code(client_id)
    backend = {"url": RESOURCE, "backends": ["http://127.0.0.1:9001/mcp"]}
    oauth.reload(resources={"time": None, "clock": backend})
    issued = oauth.redeem(client_id, code).get_json()
    refreshed = oauth.token(grant_type="refresh_token", client_id=client_id, refresh_token=issued["refresh_token"])
    assert refreshed.status_code == 200


def test_two_servers_that_swap_their_names_keep_their_tokens_apart(oauth: OAuthTestClient) -> None:
    client_id = oauth.register()["client_id"]
    page = oauth.authorize(client_id)
    oauth.reload(resources={"time": {"url": FETCH}, "fetch": {"url": RESOURCE}})
    answer = oauth.decide(page)
    assert answer.location is None, "the server at that address has another name now"
    code = parameters_of(oauth.follow(oauth.log_in(oauth.decide(answer))))["code"]
    issued = oauth.redeem(client_id, code).get_json()
    assert jwt.decode(issued["access_token"], options={"verify_signature": False})["aud"] == RESOURCE
