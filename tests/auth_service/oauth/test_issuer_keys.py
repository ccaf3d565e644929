"""The keys of trusted issuers: how often they are fetched, for how long they are used, and from where."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from auth_service.oauth import issuer_keys
from auth_service.oauth.issuer_keys import (
    DISCOVERY_PATH,
    FRESH_SECONDS,
    MAX_BYTES,
    MAX_WAITING,
    RETRY_SECONDS,
    STALE_SECONDS,
    IssuerKeys,
    fetch_keys,
)
from auth_service.protocol import jwk_sets
from auth_service.protocol.errors import ClientDocumentError, ServiceUnavailable, UnknownKey
from auth_service.protocol.jwk_sets import VerificationKey
from tests.internet import Answer, Internet, internet, respond, respond_json

HOST = "ci.example.com"
ISSUER = f"https://{HOST}"
JWKS_PATH = "/jwks"
WAIT_SECONDS = 60
PRIVATE_KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]


def jwk(kid: str) -> dict[str, Any]:
    return {**ECAlgorithm.to_jwk(PRIVATE_KEYS[int(kid)].public_key(), as_dict=True), "kid": kid}


def key_set(*kids: str) -> dict[str, Any]:
    return {"keys": [jwk(kid) for kid in kids]}


class Issuer:
    """An issuer at a time that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.kids = ["0"]
        self.is_reachable = True
        self.fetches = 0
        self.keys = IssuerKeys(ISSUER, self.fetch)

    def fetch(self) -> tuple[VerificationKey, ...]:
        self.fetches += 1
        if not self.is_reachable:
            raise ClientDocumentError("out of reach", is_transient=True)
        return jwk_sets.parse(key_set(*self.kids))

    def has(self, kid: str | None, algorithm: str = "ES256") -> bool:
        return self.keys.find(kid=kid, algorithm=algorithm) is not None


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Issuer:
    made = Issuer()
    monkeypatch.setattr(issuer_keys, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_keys_are_fetched_once_while_they_are_fresh(issuer: Issuer) -> None:
    assert issuer.fetches == 0
    assert issuer.has("0")
    issuer.now += FRESH_SECONDS - 1
    assert issuer.has("0")
    assert issuer.fetches == 1
    issuer.now += 1
    assert issuer.has("0")
    assert issuer.fetches == 2


def test_a_new_key_is_found_at_once_after_the_issuer_has_rotated(issuer: Issuer) -> None:
    assert issuer.has("0")
    issuer.kids = ["0", "1"]
    issuer.now += RETRY_SECONDS
    assert issuer.has("1")


def test_a_key_that_the_issuer_may_have_begun_to_use_is_not_refused(issuer: Issuer) -> None:
    assert issuer.has("0")
    issuer.kids = ["0", "1"]
    issuer.now += 10.5
    with pytest.raises(UnknownKey) as caught:
        issuer.has("1")
    assert (caught.value.retry_after, issuer.fetches) == (RETRY_SECONDS - 10, 1)
    issuer.now += caught.value.retry_after
    assert issuer.has("1")
    assert issuer.fetches == 2


def test_unknown_keys_cause_a_bounded_number_of_fetches(issuer: Issuer) -> None:
    for fetches in (1, 2):
        assert not issuer.has("unknown"), "it is not in the set that was just fetched"
        for number in range(100):
            with pytest.raises(UnknownKey):
                issuer.has(f"unknown-{number}")
        assert issuer.fetches == fetches
        issuer.now += RETRY_SECONDS


def test_a_key_that_the_issuer_has_withdrawn_is_not_used_once_the_keys_are_fetched_again(issuer: Issuer) -> None:
    issuer.kids = ["0", "1"]
    assert issuer.has("1")
    issuer.kids = ["0"]
    issuer.now += FRESH_SECONDS
    assert not issuer.has("1")


def test_without_keys_nothing_is_decided_and_the_issuer_is_not_asked_each_time(issuer: Issuer) -> None:
    issuer.is_reachable = False
    for _ in range(100):
        with pytest.raises(ServiceUnavailable):
            issuer.has("0")
    assert issuer.fetches == 1
    issuer.is_reachable = True
    issuer.now += RETRY_SECONDS
    assert issuer.has("0")


def test_keys_are_used_for_a_bounded_time_while_their_issuer_is_out_of_reach(issuer: Issuer) -> None:
    assert issuer.has("0")
    issuer.is_reachable = False
    issuer.now += STALE_SECONDS - 1
    assert issuer.has("0")
    issuer.now += 1
    with pytest.raises(ServiceUnavailable):
        issuer.has("0")


def test_an_unknown_key_is_not_refused_while_the_issuer_may_have_rotated(issuer: Issuer) -> None:
    assert issuer.has("0")
    issuer.is_reachable = False
    issuer.now += RETRY_SECONDS
    for elapsed in (0, 10):
        issuer.now += elapsed
        with pytest.raises(ServiceUnavailable) as caught:
            issuer.has("1")
        assert caught.value.retry_after == RETRY_SECONDS - elapsed
    assert issuer.has("0")


@pytest.mark.parametrize("algorithm", ["HS256", "none", "RS256", "ES384"])
def test_a_key_verifies_its_own_algorithm_only(issuer: Issuer, algorithm: str) -> None:
    for _ in range(2):
        assert not issuer.has("0", algorithm)
    assert issuer.fetches == 1


def test_without_kid_the_only_key_counts(issuer: Issuer) -> None:
    assert issuer.has(None)
    issuer.kids = ["0", "1"]
    issuer.now += FRESH_SECONDS
    assert not issuer.has(None)


def test_few_requests_wait_for_an_issuer_that_does_not_answer() -> None:
    is_asked, may_answer = threading.Event(), threading.Event()
    fetches = []

    def fetch() -> tuple[VerificationKey, ...]:
        fetches.append(1)
        is_asked.set()
        assert may_answer.wait(WAIT_SECONDS)
        return jwk_sets.parse(key_set("0"))

    keys = IssuerKeys(ISSUER, fetch)
    refused = threading.Semaphore(0)

    def find() -> bool:
        try:
            return keys.find(kid="0", algorithm="ES256") is not None
        except ServiceUnavailable:
            refused.release()
            return False

    with ThreadPoolExecutor(2 * MAX_WAITING) as pool:
        results = [pool.submit(find) for _ in range(2 * MAX_WAITING)]
        try:
            assert is_asked.wait(WAIT_SECONDS)
            for _ in range(MAX_WAITING):
                assert refused.acquire(timeout=WAIT_SECONDS)
        finally:
            may_answer.set()
        found = [result.result(WAIT_SECONDS) for result in results]
    assert (found.count(True), len(fetches)) == (MAX_WAITING, 1)


# Where they come from


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Internet]:
    with internet(tmp_path, HOST) as made:
        made.pages[DISCOVERY_PATH] = respond_json({"issuer": ISSUER, "jwks_uri": ISSUER + JWKS_PATH})
        made.pages[JWKS_PATH] = respond_json(key_set("0", "1"))
        yield made


def test_keys_are_found_by_discovery(net: Internet) -> None:
    assert [key.kid for key in fetch_keys(ISSUER, net.fetcher())] == ["0", "1"]
    assert net.asked_for == [DISCOVERY_PATH, JWKS_PATH]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"issuer": ISSUER},
        {"issuer": f"{ISSUER}/", "jwks_uri": ISSUER + JWKS_PATH},
        {"issuer": "https://evil.example.com", "jwks_uri": ISSUER + JWKS_PATH},
        {"jwks_uri": ISSUER + JWKS_PATH},
        *(
            {"issuer": ISSUER, "jwks_uri": url}
            for url in [
                *(None, 1, [ISSUER + JWKS_PATH], "", JWKS_PATH),
                *(f"http://{HOST}{JWKS_PATH}", f"{ISSUER}:8443{JWKS_PATH}", f"https://user@{HOST}{JWKS_PATH}"),
                *("https://127.0.0.1/jwks", "https://[::1]/jwks", "https://localhost/jwks", "file:///etc/passwd"),
            ]
        ),
    ],
)
def test_a_discovery_document_that_is_not_the_issuers_or_leads_astray_is_refused(net: Internet, document: Any) -> None:
    net.pages[DISCOVERY_PATH] = respond_json(document)
    with pytest.raises(ClientDocumentError):
        fetch_keys(ISSUER, net.fetcher())
    assert net.asked_for == [DISCOVERY_PATH]


@pytest.mark.parametrize("path", [DISCOVERY_PATH, JWKS_PATH])
@pytest.mark.parametrize(
    "answer",
    [
        respond(b"", status="302 Found", location=f"{ISSUER}/elsewhere"),
        respond(b"", status="307 Temporary Redirect", location=f"{ISSUER}/elsewhere"),
        respond(b"", status="404 Not Found"),
        respond(b"", status="500 Internal Server Error"),
        respond(b"<html>", content_type="text/html"),
        respond(b"{"),
        respond(b"[" * 20_000),
        respond(b"[]"),
        respond(b'{"keys": "' + b"x" * MAX_BYTES + b'"}'),
    ],
)
def test_an_answer_that_is_no_document_is_refused(net: Internet, path: str, answer: Answer) -> None:
    net.pages[path] = answer
    with pytest.raises(ClientDocumentError):
        fetch_keys(ISSUER, net.fetcher())
    assert net.asked_for[-1] == path


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [{"kty": "oct", "k": "c2VjcmV0", "kid": "0"}],
        [jwk("0"), {"kty": "oct", "k": "c2VjcmV0", "kid": "0"}],
        [{**jwk("0"), "d": "c2VjcmV0"}],
        [jwk("0")] * (jwk_sets.MAX_KEYS + 1),
    ],
)
def test_a_poisoned_key_set_is_refused_as_a_whole(net: Internet, keys: list[Any]) -> None:
    net.pages[JWKS_PATH] = respond_json({"keys": keys})
    with pytest.raises(ClientDocumentError):
        fetch_keys(ISSUER, net.fetcher())


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00::1"])
def test_keys_are_never_fetched_from_the_internal_network(net: Internet, address: str) -> None:
    net.addresses[HOST] = (address,)
    with pytest.raises(ClientDocumentError):
        fetch_keys(ISSUER, net.fetcher())
    assert net.connected == []
