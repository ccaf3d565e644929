"""settings.json and the credentials: what is accepted, and the one line that an operator reads otherwise."""

from __future__ import annotations

import copy
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from auth_service.app.traefik.names import AUTHORIZATION_PATHS
from auth_service.settings import (
    OWN_PATHS,
    AllowList,
    Credentials,
    OpenIDConnect,
    Settings,
    SettingsError,
    TrustedIssuer,
    is_loopback_host,
    load_credentials,
    load_settings,
)
from auth_service.settings.values import PublicUrl

if TYPE_CHECKING:
    from pathlib import Path

TRACING: dict[str, Any] = {"endpoint": "http://127.0.0.1:4318/v1/traces"}
MINIMAL: dict[str, Any] = {
    "issuer": "https://mcp.example.com",
    "identity_provider": {"type": "github", "client_id": "Iv1.abc"},
    "redis_url": "unix:///run/redis/redis.sock",
    "state_directory": "/var/lib/mcp-oauth-gateway",
    "router": {"entry_points": ["websecure"], "tls": True},
    "resources": {"time": {"url": "https://time.mcp.example.com/mcp", "backends": ["http://127.0.0.1:9001/mcp"]}},
}

OIDC: dict[str, Any] = {"type": "oidc", "issuer": "https://login.example.com/", "client_id": "gateway"}


def settings_with(path: str, value: object) -> dict[str, Any]:
    """Return the minimal settings with the member at the dotted path set."""
    document = copy.deepcopy(MINIMAL)
    *parents, last = path.split(".")
    target = document
    for parent in parents:
        target = target.setdefault(parent, {})
    target[last] = value
    return document


def load(tmp_path: Path, document: object) -> Settings:
    path = tmp_path / "settings.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return load_settings(path)


def app(*callbacks: str) -> dict[str, Any]:
    """Return the settings of an application with a scheme of its own."""
    return {"name": "My App", "callbacks": list(callbacks)}


def test_an_application_is_known_by_its_scheme_and_its_callbacks(tmp_path: Path) -> None:
    callbacks = ("myapp://oauth/callback", "myapp://mcp.v1/a~b/_c.d")
    settings = load(tmp_path, settings_with("clients.redirect_schemes", {"myapp": app(*callbacks)}))
    assert settings.clients.redirect_schemes["myapp"].callbacks == callbacks


def test_minimal_settings_are_enough(tmp_path: Path) -> None:
    settings = load(tmp_path, MINIMAL)
    assert settings.resources["time"].url == "https://time.mcp.example.com/mcp"
    assert settings.allowed == AllowList()
    assert settings.default_resource is None


@pytest.mark.parametrize("ratio", [0, 0.25, 1])
def test_a_collector_is_a_url_and_a_ratio(tmp_path: Path, ratio: float) -> None:
    tracing = load(tmp_path, settings_with("tracing", TRACING | {"sample_ratio": ratio})).tracing
    assert tracing is not None
    assert (tracing.endpoint, tracing.sample_ratio) == (TRACING["endpoint"], ratio)


def test_a_provider_of_openid_connect_has_groups_and_no_organizations(tmp_path: Path) -> None:
    document = settings_with("identity_provider", OIDC) | {"allowed": {"groups": ["staff"]}}
    settings = load(tmp_path, document)
    assert settings.allowed.groups == ("staff",)
    scopes: dict[str, Any] = {
        "write": {"description": "Write", "allowed": {"groups": ["writers"]}},
        "all": {"description": "All"},
    }
    document["resources"]["time"]["scopes"] = scopes
    assert load(tmp_path, document).allow_lists == {
        "allowed": AllowList(groups=("staff",)),
        "resources.time.scopes.write.allowed": AllowList(groups=("writers",)),
    }
    scopes["write"]["allowed"] = {"organizations": ["acme"]}
    with pytest.raises(SettingsError, match=r"resources\.time\.scopes\.write\.allowed\.organizations: identity"):
        load(tmp_path, document)
    del document["resources"]["time"]["scopes"]
    assert isinstance(settings.identity_provider, OpenIDConnect)
    assert settings.identity_provider.issuer == "https://login.example.com/"
    with pytest.raises(SettingsError, match=r"allowed\.organizations: identity provider oidc has none"):
        load(tmp_path, document | {"allowed": {"organizations": ["acme"]}})


def test_a_loopback_issuer_may_use_http_and_a_stand_in(tmp_path: Path) -> None:
    document = settings_with("identity_provider.url", "http://127.0.0.1:5000")
    document["issuer"] = "http://localhost:8080"
    document["resources"]["time"]["url"] = "http://localhost:8080/time/mcp"
    assert load(tmp_path, document).is_loopback


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("isuer", "https://mcp.example.com", "isuer: Extra inputs are not permitted"),
        ("redis_url", "http://127.0.0.1:6379", "redis_url: must begin with unix://"),
        ("redis_url", "redis+sentinel://a:1,b/gateway", "redis_url: must begin with unix://"),
        ("redis_url", "redis+sentinel://a:1", "redis_url: must begin with unix://"),
        ("redis_url", "redis://:secret@127.0.0.1:6379", "redis_url: must hold no password"),
        ("router.trusted_proxies", ["10.0.0.1/8"], "router.trusted_proxies.0: 10.0.0.1/8 has host bits set"),
        ("limits.rates", {"token": {"average": 0, "burst": 1}}, "limits.rates.token.average: "),
        ("limits.rates", {"tokens": {"average": 1, "burst": 1}}, "limits.rates.tokens: Extra inputs"),
        ("identity_provider.secret", "x", "identity_provider.secret: Extra inputs"),
        ("resources.time.backend", "x", "resources.time.backend: Extra inputs"),
        ("workers", "2", "workers: Input should be a valid integer"),
        ("workers", 0, "workers: "),
        ("lifetimes.authorization_code", 61, "lifetimes.authorization_code: "),
        ("issuer", "http://mcp.example.com", "issuer: must be https"),
        ("issuer", "http://localhost.evil.com", "issuer: must be https"),
        ("issuer", "https://mcp.example.com/", "issuer: must not end with a slash"),
        ("issuer", "https://MCP.example.com", "issuer: must be in canonical form"),
        ("issuer", "https://user@mcp.example.com", "issuer: must have no user"),
        ("issuer", "https://mcp.example.com?x=1", "issuer: must have no user, password, query"),
        ("issuer", "https://mcp.example.com#", "issuer: must have no user, password, query"),
        ("issuer", "http://local\thost", "issuer: must hold visible ASCII characters only"),
        ("issuer", "https://\uff4dcp.example.com", "issuer: must hold visible ASCII characters only"),
        ("issuer", "https://mcp.example.com:port", "issuer: "),
        ("issuer", "ftp://mcp.example.com", "issuer: must be an absolute http or https URL"),
        ("resources", {}, "resources: "),
        ("resources.time.url", "https://time.mcp.example.com", "resources.time: url must have a path"),
        ("resources.time.url", "http://10.0.0.5/mcp", "resources.time.url: must be https"),
        # Clients and Traefik read these as `/callback`, or as a rule of the router.
        *(
            ("resources.time.url", f"https://mcp.example.com{path}", "resources.time.url: must have no dot segment")
            for path in ("/x/../callback", "/./mcp", "/..", "/%63allback", "/x/%2e%2e/callback", "/x`)||Path(`/token")
        ),
        ("issuer", "https://mcp.example.com/x/../auth", "issuer: must have no dot segment"),
        ("resources.time.backends", [], "resources.time: must have either backends or replicas"),
        ("resources.time.replicas", {"a": "http://127.0.0.1:2/mcp"}, "must have either backends or replicas"),
        ("resources.time.replicas", {"a.b": "http://127.0.0.1:2/mcp"}, "resources.time.replicas.a.b"),
        ("resources.time.scopes", {"a b": {"description": "x"}}, "resources.time.scopes.a b"),
        ("resources.time.scopes", {"offline_access": {"description": "x"}}, "scopes must not contain offline_access"),
        (
            "clients.redirect_schemes",
            {"https": app("https://x/y")},
            "redirect_schemes.https: is no application's scheme",
        ),
        ("clients.redirect_schemes", {"javascript": app("javascript://x/y")}, "javascript: is no application's scheme"),
        ("clients.redirect_schemes", {"MyApp": app("MyApp://x/y")}, "clients.redirect_schemes.MyApp"),
        ("clients.redirect_schemes", {"myapp": app()}, "clients.redirect_schemes.myapp.callbacks"),
        ("clients.redirect_schemes", {"myapp": app("myapp:")}, "must be myapp://HOST/PATH"),
        ("clients.redirect_schemes", {"myapp": app("myapp://")}, "must be myapp://HOST/PATH"),
        ("clients.redirect_schemes", {"myapp": app("myapp://callback")}, "must be myapp://HOST/PATH"),
        ("clients.redirect_schemes", {"myapp": app("myapp://callback/")}, "must be myapp://HOST/PATH"),
        ("clients.redirect_schemes", {"myapp": app("myapp:///callback")}, "must be myapp://HOST/PATH"),
        ("clients.redirect_schemes", {"myapp": app("myapp://x/y?z=1")}, "must be myapp://HOST/PATH"),
        ("clients.redirect_schemes", {"myapp": app("myapp://x/../y")}, "must be myapp://HOST/PATH"),
        ("clients.redirect_schemes", {"myapp": app("myapp://x/%2e/y")}, "must be myapp://HOST/PATH"),
        ("clients.redirect_schemes", {"myapp": app("myapp://u@x/y")}, "must be myapp://HOST/PATH"),
        ("clients.redirect_schemes", {"myapp": app("other://x/y")}, "must be myapp://HOST/PATH"),
        ("clients.redirect_schemes", {"myapp": app("myapp://x/y", "myapp://x/*")}, "must be myapp://HOST/PATH"),
        ("resources.Time", MINIMAL["resources"]["time"], "resources.Time"),
        (
            "resources.again",
            MINIMAL["resources"]["time"],
            "resources.again.url is already the URL of resources.time",
        ),
        (
            "resources.below",
            {**MINIMAL["resources"]["time"], "url": f"{MINIMAL['resources']['time']['url']}/notes"},
            "resources.below.url lies below that of resources.time",
        ),
        ("default_resource", "wiki", "default_resource names no resource: wiki"),
        ("identity_provider.url", "http://127.0.0.1:5000", "identity_provider.url is a loopback stand-in"),
        ("allowed.teams", ["acme"], "allowed.teams.0"),
        ("allowed.groups", ["staff"], "allowed.groups: identity provider github has none"),
        ("resources.time.allowed", {"groups": ["staff"]}, "resources.time.allowed.groups: identity provider github"),
        (
            "resources.time.scopes",
            {"write": {"description": "Write", "allowed": {"groups": ["staff"]}}},
            "resources.time.scopes.write.allowed.groups: identity provider github has none",
        ),
        (
            "resources.time.scopes",
            {"write": {"description": "Write", "allowed": {"teams": ["acme"]}}},
            "resources.time.scopes.write.allowed.teams.0",
        ),
        ("identity_provider", {"type": "saml", "client_id": "x"}, "identity_provider: "),
        ("identity_provider", OIDC | {"issuer": "http://login.example.com"}, "identity_provider.issuer: must be https"),
        (
            "identity_provider",
            OIDC | {"issuer": "https://login.example.com//"},
            "identity_provider.issuer: must not end",
        ),
        (
            "identity_provider",
            OIDC | {"issuer": "http://127.0.0.1:1"},
            "identity_provider.issuer is a loopback stand-in",
        ),
        ("identity_provider", OIDC | {"scopes": ["profile"]}, "identity_provider: scopes must contain openid"),
        (
            "identity_provider",
            OIDC | {"authorization_parameters": {"state": "x"}},
            "identity_provider: authorization_parameters may not set state",
        ),
        ("limits.registrations_per_hour", 0, "limits.registrations_per_hour: "),
        ("tracing", {}, "tracing.endpoint: "),
        ("tracing", {"endpoint": "127.0.0.1:4318"}, "tracing.endpoint: must be an absolute http"),
        ("tracing", {"endpoint": "http://127.0.0.1:4318"}, "tracing.endpoint: must have a path"),
        ("tracing", {"endpoint": "http://token@127.0.0.1:4318/v1/traces"}, "tracing.endpoint: must have no user"),
        ("tracing", TRACING | {"sample_ratio": 1.1}, "tracing.sample_ratio: "),
        ("tracing", TRACING | {"sample_ratio": -0.1}, "tracing.sample_ratio: "),
        ("tracing", TRACING | {"sample_ratio": "1"}, "tracing.sample_ratio: "),
        ("redis_url", "http://127.0.0.1:6379", "redis_url: "),
    ],
)
def test_a_fault_is_one_line_that_names_file_and_key(tmp_path: Path, path: str, value: object, named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, settings_with(path, value))
    message = str(caught.value)
    assert named in message
    assert message.startswith(str(tmp_path / "settings.json"))
    assert "\n" not in message


@pytest.mark.parametrize("missing", list(MINIMAL))
def test_a_missing_key_is_named(tmp_path: Path, missing: str) -> None:
    document = {key: value for key, value in MINIMAL.items() if key != missing}
    with pytest.raises(SettingsError, match=f"{missing}: Field required"):
        load(tmp_path, document)


@pytest.mark.parametrize("document", ["", "{", "[1]", '"x"', '{"issuer": "a", "issuer": "b"}', "\ufeff{}"])
def test_a_document_that_is_no_json_object_is_refused(tmp_path: Path, document: str) -> None:
    with pytest.raises(SettingsError):
        load(tmp_path, document)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.json: cannot be read: No such file"):
        load_settings(tmp_path / "absent.json")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_loopback_hosts_are_recognized(host: str) -> None:
    assert is_loopback_host(host)


@pytest.mark.parametrize("host", ["localhost.evil.com", "127.0.0.1.evil.com", "10.0.0.1", "0.0.0.0", "", "localhost."])
def test_lookalikes_of_loopback_hosts_are_not(host: str) -> None:
    assert not is_loopback_host(host)


URL_PIECES = st.sampled_from(
    [
        "https://",
        "http://",
        "//",
        "localhost",
        "127.0.0.1",
        "[::1]",
        "evil.com",
        ".",
        "@",
        ":",
        ":80",
        "/",
        "\\",
        "?",
        "#",
    ]
)


@given(st.lists(URL_PIECES | st.text(max_size=3), max_size=8).map("".join))
def test_an_accepted_url_is_unchanged_and_safe_to_use_plain_only_on_this_machine(text: str) -> None:
    try:
        url = TypeAdapter(PublicUrl).validate_python(text)
    except ValidationError:
        return
    assert url == text
    parts = urlsplit(url)
    assert parts.scheme == "https" or parts.hostname in {"localhost", "127.0.0.1", "::1"}
    assert not set("?#@\\ \t\n") & set(url)
    assert not url.endswith("/")


def write_credentials(directory: Path, **secrets: bytes) -> Path:
    for name, secret in {"client_secret": b"s3cret\n", "master_key": b"k" * 32, **secrets}.items():
        (directory / name.replace("_", "-")).write_bytes(secret)
    return directory


def test_credentials_are_read_without_their_line_break_and_never_shown(tmp_path: Path) -> None:
    credentials = load_credentials(write_credentials(tmp_path))
    assert credentials.client_secret == "s3cret"
    assert "s3cret" not in repr(credentials)


ISSUER: dict[str, Any] = {
    "issuer": "https://ci.example.com",
    "audience": "mcp",
    "subjects": ["repo:acme/app:ref:refs/heads/main"],
    "servers": ["time"],
}


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        (
            "repo:acme/app",
            ["repo:acme/app"],
            ["repo:acme/app:x", "xrepo:acme/app", "repo:acme/apps", "repo:acme/app\n"],
        ),
        ("repo:acme/*", ["repo:acme/app"], ["repo:acme/", "repo:acme/app:pull_request", "repo:acme-evil/app"]),
        ("repo:acme/*:*", ["repo:acme/app:pull_request"], ["repo:acme/app", "repo:acme/app:ref:refs/heads/main"]),
        (
            "repo:*/app:ref:refs/heads/main",
            ["repo:acme/app:ref:refs/heads/main"],
            ["repo:acme/x/app:ref:refs/heads/main", "repo:/app:ref:refs/heads/main"],
        ),
        (
            "repo:acme@1/app@2:ref:refs/heads/main",
            ["repo:acme@1/app@2:ref:refs/heads/main"],
            ["repo:acme/app:ref:refs/heads/main", "repo:acme@11/app@2:ref:refs/heads/main"],
        ),
        (
            "repo:acme@1/*:ref:refs/heads/main",
            ["repo:acme@1/app@2:ref:refs/heads/main"],
            ["repo:acme@11/app@2:ref:refs/heads/main", "repo:acme/app:ref:refs/heads/main"],
        ),
        (
            "repo:acme/app:ref:refs/tags/v*",
            ["repo:acme/app:ref:refs/tags/v1.2", "repo:acme/app:ref:refs/tags/vevil"],
            ["repo:acme/app:ref:refs/tags/v", "repo:acme/app:ref:refs/tags/v1/2", "repo:acme/app:ref:refs/tags/xv1"],
        ),
        ("spiffe://acme/ns/*/sa/report", ["spiffe://acme/ns/jobs/sa/report"], ["spiffe://acme/ns/a/b/sa/report"]),
        ("user.name+1", ["user.name+1"], ["userxname+1", "user.namee1"]),
    ],
)
def test_a_pattern_for_subjects_matches_whole_subjects(pattern: str, matching: list[str], others: list[str]) -> None:
    issuer = TrustedIssuer.model_validate({**ISSUER, "subjects": [pattern]})
    assert [subject for subject in (*matching, *others) if issuer.admits_subject(subject)] == matching


@given(st.text("a:/*-", min_size=1), st.text("a:/-"))
def test_a_pattern_matches_only_subjects_with_the_same_separators(pattern: str, subject: str) -> None:
    try:
        issuer = TrustedIssuer.model_validate({**ISSUER, "subjects": [pattern]})
    except ValidationError:
        return
    if issuer.admits_subject(subject):
        assert [each for each in subject if each in ":/"] == [each for each in pattern if each in ":/"]


@pytest.mark.parametrize(
    "claims",
    [{"owner": "42"}, {"owner": 42}, {"owner": True}, {"owner": False}, {"owner": 1}, {"owner": ""}],
)
def test_a_claim_must_have_the_value_and_its_type(claims: dict[str, Any]) -> None:
    issuer = TrustedIssuer.model_validate({**ISSUER, "claims": claims})
    values = ["42", 42, True, False, 1, 0, 1.0, "", None, "true", ["42"], {}, 42.0]
    accepted = [value for value in values if issuer.has_claims({"owner": value, "other": 1})]
    assert [(type(value), value) for value in accepted] == [(type(claims["owner"]), claims["owner"])]
    assert not issuer.has_claims({})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"subjects": []}, "subjects"),
        ({"subjects": [""]}, "subjects"),
        ({"subjects": ["*"]}, "must begin with text before"),
        ({"subjects": ["*:acme/app"]}, "must begin with text before"),
        ({"subjects": ["acme*"]}, "must begin with text before"),
        ({"subjects": ["repo:acme*/app:x"]}, "must be all that stands between two of them"),
        ({"subjects": ["repo:acme@*/app:x"]}, "must be all that stands between two of them"),
        ({"subjects": ["repo:*acme/app:x"]}, "must be all that stands between two of them"),
        ({"subjects": ["repo:**/app:x"]}, "must be all that stands between two of them"),
        ({"subjects": ["repo:acme/*x"]}, "must be at the end"),
        ({"subjects": ["repo:acme/**"]}, "must be at the end"),
        ({"subjects": ["repo:acme/app\n"]}, "must be printable"),
        ({"subjects": ["a" * 256]}, "at most 255"),
        ({"audience": ""}, "audience"),
        ({"audience": None}, "audience"),
        ({"issuer": "http://ci.example.com"}, "must be https"),
        ({"issuer": "https://ci.example.com?x=1"}, "must have no user, password, query"),
        ({"servers": []}, "servers"),
        ({"servers": ["other"]}, "trusted_issuers.ci.servers: there is no server other"),
        ({"scopes": ["other"]}, "trusted_issuers.ci.scopes: none of its servers has the scope other"),
        ({"lifetime": 0}, "lifetime"),
        ({"lifetime": 86401}, "lifetime"),
        ({"claims": {"owner": ["42"]}}, "claims"),
        ({"secret": "x"}, "secret"),
    ],
)
def test_a_trusted_issuer_that_admits_too_much_or_nothing_is_refused(
    tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    load(tmp_path, {**MINIMAL, "trusted_issuers": {"ci": ISSUER}})
    with pytest.raises(SettingsError, match=text):
        load(tmp_path, {**MINIMAL, "trusted_issuers": {"ci": {**ISSUER, **change}}})


def test_a_workload_may_not_have_a_server_that_needs_credentials_of_its_users(tmp_path: Path) -> None:
    document = copy.deepcopy(MINIMAL) | {"trusted_issuers": {"ci": ISSUER}}
    document["resources"]["time"]["user_credentials"] = {"TOKEN": {"label": "Token"}}
    with pytest.raises(SettingsError, match=r"trusted_issuers\.ci\.servers: time needs user_credentials"):
        load(tmp_path, document)


def test_two_trusted_issuers_are_told_apart_by_issuer_and_audience(tmp_path: Path) -> None:
    both = {"ci": ISSUER, "deploy": {**ISSUER, "audience": "deploy"}}
    load(tmp_path, {**MINIMAL, "trusted_issuers": both})
    with pytest.raises(
        SettingsError, match=r"trusted_issuers.deploy has the issuer and audience of trusted_issuers.ci"
    ):
        load(tmp_path, {**MINIMAL, "trusted_issuers": {**both, "deploy": ISSUER}})


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_gateway_itself_is_no_trusted_issuer(tmp_path: Path, slash: str) -> None:
    own = {**ISSUER, "issuer": MINIMAL["issuer"].removesuffix("/") + slash}
    with pytest.raises(SettingsError, match=r"trusted_issuers.ci.issuer: is this gateway"):
        load(tmp_path, {**MINIMAL, "trusted_issuers": {"ci": own}})


def test_id_tokens_of_users_are_no_tokens_of_workloads(tmp_path: Path) -> None:
    provider = {"type": "oidc", "issuer": "https://idp.example.com", "client_id": "gateway", "title": "Company"}
    document = {**MINIMAL, "identity_provider": provider}
    workload = {**ISSUER, "issuer": provider["issuer"], "audience": "workloads"}
    load(tmp_path, {**document, "trusted_issuers": {"ci": workload}})
    with pytest.raises(SettingsError, match=r"trusted_issuers.ci: ID tokens of users have this issuer and audience"):
        load(tmp_path, {**document, "trusted_issuers": {"ci": {**workload, "audience": "gateway"}}})


def test_secrets_of_declared_clients_are_read_by_their_names(tmp_path: Path) -> None:
    credentials = load_credentials(write_credentials(tmp_path, **{"declared_client.nightly": b"n" * 32 + b"\n"}))
    assert dict(credentials.declared_clients) == {"nightly": "n" * 32}
    assert "nnn" not in repr(credentials)


def test_tokens_for_backends_are_read_by_the_names_of_their_resources(tmp_path: Path) -> None:
    credentials = load_credentials(
        write_credentials(tmp_path, **{"backend_credential.wiki": b"t0ken.of-the_gateway=\n"})
    )
    assert dict(credentials.backends) == {"wiki": "t0ken.of-the_gateway="}
    assert "t0ken" not in repr(credentials)
    credentials.require_backends(["wiki"])
    with pytest.raises(SettingsError, match=r"resources\.time\.backend_credential: there is no credential"):
        credentials.require_backends(["wiki", "time"])


BACKENDS = ["https://10.0.0.5/mcp"]
TLS = {"ca_file": "/run/ca"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backends": BACKENDS, "backend_tls": {"ca_file": "ca"}}, "ca_file"),
        (
            {"backends": BACKENDS, "backend_tls": {"key_file": "/run/key"}},
            "must have both certificate_file and key_file",
        ),
        ({"backends": ["http://10.0.0.5/mcp"], "backend_tls": TLS}, "backend_tls needs backends with https URLs"),
        ({"replicas": {"1": "http://10.0.0.5/mcp"}, "backend_credential": True}, "replicas are bridges"),
    ],
)
def test_a_mistake_in_how_a_backend_lets_the_gateway_in_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    wiki = {"url": "https://wiki.example.com/mcp", **changes}
    with pytest.raises(SettingsError, match=message):
        load(tmp_path, {**MINIMAL, "resources": {"wiki": wiki}})


def test_a_server_key_is_the_documented_derivation() -> None:
    credentials = Credentials(client_secret="x", master_key=b"k" * 32)
    expected = hmac.new(b"k" * 32, b"mcp-oauth-gateway:identity-key:time", hashlib.sha256).hexdigest()
    assert credentials.derive_key("identity-key:time") == expected.encode()
    assert credentials.derive_key("identity-key:wiki") != expected.encode()


@pytest.mark.parametrize(
    ("secrets", "message"),
    [
        ({"master_key": b"short"}, "master-key: must hold at least 32 bytes"),
        (
            {"declared_client.nightly": b"short"},
            "declared-client.nightly: must be ASCII text of at least 32 characters",
        ),
        ({"declared_client.nightly": b"\xff" * 40}, "declared-client.nightly: must be ASCII text of at least 32"),
        ({"backend_credential.wiki": b"Bearer token"}, "backend-credential.wiki: must be one bearer token"),
        ({"backend_credential.wiki": b"one\r\ntwo"}, "backend-credential.wiki: must be one bearer token"),
        ({"master_key": b""}, "master-key: the credential is empty"),
        (
            {"master_key": b""},
            r"master-key: the credential is empty \(option services\.mcp-oauth-gateway\.masterKeyFile\)$",
        ),
        ({"redis_password": b""}, r"services\.mcp-oauth-gateway\.redis\.passwordFile\)$"),
        ({"declared_client.nightly": b""}, r"services\.mcp-oauth-gateway\.declaredClients\.nightly\.secretFile\)$"),
        ({"backend_credential.wiki": b""}, r"services\.mcp-oauth-gateway\.servers\.wiki\.urlCredentialFile\)$"),
        (
            {"user_credential_secret.wiki.KEY": b""},
            r"services\.mcp-oauth-gateway\.servers\.wiki\.userCredentials\.KEY\.oauth\.clientSecretFile\)$",
        ),
        (
            {"client_secret": b"\n"},
            r"client-secret: the credential is empty \(.*identityProvider\.\*\.clientSecretFile",
        ),
        ({"client_secret": "schlüssel".encode()}, "client-secret: must be ASCII text"),
    ],
)
def test_an_unusable_credential_is_named(tmp_path: Path, secrets: dict[str, bytes], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_credentials(write_credentials(tmp_path, **secrets))


@pytest.mark.parametrize("name", ["client-secret", "master-key"])
def test_a_missing_credential_is_named(tmp_path: Path, name: str) -> None:
    (write_credentials(tmp_path) / name).unlink()
    with pytest.raises(SettingsError, match=f"{name}: the credential cannot be read: No such file"):
        load_credentials(tmp_path)


PAGES = [
    *sorted(OWN_PATHS),
    "/register/mcp",
    "/connections/callback/time/TOKEN",
    "/.well-known/mcp",
    "/.well-known/oauth-authorization-server",
]


@pytest.mark.parametrize("prefix", ["", "/auth"])
@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("port", ["", ":443", ":8443"])
def test_a_server_at_a_page_of_the_gateway_is_refused(tmp_path: Path, prefix: str, path: str, port: str) -> None:
    document = settings_with("resources.time.url", f"https://mcp.example.com{port}{prefix}{path}")
    document["issuer"] += prefix
    with pytest.raises(SettingsError, match=r"resources\.time\.url is the URL of one of the gateway's own pages"):
        load(tmp_path, document)


@pytest.mark.parametrize(
    "url",
    [
        "https://mcp.example.com/mcp",
        "https://mcp.example.com/callback/mcp",
        "https://mcp.example.com/register/time/mcp",
        "https://mcp.example.com/connections/time/mcp",
        "https://mcp.example.com/accounts",
        "https://mcp.example.com/.mcp/v1.2/~team_a/a,b;c=d",
        "https://time.mcp.example.com/callback",
        "https://time.mcp.example.com/register/mcp",
    ],
)
def test_a_server_beside_the_pages_of_the_gateway_is_accepted(tmp_path: Path, url: str) -> None:
    load(tmp_path, settings_with("resources.time.url", url))


def test_a_document_of_a_servers_host_is_no_servers_url(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="own pages"):
        load(tmp_path, settings_with("resources.time.url", "https://time.mcp.example.com/.well-known/mcp"))


def test_every_public_path_of_the_gateway_is_known_to_its_settings() -> None:
    assert {path for paths in AUTHORIZATION_PATHS.values() for path in paths} == OWN_PATHS
