"""Signing keys and access tokens: what is accepted, and every way in which a token is refused."""

from __future__ import annotations

import base64
import json
import multiprocessing
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joserfc.jwk
import jwt
import pytest
import time_machine
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from auth_service.keys.access_tokens import InvalidTokenError, VerifiedClaims, issue_access_token, verify_access_token
from auth_service.keys.signing_keys import CLOCK_SKEW_SECONDS, SigningKeyError, SigningKeys, create_key_file
from auth_service.settings import Credentials

ISSUER = "https://auth.example.com"
RESOURCE = "https://time.example.com/mcp"
NOW = 1_795_500_000
CREDENTIALS = Credentials(client_secret="x", master_key=b"k" * 32)


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


@pytest.fixture
def keys(tmp_path: Path) -> SigningKeys:
    return SigningKeys(tmp_path / "signing-keys", CREDENTIALS)


def issue(keys: SigningKeys, **overrides: Any) -> str:
    return issue_access_token(
        keys,
        **{
            "issuer": ISSUER,
            "sub": "github:583231",
            "name": "octocat",
            "client_id": "client",
            "scope": "mcp",
            "resource": RESOURCE,
            "sid": "grant",
            "lifetime": 3600,
            "now": NOW,
            **overrides,
        },
    )


def verify(keys: SigningKeys, token: str) -> VerifiedClaims:
    return verify_access_token(keys, token, issuer=ISSUER, resources=[RESOURCE])


def forge(keys: SigningKeys, *, header: dict[str, Any] | None = None, claims: dict[str, Any] | None = None) -> str:
    """Return a token with a valid signature whose header or claims are changed; None removes a member."""
    good = issue(keys)
    new_header = {**jwt.get_unverified_header(good), **(header or {})}
    new_claims = {**jwt.decode(good, options={"verify_signature": False}), **(claims or {})}
    return sign(
        keys,
        {member: value for member, value in new_header.items() if value is not None},
        {member: value for member, value in new_claims.items() if value is not None},
    )


def sign(keys: SigningKeys, header: dict[str, Any], claims: dict[str, Any]) -> str:
    # PyJWS would sign with the algorithm that the header names. Members in PyJWT's order: a header that is ours but
    # for the order of its members is refused too, which would hide what a test is about.
    signing_input = b".".join(
        encode(json.dumps(part, separators=(",", ":"), sort_keys=True).encode()) for part in (header, claims)
    )
    signature = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).sign(
        signing_input, keys.signing_key(now=NOW).private_key
    )
    return (signing_input + b"." + encode(signature)).decode()


def encode(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


class TestAccessTokens:
    def test_a_token_proves_exactly_what_it_was_issued_with(self, keys: SigningKeys) -> None:
        claims = verify(keys, issue(keys, scope="read write", name="日本"))

        assert claims == VerifiedClaims(
            subject="github:583231",
            name="日本",
            client_id="client",
            scope="read write",
            audience=RESOURCE,
            sid="grant",
            token_id=claims.token_id,
            issued_at=NOW,
            expires_at=NOW + 3600,
        )
        assert claims.scopes == {"read", "write"}

    def test_the_header_is_that_of_rfc_9068_with_an_rfc_7638_kid(self, keys: SigningKeys) -> None:
        (jwk,) = keys.jwks()["keys"]

        assert jwt.get_unverified_header(issue(keys)) == {
            "alg": "ES256",
            "typ": "at+jwt",
            "kid": jwk["kid"],
        }
        assert jwk["kid"] == joserfc.jwk.ECKey.import_key(jwk).thumbprint()

    def test_two_tokens_never_share_their_id(self, keys: SigningKeys) -> None:
        first, second = (verify(keys, issue(keys)).token_id for _ in range(2))
        assert first != second

    def test_a_forgery_that_changes_nothing_is_accepted(self, keys: SigningKeys) -> None:
        assert verify(keys, forge(keys)).subject == "github:583231"

    @pytest.mark.parametrize(
        "header",
        [
            {"typ": "JWT"},
            {"typ": None},
            {"typ": "id+jwt"},
            {"alg": "ES384"},
            {"alg": "none"},
            {"alg": None},
            {"kid": None},
            {"kid": 7},
            {"kid": "another"},
            {"kid": "../20261124T000500Z"},
            {"kid": "' OR 1=1"},
            {"kid": ""},
            {"crit": ["exp"]},
            {"crit": ["b64"], "b64": False},
            {"jwk": {"kty": "EC"}},
            {"jku": "https://evil.example/jwks"},
            {"x5u": "https://evil.example/cert"},
            {"x5c": ["MII="]},
            {"zip": "DEF"},
            {"cty": "JWT"},
        ],
        ids=str,
    )
    def test_any_other_header_is_refused_even_if_the_signature_is_good(
        self, keys: SigningKeys, header: dict[str, Any]
    ) -> None:
        with pytest.raises(InvalidTokenError):
            verify(keys, forge(keys, header=header))

    def test_the_attackers_own_key_in_the_header_is_not_used(self, keys: SigningKeys) -> None:
        own = ec.generate_private_key(ec.SECP256R1())
        jwk = jwt.algorithms.ECAlgorithm.to_jwk(own.public_key(), as_dict=True)
        claims = jwt.decode(issue(keys), options={"verify_signature": False})
        (published,) = keys.jwks()["keys"]
        for headers in ({"jwk": jwk}, {"jwk": jwk, "kid": published["kid"]}, {"kid": published["kid"]}):
            token = jwt.encode(claims, own, algorithm="ES256", headers={"typ": "at+jwt", **headers})
            with pytest.raises(InvalidTokenError):
                verify(keys, token)

    def test_an_unsigned_token_is_refused(self, keys: SigningKeys) -> None:
        header, claims, _ = issue(keys).split(".")
        unsigned = jwt.encode(
            jwt.decode(issue(keys), options={"verify_signature": False}),
            key="",
            algorithm="none",
            headers={"typ": "at+jwt", "kid": keys.jwks()["keys"][0]["kid"]},
        )
        for token in (unsigned, f"{header}.{claims}.", f"{header}.{claims}"):
            with pytest.raises(InvalidTokenError):
                verify(keys, token)

    @pytest.mark.parametrize("form", ["pem", "der", "jwk"])
    def test_the_public_key_does_not_work_as_an_hmac_secret(self, keys: SigningKeys, form: str) -> None:
        public = keys.signing_key(now=NOW).public_key
        secret = {
            "pem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            "jwk": json.dumps(keys.jwks()["keys"][0]).encode(),
        }[form]
        header = {"alg": "HS256", "typ": "at+jwt", "kid": keys.jwks()["keys"][0]["kid"]}
        claims = jwt.decode(issue(keys), options={"verify_signature": False})
        signing_input = b".".join(encode(json.dumps(part).encode()) for part in (header, claims))
        hmac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
        signature = hmac.sign(signing_input, secret)
        with pytest.raises(InvalidTokenError):
            verify(keys, (signing_input + b"." + encode(signature)).decode())

    @pytest.mark.parametrize(
        "claims",
        [
            {"iss": "https://evil.example"},
            {"iss": ISSUER + "/"},
            {"iss": [ISSUER]},
            {"aud": "https://other.example.com/mcp"},
            {"aud": RESOURCE + "/"},
            {"aud": RESOURCE.upper()},
            {"aud": [RESOURCE]},
            {"aud": [RESOURCE, "https://other.example.com/mcp"]},
            {"aud": {RESOURCE: True}},
            {"exp": NOW},
            {"exp": NOW - 1},
            {"exp": "never"},
            {"iat": NOW + CLOCK_SKEW_SECONDS + 1},
            {"iat": "now"},
            {"nbf": NOW + CLOCK_SKEW_SECONDS + 1},
            {"sub": 583231},
            {"sid": 1},
            {"sid": {"$ne": ""}},
            {"scope": ["mcp"]},
            {"client_id": 1},
            {"name": 1},
            {"jti": 1},
            *(
                {claim: None}
                for claim in ("iss", "sub", "aud", "exp", "iat", "jti", "client_id", "scope", "sid", "name")
            ),
        ],
        ids=str,
    )
    def test_a_claim_that_is_wrong_or_missing_is_refused(self, keys: SigningKeys, claims: dict[str, Any]) -> None:
        with pytest.raises(InvalidTokenError):
            verify(keys, forge(keys, claims=claims))

    def test_a_token_is_good_until_its_last_second(self, keys: SigningKeys, clock: time_machine.Traveller) -> None:
        token = issue(keys, lifetime=3600)
        clock.move_to(NOW + 3599)
        assert verify(keys, token).expires_at == NOW + 3600
        clock.move_to(NOW + 3600)
        with pytest.raises(InvalidTokenError):
            verify(keys, token)

    def test_a_token_from_a_host_whose_clock_is_a_little_ahead_is_accepted(self, keys: SigningKeys) -> None:
        assert verify(keys, issue(keys, now=NOW + CLOCK_SKEW_SECONDS)).issued_at == NOW + CLOCK_SKEW_SECONDS

    @pytest.mark.parametrize("part", [0, 1, 2])
    def test_changing_any_part_is_noticed(self, keys: SigningKeys, part: int) -> None:
        parts = issue(keys).split(".")
        parts[part] = ("A" if parts[part][0] != "A" else "B") + parts[part][1:]
        with pytest.raises(InvalidTokenError):
            verify(keys, ".".join(parts))

    @pytest.mark.parametrize("token", ["", ".", "..", "...", "a.b.c", "e30.e30.e30", "\x00", "é.é.é", "a" * 10_000])
    def test_text_that_is_no_jwt_is_refused(self, keys: SigningKeys, token: str) -> None:
        with pytest.raises(InvalidTokenError):
            verify(keys, token)

    def test_a_refusal_does_not_quote_the_token(self, keys: SigningKeys) -> None:
        token = issue(keys, resource="https://other.example.com/mcp")
        with pytest.raises(InvalidTokenError) as refusal:
            verify(keys, token)
        assert not any(part in str(refusal.value) for part in token.split("."))


class TestSigningKeys:
    def test_the_first_start_makes_one_key_that_only_the_owner_can_read(self, tmp_path: Path) -> None:
        keys = SigningKeys(tmp_path / "state" / "signing-keys", CREDENTIALS)

        (file,) = (tmp_path / "state" / "signing-keys").iterdir()
        assert file.name == "19700101T000000Z.pem"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert keys.signing_key(now=NOW).path == file

    def test_the_next_start_keeps_the_key(self, keys: SigningKeys, tmp_path: Path) -> None:
        assert verify(SigningKeys(tmp_path / "signing-keys", CREDENTIALS), issue(keys)).sid == "grant"

    def test_hosts_with_one_master_key_make_the_same_keys_and_with_another_none_of_them(self, tmp_path: Path) -> None:
        directories = [tmp_path / name for name in ("one", "two", "stranger")]
        stranger = Credentials(client_secret="x", master_key=b"s" * 32)
        sets = [SigningKeys(each, CREDENTIALS) for each in directories[:2]] + [SigningKeys(directories[2], stranger)]
        for directory, credentials in zip(directories, (CREDENTIALS, CREDENTIALS, stranger), strict=True):
            create_key_file(directory, credentials, activation=NOW + 60)
        one, two, other = (keys.jwks()["keys"] for keys in sets)
        assert one == two
        assert len({key["kid"] for key in (*one, *other)}) == 4

    def test_processes_that_start_at_the_same_moment_make_one_key(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        barrier, kids = context.Barrier(6), context.Queue()
        processes = [
            context.Process(target=_start_together, args=(tmp_path / "signing-keys", index, barrier, kids))
            for index in range(6)
        ]
        for process in processes:
            process.start()
        seen = {kids.get(timeout=60) for _ in processes}
        for process in processes:
            process.join()

        assert len(seen) == 1
        assert len(list((tmp_path / "signing-keys").iterdir())) == 1

    def test_a_new_key_is_published_before_it_signs_and_then_takes_over(
        self, keys: SigningKeys, tmp_path: Path
    ) -> None:
        old = keys.signing_key(now=NOW)
        create_key_file(tmp_path / "signing-keys", CREDENTIALS, activation=NOW + 60)

        new, still_old = keys.jwks()["keys"]
        assert still_old["kid"] == old.kid != new["kid"]
        assert keys.signing_key(now=NOW + 59).kid == old.kid
        assert keys.signing_key(now=NOW + 60).kid == new["kid"]

    def test_no_token_is_refused_across_a_rotation(
        self, keys: SigningKeys, tmp_path: Path, clock: time_machine.Traveller
    ) -> None:
        other_worker = SigningKeys(tmp_path / "signing-keys", CREDENTIALS)
        before = issue(keys)
        create_key_file(tmp_path / "signing-keys", CREDENTIALS, activation=NOW + 60)
        clock.move_to(NOW + 60)
        after = issue(keys, now=NOW + 60)

        assert jwt.get_unverified_header(before)["kid"] != jwt.get_unverified_header(after)["kid"]
        assert verify(other_worker, before).issued_at == NOW
        assert verify(other_worker, after).issued_at == NOW + 60

    def test_a_deleted_key_takes_its_tokens_with_it(self, keys: SigningKeys, tmp_path: Path) -> None:
        token, old = issue(keys), keys.signing_key(now=NOW)
        create_key_file(tmp_path / "signing-keys", CREDENTIALS, activation=NOW + 1)
        old.path.unlink()

        with pytest.raises(InvalidTokenError):
            verify(keys, token)

    def test_a_clock_set_back_before_every_key_still_leaves_one_that_signs(self, keys: SigningKeys) -> None:
        early = NOW + 10**6
        create_key_file(keys.signing_key(now=NOW).path.parent, CREDENTIALS, activation=early)
        keys.signing_key(now=NOW).path.unlink()
        assert keys.signing_key(now=NOW).activation == early

    @pytest.mark.parametrize("broken", [b"", b"no key", "rsa", "p384", "encrypted"])
    def test_a_broken_file_beside_a_good_one_is_reported_and_changes_nothing(
        self, keys: SigningKeys, tmp_path: Path, broken: bytes | str, caplog: pytest.LogCaptureFixture
    ) -> None:
        token = issue(keys)
        file = tmp_path / "signing-keys" / "20990101T000000Z.pem"
        file.write_bytes(broken if isinstance(broken, bytes) else UNUSABLE_KEYS[broken]())

        assert verify(keys, token).sid == "grant"
        assert verify(keys, token).sid == "grant"
        assert [record.message for record in caplog.records if file.name in record.message] == [
            caplog.records[0].message
        ], "the same fault is reported once, not at each request"
        with pytest.raises(SigningKeyError, match=r"20990101T000000Z\.pem: "):
            SigningKeys(tmp_path / "signing-keys", CREDENTIALS)

    def test_a_file_whose_name_is_no_time_is_refused_by_name(self, tmp_path: Path) -> None:
        (tmp_path / "latest.pem").write_bytes(b"")
        with pytest.raises(SigningKeyError, match=r"latest\.pem: the name must be an activation time"):
            SigningKeys(tmp_path, CREDENTIALS)

    def test_an_emptied_directory_does_not_stop_a_running_service(self, keys: SigningKeys, tmp_path: Path) -> None:
        token = issue(keys)
        keys.signing_key(now=NOW).path.unlink()
        assert verify(keys, token).sid == "grant"

    def test_a_directory_that_is_none_is_refused_with_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(SigningKeyError, match=r"file.*: (File exists|Not a directory)"):
            SigningKeys(tmp_path / "file", CREDENTIALS)

    def test_no_private_member_is_published_or_printed(self, keys: SigningKeys) -> None:
        (jwk,) = keys.jwks()["keys"]
        assert set(jwk) == {"kty", "crv", "x", "y", "kid", "use", "alg"}
        assert re.fullmatch(r"SigningKey\(path=[^,]+, kid='[\w-]+'\)", repr(keys.signing_key(now=NOW)))

    def test_two_keys_of_one_second_do_not_overwrite_each_other(self, keys: SigningKeys, tmp_path: Path) -> None:
        with pytest.raises(FileExistsError):
            create_key_file(tmp_path / "signing-keys", CREDENTIALS, activation=0)
        assert len(list((tmp_path / "signing-keys").iterdir())) == 1


def _start_together(directory: Path, index: int, barrier: Any, kids: Any) -> None:
    # Different clocks would give the keys different names: the lock must hold, not the name.
    with time_machine.travel(NOW + index, tick=False):
        barrier.wait()
        kids.put(SigningKeys(directory, CREDENTIALS).jwks()["keys"][0]["kid"])


def _pem(key: Any) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def _encrypted() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )


UNUSABLE_KEYS: dict[str, Callable[[], bytes]] = {
    "rsa": lambda: _pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    "p384": lambda: _pem(ec.generate_private_key(ec.SECP384R1())),
    "encrypted": _encrypted,
}
