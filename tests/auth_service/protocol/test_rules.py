"""Rules that must hold for every input: client metadata, keys, PKCE, scopes, allow-lists, caching, addresses."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_service.protocol import access, addresses, client_documents, clients, jwk_sets, parameters, pkce, scopes
from auth_service.protocol.access import Profile
from auth_service.protocol.clients import Client, ClientMetadata
from auth_service.protocol.errors import ClientDocumentError, OAuthError
from auth_service.protocol.jwk_sets import KeySetError
from auth_service.settings import AllowList

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)
MEMBERS = [*ClientMetadata.model_fields, "client_id", "client_secret", "token_endpoint_auth_methods_supported", "x"]
PLAUSIBLE = st.sampled_from(
    [
        *("none", "private_key_jwt", "client_secret_basic", "authorization_code", "refresh_token", "code", "web"),
        *("https://client.example.com/x", "https://client.example.com/callback", "RS256", "ES256", "Name"),
    ]
)
METADATA = st.dictionaries(st.sampled_from(MEMBERS), JSON | PLAUSIBLE | st.lists(PLAUSIBLE, max_size=3), max_size=8)
GOOD = {"redirect_uris": ["https://client.example.com/callback"]}


@given(METADATA | JSON)
def test_metadata_is_valid_and_says_the_same_when_sent_again_or_is_refused(document: Any) -> None:
    for candidate in (document, document | GOOD) if isinstance(document, dict) else (document,):
        try:
            metadata = clients.parse_metadata(candidate)
        except OAuthError as error:
            assert error.error in {"invalid_client_metadata", "invalid_redirect_uri"}
            assert error.description.isascii()
        else:
            assert metadata.token_endpoint_auth_method in clients.REGISTRATION_AUTH_METHODS
            assert set(metadata.grant_types) <= set(clients.GRANT_TYPES_SUPPORTED)
            assert clients.parse_metadata(metadata.model_dump(exclude_none=True)) == metadata


@given(METADATA | JSON)
def test_a_metadata_document_describes_a_client_without_a_shared_secret_or_is_refused(document: Any) -> None:
    url = "https://client.example.com/x"
    own = {"client_id": url, "client_name": "Name", **GOOD}
    for candidate in (document, own | document, document | own) if isinstance(document, dict) else (document,):
        try:
            client = client_documents.parse_client(url, candidate)
        except ClientDocumentError:
            continue
        assert client.client_id == url == candidate["client_id"]
        assert {client.auth_method, *client.other_auth_methods} <= {"none", "private_key_jwt"}
        assert client.secret_hash is None
        assert not client.check_client_secret("")


@given(st.sampled_from(["none", "client_secret_post", "client_secret_basic"]), st.text(), st.text())
def test_a_secret_is_checked_whole(method: str, secret: str, other: str) -> None:
    stored = None if method == "none" else clients.hash_secret(secret)
    client = Client(
        client_id="c",
        metadata=clients.parse_metadata(GOOD | {"token_endpoint_auth_method": method}),
        secret_hash=stored,
    )
    assert client.check_client_secret(secret) is (method != "none")
    assert client.check_client_secret(other) is (method != "none" and other == secret)


KEY = st.fixed_dictionaries(
    {},
    optional={
        name: JSON | st.sampled_from(["RSA", "EC", "OKP", "oct", "P-256", "Ed25519", "sig", "AQAB", "RS256", "ES256"])
        for name in ("kty", "crv", "n", "e", "x", "y", "k", "d", "kid", "use", "alg", "key_ops")
    },
)


@given(st.fixed_dictionaries({"keys": st.lists(KEY, max_size=3) | JSON}) | JSON)
def test_a_key_set_verifies_signatures_by_private_keys_only_or_is_refused(document: Any) -> None:
    try:
        parsed = jwk_sets.parse(document)
    except KeySetError:
        return
    assert parsed
    assert all(set(key.algorithms) <= set(jwk_sets.ALGORITHMS) for key in parsed)


def test_no_algorithm_is_taken_that_a_public_key_could_sign_with() -> None:
    assert not any(name.startswith("HS") or name.lower() == "none" for name in jwk_sets.ALGORITHMS)


VERIFIER = st.text(string.ascii_letters + string.digits + "-._~", min_size=43, max_size=128)


def challenge_of(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


@given(VERIFIER, VERIFIER | st.text())
def test_a_verifier_opens_its_own_challenge_and_no_other(verifier: str, other: str) -> None:
    challenge = pkce.parse_challenge(challenge_of(verifier), "S256")
    pkce.verify(verifier, challenge)
    if other != verifier:
        with pytest.raises(OAuthError, match="invalid_grant"):
            pkce.verify(other, challenge)
    with pytest.raises(OAuthError, match="invalid_grant"):
        pkce.verify(challenge, challenge)  # "plain"
    with pytest.raises(OAuthError, match="invalid_request"):
        pkce.verify(None, challenge)


@given(st.text(max_size=42) | st.text(string.printable, min_size=129))
def test_a_verifier_of_another_form_opens_nothing(verifier: str) -> None:
    with pytest.raises(OAuthError, match="invalid_grant"):
        pkce.verify(verifier, challenge_of(verifier.encode("utf-8", "replace").decode()))


@given(st.none() | st.text(), st.none() | st.text())
def test_only_s256_with_a_challenge_is_taken(challenge: str | None, method: str | None) -> None:
    try:
        pkce.parse_challenge(challenge, method)
    except OAuthError as error:
        assert error.error == "invalid_request"
    else:
        assert method == "S256"
        assert challenge is not None
        assert len(challenge) == 43


SCOPES = st.lists(st.sampled_from(["mcp", "read", "write", "openid", "offline_access", "MCP", ""]), max_size=6)


@given(SCOPES, st.sets(st.sampled_from(["mcp", "read", "write"]), min_size=1))
def test_scopes_are_never_more_than_the_resource_has_or_the_client_asked_for(
    requested: list[str], supported: set[str]
) -> None:
    parsed = scopes.parse(" ".join(requested))
    assert len(parsed) == len(set(parsed))
    try:
        granted = scopes.grantable(parsed, supported=supported, default=sorted(supported))
    except OAuthError as error:
        assert error.error == "invalid_scope"
        assert not set(parsed) & supported
        assert not set(parsed) <= scopes.HABITUAL
    else:
        assert granted
        assert set(granted) <= supported
        assert set(parsed) <= scopes.HABITUAL or set(granted) <= set(parsed)


@given(SCOPES, SCOPES)
def test_a_refresh_narrows_and_never_widens(requested: list[str], granted: list[str]) -> None:
    wanted, had = scopes.parse(" ".join(requested)), scopes.parse(" ".join(granted))
    try:
        narrowed = scopes.narrowed(wanted, granted=had)
    except OAuthError as error:
        assert error.error == "invalid_scope"
        assert not set(wanted) & set(had)
        assert not set(wanted) <= scopes.HABITUAL
    else:
        assert set(narrowed) <= set(had)
        assert set(wanted) <= scopes.HABITUAL or set(narrowed) <= set(wanted)


@given(st.text(), st.sets(st.text()), st.sets(st.text()), st.sets(st.text()))
def test_empty_lists_admit_nobody(login: str, organizations: set[str], teams: set[str], groups: set[str]) -> None:
    profile = Profile(
        subject="s",
        login=login,
        organizations=frozenset(organizations),
        teams=frozenset(teams),
        groups=frozenset(groups),
    )
    assert not access.is_member(profile, AllowList())
    assert access.login_entry(profile, AllowList(), pins={}) is None
    assert access.login_entry(profile, AllowList(), pins={login: "s"}) is None


@given(st.text(), st.text(min_size=1))
def test_a_name_on_the_list_admits_that_name_in_any_ascii_case_and_no_other(login: str, listed: str) -> None:
    profile = Profile(subject="s", login=login)
    allowed = AllowList(users=(listed,))
    is_same = login == listed or (login.isascii() and listed.isascii() and login.lower() == listed.lower())
    assert (access.login_entry(profile, allowed, pins={}) is not None) is is_same
    assert access.login_entry(profile, allowed, pins={access.fold(listed): "another"}) is None


HEADERS = st.dictionaries(
    st.sampled_from(["cache-control", "expires", "age", "date", "x"]),
    st.text()
    | st.sampled_from(
        ["max-age=60", "no-store", "no-cache", "max-age=60, no-store", "max-age=-1", "max-age=99999999999999", "10"]
    ),
)


@given(HEADERS, st.floats(0, 4e9))
def test_a_document_is_never_believed_for_more_than_a_day(headers: dict[str, str], now: float) -> None:
    lifetime = client_documents.lifetime(headers, now=now)
    assert lifetime is None or 0 <= lifetime <= client_documents.MAX_LIFETIME
    if "no-store" in {part.strip() for part in headers.get("cache-control", "").split(",")}:
        assert lifetime is None


@given(st.ip_addresses())
def test_what_we_call_public_is_global_and_unicast(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if addresses.is_public(str(address)):
        assert address.is_global
        assert not any((address.is_multicast, address.is_private, address.is_reserved, address.is_unspecified))
    if isinstance(address, ipaddress.IPv4Address):
        for embedding in (f"::ffff:{address}", f"::{address}", f"64:ff9b::{address}"):
            assert not addresses.is_public(embedding)
        assert not addresses.is_public(str(ipaddress.IPv6Address((0x2002 << 112) | (int(address) << 80))))


@given(st.text())
def test_text_that_is_no_address_is_not_public(text: str) -> None:
    if addresses.is_public(text):
        assert str(ipaddress.ip_address(text)) == text.lower() or ":" in text


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=70))
def test_parameters_are_each_there_once(pairs: list[tuple[str, str]]) -> None:
    try:
        parsed = parameters.parse(pairs)
    except OAuthError as error:
        assert error.error in {"invalid_request", "invalid_target"}
        assert len(dict(pairs)) < len(pairs) or len(pairs) > parameters.MAX_PARAMETERS
    else:
        assert parsed == {name: value for name, value in pairs if value}
