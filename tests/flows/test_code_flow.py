"""Authorization code flow, from registration to token, and the attacks on it."""

from __future__ import annotations

import dataclasses
import re
import time
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from urllib.parse import parse_qsl, urlsplit

import pytest
import time_machine
from werkzeug.test import TestResponse

from tests.browser import Form

from .conftest import GITHUB, ISSUER, REDIRECT, RESOURCE, OAuthTestClient, claims_of, form_token_of, parameters_of


def test_a_registered_client_gets_a_token_for_the_one_resource_it_asked_for(oauth: OAuthTestClient) -> None:
    client_id = oauth.register()["client_id"]
    page = oauth.authorize(client_id)
    assert "Inspector" in page.text
    answer = parameters_of(oauth.follow(oauth.log_in(oauth.decide(page))))
    assert (answer["state"], answer["iss"]) == ("client-state", ISSUER)
    response = oauth.redeem(client_id, answer["code"])
    assert response.headers["Cache-Control"] == "no-store"
    claims = claims_of(response)
    assert (claims["aud"], claims["sub"], claims["name"]) == (RESOURCE, "github:583231", "octocat")
    assert oauth.store.grants.find(claims["sid"]) is not None


def test_a_code_yields_one_token_to_a_hundred_who_redeem_it_at_once(oauth: OAuthTestClient) -> None:
    client_id = oauth.register()["client_id"]
    code = oauth.obtain_code(client_id)
    with ThreadPoolExecutor(100) as pool:
        statuses = list(pool.map(lambda _: oauth.redeem(client_id, code).status_code, range(100)))
    assert statuses.count(200) == 1
    assert statuses.count(400) == 99


def test_a_replayed_code_revokes_what_it_had_issued(oauth: OAuthTestClient) -> None:
    client_id = oauth.register()["client_id"]
    code = oauth.obtain_code(client_id)
    issued = oauth.redeem(client_id, code).get_json()
    assert oauth.redeem(client_id, code).get_json()["error"] == "invalid_grant"
    refreshed = oauth.token(grant_type="refresh_token", client_id=client_id, refresh_token=issued["refresh_token"])
    assert refreshed.get_json()["error"] == "invalid_grant"


def test_a_replay_is_noticed_after_the_code_has_expired_and_an_expired_code_yields_nothing(
    oauth: OAuthTestClient,
) -> None:
    client_id = oauth.register()["client_id"]
    stolen, unused = oauth.obtain_code(client_id), oauth.obtain_code(client_id)
    sid = sid_of(oauth.redeem(client_id, stolen))
    with time_machine.travel(time.time() + 61):
        assert oauth.redeem(client_id, stolen, code_verifier="w" * 43).get_json()["error"] == "invalid_grant"
        assert oauth.store.grants.find(sid) is not None
        for code in (unused, stolen):
            assert oauth.redeem(client_id, code).get_json()["error"] == "invalid_grant"
    assert oauth.store.grants.find(sid) is None


def test_a_resource_with_a_query_is_the_one_that_the_url_reaches(oauth: OAuthTestClient) -> None:
    client_id = oauth.register()["client_id"]
    pasted = f"{RESOURCE}?profile=work&utm_source=docs"
    code = oauth.obtain_code(client_id, resource=pasted)
    answer = oauth.redeem(client_id, code, resource=f"{RESOURCE}/?profile=home")
    assert claims_of(answer)["aud"] == RESOURCE


def sid_of(response: TestResponse) -> str:
    return str(claims_of(response)["sid"])


def test_one_without_the_verifier_can_neither_redeem_nor_spoil_a_code(oauth: OAuthTestClient) -> None:
    client_id = oauth.register()["client_id"]
    code = oauth.obtain_code(client_id)
    assert oauth.redeem(client_id, code, code_verifier="w" * 43).get_json()["error"] == "invalid_grant"
    assert oauth.redeem(client_id, code).status_code == 200
    assert oauth.redeem(client_id, code, code_verifier="w" * 43).get_json()["error"] == "invalid_grant"
    assert oauth.redeem(client_id, code).get_json()["error"] == "invalid_grant"


def test_another_client_can_not_redeem_a_code(oauth: OAuthTestClient) -> None:
    code = oauth.obtain_code(oauth.register()["client_id"])
    other = oauth.register()["client_id"]
    assert oauth.redeem(other, code).get_json()["error"] == "invalid_grant"


BAD_REQUESTS = [
    {"code_challenge": None},
    {"code_challenge_method": None},
    {"code_challenge_method": "plain"},
    {"response_type": "token"},
    {"response_type": "code token"},
    {"resource": "https://other.example.com/mcp"},
    {"resource": None},
    {"scope": "admin"},
    {"scope": "openid admin"},
]


@pytest.mark.parametrize(
    "scope", ["openid profile email offline_access", "offline_access", "openid mcp offline_access", "mcp admin"]
)
def test_scopes_that_mean_nothing_here_are_ignored_and_the_answer_says_what_was_granted(
    oauth: OAuthTestClient, scope: str
) -> None:
    client_id = oauth.register()["client_id"]
    answer = oauth.redeem(client_id, oauth.obtain_code(client_id, scope=scope), scope=scope)
    assert (answer.status_code, answer.get_json()["scope"]) == (200, "mcp")


@pytest.mark.parametrize("change", BAD_REQUESTS)
@pytest.mark.parametrize(
    ("redirect_uri", "place"),
    [
        ("https://evil.example/callback", "evil.example"),
        (REDIRECT, "the program at 127.0.0.1:33418 on this computer"),
        ("cursor://anysphere.cursor-mcp/oauth/callback", "Cursor"),
        ("com.example.app:/callback", "com.example.app"),
    ],
)
def test_a_bad_request_leads_nowhere_before_the_user_has_decided_anything(
    oauth: OAuthTestClient, redirect_uri: str, place: str, change: dict[str, str | None]
) -> None:
    """Anyone can register an address, and would have a link that begins with this gateway's name and leads there."""
    client_id = oauth.register(redirect_uris=[redirect_uri])["client_id"]
    page = oauth.authorize(client_id, redirect_uri=redirect_uri, **change)
    assert page.status_code == 400
    assert not {"Location", "Refresh"} & set(page.headers.keys())
    assert "http-equiv" not in page.text
    way_back = re.search(rf'<a class="button" href="([^"]+)">Go back to {re.escape(place)}</a>', page.text)
    assert way_back is not None
    assert unescape(way_back[1]).startswith(f"{redirect_uri}?error=")
    answer = dict(parse_qsl(urlsplit(unescape(way_back[1])).query, strict_parsing=True))
    assert "code" not in answer
    assert (answer["state"], answer["iss"]) == ("client-state", ISSUER)


@pytest.mark.parametrize("prompt", ["none", "login", "consent", "select_account"])
@pytest.mark.parametrize("redirect_uri", [REDIRECT, "https://evil.example/callback", "com.example.app:/callback"])
def test_no_prompt_makes_the_page_go_away(oauth: OAuthTestClient, redirect_uri: str, prompt: str) -> None:
    client_id = oauth.register(redirect_uris=[redirect_uri])["client_id"]
    page = oauth.authorize(client_id, redirect_uri=redirect_uri, prompt=prompt)
    assert page.status_code == 200
    assert page.location is None
    assert parameters_of(oauth.decide(page, "deny"))["error"] == "access_denied"


@pytest.mark.parametrize("decision", ["approve", "deny"])
def test_a_form_that_was_made_for_another_browser_leads_nowhere(oauth: OAuthTestClient, decision: str) -> None:
    page = oauth.authorize(oauth.register()["client_id"], resource="https://fetch.example.com/mcp")
    oauth.reload(resources={"fetch": None})  # so that the request is in error by now
    for browser, statuses in ((oauth.new_browser(), {400}), (oauth.browser, {303})):
        fields = Form(page.text).fields | {"decision": decision}
        answer = browser.post("/consent", data=fields, base_url=ISSUER)
        assert answer.status_code in statuses
        assert (answer.location is None) is (400 in statuses)


def test_what_could_once_be_registered_and_is_no_callback_leads_nowhere(oauth: OAuthTestClient) -> None:
    registered = oauth.register()
    client = oauth.store.clients.find(registered["client_id"])
    assert client is not None
    deep_link = "vscode://vscode.git/clone"
    metadata = client.metadata.model_copy(update={"redirect_uris": (deep_link,)})
    oauth.store.clients.update(dataclasses.replace(client, metadata=metadata))
    page = oauth.authorize(client.client_id, redirect_uri=deep_link)
    assert page.status_code == 400
    assert page.location is None
    assert "that is not allowed" in page.text
    assert f'href="{deep_link}' not in page.text


def test_a_website_gets_the_users_answer_at_once(oauth: OAuthTestClient) -> None:
    website = "https://client.example.com/callback"
    client_id = oauth.register(redirect_uris=[website])["client_id"]
    declined = oauth.decide(oauth.authorize(client_id, redirect_uri=website), "deny")
    assert parameters_of(declined)["error"] == "access_denied"
    approved = oauth.decide(oauth.authorize(client_id, redirect_uri=website))
    assert "code" in parameters_of(oauth.follow(oauth.log_in(approved)))
    refused = oauth.log_in(oauth.decide(oauth.authorize(client_id, redirect_uri=website)), "")
    assert parameters_of(oauth.follow(refused))["error"] == "access_denied"


@pytest.mark.parametrize(
    "redirect_uri",
    [
        "https://evil.example/",
        "http://localhost.evil.com/callback",
        "http://127.0.0.1:33418/other",
        "javascript:1",
    ],
)
def test_nothing_is_redirected_to_an_address_that_is_not_registered(oauth: OAuthTestClient, redirect_uri: str) -> None:
    response = oauth.authorize(oauth.register()["client_id"], redirect_uri=redirect_uri)
    assert response.status_code == 400
    assert response.location is None


def test_a_loopback_redirect_may_come_back_on_another_port(oauth: OAuthTestClient) -> None:
    page = oauth.authorize(oauth.register()["client_id"], redirect_uri=REDIRECT.replace("33418", "50000"))
    assert page.status_code == 200


def test_an_unknown_client_gets_a_page_at_authorize_and_401_at_token(oauth: OAuthTestClient) -> None:
    assert oauth.authorize("mcp_gone").status_code == 400
    response = oauth.redeem("mcp_gone", "code")
    assert (response.status_code, response.get_json()["error"]) == (401, "invalid_client")


def test_a_user_who_is_on_no_list_gets_no_code(oauth: OAuthTestClient) -> None:
    approved = oauth.decide(oauth.authorize(oauth.register()["client_id"]))
    response = oauth.follow(oauth.log_in(approved, "stranger"))
    assert response.status_code == 403
    assert response.location is None


def test_a_login_belongs_to_the_browser_that_approved_it(oauth: OAuthTestClient) -> None:
    approved = oauth.decide(oauth.authorize(oauth.register()["client_id"]))
    callback = oauth.log_in(approved)
    oauth.browser = oauth.new_browser()
    assert oauth.follow(callback).status_code == 400


def test_a_consent_form_is_good_in_the_browser_it_was_made_for_only(oauth: OAuthTestClient) -> None:
    page = oauth.authorize(oauth.register()["client_id"])
    oauth.browser = oauth.new_browser()
    assert oauth.decide(page).status_code == 400


def test_a_consent_form_sent_by_another_site_is_refused(oauth: OAuthTestClient) -> None:
    page = oauth.authorize(oauth.register()["client_id"])
    response = oauth.browser.post(
        "/consent",
        data={"ticket": form_token_of(page), "decision": "approve"},
        headers={"Sec-Fetch-Site": "cross-site"},
        base_url=ISSUER,
    )
    assert response.status_code == 400


def test_declining_tells_the_client(oauth: OAuthTestClient) -> None:
    answer = parameters_of(oauth.decide(oauth.authorize(oauth.register()["client_id"]), "deny"))
    assert answer["error"] == "access_denied"


def test_a_hostile_client_name_is_text_on_the_page(oauth: OAuthTestClient) -> None:
    page = oauth.authorize(oauth.register(client_name="<script>alert(1)</script>")["client_id"])
    assert "<script>" not in page.text
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]


def test_an_unknown_client_gets_told_what_to_do_in_each_application(oauth: OAuthTestClient) -> None:
    page = oauth.authorize("mcp_gone").text
    assert "is not known here" in page
    for application in ("Claude", "Claude Code", "ChatGPT", "Cursor", "VS Code", "mcp-remote", "MCP Inspector"):
        assert f"<dt>{application}</dt>" in page


@pytest.mark.parametrize(
    ("redirect_uri", "words"),
    [
        ("http://localhost:5000/x", ["A program on this computer", "localhost:5000", "just started this yourself"]),
        (
            "cursor://anysphere.cursor-mcp/oauth/callback",
            ["The program Cursor on this computer", "cursor://anysphere.cursor-mcp"],
        ),
        ("com.example.app:/callback", ["The program com.example.app on this computer", "just started this yourself"]),
        ("https://app.example.org:8443/x", ['<strong class="address">app.example.org:8443</strong>']),
    ],
)
def test_the_page_says_where_access_goes(oauth: OAuthTestClient, redirect_uri: str, words: list[str]) -> None:
    client_id = oauth.register(redirect_uris=[redirect_uri])["client_id"]
    page = oauth.authorize(client_id, redirect_uri=redirect_uri)
    assert all(each in page.text for each in words)


ONWARD = {"https:", "http://localhost:*", "http://127.0.0.1:*", "cursor:", "vscode:"}


@pytest.mark.parametrize(
    ("redirect_uri", "allowed", "onward"),
    [
        ("https://app.example.org:8443/x", "https://app.example.org:8443", ONWARD),
        ("http://127.0.0.1:33418/x", "http://127.0.0.1:33418", ONWARD),
        ("http://[::1]:33418/x", "http:", ONWARD),  # CSP has no IPv6 addresses
        ("cursor://anysphere.cursor-mcp/oauth/callback", "cursor:", set()),
        ("com.example.app:/callback", "com.example.app:", set()),
    ],
)
def test_the_policy_of_the_page_lets_the_answer_through_and_on_from_the_client(
    oauth: OAuthTestClient, redirect_uri: str, allowed: str, onward: set[str]
) -> None:
    client_id = oauth.register(redirect_uris=[redirect_uri])["client_id"]
    policy = oauth.authorize(client_id, redirect_uri=redirect_uri).headers["Content-Security-Policy"]
    sources = set(policy.partition("form-action ")[2].split(" "))
    assert {"'self'", GITHUB, allowed} | onward <= sources
    assert not {"*", "data:", "javascript:"} & sources
    assert ("http:" in sources) is ("[" in redirect_uri)
    assert ("vscode:" in sources) is bool(onward)


@pytest.mark.parametrize(
    "redirect_uri",
    [
        "com.example.app:///callback",
        "com.example.app://callback",
        "com.example.app:/callback",
        "https://client.example.com/?z=[1]",
    ],
)
def test_the_answer_reaches_the_very_uri_that_was_registered(oauth: OAuthTestClient, redirect_uri: str) -> None:
    client_id = oauth.register(redirect_uris=[redirect_uri])["client_id"]
    page = oauth.authorize(client_id, redirect_uri=redirect_uri)
    joint = "&" if "?" in redirect_uri else "?"
    assert oauth.follow(oauth.log_in(oauth.decide(page))).location.startswith(f"{redirect_uri}{joint}code=")
    assert oauth.decide(page, "deny").location.startswith(f"{redirect_uri}{joint}error=access_denied")
