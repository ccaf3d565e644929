"""Users of github.com and GitHub Enterprise Servers: the same ids and names mean different users."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jwt
import pytest
import redis

from auth_service.idp import provider_name
from auth_service.settings import GitHub, OpenIDConnect
from auth_service.storage.subject_renaming import MARKER, SubjectRenaming
from tests.conftest import RedisServer

from .conftest import ISSUER, REDIRECT, RESOURCE, OAuthTestClient, authorization_query

SERVER = "https://github.example.net"
NAMED = "github:github.example.net"
HTTPS_REDIRECT = "https://app.example.org/callback"
DIRECT = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}


@pytest.fixture
def connection(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://github.com", "github"),
        ("https://github.com:443", "github"),
        ("http://127.0.0.1:8081", "github"),
        ("http://localhost:8081", "github"),
        ("https://github.example.net", "github:github.example.net"),
        ("https://github.example.net:443", "github:github.example.net"),
        ("https://github.example.net:8443", "github:github.example.net:8443"),
        ("https://acme.ghe.com", "github:acme.ghe.com"),
        ("https://github.com.example.net", "github:github.com.example.net"),
    ],
)
def test_the_name_of_a_user_begins_with_the_server(url: str, name: str) -> None:
    assert provider_name(GitHub(type="github", client_id="app", url=url)) == name


def test_the_name_of_a_user_of_openid_connect_begins_with_the_issuer() -> None:
    settings = OpenIDConnect(type="oidc", client_id="app", issuer="https://login.example.com/")
    assert provider_name(settings) == "oidc:https://login.example.com/"


def use(oauth: OAuthTestClient, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go over to another server."""
    monkeypatch.setattr("tests.flows.conftest.GITHUB", url)
    oauth.reload(identity_provider={"url": url, "api_url": url})


def is_remembered(oauth: OAuthTestClient, client_id: str) -> bool:
    query = authorization_query(client_id, redirect_uri=HTTPS_REDIRECT)
    return oauth.browser.get("/authorize", query_string=query, headers=DIRECT, base_url=ISSUER).status_code == 303


def test_what_an_earlier_version_holds_of_an_enterprise_servers_users_goes_on(
    oauth: OAuthTestClient, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What earlier versions wrote is what this one writes for github.com.
    client_id = oauth.register(redirect_uris=[REDIRECT, HTTPS_REDIRECT])["client_id"]
    code = oauth.obtain_code(client_id, redirect_uri=HTTPS_REDIRECT)
    issued = oauth.redeem(client_id, code, redirect_uri=HTTPS_REDIRECT).get_json()
    before = {key: (connection.ttl(key), connection.type(key)) for key in connection.scan_iter()}
    assert SubjectRenaming(connection).name_servers(NAMED) == 5
    after = {key: (connection.ttl(key), connection.type(key)) for key in connection.scan_iter() if key != MARKER}
    assert {key.replace("github", NAMED): entry[1] for key, entry in before.items()} == {
        key: entry[1] for key, entry in after.items()
    }
    for key, (lifetime, _) in before.items():
        left = after[key.replace("github", NAMED)][0]
        assert (left == lifetime == -1) or abs(left - lifetime) <= 60
    use(oauth, SERVER, monkeypatch)
    assert "Inspector" in oauth.browser.get("/account", base_url=ISSUER).text, "the browser is still signed in"
    assert is_remembered(oauth, client_id)
    refreshed = oauth.token(
        grant_type="refresh_token", client_id=client_id, refresh_token=issued["refresh_token"]
    ).get_json()
    claims = jwt.decode(refreshed["access_token"], options={"verify_signature": False})
    assert claims["sub"] == f"{NAMED}:583231"
    assert oauth.store.pins.find(NAMED) == {"octocat": f"{NAMED}:583231"}
    assert oauth.store.pins.find("github") == {}
    assert [live.grant.sid for live in oauth.store.grants.find_of_user(f"{NAMED}:583231")] == [claims["sid"]]
    oauth.revocation.revoke_access(f"{NAMED}:583231", by="operator", client_id=client_id, resource_url=RESOURCE)
    assert oauth.store.grants.count() == 0


@pytest.mark.parametrize("first", ["https://github.com", SERVER])
def test_going_over_to_another_server_mixes_nobody_up(
    oauth: OAuthTestClient, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """The user of the same id and login at the other server is somebody else."""
    second = SERVER if first == "https://github.com" else "https://github.com"
    names = {"https://github.com": "github", SERVER: NAMED}
    use(oauth, first, monkeypatch)
    SubjectRenaming(connection).name_servers(names[first])
    client_id = oauth.register(redirect_uris=[REDIRECT, HTTPS_REDIRECT])["client_id"]
    code = oauth.obtain_code(client_id, redirect_uri=HTTPS_REDIRECT)
    issued = oauth.redeem(client_id, code, redirect_uri=HTTPS_REDIRECT).get_json()
    use(oauth, second, monkeypatch)
    assert SubjectRenaming(connection).name_servers(names[second]) == 0, "nobody is renamed a second time"
    oauth.browser = oauth.new_browser()
    oauth.obtain_code(client_id, redirect_uri=HTTPS_REDIRECT)
    assert oauth.store.pins.find(names[first]) == {"octocat": f"{names[first]}:583231"}
    assert oauth.store.pins.find(names[second]) == {"octocat": f"{names[second]}:583231"}
    assert len(oauth.store.grants.find_of_user(f"{names[second]}:583231")) == 1
    refused = oauth.token(grant_type="refresh_token", client_id=client_id, refresh_token=issued["refresh_token"])
    assert refused.get_json()["error"] == "invalid_grant"
    assert oauth.store.grants.find_of_user(f"{names[first]}:583231") == []


def test_of_all_who_start_at_once_one_renames(
    oauth: OAuthTestClient, redis_server: RedisServer, connection: redis.Redis
) -> None:
    for _ in range(5):
        oauth.obtain_code(oauth.register()["client_id"])

    def start(_: int) -> int:
        with redis_server.client() as own:
            return SubjectRenaming(own).name_servers(NAMED)

    with ThreadPoolExecutor(12) as pool:
        assert sorted(pool.map(start, range(12))) == [0] * 11 + [5]
    assert len(oauth.store.grants.find_of_user(f"{NAMED}:583231")) == 5
    assert not list(connection.scan_iter("*github:5*"))


def test_entries_written_meanwhile_are_merged_and_a_pin_stays_with_its_user(
    oauth: OAuthTestClient, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    client_id = oauth.register(redirect_uris=[REDIRECT, HTTPS_REDIRECT])["client_id"]
    oauth.obtain_code(client_id)
    use(oauth, SERVER, monkeypatch)
    oauth.browser = oauth.new_browser()
    oauth.obtain_code(client_id, redirect_uri=HTTPS_REDIRECT)
    connection.hset(f"pins:{NAMED}", "octocat", f"{NAMED}:1")
    SubjectRenaming(connection).name_servers(NAMED)
    assert len(oauth.store.grants.find_of_user(f"{NAMED}:583231")) == 2
    assert connection.zcard(f"sessions-of-user:{NAMED}:583231") == 2
    assert connection.hlen(f"approvals-of-user:{NAMED}:583231") == 2
    assert oauth.store.pins.find(NAMED) == {"octocat": f"{NAMED}:583231"}


def test_users_of_github_com_and_openid_connect_are_not_renamed(
    oauth: OAuthTestClient, connection: redis.Redis
) -> None:
    oauth.obtain_code(oauth.register(client_name='"sub": "github:1"')["client_id"])
    before = sorted(connection.scan_iter())
    for provider in ("github", "oidc:https://login.example.com"):
        assert SubjectRenaming(connection).name_servers(provider) == 0
        assert sorted(key for key in connection.scan_iter() if key != MARKER) == before
        connection.delete(MARKER)


def test_a_name_in_a_grant_is_no_subject(oauth: OAuthTestClient, connection: redis.Redis) -> None:
    name = '", "sub": "github:1'
    oauth.obtain_code(oauth.register(client_name=name)["client_id"])
    SubjectRenaming(connection).name_servers(NAMED)
    (live,) = oauth.store.grants.find_of_user(f"{NAMED}:583231")
    assert (live.grant.sub, live.grant.client_name) == (f"{NAMED}:583231", name)
