"""The authorization server's endpoints at the host of an MCP server, where some clients look for them."""

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.test import TestResponse

from auth_service.ops.audit import Event
from auth_service.settings import Settings

from .conftest import ISSUER, REDIRECT, VERIFIER, AuditLog, OAuthTestClient, authorization_query

SERVER = "https://time.example.com"
ISSUER_PATH = "https://time.example.com/auth"


def register_at(oauth: OAuthTestClient, host: str) -> Any:
    body = {
        "redirect_uris": [REDIRECT],
        "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code", "refresh_token"],
    }
    response = oauth.browser.post("/register", json=body, base_url=host)
    assert response.status_code == 201, response.text
    return response.get_json()


def post(oauth: OAuthTestClient, path: str, **form: str) -> TestResponse:
    return oauth.app.test_client().post(path, data=form, base_url=SERVER)


def redeem_at_the_server(oauth: OAuthTestClient, client_id: str, code: str) -> Any:
    response = post(
        oauth,
        "/token",
        grant_type="authorization_code",
        client_id=client_id,
        code=code,
        redirect_uri=REDIRECT,
        code_verifier=VERIFIER,
    )
    assert response.status_code == 200, response.text
    return response.get_json()


def test_a_client_registers_logs_in_and_ends_its_grant_at_the_servers_host(oauth: OAuthTestClient) -> None:
    client = register_at(oauth, SERVER)
    assert client["registration_client_uri"].startswith(f"{ISSUER}/register/")
    there = oauth.browser.get("/authorize", query_string=authorization_query(client["client_id"]), base_url=SERVER)
    assert there.status_code == 303
    approved = oauth.decide(oauth.follow(there.location))
    code = oauth.follow(oauth.log_in(approved)).location.split("code=")[1].split("&")[0]
    tokens = redeem_at_the_server(oauth, client["client_id"], code)
    refreshed = post(
        oauth,
        "/token",
        grant_type="refresh_token",
        client_id=client["client_id"],
        refresh_token=tokens["refresh_token"],
    )
    assert refreshed.status_code == 200
    again = refreshed.get_json()["refresh_token"]
    assert post(oauth, "/revoke", client_id=client["client_id"], token=again).status_code == 200
    assert (
        oauth.token(grant_type="refresh_token", client_id=client["client_id"], refresh_token=again).get_json()["error"]
        == "invalid_grant"
    )


@pytest.mark.parametrize("path", ["/register", "/token", "/revoke"])
def test_endpoints_at_the_servers_host_answer_browser_clients_as_the_issuers_do(
    oauth: OAuthTestClient, path: str
) -> None:
    here, there = (oauth.browser.options(path, base_url=host) for host in (ISSUER, SERVER))
    assert there.headers["Access-Control-Allow-Origin"] == "*"
    assert (there.status_code, dict(there.headers)) == (here.status_code, dict(here.headers))


def test_the_servers_host_shows_no_page_and_passes_the_whole_request_on(
    oauth: OAuthTestClient, audit_log: AuditLog
) -> None:
    query = "client_id=a%26b&state=%0d%0aX:+y&redirect_uri=https://evil.example/&x=%C3%A9&x=2"
    response = oauth.browser.get(f"/authorize?{query}", base_url=SERVER)
    assert (response.status_code, response.location) == (303, f"{ISSUER}/authorize?{query}")
    assert "Set-Cookie" not in response.headers
    assert response.headers["Cache-Control"] == "no-store"
    assert oauth.browser.get("/authorize", base_url=SERVER).location == f"{ISSUER}/authorize"
    assert audit_log.of(Event.AUTHORIZATION_REFUSED) == []


@pytest.mark.parametrize("host", ["auth.example.com", "auth.example.com:8443", "AUTH.EXAMPLE.COM:443"])
def test_the_issuers_page_is_shown_whatever_port_the_host_header_names(oauth: OAuthTestClient, host: str) -> None:
    client = oauth.register()["client_id"]
    headers = {"Host": host}
    page = oauth.browser.get("/authorize", query_string=authorization_query(client), headers=headers, base_url=ISSUER)
    assert page.status_code == 200


@pytest.mark.parametrize("host", ["auth.example.com.evil.example", "evil.example", "[", "auth.example.com@evil"])
def test_any_other_host_is_sent_to_the_issuer_and_nowhere_else(oauth: OAuthTestClient, host: str) -> None:
    response = oauth.browser.get("/authorize?state=s", headers={"Host": host}, base_url=ISSUER)
    assert response.status_code in {303, 400}
    assert response.location in {f"{ISSUER}/authorize?state=s", None}


def test_quotas_are_shared_by_all_hosts(oauth: OAuthTestClient, settings: Settings) -> None:
    limit = settings.limits.token_requests_per_minute
    client = oauth.register()["client_id"]
    statuses = [
        oauth.app.test_client()
        .post("/token", data={"grant_type": "refresh_token", "client_id": client}, base_url=host)
        .status_code
        for host in (ISSUER, SERVER) * (limit // 2 + 1)
    ]
    assert statuses[:limit] == [400] * limit
    assert set(statuses[limit:]) == {429}


class TestIssuerWithPath:
    """The issuer is a path of a server's host."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return Settings.model_validate({**settings.model_dump(), "issuer": ISSUER_PATH})

    def test_the_roots_of_all_hosts_lead_to_it(self, oauth: OAuthTestClient) -> None:
        for host in (SERVER, "https://fetch.example.com"):
            assert register_at(oauth, host)["registration_client_uri"].startswith(f"{ISSUER_PATH}/register/")
            assert oauth.browser.get("/authorize?x=1", base_url=host).location == f"{ISSUER_PATH}/authorize?x=1"
            answer = oauth.browser.post("/token", base_url=host)
            assert (answer.status_code, answer.get_json()["error"]) == (400, "invalid_request")
            assert oauth.browser.options("/token", base_url=host).status_code == 200

    def test_pages_are_at_its_path_alone(self, oauth: OAuthTestClient) -> None:
        client = register_at(oauth, SERVER)["client_id"]
        query = authorization_query(client)
        assert oauth.browser.get("/auth/authorize", query_string=query, base_url=SERVER).status_code == 200
        assert oauth.browser.get("/consent", base_url=SERVER).status_code == 404
        assert oauth.browser.get("/account", base_url=SERVER).status_code == 404


@pytest.mark.parametrize(
    "host", ["time.example.com", "time.example.com:443", "time.example.com:8443", "TIME.example.com:80"]
)
@pytest.mark.parametrize("path", ["", "/mcp"])
def test_a_resource_is_described_whatever_port_the_host_header_names(
    oauth: OAuthTestClient, host: str, path: str
) -> None:
    url = f"/.well-known/oauth-protected-resource{path}"
    document = oauth.browser.get(url, headers={"Host": host}).get_json()
    assert (document["resource"], document["authorization_servers"]) == (f"{SERVER}/mcp", [ISSUER])


@pytest.mark.parametrize("host", ["evil.example", "time.example.com.evil.example", "[", "evil.example:443", ""])
def test_no_resource_is_described_at_a_host_of_another_name(oauth: OAuthTestClient, host: str) -> None:
    answer = oauth.browser.get("/.well-known/oauth-protected-resource/mcp", headers={"Host": host})
    assert answer.status_code in {400, 404}


class TestServersOnTwoPorts:
    """Two servers whose hosts differ by the port alone."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        resources = {
            "one": {"url": "https://mcp.example.com:8443/mcp", "backends": ["http://127.0.0.1:9001/mcp"]},
            "two": {"url": "https://mcp.example.com:9443/mcp", "backends": ["http://127.0.0.1:9002/mcp"]},
            "three": {"url": "https://mcp.example.com:9443/other", "backends": ["http://127.0.0.1:9003/mcp"]},
        }
        return Settings.model_validate({**settings.model_dump(), "resources": resources})

    @pytest.mark.parametrize(
        ("host", "path", "url"),
        [
            ("mcp.example.com:8443", "/mcp", "https://mcp.example.com:8443/mcp"),
            ("mcp.example.com:9443", "/mcp", "https://mcp.example.com:9443/mcp"),
            ("mcp.example.com", "/other", "https://mcp.example.com:9443/other"),
            ("mcp.example.com", "/mcp", None),
            ("mcp.example.com:8443", "", "https://mcp.example.com:8443/mcp"),
        ],
    )
    def test_the_port_counts_where_the_name_alone_does_not_tell(
        self, oauth: OAuthTestClient, host: str, path: str, url: str | None
    ) -> None:
        answer = oauth.browser.get(f"/.well-known/oauth-protected-resource{path}", headers={"Host": host})
        assert answer.status_code == (200 if url else 404)
        assert url is None or answer.get_json()["resource"] == url
